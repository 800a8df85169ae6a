// Words that streams write and wait for, in device memory and in pinned memory.
//
// shows: cuStreamWriteValue32, cuStreamWriteValue32_v2, cuStreamWriteValue64, cuStreamWriteValue64_v2,
// cuStreamWaitValue32, cuStreamWaitValue32_v2, cuStreamWaitValue64, cuStreamWaitValue64_v2, cuStreamBatchMemOp,
// cuStreamBatchMemOp_v2
#include "program.h"

#include <stdatomic.h>
#include <unistd.h>

static CUstream one, two;
static CUdeviceptr device;
static _Atomic uint32_t *pinned;

static uint64_t device_word(int index) {
    uint64_t word;
    CHECK(cuMemcpyDtoH(&word, device + 8 * (unsigned)index, 8));
    return word;
}

// The stream stands still until the word is right, and no longer.
static void waits(CUresult status, const char *what) {
    CHECK(status);
    usleep(5000);
    CHECK_THAT(cuStreamQuery(one) == CUDA_ERROR_NOT_READY);
    printf("waits: %s\n", what);
}

int main(void) {
    // Whoever waits for the wrong thing waits for ever.
    alarm(60);
    start();
    void *host;
    CHECK(cuStreamCreate(&one, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&two, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemAlloc(&device, 64));
    CHECK(cuMemsetD8(device, 0, 64));
    CHECK(cuMemAllocHost(&host, 4096));
    // The streams do not wait for the legacy stream, which does the clearing.
    CHECK(cuCtxSynchronize());
    pinned = host;
    const CUdeviceptr mapped = (CUdeviceptr)(uintptr_t)host;

    // Written where they should be, and nothing else.
    CHECK(cuStreamWriteValue32(one, device, 0x11111111, 0));
    CHECK(cuStreamWriteValue32_v2(one, device + 12, 0x22222222, 0));
    CHECK(cuStreamWriteValue64(one, device + 16, 0x3333333344444444, 0));
    CHECK(cuStreamWriteValue64_v2(one, device + 24, 0x5555555566666666, 1));
    CHECK(cuStreamSynchronize(one));
    CHECK_THAT(device_word(0) == 0x11111111 && device_word(1) == 0x2222222200000000);
    CHECK_THAT(device_word(2) == 0x3333333344444444 && device_word(3) == 0x5555555566666666);

    // The host writes what a stream waits for.
    waits(cuStreamWaitValue32(one, mapped, 5, CU_STREAM_WAIT_VALUE_GEQ), "at least 5");
    pinned[0] = 4;
    CHECK_THAT(cuStreamQuery(one) == CUDA_ERROR_NOT_READY);
    pinned[0] = 6;
    CHECK(cuStreamSynchronize(one));
    waits(cuStreamWaitValue32_v2(one, mapped, 7, CU_STREAM_WAIT_VALUE_EQ), "exactly 7");
    pinned[0] = 7;
    CHECK(cuStreamSynchronize(one));
    waits(cuStreamWaitValue32(one, mapped, 8, CU_STREAM_WAIT_VALUE_AND), "bit 3");
    pinned[0] = 9;
    CHECK(cuStreamSynchronize(one));

    // Another stream does, in memory of the device.
    CHECK(cuMemsetD8(device, 0, 64));
    CHECK(cuCtxSynchronize());
    waits(cuStreamWaitValue64(one, device + 8, 1ull << 40, CU_STREAM_WAIT_VALUE_GEQ), "at least 2^40");
    CHECK(cuStreamWriteValue64(two, device + 8, (1ull << 40) + 1, 0));
    CHECK(cuStreamSynchronize(one));
    waits(cuStreamWaitValue64_v2(one, device, 42, CU_STREAM_WAIT_VALUE_EQ), "exactly 42");
    CHECK(cuStreamWriteValue32(two, device, 42, 0));
    CHECK(cuStreamSynchronize(one));

    // A batch is done in its order.
    CUstreamBatchMemOpParams batch[4];
    memset(batch, 0, sizeof batch);
    batch[0].word.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    batch[0].word.address = mapped + 64;
    batch[0].word.value = 1;
    batch[1].word.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    batch[1].word.address = device + 32;
    batch[1].word.value = 77;
    batch[2].barrier.operation = CU_STREAM_MEM_OP_BARRIER;
    batch[3].word.operation = CU_STREAM_MEM_OP_WRITE_VALUE_64;
    batch[3].word.address = mapped + 128;
    batch[3].word.value = 88;
    pinned[16] = 0;
    waits(cuStreamBatchMemOp(one, 4, batch, 0), "a batch");
    pinned[16] = 1;
    CHECK(cuStreamSynchronize(one));
    CHECK_THAT(device_word(4) == 77 && pinned[32] == 88);
    batch[3].word.value = 99;
    CHECK(cuStreamBatchMemOp_v2(one, 4, batch, 0));
    CHECK(cuStreamSynchronize(one));
    CHECK_THAT(pinned[32] == 99);

    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamWriteValue32(one, device + 2, 1, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamWriteValue64(one, device + 4, 1, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamWriteValue32(one, device, 1, 2));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamWaitValue32(one, device, 1, 9));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamWriteValue32(one, device + 64, 1, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamWriteValue32(one, 0, 1, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamBatchMemOp(one, 0, batch, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamBatchMemOp(one, 4, NULL, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamBatchMemOp(one, 300, batch, 0));
    batch[0].word.operation = 77;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuStreamBatchMemOp(one, 4, batch, 0));
    CHECK(cuStreamSynchronize(one));
    CHECK(cuMemFree(device));
    CHECK(cuMemFreeHost(host));
    return result("drv_memop");
}
