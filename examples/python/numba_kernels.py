"""Kernels written in Python: numba-cuda compiles them to PTX.

Adds two vectors, multiplies two matrices through shared memory, sums a vector with a reduction in each block and
an atomic addition, and compares each result with NumPy.
"""

import sys

import numpy as np
from numba import cuda, float32

TILE = 16
THREADS = 256


@cuda.jit
def add(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] + b[i]


@cuda.jit
def multiply(a, b, out):
    """Each block computes a tile of the product, from tiles that its threads load together."""
    a_tile = cuda.shared.array((TILE, TILE), float32)
    b_tile = cuda.shared.array((TILE, TILE), float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    total = float32(0)
    for tile in range(a.shape[1] // TILE):
        a_tile[y, x] = a[row, tile * TILE + x]
        b_tile[y, x] = b[tile * TILE + y, column]
        cuda.syncthreads()
        for k in range(TILE):
            total += a_tile[y, k] * b_tile[k, x]
        cuda.syncthreads()
    out[row, column] = total


@cuda.jit
def sum_up(values, total):
    """Halves the number of threads that add until one is left, which adds the block's sum to the total."""
    partial = cuda.shared.array(THREADS, float32)
    i, x = cuda.grid(1), cuda.threadIdx.x
    partial[x] = values[i] if i < values.size else 0
    cuda.syncthreads()
    width = THREADS // 2
    while width > 0:
        if x < width:
            partial[x] += partial[x + width]
        cuda.syncthreads()
        width //= 2
    if x == 0:
        cuda.atomic.add(total, 0, partial[0])


def main():
    print("running on", cuda.get_current_device().name)
    random = np.random.default_rng(1)

    a, b = random.random((2, 100_000), dtype=np.float32)
    result = cuda.device_array_like(a)
    blocks = (a.size + THREADS - 1) // THREADS
    add[blocks, THREADS](cuda.to_device(a), cuda.to_device(b), result)
    added = np.array_equal(result.copy_to_host(), a + b)
    print("vector addition:", "right" if added else "WRONG")

    a, b = random.random((2, 128, 128), dtype=np.float32)
    result = cuda.device_array_like(a)
    stream = cuda.stream()
    multiply[(8, 8), (TILE, TILE), stream](cuda.to_device(a, stream), cuda.to_device(b, stream), result)
    product = result.copy_to_host(stream=stream)
    stream.synchronize()
    multiplied = np.allclose(product, a @ b, rtol=1e-5)
    print("matrix product:", "right" if multiplied else "WRONG")

    # Whole numbers, so that the sum is exact in whichever order the blocks come.
    values = random.integers(0, 10, 100_000).astype(np.float32)
    total = cuda.to_device(np.zeros(1, dtype=np.float32))
    sum_up[blocks, THREADS](cuda.to_device(values), total)
    summed = total.copy_to_host()[0] == values.sum()
    print("sum:", "right" if summed else "WRONG")

    passed = added and multiplied and summed
    print("PASSED" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
