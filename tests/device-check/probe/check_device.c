/* What machine and driver this is, and how the resolver answers. */
#define _GNU_SOURCE
#include "probe.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static int attribute(int which) {
    int value = -1;
    return cuDeviceGetAttribute(&value, which, 0) ? -1 : value;
}

void check_device(void) {
    int version = 0, count = 0;
    CUresult result = cuDriverGetVersion(&version);
    assume(!result && version > 0 ? HOLDS : FAILS, "D3", "the driver tells its version before cuInit",
           "result %d, version %d", result, version);
    uint64_t began = now();
    result = cuInit(0);
    number("cuInit, first in the process", (double)(now() - began) / 1e6, "ms");
    if (!result) {
        result = cuDeviceGetCount(&count);
    }
    if (result || count < 1) {
        printf("fact\tcuInit\tresult %d, %d devices\n", result, count);
        fprintf(stderr, "probe: cuInit gives %d, %d devices\n", result, count);
        fflush(stdout);
        _Exit(4);
    }
    char name[256];
    size_t bytes = 0;
    cuDeviceGetName(name, sizeof name, 0);
    cuDeviceTotalMem_v2(&bytes, 0);
    fact("driver version", "%d", version);
    fact("devices", "%d", count);
    fact("device", "%s", name);
    fact("memory", "%zu MiB", bytes >> 20);
    fact("compute capability", "%d.%d", attribute(ATTR_CC_MAJOR), attribute(ATTR_CC_MINOR));
    fact("multiprocessors", "%d", attribute(ATTR_MULTIPROCESSOR_COUNT));
    fact("PCI", "bus %d device %d", attribute(ATTR_PCI_BUS_ID), attribute(ATTR_PCI_DEVICE_ID));
    fact("unified addressing, maps host memory, registers host memory, host pointer usable for registered memory",
         "%d, %d, %d, %d", attribute(ATTR_UNIFIED_ADDRESSING), attribute(ATTR_CAN_MAP_HOST_MEMORY),
         attribute(ATTR_HOST_REGISTER_SUPPORTED), attribute(ATTR_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM));
    fact("pageable memory access, compute preemption", "%d, %d", attribute(ATTR_PAGEABLE_MEMORY_ACCESS),
         attribute(ATTR_COMPUTE_PREEMPTION_SUPPORTED));
    struct rlimit locked;
    getrlimit(RLIMIT_MEMLOCK, &locked);
    if (locked.rlim_cur == RLIM_INFINITY) {
        fact("RLIMIT_MEMLOCK", "unlimited");
    } else {
        fact("RLIMIT_MEMLOCK", "%llu KiB", (unsigned long long)locked.rlim_cur >> 10);
    }
    int mode = 0;
    if (cuModuleGetLoadingMode && !cuModuleGetLoadingMode(&mode)) {
        assume(mode == 2 ? HOLDS : FAILS, "D11", "code is loaded lazily by default (so a first launch can fail)",
               "cuModuleGetLoadingMode gives %d", mode);
    }
}

void check_resolver(void) {
    int version = 0, status = -1;
    void *entry = (void *)1;
    cuDriverGetVersion(&version);
    if (!cuGetProcAddress_v2) {
        give_up("D4", "the resolver answers as documented", "the library exports no cuGetProcAddress_v2");
    }
    CUresult result = cuGetProcAddress_v2("cuNoSuchFunction", &entry, version, 0, &status);
    assume(!result && !entry && status == 1 ? HOLDS : FAILS, "D4",
           "an unknown name gives success, NULL and symbol status 1", "result %d, %s, status %d", result,
           entry ? "an address" : "NULL", status);
    entry = (void *)1;
    status = -1;
    result = cuGetProcAddress_v2("cuMemAlloc", &entry, version + 10, 0, &status);
    assume(result == INVALID_VALUE ? HOLDS : FAILS, "D4", "a version beyond the driver's is an invalid value",
           "result %d, status %d", result, status);
    entry = NULL;
    status = -1;
    result = cuGetProcAddress_v2("cuCtxGetDevice", &entry, 2000, 0, &status);
    assume(!result && entry && !status ? HOLDS : FAILS, "D4", "a name is found at its first version",
           "result %d, status %d", result, status);
    entry = (void *)1;
    status = -1;
    result = cuGetProcAddress_v2("cuLibraryLoadData", &entry, 11000, 0, &status);
    assume(!result && !entry && status == 2 ? HOLDS : FAILS, "D4",
           "a name that is younger than the version asked for gives success, NULL and symbol status 2",
           "result %d, %s, status %d", result, entry ? "an address" : "NULL", status);
    entry = (void *)1;
    result = cuGetProcAddress_v2("", &entry, 0, 0, &status);
    fact("cuGetProcAddress_v2 of the empty name at version 0", "result %d, %s, status %d", result,
         entry ? "an address or untouched" : "NULL", status);
    void *legacy = NULL, *per_thread = NULL;
    cuGetProcAddress_v2("cuStreamSynchronize", &legacy, version, 0, &status);
    cuGetProcAddress_v2("cuStreamSynchronize", &per_thread, version, 2, &status);
    assume(legacy && per_thread && legacy != per_thread ? HOLDS : FAILS, "D7",
           "flag 2 chooses the per-thread form", "%s",
           legacy == per_thread ? "one address for both" : "two addresses");
    if (cuGetProcAddress) {
        entry = (void *)1;
        result = cuGetProcAddress("cuNoSuchFunction", &entry, version, 0);
        fact("cuGetProcAddress (first form) of an unknown name", "result %d, %s", result,
             entry == (void *)1 ? "pointer untouched" : entry ? "an address" : "NULL");
    }
}
