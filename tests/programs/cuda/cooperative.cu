// Cooperative groups over the whole grid: blocks exchange data through global memory, step by step.
#include "check.h"
#include <cooperative_groups.h>
#include <vector>

namespace cg = cooperative_groups;

// Each step replaces a value by the sum of its neighbours', which other blocks have written.
__global__ void relax(unsigned *from, unsigned *to, int n, int steps) {
    cg::grid_group grid = cg::this_grid();
    for (int step = 0; step < steps; ++step) {
        for (unsigned long long i = grid.thread_rank(); i < n; i += grid.size()) {
            to[i] = from[(i + n - 1) % n] + from[(i + 1) % n];
        }
        grid.sync();
        unsigned *other = from;
        from = to;
        to = other;
    }
}

int main() {
    const int n = 1000, steps = 9;
    std::vector<unsigned> values(n), next(n);
    for (int i = 0; i < n; ++i) values[i] = i * 7 % 13;
    unsigned *from, *to;
    CHECK(cudaMalloc(&from, n * sizeof(unsigned)));
    CHECK(cudaMalloc(&to, n * sizeof(unsigned)));
    CHECK(cudaMemcpy(from, values.data(), n * sizeof(unsigned), cudaMemcpyHostToDevice));
    int resident = 0, processors = 0, size = n, count = steps;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, relax, 64, 0));
    CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
    void *arguments[] = {&from, &to, &size, &count};
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
    return check_result("cooperative");
}
