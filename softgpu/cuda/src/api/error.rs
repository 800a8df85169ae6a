//! Names and texts of errors.

use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::sync::{Mutex, PoisonError};

use cuda_abi::types::CUresult;
use softgpu_core::error::Error;

use crate::edge::{Outcome, put};

pub unsafe fn cuGetErrorName(error: CUresult, name: *mut *const c_char) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { put_known(name, error, |name| name.to_owned()) }
}

pub unsafe fn cuGetErrorString(error: CUresult, text: *mut *const c_char) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { put_known(text, error, describe) }
}

/// A sentence for an error: its name in words.
fn describe(name: &str) -> String {
    match name {
        "CUDA_SUCCESS" => "no error".into(),
        _ => name
            .trim_start_matches("CUDA_ERROR_")
            .to_ascii_lowercase()
            .replace('_', " "),
    }
}

/// # Safety
/// `out` is null or valid for a write.
unsafe fn put_known(
    out: *mut *const c_char,
    error: CUresult,
    text: impl Fn(&str) -> String,
) -> Outcome {
    let Some(name) = error.name() else {
        // SAFETY: the caller's promise.
        unsafe { put(out, std::ptr::null()) }?;
        return Err(Error::InvalidValue);
    };
    let text = CString::new(text(name)).map_err(|_| Error::Unknown)?;
    // SAFETY: the caller's promise.
    unsafe { put(out, keep(text)) }
}

/// The address of an equal text that lives as long as the process.
fn keep(text: CString) -> *const c_char {
    static KEPT: Mutex<Option<HashMap<CString, &'static CString>>> = Mutex::new(None);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept.get_or_insert_with(HashMap::new);
    // There are as many texts as errors, so what is leaked is bounded.
    kept.entry(text)
        .or_insert_with_key(|text| Box::leak(Box::new(text.clone())))
        .as_ptr()
}
