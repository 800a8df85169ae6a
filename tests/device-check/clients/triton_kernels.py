"""Triton kernels of our own: element-wise with a mask, a reduction, a tiled product."""

import torch
import triton
import triton.language as tl

import say


@triton.jit
def add(x, y, out, count, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < count
    tl.store(out + place, tl.load(x + place, mask=mask) + tl.load(y + place, mask=mask), mask=mask)


@triton.jit
def row_sums(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    place = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + place, mask=place < columns, other=0.0)
    tl.store(out + row, tl.sum(values, axis=0))


@triton.jit
def product(a, b, c, K, TILE: tl.constexpr, N: tl.constexpr):
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for k in range(0, K, TILE):
        inner = k + tl.arange(0, TILE)
        left = tl.load(a + row[:, None] * K + inner[None, :])
        right = tl.load(b + inner[:, None] * N + column[None, :])
        total += tl.dot(left, right)
    tl.store(c + row[:, None] * N + column[None, :], total)


torch.manual_seed(10)
x, y = torch.randn(98_432, device="cuda"), torch.randn(98_432, device="cuda")
out = torch.empty_like(x)
add[(triton.cdiv(x.numel(), 1024),)](x, y, out, x.numel(), BLOCK=1024)
say.check(torch.equal(out, x + y), "sum of vectors")
say.value("sum", out.double().sum().item(), 1e-9)

rows = torch.randn(200, 781, device="cuda")
sums = torch.empty(200, device="cuda")
row_sums[(200,)](rows, sums, 781, BLOCK=1024)
say.check(torch.allclose(sums, rows.sum(1), rtol=1e-4, atol=1e-3), "sums of rows")
say.value("rows", sums.double().abs().sum().item(), 1e-6)

a = torch.randn(256, 128, device="cuda", dtype=torch.float16)
b = torch.randn(128, 192, device="cuda", dtype=torch.float16)
c = torch.empty(256, 192, device="cuda")
product[(4, 3)](a, b, c, 128, TILE=64, N=192)
say.check(torch.allclose(c, a.float() @ b.float(), rtol=1e-2, atol=1e-2), "product")
say.value("product", c.double().abs().sum().item(), 1e-4)
seconds = say.median_seconds(
    lambda: add[(97,)](x, y, out, x.numel(), BLOCK=1024), torch.cuda.synchronize, rounds=200, warm=10
)
say.time("launch and synchronise", seconds * 1e6, "us")
