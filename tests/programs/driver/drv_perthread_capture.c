// The forms of stream capture, launches of graphs and operations on words that mean the thread's own default
// stream where no stream is given. On the legacy stream none of them would do: it is not captured.
//
// shows: cuStreamBeginCapture_ptsz, cuStreamBeginCapture_v2_ptsz, cuStreamBeginCaptureToGraph_ptsz,
// cuStreamEndCapture_ptsz, cuStreamGetCaptureInfo_v2_ptsz, cuStreamUpdateCaptureDependencies_ptsz,
// cuStreamUpdateCaptureDependencies_v2_ptsz, cuGraphInstantiateWithParams_ptsz, cuGraphLaunch_ptsz,
// cuGraphUpload_ptsz, cuStreamWaitValue32_ptsz, cuStreamWaitValue32_v2_ptsz, cuStreamWaitValue64_ptsz,
// cuStreamWaitValue64_v2_ptsz, cuStreamWriteValue32_ptsz, cuStreamWriteValue32_v2_ptsz,
// cuStreamWriteValue64_ptsz, cuStreamWriteValue64_v2_ptsz, cuStreamBatchMemOp_ptsz, cuStreamBatchMemOp_v2_ptsz
#include "program.h"

#include <unistd.h>

static CUdeviceptr words;

static size_t nodes_of(CUgraph graph) {
    size_t count = 0;
    CHECK(cuGraphGetNodes(graph, NULL, &count));
    return count;
}

static void begin(int form, CUgraph graph) {
    switch (form) {
    case 0: CHECK(cuStreamBeginCapture_ptsz(NULL)); break;
    case 1: CHECK(cuStreamBeginCapture_v2_ptsz(NULL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)); break;
    case 2: CHECK(cuStreamBeginCaptureToGraph_ptsz(NULL, graph, NULL, NULL, 0, CU_STREAM_CAPTURE_MODE_RELAXED)); break;
    }
    int status = 9;
    size_t count = 9;
    CUgraph same = NULL;
    const CUgraphNode *before;
    CHECK(cuStreamGetCaptureInfo_v2_ptsz(NULL, &status, NULL, &same, &before, &count));
    CHECK_THAT(status == CU_STREAM_CAPTURE_STATUS_ACTIVE && count == 0 && (graph == NULL || same == graph));
}

static uint64_t word(int index) {
    uint64_t value;
    CHECK(cuMemcpyDtoH(&value, words + 8 * (unsigned)index, 8));
    return value;
}

int main(void) {
    // Whoever waits for the wrong thing waits for ever.
    alarm(60);
    start();
    CHECK(cuMemAlloc(&words, 128));
    CUgraph graph = NULL, made;
    CHECK(cuGraphCreate(&graph, 0));
    CUstreamBatchMemOpParams batch;
    memset(&batch, 0, sizeof batch);
    batch.word.operation = CU_STREAM_MEM_OP_WRITE_VALUE_64;
    for (int form = 0; form < 3; ++form) {
        CHECK(cuMemsetD8(words, 0, 128));
        begin(form, form == 2 ? graph : NULL);
        CHECK(cuStreamWriteValue32_ptsz(NULL, words, 1, 0));
        CHECK(cuStreamWaitValue32_ptsz(NULL, words, 1, CU_STREAM_WAIT_VALUE_EQ));
        CHECK(cuStreamWriteValue32_v2_ptsz(NULL, words + 8, 2, 0));
        CHECK(cuStreamWaitValue32_v2_ptsz(NULL, words + 8, 2, CU_STREAM_WAIT_VALUE_EQ));
        CHECK(cuStreamWriteValue64_ptsz(NULL, words + 16, 3, 0));
        CHECK(cuStreamWaitValue64_ptsz(NULL, words + 16, 3, CU_STREAM_WAIT_VALUE_EQ));
        CHECK(cuStreamWriteValue64_v2_ptsz(NULL, words + 24, 4, 0));
        CHECK(cuStreamWaitValue64_v2_ptsz(NULL, words + 24, 4, CU_STREAM_WAIT_VALUE_EQ));
        batch.word.address = words + 32;
        batch.word.value = 5;
        CHECK(cuStreamBatchMemOp_ptsz(NULL, 1, &batch, 0));
        batch.word.address = words + 40;
        batch.word.value = 6;
        CHECK(cuStreamBatchMemOp_v2_ptsz(NULL, 1, &batch, 0));
        CUgraphNode none;
        CHECK(cuStreamUpdateCaptureDependencies_ptsz(NULL, &none, 0, CU_STREAM_ADD_CAPTURE_DEPENDENCIES));
        CHECK(cuStreamUpdateCaptureDependencies_v2_ptsz(NULL, &none, NULL, 0, CU_STREAM_ADD_CAPTURE_DEPENDENCIES));
        CHECK(cuStreamEndCapture_ptsz(NULL, &made));
        CHECK_THAT(nodes_of(made) == 10 && (made == graph) == (form == 2));
        // What was captured is not done.
        CHECK_THAT(word(0) == 0 && word(5) == 0);

        CUgraphExec exec;
        CUDA_GRAPH_INSTANTIATE_PARAMS params = {CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD, NULL, NULL, 9};
        CHECK(cuGraphInstantiateWithParams_ptsz(&exec, made, &params));
        CHECK_THAT(params.result == CUDA_GRAPH_INSTANTIATE_SUCCESS);
        CHECK(cuGraphDestroy(made));
        CHECK(cuGraphUpload_ptsz(exec, NULL));
        CHECK(cuGraphLaunch_ptsz(exec, NULL));
        CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
        int wrong = 0;
        for (int i = 0; i < 6; ++i) wrong += word(i) != (uint64_t)i + 1;
        CHECK_THAT(wrong == 0);
        printf("form %d: %d wrong\n", form, wrong);

        // A launch on the thread's own stream while that is captured is a node.
        CHECK(cuMemsetD8(words, 0, 128));
        CHECK(cuStreamBeginCapture_ptsz(NULL));
        CHECK(cuGraphLaunch_ptsz(exec, NULL));
        CHECK(cuStreamEndCapture_ptsz(NULL, &made));
        CHECK_THAT(nodes_of(made) == 1 && word(0) == 0);
        CHECK(cuGraphDestroy(made));
        CHECK(cuGraphExecDestroy(exec));
    }
    CHECK(cuMemFree(words));
    return result("drv_perthread_capture");
}
