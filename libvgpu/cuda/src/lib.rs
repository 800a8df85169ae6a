//! `libcuda.so.1`: the exported names, and nothing else. What they do is `vgpu-core`'s.

#![allow(
    non_snake_case,
    non_upper_case_globals,
    reason = "symbols have the names they have"
)]

mod generated;

use std::ffi::{c_char, c_uint};

use cuda_abi::types::CUresult;

/// Says that this library is ours: a worker that was pointed at it by mistake refuses to load it.
#[unsafe(no_mangle)]
pub static vgpu_libvgpu_marker: u32 = 1;

/// What `vgpu-log` calls: a program's own operation, for the audit log. A driver has no such function.
///
/// # Safety
/// `name` is a string with its end; `shape` points to `dimensions` numbers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vgpuLogOperation(
    name: *const c_char,
    shape: *const u64,
    dimensions: c_uint,
    device_ns: u64,
) -> CUresult {
    // SAFETY: the caller's promise.
    unsafe { vgpu_core::api::operation::log_operation(name, shape, dimensions, device_ns) }
}

extern "C" fn loaded() {
    vgpu_core::api::resolver::install(&generated::exports::ADDRESSES);
}

extern "C" fn unloading() {
    vgpu_core::state::exit();
}

// By section and not by `atexit`: the linker's own order puts these before and after every function that a
// program or a library above us registers, so that their last calls are still answered.

// SAFETY: the dynamic linker calls what stands in this section once, on one thread, before anything else of
// this library runs; `loaded` needs nothing that could be missing then.
#[unsafe(link_section = ".init_array")]
#[used]
static LOADED: extern "C" fn() = loaded;

// SAFETY: likewise once, when the process ends; `unloading` stores one word.
#[unsafe(link_section = ".fini_array")]
#[used]
static UNLOADING: extern "C" fn() = unloading;
