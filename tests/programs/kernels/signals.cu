// Signals and grids: Fourier transforms, convolutions, stencils, cellular automata.
#include "corpus.h"

#ifndef HOST

// Radix 2, decimation in time, 256 points in shared memory, 128 threads; `sign` is -1 forward.
KERNEL fft(float2 *data, float sign) {
    __shared__ float2 s[256];
    float2 *own = data + blockIdx.x * 256;
    for (int i = threadIdx.x; i < 256; i += 128) {
        s[__brev(i) >> 24] = own[i];
    }
    for (int half = 1; half < 256; half *= 2) {
        __syncthreads();
        int k = threadIdx.x % half, i = threadIdx.x / half * 2 * half + k;
        float angle = sign * 3.14159265358979f * k / half, sine, cosine;
        sincosf(angle, &sine, &cosine);
        float2 a = s[i], b = s[i + half];
        float2 t = make_float2(b.x * cosine - b.y * sine, b.x * sine + b.y * cosine);
        s[i] = make_float2(a.x + t.x, a.y + t.y);
        s[i + half] = make_float2(a.x - t.x, a.y - t.y);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += 128) {
        own[i] = s[i];
    }
}

__constant__ float taps[9];

KERNEL convolve(const float *in, float *out, int n) {
    __shared__ float tile[128 + 8];
    int i = place();
    for (int at = threadIdx.x; at < 136; at += 128) {
        int from = static_cast<int>(blockIdx.x * 128) + at - 4;
        tile[at] = from >= 0 && from < n ? in[from] : 0;
    }
    __syncthreads();
    if (i < n) {
        float sum = 0;
#pragma unroll
        for (int k = 0; k < 9; ++k) {
            sum += taps[k] * tile[threadIdx.x + k];
        }
        out[i] = sum;
    }
}

KERNEL convolve2(const unsigned char *in, unsigned char *out, int width, int height) {
    const int sharpen[3][3] = {{0, -1, 0}, {-1, 5, -1}, {0, -1, 0}};
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) {
        return;
    }
    int sum = 0;
    for (int dy = -1; dy <= 1; ++dy) {
        for (int dx = -1; dx <= 1; ++dx) {
            int u = min(max(x + dx, 0), width - 1), v = min(max(y + dy, 0), height - 1);
            sum += sharpen[dy + 1][dx + 1] * in[v * width + u];
        }
    }
    out[y * width + x] = static_cast<unsigned char>(min(max(sum, 0), 255));
}

KERNEL heat(const double *in, double *out, int n) {
    int i = place();
    if (i < n) {
        out[i] = i == 0 || i == n - 1 ? in[i] : in[i] + 0.25 * (in[i - 1] - 2 * in[i] + in[i + 1]);
    }
}

KERNEL heat2(const float *in, float *out, int width, int height) {
    __shared__ float tile[10][18];
    int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 8 + threadIdx.y;
    int u = min(x, width - 1), v = min(y, height - 1), tx = threadIdx.x + 1, ty = threadIdx.y + 1;
    tile[ty][tx] = in[v * width + u];
    if (threadIdx.x == 0) {
        tile[ty][0] = in[v * width + max(u - 1, 0)];
        tile[ty][17] = in[v * width + min(x + 16, width - 1)];
    }
    if (threadIdx.y == 0) {
        tile[0][tx] = in[max(v - 1, 0) * width + u];
        tile[9][tx] = in[min(y + 8, height - 1) * width + u];
    }
    __syncthreads();
    if (x > 0 && x < width - 1 && y > 0 && y < height - 1) {
        out[y * width + x] = 0.25f * (tile[ty][tx - 1] + tile[ty][tx + 1] + tile[ty - 1][tx] + tile[ty + 1][tx]);
    } else if (x < width && y < height) {
        out[y * width + x] = tile[ty][tx];
    }
}

KERNEL laplace3(const float *in, float *out, int n) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y,
        z = blockIdx.z * blockDim.z + threadIdx.z;
    if (x < 1 || y < 1 || z < 1 || x >= n - 1 || y >= n - 1 || z >= n - 1) {
        return;
    }
    int i = (z * n + y) * n + x;
    out[i] = in[i - 1] + in[i + 1] + in[i - n] + in[i + n] + in[i - n * n] + in[i + n * n] - 6 * in[i];
}

KERNEL life(const unsigned char *in, unsigned char *out, int width, int height) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) {
        return;
    }
    int neighbours = 0;
    for (int d = 0; d < 9; ++d) {
        if (d != 4) {
            neighbours += in[(y + d / 3 - 1 + height) % height * width + (x + d % 3 - 1 + width) % width];
        }
    }
    out[y * width + x] = neighbours == 3 || (neighbours == 2 && in[y * width + x]);
}

// Rule 110 on 32 cells a word; neighbours come from the adjacent lanes.
KERNEL rule110(unsigned *cells, int generations) {
    unsigned own = cells[threadIdx.x];
    for (int turn = 0; turn < generations; ++turn) {
        unsigned left = __shfl_sync(0xffffffff, own, threadIdx.x + 31), right = __shfl_sync(0xffffffff, own, threadIdx.x + 1);
        unsigned l = __funnelshift_l(left, own, 1), r = __funnelshift_r(own, right, 1);
        own = (own | r) & ~(l & own & r);
    }
    cells[threadIdx.x] = own;
}

#else

static const double pi = 3.14159265358979323846;

TEST(fourier) {
    auto in = reals<float>(2 * 512, -1, 1);
    Buffer<float> x(in);
    launch("fft", 2, 128, x, -1.0f);
    std::vector<double> wanted(in.size());
    for (int b = 0; b < 512; b += 256) {
        for (int k = 0; k < 256; ++k) {
            for (int i = 0; i < 256; ++i) {
                double angle = -2 * pi * (i * k % 256) / 256, c = std::cos(angle), s = std::sin(angle);
                double re = in[2 * (b + i)], im = in[2 * (b + i) + 1];
                wanted[2 * (b + k)] += re * c - im * s;
                wanted[2 * (b + k) + 1] += re * s + im * c;
            }
        }
    }
    close(x.read(), wanted, 1e-4, 1e-4);
    launch("fft", 2, 128, x, 1.0f);
    auto back = x.read();
    for (float &value : back) {
        value /= 256;
    }
    close(back, in, 1e-5, 1e-5);
}

TEST(convolution) {
    int n = 1000;
    auto in = reals<float>(n, -1, 1), weights = reals<float>(9, -1, 1, 2);
    set_symbol("taps", weights);
    Buffer<float> x(in), y(n);
    launch("convolve", blocks(n, 128), 128, x, y, n);
    std::vector<double> wanted(n);
    for (int i = 0; i < n; ++i) {
        for (int k = 0; k < 9; ++k) {
            int at = i + k - 4;
            wanted[i] += at >= 0 && at < n ? double(weights[k]) * in[at] : 0;
        }
    }
    close(y.read(), wanted, 1e-5, 1e-6);
}

TEST(convolution_of_an_image) {
    int width = 61, height = 37;
    auto in = integers<unsigned char>(width * height, 256);
    Buffer<unsigned char> x(in), y(in.size());
    launch("convolve2", Size(4, 5), Size(16, 8), x, y, width, height);
    std::vector<unsigned char> wanted(in.size());
    auto at = [&](int u, int v) { return in[std::clamp(v, 0, height - 1) * width + std::clamp(u, 0, width - 1)]; };
    for (int i = 0; i < width * height; ++i) {
        int u = i % width, v = i / width;
        int sum = 5 * at(u, v) - at(u - 1, v) - at(u + 1, v) - at(u, v - 1) - at(u, v + 1);
        wanted[i] = static_cast<unsigned char>(std::clamp(sum, 0, 255));
    }
    equal(y.read(), wanted);
}

TEST(stencil) {
    int n = 300;
    auto a = reals<double>(n, 0, 1);
    Buffer<double> x(a), y(n);
    for (int turn = 0; turn < 10; ++turn) {
        launch("heat", blocks(n, 64), 64, turn % 2 ? y : x, turn % 2 ? x : y, n);
        auto b = a;
        for (int i = 1; i < n - 1; ++i) {
            b[i] = a[i] + 0.25 * (a[i - 1] - 2 * a[i] + a[i + 1]);
        }
        a = b;
    }
    close(x.read(), a, 1e-13, 1e-14);
}

TEST(stencil2) {
    int width = 45, height = 29;
    auto a = reals<float>(width * height, 0, 1);
    Buffer<float> x(a), y(a.size());
    launch("heat2", Size(3, 4), Size(16, 8), x, y, width, height);
    auto b = a;
    for (int v = 1; v < height - 1; ++v) {
        for (int u = 1; u < width - 1; ++u) {
            int i = v * width + u;
            b[i] = 0.25f * (a[i - 1] + a[i + 1] + a[i - width] + a[i + width]);
        }
    }
    close(y.read(), b, 1e-6);
}

TEST(stencil3) {
    int n = 21;
    auto a = reals<float>(n * n * n, 0, 1);
    Buffer<float> x(a), y(a.size());
    launch("laplace3", Size(3, 6, 11), Size(8, 4, 2), x, y, n);
    std::vector<double> b(a.size());
    for (int i = 0; i < n * n * n; ++i) {
        int u = i % n, v = i / n % n, w = i / n / n;
        if (u && v && w && u < n - 1 && v < n - 1 && w < n - 1) {
            b[i] = double(a[i - 1]) + a[i + 1] + a[i - n] + a[i + n] + a[i - n * n] + a[i + n * n] - 6.0 * a[i];
        }
    }
    close(y.read(), b, 1e-5, 2e-6);
}

TEST(life) {
    int width = 40, height = 30;
    auto a = integers<unsigned char>(width * height, 2);
    Buffer<unsigned char> x(a), y(a.size());
    for (int turn = 0; turn < 6; ++turn) {
        launch("life", Size(3, 8), Size(16, 4), turn % 2 ? y : x, turn % 2 ? x : y, width, height);
        auto b = a;
        for (int i = 0; i < width * height; ++i) {
            int sum = -a[i];
            for (int v = height - 1; v <= height + 1; ++v) {
                for (int u = width - 1; u <= width + 1; ++u) {
                    sum += a[(i / width + v) % height * width + (i % width + u) % width];
                }
            }
            b[i] = sum == 3 || (sum == 2 && a[i]);
        }
        a = b;
    }
    equal(x.read(), a);
}

TEST(rule110) {
    auto a = integers<unsigned>(32, 0);
    Buffer<unsigned> x(a);
    launch("rule110", 1, 32, x, 50);
    std::vector<int> bits(1024);
    for (int i = 0; i < 1024; ++i) {
        bits[i] = a[i / 32] >> i % 32 & 1;
    }
    for (int turn = 0; turn < 50; ++turn) {
        std::vector<int> next(1024);
        for (int i = 0; i < 1024; ++i) {
            int pattern = bits[(i + 1023) % 1024] << 2 | bits[i] << 1 | bits[(i + 1) % 1024];
            next[i] = 110 >> pattern & 1;
        }
        bits = next;
    }
    std::vector<unsigned> wanted(32);
    for (int i = 0; i < 1024; ++i) {
        wanted[i / 32] |= unsigned(bits[i]) << i % 32;
    }
    equal(x.read(), wanted);
}

#endif
