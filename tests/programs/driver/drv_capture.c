// Stream capture: what becomes a node, how streams come into a capture, what breaks one, and the graph that
// is left, launched.
//
// shows: cuStreamBeginCapture, cuStreamBeginCapture_v2, cuStreamBeginCaptureToGraph, cuStreamEndCapture,
// cuStreamIsCapturing, cuStreamGetCaptureInfo, cuStreamGetCaptureInfo_v2, cuStreamGetCaptureInfo_v3,
// cuStreamUpdateCaptureDependencies, cuStreamUpdateCaptureDependencies_v2, cuThreadExchangeStreamCaptureMode,
// cuGraphCreate, cuGraphGetNodes, cuGraphInstantiate, cuGraphInstantiate_v2, cuGraphInstantiateWithFlags,
// cuGraphInstantiateWithParams, cuGraphLaunch, cuGraphUpload, cuGraphExecDestroy, cuGraphDestroy,
// cuUserObjectCreate, cuUserObjectRetain, cuUserObjectRelease, cuGraphRetainUserObject, cuGraphReleaseUserObject
#include "hold.h"

EMBED_PTX(kernels, "kernels.ptx");

enum { COUNT = 1024 };

static CUfunction step;
static CUstream one, two, tied;
static CUdeviceptr data;
static unsigned back[COUNT];

static void launch(CUstream stream, CUdeviceptr to, unsigned factor, unsigned term) {
    unsigned n = COUNT;
    void *parameters[] = {&to, &n, &factor, &term};
    CHECK(cuLaunchKernel(step, COUNT / 256, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
}

// How many words are not what they should be.
static int wrong(CUdeviceptr from, unsigned expected) {
    int count = 0;
    CHECK(cuMemcpyDtoH(back, from, sizeof back));
    for (int i = 0; i < COUNT; ++i) count += back[i] != expected;
    return count;
}

static size_t nodes_of(CUgraph graph) {
    size_t count = 0;
    CHECK(cuGraphGetNodes(graph, NULL, &count));
    return count;
}

static int status_of(CUstream stream) {
    int status = 9;
    CHECK(cuStreamIsCapturing(stream, &status));
    return status;
}

// Launches a graph so often and forgets it.
static void run(CUgraph graph, CUstream stream, int times) {
    CUgraphExec exec;
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphDestroy(graph));
    while (times-- > 0) CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuGraphExecDestroy(exec));
}

static void kernels_and_launches(void) {
    CUgraph graph, same = NULL;
    CUgraphExec exec;
    uint64_t id = 0, again = 1;
    const CUgraphNode *before = NULL;
    const CUgraphEdgeData *edges = NULL;
    size_t count = 9;
    int status = 9;
    CHECK(cuMemsetD32(data, 1, COUNT));
    CHECK(cuCtxSynchronize());
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK_THAT(status_of(one) == CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CHECK_THAT(status_of(two) == CU_STREAM_CAPTURE_STATUS_NONE);
    CHECK(cuStreamGetCaptureInfo_v2(one, &status, &id, &same, &before, &count));
    CHECK_THAT(status == CU_STREAM_CAPTURE_STATUS_ACTIVE && id != 0 && same != NULL && count == 0);
    launch(one, data, 2, 0);
    launch(one, data, 1, 3);
    CHECK(cuStreamGetCaptureInfo_v3(one, &status, &again, &same, &before, &edges, &count));
    CHECK_THAT(again == id && count == 1 && before[0] != NULL && edges[0].type == 0);
    CUgraphNode last = before[0], nodes[4];
    again = 0;
    CHECK(cuStreamGetCaptureInfo(one, &status, &again));
    CHECK_THAT(again == id && status == CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CHECK(cuStreamEndCapture(one, &graph));
    CHECK_THAT(graph == same && status_of(one) == CU_STREAM_CAPTURE_STATUS_NONE);
    count = 4;
    CHECK(cuGraphGetNodes(graph, nodes, &count));
    CHECK_THAT(count == 2 && nodes[1] == last && nodes[0] != last && nodes[2] == NULL);
    // Nothing has run yet.
    CHECK_THAT(wrong(data, 1) == 0);
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphUpload(exec, one));
    CHECK(cuGraphLaunch(exec, one));
    CHECK(cuStreamSynchronize(one));
    CHECK_THAT(wrong(data, 5) == 0);
    CHECK(cuGraphDestroy(graph));
    for (int i = 0; i < 3; ++i) CHECK(cuGraphLaunch(exec, two));
    CHECK(cuGraphLaunch(exec, NULL));
    CHECK_THAT(wrong(data, 125) == 0);
    printf("launched five times: %u\n", back[0]);
    CHECK(cuGraphExecDestroy(exec));
    CHECK_THAT(cuGraphLaunch(exec, one) != CUDA_SUCCESS);
    CHECK_THAT(cuGraphInstantiateWithFlags(&exec, graph, 0) != CUDA_SUCCESS);
}

static void every_instantiation(void) {
    CUgraph graph;
    CUgraphExec exec;
    CUgraphNode node = (CUgraphNode)&graph;
    char log[8] = "x";
    CUDA_GRAPH_INSTANTIATE_PARAMS params = {CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD, two, (CUgraphNode)&graph, 9};
    CHECK(cuMemsetD32(data, 0, COUNT));
    CHECK(cuCtxSynchronize());
    CHECK(cuStreamBeginCapture(one));
    launch(one, data, 1, 1);
    CHECK(cuStreamEndCapture(one, &graph));
    CHECK(cuGraphInstantiate(&exec, graph, &node, log, sizeof log));
    CHECK(cuGraphLaunch(exec, one));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphInstantiate_v2(&exec, graph, &node, log, sizeof log));
    CHECK_THAT(node == NULL && log[0] == 0);
    CHECK(cuGraphLaunch(exec, one));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphInstantiateWithParams(&exec, graph, &params));
    CHECK_THAT(params.result == CUDA_GRAPH_INSTANTIATE_SUCCESS && params.node == NULL);
    CHECK(cuGraphLaunch(exec, one));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuStreamSynchronize(one));
    CHECK_THAT(wrong(data, 3) == 0);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiateWithFlags(&exec, graph, 1 << 20));
    CHECK(cuGraphDestroy(graph));
}

// A capture spreads by events and comes back by events.
static void fork_and_join(void) {
    CUgraph graph;
    CUevent fork, join;
    CUdeviceptr other;
    CHECK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
    CHECK(cuMemAlloc(&other, sizeof back));
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuMemsetD32Async(data, 2, COUNT, one));
    CHECK(cuMemcpyDtoDAsync(other, data, sizeof back, one));
    CHECK(cuEventRecord(fork, one));
    CHECK(cuStreamWaitEvent(two, fork, 0));
    CHECK_THAT(status_of(two) == CU_STREAM_CAPTURE_STATUS_ACTIVE);
    launch(two, other, 5, 0);
    launch(one, data, 3, 0);
    CHECK(cuEventRecord(join, two));
    CHECK(cuStreamWaitEvent(one, join, 0));
    launch(one, other, 1, 1);
    CHECK(cuStreamEndCapture(one, &graph));
    CHECK_THAT(status_of(two) == CU_STREAM_CAPTURE_STATUS_NONE && nodes_of(graph) == 5);
    run(graph, two, 2);
    CHECK_THAT(wrong(data, 6) == 0);
    CHECK_THAT(wrong(other, 11) == 0);
    printf("forked and joined: %u\n", back[0]);
    // The events are the capture's until they are recorded again.
    CHECK_ERROR(CUDA_ERROR_CAPTURED_EVENT, cuEventQuery(fork));
    CHECK(cuEventRecord(fork, one));
    CHECK(cuEventSynchronize(fork));
    CHECK(cuEventDestroy(fork));
    CHECK(cuEventDestroy(join));
    CHECK(cuMemFree(other));
}

// What is copied from pinned memory is what lies there when the graph runs.
static void copies(void) {
    unsigned *pinned;
    CUgraph graph;
    CUgraphExec exec;
    CHECK(cuMemAllocHost((void **)&pinned, 2 * sizeof back));
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuMemcpyHtoDAsync(data, pinned, sizeof back, one));
    launch(one, data, 2, 1);
    CHECK(cuMemcpyDtoHAsync(pinned + COUNT, data, sizeof back, one));
    CHECK(cuStreamEndCapture(one, &graph));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphDestroy(graph));
    int count = 0;
    for (unsigned round = 1; round <= 3; ++round) {
        for (int i = 0; i < COUNT; ++i) pinned[i] = round * (unsigned)i;
        CHECK(cuGraphLaunch(exec, one));
        CHECK(cuStreamSynchronize(one));
        for (int i = 0; i < COUNT; ++i) count += pinned[COUNT + i] != 2 * round * (unsigned)i + 1;
    }
    CHECK_THAT(count == 0);
    printf("copied through pinned memory: %d wrong\n", count);
    CHECK(cuGraphExecDestroy(exec));

    // And so it is with memory that CUDA does not know.
    static unsigned plain[2 * COUNT], third[COUNT];
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuMemcpyHtoDAsync(data, plain, sizeof back, one));
    launch(one, data, 5, 0);
    CHECK(cuMemcpyDtoHAsync(plain + COUNT, data, sizeof back, one));
    CHECK(cuMemcpyAsync((CUdeviceptr)(uintptr_t)third, (CUdeviceptr)(uintptr_t)(plain + COUNT), sizeof back, one));
    CHECK(cuStreamEndCapture(one, &graph));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphDestroy(graph));
    for (unsigned round = 1; round <= 3; ++round) {
        for (int i = 0; i < COUNT; ++i) plain[i] = round + (unsigned)i;
        CHECK(cuGraphLaunch(exec, one));
        CHECK(cuStreamSynchronize(one));
        for (int i = 0; i < COUNT; ++i) count += third[i] != 5 * (round + (unsigned)i);
    }
    CHECK_THAT(count == 0);
    printf("copied from and to the program's own memory: %d wrong\n", count);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuMemFreeHost(pinned));
}

// A capture adds to a graph that is there, and its dependencies can be changed under way.
static void dependencies(void) {
    CUgraph graph, same;
    CUgraphNode nodes[4], first;
    const CUgraphNode *before;
    size_t count = 4;
    int status;
    CHECK(cuGraphCreate(&graph, 0));
    CHECK_THAT(nodes_of(graph) == 0);
    CHECK(cuStreamBeginCaptureToGraph(one, graph, NULL, NULL, 0, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(cuMemsetD32Async(data, 7, COUNT, one));
    CHECK(cuStreamEndCapture(one, &same));
    CHECK_THAT(same == graph);
    CHECK(cuGraphGetNodes(graph, nodes, &count));
    CHECK_THAT(count == 1);
    first = nodes[0];
    CHECK(cuStreamBeginCaptureToGraph(one, graph, &first, NULL, 1, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(cuStreamGetCaptureInfo_v2(one, &status, NULL, &same, &before, &count));
    CHECK_THAT(count == 1 && before[0] == first && same == graph);
    launch(one, data, 2, 0);
    CHECK(cuStreamUpdateCaptureDependencies(one, &first, 1, CU_STREAM_ADD_CAPTURE_DEPENDENCIES));
    CHECK(cuStreamGetCaptureInfo_v2(one, &status, NULL, NULL, &before, &count));
    CHECK_THAT(count == 2);
    CUgraphNode second = before[0] == first ? before[1] : before[0];
    CHECK(cuStreamUpdateCaptureDependencies_v2(one, &second, NULL, 1, CU_STREAM_SET_CAPTURE_DEPENDENCIES));
    CHECK(cuStreamGetCaptureInfo_v2(one, &status, NULL, NULL, &before, &count));
    CHECK_THAT(count == 1 && before[0] == second);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamUpdateCaptureDependencies(one, &first, 1, 2));
    launch(one, data, 1, 1);
    CHECK(cuStreamEndCapture(one, &same));
    CHECK_THAT(nodes_of(graph) == 3);
    CHECK_ERROR(CUDA_ERROR_ILLEGAL_STATE, cuStreamUpdateCaptureDependencies(one, &first, 1, 0));
    run(graph, one, 1);
    CHECK_THAT(wrong(data, 15) == 0);
    printf("captured to a graph: %u\n", back[0]);
}

static CUgraph ended;

// The capture is broken: all that is left is to end it.
static void broken(CUstream stream) {
    CHECK_THAT(status_of(stream) == CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuMemsetD32Async(data, 0, 1, stream));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream, &ended));
    CHECK_THAT(ended == NULL && status_of(stream) == CU_STREAM_CAPTURE_STATUS_NONE);
    CHECK(cuStreamSynchronize(stream));
}

static void *end_elsewhere(void *context) {
    CHECK(cuCtxSetCurrent(context));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, cuStreamEndCapture(one, &ended));
    return NULL;
}

static void elsewhere(void *(*work)(void *), void *argument) {
    pthread_t thread;
    CHECK_THAT(pthread_create(&thread, NULL, work, argument) == 0);
    CHECK_THAT(pthread_join(thread, NULL) == 0);
}

static void mistakes(CUcontext context) {
    CUevent event, done;
    CUdeviceptr made;
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventCreate(&done, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventRecord(done, two));

    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamBeginCapture_v2(NULL, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamBeginCapture_v2(one, 3));
    CHECK_ERROR(CUDA_ERROR_ILLEGAL_STATE, cuStreamEndCapture(one, &ended));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamEndCapture(one, NULL));

    // Twice, from another thread, and on a stream that only came into it.
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    CHECK_ERROR(CUDA_ERROR_ILLEGAL_STATE, cuStreamBeginCapture_v2(one, 0));
    elsewhere(end_elsewhere, context);
    CHECK(cuEventRecord(event, one));
    CHECK(cuStreamWaitEvent(two, event, 0));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, cuStreamEndCapture(two, &ended));
    broken(one);

    // A fork that does not come back.
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuEventRecord(event, one));
    CHECK(cuStreamWaitEvent(two, event, 0));
    launch(two, data, 1, 1);
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, cuStreamEndCapture(one, &ended));
    CHECK_THAT(status_of(one) == CU_STREAM_CAPTURE_STATUS_NONE && status_of(two) == CU_STREAM_CAPTURE_STATUS_NONE);

    // Waiting for what is only captured, or asking how far it is.
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(one));
    broken(one);
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamQuery(one));
    broken(one);
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuCtxSynchronize());
    broken(one);
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(cuEventRecord(event, one));
    CHECK_ERROR(CUDA_ERROR_CAPTURED_EVENT, cuEventQuery(event));
    CHECK_ERROR(CUDA_ERROR_CAPTURED_EVENT, cuEventSynchronize(event));

    // Two captures that would become one.
    CHECK(cuStreamBeginCapture_v2(two, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_MERGE, cuStreamWaitEvent(two, event, 0));
    broken(one);
    broken(two);

    // An event of before.
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, cuStreamWaitEvent(one, done, 0));
    broken(one);

    // The legacy stream waits for blocking streams, and there is nothing to wait for.
    CHECK(cuStreamBeginCapture_v2(tied, CU_STREAM_CAPTURE_MODE_RELAXED));
    int status;
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuStreamIsCapturing(NULL, &status));
    CHECK_THAT(status_of(tied) == CU_STREAM_CAPTURE_STATUS_ACTIVE);
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuMemsetD32Async(data, 0, 1, NULL));
    broken(tied);
    CHECK(cuStreamBeginCapture_v2(tied, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuMemcpyDtoH(back, data, 4));
    broken(tied);
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(cuMemsetD32(data, 0, 1));
    CHECK(cuStreamEndCapture(one, &ended));
    CHECK(cuGraphDestroy(ended));

    // What may wait unseen is refused by mode.
    CHECK(cuMemAlloc(&made, 4));
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemFree(made));
    broken(one);
    CHECK(cuMemFree(made));
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemAlloc(&made, 4));
    broken(one);
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuEventQuery(done));
    broken(one);
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(cuMemAlloc(&made, 4));
    CHECK(cuMemFree(made));
    CHECK(cuStreamEndCapture(one, &ended));
    CHECK(cuGraphDestroy(ended));

    CHECK(cuEventDestroy(event));
    CHECK(cuEventDestroy(done));
}

static void *allocate(void *mode) {
    CUcontext context;
    CUdeviceptr made = 0;
    int before = *(int *)mode;
    CHECK(cuDevicePrimaryCtxRetain(&context, 0));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuThreadExchangeStreamCaptureMode(&before));
    CHECK_THAT(before == CU_STREAM_CAPTURE_MODE_GLOBAL);
    before = *(int *)mode;
    CHECK(cuThreadExchangeStreamCaptureMode(&before));
    CHECK_THAT(before == *(int *)mode);
    const CUresult status = cuMemAlloc(&made, 4);
    printf("allocation in mode %d: %s\n", *(int *)mode, error_name(status));
    if (status == CUDA_SUCCESS) CHECK(cuMemFree(made));
    CHECK(cuDevicePrimaryCtxRelease(0));
    return NULL;
}

// A capture in this thread, an allocation in another.
static void modes(void) {
    int thread_modes[] = {CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, CU_STREAM_CAPTURE_MODE_RELAXED};
    for (int mode = 0; mode < 3; ++mode) {
        for (int i = 0; i < 3; ++i) {
            CHECK(cuStreamBeginCapture_v2(one, mode));
            elsewhere(allocate, &thread_modes[i]);
            printf("capture in mode %d: status %d\n", mode, status_of(one));
            if (cuStreamEndCapture(one, &ended) == CUDA_SUCCESS) CHECK(cuGraphDestroy(ended));
        }
    }
    int mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    CUdeviceptr made;
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CHECK(cuThreadExchangeStreamCaptureMode(&mode));
    CHECK(cuMemAlloc(&made, 4));
    CHECK(cuThreadExchangeStreamCaptureMode(&mode));
    CHECK_THAT(mode == CU_STREAM_CAPTURE_MODE_RELAXED);
    CHECK(cuStreamEndCapture(one, &ended));
    CHECK(cuGraphDestroy(ended));
    CHECK(cuMemFree(made));
    mode = 3;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuThreadExchangeStreamCaptureMode(&mode));
}

static atomic_int called;

static void count_call(void *by) { atomic_fetch_add(&called, *(int *)by); }

static void wait_for_calls(int expected) {
    for (int tries = 0; tries < 10000 && called != expected; ++tries) usleep(1000);
    CHECK_THAT(called == expected);
}

static void never(CUstream stream, CUresult status, void *nothing) {
    (void)stream, (void)status, (void)nothing;
    CHECK_THAT(false);
}

// A host function of a graph runs with each launch, also of the thread's own stream.
static void host_functions(void) {
    static int by = 3, more = 100;
    CUgraph graph;
    CHECK(cuStreamBeginCapture_v2(CU_STREAM_PER_THREAD, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    CHECK(cuLaunchHostFunc(CU_STREAM_PER_THREAD, count_call, &by));
    CHECK(cuStreamEndCapture(CU_STREAM_PER_THREAD, &graph));
    CHECK_THAT(called == 0);
    run(graph, one, 4);
    CHECK_THAT(called == 12);
    CHECK(cuLaunchHostFunc(one, count_call, &more));
    CHECK(cuStreamSynchronize(one));
    CHECK_THAT(called == 112);
    CHECK(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamAddCallback(one, never, NULL, 0));
    broken(one);
    printf("host functions: %d\n", called);
    called = 0;
}

// An object ends with the last reference, be it the program's, a graph's or an executable graph's.
static void user_objects(void) {
    static int by = 1;
    CUuserObject object;
    CUgraph graph;
    CUgraphExec exec;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuUserObjectCreate(&object, &by, count_call, 1, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuUserObjectCreate(&object, &by, count_call, 0, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    CHECK(cuUserObjectCreate(&object, &by, count_call, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    CHECK(cuUserObjectRetain(object, 2));
    CHECK(cuUserObjectRelease(object, 2));
    CHECK_THAT(called == 0);
    CHECK(cuUserObjectRelease(object, 1));
    wait_for_calls(1);

    CHECK(cuUserObjectCreate(&object, &by, count_call, 3, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE));
    CHECK(cuGraphRetainUserObject(graph, object, 1, 0));
    CHECK(cuGraphReleaseUserObject(graph, object, 1));
    CHECK(cuUserObjectRelease(object, 2));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphDestroy(graph));
    usleep(20000);
    CHECK_THAT(called == 1);
    CHECK(cuGraphLaunch(exec, one));
    CHECK(cuStreamSynchronize(one));
    CHECK(cuGraphExecDestroy(exec));
    wait_for_calls(2);
    printf("user objects ended: %d\n", called);
}

int main(void) {
    // Whoever waits for the wrong thing waits for ever.
    alarm(100);
    const CUcontext context = start();
    CUmodule module;
    CHECK(cuModuleLoadData(&module, kernels));
    step = function_of(module, "step");
    CHECK(cuStreamCreate(&one, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&two, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&tied, CU_STREAM_DEFAULT));
    CHECK(cuMemAlloc(&data, sizeof back));
    kernels_and_launches();
    every_instantiation();
    fork_and_join();
    copies();
    dependencies();
    mistakes(context);
    modes();
    host_functions();
    user_objects();
    CHECK(cuMemFree(data));
    return result("drv_capture");
}
