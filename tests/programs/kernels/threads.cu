// Threads that meet: atomics of every kind, locks, fences, clocks, output, faults.
#include "corpus.h"

#ifndef HOST

template <class T> static __device__ void integer_atomics(T *cells, T value) {
    atomicAdd(&cells[0], value);
    atomicMin(&cells[1], value);
    atomicMax(&cells[2], value);
    atomicAnd(&cells[3], ~(T(1) << (value % 13)));
    atomicOr(&cells[4], T(1) << (value % 13));
    atomicXor(&cells[5], value * 5);
    atomicExch(&cells[6], T(9));
    T seen = cells[7];
    for (T before; (before = atomicCAS(&cells[7], seen, seen * 3 + 1)) != seen;) {
        seen = before;
    }
}

KERNEL atomics_int(int *cells) { integer_atomics(cells, static_cast<int>(place()) - 100); }
KERNEL atomics_unsigned(unsigned *cells) { integer_atomics(cells, static_cast<unsigned>(place() * 77)); }
KERNEL atomics_wide(unsigned long long *cells) { integer_atomics(cells, static_cast<unsigned long long>(place()) << 33); }

KERNEL atomics_shared(int *out, unsigned long long *wide) {
    __shared__ int cells[8];
    __shared__ unsigned long long longs[8];
    if (threadIdx.x < 8) {
        cells[threadIdx.x] = out[threadIdx.x];
        longs[threadIdx.x] = wide[threadIdx.x];
    }
    __syncthreads();
    integer_atomics(cells, static_cast<int>(threadIdx.x) - 100);
    integer_atomics(longs, static_cast<unsigned long long>(threadIdx.x) << 33);
    __syncthreads();
    if (threadIdx.x < 8) {
        out[threadIdx.x] = cells[threadIdx.x];
        wide[threadIdx.x] = longs[threadIdx.x];
    }
}

KERNEL atomics_real(float *floats, double *doubles) {
    atomicAdd(&floats[0], 0.5f);
    atomicAdd(&doubles[0], 0.25);
    atomicExch(&floats[1], 3.5f);
    float value = static_cast<float>(place() % 1000) - 300;
    // The largest and the smallest by compare and swap.
    int *bits = reinterpret_cast<int *>(&floats[2]);
    for (int seen = *bits; __int_as_float(seen) < value;) {
        int before = atomicCAS(bits, seen, __float_as_int(value));
        if (before == seen) {
            break;
        }
        seen = before;
    }
    unsigned long long *wide = reinterpret_cast<unsigned long long *>(&doubles[1]), seen = *wide, before;
    do {
        before = seen;
        seen = atomicCAS(wide, before, static_cast<unsigned long long>(__double_as_longlong(__longlong_as_double(before) * 1.0 + 2)));
    } while (seen != before);
}

KERNEL wrapping_counters(unsigned *cells) {
    atomicInc(&cells[0], 6);
    atomicDec(&cells[1], 6);
    unsigned ticket = atomicInc(&cells[2], 1000000);
    atomicAdd(&cells[3], ticket);
    atomicAdd_block(&cells[4], 1u);
    atomicAdd_system(&cells[5], 2u);
    atomicSub(&cells[6], 3u);
}

KERNEL atomics_short(unsigned short *cells) {
    unsigned short seen = cells[threadIdx.x % 3], before;
    do {
        before = seen;
        seen = atomicCAS(&cells[threadIdx.x % 3], before, static_cast<unsigned short>(before + 7));
    } while (seen != before);
}

__device__ int lock;
__device__ volatile int guarded[4];

// Every lane takes the lock for itself: lanes of a warp wait for each other.
KERNEL spin_lock(int *out) {
    for (bool done = false; !done;) {
        if (atomicCAS(&lock, 0, 1) == 0) {
            int a = guarded[0];
            guarded[1] = guarded[1] + 1;
            guarded[0] = a + 1;
            __threadfence();
            atomicExch(&lock, 0);
            done = true;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        atomicMax(out, guarded[0]);
    }
}

__device__ unsigned next_ticket, serving;

KERNEL ticket_lock(int *order) {
    unsigned own = atomicAdd(&next_ticket, 1);
    while (atomicAdd(&serving, 0) != own) {
    }
    int at = guarded[2];
    guarded[2] = at + 1;
    order[at] = place();
    __threadfence();
    atomicAdd(&serving, 1);
}

// A lane waits for a word that another lane of its warp writes later.
KERNEL wait_for_lane(volatile int *flags, int *out) {
    int lane = threadIdx.x;
    if (lane > 0) {
        while (flags[lane - 1] == 0) {
        }
    }
    out[lane] = lane > 0 ? out[lane - 1] + lane : 0;
    __threadfence();
    flags[lane] = 1;
}

// A chain of blocks: each waits for the one before. Blocks are started in order.
KERNEL chained_blocks(volatile unsigned *sums, volatile int *ready, const unsigned *in) {
    if (threadIdx.x == 0) {
        unsigned before = 0;
        if (blockIdx.x > 0) {
            while (ready[blockIdx.x - 1] == 0) {
                __nanosleep(100);
            }
            __threadfence();
            before = sums[blockIdx.x - 1];
        }
        sums[blockIdx.x] = before + in[blockIdx.x];
        __threadfence();
        ready[blockIdx.x] = 1;
    }
}

KERNEL named_barriers(int *out) {
    __shared__ int value[2];
    int half = threadIdx.x / 64;
    if (threadIdx.x % 64 == 0) {
        value[half] = 10 + half;
    }
    if (half == 0) {
        asm volatile("bar.sync 1, 64;" ::: "memory");
    } else {
        asm volatile("barrier.sync 2, 64;" ::: "memory");
    }
    out[threadIdx.x] = value[half];
}

KERNEL producer_consumer(int *out, int rounds) {
    __shared__ int slot;
    int sum = 0;
    for (int round = 0; round < rounds; ++round) {
        if (threadIdx.x < 32) {
            if (threadIdx.x == 0) {
                slot = round * round;
            }
            __threadfence_block();
            asm volatile("bar.arrive 3, 64;" ::: "memory");
            asm volatile("bar.sync 4, 64;" ::: "memory");
        } else {
            asm volatile("bar.sync 3, 64;" ::: "memory");
            sum += slot;
            asm volatile("bar.arrive 4, 64;" ::: "memory");
        }
    }
    if (threadIdx.x >= 32) {
        out[threadIdx.x - 32] = sum;
    }
}

KERNEL clocks(long long *out) {
    long long a = clock64();
    unsigned b = static_cast<unsigned>(clock());
    unsigned long long before, after;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(before));
    __nanosleep(2000);
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(after));
    out[0] = clock64() - a;
    out[1] = static_cast<unsigned>(clock()) - b;
    out[2] = static_cast<long long>(after - before);
}

#if !defined(__CUDACC_RTC__)
#include <cassert>
#include <cstdio>
#endif

KERNEL prints(int number, double real) {
    if (threadIdx.x == 1) {
        printf("%d %5d|%-5d|%05d %u %x %#X %c\n", number, number, number, number, 7u, 255, 255, 'q');
        printf("%f %.3f %10.2e %g %%\n", real, real, real, real);
        printf("%s and %s: %lld %llu %hd %zu\n", "one", "two", -5000000000ll, 18446744073709551615ull, 3, sizeof(double));
    }
}

KERNEL asserts(int *out) {
    assert(threadIdx.x < 16);
    out[threadIdx.x] = 1;
}

KERNEL traps(int *out) {
    out[0] = 5;
    if (threadIdx.x == 3) {
        __trap();
    }
}

KERNEL wild(int *out) { out[1ll << 40] = 1; }
KERNEL odd_address(char *out) { *reinterpret_cast<volatile int *>(out + 1) = 1; }

#else

template <class T> static void apply(std::vector<T> &cells, T value) {
    cells[0] += value;
    cells[1] = std::min(cells[1], value);
    cells[2] = std::max(cells[2], value);
    int bit = int(value % 13);
    cells[3] &= ~(T(1) << (bit < 0 ? bit + 32 : bit) % (8 * sizeof(T)));
    cells[4] |= T(1) << (bit < 0 ? bit + 32 : bit) % (8 * sizeof(T));
    cells[5] ^= value * 5;
    cells[6] = 9;
    cells[7] = cells[7] * 3 + 1;
}

TEST(integer_atomics) {
    std::vector<int> a{0, 1000, -1000, -1, 0, 0, 0, 1};
    std::vector<unsigned> b{0, 1000, 5, ~0u, 0, 0, 0, 1};
    std::vector<unsigned long long> c{0, 1ull << 60, 5, ~0ull, 0, 0, 0, 1};
    Buffer<int> x(a), u(a);
    Buffer<unsigned> y(b);
    Buffer<unsigned long long> z(c), v(c);
    launch("atomics_unsigned", 3, 96, y);
    launch("atomics_wide", 3, 96, z);
    for (unsigned i = 0; i < 288; ++i) {
        apply(b, i * 77);
        apply(c, static_cast<unsigned long long>(i) << 33);
    }
    equal(y.read(), b);
    equal(z.read(), c);
    // A shift by a negative count means nothing in C++: only what the others do is compared.
    launch("atomics_int", 1, 96, x);
    c = {0, 1ull << 60, 5, ~0ull, 0, 0, 0, 1};
    launch("atomics_shared", 1, 96, u, v);
    std::vector<unsigned> words(a.begin(), a.end());
    for (int i = 0; i < 96; ++i) {
        words[0] += i - 100, a[1] = std::min(a[1], i - 100), a[2] = std::max(a[2], i - 100), words[5] ^= (i - 100) * 5;
        words[7] = words[7] * 3 + 1;
        apply(c, static_cast<unsigned long long>(i) << 33);
    }
    a = {int(words[0]), a[1], a[2], 0, 0, int(words[5]), 9, int(words[7])};
    auto seen = x.read(), shared = u.read();
    seen[3] = seen[4] = shared[3] = shared[4] = 0;
    equal(seen, a);
    equal(shared, a);
    equal(v.read(), c);
}

TEST(real_atomics) {
    Buffer<float> x(std::vector<float>{1, 0, -1000});
    Buffer<double> y(std::vector<double>{1, 0});
    launch("atomics_real", 10, 128, x, y);
    equal(x.read(), {641, 3.5, 699});
    equal(y.read(), {321, 2560});
}

TEST(counters_and_scopes) {
    Buffer<unsigned> x(7);
    launch("wrapping_counters", 4, 64, x);
    equal(x.read(), {256 % 7, (7000 - 256) % 7, 256, 255 * 128, 256, 512, unsigned(-768)});
    Buffer<unsigned short> y(3);
    launch("atomics_short", 1, 96, y);
    equal(y.read(), std::vector<unsigned short>(3, 224));
}

TEST(locks) {
    Buffer<int> out(1), order(4 * 40);
    launch("spin_lock", 4, 40, out);
    equal(out.read()[0], 160);
    equal(symbol<int>("guarded")[1], 160);
    launch("ticket_lock", 4, 40, order);
    auto seen = order.read();
    std::sort(seen.begin(), seen.end());
    std::vector<int> wanted(160);
    std::iota(wanted.begin(), wanted.end(), 0);
    equal(seen, wanted);
}

TEST(waiting_for_each_other) {
    Buffer<int> flags(32), out(32);
    launch("wait_for_lane", 1, 32, flags, out);
    std::vector<int> wanted(32);
    for (int i = 1; i < 32; ++i) {
        wanted[i] = wanted[i - 1] + i;
    }
    equal(out.read(), wanted);
    int n = 200;
    auto in = integers<unsigned>(n, 1000);
    Buffer<unsigned> x(in), sums(n);
    Buffer<int> ready(n);
    launch("chained_blocks", n, 32, sums, ready, x);
    std::partial_sum(in.begin(), in.end(), in.begin());
    equal(sums.read(), in);
}

TEST(barriers_with_names) {
    Buffer<int> out(128), sums(32);
    launch("named_barriers", 1, 128, out);
    std::vector<int> wanted(128, 10);
    std::fill(wanted.begin() + 64, wanted.end(), 11);
    equal(out.read(), wanted);
    launch("producer_consumer", 1, 64, sums, 20);
    equal(sums.read(), std::vector<int>(32, 2470));
}

TEST(clocks) {
    Buffer<long long> out(3);
    launch("clocks", 1, 1, out);
    auto seen = out.read();
    EXPECT(seen[0] > 0 && seen[1] > 0 && seen[2] >= 0);
}

TEST(printf) {
    auto text = printed([] { launch("prints", 1, 32, -42, 1234.5678); });
    std::string wanted = "-42   -42|-42  |-0042 7 ff 0XFF q\n1234.567800 1234.568   1.23e+03 1234.57 %\n"
                         "one and two: -5000000000 18446744073709551615 3 8\n";
    if (text != wanted) {
        fail("printed\n%s", text.c_str());
    }
}

// Each fault is kept by the context: what follows fails likewise.
static void faulty(const char *kernel, int status) {
    Buffer<int> out(32);
    CUresult seen = CUDA_SUCCESS;
    printed([&] { seen = outcome(kernel, 1, 32, 0, out); });
    if (seen != status) {
        fail("%s ended with %d, not %d", kernel, seen, status);
    }
    EXPECT(cuCtxSynchronize() == status);
}

TEST(assertion) { faulty("asserts", 710); }
TEST(trap) { faulty("traps", 719); }
TEST(wild_address) { faulty("wild", 700); }
TEST(misaligned_address) { faulty("odd_address", 716); }

#endif
