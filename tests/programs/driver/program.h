// What every Driver API test program shares: stop at the first unexpected error, count wrong values, and
// print nothing that differs between devices or runs.
#pragma once

#include "driver_api.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

static inline const char *error_name(CUresult status) {
    const char *name = "?";
    cuGetErrorName(status, &name);
    return name;
}

static inline void check(CUresult status, const char *what, int line) {
    if (status != CUDA_SUCCESS) {
        printf("FAIL line %d: %s: %s (%d)\n", line, what, error_name(status), status);
        exit(1);
    }
}

static inline void check_error(CUresult status, CUresult expected, const char *what, int line) {
    printf("%s -> %s\n", what, error_name(status));
    if (status != expected) {
        printf("FAIL line %d: %s: expected %d, got %d\n", line, what, expected, status);
        ++failures;
    }
}

static inline void check_that(bool holds, const char *what, int line) {
    if (!holds) {
        printf("FAIL line %d: %s\n", line, what);
        ++failures;
    }
}

#define CHECK(call) check((call), #call, __LINE__)
// The call must fail with exactly this error.
#define CHECK_ERROR(expected, call) check_error((call), (expected), #call, __LINE__)
#define CHECK_THAT(condition) check_that((condition), #condition, __LINE__)

// What main returns: 0 and PASS, or 1 and the number of failures.
static inline int result(const char *program) {
    if (failures == 0) {
        printf("%s: PASS\n", program);
        return 0;
    }
    printf("%s: FAIL (%d)\n", program, failures);
    return 1;
}

// Embeds a file of PTX text, zero-terminated, as `name`.
#define EMBED_PTX(name, file)                                                                      \
    __asm__(".pushsection .rodata\n.global " #name "\n" #name ":\n.incbin \"" PTX_DIR "/" file     \
            "\"\n.byte 0\n.popsection\n");                                                         \
    extern const char name[]

// Makes device 0's primary context current.
static inline CUcontext start(void) {
    CUdevice device;
    CUcontext context;
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuDevicePrimaryCtxRetain(&context, device));
    CHECK(cuCtxSetCurrent(context));
    return context;
}

static inline CUfunction function_of(CUmodule module, const char *name) {
    CUfunction function;
    CHECK(cuModuleGetFunction(&function, module, name));
    return function;
}
