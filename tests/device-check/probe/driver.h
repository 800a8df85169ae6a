/* The part of the Driver API that the probe calls, declared by hand: the machine it runs on needs a C
 * compiler and a driver, and no CUDA header. Entries are found by name; one that is absent stays NULL. */
#ifndef PROBE_DRIVER_H
#define PROBE_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct context *CUcontext;
typedef struct module *CUmodule;
typedef struct function *CUfunction;
typedef struct stream *CUstream;
typedef struct event *CUevent;
typedef struct library *CUlibrary;
typedef struct kernel *CUkernel;
typedef struct { unsigned char bytes[16]; } CUuuid;
typedef void (*CUhostFn)(void *);

enum {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_HANDLE = 400,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    NOT_SUPPORTED = 801,
};

enum {
    ATTR_MAX_THREADS_PER_BLOCK = 1,
    ATTR_MULTIPROCESSOR_COUNT = 16,
    ATTR_PCI_BUS_ID = 33,
    ATTR_PCI_DEVICE_ID = 34,
    ATTR_CC_MAJOR = 75,
    ATTR_CC_MINOR = 76,
    ATTR_UNIFIED_ADDRESSING = 41,
    ATTR_CAN_MAP_HOST_MEMORY = 19,
    ATTR_HOST_REGISTER_SUPPORTED = 99,
    ATTR_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM = 91,
    ATTR_PAGEABLE_MEMORY_ACCESS = 88,
    ATTR_COMPUTE_PREEMPTION_SUPPORTED = 90,
};

#define REGISTER_PORTABLE 1u
#define REGISTER_DEVICEMAP 2u
#define STREAM_NON_BLOCKING 1u

#define DRIVER_ENTRIES(X)                                                                                    \
    X(cuInit, (unsigned))                                                                                    \
    X(cuDriverGetVersion, (int *))                                                                           \
    X(cuDeviceGet, (CUdevice *, int))                                                                        \
    X(cuDeviceGetCount, (int *))                                                                             \
    X(cuDeviceGetName, (char *, int, CUdevice))                                                              \
    X(cuDeviceTotalMem_v2, (size_t *, CUdevice))                                                             \
    X(cuDeviceGetAttribute, (int *, int, CUdevice))                                                          \
    X(cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice))                                                     \
    X(cuDevicePrimaryCtxRelease_v2, (CUdevice))                                                              \
    X(cuDevicePrimaryCtxGetState, (CUdevice, unsigned *, int *))                                             \
    X(cuCtxCreate_v2, (CUcontext *, unsigned, CUdevice))                                                     \
    X(cuCtxDestroy_v2, (CUcontext))                                                                          \
    X(cuCtxSetCurrent, (CUcontext))                                                                          \
    X(cuCtxGetCurrent, (CUcontext *))                                                                        \
    X(cuCtxSynchronize, (void))                                                                              \
    X(cuCtxGetId, (CUcontext, unsigned long long *))                                                         \
    X(cuModuleLoadData, (CUmodule *, const void *))                                                          \
    X(cuModuleGetFunction, (CUfunction *, CUmodule, const char *))                                           \
    X(cuModuleGetLoadingMode, (int *))                                                                       \
    X(cuLibraryLoadData, (CUlibrary *, const void *, int *, void **, unsigned, int *, void **, unsigned))    \
    X(cuLibraryGetKernel, (CUkernel *, CUlibrary, const char *))                                             \
    X(cuFuncGetParamInfo, (CUfunction, size_t, size_t *, size_t *))                                          \
    X(cuKernelGetParamInfo, (CUkernel, size_t, size_t *, size_t *))                                          \
    X(cuMemAlloc_v2, (CUdeviceptr *, size_t))                                                                \
    X(cuMemFree_v2, (CUdeviceptr))                                                                           \
    X(cuMemGetInfo_v2, (size_t *, size_t *))                                                                 \
    X(cuMemHostAlloc, (void **, size_t, unsigned))                                                           \
    X(cuMemFreeHost, (void *))                                                                               \
    X(cuMemHostRegister_v2, (void *, size_t, unsigned))                                                      \
    X(cuMemHostUnregister, (void *))                                                                         \
    X(cuMemHostGetDevicePointer_v2, (CUdeviceptr *, void *, unsigned))                                       \
    X(cuMemcpyHtoD_v2, (CUdeviceptr, const void *, size_t))                                                  \
    X(cuMemcpyDtoH_v2, (void *, CUdeviceptr, size_t))                                                        \
    X(cuMemcpyHtoDAsync_v2, (CUdeviceptr, const void *, size_t, CUstream))                                   \
    X(cuMemcpyDtoHAsync_v2, (void *, CUdeviceptr, size_t, CUstream))                                         \
    X(cuMemsetD8_v2, (CUdeviceptr, unsigned char, size_t))                                                   \
    X(cuStreamCreate, (CUstream *, unsigned))                                                                \
    X(cuStreamDestroy_v2, (CUstream))                                                                        \
    X(cuStreamQuery, (CUstream))                                                                             \
    X(cuStreamSynchronize, (CUstream))                                                                       \
    X(cuStreamIsCapturing, (CUstream, int *))                                                                \
    X(cuEventCreate, (CUevent *, unsigned))                                                                  \
    X(cuEventRecord, (CUevent, CUstream))                                                                    \
    X(cuEventQuery, (CUevent))                                                                               \
    X(cuLaunchKernel, (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,     \
                       CUstream, void **, void **))                                                          \
    X(cuLaunchHostFunc, (CUstream, CUhostFn, void *))                                                        \
    X(cuGetProcAddress, (const char *, void **, int, uint64_t))                                              \
    X(cuGetProcAddress_v2, (const char *, void **, int, uint64_t, int *))                                    \
    X(cuGetExportTable, (const void **, const CUuuid *))

#define DECLARE(name, parameters) extern CUresult(*name) parameters;
DRIVER_ENTRIES(DECLARE)
#undef DECLARE

/* Loads the library named by the environment variable PROBE_LIBRARY, or libcuda.so.1. */
const char *load_driver(void);

/* The PTX of kernels.h, NUL-terminated. */
extern const char kernels[];

#endif
