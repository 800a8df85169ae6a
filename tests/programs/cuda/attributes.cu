// What pointers, functions and devices say about themselves, held to what must be true of any device.
#include "check.h"

__global__ void __launch_bounds__(256) kernel(int *data) {
    __shared__ int shared[128];
    shared[threadIdx.x % 128] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = shared[(threadIdx.x + 1) % 128];
}

int main() {
    cudaDeviceProp properties;
    CHECK(cudaGetDeviceProperties(&properties, 0));
    CHECK_THAT(properties.warpSize == 32);
    CHECK_THAT(properties.maxThreadsPerBlock >= 1024);
    CHECK_THAT(properties.sharedMemPerBlock >= 48u << 10);
    CHECK_THAT(properties.multiProcessorCount >= 1);
    CHECK_THAT(properties.totalGlobalMem > 0);
    CHECK_THAT(properties.major >= 7);
    CHECK_THAT(properties.unifiedAddressing == 1);
    int value = 0;
    CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0));
    CHECK_THAT(value == properties.multiProcessorCount);
    char bus_id[32];
    int device = -1;
    CHECK(cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, 0));
    CHECK(cudaDeviceGetByPCIBusId(&device, bus_id));
    CHECK_THAT(device == 0);
    size_t available = 0, total = 0;
    CHECK(cudaMemGetInfo(&available, &total));
    CHECK_THAT(available > 0 && available <= total);

    int *memory;
    CHECK(cudaMalloc(&memory, 4096));
    cudaPointerAttributes pointer;
    CHECK(cudaPointerGetAttributes(&pointer, memory + 5));
    CHECK_THAT(pointer.type == cudaMemoryTypeDevice);
    CHECK_THAT(pointer.device == 0);
    CHECK_THAT(pointer.devicePointer == memory + 5);
    CHECK_THAT(pointer.hostPointer == nullptr);
    int *pinned, *mapped;
    CHECK(cudaHostAlloc(&pinned, 4096, cudaHostAllocMapped));
    CHECK(cudaHostGetDevicePointer(&mapped, pinned, 0));
    CHECK(cudaPointerGetAttributes(&pointer, pinned + 1));
    CHECK_THAT(pointer.type == cudaMemoryTypeHost);
    CHECK_THAT(pointer.hostPointer == pinned + 1);
    CHECK_THAT(pointer.devicePointer == mapped + 1);
    CHECK(cudaPointerGetAttributes(&pointer, &value));
    CHECK_THAT(pointer.type == cudaMemoryTypeUnregistered);
    std::printf("pointers\n");

    cudaFuncAttributes function;
    CHECK(cudaFuncGetAttributes(&function, kernel));
    CHECK_THAT(function.sharedSizeBytes == 512);
    CHECK_THAT(function.maxThreadsPerBlock == 256);
    CHECK_THAT(function.numRegs > 0);
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 16384));
    CHECK(cudaFuncGetAttributes(&function, kernel));
    CHECK_THAT(function.maxDynamicSharedSizeBytes == 16384);
    CHECK(cudaFuncSetCacheConfig(kernel, cudaFuncCachePreferShared));
    std::printf("functions\n");

    int blocks = 0, grid = 0, block = 0;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, 256, 0));
    CHECK_THAT(blocks >= 1 && blocks * 256 <= properties.maxThreadsPerMultiProcessor);
    CHECK(cudaOccupancyMaxPotentialBlockSize(&grid, &block, kernel, 0, 0));
    CHECK_THAT(grid >= 1 && block >= 32 && block <= 256);
    std::printf("occupancy\n");

    size_t limit = 0;
    CHECK(cudaDeviceGetLimit(&limit, cudaLimitStackSize));
    CHECK_THAT(limit > 0);
    CHECK(cudaDeviceSetLimit(cudaLimitStackSize, 4096));
    CHECK(cudaDeviceGetLimit(&limit, cudaLimitStackSize));
    CHECK_THAT(limit >= 4096);

    CHECK(cudaFree(memory));
    CHECK(cudaFreeHost(pinned));
    return check_result("attributes");
}
