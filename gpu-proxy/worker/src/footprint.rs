//! What a code image costs of the device, before the driver loads it: an upper bound from the image itself.
//!
//! Counted are code and variables. A driver may keep less (it loads functions when they are first used) but not
//! more than alignment adds. What another process allocates at the same time plays no part, as it would if the
//! free memory were compared before and after. An image for which no bound can be found is refused.

#![forbid(unsafe_code)]

use cuda_abi::fatbin;
use idm_protocol::wire::image_kind;
use thiserror::Error;

use crate::elf::{Elf, MAGIC};

mod ptx;

/// What each section and variable is rounded up to.
const GRAIN: u64 = 256;

/// In the header's flags of what the software GPU links: a file of PTX texts.
const TEXTS: [u8; 4] = *b"sgpu";

/// Why there is no bound; the client gets `CUDA_ERROR_INVALID_IMAGE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unbounded {
    /// A variable's size is no plain number.
    #[error("the size of a variable is not a plain number, at byte {0} of the text")]
    Size(usize),
    /// More than any device has.
    #[error("its variables need more memory than can be counted")]
    TooMuch,
    /// The packed image is damaged.
    #[error("{0}")]
    Damaged(#[from] fatbin::Damaged),
}

/// Most bytes of device memory that a checked image can cost. Of a fat binary the driver takes one entry, of
/// machine code one for the `majors` of the devices' compute capabilities.
///
/// # Errors
/// [`Unbounded`].
pub fn bound(kind: u32, image: &[u8], majors: &[u32]) -> Result<u64, Unbounded> {
    if kind != image_kind::FATBIN {
        return of_code(image);
    }
    let mut most = 0;
    for entry in fatbin::entries(image)? {
        if entry.is_ptx || majors.contains(&(entry.sm / 10)) {
            most = most.max(of_code(&entry.unpack()?)?);
        }
    }
    Ok(most)
}

/// Text or an ELF file.
fn of_code(code: &[u8]) -> Result<u64, Unbounded> {
    if !code.starts_with(&MAGIC) {
        return ptx::bound(code);
    }
    let elf = Elf::of(code).ok_or(Unbounded::TooMuch)?;
    let mut total = sections(elf).ok_or(Unbounded::TooMuch)?;
    if elf.flags() == TEXTS {
        total = total
            .checked_add(ptx::variables(code)?)
            .ok_or(Unbounded::TooMuch)?;
    }
    Ok(total)
}

/// Of all sections that occupy memory, with what has no bytes in the file. `None` if it does not add up; an image
/// whose table is not all there has none.
fn sections(elf: Elf<'_>) -> Option<u64> {
    let mut total = 0u64;
    for section in elf.sections() {
        let section = section?;
        if section.occupies_memory() {
            total = total.checked_add(section.size.checked_next_multiple_of(GRAIN)?)?;
        }
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An ELF file with sections of these kinds, flags and sizes.
    fn elf(sections: &[(u32, u64, u64)]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[40] = 64;
        file[58] = 64;
        file[60] = u8::try_from(sections.len()).unwrap();
        for (kind, flags, size) in sections {
            file.extend([0; 4]);
            file.extend(kind.to_le_bytes());
            file.extend(flags.to_le_bytes());
            file.extend([0; 16]);
            file.extend(size.to_le_bytes());
            file.extend([0; 24]);
        }
        file
    }

    fn fatbin(entries: &[(u16, u32, &[u8])]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (kind, sm, bytes) in entries {
            let start = payload.len();
            let padded = bytes.len().next_multiple_of(8);
            payload.extend(kind.to_le_bytes());
            payload.extend([1, 1]);
            payload.extend(64u32.to_le_bytes());
            payload.extend((padded as u64).to_le_bytes());
            payload.extend([0; 12]);
            payload.extend(sm.to_le_bytes());
            payload.resize(start + 64, 0);
            payload.extend(*bytes);
            payload.resize(start + 64 + padded, 0);
        }
        let mut image = 0xBA55_ED50u32.to_le_bytes().to_vec();
        image.extend([1, 0, 16, 0]);
        image.extend((payload.len() as u64).to_le_bytes());
        image.extend(payload);
        image
    }

    #[test]
    fn memory_without_bytes_in_the_file_is_counted_and_notes_are_not() {
        let image = elf(&[(1, 2, 1000), (8, 3, 1 << 30), (8, 0, 256), (1, 0, 5000)]);
        assert_eq!(
            bound(image_kind::CUBIN, &image, &[9]),
            Ok(1024 + (1 << 30) + 256)
        );
        let image = elf(&[(8, 2, u64::MAX)]);
        assert_eq!(
            bound(image_kind::CUBIN, &image, &[9]),
            Err(Unbounded::TooMuch)
        );
    }

    #[test]
    fn of_a_fat_binary_the_largest_entry_for_the_device_counts() {
        let (small, large) = (elf(&[(8, 2, 512)]), elf(&[(8, 2, 1 << 20)]));
        let image = fatbin(&[(2, 80, &large), (2, 90, &small)]);
        assert_eq!(bound(image_kind::FATBIN, &image, &[9]), Ok(512));
        assert_eq!(bound(image_kind::FATBIN, &image, &[8, 9]), Ok(1 << 20));
        let text = b".version 8.0\n.global .b8 big[4194304];\0";
        let image = fatbin(&[(1, 52, text), (2, 90, &small)]);
        let found = bound(image_kind::FATBIN, &image, &[9]).unwrap();
        assert!((4 << 20..5 << 20).contains(&found), "{found}");
    }

    #[test]
    fn texts_that_the_software_gpu_linked_are_counted_too() {
        let mut image = elf(&[(1, 0, 0)]);
        image[48..52].copy_from_slice(&TEXTS);
        image.extend(b".version 8.0\n.global .b8 big[4194304];\n");
        assert_eq!(bound(image_kind::CUBIN, &image, &[9]), Ok(4 << 20));
    }

    proptest! {
        #[test]
        fn arbitrary_images_are_judged_without_panic(kind in 0u32..5, mut image in prop::collection::vec(any::<u8>(), 0..300)) {
            for magic in [&b"\x7fELF\x02\x01"[..], &0xBA55_ED50u32.to_le_bytes(), b".global .b8 x["] {
                if image.len() >= magic.len() {
                    image[..magic.len()].copy_from_slice(magic);
                }
                let _ = bound(kind, &image, &[9]);
            }
        }
    }
}
