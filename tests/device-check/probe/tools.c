#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

static void say(const char *head, const char *form, va_list arguments) {
    char text[1024];
    vsnprintf(text, sizeof text, form, arguments);
    for (char *at = text; *at; at++) {
        if (*at == '\n' || *at == '\t' || *at == '|') {
            *at = ' ';
        }
    }
    printf("%s%s\n", head, text);
    fflush(stdout);
}

void assume(enum verdict verdict, const char *decision, const char *statement, const char *evidence, ...) {
    char head[512];
    snprintf(head, sizeof head, "assume\t%d\t%s\t%s\t", (int)verdict, decision, statement);
    va_list arguments;
    va_start(arguments, evidence);
    say(head, evidence, arguments);
    va_end(arguments);
}

void number(const char *name, double value, const char *unit) {
    int digits = value >= 100 || value == 0 ? 0 : value >= 10 ? 1 : 2;
    printf("number\t%s\t%.*f\t%s\n", name, digits, value, unit);
    fflush(stdout);
}

void fact(const char *name, const char *text, ...) {
    char head[256];
    snprintf(head, sizeof head, "fact\t%s\t", name);
    va_list arguments;
    va_start(arguments, text);
    say(head, text, arguments);
    va_end(arguments);
}

void give_up(const char *decision, const char *statement, const char *reason, ...) {
    char head[512];
    snprintf(head, sizeof head, "assume\t%d\t%s\t%s\t", (int)UNTESTABLE, decision, statement);
    va_list arguments;
    va_start(arguments, reason);
    say(head, reason, arguments);
    va_end(arguments);
    _exit(0);
}

CUcontext start(void) {
    CUdevice device;
    CUcontext context;
    CUresult result = cuInit(0);
    if (!result) {
        result = cuDeviceGet(&device, 0);
    }
    if (!result) {
        result = cuDevicePrimaryCtxRetain(&context, device);
    }
    if (!result) {
        result = cuCtxSetCurrent(context);
    }
    if (result) {
        give_up("-", "a context can be had", "starting failed with %d", result);
    }
    return context;
}

CUfunction find_kernel(const char *name) {
    static CUmodule module;
    CUfunction function;
    CUresult result = module ? OK : cuModuleLoadData(&module, kernels);
    if (!result) {
        result = cuModuleGetFunction(&function, module, name);
    }
    if (result) {
        give_up("-", "our PTX loads", "kernel %s: %d", name, result);
    }
    return function;
}

CUresult launch(CUfunction function, CUstream stream, void **parameters) {
    return cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL);
}

uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

double percentile(double *values, size_t count, double share) {
    qsort(values, count, sizeof *values, by_value);
    return values[(size_t)((double)(count - 1) * share)];
}

double median(double *values, size_t count) {
    return percentile(values, count, 0.5);
}

int sealed_memory(size_t bytes) {
    int fd = memfd_create("probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        give_up("D13", "a sealed memfd can be had", "%s", strerror(errno));
    }
    return fd;
}

/* The candidates of idm-protocol's window, in its order. */
const uint64_t window_candidates[] = {
    0x700000000000, 0x6f0000000000, 0x6e0000000000, 0x6d0000000000,
    0x6c0000000000, 0x6b0000000000, 0x6a0000000000, 0x690000000000,
};
const size_t window_candidate_count = sizeof window_candidates / sizeof window_candidates[0];

void *map_at(uint64_t address, size_t bytes, int fd) {
    int protection = fd < 0 ? PROT_NONE : PROT_READ | PROT_WRITE;
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
    void *wanted = (void *)(uintptr_t)address;
    void *got = mmap(wanted, bytes, protection, flags | MAP_FIXED_NOREPLACE, fd, 0);
    if (got == MAP_FAILED) {
        return NULL;
    }
    if (got != wanted) {
        munmap(got, bytes);
        return NULL;
    }
    return got;
}
