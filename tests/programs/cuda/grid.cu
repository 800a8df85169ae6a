// Three-dimensional grids and blocks, local arrays, recursion-free calls, 64-bit and signed arithmetic.
#include "check.h"
#include <vector>

__device__ __noinline__ int collatz(long long value) {
    int steps = 0;
    while (value != 1) {
        value = value % 2 == 0 ? value / 2 : 3 * value + 1;
        ++steps;
    }
    return steps;
}

__global__ void places(int *out) {
    const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = block * 1000 + thread;
}

__global__ void sorted(int *out, int seed) {
    int local[16];
    for (int i = 0; i < 16; ++i) local[i] = (seed + threadIdx.x * 7 + i * i * 13) % 101;
    for (int i = 1; i < 16; ++i) {
        for (int k = i; k > 0 && local[k - 1] > local[k]; --k) {
            const int swap = local[k];
            local[k] = local[k - 1];
            local[k - 1] = swap;
        }
    }
    for (int i = 0; i < 16; ++i) out[threadIdx.x * 16 + i] = local[i];
}

__global__ void arithmetic(int *steps, long long *wide, unsigned long long *high, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    steps[i] = collatz(i + 1);
    const long long value = (static_cast<long long>(i) - n / 2) * 1234567891011ll;
    wide[i] = value / (i + 3) + value % (i + 7) + (value >> 5);
    high[i] = __umul64hi(static_cast<unsigned long long>(value), 0x9e3779b97f4a7c15ull);
}

int main() {
    const dim3 grid(3, 2, 2), block(4, 5, 3);
    const int total = 12 * 60;
    std::vector<int> out(total);
    int *device;
    CHECK(cudaMalloc(&device, total * sizeof(int)));
    places<<<grid, block>>>(device);
    CHECK(cudaMemcpy(out.data(), device, total * sizeof(int), cudaMemcpyDeviceToHost));
    int wrong = 0;
    for (int i = 0; i < total; ++i) wrong += out[i] != i / 60 * 1000 + i % 60;
    CHECK_THAT(wrong == 0);
    std::printf("places: %d wrong\n", wrong);

    sorted<<<1, 32>>>(device, 17);
    CHECK(cudaMemcpy(out.data(), device, 512 * sizeof(int), cudaMemcpyDeviceToHost));
    wrong = 0;
    int sum = 0, expected = 0;
    for (int thread = 0; thread < 32; ++thread) {
        for (int i = 0; i < 16; ++i) {
            wrong += i > 0 && out[thread * 16 + i - 1] > out[thread * 16 + i];
            sum += out[thread * 16 + i];
            expected += (17 + thread * 7 + i * i * 13) % 101;
        }
    }
    CHECK_THAT(wrong == 0 && sum == expected);
    std::printf("sorted: %d wrong, sum %d\n", wrong, sum);
    CHECK(cudaFree(device));

    const int n = 1000;
    std::vector<int> steps(n);
    std::vector<long long> wide(n);
    std::vector<unsigned long long> high(n);
    int *device_steps;
    long long *device_wide;
    unsigned long long *device_high;
    CHECK(cudaMalloc(&device_steps, n * sizeof(int)));
    CHECK(cudaMalloc(&device_wide, n * sizeof(long long)));
    CHECK(cudaMalloc(&device_high, n * sizeof(long long)));
    arithmetic<<<(n + 95) / 96, 96>>>(device_steps, device_wide, device_high, n);
    CHECK(cudaMemcpy(steps.data(), device_steps, n * sizeof(int), cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(wide.data(), device_wide, n * sizeof(long long), cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(high.data(), device_high, n * sizeof(long long), cudaMemcpyDeviceToHost));
    wrong = 0;
    for (int i = 0; i < n; ++i) {
        int count = 0;
        for (long long value = i + 1; value != 1; ++count) value = value % 2 == 0 ? value / 2 : 3 * value + 1;
        const long long value = (static_cast<long long>(i) - n / 2) * 1234567891011ll;
        wrong += steps[i] != count;
        wrong += wide[i] != value / (i + 3) + value % (i + 7) + (value >> 5);
        wrong += high[i] != static_cast<unsigned long long>(
                                (static_cast<unsigned __int128>(static_cast<unsigned long long>(value)) * 0x9e3779b97f4a7c15ull) >> 64);
    }
    CHECK_THAT(wrong == 0);
    std::printf("arithmetic: %d wrong, longest %d\n", wrong, steps[870]);
    CHECK(cudaFree(device_steps));
    CHECK(cudaFree(device_wide));
    CHECK(cudaFree(device_high));
    return check_result("grid");
}
