//! A code image from C, whose length nobody says: told by its kind, copied, unpacked to PTX.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};

use cuda_abi::fatbin::{FATBIN_HEADER, fatbin_length};
use softgpu_core::error::Error;
use softgpu_core::fatbin::{self, FatbinError, ImageKind};
use softgpu_core::linker::{self, IMAGE_HEAD};
use softgpu_core::module::Unit;

/// Why an image cannot be used, also for a person.
type Refusal = (Error, String);

/// The PTX in an image, for a device of compute capability `device`: one text, or those that a linker put
/// together.
///
/// # Safety
/// `image` is null or points to a complete image: a fat binary, its wrapper, an ELF file, or NUL-terminated
/// text.
pub(crate) unsafe fn units(image: *const c_void, device: (u32, u32)) -> Result<Vec<Unit>, Refusal> {
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
    let bytes = match ImageKind::of(first) {
        ImageKind::Wrapper => {
            // SAFETY: a wrapper is 24 bytes, and at 8 holds the address of the fat binary.
            let field = unsafe { start.add(8) };
            // SAFETY: as above.
            let inner = unsafe { field.cast::<*const u8>().read_unaligned() };
            if inner.is_null() {
                return Err((Error::InvalidImage, "the wrapper has no fat binary".into()));
            }
            // SAFETY: a wrapper points to a complete fat binary.
            unsafe { fatbin_bytes(inner) }?
        }
        // SAFETY: a complete fat binary by the caller's promise.
        ImageKind::Fatbin => unsafe { fatbin_bytes(start) }?,
        // SAFETY: a complete ELF file by the caller's promise.
        ImageKind::Elf => unsafe { linked_bytes(start) }?,
        // SAFETY: neither of the binary kinds, so text that ends in a NUL.
        ImageKind::Text => unsafe { CStr::from_ptr(start.cast::<c_char>()) }.to_bytes(),
    };
    units_in(bytes, "ptx", device)
}

/// The PTX in an image of known length.
pub(crate) fn units_in(bytes: &[u8], name: &str, device: (u32, u32)) -> Result<Vec<Unit>, Refusal> {
    let one = |text: String| {
        vec![Unit {
            name: name.to_owned(),
            text,
        }]
    };
    match ImageKind::of(bytes.first_chunk().copied().unwrap_or_default()) {
        // A wrapper holds an address, not a length.
        ImageKind::Wrapper => Err((Error::InvalidImage, "a wrapper is no image".into())),
        ImageKind::Fatbin => {
            fatbin::select_ptx(bytes, device)
                .map(one)
                .map_err(|error| match error {
                    FatbinError::Damaged(_) => (Error::InvalidImage, error.to_string()),
                    FatbinError::NothingSuitable { .. } => {
                        (Error::NoBinaryForGpu, error.to_string())
                    }
                })
        }
        ImageKind::Elf => linker::unpack(bytes).ok_or_else(machine_code),
        ImageKind::Text => {
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            let text = String::from_utf8_lossy(text).into_owned();
            if !text.contains(".version") {
                return Err((
                    Error::InvalidImage,
                    "the image is neither PTX nor a binary known".into(),
                ));
            }
            Ok(one(text))
        }
    }
}

fn machine_code() -> Refusal {
    (
        Error::NoBinaryForGpu,
        "the image holds machine code only, which needs a real GPU; this device executes PTX"
            .into(),
    )
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
unsafe fn fatbin_bytes<'a>(start: *const u8) -> Result<&'a [u8], Refusal> {
    // SAFETY: a fat binary starts with its header.
    let header = unsafe { start.cast::<[u8; FATBIN_HEADER]>().read_unaligned() };
    let length = fatbin_length(header).map_err(|error| (Error::InvalidImage, error.to_string()))?;
    // SAFETY: the header says how long the fat binary is.
    unsafe { whole(start, length) }
}

/// # Safety
/// `start` points to a complete ELF file.
unsafe fn linked_bytes<'a>(start: *const u8) -> Result<&'a [u8], Refusal> {
    // SAFETY: a file of the linker's, as any with machine code, has a header and three sections.
    let head = unsafe { start.cast::<[u8; IMAGE_HEAD]>().read_unaligned() };
    let length = linker::image_length(&head).ok_or_else(machine_code)?;
    // SAFETY: the file says how long it is.
    unsafe { whole(start, length) }
}

/// # Safety
/// `start` points to `length` bytes.
unsafe fn whole<'a>(start: *const u8, length: u64) -> Result<&'a [u8], Refusal> {
    let length = usize::try_from(length).ok();
    let length = length.filter(|length| *length <= isize::MAX.unsigned_abs());
    let length = length.ok_or((Error::InvalidImage, String::new()))?;
    // SAFETY: the caller's promise; nobody writes to an image during the call.
    Ok(unsafe { std::slice::from_raw_parts(start, length) })
}
