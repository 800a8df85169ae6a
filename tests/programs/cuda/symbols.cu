// Constant memory, initialised device variables, and their addresses.
#include "check.h"

__constant__ float coefficients[4] = {1, 2, 3, 4};
__device__ int counter = 100;
__device__ int table[8] = {7, 6, 5, 4, 3, 2, 1, 0};
__device__ int *pointer_to_counter = &counter;

__global__ void evaluate(float x, float *result) {
    *result = coefficients[0] + x * (coefficients[1] + x * (coefficients[2] + x * coefficients[3]));
}

__global__ void use() {
    atomicAdd(pointer_to_counter, table[threadIdx.x]);
}

int main() {
    float *device, result = 0;
    CHECK(cudaMalloc(&device, sizeof(float)));
    evaluate<<<1, 1>>>(2, device);
    CHECK(cudaMemcpy(&result, device, sizeof result, cudaMemcpyDeviceToHost));
    CHECK_THAT(result == 1 + 4 + 12 + 32);

    const float replaced[4] = {5, 0, 0, 1};
    CHECK(cudaMemcpyToSymbol(coefficients, replaced, sizeof replaced));
    evaluate<<<1, 1>>>(2, device);
    CHECK(cudaMemcpy(&result, device, sizeof result, cudaMemcpyDeviceToHost));
    CHECK_THAT(result == 5 + 8);
    std::printf("constants: %.0f\n", result);

    use<<<1, 8>>>();
    int value = 0;
    CHECK(cudaMemcpyFromSymbol(&value, counter, sizeof value));
    CHECK_THAT(value == 128);
    std::printf("counter: %d\n", value);

    void *address = nullptr;
    size_t bytes = 0;
    CHECK(cudaGetSymbolAddress(&address, table));
    CHECK(cudaGetSymbolSize(&bytes, table));
    CHECK_THAT(bytes == 32);
    const int ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    CHECK(cudaMemcpy(address, ones, sizeof ones, cudaMemcpyHostToDevice));
    use<<<1, 8>>>();
    CHECK(cudaMemcpyFromSymbol(&value, counter, sizeof value));
    CHECK_THAT(value == 136);
    std::printf("counter: %d\n", value);

    CHECK(cudaFree(device));
    return check_result("symbols");
}
