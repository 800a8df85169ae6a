// Finding functions the way newer programs do: one symbol by name, all others by version.
#include "driver_api.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int failures;

static void check_that(bool holds, const char *what, int line) {
    if (!holds) {
        printf("FAIL line %d: %s\n", line, what);
        ++failures;
    }
}
#define CHECK_THAT(condition) check_that((condition), #condition, __LINE__)

typedef CUresult (*Resolve)(const char *, void **, int, uint64_t, int *);

int main(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
        printf("FAIL %s\n", dlerror());
        return 1;
    }
    Resolve resolve = (Resolve)dlsym(library, "cuGetProcAddress_v2");
    CHECK_THAT(resolve != NULL);
    if (!resolve) return 1;

    void *function = NULL;
    int status = 9;
    // Known, by its version; its older and its newer form are different functions.
    CHECK_THAT(resolve("cuMemAlloc", &function, 3020, CU_GET_PROC_ADDRESS_DEFAULT, &status) == CUDA_SUCCESS);
    CHECK_THAT(function == dlsym(library, "cuMemAlloc_v2") && status == CU_GET_PROC_ADDRESS_SYMBOL_FOUND);
    CHECK_THAT(resolve("cuMemAlloc", &function, 12000, CU_GET_PROC_ADDRESS_DEFAULT, &status) == CUDA_SUCCESS);
    CHECK_THAT(function == dlsym(library, "cuMemAlloc_v2"));
    CHECK_THAT(resolve("cuInit", &function, 2000, CU_GET_PROC_ADDRESS_DEFAULT, &status) == CUDA_SUCCESS);
    CHECK_THAT(function == dlsym(library, "cuInit"));
    CHECK_THAT(resolve("cuGetProcAddress", &function, 12000, CU_GET_PROC_ADDRESS_DEFAULT, NULL) == CUDA_SUCCESS);
    CHECK_THAT(function == (void *)resolve);

    // Legacy and per-thread stream forms.
    void *legacy = NULL, *per_thread = NULL;
    CHECK_THAT(resolve("cuLaunchKernel", &legacy, 12000, 1, &status) == CUDA_SUCCESS);
    CHECK_THAT(resolve("cuLaunchKernel", &per_thread, 12000, 2, &status) == CUDA_SUCCESS);
    CHECK_THAT(legacy == dlsym(library, "cuLaunchKernel") && per_thread == dlsym(library, "cuLaunchKernel_ptsz"));
    // A function without such a form comes as it is.
    CHECK_THAT(resolve("cuMemAlloc", &function, 12000, 2, &status) == CUDA_SUCCESS);
    CHECK_THAT(function == dlsym(library, "cuMemAlloc_v2"));

    // Unknown: no error, no function, and a status that says so.
    function = &status;
    CHECK_THAT(resolve("cuNoSuchFunction", &function, 12000, 0, &status) == CUDA_SUCCESS);
    CHECK_THAT(function == NULL && status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    CHECK_THAT(resolve("cuLibraryLoadData", &function, 11000, 0, &status) == CUDA_SUCCESS);
    CHECK_THAT(function == NULL && status == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    CHECK_THAT(resolve(NULL, &function, 12000, 0, &status) == CUDA_ERROR_INVALID_VALUE);
    CHECK_THAT(resolve("cuInit", NULL, 12000, 0, &status) == CUDA_ERROR_INVALID_VALUE);

    // A private table that nobody knows.
    CUresult (*tables)(const void **, const CUuuid *) = (CUresult (*)(const void **, const CUuuid *))dlsym(library, "cuGetExportTable");
    static const CUuuid unknown = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};
    const void *table = &unknown;
    CHECK_THAT(tables != NULL && tables(&table, &unknown) != CUDA_SUCCESS);

    if (failures) {
        printf("drv_resolver: FAIL (%d)\n", failures);
        return 1;
    }
    printf("drv_resolver: PASS\n");
    return 0;
}
