// Sum, smallest and largest of many numbers. Each thread goes through the array in steps of the whole grid, the
// threads of a warp hand their results on by shuffles, and one atomic per warp joins them.
//
// Build: nvcc reduction.cu -o reduction

#include <climits>

#include "example.h"

struct Result {
    unsigned long long sum;
    int smallest, largest;
};

__global__ void reduce(const int *values, int n, Result *result) {
    long long sum = 0;
    int smallest = INT_MAX, largest = INT_MIN;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        sum += values[i];
        smallest = min(smallest, values[i]);
        largest = max(largest, values[i]);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        sum += __shfl_down_sync(~0u, sum, distance);
        smallest = min(smallest, __shfl_down_sync(~0u, smallest, distance));
        largest = max(largest, __shfl_down_sync(~0u, largest, distance));
    }
    if (threadIdx.x % 32 == 0) {
        atomicAdd(&result->sum, static_cast<unsigned long long>(sum));
        atomicMin(&result->smallest, smallest);
        atomicMax(&result->largest, largest);
    }
}

int main() {
    say_device();
    const int n = 1000000;
    std::mt19937 random(3);
    std::vector<int> values(n);
    for (int &value : values) value = static_cast<int>(random() % 2000001) - 1000000;

    DeviceArray<int> device_values(values);
    DeviceArray<Result> device_result(std::vector<Result>{{0, INT_MAX, INT_MIN}});
    reduce<<<64, 256>>>(device_values.pointer(), n, device_result.pointer());
    check_launch();
    const Result result = device_result.copy_out()[0];

    long long sum = 0;
    int smallest = INT_MAX, largest = INT_MIN;
    for (int value : values) {
        sum += value;
        smallest = value < smallest ? value : smallest;
        largest = value > largest ? value : largest;
    }
    std::printf("%d numbers from %d to %d, sum %lld\n", n, result.smallest, result.largest,
                static_cast<long long>(result.sum));
    const size_t wrong = (static_cast<long long>(result.sum) != sum) + (result.smallest != smallest) +
                         (result.largest != largest);
    return verdict("results", 3, wrong);
}
