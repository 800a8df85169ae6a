// Evaluates a polynomial at many places, half of them in each of two streams: constant memory of a module, page-locked
// memory, asynchronous copies, and events that order the streams and measure. What the compiler said is shown.
//
// Build: cc polynomial.c -o polynomial -ldl      Run: ./polynomial [polynomial.ptx]

#include "driver.h"

// Options of the driver's compiler, and flags, by their numbers in cuda.h.
enum { INFO_LOG_BUFFER = 3, INFO_LOG_BUFFER_SIZE = 4, ERROR_LOG_BUFFER = 5, ERROR_LOG_BUFFER_SIZE = 6 };
enum { STREAM_NON_BLOCKING = 1 };

int main(int argc, char **argv) {
    Result (*init)(unsigned) = driver("cuInit");
    Result (*device_name)(char *, int, int) = driver("cuDeviceGetName");
    Result (*create_context)(Handle *, unsigned, int) = driver("cuCtxCreate_v2");
    Result (*destroy_context)(Handle) = driver("cuCtxDestroy_v2");
    Result (*load)(Handle *, const void *, unsigned, int *, void **) = driver("cuModuleLoadDataEx");
    Result (*unload)(Handle) = driver("cuModuleUnload");
    Result (*find)(Handle *, Handle, const char *) = driver("cuModuleGetFunction");
    Result (*find_global)(DevicePointer *, size_t *, Handle, const char *) = driver("cuModuleGetGlobal_v2");
    Result (*allocate)(DevicePointer *, size_t) = driver("cuMemAlloc_v2");
    Result (*allocate_host)(void **, size_t, unsigned) = driver("cuMemHostAlloc");
    Result (*release)(DevicePointer) = driver("cuMemFree_v2");
    Result (*release_host)(void *) = driver("cuMemFreeHost");
    Result (*copy_in)(DevicePointer, const void *, size_t, Handle) = driver("cuMemcpyHtoDAsync_v2");
    Result (*copy_out)(void *, DevicePointer, size_t, Handle) = driver("cuMemcpyDtoHAsync_v2");
    Result (*create_stream)(Handle *, unsigned) = driver("cuStreamCreate");
    Result (*destroy_stream)(Handle) = driver("cuStreamDestroy_v2");
    Result (*wait_for_event)(Handle, Handle, unsigned) = driver("cuStreamWaitEvent");
    Result (*synchronize)(Handle) = driver("cuStreamSynchronize");
    Result (*create_event)(Handle *, unsigned) = driver("cuEventCreate");
    Result (*record)(Handle, Handle) = driver("cuEventRecord");
    Result (*elapsed)(float *, Handle, Handle) = driver("cuEventElapsedTime");
    Result (*destroy_event)(Handle) = driver("cuEventDestroy_v2");
    Result (*launch)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void **,
                     void **) = driver("cuLaunchKernel");

    char name[256];
    Handle context;
    check(init(0), "starting the driver");
    check(device_name(name, sizeof name, 0), "looking for a device");
    check(create_context(&context, 0, 0), "making a context");
    printf("Running on %s\n", name);

    // A mistake in the PTX would be explained here.
    char info[1024] = "", errors[1024] = "";
    int options[] = {INFO_LOG_BUFFER, INFO_LOG_BUFFER_SIZE, ERROR_LOG_BUFFER, ERROR_LOG_BUFFER_SIZE};
    void *values[] = {info, (void *)sizeof info, errors, (void *)sizeof errors};
    Handle module, evaluate;
    Result loaded = load(&module, read_text(argc > 1 ? argv[1] : "polynomial.ptx"), 4, options, values);
    if (loaded != 0) fprintf(stderr, "%s\n", errors);
    check(loaded, "loading the PTX");
    check(find(&evaluate, module, "evaluate"), "finding the kernel");

    // Small whole numbers everywhere, so that every step is exact.
    const float coefficients[4] = {3, -2, 5, 1};
    DevicePointer device_coefficients;
    size_t length;
    check(find_global(&device_coefficients, &length, module, "coefficients"), "finding the coefficients");
    if (length != sizeof coefficients) return 1;

    unsigned n = 1 << 16, half = n / 2;
    size_t bytes = half * sizeof(float);
    float *xs, *ys;
    check(allocate_host((void **)&xs, 2 * bytes, 0), "allocating page-locked memory");
    check(allocate_host((void **)&ys, 2 * bytes, 0), "allocating page-locked memory");
    for (unsigned i = 0; i < n; ++i) xs[i] = (float)(i % 101) - 50;
    DevicePointer device_xs, device_ys;
    check(allocate(&device_xs, 2 * bytes), "allocating");
    check(allocate(&device_ys, 2 * bytes), "allocating");

    Handle streams[2], ready, done[2];
    check(create_event(&ready, 0), "making an event");
    for (int i = 0; i < 2; ++i) {
        check(create_stream(&streams[i], STREAM_NON_BLOCKING), "making a stream");
        check(create_event(&done[i], 0), "making an event");
    }
    // The first stream brings the coefficients; the second waits until they are there.
    check(copy_in(device_coefficients, coefficients, sizeof coefficients, streams[0]), "copying in");
    check(record(ready, streams[0]), "recording");
    check(wait_for_event(streams[1], ready, 0), "waiting");
    for (int i = 0; i < 2; ++i) {
        DevicePointer from = device_xs + (size_t)i * bytes, to = device_ys + (size_t)i * bytes;
        void *parameters[] = {&from, &to, &half};
        check(copy_in(from, xs + (size_t)i * half, bytes, streams[i]), "copying in");
        check(launch(evaluate, (half + 255) / 256, 1, 1, 256, 1, 1, 0, streams[i], parameters, NULL), "launching");
        check(copy_out(ys + (size_t)i * half, to, bytes, streams[i]), "copying out");
        check(record(done[i], streams[i]), "recording");
    }
    float milliseconds = -1;
    for (int i = 0; i < 2; ++i) {
        check(synchronize(streams[i]), "waiting for a stream");
        check(elapsed(&milliseconds, ready, done[i]), "measuring");
        if (milliseconds < 0) return 1;
    }

    unsigned wrong = 0;
    for (unsigned i = 0; i < n; ++i) {
        float x = xs[i];
        wrong += ys[i] != 3 - 2 * x + 5 * x * x + x * x * x;
    }
    printf("%u values, %u wrong\n%s\n", n, wrong, wrong ? "FAILED" : "PASSED");

    for (int i = 0; i < 2; ++i) {
        check(destroy_stream(streams[i]), "destroying a stream");
        check(destroy_event(done[i]), "destroying an event");
    }
    check(destroy_event(ready), "destroying an event");
    check(release(device_xs), "freeing");
    check(release(device_ys), "freeing");
    check(release_host(xs), "freeing");
    check(release_host(ys), "freeing");
    check(unload(module), "unloading");
    check(destroy_context(context), "destroying the context");
    return wrong != 0;
}
