// Sums and maxima three ways: a shared-memory tree, warp shuffles, and votes.
#include "check.h"
#include <vector>

__global__ void sum_tree(const int *values, int n, int *sums) {
    extern __shared__ int partial[];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    partial[threadIdx.x] = i < n ? values[i] : 0;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = partial[0];
}

__global__ void sum_shuffle(const int *values, int n, int *sums) {
    __shared__ int warps[32];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    int sum = i < n ? values[i] : 0;
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_down_sync(0xffffffff, sum, distance);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? warps[threadIdx.x] : 0;
        for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffff, sum, distance);
        if (threadIdx.x == 0) sums[blockIdx.x] = sum;
    }
}

__global__ void count_odd(const int *values, int n, unsigned *count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned odd = __ballot_sync(0xffffffff, i < n && values[i] % 2 != 0);
    if (threadIdx.x % 32 == 0) atomicAdd(count, __popc(odd));
}

static long long total(const std::vector<int> &sums) {
    long long sum = 0;
    for (int value : sums) sum += value;
    return sum;
}

int main() {
    const int n = 30011, threads = 256, blocks = (n + threads - 1) / threads;
    std::vector<int> values(n), sums(blocks);
    Sequence sequence{4};
    long long expected = 0;
    unsigned odd = 0;
    for (int &value : values) {
        value = static_cast<int>(sequence.next() % 2001) - 1000;
        expected += value;
        odd += value % 2 != 0;
    }

    int *device_values, *device_sums;
    unsigned *device_count;
    CHECK(cudaMalloc(&device_values, n * sizeof(int)));
    CHECK(cudaMalloc(&device_sums, blocks * sizeof(int)));
    CHECK(cudaMalloc(&device_count, sizeof(unsigned)));
    CHECK(cudaMemcpy(device_values, values.data(), n * sizeof(int), cudaMemcpyHostToDevice));
    CHECK(cudaMemset(device_count, 0, sizeof(unsigned)));

    sum_tree<<<blocks, threads, threads * sizeof(int)>>>(device_values, n, device_sums);
    CHECK(cudaMemcpy(sums.data(), device_sums, blocks * sizeof(int), cudaMemcpyDeviceToHost));
    CHECK_THAT(total(sums) == expected);
    std::printf("tree %lld\n", total(sums));

    CHECK(cudaMemset(device_sums, 0xff, blocks * sizeof(int)));
    sum_shuffle<<<blocks, threads>>>(device_values, n, device_sums);
    CHECK(cudaMemcpy(sums.data(), device_sums, blocks * sizeof(int), cudaMemcpyDeviceToHost));
    CHECK_THAT(total(sums) == expected);
    std::printf("shuffle %lld\n", total(sums));

    unsigned count = 0;
    count_odd<<<blocks, threads>>>(device_values, n, device_count);
    CHECK(cudaMemcpy(&count, device_count, sizeof count, cudaMemcpyDeviceToHost));
    CHECK_THAT(count == odd);
    std::printf("odd %u\n", count);

    CHECK(cudaFree(device_values));
    CHECK(cudaFree(device_sums));
    CHECK(cudaFree(device_count));
    return check_result("reduction");
}
