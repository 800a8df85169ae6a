// The host half on CUDA's runtime: what it needs of the driver, by its names there, done by cudart's libraries and
// kernels. So one host half makes a program on the Driver API and, with -DCUDART, programs of each runtime.
#pragma once

#include <cuda_runtime_api.h>

using CUresult = cudaError_t;
using CUdevice = int;
using CUcontext = int;
using CUmodule = cudaLibrary_t;
using CUfunction = cudaKernel_t;
using CUdeviceptr = char *;

constexpr CUresult CUDA_SUCCESS = cudaSuccess;

inline CUresult cuGetErrorName(CUresult status, const char **name) {
    *name = cudaGetErrorName(status);
    return cudaSuccess;
}

// The runtime starts the driver and takes the device's primary context by itself.
inline CUresult cuInit(unsigned) { return cudaSuccess; }
inline CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return cudaSetDevice(ordinal);
}
inline CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    *context = device;
    return cudaSuccess;
}
inline CUresult cuCtxSetCurrent(CUcontext) { return cudaSuccess; }
inline CUresult cuCtxSynchronize() { return cudaDeviceSynchronize(); }

inline CUresult cuMemAlloc(CUdeviceptr *address, size_t bytes) {
    return cudaMalloc(reinterpret_cast<void **>(address), bytes);
}
inline CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
    return cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice);
}
inline CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
    return cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost);
}

inline CUresult cuModuleLoadDataEx(CUmodule *library, const void *image, unsigned count, const int *options, void **values) {
    cudaJitOption jit[2];
    for (unsigned index = 0; index < count; ++index) {
        jit[index] = static_cast<cudaJitOption>(options[index]);
    }
    return cudaLibraryLoadData(library, image, jit, values, count, nullptr, nullptr, 0);
}
inline CUresult cuModuleGetFunction(CUfunction *kernel, CUmodule library, const char *name) {
    return cudaLibraryGetKernel(kernel, library, name);
}
inline CUresult cuModuleGetGlobal(CUdeviceptr *address, size_t *bytes, CUmodule library, const char *name) {
    return cudaLibraryGetGlobal(reinterpret_cast<void **>(address), bytes, library, name);
}

inline CUresult cuLaunchKernel(CUfunction kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                               unsigned bz, unsigned shared, cudaStream_t stream, void **parameters, void **) {
    return cudaLaunchKernel(static_cast<const void *>(kernel), dim3(gx, gy, gz), dim3(bx, by, bz), parameters, shared,
                            stream);
}
inline CUresult cuLaunchCooperativeKernel(CUfunction kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                          unsigned by, unsigned bz, unsigned shared, cudaStream_t stream,
                                          void **parameters) {
    return cudaLaunchCooperativeKernel(static_cast<const void *>(kernel), dim3(gx, gy, gz), dim3(bx, by, bz),
                                       parameters, shared, stream);
}
