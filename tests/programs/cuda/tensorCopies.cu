// Boxes of images copied by tensor maps: neighbourhoods that reach over the edges, a transposition through swizzled
// shared memory, and sums added to what is there. The maps are made as the programming guide does it, by the driver's
// function that the runtime hands out.
#include "check.h"
#include <cuda.h>
#include <cuda/ptx>
#include <cudaTypedefs.h>
#include <cstdint>
#include <vector>

namespace ptx = cuda::ptx;
constexpr int WIDTH = 200, HEIGHT = 90, PITCH = 208;
constexpr int ACROSS = 32, DOWN = 16;
// One more on each side, and rows of a multiple of 16 bytes.
constexpr int HALO_ACROSS = 36, HALO_DOWN = DOWN + 2;
constexpr int SQUARE = 32;

// A box, once it is there. All threads of a block call this, the first time it uses the barrier.
__device__ void load(void *to, const CUtensorMap &map, int x, int y, unsigned bytes, uint64_t *barrier) {
    if (threadIdx.x == 0) {
        ptx::mbarrier_init(barrier, 1);
        ptx::fence_proxy_async(ptx::space_shared);
        const int32_t at[2] = {x, y};
        ptx::cp_async_bulk_tensor(ptx::space_cluster, ptx::space_global, to, &map, at, barrier);
        ptx::mbarrier_arrive_expect_tx(ptx::sem_release, ptx::scope_cta, ptx::space_shared, barrier, bytes);
    }
    __syncthreads();
    while (!ptx::mbarrier_try_wait_parity(barrier, 0)) {
    }
}

// What all threads have written to shared memory becomes a box.
__device__ void store(const CUtensorMap &map, int x, int y, const void *from) {
    ptx::fence_proxy_async(ptx::space_shared);
    __syncthreads();
    if (threadIdx.x == 0) {
        const int32_t at[2] = {x, y};
        ptx::cp_async_bulk_tensor(ptx::space_global, ptx::space_shared, &map, at, from);
        ptx::cp_async_bulk_commit_group();
        ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>());
    }
}

// Each pixel becomes the sum of itself and its eight neighbours; what is outside is black.
__global__ void blur(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out) {
    __shared__ alignas(128) float halo[HALO_DOWN][HALO_ACROSS];
    __shared__ alignas(128) float sums[DOWN][ACROSS];
    __shared__ uint64_t barrier;
    const int x = blockIdx.x * ACROSS, y = blockIdx.y * DOWN;
    load(halo, in, x - 1, y - 1, sizeof halo, &barrier);
    for (int i = threadIdx.x; i < ACROSS * DOWN; i += blockDim.x) {
        const int column = i % ACROSS, row = i / ACROSS;
        float sum = 0;
        for (int k = 0; k < 9; ++k) sum += halo[row + k / 3][column + k % 3];
        sums[row][column] = sum;
    }
    store(out, x, y, sums);
}

// The pieces of 16 bytes of a row of 128 lie where the row's number says, so that columns are in different banks.
__device__ int swizzled(int row, int column) { return row * SQUARE + ((column / 4 ^ row % 8) * 4 + column % 4); }

__global__ void transpose(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out) {
    __shared__ alignas(1024) float from[SQUARE * SQUARE];
    __shared__ alignas(1024) float to[SQUARE * SQUARE];
    __shared__ uint64_t barrier;
    const int x = blockIdx.x * SQUARE, y = blockIdx.y * SQUARE;
    load(from, in, x, y, sizeof from, &barrier);
    for (int i = threadIdx.x; i < SQUARE * SQUARE; i += blockDim.x)
        to[swizzled(i / SQUARE, i % SQUARE)] = from[swizzled(i % SQUARE, i / SQUARE)];
    store(out, y, x, to);
}

// Each block adds its number and one to the first box of the image.
__global__ void sum(const __grid_constant__ CUtensorMap out) {
    __shared__ alignas(128) float ones[DOWN][ACROSS];
    for (int i = threadIdx.x; i < ACROSS * DOWN; i += blockDim.x) ones[i / ACROSS][i % ACROSS] = blockIdx.x + 1;
    ptx::fence_proxy_async(ptx::space_shared);
    __syncthreads();
    if (threadIdx.x == 0) {
        const int32_t at[2] = {-2, HEIGHT - 5};
        ptx::cp_reduce_async_bulk_tensor(ptx::space_global, ptx::space_shared, ptx::op_add, &out, at, ones);
        ptx::cp_async_bulk_commit_group();
        ptx::cp_async_bulk_wait_group(ptx::n32_t<0>());
    }
}

static PFN_cuTensorMapEncodeTiled_v12000 encode;

static CUtensorMap image(float *memory, unsigned width, unsigned height, unsigned pitch, unsigned across, unsigned down,
                         CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_NONE) {
    CUtensorMap map;
    const cuuint64_t extents[] = {width, height}, strides[] = {pitch * sizeof(float)};
    const cuuint32_t box[] = {across, down}, steps[] = {1, 1};
    const CUresult made = encode(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, memory, extents, strides, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    CHECK_THAT(made == CUDA_SUCCESS);
    return map;
}

// Pixels that are not as expected; beyond the width of a row nothing may have been written.
template <typename F>
static int wrong(const float *memory, int width, int height, int pitch, F expected) {
    std::vector<float> pixels(pitch * height);
    CHECK(cudaMemcpy(pixels.data(), memory, pixels.size() * sizeof(float), cudaMemcpyDeviceToHost));
    int count = 0;
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < pitch; ++x) count += pixels[y * pitch + x] != (x < width ? expected(x, y) : 0);
    CHECK_THAT(count == 0);
    return count;
}

int main() {
    int major;
    CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    if (major < 9) {
        std::printf("tensorCopies: devices older than compute capability 9.0 have no tensor maps\n");
        return 0;
    }
    void *function = nullptr;
    cudaDriverEntryPointQueryResult found;
    CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
    CHECK_THAT(found == cudaDriverEntryPointSuccess);
    encode = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);

    const auto pixel = [](int x, int y) {
        return x < 0 || y < 0 || x >= WIDTH || y >= HEIGHT ? 0.0f : static_cast<float>((x * 7 + y * 13) % 256);
    };
    std::vector<float> pixels(PITCH * HEIGHT, -1);
    for (int i = 0; i < WIDTH * HEIGHT; ++i) pixels[i / WIDTH * PITCH + i % WIDTH] = pixel(i % WIDTH, i / WIDTH);
    float *in, *out;
    const size_t bytes = pixels.size() * sizeof(float);
    CHECK(cudaMalloc(&in, bytes));
    CHECK(cudaMemcpy(in, pixels.data(), bytes, cudaMemcpyHostToDevice));
    CHECK(cudaMalloc(&out, bytes));
    CHECK(cudaMemset(out, 0, bytes));

    const dim3 boxes((WIDTH + ACROSS - 1) / ACROSS, (HEIGHT + DOWN - 1) / DOWN);
    blur<<<boxes, 128>>>(image(in, WIDTH, HEIGHT, PITCH, HALO_ACROSS, HALO_DOWN), image(out, WIDTH, HEIGHT, PITCH, ACROSS, DOWN));
    CHECK(cudaGetLastError());
    const auto blurred = [&](int x, int y) {
        float sum = 0;
        for (int k = 0; k < 9; ++k) sum += pixel(x + k % 3 - 1, y + k / 3 - 1);
        return sum;
    };
    std::printf("blurred: %d wrong\n", wrong(out, WIDTH, HEIGHT, PITCH, blurred));

    sum<<<4, 64>>>(image(out, WIDTH, HEIGHT, PITCH, ACROSS, DOWN));
    CHECK(cudaGetLastError());
    const auto summed = [&](int x, int y) { return blurred(x, y) + (x < ACROSS - 2 && y >= HEIGHT - 5 ? 10 : 0); };
    std::printf("summed: %d wrong\n", wrong(out, WIDTH, HEIGHT, PITCH, summed));

    // Rows are columns now, and the other way round.
    constexpr int TURNED_PITCH = (HEIGHT + 3) / 4 * 4;
    CHECK(cudaMemset(out, 0, bytes));
    const dim3 squares((WIDTH + SQUARE - 1) / SQUARE, (HEIGHT + SQUARE - 1) / SQUARE);
    transpose<<<squares, 256>>>(image(in, WIDTH, HEIGHT, PITCH, SQUARE, SQUARE, CU_TENSOR_MAP_SWIZZLE_128B),
                                image(out, HEIGHT, WIDTH, TURNED_PITCH, SQUARE, SQUARE, CU_TENSOR_MAP_SWIZZLE_128B));
    CHECK(cudaGetLastError());
    std::printf("turned: %d wrong\n", wrong(out, HEIGHT, WIDTH, TURNED_PITCH, [&](int x, int y) { return pixel(y, x); }));
    CHECK(cudaFree(out));
    CHECK(cudaFree(in));
    return check_result("tensorCopies");
}
