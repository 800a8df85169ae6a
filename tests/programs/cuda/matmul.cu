// Tiled matrix product through shared memory with barriers; sizes that do not divide by the tile.
// Small integers as floats, so that the order of additions cannot matter.
#include "check.h"
#include <vector>

constexpr int TILE = 16;

__global__ void matmul(const float *a, const float *b, float *c, int rows, int inner, int columns) {
    __shared__ float tile_a[TILE][TILE];
    __shared__ float tile_b[TILE][TILE];
    const int row = blockIdx.y * TILE + threadIdx.y;
    const int column = blockIdx.x * TILE + threadIdx.x;
    float sum = 0;
    for (int start = 0; start < inner; start += TILE) {
        const int across = start + threadIdx.x;
        const int down = start + threadIdx.y;
        tile_a[threadIdx.y][threadIdx.x] = row < rows && across < inner ? a[row * inner + across] : 0;
        tile_b[threadIdx.y][threadIdx.x] = down < inner && column < columns ? b[down * columns + column] : 0;
        __syncthreads();
        for (int k = 0; k < TILE; ++k) sum += tile_a[threadIdx.y][k] * tile_b[k][threadIdx.x];
        __syncthreads();
    }
    if (row < rows && column < columns) c[row * columns + column] = sum;
}

int main() {
    const int rows = 70, inner = 53, columns = 91;
    std::vector<float> a(rows * inner), b(inner * columns), c(rows * columns);
    Sequence sequence{3};
    for (float &value : a) value = static_cast<float>(sequence.next() % 17) - 8;
    for (float &value : b) value = static_cast<float>(sequence.next() % 17) - 8;

    float *device_a, *device_b, *device_c;
    CHECK(cudaMalloc(&device_a, a.size() * sizeof(float)));
    CHECK(cudaMalloc(&device_b, b.size() * sizeof(float)));
    CHECK(cudaMalloc(&device_c, c.size() * sizeof(float)));
    CHECK(cudaMemcpy(device_a, a.data(), a.size() * sizeof(float), cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(device_b, b.data(), b.size() * sizeof(float), cudaMemcpyHostToDevice));

    const dim3 block(TILE, TILE);
    const dim3 grid((columns + TILE - 1) / TILE, (rows + TILE - 1) / TILE);
    matmul<<<grid, block>>>(device_a, device_b, device_c, rows, inner, columns);
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpy(c.data(), device_c, c.size() * sizeof(float), cudaMemcpyDeviceToHost));

    int wrong = 0;
    double trace = 0;
    for (int row = 0; row < rows; ++row) {
        for (int column = 0; column < columns; ++column) {
            float expected = 0;
            for (int k = 0; k < inner; ++k) expected += a[row * inner + k] * b[k * columns + column];
            wrong += c[row * columns + column] != expected;
            if (row == column) trace += c[row * columns + column];
        }
    }
    CHECK_THAT(wrong == 0);
    std::printf("%dx%dx%d, %d wrong, trace %.0f\n", rows, inner, columns, wrong, trace);

    CHECK(cudaFree(device_a));
    CHECK(cudaFree(device_b));
    CHECK(cudaFree(device_c));
    return check_result("matmul");
}
