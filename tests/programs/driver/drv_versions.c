// Older and newer forms of functions do what their other forms do, and launches in their other spellings.
//
// shows: cuCtxCreate_v2, cuCtxCreate_v3, cuCtxCreate_v4, cuCtxGetDevice_v2, cuCtxSynchronize_v2,
// cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxReset, cuDevicePrimaryCtxSetFlags, cuDeviceGetUuid_v2,
// cuDeviceGetProperties, cuEventElapsedTime_v2, cuModuleLoadFatBinary, cuLaunchKernelEx,
// cuOccupancyMaxPotentialBlockSizeWithFlags
#include "hold.h"

#undef cuDevicePrimaryCtxRelease
#undef cuDevicePrimaryCtxReset
#undef cuDevicePrimaryCtxSetFlags

EMBED_PTX(kernels, "kernels.ptx");

static size_t four_bytes_each(int threads) { return 4 * (size_t)threads; }

// Whether the context is current, works, and was made with these flags.
static void is_a_context(CUcontext context, unsigned schedule) {
    CUcontext current = NULL;
    CUdeviceptr pointer;
    unsigned flags = 0, value = 0;
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(context != NULL && current == context);
    CHECK(cuCtxGetFlags(&flags));
    CHECK_THAT((flags & CU_CTX_SCHED_MASK) == schedule);
    CHECK(cuMemAlloc(&pointer, 4));
    CHECK(cuMemsetD32(pointer, 12345, 1));
    CHECK(cuMemcpyDtoH(&value, pointer, 4));
    CHECK_THAT(value == 12345);
    current = NULL;
    CHECK(cuPointerGetAttribute(&current, CU_POINTER_ATTRIBUTE_CONTEXT, pointer));
    CHECK_THAT(current == context);
}

static void contexts(void) {
    CUcontext second, third, fourth, fifth, popped;
    CUdevice device = 9;
    CUmodule module;
    CUstream stream;
    Hold hold;
    CUctxCreateParams parameters = {0};
    CHECK(cuCtxCreate_v2(&second, CU_CTX_SCHED_SPIN, 0));
    is_a_context(second, CU_CTX_SCHED_SPIN);
    CHECK(cuCtxCreate_v3(&third, NULL, 0, CU_CTX_SCHED_BLOCKING_SYNC, 0));
    is_a_context(third, CU_CTX_SCHED_BLOCKING_SYNC);
    CHECK(cuCtxCreate_v4(&fourth, NULL, CU_CTX_SCHED_SPIN, 0));
    is_a_context(fourth, CU_CTX_SCHED_SPIN);
    CHECK(cuCtxCreate_v4(&fifth, &parameters, CU_CTX_SCHED_BLOCKING_SYNC, 0));
    is_a_context(fifth, CU_CTX_SCHED_BLOCKING_SYNC);
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuCtxCreate_v3(&popped, NULL, 0, 0, -1));
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuCtxCreate_v4(&popped, NULL, 0, -1));

    // Work of a context that is not current is waited for.
    CHECK(cuModuleLoadData(&module, kernels));
    make_hold(&hold, module);
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    take_hold(&hold, stream);
    CHECK(cuCtxPopCurrent(&popped));
    CHECK_THAT(popped == fifth);
    let_go_later(&hold);
    CHECK(cuCtxSynchronize_v2(fifth));
    CHECK_THAT(has_ended(&hold));
    joined(&hold);
    CHECK(cuCtxGetDevice_v2(&device, fifth));
    CHECK_THAT(device == 0);

    CHECK(cuCtxDestroy(fifth));
    CHECK(cuCtxDestroy(fourth));
    CHECK(cuCtxDestroy(third));
    CHECK(cuCtxDestroy(second));
}

// The primary context by the first forms of its functions.
static void primary(void) {
    CUcontext context;
    unsigned flags = 0;
    int active = 9;
    CHECK(cuDevicePrimaryCtxSetFlags(0, CU_CTX_SCHED_BLOCKING_SYNC));
    CHECK(cuDevicePrimaryCtxRetain(&context, 0));
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    CHECK_THAT(active == 1 && (flags & CU_CTX_SCHED_MASK) == CU_CTX_SCHED_BLOCKING_SYNC);
    CHECK(cuDevicePrimaryCtxReset(0));
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    CHECK_THAT(active == 0);
    CHECK(cuDevicePrimaryCtxRelease(0));
    CHECK(cuDevicePrimaryCtxRetain(&context, 0));
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    CHECK_THAT(active == 1);
    CHECK(cuDevicePrimaryCtxRelease(0));
    CHECK(cuDevicePrimaryCtxGetState(0, &flags, &active));
    CHECK_THAT(active == 0);
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease(0));
}

static void devices(void) {
    CUuuid first, second;
    CUdevprop properties;
    int value = 0;
    CHECK(cuDeviceGetUuid(&first, 0));
    CHECK(cuDeviceGetUuid_v2(&second, 0));
    CHECK_THAT(memcmp(&first, &second, sizeof first) == 0);
    CHECK(cuDeviceGetProperties(&properties, 0));
    CHECK_THAT(properties.warp_size == 32);
    CHECK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 0));
    CHECK_THAT(properties.max_threads_per_block == value);
    CHECK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 0));
    CHECK_THAT(properties.shared_bytes == value);
}

static void launches(void) {
    CUmodule module;
    CUdeviceptr data;
    CUstream stream;
    CUevent begin, end;
    unsigned n = 1000, factor = 2, term = 1, back[1000];
    CHECK(cuModuleLoadFatBinary(&module, kernels));
    const CUfunction step = function_of(module, "step");
    CHECK(cuMemAlloc(&data, sizeof back));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&begin, CU_EVENT_DEFAULT));
    CHECK(cuEventCreate(&end, CU_EVENT_DEFAULT));
    void *parameters[] = {&data, &n, &factor, &term};

    CHECK(cuEventRecord(begin, stream));
    CHECK(cuMemsetD32Async(data, 0, n, stream));
    CUlaunchConfig config = {.grid_x = 8, .grid_y = 1, .grid_z = 1, .block_x = 128, .block_y = 1, .block_z = 1, .stream = stream};
    CHECK(cuLaunchKernelEx(&config, step, parameters, NULL));
    CUlaunchAttribute attributes[] = {{.id = CU_LAUNCH_ATTRIBUTE_PRIORITY, .value.number = 0}};
    config.attributes = attributes;
    config.count = 1;
    CHECK(cuLaunchKernelEx(&config, step, parameters, NULL));
    // A device says whether it can keep all blocks of a grid at work at once.
    int cooperative = 0;
    CHECK(cuDeviceGetAttribute(&cooperative, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 0));
    const CUresult launched = cuLaunchCooperativeKernel(step, 1, 1, 1, 256, 1, 1, 0, stream, parameters);
    CHECK_THAT(launched == (cooperative ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED));
    CHECK(cuEventRecord(end, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuMemcpyDtoH(back, data, sizeof back));
    int wrong = 0;
    for (unsigned i = 0; i < n; ++i) wrong += back[i] != (cooperative && i < 256 ? 7u : 3u);
    CHECK_THAT(wrong == 0);
    printf("launches: %d wrong\n", wrong);
    float milliseconds = -1;
    CHECK(cuEventElapsedTime_v2(&milliseconds, begin, end));
    CHECK_THAT(milliseconds > 0);
    float first_form = -1;
    CHECK(cuEventElapsedTime(&first_form, begin, end));
    CHECK_THAT(first_form == milliseconds);

    // The block size that the search finds fits with what the caller's function says that it needs.
    int grid = 0, block = 0, blocks = 0, processors = 0;
    const CUfunction reverse = function_of(module, "reverse");
    CHECK(cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    CHECK(cuOccupancyMaxPotentialBlockSizeWithFlags(&grid, &block, reverse, four_bytes_each, 0, 256, 0));
    CHECK_THAT(block >= 32 && block <= 256);
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, reverse, block, four_bytes_each(block)));
    CHECK_THAT(grid == blocks * processors);

    CHECK(cuMemFree(data));
    CHECK(cuEventDestroy(begin));
    CHECK(cuEventDestroy(end));
    CHECK(cuStreamDestroy(stream));
    CHECK(cuModuleUnload(module));
}

int main(void) {
    alarm(100);
    CHECK(cuInit(0));
    primary();
    start();
    contexts();
    // Destroying a context that is current leaves the one below it on the stack.
    CUcontext current = NULL;
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(current != NULL);
    devices();
    launches();
    return result("drv_versions");
}
