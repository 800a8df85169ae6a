// What the kernels of the corpus and their host halves share.
//
// One source is compiled twice: by a CUDA compiler to PTX (nvcc, NVRTC, clang), where only kernels are seen,
// and with -DHOST by an ordinary C++ compiler to a program that loads such PTX through the Driver API, runs
// every kernel and compares with what it computes itself. No CUDA runtime is involved, unless -DCUDART has the host
// half do the same through one.
#pragma once

#ifndef HOST

#define KERNEL extern "C" __global__ void
#define BOTH __host__ __device__ inline
#if defined(__clang__) && !defined(__CUDACC_RTC__) && !defined(__NVCC__)
#include "clang.h"
#endif

// The place of a thread in a one-dimensional grid.
static __device__ inline int place() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

#else

#define BOTH static inline
#include "host.h"

#endif
