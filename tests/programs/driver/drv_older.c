// Names that today's headers map to newer ones, as programs find them that look functions up by their plain name.
//
// shows: cuCtxCreate, cuCtxDestroy, cuCtxPopCurrent, cuCtxPushCurrent, cuEventDestroy, cuStreamDestroy, cuLinkCreate,
// cuLinkAddData, cuLinkAddFile, cuMemHostRegister
#include "program.h"
#include "older_api.h"

#include <stdlib.h>
#include <unistd.h>

enum { PTX = 1 };

static char twice[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .func (.param .b32 out) twice(.param .b32 in) {\n"
    ".reg .b32 %r<3>;\nld.param.b32 %r1, [in];\nadd.u32 %r2, %r1, %r1;\nst.param.b32 [out], %r2;\nret;\n}\n";
static const char entry[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".extern .func (.param .b32 out) twice(.param .b32 in);\n"
    ".visible .entry store(.param .u64 to) {\n"
    ".reg .b64 %rd<2>;\n.reg .b32 %r<2>;\n"
    "ld.param.u64 %rd1, [to];\n"
    "{\n.param .b32 a;\n.param .b32 b;\nst.param.b32 [a], 21;\ncall.uni (b), twice, (a);\nld.param.b32 %r1, [b];\n}\n"
    "st.global.b32 [%rd1], %r1;\nret;\n}\n";

static void links(CUstream stream) {
    char path[] = "/tmp/older-XXXXXX";
    const int file = mkstemp(path);
    CUlinkState link;
    CUmodule module;
    CUfunction store;
    CUdeviceptr word;
    void *image;
    size_t bytes = 0;
    unsigned value = 0;
    CHECK_THAT(file >= 0 && write(file, entry, sizeof entry) == (ssize_t)sizeof entry && close(file) == 0);
    CHECK(cuLinkCreate(0, NULL, NULL, &link));
    CHECK(cuLinkAddData(link, PTX, twice, sizeof twice, "twice", 0, NULL, NULL));
    CHECK(cuLinkAddFile(link, PTX, path, 0, NULL, NULL));
    CHECK(cuLinkComplete(link, &image, &bytes));
    CHECK(cuModuleLoadData(&module, image));
    CHECK(cuLinkDestroy(link));
    unlink(path);
    CHECK(cuModuleGetFunction(&store, module, "store"));
    CHECK(cuMemAlloc(&word, 4));
    void *parameters[] = {&word};
    CHECK(cuLaunchKernel(store, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuMemcpyDtoH(&value, word, 4));
    CHECK_THAT(value == 42);
    CHECK(cuMemFree(word));
    CHECK(cuModuleUnload(module));
}

int main(void) {
    static char memory[4096] __attribute__((aligned(4096)));
    CUcontext context, popped = NULL, current = NULL;
    CUstream stream;
    CUevent event;
    unsigned type = 0;
    CHECK(cuInit(0));
    CHECK(cuCtxCreate(&context, CU_CTX_SCHED_SPIN, 0));
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(current == context);
    CHECK(cuCtxPopCurrent(&popped));
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(popped == context && current == NULL);
    CHECK(cuCtxPushCurrent(context));
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(current == context);

    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    links(stream);
    CHECK(cuEventCreate(&event, 0));
    CHECK(cuEventDestroy(event));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuEventRecord(event, stream));
    CHECK(cuStreamDestroy(stream));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuStreamQuery(stream));

    CHECK(cuMemHostRegister(memory, sizeof memory, 0));
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)memory));
    CHECK_THAT(type == CU_MEMORYTYPE_HOST);
    CHECK(cuMemHostUnregister(memory));
    CHECK(cuCtxDestroy(context));
    CHECK(cuCtxGetCurrent(&current));
    CHECK_THAT(current == NULL);
    return result("drv_older");
}
