"""Matrix products, reductions and element-wise work in PyTorch, compared with the CPU."""

import torch

import say

torch.manual_seed(1)
torch.backends.cuda.matmul.allow_tf32 = False
a, b = torch.randn(512, 768), torch.randn(768, 256)
want = a.double() @ b.double()
got = a.cuda() @ b.cuda()
say.check(torch.allclose(got.cpu().double(), want, rtol=1e-4, atol=1e-3), "product in float32")
say.value("product", got.double().sum().item(), 1e-6)
half = (a.cuda().half() @ b.cuda().half()).float().cpu()
say.check(torch.allclose(half.double(), want, rtol=5e-2, atol=0.5), "product in float16")

x = torch.arange(1 << 20, device="cuda", dtype=torch.int64)
say.value("sum", x.sum().item())
say.check(x.sum().item() == (1 << 20) * ((1 << 20) - 1) // 2, "sum of integers")
say.value("sorted", torch.sort(x * 7919 % 1048573).values[12345].item())
noise = torch.randn(1 << 18, device="cuda", generator=torch.Generator("cuda").manual_seed(5))
say.value("noise", noise.double().abs().mean().item(), 1e-12)
say.value("index", x[x % 3 == 0].shape[0])
say.value("convolution", torch.nn.functional.conv2d(
    torch.ones(1, 8, 32, 32, device="cuda"), torch.ones(4, 8, 3, 3, device="cuda")).sum().item(), 1e-6)

try:
    a.cuda() @ a.cuda()
except RuntimeError:
    say.value("mismatch refused", 1)
try:
    torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
except torch.cuda.OutOfMemoryError:
    say.value("too much refused", 1)

large = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
seconds = say.median_seconds(lambda: large @ large, torch.cuda.synchronize)
say.rate("bf16 product of 4096", 2 * 4096**3 / seconds / 1e12, "TFLOP/s")
