// Libraries: context-independent loading, kernels launched by their own handle.
//
// shows: cuLibraryLoadData, cuLibraryLoadFromFile, cuLibraryUnload, cuLibraryGetKernel, cuLibraryGetKernelCount,
// cuLibraryGetModule, cuLibraryGetGlobal, cuKernelGetFunction, cuKernelGetAttribute, cuKernelSetAttribute,
// cuKernelSetCacheConfig, cuKernelGetName, cuKernelGetParamInfo, cuLaunchKernel
#include "program.h"

#include <unistd.h>

EMBED_PTX(kernels, "kernels.ptx");

// A library's variables are memory of the device while it is there, and no longer.
static void variables_end_with_it(void) {
    size_t bytes = 0;
    unsigned type = 0;
    CUdeviceptr address;
    CUlibrary library;
    CHECK(cuLibraryLoadData(&library, ".version 7.0\n.target sm_75\n.address_size 64\n.visible .global .align 4 .b8 big[67108864];\n", NULL, NULL, 0, NULL, NULL, 0));
    CHECK(cuLibraryGetGlobal(&address, &bytes, library, "big"));
    CHECK_THAT(bytes == (size_t)64 << 20);
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address + bytes - 1));
    CHECK_THAT(type == CU_MEMORYTYPE_DEVICE);
    CHECK(cuLibraryUnload(library));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address + bytes - 1));
}

int main(void) {
    start();
    variables_end_with_it();
    CUlibrary library;
    CUkernel kernel;
    CUfunction function;
    CUmodule module;
    CHECK(cuLibraryLoadData(&library, kernels, NULL, NULL, 0, NULL, NULL, 0));
    unsigned count = 0;
    CHECK(cuLibraryGetKernelCount(&count, library));
    CHECK_THAT(count == 7);
    CHECK(cuLibraryGetKernel(&kernel, library, "step"));
    CHECK_ERROR(CUDA_ERROR_NOT_FOUND, cuLibraryGetKernel(&kernel, library, "none"));
    CHECK(cuLibraryGetKernel(&kernel, library, "step"));
    const char *name = NULL;
    CHECK(cuKernelGetName(&name, kernel));
    CHECK_THAT(strcmp(name, "step") == 0);

    unsigned data[300];
    for (unsigned i = 0; i < 300; ++i) data[i] = i;
    CUdeviceptr device;
    CHECK(cuMemAlloc(&device, sizeof data));
    CHECK(cuMemcpyHtoD(device, data, sizeof data));
    unsigned n = 300, factor = 5, term = 2;
    void *parameters[] = {&device, &n, &factor, &term};

    // A kernel's handle stands for a function of the current context; so does what it leads to.
    CHECK(cuLaunchKernel((CUfunction)kernel, 3, 1, 1, 128, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuKernelGetFunction(&function, kernel));
    CHECK(cuLaunchKernel(function, 3, 1, 1, 128, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuLibraryGetModule(&module, library));
    CHECK(cuLaunchKernel(function_of(module, "step"), 3, 1, 1, 128, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuMemcpyDtoH(data, device, sizeof data));
    int wrong = 0;
    for (unsigned i = 0; i < 300; ++i) wrong += data[i] != ((i * 5 + 2) * 5 + 2) * 5 + 2;
    CHECK_THAT(wrong == 0);
    printf("three launches: %d wrong\n", wrong);

    int value = 0;
    CHECK(cuLibraryGetKernel(&kernel, library, "reverse"));
    CHECK(cuKernelGetAttribute(&value, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, kernel, 0));
    CHECK_THAT(value == 1024);
    CHECK(cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 4096, kernel, 0));
    CHECK(cuKernelGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel, 0));
    CHECK_THAT(value == 4096);
    // A preference: it is taken, or it is no such preference.
    CHECK(cuKernelSetCacheConfig(kernel, CU_FUNC_CACHE_PREFER_L1, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuKernelSetCacheConfig(kernel, 99, 0));
    size_t offset = 9, bytes = 9;
    CHECK(cuKernelGetParamInfo(kernel, 0, &offset, &bytes));
    CHECK_THAT(offset == 0 && bytes == 8);

    CUdeviceptr address;
    CHECK(cuLibraryGetGlobal(&address, &bytes, library, "counter"));
    CHECK_THAT(bytes == 4);
    unsigned counter = 0;
    CHECK(cuMemcpyDtoH(&counter, address, sizeof counter));
    CHECK_THAT(counter == 100);
    CHECK_ERROR(CUDA_ERROR_NOT_FOUND, cuLibraryGetGlobal(&address, &bytes, library, "none"));

    CHECK(cuMemFree(device));
    CHECK(cuLibraryUnload(library));

    // From a file, as the client sees it.
    char path[] = "/tmp/drv_library.XXXXXX";
    const int file = mkstemp(path);
    const size_t length = strlen(kernels);
    CHECK_THAT(file >= 0 && write(file, kernels, length) == (ssize_t)length);
    close(file);
    CHECK(cuLibraryLoadFromFile(&library, path, NULL, NULL, 0, NULL, NULL, 0));
    CHECK(cuLibraryGetKernelCount(&count, library));
    CHECK_THAT(count == 7);
    CHECK(cuLibraryGetKernel(&kernel, library, "step"));
    CHECK(cuMemAlloc(&device, 4));
    CHECK(cuMemsetD32(device, 10, 1));
    n = 1;
    CHECK(cuLaunchKernel((CUfunction)kernel, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuMemcpyDtoH(data, device, 4));
    CHECK_THAT(data[0] == 52);
    CHECK(cuMemFree(device));
    CHECK(cuLibraryUnload(library));
    unlink(path);
    CHECK_THAT(cuLibraryLoadFromFile(&library, path, NULL, NULL, 0, NULL, NULL, 0) == CUDA_ERROR_FILE_NOT_FOUND);
    return result("drv_library");
}
