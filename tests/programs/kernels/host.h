// The host half of the corpus: loads PTX, launches, compares. See corpus.h.
#pragma once

#ifdef CUDART
#include "runtime.h"
#else
extern "C" {
#include "driver_api.h"
}
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <numeric>
#include <string>
#include <sys/wait.h>
#include <type_traits>
#include <unistd.h>
#include <tuple>
#include <vector>

namespace corpus {

struct Test {
    const char *name;
    void (*run)();
};

inline std::vector<Test> tests;
inline CUmodule module_;
inline int failures;

struct Register {
    Register(const char *name, void (*run)()) { tests.push_back({name, run}); }
};

// Ends the test at once: nothing after an unexpected error means anything.
inline void check(CUresult status, const char *what) {
    if (status == CUDA_SUCCESS) {
        return;
    }
    const char *name = "?";
    cuGetErrorName(status, &name);
    std::printf("  %s: %s (%d)\n", what, name, status);
    std::fflush(stdout);
    std::_Exit(1);
}

// One line for the first wrong values of a test, then silence.
template <class... Values> void fail(const char *format, Values... values) {
    if (++failures <= 5) {
        std::printf("  ");
        std::printf(format, values...);
        std::printf("\n");
    }
}

inline void expect(bool holds, const char *what) {
    if (!holds) {
        fail("%s does not hold", what);
    }
}

// Memory of the device that holds `size` values; freed with the process.
template <class T> struct Buffer {
    CUdeviceptr address = 0;
    size_t size;

    explicit Buffer(size_t count, T value = T{}) : Buffer(std::vector<T>(count, value)) {}
    explicit Buffer(const std::vector<T> &values) : size(values.size()) {
        check(cuMemAlloc(&address, size * sizeof(T)), "cuMemAlloc");
        write(values);
    }

    void write(const std::vector<T> &values) {
        check(cuMemcpyHtoD(address, values.data(), values.size() * sizeof(T)), "cuMemcpyHtoD");
    }

    std::vector<T> read() const {
        std::vector<T> values(size);
        check(cuMemcpyDtoH(values.data(), address, size * sizeof(T)), "cuMemcpyDtoH");
        return values;
    }
};

struct Size {
    unsigned x, y, z;
    Size(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

template <class T> T argument(const T &value) { return value; }
template <class T> CUdeviceptr argument(const Buffer<T> &buffer) { return buffer.address; }

inline CUfunction function(const char *name) {
    CUfunction found;
    check(cuModuleGetFunction(&found, module_, name), name);
    return found;
}

// Launches and says how it ended. A kernel whose parameters do not have the sizes of `values` is a mistake
// of the test.
template <class... Values>
CUresult outcome(const char *kernel, Size grid, Size block, unsigned shared, const Values &...values) {
    std::tuple<decltype(argument(values))...> held{argument(values)...};
    std::vector<void *> pointers;
    std::vector<size_t> sizes;
    std::apply(
        [&](auto &...value) {
            (pointers.push_back(&value), ...);
            (sizes.push_back(sizeof value), ...);
        },
        held);
    CUfunction found = function(kernel);
#ifndef CUDART  // The runtime does not tell.
    for (size_t index = 0; index < sizes.size(); ++index) {
        size_t offset = 0, size = 0;
        check(cuFuncGetParamInfo(found, index, &offset, &size), "cuFuncGetParamInfo");
        if (size != sizes[index]) {
            fail("%s: parameter %zu has %zu bytes, given %zu", kernel, index, size, sizes[index]);
        }
    }
#endif
    CUresult status = cuLaunchKernel(found, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared, nullptr,
                                     pointers.data(), nullptr);
    return status != CUDA_SUCCESS ? status : cuCtxSynchronize();
}

template <class... Values>
void launch_shared(const char *kernel, Size grid, Size block, unsigned shared, const Values &...values) {
    check(outcome(kernel, grid, block, shared, values...), kernel);
}

template <class... Values> void launch(const char *kernel, Size grid, Size block, const Values &...values) {
    launch_shared(kernel, grid, block, 0, values...);
}

// A variable of the module.
template <class T> void set_symbol(const char *name, const std::vector<T> &values) {
    CUdeviceptr address = 0;
    size_t bytes = 0;
    check(cuModuleGetGlobal(&address, &bytes, module_, name), name);
    if (bytes != values.size() * sizeof(T)) {
        fail("%s has %zu bytes", name, bytes);
    }
    check(cuMemcpyHtoD(address, values.data(), bytes), name);
}

template <class T> std::vector<T> symbol(const char *name) {
    CUdeviceptr address = 0;
    size_t bytes = 0;
    check(cuModuleGetGlobal(&address, &bytes, module_, name), name);
    std::vector<T> values(bytes / sizeof(T));
    check(cuMemcpyDtoH(values.data(), address, bytes), name);
    return values;
}

inline std::string text(long long value) { return std::to_string(value); }
inline std::string text(unsigned long long value) { return std::to_string(value); }

// The same values exactly.
template <class T> void equal(const std::vector<T> &seen, const std::vector<T> &wanted) {
    expect(seen.size() == wanted.size(), "as many values as wanted");
    for (size_t index = 0; index < std::min(seen.size(), wanted.size()); ++index) {
        if (std::memcmp(&seen[index], &wanted[index], sizeof(T)) != 0) {
            if constexpr (std::is_floating_point_v<T>) {
                fail("[%zu] is %.17g, not %.17g", index, double(seen[index]), double(wanted[index]));
            } else if constexpr (std::is_integral_v<T>) {
                using Wide = std::conditional_t<std::is_signed_v<T>, long long, unsigned long long>;
                fail("[%zu] is %s, not %s", index, text(Wide(seen[index])).c_str(), text(Wide(wanted[index])).c_str());
            } else {
                fail("[%zu] differs", index);
            }
        }
    }
}

template <class T> void equal(const T &seen, const T &wanted) {
    equal(std::vector<T>{seen}, std::vector<T>{wanted});
}

// Within `relative` of the wanted value, or within `absolute` of it.
template <class T, class U>
void close(const std::vector<T> &seen, const std::vector<U> &wanted, double relative, double absolute = 0) {
    expect(seen.size() == wanted.size(), "as many values as wanted");
    for (size_t index = 0; index < std::min(seen.size(), wanted.size()); ++index) {
        double x = double(seen[index]), y = double(wanted[index]);
        bool same = (std::isnan(x) && std::isnan(y)) || x == y;
        if (!same && !(std::fabs(x - y) <= std::max(relative * std::fabs(y), absolute))) {
            fail("[%zu] is %.17g, not %.17g", index, x, y);
        }
    }
}

// A stream of numbers, the same in every run.
struct Random {
    unsigned long long state;
    explicit Random(unsigned long long seed) : state(seed * 0x9e3779b97f4a7c15ULL + 1) {}
    unsigned next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return unsigned(state >> 32);
    }
    unsigned below(unsigned bound) { return next() % bound; }
    double real(double low, double high) { return low + (high - low) * next() / 4294967296.0; }
};

template <class T> std::vector<T> reals(size_t count, double low, double high, unsigned seed = 1) {
    Random random(seed);
    std::vector<T> values(count);
    for (T &value : values) {
        value = T(random.real(low, high));
    }
    return values;
}

template <class T> std::vector<T> integers(size_t count, unsigned bound, unsigned seed = 1) {
    Random random(seed);
    std::vector<T> values(count);
    for (T &value : values) {
        value = T(bound ? random.below(bound) : random.next());
    }
    return values;
}

inline unsigned blocks(size_t count, unsigned block) { return unsigned((count + block - 1) / block); }

// What the kernels print while `run` lasts.
inline std::string printed(const std::function<void()> &run) {
    std::fflush(stdout);
    char name[] = "/tmp/corpus-XXXXXX";
    int file = mkstemp(name), kept = dup(1);
    dup2(file, 1);
    run();
    std::fflush(stdout);
    dup2(kept, 1);
    std::string text;
    lseek(file, 0, SEEK_SET);
    char piece[4096];
    for (ssize_t count; (count = read(file, piece, sizeof piece)) > 0;) {
        text.append(piece, size_t(count));
    }
    ::close(file);
    ::close(kept);
    unlink(name);
    return text;
}

// Runs one test in this process, which has not touched the driver yet.
inline int run(const Test &test, const std::string &ptx) {
    CUdevice device;
    CUcontext context;
    check(cuInit(0), "cuInit");
    check(cuDeviceGet(&device, 0), "cuDeviceGet");
    check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
    check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    std::vector<char> log(8192);
    int options[] = {5, 6};  // CU_JIT_ERROR_LOG_BUFFER and its size in bytes
    void *values[] = {log.data(), reinterpret_cast<void *>(log.size())};
    CUresult status = cuModuleLoadDataEx(&module_, ptx.c_str(), 2, options, values);
    if (status != CUDA_SUCCESS) {
        std::printf("  %s\n", log.data());
    }
    check(status, "cuModuleLoadDataEx");
    test.run();
    return failures == 0 ? 0 : 1;
}

}  // namespace corpus

using namespace corpus;

#define TEST(name)                                       \
    static void test_##name();                           \
    static corpus::Register register_##name(#name, test_##name); \
    static void test_##name()

#define EXPECT(condition) corpus::expect((condition), #condition)

// PROGRAM PTX [TEST...]: each test in a process of its own, so that a fault ends it alone.
int main(int count, char **words) {
    if (count < 2) {
        std::fprintf(stderr, "usage: %s PTX [TEST...]\n", words[0]);
        return 2;
    }
    std::ifstream file(words[1]);
    std::string ptx((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    int ran = 0, failed = 0;
    for (const Test &test : corpus::tests) {
        bool chosen = count == 2;
        for (int index = 2; index < count; ++index) {
            chosen |= std::strcmp(words[index], test.name) == 0;
        }
        if (!chosen) {
            continue;
        }
        ++ran;
        pid_t child = fork();
        if (child == 0) {
            int status = corpus::run(test, ptx);
            std::fflush(stdout);
            std::_Exit(status);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) {
            ++failed;
            std::printf("FAIL %s%s\n", test.name, WIFSIGNALED(status) ? " (killed)" : "");
        }
        std::fflush(stdout);
    }
    std::printf("%d tests, %d failed\n", ran, failed);
    return failed != 0 || ran == 0;
}
