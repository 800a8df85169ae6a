// Groups that form as lanes happen to agree: coalesced, by label, by predicate.
#include "corpus.h"

#ifndef HOST

#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
namespace cg = cooperative_groups;

KERNEL coalesced(const int *in, int *out, int *count) {
    int i = place();
    out[4 * i] = out[4 * i + 1] = out[4 * i + 2] = out[4 * i + 3] = -1;
    if (in[i] % 3 == 1) {
        cg::coalesced_group group = cg::coalesced_threads();
        out[4 * i] = group.size();
        out[4 * i + 1] = group.thread_rank();
        out[4 * i + 2] = group.shfl(in[i], group.size() - 1);
        int base = 0;
        if (group.thread_rank() == 0) {
            base = atomicAdd(count, group.size());
        }
        out[4 * i + 3] = cg::reduce(group, in[i], cg::plus<int>());
        group.shfl(base, 0);
    }
}

KERNEL labelled(const int *in, int *out) {
    cg::thread_block_tile<32> warp = cg::tiled_partition<32>(cg::this_thread_block());
    int i = threadIdx.x;
    auto group = cg::labeled_partition(warp, in[i] % 4);
    out[2 * i] = group.size() * 100 + group.thread_rank();
    auto halves = cg::binary_partition(warp, in[i] > 50);
    out[2 * i + 1] = cg::reduce(halves, in[i], cg::plus<int>());
}

#else

TEST(coalesced_groups) {
    int n = 64;
    auto in = integers<int>(n, 100);
    Buffer<int> x(in), y(4 * n), count(1);
    launch("coalesced", 2, 32, x, y, count);
    std::vector<int> wanted(4 * n, -1);
    int total = 0;
    for (int w = 0; w < n; w += 32) {
        std::vector<int> members;
        int sum = 0;
        for (int i = w; i < w + 32; ++i) {
            if (in[i] % 3 == 1) {
                members.push_back(i);
                sum += in[i];
            }
        }
        total += int(members.size());
        for (size_t rank = 0; rank < members.size(); ++rank) {
            int *o = &wanted[4 * members[rank]];
            o[0] = int(members.size()), o[1] = int(rank), o[2] = in[members.back()], o[3] = sum;
        }
    }
    equal(y.read(), wanted);
    equal(count.read()[0], total);
}

TEST(labelled_groups) {
    auto in = integers<int>(32, 100);
    Buffer<int> x(in), y(64);
    launch("labelled", 1, 32, x, y);
    std::vector<int> wanted;
    for (int i = 0; i < 32; ++i) {
        int size = 0, rank = 0, sum = 0;
        for (int j = 0; j < 32; ++j) {
            size += in[j] % 4 == in[i] % 4;
            rank += j < i && in[j] % 4 == in[i] % 4;
            sum += (in[j] > 50) == (in[i] > 50) ? in[j] : 0;
        }
        wanted.push_back(size * 100 + rank);
        wanted.push_back(sum);
    }
    equal(y.read(), wanted);
}

#endif
