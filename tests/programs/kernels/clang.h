// The part of CUDA that the corpus needs, for clang without NVIDIA's headers: kernels that use no more than
// this are compiled by an independent front end and back end.
#pragma once

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __host__ __attribute__((host))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))

typedef __SIZE_TYPE__ size_t;

#define CORPUS_BUILTIN(type, member, register) \
    __declspec(property(get = get_##member)) unsigned member; \
    static inline __device__ unsigned get_##member() { return __nvvm_read_ptx_sreg_##register(); }
#define CORPUS_TRIPLE(name, register) \
    struct name##_t { \
        CORPUS_BUILTIN(unsigned, x, register##_x) \
        CORPUS_BUILTIN(unsigned, y, register##_y) \
        CORPUS_BUILTIN(unsigned, z, register##_z) \
    }; \
    extern const __device__ name##_t name;
CORPUS_TRIPLE(threadIdx, tid)
CORPUS_TRIPLE(blockIdx, ctaid)
CORPUS_TRIPLE(blockDim, ntid)
CORPUS_TRIPLE(gridDim, nctaid)
#undef CORPUS_TRIPLE
#undef CORPUS_BUILTIN
static const int warpSize = 32;

#define CORPUS_VECTOR(name, type, align) \
    struct __align__(2 * align) name##2 { type x, y; }; \
    struct name##3 { type x, y, z; }; \
    struct __align__(4 * align) name##4 { type x, y, z, w; }; \
    static inline __device__ name##2 make_##name##2(type x, type y) { return {x, y}; } \
    static inline __device__ name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
    static inline __device__ name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
CORPUS_VECTOR(int, int, 4)
CORPUS_VECTOR(float, float, 4)
CORPUS_VECTOR(uchar, unsigned char, 1)
#undef CORPUS_VECTOR
struct __align__(16) double2 { double x, y; };

#define CORPUS_INLINE static inline __device__

// Clang knows the function itself, but clang 14 moves reads of shared variables over it: it takes a variable whose
// address it sees everywhere for one that a barrier cannot change.
#define __syncthreads() (__syncthreads(), corpus_memory_changes())
CORPUS_INLINE void corpus_memory_changes() { asm volatile("" ::: "memory"); }
CORPUS_INLINE void __syncwarp(unsigned mask = 0xffffffff) { __nvvm_bar_warp_sync(mask); }
CORPUS_INLINE void __threadfence() { __nvvm_membar_gl(); }
CORPUS_INLINE void __threadfence_block() { __nvvm_membar_cta(); }

template <class T> CORPUS_INLINE T min(T a, T b) { return b < a ? b : a; }
template <class T> CORPUS_INLINE T max(T a, T b) { return a < b ? b : a; }
CORPUS_INLINE double fmin(double a, double b) { return __nvvm_fmin_d(a, b); }
CORPUS_INLINE double fmax(double a, double b) { return __nvvm_fmax_d(a, b); }
CORPUS_INLINE double sqrt(double x) { return __nvvm_sqrt_rn_d(x); }
CORPUS_INLINE float sqrtf(float x) { return __nvvm_sqrt_rn_f(x); }
CORPUS_INLINE float rsqrtf(float x) { return __nvvm_rsqrt_approx_f(x); }
CORPUS_INLINE float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

CORPUS_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
CORPUS_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
CORPUS_INLINE unsigned __brev(unsigned x) { return __builtin_bitreverse32(x); }
CORPUS_INLINE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return static_cast<unsigned>(((static_cast<unsigned long long>(high) << 32 | low) << (by & 31)) >> 32);
}
CORPUS_INLINE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> (by & 31));
}

CORPUS_INLINE unsigned __ballot_sync(unsigned mask, int holds) { return __nvvm_vote_ballot_sync(mask, holds); }
CORPUS_INLINE unsigned __activemask() {
    unsigned mask;
    asm volatile("activemask.b32 %0;" : "=r"(mask));
    return mask;
}

// Four kinds of shuffles of values of four or eight bytes.
#define CORPUS_SHUFFLE(name, builtin, clamp) \
    template <class T> CORPUS_INLINE T name(unsigned mask, T value, int at, int width = 32) { \
        static_assert(sizeof(T) == 4 || sizeof(T) == 8, "whole registers"); \
        union { \
            T value; \
            int words[sizeof(T) / 4]; \
        } held = {value}; \
        for (int &word : held.words) { \
            word = builtin(mask, word, at, (32 - width) << 8 | clamp); \
        } \
        return held.value; \
    }
CORPUS_SHUFFLE(__shfl_sync, __nvvm_shfl_sync_idx_i32, 31)
CORPUS_SHUFFLE(__shfl_up_sync, __nvvm_shfl_sync_up_i32, 0)
CORPUS_SHUFFLE(__shfl_down_sync, __nvvm_shfl_sync_down_i32, 31)
CORPUS_SHUFFLE(__shfl_xor_sync, __nvvm_shfl_sync_bfly_i32, 31)
#undef CORPUS_SHUFFLE

CORPUS_INLINE int atomicAdd(int *at, int value) { return __nvvm_atom_add_gen_i(at, value); }
CORPUS_INLINE unsigned atomicAdd(unsigned *at, unsigned value) {
    return static_cast<unsigned>(__nvvm_atom_add_gen_i(reinterpret_cast<int *>(at), static_cast<int>(value)));
}
CORPUS_INLINE unsigned long long atomicAdd(unsigned long long *at, unsigned long long value) {
    return static_cast<unsigned long long>(__nvvm_atom_add_gen_ll(reinterpret_cast<long long *>(at), static_cast<long long>(value)));
}
CORPUS_INLINE float atomicAdd(float *at, float value) { return __nvvm_atom_add_gen_f(at, value); }
CORPUS_INLINE double atomicAdd(double *at, double value) { return __nvvm_atom_add_gen_d(at, value); }
CORPUS_INLINE int atomicCAS(int *at, int seen, int value) { return __nvvm_atom_cas_gen_i(at, seen, value); }
CORPUS_INLINE unsigned atomicMin(unsigned *at, unsigned value) { return __nvvm_atom_min_gen_ui(at, value); }
CORPUS_INLINE int atomicMax(int *at, int value) { return __nvvm_atom_max_gen_i(at, value); }
CORPUS_INLINE unsigned atomicInc(unsigned *at, unsigned limit) { return __nvvm_atom_inc_gen_ui(at, limit); }

#undef CORPUS_INLINE
