// Work that only ends when the host says so. While it holds a stream, what waits for that stream and what
// does not can be told apart for certain.
#pragma once

#include "program.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

typedef struct {
    CUfunction converse;
    _Atomic unsigned *mailbox;
    CUdeviceptr device;
    CUstream stream;
    pthread_t releaser;
} Hold;

static inline void make_hold(Hold *hold, CUmodule module) {
    hold->converse = function_of(module, "converse");
    CHECK(cuMemHostAlloc((void **)&hold->mailbox, 4096, CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_PORTABLE));
    CHECK(cuMemHostGetDevicePointer(&hold->device, (void *)hold->mailbox, 0));
    // A kernel that is loaded by its first launch may wait for the kernels that run by then.
    hold->mailbox[1] = 1;
    void *parameters[] = {&hold->device};
    CHECK(cuLaunchKernel(hold->converse, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    CHECK(cuStreamSynchronize(NULL));
}

// Returns once the stream is held.
static inline void take_hold(Hold *hold, CUstream stream) {
    hold->stream = stream;
    for (int i = 0; i < 3; ++i) hold->mailbox[i] = 0;
    void *parameters[] = {&hold->device};
    CHECK(cuLaunchKernel(hold->converse, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
    for (int tries = 0; tries < 60000 && hold->mailbox[0] == 0; ++tries) usleep(1000);
    CHECK_THAT(hold->mailbox[0] == 1);
}

// Whether the work has neither ended nor been told to.
static inline bool holds(const Hold *hold) { return cuStreamQuery(hold->stream) == CUDA_ERROR_NOT_READY; }

static inline void let_go(Hold *hold) { hold->mailbox[1] = 21; }

// Whether the work has ended as it should.
static inline bool has_ended(const Hold *hold) { return hold->mailbox[2] == 42; }

static inline void *let_go_soon(void *hold) {
    usleep(30000);
    let_go(hold);
    return NULL;
}

// Lets go from another thread while this one is in a call that waits; follow it with `joined`.
static inline void let_go_later(Hold *hold) { CHECK_THAT(pthread_create(&hold->releaser, NULL, let_go_soon, hold) == 0); }

static inline void joined(Hold *hold) { CHECK_THAT(pthread_join(hold->releaser, NULL) == 0); }

static inline void end_hold(Hold *hold) { CHECK(cuMemFreeHost((void *)hold->mailbox)); }
