// Counts how often each byte occurs. Each block counts in shared memory, where atomics are cheap, and adds its counts
// to the result once.
//
// Build: nvcc histogram.cu -o histogram

#include "example.h"

constexpr int bins = 256;

__global__ void count(const unsigned char *bytes, int n, unsigned *result) {
    __shared__ unsigned counts[bins];
    for (int bin = threadIdx.x; bin < bins; bin += blockDim.x) counts[bin] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(&counts[bytes[i]], 1);
    __syncthreads();
    for (int bin = threadIdx.x; bin < bins; bin += blockDim.x) atomicAdd(&result[bin], counts[bin]);
}

int main() {
    say_device();
    const int n = 1 << 20;
    std::mt19937 random(4);
    std::vector<unsigned char> bytes(n);
    // The sum of two dice with 128 sides: the middle is frequent, so that threads contend for its counters.
    for (unsigned char &byte : bytes) byte = random() % 128 + random() % 128;

    DeviceArray<unsigned char> device_bytes(bytes);
    DeviceArray<unsigned> device_counts(bins);
    device_counts.clear();
    count<<<32, 256>>>(device_bytes.pointer(), n, device_counts.pointer());
    check_launch();
    const std::vector<unsigned> counts = device_counts.copy_out();

    std::vector<unsigned> expected(bins);
    for (unsigned char byte : bytes) ++expected[byte];
    size_t wrong = 0;
    for (int bin = 0; bin < bins; ++bin) wrong += counts[bin] != expected[bin];
    return verdict("counters", bins, wrong);
}
