// What kernels print appears when the program synchronises, in its place among what the program prints itself.
#include "check.h"
#include <atomic>
#include <thread>
#include <vector>

__global__ void say(const char *what, int number, double real) {
    printf("kernel: %s %d %.3f %%%5s|%-6d|%x\n", what, number, real, "ab", number, number);
}

__global__ void count(int first, int lines) {
    for (int line = first; line < first + lines; ++line) {
        printf("line %d of a text that is longer than what a pipe holds at once\n", line);
    }
}

struct Gate {
    std::atomic<bool> entered{false}, open{false};
};

static void CUDART_CB wait_at(void *data) {
    Gate *gate = static_cast<Gate *>(data);
    gate->entered = true;
    while (!gate->open) std::this_thread::yield();
}

__device__ char name[16] = "device text";

int main() {
    char *text;
    CHECK(cudaGetSymbolAddress(reinterpret_cast<void **>(&text), name));
    std::printf("program: before\n");
    say<<<1, 1>>>(text, 1, 1.5);
    CHECK(cudaDeviceSynchronize());
    std::printf("program: after a device synchronise\n");

    cudaStream_t stream, other;
    cudaEvent_t event;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    CHECK(cudaEventCreate(&event));
    say<<<1, 1, 0, stream>>>(text, 2, -2.25);
    CHECK(cudaStreamSynchronize(stream));
    std::printf("program: after a stream synchronise\n");
    say<<<1, 1, 0, stream>>>(text, 3, 0.0);
    CHECK(cudaEventRecord(event, stream));
    CHECK(cudaEventSynchronize(event));
    std::printf("program: after an event synchronise\n");
    say<<<1, 1>>>(text, 4, 1e3);
    char back[16];
    CHECK(cudaMemcpy(back, text, sizeof back, cudaMemcpyDeviceToHost));
    std::printf("program: after a copy of \"%s\"\n", back);

    // More than a pipe holds, less than the driver's buffer.
    count<<<1, 1>>>(0, 3000);
    CHECK(cudaDeviceSynchronize());
    std::printf("program: after many lines\n");

    // The thread that runs host functions is busy, and what it waits for comes after what is printed here.
    Gate gate;
    CHECK(cudaLaunchHostFunc(other, wait_at, &gate));
    while (!gate.entered) std::this_thread::yield();
    say<<<1, 1, 0, stream>>>(text, 5, 5.0);
    CHECK(cudaStreamSynchronize(stream));
    std::printf("program: after a synchronise beside a host function\n");
    gate.open = true;
    CHECK(cudaStreamSynchronize(other));

    // Threads that synchronise at once: every line is there, whole.
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) {
        threads.emplace_back([] {
            for (int turn = 0; turn < 20; ++turn) {
                count<<<1, 1>>>(7, 1);
                CHECK(cudaDeviceSynchronize());
            }
        });
    }
    for (std::thread &thread : threads) thread.join();
    CHECK(cudaEventDestroy(event));
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaStreamDestroy(other));
    return check_result("printing");
}
