// Contexts: the primary context's life, the stack, and what a context says about itself.
//
// shows: cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRelease_v2, cuDevicePrimaryCtxReset_v2,
// cuDevicePrimaryCtxGetState, cuDevicePrimaryCtxSetFlags_v2, cuCtxCreate_v2, cuCtxDestroy_v2, cuCtxGetCurrent,
// cuCtxSetCurrent, cuCtxPushCurrent_v2, cuCtxPopCurrent_v2, cuCtxGetDevice, cuCtxGetFlags, cuCtxGetId,
// cuCtxGetApiVersion, cuCtxGetLimit, cuCtxSetLimit, cuCtxGetCacheConfig, cuCtxSetCacheConfig,
// cuCtxGetSharedMemConfig, cuCtxSetSharedMemConfig,
// cuProfilerStart, cuProfilerStop
#include "program.h"

#include <pthread.h>

static void *other_thread(void *context) {
    CUcontext current = (CUcontext)1;
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(current == NULL);
    CHECK(cuCtxSetCurrent(context));
    CUdeviceptr pointer;
    CHECK(cuMemAlloc(&pointer, 64));
    CHECK(cuMemFree(pointer));
    return NULL;
}

int main(void) {
    CHECK(cuInit(0));
    unsigned flags = 9;
    int active = 9;
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    CHECK_THAT(active == 0);
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease(0));

    CUcontext primary, again, current;
    CHECK(cuDevicePrimaryCtxRetain(&primary, 0));
    CHECK(cuDevicePrimaryCtxRetain(&again, 0));
    CHECK_THAT(primary == again && primary != NULL);
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    CHECK_THAT(active == 1);
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(current == NULL);

    // The profiler's switch demands a context and does nothing where no profiler is attached.
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuProfilerStart());
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuProfilerStop());
    CHECK(cuCtxSetCurrent(primary));
    CHECK(cuProfilerStart());
    CHECK(cuProfilerStop());
    CHECK(cuCtxSetCurrent(NULL));

    // Push and pop.
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuCtxPopCurrent(&current));
    CHECK(cuCtxPushCurrent(primary));
    CUcontext created;
    CHECK(cuCtxCreate(&created, CU_CTX_SCHED_SPIN, 0));
    CHECK_THAT(created != primary);
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(current == created);
    CUdevice device = 9;
    CHECK(cuCtxGetDevice(&device));
    CHECK_THAT(device == 0);
    unsigned long long id = 0, same_id = 1, primary_id = 0;
    CHECK(cuCtxGetId(NULL, &id));
    CHECK(cuCtxGetId(created, &same_id));
    CHECK(cuCtxGetId(primary, &primary_id));
    CHECK_THAT(id == same_id && id != primary_id);
    unsigned version = 0;
    CHECK(cuCtxGetApiVersion(created, &version));
    CHECK_THAT(version >= 3010);
    CHECK(cuCtxGetFlags(&flags));
    CHECK_THAT((flags & CU_CTX_SCHED_MASK) == CU_CTX_SCHED_SPIN);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuCtxCreate(&again, CU_CTX_SCHED_SPIN | CU_CTX_SCHED_BLOCKING_SYNC, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuCtxCreate(&again, 0, -1));
    printf("create makes current\n");

    CHECK(cuCtxPopCurrent(&current));
    CHECK_THAT(current == created);
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(current == primary);

    // Memory of one context can be named, and freed, from another context of the process.
    CUdeviceptr pointer;
    CHECK(cuCtxSetCurrent(created));
    CHECK(cuMemAlloc(&pointer, 4096));
    CHECK(cuCtxSetCurrent(primary));
    CHECK(cuMemsetD8(pointer, 1, 4096));
    CHECK(cuMemFree(pointer));

    // A context ends with what it holds.
    CHECK(cuCtxSetCurrent(created));
    CHECK(cuMemAlloc(&pointer, 4096));
    CHECK(cuCtxDestroy(created));
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(current == NULL);
    CHECK(cuCtxSetCurrent(primary));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemFree(pointer));
    CHECK_THAT(cuCtxSetCurrent(created) != CUDA_SUCCESS);
    printf("destroy ends it\n");

    // Limits and preferences.
    size_t limit = 0;
    CHECK(cuCtxGetLimit(&limit, CU_LIMIT_STACK_SIZE));
    CHECK_THAT(limit > 0);
    CHECK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 2048));
    CHECK(cuCtxGetLimit(&limit, CU_LIMIT_STACK_SIZE));
    CHECK_THAT(limit >= 2048);
    // A device whose cache cannot be split says that nothing is preferred.
    int config = 9;
    CHECK(cuCtxGetCacheConfig(&config));
    CHECK_THAT(config == CU_FUNC_CACHE_PREFER_NONE);
    CHECK(cuCtxSetCacheConfig(CU_FUNC_CACHE_PREFER_L1));
    CHECK(cuCtxGetCacheConfig(&config));
    CHECK_THAT(config == CU_FUNC_CACHE_PREFER_L1 || config == CU_FUNC_CACHE_PREFER_NONE);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuCtxSetCacheConfig(99));
    // Banks have been of four bytes since devices had a choice.
    CHECK(cuCtxGetSharedMemConfig(&config));
    CHECK_THAT(config == CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE);
    CHECK(cuCtxSetSharedMemConfig(CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE));
    CHECK(cuCtxGetSharedMemConfig(&config));
    CHECK_THAT(config == CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuCtxSetSharedMemConfig(99));

    // The current context is each thread's own.
    pthread_t thread;
    CHECK_THAT(pthread_create(&thread, NULL, other_thread, primary) == 0);
    pthread_join(thread, NULL);
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(current == primary);

    CHECK(cuDevicePrimaryCtxRelease(0));
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    CHECK_THAT(active == 1);
    CHECK(cuDevicePrimaryCtxRelease(0));
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    CHECK_THAT(active == 0);
    printf("released twice\n");

    CHECK(cuDevicePrimaryCtxRetain(&primary, 0));
    CHECK(cuCtxSetCurrent(primary));
    CHECK(cuMemAlloc(&pointer, 4096));
    CHECK(cuDevicePrimaryCtxReset(0));
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    CHECK_THAT(active == 0);
    CHECK(cuDevicePrimaryCtxRelease(0));
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    CHECK_THAT(active == 0);

    // Flags are taken before the context is there and told after.
    CHECK(cuDevicePrimaryCtxSetFlags(0, CU_CTX_SCHED_BLOCKING_SYNC));
    CHECK(cuDevicePrimaryCtxRetain(&primary, 0));
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    CHECK_THAT(active == 1 && (flags & CU_CTX_SCHED_MASK) == CU_CTX_SCHED_BLOCKING_SYNC);
    CHECK(cuDevicePrimaryCtxRelease(0));
    return result("drv_context");
}
