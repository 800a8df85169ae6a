// A kernel that writes where nothing is: the error is reported by what waits, and stays.
#include "check.h"

__global__ void store(int *data, long long at) { data[at] = 1; }

int main() {
    int *device;
    CHECK(cudaMalloc(&device, 256));
    store<<<1, 1>>>(device, 0);
    CHECK(cudaDeviceSynchronize());

    store<<<1, 1>>>(device, 1ll << 40);
    CHECK_ERROR(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    CHECK_ERROR(cudaGetLastError(), cudaErrorIllegalAddress);
    // The context is beyond use: every later call says the same.
    CHECK_ERROR(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    void *more = nullptr;
    CHECK_ERROR(cudaMalloc(&more, 16), cudaErrorIllegalAddress);
    int value = 0;
    CHECK_ERROR(cudaMemcpy(&value, device, sizeof value, cudaMemcpyDeviceToHost), cudaErrorIllegalAddress);
    store<<<1, 1>>>(device, 0);
    CHECK_ERROR(cudaGetLastError(), cudaErrorIllegalAddress);
    return check_result("fault");
}
