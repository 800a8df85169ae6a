// Several host threads, each with a stream and memory of its own, and one event that crosses threads.
#include "check.h"
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

__global__ void step(int *data, int n, int factor, int term) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * factor + term;
}

static int work(int thread) {
    const int n = 2000 + thread;
    int *device;
    cudaStream_t stream;
    std::vector<int> data(n);
    for (int i = 0; i < n; ++i) data[i] = i + thread;
    CHECK(cudaSetDevice(0));
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaMalloc(&device, n * sizeof(int)));
    int wrong = 0;
    for (int round = 0; round < 5; ++round) {
        CHECK(cudaMemcpyAsync(device, data.data(), n * sizeof(int), cudaMemcpyHostToDevice, stream));
        for (int k = 0; k < 20; ++k) step<<<(n + 63) / 64, 64, 0, stream>>>(device, n, 1, thread);
        std::vector<int> back(n);
        CHECK(cudaMemcpyAsync(back.data(), device, n * sizeof(int), cudaMemcpyDeviceToHost, stream));
        CHECK(cudaStreamSynchronize(stream));
        for (int i = 0; i < n; ++i) wrong += back[i] != data[i] + 20 * thread;
    }
    CHECK(cudaFree(device));
    CHECK(cudaStreamDestroy(stream));
    return wrong;
}

int main() {
    const int count = 6;
    std::vector<int> wrong(count);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < count; ++thread) {
        threads.emplace_back([&wrong, thread] { wrong[thread] = work(thread); });
    }
    for (std::thread &thread : threads) thread.join();
    for (int thread = 0; thread < count; ++thread) CHECK_THAT(wrong[thread] == 0);
    std::printf("%d threads\n", count);

    // One thread waits for what another enqueued, and tells it so on the host: program order across
    // threads is stream order.
    int *device, value = 0;
    CHECK(cudaMalloc(&device, sizeof(int)));
    CHECK(cudaMemset(device, 0, sizeof(int)));
    cudaStream_t producer, consumer;
    cudaEvent_t ready;
    CHECK(cudaStreamCreateWithFlags(&producer, cudaStreamNonBlocking));
    CHECK(cudaStreamCreateWithFlags(&consumer, cudaStreamNonBlocking));
    CHECK(cudaEventCreateWithFlags(&ready, cudaEventDisableTiming));
    std::mutex mutex;
    std::condition_variable told;
    bool recorded = false;
    std::thread other([&] {
        for (int k = 0; k < 50; ++k) step<<<1, 1, 0, producer>>>(device, 1, 1, 1);
        CHECK(cudaEventRecord(ready, producer));
        const std::lock_guard<std::mutex> lock(mutex);
        recorded = true;
        told.notify_one();
    });
    {
        std::unique_lock<std::mutex> lock(mutex);
        told.wait(lock, [&] { return recorded; });
    }
    CHECK(cudaStreamWaitEvent(consumer, ready, 0));
    step<<<1, 1, 0, consumer>>>(device, 1, 2, 0);
    CHECK(cudaStreamSynchronize(consumer));
    other.join();
    CHECK(cudaMemcpy(&value, device, sizeof value, cudaMemcpyDeviceToHost));
    CHECK_THAT(value == 100);
    std::printf("across threads: %d\n", value);
    return check_result("threads");
}
