// Mistakes: bad launches, dead and forged handles, and the names of errors. None may harm the context.
//
// shows: cuGetErrorName, cuGetErrorString, cuLaunchKernel
#include "program.h"

EMBED_PTX(kernels, "kernels.ptx");
EMBED_PTX(bounded, "bounded.ptx");

static void names(void) {
    static const struct {
        CUresult code;
        const char *name;
    } known[] = {
        {0, "CUDA_SUCCESS"}, {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"},
        {3, "CUDA_ERROR_NOT_INITIALIZED"}, {4, "CUDA_ERROR_DEINITIALIZED"}, {100, "CUDA_ERROR_NO_DEVICE"},
        {101, "CUDA_ERROR_INVALID_DEVICE"}, {200, "CUDA_ERROR_INVALID_IMAGE"}, {201, "CUDA_ERROR_INVALID_CONTEXT"},
        {218, "CUDA_ERROR_INVALID_PTX"}, {400, "CUDA_ERROR_INVALID_HANDLE"}, {500, "CUDA_ERROR_NOT_FOUND"},
        {600, "CUDA_ERROR_NOT_READY"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"}, {719, "CUDA_ERROR_LAUNCH_FAILED"},
        {800, "CUDA_ERROR_NOT_PERMITTED"}, {801, "CUDA_ERROR_NOT_SUPPORTED"}, {999, "CUDA_ERROR_UNKNOWN"},
    };
    const char *last = "";
    for (size_t at = 0; at < sizeof known / sizeof *known; ++at) {
        const char *name = NULL, *text = NULL;
        CHECK(cuGetErrorName(known[at].code, &name));
        CHECK_THAT(name != NULL && strcmp(name, known[at].name) == 0);
        // What it says is compared with the runtime's elsewhere (errors.cu); neighbours differ.
        CHECK(cuGetErrorString(known[at].code, &text));
        CHECK_THAT(text != NULL && strlen(text) > 0 && strcmp(text, last) != 0);
        last = text;
        printf("%d %s\n", known[at].code, name);
    }
    const char *name = "", *text = "";
    CHECK_THAT(cuGetErrorName(123456, &name) == CUDA_ERROR_INVALID_VALUE);
    CHECK_THAT(cuGetErrorString(123456, &text) == CUDA_ERROR_INVALID_VALUE);
    CHECK_THAT(name == NULL && text == NULL);
}

static void launches(CUmodule module, CUdeviceptr data) {
    const CUfunction step = function_of(module, "step");
    unsigned n = 1, factor = 1, term = 1;
    void *parameters[] = {&data, &n, &factor, &term};
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(step, 0, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(step, 1, 1, 1, 0, 1, 1, 0, NULL, parameters, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(step, 1, 1, 1, 2048, 1, 1, 0, NULL, parameters, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(step, 1, 1, 1, 32, 32, 2, 0, NULL, parameters, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(step, 1, 70000, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(step, 1, 1, 1, 1, 1, 1, 1 << 20, NULL, parameters, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(step, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    CHECK_ERROR(CUDA_SUCCESS, cuLaunchKernel(step, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
}

// A bound that a kernel was compiled with is one of its launches, also of those after one that went well.
static void bounds(void) {
    CUmodule module;
    CHECK(cuModuleLoadData(&module, bounded));
    const CUfunction function = function_of(module, "bounded");
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(function, 1, 1, 1, 65, 1, 1, 0, NULL, NULL, NULL));
    CHECK(cuLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, NULL, NULL, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(function, 1, 1, 1, 8, 8, 2, 0, NULL, NULL, NULL));
    CHECK(cuLaunchKernel(function, 1, 1, 1, 8, 8, 1, 0, NULL, NULL, NULL));
    CHECK(cuModuleUnload(module));
}

// Null handles, and a destroyed one. What the driver does with a made-up pointer is its own affair, so
// forged handles are tried where ours is the driver (see the hostile tests).
static void handles(void) {
    CUstream stream;
    CUevent event, none = NULL;
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuEventRecord(none, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuEventQuery(none));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuEventDestroy(none));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuModuleUnload(NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuLibraryUnload(NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamCreate(NULL, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuEventCreate(NULL, 0));

    // An event may be destroyed while work that records it is pending.
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_DEFAULT));
    CHECK(cuEventRecord(event, stream));
    CHECK(cuEventDestroy(event));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuStreamDestroy(stream));
}

int main(void) {
    start();
    CUmodule module;
    CUdeviceptr data;
    CHECK(cuModuleLoadData(&module, kernels));
    CHECK(cuMemAlloc(&data, 4));
    CHECK(cuMemsetD32(data, 41, 1));
    names();
    launches(module, data);
    bounds();
    handles();
    unsigned value = 0;
    CHECK(cuMemcpyDtoH(&value, data, 4));
    CHECK_THAT(value == 42);
    printf("value %u\n", value);
    return result("drv_errors");
}
