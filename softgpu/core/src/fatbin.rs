//! Code images: which kind one is, and the PTX in it that this device can execute.
//!
//! A fat binary is a header and a row of entries, each PTX text or machine code for one architecture,
//! plain or compressed (Zstandard since CUDA 13, LZ4 blocks before). Every length in it is checked; what
//! an entry unpacks to is bounded by what its header declares and by [`MOST_TEXT`].
#![forbid(unsafe_code)]

use std::io::Read;

use crate::ptx::requirements::Architecture;

/// First bytes of the structure that the CUDA runtime passes for a fat binary.
pub const WRAPPER_MAGIC: u32 = 0x4662_43b1;
/// First bytes of a fat binary.
pub const FATBIN_MAGIC: u32 = 0xba55_ed50;
/// Bytes of a fat binary's own header.
pub const FATBIN_HEADER: usize = 16;
/// Largest PTX text that is unpacked.
pub const MOST_TEXT: u64 = 256 << 20;
/// Entries that are looked at.
const MOST_ENTRIES: usize = 4096;

const ENTRY_HEADER: usize = 64;
const KIND_PTX: u16 = 1;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;

/// What an image is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// A structure with a pointer to a fat binary.
    Wrapper,
    /// A fat binary.
    Fatbin,
    /// Machine code in an ELF file.
    Elf,
    /// Anything else is taken for PTX text, which ends with a NUL.
    Text,
}

impl ImageKind {
    /// From the first four bytes.
    #[must_use]
    pub const fn of(first: [u8; 4]) -> Self {
        match u32::from_le_bytes(first) {
            WRAPPER_MAGIC => Self::Wrapper,
            FATBIN_MAGIC => Self::Fatbin,
            0x464c_457f => Self::Elf,
            _ => Self::Text,
        }
    }
}

/// Why no PTX came out of a fat binary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatbinError {
    /// A length or magic does not fit; the image is damaged.
    #[error("the fat binary is damaged: {0}")]
    Damaged(&'static str),
    /// Nothing in it is for this device. `machine_code` and `ptx` list the architectures found.
    #[error(
        "no PTX for compute capability {}.{} in the image (machine code for {machine_code:?}, PTX for {ptx:?}); \
         machine code needs a real GPU", device.0, device.1
    )]
    NothingSuitable {
        /// Compute capability of this device.
        device: (u32, u32),
        /// Architectures with machine code.
        machine_code: Vec<u32>,
        /// Architectures with PTX.
        ptx: Vec<u32>,
    },
}

/// Bytes of a whole fat binary, from its header.
///
/// # Errors
/// [`FatbinError::Damaged`] if it is none or its length makes no sense.
pub fn fatbin_length(header: [u8; FATBIN_HEADER]) -> Result<u64, FatbinError> {
    let reader = Bytes(&header);
    if reader.u32(0)? != FATBIN_MAGIC {
        return Err(FatbinError::Damaged("wrong magic"));
    }
    let own = u64::from(reader.u16(6)?);
    if own < FATBIN_HEADER as u64 {
        return Err(FatbinError::Damaged("header too short"));
    }
    let length = reader.u64(8)?.checked_add(own).filter(|n| *n < 1 << 36);
    length.ok_or(FatbinError::Damaged("impossible length"))
}

/// The PTX text for the highest architecture that a device of compute capability `device` can execute.
///
/// # Errors
/// [`FatbinError`].
pub fn select_ptx(image: &[u8], device: (u32, u32)) -> Result<String, FatbinError> {
    let entries = entries(image)?;
    let own = device.0 * 10 + device.1;
    let mut candidates: Vec<&Entry> = entries.iter().filter(|e| e.is_ptx && e.sm <= own).collect();
    candidates.sort_by_key(|e| std::cmp::Reverse(e.sm));
    let mut damage = None;
    for entry in candidates {
        match entry.text() {
            Ok(text) if target_runs_on(&text, device) => return Ok(text),
            Ok(_) => {}
            Err(error) => damage = Some(error),
        }
    }
    let list = |ptx: bool| {
        entries
            .iter()
            .filter(|e| e.is_ptx == ptx)
            .map(|e| e.sm)
            .collect()
    };
    Err(damage.unwrap_or_else(|| FatbinError::NothingSuitable {
        device,
        machine_code: list(false),
        ptx: list(true),
    }))
}

/// Whether the `.target` of a PTX text allows a device: plain targets run on their architecture and all
/// later ones, `f` targets within their family, `a` targets on theirs alone.
#[must_use]
pub fn target_runs_on(text: &str, device: (u32, u32)) -> bool {
    let mut names = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix(".target"))
        .filter_map(|rest| rest.split([',', ' ', '\t']).find(|word| !word.is_empty()));
    // The compiler will say what is wrong with a name that says nothing.
    let architecture = names
        .next()
        .and_then(|name| Architecture::parse(name.trim()));
    architecture.is_none_or(|architecture| architecture.runs_on(device))
}

struct Entry<'a> {
    is_ptx: bool,
    sm: u32,
    flags: u64,
    stored: &'a [u8],
    unpacked: u64,
}

impl Entry<'_> {
    fn text(&self) -> Result<String, FatbinError> {
        let bytes = if self.flags & FLAG_ZSTD != 0 {
            unpack_zstd(self.stored, self.limit()?)?
        } else if self.flags & FLAG_LZ4 != 0 {
            unpack_lz4(self.stored, self.limit()?)?
        } else {
            self.stored.to_vec()
        };
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let text = bytes.get(..end).unwrap_or_default().to_vec();
        String::from_utf8(text).map_err(|_| FatbinError::Damaged("PTX is not text"))
    }

    fn limit(&self) -> Result<usize, FatbinError> {
        let limit = usize::try_from(self.unpacked)
            .ok()
            .filter(|_| self.unpacked <= MOST_TEXT);
        limit.ok_or(FatbinError::Damaged("PTX text too large"))
    }
}

fn entries(image: &[u8]) -> Result<Vec<Entry<'_>>, FatbinError> {
    let header = image
        .first_chunk::<FATBIN_HEADER>()
        .ok_or(FatbinError::Damaged("too short"))?;
    let length = usize::try_from(fatbin_length(*header)?).unwrap_or(usize::MAX);
    let own = usize::from(Bytes(image).u16(6)?);
    let mut rest = image
        .get(own..length)
        .ok_or(FatbinError::Damaged("shorter than it says"))?;
    let mut found = Vec::new();
    while rest.len() >= ENTRY_HEADER && found.len() < MOST_ENTRIES {
        let entry = Bytes(rest);
        let kind = entry.u16(0)?;
        let header = usize::try_from(entry.u32(4)?).unwrap_or(usize::MAX);
        let padded = usize::try_from(entry.u64(8)?).unwrap_or(usize::MAX);
        let compressed = usize::try_from(entry.u32(16)?).unwrap_or(usize::MAX);
        if header < ENTRY_HEADER {
            return Err(FatbinError::Damaged("entry header too short"));
        }
        let end = header.checked_add(padded).filter(|end| *end <= rest.len());
        let end = end.ok_or(FatbinError::Damaged("entry longer than the image"))?;
        let payload = &rest[header..end];
        let flags = entry.u64(40)?;
        let stored = match flags & (FLAG_LZ4 | FLAG_ZSTD) {
            0 => payload,
            _ => payload
                .get(..compressed)
                .ok_or(FatbinError::Damaged("compressed size"))?,
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
    fn take<const N: usize>(&self, at: usize) -> Result<[u8; N], FatbinError> {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk::<N>());
        bytes.copied().ok_or(FatbinError::Damaged("truncated"))
    }

    fn u16(&self, at: usize) -> Result<u16, FatbinError> {
        self.take(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Result<u32, FatbinError> {
        self.take(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, FatbinError> {
        self.take(at).map(u64::from_le_bytes)
    }
}

fn unpack_zstd(stored: &[u8], limit: usize) -> Result<Vec<u8>, FatbinError> {
    const BAD: FatbinError = FatbinError::Damaged("Zstandard data");
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
fn unpack_lz4(stored: &[u8], limit: usize) -> Result<Vec<u8>, FatbinError> {
    const BAD: FatbinError = FatbinError::Damaged("LZ4 data");
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

    const PTX: &str = ".version 8.0\n.target sm_75\n.address_size 64\n";

    fn entry(kind: u16, sm: u32, flags: u64, stored: &[u8], unpacked: usize) -> Vec<u8> {
        let padded = stored.len().next_multiple_of(8);
        let mut bytes = Vec::new();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(0x101_u16.to_le_bytes());
        bytes.extend(64_u32.to_le_bytes());
        bytes.extend((padded as u64).to_le_bytes());
        bytes.extend(u32::try_from(stored.len()).unwrap().to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(sm.to_le_bytes());
        bytes.extend(64_u64.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend((unpacked as u64).to_le_bytes());
        bytes.extend(stored);
        bytes.resize(64 + padded, 0);
        bytes
    }

    fn fatbin(entries: &[Vec<u8>]) -> Vec<u8> {
        let payload = entries.concat();
        let mut bytes = FATBIN_MAGIC.to_le_bytes().to_vec();
        bytes.extend(1_u16.to_le_bytes());
        bytes.extend(16_u16.to_le_bytes());
        bytes.extend((payload.len() as u64).to_le_bytes());
        bytes.extend(payload);
        bytes
    }

    fn ptx(sm: u32, target: &str) -> Vec<u8> {
        entry(
            1,
            sm,
            0,
            format!(".version 8.0\n.target {target}\n\0").as_bytes(),
            0,
        )
    }

    #[test]
    fn the_highest_ptx_not_above_the_device_is_chosen() {
        let image = fatbin(&[
            ptx(52, "sm_52"),
            ptx(80, "sm_80"),
            entry(2, 90, 0, b"\x7fELF", 0),
            ptx(100, "sm_100"),
        ]);
        assert!(select_ptx(&image, (9, 0)).unwrap().contains("sm_80"));
        assert!(select_ptx(&image, (12, 0)).unwrap().contains("sm_100"));
        assert!(select_ptx(&image, (7, 5)).unwrap().contains("sm_52"));
    }

    #[test]
    fn architecture_and_family_specific_targets_run_only_there() {
        let image = fatbin(&[ptx(90, "sm_90a"), ptx(75, "sm_75")]);
        assert!(select_ptx(&image, (9, 0)).unwrap().contains("sm_90a"));
        assert!(select_ptx(&image, (10, 0)).unwrap().contains("sm_75"));
        assert!(target_runs_on(".target sm_100f", (10, 3)));
        assert!(!target_runs_on(".target sm_100f", (12, 0)));
        assert!(target_runs_on(".target sm_90, debug", (9, 0)));
    }

    #[test]
    fn machine_code_alone_is_named_as_such() {
        let image = fatbin(&[entry(2, 80, 0, b"\x7fELF", 0)]);
        let error = select_ptx(&image, (9, 0)).unwrap_err();
        assert!(matches!(error, FatbinError::NothingSuitable { .. }));
        assert!(error.to_string().contains("needs a real GPU"), "{error}");
    }

    #[test]
    fn lz4_blocks_are_unpacked() {
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
        let image = fatbin(&[entry(1, 75, FLAG_LZ4, &lz4_literals(PTX), PTX.len())]);
        assert_eq!(select_ptx(&image, (9, 0)).unwrap(), PTX);
    }

    fn lz4_literals(text: &str) -> Vec<u8> {
        let mut block = vec![0xf0, u8::try_from(text.len() - 15).unwrap()];
        block.extend(text.as_bytes());
        block
    }

    #[test]
    fn zstandard_is_unpacked_within_the_declared_size() {
        let stored = ruzstd::encoding::compress_to_vec(
            PTX.as_bytes(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        let image = fatbin(&[entry(1, 75, FLAG_ZSTD, &stored, PTX.len())]);
        assert_eq!(select_ptx(&image, (9, 0)).unwrap(), PTX);
        let image = fatbin(&[entry(1, 75, FLAG_ZSTD, &stored, PTX.len() - 1)]);
        assert!(matches!(
            select_ptx(&image, (9, 0)),
            Err(FatbinError::Damaged(_))
        ));
        let image = fatbin(&[entry(1, 75, FLAG_ZSTD, b"nonsense", 100)]);
        assert!(matches!(
            select_ptx(&image, (9, 0)),
            Err(FatbinError::Damaged(_))
        ));
    }

    #[test]
    fn every_truncation_and_many_corruptions_are_answered() {
        let image = fatbin(&[
            ptx(75, "sm_75"),
            entry(1, 80, FLAG_LZ4, &lz4_literals(PTX), PTX.len()),
        ]);
        for end in 0..image.len() {
            assert!(select_ptx(&image[..end], (9, 0)).is_err());
        }
        for at in 0..image.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = image.clone();
                bad[at] = value;
                drop(select_ptx(&bad, (9, 0)));
            }
        }
    }

    #[test]
    fn kinds_are_told_by_the_first_bytes() {
        assert_eq!(
            ImageKind::of(WRAPPER_MAGIC.to_le_bytes()),
            ImageKind::Wrapper
        );
        assert_eq!(ImageKind::of(FATBIN_MAGIC.to_le_bytes()), ImageKind::Fatbin);
        assert_eq!(ImageKind::of(*b"\x7fELF"), ImageKind::Elf);
        assert_eq!(ImageKind::of(*b".ver"), ImageKind::Text);
    }
}
