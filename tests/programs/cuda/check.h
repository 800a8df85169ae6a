// What every CUDA C test program shares: stop at the first unexpected error, count wrong values, and
// print nothing that differs between devices or runs.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>

#define CHECK(call)                                                                              \
    do {                                                                                         \
        const cudaError_t check_status = (call);                                                 \
        if (check_status != cudaSuccess) {                                                       \
            std::printf("FAIL %s:%d: %s: %s (%d)\n", check_file(__FILE__), __LINE__, #call,      \
                        cudaGetErrorName(check_status), static_cast<int>(check_status));         \
            std::exit(1);                                                                        \
        }                                                                                        \
    } while (0)

// The call must fail with exactly this error.
#define CHECK_ERROR(call, expected)                                                              \
    do {                                                                                         \
        const cudaError_t check_status = (call);                                                 \
        check_that(check_status == (expected), #call, __LINE__);                                 \
        std::printf("%s -> %s\n", #call, cudaGetErrorName(check_status));                        \
    } while (0)

#define CHECK_THAT(condition) check_that((condition), #condition, __LINE__)

static int check_failures = 0;

static inline const char *check_file(const char *path) {
    const char *name = path;
    for (const char *at = path; *at; ++at) {
        if (*at == '/') name = at + 1;
    }
    return name;
}

static inline void check_that(bool holds, const char *what, int line) {
    if (!holds) {
        std::printf("FAIL line %d: %s\n", line, what);
        ++check_failures;
    }
}

// What main returns: 0 and PASS, or 1 and the number of failures.
static inline int check_result(const char *program) {
    if (check_failures == 0) {
        std::printf("%s: PASS\n", program);
        return 0;
    }
    std::printf("%s: FAIL (%d)\n", program, check_failures);
    return 1;
}

// A reproducible sequence; the same on every machine.
struct Sequence {
    unsigned state;
    unsigned next() {
        state = state * 1664525u + 1013904223u;
        return state >> 8;
    }
};
