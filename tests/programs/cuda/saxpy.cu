// y = a * x + y in one fused operation, with a grid-stride loop, checked bit by bit against the host's fma.
#include "check.h"
#include <cmath>
#include <vector>

__global__ void saxpy(int n, float a, const float *x, float *y) {
    for (int i = blockDim.x * blockIdx.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        y[i] = fmaf(a, x[i], y[i]);
    }
}

int main() {
    const int n = 100003;
    const float a = 1.0f / 3;
    const size_t bytes = n * sizeof(float);
    std::vector<float> x(n), y(n), result(n);
    Sequence sequence{2};
    for (int i = 0; i < n; ++i) {
        x[i] = static_cast<float>(sequence.next()) / 1024 - 8192;
        y[i] = static_cast<float>(sequence.next()) / 4096 - 2048;
    }

    float *device_x, *device_y;
    CHECK(cudaMalloc(&device_x, bytes));
    CHECK(cudaMalloc(&device_y, bytes));
    CHECK(cudaMemcpy(device_x, x.data(), bytes, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(device_y, y.data(), bytes, cudaMemcpyHostToDevice));

    saxpy<<<32, 128>>>(n, a, device_x, device_y);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(result.data(), device_y, bytes, cudaMemcpyDeviceToHost));

    int wrong = 0;
    for (int i = 0; i < n; ++i) wrong += result[i] != std::fmaf(a, x[i], y[i]);
    CHECK_THAT(wrong == 0);
    std::printf("%d elements, %d wrong, first %a\n", n, wrong, result[0]);

    CHECK(cudaFree(device_x));
    CHECK(cudaFree(device_y));
    return check_result("saxpy");
}
