// Arrays: what they are, copies in every form and direction, boxes cut out of others. The per-thread forms are
// seen to pass a stream that is held and that the legacy default stream waits for.
//
// shows: cuArrayCreate_v2, cuArray3DCreate_v2, cuArrayDestroy, cuArrayGetDescriptor_v2, cuArray3DGetDescriptor_v2,
// cuMipmappedArrayCreate, cuMipmappedArrayDestroy, cuMipmappedArrayGetLevel, cuMemcpy2D_v2,
// cuMemcpy2DUnaligned_v2, cuMemcpy2DAsync_v2, cuMemcpy3D_v2, cuMemcpy3DAsync_v2, cuMemcpyHtoA_v2,
// cuMemcpyHtoAAsync_v2, cuMemcpyAtoH_v2, cuMemcpyAtoHAsync_v2, cuMemcpyDtoA_v2, cuMemcpyAtoD_v2, cuMemcpyAtoA_v2,
// cuMemcpy2D_v2_ptds, cuMemcpy2DUnaligned_v2_ptds, cuMemcpy2DAsync_v2_ptsz, cuMemcpy3D_v2_ptds,
// cuMemcpy3DAsync_v2_ptsz, cuMemcpyHtoA_v2_ptds, cuMemcpyHtoAAsync_v2_ptsz, cuMemcpyAtoH_v2_ptds,
// cuMemcpyAtoHAsync_v2_ptsz, cuMemcpyDtoA_v2_ptds, cuMemcpyAtoD_v2_ptds, cuMemcpyAtoA_v2_ptds
#include "hold.h"

EMBED_PTX(kernels, "kernels.ptx");

enum { HOST = 1, DEVICE = 2, ARRAY = 3, UNIFIED = 4, U8 = 1, U32 = 3, FLOAT = 32, LAYERED = 1 };
enum { W = 20, H = 6, D = 3, WORD = 4 };

// One form of each copy.
typedef struct {
    CUresult (*flat)(const CUDA_MEMCPY2D *);
    CUresult (*unaligned)(const CUDA_MEMCPY2D *);
    CUresult (*flat_async)(const CUDA_MEMCPY2D *, CUstream);
    CUresult (*box)(const CUDA_MEMCPY3D *);
    CUresult (*box_async)(const CUDA_MEMCPY3D *, CUstream);
    CUresult (*host_to_array)(CUarray, size_t, const void *, size_t);
    CUresult (*host_to_array_async)(CUarray, size_t, const void *, size_t, CUstream);
    CUresult (*array_to_host)(void *, CUarray, size_t, size_t);
    CUresult (*array_to_host_async)(void *, CUarray, size_t, size_t, CUstream);
    CUresult (*device_to_array)(CUarray, size_t, CUdeviceptr, size_t);
    CUresult (*array_to_device)(CUdeviceptr, CUarray, size_t, size_t);
    CUresult (*array_to_array)(CUarray, size_t, CUarray, size_t, size_t);
    CUresult (*synchronize)(CUstream);
} Forms;

static const Forms plain = {
    cuMemcpy2D_v2, cuMemcpy2DUnaligned_v2, cuMemcpy2DAsync_v2, cuMemcpy3D_v2, cuMemcpy3DAsync_v2, cuMemcpyHtoA_v2, cuMemcpyHtoAAsync_v2, cuMemcpyAtoH_v2, cuMemcpyAtoHAsync_v2, cuMemcpyDtoA_v2, cuMemcpyAtoD_v2, cuMemcpyAtoA_v2, cuStreamSynchronize,
};
static const Forms per_thread = {
    cuMemcpy2D_v2_ptds, cuMemcpy2DUnaligned_v2_ptds, cuMemcpy2DAsync_v2_ptsz, cuMemcpy3D_v2_ptds, cuMemcpy3DAsync_v2_ptsz, cuMemcpyHtoA_v2_ptds, cuMemcpyHtoAAsync_v2_ptsz, cuMemcpyAtoH_v2_ptds, cuMemcpyAtoHAsync_v2_ptsz, cuMemcpyDtoA_v2_ptds, cuMemcpyAtoD_v2_ptds, cuMemcpyAtoA_v2_ptds, cuStreamSynchronize_ptsz,
};

static CUarray array_of(size_t width, size_t height, size_t depth, unsigned flags) {
    const CUDA_ARRAY3D_DESCRIPTOR what = {width, height, depth, U32, 1, flags};
    CUarray array;
    CHECK(cuArray3DCreate_v2(&array, &what));
    return array;
}

static unsigned value(unsigned x, unsigned y, unsigned z) { return 1 + x + 100 * y + 10000 * z; }

// Rows of arrays, in and out, by every function that moves them.
static void rows(const Forms *f) {
    CUarray one = array_of(W, 0, 0, 0), other = array_of(W, 0, 0, 0);
    CUdeviceptr device;
    unsigned in[W], out[W], *pinned, wrong = 0;
    CHECK(cuMemAlloc(&device, sizeof in));
    CHECK(cuMemAllocHost((void **)&pinned, sizeof in));
    for (unsigned x = 0; x < W; ++x) in[x] = value(x, 0, 0);
    CHECK(f->host_to_array(one, 0, in, sizeof in));
    CHECK(f->array_to_device(device, one, 0, sizeof in));
    CHECK(f->device_to_array(other, 2 * WORD, device, sizeof in - 2 * WORD));
    CHECK(f->array_to_array(other, 0, one, (W - 2) * WORD, 2 * WORD));
    CHECK(f->array_to_host(out, other, 0, sizeof out));
    for (unsigned x = 0; x < W; ++x) wrong += out[x] != value(x < 2 ? W - 2 + x : x - 2, 0, 0);
    for (unsigned x = 0; x < W; ++x) pinned[x] = 7 * x;
    CHECK(f->host_to_array_async(one, 0, pinned, sizeof in, NULL));
    CHECK(f->synchronize(NULL));
    memset(pinned, 0, sizeof in);
    CHECK(f->array_to_host_async(pinned, one, WORD, sizeof in - WORD, NULL));
    CHECK(f->synchronize(NULL));
    for (unsigned x = 0; x + 1 < W; ++x) wrong += pinned[x] != 7 * (x + 1);
    CHECK_THAT(wrong == 0);
    printf("rows: %u wrong\n", wrong);
    CHECK(cuMemFreeHost(pinned));
    CHECK(cuMemFree(device));
    CHECK(cuArrayDestroy(one));
    CHECK(cuArrayDestroy(other));
}

// Planes with a pitch, cut out of larger ones.
static void planes(const Forms *f) {
    CUarray array = array_of(W, H, 0, 0);
    CUdeviceptr device;
    enum { PITCH = 32 * WORD };
    unsigned in[H][W], out[H][W], wrong = 0;
    CHECK(cuMemAlloc(&device, PITCH * H));
    for (unsigned y = 0; y < H; ++y) {
        for (unsigned x = 0; x < W; ++x) in[y][x] = value(x, y, 0);
    }
    CUDA_MEMCPY2D up = {.from_type = HOST, .from_host = in, .from_pitch = sizeof in[0], .to_type = ARRAY, .to_array = array, .width = sizeof in[0], .height = H};
    CHECK(f->flat(&up));
    CUDA_MEMCPY2D across = {.from_type = ARRAY, .from_array = array, .from_x = 2 * WORD, .from_y = 1, .to_type = DEVICE, .to_device = device, .to_pitch = PITCH, .to_x = WORD, .to_y = 2, .width = 10 * WORD, .height = 3};
    CHECK(f->flat_async(&across, NULL));
    CHECK(f->synchronize(NULL));
    memset(out, 0, sizeof out);
    CUDA_MEMCPY2D down = {.from_type = UNIFIED, .from_device = device, .from_pitch = PITCH, .from_x = WORD, .from_y = 2, .to_type = HOST, .to_host = out, .to_pitch = sizeof out[0], .to_x = 3 * WORD, .to_y = 3, .width = 10 * WORD, .height = 3};
    CHECK(f->unaligned(&down));
    for (unsigned y = 0; y < H; ++y) {
        for (unsigned x = 0; x < W; ++x) {
            const bool copied = y >= 3 && x >= 3 && x < 13;
            wrong += out[y][x] != (copied ? value(x - 1, y - 2, 0) : 0);
        }
    }
    CHECK_THAT(wrong == 0);
    printf("planes: %u wrong\n", wrong);
    CHECK(cuMemFree(device));
    CHECK(cuArrayDestroy(array));
}

// Boxes, between memory of each kind.
static void boxes(const Forms *f) {
    CUarray array = array_of(W, H, D, 0), layers = array_of(W, H, D, LAYERED);
    CUdeviceptr device;
    static unsigned in[D][H][W], out[D][H][W];
    memset(out, 0, sizeof out);
    unsigned wrong = 0, *pinned;
    CHECK(cuMemAlloc(&device, sizeof in));
    CHECK(cuMemAllocHost((void **)&pinned, sizeof in));
    for (unsigned z = 0; z < D; ++z) {
        for (unsigned y = 0; y < H; ++y) {
            for (unsigned x = 0; x < W; ++x) in[z][y][x] = value(x, y, z);
        }
    }
    CUDA_MEMCPY3D copy = {.from_type = HOST, .from_host = in, .from_pitch = W * WORD, .from_height = H, .to_type = ARRAY, .to_array = array, .width = W * WORD, .height = H, .depth = D};
    CHECK(f->box(&copy));
    CUDA_MEMCPY3D clear = copy;
    clear.from_host = out;
    clear.to_array = layers;
    CHECK(f->box(&clear));
    CUDA_MEMCPY3D through = {.from_type = ARRAY, .from_array = array, .from_x = WORD, .from_y = 1, .from_z = 1, .to_type = ARRAY, .to_array = layers, .width = 8 * WORD, .height = 4, .depth = 2};
    CHECK(f->box(&through));
    CUDA_MEMCPY3D to_device = {.from_type = ARRAY, .from_array = layers, .to_type = DEVICE, .to_device = device, .to_pitch = W * WORD, .to_height = H, .width = W * WORD, .height = H, .depth = D};
    CHECK(f->box_async(&to_device, NULL));
    CUDA_MEMCPY3D to_pinned = {.from_type = DEVICE, .from_device = device, .from_pitch = W * WORD, .from_height = H, .to_type = HOST, .to_host = pinned, .to_pitch = W * WORD, .to_height = H, .width = W * WORD, .height = H, .depth = D};
    CHECK(f->box_async(&to_pinned, NULL));
    CHECK(f->synchronize(NULL));
    memcpy(out, pinned, sizeof out);
    for (unsigned z = 0; z < D; ++z) {
        for (unsigned y = 0; y < H; ++y) {
            for (unsigned x = 0; x < W; ++x) {
                const bool copied = x < 8 && y < 4 && z < 2;
                wrong += out[z][y][x] != (copied ? value(x + 1, y + 1, z + 1) : 0);
            }
        }
    }
    CHECK_THAT(wrong == 0);
    printf("boxes: %u wrong\n", wrong);
    CHECK(cuMemFreeHost(pinned));
    CHECK(cuMemFree(device));
    CHECK(cuArrayDestroy(array));
    CHECK(cuArrayDestroy(layers));
}

static void everything(const Forms *f) {
    rows(f);
    planes(f);
    boxes(f);
}

static void passes_a_held_stream(CUmodule module) {
    Hold hold;
    CUstream blocking;
    make_hold(&hold, module);
    CHECK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    take_hold(&hold, blocking);
    // Arrays are made and destroyed with work on other streams going on.
    CUarray array = array_of(W, 0, 0, 0), other = array_of(W, H, 0, 0), deep = array_of(W, H, D, 0);
    CUdeviceptr device;
    unsigned in[W] = {5, 6, 7}, out[W] = {0};
    CHECK(cuMemAlloc(&device, sizeof in));
    CHECK(cuMemcpyHtoA_v2_ptds(array, 0, in, sizeof in));
    CHECK(cuMemcpyAtoD_v2_ptds(device, array, 0, sizeof in));
    CHECK(cuMemcpyDtoA_v2_ptds(array, WORD, device, 2 * WORD));
    CHECK(cuMemcpyAtoA_v2_ptds(array, 0, array, 2 * WORD, WORD));
    CHECK(cuMemcpyAtoH_v2_ptds(out, array, 0, sizeof out));
    CHECK_THAT(out[0] == 6 && out[1] == 5 && out[2] == 6);
    CHECK(cuMemcpyHtoAAsync_v2_ptsz(array, 0, in, sizeof in, NULL));
    CHECK(cuMemcpyAtoHAsync_v2_ptsz(out, array, 0, sizeof out, NULL));
    CHECK(cuStreamSynchronize_ptsz(NULL));
    CHECK_THAT(out[0] == 5 && out[2] == 7);
    CUDA_MEMCPY2D up = {.from_type = HOST, .from_host = in, .to_type = ARRAY, .to_array = other, .width = sizeof in, .height = 1};
    CUDA_MEMCPY2D down = {.from_type = ARRAY, .from_array = other, .to_type = HOST, .to_host = out, .width = sizeof in, .height = 1};
    CHECK(cuMemcpy2D_v2_ptds(&up));
    in[0] = 8;
    CHECK(cuMemcpy2DUnaligned_v2_ptds(&up));
    CHECK(cuMemcpy2DAsync_v2_ptsz(&down, NULL));
    CHECK(cuStreamSynchronize_ptsz(NULL));
    CHECK_THAT(out[0] == 8);
    CUDA_MEMCPY3D in3 = {.from_type = HOST, .from_host = in, .to_type = ARRAY, .to_array = deep, .to_z = 1, .width = sizeof in, .height = 1, .depth = 1};
    CUDA_MEMCPY3D out3 = {.from_type = ARRAY, .from_array = deep, .from_z = 1, .to_type = HOST, .to_host = out, .width = sizeof in, .height = 1, .depth = 1};
    in[1] = 9;
    CHECK(cuMemcpy3D_v2_ptds(&in3));
    CHECK(cuMemcpy3DAsync_v2_ptsz(&out3, NULL));
    CHECK(cuStreamSynchronize_ptsz(NULL));
    CHECK_THAT(out[0] == 8 && out[1] == 9);
    CHECK_THAT(holds(&hold));
    printf("copies passed a blocking stream that was held\n");
    let_go(&hold);
    CHECK(cuStreamSynchronize(blocking));
    CHECK_THAT(has_ended(&hold));
    CHECK(cuStreamDestroy(blocking));
    CHECK(cuMemFree(device));
    CHECK(cuArrayDestroy(array));
    CHECK(cuArrayDestroy(other));
    CHECK(cuArrayDestroy(deep));
    end_hold(&hold);
}

static void descriptions(void) {
    const CUDA_ARRAY_DESCRIPTOR flat = {17, 5, FLOAT, 2};
    CUDA_ARRAY_DESCRIPTOR seen;
    CUDA_ARRAY3D_DESCRIPTOR full;
    CUarray array, level, again;
    CUmipmappedArray pyramid;
    CHECK(cuArrayCreate_v2(&array, &flat));
    CHECK(cuArrayGetDescriptor_v2(&seen, array));
    CHECK_THAT(seen.width == 17 && seen.height == 5 && seen.format == FLOAT && seen.channels == 2);
    CHECK(cuArray3DGetDescriptor_v2(&full, array));
    CHECK_THAT(full.width == 17 && full.height == 5 && full.depth == 0 && full.flags == 0);
    CHECK(cuArrayDestroy(array));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuArrayDestroy(array));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuArrayGetDescriptor_v2(&seen, array));

    const CUDA_ARRAY3D_DESCRIPTOR base = {16, 12, 3, U8, 4, LAYERED};
    CHECK(cuMipmappedArrayCreate(&pyramid, &base, 4));
    CHECK(cuMipmappedArrayGetLevel(&level, pyramid, 2));
    CHECK(cuMipmappedArrayGetLevel(&again, pyramid, 2));
    CHECK_THAT(level == again);
    CHECK(cuArray3DGetDescriptor_v2(&full, level));
    CHECK_THAT(full.width == 4 && full.height == 3 && full.depth == 3 && full.channels == 4 && full.flags == LAYERED);
    unsigned char bytes[16] = {1}, back[16];
    CHECK(cuMemcpyHtoA_v2(level, 0, bytes, sizeof bytes));
    CHECK(cuMemcpyAtoH_v2(back, level, 0, sizeof back));
    CHECK_THAT(memcmp(bytes, back, sizeof back) == 0);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMipmappedArrayGetLevel(&level, pyramid, 9));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuArrayDestroy(again));
    CHECK(cuMipmappedArrayDestroy(pyramid));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuArray3DGetDescriptor_v2(&full, again));
}

static void refusals(void) {
    CUDA_ARRAY3D_DESCRIPTOR what = {0, 4, 0, U32, 1, 0};
    CUarray array = NULL;
    unsigned words[W] = {0};
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuArray3DCreate_v2(&array, &what));
    what.width = 4;
    what.channels = 3;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuArray3DCreate_v2(&array, &what));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuArray3DCreate_v2(NULL, &what));
    array = array_of(4, 4, 0, 0);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoA_v2(array, 8, words, 12));
    CUDA_MEMCPY2D copy = {.from_type = HOST, .from_host = words, .to_type = ARRAY, .to_array = array, .to_y = 3, .width = 16, .height = 2};
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D_v2(&copy));
    copy.from_type = 9;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D_v2(&copy));
    copy.from_type = DEVICE;
    copy.from_device = 4096;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D_v2(&copy));
    CHECK(cuArrayDestroy(array));
}

int main(void) {
    alarm(100);
    start();
    CUmodule module;
    CHECK(cuModuleLoadData(&module, kernels));
    everything(&plain);
    everything(&per_thread);
    passes_a_held_stream(module);
    descriptions();
    refusals();
    return result("drv_arrays");
}
