//! `libnvidia-ml.so.1` as an ordinary library: the zone, seen by those who only look.
//!
//! It attaches nothing: it asks the supervisor for a survey (`idm_protocol::attach::survey`) on a connection of
//! its own, gets the zone's devices, quota and clients, and keeps neither a connection nor memory. What changes
//! (memory, processes) is asked for anew at each call, so the answers are those of the moment and an idle
//! program costs nothing. Of the host, of other zones and of other tenants' processes the supervisor tells
//! nothing, so there is nothing here to hide.
//!
//! [`state`] is what the process knows of its zone, [`types`] the C types, [`api`] the functions by chapter. The
//! thin cdylib `vgpu-nvml` exports them, and every other name of the header with a refusal.

pub mod api;
pub mod state;
pub mod types;

use types::nvmlReturn_t;

use crate::edge::Code;
use crate::log::say;

/// What a function comes to.
pub type Outcome<T = ()> = Result<T, nvmlReturn_t>;

impl Code for nvmlReturn_t {
    const SUCCESS: Self = Self::NVML_SUCCESS;
    const UNKNOWN: Self = Self::NVML_ERROR_UNKNOWN;
}

/// Answers an exported function that a zone has no answer to. Programs ask much that no zone can answer, so
/// this is not worth a warning.
#[cold]
pub fn refuse(name: &str) -> nvmlReturn_t {
    let answer = match state::initialised() {
        Ok(_) => nvmlReturn_t::NVML_ERROR_NOT_SUPPORTED,
        Err(error) => error,
    };
    say!(Debug, "{name} -> {answer:?}");
    answer
}

/// Writes a result where the caller wants it; a null pointer is an invalid argument.
///
/// # Safety
/// `place` is null or valid for a write.
unsafe fn put<T>(place: *mut T, value: T) -> Outcome {
    if place.is_null() {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, so writable by this function's contract.
    unsafe { place.write_unaligned(value) };
    Ok(())
}

/// Writes a text with its terminator, if it fits into `room` bytes.
///
/// # Safety
/// `place` is null or valid for a write of `room` bytes.
unsafe fn put_text(place: *mut core::ffi::c_char, room: u32, text: &str) -> Outcome {
    if place.is_null() {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    if usize::try_from(room).unwrap_or(usize::MAX) <= text.len() {
        return Err(nvmlReturn_t::NVML_ERROR_INSUFFICIENT_SIZE);
    }
    let place = place.cast::<u8>();
    // SAFETY: shorter than the caller's room.
    unsafe { place.copy_from_nonoverlapping(text.as_ptr(), text.len()) };
    // SAFETY: the room is longer than the text.
    let end = unsafe { place.add(text.len()) };
    // SAFETY: as above.
    unsafe { end.write(0) };
    Ok(())
}

/// Puts an answer into a structure that carries its version, as the header computes it, in its first word; one
/// of another version is refused.
///
/// # Safety
/// `place` is null or points to a structure of the version that its first word names.
unsafe fn put_versioned<T>(place: *mut T, version: u32, make: impl FnOnce(u32) -> T) -> Outcome {
    let expected = u32::try_from(size_of::<T>()).unwrap_or(0) | (version << 24);
    // SAFETY: the caller's promise.
    if unsafe { claimed_version(place) }? != expected {
        return Err(nvmlReturn_t::NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    }
    // SAFETY: a structure of this version, by its first word.
    unsafe { put(place, make(expected)) }
}

/// The first word of a structure that carries its version.
///
/// # Safety
/// `place` is null or valid for a read of one word.
unsafe fn claimed_version<T>(place: *mut T) -> Outcome<u32> {
    if place.is_null() {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: not null, so readable by this function's contract.
    Ok(unsafe { place.cast::<u32>().read_unaligned() })
}

/// A caller's text; null and what is no UTF-8 are invalid arguments.
///
/// # Safety
/// `text` is null or a NUL-terminated string that stays as it is for `'a`.
unsafe fn text<'a>(text: *const core::ffi::c_char) -> Outcome<&'a str> {
    // Longer than any name of a device.
    const MOST: usize = 255;
    // SAFETY: the caller's promise.
    let text = unsafe { crate::edge::text(text, MOST) };
    text.ok()
        .and_then(|text| text.to_str().ok())
        .ok_or(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_does_not_fit_with_its_end_is_an_insufficient_size() {
        let mut room = [b'x'; 4];
        let place = room.as_mut_ptr().cast();
        // SAFETY: the array has four bytes.
        assert_eq!(unsafe { put_text(place, 4, "abc") }, Ok(()));
        assert_eq!(&room, b"abc\0");
        for room in [0, 3] {
            // SAFETY: as above.
            let refused = unsafe { put_text(place, room, "abc") };
            assert_eq!(refused, Err(nvmlReturn_t::NVML_ERROR_INSUFFICIENT_SIZE));
        }
        // SAFETY: null is allowed.
        let refused = unsafe { put_text(std::ptr::null_mut(), 9, "abc") };
        assert_eq!(refused, Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT));
    }

    #[test]
    fn a_structure_of_another_version_is_refused_and_left_alone() {
        let mut place = [7u32, 9];
        let make = |version| [version, 1];
        // SAFETY: a local.
        let refused = unsafe { put_versioned(&raw mut place, 2, make) };
        assert_eq!(
            refused,
            Err(nvmlReturn_t::NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
        );
        assert_eq!(place, [7, 9]);
        place[0] = 8 | (2 << 24);
        // SAFETY: a local.
        assert_eq!(unsafe { put_versioned(&raw mut place, 2, make) }, Ok(()));
        assert_eq!(place, [8 | (2 << 24), 1]);
    }
}
