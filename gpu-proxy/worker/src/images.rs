//! Code images as they arrive: checked to end where they say, before a driver that is told only
//! where they begin reads them.

#![forbid(unsafe_code)]

use idm_protocol::wire::image_kind;
use thiserror::Error;

const FATBIN_MAGIC: u32 = 0xBA55_ED50;
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// `SHT_NOBITS`: a section without bytes in the file.
const NOBITS: u32 = 8;

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
        image_kind::FATBIN if fatbin_is_complete(&image).is_some() => Ok(image),
        image_kind::FATBIN => Err(BadImage("fat binary")),
        _ => Err(BadImage("image of a known kind")),
    }
}

/// Header: magic, u16 version, u16 header size, u64 payload size. Then entries: u16 kind, u16
/// version, u32 header size, u64 payload size, each within the payload.
fn fatbin_is_complete(image: &[u8]) -> Option<()> {
    if u32_at(image, 0)? != FATBIN_MAGIC {
        return None;
    }
    let header = usize::from(u16_at(image, 6)?);
    let payload = u64_at(image, 8)?;
    let end = header.checked_add(usize::try_from(payload).ok()?)?;
    if header < 16 || end > image.len() {
        return None;
    }
    let mut at = header;
    while at < end {
        let entry = image.get(at..end)?;
        let header = usize::try_from(u32_at(entry, 4)?).ok()?;
        let payload = usize::try_from(u64_at(entry, 8)?).ok()?;
        let len = header.checked_add(payload)?;
        if header < 16 || len > entry.len() {
            return None;
        }
        at += len;
    }
    Some(())
}

/// ELF64, little endian: both header tables, and what each of their entries names, are inside.
fn elf_is_complete(image: &[u8]) -> Option<()> {
    let inside = |start: u64, len: u64| {
        let end = start.checked_add(len)?;
        (end <= u64::try_from(image.len()).ok()?).then_some(())
    };
    if image.get(..4)? != ELF_MAGIC || *image.get(4)? != 2 || *image.get(5)? != 1 {
        return None;
    }
    let (segments, sections) = (u64_at(image, 32)?, u64_at(image, 40)?);
    let segment_bytes = u64::from(u16_at(image, 54)?);
    let segment_count = u64::from(u16_at(image, 56)?);
    let section_bytes = u64::from(u16_at(image, 58)?);
    let section_count = u64::from(u16_at(image, 60)?);
    if segment_count > 0 {
        if segment_bytes < 56 {
            return None;
        }
        inside(segments, segment_bytes * segment_count)?;
    }
    if section_count > 0 {
        if section_bytes < 64 {
            return None;
        }
        inside(sections, section_bytes * section_count)?;
    }
    for index in 0..segment_count {
        let at = usize::try_from(segments + index * segment_bytes).ok()?;
        inside(u64_at(image, at + 8)?, u64_at(image, at + 32)?)?;
    }
    for index in 0..section_count {
        let at = usize::try_from(sections + index * section_bytes).ok()?;
        if u32_at(image, at + 4)? != NOBITS {
            inside(u64_at(image, at + 24)?, u64_at(image, at + 32)?)?;
        }
    }
    Some(())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
