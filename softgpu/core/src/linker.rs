//! The linker: PTX texts that refer to each other become one image.
//!
//! The image is opaque to programs, which load it as they would machine code. It is a 64-bit ELF file
//! whose one section of content holds the texts; loading compiles them together. So every length is
//! in the file itself, in the places where a proxy looks for it.
#![forbid(unsafe_code)]

use crate::device::Device;
use crate::error::Error;
use crate::module::{self, Code, LoadError, Unit};
use crate::ptx::{self, ErrorKind};

/// Bytes of an image from which [`image_length`] tells the whole length.
pub const IMAGE_HEAD: usize = 64 + 3 * 64;
/// Most bytes of all texts.
const MOST_BYTES: usize = 512 << 20;
/// In the header's flags: what makes the file ours.
const MARK: [u8; 4] = *b"sgpu";
const NAMES: &[u8] = b"\0.softgpu.ptx\0.shstrtab\0";

/// A link under way.
#[derive(Debug, Default)]
pub struct Linker {
    units: Vec<Unit>,
    /// An input was refused: the link cannot be completed.
    failed: bool,
}

impl Linker {
    /// Adds a text, which must be right in itself and fit to those before. What it refers to may follow.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add(&mut self, device: &Device, unit: Unit) -> Result<(), LoadError> {
        let so_far: usize = self.units.iter().map(|unit| unit.text.len()).sum();
        if so_far + unit.text.len() > MOST_BYTES {
            return Err(LoadError {
                error: Error::OutOfMemory,
                log: format!("the inputs have more than {MOST_BYTES} bytes"),
            });
        }
        self.units.push(unit);
        let texts: Vec<&str> = self.units.iter().map(|unit| unit.text.as_str()).collect();
        let checked = ptx::check_last(&texts, &module::target(device));
        checked.map_err(|(unit, refusal)| {
            self.failed = true;
            let error = match refusal.kind {
                ErrorKind::InvalidPtx | ErrorKind::Undefined => Error::InvalidPtx,
                ErrorKind::Duplicate => Error::InvalidSource,
                ErrorKind::UnsupportedVersion => Error::UnsupportedPtxVersion,
                ErrorKind::UnsupportedTarget => Error::NoBinaryForGpu,
            };
            let log = format!("{}: {refusal}", self.units[unit].name);
            LoadError { error, log }
        })
    }

    /// An input cannot be used: no image will come of this link.
    pub const fn fail(&mut self) {
        self.failed = true;
    }

    /// Puts the texts together. Nothing may be missing now.
    ///
    /// # Errors
    /// [`Error::Unknown`], which is what a driver reports, with the reason in the log.
    pub fn complete(&self, device: &Device) -> Result<Vec<u8>, LoadError> {
        let unknown = |log: String| LoadError {
            error: Error::Unknown,
            log,
        };
        if self.failed {
            return Err(unknown("an input was refused".into()));
        }
        if self.units.is_empty() {
            return Err(unknown("there is no input".into()));
        }
        Code::link(device, &self.units).map_err(|refusal| unknown(refusal.log))?;
        Ok(pack(&self.units))
    }
}

/// Whether an image, by its first bytes, is a linker's, and how long it is.
#[must_use]
pub fn image_length(head: &[u8; IMAGE_HEAD]) -> Option<u64> {
    let long = |at: usize| Some(u64::from_le_bytes(*head.get(at..)?.first_chunk()?));
    if head.get(..4)? != b"\x7fELF" || head.get(48..52)? != MARK || long(40)? != 64 {
        return None;
    }
    // The section of names is the last part of the file.
    let last = 64 + 2 * 64;
    long(last + 24)?.checked_add(long(last + 32)?)
}

/// The texts of a linker's image.
#[must_use]
pub fn unpack(image: &[u8]) -> Option<Vec<Unit>> {
    let head: &[u8; IMAGE_HEAD] = image.first_chunk()?;
    let length = usize::try_from(image_length(head)?).ok()?;
    let image = image.get(..length)?;
    let long = |at: usize| Some(u64::from_le_bytes(*image.get(at..)?.first_chunk()?));
    let start = usize::try_from(long(64 + 64 + 24)?).ok()?;
    let bytes = usize::try_from(long(64 + 64 + 32)?).ok()?;
    let mut rest = image.get(start..start.checked_add(bytes)?)?;
    let mut units = Vec::new();
    while !rest.is_empty() {
        let mut piece = || {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let (text, after) = after.split_at_checked(length)?;
            rest = after;
            String::from_utf8(text.to_vec()).ok()
        };
        units.push(Unit {
            name: piece()?,
            text: piece()?,
        });
    }
    Some(units)
}

fn pack(units: &[Unit]) -> Vec<u8> {
    let mut content = Vec::new();
    for unit in units {
        for text in [&unit.name, &unit.text] {
            content.extend((text.len() as u64).to_le_bytes());
            content.extend(text.as_bytes());
        }
    }
    let mut image = Vec::with_capacity(IMAGE_HEAD + content.len() + NAMES.len());
    let half = |image: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|v| image.extend(v.to_le_bytes()));
    };
    // The header: 64 bits, little-endian, no machine, no segments, three sections right behind it.
    image.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    half(&mut image, &[0, 0, 1, 0]);
    image.extend([0; 16]);
    image.extend(64u64.to_le_bytes());
    image.extend(MARK);
    half(&mut image, &[64, 56, 0, 64, 3, 2]);
    // The sections: none, the texts, the names of the sections.
    let texts_at = IMAGE_HEAD as u64;
    let names_at = texts_at + content.len() as u64;
    image.extend([0; 64]);
    let mut section = |name: u32, kind: u32, offset: u64, bytes: usize| {
        image.extend(name.to_le_bytes());
        image.extend(kind.to_le_bytes());
        image.extend([0; 16]);
        image.extend(offset.to_le_bytes());
        image.extend((bytes as u64).to_le_bytes());
        image.extend([0; 8]);
        image.extend(1u64.to_le_bytes());
        image.extend([0; 8]);
    };
    section(1, 1, texts_at, content.len());
    section(14, 3, names_at, NAMES.len());
    image.extend(content);
    image.extend(NAMES);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, text: &str) -> Unit {
        Unit {
            name: name.into(),
            text: text.into(),
        }
    }

    #[test]
    fn image_gives_its_units_back_and_says_how_long_it_is() {
        let units = [unit("a.ptx", ".version 8.0"), unit("", "")];
        let mut image = pack(&units);
        let length = image.len();
        image.extend([7; 10]);
        assert_eq!(
            image_length(image.first_chunk().unwrap()),
            Some(length as u64)
        );
        assert_eq!(unpack(&image).unwrap(), units);
    }

    #[test]
    fn damaged_image_has_no_units() {
        let whole = pack(&[unit("a", ".version 8.0"), unit("b", "text")]);
        for cut in 0..whole.len() {
            assert_eq!(unpack(&whole[..cut]), None, "{cut}");
        }
        for place in 0..whole.len() {
            let mut image = whole.clone();
            image[place] ^= 0x80;
            // Whatever comes of it, it is judged without a panic.
            let _ = unpack(&image);
        }
    }
}
