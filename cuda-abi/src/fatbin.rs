//! Fat binaries: a header and a row of entries, each PTX text or machine code for one architecture, plain or
//! compressed (Zstandard since CUDA 13, LZ4 blocks before).
//!
//! Every length in one is checked; what an entry unpacks to is bounded by what its header declares and by
//! [`MOST_UNPACKED`]. Nothing here trusts who made the image.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::io::Read;

pub use crate::types::FATBIN_MAGIC;

/// Bytes of a fat binary's own header.
pub const FATBIN_HEADER: usize = 16;
/// Most bytes that one entry is unpacked to.
pub const MOST_UNPACKED: u64 = 256 << 20;
/// Most entries that an image has.
pub const MOST_ENTRIES: usize = 4096;

const ENTRY_HEADER: usize = 64;
const KIND_PTX: u16 = 1;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;

/// A length or magic does not fit; the image is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged(pub &'static str);

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the fat binary is damaged: {}", self.0)
    }
}

impl std::error::Error for Damaged {}

/// Bytes of a whole fat binary, from its header.
///
/// # Errors
/// [`Damaged`] if it is none or its length makes no sense.
pub fn fatbin_length(header: [u8; FATBIN_HEADER]) -> Result<u64, Damaged> {
    let reader = Bytes(&header);
    if reader.u32(0)? != FATBIN_MAGIC {
        return Err(Damaged("wrong magic"));
    }
    let own = u64::from(reader.u16(6)?);
    if own < FATBIN_HEADER as u64 {
        return Err(Damaged("header too short"));
    }
    let length = reader.u64(8)?.checked_add(own).filter(|n| *n < 1 << 36);
    length.ok_or(Damaged("impossible length"))
}

/// One entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Whether it is PTX text; machine code otherwise.
    pub is_ptx: bool,
    /// Its architecture, such as 90.
    pub sm: u32,
    flags: u64,
    stored: &'a [u8],
    unpacked: u64,
}

impl Entry<'_> {
    /// What it holds, unpacked.
    ///
    /// # Errors
    /// [`Damaged`], also if it is larger than [`MOST_UNPACKED`].
    pub fn unpack(&self) -> Result<Cow<'_, [u8]>, Damaged> {
        if self.flags & FLAG_ZSTD != 0 {
            unpack_zstd(self.stored, self.limit()?).map(Cow::Owned)
        } else if self.flags & FLAG_LZ4 != 0 {
            unpack_lz4(self.stored, self.limit()?).map(Cow::Owned)
        } else {
            Ok(Cow::Borrowed(self.stored))
        }
    }

    fn limit(&self) -> Result<usize, Damaged> {
        let limit = usize::try_from(self.unpacked)
            .ok()
            .filter(|_| self.unpacked <= MOST_UNPACKED);
        limit.ok_or(Damaged("entry too large"))
    }
}

/// The entries of a fat binary, which ends where it says and is nothing but entries.
///
/// # Errors
/// [`Damaged`].
pub fn entries(image: &[u8]) -> Result<Vec<Entry<'_>>, Damaged> {
    let header = image
        .first_chunk::<FATBIN_HEADER>()
        .ok_or(Damaged("too short"))?;
    let length = usize::try_from(fatbin_length(*header)?).unwrap_or(usize::MAX);
    let own = usize::from(Bytes(image).u16(6)?);
    let mut rest = image
        .get(own..length)
        .ok_or(Damaged("shorter than it says"))?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        if found.len() == MOST_ENTRIES {
            return Err(Damaged("too many entries"));
        }
        let entry = Bytes(rest);
        let kind = entry.u16(0)?;
        let header = usize::try_from(entry.u32(4)?).unwrap_or(usize::MAX);
        let padded = usize::try_from(entry.u64(8)?).unwrap_or(usize::MAX);
        let compressed = usize::try_from(entry.u32(16)?).unwrap_or(usize::MAX);
        if header < ENTRY_HEADER {
            return Err(Damaged("entry header too short"));
        }
        let end = header.checked_add(padded).filter(|end| *end <= rest.len());
        let end = end.ok_or(Damaged("entry longer than the image"))?;
        let payload = &rest[header..end];
        let flags = entry.u64(40)?;
        let stored = match flags & (FLAG_LZ4 | FLAG_ZSTD) {
            0 => payload,
            _ => payload
                .get(..compressed)
                .ok_or(Damaged("compressed size"))?,
        };
        found.push(Entry {
            is_ptx: kind == KIND_PTX,
            sm: entry.u32(28)?,
            flags,
            stored,
            unpacked: entry.u64(56)?,
        });
        rest = &rest[end..];
    }
    Ok(found)
}

/// Little-endian numbers at checked offsets.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&self, at: usize) -> Result<[u8; N], Damaged> {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk::<N>());
        bytes.copied().ok_or(Damaged("truncated"))
    }

    fn u16(&self, at: usize) -> Result<u16, Damaged> {
        self.take(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Result<u32, Damaged> {
        self.take(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, Damaged> {
        self.take(at).map(u64::from_le_bytes)
    }
}

fn unpack_zstd(stored: &[u8], limit: usize) -> Result<Vec<u8>, Damaged> {
    const BAD: Damaged = Damaged("Zstandard data");
    let decoder = ruzstd::decoding::StreamingDecoder::new(stored).map_err(|_| BAD)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells "too long" from "just fits".
    decoder
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|_| BAD)?;
    if bytes.len() > limit {
        Err(BAD)
    } else {
        Ok(bytes)
    }
}

/// One LZ4 block: runs of literals, each followed by a copy of earlier output.
fn unpack_lz4(stored: &[u8], limit: usize) -> Result<Vec<u8>, Damaged> {
    const BAD: Damaged = Damaged("LZ4 data");
    let mut input = stored.iter().copied();
    let mut output = Vec::new();
    while let Some(token) = input.next() {
        let literals = lz4_length(usize::from(token >> 4), &mut input).ok_or(BAD)?;
        if literals > input.len() || literals > limit - output.len() {
            return Err(BAD);
        }
        output.extend(input.by_ref().take(literals));
        let Some(low) = input.next() else {
            break; // The last run has no copy.
        };
        let distance = usize::from(u16::from_le_bytes([low, input.next().ok_or(BAD)?]));
        let length = lz4_length(usize::from(token & 15), &mut input)
            .ok_or(BAD)?
            .saturating_add(4);
        let from = output
            .len()
            .checked_sub(distance)
            .filter(|_| distance != 0)
            .ok_or(BAD)?;
        if length > limit - output.len() {
            return Err(BAD);
        }
        // A copy may overlap its own output, so byte by byte.
        for at in from..from + length {
            let byte = *output.get(at).ok_or(BAD)?;
            output.push(byte);
        }
    }
    Ok(output)
}

fn lz4_length(nibble: usize, input: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let mut length = nibble;
    if nibble == 15 {
        loop {
            let more = input.next()?;
            length = length.checked_add(usize::from(more))?;
            if more != 255 {
                break;
            }
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lz4_blocks_are_unpacked_within_their_limit() {
        // "abcabcabcabcX": three literals, a copy of nine from three back, one literal.
        let block = [0x35, b'a', b'b', b'c', 3, 0, 0x10, b'X'];
        assert_eq!(unpack_lz4(&block, 100).unwrap(), b"abcabcabcabcX");
        assert!(unpack_lz4(&block, 12).is_err(), "limit");
        assert!(
            unpack_lz4(&[0x35, b'a', b'b', b'c', 4, 0], 100).is_err(),
            "distance before the start"
        );
        assert!(
            unpack_lz4(&[0xf0, 255, 255], 100).is_err(),
            "truncated length"
        );
        let mut long = vec![0xf0, 5];
        long.extend([7; 20]);
        assert_eq!(unpack_lz4(&long, 20).unwrap(), [7; 20]);
    }
}
