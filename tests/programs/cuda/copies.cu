// Copies in every direction, sizes from one byte to several staging chunks, odd offsets, and memsets.
#include "check.h"
#include <cstring>
#include <vector>

static std::vector<unsigned char> pattern(size_t bytes, unsigned seed) {
    std::vector<unsigned char> data(bytes);
    Sequence sequence{seed};
    for (unsigned char &byte : data) byte = static_cast<unsigned char>(sequence.next());
    return data;
}

int main() {
    const size_t capacity = (3u << 20) + 17;
    unsigned char *device, *other, *pinned;
    CHECK(cudaMalloc(&device, capacity));
    CHECK(cudaMalloc(&other, capacity));
    CHECK(cudaMallocHost(&pinned, capacity));
    std::vector<unsigned char> back(capacity);

    const size_t sizes[] = {1, 3, 255, 256, 4095, 4097, 65536, (256u << 10) - 1, (256u << 10) + 1, capacity};
    for (size_t bytes : sizes) {
        const auto data = pattern(bytes, static_cast<unsigned>(bytes));
        // Pageable there and back by way of a second allocation.
        CHECK(cudaMemcpy(device, data.data(), bytes, cudaMemcpyHostToDevice));
        CHECK(cudaMemcpy(other, device, bytes, cudaMemcpyDeviceToDevice));
        CHECK(cudaMemcpy(back.data(), other, bytes, cudaMemcpyDeviceToHost));
        CHECK_THAT(std::memcmp(back.data(), data.data(), bytes) == 0);
        // Pinned, asynchronous, direction left to the runtime.
        std::memset(pinned, 0, bytes);
        CHECK(cudaMemcpyAsync(pinned, other, bytes, cudaMemcpyDefault, nullptr));
        CHECK(cudaStreamSynchronize(nullptr));
        CHECK_THAT(std::memcmp(pinned, data.data(), bytes) == 0);
    }
    std::printf("%zu sizes there and back\n", sizeof sizes / sizeof *sizes);

    // A pageable source may be changed as soon as the call returns, even an asynchronous one.
    auto source = pattern(1 << 20, 6);
    const auto kept = source;
    CHECK(cudaMemcpyAsync(device, source.data(), source.size(), cudaMemcpyHostToDevice, nullptr));
    std::memset(source.data(), 0, source.size());
    CHECK(cudaMemcpy(back.data(), device, kept.size(), cudaMemcpyDeviceToHost));
    CHECK_THAT(std::memcmp(back.data(), kept.data(), kept.size()) == 0);

    // A window inside an allocation, at odd offsets; its neighbours stay as they are.
    CHECK(cudaMemset(device, 0x55, 1000));
    CHECK(cudaMemcpy(device + 333, kept.data(), 100, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(back.data(), device, 1000, cudaMemcpyDeviceToHost));
    CHECK_THAT(back[332] == 0x55 && back[433] == 0x55 && std::memcmp(&back[333], kept.data(), 100) == 0);

    CHECK(cudaMemsetAsync(device + 1, 0xa7, 777, nullptr));
    CHECK(cudaMemcpy(back.data(), device, 1000, cudaMemcpyDeviceToHost));
    CHECK_THAT(back[0] == 0x55 && back[1] == 0xa7 && back[777] == 0xa7 && back[778] == 0x55);

    // Rows of a pitched allocation; what lies between them stays.
    unsigned char *rows;
    size_t pitch = 0;
    CHECK(cudaMallocPitch(&rows, &pitch, 100, 8));
    CHECK_THAT(pitch >= 100);
    CHECK(cudaMemset(rows, 0x11, pitch * 8));
    CHECK(cudaMemset2D(rows, pitch, 0x22, 100, 7));
    CHECK(cudaMemset2DAsync(rows + 3, pitch, 0x33, 5, 2, nullptr));
    std::vector<unsigned char> image(pitch * 8);
    CHECK(cudaMemcpy(image.data(), rows, image.size(), cudaMemcpyDeviceToHost));
    int wrong = 0;
    for (size_t row = 0; row < 8; ++row) {
        for (size_t column = 0; column < pitch; ++column) {
            unsigned char expected = column < 100 && row < 7 ? 0x22 : 0x11;
            if (row < 2 && column >= 3 && column < 8) expected = 0x33;
            wrong += image[row * pitch + column] != expected;
        }
    }
    CHECK_THAT(wrong == 0);
    std::printf("rows: %d wrong\n", wrong);

    CHECK(cudaFree(rows));
    CHECK(cudaFree(device));
    CHECK(cudaFree(other));
    CHECK(cudaFreeHost(pinned));
    return check_result("copies");
}
