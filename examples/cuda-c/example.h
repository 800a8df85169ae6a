// What the examples share: stop at the first error, say what was found, end with one clear line.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

// Every CUDA call returns an error code. Real programs look at it; so do these.
static inline void check(cudaError_t status, const char *what) {
    if (status != cudaSuccess) {
        std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
        std::exit(1);
    }
}

static inline void say_device() {
    cudaDeviceProp device;
    check(cudaGetDeviceProperties(&device, 0), "looking for a device");
    std::printf("Running on %s\n", device.name);
}

// An array in the device's memory, freed with the variable that holds it.
template <typename T> class DeviceArray {
  public:
    explicit DeviceArray(size_t count) : count_(count) {
        check(cudaMalloc(&pointer_, count * sizeof(T)), "allocating");
    }
    explicit DeviceArray(const std::vector<T> &values) : DeviceArray(values.size()) {
        check(cudaMemcpy(pointer_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "copying in");
    }
    ~DeviceArray() { cudaFree(pointer_); }
    DeviceArray(const DeviceArray &) = delete;
    DeviceArray &operator=(const DeviceArray &) = delete;

    T *pointer() const { return pointer_; }
    void clear() { check(cudaMemset(pointer_, 0, count_ * sizeof(T)), "clearing"); }

    // The copy waits for the kernels that were launched before it.
    std::vector<T> copy_out() const {
        std::vector<T> values(count_);
        check(cudaMemcpy(values.data(), pointer_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "copying out");
        return values;
    }

  private:
    T *pointer_ = nullptr;
    size_t count_;
};

// After each launch: a launch itself returns nothing.
static inline void check_launch() { check(cudaGetLastError(), "launching"); }

// What main returns, and the last line it writes.
static inline int verdict(const char *what, size_t count, size_t wrong) {
    std::printf("%zu %s, %zu wrong\n%s\n", count, what, wrong, wrong ? "FAILED" : "PASSED");
    return wrong != 0;
}
