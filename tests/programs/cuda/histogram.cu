// A histogram with shared-memory and global atomics, and the other atomic operations on one word.
#include "check.h"
#include <vector>

constexpr int BINS = 64;

__global__ void histogram(const unsigned char *data, int n, unsigned *bins) {
    __shared__ unsigned local[BINS];
    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) local[bin] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        atomicAdd(&local[data[i] % BINS], 1u);
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) atomicAdd(&bins[bin], local[bin]);
}

__global__ void atomics(int *words, unsigned long long *wide, float *real) {
    const int thread = blockIdx.x * blockDim.x + threadIdx.x;
    atomicMax(&words[0], thread * 7 % 1009);
    atomicMin(&words[1], thread * 7 % 1009);
    atomicOr(&words[2], 1 << thread % 31);
    atomicXor(&words[3], thread);
    atomicAnd(&words[4], ~(1 << thread % 13));
    atomicInc(reinterpret_cast<unsigned *>(&words[5]), 99);
    atomicSub(&words[6], 3);
    // A maximum by compare and swap.
    int seen = words[7];
    while (seen < thread) {
        const int before = atomicCAS(&words[7], seen, thread);
        if (before == seen) break;
        seen = before;
    }
    atomicAdd(wide, 1ull << 33);
    atomicAdd(real, 0.5f);
    if (thread == 0) atomicExch(&words[8], 4711);
}

int main() {
    const int n = 70000;
    std::vector<unsigned char> data(n);
    std::vector<unsigned> bins(BINS), expected(BINS);
    Sequence sequence{5};
    for (unsigned char &byte : data) {
        byte = static_cast<unsigned char>(sequence.next() * 3 >> 4);
        ++expected[byte % BINS];
    }

    unsigned char *device_data;
    unsigned *device_bins;
    CHECK(cudaMalloc(&device_data, n));
    CHECK(cudaMalloc(&device_bins, BINS * sizeof(unsigned)));
    CHECK(cudaMemcpy(device_data, data.data(), n, cudaMemcpyHostToDevice));
    CHECK(cudaMemset(device_bins, 0, BINS * sizeof(unsigned)));
    histogram<<<12, 192>>>(device_data, n, device_bins);
    CHECK(cudaMemcpy(bins.data(), device_bins, BINS * sizeof(unsigned), cudaMemcpyDeviceToHost));
    int wrong = 0;
    for (int bin = 0; bin < BINS; ++bin) wrong += bins[bin] != expected[bin];
    CHECK_THAT(wrong == 0);
    std::printf("%d bins, %d wrong, first %u\n", BINS, wrong, bins[0]);

    const int threads = 1024;
    int words[9] = {-1, 1 << 20, 0, 0, -1, 0, 0, -1, 0}, *device_words;
    unsigned long long wide = 0, *device_wide;
    float real = 0, *device_real;
    CHECK(cudaMalloc(&device_words, sizeof words));
    CHECK(cudaMalloc(&device_wide, sizeof wide));
    CHECK(cudaMalloc(&device_real, sizeof real));
    CHECK(cudaMemcpy(device_words, words, sizeof words, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(device_wide, &wide, sizeof wide, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(device_real, &real, sizeof real, cudaMemcpyHostToDevice));
    atomics<<<8, threads / 8>>>(device_words, device_wide, device_real);
    CHECK(cudaMemcpy(words, device_words, sizeof words, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(&wide, device_wide, sizeof wide, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(&real, device_real, sizeof real, cudaMemcpyDeviceToHost));

    int greatest = -1, least = 1 << 20, either = 0, parity = 0, all = -1;
    for (int thread = 0; thread < threads; ++thread) {
        const int value = thread * 7 % 1009;
        if (value > greatest) greatest = value;
        if (value < least) least = value;
        either |= 1 << thread % 31;
        parity ^= thread;
        all &= ~(1 << thread % 13);
    }
    CHECK_THAT(words[0] == greatest);
    CHECK_THAT(words[1] == least);
    CHECK_THAT(words[2] == either);
    CHECK_THAT(words[3] == parity);
    CHECK_THAT(words[4] == all);
    CHECK_THAT(words[5] == threads % 100);
    CHECK_THAT(words[6] == -3 * threads);
    CHECK_THAT(words[7] == threads - 1);
    CHECK_THAT(words[8] == 4711);
    CHECK_THAT(wide == static_cast<unsigned long long>(threads) << 33);
    CHECK_THAT(real == 0.5f * threads);
    std::printf("max %d min %d or %x xor %d and %x inc %d sub %d cas %d\n", words[0], words[1], words[2], words[3],
                words[4], words[5], words[6], words[7]);

    CHECK(cudaFree(device_data));
    CHECK(cudaFree(device_bins));
    CHECK(cudaFree(device_words));
    CHECK(cudaFree(device_wide));
    CHECK(cudaFree(device_real));
    return check_result("histogram");
}
