/* Parameter layouts, and the private tables that NVIDIA's runtime asks the driver for. */
#define _GNU_SOURCE
#include "probe.h"

#include <stdio.h>
#include <string.h>

/* --- Parameter layouts */

void check_parameters(void) {
    /* What we compute for the kernel `mixed`: each parameter at the next multiple of its alignment. */
    static const struct {
        size_t offset, size;
    } ours[] = {{0, 1}, {2, 2}, {4, 1}, {8, 4}, {16, 8}, {24, 12}, {36, 1}, {48, 32}, {80, 8}, {88, 3}, {92, 2}};
    static const size_t count = sizeof ours / sizeof ours[0];
    start();
    CUfunction mixed = find_kernel("mixed");
    const char *statement = "the driver lays parameters out as we do";
    if (!cuFuncGetParamInfo) {
        give_up("D4", statement, "the driver has no cuFuncGetParamInfo");
    }
    size_t offset = 0, size = 0, wrong = 0;
    char seen[256] = "";
    for (size_t i = 0; i < count; i++) {
        CUresult result = cuFuncGetParamInfo(mixed, i, &offset, &size);
        snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "%zu+%zu ", offset, size);
        wrong += result || offset != ours[i].offset || size != ours[i].size;
    }
    CUresult end = cuFuncGetParamInfo(mixed, count, &offset, &size);
    assume(!wrong && end == INVALID_VALUE ? HOLDS : FAILS, "D4", statement,
           "offset+size: %s; %zu of %zu differ; after the last: %d", seen, wrong, count, end);
    CUlibrary library;
    CUkernel kernel;
    CUresult result = cuLibraryLoadData && cuKernelGetParamInfo ? OK : NOT_SUPPORTED;
    if (!result) {
        result = cuLibraryLoadData(&library, kernels, NULL, NULL, 0, NULL, NULL, 0);
    }
    if (!result) {
        result = cuLibraryGetKernel(&kernel, library, "mixed");
    }
    wrong = 0;
    for (size_t i = 0; !result && i < count; i++) {
        wrong += cuKernelGetParamInfo(kernel, i, &offset, &size) || offset != ours[i].offset || size != ours[i].size;
    }
    assume(result == NOT_SUPPORTED ? UNTESTABLE : !result && !wrong ? HOLDS : FAILS, "D4",
           "and says the same of the kernel of a library", "result %d, %zu differ", result, wrong);
}

/* --- Private tables */

#define CUDART_INTERFACE {{0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d, 0xf9}}
#define RUNTIME_HOOKS {{0xa0, 0x94, 0x79, 0x8c, 0x2e, 0x74, 0x2e, 0x74, 0x93, 0xf2, 0x08, 0x00, 0x20, 0x0c, 0x0a, 0x66}}
#define TOOLS_TLS {{0x42, 0xd8, 0x5a, 0x81, 0x23, 0xf6, 0xcb, 0x47, 0x82, 0x98, 0xf6, 0xe7, 0x8a, 0x3a, 0xec, 0xdc}}
#define LOCAL_STORAGE {{0xc6, 0x93, 0x33, 0x6e, 0x11, 0x21, 0xdf, 0x11, 0xa8, 0xc3, 0x68, 0xf3, 0x55, 0xd8, 0x95, 0x93}}
#define CONTEXT_CHECKS {{0x26, 0x3e, 0x88, 0x60, 0x7c, 0xd2, 0x61, 0x43, 0x92, 0xf6, 0xbb, 0xd5, 0x00, 0x6d, 0xfa, 0x7e}}
#define INTEGRITY {{0xd4, 0x08, 0x20, 0x55, 0xbd, 0xe6, 0x70, 0x4b, 0x8d, 0x34, 0xba, 0x12, 0x3c, 0x66, 0xe1, 0xf2}}
#define CONTEXT_IDENTITY {{0x21, 0x31, 0x8c, 0x60, 0x97, 0x14, 0x32, 0x48, 0x8c, 0xa6, 0x41, 0xff, 0x73, 0x24, 0xc8, 0xf2}}
#define MODULE_ITERATOR {{0x6e, 0x16, 0x3f, 0xbe, 0xb9, 0x58, 0x44, 0x4d, 0x83, 0x5c, 0xe1, 0x82, 0xaf, 0xf1, 0x99, 0x1e}}
#define RUNTIME_13 {{0xf8, 0xcf, 0xf9, 0x51, 0x21, 0x46, 0x8b, 0x4e, 0xb9, 0xe2, 0xfb, 0x46, 0x9e, 0x7c, 0x0d, 0xd9}}

static const char *const statement = "the driver's private tables are as our own answer them";

static void *const *table(const CUuuid id) {
    const void *found = NULL;
    if (!cuGetExportTable || cuGetExportTable(&found, &id)) {
        return NULL;
    }
    return found;
}

/* Word 0 of a table, where it is a size; a pointer is none. */
static void tell_size(const char *name, const CUuuid id, size_t known) {
    void *const *words = table(id);
    if (!words) {
        fact(name, "refused");
        return;
    }
    uintptr_t size = (uintptr_t)words[0];
    if (size > 4096) {
        fact(name, "served, no size word");
    } else {
        fact(name, "served, %zu words (ours %zu)", (size_t)size / 8, known);
    }
}

void check_tables(void) {
    if (!cuGetExportTable) {
        give_up("D15", statement, "the library exports no cuGetExportTable");
    }
    typedef CUresult (*tls_current)(CUcontext *);
    void *const *tls = table((CUuuid)TOOLS_TLS);
    CUcontext current = (CUcontext)1;
    if (tls) {
        CUresult early = ((tls_current)tls[2])(&current);
        assume(early == NOT_INITIALIZED ? HOLDS : FAILS, "D15", "TOOLS_TLS[2] before cuInit is NOT_INITIALIZED",
               "result %d", early);
    }
    CUresult result = cuInit(0);
    if (result) {
        give_up("D15", statement, "cuInit gives %d", result);
    }
    if (tls) {
        CUresult none = ((tls_current)tls[2])(&current);
        assume(!none && !current ? HOLDS : FAILS, "D15", "TOOLS_TLS[2] without a context gives success and NULL",
               "result %d, %s", none, current ? "a context" : "NULL");
    }
    tell_size("CUDART_INTERFACE 6bd5fb6c", (CUuuid)CUDART_INTERFACE, 13);
    tell_size("TOOLS_RUNTIME_CALLBACK_HOOKS a094798c", (CUuuid)RUNTIME_HOOKS, 7);
    tell_size("TOOLS_TLS 42d85a81", (CUuuid)TOOLS_TLS, 3);
    tell_size("CONTEXT_LOCAL_STORAGE c693336e", (CUuuid)LOCAL_STORAGE, 0);
    tell_size("CONTEXT_CHECKS 263e8860", (CUuuid)CONTEXT_CHECKS, 4);
    tell_size("INTEGRITY_CHECK d4082055", (CUuuid)INTEGRITY, 3);
    tell_size("context identity 21318c60", (CUuuid)CONTEXT_IDENTITY, 93);
    tell_size("module iterator 6e163fbe", (CUuuid)MODULE_ITERATOR, 0);
    tell_size("f8cff951 (cudart 13)", (CUuuid)RUNTIME_13, 0);

    typedef CUresult (*primary_of)(CUcontext *, CUdevice);
    void *const *cudart = table((CUuuid)CUDART_INTERFACE);
    CUcontext early = NULL, retained = NULL;
    if (cudart) {
        unsigned flags;
        int active = -1;
        result = ((primary_of)cudart[2])(&early, 0);
        CUresult state = cuDevicePrimaryCtxGetState(0, &flags, &active);
        CUresult set = cuCtxSetCurrent(early);
        cuDevicePrimaryCtxRetain(&retained, 0);
        assume(!result && !state && active == 0 && early && early == retained ? HOLDS : FAILS, "D15",
               "CUDART_INTERFACE[2] names the primary context without retaining it",
               "result %d, active %d, %s as retained later", result, active, early == retained ? "same" : "not the same");
        assume(set ? FAILS : HOLDS, "D15", "a primary context that nobody has retained can be made current",
               "cuCtxSetCurrent gives %d", set);
    }
    CUcontext context = start();
    if (tls) {
        result = ((tls_current)tls[2])(&current);
        assume(!result && current == context ? HOLDS : FAILS, "D15", "TOOLS_TLS[2] is the current context", "result %d",
               result);
    }
    typedef CUresult (*scratch)(void **, size_t *);
    void *const *hooks = table((CUuuid)RUNTIME_HOOKS);
    if (hooks) {
        size_t sizes[2] = {0, 0};
        void *buffers[2] = {NULL, NULL};
        CUresult a = ((scratch)hooks[2])(&buffers[0], &sizes[0]), b = ((scratch)hooks[6])(&buffers[1], &sizes[1]);
        assume(buffers[0] && buffers[1] && sizes[0] == 1024 && sizes[1] == 14 ? HOLDS : FAILS, "D15",
               "HOOKS[2] and [6] give scratch of 1024 and 14 bytes", "results %d %d, sizes %zu %zu", a, b, sizes[0],
               sizes[1]);
    }
    typedef CUresult (*get)(void **, CUcontext, void *);
    void *const *storage = table((CUuuid)LOCAL_STORAGE);
    if (storage) {
        static int key;
        void *value = NULL;
        result = ((get)storage[2])(&value, context, &key);
        assume(result == INVALID_HANDLE ? HOLDS : FAILS, "D15", "a key that was not put is INVALID_HANDLE",
               "result %d", result);
    }
    typedef CUresult (*context_check)(CUcontext, uint32_t *, const void **);
    void *const *checks = table((CUuuid)CONTEXT_CHECKS);
    if (checks) {
        uint32_t code = ~0u;
        const void *where = NULL;
        result = ((context_check)checks[2])(context, &code, &where);
        assume(!result && !code ? HOLDS : FAILS, "D15", "CONTEXT_CHECKS[2] finds nothing wrong with a context",
               "result %d, code %u", result, code);
    }
}

static void *const *identity_table(size_t slot) {
    void *const *words = table((CUuuid)CONTEXT_IDENTITY);
    if (!words) {
        give_up("D15", statement, "the driver refuses 21318c60");
    }
    if ((uintptr_t)words[0] / 8 <= slot || !words[slot]) {
        give_up("D15", statement, "21318c60 has no slot %zu", slot);
    }
    return words;
}

void check_table_identity(void) {
    CUcontext context = start();
    typedef CUresult (*identity)(CUcontext, uint64_t *);
    uint64_t seen[8] = {0};
    unsigned long long id = 0;
    CUresult result = ((identity)identity_table(4)[4])(context, seen);
    CUresult public = cuCtxGetId ? cuCtxGetId(context, &id) : NOT_SUPPORTED;
    assume(!result && !public && seen[0] == id ? HOLDS : FAILS, "D15", "21318c60[4] is cuCtxGetId",
           "results %d and %d, %llu and %llu", result, public, (unsigned long long)seen[0], id);
}

/* Slots whose meaning we do not know: three arguments, an answer through the second. */
static void tell_slot(size_t slot) {
    CUcontext context = start();
    typedef CUresult (*unknown)(CUcontext, uint64_t *, uint64_t);
    static uint64_t seen[512];
    memset(seen, 0xee, sizeof seen);
    CUresult result = ((unknown)identity_table(slot)[slot])(context, seen, 0);
    size_t written = 0;
    while (written < sizeof seen && ((unsigned char *)seen)[written] != 0xee) {
        written++;
    }
    fact(slot == 39 ? "21318c60[39](context, out, 0)" : "21318c60[51](context, out, 0)",
         "result %d, %zu bytes written, first word %#llx", result, written,
         written >= 8 ? (unsigned long long)seen[0] : (unsigned long long)(uint32_t)seen[0]);
}

void check_table_slot_39(void) {
    tell_slot(39);
}

void check_table_slot_51(void) {
    tell_slot(51);
}
