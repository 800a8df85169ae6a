//! Device code images: what a caller's bare pointer points to, and how long it is.
//!
//! The Driver API takes images without a length. The four forms it knows say their own length in one
//! way or another; anything else is refused, because nobody could say where it ends. Nothing past the
//! length an image claims is read, and an image that claims more than [`MOST_BYTES`] is malformed.

use std::ffi::c_void;

use cuda_abi::types::{CUresult, FATBIN_MAGIC};
use idm_protocol::wire::image_kind;

/// Longest image. The largest seen in the wild is 60 MB; a module of a whole framework is 300 MB.
pub const MOST_BYTES: usize = 2 << 30;

/// A code image of the caller's.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// One of [`image_kind`].
    pub kind: u32,
    /// Its bytes; PTX text includes its NUL.
    pub bytes: &'a [u8],
}

const WRAPPER_MAGIC: u32 = 0x4662_43b1;
const ELF_MAGIC: u32 = u32::from_le_bytes(*b"\x7fELF");

/// Finds out what `image` points to.
///
/// # Safety
/// `image` is null or points to a complete image of one of the four forms, or at least to 8 bytes,
/// or to a shorter NUL-terminated text, all of which stay as they are for `'a`.
pub unsafe fn sniff<'a>(image: *const c_void) -> Result<Image<'a>, CUresult> {
    let start = image.cast::<u8>();
    if start.is_null() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: by this function's contract; looks at one byte after another and stops at a NUL.
    let magic = unsafe { first_word(start) };
    match magic {
        // SAFETY: a wrapper, by its magic and this function's contract.
        Some(WRAPPER_MAGIC) => unsafe { unwrap(start) },
        // SAFETY: a fat binary, likewise.
        Some(FATBIN_MAGIC) => unsafe { fatbin(start) },
        // SAFETY: an ELF image, likewise.
        Some(ELF_MAGIC) => unsafe { elf(start) },
        // SAFETY: a NUL-terminated text, or else refused at its first byte that cannot be text.
        _ => unsafe { ptx(start) },
    }
}

/// The image in bytes whose length is known, as when a file was read. PTX gets its NUL from the caller.
pub fn sniff_bytes(bytes: &[u8]) -> Result<Image<'_>, CUresult> {
    let kind = match bytes.first_chunk().map(|first| u32::from_le_bytes(*first)) {
        Some(FATBIN_MAGIC) => image_kind::FATBIN,
        Some(ELF_MAGIC) => image_kind::CUBIN,
        _ if bytes
            .split_last()
            .is_some_and(|(last, text)| *last == 0 && looks_like_ptx(text)) =>
        {
            image_kind::PTX
        }
        _ => return Err(CUresult::CUDA_ERROR_INVALID_IMAGE),
    };
    if bytes.len() > MOST_BYTES {
        return Err(CUresult::CUDA_ERROR_INVALID_IMAGE);
    }
    Ok(Image { kind, bytes })
}

/// The first four bytes, unless a text ends before.
unsafe fn first_word(start: *const u8) -> Option<u32> {
    let mut word = [0; 4];
    for (index, byte) in word.iter_mut().enumerate() {
        // SAFETY: every byte before was not the NUL of a text, so this one belongs to the image.
        *byte = unsafe { read(start, index) };
        // None of the magics has a zero byte.
        if *byte == 0 {
            return None;
        }
    }
    Some(u32::from_le_bytes(word))
}

/// `{u32 magic, u32 version, void *data, void *more}`.
unsafe fn unwrap<'a>(start: *const u8) -> Result<Image<'a>, CUresult> {
    // SAFETY: a wrapper has 24 bytes.
    let data: *const u8 = unsafe { read(start, 8) };
    if data.is_null() {
        return Err(CUresult::CUDA_ERROR_INVALID_IMAGE);
    }
    // SAFETY: a wrapper's data is a fat binary.
    let magic: u32 = unsafe { read(data, 0) };
    if magic != FATBIN_MAGIC {
        return Err(CUresult::CUDA_ERROR_INVALID_IMAGE);
    }
    // SAFETY: as its magic says.
    unsafe { fatbin(data) }
}

/// `{u32 magic, u16 version, u16 header bytes, u64 payload bytes}`, the payload, and possibly more such.
unsafe fn fatbin<'a>(start: *const u8) -> Result<Image<'a>, CUresult> {
    // SAFETY: a fat binary has a header of 16 bytes.
    let header: u16 = unsafe { read(start, 6) };
    // SAFETY: as above.
    let payload: u64 = unsafe { read(start, 8) };
    let bytes = payload
        .checked_add(u64::from(header))
        .ok_or(CUresult::CUDA_ERROR_INVALID_IMAGE)?;
    // SAFETY: so many bytes, by the image's own word.
    unsafe { whole(start, bytes, image_kind::FATBIN) }
}

/// As far as the last section, segment or table of an ELF64 file reaches.
unsafe fn elf<'a>(start: *const u8) -> Result<Image<'a>, CUresult> {
    const LITTLE_64: [u8; 2] = [2, 1];
    const NOBITS: u32 = 8;
    let malformed = CUresult::CUDA_ERROR_INVALID_IMAGE;
    // SAFETY: an ELF file has at least its 64-byte header.
    let header: [u8; 64] = unsafe { read(start, 0) };
    let short = |at: usize| {
        header.get(at..at + 2).map_or(0, |bytes| {
            u64::from(u16::from_le_bytes([bytes[0], bytes[1]]))
        })
    };
    let long = |at: usize| {
        header
            .get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    if header[4..6] != LITTLE_64 {
        return Err(malformed);
    }
    let mut end = 64u64;
    // Each table: where it is, size and number of its entries, and where in an entry offset and size are.
    for (table, entry, count, sections) in [
        (long(32), short(54), short(56), false),
        (long(40), short(58), short(60), true),
    ] {
        let least = if sections { 64 } else { 56 };
        if count == 0 {
            continue;
        }
        if entry < least {
            return Err(malformed);
        }
        let table_end = count
            .checked_mul(entry)
            .and_then(|bytes| bytes.checked_add(table))
            .ok_or(malformed)?;
        end = end.max(table_end);
        if end > MOST_BYTES as u64 {
            return Err(malformed);
        }
        for index in 0..count {
            let at = usize::try_from(table + index * entry).map_err(|_| malformed)?;
            let (kind_at, offset_at, size_at) = if sections { (4, 24, 32) } else { (0, 8, 32) };
            // SAFETY: inside the table, which the file says it has; entries hold at least these fields.
            let kind: u32 = unsafe { read(start, at + kind_at) };
            // SAFETY: as above.
            let offset: u64 = unsafe { read(start, at + offset_at) };
            // SAFETY: as above.
            let size: u64 = unsafe { read(start, at + size_at) };
            if sections && kind == NOBITS {
                continue;
            }
            end = end.max(offset.checked_add(size).ok_or(malformed)?);
        }
    }
    // SAFETY: so many bytes, by the image's own word.
    unsafe { whole(start, end, image_kind::CUBIN) }
}

unsafe fn ptx<'a>(start: *const u8) -> Result<Image<'a>, CUresult> {
    for index in 0..MOST_BYTES {
        // SAFETY: no byte before was the NUL that ends the text.
        let byte: u8 = unsafe { read(start, index) };
        if byte == 0 {
            // SAFETY: all bytes up to this one were just read.
            let bytes = unsafe { std::slice::from_raw_parts(start, index + 1) };
            return if looks_like_ptx(&bytes[..index]) {
                Ok(Image {
                    kind: image_kind::PTX,
                    bytes,
                })
            } else {
                Err(CUresult::CUDA_ERROR_INVALID_IMAGE)
            };
        }
        if byte.is_ascii_control() && !byte.is_ascii_whitespace() && byte != 0x0b {
            break;
        }
    }
    Err(CUresult::CUDA_ERROR_INVALID_IMAGE)
}

/// Text that has a directive in it. What it says is the compiler's to judge.
fn looks_like_ptx(text: &[u8]) -> bool {
    text.windows(8).any(|window| window == b".version")
}

unsafe fn whole<'a>(start: *const u8, bytes: u64, kind: u32) -> Result<Image<'a>, CUresult> {
    match usize::try_from(bytes) {
        Ok(bytes) if bytes <= MOST_BYTES => {
            // SAFETY: the image says that it has so many bytes, and its owner vouches for it.
            let bytes = unsafe { std::slice::from_raw_parts(start, bytes) };
            Ok(Image { kind, bytes })
        }
        _ => Err(CUresult::CUDA_ERROR_INVALID_IMAGE),
    }
}

unsafe fn read<T: Copy>(start: *const u8, at: usize) -> T {
    // SAFETY: the caller vouches for the bytes.
    let place = unsafe { start.add(at) };
    // SAFETY: as above.
    unsafe { place.cast::<T>().read_unaligned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sniffed(bytes: &[u8]) -> Result<(u32, usize), CUresult> {
        // SAFETY: every test passes what it says, with room after it.
        unsafe { sniff(bytes.as_ptr().cast()) }.map(|image| (image.kind, image.bytes.len()))
    }

    fn fatbin_of(payload: u64) -> Vec<u8> {
        let mut bytes = FATBIN_MAGIC.to_le_bytes().to_vec();
        bytes.extend([1, 0, 16, 0]);
        bytes.extend(payload.to_le_bytes());
        bytes.extend([0; 64]);
        bytes
    }

    /// A header, one segment and two sections, the second of which takes no room in the file.
    fn elf_of(section_end: u64) -> Vec<u8> {
        let mut bytes = vec![0u8; 64 + 56 + 128 + 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut put = |at: usize, value: u64, size: usize| {
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size])
        };
        put(32, 64, 8);
        put(54, 56, 2);
        put(56, 1, 2);
        put(40, 120, 8);
        put(58, 64, 2);
        put(60, 2, 2);
        put(64 + 8, 0, 8);
        put(64 + 32, 200, 8);
        put(120 + 4, 1, 4);
        put(120 + 24, 250, 8);
        put(120 + 32, section_end.wrapping_sub(250), 8);
        put(184 + 4, 8, 4);
        put(184 + 24, 250, 8);
        put(184 + 32, 1 << 40, 8);
        bytes
    }

    #[test]
    fn fat_binary_has_the_length_of_header_and_payload_bare_or_wrapped() {
        let bare = fatbin_of(32);
        assert_eq!(sniffed(&bare), Ok((image_kind::FATBIN, 48)));
        let mut wrapper = WRAPPER_MAGIC.to_le_bytes().to_vec();
        wrapper.extend(1u32.to_le_bytes());
        wrapper.extend((bare.as_ptr() as u64).to_le_bytes());
        wrapper.extend([0; 8]);
        assert_eq!(sniffed(&wrapper), Ok((image_kind::FATBIN, 48)));
    }

    #[test]
    fn fat_binary_of_impossible_length_is_malformed() {
        assert_eq!(
            sniffed(&fatbin_of(u64::MAX)),
            Err(CUresult::CUDA_ERROR_INVALID_IMAGE)
        );
        assert_eq!(
            sniffed(&fatbin_of(1 << 40)),
            Err(CUresult::CUDA_ERROR_INVALID_IMAGE)
        );
    }

    #[test]
    fn wrapper_around_nothing_or_something_else_is_malformed() {
        let other = [0x11u8; 16];
        for data in [0, other.as_ptr() as u64] {
            let mut wrapper = WRAPPER_MAGIC.to_le_bytes().to_vec();
            wrapper.extend(1u32.to_le_bytes());
            wrapper.extend(data.to_le_bytes());
            wrapper.extend([0; 8]);
            assert_eq!(sniffed(&wrapper), Err(CUresult::CUDA_ERROR_INVALID_IMAGE));
        }
    }

    #[test]
    fn elf_reaches_to_its_farthest_part_and_sections_without_bits_do_not_count() {
        assert_eq!(sniffed(&elf_of(300)), Ok((image_kind::CUBIN, 300)));
        assert_eq!(sniffed(&elf_of(250)), Ok((image_kind::CUBIN, 250)));
    }

    #[test]
    fn elf_with_tables_or_sections_out_of_reach_is_malformed() {
        assert_eq!(
            sniffed(&elf_of(100)),
            Err(CUresult::CUDA_ERROR_INVALID_IMAGE)
        );
        let mut far = elf_of(300);
        far[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(sniffed(&far), Err(CUresult::CUDA_ERROR_INVALID_IMAGE));
        let mut narrow = elf_of(300);
        narrow[58] = 1;
        assert_eq!(sniffed(&narrow), Err(CUresult::CUDA_ERROR_INVALID_IMAGE));
    }

    #[test]
    fn ptx_text_counts_its_nul_and_other_text_is_refused() {
        assert_eq!(
            sniffed(b"// made\n.version 8.0\0"),
            Ok((image_kind::PTX, 21))
        );
        assert_eq!(
            sniffed(b"hello, world\0"),
            Err(CUresult::CUDA_ERROR_INVALID_IMAGE)
        );
        assert_eq!(sniffed(b"\0"), Err(CUresult::CUDA_ERROR_INVALID_IMAGE));
        assert_eq!(
            sniffed(b"ab\x01cd\0"),
            Err(CUresult::CUDA_ERROR_INVALID_IMAGE)
        );
    }

    #[test]
    fn null_is_an_invalid_value() {
        // SAFETY: null is allowed.
        let sniffed = unsafe { sniff(std::ptr::null()) }.map(|_| ());
        assert_eq!(sniffed, Err(CUresult::CUDA_ERROR_INVALID_VALUE));
    }

    #[test]
    fn file_contents_are_sniffed_within_their_length() {
        assert_eq!(
            sniff_bytes(b".version 8.0\0").map(|image| image.kind),
            Ok(image_kind::PTX)
        );
        assert_eq!(
            sniff_bytes(b"\x7fELF\x02\x01").map(|image| image.kind),
            Ok(image_kind::CUBIN)
        );
        assert!(sniff_bytes(b".version 8.0").is_err());
        assert!(sniff_bytes(b"").is_err());
    }
}
