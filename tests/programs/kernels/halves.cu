// Half precision and bfloat16, one at a time and in pairs.
#include "corpus.h"

#ifndef HOST

#include <cuda_bf16.h>
#include <cuda_fp16.h>

KERNEL half_arithmetic(const float *a, const float *b, float *out, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    __half x = __float2half(a[i]), y = __float2half(b[i]);
    float *o = out + 12 * i;
    o[0] = __half2float(__hadd(x, y));
    o[1] = __half2float(__hsub(x, y));
    o[2] = __half2float(__hmul(x, y));
    o[3] = __half2float(__hdiv(x, y));
    o[4] = __half2float(__hfma(x, y, x));
    o[5] = __half2float(__hneg(x)) + (__hlt(x, y) ? 1000 : 0) + (__hge(x, y) ? 2000 : 0);
    o[6] = __half2float(hsqrt(__habs(x)));
    o[7] = __half2float(__hmax(x, y));
    o[8] = __half2float(__hadd_sat(x, y));
    o[9] = static_cast<float>(__half2int_rn(x)) + static_cast<float>(__half2short_rz(y));
    o[10] = __half2float(__int2half_rn(i * 37)) + __half2float(__ushort2half_rn(static_cast<unsigned short>(i)));
    o[11] = __half2float(hfloor(x)) + __half2float(hrint(y));
}

KERNEL half_pairs(const float2 *a, const float2 *b, float2 *out, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    __half2 x = __float22half2_rn(a[i]), y = __float22half2_rn(b[i]);
    float2 *o = out + 6 * i;
    o[0] = __half22float2(__hadd2(x, y));
    o[1] = __half22float2(__hmul2(x, y));
    o[2] = __half22float2(__hfma2(x, y, y));
    o[3] = __half22float2(__lowhigh2highlow(x));
    o[4] = __half22float2(__hgt2(x, y));
    o[5] = make_float2(__low2float(__hmin2(x, y)), __high2float(__hsub2(x, y)));
}

KERNEL half_sum(const __half *in, float *out, int n) {
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += 32) {
        sum += __half2float(in[i]);
    }
    for (int delta = 16; delta; delta /= 2) {
        sum += __shfl_xor_sync(0xffffffff, sum, delta);
    }
    __half largest = __ushort_as_half(0xfc00);
    for (int i = threadIdx.x; i < n; i += 32) {
        largest = __hmax(largest, in[i]);
    }
    for (int delta = 16; delta; delta /= 2) {
        largest = __hmax(largest, __shfl_xor_sync(0xffffffff, largest, delta));
    }
    if (threadIdx.x == 0) {
        out[0] = sum;
        out[1] = __half2float(largest);
    }
}

KERNEL bfloat_arithmetic(const float *a, const float *b, float *out, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    __nv_bfloat16 x = __float2bfloat16(a[i]), y = __float2bfloat16(b[i]);
    float *o = out + 6 * i;
    o[0] = __bfloat162float(x);
    o[1] = __bfloat162float(__hadd(x, y));
    o[2] = __bfloat162float(__hmul(x, y));
    o[3] = __bfloat162float(__hadd(__hmul(x, y), y));
    o[4] = __bfloat162float(__hmin(x, y)) + (__hgt(x, y) ? 500 : 0);
    __nv_bfloat162 pair = __hadd2(__halves2bfloat162(x, y), __halves2bfloat162(y, y));
    o[5] = __low2float(pair) * 1000 + __high2float(pair);
}

KERNEL half_atomics(__half2 *pair, __half *one) {
    atomicAdd(pair, __floats2half2_rn(1.0f, 0.5f));
    atomicAdd(one, __float2half(0.25f));
}

#else

// Rounds to nearest even with `bits` of significand, the leading one included; no overflow here.
static double rounded(double x, int bits, int least) {
    if (x == 0 || !std::isfinite(x)) {
        return x;
    }
    int exponent = std::max(std::ilogb(x), least);
    return std::ldexp(std::nearbyint(std::ldexp(x, bits - 1 - exponent)), exponent - bits + 1);
}
static double half(double x) { return rounded(x, 11, -14); }
static double brain(double x) { return rounded(x, 8, -126); }

TEST(half_arithmetic) {
    int n = 300;
    auto a = reals<float>(n, -30, 30), b = reals<float>(n, 0.5, 8, 2);
    a[0] = 1e-6f, a[1] = 0;
    Buffer<float> x(a), y(b), z(12 * n);
    launch("half_arithmetic", 3, 128, x, y, z, n);
    auto seen = z.read();
    std::vector<double> wanted;
    for (int i = 0; i < n; ++i) {
        double u = half(a[i]), v = half(b[i]);
        wanted.insert(wanted.end(), {half(u + v), half(u - v), half(u * v), half(u / v), half(u * v + u),
                                     -u + (u < v ? 1000 : 0) + (u >= v ? 2000 : 0), half(std::sqrt(std::fabs(u))),
                                     std::max(u, v), std::clamp(half(u + v), 0.0, 1.0),
                                     std::nearbyint(u) + std::trunc(v), half(i * 37) + half(i),
                                     std::floor(u) + std::nearbyint(v)});
    }
    // A quotient is made of an approximate reciprocal and may be one unit off.
    for (int i = 0; i < n; ++i) {
        if (std::fabs(seen[12 * i + 3] - wanted[12 * i + 3]) <= std::fabs(wanted[12 * i + 3]) / 1024 + 1e-7) {
            seen[12 * i + 3] = float(wanted[12 * i + 3]);
        }
    }
    close(seen, wanted, 1e-7);
}

TEST(half_pairs) {
    int n = 200;
    auto a = reals<float>(2 * n, -30, 30), b = reals<float>(2 * n, -3, 8, 2);
    Buffer<float> x(a), y(b), z(12 * n);
    launch("half_pairs", 2, 128, x, y, z, n);
    std::vector<double> wanted;
    for (int i = 0; i < n; ++i) {
        double p[2] = {half(a[2 * i]), half(a[2 * i + 1])}, q[2] = {half(b[2 * i]), half(b[2 * i + 1])};
        for (int k = 0; k < 12; ++k) {
            double u = p[k % 2], v = q[k % 2];
            double values[] = {half(u + v), half(u * v), half(u * v + v), p[1 - k % 2], u > v ? 1.0 : 0.0,
                               k % 2 ? half(u - v) : std::min(u, v)};
            wanted.push_back(values[k / 2]);
        }
    }
    close(z.read(), wanted, 0);
}

TEST(half_sum) {
    int n = 500;
    auto bits = integers<unsigned short>(n, 0x7800);
    double sum = 0, largest = 0;
    for (unsigned short v : bits) {
        int exponent = v >> 10;
        double value = exponent ? std::ldexp(1024 + (v & 1023), exponent - 25) : std::ldexp(v & 1023, -24);
        sum += value;
        largest = std::max(largest, value);
    }
    Buffer<unsigned short> x(bits);
    Buffer<float> out(2);
    launch("half_sum", 1, 32, x, out, n);
    close(out.read(), std::vector<double>{sum, largest}, 1e-5);
}

TEST(bfloat_arithmetic) {
    int n = 300;
    auto a = reals<float>(n, -30, 30), b = reals<float>(n, -3, 8, 2);
    Buffer<float> x(a), y(b), z(6 * n);
    launch("bfloat_arithmetic", 3, 128, x, y, z, n);
    std::vector<double> wanted;
    for (int i = 0; i < n; ++i) {
        double u = brain(a[i]), v = brain(b[i]);
        wanted.insert(wanted.end(), {u, brain(u + v), brain(u * v), brain(brain(u * v) + v), std::min(u, v) + (u > v ? 500 : 0),
                                     double(float(brain(u + v) * 1000) + float(brain(v + v)))});
    }
    // Where the target has no such instruction, the sum is one of single precision, rounded twice.
    close(z.read(), wanted, 1e-6);
}

TEST(half_atomics) {
    Buffer<unsigned> pair(1);
    Buffer<unsigned short> one(2);
    launch("half_atomics", 2, 64, pair, one);
    equal(pair.read()[0], 0x54005800u);  // 64 and 128
    equal(one.read()[0], static_cast<unsigned short>(0x5000));  // 32
}

#endif
