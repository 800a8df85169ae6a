//! Text of unknown origin in records: bounded, printable, one line.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most bytes of a text after escaping.
pub const MAX_TEXT_LEN: usize = 256;

/// What ends a text that was longer.
const CUT: &str = "...";

/// A name or a sentence: at most [`MAX_TEXT_LEN`] bytes of printable ASCII. Everything else was written as
/// `\xNN`, and a backslash as two, so that different bytes stay different as long as the text was not cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text(Arc<str>);

/// A text that is longer than allowed or not printable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a text is at most 256 bytes of printable ASCII")]
pub struct Unprintable;

impl Text {
    /// Makes any bytes harmless.
    #[must_use]
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        let mut text = String::new();
        for &byte in bytes.as_ref() {
            let escaped = match byte {
                b'\\' => "\\\\".to_owned(),
                b' '..=b'~' => char::from(byte).to_string(),
                other => format!("\\x{other:02x}"),
            };
            if text.len() + escaped.len() > MAX_TEXT_LEN {
                // All of it is ASCII, so any place is a boundary.
                text.truncate(MAX_TEXT_LEN - CUT.len());
                text.push_str(CUT);
                break;
            }
            text.push_str(&escaped);
        }
        Self(text.into())
    }

    /// Takes a text that must be harmless already: one that was recorded.
    pub fn recorded(text: &str) -> Result<Self, Unprintable> {
        let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !printable || text.len() > MAX_TEXT_LEN {
            return Err(Unprintable);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0.as_ref().into()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl TryFrom<String> for Text {
    type Error = Unprintable;

    fn try_from(text: String) -> Result<Self, Unprintable> {
        Self::recorded(&text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn line_breaks_escapes_and_foreign_bytes_are_spelled_out() {
        assert_eq!(
            Text::new(b"a\n\\\x1b\xff\"").as_str(),
            r#"a\x0a\\\x1b\xff""#
        );
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_text_that_can_be_recorded(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let text = Text::new(&bytes);
            prop_assert_eq!(Text::recorded(text.as_str()), Ok(text.clone()));
            prop_assert!(bytes.len() <= MAX_TEXT_LEN || text.as_str().ends_with(CUT));
        }
    }
}
