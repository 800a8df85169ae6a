// Memory that two processes have: one exports it, another opens it, computes in it, and closes it. And an event by
// which each waits for the other's streams.
//
// The program starts itself again, and tells its other half over a socket what to do. That half says nothing itself.
//
// shows: cuIpcGetMemHandle, cuIpcOpenMemHandle, cuIpcOpenMemHandle_v2, cuIpcCloseMemHandle, cuIpcGetEventHandle
// shows: cuIpcOpenEventHandle
#define _GNU_SOURCE
#include "hold.h"
#include "memory_api.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

EMBED_PTX(addition, "vector_add.ptx");
EMBED_PTX(kernels, "kernels.ptx");

enum { OPEN, OPEN_OLD, CLOSE, ADD, WORD, FREE, EXPORT, PLACE };
enum { EVENT_OPEN = PLACE + 1, EVENT_QUERY, EVENT_WAIT, EVENT_DONE, EVENT_SET, EVENT_END };

typedef struct {
    int what;
    CUresult status;
    CUipcMemHandle handle;
    CUipcEventHandle event;
    CUdeviceptr pointers[3];
    uint64_t number;
} Order;

// One side of the socket for the lifetime of a process.
static int line;

static bool transfer(Order *order, bool out) {
    for (size_t done = 0; done < sizeof *order;) {
        char *at = (char *)order + done;
        ssize_t moved = out ? write(line, at, sizeof *order - done) : read(line, at, sizeof *order - done);
        if (moved <= 0) return false;
        done += (size_t)moved;
    }
    return true;
}

// --- The other half

static CUresult obey(Order *order, CUfunction add) {
    static CUdeviceptr own;
    static CUevent event;
    static CUstream stream;
    CUdeviceptr *pointers = order->pointers;
    unsigned number = (unsigned)order->number;
    unsigned word = 0;
    CUresult status;
    switch (order->what) {
    case OPEN: return cuIpcOpenMemHandle_v2(pointers, order->handle, (unsigned)order->number);
    case OPEN_OLD: return cuIpcOpenMemHandle(pointers, order->handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
    case CLOSE: return cuIpcCloseMemHandle(pointers[0]);
    case ADD: {
        void *parameters[] = {&pointers[0], &pointers[1], &pointers[2], &number};
        CHECK(cuLaunchKernel(add, (number + 255) / 256, 1, 1, 256, 1, 1, 0, NULL, parameters, NULL));
        return cuCtxSynchronize();
    }
    case WORD:
        status = cuMemcpyDtoH(&word, pointers[0], sizeof word);
        order->number = word;
        return status;
    case FREE: return cuMemFree(pointers[0]);
    case EXPORT:
        CHECK(cuMemAlloc(&own, 4096));
        return cuIpcGetMemHandle(&order->handle, own);
    case EVENT_OPEN:
        if (!stream) CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
        if (!own) CHECK(cuMemAlloc(&own, 4096));
        return cuIpcOpenEventHandle(&event, order->event);
    case EVENT_QUERY: return cuEventQuery(event);
    case EVENT_WAIT:
        // Copies a word of the other's once its event has come, and does not wait for that itself.
        CHECK(cuStreamWaitEvent(stream, event, 0));
        CHECK(cuMemcpyDtoDAsync(own, pointers[0], sizeof word, stream));
        return cuStreamQuery(stream);
    case EVENT_DONE:
        CHECK(cuStreamSynchronize(stream));
        status = cuMemcpyDtoH(&word, own, sizeof word);
        order->number = word;
        return status;
    case EVENT_SET:
        CHECK(cuMemsetD32Async(pointers[0], number, 1, stream));
        return cuEventRecord(event, stream);
    case EVENT_END: return cuEventDestroy(event);
    default: {
        // What the driver says of memory that was opened.
        int type = 0, capable = 1;
        CUdeviceptr base = 0;
        CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointers[0]));
        CHECK(cuPointerGetAttribute(&capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, pointers[0]));
        CHECK(cuMemGetAddressRange(&base, NULL, pointers[0]));
        order->number = type == CU_MEMORYTYPE_DEVICE && base == pointers[0] && !capable;
        return CUDA_SUCCESS;
    }
    }
}

static int serve(int descriptor) {
    line = descriptor;
    start();
    CUmodule module;
    CHECK(cuModuleLoadData(&module, addition));
    CUfunction add = function_of(module, "vector_add");
    for (Order order; transfer(&order, false);) {
        order.status = obey(&order, add);
        if (!transfer(&order, true)) return 1;
    }
    return 0;
}

// --- This half

static Order ask(Order order) {
    if (!transfer(&order, true) || !transfer(&order, false)) {
        printf("FAIL: the other half is gone\n");
        exit(1);
    }
    return order;
}

static Order do_open(CUipcMemHandle handle) {
    return ask((Order){.what = OPEN, .handle = handle, .number = CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS});
}

static CUresult opening(CUipcMemHandle handle) { return do_open(handle).status; }

static CUdeviceptr opened(CUipcMemHandle handle) {
    Order order = do_open(handle);
    CHECK(order.status);
    return order.pointers[0];
}

static CUresult to(int what, CUdeviceptr pointer) { return ask((Order){.what = what, .pointers = {pointer}}).status; }

static CUresult closing(CUdeviceptr pointer) { return to(CLOSE, pointer); }

static CUipcMemHandle handle_of(CUdeviceptr pointer) {
    CUipcMemHandle handle, again;
    CHECK(cuIpcGetMemHandle(&handle, pointer));
    CHECK(cuIpcGetMemHandle(&again, pointer));
    CHECK_THAT(memcmp(&handle, &again, sizeof handle) == 0);
    return handle;
}

// The other process adds two vectors of this one's into a third.
static void compute(unsigned count) {
    size_t bytes = count * sizeof(float);
    float *values = malloc(bytes);
    CUdeviceptr here[3], there[3];
    for (unsigned i = 0; i < count; ++i) values[i] = (float)(i % 1000);
    for (int i = 0; i < 3; ++i) CHECK(cuMemAlloc(&here[i], bytes));
    CHECK(cuMemcpyHtoD(here[0], values, bytes));
    for (int i = 0; i < 3; ++i) there[i] = opened(handle_of(here[i]));
    // Written after it was opened, and seen all the same.
    CHECK(cuMemcpyHtoD(here[1], values, bytes));
    Order order = {.what = ADD, .pointers = {there[0], there[1], there[2]}, .number = count};
    CHECK(ask(order).status);
    CHECK(cuMemcpyDtoH(values, here[2], bytes));
    unsigned wrong = 0;
    for (unsigned i = 0; i < count; ++i) wrong += values[i] != 2 * (float)(i % 1000);
    CHECK_THAT(wrong == 0);
    printf("%u sums\n", count);
    CHECK_THAT(ask((Order){.what = PLACE, .pointers = {there[0]}}).number == 1);
    for (int i = 0; i < 3; ++i) CHECK(closing(there[i]));
    // What was exported is not touched by that.
    CHECK(cuMemcpyDtoH(values, here[0], bytes));
    CHECK_THAT(values[count - 1] == (float)((count - 1) % 1000));
    for (int i = 0; i < 3; ++i) CHECK(cuMemFree(here[i]));
    free(values);
}

static void life(void) {
    CUdeviceptr pointer;
    CHECK(cuMemAlloc(&pointer, 8 << 20));
    CHECK(cuMemsetD32(pointer, 77, 4));
    CUipcMemHandle handle = handle_of(pointer);
    CUdeviceptr there = opened(handle);
    CHECK_THAT(opened(handle) == there);
    Order old = ask((Order){.what = OPEN_OLD, .handle = handle});
    CHECK(old.status);
    CHECK_THAT(old.pointers[0] == there);
    Order word = ask((Order){.what = WORD, .pointers = {there}});
    CHECK(word.status);
    CHECK_THAT(word.number == 77);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, to(FREE, there));
    CHECK(closing(there));
    CHECK(closing(there));
    CHECK(to(WORD, there));
    CHECK(closing(there));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, closing(there));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, to(CLOSE, 0));
    there = opened(handle);
    CHECK(closing(there));
    // Freed memory has no handle, and what comes after it at its address has another.
    CHECK(cuMemFree(pointer));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, opening(handle));
    CHECK(cuMemAlloc(&pointer, 8 << 20));
    CUipcMemHandle next = handle_of(pointer);
    CHECK_THAT(memcmp(&handle, &next, sizeof next) != 0);
    CHECK(closing(opened(next)));
    CHECK(cuMemFree(pointer));
}

static void mistakes(void) {
    CUdeviceptr pointer, pooled, opened_here = 0;
    void *pinned;
    int capable = 0;
    CUipcMemHandle handle;
    CHECK(cuMemAlloc(&pointer, 4096));
    CHECK(cuMemAllocAsync(&pooled, 4096, NULL));
    CHECK(cuMemAllocHost(&pinned, 4096));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuIpcGetMemHandle(NULL, pointer));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuIpcGetMemHandle(&handle, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuIpcGetMemHandle(&handle, pooled));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuIpcGetMemHandle(&handle, (CUdeviceptr)(uintptr_t)pinned));
    CHECK(cuPointerGetAttribute(&capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, pointer));
    CHECK_THAT(capable);
    handle = handle_of(pointer);
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuIpcOpenMemHandle(&opened_here, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuIpcOpenMemHandle_v2(&opened_here, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuIpcOpenMemHandle_v2(NULL, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, ask((Order){.what = OPEN, .handle = handle, .number = 2}).status);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuIpcCloseMemHandle(pointer));
    memset(&handle, 0, sizeof handle);
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, opening(handle));
    memset(&handle, 0xff, sizeof handle);
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, opening(handle));
    CHECK(cuMemFree(pointer));
    CHECK(cuMemFree(pooled));
    CHECK(cuMemFreeHost(pinned));
}

static CUresult event_opening(CUipcEventHandle handle) { return ask((Order){.what = EVENT_OPEN, .event = handle}).status; }

// Each half's streams wait for the other's.
static void events(void) {
    CUmodule module;
    CUstream stream;
    CUevent event, plain, own;
    CUipcEventHandle handle, again;
    CUdeviceptr pointer;
    Hold hold;
    CHECK(cuModuleLoadData(&module, kernels));
    make_hold(&hold, module);
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemAlloc(&pointer, 4096));
    CHECK(cuMemsetD32(pointer, 1, 1));
    CUdeviceptr there = opened(handle_of(pointer));
    CHECK(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
    CHECK(cuIpcGetEventHandle(&handle, event));
    CHECK(cuIpcGetEventHandle(&again, event));
    CHECK_THAT(memcmp(&handle, &again, sizeof handle) == 0);
    CHECK(event_opening(handle));
    // Never recorded, so nothing is ahead.
    CHECK(to(EVENT_QUERY, 0));

    take_hold(&hold, stream);
    CHECK(cuMemsetD32Async(pointer, 5, 1, stream));
    CHECK(cuEventRecord(event, stream));
    CHECK_ERROR(CUDA_ERROR_NOT_READY, cuEventQuery(event));
    CHECK_ERROR(CUDA_ERROR_NOT_READY, to(EVENT_QUERY, 0));
    CHECK_ERROR(CUDA_ERROR_NOT_READY, to(EVENT_WAIT, there));
    CHECK_THAT(holds(&hold));
    let_go(&hold);
    Order done = ask((Order){.what = EVENT_DONE});
    CHECK(done.status);
    CHECK_THAT(done.number == 5);
    CHECK(cuEventQuery(event));
    CHECK(to(EVENT_QUERY, 0));

    // The other way round.
    Order set = {.what = EVENT_SET, .pointers = {there}, .number = 9};
    CHECK(ask(set).status);
    unsigned word = 0;
    CHECK(cuStreamWaitEvent(stream, event, 0));
    CHECK(cuMemcpyDtoHAsync(&word, pointer, sizeof word, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK_THAT(word == 9);
    set.number = 10;
    CHECK(ask(set).status);
    CHECK(cuEventSynchronize(event));
    CHECK(cuMemcpyDtoH(&word, pointer, sizeof word));
    CHECK_THAT(word == 10);

    // Mistakes.
    CHECK(cuEventCreate(&plain, CU_EVENT_DISABLE_TIMING));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuEventCreate(&own, CU_EVENT_INTERPROCESS));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuIpcGetEventHandle(&again, plain));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuIpcGetEventHandle(NULL, event));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuIpcOpenEventHandle(NULL, handle));
    CHECK_ERROR(CUDA_ERROR_INVALID_CONTEXT, cuIpcOpenEventHandle(&own, handle));
    CUipcMemHandle memory = handle_of(pointer);
    memcpy(&again, &memory, sizeof again);
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, event_opening(again));
    memcpy(&memory, &handle, sizeof memory);
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, opening(memory));
    CHECK(to(EVENT_END, 0));
    CHECK(cuEventDestroy(event));
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, event_opening(handle));
    CHECK(closing(there));
    CHECK(cuEventDestroy(plain));
    CHECK(cuMemFree(pointer));
    CHECK(cuStreamDestroy(stream));
    end_hold(&hold);
}

// A handle of a process that has ended opens nothing.
static void the_other_ends(pid_t other) {
    Order order = ask((Order){.what = EXPORT});
    CHECK(order.status);
    CUdeviceptr pointer;
    CHECK(cuIpcOpenMemHandle_v2(&pointer, order.handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    CHECK(cuIpcCloseMemHandle(pointer));
    close(line);
    int status = -1;
    CHECK_THAT(waitpid(other, &status, 0) == other && status == 0);
    // What it had goes a little later than the process where something stands between it and the device.
    CUresult found = CUDA_SUCCESS;
    for (int tries = 0; tries < 60000 && found == CUDA_SUCCESS; ++tries) {
        found = cuIpcOpenMemHandle_v2(&pointer, order.handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
        if (found == CUDA_SUCCESS) {
            CHECK(cuIpcCloseMemHandle(pointer));
            usleep(1000);
        }
    }
    CHECK_ERROR(CUDA_ERROR_INVALID_HANDLE, found);
}

int main(int count, char **arguments) {
    if (count == 2) return serve(atoi(arguments[1]));
    int ends[2];
    CHECK_THAT(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    pid_t other = fork();
    if (other == 0) {
        char number[16];
        close(ends[0]);
        snprintf(number, sizeof number, "%d", ends[1]);
        execl("/proc/self/exe", "drv_ipc", number, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    line = ends[0];
    start();
    compute(7);
    compute(1000);
    compute(3 << 20);
    life();
    mistakes();
    events();
    the_other_ends(other);
    return result("drv_ipc");
}
