//! The C edge: what stands between a caller's pointers and the library, in both directions.
//!
//! Every exported function runs inside [`guard`], which turns its outcome into a `CUresult`, keeps a
//! panic from crossing into C and writes the call trace. The few reads and writes through a caller's
//! pointers that several chapters share are here too.

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cuda_abi::function::Group;
use cuda_abi::resolver::EXPORTS;
use cuda_abi::types::CUresult;

use crate::call::Outcome;
use crate::log::{self, Level, say};
use crate::state;

/// What the functions of a library return.
pub trait Code: Copy + std::fmt::Debug {
    /// All went well.
    const SUCCESS: Self;
    /// We have a bug.
    const UNKNOWN: Self;
}

impl Code for CUresult {
    const SUCCESS: Self = Self::CUDA_SUCCESS;
    const UNKNOWN: Self = Self::CUDA_ERROR_UNKNOWN;
}

/// Runs the half of the exported function `name` and answers its caller. Nothing unwinds past here.
#[inline]
pub fn guard<C: Code>(name: &'static str, body: impl FnOnce() -> Result<(), C>) -> C {
    if log::enabled(Level::Trace) {
        return traced(name, body);
    }
    run(name, body)
}

/// As [`guard`], for a function that the zone must be granted.
#[inline]
pub fn guard_granted(group: Group, name: &'static str, body: impl FnOnce() -> Outcome) -> CUresult {
    guard(name, || {
        state::granted(group, name)?;
        body()
    })
}

/// Answers an exported function that has no implementation yet; says so once for each name.
#[cold]
pub fn refuse(export: usize) -> CUresult {
    static SAID: [AtomicU64; EXPORTS.len().div_ceil(64)] =
        [const { AtomicU64::new(0) }; EXPORTS.len().div_ceil(64)];
    if let (Some(entry), Some(said)) = (EXPORTS.get(export), SAID.get(export / 64)) {
        let bit = 1 << (export % 64);
        if said.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            say!(
                Warn,
                "{} is not supported: CUDA_ERROR_NOT_SUPPORTED",
                entry.name
            );
        }
    }
    CUresult::CUDA_ERROR_NOT_SUPPORTED
}

/// Refuses a null pointer where the driver would.
#[inline]
pub fn require<T>(pointer: *const T) -> Outcome {
    if pointer.is_null() {
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    } else {
        Ok(())
    }
}

/// Refuses flags that the driver does not know.
#[inline]
pub fn known_flags(flags: u32, known: u32) -> Outcome {
    if flags & !known == 0 {
        Ok(())
    } else {
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    }
}

/// Writes a result where the caller wants it; a null pointer is refused.
///
/// # Safety
/// `place` is null or valid for a write.
#[inline]
pub unsafe fn put<T>(place: *mut T, value: T) -> Outcome {
    require(place)?;
    // SAFETY: not null, so writable by this function's contract. C callers align what they own, but
    // nothing here depends on it.
    unsafe { place.write_unaligned(value) };
    Ok(())
}

/// Writes a result if the caller wants it.
///
/// # Safety
/// `place` is null or valid for a write.
#[inline]
pub unsafe fn put_optional<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: as in `put`.
        unsafe { place.write_unaligned(value) };
    }
}

/// A copy of what the caller points to; a null pointer is refused.
///
/// # Safety
/// `place` is null or valid for a read.
#[inline]
pub unsafe fn take<T: Copy>(place: *const T) -> Outcome<T> {
    require(place)?;
    // SAFETY: not null, so readable by this function's contract.
    Ok(unsafe { place.read_unaligned() })
}

/// A copy of element `index` of a caller's array.
///
/// # Safety
/// `array` is valid for a read of `index + 1` elements.
#[inline]
pub unsafe fn element<T: Copy>(array: *const T, index: usize) -> T {
    // SAFETY: inside the array by this function's contract.
    let place = unsafe { array.add(index) };
    // SAFETY: as above.
    unsafe { place.read_unaligned() }
}

/// A caller's string; null is refused, and so is one longer than `most`.
///
/// # Safety
/// `text` is null or a NUL-terminated string that stays as it is for `'a`.
pub unsafe fn text<'a>(text: *const c_char, most: usize) -> Result<&'a CStr, CUresult> {
    require(text)?;
    // SAFETY: a NUL-terminated string by this function's contract.
    let text = unsafe { CStr::from_ptr(text) };
    if text.count_bytes() > most {
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    } else {
        Ok(text)
    }
}

#[inline]
fn run<C: Code>(name: &'static str, body: impl FnOnce() -> Result<(), C>) -> C {
    // What a panic may leave half done is behind locks that are never poisoned and whose users change
    // state in one last step.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => C::SUCCESS,
        Ok(Err(error)) => error,
        Err(_) => panicked(name),
    }
}

#[cold]
fn panicked<C: Code>(name: &str) -> C {
    say!(
        Error,
        "{name} failed inside libvgpu (a bug of ours; the lines above say where): {:?}",
        C::UNKNOWN
    );
    C::UNKNOWN
}

#[cold]
fn traced<C: Code>(name: &'static str, body: impl FnOnce() -> Result<(), C>) -> C {
    let start = Instant::now();
    let result = run(name, body);
    say!(Trace, "{name} -> {result:?} in {:.3?}", start.elapsed());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guard_turns_outcomes_and_panics_into_results() {
        let fine = || Ok::<(), CUresult>(());
        assert_eq!(guard("cuInit", fine), CUresult::CUDA_SUCCESS);
        assert_eq!(
            guard("cuInit", || Err(CUresult::CUDA_ERROR_INVALID_VALUE)),
            CUresult::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            guard::<CUresult>("cuInit", || panic!("on purpose")),
            CUresult::CUDA_ERROR_UNKNOWN
        );
    }

    #[test]
    fn refuse_answers_every_export_and_an_index_out_of_range() {
        assert_eq!(refuse(0), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        assert_eq!(refuse(usize::MAX), CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }

    #[test]
    fn null_pointers_and_long_strings_are_invalid_values() {
        assert_eq!(
            require(std::ptr::null::<u8>()),
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        );
        // SAFETY: null is allowed.
        let written = unsafe { put(std::ptr::null_mut(), 1) };
        assert_eq!(written, Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        // SAFETY: a literal.
        assert!(unsafe { text(c"name".as_ptr(), 3) }.is_err());
        // SAFETY: a literal.
        assert_eq!(unsafe { text(c"name".as_ptr(), 4) }, Ok(c"name"));
    }
}
