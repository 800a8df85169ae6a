// Vectors: element-wise work, strides, vector loads, reductions of every shape, large and odd grids.
#include "corpus.h"

#ifndef HOST

KERNEL vector_add(const float *a, const float *b, float *c, int n) {
    int i = place();
    if (i < n) {
        c[i] = a[i] + b[i];
    }
}

KERNEL saxpy(int n, float factor, const float *x, float *y) {
    for (int i = place(); i < n; i += gridDim.x * blockDim.x) {
        y[i] = factor * x[i] + y[i];
    }
}

KERNEL daxpy4(int n, double factor, const double2 *x, double2 *y) {
    int i = place();
    if (i < n) {
        double2 p = x[i], q = y[i];
        q.x += factor * p.x;
        q.y += factor * p.y;
        y[i] = q;
    }
}

KERNEL swizzle4(const float4 *in, float4 *out, int n) {
    int i = place();
    if (i < n) {
        float4 v = in[i];
        out[i] = make_float4(v.w, v.x, v.z, v.y);
    }
}

KERNEL bytes_blend(const uchar4 *a, const uchar4 *b, uchar4 *out, unsigned alpha, int n) {
    int i = place();
    if (i < n) {
        uchar4 p = a[i], q = b[i];
        out[i] = make_uchar4((p.x * alpha + q.x * (255 - alpha)) / 255, (p.y * alpha + q.y * (255 - alpha)) / 255,
                             (p.z * alpha + q.z * (255 - alpha)) / 255, 255);
    }
}

KERNEL gather_scatter(const int *from, const int *to, const short *in, short *out, int n) {
    int i = place();
    if (i < n) {
        out[to[i]] = static_cast<short>(in[from[i]] * 3 - 1);
    }
}

KERNEL collatz(const unsigned *start, unsigned *steps, int n) {
    int i = place();
    if (i >= n) {
        return;
    }
    unsigned long long value = start[i];
    unsigned count = 0;
    while (value != 1) {
        value = value & 1 ? 3 * value + 1 : value / 2;
        ++count;
    }
    steps[i] = count;
}

KERNEL dot_atomic(const int *a, const int *b, unsigned long long *sum, int n) {
    int i = place();
    if (i < n) {
        atomicAdd(sum, static_cast<unsigned long long>(static_cast<long long>(a[i]) * b[i]));
    }
}

KERNEL reduce_shared(const unsigned *in, unsigned *out, int n) {
    extern __shared__ unsigned partial[];
    int i = place();
    partial[threadIdx.x] = i < n ? in[i] : 0;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            partial[threadIdx.x] += partial[threadIdx.x + half];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        out[blockIdx.x] = partial[0];
    }
}

KERNEL reduce_shuffle(const float *in, float *out, int n) {
    __shared__ float warps[32];
    float sum = 0;
    for (int i = place(); i < n; i += gridDim.x * blockDim.x) {
        sum += in[i];
    }
    for (int delta = 16; delta > 0; delta /= 2) {
        sum += __shfl_down_sync(0xffffffff, sum, delta);
    }
    if (threadIdx.x % 32 == 0) {
        warps[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? warps[threadIdx.x] : 0;
        for (int delta = 16; delta > 0; delta /= 2) {
            sum += __shfl_xor_sync(0xffffffff, sum, delta);
        }
        if (threadIdx.x == 0) {
            out[blockIdx.x] = sum;
        }
    }
}

__device__ unsigned arrived;

// The last block to finish adds up what the others left.
KERNEL reduce_last_block(const int *in, volatile long long *partial, long long *out, int n) {
    __shared__ long long sums[128];
    __shared__ bool last;
    long long sum = 0;
    for (int i = place(); i < n; i += gridDim.x * blockDim.x) {
        sum += in[i];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        sum = 0;
        for (unsigned i = 0; i < blockDim.x; ++i) {
            sum += sums[i];
        }
        partial[blockIdx.x] = sum;
        __threadfence();
        last = atomicInc(&arrived, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        sum = 0;
        for (unsigned i = 0; i < gridDim.x; ++i) {
            sum += partial[i];
        }
        *out = sum;
    }
}

KERNEL extremes(const double *in, double *low, double *high, int n) {
    __shared__ double lows[64], highs[64];
    double l = in[0], h = in[0];
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        l = fmin(l, in[i]);
        h = fmax(h, in[i]);
    }
    lows[threadIdx.x] = l;
    highs[threadIdx.x] = h;
    __syncthreads();
    for (int half = 32; half; half >>= 1) {
        if (threadIdx.x < half) {
            lows[threadIdx.x] = fmin(lows[threadIdx.x], lows[threadIdx.x + half]);
            highs[threadIdx.x] = fmax(highs[threadIdx.x], highs[threadIdx.x + half]);
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        *low = lows[0];
        *high = highs[0];
    }
}

KERNEL coordinates(unsigned *out) {
    unsigned x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y,
             z = blockIdx.z * blockDim.z + threadIdx.z;
    unsigned width = gridDim.x * blockDim.x, height = gridDim.y * blockDim.y;
    out[(z * height + y) * width + x] = x | y << 10 | z << 20;
}

KERNEL many_blocks(unsigned *count) {
    if (threadIdx.x == 0 && (blockIdx.x & 1023) == 7) {
        atomicAdd(count, blockIdx.x >> 10);
    }
}

#else

TEST(vector_add) {
    int n = 100003;
    auto a = reals<float>(n, -5, 5), b = reals<float>(n, -1, 1, 2);
    Buffer<float> x(a), y(b), z(n);
    launch("vector_add", blocks(n, 256), 256, x, y, z, n);
    std::transform(a.begin(), a.end(), b.begin(), a.begin(), std::plus<>());
    equal(z.read(), a);
}

TEST(saxpy) {
    int n = 70001;
    auto a = reals<float>(n, -5, 5), b = reals<float>(n, -1, 1, 2);
    Buffer<float> x(a), y(b);
    launch("saxpy", 7, 96, n, 1.75f, x, y);
    std::vector<double> wanted(n);
    for (int i = 0; i < n; ++i) {
        wanted[i] = 1.75 * a[i] + b[i];
    }
    close(y.read(), wanted, 1e-6, 1e-6);
}

TEST(daxpy) {
    int n = 2000;
    auto a = reals<double>(n, -5, 5), b = reals<double>(n, -1, 1, 2);
    Buffer<double> x(a), y(b);
    launch("daxpy4", blocks(n / 2, 128), 128, n / 2, -0.3, x, y);
    for (int i = 0; i < n; ++i) {
        b[i] = std::fma(-0.3, a[i], b[i]);
    }
    close(y.read(), b, 1e-15, 1e-15);
}

TEST(vector_loads) {
    int n = 4096;
    auto a = reals<float>(n, -5, 5);
    Buffer<float> x(a), y(n);
    launch("swizzle4", blocks(n / 4, 64), 64, x, y, n / 4);
    std::vector<float> wanted(n);
    for (int i = 0; i < n; i += 4) {
        wanted[i] = a[i + 3], wanted[i + 1] = a[i], wanted[i + 2] = a[i + 2], wanted[i + 3] = a[i + 1];
    }
    equal(y.read(), wanted);
    auto p = integers<unsigned char>(n, 256), q = integers<unsigned char>(n, 256, 2);
    Buffer<unsigned char> u(p), v(q), w(n);
    launch("bytes_blend", blocks(n / 4, 64), 64, u, v, w, 77u, n / 4);
    for (int i = 0; i < n; ++i) {
        p[i] = i % 4 == 3 ? 255 : static_cast<unsigned char>((p[i] * 77 + q[i] * 178) / 255);
    }
    equal(w.read(), p);
}

TEST(gather_scatter) {
    int n = 3000;
    std::vector<int> from = integers<int>(n, n), to(n);
    std::iota(to.begin(), to.end(), 0);
    Random random(9);
    for (int i = n - 1; i > 0; --i) {
        std::swap(to[i], to[random.below(i + 1)]);
    }
    auto in = integers<short>(n, 0);
    Buffer<int> f(from), t(to);
    Buffer<short> x(in), y(n);
    launch("gather_scatter", blocks(n, 256), 256, f, t, x, y, n);
    std::vector<short> wanted(n);
    for (int i = 0; i < n; ++i) {
        wanted[to[i]] = static_cast<short>(in[from[i]] * 3 - 1);
    }
    equal(y.read(), wanted);
}

TEST(divergent_loops) {
    int n = 5000;
    std::vector<unsigned> start(n), wanted(n);
    for (int i = 0; i < n; ++i) {
        start[i] = i * 37 + 1;
        for (unsigned long long value = start[i]; value != 1; value = value & 1 ? 3 * value + 1 : value / 2) {
            ++wanted[i];
        }
    }
    Buffer<unsigned> x(start), y(n);
    launch("collatz", blocks(n, 192), 192, x, y, n);
    equal(y.read(), wanted);
}

TEST(reductions) {
    int n = 50001;
    auto a = integers<int>(n, 0), b = integers<int>(n, 1000, 2);
    Buffer<int> x(a), y(b);
    Buffer<unsigned long long> sum(1);
    launch("dot_atomic", blocks(n, 256), 256, x, y, sum, n);
    long long wanted = 0;
    for (int i = 0; i < n; ++i) {
        wanted += static_cast<long long>(a[i]) * b[i];
    }
    equal(sum.read()[0], static_cast<unsigned long long>(wanted));

    Buffer<unsigned> out(blocks(n, 256));
    launch_shared("reduce_shared", blocks(n, 256), 256, 1024, x, out, n);
    auto parts = out.read();
    unsigned total = 0, plain = 0;
    for (unsigned part : parts) {
        total += part;
    }
    for (int value : a) {
        plain += unsigned(value);
    }
    equal(total, plain);

    Buffer<long long> partial(9), result(1);
    for (int turn = 0; turn < 2; ++turn) {
        launch("reduce_last_block", 9, 128, x, partial, result, n);
        equal(result.read()[0], std::accumulate(a.begin(), a.end(), 0LL));
    }
}

TEST(reduce_shuffle) {
    int n = 30011;
    auto a = reals<float>(n, 0, 1);
    Buffer<float> x(a), out(5);
    launch("reduce_shuffle", 5, 160, x, out, n);
    auto parts = out.read();
    close(std::vector<double>{std::accumulate(parts.begin(), parts.end(), 0.0)},
          std::vector<double>{std::accumulate(a.begin(), a.end(), 0.0)}, 1e-5);
}

TEST(extremes) {
    int n = 4001;
    auto a = reals<double>(n, -1e6, 1e6);
    a[100] = std::nan("");
    Buffer<double> x(a), low(1), high(1);
    launch("extremes", 1, 64, x, low, high, n);
    a[100] = a[101];
    equal(low.read()[0], *std::min_element(a.begin(), a.end()));
    equal(high.read()[0], *std::max_element(a.begin(), a.end()));
}

TEST(grids) {
    Size grid(3, 4, 5), block(7, 3, 2);
    size_t width = 21, height = 12, depth = 10;
    Buffer<unsigned> out(width * height * depth);
    launch("coordinates", grid, block, out);
    std::vector<unsigned> wanted;
    for (unsigned z = 0; z < depth; ++z) {
        for (unsigned y = 0; y < height; ++y) {
            for (unsigned x = 0; x < width; ++x) {
                wanted.push_back(x | y << 10 | z << 20);
            }
        }
    }
    equal(out.read(), wanted);
    Buffer<unsigned> count(1);
    launch("many_blocks", 100000, 32, count);
    equal(count.read()[0], 97u * 98 / 2);
}

#endif
