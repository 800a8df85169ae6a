// Memory: allocation, ranges, pointer attributes, pinned and registered memory, copies and sets of every width.
//
// shows: cuMemAlloc_v2, cuMemAllocPitch_v2, cuMemFree_v2, cuMemGetInfo_v2, cuMemGetAddressRange_v2,
// cuMemHostAlloc, cuMemAllocHost_v2, cuMemFreeHost, cuMemHostGetDevicePointer_v2, cuMemHostGetFlags,
// cuMemHostRegister_v2, cuMemHostUnregister, cuPointerGetAttribute, cuPointerGetAttributes,
// cuMemcpy, cuMemcpyHtoD_v2, cuMemcpyDtoH_v2, cuMemcpyDtoD_v2,
// cuMemcpyAsync, cuMemcpyHtoDAsync_v2, cuMemcpyDtoHAsync_v2, cuMemcpyDtoDAsync_v2,
// cuMemsetD8_v2, cuMemsetD16_v2, cuMemsetD32_v2, cuMemsetD2D8_v2, cuMemsetD2D16_v2, cuMemsetD2D32_v2,
// cuMemsetD8Async, cuMemsetD16Async, cuMemsetD32Async, cuMemsetD2D8Async, cuMemsetD2D16Async, cuMemsetD2D32Async
#include "program.h"

enum { WORDS = 3000 };

static unsigned host[WORDS], back[WORDS];

static int differences(void) {
    int wrong = 0;
    for (int i = 0; i < WORDS; ++i) wrong += host[i] != back[i];
    return wrong;
}

static void allocation(void) {
    CUdeviceptr pointer, base;
    size_t bytes = 0, available = 0, total = 0;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAlloc(&pointer, 0));
    CHECK_ERROR(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&pointer, (size_t)1 << 60));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAlloc(NULL, 16));
    CHECK(cuMemAlloc(&pointer, 5000));
    CHECK_THAT(pointer % 256 == 0);
    CHECK(cuMemGetAddressRange(&base, &bytes, pointer + 4999));
    CHECK_THAT(base == pointer && bytes == 5000);
    CHECK_THAT(cuMemGetAddressRange(&base, &bytes, 16) != CUDA_SUCCESS);
    CHECK(cuMemGetInfo(&available, &total));
    CHECK_THAT(available > 0 && available <= total);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemFree(pointer + 256));
    CHECK_ERROR(CUDA_SUCCESS, cuMemFree(0));
    CHECK(cuMemFree(pointer));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemFree(pointer));

    // What is allocated is no longer available, and what is freed is.
    const size_t large = (size_t)64 << 20;
    size_t less = 0, more = 0;
    CHECK(cuMemGetInfo(&available, &total));
    CHECK(cuMemAlloc(&pointer, large));
    CHECK(cuMemGetInfo(&less, &total));
    CHECK_THAT(less + large <= available);
    CHECK(cuMemFree(pointer));
    CHECK(cuMemGetInfo(&more, &total));
    CHECK_THAT(more >= less + large && more <= total);

    // Rows that are as far apart as the pitch says, in memory that holds them all.
    size_t pitch = 0;
    CHECK(cuMemAllocPitch(&pointer, &pitch, 300, 10, 4));
    CHECK_THAT(pitch >= 300 && pitch % 4 == 0);
    CHECK(cuMemsetD8(pointer, 1, 10 * pitch));
    CHECK(cuMemsetD2D8(pointer, pitch, 2, 300, 10));
    for (size_t row = 0; row < 10; ++row) {
        unsigned char bytes_of_row[300];
        CHECK(cuMemcpyDtoH(bytes_of_row, pointer + row * pitch, 300));
        CHECK_THAT(bytes_of_row[0] == 2 && bytes_of_row[299] == 2);
    }
    CHECK(cuMemFree(pointer));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemAllocPitch(&pointer, &pitch, 300, 10, 3));
}

static void attributes(CUcontext context) {
    CUdeviceptr pointer, address = 0;
    CUcontext owner = NULL;
    unsigned type = 0;
    int ordinal = -1;
    size_t size = 0;
    CHECK(cuMemAlloc(&pointer, 1024));
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer + 8));
    CHECK_THAT(type == CU_MEMORYTYPE_DEVICE);
    CHECK(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_CONTEXT, pointer));
    CHECK_THAT(owner == context);
    CHECK(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer));
    CHECK_THAT(ordinal == 0);
    CHECK(cuPointerGetAttribute(&address, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, pointer + 100));
    CHECK_THAT(address == pointer);
    CHECK(cuPointerGetAttribute(&size, CU_POINTER_ATTRIBUTE_RANGE_SIZE, pointer + 100));
    CHECK_THAT(size == 1024);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)host));

    // The plural form answers for foreign pointers too, with nothing.
    int names[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, CU_POINTER_ATTRIBUTE_HOST_POINTER};
    void *on_host = NULL;
    void *values[] = {&type, &address, &on_host};
    CHECK(cuPointerGetAttributes(3, names, values, pointer + 12));
    CHECK_THAT(type == CU_MEMORYTYPE_DEVICE && address == pointer + 12 && on_host == NULL);
    CHECK(cuPointerGetAttributes(3, names, values, (CUdeviceptr)(uintptr_t)host));
    CHECK_THAT(type == 0);
    CHECK(cuMemFree(pointer));

    void *pinned;
    unsigned flags = 0;
    CHECK(cuMemHostAlloc(&pinned, 8192, CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_PORTABLE));
    // What is written by the one address is read by the other.
    memset(pinned, 0x5a, 8192);
    CHECK(cuMemHostGetDevicePointer(&address, (char *)pinned + 64, 0));
    CHECK(cuMemsetD8(address, 0x5b, 4));
    CHECK(cuStreamSynchronize(NULL));
    CHECK_THAT(((char *)pinned)[63] == 0x5a && ((char *)pinned)[64] == 0x5b && ((char *)pinned)[67] == 0x5b && ((char *)pinned)[68] == 0x5a);
    CHECK(cuMemHostGetFlags(&flags, pinned));
    CHECK_THAT((flags & CU_MEMHOSTALLOC_DEVICEMAP) && (flags & CU_MEMHOSTALLOC_PORTABLE));
    CHECK(cuPointerGetAttributes(3, names, values, (CUdeviceptr)(uintptr_t)pinned + 64));
    CHECK_THAT(type == CU_MEMORYTYPE_HOST && on_host == (char *)pinned + 64);
    CHECK(cuMemFreeHost(pinned));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(pinned));
}

static void copies(void) {
    CUdeviceptr one, two;
    unsigned *pinned;
    CHECK(cuMemAlloc(&one, sizeof host));
    CHECK(cuMemAlloc(&two, sizeof host));
    CHECK(cuMemAllocHost((void **)&pinned, sizeof host));
    for (int i = 0; i < WORDS; ++i) host[i] = (unsigned)i * 2654435761u;

    CHECK(cuMemcpyHtoD(one, host, sizeof host));
    CHECK(cuMemcpyDtoD(two, one, sizeof host));
    memset(back, 0, sizeof back);
    CHECK(cuMemcpyDtoH(back, two, sizeof back));
    CHECK_THAT(differences() == 0);

    // The direction found by address.
    CHECK(cuMemsetD8(one, 0, sizeof host));
    CHECK(cuMemcpy(one, (CUdeviceptr)(uintptr_t)host, sizeof host));
    memset(back, 0, sizeof back);
    CHECK(cuMemcpy((CUdeviceptr)(uintptr_t)back, one, sizeof back));
    CHECK_THAT(differences() == 0);

    // Asynchronous, through pinned memory, in stream order.
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    memcpy(pinned, host, sizeof host);
    CHECK(cuMemsetD32Async(one, 7, WORDS, stream));
    CHECK(cuMemcpyHtoDAsync(one, pinned, sizeof host, stream));
    CHECK(cuMemcpyDtoDAsync(two, one, sizeof host, stream));
    CHECK(cuMemcpyAsync(one, two, sizeof host, stream));
    CHECK(cuStreamSynchronize(stream));
    memset(pinned, 0, sizeof host);
    CHECK(cuMemcpyDtoHAsync(pinned, one, sizeof host, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK_THAT(memcmp(pinned, host, sizeof host) == 0);
    CHECK(cuStreamDestroy(stream));

    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(one + sizeof host - 4, host, 8));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(back, 4096, 16));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(one, NULL, 16));
    CHECK_ERROR(CUDA_SUCCESS, cuMemcpyHtoD(one, host, 0));
    CHECK(cuMemFreeHost(pinned));
    CHECK(cuMemFree(one));
    CHECK(cuMemFree(two));
}

static void registered(void) {
    static char memory[3 * 4096] __attribute__((aligned(4096)));
    CUdeviceptr device;
    unsigned type = 0;
    CHECK(cuMemHostRegister(memory, sizeof memory, 0));
    CHECK_ERROR(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, cuMemHostRegister(memory, sizeof memory, 0));
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)memory + 5000));
    CHECK_THAT(type == CU_MEMORYTYPE_HOST);
    CHECK(cuMemAlloc(&device, sizeof memory));
    memset(memory, 0x3c, sizeof memory);
    CHECK(cuMemcpyHtoDAsync(device, memory, sizeof memory, NULL));
    CHECK(cuMemsetD8Async(device + 1, 0x3d, 1, NULL));
    CHECK(cuMemcpyDtoHAsync(memory, device, sizeof memory, NULL));
    CHECK(cuStreamSynchronize(NULL));
    CHECK_THAT(memory[0] == 0x3c && memory[1] == 0x3d && memory[sizeof memory - 1] == 0x3c);
    CHECK(cuMemHostUnregister(memory));
    CHECK_ERROR(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(memory));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)memory));
    CHECK(cuMemFree(device));
}

// Each set writes what it should and no byte around it.
static void sets(void) {
    CUdeviceptr device;
    CHECK(cuMemAlloc(&device, sizeof host));
    unsigned char *expected = (unsigned char *)host;
    for (int async = 0; async < 2; ++async) {
        CHECK(cuMemsetD8(device, 0xee, sizeof host));
        memset(expected, 0xee, sizeof host);
        if (async) {
            CHECK(cuMemsetD8Async(device + 3, 0x11, 5, NULL));
            CHECK(cuMemsetD16Async(device + 102, 0x2233, 7, NULL));
            CHECK(cuMemsetD32Async(device + 204, 0x44556677, 9, NULL));
            CHECK(cuMemsetD2D8Async(device + 1001, 64, 0x88, 10, 3, NULL));
            CHECK(cuMemsetD2D16Async(device + 2002, 64, 0x99aa, 10, 3, NULL));
            CHECK(cuMemsetD2D32Async(device + 3004, 64, 0xbbccddee, 10, 3, NULL));
        } else {
            CHECK(cuMemsetD8(device + 3, 0x11, 5));
            CHECK(cuMemsetD16(device + 102, 0x2233, 7));
            CHECK(cuMemsetD32(device + 204, 0x44556677, 9));
            CHECK(cuMemsetD2D8(device + 1001, 64, 0x88, 10, 3));
            CHECK(cuMemsetD2D16(device + 2002, 64, 0x99aa, 10, 3));
            CHECK(cuMemsetD2D32(device + 3004, 64, 0xbbccddee, 10, 3));
        }
        memset(expected + 3, 0x11, 5);
        for (int i = 0; i < 7; ++i) memcpy(expected + 102 + 2 * i, &(uint16_t){0x2233}, 2);
        for (int i = 0; i < 9; ++i) memcpy(expected + 204 + 4 * i, &(uint32_t){0x44556677}, 4);
        for (int row = 0; row < 3; ++row) {
            memset(expected + 1001 + 64 * row, 0x88, 10);
            for (int i = 0; i < 10; ++i) memcpy(expected + 2002 + 64 * row + 2 * i, &(uint16_t){0x99aa}, 2);
            for (int i = 0; i < 10; ++i) memcpy(expected + 3004 + 64 * row + 4 * i, &(uint32_t){0xbbccddee}, 4);
        }
        CHECK(cuMemcpyDtoH(back, device, sizeof back));
        CHECK_THAT(differences() == 0);
    }
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemsetD32(device + 2, 0, 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuMemsetD8(device, 0, sizeof host + 1));
    CHECK(cuMemFree(device));
}

int main(void) {
    const CUcontext context = start();
    allocation();
    attributes(context);
    copies();
    registered();
    sets();
    return result("drv_memory");
}
