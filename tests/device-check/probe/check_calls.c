/* Contexts, errors and the native cost of calls. */
#define _GNU_SOURCE
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

static size_t count_entries(const char *path) {
    DIR *directory = opendir(path);
    size_t count = 0;
    while (directory && readdir(directory)) {
        count++;
    }
    if (directory) {
        closedir(directory);
    }
    return count > 2 ? count - 2 : 0;
}

static double resident_mib(void) {
    long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file) {
        if (fscanf(file, "%ld %ld", &pages, &resident) != 2) {
            resident = 0;
        }
        fclose(file);
    }
    return (double)resident * (double)sysconf(_SC_PAGESIZE) / MIB;
}

/* --- What a context costs */

static double milliseconds(uint64_t began) {
    return (double)(now() - began) / 1e6;
}

void check_context(void) {
    /* A second process, forked before the driver is loaded, makes its context when told to. */
    int go[2], done[2];
    if (pipe(go) || pipe(done)) {
        give_up("D18", "a context has a fixed footprint", "%s", strerror(errno));
    }
    pid_t pid = fork();
    if (pid == 0) {
        char byte;
        close(go[1]);
        while (read(go[0], &byte, 1) == 1) {
            start();
            cuCtxSynchronize();
            if (write(done[1], &byte, 1) != 1) {
                break;
            }
        }
        _exit(0);
    }
    close(go[0]);
    uint64_t began = now();
    CUresult result = cuInit(0);
    double initialised = milliseconds(began);
    number("cuInit", initialised, "ms");
    number("resident memory of the process after cuInit", resident_mib(), "MiB");
    CUcontext context;
    began = now();
    if (!result) {
        result = cuDevicePrimaryCtxRetain(&context, 0);
    }
    number("first primary context", milliseconds(began), "ms");
    if (!result) {
        result = cuCtxSetCurrent(context);
    }
    size_t before = 0, after = 0, total = 0;
    if (!result) {
        result = cuMemGetInfo_v2(&before, &total);
    }
    if (result) {
        kill(pid, SIGKILL);
        give_up("D18", "a context has a fixed footprint", "a call failed with %d", result);
    }
    number("resident memory of the process with a context", resident_mib(), "MiB");
    fact("threads and descriptors of a process with a context", "%zu and %zu", count_entries("/proc/self/task"),
         count_entries("/proc/self/fd"));
    fact("device memory in use with one context", "%zu MiB of %zu", (total - before) / MIB, total / MIB);
    char byte = 1;
    if (write(go[1], &byte, 1) == 1 && read(done[0], &byte, 1) == 1) {
        cuMemGetInfo_v2(&after, &total);
        fact("device memory of a second process's context", "%.1f MiB", ((double)before - (double)after) / MIB);
        assume(before - after < 2048 * MIB && before >= after ? HOLDS : FAILS, "D18",
               "a context of another process takes a fixed amount below 2 GiB", "%.1f MiB",
               ((double)before - (double)after) / MIB);
    }
    close(go[1]);
    began = now();
    waitpid(pid, NULL, 0);
    number("end of a process that holds a context", milliseconds(began), "ms");
    cuMemGetInfo_v2(&after, &total);
    assume(after == before ? HOLDS : FAILS, "D2", "the end of a process gives everything back at once",
           "%.1f MiB less than before", ((double)before - (double)after) / MIB);

    began = now();
    CUcontext second;
    result = cuCtxCreate_v2(&second, 0, 0);
    if (!result) {
        number("a second context in the process", milliseconds(began), "ms");
        cuMemGetInfo_v2(&after, &total);
        fact("device memory of a second context in the process", "%.1f MiB", ((double)before - (double)after) / MIB);
        began = now();
        cuCtxDestroy_v2(second);
        number("destroying it", milliseconds(began), "ms");
    }
    cuCtxSetCurrent(context);
    CUmodule module;
    began = now();
    result = cuModuleLoadData(&module, kernels);
    number("loading our PTX (five kernels)", milliseconds(began), "ms");
    CUfunction empty;
    if (!result && !cuModuleGetFunction(&empty, module, "empty")) {
        began = now();
        launch(empty, NULL, NULL);
        cuCtxSynchronize();
        number("first launch of a function, to its end", milliseconds(began), "ms");
    }
}

/* --- Errors */

void check_errors(void) {
    start();
    CUfunction empty = find_kernel("empty");
    launch(empty, NULL, NULL);
    cuCtxSynchronize();
    int threads = 0;
    cuDeviceGetAttribute(&threads, ATTR_MAX_THREADS_PER_BLOCK, 0);
    CUresult grid = cuLaunchKernel(empty, 0, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
    CUresult block = cuLaunchKernel(empty, 1, 1, 1, 0, 1, 1, 0, NULL, NULL, NULL);
    CUresult large = cuLaunchKernel(empty, 1, 1, 1, (unsigned)threads + 1, 1, 1, 0, NULL, NULL, NULL);
    CUresult shared = cuLaunchKernel(empty, 1, 1, 1, 1, 1, 1, 1u << 30, NULL, NULL, NULL);
    CUresult tall = cuLaunchKernel(empty, 1, 70000, 1, 1, 1, 1, 0, NULL, NULL, NULL);
    bool all = grid == INVALID_VALUE && block == INVALID_VALUE && large == INVALID_VALUE && shared == INVALID_VALUE &&
               tall == INVALID_VALUE;
    assume(all ? HOLDS : FAILS, "D11", "a launch that cannot be is INVALID_VALUE at once",
           "grid 0: %d, block 0: %d, block of %d: %d, 1 GiB of shared memory: %d, 70000 blocks along y: %d", grid, block,
           threads + 1, large, shared, tall);
    CUdeviceptr memory;
    cuMemAlloc_v2(&memory, 4096);
    CUresult freed = cuMemFree_v2(memory), twice = cuMemFree_v2(memory), foreign = cuMemFree_v2(0x1234500);
    assume(!freed && twice == INVALID_VALUE && foreign == INVALID_VALUE ? HOLDS : FAILS, "D12",
           "freeing what is not ours is INVALID_VALUE", "once %d, twice %d, foreign %d", freed, twice, foreign);
    assume(cuMemAlloc_v2(&memory, 0) == INVALID_VALUE ? HOLDS : FAILS, "D11", "an allocation of 0 bytes is INVALID_VALUE",
           "-");
    assume(cuCtxSynchronize() ? FAILS : HOLDS, "D11", "none of these harms the context", "-");
}

void check_sticky(void) {
    start();
    CUfunction poke = find_kernel("poke"), empty = find_kernel("empty");
    CUdeviceptr memory, address = 0x10;
    cuMemAlloc_v2(&memory, 4096);
    void *good[] = {&memory}, *bad[] = {&address};
    CUresult first = launch(poke, NULL, good), rest = cuCtxSynchronize();
    CUresult at_launch = launch(poke, NULL, bad), at_end = cuCtxSynchronize();
    CUresult alloc = cuMemAlloc_v2(&memory, 4096), later = launch(empty, NULL, NULL), query = cuStreamQuery(NULL);
    assume(!first && !rest && !at_launch && at_end == ILLEGAL_ADDRESS ? HOLDS : FAILS, "D11",
           "a bad address in a kernel shows at the next synchronise, as 700", "launch %d, synchronise %d", at_launch,
           at_end);
    assume(alloc == at_end && later == at_end && query == at_end ? HOLDS : FAILS, "D11",
           "and from then on every call of the context gives it", "allocate %d, launch %d, query %d", alloc, later, query);
}

/* --- How many launches may be pending */

struct poster {
    CUcontext context;
    CUfunction function;
    CUstream stream;
    uint64_t goal;
    _Atomic uint64_t posted;
    _Atomic bool ended;
};

static void *post(void *argument) {
    struct poster *poster = argument;
    cuCtxSetCurrent(poster->context);
    while (poster->posted < poster->goal && !launch(poster->function, poster->stream, NULL)) {
        poster->posted++;
    }
    poster->ended = true;
    return NULL;
}

void check_depth(void) {
    CUcontext context = start();
    CUfunction pingpong = find_kernel("pingpong"), empty = find_kernel("empty");
    volatile uint32_t *page = NULL;
    CUstream held, free;
    CUresult result = cuMemHostAlloc((void **)&page, 4096, REGISTER_PORTABLE | REGISTER_DEVICEMAP);
    if (!result) {
        result = cuStreamCreate(&held, STREAM_NON_BLOCKING);
    }
    if (!result) {
        result = cuStreamCreate(&free, STREAM_NON_BLOCKING);
    }
    if (result) {
        give_up("D9", "launches can be pending on a stream", "setting up failed with %d", result);
    }
    page[0] = page[32] = 0;
    launch(empty, held, NULL);
    cuStreamSynchronize(held);
    uint64_t ping = (uintptr_t)page, pong = ping + 128, limit = 1ull << 40;
    uint32_t rounds = 1;
    void *parameters[] = {&ping, &pong, &rounds, &limit};
    result = launch(pingpong, held, parameters);
    static struct poster on_held, on_free;
    on_held = (struct poster){.context = context, .function = empty, .stream = held, .goal = 50000};
    on_free = (struct poster){.context = context, .function = empty, .stream = free, .goal = 5000};
    pthread_t thread, other;
    pthread_create(&thread, NULL, post, &on_held);
    uint64_t seen = 0, since = now();
    while (!on_held.ended && now() - since < 1000000000ull) {
        if (on_held.posted != seen) {
            seen = on_held.posted;
            since = now();
        }
        usleep(1000);
    }
    bool blocked = !on_held.ended;
    uint64_t depth = on_held.posted;
    assume(!result && depth >= 512 ? HOLDS : FAILS, "D9", "a stream takes 512 pending launches without blocking the caller",
           "%s after %llu", blocked ? "blocked" : "not blocked", (unsigned long long)depth);
    /* Does a caller that is blocked so keep others from launching on other streams? */
    pthread_create(&other, NULL, post, &on_free);
    since = now();
    while (!on_free.ended && now() - since < 3000000000ull) {
        usleep(1000);
    }
    fact("launches on another stream meanwhile", "%llu of %llu%s", (unsigned long long)on_free.posted,
         (unsigned long long)on_free.goal, on_free.ended ? "" : ", then blocked too");
    page[0] = 1;
    pthread_join(thread, NULL);
    pthread_join(other, NULL);
    assume(cuCtxSynchronize() ? FAILS : HOLDS, "D9", "when the stream is released, the blocked launch goes on", "%llu posted",
           (unsigned long long)on_held.posted);
}

/* --- Native cost of calls */

#define SAMPLES 20000

static double *samples(void) {
    static double values[SAMPLES];
    return values;
}

#define MEASURE(name, count, unit_ns, unit, call)                                                                 \
    do {                                                                                                          \
        double *values = samples();                                                                               \
        for (size_t turn = 0; turn < (count); turn++) {                                                           \
            uint64_t began = now();                                                                               \
            call;                                                                                                 \
            values[turn] = (double)(now() - began) / (unit_ns);                                                   \
        }                                                                                                         \
        number(name, median(values, (count)), unit);                                                              \
        number(name ", 99th percentile", percentile(values, (count), 0.99), unit);                                \
    } while (0)

static _Atomic uint64_t hosted;

static void host(void *argument) {
    (void)argument;
    hosted = now();
}

static void cost_of_launches(CUstream stream) {
    CUfunction empty = find_kernel("empty"), ten = find_kernel("ten");
    uint64_t word = 1;
    void *parameters[10];
    for (size_t i = 0; i < 10; i++) {
        parameters[i] = &word;
    }
    for (size_t i = 0; i < 100; i++) {
        launch(empty, stream, NULL);
        launch(ten, stream, parameters);
    }
    cuStreamSynchronize(stream);
    double *values = samples();
    for (int many = 0; many < 2; many++) {
        size_t count = 0;
        while (count < SAMPLES) {
            for (size_t i = 0; i < 50; i++) {
                uint64_t began = now();
                launch(many ? ten : empty, stream, many ? parameters : NULL);
                values[count++] = (double)(now() - began);
            }
            cuStreamSynchronize(stream);
        }
        number(many ? "launch with ten parameters" : "launch of an empty kernel, the caller's time", median(values, count),
               "ns");
        number(many ? "launch with ten parameters, 99th percentile" : "launch of an empty kernel, 99th percentile",
               percentile(values, count, 0.99), "ns");
    }
    size_t count = 50000;
    uint64_t began = now();
    for (size_t i = 0; i < count; i++) {
        launch(empty, stream, NULL);
    }
    cuStreamSynchronize(stream);
    number("launches in a row, each", (double)(now() - began) / (double)count, "ns");
    MEASURE("launch and synchronise", 2000, 1e3, "us", (launch(empty, stream, NULL), cuStreamSynchronize(stream)));
}

void check_costs(void) {
    start();
    CUstream stream;
    CUevent event;
    CUcontext context;
    int value;
    if (cuStreamCreate(&stream, STREAM_NON_BLOCKING) || cuEventCreate(&event, 2)) {
        give_up("-", "costs can be measured", "no stream or event");
    }
    MEASURE("clock read twice (part of each number)", SAMPLES, 1.0, "ns", (void)0);
    MEASURE("cuCtxGetCurrent", SAMPLES, 1.0, "ns", cuCtxGetCurrent(&context));
    MEASURE("cuDeviceGetAttribute", SAMPLES, 1.0, "ns", cuDeviceGetAttribute(&value, ATTR_CC_MAJOR, 0));
    MEASURE("cuStreamQuery of an idle stream", SAMPLES, 1.0, "ns", cuStreamQuery(stream));
    MEASURE("cuStreamQuery(0)", SAMPLES, 1.0, "ns", cuStreamQuery(NULL));
    MEASURE("cuStreamIsCapturing", SAMPLES, 1.0, "ns", cuStreamIsCapturing(stream, &value));
    MEASURE("cuStreamSynchronize of an idle stream", SAMPLES, 1.0, "ns", cuStreamSynchronize(stream));
    MEASURE("cuEventRecord", 2000, 1.0, "ns", cuEventRecord(event, stream));
    cuStreamSynchronize(stream);
    MEASURE("cuEventQuery", SAMPLES, 1.0, "ns", cuEventQuery(event));
    cost_of_launches(stream);
    CUdeviceptr memory;
    MEASURE("cuMemAlloc and cuMemFree of 1 MiB", 1000, 1e3, "us", (cuMemAlloc_v2(&memory, MIB), cuMemFree_v2(memory)));
    MEASURE("cuMemAlloc and cuMemFree of 64 MiB", 100, 1e3, "us",
            (cuMemAlloc_v2(&memory, 64 * MIB), cuMemFree_v2(memory)));
    double *values = samples();
    for (size_t i = 0; i < 500; i++) {
        uint64_t began = now();
        cuLaunchHostFunc(stream, host, NULL);
        cuStreamSynchronize(stream);
        values[i] = (double)(hosted - began) / 1e3;
    }
    number("cuLaunchHostFunc until the function runs", median(values, 500), "us");
}

/* --- Native cost of copies */

void check_copies(void) {
    start();
    size_t free = 0, total = 0;
    cuMemGetInfo_v2(&free, &total);
    size_t bytes = free / 4 < 64 * MIB ? free / 4 : 64 * MIB;
    CUdeviceptr device;
    void *pinned;
    unsigned char *pageable = malloc(bytes), *other = malloc(bytes);
    if (cuMemAlloc_v2(&device, bytes) || cuMemHostAlloc(&pinned, bytes, REGISTER_PORTABLE)) {
        give_up("-", "copies can be measured", "no memory");
    }
    memset(pageable, 1, bytes);
    memset(other, 2, bytes);
    memset(pinned, 3, bytes);
    static const char *const names[] = {
        "one memcpy", "pageable memory to device", "device to pageable memory", "pinned memory to device",
        "device to pinned memory"};
    for (size_t which = 0; which < 5; which++) {
        double times[15];
        for (size_t i = 0; i < 16; i++) {
            uint64_t began = now();
            switch (which) {
            case 0: memcpy(other, pageable, bytes); __asm__ volatile("" : : "r"(other) : "memory"); break;
            case 1: cuMemcpyHtoD_v2(device, pageable, bytes); break;
            case 2: cuMemcpyDtoH_v2(other, device, bytes); break;
            case 3: cuMemcpyHtoD_v2(device, pinned, bytes); break;
            default: cuMemcpyDtoH_v2(pinned, device, bytes); break;
            }
            if (i) {
                times[i - 1] = (double)(now() - began);
            }
        }
        char name[128];
        snprintf(name, sizeof name, "%s, %zu MiB", names[which], bytes / MIB);
        number(name, (double)bytes / median(times, 15), "GB/s");
    }
    uint32_t word = 0;
    MEASURE("cuMemcpyHtoD of 4 bytes", 5000, 1e3, "us", cuMemcpyHtoD_v2(device, &word, 4));
    MEASURE("cuMemcpyDtoH of 4 bytes", 5000, 1e3, "us", cuMemcpyDtoH_v2(&word, device, 4));
    MEASURE("cuMemcpyHtoD of 64 KiB", 2000, 1e3, "us", cuMemcpyHtoD_v2(device, pageable, 64 << 10));
    MEASURE("cuMemcpyDtoH of 64 KiB", 2000, 1e3, "us", cuMemcpyDtoH_v2(other, device, 64 << 10));
}
