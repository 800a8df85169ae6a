"""Numba's CUDA target: kernels in Python, shared memory, atomics."""

import numpy as np
from numba import cuda, float32, int32

import say


@cuda.jit
def axpy(a, x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] += a * x[i]


@cuda.jit
def block_sums(x, out):
    shared = cuda.shared.array(128, float32)
    i, t = cuda.grid(1), cuda.threadIdx.x
    shared[t] = x[i] if i < x.size else 0
    cuda.syncthreads()
    half = 64
    while half > 0:
        if t < half:
            shared[t] += shared[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = shared[0]


@cuda.jit
def histogram(x, bins):
    i = cuda.grid(1)
    if i < x.size:
        cuda.atomic.add(bins, x[i], int32(1))


x = np.arange(10_000, dtype=np.float32)
y = cuda.to_device(np.ones_like(x))
axpy[79, 128](np.float32(2), x, y)
say.check(np.array_equal(y.copy_to_host(), 2 * x + 1), "axpy")
sums = cuda.device_array(79, np.float32)
block_sums[79, 128](x, sums)
total = sums.copy_to_host().astype(np.float64).sum()
say.check(abs(total - x.astype(np.float64).sum()) < 64, "sums of blocks")
say.value("sum", total, 1e-7)
data = (np.arange(50_000) * 7919 % 64).astype(np.int32)
bins = cuda.to_device(np.zeros(64, np.int32))
histogram[391, 128](data, bins)
say.check(np.array_equal(bins.copy_to_host(), np.bincount(data, minlength=64)), "histogram")
say.value("bins", bins.copy_to_host()[7])
seconds = say.median_seconds(lambda: axpy[79, 128](np.float32(0), y, y), cuda.synchronize, rounds=200, warm=10)
say.time("launch and synchronise", seconds * 1e6, "us")
