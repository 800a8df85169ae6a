// Works on an array in pieces: while one stream computes, another copies. Memory that is copied asynchronously must be
// page-locked; events order what must not overlap, and measure.
//
// Build: nvcc overlappedStreams.cu -o overlappedStreams

#include "example.h"

__global__ void collatz(const unsigned *in, unsigned *steps, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned count = 0;
    for (unsigned long long value = in[i]; value > 1; ++count) value = value % 2 ? 3 * value + 1 : value / 2;
    steps[i] = count;
}

__global__ void add_all(const unsigned *values, int n, unsigned long long *total) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(total, static_cast<unsigned long long>(values[i]));
}

int main() {
    say_device();
    const int pieces = 8, piece = 8192, n = pieces * piece, streams = 3;
    unsigned *in, *out;
    check(cudaMallocHost(&in, n * sizeof *in), "allocating page-locked memory");
    check(cudaMallocHost(&out, n * sizeof *out), "allocating page-locked memory");
    for (int i = 0; i < n; ++i) in[i] = i + 1;

    DeviceArray<unsigned> device_in(n), device_out(n);
    DeviceArray<unsigned long long> device_total(1);
    device_total.clear();
    cudaStream_t stream[streams];
    cudaEvent_t computed[pieces], start, end;
    for (cudaStream_t &each : stream) check(cudaStreamCreateWithFlags(&each, cudaStreamNonBlocking), "making a stream");
    for (cudaEvent_t &each : computed) check(cudaEventCreateWithFlags(&each, cudaEventDisableTiming), "making an event");
    check(cudaEventCreate(&start), "making an event");
    check(cudaEventCreate(&end), "making an event");
    check(cudaDeviceSynchronize(), "waiting for the cleared total");
    check(cudaEventRecord(start, stream[0]), "recording");

    // Pieces go to two streams in turn: copy in, compute, copy out.
    for (int at = 0; at < pieces; ++at) {
        const cudaStream_t s = stream[at % 2];
        const size_t offset = static_cast<size_t>(at) * piece, bytes = piece * sizeof(unsigned);
        check(cudaMemcpyAsync(device_in.pointer() + offset, in + offset, bytes, cudaMemcpyHostToDevice, s), "copying in");
        collatz<<<piece / 256, 256, 0, s>>>(device_in.pointer() + offset, device_out.pointer() + offset, piece);
        check_launch();
        check(cudaEventRecord(computed[at], s), "recording");
        check(cudaMemcpyAsync(out + offset, device_out.pointer() + offset, bytes, cudaMemcpyDeviceToHost, s),
              "copying out");
    }
    // The third adds up what the others computed, each piece as soon as it is there.
    for (int at = 0; at < pieces; ++at) {
        check(cudaStreamWaitEvent(stream[2], computed[at], 0), "waiting for a piece");
        add_all<<<4, 256, 0, stream[2]>>>(device_out.pointer() + static_cast<size_t>(at) * piece, piece,
                                         device_total.pointer());
        check_launch();
    }
    check(cudaEventRecord(end, stream[2]), "recording");
    for (cudaStream_t each : stream) check(cudaStreamSynchronize(each), "waiting for a stream");
    float milliseconds = -1;
    check(cudaEventElapsedTime(&milliseconds, start, end), "measuring");
    const unsigned long long total = device_total.copy_out()[0];

    size_t wrong = milliseconds < 0;
    unsigned long long sum = 0;
    for (int i = 0; i < n; ++i) {
        unsigned count = 0;
        for (unsigned long long value = i + 1; value > 1; ++count) value = value % 2 ? 3 * value + 1 : value / 2;
        wrong += out[i] != count;
        sum += count;
    }
    wrong += total != sum;

    for (cudaStream_t each : stream) check(cudaStreamDestroy(each), "destroying a stream");
    for (cudaEvent_t each : computed) check(cudaEventDestroy(each), "destroying an event");
    check(cudaFreeHost(in), "freeing");
    check(cudaFreeHost(out), "freeing");
    return verdict("numbers", n, wrong);
}
