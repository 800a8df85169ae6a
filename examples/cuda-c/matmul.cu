// Multiplies two matrices. Each block computes a tile of the product from tiles that its threads bring into shared
// memory together, so that each number is read from global memory once per tile and not once per product.
//
// Build: nvcc matmul.cu -o matmul

#include "example.h"

constexpr int tile = 16;

__global__ void multiply(const float *a, const float *b, float *c, int n) {
    __shared__ float a_tile[tile][tile], b_tile[tile][tile];
    const int row = blockIdx.y * tile + threadIdx.y, column = blockIdx.x * tile + threadIdx.x;
    float total = 0;
    for (int at = 0; at < n; at += tile) {
        a_tile[threadIdx.y][threadIdx.x] = a[row * n + at + threadIdx.x];
        b_tile[threadIdx.y][threadIdx.x] = b[(at + threadIdx.y) * n + column];
        __syncthreads(); // The tiles are complete ...
        for (int k = 0; k < tile; ++k) total += a_tile[threadIdx.y][k] * b_tile[k][threadIdx.x];
        __syncthreads(); // ... and nobody reads them any more.
    }
    c[row * n + column] = total;
}

int main() {
    say_device();
    const int n = 256; // a multiple of the tile
    std::mt19937 random(1);
    std::vector<float> a(n * n), b(n * n);
    // Small whole numbers: their sums are exact, in whatever order they are added.
    for (float &value : a) value = random() % 10;
    for (float &value : b) value = random() % 10;

    DeviceArray<float> device_a(a), device_b(b), device_c(n * n);
    const dim3 blocks(n / tile, n / tile), threads(tile, tile);
    multiply<<<blocks, threads>>>(device_a.pointer(), device_b.pointer(), device_c.pointer(), n);
    check_launch();
    const std::vector<float> c = device_c.copy_out();

    size_t wrong = 0;
    for (int row = 0; row < n; ++row)
        for (int column = 0; column < n; ++column) {
            float expected = 0;
            for (int k = 0; k < n; ++k) expected += a[row * n + k] * b[k * n + column];
            wrong += c[row * n + column] != expected;
        }
    return verdict("products", c.size(), wrong);
}
