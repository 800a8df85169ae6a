//! Barriers that are words of shared memory.
//!
//! A phase ends when no arrival is pending and as many bytes have come as were expected; the next
//! one then expects as many arrivals again. The word holds, from bit 0 up: arrivals that each phase
//! expects (20 bits), pending arrivals (20), bytes still to come as a signed number (22), a bit that
//! is always clear, and the parity of the phase. PTX leaves the format open, but for its size.
//!
//! What PTX calls undefined (a count out of range, more arrivals than are pending) is an illegal
//! instruction here.
#![forbid(unsafe_code)]

use super::fault::FaultKind;
use crate::ptx::ir::{MBARRIER_MAX, MbarrierOp};

const PENDING_SHIFT: u32 = 20;
const BYTES_SHIFT: u32 = 40;
const BYTES_BITS: u32 = 22;
const PARITY_SHIFT: u32 = 63;

/// The parts of the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mbarrier {
    expected: u32,
    pending: u32,
    /// Bytes that have not come yet; negative where they came before they were expected.
    bytes: i32,
    parity: bool,
}

/// The parity of a word's phase.
pub fn parity(word: u64) -> bool {
    word >> PARITY_SHIFT != 0
}

/// Arrivals that a token's phase was waiting for.
pub fn pending(token: u64) -> u32 {
    Mbarrier::unpack(token).pending
}

/// Does `f` to the word: what it becomes.
pub fn apply(f: MbarrierOp, word: u64, count: u32, bytes: u32) -> Result<u64, FaultKind> {
    let counts = 1..=MBARRIER_MAX;
    let mut barrier = Mbarrier::unpack(word);
    match f {
        MbarrierOp::Init => {
            if !counts.contains(&count) {
                return Err(FaultKind::IllegalInstruction);
            }
            barrier = Mbarrier {
                expected: count,
                pending: count,
                bytes: 0,
                parity: false,
            };
            return Ok(barrier.pack());
        }
        MbarrierOp::Inval => return Ok(0),
        MbarrierOp::Arrive | MbarrierOp::ArriveDrop => {
            barrier.expect(bytes)?;
            let less = |from: u32| {
                let rest = from.checked_sub(count).filter(|_| counts.contains(&count));
                rest.ok_or(FaultKind::IllegalInstruction)
            };
            barrier.pending = less(barrier.pending)?;
            if f == MbarrierOp::ArriveDrop {
                barrier.expected = less(barrier.expected)?;
            }
        }
        MbarrierOp::ExpectTx => barrier.expect(bytes)?,
        MbarrierOp::CompleteTx => {
            let rest = i32::try_from(bytes).ok().map(|bytes| barrier.bytes - bytes);
            barrier.set_bytes(rest)?;
        }
    }
    if barrier.pending == 0 && barrier.bytes == 0 {
        barrier.pending = barrier.expected;
        barrier.parity = !barrier.parity;
    }
    Ok(barrier.pack())
}

impl Mbarrier {
    fn unpack(word: u64) -> Self {
        // Both casts take the bits of the field alone.
        #[allow(clippy::cast_possible_truncation)]
        let field = |shift: u32| (word >> shift) as u32 & MBARRIER_MAX;
        #[allow(clippy::cast_possible_truncation)]
        let bytes = (word >> BYTES_SHIFT << (64 - BYTES_BITS) >> 32) as u32;
        Self {
            expected: field(0),
            pending: field(PENDING_SHIFT),
            bytes: bytes.cast_signed() >> (32 - BYTES_BITS),
            parity: parity(word),
        }
    }

    fn pack(self) -> u64 {
        let bytes = u64::from(self.bytes.cast_unsigned()) & ((1 << BYTES_BITS) - 1);
        u64::from(self.expected)
            | u64::from(self.pending) << PENDING_SHIFT
            | bytes << BYTES_SHIFT
            | u64::from(self.parity) << PARITY_SHIFT
    }

    fn expect(&mut self, bytes: u32) -> Result<(), FaultKind> {
        let sum = i32::try_from(bytes).ok();
        self.set_bytes(sum.and_then(|bytes| self.bytes.checked_add(bytes)))
    }

    fn set_bytes(&mut self, bytes: Option<i32>) -> Result<(), FaultKind> {
        let bytes = bytes.filter(|bytes| bytes.unsigned_abs() <= MBARRIER_MAX);
        self.bytes = bytes.ok_or(FaultKind::IllegalInstruction)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(count: u32) -> u64 {
        apply(MbarrierOp::Init, u64::MAX, count, 0).unwrap()
    }

    #[test]
    fn the_word_keeps_every_field() {
        for (expected, pending, bytes) in [
            (1, 1, 0),
            (MBARRIER_MAX, 0, 1_048_575),
            (7, MBARRIER_MAX, -1_048_575),
            (3, 2, -1),
        ] {
            for parity in [false, true] {
                let barrier = Mbarrier {
                    expected,
                    pending,
                    bytes,
                    parity,
                };
                assert_eq!(Mbarrier::unpack(barrier.pack()), barrier);
            }
        }
    }

    #[test]
    fn a_phase_ends_with_its_last_arrival_and_byte() {
        let word = apply(MbarrierOp::Arrive, fresh(2), 1, 16).unwrap();
        assert_eq!((pending(word), parity(word)), (1, false));
        let word = apply(MbarrierOp::Arrive, word, 1, 0).unwrap();
        assert!(!parity(word));
        let word = apply(MbarrierOp::CompleteTx, word, 0, 16).unwrap();
        assert_eq!((pending(word), parity(word)), (2, true));
    }

    #[test]
    fn bytes_may_come_before_they_are_expected() {
        let word = apply(MbarrierOp::CompleteTx, fresh(1), 0, 64).unwrap();
        let word = apply(MbarrierOp::Arrive, word, 1, 64).unwrap();
        assert!(parity(word));
    }

    #[test]
    fn who_drops_out_is_not_expected_again() {
        let word = apply(MbarrierOp::ArriveDrop, fresh(2), 1, 0).unwrap();
        let word = apply(MbarrierOp::Arrive, word, 1, 0).unwrap();
        assert_eq!((pending(word), parity(word)), (1, true));
    }

    #[test]
    fn counts_out_of_range_are_illegal() {
        for (f, count, bytes) in [
            (MbarrierOp::Init, 0, 0),
            (MbarrierOp::Init, MBARRIER_MAX + 1, 0),
            (MbarrierOp::Arrive, 0, 0),
            (MbarrierOp::Arrive, 3, 0),
            (MbarrierOp::ExpectTx, 0, MBARRIER_MAX + 1),
            (MbarrierOp::CompleteTx, 0, u32::MAX),
        ] {
            let result = apply(f, fresh(2), count, bytes);
            assert_eq!(result, Err(FaultKind::IllegalInstruction), "{f:?}");
        }
    }
}
