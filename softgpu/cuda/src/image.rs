//! A code image from C, whose length nobody says: told by its kind, copied, unpacked to PTX.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};

use softgpu_core::error::Error;
use softgpu_core::fatbin::{self, FATBIN_HEADER, FatbinError, ImageKind};

/// The PTX in an image, for a device of compute capability `device`; on failure also why, for a person.
///
/// # Safety
/// `image` is null or points to a complete image: a fat binary, its wrapper, an ELF file, or NUL-terminated
/// text.
pub(crate) unsafe fn ptx(
    image: *const c_void,
    device: (u32, u32),
) -> Result<String, (Error, String)> {
    if image.is_null() {
        return Err((Error::InvalidValue, String::new()));
    }
    let start = image.cast::<u8>();
    // SAFETY: the shortest image, an empty text, is one byte long.
    let empty = unsafe { start.read() } == 0;
    if empty {
        return Err((Error::InvalidImage, "the image is empty".into()));
    }
    // SAFETY: a complete image of any kind but short text has four bytes; text is read to its end only.
    let first = unsafe { first_bytes(start) };
    match ImageKind::of(first) {
        ImageKind::Wrapper => {
            // SAFETY: a wrapper is 24 bytes, and at 8 holds the address of the fat binary.
            let field = unsafe { start.add(8) };
            // SAFETY: as above.
            let inner = unsafe { field.cast::<*const u8>().read_unaligned() };
            if inner.is_null() {
                return Err((Error::InvalidImage, "the wrapper has no fat binary".into()));
            }
            // SAFETY: a wrapper points to a complete fat binary.
            unsafe { from_fatbin(inner, device) }
        }
        // SAFETY: a complete fat binary by the caller's promise.
        ImageKind::Fatbin => unsafe { from_fatbin(start, device) },
        ImageKind::Elf => Err((
            Error::NoBinaryForGpu,
            "the image holds machine code only, which needs a real GPU; this device executes PTX"
                .into(),
        )),
        ImageKind::Text => {
            // SAFETY: neither of the binary kinds, so text that ends in a NUL.
            let text = unsafe { CStr::from_ptr(start.cast::<c_char>()) };
            let text = text.to_string_lossy().into_owned();
            if !text.contains(".version") {
                return Err((
                    Error::InvalidImage,
                    "the image is neither PTX nor a binary known".into(),
                ));
            }
            Ok(text)
        }
    }
}

/// Up to four bytes, not reading past a NUL.
///
/// # Safety
/// `start` points to a NUL-terminated text or to four bytes.
unsafe fn first_bytes(start: *const u8) -> [u8; 4] {
    let mut bytes = [0; 4];
    for (index, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: no NUL came before, and no binary kind has one in its first four bytes.
        let at = unsafe { start.add(index) };
        // SAFETY: as above.
        *byte = unsafe { at.read() };
        if *byte == 0 {
            break;
        }
    }
    bytes
}

/// # Safety
/// `start` points to a complete fat binary.
unsafe fn from_fatbin(start: *const u8, device: (u32, u32)) -> Result<String, (Error, String)> {
    let damaged = |error: FatbinError| (Error::InvalidImage, error.to_string());
    // SAFETY: a fat binary starts with its header.
    let header = unsafe { start.cast::<[u8; FATBIN_HEADER]>().read_unaligned() };
    let length = fatbin::fatbin_length(header).map_err(damaged)?;
    let length = usize::try_from(length).map_err(|_| (Error::InvalidImage, String::new()))?;
    // SAFETY: the header says how long the fat binary is; nobody writes to it during the call.
    let bytes = unsafe { std::slice::from_raw_parts(start, length) };
    fatbin::select_ptx(bytes, device).map_err(|error| match error {
        FatbinError::Damaged(_) => damaged(error),
        FatbinError::NothingSuitable { .. } => (Error::NoBinaryForGpu, error.to_string()),
    })
}
