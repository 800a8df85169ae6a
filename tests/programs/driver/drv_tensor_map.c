// Tensor maps: a matrix is read and written box by box, with boxes that reach over its edges; what cannot be a
// map is refused, and a kernel that is given something else faults.
//
// shows: cuTensorMapEncodeTiled, cuTensorMapReplaceAddress
#include "program.h"

#include <string.h>

EMBED_PTX(kernels, "tensor.ptx");

enum { COLUMNS = 100, ROWS = 70, PITCH = 104, BOX_COLUMNS = 32, BOX_ROWS = 16 };

static float matrix[ROWS * PITCH], back[ROWS * PITCH];
// Aligned to 64 bytes and no more, as programs of CUDA 12 align them. That is enough, though CUDA 13's type has 128.
static struct { _Alignas(128) char before[64]; CUtensorMap from, to; } maps;

static CUresult encode(CUtensorMap *map, CUdeviceptr memory, int swizzle) {
    const uint64_t extents[] = {COLUMNS, ROWS}, strides[] = {PITCH * sizeof(float)};
    const unsigned box[] = {BOX_COLUMNS, BOX_ROWS}, steps[] = {1, 1};
    return cuTensorMapEncodeTiled(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, (void *)(uintptr_t)memory, extents, strides, box, steps,
                                  CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

static CUresult launch(CUfunction function, void **parameters) {
    const unsigned across = (COLUMNS + BOX_COLUMNS - 1) / BOX_COLUMNS, down = (ROWS + BOX_ROWS - 1) / BOX_ROWS;
    return cuLaunchKernel(function, across, down, 1, 128, 1, 1, 0, NULL, parameters, NULL);
}

// Elements of the matrix are larger by `more`; what lies between its rows is as it was set.
static void compare(const char *what, CUdeviceptr memory, float more) {
    int wrong = 0;
    CHECK(cuMemcpyDtoH(back, memory, sizeof back));
    for (int at = 0; at < ROWS * PITCH; ++at)
        wrong += back[at] != (at % PITCH < COLUMNS ? matrix[at] + more : -1.0f);
    CHECK_THAT(wrong == 0);
    printf("%s: %d wrong\n", what, wrong);
}

static void refused(CUdeviceptr memory) {
    CUtensorMap map;
    const uint64_t extents[] = {COLUMNS, ROWS}, strides[] = {PITCH * sizeof(float)}, tight[] = {PITCH * sizeof(float) + 8};
    const unsigned box[] = {BOX_COLUMNS, BOX_ROWS}, large[] = {BOX_COLUMNS, 257}, odd[] = {3, 1}, steps[] = {1, 1}, none[] = {1, 0};
    void *const address = (void *)(uintptr_t)memory;
#define ENCODE(map, type, rank, address, extents, strides, box, steps, swizzle) \
    cuTensorMapEncodeTiled(map, type, rank, address, extents, strides, box, steps, 0, swizzle, 0, 0)
    const int f32 = CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(NULL, f32, 2, address, extents, strides, box, steps, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE((CUtensorMap *)((char *)&map + 16), f32, 2, address, extents, strides, box, steps, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, 99, 2, address, extents, strides, box, steps, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, f32, 0, address, extents, strides, box, steps, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, f32, 6, address, extents, strides, box, steps, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, f32, 2, (char *)address + 8, extents, strides, box, steps, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, f32, 2, address, NULL, strides, box, steps, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, f32, 2, address, extents, NULL, box, steps, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, f32, 2, address, extents, strides, NULL, steps, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, f32, 2, address, extents, strides, box, NULL, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, f32, 2, address, extents, tight, box, steps, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, f32, 2, address, extents, strides, large, steps, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, f32, 2, address, extents, strides, odd, steps, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, f32, 2, address, extents, strides, box, none, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ENCODE(&map, f32, 2, address, extents, strides, box, steps, CU_TENSOR_MAP_SWIZZLE_64B));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuTensorMapReplaceAddress(NULL, address));

    // Nothing is copied yet, so that a tensor may be larger than any memory.
    const uint64_t huge[] = {COLUMNS, 1ull << 32}, far_apart[] = {(1ull << 40) - 16};
    CHECK(ENCODE(&map, f32, 2, address, huge, far_apart, box, steps, 0));

    // Not every driver library copies in this mode; wrong corners are wrong in any.
    const uint64_t image[] = {8, 10, 7, 2}, lines[] = {32, 320, 2240};
    const int lower[] = {-1, -1}, upper[] = {-1, -1}, far[] = {-129, 0};
    const unsigned ones[] = {1, 1, 1, 1};
    const CUresult made = cuTensorMapEncodeIm2col(&map, f32, 4, address, image, lines, lower, upper, 8, 16, ones, 0, 0, 0, 0);
    CHECK_THAT(made == CUDA_SUCCESS || made == CUDA_ERROR_NOT_SUPPORTED);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuTensorMapEncodeIm2col(&map, f32, 4, address, image, lines, far, upper, 8, 16, ones, 0, 0, 0, 0));
}

int main(void) {
    start();
    CUmodule module;
    CUdeviceptr first, second;
    int supported = 0;
    CHECK(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED, 0));
    if (!supported) {
        printf("drv_tensor_map: devices older than compute capability 9.0 have no tensor maps\n");
        return 0;
    }
    CHECK(cuModuleLoadData(&module, kernels));
    const CUfunction add_one = function_of(module, "add_one"), accumulate = function_of(module, "accumulate");
    for (int at = 0; at < ROWS * PITCH; ++at) matrix[at] = at % PITCH < COLUMNS ? (float)at : -1.0f;
    CHECK(cuMemAlloc(&first, sizeof matrix));
    CHECK(cuMemAlloc(&second, sizeof matrix));

    static const struct { const char *name; int swizzle; } kinds[] = {{"plain", CU_TENSOR_MAP_SWIZZLE_NONE}, {"swizzled", CU_TENSOR_MAP_SWIZZLE_128B}};
    for (int kind = 0; kind < 2; ++kind) {
        CHECK(cuMemcpyHtoD(first, matrix, sizeof matrix));
        CHECK(cuMemsetD32(second, 0xbf800000, ROWS * PITCH));
        CHECK(encode(&maps.from, first, kinds[kind].swizzle));
        CHECK(encode(&maps.to, second, kinds[kind].swizzle));
        void *parameters[] = {&maps.from, &maps.to};
        CHECK(launch(add_one, parameters));
        compare(kinds[kind].name, second, 1);
    }

    // The other way round. A program that knows an address later begins with null.
    CHECK(encode(&maps.from, 0, CU_TENSOR_MAP_SWIZZLE_128B));
    CHECK(cuTensorMapReplaceAddress(&maps.from, (void *)(uintptr_t)second));
    CHECK(cuTensorMapReplaceAddress(&maps.to, (void *)(uintptr_t)first));
    void *parameters[] = {&maps.from, &maps.to};
    CHECK(launch(add_one, parameters));
    compare("back", first, 2);
    void *sums[] = {&maps.to};
    for (int round = 0; round < 3; ++round) CHECK(launch(accumulate, sums));
    compare("summed", first, 5);

    refused(first);

    // What is no map is found out by the kernel, and the context is lost.
    memset(&maps.from, 0x5a, sizeof maps.from);
    CHECK(launch(add_one, parameters));
    CHECK_ERROR(CUDA_ERROR_ILLEGAL_INSTRUCTION, cuCtxSynchronize());
    CHECK_ERROR(CUDA_ERROR_ILLEGAL_INSTRUCTION, cuMemFree(second));
    return result("drv_tensor_map");
}
