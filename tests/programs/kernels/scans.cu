// Scans, compaction, histograms and sorts.
#include "corpus.h"

#ifndef HOST

KERNEL hillis_steele(const int *in, int *out, int n) {
    extern __shared__ int buffer[];
    int from = 0, i = threadIdx.x;
    buffer[i] = i < n ? in[i] : 0;
    __syncthreads();
    for (int delta = 1; delta < blockDim.x; delta *= 2) {
        int to = blockDim.x - from;
        buffer[to + i] = buffer[from + i] + (i >= delta ? buffer[from + i - delta] : 0);
        from = to;
        __syncthreads();
    }
    if (i < n) {
        out[i] = buffer[from + i];
    }
}

// Exclusive, 2 * blockDim.x values; leaves the sum of the block.
static __device__ void blelloch_block(unsigned *values, unsigned *total) {
    int i = threadIdx.x, count = 2 * blockDim.x, offset = 1;
    for (int d = count / 2; d > 0; d /= 2) {
        __syncthreads();
        if (i < d) {
            values[offset * (2 * i + 2) - 1] += values[offset * (2 * i + 1) - 1];
        }
        offset *= 2;
    }
    if (i == 0) {
        *total = values[count - 1];
        values[count - 1] = 0;
    }
    for (int d = 1; d < count; d *= 2) {
        offset /= 2;
        __syncthreads();
        if (i < d) {
            int a = offset * (2 * i + 1) - 1, b = offset * (2 * i + 2) - 1;
            unsigned held = values[a];
            values[a] = values[b];
            values[b] += held;
        }
    }
    __syncthreads();
}

KERNEL blelloch(const unsigned *in, unsigned *out, unsigned *totals) {
    __shared__ unsigned values[256];
    unsigned at = blockIdx.x * 256 + threadIdx.x;
    values[threadIdx.x] = in[at];
    values[threadIdx.x + 128] = in[at + 128];
    blelloch_block(values, &totals[blockIdx.x]);
    out[at] = values[threadIdx.x];
    out[at + 128] = values[threadIdx.x + 128];
}

KERNEL add_totals(unsigned *values, const unsigned *before) { values[blockIdx.x * 256 + threadIdx.x] += before[blockIdx.x]; }

static __device__ int warp_scan(int value) {
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int delta = 1; delta < 32; delta <<= 1) {
        int other = __shfl_up_sync(0xffffffff, value, delta);
        if (lane >= delta) {
            value += other;
        }
    }
    return value;
}

KERNEL scan_warps(const int *in, int *out, int n) {
    __shared__ int sums[32];
    int i = threadIdx.x, value = i < n ? in[i] : 0, sum = warp_scan(value);
    if (i % 32 == 31) {
        sums[i / 32] = sum;
    }
    __syncthreads();
    if (i < 32) {
        sums[i] = warp_scan(i < blockDim.x / 32 ? sums[i] : 0);
    }
    __syncthreads();
    if (i < n) {
        out[i] = sum + (i >= 32 ? sums[i / 32 - 1] : 0);
    }
}

// Keeps what is divisible by three, in order.
KERNEL compact(const unsigned *in, unsigned *out, unsigned *count, int n) {
    __shared__ unsigned base[33];
    unsigned kept = 0;
    for (int start = 0; start < n; start += blockDim.x) {
        int i = start + threadIdx.x;
        bool keep = i < n && in[i] % 3 == 0;
        unsigned ballot = __ballot_sync(0xffffffff, keep);
        unsigned before = __popc(ballot & ((1u << (threadIdx.x & 31)) - 1));
        if (threadIdx.x % 32 == 0) {
            base[threadIdx.x / 32] = __popc(ballot);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            unsigned sum = kept;
            for (unsigned w = 0; w < blockDim.x / 32; ++w) {
                unsigned own = base[w];
                base[w] = sum;
                sum += own;
            }
            base[32] = sum;
        }
        __syncthreads();
        if (keep) {
            out[base[threadIdx.x / 32] + before] = in[i];
        }
        kept = base[32];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        *count = kept;
    }
}

KERNEL histogram_global(const unsigned char *in, unsigned *bins, int n) {
    for (int i = place(); i < n; i += gridDim.x * blockDim.x) {
        atomicAdd(&bins[in[i]], 1);
    }
}

KERNEL histogram_shared(const unsigned char *in, unsigned *bins, int n) {
    __shared__ unsigned own[256];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) {
        own[i] = 0;
    }
    __syncthreads();
    for (int i = place(); i < n; i += gridDim.x * blockDim.x) {
        atomicAdd(&own[in[i]], 1);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x) {
        if (own[i]) {
            atomicAdd(&bins[i], own[i]);
        }
    }
}

KERNEL bitonic(int *values) {
    __shared__ int s[512];
    int i = threadIdx.x;
    s[i] = values[i];
    __syncthreads();
    for (int size = 2; size <= 512; size *= 2) {
        for (int stride = size / 2; stride > 0; stride /= 2) {
            int other = i ^ stride;
            if (other > i && (s[i] > s[other]) == ((i & size) == 0)) {
                int held = s[i];
                s[i] = s[other];
                s[other] = held;
            }
            __syncthreads();
        }
    }
    values[i] = s[i];
}

KERNEL odd_even(float *values, int n) {
    for (int turn = 0; turn < n; ++turn) {
        for (int i = 2 * threadIdx.x + turn % 2; i + 1 < n; i += 2 * blockDim.x) {
            float a = values[i], b = values[i + 1];
            if (b < a) {
                values[i] = b;
                values[i + 1] = a;
            }
        }
        __syncthreads();
    }
}

// Least significant digit first, one bit a turn, by ballots within a block of 1024.
KERNEL radix(unsigned *values) {
    __shared__ unsigned s[1024], zeros[33];
    int i = threadIdx.x, warp = i / 32;
    unsigned value = values[i];
    for (int bit = 0; bit < 32; ++bit) {
        bool one = value >> bit & 1;
        unsigned ballot = __ballot_sync(0xffffffff, !one), before = __popc(ballot & ((1u << (i & 31)) - 1));
        if (i % 32 == 0) {
            zeros[warp] = __popc(ballot);
        }
        __syncthreads();
        if (i == 0) {
            unsigned sum = 0;
            for (int w = 0; w < 32; ++w) {
                unsigned own = zeros[w];
                zeros[w] = sum;
                sum += own;
            }
            zeros[32] = sum;
        }
        __syncthreads();
        unsigned rank = zeros[warp] + before;
        s[one ? zeros[32] + i - rank : rank] = value;
        __syncthreads();
        value = s[i];
        __syncthreads();
    }
    values[i] = value;
}

// Merges sorted runs of `width`; each thread finds where its value goes by bisection.
KERNEL merge_runs(const long long *in, long long *out, int n, int width) {
    int i = place();
    if (i >= n) {
        return;
    }
    int run = i / width, other = run ^ 1, low = min(other * width, n), high = min(low + width, n), start = low;
    long long value = in[i];
    while (low < high) {
        int middle = (low + high) / 2;
        bool before = run % 2 ? in[middle] <= value : in[middle] < value;
        if (before) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    out[run / 2 * 2 * width + i % width + low - start] = value;
}

KERNEL rank_sort(const short *in, short *out, int n) {
    int i = place();
    if (i < n) {
        int rank = 0;
        for (int j = 0; j < n; ++j) {
            rank += in[j] < in[i] || (in[j] == in[i] && j < i);
        }
        out[rank] = in[i];
    }
}

#else

TEST(scan_in_a_block) {
    int n = 700;
    auto a = integers<int>(n, 1000);
    std::vector<int> wanted(n);
    std::partial_sum(a.begin(), a.end(), wanted.begin());
    Buffer<int> x(a), y(n), z(n);
    launch_shared("hillis_steele", 1, 768, 768 * 2 * 4, x, y, n);
    equal(y.read(), wanted);
    launch("scan_warps", 1, 704, x, z, n);
    equal(z.read(), wanted);
}

TEST(scan_of_many_blocks) {
    unsigned count = 64, n = count * 256;
    auto a = integers<unsigned>(n, 100);
    Buffer<unsigned> x(a), y(n), totals(256), before(256), whole(1);
    launch("blelloch", count, 128, x, y, totals);
    launch("blelloch", 1, 128, totals, before, whole);
    launch("add_totals", count, 256, y, before);
    std::vector<unsigned> wanted(n);
    std::partial_sum(a.begin(), a.end() - 1, wanted.begin() + 1);
    equal(y.read(), wanted);
    equal(whole.read()[0], wanted.back() + a.back());
}

TEST(compaction) {
    int n = 5003;
    auto a = integers<unsigned>(n, 0);
    Buffer<unsigned> x(a), y(n), count(1);
    launch("compact", 1, 256, x, y, count, n);
    std::vector<unsigned> wanted;
    std::copy_if(a.begin(), a.end(), std::back_inserter(wanted), [](unsigned v) { return v % 3 == 0; });
    equal(count.read()[0], unsigned(wanted.size()));
    auto seen = y.read();
    seen.resize(wanted.size());
    equal(seen, wanted);
}

TEST(histograms) {
    int n = 40000;
    auto a = integers<unsigned char>(n, 200);
    std::vector<unsigned> wanted(256);
    for (unsigned char value : a) {
        ++wanted[value];
    }
    Buffer<unsigned char> x(a);
    Buffer<unsigned> y(256), z(256);
    launch("histogram_global", 8, 128, x, y, n);
    equal(y.read(), wanted);
    launch("histogram_shared", 5, 96, x, z, n);
    equal(z.read(), wanted);
}

TEST(sorts) {
    auto a = integers<int>(512, 0);
    Buffer<int> x(a);
    launch("bitonic", 1, 512, x);
    std::sort(a.begin(), a.end());
    equal(x.read(), a);

    auto b = reals<float>(301, -10, 10);
    Buffer<float> y(b);
    launch("odd_even", 1, 64, y, 301);
    std::sort(b.begin(), b.end());
    equal(y.read(), b);

    auto c = integers<unsigned>(1024, 0, 3);
    Buffer<unsigned> z(c);
    launch("radix", 1, 1024, z);
    std::sort(c.begin(), c.end());
    equal(z.read(), c);

    auto d = integers<short>(600, 0, 4);
    Buffer<short> u(d), v(600);
    launch("rank_sort", 5, 128, u, v, 600);
    std::sort(d.begin(), d.end());
    equal(v.read(), d);
}

TEST(merge_sort) {
    int n = 3001;
    std::vector<long long> a(n);
    Random random(7);
    for (long long &value : a) {
        value = (static_cast<long long>(random.next()) << 20) - (1LL << 51);
    }
    Buffer<long long> x(a), y(n);
    int turn = 0;
    for (int width = 1; width < n; width *= 2, ++turn) {
        launch("merge_runs", blocks(n, 256), 256, turn % 2 ? y : x, turn % 2 ? x : y, n, width);
    }
    std::sort(a.begin(), a.end());
    equal((turn % 2 ? y : x).read(), a);
}

#endif
