// Host functions and stream callbacks run in stream order, between the work around them.
#include "check.h"
#include <atomic>
#include <vector>

__global__ void add(int *value, int term) { *value += term; }

struct Step {
    std::vector<int> *seen;
    const int *value;
    int expected;
};

static void CUDART_CB record(void *data) {
    Step *step = static_cast<Step *>(data);
    step->seen->push_back(*step->value);
}

static void CUDART_CB record_status(cudaStream_t, cudaError_t status, void *data) {
    Step *step = static_cast<Step *>(data);
    step->seen->push_back(status == cudaSuccess ? *step->value : -1);
}

int main() {
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    int *device, *host;
    CHECK(cudaMalloc(&device, sizeof(int)));
    CHECK(cudaMallocHost(&host, sizeof(int)));
    CHECK(cudaMemsetAsync(device, 0, sizeof(int), stream));

    const int rounds = 20;
    std::vector<int> seen;
    std::vector<Step> steps(rounds);
    for (int round = 0; round < rounds; ++round) {
        steps[round] = {&seen, host, (round + 1) * 5};
        add<<<1, 1, 0, stream>>>(device, 5);
        CHECK(cudaMemcpyAsync(host, device, sizeof(int), cudaMemcpyDeviceToHost, stream));
        if (round % 2 == 0) {
            CHECK(cudaLaunchHostFunc(stream, record, &steps[round]));
        } else {
            CHECK(cudaStreamAddCallback(stream, record_status, &steps[round], 0));
        }
    }
    CHECK(cudaStreamSynchronize(stream));
    CHECK_THAT(static_cast<int>(seen.size()) == rounds);
    int wrong = 0;
    for (size_t at = 0; at < seen.size(); ++at) wrong += seen[at] != steps[at].expected;
    CHECK_THAT(wrong == 0);
    std::printf("%zu calls in order, %d wrong\n", seen.size(), wrong);

    CHECK(cudaFree(device));
    CHECK(cudaFreeHost(host));
    CHECK(cudaStreamDestroy(stream));
    return check_result("hostFunctions");
}
