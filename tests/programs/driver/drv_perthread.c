// The per-thread forms: by stream 0 they mean the calling thread's own default stream. Each is seen to run
// while a stream is held that the legacy default stream waits for, and to wait while the thread's own is held.
//
// shows: cuMemcpy_ptds, cuMemcpyHtoD_v2_ptds, cuMemcpyDtoH_v2_ptds, cuMemcpyDtoD_v2_ptds,
// cuMemcpyAsync_ptsz, cuMemcpyHtoDAsync_v2_ptsz, cuMemcpyDtoHAsync_v2_ptsz, cuMemcpyDtoDAsync_v2_ptsz,
// cuMemsetD8_v2_ptds, cuMemsetD16_v2_ptds, cuMemsetD32_v2_ptds,
// cuMemsetD2D8_v2_ptds, cuMemsetD2D16_v2_ptds, cuMemsetD2D32_v2_ptds,
// cuMemsetD8Async_ptsz, cuMemsetD16Async_ptsz, cuMemsetD32Async_ptsz,
// cuMemsetD2D8Async_ptsz, cuMemsetD2D16Async_ptsz, cuMemsetD2D32Async_ptsz,
// cuLaunchKernel_ptsz, cuLaunchKernelEx_ptsz, cuLaunchCooperativeKernel_ptsz,
// cuLaunchHostFunc_ptsz, cuLaunchHostFunc_v2_ptsz,
// cuStreamAddCallback_ptsz, cuStreamSynchronize_ptsz, cuStreamQuery_ptsz, cuStreamWaitEvent_ptsz,
// cuStreamGetFlags_ptsz, cuStreamGetPriority_ptsz, cuStreamGetId_ptsz, cuStreamGetCtx_ptsz,
// cuStreamGetCtx_v2_ptsz, cuStreamGetDevice_ptsz, cuStreamIsCapturing_ptsz,
// cuStreamGetCaptureInfo_ptsz, cuStreamGetCaptureInfo_v3_ptsz, cuEventRecord_ptsz, cuEventRecordWithFlags_ptsz
#include "hold.h"

EMBED_PTX(kernels, "kernels.ptx");

// Each operation has an area of its own and sets at least its words 0, 1, 8 and 9 to a value whose bytes
// are all the same.
enum { AREA_WORDS = 16, PITCH = 32, AREA_BYTES = 4 * AREA_WORDS };

static CUfunction step;
static Hold hold;
// What copies read, and where they end up that do not end up in device memory.
static CUdeviceptr device_source, device_areas;
static unsigned *pinned_source, *pinned_areas;
static CUstream side;

typedef struct {
    unsigned value;
    CUdeviceptr device;
    unsigned *host;
} Area;

static void note(void *at) { *(unsigned *)at = *pinned_source; }

static void note_status(CUstream stream, CUresult status, void *at) {
    (void)stream;
    *(unsigned *)at = status == CUDA_SUCCESS ? *pinned_source : 0;
}

static void memset_d8(Area a) { CHECK(cuMemsetD8_v2_ptds(a.device, a.value & 0xff, AREA_BYTES)); }
static void memset_d16(Area a) { CHECK(cuMemsetD16_v2_ptds(a.device, a.value & 0xffff, AREA_BYTES / 2)); }
static void memset_d32(Area a) { CHECK(cuMemsetD32_v2_ptds(a.device, a.value, AREA_WORDS)); }
static void memset_2d8(Area a) { CHECK(cuMemsetD2D8_v2_ptds(a.device, PITCH, a.value & 0xff, 8, 2)); }
static void memset_2d16(Area a) { CHECK(cuMemsetD2D16_v2_ptds(a.device, PITCH, a.value & 0xffff, 4, 2)); }
static void memset_2d32(Area a) { CHECK(cuMemsetD2D32_v2_ptds(a.device, PITCH, a.value, 2, 2)); }
static void memset_d8_async(Area a) { CHECK(cuMemsetD8Async_ptsz(a.device, a.value & 0xff, AREA_BYTES, NULL)); }
static void memset_d16_async(Area a) { CHECK(cuMemsetD16Async_ptsz(a.device, a.value & 0xffff, AREA_BYTES / 2, NULL)); }
static void memset_d32_async(Area a) { CHECK(cuMemsetD32Async_ptsz(a.device, a.value, AREA_WORDS, NULL)); }
static void memset_2d8_async(Area a) { CHECK(cuMemsetD2D8Async_ptsz(a.device, PITCH, a.value & 0xff, 8, 2, NULL)); }
static void memset_2d16_async(Area a) { CHECK(cuMemsetD2D16Async_ptsz(a.device, PITCH, a.value & 0xffff, 4, 2, NULL)); }
static void memset_2d32_async(Area a) { CHECK(cuMemsetD2D32Async_ptsz(a.device, PITCH, a.value, 2, 2, NULL)); }
static void copy_dtod(Area a) { CHECK(cuMemcpyDtoD_v2_ptds(a.device, device_source, AREA_BYTES)); }
static void copy_dtod_async(Area a) { CHECK(cuMemcpyDtoDAsync_v2_ptsz(a.device, device_source, AREA_BYTES, NULL)); }
static void copy_htod_async(Area a) { CHECK(cuMemcpyHtoDAsync_v2_ptsz(a.device, pinned_source, AREA_BYTES, NULL)); }
static void copy_async(Area a) { CHECK(cuMemcpyAsync_ptsz(a.device, device_source, AREA_BYTES, NULL)); }
static void copy_dtoh_async(Area a) { CHECK(cuMemcpyDtoHAsync_v2_ptsz(a.host, device_source, AREA_BYTES, NULL)); }
static void host_function(Area a) {
    for (int at = 0; at < 10; ++at) CHECK(cuLaunchHostFunc_ptsz(NULL, note, a.host + at));
}
static void host_function_v2(Area a) {
    for (int at = 0; at < 10; ++at) CHECK(cuLaunchHostFunc_v2_ptsz(NULL, note, a.host + at, 0));
}
static void callback(Area a) {
    for (int at = 0; at < 10; ++at) CHECK(cuStreamAddCallback_ptsz(NULL, note_status, a.host + at, 0));
}
static void kernel(Area a) {
    unsigned n = AREA_WORDS, factor = 0;
    void *parameters[] = {&a.device, &n, &factor, &a.value};
    CHECK(cuLaunchKernel_ptsz(step, 1, 1, 1, AREA_WORDS, 1, 1, 0, NULL, parameters, NULL));
}
static void kernel_cooperative(Area a) {
    unsigned n = AREA_WORDS, factor = 0;
    void *parameters[] = {&a.device, &n, &factor, &a.value};
    CHECK(cuLaunchCooperativeKernel_ptsz(step, 1, 1, 1, AREA_WORDS, 1, 1, 0, NULL, parameters));
}
static void kernel_ex(Area a) {
    unsigned n = AREA_WORDS, factor = 0;
    void *parameters[] = {&a.device, &n, &factor, &a.value};
    const CUlaunchConfig config = {.grid_x = 1, .grid_y = 1, .grid_z = 1, .block_x = AREA_WORDS, .block_y = 1, .block_z = 1};
    CHECK(cuLaunchKernelEx_ptsz(&config, step, parameters, NULL));
}

static const struct {
    void (*call)(Area);
    bool on_host;
} operations[] = {
    {memset_d8, false}, {memset_d16, false}, {memset_d32, false},
    {memset_2d8, false}, {memset_2d16, false}, {memset_2d32, false},
    {memset_d8_async, false}, {memset_d16_async, false}, {memset_d32_async, false},
    {memset_2d8_async, false}, {memset_2d16_async, false}, {memset_2d32_async, false},
    {copy_dtod, false}, {copy_dtod_async, false}, {copy_htod_async, false}, {copy_async, false},
    {copy_dtoh_async, true}, {host_function, true}, {host_function_v2, true}, {callback, true},
    {kernel, false}, {kernel_ex, false}, {kernel_cooperative, false},
};
enum { COUNT = sizeof operations / sizeof *operations };

static unsigned spread(unsigned byte) { return byte * 0x01010101u; }

// Calls all of them. Nothing may run on the thread's own stream by now that reads the sources.
static void submit(unsigned byte) {
    for (int at = 0; at < AREA_WORDS; ++at) pinned_source[at] = spread(byte);
    CHECK(cuMemcpyHtoDAsync(device_source, pinned_source, AREA_BYTES, side));
    CHECK(cuStreamSynchronize(side));
    for (unsigned at = 0; at < COUNT; ++at) {
        const Area area = {spread(byte), device_areas + at * AREA_BYTES, pinned_areas + at * AREA_WORDS};
        operations[at].call(area);
    }
}

// How many have had their effect by now, read on a stream that waits for no other.
static int done(unsigned byte) {
    static unsigned *back;
    if (!back) CHECK(cuMemAllocHost((void **)&back, COUNT * AREA_BYTES));
    CHECK(cuMemcpyDtoHAsync(back, device_areas, COUNT * AREA_BYTES, side));
    CHECK(cuStreamSynchronize(side));
    int count = 0;
    for (unsigned at = 0; at < COUNT; ++at) {
        const volatile unsigned *area = (operations[at].on_host ? pinned_areas : back) + at * AREA_WORDS;
        const unsigned value = spread(byte);
        count += area[0] == value && area[1] == value && area[8] == value && area[9] == value;
    }
    return count;
}

// The default stream is the thread's own, not the legacy one, which waits for every blocking stream.
static void not_the_legacy_stream(void) {
    CUstream blocking;
    CUevent event, flagged;
    CUdeviceptr word;
    unsigned *value;
    CHECK(cuMemAlloc(&word, 4));
    CHECK(cuMemAllocHost((void **)&value, 4));
    CHECK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventCreate(&flagged, CU_EVENT_DISABLE_TIMING));
    CHECK(cuMemsetD32Async(word, 1, 1, side));
    take_hold(&hold, blocking);
    submit(2);
    CHECK(cuEventRecord_ptsz(event, NULL));
    CHECK(cuEventRecordWithFlags_ptsz(flagged, NULL, 0));
    CHECK(cuStreamSynchronize_ptsz(NULL));
    CHECK(cuStreamQuery_ptsz(NULL));
    CHECK(cuEventQuery(event));
    CHECK(cuEventQuery(flagged));
    CHECK_THAT(done(2) == COUNT);

    // The copies that wait.
    unsigned there = 77, back = 0;
    CHECK(cuMemcpyHtoD_v2_ptds(word, &there, 4));
    CHECK(cuMemcpyDtoH_v2_ptds(&back, word, 4));
    CHECK_THAT(back == 77);
    there = 78;
    CHECK(cuMemcpy_ptds(word, (CUdeviceptr)(uintptr_t)&there, 4));
    CHECK(cuMemcpy_ptds((CUdeviceptr)(uintptr_t)&back, word, 4));
    CHECK_THAT(back == 78);

    // The plain form does wait.
    CHECK(cuMemsetD32Async(word, 79, 1, NULL));
    usleep(20000);
    CHECK(cuMemcpyDtoHAsync(value, word, 4, side));
    CHECK(cuStreamSynchronize(side));
    CHECK_THAT(*value == 78);
    CHECK_THAT(holds(&hold));
    let_go(&hold);
    CHECK(cuStreamSynchronize(NULL));
    CHECK(cuMemcpyDtoHAsync(value, word, 4, side));
    CHECK(cuStreamSynchronize(side));
    CHECK_THAT(*value == 79 && has_ended(&hold));
    printf("%d operations passed a blocking stream that was held\n", COUNT);

    CHECK(cuEventDestroy(event));
    CHECK(cuEventDestroy(flagged));
    CHECK(cuStreamDestroy(blocking));
    CHECK(cuMemFreeHost(value));
    CHECK(cuMemFree(word));
}

static CUdeviceptr others_word;

// Another thread's default stream is another stream.
static void *other_thread(void *first) {
    unsigned long long id = 0;
    unsigned value = 0;
    CUcontext context;
    CHECK(cuDevicePrimaryCtxRetain(&context, 0));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamGetId_ptsz(NULL, &id));
    CHECK_THAT(id != *(unsigned long long *)first);
    CHECK(cuMemsetD32Async_ptsz(others_word, 5, 1, NULL));
    CHECK(cuStreamSynchronize_ptsz(NULL));
    CHECK(cuStreamQuery_ptsz(NULL));
    CHECK(cuMemcpyDtoH_v2_ptds(&value, others_word, 4));
    CHECK_THAT(value == 5);
    CHECK(cuDevicePrimaryCtxRelease(0));
    return NULL;
}

static void the_threads_own_stream(void) {
    CUevent event, flagged;
    unsigned long long id = 0;
    pthread_t thread;
    CHECK(cuMemAlloc(&others_word, 4));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventCreate(&flagged, CU_EVENT_DISABLE_TIMING));
    CHECK(cuStreamGetId_ptsz(NULL, &id));
    take_hold(&hold, CU_STREAM_PER_THREAD);
    submit(3);
    CHECK(cuEventRecord_ptsz(event, NULL));
    CHECK(cuEventRecordWithFlags_ptsz(flagged, NULL, 0));
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuStreamQuery_ptsz(NULL));
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuEventQuery(flagged));
    CHECK_THAT(pthread_create(&thread, NULL, other_thread, &id) == 0);
    CHECK_THAT(pthread_join(thread, NULL) == 0);
    usleep(20000);
    CHECK_THAT(done(3) == 0);
    CHECK_THAT(holds(&hold));
    let_go_later(&hold);
    CHECK(cuStreamSynchronize_ptsz(NULL));
    CHECK_THAT(has_ended(&hold) && done(3) == COUNT);
    joined(&hold);
    CHECK(cuStreamQuery_ptsz(NULL));
    CHECK(cuEventQuery(event));
    CHECK(cuEventQuery(flagged));
    printf("%d operations waited for the thread's own stream\n", COUNT);
    CHECK(cuEventDestroy(event));
    CHECK(cuEventDestroy(flagged));
    CHECK(cuMemFree(others_word));
}

// Copies that wait for their end come after what their stream does already.
static void copies_in_order(void) {
    CUdeviceptr word;
    unsigned back = 0, n = 1, factor = 2, term = 1;
    const unsigned there = 50;
    CHECK(cuMemAlloc(&word, 4));
    void *parameters[] = {&word, &n, &factor, &term};
    for (int form = 0; form < 4; ++form) {
        CHECK(cuMemsetD32Async(word, 3, 1, side));
        CHECK(cuStreamSynchronize(side));
        take_hold(&hold, CU_STREAM_PER_THREAD);
        CHECK(cuLaunchKernel_ptsz(step, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
        let_go_later(&hold);
        switch (form) {
        case 0: CHECK(cuMemcpyDtoH_v2_ptds(&back, word, 4)); break;
        case 1: CHECK(cuMemcpy_ptds((CUdeviceptr)(uintptr_t)&back, word, 4)); break;
        case 2: CHECK(cuMemcpyHtoD_v2_ptds(word, &there, 4)); break;
        case 3: CHECK(cuMemcpy_ptds(word, (CUdeviceptr)(uintptr_t)&there, 4)); break;
        }
        if (form >= 2) CHECK(cuMemcpyDtoH_v2_ptds(&back, word, 4));
        CHECK_THAT(back == (form < 2 ? 7u : 50u));
        joined(&hold);
        printf("copy %d: %u\n", form, back);
    }
    CHECK(cuMemFree(word));
}

static void events_are_waited_for(void) {
    CUstream other;
    CUevent event;
    CUdeviceptr word;
    unsigned *value;
    CHECK(cuMemAlloc(&word, 4));
    CHECK(cuMemAllocHost((void **)&value, 4));
    CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuMemsetD32Async(word, 1, 1, side));
    take_hold(&hold, other);
    CHECK(cuEventRecord(event, other));
    CHECK(cuStreamWaitEvent_ptsz(NULL, event, 0));
    CHECK(cuMemsetD32Async_ptsz(word, 2, 1, NULL));
    usleep(20000);
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuStreamQuery_ptsz(NULL));
    CHECK(cuMemcpyDtoHAsync(value, word, 4, side));
    CHECK(cuStreamSynchronize(side));
    CHECK_THAT(*value == 1);
    let_go(&hold);
    CHECK(cuStreamSynchronize_ptsz(NULL));
    CHECK(cuMemcpyDtoHAsync(value, word, 4, side));
    CHECK(cuStreamSynchronize(side));
    CHECK_THAT(*value == 2);
    CHECK(cuEventDestroy(event));
    CHECK(cuStreamDestroy(other));
    CHECK(cuMemFreeHost(value));
    CHECK(cuMemFree(word));
}

static void properties(CUcontext context) {
    unsigned flags = 9, expected_flags = 8;
    int priority = 9, expected_priority = 8, capturing = 9;
    unsigned long long id = 0, per_thread = 0, legacy = 0;
    CUcontext owner = NULL;
    CUdevice device = 9;
    void *green = &device;
    CHECK(cuStreamGetFlags_ptsz(NULL, &flags));
    CHECK(cuStreamGetFlags(CU_STREAM_PER_THREAD, &expected_flags));
    CHECK_THAT(flags == expected_flags);
    CHECK(cuStreamGetPriority_ptsz(NULL, &priority));
    CHECK(cuStreamGetPriority(CU_STREAM_PER_THREAD, &expected_priority));
    CHECK_THAT(priority == expected_priority);
    CHECK(cuStreamGetId_ptsz(NULL, &id));
    CHECK(cuStreamGetId(CU_STREAM_PER_THREAD, &per_thread));
    CHECK(cuStreamGetId(CU_STREAM_LEGACY, &legacy));
    CHECK_THAT(id == per_thread && id != legacy);
    CHECK(cuStreamGetCtx_ptsz(NULL, &owner));
    CHECK_THAT(owner == context);
    owner = NULL;
    CHECK(cuStreamGetCtx_v2_ptsz(NULL, &owner, &green));
    CHECK_THAT(owner == context && green == NULL);
    CHECK(cuStreamGetDevice_ptsz(NULL, &device));
    CHECK_THAT(device == 0);
    CHECK(cuStreamIsCapturing_ptsz(NULL, &capturing));
    CHECK_THAT(capturing == CU_STREAM_CAPTURE_STATUS_NONE);
    capturing = 9;
    CHECK(cuStreamGetCaptureInfo_ptsz(NULL, &capturing, NULL));
    CHECK_THAT(capturing == CU_STREAM_CAPTURE_STATUS_NONE);
    capturing = 9;
    CHECK(cuStreamGetCaptureInfo_v3_ptsz(NULL, &capturing, NULL, NULL, NULL, NULL, NULL));
    CHECK_THAT(capturing == CU_STREAM_CAPTURE_STATUS_NONE);
}

int main(void) {
    // A form that took the wrong stream would wait for a word that only we can say.
    alarm(100);
    const CUcontext context = start();
    CUmodule module;
    CHECK(cuModuleLoadData(&module, kernels));
    step = function_of(module, "step");
    make_hold(&hold, module);
    CHECK(cuStreamCreate(&side, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemAlloc(&device_source, AREA_BYTES));
    CHECK(cuMemAlloc(&device_areas, COUNT * AREA_BYTES));
    CHECK(cuMemAllocHost((void **)&pinned_source, AREA_BYTES));
    CHECK(cuMemAllocHost((void **)&pinned_areas, COUNT * AREA_BYTES));
    // Once with nothing held: a first use may load something, and wait for what runs.
    submit(1);
    CHECK(cuStreamSynchronize_ptsz(NULL));
    CHECK_THAT(done(1) == COUNT);
    properties(context);
    not_the_legacy_stream();
    the_threads_own_stream();
    copies_in_order();
    events_are_waited_for();
    return result("drv_perthread");
}
