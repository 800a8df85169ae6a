// Streams, events and host functions: order, queries, and what they say about themselves.
#include "program.h"

#include <stdatomic.h>
#include <unistd.h>

EMBED_PTX(kernels, "kernels.ptx");

static CUfunction step;

static void launch(CUstream stream, CUdeviceptr data, unsigned n, unsigned factor, unsigned term) {
    void *parameters[] = {&data, &n, &factor, &term};
    CHECK(cuLaunchKernel(step, (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
}

static void properties(CUcontext context) {
    CUstream plain, loose, urgent;
    int least, greatest, priority = 1, capturing = 1;
    unsigned flags = 9;
    CUcontext owner = NULL;
    unsigned long long first = 0, second = 0;
    CHECK(cuCtxGetStreamPriorityRange(&least, &greatest));
    CHECK(cuStreamCreate(&plain, CU_STREAM_DEFAULT));
    CHECK(cuStreamCreate(&loose, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreateWithPriority(&urgent, CU_STREAM_NON_BLOCKING, greatest));
    CHECK(cuStreamGetFlags(plain, &flags));
    CHECK_THAT(flags == CU_STREAM_DEFAULT);
    CHECK(cuStreamGetFlags(loose, &flags));
    CHECK_THAT(flags == CU_STREAM_NON_BLOCKING);
    CHECK(cuStreamGetPriority(urgent, &priority));
    CHECK_THAT(priority == greatest);
    CHECK(cuStreamGetId(plain, &first));
    CHECK(cuStreamGetId(loose, &second));
    CHECK_THAT(first != second);
    CHECK(cuStreamGetCtx(loose, &owner));
    CHECK_THAT(owner == context);
    CHECK(cuStreamIsCapturing(loose, &capturing));
    CHECK_THAT(capturing == 0);
    CHECK(cuStreamQuery(plain));
    CHECK(cuStreamQuery(NULL));
    CHECK(cuStreamSynchronize(CU_STREAM_LEGACY));
    CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamCreate(&plain, 64));
    CHECK(cuStreamDestroy(loose));
    CHECK(cuStreamDestroy(urgent));
}

static void order(void) {
    enum { COUNT = 4096 };
    static unsigned back[COUNT];
    CUstream one, two;
    CUevent begin, middle, end;
    CUdeviceptr data;
    CHECK(cuStreamCreate(&one, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&two, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&begin, CU_EVENT_DEFAULT));
    CHECK(cuEventCreate(&middle, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventCreate(&end, CU_EVENT_DEFAULT));
    CHECK(cuMemAlloc(&data, sizeof back));

    // An event that was never recorded is complete, and nobody waits for it.
    CHECK(cuEventQuery(middle));
    CHECK(cuEventSynchronize(middle));
    CHECK(cuStreamWaitEvent(one, middle, 0));

    CHECK(cuEventRecord(begin, one));
    CHECK(cuMemsetD32Async(data, 1, COUNT, one));
    for (unsigned i = 0; i < 10; ++i) launch(one, data, COUNT, 2, 1);
    CHECK(cuEventRecord(middle, one));
    CHECK(cuStreamWaitEvent(two, middle, 0));
    for (unsigned i = 0; i < 3; ++i) launch(two, data, COUNT, 10, 0);
    CHECK(cuEventRecordWithFlags(end, two, 0));
    CHECK(cuEventSynchronize(end));
    CHECK(cuEventQuery(begin));
    CHECK(cuMemcpyDtoH(back, data, sizeof back));
    int wrong = 0;
    for (int i = 0; i < COUNT; ++i) wrong += back[i] != 2047000;
    CHECK_THAT(wrong == 0);
    printf("two streams: %d wrong\n", wrong);

    float milliseconds = -1;
    CHECK(cuEventElapsedTime(&milliseconds, begin, end));
    CHECK_THAT(milliseconds > 0);
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&milliseconds, begin, middle));

    CHECK(cuMemFree(data));
    CHECK(cuEventDestroy(begin));
    CHECK(cuEventDestroy(middle));
    CHECK(cuEventDestroy(end));
    CHECK(cuStreamDestroy(one));
    CHECK(cuStreamDestroy(two));
}

// A kernel that only ends when the host speaks: queries say "not ready" for certain.
static void conversation(CUmodule module) {
    _Atomic unsigned *mailbox;
    CUdeviceptr device;
    CUstream stream;
    CUevent done;
    CHECK(cuMemHostAlloc((void **)&mailbox, 4096, CU_MEMHOSTALLOC_DEVICEMAP));
    CHECK(cuMemHostGetDevicePointer(&device, (void *)mailbox, 0));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&done, CU_EVENT_DEFAULT));
    for (int i = 0; i < 3; ++i) mailbox[i] = 0;
    void *parameters[] = {&device};
    CHECK(cuLaunchKernel(function_of(module, "converse"), 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
    CHECK(cuEventRecord(done, stream));
    for (int tries = 0; tries < 60000 && mailbox[0] == 0; ++tries) usleep(1000);
    CHECK_THAT(mailbox[0] == 1);
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuEventQuery(done));
    float milliseconds;
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuEventElapsedTime(&milliseconds, done, done));
    mailbox[1] = 2100;
    CHECK(cuStreamSynchronize(stream));
    CHECK_THAT(mailbox[2] == 4200);
    CHECK(cuEventQuery(done));
    printf("answer %u\n", mailbox[2]);
    CHECK(cuEventDestroy(done));
    CHECK(cuStreamDestroy(stream));
    CHECK(cuMemFreeHost((void *)mailbox));
}

static unsigned calls[16];
static atomic_int called;

static void note(void *data) { calls[atomic_fetch_add(&called, 1)] = *(unsigned *)data; }

static void note_status(CUstream stream, CUresult status, void *data) {
    calls[atomic_fetch_add(&called, 1)] = stream != NULL && status == CUDA_SUCCESS ? *(unsigned *)data : 0;
}

static void host_functions(void) {
    CUstream stream;
    CUdeviceptr device;
    unsigned *host;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemAlloc(&device, 4));
    CHECK(cuMemAllocHost((void **)&host, 4));
    CHECK(cuMemsetD32Async(device, 0, 1, stream));
    for (unsigned round = 0; round < 16; ++round) {
        launch(stream, device, 1, 1, 3);
        CHECK(cuMemcpyDtoHAsync(host, device, 4, stream));
        if (round % 2 == 0) {
            CHECK(cuLaunchHostFunc(stream, note, host));
        } else {
            CHECK(cuStreamAddCallback(stream, note_status, host, 0));
        }
    }
    CHECK(cuStreamSynchronize(stream));
    CHECK_THAT(called == 16);
    int wrong = 0;
    for (unsigned round = 0; round < 16; ++round) wrong += calls[round] != 3 * (round + 1);
    CHECK_THAT(wrong == 0);
    printf("%d host calls, %d out of order\n", called, wrong);
    CHECK(cuMemFree(device));
    CHECK(cuMemFreeHost(host));
    CHECK(cuStreamDestroy(stream));
}

int main(void) {
    const CUcontext context = start();
    CUmodule module;
    CHECK(cuModuleLoadData(&module, kernels));
    step = function_of(module, "step");
    properties(context);
    order();
    conversation(module);
    host_functions();
    return result("drv_streams");
}
