// Resetting the device frees what it held and leaves a program that can start again.
#include "check.h"

__global__ void store(int *data, int value) { *data = value; }

int main() {
    for (int round = 0; round < 3; ++round) {
        int *device, value = 0;
        cudaStream_t stream;
        CHECK(cudaSetDevice(0));
        CHECK(cudaMalloc(&device, sizeof(int)));
        CHECK(cudaStreamCreate(&stream));
        store<<<1, 1, 0, stream>>>(device, round + 10);
        CHECK(cudaMemcpyAsync(&value, device, sizeof value, cudaMemcpyDeviceToHost, stream));
        CHECK(cudaStreamSynchronize(stream));
        CHECK_THAT(value == round + 10);
        std::printf("round %d: %d\n", round, value);
        CHECK(cudaDeviceReset());
    }
    return check_result("reset");
}
