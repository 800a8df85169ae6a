// The lanes of a warp together: shuffles, votes, matches, reductions, cooperative groups.
#include "corpus.h"

#ifndef HOST

#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
namespace cg = cooperative_groups;

KERNEL shuffles(const unsigned long long *in, unsigned long long *out) {
    int lane = threadIdx.x;
    unsigned long long v = in[lane], *o = out + 8 * lane;
    o[0] = __shfl_sync(0xffffffff, v, lane * 7 + 3);
    o[1] = __shfl_up_sync(0xffffffff, v, 5);
    o[2] = __shfl_down_sync(0xffffffff, static_cast<double>(v), 9);
    o[3] = __shfl_xor_sync(0xffffffff, static_cast<float>(v & 0xffff), 17);
    o[4] = __shfl_sync(0xffffffff, v, lane + 1, 8);
    o[5] = __shfl_up_sync(0xffffffff, static_cast<unsigned>(v), 3, 16);
    o[6] = __shfl_down_sync(0xffffffff, static_cast<int>(v), 2, 4);
    o[7] = 77;
    if (lane % 2) {
        o[7] = __shfl_sync(0xaaaaaaaa, v, lane ^ 2);
    }
}

KERNEL votes(const int *in, unsigned *out) {
    int lane = threadIdx.x, v = in[lane];
    unsigned *o = out + 8 * lane;
    o[0] = __ballot_sync(0xffffffff, v > 50);
    o[1] = __any_sync(0xffffffff, v == in[31]) | __all_sync(0xffffffff, v >= 0) << 1 | __all_sync(0xffffffff, v > 50) << 2;
    o[2] = __match_any_sync(0xffffffff, v % 5);
    int uniform = 5;
    o[3] = __match_all_sync(0xffffffff, v % 5, &uniform) | uniform;
    o[4] = 0;
    if (v % 3 == 0) {
        o[4] = __activemask();
        o[4] ^= __ballot_sync(o[4], v & 4);
    }
    __syncwarp();
    o[5] = __match_any_sync(0xffffffff, static_cast<unsigned long long>(v % 4) << 40);
    o[6] = __syncthreads_count(v > 20) | __syncthreads_or(v == 1000) << 10 | __syncthreads_and(v < 1000) << 11;
    o[7] = __popc(__ballot_sync(0xffffffff, 1));
}

#if __CUDA_ARCH__ >= 800
KERNEL reductions(const unsigned *in, unsigned *out) {
    int lane = threadIdx.x;
    unsigned v = in[lane], *o = out + 8 * lane;
    o[0] = __reduce_add_sync(0xffffffff, v);
    o[1] = __reduce_min_sync(0xffffffff, v);
    o[2] = __reduce_max_sync(0xffffffff, static_cast<int>(v));
    o[3] = __reduce_and_sync(0xffffffff, v | 0xff);
    o[4] = __reduce_or_sync(0xffffffff, v & 0xf0f0);
    o[5] = __reduce_xor_sync(0xffffffff, v);
    o[6] = lane < 10 ? __reduce_add_sync(0x3ff, lane) : __reduce_min_sync(0xfffffc00, -lane);
    o[7] = 0;
}

// Groups of several warps meet in shared memory of the system's.
KERNEL wide_tiles(const int *in, int *out) {
    auto tile = cg::tiled_partition<64>(cg::this_thread_block());
    int i = threadIdx.x, v = in[i];
    for (int turn = 0; turn < 3; ++turn) {
        v = cg::reduce(tile, v, cg::plus<int>()) % 1009 + i;
        tile.sync();
    }
    out[i] = v + tile.meta_group_rank() * 100000;
}
#endif

KERNEL tiles(const int *in, int *out) {
    cg::thread_block block = cg::this_thread_block();
    cg::thread_block_tile<8> tile = cg::tiled_partition<8>(block);
    int i = block.thread_rank(), v = in[i], *o = out + 8 * i;
    o[0] = cg::reduce(tile, v, cg::plus<int>());
    o[1] = cg::inclusive_scan(tile, v);
    o[2] = cg::exclusive_scan(tile, v, cg::plus<int>());
    o[3] = tile.shfl_xor(v, 3) + tile.meta_group_rank() * 1000;
    o[4] = tile.ballot(v & 1) | tile.any(v > 90) << 16 | tile.all(v > 5) << 17;
    cg::thread_block_tile<32> warp = cg::tiled_partition<32>(block);
    o[5] = cg::reduce(warp, v, cg::greater<int>());
    o[6] = warp.match_any(v % 4);
    block.sync();
    cg::thread_block_tile<4> four = cg::tiled_partition<4>(tile);
    o[7] = cg::reduce(four, static_cast<long long>(v) << 20, cg::less<long long>()) >> 20;
}

KERNEL partial_warps(int *out) {
    int i = threadIdx.x, sum = i;
    unsigned mask = __ballot_sync(__activemask(), 1);
    for (int delta = 1; delta < 32; delta *= 2) {
        int other = __shfl_up_sync(mask, sum, delta);
        if (static_cast<int>(i % 32) >= delta) {
            sum += other;
        }
    }
    out[i] = sum;
}

KERNEL special_registers(unsigned *out) {
    unsigned lane, warp, less, count;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    asm volatile("mov.u32 %0, %%warpid;" : "=r"(warp));
    asm volatile("mov.u32 %0, %%lanemask_lt;" : "=r"(less));
    asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(count));
    out[place()] = lane | (warp < 32) << 6 | count << 8 | __popc(less) << 16 | warpSize << 24;
}

#else

template <class T> static unsigned long long real_bits(T value) { return static_cast<unsigned long long>(value); }

TEST(shuffles) {
    auto in = integers<unsigned long long>(32, 0);
    for (auto &v : in) {
        v = v << 17 ^ v >> 3;
    }
    Buffer<unsigned long long> x(in), y(256);
    launch("shuffles", 1, 32, x, y);
    std::vector<unsigned long long> wanted;
    for (int i = 0; i < 32; ++i) {
        wanted.push_back(in[(i * 7 + 3) % 32]);
        wanted.push_back(in[i >= 5 ? i - 5 : i]);
        wanted.push_back(real_bits(double(in[i + 9 < 32 ? i + 9 : i])));
        wanted.push_back(in[i ^ 17] & 0xffff);
        wanted.push_back(in[i / 8 * 8 + (i + 1) % 8]);
        wanted.push_back(unsigned(in[i % 16 >= 3 ? i - 3 : i]));
        wanted.push_back(static_cast<unsigned long long>(static_cast<long long>(int(in[i % 4 < 2 ? i + 2 : i]))));
        wanted.push_back(i % 2 ? in[i ^ 2] : 77);
    }
    equal(y.read(), wanted);
}

TEST(votes) {
    auto in = integers<int>(32, 100);
    Buffer<int> x(in);
    Buffer<unsigned> y(256);
    launch("votes", 1, 32, x, y);
    auto where = [&](auto holds) {
        unsigned bits = 0;
        for (int j = 0; j < 32; ++j) {
            bits |= unsigned(holds(in[j])) << j;
        }
        return bits;
    };
    std::vector<unsigned> wanted;
    for (int i = 0; i < 32; ++i) {
        int v = in[i];
        unsigned big = where([](int w) { return w > 50; }), third = where([](int w) { return w % 3 == 0; });
        wanted.push_back(big);
        wanted.push_back(1 | 2 | (big == ~0u) << 2);
        wanted.push_back(where([v](int w) { return w % 5 == v % 5; }));
        wanted.push_back(0);
        wanted.push_back(v % 3 == 0 ? third ^ (third & where([](int w) { return (w & 4) != 0; })) : 0);
        wanted.push_back(where([v](int w) { return w % 4 == v % 4; }));
        wanted.push_back(__builtin_popcount(where([](int w) { return w > 20; })) | 1 << 11);
        wanted.push_back(32);
    }
    equal(y.read(), wanted);
}

TEST(reductions) {
    CUfunction found;
    if (cuModuleGetFunction(&found, module_, "reductions") != CUDA_SUCCESS) {
        return;  // the target of this build is older than the instruction
    }
    auto in = integers<unsigned>(32, 0);
    Buffer<unsigned> x(in), y(256);
    launch("reductions", 1, 32, x, y);
    unsigned sum = 0, all = ~0u, any = 0, odd = 0, low = ~0u;
    int high = std::numeric_limits<int>::min();
    for (unsigned v : in) {
        sum += v, all &= v | 0xff, any |= v & 0xf0f0, odd ^= v, low = std::min(low, v), high = std::max(high, int(v));
    }
    std::vector<unsigned> wanted;
    for (int i = 0; i < 32; ++i) {
        unsigned own = i < 10 ? 45 : unsigned(-31);
        wanted.insert(wanted.end(), {sum, low, unsigned(high), all, any, odd, own, 0});
    }
    equal(y.read(), wanted);
}

TEST(wide_tiles) {
    CUfunction found;
    if (cuModuleGetFunction(&found, module_, "wide_tiles") != CUDA_SUCCESS) {
        return;  // older targets keep no memory for it
    }
    int n = 192;
    auto in = integers<int>(n, 1000);
    Buffer<int> x(in), y(n);
    launch("wide_tiles", 1, n, x, y);
    for (int turn = 0; turn < 3; ++turn) {
        for (int tile = 0; tile < n; tile += 64) {
            int sum = std::accumulate(in.begin() + tile, in.begin() + tile + 64, 0) % 1009;
            for (int i = tile; i < tile + 64; ++i) {
                in[i] = sum + i;
            }
        }
    }
    for (int i = 0; i < n; ++i) {
        in[i] += i / 64 * 100000;
    }
    equal(y.read(), in);
}

TEST(tiles) {
    int n = 96;
    auto in = integers<int>(n, 100);
    Buffer<int> x(in), y(8 * n);
    launch("tiles", 1, n, x, y);
    std::vector<int> wanted;
    for (int i = 0; i < n; ++i) {
        auto tile = in.begin() + i / 8 * 8, warp = in.begin() + i / 32 * 32, four = in.begin() + i / 4 * 4;
        int odd = 0, same = 0;
        for (int k = 0; k < 8; ++k) {
            odd |= (tile[k] & 1) << k;
        }
        for (int k = 0; k < 32; ++k) {
            same |= int(unsigned(warp[k] % 4 == in[i] % 4) << k);
        }
        wanted.push_back(std::accumulate(tile, tile + 8, 0));
        wanted.push_back(std::accumulate(tile, tile + i % 8 + 1, 0));
        wanted.push_back(std::accumulate(tile, tile + i % 8, 0));
        wanted.push_back(tile[i % 8 ^ 3] + i / 8 * 1000);
        wanted.push_back(odd | (*std::max_element(tile, tile + 8) > 90) << 16 | (*std::min_element(tile, tile + 8) > 5) << 17);
        wanted.push_back(*std::max_element(warp, warp + 32));
        wanted.push_back(same);
        wanted.push_back(*std::min_element(four, four + 4));
    }
    equal(y.read(), wanted);
}

TEST(partial_warps) {
    int n = 45;
    Buffer<int> out(n);
    launch("partial_warps", 1, n, out);
    std::vector<int> wanted(n);
    for (int i = 0; i < n; ++i) {
        for (int j = i / 32 * 32; j <= i; ++j) {
            wanted[i] += j;
        }
    }
    equal(out.read(), wanted);
}

TEST(special_registers) {
    Buffer<unsigned> out(3 * 64);
    launch("special_registers", 3, 64, out);
    std::vector<unsigned> wanted;
    for (unsigned i = 0; i < 3 * 64; ++i) {
        wanted.push_back(i % 32 | 1 << 6 | 3 << 8 | i % 32 << 16 | 32u << 24);
    }
    equal(out.read(), wanted);
}

#endif
