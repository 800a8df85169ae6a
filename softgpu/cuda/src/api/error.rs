//! Names and texts of errors.

use std::ffi::{CStr, c_char};

use cuda_abi::errors::ErrorText;
use cuda_abi::types::CUresult;
use softgpu_core::error::Error;

use crate::edge::{Outcome, put};

pub unsafe fn cuGetErrorName(error: CUresult, name: *mut *const c_char) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { put_known(name, error, |found| found.name) }
}

pub unsafe fn cuGetErrorString(error: CUresult, text: *mut *const c_char) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { put_known(text, error, |found| found.text) }
}

/// # Safety
/// `out` is null or valid for a write.
unsafe fn put_known(
    out: *mut *const c_char,
    error: CUresult,
    what: impl Fn(&ErrorText) -> &'static CStr,
) -> Outcome {
    let found = ErrorText::of(error);
    // SAFETY: by this function's contract.
    unsafe {
        put(
            out,
            found.map_or(std::ptr::null(), |found| what(found).as_ptr()),
        )
    }?;
    found.map(|_| ()).ok_or(Error::InvalidValue)
}
