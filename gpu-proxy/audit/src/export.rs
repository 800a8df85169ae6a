//! The log as lines of text: what `vgpuctl audit export` writes and the JSON lines sink keeps.
//!
//! An event is its own line, byte for byte. The rest is a JSON object with one key: `calls` with a block of
//! calls in base64, `checkpoint` with a signed note, `chain` with the state at which the lines begin.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::MAX_BLOCK_LEN;
use crate::chain::Chain;

/// Most bytes of a line.
pub const MAX_LINE_LEN: usize = 4 * MAX_BLOCK_LEN;

/// How the line of an event begins.
const EVENT: &str = "{\"v\":";

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A block of either form.
    Block(Vec<u8>),
    /// A signed note.
    Checkpoint(String),
    /// Where the lines begin, if not at the first leaf.
    Chain(Box<Chain>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Wrapped {
    Calls(String),
    Checkpoint(String),
    Chain(Box<Chain>),
}

/// A line that is none.
#[derive(Debug, Error)]
pub enum LineError {
    /// Longer than a line may be.
    #[error("{0} bytes are more than a line may have")]
    Size(usize),
    /// Not understood.
    #[error("it is neither an event nor calls nor a checkpoint")]
    Form,
}

impl Line {
    /// Reads a line without its newline. What is in a block is not looked at.
    pub fn parse(line: &str) -> Result<Self, LineError> {
        if line.len() > MAX_LINE_LEN {
            return Err(LineError::Size(line.len()));
        }
        if line.contains('\n') {
            return Err(LineError::Form);
        }
        if line.starts_with(EVENT) {
            return Ok(Self::Block(line.as_bytes().to_vec()));
        }
        match serde_json::from_str(line).map_err(|_| LineError::Form)? {
            Wrapped::Calls(encoded) => {
                let bytes = STANDARD.decode(encoded).map_err(|_| LineError::Form)?;
                Ok(Self::Block(bytes))
            }
            Wrapped::Checkpoint(note) => Ok(Self::Checkpoint(note)),
            Wrapped::Chain(chain) => Ok(Self::Chain(chain)),
        }
    }

    /// The line, with its newline.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Anything may lie in a block: only what reads as an event again is written as one.
        if let Self::Block(bytes) = self
            && let Ok(text) = std::str::from_utf8(bytes)
            && text.starts_with(EVENT)
            && !text.contains('\n')
        {
            return format!("{text}\n");
        }
        let wrapped = match self {
            Self::Block(bytes) => Wrapped::Calls(STANDARD.encode(bytes)),
            Self::Checkpoint(note) => Wrapped::Checkpoint(note.clone()),
            Self::Chain(chain) => Wrapped::Chain(chain.clone()),
        };
        // Plain data with string keys: writing it to memory cannot fail.
        let mut line = serde_json::to_string(&wrapped).unwrap_or_default();
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_block_holds_is_read_again_from_its_line() {
        for bytes in [&b"{"[..], b"{\"v\":", b"{\"v\":\n", b"{\"v\":\xff", b""] {
            let line = Line::Block(bytes.to_vec());
            let text = line.to_text();
            assert_eq!(Line::parse(text.trim_end_matches('\n')).ok(), Some(line));
        }
        assert!(Line::parse("{\"v\":\n").is_err(), "not one line");
    }
}
