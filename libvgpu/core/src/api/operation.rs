//! `vgpuLogOperation`: what a program says it did, for the audit log. No driver has it; `vgpu-log` calls it.

use std::ffi::{CStr, c_char, c_uint};

use cuda_abi::function::Function;
use cuda_abi::types::CUresult;
use idm_protocol::wire;

use crate::call::{Call, Outcome};
use crate::edge;

/// As much of a name as is kept.
const MAX_NAME: usize = 128;

/// As many numbers of a shape as are kept.
const MAX_DIMENSIONS: c_uint = 8;

/// Has an operation of the program's logged.
///
/// # Safety
/// `name` is a string with its end; `shape` points to `dimensions` numbers.
pub unsafe fn log_operation(
    name: *const c_char,
    shape: *const u64,
    dimensions: c_uint,
    device_ns: u64,
) -> CUresult {
    edge::guard("vgpuLogOperation", || {
        edge::require(name)?;
        let dimensions = dimensions.min(MAX_DIMENSIONS);
        if dimensions > 0 {
            edge::require(shape)?;
        }
        // SAFETY: the caller's promise.
        let name = unsafe { CStr::from_ptr(name) }.to_bytes();
        let numbers: Vec<u8> = (0..dimensions as usize)
            // SAFETY: the caller's promise; below `dimensions`.
            .flat_map(|at| unsafe { shape.wrapping_add(at).read_unaligned() }.to_le_bytes())
            .collect();
        post(
            &name[..name.len().min(MAX_NAME)],
            &numbers,
            dimensions,
            device_ns,
        )
    })
}

fn post(name: &[u8], numbers: &[u8], dimensions: u32, device_ns: u64) -> Outcome {
    let mut call = Call::begin(Function::vgpuLogOperation)?;
    let request = wire::VgpuLogOperation {
        device_ns,
        // It was cut.
        name_bytes: u32::try_from(name.len()).unwrap_or(0),
        dimensions,
    };
    call.post_with(&request, &[numbers, name])
}
