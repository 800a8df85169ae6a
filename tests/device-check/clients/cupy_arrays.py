"""CuPy: element-wise kernels, reductions, own kernels, streams, pinned memory."""

import cupy as cp
import numpy as np

import say

x = cp.arange(100_000, dtype=cp.float64)
say.value("sum", float((x * 2 + 1).sum()))
say.check(float((x * 2 + 1).sum()) == 100_000.0**2, "sum of odd numbers")
say.value("root", float(cp.sqrt(x).sum()), 1e-12)
say.value("maximum", float(cp.sin(x.astype(cp.float32)).max()), 1e-6)
say.value("integers", int((cp.arange(1 << 16) ** 2 % 977).sum()))
say.value("sorted", int(cp.sort(cp.arange(50_000) * 7919 % 49_999)[777]))

kernel = cp.RawKernel(r"""
extern "C" __global__ void saxpy(float a, const float *x, float *y, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] += a * x[i];
}""", "saxpy")
a, b = cp.arange(10_000, dtype=cp.float32), cp.ones(10_000, dtype=cp.float32)
kernel((20,), (128,), (np.float32(3), a, b, np.int32(10_000)))
say.check(bool((b == 3 * a + 1).all()), "saxpy")

both = cp.ElementwiseKernel("float64 x, float64 y", "float64 z", "z = x > y ? x - y : y - x", "distance")
say.value("distance", float(both(x, x[::-1].copy()).sum()))

with cp.cuda.Stream(non_blocking=True) as stream:
    pinned = cp.cuda.alloc_pinned_memory(8 * 1000)
    host = np.frombuffer(pinned, np.float64, 1000)
    host[:] = np.arange(1000)
    device = cp.empty(1000)
    device.set(host, stream=stream)
    device *= 2
    back = device.get(stream=stream)
    stream.synchronize()
say.check(bool((back == np.arange(1000) * 2).all()), "there and back by pinned memory")
begin, end = cp.cuda.Event(), cp.cuda.Event()
begin.record()
say.value("product", float((x.reshape(250, 400)[:, :16].T[:4] ** 2).sum()))
end.record()
end.synchronize()
say.check(cp.cuda.get_elapsed_time(begin, end) >= 0, "time passes")
say.time("small kernel and synchronise", 1e6 * say.median_seconds(lambda: b.__iadd__(1), cp.cuda.Device().synchronize, 200), "us")
