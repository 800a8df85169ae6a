// Adds two vectors on the GPU through the CUDA Driver API, with nothing of NVIDIA's at build time:
// a C compiler, this file, driver.h and the PTX beside it.
//
// Build: cc vectoradd.c -o vectoradd -ldl      Run: ./vectoradd [vectoradd.ptx]

#include "driver.h"

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
    printf("%u additions, %u wrong\n%s\n", n, wrong, wrong ? "FAILED" : "PASSED");

    check(release(device_a), "freeing");
    check(release(device_b), "freeing");
    check(release(device_c), "freeing");
    free(a);
    free(b);
    free(c);
    return wrong != 0;
}
