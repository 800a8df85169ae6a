// Existing memory of the program's, registered for asynchronous copies and released again.
#include "check.h"
#include <cstdlib>
#include <cstring>

int main() {
    const size_t bytes = 1 << 20;
    void *memory = nullptr;
    if (posix_memalign(&memory, 4096, bytes) != 0) return 1;
    unsigned char *host = static_cast<unsigned char *>(memory);
    for (size_t i = 0; i < bytes; ++i) host[i] = static_cast<unsigned char>(i * 31);

    CHECK(cudaHostRegister(host, bytes, cudaHostRegisterDefault));
    CHECK_ERROR(cudaHostRegister(host, bytes, cudaHostRegisterDefault), cudaErrorHostMemoryAlreadyRegistered);
    cudaGetLastError();
    cudaPointerAttributes pointer;
    CHECK(cudaPointerGetAttributes(&pointer, host));
    CHECK_THAT(pointer.type == cudaMemoryTypeHost);

    unsigned char *device;
    cudaStream_t stream;
    CHECK(cudaMalloc(&device, bytes));
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream));
    CHECK(cudaStreamSynchronize(stream));
    std::memset(host, 0, bytes);
    CHECK(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    int wrong = 0;
    for (size_t i = 0; i < bytes; ++i) wrong += host[i] != static_cast<unsigned char>(i * 31);
    CHECK_THAT(wrong == 0);
    std::printf("%zu bytes there and back, %d wrong\n", bytes, wrong);

    CHECK(cudaHostUnregister(host));
    CHECK_ERROR(cudaHostUnregister(host), cudaErrorHostMemoryNotRegistered);
    cudaGetLastError();
    CHECK(cudaPointerGetAttributes(&pointer, host));
    CHECK_THAT(pointer.type == cudaMemoryTypeUnregistered);

    CHECK(cudaStreamDestroy(stream));
    CHECK(cudaFree(device));
    std::free(memory);
    return check_result("registered");
}
