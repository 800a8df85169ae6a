// Floating point: operations that IEEE 754 fixes are compared bit by bit, the others within their bounds.
#include "check.h"
#include <cmath>
#include <cstring>
#include <vector>

constexpr int EXACT = 8, NEAR = 9;

__global__ void exact(const float *x, const float *y, float *out, double *wide, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    out[i * EXACT + 0] = __fadd_rn(x[i], y[i]);
    out[i * EXACT + 1] = __fmul_rn(x[i], y[i]);
    out[i * EXACT + 2] = __fmaf_rn(x[i], y[i], 1.5f);
    out[i * EXACT + 3] = __fdiv_rn(x[i], y[i]);
    out[i * EXACT + 4] = __fsqrt_rn(fabsf(x[i]));
    out[i * EXACT + 5] = fminf(x[i], y[i]);
    out[i * EXACT + 6] = truncf(x[i]) + rintf(y[i]);
    out[i * EXACT + 7] = static_cast<float>(static_cast<int>(x[i]));
    wide[i] = sqrt(fabs(static_cast<double>(x[i]))) / (static_cast<double>(y[i]) + 1e-3);
}

__global__ void near(const float *x, float *out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float value = x[i];
    out[i * NEAR + 0] = sinf(value);
    out[i * NEAR + 1] = cosf(value);
    out[i * NEAR + 2] = expf(value / 16);
    out[i * NEAR + 3] = logf(fabsf(value) + 0.25f);
    out[i * NEAR + 4] = powf(fabsf(value) + 0.5f, 1.7f);
    out[i * NEAR + 5] = tanhf(value);
    out[i * NEAR + 6] = rsqrtf(fabsf(value) + 0.125f);
    out[i * NEAR + 7] = atan2f(value, 2.5f);
    out[i * NEAR + 8] = __fdividef(value, 3.0f);
}

static bool same(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

int main() {
    const int n = 4000;
    std::vector<float> x(n), y(n), out(n * NEAR);
    std::vector<double> wide(n);
    Sequence sequence{8};
    for (int i = 0; i < n; ++i) {
        x[i] = (static_cast<float>(sequence.next() % 200001) - 100000) / 4096;
        y[i] = (static_cast<float>(sequence.next() % 200000) + 1) / 8192;
    }
    float *device_x, *device_y, *device_out;
    double *device_wide;
    CHECK(cudaMalloc(&device_x, n * sizeof(float)));
    CHECK(cudaMalloc(&device_y, n * sizeof(float)));
    CHECK(cudaMalloc(&device_out, n * NEAR * sizeof(float)));
    CHECK(cudaMalloc(&device_wide, n * sizeof(double)));
    CHECK(cudaMemcpy(device_x, x.data(), n * sizeof(float), cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(device_y, y.data(), n * sizeof(float), cudaMemcpyHostToDevice));

    exact<<<(n + 127) / 128, 128>>>(device_x, device_y, device_out, device_wide, n);
    CHECK(cudaMemcpy(out.data(), device_out, n * EXACT * sizeof(float), cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(wide.data(), device_wide, n * sizeof(double), cudaMemcpyDeviceToHost));
    int wrong[EXACT + 1] = {};
    for (int i = 0; i < n; ++i) {
        const volatile float sum = x[i] + y[i], product = x[i] * y[i], quotient = x[i] / y[i];
        const volatile float rounded = std::trunc(x[i]) + std::rint(y[i]);
        const float expected[EXACT] = {sum, product, std::fmaf(x[i], y[i], 1.5f), quotient, std::sqrt(std::fabs(x[i])),
                                       std::fmin(x[i], y[i]), rounded, static_cast<float>(static_cast<int>(x[i]))};
        for (int k = 0; k < EXACT; ++k) wrong[k] += !same(out[i * EXACT + k], expected[k]);
        wrong[EXACT] += wide[i] != std::sqrt(std::fabs(static_cast<double>(x[i]))) / (static_cast<double>(y[i]) + 1e-3);
    }
    for (int k = 0; k <= EXACT; ++k) {
        CHECK_THAT(wrong[k] == 0);
        std::printf("exact %d: %d wrong\n", k, wrong[k]);
    }

    near<<<(n + 127) / 128, 128>>>(device_x, device_out, n);
    CHECK(cudaMemcpy(out.data(), device_out, n * NEAR * sizeof(float), cudaMemcpyDeviceToHost));
    int far[NEAR] = {};
    for (int i = 0; i < n; ++i) {
        const double value = x[i];
        const double expected[NEAR] = {std::sin(value), std::cos(value), std::exp(value / 16), std::log(std::fabs(value) + 0.25),
                                       std::pow(std::fabs(value) + 0.5, 1.7), std::tanh(value),
                                       1 / std::sqrt(std::fabs(value) + 0.125), std::atan2(value, 2.5), value / 3};
        // Relative where the value is large, absolute where it passes through zero: far wider than the
        // documented bounds (at most a few units in the last place), far narrower than a mistake.
        for (int k = 0; k < NEAR; ++k) {
            far[k] += !(std::fabs(out[i * NEAR + k] - expected[k]) <= 2e-6 * std::fmax(1, std::fabs(expected[k])));
        }
    }
    for (int k = 0; k < NEAR; ++k) {
        CHECK_THAT(far[k] == 0);
        std::printf("near %d: %d too far\n", k, far[k]);
    }

    CHECK(cudaFree(device_x));
    CHECK(cudaFree(device_y));
    CHECK(cudaFree(device_out));
    CHECK(cudaFree(device_wide));
    return check_result("reals");
}
