// Copies between contexts, peer access that is not offered, and several copies in one call.
//
// shows: cuMemcpyPeer, cuMemcpyPeer_ptds, cuMemcpyPeerAsync, cuMemcpyPeerAsync_ptsz, cuMemcpy3DPeer,
// cuMemcpy3DPeer_ptds, cuMemcpy3DPeerAsync, cuMemcpy3DPeerAsync_ptsz, cuCtxEnablePeerAccess,
// cuCtxDisablePeerAccess, cuDeviceGetP2PAttribute, cuMemcpyBatchAsync, cuMemcpyBatchAsync_ptsz,
// cuMemcpyBatchAsync_v2, cuMemcpyBatchAsync_v2_ptsz, cuMemcpyWithAttributesAsync,
// cuMemcpyWithAttributesAsync_ptsz
#include "memory_api.h"
#include "program.h"

enum { BYTES = 4096 };

static unsigned char host[BYTES], back[BYTES];

static void between_contexts(CUcontext first) {
    CUcontext second;
    CUdeviceptr here, there;
    CHECK(cuMemAlloc(&here, BYTES));
    CHECK(cuCtxCreate(&second, 0, 0));
    CHECK(cuMemAlloc(&there, BYTES));
    CHECK(cuCtxSetCurrent(first));
    for (int i = 0; i < BYTES; ++i) host[i] = (unsigned char)(i * 7);
    CHECK(cuMemcpyHtoD(here, host, BYTES));
    // A quarter each way.
    const size_t part = BYTES / 4;
    CHECK(cuMemcpyPeer(there, second, here, first, part));
    CHECK(cuMemcpyPeer_ptds(there + part, second, here + part, first, part));
    CHECK(cuMemcpyPeerAsync(there + 2 * part, second, here + 2 * part, first, part, NULL));
    CHECK(cuMemcpyPeerAsync_ptsz(there + 3 * part, second, here + 3 * part, first, part, NULL));
    CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    CHECK(cuCtxSynchronize());
    CHECK(cuMemcpyDtoH(back, there, BYTES));
    CHECK_THAT(memcmp(host, back, BYTES) == 0);
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuMemcpyPeer(there, NULL, here, first, part));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyPeer(there, second, here, first, BYTES + 1));

    // Boxes: 16 rows of 64 bytes each, 128 bytes apart here and 64 there.
    CHECK(cuMemsetD8(there, 0, BYTES));
    CUDA_MEMCPY3D_PEER box = {
        .from_type = CU_MEMORYTYPE_DEVICE, .from_device = here, .from_context = first, .from_pitch = 128, .from_height = 16,
        .to_type = CU_MEMORYTYPE_DEVICE, .to_device = there, .to_context = second, .to_pitch = 64, .to_height = 16,
        .width = 64, .height = 4, .depth = 1,
    };
    CHECK(cuMemcpy3DPeer(&box));
    box.from_y = box.to_y = 4;
    CHECK(cuMemcpy3DPeer_ptds(&box));
    box.from_y = box.to_y = 8;
    CHECK(cuMemcpy3DPeerAsync(&box, NULL));
    box.from_y = box.to_y = 12;
    CHECK(cuMemcpy3DPeerAsync_ptsz(&box, NULL));
    CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    CHECK(cuCtxSynchronize());
    CHECK(cuMemcpyDtoH(back, there, BYTES));
    int wrong = 0;
    for (int row = 0; row < 16; ++row) wrong += memcmp(back + row * 64, host + row * 128, 64) != 0;
    CHECK_THAT(wrong == 0 && back[1024] == 0);
    box.to_context = NULL;
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuMemcpy3DPeer(&box));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpy3DPeer(NULL));

    // No device here reaches another.
    CHECK_ERROR(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, cuCtxEnablePeerAccess(second, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuCtxEnablePeerAccess(second, 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuCtxEnablePeerAccess(first, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuCtxEnablePeerAccess(NULL, 0));
    CHECK_ERROR(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, cuCtxDisablePeerAccess(second));
    int value = 0;
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetP2PAttribute(&value, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 0, 99));
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetP2PAttribute(&value, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 0, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuDeviceGetP2PAttribute(&value, 99, 0, 0));
    CHECK(cuCtxDestroy(second));
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuMemcpyPeer(here, second, here, first, 1));
    CHECK(cuCtxSetCurrent(first));
    CHECK(cuMemFree(here));
}

static void batches(void) {
    enum { COPIES = 4 };
    CUdeviceptr device, to[COPIES], from[COPIES];
    CUstream stream;
    size_t sizes[COPIES], starts[] = {0, 2}, failed = 0;
    CUmemcpyAttributes attributes[2] = {{.order = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM}, {.order = CU_MEMCPY_SRC_ACCESS_ORDER_ANY, .flags = 1}};
    CHECK(cuMemAlloc(&device, BYTES));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    const size_t part = BYTES / COPIES;
    for (int i = 0; i < COPIES; ++i) {
        to[i] = device + i * part;
        from[i] = (CUdeviceptr)(uintptr_t)host + (COPIES - 1 - i) * part;
        sizes[i] = part;
    }
    CHECK(cuMemcpyBatchAsync(to, from, sizes, COPIES, attributes, starts, 2, &failed, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuMemcpyDtoH(back, device, BYTES));
    int wrong = 0;
    for (int i = 0; i < COPIES; ++i) wrong += memcmp(back + i * part, host + (COPIES - 1 - i) * part, part) != 0;
    CHECK_THAT(wrong == 0);
    // In the order of the stream: each part moves on by one.
    for (int i = 0; i < COPIES; ++i) {
        to[i] = (CUdeviceptr)(uintptr_t)back + i * part;
        from[i] = device + (COPIES - 1 - i) * part;
    }
    CHECK(cuMemcpyBatchAsync_v2(to, from, sizes, COPIES, attributes, starts, 1, stream));
    CHECK(cuMemcpyBatchAsync_ptsz(to, from, sizes, COPIES, attributes, starts, 1, &failed, NULL));
    CHECK(cuMemcpyBatchAsync_v2_ptsz(to, from, sizes, COPIES, attributes, starts, 2, NULL));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    CHECK_THAT(memcmp(host, back, BYTES) == 0);
    CHECK(cuMemcpyWithAttributesAsync(device, (CUdeviceptr)(uintptr_t)host, part, attributes, stream));
    CHECK(cuMemcpyWithAttributesAsync_ptsz(device + part, (CUdeviceptr)(uintptr_t)host, part, attributes, NULL));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    CHECK(cuMemcpyDtoH(back, device, 2 * part));
    CHECK_THAT(memcmp(host, back, part) == 0 && memcmp(host, back + part, part) == 0);

    sizes[2] = 2 * BYTES;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyBatchAsync(to, from, sizes, COPIES, attributes, starts, 2, &failed, stream));
    CHECK_THAT(failed == 2);
    sizes[2] = part;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyBatchAsync(to, from, sizes, 0, attributes, starts, 1, &failed, stream));
    CHECK_THAT(failed == (size_t)-1);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyBatchAsync(to, from, sizes, COPIES, attributes, starts, 2, &failed, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyBatchAsync(to, from, sizes, COPIES, attributes, starts + 1, 1, &failed, stream));
    attributes[0].order = 0;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyBatchAsync(to, from, sizes, COPIES, attributes, starts, 1, &failed, stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyWithAttributesAsync(device, device, part, attributes, stream));
    CHECK(cuStreamDestroy(stream));
    CHECK(cuMemFree(device));
}

int main(void) {
    const CUcontext context = start();
    between_contexts(context);
    batches();
    return result("drv_peers");
}
