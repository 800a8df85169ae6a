//! Names and texts of errors. Answered without a session, in every state of the process.

use std::ffi::c_char;

use cuda_abi::errors::ErrorText;
use cuda_abi::types::CUresult;

use crate::call::Outcome;
use crate::edge;

/// # Safety
///
/// As the Driver API's: `pStr` is null or valid for a write.
pub unsafe fn cuGetErrorName(error: CUresult, pStr: *mut *const c_char) -> Outcome {
    edge::require(pStr)?;
    let found = ErrorText::of(error);
    // SAFETY: not null (checked); the caller vouches for the rest.
    unsafe {
        edge::put(
            pStr,
            found.map_or(std::ptr::null(), |entry| entry.name.as_ptr()),
        )
    }?;
    found.map(|_| ()).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
}

/// # Safety
///
/// As the Driver API's: `pStr` is null or valid for a write.
pub unsafe fn cuGetErrorString(error: CUresult, pStr: *mut *const c_char) -> Outcome {
    edge::require(pStr)?;
    let found = ErrorText::of(error);
    // SAFETY: not null (checked); the caller vouches for the rest.
    unsafe {
        edge::put(
            pStr,
            found.map_or(std::ptr::null(), |entry| entry.text.as_ptr()),
        )
    }?;
    found.map(|_| ()).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_code_is_an_invalid_value_and_clears_the_pointer() {
        let mut place = c"before".as_ptr();
        // SAFETY: a local.
        let named = unsafe { cuGetErrorName(CUresult(12345), &raw mut place) };
        assert_eq!(named, Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        assert!(place.is_null());
        // SAFETY: null is allowed.
        assert!(unsafe { cuGetErrorString(CUresult(0), std::ptr::null_mut()) }.is_err());
    }
}
