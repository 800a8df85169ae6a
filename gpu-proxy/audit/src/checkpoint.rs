//! Checkpoints (C2SP tlog-checkpoint): how large the log was, and its root, signed.

use std::fmt;

use thiserror::Error;

use crate::hash::Hash;
use crate::note::{Note, NoteError, PublicKey, SecretKey, sign};

/// What a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: the name of its key.
    pub origin: String,
    /// Leaves of the tree.
    pub size: u64,
    /// Root of the tree.
    pub root: Hash,
}

/// A note that is no checkpoint, or not one of this log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// It is no note, or not signed by a trusted key.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Its text is not that of a checkpoint.
    #[error("its text is not an origin, a size and a root")]
    Form,
    /// It is a checkpoint of another log.
    #[error("it is a checkpoint of {0:?}")]
    Origin(String),
}

impl Checkpoint {
    /// The signed note.
    #[must_use]
    pub fn sign(&self, keys: &[&SecretKey]) -> String {
        sign(&self.to_string(), keys)
    }

    /// Reads a note that one of `keys` has signed, the key that did, and what it says.
    pub fn open<'k>(
        note: &str,
        keys: impl IntoIterator<Item = &'k PublicKey>,
    ) -> Result<(Self, &'k PublicKey), CheckpointError> {
        let note = Note::parse(note)?;
        let mut error = NoteError::Unsigned;
        for key in keys {
            match note.signed_by(key) {
                Ok(text) => {
                    let checkpoint = Self::parse(text).ok_or(CheckpointError::Form)?;
                    if checkpoint.origin != key.name() {
                        return Err(CheckpointError::Origin(checkpoint.origin));
                    }
                    return Ok((checkpoint, key));
                }
                Err(NoteError::Unsigned) => {}
                Err(worse) => error = worse,
            }
        }
        Err(error.into())
    }

    /// Reads the text of a note. Extension lines are passed over, as the format demands.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let plain = size == "0" || !size.starts_with('0');
        let digits = plain && size.bytes().all(|byte| byte.is_ascii_digit());
        if origin.is_empty() || !digits || lines.any(str::is_empty) {
            return None;
        }
        Some(Self {
            origin: origin.to_owned(),
            size: size.parse().ok()?,
            root: Hash::from_base64(root)?,
        })
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.root.to_base64();
        writeln!(f, "{}\n{}\n{root}", self.origin, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_survives_a_round_trip_and_others_are_refused() {
        let key = SecretKey::draw("example/log").unwrap();
        let other = SecretKey::draw("example/else").unwrap();
        let checkpoint = Checkpoint {
            origin: "example/log".into(),
            size: 17,
            root: Hash::leaf(b"x"),
        };
        let note = checkpoint.sign(&[&key]);
        let opened = Checkpoint::open(&note, [other.public(), key.public()]).unwrap();
        assert_eq!(opened, (checkpoint.clone(), key.public()));
        let unsigned = Checkpoint::open(&note, [other.public()]);
        assert_eq!(unsigned, Err(NoteError::Unsigned.into()));
        let foreign = checkpoint.sign(&[&other]);
        let foreign = Checkpoint::open(&foreign, [other.public()]);
        assert_eq!(foreign, Err(CheckpointError::Origin("example/log".into())));
    }

    #[test]
    fn sizes_have_one_spelling_and_extensions_are_passed_over() {
        let root = Hash::empty().to_base64();
        let parse =
            |size: &str, more: &str| Checkpoint::parse(&format!("o\n{size}\n{root}\n{more}"));
        assert!(parse("0", "").is_some() && parse("10", "more\n").is_some());
        for size in ["", "00", "01", "+1", "-1", "18446744073709551616"] {
            assert_eq!(parse(size, ""), None, "{size}");
        }
        assert_eq!(parse("1", "\n"), None);
    }
}
