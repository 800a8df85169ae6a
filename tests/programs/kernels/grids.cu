// All blocks of a grid together: cooperative launches.
#include "corpus.h"

#ifndef HOST

#include <cooperative_groups.h>
namespace cg = cooperative_groups;

KERNEL sum_by_grid(const int *in, long long *partial, long long *out, int n) {
    cg::grid_group grid = cg::this_grid();
    long long sum = 0;
    for (unsigned long long i = grid.thread_rank(); i < n; i += grid.size()) {
        sum += in[i];
    }
    partial[grid.thread_rank()] = sum;
    grid.sync();
    for (unsigned long long half = grid.size() / 2; half > 0; half /= 2) {
        if (grid.thread_rank() < half) {
            partial[grid.thread_rank()] += partial[grid.thread_rank() + half];
        }
        grid.sync();
    }
    if (grid.thread_rank() == 0) {
        *out = partial[0] + grid.is_valid();
    }
}

// Only blocks that were launched to wait for each other may.
KERNEL may_meet(int *out) { out[cg::this_grid().thread_rank()] = cg::this_grid().is_valid(); }

// Jacobi's iteration for heat on a line: every step needs all of the one before.
KERNEL steps_by_grid(float *a, float *b, int n, int steps) {
    cg::grid_group grid = cg::this_grid();
    int i = static_cast<int>(grid.thread_rank());
    for (int step = 0; step < steps; ++step) {
        if (i < n) {
            b[i] = 0.5f * a[i] + 0.25f * (a[(i + 1) % n] + a[(i + n - 1) % n]);
        }
        grid.sync();
        float *held = a;
        a = b;
        b = held;
    }
}

#else

template <class... Values> static void cooperate(const char *kernel, Size grid, Size block, const Values &...values) {
    std::tuple<decltype(argument(values))...> held{argument(values)...};
    std::vector<void *> pointers;
    std::apply([&](auto &...value) { (pointers.push_back(&value), ...); }, held);
    check(cuLaunchCooperativeKernel(function(kernel), grid.x, grid.y, grid.z, block.x, block.y, block.z, 0, nullptr,
                                    pointers.data()),
          kernel);
    check(cuCtxSynchronize(), kernel);
}

TEST(reduction_by_grid) {
    int n = 10007;
    auto in = integers<int>(n, 0);
    Buffer<int> x(in);
    Buffer<long long> partial(8 * 64), out(1);
    cooperate("sum_by_grid", 8, 64, x, partial, out, n);
    equal(out.read()[0], std::accumulate(in.begin(), in.end(), 0LL) + 1);
}

TEST(a_grid_may_meet_only_in_a_cooperative_launch) {
    Buffer<int> out(2 * 32);
    cooperate("may_meet", 2, 32, out);
    equal(out.read(), std::vector<int>(2 * 32, 1));
    launch("may_meet", 2, 32, out);
    equal(out.read(), std::vector<int>(2 * 32, 0));
}

TEST(steps_by_grid) {
    int n = 500;
    auto a = reals<float>(n, 0, 1), b = a;
    Buffer<float> x(a), y(n);
    cooperate("steps_by_grid", 8, 64, x, y, n, 12);
    for (int step = 0; step < 12; ++step) {
        for (int i = 0; i < n; ++i) {
            b[i] = 0.5f * a[i] + 0.25f * (a[(i + 1) % n] + a[(i + n - 1) % n]);
        }
        a.swap(b);
    }
    close(x.read(), a, 1e-5);
}

#endif
