// The linker: PTX of several inputs becomes one image; duplicate and missing names, wrong input, logs, files.
//
// shows: cuLinkCreate_v2, cuLinkAddData_v2, cuLinkAddFile_v2, cuLinkComplete, cuLinkDestroy
#include "program.h"

#include <unistd.h>

#define HEAD ".version 7.0\n.target sm_52\n.address_size 64\n"
enum { CUBIN = 0, PTX = 1, LIBRARY = 4 };
enum { MAX_REGISTERS = 0, WALL_TIME = 2, INFO_LOG = 3, INFO_SIZE = 4, ERROR_LOG = 5, ERROR_SIZE = 6, VERBOSE = 12 };

static const char caller[] = HEAD
    ".extern .func (.param .b32 r) twice (.param .b32 x);\n"
    ".extern .global .align 4 .u32 offset;\n"
    ".weak .func (.param .b32 r) own (.param .b32 x)\n{ .reg .b32 %v; ld.param.u32 %v, [x]; st.param.b32 [r], %v; ret; }\n"
    ".visible .entry apply(.param .u64 to, .param .u32 from)\n{\n"
    "  .reg .b32 %v, %w;\n  .reg .b64 %a;\n"
    "  ld.param.u64 %a, [to];\n  ld.param.u32 %v, [from];\n"
    "  { .param .b32 x; .param .b32 r; st.param.b32 [x], %v; call.uni (r), twice, (x); ld.param.b32 %v, [r]; }\n"
    "  { .param .b32 x; .param .b32 r; st.param.b32 [x], %v; call.uni (r), own, (x); ld.param.b32 %v, [r]; }\n"
    "  ld.global.u32 %w, [offset];\n  add.u32 %v, %v, %w;\n  st.global.u32 [%a], %v;\n  ret;\n}\n";
static const char callee[] = HEAD
    ".visible .global .align 4 .u32 offset = 5;\n"
    ".visible .func (.param .b32 r) twice (.param .b32 x)\n{ .reg .b32 %v; ld.param.u32 %v, [x]; shl.b32 %v, %v, 1; st.param.b32 [r], %v; ret; }\n"
    ".visible .func (.param .b32 r) own (.param .b32 x)\n{ .reg .b32 %v; ld.param.u32 %v, [x]; add.u32 %v, %v, 100; st.param.b32 [r], %v; ret; }\n";

typedef struct {
    CUlinkState state;
    char info[1024], error[1024];
    int options[7];
    void *values[7];
} Link;

// Options in the order in which numba passes them, and one more.
static void begin(Link *link) {
    memset(link, 0, sizeof *link);
    const int options[] = {INFO_LOG, INFO_SIZE, ERROR_LOG, ERROR_SIZE, VERBOSE, MAX_REGISTERS, WALL_TIME};
    void *values[] = {link->info, (void *)sizeof link->info, link->error, (void *)sizeof link->error, (void *)1, (void *)64, NULL};
    memcpy(link->options, options, sizeof options);
    memcpy(link->values, values, sizeof values);
    CHECK(cuLinkCreate_v2(7, link->options, link->values, &link->state));
}

static CUresult add(Link *link, const char *text, const char *name) {
    return cuLinkAddData_v2(link->state, PTX, (void *)text, strlen(text) + 1, name, 0, NULL, NULL);
}

static void run(Link *link) {
    void *image;
    size_t size = 0;
    CHECK(cuLinkComplete(link->state, &image, &size));
    CHECK_THAT(image != NULL && size > 64);
    CUmodule module;
    CHECK(cuModuleLoadDataEx(&module, image, 0, NULL, NULL));
    CUdeviceptr to;
    unsigned from = 21, back = 0;
    CHECK(cuMemAlloc(&to, 4));
    void *parameters[] = {&to, &from};
    CHECK(cuLaunchKernel(function_of(module, "apply"), 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuMemcpyDtoH(&back, to, 4));
    CHECK_THAT(back == 2 * 21 + 100 + 5);
    printf("linked: %u\n", back);
    CHECK(cuMemFree(to));
    CHECK(cuModuleUnload(module));
}

static void data_and_files(void) {
    Link link;
    begin(&link);
    CHECK(add(&link, caller, "caller.ptx"));
    CHECK(add(&link, callee, "callee.ptx"));
    run(&link);
    CHECK(cuLinkDestroy(link.state));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, cuLinkDestroy(link.state));

    char path[] = "/tmp/drv_linker-XXXXXX";
    const int file = mkstemp(path);
    CHECK_THAT(file >= 0 && write(file, callee, strlen(callee)) == (ssize_t)strlen(callee));
    close(file);
    begin(&link);
    CHECK(cuLinkAddFile_v2(link.state, PTX, path, 0, NULL, NULL));
    CHECK(add(&link, caller, NULL));
    run(&link);
    unlink(path);
    CHECK_THAT(cuLinkAddFile_v2(link.state, PTX, path, 0, NULL, NULL) == CUDA_ERROR_FILE_NOT_FOUND);
    CHECK(cuLinkDestroy(link.state));

    // A large input takes another way than a small one.
    const size_t size = 300000;
    char *large = malloc(size + sizeof callee);
    memset(large, ' ', size);
    memcpy(large, "//", 2);
    large[size - 1] = '\n';
    memcpy(large + size, callee, sizeof callee);
    begin(&link);
    CHECK(add(&link, caller, "caller.ptx"));
    CHECK(add(&link, large, "large.ptx"));
    run(&link);
    CHECK(cuLinkDestroy(link.state));
    free(large);
}

static void errors(void) {
    Link link;
    void *image;
    size_t size;
    begin(&link);
    CHECK(add(&link, callee, "a.ptx"));
    CHECK_ERROR(CUDA_ERROR_INVALID_SOURCE, add(&link, callee, "b.ptx"));
    CHECK_THAT(strstr(link.error, "Multiple definition of") && strstr(link.error, "b.ptx"));
    CHECK_ERROR(CUDA_ERROR_UNKNOWN, cuLinkComplete(link.state, &image, &size));
    CHECK(cuLinkDestroy(link.state));

    begin(&link);
    CHECK(add(&link, caller, "caller.ptx"));
    CHECK_ERROR(CUDA_ERROR_UNKNOWN, cuLinkComplete(link.state, &image, &size));
    CHECK_THAT(strstr(link.error, "Undefined reference to"));
    CHECK_THAT((size_t)link.values[3] > 10);
    CHECK(cuLinkDestroy(link.state));

    begin(&link);
    CHECK_ERROR(CUDA_ERROR_INVALID_PTX, add(&link, HEAD ".visible .entry k() { nonsense.u32; }", "c.ptx"));
    CHECK_THAT(strstr(link.error, "nonsense"));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuLinkAddData_v2(link.state, 77, (void *)caller, 4, "d", 0, NULL, NULL));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuLinkAddData_v2(link.state, PTX, NULL, 4, "d", 0, NULL, NULL));
    CHECK(cuLinkDestroy(link.state));

    int unknown = 77;
    void *value = NULL;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuLinkCreate_v2(1, &unknown, &value, &link.state));
}

int main(void) {
    start();
    data_and_files();
    errors();
    return result("drv_linker");
}
