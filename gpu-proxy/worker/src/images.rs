//! Code images as they arrive: checked to end where they say, before a driver that is told only
//! where they begin reads them.

#![forbid(unsafe_code)]

use cuda_abi::fatbin;
use idm_protocol::wire::image_kind;
use thiserror::Error;

use crate::elf::Elf;

/// An image that is not what its kind says; the client gets `CUDA_ERROR_INVALID_IMAGE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("image is not a complete {0}")]
pub struct BadImage(&'static str);

/// Makes an image ready for the driver.
///
/// # Errors
/// [`BadImage`] if it is of no known kind, or promises more bytes than there are.
pub fn check(kind: u32, mut image: Vec<u8>) -> Result<Vec<u8>, BadImage> {
    match kind {
        image_kind::PTX => {
            // Text ends at its NUL; one more costs nothing and makes sure that there is one.
            image.push(0);
            Ok(image)
        }
        image_kind::CUBIN if elf_is_complete(&image).is_some() => Ok(image),
        image_kind::CUBIN => Err(BadImage("ELF file")),
        image_kind::FATBIN if fatbin::entries(&image).is_ok() => Ok(image),
        image_kind::FATBIN => Err(BadImage("fat binary")),
        _ => Err(BadImage("image of a known kind")),
    }
}

/// What its tables name is inside.
fn elf_is_complete(image: &[u8]) -> Option<()> {
    let elf = Elf::of(image)?;
    let inside = |start: u64, len: u64| {
        let end = start.checked_add(len)?;
        (end <= u64::try_from(image.len()).ok()?).then_some(())
    };
    for segment in elf.segments() {
        let segment = segment?;
        inside(segment.offset, segment.size)?;
    }
    for section in elf.sections() {
        let section = section?;
        if section.in_file() {
            inside(section.offset, section.size)?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use cuda_abi::fatbin::FATBIN_MAGIC;
    use proptest::prelude::*;

    use super::*;

    const NOBITS: u32 = 8;

    fn fatbin(entries: &[(u32, u64)], bytes: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        for &(header, len) in entries {
            let start = payload.len();
            payload.extend([1, 0, 1, 1]);
            payload.extend(header.to_le_bytes());
            payload.extend(len.to_le_bytes());
            payload.resize(start + 64 + bytes, 0);
        }
        let mut image = FATBIN_MAGIC.to_le_bytes().to_vec();
        image.extend([1, 0, 16, 0]);
        image.extend((payload.len() as u64).to_le_bytes());
        image.extend(payload);
        image
    }

    fn elf(section_offset: u64, section_len: u64, kind: u32) -> Vec<u8> {
        let mut image = vec![0; 64 + 64 + 16];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[40..48].copy_from_slice(&64u64.to_le_bytes());
        image[58] = 64;
        image[60] = 1;
        image[68..72].copy_from_slice(&kind.to_le_bytes());
        image[88..96].copy_from_slice(&section_offset.to_le_bytes());
        image[96..104].copy_from_slice(&section_len.to_le_bytes());
        image
    }

    #[test]
    fn text_gets_its_terminator() {
        assert_eq!(
            check(image_kind::PTX, b".version".to_vec()).unwrap(),
            b".version\0"
        );
    }

    #[test]
    fn complete_images_pass_and_truncated_or_lying_ones_do_not() {
        let whole = fatbin(&[(64, 32), (64, 32)], 32);
        assert!(check(image_kind::FATBIN, whole.clone()).is_ok());
        assert!(check(image_kind::FATBIN, whole[..whole.len() - 1].to_vec()).is_err());
        assert!(check(image_kind::FATBIN, fatbin(&[(64, 33)], 32)).is_err());
        assert!(check(image_kind::FATBIN, fatbin(&[(64, u64::MAX)], 32)).is_err());
        assert!(check(image_kind::FATBIN, fatbin(&[(0, 0)], 32)).is_err());
        assert!(check(image_kind::CUBIN, elf(128, 16, 1)).is_ok());
        assert!(check(image_kind::CUBIN, elf(128, 17, 1)).is_err());
        assert!(check(image_kind::CUBIN, elf(u64::MAX, 2, 1)).is_err());
        assert!(check(image_kind::CUBIN, elf(128, 1 << 40, NOBITS)).is_ok());
        assert!(check(image_kind::CUBIN, whole).is_err());
        assert!(check(9, Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_judged_without_panic(kind in 0u32..5, mut image in prop::collection::vec(any::<u8>(), 0..300)) {
            for magic in [&b"\x7fELF\x02\x01"[..], &FATBIN_MAGIC.to_le_bytes()] {
                if image.len() >= magic.len() {
                    image[..magic.len()].copy_from_slice(magic);
                }
                let _ = check(kind, image.clone());
            }
        }
    }
}
