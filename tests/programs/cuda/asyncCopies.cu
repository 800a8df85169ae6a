// Copies from global to shared memory that run beside the computation: the primitives, cuda::pipeline of a
// block and of producers and consumers, cuda::barrier with all its ways to arrive and to wait, groups of
// threads, and bulk copies whose bytes a barrier counts.
#include "check.h"
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cuda/barrier>
#include <cuda/pipeline>
#include <cuda_pipeline.h>
#include <vector>

namespace cg = cooperative_groups;
using Barrier = cuda::barrier<cuda::thread_scope_block>;
constexpr int THREADS = 128;

// Each block of THREADS numbers backwards, its last one missing and therefore 0.
__global__ void primitives(const int4 *in, int4 *out, int count) {
    __shared__ int4 stage[2][THREADS];
    const int thread = threadIdx.x;
    const auto fetch = [&](int i) {
        __pipeline_memcpy_async(&stage[i % 2][thread], &in[i * THREADS + thread], 16, thread == THREADS - 1 ? 4 : 0);
        __pipeline_commit();
    };
    fetch(0);
    for (int i = 0; i < count; ++i) {
        if (i + 1 < count) {
            fetch(i + 1);
            __pipeline_wait_prior(1);
        } else {
            __pipeline_wait_prior(0);
        }
        __syncthreads();
        out[i * THREADS + thread] = stage[i % 2][THREADS - 1 - thread];
        __syncthreads();
    }
}

__global__ void pipeline(const int *in, int *out, int count) {
#pragma nv_diag_suppress static_var_with_dynamic_init
    __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state;
    __shared__ __align__(16) int stage[2][THREADS];
    auto block = cg::this_thread_block();
    auto pipe = cuda::make_pipeline(block, &state);
    for (int fetched = 0, i = 0; i < count; ++i) {
        for (; fetched < count && fetched < i + 2; ++fetched) {
            pipe.producer_acquire();
            cuda::memcpy_async(block, stage[fetched % 2], in + fetched * THREADS,
                               cuda::aligned_size_t<16>(sizeof stage[0]), pipe);
            pipe.producer_commit();
        }
        pipe.consumer_wait();
        block.sync();
        out[i * THREADS + threadIdx.x] = stage[i % 2][THREADS - 1 - threadIdx.x];
        pipe.consumer_release();
    }
}

// The first half of the block fetches, the second half consumes.
__global__ void roles(const int *in, int *out, int count) {
    __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 3> state;
    __shared__ __align__(16) int stage[3][THREADS];
    const int thread = threadIdx.x % (THREADS / 2);
    const bool produces = threadIdx.x < THREADS / 2;
    auto pipe = cuda::make_pipeline(cg::this_thread_block(), &state,
                                    produces ? cuda::pipeline_role::producer : cuda::pipeline_role::consumer);
    for (int i = 0; i < count; ++i) {
        int *place = stage[i % 3];
        if (produces) {
            pipe.producer_acquire();
            cuda::memcpy_async(place + thread * 2, in + i * THREADS + thread * 2, cuda::aligned_size_t<8>(8), pipe);
            pipe.producer_commit();
        } else {
            pipe.consumer_wait();
            out[i * THREADS + thread] = place[THREADS - 1 - thread];
            out[i * THREADS + THREADS / 2 + thread] = place[THREADS / 2 - 1 - thread];
            pipe.consumer_release();
        }
    }
}

__global__ void barriers(const int *in, int *out) {
    __shared__ Barrier barrier;
    __shared__ __align__(16) int room[THREADS];
    const int thread = threadIdx.x;
    auto block = cg::this_thread_block();
    if (thread == 0) init(&barrier, THREADS);
    block.sync();
    cuda::memcpy_async(block, room, in, sizeof room, barrier);
    barrier.arrive_and_wait();
    const int value = room[THREADS - 1 - thread];
    barrier.wait(barrier.arrive());
    room[thread] = value + 1;
    barrier.arrive_and_wait();
    out[thread] = room[(thread + 1) % THREADS];
    if (thread >= THREADS / 2) {
        barrier.arrive_and_drop();
        return;
    }
    // Phase 3 is the last that all take part in.
    barrier.arrive_and_wait();
    barrier.wait_parity(true);
    room[thread] = thread;
    barrier.arrive_and_wait();
    out[THREADS + thread] = room[THREADS / 2 - 1 - thread];
}

__global__ void groups(const int *in, int *out) {
    __shared__ __align__(16) int room[THREADS];
    auto tile = cg::tiled_partition<32>(cg::this_thread_block());
    int *part = room + tile.meta_group_rank() * 32;
    cg::memcpy_async(tile, part, in + tile.meta_group_rank() * 32, 32 * sizeof(int));
    cg::wait(tile);
    out[threadIdx.x] = part[31 - tile.thread_rank()];
}

__global__ void bulk(const int *in, int *out, int count) {
#if __CUDA_ARCH__ >= 900
    __shared__ __align__(128) int room[8 * THREADS];
    __shared__ Barrier barrier;
    const int thread = threadIdx.x;
    if (thread == 0) {
        init(&barrier, THREADS);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    for (int i = 0; i < count; ++i) {
        Barrier::arrival_token token;
        if (thread == 0) {
            cuda::device::memcpy_async_tx(room, in + i * 8 * THREADS, cuda::aligned_size_t<16>(sizeof room), barrier);
            token = cuda::device::barrier_arrive_tx(barrier, 1, sizeof room);
        } else {
            token = barrier.arrive();
        }
        barrier.wait(std::move(token));
        for (int j = thread; j < 8 * THREADS; j += THREADS) room[j] += i;
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        if (thread == 0) {
            asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\n\t"
                         "cp.async.bulk.commit_group;\n\t"
                         "cp.async.bulk.wait_group.read 0;"
                         :
                         : "l"(out + i * 8 * THREADS), "r"(static_cast<unsigned>(__cvta_generic_to_shared(room))),
                           "r"(static_cast<unsigned>(sizeof room))
                         : "memory");
        }
        __syncthreads();
    }
#endif
}

// Runs a kernel on numbers that count up, and checks each result.
template <typename Launch, typename Expected>
void check(const char *name, int size, Launch launch, Expected expected) {
    std::vector<int> numbers(size), results(size);
    for (int i = 0; i < size; ++i) numbers[i] = i + 1;
    int *in, *out;
    CHECK(cudaMalloc(&in, size * sizeof(int)));
    CHECK(cudaMalloc(&out, size * sizeof(int)));
    CHECK(cudaMemcpy(in, numbers.data(), size * sizeof(int), cudaMemcpyHostToDevice));
    CHECK(cudaMemset(out, 0, size * sizeof(int)));
    launch(in, out);
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpy(results.data(), out, size * sizeof(int), cudaMemcpyDeviceToHost));
    int wrong = 0;
    for (int i = 0; i < size; ++i) wrong += results[i] != expected(i);
    std::printf("%s: %d wrong\n", name, wrong);
    CHECK_THAT(wrong == 0);
    CHECK(cudaFree(in));
    CHECK(cudaFree(out));
}

int main() {
    const int count = 7;
    const auto backwards = [](int i) { return i / THREADS * THREADS + THREADS - i % THREADS; };
    check("primitives", count * THREADS * 4,
          [=](const int *in, int *out) {
              primitives<<<1, THREADS>>>(reinterpret_cast<const int4 *>(in), reinterpret_cast<int4 *>(out), count);
          },
          [](int i) {
              const int block = i / (4 * THREADS), thread = i / 4 % THREADS, from = THREADS - 1 - thread;
              return from == THREADS - 1 && i % 4 == 3 ? 0 : (block * THREADS + from) * 4 + i % 4 + 1;
          });
    check("pipeline", count * THREADS,
          [=](const int *in, int *out) { pipeline<<<1, THREADS>>>(in, out, count); }, backwards);
    check("roles", count * THREADS, [=](const int *in, int *out) { roles<<<1, THREADS>>>(in, out, count); },
          backwards);
    check("barriers", 2 * THREADS, [](const int *in, int *out) { barriers<<<1, THREADS>>>(in, out); },
          [](int i) {
              if (i < THREADS) return THREADS - (i + 1) % THREADS + 1;
              return i < THREADS + THREADS / 2 ? THREADS / 2 - 1 - (i - THREADS) : 0;
          });
    check("groups", THREADS, [](const int *in, int *out) { groups<<<1, THREADS>>>(in, out); },
          [](int i) { return i / 32 * 32 + 32 - i % 32; });
    check("bulk", 3 * 8 * THREADS, [](const int *in, int *out) { bulk<<<1, THREADS>>>(in, out, 3); },
          [](int i) { return i + 1 + i / (8 * THREADS); });
    return check_result("asyncCopies");
}
