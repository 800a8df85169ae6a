// What the examples share: finding the driver's functions, stopping at the first error, reading PTX.
#pragma once

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

// The few types of the Driver API that we need: handles are pointers, device addresses are 64-bit
// numbers, every call returns 0 or an error code.
typedef int Result;
typedef void *Handle;
typedef uint64_t DevicePointer;

// Finds a function of the driver. Names carry the version of their signature: "_v2".
static inline void *driver(const char *name) {
    static void *library;
    if (!library) library = dlopen("libcuda.so.1", RTLD_NOW);
    void *function = library ? dlsym(library, name) : NULL;
    if (!function) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return function;
}

static inline void check(Result status, const char *what) {
    if (status != 0) {
        Result (*error_name)(Result, const char **) = driver("cuGetErrorName");
        const char *name = "unknown error";
        error_name(status, &name);
        fprintf(stderr, "%s: %s\n", what, name);
        exit(1);
    }
}

static inline char *read_text(const char *path) {
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 1 << 16);
    if (!file || !text) {
        perror(path);
        exit(1);
    }
    size_t length = fread(text, 1, (1 << 16) - 1, file);
    fclose(file);
    text[length] = '\0';
    return text;
}
