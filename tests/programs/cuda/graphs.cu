// Graphs through the runtime: captured and made node by node, launched, updated, cloned.
#include "check.h"

#include <atomic>

__global__ void scale(int *data, int n, int factor, int term) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * factor + term;
}

__global__ void add(int *to, const int *a, const int *b, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = a[i] + b[i];
}

static constexpr int N = 4096;
static std::atomic<int> calls{0};

static void CUDART_CB called(void *by) { calls += *static_cast<int *>(by); }

static int wrong(const int *host, int (*expected)(int)) {
    int count = 0;
    for (int i = 0; i < N; ++i) count += host[i] != expected(i);
    return count;
}

// What PyTorch does: warm up, capture in a side stream with forks, launch again and again.
static void captured() {
    int *a, *b, *c, *host;
    cudaStream_t stream, side;
    cudaEvent_t fork, join;
    CHECK(cudaMalloc(&a, N * sizeof(int)));
    CHECK(cudaMalloc(&b, N * sizeof(int)));
    CHECK(cudaMalloc(&c, N * sizeof(int)));
    CHECK(cudaMallocHost(&host, N * sizeof(int)));
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
    CHECK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    CHECK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    CHECK(cudaMemcpyAsync(a, host, N * sizeof(int), cudaMemcpyHostToDevice, stream));
    CHECK(cudaEventRecord(fork, stream));
    CHECK(cudaStreamWaitEvent(side, fork, 0));
    scale<<<N / 256, 256, 0, stream>>>(a, N, 2, 0);
    CHECK(cudaMemsetAsync(b, 0, N * sizeof(int), side));
    scale<<<N / 256, 256, 0, side>>>(b, N, 1, 7);
    CHECK(cudaEventRecord(join, side));
    CHECK(cudaStreamWaitEvent(stream, join, 0));
    add<<<N / 256, 256, 0, stream>>>(c, a, b, N);
    CHECK(cudaMemcpyAsync(host, c, N * sizeof(int), cudaMemcpyDeviceToHost, stream));
    cudaStreamCaptureStatus status;
    CHECK(cudaStreamIsCapturing(side, &status));
    CHECK_THAT(status == cudaStreamCaptureStatusActive);
    cudaGraph_t graph;
    CHECK(cudaStreamEndCapture(stream, &graph));
    size_t nodes = 0;
    CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cudaGraphDestroy(graph));
    for (int i = 0; i < N; ++i) host[i] = i;
    for (int round = 0; round < 3; ++round) CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    std::printf("captured %zu nodes, %d wrong\n", nodes, wrong(host, [](int i) { return 8 * i + 49; }));
    CHECK_THAT(wrong(host, [](int i) { return 8 * i + 49; }) == 0);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaFree(a));
    CHECK(cudaFree(b));
    CHECK(cudaFree(c));
    CHECK(cudaFreeHost(host));
    CHECK(cudaEventDestroy(fork));
    CHECK(cudaEventDestroy(join));
    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaStreamDestroy(side));
}

static void by_nodes() {
    int *data, n = N, factor = 3, term = 1, by = 5;
    static int host[N];
    CHECK(cudaMalloc(&data, N * sizeof(int)));
    cudaGraph_t graph, clone;
    CHECK(cudaGraphCreate(&graph, 0));
    cudaMemsetParams fill = {};
    fill.dst = data, fill.value = 2, fill.elementSize = 4, fill.width = N, fill.height = 1;
    cudaGraphNode_t set, run, host_node, found;
    CHECK(cudaGraphAddMemsetNode(&set, graph, nullptr, 0, &fill));
    void *arguments[] = {&data, &n, &factor, &term};
    cudaKernelNodeParams kernel = {};
    kernel.func = reinterpret_cast<void *>(scale);
    kernel.gridDim = dim3(N / 256), kernel.blockDim = dim3(256), kernel.kernelParams = arguments;
    CHECK(cudaGraphAddKernelNode(&run, graph, &set, 1, &kernel));
    cudaHostNodeParams function = {};
    function.fn = called, function.userData = &by;
    CHECK(cudaGraphAddHostNode(&host_node, graph, &run, 1, &function));
    CHECK(cudaGraphClone(&clone, graph));
    CHECK(cudaGraphNodeFindInClone(&found, run, clone));
    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiateWithFlags(&exec, clone, 0));
    CHECK(cudaGraphLaunch(exec, 0));
    CHECK(cudaMemcpy(host, data, sizeof host, cudaMemcpyDeviceToHost));
    CHECK_THAT(wrong(host, [](int) { return 7; }) == 0 && calls == 5);
    factor = 10;
    CHECK(cudaGraphExecKernelNodeSetParams(exec, found, &kernel));
    CHECK(cudaGraphLaunch(exec, 0));
    CHECK(cudaMemcpy(host, data, sizeof host, cudaMemcpyDeviceToHost));
    CHECK_THAT(wrong(host, [](int) { return 21; }) == 0 && calls == 10);
    fill.value = 4;
    CHECK(cudaGraphMemsetNodeSetParams(set, &fill));
#if CUDART_VERSION >= 12000
    cudaGraphExecUpdateResultInfo info;
    CHECK(cudaGraphExecUpdate(exec, graph, &info));
#endif
    CHECK(cudaGraphLaunch(exec, 0));
    CHECK(cudaMemcpy(host, data, sizeof host, cudaMemcpyDeviceToHost));
    std::printf("by nodes: %d wrong, %d calls\n", wrong(host, [](int) { return 13; }), calls.load());
    CHECK_THAT(wrong(host, [](int) { return 13; }) == 0 && calls == 15);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(clone));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaFree(data));
}

static void mistakes() {
    int *data;
    cudaStream_t stream;
    cudaGraph_t graph;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    CHECK_ERROR(cudaMalloc(&data, 64), cudaErrorStreamCaptureUnsupported);
    CHECK_ERROR(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    (void)cudaGetLastError();
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    CHECK_ERROR(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
    CHECK_ERROR(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    (void)cudaGetLastError();
    CHECK(cudaStreamDestroy(stream));
}

int main() {
    captured();
    by_nodes();
    mistakes();
    return check_result("graphs");
}
