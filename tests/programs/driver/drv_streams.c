// Streams, events and host functions: order, queries, and what they say about themselves.
//
// shows: cuStreamCreate, cuStreamCreateWithPriority, cuStreamDestroy_v2, cuStreamSynchronize, cuStreamQuery,
// cuStreamWaitEvent, cuStreamGetFlags, cuStreamGetPriority, cuStreamGetId, cuStreamGetCtx, cuStreamGetCtx_v2,
// cuStreamGetDevice, cuStreamIsCapturing, cuStreamGetCaptureInfo, cuStreamGetCaptureInfo_v3, cuStreamAddCallback,
// cuLaunchHostFunc, cuLaunchHostFunc_v2, cuEventCreate, cuEventDestroy_v2, cuEventRecord, cuEventRecordWithFlags,
// cuEventQuery, cuEventSynchronize, cuEventElapsedTime, cuCtxSynchronize, cuCtxGetStreamPriorityRange, cuLaunchKernel
#include "hold.h"

#include <time.h>

EMBED_PTX(kernels, "kernels.ptx");

static CUfunction step;
static Hold hold;

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
    CHECK_THAT(priority == greatest && greatest <= least);
    // A priority outside the range is the nearest one inside.
    CUstream beyond;
    CHECK(cuStreamCreateWithPriority(&beyond, CU_STREAM_NON_BLOCKING, greatest - 100));
    CHECK(cuStreamGetPriority(beyond, &priority));
    CHECK_THAT(priority == greatest);
    CHECK(cuStreamDestroy(beyond));
    CHECK(cuStreamGetId(plain, &first));
    CHECK(cuStreamGetId(loose, &second));
    CHECK_THAT(first != second);
    CHECK(cuStreamGetCtx(loose, &owner));
    CHECK_THAT(owner == context);
    CUdevice device = 9;
    void *green = &device;
    owner = NULL;
    CHECK(cuStreamGetCtx_v2(loose, &owner, &green));
    CHECK_THAT(owner == context && green == NULL);
    CHECK(cuStreamGetDevice(loose, &device));
    CHECK_THAT(device == 0);
    CHECK(cuStreamIsCapturing(loose, &capturing));
    CHECK_THAT(capturing == CU_STREAM_CAPTURE_STATUS_NONE);
    capturing = 9;
    CHECK(cuStreamGetCaptureInfo(loose, &capturing, NULL));
    CHECK_THAT(capturing == CU_STREAM_CAPTURE_STATUS_NONE);
    capturing = 9;
    CHECK(cuStreamGetCaptureInfo_v3(loose, &capturing, NULL, NULL, NULL, NULL, NULL));
    CHECK_THAT(capturing == CU_STREAM_CAPTURE_STATUS_NONE);
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

static unsigned word_of(CUdeviceptr word, unsigned *pinned, CUstream side) {
    CHECK(cuMemcpyDtoHAsync(pinned, word, 4, side));
    CHECK(cuStreamSynchronize(side));
    return *pinned;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

// What waits for work that is held, and what does not wait.
static void waits(void) {
    CUstream held, other, side;
    CUevent begin, end;
    CUdeviceptr word;
    unsigned *pinned;
    CHECK(cuStreamCreate(&held, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&side, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&begin, CU_EVENT_DEFAULT));
    CHECK(cuEventCreate(&end, CU_EVENT_DEFAULT));
    CHECK(cuMemAlloc(&word, 4));
    CHECK(cuMemAllocHost((void **)&pinned, 4));

    // A context waits for all its streams.
    take_hold(&hold, held);
    let_go_later(&hold);
    CHECK(cuCtxSynchronize());
    CHECK_THAT(has_ended(&hold));
    CHECK(cuStreamQuery(held));
    joined(&hold);

    // An event is waited for, and the time between two is the time that the work between them took.
    const double start = seconds();
    CHECK(cuEventRecord(begin, held));
    take_hold(&hold, held);
    CHECK(cuEventRecord(end, held));
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuEventQuery(end));
    let_go_later(&hold);
    CHECK(cuEventSynchronize(end));
    CHECK_THAT(has_ended(&hold));
    const double wall = seconds() - start;
    joined(&hold);
    float milliseconds = 0;
    CHECK(cuEventElapsedTime(&milliseconds, begin, end));
    CHECK_THAT(milliseconds >= 29 && milliseconds <= 1000 * wall + 1);

    // A stream waits for an event of another one, also for one that is destroyed meanwhile.
    CHECK(cuMemsetD32Async(word, 1, 1, side));
    take_hold(&hold, held);
    CHECK(cuEventRecordWithFlags(end, held, 0));
    CHECK(cuStreamWaitEvent(other, end, 0));
    CHECK(cuMemsetD32Async(word, 2, 1, other));
    CHECK(cuEventDestroy(end));
    usleep(20000);
    CHECK_THAT(word_of(word, pinned, side) == 1);
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuStreamQuery(other));
    let_go(&hold);
    CHECK(cuStreamSynchronize(other));
    CHECK_THAT(has_ended(&hold) && word_of(word, pinned, side) == 2);

    // A stream that is destroyed finishes its work.
    take_hold(&hold, held);
    CHECK(cuMemsetD32Async(word, 3, 1, held));
    CHECK(cuStreamDestroy(held));
    CHECK_THAT(word_of(word, pinned, side) == 2);
    let_go_later(&hold);
    CHECK(cuCtxSynchronize());
    CHECK_THAT(has_ended(&hold) && word_of(word, pinned, side) == 3);
    joined(&hold);
    printf("waits: word %u\n", *pinned);

    CHECK(cuEventDestroy(begin));
    CHECK(cuStreamDestroy(other));
    CHECK(cuStreamDestroy(side));
    CHECK(cuMemFreeHost(pinned));
    CHECK(cuMemFree(word));
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
        switch (round % 3) {
        case 0: CHECK(cuLaunchHostFunc(stream, note, host)); break;
        case 1: CHECK(cuStreamAddCallback(stream, note_status, host, 0)); break;
        case 2: CHECK(cuLaunchHostFunc_v2(stream, note, host, 0)); break;
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
    // Whoever waits for the wrong thing waits for ever.
    alarm(100);
    const CUcontext context = start();
    CUmodule module;
    CHECK(cuModuleLoadData(&module, kernels));
    step = function_of(module, "step");
    properties(context);
    order();
    conversation(module);
    make_hold(&hold, module);
    waits();
    host_functions();
    return result("drv_streams");
}
