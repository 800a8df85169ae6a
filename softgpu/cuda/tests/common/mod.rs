//! What the tests share: contexts of their own, and kernels in PTX.
#![allow(
    dead_code,
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    reason = "nearly every line is a call of the C interface under test"
)]

use std::ffi::{CString, c_void};
use std::ptr::null_mut;

use cuda_abi::types::*;
use softcuda::generated::exports::*;

/// `add(a, b, c, n)`, `spin(flag)`, `store(pointer, value)`, `wild(address)`, `stop()`, two globals.
pub const PTX: &str = r"
.version 7.0
.target sm_52
.address_size 64

.visible .global .align 4 .u32 counter = 41;
.visible .const .align 4 .f32 factors[4] = {0f3F800000, 0f40000000, 0f40400000, 0f40800000};

.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
    .reg .pred %p;
    .reg .b32 %i, %g, %d, %t, %n;
    .reg .f32 %x, %y;
    .reg .b64 %pa, %pb, %pc, %off;
    ld.param.u64 %pa, [a];
    ld.param.u64 %pb, [b];
    ld.param.u64 %pc, [c];
    ld.param.u32 %n, [n];
    mov.u32 %g, %ctaid.x;
    mov.u32 %d, %ntid.x;
    mov.u32 %t, %tid.x;
    mad.lo.u32 %i, %g, %d, %t;
    setp.ge.u32 %p, %i, %n;
    @%p bra DONE;
    mul.wide.u32 %off, %i, 4;
    add.u64 %pa, %pa, %off;
    add.u64 %pb, %pb, %off;
    add.u64 %pc, %pc, %off;
    ld.global.f32 %x, [%pa];
    ld.global.f32 %y, [%pb];
    add.f32 %x, %x, %y;
    st.global.f32 [%pc], %x;
DONE:
    ret;
}

.visible .entry spin(.param .u64 flag)
{
    .reg .pred %p;
    .reg .b32 %v;
    .reg .b64 %a;
    ld.param.u64 %a, [flag];
WAIT:
    ld.volatile.global.u32 %v, [%a];
    setp.eq.u32 %p, %v, 0;
    @%p bra WAIT;
    ret;
}

.visible .entry store(.param .u64 to, .param .u32 value)
{
    .reg .b32 %v;
    .reg .b64 %a;
    ld.param.u64 %a, [to];
    ld.param.u32 %v, [value];
    st.global.u32 [%a], %v;
    ret;
}

.visible .entry bump()
{
    .reg .b32 %v;
    ld.global.u32 %v, [counter];
    add.u32 %v, %v, 1;
    st.global.u32 [counter], %v;
    ret;
}

.visible .entry stop()
{
    trap;
}
";

/// Panics with the error's name unless a call succeeded.
#[track_caller]
pub fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

/// A context of the test's own, current on its thread until dropped.
pub struct Own {
    pub context: CUcontext,
}

impl Own {
    pub fn new() -> Self {
        let mut context = null_mut();
        // SAFETY: no pointers.
        ok(unsafe { cuInit(0) });
        // SAFETY: a local for the result.
        ok(unsafe { cuCtxCreate_v2(&raw mut context, 0, 0) });
        Self { context }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: a handle; checked by the call.
        unsafe { cuCtxDestroy_v2(self.context) };
    }
}

/// Loads the kernels above.
pub fn module() -> CUmodule {
    let text = CString::new(PTX).unwrap();
    let mut module = null_mut();
    // SAFETY: a local for the result, and NUL-terminated text.
    ok(unsafe { cuModuleLoadData(&raw mut module, text.as_ptr().cast()) });
    module
}

pub fn function(module: CUmodule, name: &str) -> CUfunction {
    let name = CString::new(name).unwrap();
    let mut function = null_mut();
    // SAFETY: a local for the result, and a C string.
    ok(unsafe { cuModuleGetFunction(&raw mut function, module, name.as_ptr()) });
    function
}

pub fn allocate(size: usize) -> CUdeviceptr {
    let mut pointer = 0;
    // SAFETY: a local for the result.
    ok(unsafe { cuMemAlloc_v2(&raw mut pointer, size) });
    pointer
}

/// One pinned word that kernels and this process share.
pub fn pinned_word() -> &'static std::sync::atomic::AtomicU32 {
    let mut word: *mut c_void = null_mut();
    // SAFETY: a local for the result.
    ok(unsafe { cuMemHostAlloc(&raw mut word, 4, 0) });
    // SAFETY: pinned memory, aligned and zeroed; it lives until its context goes, which the tests outlast
    // only with references they no longer use.
    unsafe { &*word.cast::<std::sync::atomic::AtomicU32>() }
}

pub fn address(word: &std::sync::atomic::AtomicU32) -> CUdeviceptr {
    word.as_ptr() as CUdeviceptr
}

/// A 64-bit parameter, then a 32-bit one.
pub fn launch_store(
    function: CUfunction,
    stream: CUstream,
    to: CUdeviceptr,
    value: u32,
) -> CUresult {
    let (mut to, mut value) = (to, value);
    let mut params = [(&raw mut to).cast::<c_void>(), (&raw mut value).cast()];
    // SAFETY: a pointer for each parameter.
    unsafe {
        cuLaunchKernel(
            function,
            1,
            1,
            1,
            1,
            1,
            1,
            0,
            stream,
            params.as_mut_ptr(),
            null_mut(),
        )
    }
}

pub fn launch_spin(function: CUfunction, stream: CUstream, flag: CUdeviceptr) -> CUresult {
    let mut flag = flag;
    let mut params = [(&raw mut flag).cast::<c_void>()];
    // SAFETY: a pointer for each parameter.
    unsafe {
        cuLaunchKernel(
            function,
            1,
            1,
            1,
            32,
            1,
            1,
            0,
            stream,
            params.as_mut_ptr(),
            null_mut(),
        )
    }
}

pub fn stream(flags: u32) -> CUstream {
    let mut stream = null_mut();
    // SAFETY: a local for the result.
    ok(unsafe { cuStreamCreate(&raw mut stream, flags) });
    stream
}

pub fn event() -> CUevent {
    let mut event = null_mut();
    // SAFETY: a local for the result.
    ok(unsafe { cuEventCreate(&raw mut event, 0) });
    event
}

/// A word of device memory.
pub fn read_word(from: CUdeviceptr) -> u32 {
    let mut value = 0_u32;
    // SAFETY: a local of four bytes.
    ok(unsafe { cuMemcpyDtoH_v2((&raw mut value).cast(), from, 4) });
    value
}
