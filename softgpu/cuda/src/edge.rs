//! Where C calls in and out: results, panics, pointers.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use cuda_abi::types::CUresult;
use softgpu_core::error::Error;

/// What a function of the driver returns before it is turned into a `CUresult`.
pub type Outcome = Result<(), Error>;

/// Runs a function of the driver; a panic in it becomes `CUDA_ERROR_UNKNOWN`.
pub(crate) fn guard(_name: &str, body: impl FnOnce() -> Outcome) -> CUresult {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => CUresult::CUDA_SUCCESS,
        Ok(Err(error)) => CUresult(error.code()),
        Err(_) => CUresult::CUDA_ERROR_UNKNOWN,
    }
}

/// The answer of every exported function that is not implemented.
pub(crate) const fn refuse(_export: usize) -> CUresult {
    CUresult::CUDA_ERROR_NOT_SUPPORTED
}

/// Refuses a null pointer before anything else is looked at.
pub(crate) fn require<T>(out: *const T) -> Outcome {
    if out.is_null() {
        Err(Error::InvalidValue)
    } else {
        Ok(())
    }
}

/// Writes a result through an output pointer.
///
/// # Safety
/// `out` is null or valid for a write.
pub(crate) unsafe fn put<T>(out: *mut T, value: T) -> Outcome {
    require(out)?;
    // SAFETY: not null, and the caller's promise; C does not always align as Rust would.
    unsafe { out.write_unaligned(value) };
    Ok(())
}

/// Writes a result that the caller may not want.
///
/// # Safety
/// `out` is null or valid for a write.
pub(crate) unsafe fn put_if_wanted<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: as in `put`.
        unsafe { out.write_unaligned(value) };
    }
}

/// Reads what an input pointer points to.
///
/// # Safety
/// `from` is null or valid for a read of a `T`, any bytes of which are a value.
pub(crate) unsafe fn take<T: Copy>(from: *const T) -> Result<T, Error> {
    if from.is_null() {
        return Err(Error::InvalidValue);
    }
    // SAFETY: not null, and the caller's promise.
    Ok(unsafe { from.read_unaligned() })
}

/// Element `index` of an array of pointers or values.
///
/// # Safety
/// `array` is null or has more than `index` elements.
pub(crate) unsafe fn element<T: Copy>(array: *const T, index: usize) -> Result<T, Error> {
    if array.is_null() {
        return Err(Error::InvalidValue);
    }
    // SAFETY: inside the array by the caller's promise.
    let at = unsafe { array.add(index) };
    // SAFETY: as above.
    unsafe { take(at) }
}

/// A name from C. One that is not UTF-8 names nothing we have.
///
/// # Safety
/// `name` is null or a NUL-terminated string.
pub(crate) unsafe fn name<'a>(name: *const c_char) -> Result<&'a str, Error> {
    if name.is_null() {
        return Err(Error::InvalidValue);
    }
    // SAFETY: not null, and the caller's promise.
    let text = unsafe { CStr::from_ptr(name) };
    text.to_str().map_err(|_| Error::NotFound)
}

/// Copies a text and its NUL to a buffer of C's, cut to what fits.
///
/// # Safety
/// `buffer` is null or valid for `length` bytes.
pub(crate) unsafe fn put_text(buffer: *mut c_char, length: c_int, text: &str) -> Outcome {
    let room = usize::try_from(length).map_err(|_| Error::InvalidValue)?;
    if buffer.is_null() || room == 0 {
        return Err(Error::InvalidValue);
    }
    let fitting = text.len().min(room - 1);
    // SAFETY: `fitting < room`, which the caller promised; the text is not in the caller's buffer.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast::<u8>(), fitting) };
    // SAFETY: as above.
    let end = unsafe { buffer.add(fitting) };
    // SAFETY: as above.
    unsafe { end.write(0) };
    Ok(())
}

unsafe extern "C" {
    // The C library's own `stdout`, so that what kernels print keeps its place in what the program prints.
    static mut stdout: *mut libc::FILE;
}

/// Writes what kernels printed to the program's standard output.
pub(crate) fn print(text: &[u8]) {
    if text.is_empty() {
        return;
    }
    // SAFETY: the C library sets it before any code of ours runs.
    let stream = unsafe { stdout };
    // SAFETY: a stream of the C library's and a slice of ours.
    unsafe { libc::fwrite(text.as_ptr().cast(), 1, text.len(), stream) };
}

/// Calls `child` in every child process right after a fork.
pub(crate) fn after_fork_in_child(child: unsafe extern "C" fn()) {
    // SAFETY: the handler is a plain function that is safe to run in a forked child; the library is never
    // unloaded.
    unsafe { libc::pthread_atfork(None, None, Some(child)) };
}
