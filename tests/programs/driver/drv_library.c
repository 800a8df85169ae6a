// Libraries: context-independent loading, kernels launched by their own handle.
#include "program.h"

#include <unistd.h>

EMBED_PTX(kernels, "kernels.ptx");

int main(void) {
    start();
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
    CHECK(cuLibraryUnload(library));
    unlink(path);
    return result("drv_library");
}
