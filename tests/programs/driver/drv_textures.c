// Texture and surface objects over arrays, levels and linear memory: what they were made with, what kernels
// see through them, and what is no object.
//
// shows: cuTexObjectCreate, cuTexObjectDestroy, cuTexObjectGetResourceDesc, cuTexObjectGetTextureDesc,
// cuTexObjectGetResourceViewDesc, cuSurfObjectCreate, cuSurfObjectDestroy, cuSurfObjectGetResourceDesc
#include "program.h"

EMBED_PTX(kernels, "images.ptx");

enum { OF_ARRAY = 0, OF_LEVELS = 1, PITCHED = 3, FLOAT = 32, CLAMP = 1, LINEAR = 1, NORMALIZED = 2, SURFACE = 2, N = 16 };

static CUfunction sample, store;
static CUdeviceptr out;

static void see(CUtexObject texture, unsigned count, float *back) {
    void *parameters[] = {&out, &texture};
    CHECK(cuLaunchKernel(sample, 1, 1, 1, count, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuMemcpyDtoH(back, out, count * sizeof *back));
}

static void fill(CUsurfObject surface, unsigned count) {
    void *parameters[] = {&surface};
    CHECK(cuLaunchKernel(store, 1, 1, 1, count, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuCtxSynchronize());
}

static const CUDA_TEXTURE_DESC smooth = {.address = {CLAMP, CLAMP, CLAMP}, .filter = LINEAR, .flags = NORMALIZED, .mip_most = 9, .border = {1, 2, 3, 4}};

static void array_and_surface(void) {
    const CUDA_ARRAY3D_DESCRIPTOR what = {N, 1, 0, FLOAT, 1, SURFACE};
    CUDA_RESOURCE_DESC resource = {.type = OF_ARRAY}, seen;
    CUDA_TEXTURE_DESC described;
    CUDA_RESOURCE_VIEW_DESC view;
    CUtexObject texture = 0;
    CUsurfObject surface = 0;
    float back[2 * N];
    unsigned wrong = 0;
    CHECK(cuArray3DCreate_v2(&resource.of.array, &what));
    CHECK(cuSurfObjectCreate(&surface, &resource));
    CHECK(cuTexObjectCreate(&texture, &resource, &smooth, NULL));
    CHECK_THAT(surface != 0 && texture != 0);
    fill(surface, N);
    see(texture, N, back);
    for (unsigned i = 0; i < N; ++i) wrong += back[i] != (float)i;
    see(texture, 2 * N, back);
    for (unsigned i = 1; i + 1 < 2 * N; ++i) wrong += back[i] != (float)i / 2 - 0.25f;
    CHECK_THAT(wrong == 0);
    printf("array: %u wrong\n", wrong);
    CHECK(cuTexObjectGetResourceDesc(&seen, texture));
    CHECK_THAT(seen.type == OF_ARRAY && seen.of.array == resource.of.array);
    CHECK(cuTexObjectGetTextureDesc(&described, texture));
    CHECK_THAT(described.filter == LINEAR && described.flags == NORMALIZED && described.border[3] == 4);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuTexObjectGetResourceViewDesc(&view, texture));
    memset(&seen, 0, sizeof seen);
    CHECK(cuSurfObjectGetResourceDesc(&seen, surface));
    CHECK_THAT(seen.of.array == resource.of.array);
    // Each is what it is.
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuTexObjectDestroy(surface));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuSurfObjectDestroy(texture));
    CHECK(cuTexObjectDestroy(texture));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuTexObjectDestroy(texture));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuTexObjectGetResourceDesc(&seen, texture));
    CHECK(cuSurfObjectDestroy(surface));
    CHECK(cuArrayDestroy(resource.of.array));
    CHECK_THAT(cuTexObjectCreate(&texture, &resource, &smooth, NULL) != CUDA_SUCCESS);
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuSurfObjectCreate(&surface, &resource));
}

// A view of one level shows that level.
static void levels(void) {
    const CUDA_ARRAY3D_DESCRIPTOR what = {N, N, 0, FLOAT, 1, SURFACE};
    CUDA_RESOURCE_DESC resource = {.type = OF_LEVELS};
    CUDA_RESOURCE_VIEW_DESC view = {.width = N / 4, .height = N / 4, .first_level = 2, .last_level = 2}, seen;
    CUtexObject texture;
    CUarray level;
    float values[N], back[N];
    unsigned wrong = 0;
    CHECK(cuMipmappedArrayCreate(&resource.of.mipmapped, &what, 4));
    for (unsigned i = 0; i < 4; ++i) {
        CHECK(cuMipmappedArrayGetLevel(&level, resource.of.mipmapped, i));
        for (unsigned x = 0; x < N; ++x) values[x] = (float)(100 * i + x);
        for (unsigned y = 0; y < (unsigned)N >> i; ++y) {
            const CUDA_MEMCPY2D copy = {.from_type = 1, .from_host = values, .to_type = 3, .to_array = level, .to_y = y, .width = ((unsigned)N >> i) * 4, .height = 1};
            CHECK(cuMemcpy2D_v2(&copy));
        }
    }
    CHECK(cuTexObjectCreate(&texture, &resource, &smooth, &view));
    CHECK(cuTexObjectGetResourceViewDesc(&seen, texture));
    CHECK_THAT(seen.width == N / 4 && seen.first_level == 2 && seen.last_level == 2);
    see(texture, N / 4, back);
    for (unsigned x = 0; x < N / 4; ++x) wrong += back[x] != (float)(200 + x);
    CHECK_THAT(wrong == 0);
    printf("levels: %u wrong\n", wrong);
    CHECK(cuTexObjectDestroy(texture));
    view.last_level = 9;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuTexObjectCreate(&texture, &resource, &smooth, &view));
    CHECK(cuMipmappedArrayDestroy(resource.of.mipmapped));
}

static void memory(void) {
    CUDA_RESOURCE_DESC resource = {.type = PITCHED};
    CUtexObject texture;
    size_t pitch;
    float values[N], back[N];
    unsigned wrong = 0;
    CHECK(cuMemAllocPitch(&resource.of.pitched.pointer, &pitch, sizeof values, 2, 4));
    for (unsigned x = 0; x < N; ++x) values[x] = (float)(3 * x);
    CHECK(cuMemcpyHtoD(resource.of.pitched.pointer, values, sizeof values));
    CHECK(cuMemcpyHtoD(resource.of.pitched.pointer + pitch, values, sizeof values));
    resource.of.pitched.format = FLOAT;
    resource.of.pitched.channels = 1;
    resource.of.pitched.width = N;
    resource.of.pitched.height = 2;
    resource.of.pitched.pitch = pitch;
    CHECK(cuTexObjectCreate(&texture, &resource, &smooth, NULL));
    see(texture, N, back);
    for (unsigned x = 0; x < N; ++x) wrong += back[x] != (float)(3 * x);
    CHECK_THAT(wrong == 0);
    printf("memory: %u wrong\n", wrong);
    CHECK(cuTexObjectDestroy(texture));
    // Memory that is not the program's.
    resource.of.pitched.height = 1 << 20;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuTexObjectCreate(&texture, &resource, &smooth, NULL));
    CHECK(cuMemFree(resource.of.pitched.pointer));
    resource.type = 9;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuTexObjectCreate(&texture, &resource, &smooth, NULL));
}

int main(void) {
    start();
    CUmodule module;
    CHECK(cuModuleLoadData(&module, kernels));
    sample = function_of(module, "sample");
    store = function_of(module, "store");
    CHECK(cuMemAlloc(&out, 4096));
    array_and_surface();
    levels();
    memory();
    CHECK(cuMemFree(out));
    return result("drv_textures");
}
