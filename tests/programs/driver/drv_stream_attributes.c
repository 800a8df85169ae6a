// Attributes of streams: what is set is told and copied. And events of whole contexts, which stand for the work
// of all streams.
//
// shows: cuStreamGetAttribute, cuStreamSetAttribute, cuStreamCopyAttributes, cuStreamGetAttribute_ptsz,
// cuStreamSetAttribute_ptsz, cuStreamCopyAttributes_ptsz, cuCtxRecordEvent, cuCtxWaitEvent
#include "hold.h"

#include <string.h>

EMBED_PTX(kernels, "kernels.ptx");

static Hold hold;

static CUstreamAttrValue told(CUstream stream, int attribute) {
    CUstreamAttrValue value;
    memset(&value, 0x5a, sizeof value);
    CHECK(cuStreamGetAttribute(stream, attribute, &value));
    return value;
}

static int same_window(CUaccessPolicyWindow one, CUaccessPolicyWindow other) {
    return one.base == other.base && one.bytes == other.bytes && one.hit_ratio == other.hit_ratio &&
           one.hits == other.hits && one.misses == other.misses;
}

static void attributes(void) {
    CUstream first, second;
    CUdeviceptr memory;
    int most = 0, least, greatest, priority = 9;
    CHECK(cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE, 0));
    CHECK(cuCtxGetStreamPriorityRange(&least, &greatest));
    CHECK(cuStreamCreateWithPriority(&first, CU_STREAM_NON_BLOCKING, greatest));
    CHECK(cuStreamCreate(&second, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemAlloc(&memory, 1 << 20));

    CHECK_THAT(told(first, CU_LAUNCH_ATTRIBUTE_PRIORITY).priority == greatest);
    CHECK_THAT(told(second, CU_LAUNCH_ATTRIBUTE_PRIORITY).priority == 0);
    CHECK_THAT(told(first, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY).policy == CU_SYNC_POLICY_AUTO);
    CHECK_THAT(told(first, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW).window.bytes == 0);
    CHECK_THAT(told(first, CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN).domain == 0);
    CHECK_THAT(told(first, CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP).map.plain == 0);

    CUstreamAttrValue value = {.bytes = {0}};
    value.window = (CUaccessPolicyWindow){(void *)(uintptr_t)memory, 1 << 20, 0.5f, CU_ACCESS_PROPERTY_PERSISTING, CU_ACCESS_PROPERTY_STREAMING};
    const CUaccessPolicyWindow window = value.window;
    CHECK_THAT(most >= 1 << 20);
    CHECK(cuStreamSetAttribute(first, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW, &value));
    CHECK_THAT(same_window(told(first, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW).window, window));
    value.window.hit_ratio = 1.5f;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamSetAttribute(first, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW, &value));
    value.window = window;
    value.window.misses = CU_ACCESS_PROPERTY_PERSISTING;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamSetAttribute(first, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW, &value));
    value.window = window;
    value.window.bytes = (size_t)most + 1;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamSetAttribute(first, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW, &value));
    CHECK_THAT(same_window(told(first, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW).window, window));

    value = (CUstreamAttrValue){.policy = CU_SYNC_POLICY_BLOCKING_SYNC};
    CHECK(cuStreamSetAttribute(first, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    value = (CUstreamAttrValue){.policy = 77};
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamSetAttribute(first, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    value = (CUstreamAttrValue){.domain = 1};
    CHECK(cuStreamSetAttribute(first, CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN, &value));
    value = (CUstreamAttrValue){.map = {0, 0}};
    CHECK(cuStreamSetAttribute(first, CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP, &value));

    CHECK(cuStreamCopyAttributes(second, first));
    CHECK_THAT(same_window(told(second, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW).window, window));
    CHECK_THAT(told(second, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY).policy == CU_SYNC_POLICY_BLOCKING_SYNC);
    CHECK_THAT(told(second, CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN).domain == 1);
    CHECK(cuStreamGetPriority(second, &priority));
    CHECK_THAT(priority == told(second, CU_LAUNCH_ATTRIBUTE_PRIORITY).priority);

    // The default streams have attributes of their own.
    CHECK_THAT(told(NULL, CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN).domain == 0);
    value = (CUstreamAttrValue){.policy = CU_SYNC_POLICY_BLOCKING_SYNC};
    CHECK(cuStreamSetAttribute_ptsz(NULL, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    value = (CUstreamAttrValue){.policy = 0};
    CHECK(cuStreamGetAttribute_ptsz(NULL, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY, &value));
    CHECK_THAT(value.policy == CU_SYNC_POLICY_BLOCKING_SYNC);
    CHECK_THAT(told(CU_STREAM_PER_THREAD, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY).policy == CU_SYNC_POLICY_BLOCKING_SYNC);
    CHECK_THAT(told(NULL, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY).policy == CU_SYNC_POLICY_AUTO);
    CHECK(cuStreamCopyAttributes_ptsz(second, NULL));
    CHECK_THAT(told(second, CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW).window.bytes == 0);
    CHECK_THAT(told(second, CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY).policy == CU_SYNC_POLICY_BLOCKING_SYNC);

    // What launches have and streams have not.
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamGetAttribute(first, CU_LAUNCH_ATTRIBUTE_COOPERATIVE, &value));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamSetAttribute(first, CU_LAUNCH_ATTRIBUTE_COOPERATIVE, &value));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamGetAttribute(first, CU_LAUNCH_ATTRIBUTE_PRIORITY, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamSetAttribute(first, CU_LAUNCH_ATTRIBUTE_PRIORITY, NULL));
    CHECK(cuStreamDestroy(first));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuStreamGetAttribute(first, CU_LAUNCH_ATTRIBUTE_PRIORITY, &value));
    CHECK(cuStreamDestroy(second));
    CHECK(cuMemFree(memory));
}

static unsigned word_of(CUdeviceptr word, unsigned *pinned, CUstream stream) {
    CHECK(cuMemcpyDtoHAsync(pinned, word, 4, stream));
    CHECK(cuStreamSynchronize(stream));
    return *pinned;
}

static void events(CUcontext context) {
    CUstream held, other;
    CUevent event, later;
    CUdeviceptr word;
    unsigned *pinned;
    CUcontext second;
    CHECK(cuMemAllocHost((void **)&pinned, 4));
    CHECK(cuStreamCreate(&held, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_DEFAULT));
    CHECK(cuEventCreate(&later, CU_EVENT_DISABLE_TIMING));
    CHECK(cuMemAlloc(&word, 4));

    // An event that was never recorded is waited for by nobody.
    CHECK(cuCtxWaitEvent(context, later));
    CHECK(cuMemsetD32Async(word, 1, 1, other));
    CHECK_THAT(word_of(word, pinned, other) == 1);

    // It stands for all streams, and not for what comes after it.
    take_hold(&hold, held);
    CHECK(cuCtxRecordEvent(context, event));
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    CHECK_THAT(word_of(word, pinned, other) == 1);
    let_go(&hold);
    CHECK(cuEventSynchronize(event));
    CHECK_THAT(has_ended(&hold));
    take_hold(&hold, held);
    CHECK(cuEventQuery(event));

    // What is submitted to any stream, also to one that is made later, waits for an event.
    CUstream made;
    CHECK(cuEventRecord(event, held));
    CHECK(cuMemsetD32Async(word, 2, 1, other));
    CHECK(cuStreamSynchronize(other));
    CHECK(cuCtxWaitEvent(context, event));
    CHECK(cuStreamCreate(&made, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemcpyDtoHAsync(pinned, word, 4, other));
    CHECK(cuMemsetD32Async(word, 3, 1, made));
    usleep(20000);
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuStreamQuery(other));
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuStreamQuery(made));
    let_go(&hold);
    CHECK(cuCtxSynchronize());
    CHECK_THAT(has_ended(&hold));
    CHECK_THAT(word_of(word, pinned, made) == 3);
    printf("events: word %u\n", *pinned);

    // While one of its streams is captured a context can do neither, and the capture is over.
    CUgraph graph;
    CHECK(cuStreamBeginCapture_v2(other, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuCtxRecordEvent(context, event));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(other, &graph));
    CHECK(cuStreamBeginCapture_v2(other, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuCtxWaitEvent(context, event));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(other, &graph));

    // The event is the context's own to be recorded, and anybody's to be waited for.
    CHECK(cuCtxCreate(&second, 0, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuCtxRecordEvent(second, event));
    CHECK(cuCtxRecordEvent(context, event));
    CHECK(cuCtxWaitEvent(second, event));
    // And so it is for another context's event that is part of a capture.
    CUcontext popped;
    CHECK(cuCtxPopCurrent(&popped));
    CHECK(cuStreamBeginCapture_v2(other, CU_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(cuEventRecord(later, other));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuCtxWaitEvent(second, later));
    CHECK_ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(other, &graph));
    CHECK(cuCtxDestroy(second));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuCtxRecordEvent(context, (CUevent)(uintptr_t)0x1230));

    CHECK(cuStreamDestroy(held));
    CHECK(cuStreamDestroy(other));
    CHECK(cuStreamDestroy(made));
    CHECK(cuEventDestroy(event));
    CHECK(cuEventDestroy(later));
    CHECK(cuMemFree(word));
    CHECK(cuMemFreeHost(pinned));
}

int main(void) {
    // Whoever waits for the wrong thing waits for ever.
    alarm(100);
    const CUcontext context = start();
    CUmodule module;
    CHECK(cuModuleLoadData(&module, kernels));
    attributes();
    make_hold(&hold, module);
    events(context);
    end_hold(&hold);
    CHECK(cuModuleUnload(module));
    return result("drv_stream_attributes");
}
