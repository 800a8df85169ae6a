//! Frames: how blocks lie in a segment's file.
//!
//! A frame is length, kind and CRC-32C (each 32 bits, little-endian), then as many bytes as the length says.
//! The checksum covers length, kind and bytes. A segment is preallocated with zeros: a length of zero is the
//! end of what was written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;

/// Bytes before the payload.
pub const HEAD_LEN: u64 = 12;

/// Most bytes of a payload.
pub const MAX_PAYLOAD_LEN: usize = 2 << 20;

/// What is in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The state of the chain: the first frame of each segment, and only that.
    Chain,
    /// A block.
    Block,
}

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Its bytes.
    pub payload: Vec<u8>,
    /// Where the next one begins.
    pub next: u64,
}

/// Bytes that are no frame: cut off, or not what was written.
#[derive(Debug, Error)]
pub enum FrameError {
    /// Longer than a frame may be.
    #[error("its length of {0} bytes is impossible")]
    Length(u32),
    /// The file ends before it does.
    #[error("it is cut off")]
    Cut,
    /// The checksum is another.
    #[error("its checksum is not that of its bytes")]
    Checksum,
    /// Nobody knows what it is.
    #[error("it is of kind {0}, which nobody knows")]
    Kind(u32),
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::Chain => 1,
            Self::Block => 2,
        }
    }
}

/// The bytes of a frame, or none if the payload is empty or too long for one.
#[must_use]
pub fn encode(kind: Kind, payload: &[u8]) -> Option<Vec<u8>> {
    let fits = (1..=MAX_PAYLOAD_LEN).contains(&payload.len());
    let len = u32::try_from(payload.len()).ok().filter(|_| fits)?;
    let mut bytes = Vec::with_capacity(payload.len() + 12);
    bytes.extend(len.to_le_bytes());
    bytes.extend(kind.number().to_le_bytes());
    bytes.extend(checksum(len, kind.number(), payload).to_le_bytes());
    bytes.extend(payload);
    Some(bytes)
}

/// Reads the frame at `offset`; none at the end of what was written.
pub fn read_at(file: &File, offset: u64) -> Result<Option<Frame>, FrameError> {
    let mut head = [0; 12];
    let got = read_up_to(file, &mut head, offset)?;
    if head == [0; 12] {
        return Ok(None);
    }
    if got < head.len() {
        return Err(FrameError::Cut);
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l] = head;
    let len = u32::from_le_bytes([a, b, c, d]);
    let kind_number = u32::from_le_bytes([e, f, g, h]);
    let written = u32::from_le_bytes([i, j, k, l]);
    let bytes = usize::try_from(len).unwrap_or(usize::MAX);
    if !(1..=MAX_PAYLOAD_LEN).contains(&bytes) {
        return Err(FrameError::Length(len));
    }
    let start = offset.checked_add(HEAD_LEN).ok_or(FrameError::Cut)?;
    let next = start.checked_add(len.into()).ok_or(FrameError::Cut)?;
    let mut payload = vec![0; bytes];
    if read_up_to(file, &mut payload, start)? < bytes {
        return Err(FrameError::Cut);
    }
    if checksum(len, kind_number, &payload) != written {
        return Err(FrameError::Checksum);
    }
    let kind = [Kind::Chain, Kind::Block]
        .into_iter()
        .find(|kind| kind.number() == kind_number)
        .ok_or(FrameError::Kind(kind_number))?;
    Ok(Some(Frame {
        kind,
        payload,
        next,
    }))
}

fn checksum(len: u32, kind: u32, payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&len.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &kind.to_le_bytes());
    crc32c::crc32c_append(crc, payload)
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let place = offset.saturating_add(done as u64);
        match file.read_at(rest, place) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
