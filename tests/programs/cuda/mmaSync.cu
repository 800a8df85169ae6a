// Matrix products from the instructions that libraries for tensor cores are built of: cp.async into two
// stages of shared memory, ldmatrix (transposed for b) and mma.sync.
#include "check.h"
#include <cuda_fp16.h>
#include <vector>

constexpr int TILE_M = 64, TILE_N = 32, TILE_K = 32, WARPS = 4;

__device__ unsigned shared_address(const void *pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ void copy16(void *to, const void *from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(inside ? 16 : 0));
}

// One block computes TILE_M x TILE_N elements of c = a * b; each warp 16 rows of them.
__global__ void product(const __half *a, const __half *b, float *c, int rows, int inner, int columns) {
    // 8 elements more in each row keep ldmatrix off bank conflicts, as such programs do.
    __shared__ __align__(16) __half left[2][TILE_M][TILE_K + 8];
    __shared__ __align__(16) __half right[2][TILE_K][TILE_N + 8];
    const int row = blockIdx.y * TILE_M, column = blockIdx.x * TILE_N;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const auto fetch = [&](int stage, int k) {
        for (int i = threadIdx.x; i < TILE_M * TILE_K / 8; i += blockDim.x) {
            const int down = i / (TILE_K / 8), across = i % (TILE_K / 8) * 8;
            const bool inside = row + down < rows && k + across < inner;
            copy16(&left[stage][down][across], inside ? &a[(row + down) * inner + k + across] : a, inside);
        }
        for (int i = threadIdx.x; i < TILE_K * TILE_N / 8; i += blockDim.x) {
            const int down = i / (TILE_N / 8), across = i % (TILE_N / 8) * 8;
            const bool inside = k + down < inner && column + across < columns;
            copy16(&right[stage][down][across], inside ? &b[(k + down) * columns + column + across] : b, inside);
        }
        asm volatile("cp.async.commit_group;");
    };
    float sums[TILE_N / 8][4] = {};
    fetch(0, 0);
    for (int k = 0, stage = 0; k < inner; k += TILE_K, stage ^= 1) {
        if (k + TILE_K < inner) {
            fetch(stage ^ 1, k + TILE_K);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
        for (int step = 0; step < TILE_K; step += 16) {
            unsigned x[4];
            const void *from = &left[stage][warp * 16 + lane % 16][step + lane / 16 * 8];
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                         : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                         : "r"(shared_address(from)));
            for (int tile = 0; tile < TILE_N / 8; ++tile) {
                unsigned y[2];
                const void *other = &right[stage][step + lane % 16][tile * 8];
                asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                             : "=r"(y[0]), "=r"(y[1])
                             : "r"(shared_address(other)));
                float *d = sums[tile];
                asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                             "{%8, %9}, {%0, %1, %2, %3};"
                             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                             : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
            }
        }
        __syncthreads();
    }
    for (int tile = 0; tile < TILE_N / 8; ++tile) {
        for (int i = 0; i < 4; ++i) {
            const int down = row + warp * 16 + lane / 4 + i / 2 * 8;
            const int across = column + tile * 8 + lane % 4 * 2 + i % 2;
            if (down < rows && across < columns) c[down * columns + across] = sums[tile][i];
        }
    }
}

// d = a * b + c on bytes: one 16x8x32 product, clamped.
__global__ void clamped(const signed char *a, const signed char *b, int *c) {
    const int group = threadIdx.x / 4, place = threadIdx.x % 4;
    const int *rows = reinterpret_cast<const int *>(a), *columns = reinterpret_cast<const int *>(b);
    const int x[4] = {rows[group * 8 + place], rows[(group + 8) * 8 + place], rows[group * 8 + place + 4],
                      rows[(group + 8) * 8 + place + 4]};
    const int y[2] = {columns[group * 8 + place], columns[group * 8 + place + 4]};
    int *upper = c + group * 8 + place * 2, *lower = upper + 64;
    asm volatile("mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(upper[0]), "+r"(upper[1]), "+r"(lower[0]), "+r"(lower[1])
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
}

template <typename T> T *on_device(const std::vector<T> &values) {
    T *device;
    CHECK(cudaMalloc(&device, values.size() * sizeof(T)));
    CHECK(cudaMemcpy(device, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return device;
}

int main() {
    Sequence sequence{11};
    {
        const int rows = 150, inner = 104, columns = 72;
        std::vector<__half> a(rows * inner), b(inner * columns);
        std::vector<float> c(rows * columns);
        for (auto &value : a) value = __float2half(static_cast<float>(sequence.next() % 17) - 8);
        for (auto &value : b) value = __float2half(static_cast<float>(sequence.next() % 17) - 8);
        __half *device_a = on_device(a), *device_b = on_device(b);
        float *device_c = on_device(c);
        const dim3 grid((columns + TILE_N - 1) / TILE_N, (rows + TILE_M - 1) / TILE_M);
        product<<<grid, WARPS * 32>>>(device_a, device_b, device_c, rows, inner, columns);
        CHECK(cudaGetLastError());
        CHECK(cudaMemcpy(c.data(), device_c, c.size() * sizeof(float), cudaMemcpyDeviceToHost));
        int wrong = 0;
        for (int row = 0; row < rows; ++row) {
            for (int column = 0; column < columns; ++column) {
                float expected = 0;
                for (int k = 0; k < inner; ++k) {
                    expected += __half2float(a[row * inner + k]) * __half2float(b[k * columns + column]);
                }
                wrong += c[row * columns + column] != expected;
            }
        }
        std::printf("f16 %dx%dx%d: %d wrong\n", rows, inner, columns, wrong);
        CHECK_THAT(wrong == 0);
        CHECK(cudaFree(device_a));
        CHECK(cudaFree(device_b));
        CHECK(cudaFree(device_c));
    }
    {
        std::vector<signed char> a(16 * 32), b(32 * 8); // b column by column
        std::vector<int> c(16 * 8);
        for (auto &value : a) value = static_cast<signed char>(sequence.next());
        for (auto &value : b) value = static_cast<signed char>(sequence.next());
        for (auto &value : c) value = static_cast<int>(0x7fffffffu - sequence.next() % 100000);
        signed char *device_a = on_device(a), *device_b = on_device(b);
        int *device_c = on_device(c);
        clamped<<<1, 32>>>(device_a, device_b, device_c);
        std::vector<int> d(c.size());
        CHECK(cudaMemcpy(d.data(), device_c, d.size() * sizeof(int), cudaMemcpyDeviceToHost));
        int wrong = 0, at_limit = 0;
        for (int row = 0; row < 16; ++row) {
            for (int column = 0; column < 8; ++column) {
                long long expected = c[row * 8 + column];
                for (int k = 0; k < 32; ++k) expected += a[row * 32 + k] * b[column * 32 + k];
                if (expected > 0x7fffffff) expected = 0x7fffffff;
                wrong += d[row * 8 + column] != expected;
                at_limit += d[row * 8 + column] == 0x7fffffff;
            }
        }
        std::printf("s8 16x8x32: %d wrong, %d at the limit\n", wrong, at_limit);
        CHECK_THAT(wrong == 0 && at_limit > 0);
        CHECK(cudaFree(device_a));
        CHECK(cudaFree(device_b));
        CHECK(cudaFree(device_c));
    }
    return check_result("mmaSync");
}
