// Built with --default-stream per-thread: each thread's launches and copies go to a stream of its own.
#include "check.h"
#include <thread>
#include <vector>

__global__ void step(int *data, int n, int term) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] += term;
}

int main() {
    const int count = 4, n = 3000;
    std::vector<int> wrong(count, -1);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < count; ++thread) {
        threads.emplace_back([&wrong, thread] {
            int *device;
            std::vector<int> data(n, thread), back(n);
            CHECK(cudaMalloc(&device, n * sizeof(int)));
            CHECK(cudaMemcpy(device, data.data(), n * sizeof(int), cudaMemcpyHostToDevice));
            for (int k = 0; k < 25; ++k) step<<<(n + 127) / 128, 128>>>(device, n, thread + 1);
            CHECK(cudaMemcpyAsync(back.data(), device, n * sizeof(int), cudaMemcpyDeviceToHost, cudaStreamPerThread));
            CHECK(cudaStreamSynchronize(cudaStreamPerThread));
            wrong[thread] = 0;
            for (int i = 0; i < n; ++i) wrong[thread] += back[i] != thread + 25 * (thread + 1);
            CHECK(cudaFree(device));
        });
    }
    for (std::thread &thread : threads) thread.join();
    for (int thread = 0; thread < count; ++thread) CHECK_THAT(wrong[thread] == 0);

    // The legacy stream is there by name.
    int *device, value = 1;
    CHECK(cudaMalloc(&device, sizeof(int)));
    CHECK(cudaMemcpyAsync(device, &value, sizeof value, cudaMemcpyHostToDevice, cudaStreamLegacy));
    step<<<1, 1, 0, cudaStreamLegacy>>>(device, 1, 41);
    CHECK(cudaMemcpyAsync(&value, device, sizeof value, cudaMemcpyDeviceToHost, cudaStreamLegacy));
    CHECK(cudaStreamSynchronize(cudaStreamLegacy));
    CHECK_THAT(value == 42);
    std::printf("%d threads, legacy stream %d\n", count, value);
    CHECK(cudaFree(device));
    return check_result("perThreadStream");
}
