// The kernels of `make bench`, compiled by clang without any header of NVIDIA's: kernels.ptx is made of this by
//
//   make -C tests/programs bench-ptx
//
// and checked in, so that the benchmark needs no CUDA compiler. kernels.c holds the same loops in C.
#include "../kernels/corpus.h"

static __device__ inline float power_of_two(float x) { return __nvvm_ex2_approx_f(x); }
static __device__ inline float logarithm(float x) { return __nvvm_lg2_approx_f(x) * 0.693147181f; }
static __device__ inline float exponential(float x) { return power_of_two(x * 1.44269504f); }

KERNEL vector_add(const float *a, const float *b, float *c, int n) {
    int i = place();
    if (i < n) {
        c[i] = a[i] + b[i];
    }
}

KERNEL saxpy(const float *x, float *y, float factor, int n) {
    for (int i = place(); i < n; i += gridDim.x * blockDim.x) {
        y[i] = factor * x[i] + y[i];
    }
}

KERNEL matmul(const float *a, const float *b, float *c, int n) {
    int row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int column = lane; column < n; column += 32) {
        float sum = 0;
        for (int k = 0; k < n; ++k) {
            sum += a[row * n + k] * b[k * n + column];
        }
        c[row * n + column] = sum;
    }
}

KERNEL nbody(const float4 *bodies, float4 *forces, int n) {
    __shared__ float4 tile[256];
    int i = place();
    float4 own = bodies[i];
    float fx = 0, fy = 0, fz = 0;
    for (int start = 0; start < n; start += 256) {
        tile[threadIdx.x] = bodies[start + threadIdx.x];
        __syncthreads();
        for (int j = 0; j < 256; ++j) {
            float x = tile[j].x - own.x, y = tile[j].y - own.y, z = tile[j].z - own.z;
            float inverse = rsqrtf(x * x + y * y + z * z + 0.01f);
            float scale = tile[j].w * inverse * inverse * inverse;
            fx += x * scale;
            fy += y * scale;
            fz += z * scale;
        }
        __syncthreads();
    }
    forces[i] = {fx, fy, fz, 0};
}

KERNEL reduction(const unsigned *in, unsigned *out, int n) {
    __shared__ unsigned partial[256];
    unsigned sum = 0;
    for (int i = place(); i < n; i += gridDim.x * blockDim.x) {
        sum += in[i];
    }
    partial[threadIdx.x] = sum;
    for (unsigned half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            partial[threadIdx.x] += partial[threadIdx.x + half];
        }
    }
    if (threadIdx.x == 0) {
        atomicAdd(out, partial[0]);
    }
}

// The cumulative normal distribution, by the polynomial of Abramowitz and Stegun, 26.2.17.
static __device__ inline float normal(float d) {
    float k = 1 / (1 + 0.2316419f * (d < 0 ? -d : d));
    float tail = 0.39894228f * exponential(-0.5f * d * d) *
                 (k * (0.31938153f + k * (-0.356563782f + k * (1.781477937f + k * (-1.821255978f + k * 1.330274429f)))));
    return d > 0 ? 1 - tail : tail;
}

KERNEL black_scholes(const float *spot, const float *strike, const float *years, float *calls, float *puts, int n) {
    const float rate = 0.02f, volatility = 0.3f;
    for (int i = place(); i < n; i += gridDim.x * blockDim.x) {
        float root = sqrtf(years[i]);
        float d1 = (logarithm(spot[i] / strike[i]) + (rate + 0.5f * volatility * volatility) * years[i]) / (volatility * root);
        float d2 = d1 - volatility * root, discount = strike[i] * exponential(-rate * years[i]);
        float p = normal(d1), q = normal(d2);
        calls[i] = spot[i] * p - discount * q;
        puts[i] = discount * (1 - q) - spot[i] * (1 - p);
    }
}

KERNEL histogram(const unsigned char *in, unsigned *bins, int n) {
    __shared__ unsigned own[256];
    own[threadIdx.x] = 0;
    __syncthreads();
    for (int i = place(); i < n; i += gridDim.x * blockDim.x) {
        atomicAdd(&own[in[i]], 1u);
    }
    __syncthreads();
    atomicAdd(&bins[threadIdx.x], own[threadIdx.x]);
}
