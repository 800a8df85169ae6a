// A kernel that stores where nothing is: the context is lost, and every call that needs it says so.
//
// shows: cuCtxSynchronize
#include "program.h"

EMBED_PTX(kernels, "kernels.ptx");

int main(void) {
    start();
    CUmodule module;
    CHECK(cuModuleLoadData(&module, kernels));
    const CUfunction store = function_of(module, "store");
    CUdeviceptr data, nowhere = (CUdeviceptr)1 << 44;
    unsigned value = 5;
    CHECK(cuMemAlloc(&data, 256));
    void *good[] = {&data, &value}, *bad[] = {&nowhere, &value};
    CHECK(cuLaunchKernel(store, 1, 1, 1, 1, 1, 1, 0, NULL, good, NULL));
    CHECK(cuCtxSynchronize());

    CHECK(cuLaunchKernel(store, 1, 1, 1, 1, 1, 1, 0, NULL, bad, NULL));
    CHECK_ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    CHECK_ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemcpyDtoH(&value, data, sizeof value));
    CHECK_ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, cuLaunchKernel(store, 1, 1, 1, 1, 1, 1, 0, NULL, good, NULL));
    CHECK_ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(NULL));
    // What asks nothing of the context still answers.
    int count = 0;
    CHECK(cuDeviceGetCount(&count));
    return result("drv_fault");
}
