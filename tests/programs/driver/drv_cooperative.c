// Cooperative launches: every block waits for all others, so all must be on the device at once; and a grid
// that the device cannot hold is refused, at once and also after a smaller one was accepted.
//
// shows: cuLaunchCooperativeKernel, cuLaunchKernelEx
#include "program.h"

EMBED_PTX(kernels, "cooperative.ptx");

static void barrier(CUfunction meet, unsigned blocks, int by_attribute) {
    CUdeviceptr counter, out;
    unsigned *sums = calloc(blocks, sizeof *sums), wrong = 0;
    CHECK(cuMemAlloc(&counter, 4));
    CHECK(cuMemAlloc(&out, blocks * sizeof *sums));
    CHECK(cuMemsetD32(counter, 0, 1));
    void *parameters[] = {&counter, &out};
    if (by_attribute) {
        CUlaunchAttribute attributes[] = {{.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE, .value.number = 1}};
        CUlaunchConfig config = {.grid_x = blocks, .grid_y = 1, .grid_z = 1, .block_x = 64, .block_y = 1, .block_z = 1};
        config.attributes = attributes;
        config.count = 1;
        CHECK(cuLaunchKernelEx(&config, meet, parameters, NULL));
    } else {
        CHECK(cuLaunchCooperativeKernel(meet, blocks, 1, 1, 64, 1, 1, 0, NULL, parameters));
    }
    CHECK(cuMemcpyDtoH(sums, out, blocks * sizeof *sums));
    for (unsigned at = 0; at < blocks; ++at) wrong += sums[at] != 64 * blocks;
    CHECK_THAT(wrong == 0);
    printf("barrier: %u wrong\n", wrong);
    CHECK(cuMemFree(counter));
    CHECK(cuMemFree(out));
    free(sums);
}

int main(void) {
    start();
    CUmodule module;
    int processors = 0, resident = 0, supported = 0;
    CHECK(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 0));
    CHECK_THAT(supported == 1);
    CHECK(cuModuleLoadData(&module, kernels));
    const CUfunction meet = function_of(module, "meet");
    CHECK(cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&resident, meet, 64, 0));
    const unsigned most = (unsigned)(processors * resident);
    barrier(meet, 1, 0);
    barrier(meet, 7, 1);
    barrier(meet, most, 0);
    void *none[] = {&(CUdeviceptr){0}, &(CUdeviceptr){0}};
    CHECK_ERROR(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, cuLaunchCooperativeKernel(meet, most + 1, 1, 1, 64, 1, 1, 0, NULL, none));
    // The refusal leaves the context as it was.
    barrier(meet, 3, 0);
    CHECK(cuModuleUnload(module));
    return result("drv_cooperative");
}
