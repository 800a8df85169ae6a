// c = a + b over a length that is no multiple of the block, checked exactly.
#include "check.h"
#include <vector>

__global__ void vectorAdd(const float *a, const float *b, float *c, int n) {
    const int i = blockDim.x * blockIdx.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}

int main() {
    const int n = 50000;
    const size_t bytes = n * sizeof(float);
    std::vector<float> a(n), b(n), c(n);
    Sequence sequence{1};
    for (int i = 0; i < n; ++i) {
        a[i] = static_cast<float>(sequence.next() % 1000) / 8;
        b[i] = static_cast<float>(sequence.next() % 1000) / 8;
    }

    float *device_a, *device_b, *device_c;
    CHECK(cudaMalloc(&device_a, bytes));
    CHECK(cudaMalloc(&device_b, bytes));
    CHECK(cudaMalloc(&device_c, bytes));
    CHECK(cudaMemcpy(device_a, a.data(), bytes, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(device_b, b.data(), bytes, cudaMemcpyHostToDevice));

    vectorAdd<<<(n + 255) / 256, 256>>>(device_a, device_b, device_c, n);
    CHECK(cudaGetLastError());
    CHECK(cudaMemcpy(c.data(), device_c, bytes, cudaMemcpyDeviceToHost));

    int wrong = 0;
    for (int i = 0; i < n; ++i) wrong += c[i] != a[i] + b[i];
    CHECK_THAT(wrong == 0);
    std::printf("%d elements, %d wrong\n", n, wrong);

    CHECK(cudaFree(device_a));
    CHECK(cudaFree(device_b));
    CHECK(cudaFree(device_c));
    return check_result("vectorAdd");
}
