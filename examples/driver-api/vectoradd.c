// Adds two vectors on the GPU through the CUDA Driver API, with nothing of NVIDIA's at build time:
// a C compiler, this file and the PTX beside it.
//
// Build: cc vectoradd.c -o vectoradd -ldl      Run: ./vectoradd [vectoradd.ptx]

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
static void *driver(const char *name) {
    static void *library;
    if (!library) library = dlopen("libcuda.so.1", RTLD_NOW);
    void *function = library ? dlsym(library, name) : NULL;
    if (!function) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return function;
}

static void check(Result status, const char *what) {
    if (status != 0) {
        Result (*error_name)(Result, const char **) = driver("cuGetErrorName");
        const char *name = "unknown error";
        error_name(status, &name);
        fprintf(stderr, "%s: %s\n", what, name);
        exit(1);
    }
}

static char *read_text(const char *path) {
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

int main(int argc, char **argv) {
    Result (*init)(unsigned) = driver("cuInit");
    Result (*device_name)(char *, int, int) = driver("cuDeviceGetName");
    Result (*retain)(Handle *, int) = driver("cuDevicePrimaryCtxRetain");
    Result (*make_current)(Handle) = driver("cuCtxSetCurrent");
    Result (*load)(Handle *, const void *) = driver("cuModuleLoadData");
    Result (*find)(Handle *, Handle, const char *) = driver("cuModuleGetFunction");
    Result (*allocate)(DevicePointer *, size_t) = driver("cuMemAlloc_v2");
    Result (*copy_in)(DevicePointer, const void *, size_t) = driver("cuMemcpyHtoD_v2");
    Result (*copy_out)(void *, DevicePointer, size_t) = driver("cuMemcpyDtoH_v2");
    Result (*release)(DevicePointer) = driver("cuMemFree_v2");
    Result (*launch)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                     Handle, void **, void **) = driver("cuLaunchKernel");

    // A device, and its primary context made current: what the CUDA runtime would do for us.
    char name[256];
    Handle context;
    check(init(0), "starting the driver");
    check(device_name(name, sizeof name, 0), "looking for a device");
    check(retain(&context, 0), "retaining the context");
    check(make_current(context), "making it current");
    printf("Running on %s\n", name);

    // The driver compiles the PTX text.
    Handle module, add;
    check(load(&module, read_text(argc > 1 ? argv[1] : "vectoradd.ptx")), "loading the PTX");
    check(find(&add, module, "add"), "finding the kernel");

    unsigned n = 1 << 20;
    size_t bytes = n * sizeof(float);
    float *a = malloc(bytes), *b = malloc(bytes), *c = malloc(bytes);
    if (!a || !b || !c) return 1;
    for (unsigned i = 0; i < n; ++i) {
        a[i] = (float)i;
        b[i] = 2 * (float)i;
    }

    DevicePointer device_a, device_b, device_c;
    check(allocate(&device_a, bytes), "allocating");
    check(allocate(&device_b, bytes), "allocating");
    check(allocate(&device_c, bytes), "allocating");
    check(copy_in(device_a, a, bytes), "copying in");
    check(copy_in(device_b, b, bytes), "copying in");

    // One thread for each element, in blocks of 256. Parameters are passed by address.
    void *parameters[] = {&device_a, &device_b, &device_c, &n};
    check(launch(add, (n + 255) / 256, 1, 1, 256, 1, 1, 0, NULL, parameters, NULL), "launching");

    // The copy back waits for the kernel.
    check(copy_out(c, device_c, bytes), "copying out");
    unsigned wrong = 0;
    for (unsigned i = 0; i < n; ++i) wrong += c[i] != a[i] + b[i];
    printf("%u additions, %u wrong\n", n, wrong);

    check(release(device_a), "freeing");
    check(release(device_b), "freeing");
    check(release(device_c), "freeing");
    free(a);
    free(b);
    free(c);
    return wrong != 0;
}
