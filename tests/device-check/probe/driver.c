#include "driver.h"

#include <dlfcn.h>
#include <stdlib.h>

#define DEFINE(name, parameters) CUresult(*name) parameters;
DRIVER_ENTRIES(DEFINE)
#undef DEFINE

const char *load_driver(void) {
    const char *path = getenv("PROBE_LIBRARY");
    void *library = dlopen(path && *path ? path : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        return dlerror();
    }
#define FIND(name, parameters) *(void **)&name = dlsym(library, #name);
    DRIVER_ENTRIES(FIND)
#undef FIND
    return NULL;
}

/* Written by hand for this probe. */
const char kernels[] =
    ".version 7.0\n"
    ".target sm_70\n"
    ".address_size 64\n"

    ".visible .entry empty()\n"
    "{\n"
    "    ret;\n"
    "}\n"

    ".visible .entry ten(\n"
    "    .param .u64 p0, .param .u64 p1, .param .u64 p2, .param .u64 p3, .param .u64 p4,\n"
    "    .param .u64 p5, .param .u64 p6, .param .u64 p7, .param .u64 p8, .param .u64 p9)\n"
    "{\n"
    "    ret;\n"
    "}\n"

    /* Answers i with i for i = 1..rounds; each wait ends after `limit` turns at most. */
    ".visible .entry pingpong(\n"
    "    .param .u64 ping, .param .u64 pong, .param .u32 rounds, .param .u64 limit)\n"
    "{\n"
    "    .reg .pred %p<4>;\n"
    "    .reg .b32 %r<4>;\n"
    "    .reg .b64 %d<6>;\n"
    "    ld.param.u64 %d1, [ping];\n"
    "    ld.param.u64 %d2, [pong];\n"
    "    ld.param.u32 %r1, [rounds];\n"
    "    cvta.to.global.u64 %d1, %d1;\n"
    "    cvta.to.global.u64 %d2, %d2;\n"
    "    mov.u32 %r2, 1;\n"
    "ROUND:\n"
    "    setp.gt.u32 %p1, %r2, %r1;\n"
    "    @%p1 bra DONE;\n"
    "    ld.param.u64 %d3, [limit];\n"
    "TURN:\n"
    "    ld.relaxed.sys.global.u32 %r3, [%d1];\n"
    "    setp.ge.u32 %p2, %r3, %r2;\n"
    "    @%p2 bra ANSWER;\n"
    "    sub.u64 %d3, %d3, 1;\n"
    "    setp.ne.u64 %p3, %d3, 0;\n"
    "    @%p3 bra TURN;\n"
    "    bra DONE;\n"
    "ANSWER:\n"
    "    st.relaxed.sys.global.u32 [%d2], %r2;\n"
    "    add.u32 %r2, %r2, 1;\n"
    "    bra ROUND;\n"
    "DONE:\n"
    "    ret;\n"
    "}\n"

    ".visible .entry poke(.param .u64 address)\n"
    "{\n"
    "    .reg .b64 %d<2>;\n"
    "    ld.param.u64 %d1, [address];\n"
    "    cvta.to.global.u64 %d1, %d1;\n"
    "    st.global.u32 [%d1], 1;\n"
    "    ret;\n"
    "}\n"

    ".visible .entry mixed(\n"
    "    .param .u8 a, .param .u16 b, .param .u8 c, .param .u32 d, .param .u64 e,\n"
    "    .param .align 4 .b8 f[12], .param .u8 g, .param .align 16 .b8 h[32], .param .f64 i,\n"
    "    .param .align 1 .b8 j[3], .param .u16 k)\n"
    "{\n"
    "    ret;\n"
    "}\n";
