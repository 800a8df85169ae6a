// Finding functions the way newer programs do: one symbol by name, all others by version.
//
// shows: cuGetProcAddress, cuGetProcAddress_v2, cuGetProcAddress_v2_ptsz, cuGetExportTable
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
typedef CUresult (*ResolveFirst)(const char *, void **, int, uint64_t);
typedef CUresult (*Version)(int *);

// The form of a function that its base name, a version and a flag stand for.
static void forms(void *library, Resolve resolve) {
    static const struct {
        const char *base;
        int version;
        uint64_t flags;
        const char *form;
    } known[] = {
        {"cuMemAlloc", 3020, 0, "cuMemAlloc_v2"},
        {"cuMemAlloc", 12080, 1, "cuMemAlloc_v2"},
        {"cuCtxCreate", 3020, 0, "cuCtxCreate_v2"},
        {"cuCtxCreate", 11030, 0, "cuCtxCreate_v2"},
        {"cuCtxCreate", 11040, 0, "cuCtxCreate_v3"},
        {"cuCtxCreate", 12050, 0, "cuCtxCreate_v4"},
        {"cuEventElapsedTime", 12070, 0, "cuEventElapsedTime"},
        {"cuEventElapsedTime", 12080, 0, "cuEventElapsedTime_v2"},
        {"cuDeviceGetUuid", 11030, 0, "cuDeviceGetUuid"},
        {"cuDeviceGetUuid", 11040, 0, "cuDeviceGetUuid_v2"},
        {"cuMemcpyHtoD", 7000, 2, "cuMemcpyHtoD_v2_ptds"},
        {"cuMemcpyHtoD", 7000, 1, "cuMemcpyHtoD_v2"},
        {"cuStreamGetCaptureInfo", 10010, 2, "cuStreamGetCaptureInfo_ptsz"},
        {"cuStreamGetCaptureInfo", 12030, 2, "cuStreamGetCaptureInfo_v3_ptsz"},
        {"cuStreamGetCaptureInfo", 12030, 1, "cuStreamGetCaptureInfo_v3"},
        {"cuGetProcAddress", 11030, 0, "cuGetProcAddress"},
        {"cuGetProcAddress", 12000, 0, "cuGetProcAddress_v2"},
    };
    for (size_t at = 0; at < sizeof known / sizeof *known; ++at) {
        void *function = NULL;
        int status = 9;
        const CUresult result = resolve(known[at].base, &function, known[at].version, known[at].flags, &status);
        const bool right = result == CUDA_SUCCESS && status == CU_GET_PROC_ADDRESS_SYMBOL_FOUND && function == dlsym(library, known[at].form);
        if (!right) printf("%s at %d is not %s\n", known[at].base, known[at].version, known[at].form);
        CHECK_THAT(function != NULL && right);
    }
}

// The per-thread form prefers per-thread forms unless it is told otherwise. Programs have it from the header
// as a rule, and not every driver exports it.
static void per_thread_form(void *library) {
    const Resolve resolve = (Resolve)dlsym(library, "cuGetProcAddress_v2_ptsz");
    void *function = NULL;
    int status = 9;
    if (!resolve) return;
    CHECK_THAT(resolve("cuLaunchKernel", &function, 12000, CU_GET_PROC_ADDRESS_DEFAULT, &status) == CUDA_SUCCESS);
    CHECK_THAT(function == dlsym(library, "cuLaunchKernel_ptsz") && status == CU_GET_PROC_ADDRESS_SYMBOL_FOUND);
    CHECK_THAT(resolve("cuLaunchKernel", &function, 12000, CU_GET_PROC_ADDRESS_LEGACY_STREAM, &status) == CUDA_SUCCESS);
    CHECK_THAT(function == dlsym(library, "cuLaunchKernel"));
    CHECK_THAT(resolve("cuMemAlloc", &function, 12000, CU_GET_PROC_ADDRESS_DEFAULT, &status) == CUDA_SUCCESS);
    CHECK_THAT(function == dlsym(library, "cuMemAlloc_v2"));
}

// The first form has no status: what is not found is an error.
static void first_form(void *library, int version) {
    const ResolveFirst resolve = (ResolveFirst)dlsym(library, "cuGetProcAddress");
    void *function = NULL;
    CHECK_THAT(resolve("cuMemAlloc", &function, 12000, CU_GET_PROC_ADDRESS_DEFAULT) == CUDA_SUCCESS);
    CHECK_THAT(function == dlsym(library, "cuMemAlloc_v2"));
    CHECK_THAT(resolve("cuLaunchKernel", &function, 12000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) == CUDA_SUCCESS);
    CHECK_THAT(function == dlsym(library, "cuLaunchKernel_ptsz"));
    CHECK_THAT(resolve("cuNoSuchFunction", &function, 12000, CU_GET_PROC_ADDRESS_DEFAULT) == CUDA_ERROR_NOT_FOUND);
    CHECK_THAT(resolve("cuInit", &function, version + 10, CU_GET_PROC_ADDRESS_DEFAULT) == CUDA_ERROR_INVALID_VALUE);
}

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
    // What the runtime asks first, to see whether anybody answers.
    function = &status;
    CHECK_THAT(resolve("", &function, 0, 0, &status) == CUDA_SUCCESS);
    CHECK_THAT(function == NULL && status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    CHECK_THAT(resolve(NULL, &function, 12000, 0, &status) == CUDA_ERROR_INVALID_VALUE);
    CHECK_THAT(resolve("cuInit", NULL, 12000, 0, &status) == CUDA_ERROR_INVALID_VALUE);

    // What is found can be called, and no version is newer than what it says.
    int version = 0, same = 0;
    CHECK_THAT(resolve("cuDriverGetVersion", &function, 2020, 0, NULL) == CUDA_SUCCESS);
    CHECK_THAT(((Version)function)(&version) == CUDA_SUCCESS);
    CHECK_THAT(((Version)dlsym(library, "cuDriverGetVersion"))(&same) == CUDA_SUCCESS);
    CHECK_THAT(version >= 12000 && version == same);
    CHECK_THAT(resolve("cuInit", &function, version, 0, &status) == CUDA_SUCCESS && status == CU_GET_PROC_ADDRESS_SYMBOL_FOUND);
    CHECK_THAT(resolve("cuInit", &function, version + 10, 0, &status) == CUDA_ERROR_INVALID_VALUE);
    CHECK_THAT(resolve("cuInit", &function, 12000, 1 << 10, &status) == CUDA_ERROR_INVALID_VALUE);
    forms(library, resolve);
    first_form(library, version);
    per_thread_form(library);

    // A private table that nobody knows.
    CUresult (*tables)(const void **, const CUuuid *) = (CUresult (*)(const void **, const CUuuid *))dlsym(library, "cuGetExportTable");
    static const CUuuid unknown = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};
    const void *table = &unknown;
    CHECK_THAT(tables != NULL && tables(&table, &unknown) != CUDA_SUCCESS);
    CHECK_THAT(table == NULL);

    if (failures) {
        printf("drv_resolver: FAIL (%d)\n", failures);
        return 1;
    }
    printf("drv_resolver: PASS\n");
    return 0;
}
