// Kernels for the tests of the software GPU; program.ptx is this file compiled with `nvcc -ptx -O3`, comments removed.
extern "C" __global__ void vector_add(const float *a, const float *b, float *c, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}
extern "C" __global__ void saxpy(int n, float a, const float *x, float *y) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) y[i] = a * x[i] + y[i];
}
extern "C" __global__ void matmul(const float *a, const float *b, float *c, int n) {
  __shared__ float ta[16][16], tb[16][16];
  int x = threadIdx.x, y = threadIdx.y, col = blockIdx.x * 16 + x, row = blockIdx.y * 16 + y;
  float sum = 0;
  for (int t = 0; t < n / 16; ++t) {
    ta[y][x] = a[row * n + t * 16 + x];
    tb[y][x] = b[(t * 16 + y) * n + col];
    __syncthreads();
    for (int k = 0; k < 16; ++k) sum += ta[y][k] * tb[k][x];
    __syncthreads();
  }
  c[row * n + col] = sum;
}
extern "C" __global__ void reduce_shared(const int *in, int *out, int n) {
  extern __shared__ int s[];
  int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
  s[t] = i < n ? in[i] : 0;
  __syncthreads();
  for (int d = blockDim.x / 2; d > 0; d >>= 1) { if (t < d) s[t] += s[t + d]; __syncthreads(); }
  if (t == 0) atomicAdd(out, s[0]);
}
extern "C" __global__ void reduce_shuffle(const float *in, float *out, int n) {
  float v = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) v += in[i];
  for (int d = 16; d > 0; d >>= 1) v += __shfl_down_sync(~0u, v, d);
  if ((threadIdx.x & 31) == 0) atomicAdd(out, v);
}
extern "C" __global__ void histogram(const unsigned char *data, unsigned *bins, int n) {
  __shared__ unsigned local[256];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) local[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) atomicAdd(&local[data[i]], 1u);
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&bins[i], local[i]);
}
__device__ float cas_max(float *p, float v) {
  int *a = (int *)p, old = *a, seen;
  do { seen = old; if (__int_as_float(seen) >= v) break; old = atomicCAS(a, seen, __float_as_int(v)); } while (seen != old);
  return __int_as_float(old);
}
extern "C" __global__ void max_cas(const float *in, float *out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) cas_max(out, in[i]);
}
__constant__ int table[8] = {3, 1, 4, 1, 5, 9, 2, 6};
__device__ int counter = 7;
__device__ const char *names[3] = {"a", "bc", "def"};
__device__ __noinline__ int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
extern "C" __global__ void misc(int *out, const int *idx) {
  int t = threadIdx.x;
  int v = table[t & 7] + atomicAdd(&counter, 1) * 0 + names[t % 3][0];
  int local[16];
  for (int i = 0; i < 16; ++i) local[i] = i * t;
  v += local[idx[t] & 15] + fib(t & 7);
  v += __popc(__ballot_sync(~0u, v & 1)) + __clz(v) + __ffs(v) + __brev(v) + __byte_perm(v, t, 0x2143);
  switch (t & 7) { case 0: v += 3; break; case 1: v *= 5; break; case 2: v ^= 77; break; case 3: v -= 9; break; case 4: v = ~v; break; case 5: v <<= 2; break; default: v = -v; }
  out[t] = v;
}
typedef int (*op_t)(int, int);
__device__ int op_add(int a, int b) { return a + b; }
__device__ int op_mul(int a, int b) { return a * b; }
__device__ op_t ops[2] = {op_add, op_mul};
extern "C" __global__ void indirect(int *out) { int t = threadIdx.x; out[t] = ops[t & 1](t, t + 1); }
extern "C" __global__ void spin(volatile int *flag, int *out) {
  int t = threadIdx.x;
  if (t == 0) { while (flag[0] == 0) {} out[0] = 1; }
  else if (t == 31) { flag[0] = 1; }
}
extern "C" __global__ void lock_add(int *lock, int *count) {
  bool done = false;
  while (!done) { if (atomicCAS(lock, 0, 1) == 0) { *(volatile int *)count += 1; __threadfence(); atomicExch(lock, 0); done = true; } }
}
struct Pair { long long a; double b; float4 c; short d; };
extern "C" __global__ void structs(Pair p, Pair *out, const float4 *v) {
  Pair q = p; q.a *= threadIdx.x; q.b /= 3; q.c = v[threadIdx.x]; q.d += 1; out[threadIdx.x] = q;
}
extern "C" __global__ void integers(const long long *a, const long long *b, long long *o) {
  int t = threadIdx.x; long long x = a[t], y = b[t];
  o[t*8] = x / y; o[t*8+1] = x % y; o[t*8+2] = __mul64hi(x, y); o[t*8+3] = (unsigned long long)x / (unsigned long long)y;
  o[t*8+4] = x << (y & 63); o[t*8+5] = x >> (y & 63); o[t*8+6] = (int)x / ((int)y | 1); o[t*8+7] = min(x, y) + max((int)x,(int)y) + (short)x % (short)7 + (unsigned char)y;
}
#include <cstdio>
#include <cassert>
extern "C" __global__ void print(int n) { if (threadIdx.x < 2) printf("thread %d of %s %f %lld\n", threadIdx.x, "here", n * 0.5, 1LL << 40); assert(n > 0); }
