// Older and newer forms of functions do what their other forms do, and launches in their other spellings.
#include "program.h"

EMBED_PTX(kernels, "kernels.ptx");

static size_t four_bytes_each(int threads) { return 4 * (size_t)threads; }

static void contexts(void) {
    CUcontext third, fourth, current;
    CUdevice device = 9;
    CHECK(cuCtxCreate_v3(&third, NULL, 0, 0, 0));
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(current == third);
    CHECK(cuCtxCreate_v4(&fourth, NULL, 0, 0));
    CHECK(cuCtxGetDevice_v2(&device, third));
    CHECK_THAT(device == 0);
    CHECK(cuCtxSynchronize_v2(third));
    CHECK(cuCtxDestroy(fourth));
    CHECK(cuCtxDestroy(third));
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

    int grid = 0, block = 0;
    CHECK(cuOccupancyMaxPotentialBlockSizeWithFlags(&grid, &block, function_of(module, "reverse"), four_bytes_each, 0, 256, 0));
    CHECK_THAT(grid >= 1 && block >= 32 && block <= 256);

    CHECK(cuMemFree(data));
    CHECK(cuEventDestroy(begin));
    CHECK(cuEventDestroy(end));
    CHECK(cuStreamDestroy(stream));
    CHECK(cuModuleUnload(module));
}

int main(void) {
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
