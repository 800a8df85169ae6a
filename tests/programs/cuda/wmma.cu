// Matrix products on tensor cores through nvcuda::wmma: every type, shape and layout, with operations on
// the elements of fragments, from global and from shared memory. Values are small, so that sums are exact
// and their order cannot matter.
#include "check.h"
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>
#include <vector>

using namespace nvcuda;

// What lies in memory for elements of a fragment's type.
template <typename T> struct Stored {
    using type = T;
};
template <> struct Stored<wmma::precision::tf32> {
    using type = float;
};

template <typename T> __host__ __device__ float number(T value) { return static_cast<float>(value); }
template <typename T> __host__ __device__ T element(float value) { return static_cast<T>(value); }

// d = 2 * a * b + c, tile by tile; a has `rows` x `inner` elements, b `inner` x `columns`.
template <typename In, typename Sum, int M, int N, int K, typename LayoutA, typename LayoutB>
__global__ void product(const typename Stored<In>::type *a, const typename Stored<In>::type *b, const Sum *c, Sum *d,
                        int rows, int inner, int columns, bool sum_in_rows) {
    using Value = typename Stored<In>::type;
    constexpr bool a_rows = std::is_same<LayoutA, wmma::row_major>::value;
    constexpr bool b_rows = std::is_same<LayoutB, wmma::row_major>::value;
    const int row = blockIdx.y * M, column = blockIdx.x * N;
    const int lda = a_rows ? inner : rows, ldb = b_rows ? columns : inner, ldd = sum_in_rows ? columns : rows;
    // Odd tiles of a go through shared memory.
    __shared__ __align__(32) Value room[M * K];
    wmma::fragment<wmma::matrix_a, M, N, K, In, LayoutA> left;
    wmma::fragment<wmma::matrix_b, M, N, K, In, LayoutB> right;
    wmma::fragment<wmma::accumulator, M, N, K, Sum> sum, addend;
    wmma::fill_fragment(sum, element<Sum>(0));
    for (int k = 0; k < inner; k += K) {
        const Value *from = a + (a_rows ? row * lda + k : k * lda + row);
        if (k / K % 2) {
            for (int i = threadIdx.x; i < M * K; i += 32) {
                const int line = i / (a_rows ? K : M), along = i % (a_rows ? K : M);
                room[i] = from[line * lda + along];
            }
            __syncwarp();
            wmma::load_matrix_sync(left, room, a_rows ? K : M);
            __syncwarp();
        } else {
            wmma::load_matrix_sync(left, from, lda);
        }
        wmma::load_matrix_sync(right, b + (b_rows ? k * ldb + column : column * ldb + k), ldb);
        if constexpr (std::is_same<In, wmma::precision::tf32>::value) {
            for (int i = 0; i < left.num_elements; ++i) left.x[i] = wmma::__float_to_tf32(left.x[i]);
            for (int i = 0; i < right.num_elements; ++i) right.x[i] = wmma::__float_to_tf32(right.x[i]);
        }
        wmma::mma_sync(sum, left, right, sum);
    }
    const auto layout = sum_in_rows ? wmma::mem_row_major : wmma::mem_col_major;
    const int at = sum_in_rows ? row * ldd + column : column * ldd + row;
    wmma::load_matrix_sync(addend, c + at, ldd, layout);
    for (int i = 0; i < sum.num_elements; ++i) {
        sum.x[i] = element<Sum>(2 * number(sum.x[i]) + number(addend.x[i]));
    }
    wmma::store_matrix_sync(d + at, sum, ldd, layout);
}

template <typename T> T *on_device(const std::vector<T> &values) {
    T *device;
    CHECK(cudaMalloc(&device, values.size() * sizeof(T)));
    CHECK(cudaMemcpy(device, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return device;
}

template <typename In, typename Sum, int M, int N, int K, bool A_ROWS, bool B_ROWS>
int wrong(bool sum_in_rows, bool positive) {
    using Value = typename Stored<In>::type;
    using LayoutA = typename std::conditional<A_ROWS, wmma::row_major, wmma::col_major>::type;
    using LayoutB = typename std::conditional<B_ROWS, wmma::row_major, wmma::col_major>::type;
    const int rows = 2 * M, inner = 3 * K, columns = 2 * N;
    Sequence sequence{static_cast<unsigned>(M + N + K + A_ROWS + 2 * B_ROWS)};
    const auto random = [&] { return static_cast<float>(sequence.next() % 9) - (positive ? 0 : 4); };
    std::vector<Value> a(rows * inner), b(inner * columns);
    std::vector<Sum> c(rows * columns), d(rows * columns);
    for (auto &value : a) value = element<Value>(random());
    for (auto &value : b) value = element<Value>(random());
    for (auto &value : c) value = element<Sum>(random());
    Value *device_a = on_device(a), *device_b = on_device(b);
    Sum *device_c = on_device(c), *device_d = on_device(d);
    product<In, Sum, M, N, K, LayoutA, LayoutB><<<dim3(columns / N, rows / M), 32>>>(
        device_a, device_b, device_c, device_d, rows, inner, columns, sum_in_rows);
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpy(d.data(), device_d, d.size() * sizeof(Sum), cudaMemcpyDeviceToHost));
    int wrong = 0;
    for (int row = 0; row < rows; ++row) {
        for (int column = 0; column < columns; ++column) {
            float expected = 0;
            for (int k = 0; k < inner; ++k) {
                expected += number(a[A_ROWS ? row * inner + k : k * rows + row]) *
                            number(b[B_ROWS ? k * columns + column : column * inner + k]);
            }
            const int at = sum_in_rows ? row * columns + column : column * rows + row;
            wrong += number(d[at]) != 2 * expected + number(c[at]);
        }
    }
    CHECK(cudaFree(device_a));
    CHECK(cudaFree(device_b));
    CHECK(cudaFree(device_c));
    CHECK(cudaFree(device_d));
    return wrong;
}

template <typename In, typename Sum, int M, int N, int K> void layouts(const char *name, bool positive = false) {
    int all = 0;
    for (const bool sum_in_rows : {true, false}) {
        all += wrong<In, Sum, M, N, K, true, true>(sum_in_rows, positive);
        all += wrong<In, Sum, M, N, K, true, false>(sum_in_rows, positive);
        all += wrong<In, Sum, M, N, K, false, true>(sum_in_rows, positive);
        all += wrong<In, Sum, M, N, K, false, false>(sum_in_rows, positive);
    }
    std::printf("%s %dx%dx%d: %d wrong\n", name, M, N, K, all);
    CHECK_THAT(all == 0);
}

template <typename In, typename Sum> void shapes(const char *name, bool positive = false) {
    layouts<In, Sum, 16, 16, 16>(name, positive);
    layouts<In, Sum, 32, 8, 16>(name, positive);
    layouts<In, Sum, 8, 32, 16>(name, positive);
}

int main() {
    shapes<__half, float>("f16 -> f32");
    shapes<__half, __half>("f16 -> f16");
    shapes<__nv_bfloat16, float>("bf16 -> f32");
    shapes<signed char, int>("s8 -> s32");
    shapes<unsigned char, int>("u8 -> s32", true);
    layouts<wmma::precision::tf32, float, 16, 16, 8>("tf32 -> f32");
    layouts<double, double, 8, 8, 4>("f64 -> f64");
    return check_result("wmma");
}
