// c = a + b on the Driver API alone: PTX text, module, launch, copies.
//
// shows: cuModuleLoadData, cuLaunchKernel, cuMemcpyHtoD_v2, cuMemcpyDtoH_v2
#include "program.h"

EMBED_PTX(vector_add, "vector_add.ptx");

enum { COUNT = 50000 };
static float a[COUNT], b[COUNT], c[COUNT];

int main(void) {
    for (int i = 0; i < COUNT; ++i) {
        a[i] = (float)(i % 1013) / 4;
        b[i] = (float)(i % 509) / 8;
    }

    start();
    CUmodule module;
    CHECK(cuModuleLoadData(&module, vector_add));
    const CUfunction function = function_of(module, "vector_add");

    CUdeviceptr device_a, device_b, device_c;
    CHECK(cuMemAlloc(&device_a, sizeof a));
    CHECK(cuMemAlloc(&device_b, sizeof b));
    CHECK(cuMemAlloc(&device_c, sizeof c));
    CHECK(cuMemcpyHtoD(device_a, a, sizeof a));
    CHECK(cuMemcpyHtoD(device_b, b, sizeof b));

    unsigned count = COUNT;
    void *parameters[] = {&device_a, &device_b, &device_c, &count};
    CHECK(cuLaunchKernel(function, (COUNT + 255) / 256, 1, 1, 256, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuCtxSynchronize());
    CHECK(cuMemcpyDtoH(c, device_c, sizeof c));

    int wrong = 0;
    for (int i = 0; i < COUNT; ++i) wrong += c[i] != a[i] + b[i];
    CHECK_THAT(wrong == 0);
    printf("%d elements, %d wrong\n", COUNT, wrong);

    // The same launch with its parameters packed in one buffer.
    struct {
        CUdeviceptr a, b, c;
        unsigned n;
    } packed = {device_a, device_b, device_c, COUNT};
    size_t size = 28;
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};
    CHECK(cuMemsetD32(device_c, 0, COUNT));
    CHECK(cuLaunchKernel(function, (COUNT + 127) / 128, 1, 1, 128, 1, 1, 0, NULL, NULL, extra));
    memset(c, 0xff, sizeof c);
    CHECK(cuMemcpyDtoH(c, device_c, sizeof c));
    wrong = 0;
    for (int i = 0; i < COUNT; ++i) wrong += c[i] != a[i] + b[i];
    CHECK_THAT(wrong == 0);
    printf("packed parameters: %d wrong\n", wrong);

    CHECK(cuMemFree(device_a));
    CHECK(cuMemFree(device_b));
    CHECK(cuMemFree(device_c));
    CHECK(cuModuleUnload(module));
    CHECK(cuDevicePrimaryCtxRelease(0));
    return result("drv_vectoradd");
}
