// Adds two vectors on the GPU: an ordinary CUDA program that knows nothing of this project.
//
// Build: nvcc vectorAdd.cu -o vectorAdd

#include <cstdio>
#include <cstdlib>
#include <vector>

__global__ void add(const float *a, const float *b, float *c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}

// Every CUDA call returns an error code. Real programs look at it; so does this one.
static void check(cudaError_t status, const char *what) {
    if (status != cudaSuccess) {
        std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
        std::exit(1);
    }
}

int main() {
    cudaDeviceProp device;
    check(cudaGetDeviceProperties(&device, 0), "looking for a device");
    std::printf("Running on %s\n", device.name);

    const int n = 1 << 20;
    const size_t bytes = n * sizeof(float);
    std::vector<float> a(n), b(n), c(n);
    for (int i = 0; i < n; ++i) {
        a[i] = i;
        b[i] = 2 * i;
    }

    // Three vectors in the device's memory, two of them filled from ours.
    float *device_a, *device_b, *device_c;
    check(cudaMalloc(&device_a, bytes), "allocating");
    check(cudaMalloc(&device_b, bytes), "allocating");
    check(cudaMalloc(&device_c, bytes), "allocating");
    check(cudaMemcpy(device_a, a.data(), bytes, cudaMemcpyHostToDevice), "copying in");
    check(cudaMemcpy(device_b, b.data(), bytes, cudaMemcpyHostToDevice), "copying in");

    // One thread for each element, in blocks of 256. The launch returns at once.
    add<<<(n + 255) / 256, 256>>>(device_a, device_b, device_c, n);
    check(cudaGetLastError(), "launching");

    // The copy back waits for the kernel.
    check(cudaMemcpy(c.data(), device_c, bytes, cudaMemcpyDeviceToHost), "copying out");

    int wrong = 0;
    for (int i = 0; i < n; ++i) wrong += c[i] != a[i] + b[i];
    std::printf("%d additions, %d wrong\n%s\n", n, wrong, wrong ? "FAILED" : "PASSED");

    cudaFree(device_a);
    cudaFree(device_b);
    cudaFree(device_c);
    return wrong != 0;
}
