//! Records: what one line or more of a ring says, as private copies.
//!
//! A record is a 16-byte header, a fixed-size body (a generated struct), and a tail of parts whose
//! lengths the body holds. Body and parts each start on an eight-byte boundary and are padded with
//! zeros. A tail that does not fit inline goes through the lane's side buffer: [`Flags::SIDE`] is
//! set, a word with the tail's length stands before the body, and the body is still inline.
//!
//! All of this module is parsing of private memory: nothing here reads what the other side can
//! still change.

#![forbid(unsafe_code)]

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::{LINE_BYTES, LINE_WORDS};
use crate::memory::WORD_BYTES;

/// Most lines in a record.
pub const RECORD_LINES: usize = 16;
/// Words of the longest record.
pub const RECORD_WORDS: usize = RECORD_LINES * LINE_WORDS;
/// Bytes of the longest record, its header included.
pub const RECORD_BYTES: usize = RECORD_LINES * LINE_BYTES;
/// Bytes of the header, the sequence word included.
pub const HEADER_BYTES: usize = 2 * WORD_BYTES;
/// Bytes that body and tail can have together inline.
pub const INLINE_BYTES: usize = RECORD_BYTES - HEADER_BYTES;

/// The opcode of the filler before a page boundary; never delivered.
pub const PAD: u16 = 0;

/// Bits that say how a record is to be treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// The sender waits on its lane for a reply.
    pub const REPLY: Self = Self(1);
    /// The record may block: the lane's own worker thread runs it, not the dispatcher.
    pub const LANE: Self = Self(2);
    /// The tail is in the lane's side buffer.
    pub const SIDE: Self = Self(4);

    /// The reply is wanted once the work is issued: nobody waits for its end.
    pub const ISSUE: Self = Self(8);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a sender says about a record; the ring adds sequence and size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// What to do.
    pub opcode: u16,
    /// How to treat it.
    pub flags: Flags,
    /// The lane of the thread that posts.
    pub lane: u16,
    /// Slot of the context that is current in that thread.
    pub context: u16,
}

impl Head {
    #[inline]
    pub(crate) fn pack(self, lines: u8) -> u64 {
        u64::from(self.opcode)
            | u64::from(lines) << 16
            | u64::from(self.flags.0) << 24
            | u64::from(self.lane) << 32
            | u64::from(self.context) << 48
    }

    #[inline]
    pub(crate) fn unpack(word: u64) -> (Self, u8) {
        let [o0, o1, lines, flags, l0, l1, c0, c1] = word.to_le_bytes();
        let head = Self {
            opcode: u16::from_le_bytes([o0, o1]),
            flags: Flags(flags),
            lane: u16::from_le_bytes([l0, l1]),
            context: u16::from_le_bytes([c0, c1]),
        };
        (head, lines)
    }
}

/// A fixed-size body of a record, as `cargo xtask codegen` writes them: little endian, no padding,
/// size a multiple of eight.
pub trait Request: FromBytes + IntoBytes + Immutable + KnownLayout {
    /// The opcode that announces this body; explicit, stable, never reused, never [`PAD`].
    const OPCODE: u16;
}

/// Bytes that a part of `len` bytes takes in a tail.
pub const fn padded(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(WORD_BYTES)
}

/// Bytes that parts take in a tail, or `None` if they overflow.
pub fn tail_len(parts: &[&[u8]]) -> Option<usize> {
    parts
        .iter()
        .try_fold(0usize, |sum, part| sum.checked_add(padded(part.len())?))
}

/// A record does not hold what its opcode says. The sender's fault; the receiver ends that client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Decoded as something else than its opcode says: a mistake in our dispatch.
    #[error("record with opcode {found} decoded as opcode {wanted}")]
    Opcode {
        /// What the record says.
        found: u16,
        /// What the decoder is for.
        wanted: u16,
    },
    /// The record is shorter than its body.
    #[error("record of opcode {opcode} has {have} bytes, its body needs {need}")]
    ShortBody {
        /// What the record says.
        opcode: u16,
        /// Bytes there are.
        have: usize,
        /// Bytes the body needs.
        need: usize,
    },
    /// The lengths in the body promise more than is there.
    #[error("record of opcode {opcode} has a tail of {have} bytes, its lengths need more")]
    ShortTail {
        /// What the record says.
        opcode: u16,
        /// Bytes there are.
        have: usize,
    },
}

/// A private copy of one record, taken out of a ring and checked: its size is what it says, within
/// the limits.
#[derive(Clone)]
pub struct Record {
    sequence: u64,
    head: Head,
    lines: usize,
    words: [u64; RECORD_WORDS],
}

impl Default for Record {
    fn default() -> Self {
        Self {
            sequence: 0,
            head: Head::default(),
            lines: 0,
            words: [0; RECORD_WORDS],
        }
    }
}

impl Record {
    /// An empty record to receive into.
    pub fn new() -> Self {
        Self::default()
    }

    /// A record made of bytes, for tests, fuzzers and replays: `bytes` is what follows the header.
    /// `None` if it is longer than a record can be.
    pub fn from_bytes(sequence: u64, head: Head, bytes: &[u8]) -> Option<Self> {
        if bytes.len() > INLINE_BYTES {
            return None;
        }
        let mut record = Self {
            sequence,
            head,
            ..Self::default()
        };
        record.lines = (HEADER_BYTES + bytes.len()).div_ceil(LINE_BYTES);
        record.words.as_mut_bytes()[HEADER_BYTES..HEADER_BYTES + bytes.len()]
            .copy_from_slice(bytes);
        Some(record)
    }

    /// Its place in the order of submission; also the ticket its reply answers to.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What the sender said about it.
    #[inline]
    pub fn head(&self) -> Head {
        self.head
    }

    /// Body and inline tail, padding of the last line included.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let start = match self.side_len() {
            Some(_) => HEADER_BYTES + WORD_BYTES,
            None => HEADER_BYTES,
        };
        let end = (self.lines * LINE_BYTES).max(start);
        &self.words.as_bytes()[start..end]
    }

    /// Bytes that the tail has in the side buffer, as the sender claims; `None` if it is inline.
    #[inline]
    pub fn side_len(&self) -> Option<u64> {
        let side = self.head.flags.contains(Flags::SIDE);
        side.then_some(self.words[HEADER_BYTES / WORD_BYTES])
    }

    /// The body alone.
    ///
    /// # Errors
    /// [`DecodeError`] if the record has another opcode or is too short.
    pub fn body<T: Request>(&self) -> Result<T, DecodeError> {
        let opcode = self.head.opcode;
        if opcode != T::OPCODE {
            return Err(DecodeError::Opcode {
                found: opcode,
                wanted: T::OPCODE,
            });
        }
        let bytes = self.bytes();
        match T::read_from_prefix(bytes) {
            Ok((body, _)) => Ok(body),
            Err(_) => {
                let need = size_of::<T>();
                Err(DecodeError::ShortBody {
                    opcode,
                    have: bytes.len(),
                    need,
                })
            }
        }
    }

    /// Body and inline tail. For records that may have [`Flags::SIDE`] use
    /// [`WorkerLane::open`](crate::lane::WorkerLane::open), which does both.
    ///
    /// # Errors
    /// [`DecodeError`] if the record has another opcode or is shorter than its body.
    pub fn decode<T: Request>(&self) -> Result<(T, Tail<'_>), DecodeError> {
        let body = self.body::<T>()?;
        let start = size_of::<T>().next_multiple_of(WORD_BYTES);
        let tail = self.bytes().get(start..).unwrap_or_default();
        Ok((body, Tail::new(self.head.opcode, tail)))
    }

    /// Room for `lines` lines: what a ring copies into.
    #[inline]
    pub(crate) fn fill(&mut self, sequence: u64, head: Head, lines: usize) -> &mut [u64] {
        self.sequence = sequence;
        self.head = head;
        self.lines = lines;
        &mut self.words[HEADER_BYTES / WORD_BYTES..lines * LINE_WORDS]
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("sequence", &self.sequence)
            .field("head", &self.head)
            .field("lines", &self.lines)
            .finish_non_exhaustive()
    }
}

/// The variable part of a record: parts in order, each on an eight-byte boundary. What it has beyond
/// the parts is padding.
#[derive(Clone, Copy, Debug)]
pub struct Tail<'a> {
    opcode: u16,
    bytes: &'a [u8],
}

impl<'a> Tail<'a> {
    /// A tail that is private already.
    pub fn new(opcode: u16, bytes: &'a [u8]) -> Self {
        Self { opcode, bytes }
    }

    /// Takes the next part, `len` bytes long.
    ///
    /// # Errors
    /// [`DecodeError::ShortTail`] if that many are not left.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let short = DecodeError::ShortTail {
            opcode: self.opcode,
            have: self.bytes.len(),
        };
        let step = padded(len).ok_or(short)?;
        let (part, rest) = self.bytes.split_at_checked(step).ok_or(short)?;
        self.bytes = rest;
        Ok(&part[..len])
    }

    /// What is left.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Reads the fixed-size body at the start of a reply, and what follows it.
/// `None` if the reply is shorter than that.
pub fn decode_response<T: FromBytes>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (body, _) = T::read_from_prefix(bytes).ok()?;
    let rest = bytes
        .get(size_of::<T>().next_multiple_of(WORD_BYTES)..)
        .unwrap_or_default();
    Some((body, rest))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Debug, PartialEq, Clone, Copy)]
    #[repr(C)]
    struct Probe {
        first_len: u32,
        second_len: u32,
    }

    impl Request for Probe {
        const OPCODE: u16 = 7;
    }

    fn encode(probe: Probe, parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = probe.as_bytes().to_vec();
        for part in parts {
            bytes.extend_from_slice(part);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes
    }

    #[test]
    fn an_opcode_that_differs_is_an_error_and_not_another_struct() {
        let head = Head {
            opcode: 8,
            ..Head::default()
        };
        let record = Record::from_bytes(1, head, &[0; 8]).unwrap();
        let wrong = DecodeError::Opcode {
            found: 8,
            wanted: 7,
        };
        assert_eq!(record.decode::<Probe>().unwrap_err(), wrong);
    }

    #[test]
    fn parts_longer_than_what_is_there_are_refused() {
        let head = Head {
            opcode: 7,
            ..Head::default()
        };
        let record = Record::from_bytes(1, head, &[0; 8]).unwrap();
        for len in [41, 48, 1000, usize::MAX] {
            let (_, mut tail) = record.decode::<Probe>().unwrap();
            let short = DecodeError::ShortTail {
                opcode: 7,
                have: 40,
            };
            assert_eq!(tail.take(len).unwrap_err(), short);
        }
        let (_, mut tail) = record.decode::<Probe>().unwrap();
        assert_eq!(tail.take(33).unwrap(), &[0; 33]);
        assert!(tail.bytes().is_empty());
    }

    #[test]
    fn a_body_that_does_not_fit_its_record_is_refused() {
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Debug)]
        #[repr(C)]
        struct Long([u64; 6]);
        impl Request for Long {
            const OPCODE: u16 = 7;
        }
        let head = Head {
            opcode: 7,
            flags: Flags::SIDE,
            ..Head::default()
        };
        let record = Record::from_bytes(1, head, &[0; 48]).unwrap();
        let short = DecodeError::ShortBody {
            opcode: 7,
            have: 40,
            need: 48,
        };
        assert_eq!(record.body::<Long>().unwrap_err(), short);
        assert_eq!(record.side_len(), Some(0));
    }

    #[test]
    fn more_bytes_than_a_record_holds_make_no_record() {
        assert!(Record::from_bytes(1, Head::default(), &[0; INLINE_BYTES]).is_some());
        assert!(Record::from_bytes(1, Head::default(), &[0; INLINE_BYTES + 1]).is_none());
    }

    proptest! {
        #[test]
        fn heads_come_back(opcode: u16, flags: u8, lane: u16, context: u16, lines: u8) {
            let head = Head { opcode, flags: Flags(flags), lane, context };
            prop_assert_eq!(Head::unpack(head.pack(lines)), (head, lines));
        }

        #[test]
        fn bodies_and_parts_come_back(
            first in prop::collection::vec(any::<u8>(), 0..400),
            second in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let probe = Probe {
                first_len: first.len().try_into().unwrap(),
                second_len: second.len().try_into().unwrap(),
            };
            let head = Head { opcode: 7, ..Head::default() };
            let bytes = encode(probe, &[&first, &second]);
            let record = Record::from_bytes(3, head, &bytes).unwrap();
            let (body, mut tail) = record.decode::<Probe>().unwrap();
            prop_assert_eq!(body, probe);
            prop_assert_eq!(tail.take(first.len()).unwrap(), &first[..]);
            prop_assert_eq!(tail.take(second.len()).unwrap(), &second[..]);
            prop_assert!(tail.bytes().iter().all(|byte| *byte == 0));
        }

        #[test]
        fn arbitrary_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..=INLINE_BYTES)) {
            let head = Head { opcode: 7, ..Head::default() };
            let record = Record::from_bytes(1, head, &bytes).unwrap();
            if let Ok((body, mut tail)) = record.decode::<Probe>() {
                let len = usize::try_from(body.first_len).unwrap();
                let part = tail.take(len);
                prop_assert!(part.map_or(len > 0, |part| part.len() == len));
            }
        }
    }
}
