//! Asynchronous copies, complete as soon as they are issued, and barriers in shared memory.
#![forbid(unsafe_code)]

use super::fault::FaultKind;
use super::mbarrier;
use super::memory::{LaneFault, View, lanes};
use super::processor::Plain;
use super::register::{addresses, widened};
use super::warp::Frame;
use crate::ptx::ir::*;

/// Executes a copy or an operation on a barrier.
#[inline(never)]
pub fn execute(
    op: Op,
    frame: &mut Frame,
    memory: &mut View<'_>,
    mask: u32,
) -> Result<(), LaneFault> {
    let word = |frame: &Frame, register: Option<W>, lane: usize, none: u32| {
        register.map_or(none, |w| frame.w[w.index()][lane])
    };
    match op {
        Op::CopyAsync {
            bytes,
            space,
            to,
            from,
            count,
            ignore,
        } => {
            let (to, from) = (address(frame, to), address(frame, from));
            for lane in lanes(mask) {
                let ignored = ignore.is_some_and(|p| frame.p[p.index()] >> lane & 1 != 0);
                let whole = u64::from(bytes);
                let count = match ignored {
                    true => 0,
                    false => u64::from(word(frame, count, lane, bytes.into())).min(whole),
                };
                let mut copy = Copy {
                    memory,
                    lane,
                    from: (Space::Global, from[lane]),
                    to: (space, to[lane]),
                };
                copy.padded(whole, count).map_err(|kind| (lane, kind))?;
            }
        }
        Op::CopyBulk {
            spaces,
            to,
            from,
            bytes,
            barrier,
        } => {
            let (to, from) = (address(frame, to), address(frame, from));
            let barrier = barrier.map(|base| address(frame, base));
            for lane in lanes(mask) {
                let bytes = frame.w[bytes.index()][lane];
                let mut copy = Copy {
                    memory,
                    lane,
                    from: (spaces.1, from[lane]),
                    to: (spaces.0, to[lane]),
                };
                copy.bulk(bytes.into()).map_err(|kind| (lane, kind))?;
                if let Some(barrier) = &barrier {
                    update(memory, Space::Shared, barrier[lane], lane, |old| {
                        mbarrier::apply(MbarrierOp::CompleteTx, old, 0, bytes)
                    })?;
                }
            }
        }
        Op::Mbarrier {
            f,
            space,
            base,
            count,
            bytes,
            d,
        } => {
            let places = address(frame, base);
            for lane in lanes(mask) {
                let (count, bytes) = (word(frame, count, lane, 1), word(frame, bytes, lane, 0));
                let token = update(memory, space, places[lane], lane, |old| {
                    mbarrier::apply(f, old, count, bytes)
                })?;
                if let Some(d) = d {
                    frame.d[d.index()][lane] = token;
                }
            }
        }
        Op::MbarrierWait {
            parity,
            space,
            base,
            phase,
            p,
        } => {
            let (places, phases) = (address(frame, base), widened(frame, phase));
            let mut done = 0;
            for lane in lanes(mask) {
                let awaited = match parity {
                    true => phases[lane] & 1 != 0,
                    false => mbarrier::parity(phases[lane]),
                };
                let now = update(memory, space, places[lane], lane, Ok)?;
                done |= u32::from(mbarrier::parity(now) != awaited) << lane;
            }
            let bits = &mut frame.p[p.index()];
            *bits = *bits & !mask | done;
        }
        Op::MbarrierPending { a, d } => {
            for lane in lanes(mask) {
                frame.w[d.index()][lane] = mbarrier::pending(frame.d[a.index()][lane]);
            }
        }
        _ => {}
    }
    Ok(())
}

fn address(frame: &Frame, base: Base) -> [u64; 32] {
    addresses(Plain, frame, base, 0)
}

/// Replaces a word of shared memory and returns what it was. Nothing else can come between: the
/// warps of a block take turns.
pub(super) fn update(
    memory: &mut View<'_>,
    space: Space,
    address: u64,
    lane: usize,
    change: impl FnOnce(u64) -> Result<u64, FaultKind>,
) -> Result<u64, LaneFault> {
    let word = memory.shared_word(space, address, lane);
    let word = word.map_err(|kind| (lane, kind))?;
    let old = u64::from_le_bytes(*word);
    *word = change(old).map_err(|kind| (lane, kind))?.to_le_bytes();
    Ok(old)
}

/// One lane's copy.
struct Copy<'a, 'v> {
    memory: &'a mut View<'v>,
    lane: usize,
    from: (Space, u64),
    to: (Space, u64),
}

impl Copy<'_, '_> {
    /// Both addresses must be multiples of `bytes`.
    fn check(&self, bytes: u64) -> Result<(), FaultKind> {
        for address in [self.to.1, self.from.1] {
            if !address.is_multiple_of(bytes) {
                return Err(FaultKind::MisalignedAddress { address });
            }
        }
        Ok(())
    }

    /// Moves `piece` bytes at an offset.
    fn piece(&mut self, offset: u64, piece: u64) -> Result<(), FaultKind> {
        let from = self.from.1.wrapping_add(offset);
        let value = self.memory.load(self.from.0, from, piece, self.lane)?;
        self.put(offset, piece, value)
    }

    fn put(&mut self, offset: u64, piece: u64, value: u64) -> Result<(), FaultKind> {
        let to = self.to.1.wrapping_add(offset);
        self.memory.store(self.to.0, to, piece, self.lane, value)
    }

    /// `count` bytes, and zeros up to `whole`; no byte beyond is read.
    fn padded(&mut self, whole: u64, count: u64) -> Result<(), FaultKind> {
        if count == 0 {
            // An address that is ignored need not be one.
            self.from.1 = self.to.1;
        }
        self.check(whole)?;
        let piece = whole.min(8);
        let mut offset = 0;
        while offset < whole {
            if offset + piece <= count {
                self.piece(offset, piece)?;
            } else {
                self.put(offset, piece, 0)?;
                for byte in offset..count.max(offset) {
                    self.piece(byte, 1)?;
                }
            }
            offset += piece;
        }
        Ok(())
    }

    fn bulk(&mut self, bytes: u64) -> Result<(), FaultKind> {
        self.check(16)?;
        if !bytes.is_multiple_of(16) {
            return Err(FaultKind::IllegalInstruction);
        }
        for offset in (0..bytes).step_by(8) {
            self.piece(offset, 8)?;
        }
        Ok(())
    }
}
