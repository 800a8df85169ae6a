// What modules and libraries hold, listed; clusters that fit; the range of a profiler; flags of a context.
//
// shows: cuModuleGetFunctionCount, cuModuleEnumerateFunctions, cuLibraryEnumerateKernels, cuKernelGetLibrary,
// cuKernelGetParamCount, cuFuncGetParamCount, cuOccupancyMaxActiveClusters, cuOccupancyMaxPotentialClusterSize,
// cuProfilerStart, cuProfilerStop, cuCtxSetFlags, cuCtxResetPersistingL2Cache
#include "program.h"

EMBED_PTX(kernels, "kernels.ptx");

enum { MANY = 3000 };

// More names than come in one answer: each kernel has a long one, and there are thousands.
static char *many_kernels(void) {
    char *text = malloc(MANY * 160 + 200), *at = text;
    at += sprintf(at, ".version 7.0\n.target sm_75\n.address_size 64\n");
    for (int i = 0; i < MANY; ++i) {
        at += sprintf(at, ".visible .entry kernel_with_a_name_that_takes_some_room_number_%d() { ret; }\n", i);
    }
    return text;
}

static void listed(void) {
    CUmodule module;
    CUlibrary library, owner;
    unsigned count = 0, in_library = 0;
    CHECK(cuModuleLoadData(&module, kernels));
    CHECK(cuModuleGetFunctionCount(&count, module));
    CHECK_THAT(count == 7);
    CUfunction functions[8] = {0};
    functions[7] = (CUfunction)7;
    CHECK(cuModuleEnumerateFunctions(functions, 8, module));
    CHECK_THAT(functions[7] == (CUfunction)7);
    int found = 0, same = 0;
    for (unsigned i = 0; i < count; ++i) {
        const char *name = NULL;
        CHECK(cuFuncGetName(&name, functions[i]));
        same += function_of(module, name) == functions[i];
        found += strcmp(name, "step") == 0;
    }
    printf("%u functions, %d of them by their name, \"step\" %d times\n", count, same, found);
    // Fewer than there are: as many as there is room for.
    CUfunction two[3] = {0};
    CHECK(cuModuleEnumerateFunctions(two, 2, module));
    CHECK_THAT(two[0] && two[1] && !two[2]);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuModuleEnumerateFunctions(NULL, 2, module));
    size_t parameters = 0;
    CHECK(cuFuncGetParamCount(function_of(module, "step"), &parameters));
    CHECK_THAT(parameters == 4);
    CHECK(cuModuleUnload(module));

    char *text = many_kernels();
    CHECK(cuLibraryLoadData(&library, text, NULL, NULL, 0, NULL, NULL, 0));
    CHECK(cuLibraryGetKernelCount(&in_library, library));
    CHECK_THAT(in_library == MANY);
    CUkernel *all = calloc(MANY, sizeof *all);
    CHECK(cuLibraryEnumerateKernels(all, MANY, library));
    char *seen = calloc(MANY, 1);
    int wrong = 0;
    for (int i = 0; i < MANY; ++i) {
        const char *name = NULL;
        CHECK(cuKernelGetName(&name, all[i]));
        const int number = atoi(strrchr(name, '_') + 1);
        wrong += seen[number]++;
    }
    CHECK_THAT(wrong == 0);
    CHECK(cuKernelGetLibrary(&owner, all[MANY - 1]));
    CHECK_THAT(owner == library);
    CHECK(cuKernelGetParamCount(all[0], &parameters));
    CHECK_THAT(parameters == 0);
    CHECK(cuLibraryUnload(library));
    free(all);
    free(seen);
    free(text);
    printf("%u kernels, each once\n", in_library);
}

static void clusters(void) {
    CUmodule module;
    int largest = 0, many = 0, fewer = 0, major = 0;
    CHECK(cuModuleLoadData(&module, kernels));
    CHECK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0));
    const CUfunction step = function_of(module, "step");
    CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION};
    CUlaunchConfig config = {.grid_x = 64, .grid_y = 1, .grid_z = 1, .block_x = 128, .block_y = 1, .block_z = 1};
    const unsigned two[3] = {2, 1, 1}, four[3] = {2, 2, 1}, none[3] = {0, 1, 1};
    config.attributes = &attribute;
    config.count = 1;
    memcpy(attribute.value.bytes, two, sizeof two);
    if (major >= 9) {
        CHECK(cuOccupancyMaxPotentialClusterSize(&largest, step, &config));
        CHECK_THAT(largest >= 8);
        CHECK(cuOccupancyMaxActiveClusters(&many, step, &config));
        memcpy(attribute.value.bytes, four, sizeof four);
        CHECK(cuOccupancyMaxActiveClusters(&fewer, step, &config));
        CHECK_THAT(fewer > 0 && many >= fewer);
        memcpy(attribute.value.bytes, none, sizeof none);
        CHECK_THAT(cuOccupancyMaxActiveClusters(&fewer, step, &config) != CUDA_SUCCESS);
        memcpy(attribute.value.bytes, two, sizeof two);
        CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuOccupancyMaxActiveClusters(NULL, step, &config));
    }
    CHECK(cuModuleUnload(module));
}

int main(void) {
    start();
    listed();
    clusters();
    unsigned flags = 0;
    CHECK(cuCtxSetFlags(4));
    CHECK(cuCtxGetFlags(&flags));
    CHECK_THAT((flags & 7) == 4);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuCtxSetFlags(1 << 20));
    CHECK(cuProfilerStart());
    CHECK(cuProfilerStop());
    CHECK(cuCtxResetPersistingL2Cache());
    return result("drv_code");
}
