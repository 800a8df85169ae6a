// Managed memory: one address for the program and its kernels, and what a program may say about it.
//
// shows: cuMemAllocManaged, cuMemPrefetchAsync, cuMemPrefetchAsync_ptsz, cuMemPrefetchAsync_v2,
// cuMemPrefetchAsync_v2_ptsz, cuMemAdvise, cuMemAdvise_v2, cuMemRangeGetAttribute, cuMemRangeGetAttributes,
// cuStreamAttachMemAsync, cuStreamAttachMemAsync_ptsz, cuPointerSetAttribute
#include "hold.h"
#include "memory_api.h"

EMBED_PTX(kernels, "kernels.ptx");
EMBED_PTX(addition, "vector_add.ptx");

enum { COUNT = 5000 };

static void arithmetic(CUfunction vector_add, CUstream stream) {
    CUdeviceptr a = 0, b = 0, c = 0;
    const unsigned count = COUNT;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAllocManaged(NULL, 16, CU_MEM_ATTACH_GLOBAL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAllocManaged(&a, 0, CU_MEM_ATTACH_GLOBAL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAllocManaged(&a, 16, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAllocManaged(&a, 16, CU_MEM_ATTACH_SINGLE));
    CHECK(cuMemAllocManaged(&a, COUNT * sizeof(float), CU_MEM_ATTACH_GLOBAL));
    CHECK(cuMemAllocManaged(&b, COUNT * sizeof(float), CU_MEM_ATTACH_HOST));
    CHECK(cuMemAllocManaged(&c, COUNT * sizeof(float), CU_MEM_ATTACH_GLOBAL));
    float *x = (float *)(uintptr_t)a, *y = (float *)(uintptr_t)b, *sum = (float *)(uintptr_t)c;
    for (int i = 0; i < COUNT; ++i) {
        x[i] = (float)i;
        y[i] = (float)(2 * i);
    }
    CHECK(cuStreamAttachMemAsync(stream, b, 0, CU_MEM_ATTACH_GLOBAL));
    void *parameters[] = {&a, &b, &c, (void *)&count};
    CHECK(cuLaunchKernel(vector_add, (COUNT + 255) / 256, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
    CHECK(cuStreamSynchronize(stream));
    int wrong = 0;
    for (int i = 0; i < COUNT; ++i) wrong += sum[i] != (float)(3 * i);
    CHECK_THAT(wrong == 0);

    // Copies and sets take it like any other memory, from and to everywhere.
    static float local[COUNT];
    CUdeviceptr device;
    CHECK(cuMemAlloc(&device, sizeof local));
    CHECK(cuMemcpy((CUdeviceptr)(uintptr_t)local, c, sizeof local));
    CHECK_THAT(local[COUNT - 1] == (float)(3 * (COUNT - 1)));
    local[7] = 70;
    CHECK(cuMemcpyHtoD(a, local, sizeof local));
    CHECK_THAT(x[7] == 70);
    CHECK(cuMemcpyDtoD(device, a, sizeof local));
    CHECK(cuMemcpyDtoH(local, device, sizeof local));
    CHECK_THAT(local[7] == 70 && local[8] == 24);
    CHECK(cuMemsetD32(b, 0x40400000, COUNT));
    CHECK_THAT(y[0] == 3 && y[COUNT - 1] == 3);
    CHECK(cuMemsetD8Async(b, 0, COUNT * sizeof(float), stream));
    CHECK(cuMemcpyAsync(device, b, sizeof local, stream));
    CHECK(cuMemcpyAsync(c, device, sizeof local, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK_THAT(y[1] == 0 && sum[1] == 0 && sum[COUNT - 1] == 0);
    CHECK(cuMemFree(device));
    CHECK(cuMemFree(a));
    CHECK(cuMemFree(b));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(sum));
    CHECK(cuMemFree(c));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemFree(c));
}

static void attributes(CUcontext context) {
    CUdeviceptr pointer, device = 0, base = 0;
    void *host = NULL;
    CUcontext owner = NULL;
    int managed = -1, type = -1;
    size_t size = 0;
    CHECK(cuMemAllocManaged(&pointer, 10000, CU_MEM_ATTACH_GLOBAL));
    CHECK(cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, pointer + 5000));
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer));
    CHECK(cuPointerGetAttribute(&host, CU_POINTER_ATTRIBUTE_HOST_POINTER, pointer + 8));
    CHECK(cuPointerGetAttribute(&device, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, pointer + 8));
    CHECK(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, pointer));
    CHECK_THAT(managed == 1 && type == CU_MEMORYTYPE_DEVICE && device == pointer + 8 && (uintptr_t)host == device && owner == context);
    CHECK(cuMemGetAddressRange(&base, &size, pointer + 9999));
    CHECK_THAT(base == pointer && size == 10000);
    CHECK(cuMemFree(pointer));
    CHECK(cuMemAlloc(&pointer, 64));
    CHECK(cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, pointer));
    CHECK_THAT(managed == 0);
    CHECK(cuMemFree(pointer));
}

static int asked(CUdeviceptr pointer, size_t bytes, int attribute) {
    int value = -99;
    CHECK(cuMemRangeGetAttribute(&value, sizeof value, attribute, pointer, bytes));
    return value;
}

static void advice(CUstream stream) {
    const CUmemLocation host = {CU_MEM_LOCATION_TYPE_HOST, 0}, here = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    const CUmemLocation nowhere = {CU_MEM_LOCATION_TYPE_DEVICE, 99};
    const size_t bytes = 1 << 20, half = bytes / 2;
    CUdeviceptr pointer, plain;
    CHECK(cuMemAllocManaged(&pointer, bytes, CU_MEM_ATTACH_GLOBAL));
    CHECK(cuMemAlloc(&plain, bytes));
    CHECK_THAT(asked(pointer, bytes, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY) == 0);
    CHECK_THAT(asked(pointer, bytes, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION) == CU_DEVICE_INVALID);
    CHECK_THAT(asked(pointer, bytes, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION) == CU_DEVICE_INVALID);
    CHECK(cuMemAdvise(pointer, half, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    CHECK_THAT(asked(pointer, half, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY) == 1);
    CHECK_THAT(asked(pointer, bytes, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY) == 0);
    CHECK(cuMemAdvise(pointer, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, CU_DEVICE_CPU));
    CHECK_THAT(asked(pointer, bytes, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION) == CU_DEVICE_CPU);
    CHECK(cuMemAdvise_v2(pointer, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, here));
    CHECK_THAT(asked(pointer, bytes, CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION) == 0);
    CHECK(cuMemAdvise(pointer, bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, 0));
    CHECK(cuMemPrefetchAsync(pointer, half, 0, stream));
    CHECK_THAT(asked(pointer, half, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION) == 0);
    CHECK(cuMemPrefetchAsync_v2(pointer, bytes, host, 0, stream));
    CHECK(cuMemPrefetchAsync_ptsz(pointer, half, CU_DEVICE_CPU, NULL));
    CHECK(cuMemPrefetchAsync_v2_ptsz(pointer, bytes, host, 0, NULL));
    CHECK(cuStreamSynchronize(stream));

    int mostly = -1, by[3] = {-9, -9, -9}, last = -9, kind = -9;
    int names[] = {CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION_TYPE};
    void *places[] = {&mostly, by, &last, &kind};
    size_t sizes[] = {sizeof mostly, sizeof by, sizeof last, sizeof kind};
    CHECK(cuMemRangeGetAttributes(places, sizes, names, 4, pointer, half));
    CHECK_THAT(mostly == 1 && by[0] == 0 && by[1] == CU_DEVICE_INVALID && by[2] == CU_DEVICE_INVALID);
    CHECK_THAT(last == CU_DEVICE_CPU && kind == CU_MEM_LOCATION_TYPE_HOST);

    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAdvise(plain, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAdvise(pointer, bytes + 1, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAdvise(pointer, 0, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAdvise(pointer, bytes, 99, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuMemAdvise(pointer, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, 99));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync(plain, bytes, 0, stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync(pointer, 0, 0, stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuMemPrefetchAsync(pointer, bytes, 99, stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuMemPrefetchAsync_v2(pointer, bytes, nowhere, 0, stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemPrefetchAsync_v2(pointer, bytes, here, 1, stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemRangeGetAttribute(&last, 3, names[0], pointer, bytes));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemRangeGetAttribute(NULL, 4, names[0], pointer, bytes));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemRangeGetAttribute(&last, 4, 99, pointer, bytes));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemRangeGetAttribute(&last, 4, names[0], plain, bytes));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamAttachMemAsync(stream, plain, 0, CU_MEM_ATTACH_GLOBAL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamAttachMemAsync(stream, pointer, half, CU_MEM_ATTACH_GLOBAL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamAttachMemAsync(NULL, pointer, 0, CU_MEM_ATTACH_SINGLE));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamAttachMemAsync(stream, pointer, 0, 8));
    CHECK(cuStreamAttachMemAsync(stream, pointer, bytes, CU_MEM_ATTACH_SINGLE));
    CHECK(cuStreamAttachMemAsync_ptsz(NULL, pointer, 0, CU_MEM_ATTACH_GLOBAL));
    CHECK(cuMemFree(pointer));
    CHECK(cuMemFree(plain));
}

// A kernel and the program talk through managed memory while the kernel runs.
static void conversation(CUfunction converse) {
    CUdeviceptr pointer;
    CHECK(cuMemAllocManaged(&pointer, 4096, CU_MEM_ATTACH_GLOBAL));
    _Atomic unsigned *mailbox = (_Atomic unsigned *)(uintptr_t)pointer;
    for (int i = 0; i < 3; ++i) mailbox[i] = 0;
    void *parameters[] = {&pointer};
    CHECK(cuLaunchKernel(converse, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    for (int tries = 0; tries < 60000 && mailbox[0] == 0; ++tries) usleep(1000);
    CHECK_THAT(mailbox[0] == 1);
    mailbox[1] = 21;
    CHECK(cuCtxSynchronize());
    CHECK_THAT(mailbox[2] == 42);
    CHECK(cuMemFree(pointer));
}

// Copies between device memory wait once the program asks for it.
static void synchronous(void) {
    CUdeviceptr pointer;
    int on = 1, off = 0, value = -1;
    CHECK(cuMemAlloc(&pointer, 4096));
    CHECK(cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, pointer + 100));
    CHECK(cuPointerGetAttribute(&value, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, pointer));
    CHECK_THAT(value == 1);
    CHECK(cuMemsetD8(pointer, 7, 4096));
    CHECK(cuStreamQuery(NULL));
    CHECK(cuMemcpyDtoD(pointer, pointer + 2048, 2048));
    CHECK(cuStreamQuery(NULL));
    CHECK(cuPointerSetAttribute(&off, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, pointer));
    CHECK(cuPointerGetAttribute(&value, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, pointer));
    CHECK_THAT(value == 0);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuPointerSetAttribute(NULL, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, pointer));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, 64));
    CHECK(cuMemFree(pointer));
}

int main(void) {
    int supported = 0, concurrent = 0;
    CUmodule module, sums;
    CUstream stream;
    const CUcontext context = start();
    CHECK(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 0));
    CHECK(cuDeviceGetAttribute(&concurrent, CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 0));
    CHECK_THAT(supported == 1 && concurrent == 1);
    CHECK(cuModuleLoadData(&module, kernels));
    CHECK(cuModuleLoadData(&sums, addition));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    arithmetic(function_of(sums, "vector_add"), stream);
    attributes(context);
    advice(stream);
    conversation(function_of(module, "converse"));
    synchronous();
    return result("drv_managed");
}
