// Linear algebra: products, transposes, triangular and orthogonal factorisations of small matrices.
#include "corpus.h"

#ifndef HOST

KERNEL matmul_naive(const float *a, const float *b, float *c, int n) {
    int row = blockIdx.y * blockDim.y + threadIdx.y, column = blockIdx.x * blockDim.x + threadIdx.x;
    if (row < n && column < n) {
        float sum = 0;
        for (int k = 0; k < n; ++k) {
            sum += a[row * n + k] * b[k * n + column];
        }
        c[row * n + column] = sum;
    }
}

KERNEL matmul_tiled(const float *a, const float *b, float *c, int n) {
    __shared__ float p[16][16], q[16][17];
    int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 16 + y, column = blockIdx.x * 16 + x;
    float sum = 0;
    for (int tile = 0; tile < n; tile += 16) {
        p[y][x] = row < n && tile + x < n ? a[row * n + tile + x] : 0;
        q[y][x] = column < n && tile + y < n ? b[(tile + y) * n + column] : 0;
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 16; ++k) {
            sum = fmaf(p[y][k], q[k][x], sum);
        }
        __syncthreads();
    }
    if (row < n && column < n) {
        c[row * n + column] = sum;
    }
}

// Each thread computes a piece of 4 x 4 in registers; 64 threads do a tile of 32 x 32.
KERNEL matmul_registers(const float *a, const float *b, float *c, int n) {
    __shared__ float p[8][32], q[8][32];
    float sum[4][4] = {};
    int x = threadIdx.x % 8 * 4, y = threadIdx.x / 8 * 4;
    int row = blockIdx.y * 32, column = blockIdx.x * 32;
    for (int tile = 0; tile < n; tile += 8) {
        for (int i = threadIdx.x; i < 256; i += 64) {
            p[i % 8][i / 8] = a[(row + i / 8) * n + tile + i % 8];
            q[i / 32][i % 32] = b[(tile + i / 32) * n + column + i % 32];
        }
        __syncthreads();
        for (int k = 0; k < 8; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    sum[i][j] += p[k][y + i] * q[k][x + j];
                }
            }
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) {
            c[(row + y + i) * n + column + x + j] = sum[i][j];
        }
    }
}

KERNEL matmul_integers(const int *a, const int *b, long long *c, int n) {
    int row = threadIdx.y, column = threadIdx.x;
    long long sum = 0;
    for (int k = 0; k < n; ++k) {
        sum += static_cast<long long>(a[row * n + k]) * b[k * n + column];
    }
    c[row * n + column] = sum;
}

KERNEL transpose_naive(const int *in, int *out, int width, int height) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < width && y < height) {
        out[x * height + y] = in[y * width + x];
    }
}

KERNEL transpose_tiled(const int *in, int *out, int width, int height) {
    __shared__ int tile[32][33];
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (int i = 0; i < 32; i += 8) {
        if (x < width && y + i < height) {
            tile[threadIdx.y + i][threadIdx.x] = in[(y + i) * width + x];
        }
    }
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x, y = blockIdx.x * 32 + threadIdx.y;
    for (int i = 0; i < 32; i += 8) {
        if (x < height && y + i < width) {
            out[(y + i) * height + x] = tile[threadIdx.x][threadIdx.y + i];
        }
    }
}

KERNEL matvec_warp(const double *a, const double *x, double *y, int rows, int columns) {
    int row = place() / 32, lane = threadIdx.x % 32;
    if (row >= rows) {
        return;
    }
    double sum = 0;
    for (int k = lane; k < columns; k += 32) {
        sum += a[row * columns + k] * x[k];
    }
    for (int delta = 16; delta; delta >>= 1) {
        sum += __shfl_down_sync(0xffffffff, sum, delta);
    }
    if (lane == 0) {
        y[row] = sum;
    }
}

// In place, one block, one column after the other.
KERNEL lu(double *a, int n) {
    for (int k = 0; k < n; ++k) {
        for (int i = k + 1 + threadIdx.x; i < n; i += blockDim.x) {
            a[i * n + k] /= a[k * n + k];
        }
        __syncthreads();
        for (int at = threadIdx.x; at < (n - k - 1) * (n - k - 1); at += blockDim.x) {
            int i = k + 1 + at / (n - k - 1), j = k + 1 + at % (n - k - 1);
            a[i * n + j] -= a[i * n + k] * a[k * n + j];
        }
        __syncthreads();
    }
}

KERNEL cholesky(double *a, int n) {
    extern __shared__ double column[];
    for (int k = 0; k < n; ++k) {
        if (threadIdx.x == 0) {
            a[k * n + k] = sqrt(a[k * n + k]);
        }
        __syncthreads();
        for (int i = k + threadIdx.x; i < n; i += blockDim.x) {
            column[i] = i == k ? a[k * n + k] : (a[i * n + k] /= a[k * n + k]);
        }
        __syncthreads();
        for (int i = k + 1 + threadIdx.x; i < n; i += blockDim.x) {
            for (int j = k + 1; j <= i; ++j) {
                a[i * n + j] -= column[i] * column[j];
            }
        }
        __syncthreads();
    }
}

// Modified Gram-Schmidt, one warp; q starts as the matrix.
KERNEL qr(float *q, float *r, int n) {
    int lane = threadIdx.x;
    for (int k = 0; k < n; ++k) {
        float sum = 0;
        for (int i = lane; i < n; i += 32) {
            sum += q[i * n + k] * q[i * n + k];
        }
        for (int delta = 1; delta < 32; delta <<= 1) {
            sum += __shfl_xor_sync(0xffffffff, sum, delta);
        }
        float length = sqrtf(sum);
        if (lane == 0) {
            r[k * n + k] = length;
        }
        for (int i = lane; i < n; i += 32) {
            q[i * n + k] /= length;
        }
        __syncwarp();
        for (int j = k + 1 + lane; j < n; j += 32) {
            float product = 0;
            for (int i = 0; i < n; ++i) {
                product += q[i * n + k] * q[i * n + j];
            }
            r[k * n + j] = product;
            for (int i = 0; i < n; ++i) {
                q[i * n + j] -= product * q[i * n + k];
            }
        }
        __syncwarp();
    }
}

KERNEL jacobi(const double *a, const double *b, const double *x, double *next, int n) {
    int row = place();
    if (row < n) {
        double sum = b[row];
        for (int k = 0; k < n; ++k) {
            if (k != row) {
                sum -= a[row * n + k] * x[k];
            }
        }
        next[row] = sum / a[row * n + row];
    }
}

#else

template <class T> std::vector<double> product(const std::vector<T> &a, const std::vector<T> &b, int n) {
    std::vector<double> c(n * n);
    for (int i = 0; i < n; ++i) {
        for (int k = 0; k < n; ++k) {
            for (int j = 0; j < n; ++j) {
                c[i * n + j] += double(a[i * n + k]) * double(b[k * n + j]);
            }
        }
    }
    return c;
}

TEST(matmul) {
    int n = 75;
    auto a = reals<float>(n * n, -1, 1), b = reals<float>(n * n, -1, 1, 2);
    Buffer<float> x(a), y(b), z(n * n);
    launch("matmul_naive", Size(5, 5), Size(16, 16), x, y, z, n);
    close(z.read(), product(a, b, n), 1e-5, 1e-5);
    Buffer<float> w(n * n);
    launch("matmul_tiled", Size(5, 5), Size(16, 16), x, y, w, n);
    close(w.read(), product(a, b, n), 1e-5, 1e-5);
}

TEST(matmul_registers) {
    int n = 96;
    auto a = reals<float>(n * n, -1, 1), b = reals<float>(n * n, -1, 1, 2);
    Buffer<float> x(a), y(b), z(n * n);
    launch("matmul_registers", Size(3, 3), 64, x, y, z, n);
    close(z.read(), product(a, b, n), 1e-5, 1e-5);
}

TEST(matmul_integers) {
    int n = 24;
    auto a = integers<int>(n * n, 0), b = integers<int>(n * n, 0, 2);
    for (int &value : a) {
        value >>= 8;
    }
    Buffer<int> x(a), y(b);
    Buffer<long long> z(n * n);
    launch("matmul_integers", 1, Size(n, n), x, y, z, n);
    std::vector<long long> wanted(n * n);
    for (int i = 0; i < n * n; ++i) {
        for (int k = 0; k < n; ++k) {
            wanted[i] += static_cast<long long>(a[i / n * n + k]) * b[k * n + i % n];
        }
    }
    equal(z.read(), wanted);
}

TEST(transpose) {
    int width = 70, height = 45;
    auto a = integers<int>(width * height, 0);
    std::vector<int> wanted(a.size());
    for (int i = 0; i < width * height; ++i) {
        wanted[i % width * height + i / width] = a[i];
    }
    Buffer<int> x(a), y(a.size()), z(a.size());
    launch("transpose_naive", Size(5, 6), Size(16, 8), x, y, width, height);
    equal(y.read(), wanted);
    launch("transpose_tiled", Size(3, 2), Size(32, 8), x, z, width, height);
    equal(z.read(), wanted);
}

TEST(matvec) {
    int rows = 37, columns = 201;
    auto a = reals<double>(rows * columns, -1, 1), x = reals<double>(columns, -1, 1, 2);
    std::vector<double> wanted(rows);
    for (int i = 0; i < rows * columns; ++i) {
        wanted[i / columns] += a[i] * x[i % columns];
    }
    Buffer<double> p(a), q(x), y(rows);
    launch("matvec_warp", blocks(rows * 32, 128), 128, p, q, y, rows, columns);
    close(y.read(), wanted, 1e-12, 1e-12);
}

// A matrix far from singular, symmetric and positive definite.
static std::vector<double> definite(int n) {
    auto a = reals<double>(n * n, -1, 1);
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < i; ++j) {
            a[j * n + i] = a[i * n + j];
        }
        a[i * n + i] = n + 2;
    }
    return a;
}

TEST(lu) {
    int n = 33;
    auto a = definite(n);
    a[5] = 0.75;
    Buffer<double> x(a);
    launch("lu", 1, 128, x, n);
    auto f = x.read();
    std::vector<double> lower(n * n), upper(n * n);
    for (int i = 0; i < n * n; ++i) {
        (i % n < i / n ? lower : upper)[i] = f[i];
        if (i % n == i / n) {
            lower[i] = 1;
        }
    }
    close(product(lower, upper, n), a, 1e-10, 1e-10);
}

TEST(cholesky) {
    int n = 40;
    auto a = definite(n);
    Buffer<double> x(a);
    launch_shared("cholesky", 1, 32, n * sizeof(double), x, n);
    auto lower = x.read();
    std::vector<double> upper(n * n);
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) {
            if (j > i) {
                lower[i * n + j] = 0;
            }
            upper[j * n + i] = lower[i * n + j];
        }
    }
    close(product(lower, upper, n), a, 1e-10, 1e-10);
}

TEST(qr) {
    int n = 30;
    auto a = definite(n);
    Buffer<float> q(std::vector<float>(a.begin(), a.end())), r(n * n);
    launch("qr", 1, 32, q, r, n);
    auto u = q.read();
    close(product(u, r.read(), n), a, 1e-4, 1e-4);
    std::vector<float> turned(n * n);
    std::vector<double> one(n * n);
    for (int i = 0; i < n * n; ++i) {
        turned[i % n * n + i / n] = u[i];
        one[i] = i / n == i % n;
    }
    close(product(turned, u, n), one, 0, 1e-4);
}

TEST(jacobi) {
    int n = 20;
    auto a = definite(n), b = reals<double>(n, -1, 1, 3);
    Buffer<double> p(a), q(b), x(n), y(n);
    for (int turn = 0; turn < 40; ++turn) {
        launch("jacobi", 1, 32, p, q, turn % 2 ? y : x, turn % 2 ? x : y, n);
    }
    auto solved = x.read();
    std::vector<double> seen(n);
    for (int i = 0; i < n * n; ++i) {
        seen[i / n] += a[i] * solved[i % n];
    }
    close(seen, b, 1e-6, 1e-6);
}

#endif
