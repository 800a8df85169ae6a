// Virtual memory management: addresses without memory, memory without an address, one mapped at the other, and
// what may be done with it then.
//
// shows: cuMemGetAllocationGranularity, cuMemAddressReserve, cuMemAddressFree, cuMemCreate, cuMemRelease,
// cuMemRetainAllocationHandle, cuMemGetAllocationPropertiesFromHandle, cuMemMap, cuMemUnmap, cuMemSetAccess,
// cuMemGetAccess
#include "memory_api.h"
#include "program.h"

EMBED_PTX(kernels, "kernels.ptx");
EMBED_PTX(addition, "vector_add.ptx");

static const CUmemAllocationProp pinned = {
    .type = CU_MEM_ALLOCATION_TYPE_PINNED,
    .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0},
};
static const CUmemAccessDesc writable = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
static const CUmemAccessDesc readable = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READ};
static const CUmemAccessDesc nothing = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_NONE};
static size_t grain;

static size_t available(void) {
    size_t bytes = 0, total = 0;
    CHECK(cuMemGetInfo(&bytes, &total));
    return bytes;
}

static unsigned word_at(CUdeviceptr pointer) {
    unsigned word = 0;
    CHECK(cuMemcpyDtoH(&word, pointer, sizeof word));
    return word;
}

static void arguments(void) {
    CUdeviceptr base = 0;
    CUmemGenericAllocationHandle memory = 0;
    size_t recommended = 0;
    CHECK(cuMemGetAllocationGranularity(&grain, &pinned, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    CHECK(cuMemGetAllocationGranularity(&recommended, &pinned, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
    CHECK_THAT(grain >= 4096 && (grain & (grain - 1)) == 0 && recommended % grain == 0);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemGetAllocationGranularity(NULL, &pinned, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemGetAllocationGranularity(&grain, NULL, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemGetAllocationGranularity(&grain, &pinned, 2));

    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(&base, 0, 0, 0, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(&base, grain + 1, 0, 0, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(&base, grain, 3, 0, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(&base, grain, 0, 0, 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAddressReserve(NULL, grain, 0, 0, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(grain, grain));

    CUmemAllocationProp odd = pinned;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&memory, 0, &pinned, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&memory, grain - 1, &pinned, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&memory, grain, &pinned, 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemCreate(NULL, grain, &pinned, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&memory, grain, NULL, 0));
    CHECK_ERROR(CUDA_ERROR_OUT_OF_MEMORY, cuMemCreate(&memory, (size_t)1 << 50, &pinned, 0));
    odd.type = 0;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemCreate(&memory, grain, &odd, 0));
    odd = pinned;
    odd.location.id = 99;
    CHECK_ERROR(CUDA_ERROR_INVALID_DEVICE, cuMemCreate(&memory, grain, &odd, 0));
    odd.location.type = CU_MEM_LOCATION_TYPE_HOST;
    CHECK_ERROR(CUDA_ERROR_NOT_SUPPORTED, cuMemCreate(&memory, grain, &odd, 0));
    odd = pinned;
    odd.handle_types = CU_MEM_HANDLE_TYPE_FABRIC;
    CHECK_ERROR(CUDA_ERROR_NOT_SUPPORTED, cuMemCreate(&memory, grain, &odd, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemRelease(0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemRelease(12345));
}

// Memory is usable only while it is mapped and a device may touch it, and counted until it is gone.
static void life(void) {
    CUdeviceptr base = 0;
    CUmemGenericAllocationHandle memory = 0;
    CUmemAllocationProp known;
    unsigned long long flags = 9;
    unsigned word = 0x01020304;
    CHECK(cuMemAddressReserve(&base, 4 * grain, 0, 0, 0));
    CHECK_THAT(base % grain == 0);
    CHECK(cuMemCreate(&memory, 2 * grain, &pinned, 0));
    CHECK(cuMemGetAllocationPropertiesFromHandle(&known, memory));
    CHECK_THAT(known.type == pinned.type && known.location.type == CU_MEM_LOCATION_TYPE_DEVICE && known.location.id == 0);

    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(&word, base, sizeof word));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemSetAccess(base, 2 * grain, &writable, 1));
    CHECK(cuMemMap(base + grain, 2 * grain, 0, memory, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(&word, base + grain, sizeof word));
    CHECK(cuMemGetAccess(&flags, &writable.location, base + grain));
    CHECK_THAT(flags == CU_MEM_ACCESS_FLAGS_PROT_NONE);
    CHECK(cuMemSetAccess(base + grain, 2 * grain, &writable, 1));
    CHECK(cuMemGetAccess(&flags, &writable.location, base + 2 * grain));
    CHECK_THAT(flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemGetAccess(&flags, &writable.location, base));

    CHECK(cuMemcpyHtoD(base + grain, &word, sizeof word));
    CHECK_THAT(word_at(base + grain) == word);
    CHECK(cuMemsetD8(base + 2 * grain, 7, grain));
    CHECK_THAT(word_at(base + 3 * grain - 4) == 0x07070707);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemsetD8(base + 2 * grain, 7, grain + 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemFree(base + grain));

    // Mapped twice, outside, too much of it, and half of it away: none of that.
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemMap(base + 2 * grain, grain, 0, memory, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemMap(base + 4 * grain, grain, 0, memory, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemMap(base, grain, 2 * grain, memory, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemMap(base, grain, 0, memory, 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemMap(base, grain, 0, memory + 1, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemUnmap(base + grain, grain));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemUnmap(base, 3 * grain));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemSetAccess(base + grain, grain, &writable, 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(base, 4 * grain));

    // Without its handle the memory stays as long as it is mapped, and may get one again.
    CUmemGenericAllocationHandle again = 0, more = 0;
    CHECK(cuMemRelease(memory));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemRelease(memory));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemMap(base, grain, 0, memory, 0));
    CHECK_THAT(word_at(base + grain) == word);
    CHECK(cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)(base + 2 * grain)));
    CHECK(cuMemRetainAllocationHandle(&more, (void *)(uintptr_t)(base + grain)));
    CHECK_THAT(again == more);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)base));
    CHECK(cuMemUnmap(base + grain, 2 * grain));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(&word, base + grain, sizeof word));
    CHECK(cuMemRelease(again));
    CHECK(cuMemMap(base, 2 * grain, 0, more, 0));
    CHECK(cuMemSetAccess(base, 2 * grain, &readable, 1));
    CHECK_THAT(word_at(base) == word && word_at(base + grain) == 0x07070707);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(base, &word, sizeof word));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemsetD8(base, 1, 4));
    CHECK(cuMemSetAccess(base, 2 * grain, &nothing, 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(&word, base, sizeof word));
    CHECK(cuMemRelease(more));
    const size_t during = available();
    CHECK(cuMemUnmap(base, 2 * grain));
    CHECK_THAT(available() >= during + 2 * grain);
    CHECK(cuMemAddressFree(base, 4 * grain));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAddressFree(base, 4 * grain));
}

// The same memory at two addresses.
static void aliases(CUfunction store) {
    CUdeviceptr base = 0;
    CUmemGenericAllocationHandle memory = 0;
    CHECK(cuMemAddressReserve(&base, 2 * grain, 0, 0, 0));
    CHECK(cuMemCreate(&memory, grain, &pinned, 0));
    CHECK(cuMemMap(base, grain, 0, memory, 0));
    CHECK(cuMemMap(base + grain, grain, 0, memory, 0));
    CHECK(cuMemRelease(memory));
    CHECK(cuMemSetAccess(base, 2 * grain, &writable, 1));
    CUdeviceptr to = base + 64;
    unsigned value = 4711;
    void *parameters[] = {&to, &value};
    CHECK(cuLaunchKernel(store, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    CHECK_THAT(word_at(base + 64) == 4711 && word_at(base + grain + 64) == 4711);
    unsigned long long first = 0, second = 1;
    CHECK(cuPointerGetAttribute(&first, CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID, base));
    CHECK(cuPointerGetAttribute(&second, CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID, base + grain));
    CHECK_THAT(first == second);
    // Several whole mappings at once.
    CHECK(cuMemUnmap(base, 2 * grain));
    CHECK(cuMemAddressFree(base, 2 * grain));
}

// A segment that grows piece by piece, as allocators keep it: arrays reach over pieces, a hole is filled again.
static void segment(CUfunction vector_add) {
    enum { PIECES = 5 };
    const unsigned count = (unsigned)(grain / sizeof(float)) + 1000;
    const size_t bytes = count * sizeof(float);
    CUdeviceptr base = 0;
    CHECK(cuMemAddressReserve(&base, 64 * grain, 0, 0, 0));
    CUmemAllocationProp exportable = pinned;
    exportable.handle_types = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    for (int piece = 0; piece < PIECES; ++piece) {
        CUmemGenericAllocationHandle memory = 0;
        CHECK(cuMemCreate(&memory, grain, &exportable, 0));
        CHECK(cuMemMap(base + piece * grain, grain, 0, memory, 0));
        CHECK(cuMemRelease(memory));
    }
    CHECK(cuMemSetAccess(base, PIECES * grain, &writable, 1));
    float *host = malloc(bytes), *sums = calloc(count, sizeof(float));
    for (unsigned i = 0; i < count; ++i) host[i] = (float)(i % 1000);
    CUdeviceptr a = base, b = base + bytes, c = base + 2 * bytes;
    CHECK_THAT(c + bytes <= base + PIECES * grain);
    CHECK(cuMemcpyHtoD(a, host, bytes));
    CHECK(cuMemcpyDtoD(b, a, bytes));
    CHECK(cuMemsetD32(c, 0xffffffff, count));
    void *parameters[] = {&a, &b, &c, (void *)&count};
    CHECK(cuLaunchKernel(vector_add, (count + 255) / 256, 1, 1, 256, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuMemcpyDtoH(sums, c, bytes));
    int wrong = 0;
    for (unsigned i = 0; i < count; ++i) wrong += sums[i] != 2 * host[i];
    CHECK_THAT(wrong == 0);

    CHECK(cuMemUnmap(base + grain, grain));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(sums, base + grain - 8, 16));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemUnmap(base, PIECES * grain));
    CUmemGenericAllocationHandle memory = 0;
    CHECK(cuMemCreate(&memory, grain, &pinned, 0));
    CHECK(cuMemMap(base + grain, grain, 0, memory, 0));
    CHECK(cuMemRelease(memory));
    // What was opened before says nothing about what is mapped there now.
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(sums, base + grain - 8, 16));
    CHECK(cuMemSetAccess(base, PIECES * grain, &writable, 1));
    CHECK(cuMemsetD8(base + grain, 0, grain));
    CHECK_THAT(word_at(base + grain) == 0 && word_at(base + 2 * grain - 4) == 0 && word_at(base + 4) != 0);
    const size_t during = available();
    CHECK(cuMemUnmap(base, PIECES * grain));
    CHECK_THAT(available() >= during + PIECES * grain);
    CHECK(cuMemAddressFree(base, 64 * grain));
    free(host);
    free(sums);
}

static void attributes(void) {
    CUdeviceptr base = 0, start = 0, mapping = 0;
    CUmemGenericAllocationHandle memory = 0;
    CUmemAllocationProp exportable = pinned;
    exportable.handle_types = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    CUcontext owner = (CUcontext)1;
    size_t size = 0, mapped_size = 0;
    unsigned long long types = 9;
    int mapped = -1, ordinal = -1, flags = -1, type = -1;
    CHECK(cuMemAddressReserve(&base, 4 * grain, 0, 0, 0));
    CHECK(cuPointerGetAttribute(&mapped, CU_POINTER_ATTRIBUTE_MAPPED, base + 1));
    CHECK(cuPointerGetAttribute(&start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, base + grain));
    CHECK_THAT(mapped == 0 && start == base);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, base));
    CHECK(cuMemCreate(&memory, grain, &exportable, 0));
    CHECK(cuMemMap(base + grain, grain, 0, memory, 0));
    CHECK(cuMemSetAccess(base + grain, grain, &readable, 1));
    const CUdeviceptr at = base + grain + 100;
    CHECK(cuPointerGetAttribute(&mapped, CU_POINTER_ATTRIBUTE_MAPPED, at));
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at));
    CHECK(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, at));
    CHECK(cuPointerGetAttribute(&flags, CU_POINTER_ATTRIBUTE_ACCESS_FLAGS, at));
    CHECK_THAT(mapped == 1 && type == CU_MEMORYTYPE_DEVICE && ordinal == 0 && flags == CU_MEM_ACCESS_FLAGS_PROT_READ);
    CHECK(cuPointerGetAttribute(&start, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, at));
    CHECK(cuPointerGetAttribute(&size, CU_POINTER_ATTRIBUTE_RANGE_SIZE, at));
    CHECK(cuPointerGetAttribute(&mapping, CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR, at));
    CHECK(cuPointerGetAttribute(&mapped_size, CU_POINTER_ATTRIBUTE_MAPPING_SIZE, at));
    CHECK_THAT(start == base && size == 4 * grain && mapping == base + grain && mapped_size == grain);
    CHECK(cuMemGetAddressRange(&start, &size, at));
    CHECK_THAT(start == base + grain && size == grain);
    CHECK(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, at));
    CHECK(cuPointerGetAttribute(&types, CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES, at));
    CHECK_THAT(owner == NULL && types == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    CHECK(cuMemUnmap(base + grain, grain));
    CHECK(cuMemRelease(memory));
    CHECK(cuMemAddressFree(base, 4 * grain));
}

// Memory and addresses belong to no context: they are there before one is and after it is gone.
static void without_context(CUcontext context) {
    CUdeviceptr base = 0;
    CUmemGenericAllocationHandle memory = 0;
    CUcontext other;
    CHECK(cuCtxSetCurrent(NULL));
    CHECK(cuMemAddressReserve(&base, grain, 0, 0, 0));
    CHECK(cuMemCreate(&memory, grain, &pinned, 0));
    CHECK(cuMemMap(base, grain, 0, memory, 0));
    CHECK(cuMemSetAccess(base, grain, &writable, 1));
    CHECK(cuCtxCreate(&other, 0, 0));
    CHECK(cuMemsetD32(base, 5, 4));
    CHECK(cuCtxSynchronize());
    CHECK(cuCtxDestroy(other));
    CHECK(cuCtxSetCurrent(context));
    CHECK_THAT(word_at(base + 12) == 5);
    CHECK(cuMemUnmap(base, grain));
    CHECK(cuMemRelease(memory));
    CHECK(cuMemAddressFree(base, grain));
}

// Last, for nothing works after it: a kernel that reaches what is unmapped.
static void fault(CUfunction store) {
    CUdeviceptr base = 0;
    unsigned value = 1;
    CHECK(cuMemAddressReserve(&base, grain, 0, 0, 0));
    void *parameters[] = {&base, &value};
    CHECK(cuLaunchKernel(store, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    CHECK_ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
}

int main(void) {
    int supported = 0;
    CUmodule module, sums;
    const CUcontext context = start();
    CHECK(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0));
    CHECK_THAT(supported == 1);
    CHECK(cuModuleLoadData(&module, kernels));
    CHECK(cuModuleLoadData(&sums, addition));
    arguments();
    life();
    aliases(function_of(module, "store"));
    segment(function_of(sums, "vector_add"));
    attributes();
    without_context(context);
    fault(function_of(module, "store"));
    return result("drv_vmm");
}
