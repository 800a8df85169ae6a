// Mapped pinned memory: a kernel and the host see each other's writes while the kernel runs.
#include "check.h"
#include <atomic>
#include <cstring>
#include <thread>

__global__ void increment(volatile int *data, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] + 1;
}

// Tells the host that it runs, waits for the host's word, answers. Gives up rather than hang.
__global__ void converse(volatile int *mailbox) {
    mailbox[0] = 1;
    __threadfence_system();
    for (long long tries = 0; tries < 2000000000ll; ++tries) {
        if (mailbox[1] != 0) {
            mailbox[2] = mailbox[1] * 2;
            __threadfence_system();
            return;
        }
    }
    mailbox[2] = -1;
}

// Waits until `word` is no longer `value`; a minute is more than any machine needs.
static int wait_while(std::atomic<int> *word, int value) {
    for (int tries = 0; tries < 60000 && word->load() == value; ++tries) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return word->load();
}

int main() {
    const int n = 5000;
    int *host, *device;
    CHECK(cudaHostAlloc(&host, n * sizeof(int), cudaHostAllocMapped));
    CHECK(cudaHostGetDevicePointer(&device, host, 0));
    unsigned flags = 0;
    CHECK(cudaHostGetFlags(&flags, host));
    CHECK_THAT(flags & cudaHostAllocMapped);
    for (int i = 0; i < n; ++i) host[i] = i;
    increment<<<(n + 127) / 128, 128>>>(device, n);
    CHECK(cudaDeviceSynchronize());
    int wrong = 0;
    for (int i = 0; i < n; ++i) wrong += host[i] != i + 1;
    CHECK_THAT(wrong == 0);
    std::printf("kernel on host memory: %d wrong\n", wrong);

    std::memset(host, 0, 3 * sizeof(int));
    auto *mailbox = reinterpret_cast<std::atomic<int> *>(host);
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    converse<<<1, 1, 0, stream>>>(device);
    CHECK(cudaGetLastError());
    CHECK_THAT(wait_while(&mailbox[0], 0) == 1);
    CHECK_ERROR(cudaStreamQuery(stream), cudaErrorNotReady);
    mailbox[1].store(21);
    CHECK_THAT(wait_while(&mailbox[2], 0) == 42);
    CHECK(cudaStreamSynchronize(stream));
    std::printf("host and kernel conversed: %d\n", mailbox[2].load());
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaFreeHost(host));
    return check_result("mapped");
}
