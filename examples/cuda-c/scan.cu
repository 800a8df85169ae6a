// Running totals: element i of the result is the sum of elements 0 to i. Blocks scan their parts, one block scans the
// sums of the parts, and a last kernel adds to each part what lies before it.
//
// Build: nvcc scan.cu -o scan

#include "example.h"

constexpr int block = 512;

// Doubles the distance at each step: afterwards every thread has added all before it.
__global__ void scan_parts(const unsigned *in, unsigned *out, unsigned *sums, int n) {
    __shared__ unsigned values[2][block];
    const int i = blockIdx.x * block + threadIdx.x, x = threadIdx.x;
    int from = 0;
    values[from][x] = i < n ? in[i] : 0;
    __syncthreads();
    for (int distance = 1; distance < block; distance *= 2) {
        values[1 - from][x] = values[from][x] + (x >= distance ? values[from][x - distance] : 0);
        from = 1 - from;
        __syncthreads();
    }
    if (i < n) out[i] = values[from][x];
    if (sums && x == block - 1) sums[blockIdx.x] = values[from][x];
}

__global__ void add_before(unsigned *values, const unsigned *totals, int n) {
    const int i = (blockIdx.x + 1) * block + threadIdx.x;
    if (i < n) values[i] += totals[blockIdx.x];
}

int main() {
    say_device();
    const int n = 200000, parts = (n + block - 1) / block;
    static_assert(parts <= block, "one block scans the sums of all parts");
    std::mt19937 random(2);
    std::vector<unsigned> values(n);
    for (unsigned &value : values) value = random() % 1000;

    DeviceArray<unsigned> in(values), out(n), sums(parts), totals(parts);
    scan_parts<<<parts, block>>>(in.pointer(), out.pointer(), sums.pointer(), n);
    check_launch();
    scan_parts<<<1, block>>>(sums.pointer(), totals.pointer(), nullptr, parts);
    check_launch();
    add_before<<<parts - 1, block>>>(out.pointer(), totals.pointer(), n);
    check_launch();
    const std::vector<unsigned> result = out.copy_out();

    size_t wrong = 0;
    unsigned total = 0;
    for (int i = 0; i < n; ++i) {
        total += values[i];
        wrong += result[i] != total;
    }
    return verdict("running totals", n, wrong);
}
