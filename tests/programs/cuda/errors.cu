// What the runtime reports for mistakes that leave the context usable, and that it stays usable.
#include "check.h"

#include <cstring>

__global__ void fill(int *data, int value) { data[threadIdx.x] = value; }

static bool refused(cudaError_t status) {
    return status == cudaErrorInvalidConfiguration || status == cudaErrorInvalidValue;
}

// Programs compare the texts of errors: the driver's are the runtime's, for all numbers that both know.
static void texts() {
    void *entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    CHECK(cudaGetDriverEntryPointByVersion("cuGetErrorString", &entry, 12000, cudaEnableDefault, &found));
    CHECK_THAT(found == cudaDriverEntryPointSuccess);
    auto text_of = reinterpret_cast<int (*)(int, const char **)>(entry);
    int compared = 0;
    for (int code = 0; code < 1000; ++code) {
        const char *runtime = cudaGetErrorString(static_cast<cudaError_t>(code)), *driver = nullptr;
        // The runtime has some errors of its own, and knows none that is newer than itself.
        if (text_of(code, &driver) != 0 || strcmp(runtime, "unrecognized error code") == 0) continue;
        if (strcmp(runtime, driver) != 0) printf("%d: %s, not %s\n", code, driver, runtime);
        CHECK_THAT(strcmp(runtime, driver) == 0);
        ++compared;
    }
    CHECK_THAT(compared > 80);
}

int main() {
    texts();
    int devices = 0;
    CHECK(cudaGetDeviceCount(&devices));
    CHECK_THAT(devices >= 1);
    CHECK_ERROR(cudaSetDevice(devices), cudaErrorInvalidDevice);
    CHECK_ERROR(cudaGetLastError(), cudaErrorInvalidDevice);
    CHECK_ERROR(cudaGetLastError(), cudaSuccess);

    int *device;
    CHECK(cudaMalloc(&device, 1024 * sizeof(int)));
    void *never = nullptr;
    CHECK_ERROR(cudaMalloc(&never, size_t(1) << 60), cudaErrorMemoryAllocation);
    CHECK_ERROR(cudaGetLastError(), cudaErrorMemoryAllocation);
    CHECK_ERROR(cudaMalloc(nullptr, 16), cudaErrorInvalidValue);
    CHECK_ERROR(cudaFree(nullptr), cudaSuccess);
    CHECK_ERROR(cudaMemcpy(device, nullptr, 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    CHECK_ERROR(cudaMemcpy(device, device, 16, static_cast<cudaMemcpyKind>(9)), cudaErrorInvalidMemcpyDirection);
    int local = 0;
    CHECK_ERROR(cudaMemcpy(reinterpret_cast<void *>(16), &local, sizeof local, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    CHECK_ERROR(cudaMemcpy(device, &local, 0, cudaMemcpyHostToDevice), cudaSuccess);
    cudaGetLastError();

    // Launches that can be refused at once. Runtime 12.9 checks the configuration itself, 13.5 leaves it to
    // the driver, which has no such error.
    fill<<<1, 1025>>>(device, 1);
    CHECK_THAT(refused(cudaGetLastError()));
    fill<<<0, 32>>>(device, 1);
    CHECK_THAT(refused(cudaGetLastError()));
    fill<<<1, dim3(1, 1, 65)>>>(device, 1);
    CHECK_THAT(refused(cudaGetLastError()));
    fill<<<dim3(1, 65536), 1>>>(device, 1);
    CHECK_THAT(refused(cudaGetLastError()));
    fill<<<1, 32, 1 << 20>>>(device, 1);
    CHECK_ERROR(cudaGetLastError(), cudaErrorInvalidValue);
    CHECK_ERROR(cudaGetLastError(), cudaSuccess);

    // None of it harmed the context.
    fill<<<1, 1024>>>(device, 77);
    CHECK_ERROR(cudaDeviceSynchronize(), cudaSuccess);
    CHECK(cudaMemcpy(&local, device + 1023, sizeof local, cudaMemcpyDeviceToHost));
    CHECK_THAT(local == 77);
    CHECK(cudaFree(device));
    CHECK_ERROR(cudaFree(device), cudaErrorInvalidValue);
    cudaGetLastError();
    return check_result("errors");
}
