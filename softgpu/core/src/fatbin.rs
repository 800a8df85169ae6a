//! Code images: which kind one is, and the PTX in it that this device can execute.
//!
//! How a fat binary is laid out is [`cuda_abi::fatbin`]'s word.
#![forbid(unsafe_code)]

use cuda_abi::fatbin::{self, Damaged, Entry, FATBIN_MAGIC};

use crate::ptx::requirements::Architecture;

/// First bytes of the structure that the CUDA runtime passes for a fat binary.
pub const WRAPPER_MAGIC: u32 = 0x4662_43b1;

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
    #[error(transparent)]
    Damaged(#[from] Damaged),
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

/// The PTX text for the highest architecture that a device of compute capability `device` can execute.
///
/// # Errors
/// [`FatbinError`].
pub fn select_ptx(image: &[u8], device: (u32, u32)) -> Result<String, FatbinError> {
    let entries = fatbin::entries(image)?;
    let own = device.0 * 10 + device.1;
    let mut candidates: Vec<&Entry> = entries.iter().filter(|e| e.is_ptx && e.sm <= own).collect();
    candidates.sort_by_key(|e| std::cmp::Reverse(e.sm));
    let mut damage = None;
    for entry in candidates {
        match text(entry) {
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

/// The text of a PTX entry, up to its NUL.
fn text(entry: &Entry<'_>) -> Result<String, FatbinError> {
    let bytes = entry.unpack()?;
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = bytes.get(..end).unwrap_or_default().to_vec();
    String::from_utf8(text).map_err(|_| Damaged("PTX is not text").into())
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

#[cfg(test)]
mod tests {
    use super::*;

    const FLAG_LZ4: u64 = 0x2000;
    const FLAG_ZSTD: u64 = 0x8000;

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
    fn ptx_in_lz4_blocks_is_found() {
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
