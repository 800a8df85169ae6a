// Pools: allocation and freeing in stream order, what a pool keeps, and what it costs.
//
// shows: cuMemAllocAsync, cuMemAllocFromPoolAsync, cuMemFreeAsync, cuMemAllocAsync_ptsz,
// cuMemAllocFromPoolAsync_ptsz, cuMemFreeAsync_ptsz, cuDeviceGetDefaultMemPool, cuDeviceGetMemPool,
// cuDeviceSetMemPool, cuMemGetDefaultMemPool, cuMemGetMemPool, cuMemSetMemPool, cuMemPoolCreate,
// cuMemPoolDestroy, cuMemPoolTrimTo, cuMemPoolSetAttribute, cuMemPoolGetAttribute, cuMemPoolSetAccess,
// cuMemPoolGetAccess
#include "memory_api.h"
#include "hold.h"

EMBED_PTX(kernels, "kernels.ptx");
EMBED_PTX(addition, "vector_add.ptx");

static const size_t mebibyte = (size_t)1 << 20;
static const CUmemPoolProps pinned = {
    .type = CU_MEM_ALLOCATION_TYPE_PINNED,
    .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0},
};
static CUmemLocation here = {CU_MEM_LOCATION_TYPE_DEVICE, 0};

static uint64_t attribute(CUmemoryPool pool, int which) {
    uint64_t value = ~(uint64_t)0;
    CHECK(cuMemPoolGetAttribute(pool, which, &value));
    return value;
}

static int truth(CUmemoryPool pool, int which) {
    int value = -1;
    CHECK(cuMemPoolGetAttribute(pool, which, &value));
    return value;
}

static unsigned word_at(CUdeviceptr pointer) {
    unsigned word = 1;
    CHECK(cuMemcpyDtoH(&word, pointer, sizeof word));
    return word;
}

static size_t available(void) {
    size_t bytes = 0, total = 0;
    CHECK(cuMemGetInfo(&bytes, &total));
    return bytes;
}

static void which_pool(void) {
    CUmemoryPool first = NULL, current = NULL, own = NULL, none = (CUmemoryPool)(uintptr_t)4096;
    CHECK(cuDeviceGetDefaultMemPool(&first, 0));
    CHECK(cuDeviceGetMemPool(&current, 0));
    CHECK_THAT(first != NULL && first == current);
    CHECK(cuMemGetDefaultMemPool(&current, &here, CU_MEM_ALLOCATION_TYPE_PINNED));
    CHECK_THAT(first == current);
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetDefaultMemPool(&current, 99));
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuDeviceGetMemPool(&current, -1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuDeviceGetMemPool(NULL, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemGetMemPool(&current, &here, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolDestroy(first));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolDestroy(none));

    CHECK(cuMemPoolCreate(&own, &pinned));
    CHECK(cuDeviceSetMemPool(0, own));
    CHECK(cuDeviceGetMemPool(&current, 0));
    CHECK_THAT(current == own && own != first);
    CHECK(cuMemSetMemPool(&here, CU_MEM_ALLOCATION_TYPE_PINNED, first));
    CHECK(cuMemGetMemPool(&current, &here, CU_MEM_ALLOCATION_TYPE_PINNED));
    CHECK_THAT(current == first);
    CHECK(cuDeviceSetMemPool(0, own));
    // When it goes, the default one is current again.
    CHECK(cuMemPoolDestroy(own));
    CHECK(cuDeviceGetMemPool(&current, 0));
    CHECK_THAT(current == first);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuDeviceSetMemPool(0, own));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuDeviceSetMemPool(0, none));

    CUmemPoolProps odd = pinned;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolCreate(NULL, &pinned));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolCreate(&own, NULL));
    odd.type = 0;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolCreate(&own, &odd));
    odd = pinned;
    odd.location.id = 99;
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuMemPoolCreate(&own, &odd));
    odd = pinned;
    odd.handle_types = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    CHECK_ERROR(CUDA_ERROR_NOT_SUPPORTED, cuMemPoolCreate(&own, &odd));
}

static void life(CUstream stream) {
    CUdeviceptr pointer = 0, base = 0, again = 0;
    CUmemoryPool pool = NULL, owner = NULL;
    size_t size = 0;
    int type = 0;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAllocAsync(NULL, 16, stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAllocAsync(&pointer, 0, stream));
    CHECK_ERROR(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocAsync(&pointer, (size_t)1 << 50, stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAllocFromPoolAsync(&pointer, 16, NULL, stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(64, stream));

    CHECK(cuDeviceGetDefaultMemPool(&pool, 0));
    CHECK(cuMemAllocAsync(&pointer, 1000, stream));
    CHECK(cuMemGetAddressRange(&base, &size, pointer + 999));
    CHECK_THAT(base == pointer && size == 1000);
    CHECK(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, pointer));
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer));
    CHECK_THAT(owner == pool && type == CU_MEMORYTYPE_DEVICE);
    CHECK(cuMemsetD32Async(pointer, 0x01020304, 250, stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemsetD32Async(pointer, 0, 251, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK_THAT(word_at(pointer + 996) == 0x01020304);
    CHECK(cuMemFreeAsync(pointer, stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(pointer, stream));
    CHECK(cuMemAllocAsync(&again, 1000, stream));
    // Each kind may be freed the other way.
    CHECK(cuMemFree(again));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemFree(again));
    CHECK(cuMemAlloc(&pointer, 4096));
    CHECK(cuMemsetD8Async(pointer, 1, 4096, stream));
    CHECK(cuMemFreeAsync(pointer, stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemFree(pointer));
    CHECK(cuStreamSynchronize(stream));
}

// Work that was there before a free runs before it, and what reuses the memory runs behind it.
static void order(CUmodule module, CUmodule sums, CUstream stream, CUstream other) {
    enum { COUNT = 1024, ROUNDS = 50 };
    static Hold hold;
    const CUfunction vector_add = function_of(sums, "vector_add");
    const unsigned count = COUNT;
    CUdeviceptr a = 0, b = 0, out = 0, before = 0, after = 0, elsewhere = 0;
    CUmemoryPool pool = NULL;
    static float result_of[COUNT];
    make_hold(&hold, module);
    CHECK(cuMemPoolCreate(&pool, &pinned));
    CHECK(cuMemAllocAsync(&out, sizeof result_of, stream));
    for (int round = 0; round < ROUNDS; ++round) {
        CHECK(cuMemAllocFromPoolAsync(&a, sizeof result_of, pool, stream));
        CHECK(cuMemAllocFromPoolAsync(&b, sizeof result_of, pool, stream));
        CHECK(cuMemsetD32Async(a, 0x3f800000, COUNT, stream));
        CHECK(cuMemsetD32Async(b, 0x40000000, COUNT, stream));
        void *parameters[] = {&a, &b, &out, (void *)&count};
        CHECK(cuLaunchKernel(vector_add, COUNT / 128, 1, 1, 128, 1, 1, 0, stream, parameters, NULL));
        CHECK(cuMemFreeAsync(a, stream));
        CHECK(cuMemFreeAsync(b, stream));
    }
    CHECK(cuMemcpyDtoHAsync(result_of, out, sizeof result_of, stream));
    CHECK(cuStreamSynchronize(stream));
    int wrong = 0;
    for (int i = 0; i < COUNT; ++i) wrong += result_of[i] != 3.0f;
    CHECK_THAT(wrong == 0);

    // While its stream is held, freed memory is handed out again there and, unless that may wait, nowhere else.
    int no = 0;
    CHECK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES, &no));
    CHECK(cuMemAllocFromPoolAsync(&before, 8 * mebibyte, pool, stream));
    take_hold(&hold, stream);
    CHECK(cuMemsetD8Async(before, 9, 8 * mebibyte, stream));
    CHECK(cuMemFreeAsync(before, stream));
    CHECK(cuMemAllocFromPoolAsync(&after, 8 * mebibyte, pool, stream));
    CHECK_THAT(after == before);
    CHECK(cuMemFreeAsync(after, stream));
    CHECK(cuMemAllocFromPoolAsync(&elsewhere, 8 * mebibyte, pool, other));
    CHECK(cuMemsetD8Async(elsewhere, 5, 8 * mebibyte, other));
    CHECK(cuStreamSynchronize(other));
    CHECK_THAT(elsewhere != before && word_at(elsewhere) == 0x05050505 && holds(&hold));
    let_go(&hold);
    CHECK(cuStreamSynchronize(stream));
    CHECK_THAT(has_ended(&hold));
    CHECK(cuMemFreeAsync(elsewhere, other));
    CHECK(cuMemFreeAsync(out, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuStreamSynchronize(other));
    CHECK(cuMemPoolDestroy(pool));
    end_hold(&hold);
}

static void attributes(CUstream stream) {
    CUmemoryPool pool = NULL;
    CUdeviceptr pointers[4];
    CHECK(cuMemPoolCreate(&pool, &pinned));
    CHECK_THAT(truth(pool, CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES) == 1);
    CHECK_THAT(truth(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC) == 1);
    CHECK_THAT(truth(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES) == 1);
    CHECK_THAT(truth(pool, CU_MEMPOOL_ATTR_LOCATION_ID) == 0);
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) == 0);
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT) == 0);
    int no = 0;
    CHECK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC, &no));
    CHECK_THAT(truth(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC) == 0);
    uint64_t word = 0;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolGetAttribute(pool, 99, &word));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &word));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolGetAttribute(NULL, 1, &word));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolGetAttribute(pool, 1, NULL));

    // What is freed stays in the pool, and paid for, as far as the threshold goes.
    uint64_t threshold = 64 * mebibyte;
    CHECK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) == threshold);
    for (int i = 0; i < 4; ++i) CHECK(cuMemAllocFromPoolAsync(&pointers[i], 8 * mebibyte, pool, stream));
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT) == 32 * mebibyte);
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT) >= 32 * mebibyte);
    for (int i = 0; i < 4; ++i) CHECK(cuMemFreeAsync(pointers[i], stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT) == 0);
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH) == 32 * mebibyte);
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT) >= 32 * mebibyte);
    size_t during = available();
    CHECK(cuMemPoolTrimTo(pool, 16 * mebibyte));
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT) == 16 * mebibyte);
    CHECK_THAT(available() >= during + 16 * mebibyte);
    CHECK(cuMemPoolTrimTo(pool, 0));
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT) == 0 && available() >= during + 32 * mebibyte);
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH) >= 32 * mebibyte);
    word = 0;
    CHECK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, &word));
    CHECK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &word));
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH) == 0 && attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH) == 0);

    // Without a threshold a synchronisation gives all of it back.
    CHECK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &word));
    CHECK(cuMemAllocFromPoolAsync(&pointers[0], 8 * mebibyte, pool, stream));
    during = available();
    CHECK(cuMemFreeAsync(pointers[0], stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT) == 0 && available() >= during + 8 * mebibyte);

    // A pool that goes leaves what is in use, until that is freed.
    CHECK(cuMemAllocFromPoolAsync(&pointers[0], 8 * mebibyte, pool, stream));
    CHECK(cuMemPoolDestroy(pool));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolTrimTo(pool, 0));
    CHECK(cuMemsetD8Async(pointers[0], 1, 8 * mebibyte, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK_THAT(word_at(pointers[0]) == 0x01010101);
    during = available();
    CHECK(cuMemFreeAsync(pointers[0], stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK_THAT(available() >= during + 8 * mebibyte);
}

static void limits(CUstream stream) {
    CUmemPoolProps small = pinned;
    CUmemoryPool pool = NULL;
    CUdeviceptr first = 0, second = 0;
    small.most = 16 * mebibyte;
    CHECK(cuMemPoolCreate(&pool, &small));
    CHECK_THAT(attribute(pool, CU_MEMPOOL_ATTR_MAX_POOL_SIZE) == 16 * mebibyte);
    CHECK(cuMemAllocFromPoolAsync(&first, 12 * mebibyte, pool, stream));
    CHECK_ERROR(CUDA_ERROR_OUT_OF_MEMORY, cuMemAllocFromPoolAsync(&second, 12 * mebibyte, pool, stream));
    CHECK(cuMemFreeAsync(first, stream));
    // What was freed makes room, once that has run.
    CHECK(cuMemAllocFromPoolAsync(&second, 16 * mebibyte, pool, stream));
    CHECK(cuMemFreeAsync(second, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuMemPoolDestroy(pool));
}

static void permissions(void) {
    CUmemoryPool pool = NULL;
    int flags = -1;
    const CUmemAccessDesc nothing = {here, CU_MEM_ACCESS_FLAGS_PROT_NONE};
    const CUmemAccessDesc reading = {here, CU_MEM_ACCESS_FLAGS_PROT_READ};
    const CUmemAccessDesc writing = {here, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    const CUmemAccessDesc nowhere = {{CU_MEM_LOCATION_TYPE_DEVICE, 99}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CHECK(cuDeviceGetDefaultMemPool(&pool, 0));
    CHECK(cuMemPoolGetAccess(&flags, pool, &here));
    CHECK_THAT(flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    CHECK(cuMemPoolSetAccess(pool, &writing, 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolSetAccess(pool, &nothing, 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolSetAccess(pool, &reading, 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuMemPoolSetAccess(pool, &nowhere, 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPoolGetAccess(NULL, pool, &here));
}

// By stream 0 the per-thread forms mean the thread's own default stream.
static void per_thread(CUmodule module) {
    static Hold hold;
    CUmemoryPool pool = NULL;
    CUdeviceptr first = 0, second = 0;
    CUstream side;
    make_hold(&hold, module);
    CHECK(cuDeviceGetDefaultMemPool(&pool, 0));
    CHECK(cuStreamCreate(&side, CU_STREAM_DEFAULT));
    // The legacy default stream would wait for this one.
    take_hold(&hold, side);
    CHECK(cuMemAllocAsync_ptsz(&first, 256, NULL));
    CHECK(cuMemAllocFromPoolAsync_ptsz(&second, 256, pool, NULL));
    CHECK(cuMemsetD8Async(first, 3, 256, CU_STREAM_PER_THREAD));
    CHECK(cuMemcpyDtoDAsync(second, first, 256, CU_STREAM_PER_THREAD));
    CHECK(cuMemFreeAsync_ptsz(first, NULL));
    CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    CHECK_THAT(holds(&hold));
    let_go(&hold);
    CHECK(cuStreamSynchronize(side));
    CHECK_THAT(word_at(second) == 0x03030303);
    CHECK(cuMemFreeAsync_ptsz(second, NULL));
    CHECK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    CHECK(cuStreamDestroy(side));
    end_hold(&hold);
}

// What a context's streams were given goes with the context.
static void with_context(CUcontext context) {
    CUcontext own;
    CUdeviceptr pointer = 0;
    CUstream stream;
    CHECK(cuCtxCreate(&own, 0, 0));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemAllocAsync(&pointer, 8 * mebibyte, stream));
    const size_t during = available();
    CHECK(cuCtxDestroy(own));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuCtxSynchronize());
    CHECK_THAT(available() >= during + 8 * mebibyte);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemFree(pointer));
}

int main(void) {
    int supported = 0;
    CUmodule module, sums;
    CUstream stream, other;
    const CUcontext context = start();
    CHECK(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 0));
    CHECK_THAT(supported == 1);
    CHECK(cuModuleLoadData(&module, kernels));
    CHECK(cuModuleLoadData(&sums, addition));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    which_pool();
    life(stream);
    order(module, sums, stream, other);
    attributes(stream);
    limits(stream);
    permissions();
    per_thread(module);
    with_context(context);
    return result("drv_pools");
}
