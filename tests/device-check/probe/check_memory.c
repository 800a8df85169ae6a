/* Host memory that two processes share with the device, and device addresses that both can reserve. */
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define WINDOW_BYTES ((size_t)1 << 40)
#define FLAGS (REGISTER_PORTABLE | REGISTER_DEVICEMAP)

/* The shared window, mapped where both this process and a child without the driver can have it. */
static void *shared_window(int fd, size_t bytes) {
    for (size_t i = 0; i < window_candidate_count; i++) {
        void *window = map_at(window_candidates[i], bytes, fd);
        if (window) {
            return window;
        }
    }
    give_up("D13", "a window of host memory can be had at one address", "every candidate is taken");
}

/* Runs `body` in a forked child that never touches the driver; returns its exit code. */
static int in_client(int (*body)(void *), void *argument) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        _exit(body(argument));
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

struct shared {
    int fd;
    size_t bytes;
    uint64_t address;
};

/* The client's half: the same memory at the same address, in a process that has none of the mappings. */
static int client_checks_and_writes(void *argument) {
    const struct shared *shared = argument;
    munmap((void *)(uintptr_t)shared->address, shared->bytes); /* inherited, unless kept from us */
    unsigned char *memory = map_at(shared->address, shared->bytes, shared->fd);
    if (!memory) {
        return 1;
    }
    for (size_t i = 0; i < 4096; i++) {
        if (memory[i] != 0x3c) {
            return 2;
        }
    }
    memset(memory + 4096, 0x5d, 4096);
    return 0;
}

void check_shared_memory(void) {
    start();
    unsigned usable = 0;
    for (size_t i = 0; i < window_candidate_count; i++) {
        void *reserved = map_at(window_candidates[i], WINDOW_BYTES, -1);
        if (reserved) {
            usable |= 1u << i;
            munmap(reserved, WINDOW_BYTES);
        }
    }
    assume(usable ? HOLDS : FAILS, "D13", "with the driver up, a window candidate of 1 TiB is free",
           "candidates free: mask %#x of %#x", usable, (1u << window_candidate_count) - 1);

    /* A sparse arena; ranges of it are registered one by one. */
    size_t bytes = 1024 * MIB, piece = 64 * MIB;
    int fd = sealed_memory(bytes);
    unsigned char *window = shared_window(fd, bytes);
    madvise(window, bytes, MADV_DONTFORK);
    uint64_t began = now();
    CUresult result = cuMemHostRegister_v2(window, piece, FLAGS);
    double first = (double)(now() - began) / 1e6;
    assume(result ? FAILS : HOLDS, "D13", "a range of a sealed, sparse memfd mapping can be registered for all contexts",
           "cuMemHostRegister gives %d", result);
    if (result) {
        return;
    }
    number("registering 64 MiB that nobody has touched", first, "ms");
    memset(window + piece, 1, piece);
    began = now();
    result = cuMemHostRegister_v2(window + piece, piece, FLAGS);
    if (!result) {
        number("registering 64 MiB that is in memory", (double)(now() - began) / 1e6, "ms");
    }
    assume(result ? FAILS : HOLDS, "D13", "a second range right behind the first can be registered",
           "cuMemHostRegister gives %d", result);
    result = cuMemHostRegister_v2(window + 10 * piece, 4096, FLAGS);
    assume(result ? FAILS : HOLDS, "D13", "a range of one page can be registered", "cuMemHostRegister gives %d", result);

    CUdeviceptr device = 0;
    result = cuMemHostGetDevicePointer_v2(&device, window, 0);
    assume(!result && device == (uintptr_t)window ? HOLDS : FAILS, "D13",
           "the device address of registered memory is its host address", "result %d, host %p, device %#llx", result,
           (void *)window, (unsigned long long)device);
    result = cuMemHostGetDevicePointer_v2(&device, window + piece - 4096, 0);
    assume(!result && device == (uintptr_t)window + piece - 4096 ? HOLDS : FAILS, "D13",
           "and so within the range", "result %d, device %#llx", result, (unsigned long long)device);

    /* Bytes go client -> device -> client through the shared pages. */
    CUdeviceptr memory;
    result = cuMemAlloc_v2(&memory, 8192);
    if (!result) {
        result = cuMemsetD8_v2(memory, 0x3c, 8192);
    }
    if (!result) {
        result = cuMemcpyDtoHAsync_v2(window, memory, 4096, NULL);
    }
    if (!result) {
        result = cuStreamSynchronize(NULL);
    }
    struct shared shared = {fd, bytes, (uintptr_t)window};
    int client = in_client(client_checks_and_writes, &shared);
    unsigned char back[4096] = {0};
    if (!result) {
        result = cuMemcpyHtoDAsync_v2(memory, window + 4096, 4096, NULL);
    }
    if (!result) {
        result = cuMemcpyDtoH_v2(back, memory, sizeof back);
    }
    bool right = !result && client == 0;
    for (size_t i = 0; right && i < sizeof back; i++) {
        right = back[i] == 0x5d;
    }
    assume(right ? HOLDS : FAILS, "D13", "another process has the same pages at the same address, and DMA sees its bytes",
           "result %d, client %d, first byte back %#x", result, client, back[0]);
    began = now();
    result = cuMemHostUnregister(window);
    number("unregistering 64 MiB", (double)(now() - began) / 1e6, "ms");
    CUresult again = cuMemHostRegister_v2(window, piece, FLAGS);
    assume(!result && !again ? HOLDS : FAILS, "D13", "a range can be unregistered and registered again",
           "results %d and %d", result, again);
}

/* GB/s of one copy. */
static double speed(bool upload, CUdeviceptr device, void *host, size_t bytes) {
    uint64_t began = now();
    CUresult result = upload ? cuMemcpyHtoDAsync_v2(device, host, bytes, NULL)
                             : cuMemcpyDtoHAsync_v2(host, device, bytes, NULL);
    if (!result) {
        result = cuStreamSynchronize(NULL);
    }
    return result ? 0 : (double)bytes / (double)(now() - began);
}

void check_bandwidth(void) {
    start();
    size_t free = 0, total = 0;
    cuMemGetInfo_v2(&free, &total);
    size_t bytes = free / 4 < 256 * MIB ? free / 4 & ~(MIB - 1) : 256 * MIB;
    CUdeviceptr device;
    void *pinned = NULL;
    CUresult result = cuMemAlloc_v2(&device, bytes);
    if (!result) {
        result = cuMemHostAlloc(&pinned, bytes, REGISTER_PORTABLE | REGISTER_DEVICEMAP);
    }
    int fd = sealed_memory(bytes);
    void *window = shared_window(fd, bytes);
    if (!result) {
        result = cuMemHostRegister_v2(window, bytes, FLAGS);
    }
    if (result) {
        give_up("D13", "registered shared memory copies as fast as pinned memory", "setting up failed with %d", result);
    }
    memset(pinned, 1, bytes);
    memset(window, 2, bytes);
    /* By turns, so that whatever else the machine does meets both alike; the first turn warms up. */
    static double speeds[4][21];
    size_t turns = 21;
    for (size_t turn = 0; turn < turns; turn++) {
        for (size_t which = 0; which < 4; which++) {
            speeds[which][turn] = speed(which < 2, device, which % 2 ? window : pinned, bytes);
        }
    }
    double pinned_up = median(speeds[0] + 1, turns - 1), shared_up = median(speeds[1] + 1, turns - 1);
    double pinned_down = median(speeds[2] + 1, turns - 1), shared_down = median(speeds[3] + 1, turns - 1);
    number("pinned memory to device", pinned_up, "GB/s");
    number("registered shared memory to device", shared_up, "GB/s");
    number("device to pinned memory", pinned_down, "GB/s");
    number("device to registered shared memory", shared_down, "GB/s");
    assume(shared_up >= 0.95 * pinned_up && shared_down >= 0.95 * pinned_down ? HOLDS : FAILS, "D13",
           "registered shared memory copies at 0.95 or more of the speed of the driver's own pinned memory",
           "%.3f up, %.3f down, %zu MiB", shared_up / pinned_up, shared_down / pinned_down, bytes / MIB);
}

/* --- A kernel and a client's CPU poll one word */

struct words {
    int fd;
    uint64_t address;
    uint32_t rounds;
    double nanoseconds; /* written by the client, read by the worker: a word of the shared page */
};

static int client_plays(void *argument) {
    const struct words *words = argument;
    munmap((void *)(uintptr_t)words->address, 4096);
    volatile unsigned char *page = map_at(words->address, 4096, words->fd);
    if (!page) {
        return 1;
    }
    volatile uint32_t *ping = (volatile uint32_t *)page, *pong = (volatile uint32_t *)(page + 128);
    double *results = (double *)(page + 256);
    static double times[4096];
    uint64_t deadline = now() + 60000000000ull;
    for (uint32_t i = 1; i <= words->rounds; i++) {
        uint64_t began = now();
        __atomic_store_n(ping, i, __ATOMIC_RELEASE);
        while (__atomic_load_n(pong, __ATOMIC_ACQUIRE) < i) {
            if (now() > deadline) {
                return 2;
            }
        }
        times[i - 1] = (double)(now() - began);
    }
    results[0] = median(times, words->rounds);
    results[1] = percentile(times, words->rounds, 0.99);
    return 0;
}

void check_polling(void) {
    start();
    CUfunction pingpong = find_kernel("pingpong");
    int fd = sealed_memory(4096);
    unsigned char *page = shared_window(fd, 4096);
    madvise(page, 4096, MADV_DONTFORK);
    CUresult result = cuMemHostRegister_v2(page, 4096, FLAGS);
    CUstream stream = NULL;
    if (!result) {
        result = cuStreamCreate(&stream, STREAM_NON_BLOCKING);
    }
    if (result) {
        give_up("D13", "a kernel and the client's CPU can poll one word", "setting up failed with %d", result);
    }
    struct words words = {.fd = fd, .address = (uintptr_t)page, .rounds = 2000};
    uint64_t ping = (uintptr_t)page, pong = ping + 128, limit = 1ull << 28;
    void *parameters[] = {&ping, &pong, &words.rounds, &limit};
    uint64_t began = now();
    result = launch(pingpong, stream, parameters);
    number("launch of a kernel that waits, until the call returned", (double)(now() - began) / 1e3, "us");
    CUresult busy = cuStreamQuery(stream);
    int client = result ? -1 : in_client(client_plays, &words);
    if (client) {
        *(volatile uint32_t *)page = ~0u; /* lets the kernel go */
    }
    CUresult end = cuStreamSynchronize(stream);
    const double *results = (const double *)(page + 256);
    bool good = !result && !client && !end && busy == NOT_READY;
    assume(good ? HOLDS : FAILS, "D13", "a running kernel and the CPU of another process poll one word",
           "launch %d, query while it waits %d, client %d, end %d, %u rounds", result, busy, client, end,
           words.rounds);
    if (good) {
        number("round trip CPU - kernel - CPU through shared memory, median", results[0] / 1e3, "us");
        number("the same, 99th percentile", results[1] / 1e3, "us");
    }
}

/* --- Device addresses */

struct ranges {
    uint64_t at[4];
    size_t bytes[4];
};

static int client_mirrors(void *argument) {
    const struct ranges *ranges = argument;
    int taken = 0;
    for (size_t i = 0; i < 4; i++) {
        if (!map_at(ranges->at[i] & ~4095ull, (ranges->bytes[i] + 4095) & ~4095ull, -1)) {
            taken |= 1 << i;
        }
    }
    return taken;
}

void check_mirror(void) {
    /* The client is forked before the driver is loaded: it has the address space of any program. */
    int to_client[2], to_worker[2];
    if (pipe(to_client) || pipe(to_worker)) {
        give_up("D13", "device addresses can be reserved in another process", "%s", strerror(errno));
    }
    pid_t pid = fork();
    if (pid == 0) {
        struct ranges ranges;
        int taken = 128;
        if (read(to_client[0], &ranges, sizeof ranges) == sizeof ranges) {
            taken = client_mirrors(&ranges);
        }
        _exit(write(to_worker[1], &taken, sizeof taken) == sizeof taken ? 0 : 1);
    }
    start();
    struct ranges ranges = {.bytes = {1024, 2 * MIB, 64 * MIB, 200 * MIB}};
    for (size_t i = 0; i < 4; i++) {
        CUdeviceptr address = 0;
        CUresult result = cuMemAlloc_v2(&address, ranges.bytes[i]);
        if (result) {
            kill(pid, SIGKILL);
            give_up("D13", "device addresses can be reserved in another process", "cuMemAlloc gives %d", result);
        }
        ranges.at[i] = address;
    }
    int taken = 128;
    if (write(to_client[1], &ranges, sizeof ranges) != sizeof ranges ||
        read(to_worker[0], &taken, sizeof taken) != sizeof taken) {
        taken = 128;
    }
    waitpid(pid, NULL, 0);
    assume(taken == 0 ? HOLDS : FAILS, "D13", "each device range can be reserved at its address in a client process",
           "mask of ranges that clashed: %#x; addresses %#llx %#llx %#llx %#llx", taken,
           (unsigned long long)ranges.at[0], (unsigned long long)ranges.at[1], (unsigned long long)ranges.at[2],
           (unsigned long long)ranges.at[3]);
    bool apart = true;
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < window_candidate_count; j++) {
            uint64_t window = window_candidates[j];
            apart = apart && (ranges.at[i] < window || ranges.at[i] >= window + (WINDOW_BYTES));
        }
    }
    assume(apart ? HOLDS : FAILS, "D13", "the driver puts device ranges outside the window candidates", "lowest %#llx",
           (unsigned long long)ranges.at[0]);
}

/* --- What a process that ended leaves behind */

#define PATTERN 0xc7

void check_stale_memory(void) {
    int ready[2];
    if (pipe(ready)) {
        give_up("D13", "-", "%s", strerror(errno));
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        start();
        size_t free = 0, total = 0, bytes;
        cuMemGetInfo_v2(&free, &total);
        bytes = free / 2 & ~(MIB - 1);
        CUdeviceptr memory;
        CUresult result = cuMemAlloc_v2(&memory, bytes);
        if (!result) {
            result = cuMemsetD8_v2(memory, PATTERN, bytes);
        }
        if (!result) {
            result = cuCtxSynchronize();
        }
        if (result || write(ready[1], &bytes, sizeof bytes) != sizeof bytes) {
            _exit(1);
        }
        _exit(0);
    }
    close(ready[1]);
    size_t written = 0;
    bool filled = read(ready[0], &written, sizeof written) == sizeof written;
    waitpid(pid, NULL, 0);
    if (!filled) {
        give_up("D13", "memory is dirty when it changes hands", "the first process could not fill memory");
    }
    start();
    size_t free = 0, total = 0, piece = 64 * MIB, seen = 0, stale = 0, own = 0;
    cuMemGetInfo_v2(&free, &total);
    unsigned char *copy = malloc(piece);
    CUdeviceptr held[64];
    size_t pieces = free / piece < 64 ? free / piece : 64, got = 0;
    for (; got < pieces && !cuMemAlloc_v2(&held[got], piece); got++) {
        if (cuMemcpyDtoH_v2(copy, held[got], piece)) {
            break;
        }
        seen += piece;
        for (size_t i = 0; i < piece; i += 64) {
            stale += copy[i] == PATTERN ? 64 : 0;
        }
    }
    fact("memory of an ended process, seen by the next", "%zu of %zu MiB still hold its bytes", stale / MIB, seen / MIB);
    if (got) {
        cuMemsetD8_v2(held[0], 0x39, piece);
        cuCtxSynchronize();
        for (size_t i = 0; i < got; i++) {
            cuMemFree_v2(held[i]);
        }
        CUdeviceptr again;
        if (!cuMemAlloc_v2(&again, piece) && !cuMemcpyDtoH_v2(copy, again, piece)) {
            for (size_t i = 0; i < piece; i += 64) {
                own += copy[i] == 0x39 ? 64 : 0;
            }
            fact("memory freed and allocated again in one process", "%zu of %zu MiB still hold the old bytes", own / MIB,
                 piece / MIB);
        }
    }
    assume(stale == 0 ? HOLDS : FAILS, "D13", "the driver clears memory between processes (we clear it in any case)",
           "%zu of %zu MiB were stale", stale / MIB, seen / MIB);
}
