// Modules from PTX text: functions, globals, constants, parameters, logs, and images that are refused.
//
// shows: cuModuleLoad, cuModuleLoadData, cuModuleLoadDataEx, cuModuleUnload, cuModuleGetFunction,
// cuModuleGetGlobal_v2, cuModuleGetLoadingMode, cuFuncGetAttribute, cuFuncSetAttribute, cuFuncSetCacheConfig, cuFuncSetSharedMemConfig,
// cuFuncGetName, cuFuncGetModule, cuFuncGetParamInfo, cuFuncLoad, cuFuncIsLoaded, cuLaunchKernel,
// cuOccupancyMaxActiveBlocksPerMultiprocessor, cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags,
// cuOccupancyMaxPotentialBlockSize, cuOccupancyAvailableDynamicSMemPerBlock
#include "program.h"

#include <unistd.h>

EMBED_PTX(kernels, "kernels.ptx");

static void functions_and_globals(CUmodule module) {
    CUfunction function;
    CUdeviceptr address;
    size_t bytes = 0;
    CHECK_ERROR(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&function, module, "no such kernel"));
    CHECK_ERROR(CUDA_ERROR_NOT_FOUND, cuModuleGetGlobal(&address, &bytes, module, "nothing"));

    CHECK(cuModuleGetGlobal(&address, &bytes, module, "table"));
    CHECK_THAT(bytes == 16);
    unsigned table[4];
    CHECK(cuMemcpyDtoH(table, address, sizeof table));
    CHECK_THAT(table[0] == 10 && table[1] == 20 && table[2] == 30 && table[3] == 40);
    table[3] = 1000;
    CHECK(cuMemcpyHtoD(address, table, sizeof table));
    CHECK(cuLaunchKernel(function_of(module, "count"), 2, 1, 1, 4, 1, 1, 0, NULL, NULL, NULL));
    CHECK(cuModuleGetGlobal(&address, NULL, module, "counter"));
    unsigned counter = 0;
    CHECK(cuMemcpyDtoH(&counter, address, sizeof counter));
    CHECK_THAT(counter == 100 + 2 * 1060);
    printf("counter %u\n", counter);

    CUdeviceptr out;
    float scaled[5], scale = 4;
    CHECK(cuMemAlloc(&out, sizeof scaled));
    void *parameters[] = {&out};
    function = function_of(module, "scaled");
    CHECK(cuLaunchKernel(function, 1, 1, 1, 5, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuMemcpyDtoH(scaled, out, sizeof scaled));
    CHECK_THAT(scaled[0] == 0 && scaled[3] == 7.5f);
    CHECK(cuModuleGetGlobal(&address, &bytes, module, "scale"));
    CHECK_THAT(bytes == 4);
    CHECK(cuMemcpyHtoD(address, &scale, sizeof scale));
    CHECK(cuLaunchKernel(function, 1, 1, 1, 5, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuMemcpyDtoH(scaled, out, sizeof scaled));
    CHECK_THAT(scaled[3] == 12);
    printf("scaled %g\n", (double)scaled[3]);
    CHECK(cuMemFree(out));
}

static void parameters_of_all_sizes(CUmodule module) {
    CUdeviceptr out;
    unsigned char a = 200;
    unsigned short b = 50000;
    unsigned c = 3000000000u;
    struct { uint64_t first, second; } d = {1ull << 40, 7};
    uint64_t sum = 0;
    CHECK(cuMemAlloc(&out, sizeof sum));
    const CUfunction mixed = function_of(module, "mixed");
    void *parameters[] = {&out, &a, &b, &c, &d};
    CHECK(cuLaunchKernel(mixed, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuMemcpyDtoH(&sum, out, sizeof sum));
    CHECK_THAT(sum == 200 + 50000 + 3000000000ull + (1ull << 40) + 7);
    printf("sum %llu\n", (unsigned long long)sum);

    static const size_t offsets[] = {0, 8, 10, 12, 16}, sizes[] = {8, 1, 2, 4, 16};
    size_t offset, bytes;
    for (size_t at = 0; at < 5; ++at) {
        CHECK(cuFuncGetParamInfo(mixed, at, &offset, &bytes));
        CHECK_THAT(offset == offsets[at] && bytes == sizes[at]);
    }
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuFuncGetParamInfo(mixed, 5, &offset, &bytes));
    CHECK(cuMemFree(out));
}

static void function_properties(CUmodule module) {
    const CUfunction reverse = function_of(module, "reverse");
    const char *name = NULL;
    CUmodule owner = NULL;
    int value = 0;
    CHECK(cuFuncGetName(&name, reverse));
    CHECK_THAT(strcmp(name, "reverse") == 0);
    CHECK(cuFuncGetModule(&owner, reverse));
    CHECK_THAT(owner == module);
    CHECK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, reverse));
    CHECK_THAT(value == 1024);
    CHECK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, reverse));
    CHECK_THAT(value >= 256);
    CHECK(cuFuncSetAttribute(reverse, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 8192));
    CHECK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, reverse));
    CHECK_THAT(value == 8192);
    // A preference: it is taken, or it is no such preference.
    CHECK(cuFuncSetCacheConfig(reverse, CU_FUNC_CACHE_PREFER_L1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuFuncSetCacheConfig(reverse, 99));
    CHECK(cuFuncSetSharedMemConfig(reverse, CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuFuncSetSharedMemConfig(reverse, 99));
    int loaded = 9;
    CHECK(cuFuncLoad(reverse));
    CHECK(cuFuncIsLoaded(&loaded, reverse));
    CHECK_THAT(loaded == CU_FUNCTION_LOADING_STATE_LOADED);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuFuncGetAttribute(&value, 1000, reverse));

    // What fits on a processor at once: not more threads than it takes, and fewer where each block takes more.
    int blocks = 0, same = 0, fewer = 0, grid = 0, block = 0, processors = 0, most = 0;
    size_t shared = 0, less = 0;
    CHECK(cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    CHECK(cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 0));
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, reverse, 256, 1024));
    CHECK_THAT(blocks >= 1 && blocks * 256 <= most);
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&same, reverse, 256, 1024, 0));
    CHECK_THAT(same == blocks);
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&fewer, reverse, 512, 1024));
    CHECK_THAT(fewer >= 1 && fewer < blocks);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&same, reverse, 256, 1024, 64));
    // A grid that fills the device with blocks of the size that suits it best.
    CHECK(cuOccupancyMaxPotentialBlockSize(&grid, &block, reverse, NULL, 1024, 0));
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, reverse, block, 1024));
    CHECK_THAT(block >= 32 && grid == blocks * processors);
    CHECK(cuOccupancyMaxPotentialBlockSize(&grid, &block, reverse, NULL, 1024, 64));
    CHECK_THAT(block <= 64);
    CHECK(cuOccupancyAvailableDynamicSMemPerBlock(&shared, reverse, 1, 256));
    CHECK(cuOccupancyAvailableDynamicSMemPerBlock(&less, reverse, 4, 256));
    CHECK_THAT(shared >= 8192 && less < shared);

    unsigned data[200];
    CUdeviceptr device;
    for (unsigned i = 0; i < 200; ++i) data[i] = i;
    CHECK(cuMemAlloc(&device, sizeof data));
    CHECK(cuMemcpyHtoD(device, data, sizeof data));
    void *parameters[] = {&device};
    CHECK(cuLaunchKernel(reverse, 1, 1, 1, 200, 1, 1, sizeof data, NULL, parameters, NULL));
    CHECK(cuMemcpyDtoH(data, device, sizeof data));
    int wrong = 0;
    for (unsigned i = 0; i < 200; ++i) wrong += data[i] != 199 - i;
    CHECK_THAT(wrong == 0);
    printf("reversed: %d wrong\n", wrong);
    CHECK(cuMemFree(device));
}

static void refused_images(void) {
    CUmodule module = NULL;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuModuleLoadData(&module, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_PTX, cuModuleLoadData(&module, ".version 7.0\n.target sm_75\n.address_size 64\n.visible .entry f() { nonsense; }\n"));
    CHECK_ERROR(CUDA_ERROR_INVALID_IMAGE, cuModuleLoadData(&module, "neither text of PTX nor anything else"));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuModuleLoadData(NULL, kernels));

    // The compiler's complaint comes back in the caller's buffer.
    static char log[4096];
    int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)(uintptr_t)sizeof log};
    CHECK_ERROR(CUDA_ERROR_INVALID_PTX, cuModuleLoadDataEx(&module, ".version 7.0\n.target sm_75\n.address_size 64\n.visible .entry f() { bogus.u32 x; }\n", 2, options, values));
    CHECK_THAT(strlen(log) > 0);
    CHECK(cuModuleLoadDataEx(&module, kernels, 2, options, values));
    CHECK(cuModuleUnload(module));
}

static void from_a_file(void) {
    char path[] = "/tmp/drv_module.XXXXXX";
    const int file = mkstemp(path);
    CHECK_THAT(file >= 0);
    const size_t length = strlen(kernels);
    CHECK_THAT(write(file, kernels, length) == (ssize_t)length);
    close(file);
    CUmodule module;
    CHECK(cuModuleLoad(&module, path));
    functions_and_globals(module);
    CHECK(cuModuleUnload(module));
    unlink(path);
    CHECK_THAT(cuModuleLoad(&module, path) == CUDA_ERROR_FILE_NOT_FOUND);
}

// A module's variables are memory of the device while it is there, and no longer.
static void variables_end_with_it(void) {
    size_t bytes = 0;
    unsigned type = 0;
    CUdeviceptr address;
    CUmodule module;
    CHECK(cuModuleLoadData(&module, ".version 7.0\n.target sm_75\n.address_size 64\n.visible .global .align 4 .b8 big[67108864];\n"));
    CHECK(cuModuleGetGlobal(&address, &bytes, module, "big"));
    CHECK_THAT(bytes == (size_t)64 << 20);
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address + bytes - 1));
    CHECK_THAT(type == CU_MEMORYTYPE_DEVICE);
    CHECK(cuModuleUnload(module));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address + bytes - 1));
}

int main(void) {
    unsetenv("CUDA_MODULE_LOADING");
    start();
    // Unless the environment says otherwise, code is loaded when it is needed.
    int mode = 0;
    CHECK(cuModuleGetLoadingMode(&mode));
    CHECK_THAT(mode == CU_MODULE_LAZY_LOADING);
    variables_end_with_it();
    CUmodule module, second;
    CHECK(cuModuleLoadData(&module, kernels));
    functions_and_globals(module);
    parameters_of_all_sizes(module);
    function_properties(module);
    refused_images();

    // A second load of the same text has globals of its own.
    CHECK(cuModuleLoadData(&second, kernels));
    functions_and_globals(second);
    CHECK(cuModuleUnload(second));
    CHECK(cuModuleUnload(module));
    from_a_file();
    return result("drv_module");
}
