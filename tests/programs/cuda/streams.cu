// Work on two streams that events order, asynchronous copies from pinned memory, stream properties.
#include "check.h"

__global__ void step(int *data, int n, int factor, int term) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * factor + term;
}

int main() {
    const int n = 1 << 14;
    const size_t bytes = n * sizeof(int);
    int *host_in, *host_out, *device;
    CHECK(cudaMallocHost(&host_in, bytes));
    CHECK(cudaHostAlloc(&host_out, bytes, cudaHostAllocDefault));
    CHECK(cudaMalloc(&device, bytes));
    for (int i = 0; i < n; ++i) host_in[i] = i;

    cudaStream_t first, second;
    CHECK(cudaStreamCreate(&first));
    CHECK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
    unsigned flags = 99;
    CHECK(cudaStreamGetFlags(first, &flags));
    CHECK_THAT(flags == cudaStreamDefault);
    CHECK(cudaStreamGetFlags(second, &flags));
    CHECK_THAT(flags == cudaStreamNonBlocking);

    int least = 1, greatest = 1;
    CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CHECK_THAT(least >= greatest && least <= 0);
    cudaStream_t urgent;
    CHECK(cudaStreamCreateWithPriority(&urgent, cudaStreamNonBlocking, greatest));
    int priority = 1;
    CHECK(cudaStreamGetPriority(urgent, &priority));
    CHECK_THAT(priority == greatest);

    cudaEvent_t start, half, done;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreateWithFlags(&half, cudaEventDisableTiming));
    CHECK(cudaEventCreate(&done));

    // Copy and first half on one stream; the second half on another, which waits for the event.
    CHECK(cudaEventRecord(start, first));
    CHECK(cudaMemcpyAsync(device, host_in, bytes, cudaMemcpyHostToDevice, first));
    for (int i = 0; i < 10; ++i) step<<<n / 256, 256, 0, first>>>(device, n, 3, i);
    CHECK(cudaEventRecord(half, first));
    CHECK(cudaStreamWaitEvent(second, half, 0));
    for (int i = 0; i < 10; ++i) step<<<n / 256, 256, 0, second>>>(device, n, 1, -i);
    CHECK(cudaMemcpyAsync(host_out, device, bytes, cudaMemcpyDeviceToHost, second));
    CHECK(cudaEventRecord(done, second));
    CHECK(cudaEventSynchronize(done));
    CHECK(cudaEventQuery(start));
    CHECK(cudaEventQuery(half));
    CHECK(cudaStreamQuery(second));

    int wrong = 0;
    for (int i = 0; i < n; ++i) {
        int expected = i;
        for (int k = 0; k < 10; ++k) expected = expected * 3 + k;
        wrong += host_out[i] != expected - 45;
    }
    CHECK_THAT(wrong == 0);
    std::printf("ordered by events: %d wrong\n", wrong);

    float milliseconds = -1;
    CHECK(cudaEventElapsedTime(&milliseconds, start, done));
    CHECK_THAT(milliseconds > 0);
    CHECK_ERROR(cudaEventElapsedTime(&milliseconds, half, done), cudaErrorInvalidResourceHandle);
    cudaGetLastError();

    // The default stream waits for blocking streams and they for it.
    CHECK(cudaMemsetAsync(device, 0, bytes, first));
    for (int i = 0; i < 8; ++i) step<<<n / 256, 256, 0, first>>>(device, n, 2, 1);
    step<<<n / 256, 256>>>(device, n, 1, 1000);
    step<<<n / 256, 256, 0, first>>>(device, n, 2, 0);
    CHECK(cudaStreamSynchronize(first));
    CHECK(cudaMemcpy(host_out, device, bytes, cudaMemcpyDeviceToHost));
    wrong = 0;
    for (int i = 0; i < n; ++i) wrong += host_out[i] != (255 + 1000) * 2;
    CHECK_THAT(wrong == 0);
    std::printf("ordered by the default stream: %d wrong\n", wrong);

    // Destroying a stream with work on it lets the work finish.
    step<<<n / 256, 256, 0, urgent>>>(device, n, 0, 7);
    CHECK(cudaStreamDestroy(urgent));
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(host_out, device, bytes, cudaMemcpyDeviceToHost));
    CHECK_THAT(host_out[0] == 7 && host_out[n - 1] == 7);

    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(half));
    CHECK(cudaEventDestroy(done));
    CHECK(cudaStreamDestroy(first));
    CHECK(cudaStreamDestroy(second));
    CHECK(cudaFree(device));
    CHECK(cudaFreeHost(host_in));
    CHECK(cudaFreeHost(host_out));
    return check_result("streams");
}
