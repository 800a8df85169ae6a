// Cooperative groups over the whole grid: blocks exchange data through global memory, step by step.
#include "check.h"
#include <vector>

// The 12.9 build has the headers of 12.9 and a later compiler, with which its cooperative groups do not compile:
// there the barrier of the grid is made by hand.
#if CUDART_VERSION >= 13000
#include <cooperative_groups.h>
__device__ void meet(unsigned *) { cooperative_groups::this_grid().sync(); }
#else
__device__ void meet(unsigned *counter) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        const unsigned round = atomicAdd(counter, 1) / gridDim.x;
        while (atomicAdd(counter, 0) / gridDim.x == round) {}
        __threadfence();
    }
    __syncthreads();
}
#endif

// Each step replaces a value by the sum of its neighbours', which other blocks have written.
__global__ void relax(unsigned *from, unsigned *to, unsigned *counter, int n, int steps) {
    const unsigned threads = gridDim.x * blockDim.x;
    for (int step = 0; step < steps; ++step) {
        for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += threads) {
            to[i] = from[(i + n - 1) % n] + from[(i + 1) % n];
        }
        meet(counter);
        unsigned *other = from;
        from = to;
        to = other;
    }
}

int main() {
    const int n = 1000, steps = 9;
    std::vector<unsigned> values(n), next(n);
    for (int i = 0; i < n; ++i) values[i] = i * 7 % 13;
    unsigned *from, *to, *counter;
    CHECK(cudaMalloc(&counter, sizeof(unsigned)));
    CHECK(cudaMemset(counter, 0, sizeof(unsigned)));
    CHECK(cudaMalloc(&from, n * sizeof(unsigned)));
    CHECK(cudaMalloc(&to, n * sizeof(unsigned)));
    CHECK(cudaMemcpy(from, values.data(), n * sizeof(unsigned), cudaMemcpyHostToDevice));
    int resident = 0, processors = 0, size = n, count = steps;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, relax, 64, 0));
    CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
    void *arguments[] = {&from, &to, &counter, &size, &count};
    CHECK(cudaLaunchCooperativeKernel(relax, dim3(8), dim3(64), arguments, 0, nullptr));
    CHECK(cudaDeviceSynchronize());
    for (int step = 0; step < steps; ++step) {
        for (int i = 0; i < n; ++i) next[i] = values[(i + n - 1) % n] + values[(i + 1) % n];
        values.swap(next);
    }
    CHECK(cudaMemcpy(next.data(), steps % 2 ? to : from, n * sizeof(unsigned), cudaMemcpyDeviceToHost));
    CHECK_THAT(next == values);
    std::printf("relaxed: %u\n", next[n / 2]);
    const cudaError_t refused =
        cudaLaunchCooperativeKernel(relax, dim3(resident * processors + 1), dim3(64), arguments, 0, nullptr);
    CHECK_THAT(refused == cudaErrorCooperativeLaunchTooLarge);
    std::printf("%s\n", cudaGetErrorName(cudaGetLastError()));
    CHECK(cudaFree(from));
    CHECK(cudaFree(to));
    CHECK(cudaFree(counter));
    return check_result("cooperative");
}
