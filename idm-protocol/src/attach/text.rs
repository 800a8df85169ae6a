//! Short text in a fixed-size message: padded with zeros, printable whatever the sender put into it.

#![forbid(unsafe_code)]

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// At most `N` bytes of text. What lies in it may come from a hostile process; [`fmt::Display`] and
/// therefore `to_string` show printable ASCII only, so that it can go to a terminal or a log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    /// No text.
    pub const EMPTY: Self = Self([0; N]);

    /// Takes as much of `text` as fits; what is not printable ASCII becomes `?`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; N];
        for (place, character) in bytes.iter_mut().zip(text.chars()) {
            *place = match u8::try_from(character) {
                Ok(byte) => printable(byte),
                Err(_) => b'?',
            };
        }
        Self(bytes)
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.first().is_none_or(|&byte| byte == 0)
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        self.0
            .iter()
            .take_while(|&&byte| byte != 0)
            .try_for_each(|&byte| f.write_char(char::from(printable(byte))))
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

const fn printable(byte: u8) -> u8 {
    if matches!(byte, b' '..=b'~') {
        byte
    } else {
        b'?'
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_longer_than_its_room_is_cut() {
        assert_eq!(Text::<4>::new("kernel").to_string(), "kern");
        assert_eq!(Text::<0>::new("kernel").to_string(), "");
    }

    #[test]
    fn control_characters_and_other_scripts_become_question_marks() {
        assert_eq!(Text::<16>::new("a\x1b[2Jé\n").to_string(), "a?[2J??");
        let hostile = Text::<4>::read_from_bytes(&[0x1b, b'x', 0, b'y']).unwrap();
        assert_eq!(hostile.to_string(), "?x");
        assert!(!hostile.is_empty());
        assert!(Text::<4>::EMPTY.is_empty());
    }
}
