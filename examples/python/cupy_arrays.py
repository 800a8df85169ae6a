"""Arrays on the GPU: CuPy compiles CUDA C with NVRTC as it goes.

Works on whole arrays, runs an elementwise kernel, a reduction and a kernel of one's own in CUDA C on a stream, and
compares each result with NumPy.
"""

import sys

import cupy
import numpy as np

MULTIPLY = r"""
extern "C" __global__ void multiply(const float *a, const float *b, float *out, int n) {
    __shared__ float a_tile[16][16], b_tile[16][16];
    int row = blockIdx.y * 16 + threadIdx.y, column = blockIdx.x * 16 + threadIdx.x;
    float total = 0;
    for (int tile = 0; tile < n; tile += 16) {
        a_tile[threadIdx.y][threadIdx.x] = a[row * n + tile + threadIdx.x];
        b_tile[threadIdx.y][threadIdx.x] = b[(tile + threadIdx.y) * n + column];
        __syncthreads();
        for (int k = 0; k < 16; ++k) total += a_tile[threadIdx.y][k] * b_tile[k][threadIdx.x];
        __syncthreads();
    }
    out[row * n + column] = total;
}
"""


def check(name, seen, expected):
    right = np.allclose(cupy.asnumpy(seen), expected, rtol=1e-5)
    print(f"{name}:", "right" if right else "WRONG")
    return right


def main():
    print("running on", cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    random = np.random.default_rng(1)
    a, b = random.random((2, 100_000), dtype=np.float32)
    on_gpu = cupy.asarray(a)
    results = [check("whole arrays", cupy.sqrt(on_gpu) + 2 * cupy.asarray(b), np.sqrt(a) + 2 * b)]

    distance = cupy.ElementwiseKernel("T x, T y", "T z", "z = (x - y) * (x - y)", "distance")
    results.append(check("elementwise kernel", distance(on_gpu, cupy.asarray(b)), (a - b) ** 2))

    norm = cupy.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "norm")
    results.append(check("reduction", norm(on_gpu), np.linalg.norm(a)))

    results.append(check("sorting", cupy.sort(on_gpu), np.sort(a)))

    n = 128
    a, b = random.random((2, n, n), dtype=np.float32)
    multiply = cupy.RawKernel(MULTIPLY, "multiply")
    with cupy.cuda.Stream() as stream:
        out = cupy.empty((n, n), dtype=cupy.float32)
        multiply((n // 16, n // 16), (16, 16), (cupy.asarray(a), cupy.asarray(b), out, np.int32(n)))
        stream.synchronize()
    results.append(check("matrix product in CUDA C", out, a @ b))

    print("PASSED" if all(results) else "FAILED")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
