//! The bulk pipe: one lane's large transfers, through chunks of staging.
//!
//! A blocking record names the chunks that the transfer may use. Then the client's thread and the
//! lane's worker thread work at the same time: the filling side puts piece after piece of the
//! transfer into the chunks, in turn, and the draining side empties them in the same order. Two
//! words carry all of it: how many pieces have been filled, and how many drained. The record's reply
//! ends the transfer; what the pipe itself says is only how far it has come.
//!
//! Into the worker the client fills and the worker drains; out of it, the other way round. Either
//! side may keep several pieces in hand (a device copies them meanwhile): it claims or takes ahead and
//! publishes later, in order.
//!
//! A counter holds the low half of the record's sequence above the count, so that a word left by an
//! earlier transfer says nothing to this one; the client also clears both before it posts. A counter
//! of the other side is copied once and must grow within what is possible, or the transfer ends with a
//! [`Breach`]. A side that cannot go on closes its counter; the other then stops waiting and looks at
//! the reply.

#![forbid(unsafe_code)]

use thiserror::Error;

use crate::layout::{CHUNK_BYTES, LINE_BYTES, LINE_WORDS, PAGE_BYTES};
use crate::memory::{OutOfBounds, Region, View};
use crate::sync::Ordering;
use crate::wait::{Bell, Liveness, Patience, Woken};

/// Words that a lane sets aside for its pipe: a line each for the two counters and their two bells.
pub const PIPE_WORDS: usize = 4 * LINE_WORDS;

/// Bytes of a piece: a chunk, less the page within which a transfer chooses where its pieces start.
pub const PIECE_BYTES: usize = CHUNK_BYTES - PAGE_BYTES;

/// Most chunks that one transfer may use: more do not make it faster.
pub const MOST_CHUNKS: usize = 16;

/// The count that says that a side will not go on.
const CLOSED: u32 = u32::MAX;

/// Most pieces a transfer can have.
const MOST_PIECES: u64 = 1 << 31;

/// How a transfer is cut: which chunks it uses, and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    bytes: u64,
    pieces: u32,
    chunks: [u32; MOST_CHUNKS],
    chunk_count: u32,
    skew: u32,
}

/// A transfer cannot be cut like that. From a client this is its violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// No chunk, or more than [`MOST_CHUNKS`].
    #[error("a transfer uses 1 to {MOST_CHUNKS} chunks of staging, not {0}")]
    Count(usize),
    /// A chunk that staging does not have.
    #[error("chunk {index} of {staging}")]
    Chunk {
        /// The index.
        index: u32,
        /// Chunks there are.
        staging: u32,
    },
    /// A chunk named twice.
    #[error("chunk {0} is named twice")]
    Twice(u32),
    /// Nothing to move, or more than the counters can count.
    #[error("a transfer of {0} bytes is not possible")]
    Bytes(u64),
    /// Pieces that would not start at a line of their chunk's first page.
    #[error("pieces start at a line of a chunk's first page, not at byte {0}")]
    Skew(u32),
}

impl Plan {
    /// A transfer of `bytes` through `chunks`, out of `staging` chunks that there are.
    ///
    /// # Errors
    /// [`PlanError`] says what is wrong.
    pub fn new(bytes: u64, chunks: &[u32], staging: u32) -> Result<Self, PlanError> {
        let chunk_count = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        if chunks.is_empty() || chunks.len() > MOST_CHUNKS {
            return Err(PlanError::Count(chunks.len()));
        }
        for (at, &index) in chunks.iter().enumerate() {
            if index >= staging {
                return Err(PlanError::Chunk { index, staging });
            }
            if chunks[..at].contains(&index) {
                return Err(PlanError::Twice(index));
            }
        }
        let pieces = bytes.div_ceil(PIECE_BYTES as u64);
        if pieces == 0 || pieces > MOST_PIECES {
            return Err(PlanError::Bytes(bytes));
        }
        let pieces = u32::try_from(pieces).map_err(|_| PlanError::Bytes(bytes))?;
        let mut list = [0; MOST_CHUNKS];
        list[..chunks.len()].copy_from_slice(chunks);
        Ok(Self {
            bytes,
            pieces,
            chunks: list,
            chunk_count,
            skew: 0,
        })
    }

    /// The same with pieces that start `skew` bytes into their chunks; see [`skew_between`].
    ///
    /// # Errors
    /// [`PlanError::Skew`].
    pub fn skewed(self, skew: u32) -> Result<Self, PlanError> {
        let line = LINE_BYTES as u64;
        if u64::from(skew) >= PAGE_BYTES as u64 || !u64::from(skew).is_multiple_of(line) {
            return Err(PlanError::Skew(skew));
        }
        Ok(Self { skew, ..self })
    }

    /// Bytes of the whole transfer.
    pub fn byte_len(&self) -> u64 {
        self.bytes
    }

    /// Pieces it is cut into.
    pub fn piece_count(&self) -> u32 {
        self.pieces
    }

    /// The chunks it uses.
    pub fn chunks(&self) -> &[u32] {
        // At most `MOST_CHUNKS`, checked by `new`.
        &self.chunks[..self.chunk_count as usize]
    }

    fn piece(&self, number: u32) -> Piece {
        let offset = u64::from(number) * PIECE_BYTES as u64;
        let rest = self.bytes - offset;
        Piece {
            chunk: self.chunks[(number % self.chunk_count) as usize],
            // Less than a page.
            start: self.skew as usize,
            offset,
            len: usize::try_from(rest).unwrap_or(usize::MAX).min(PIECE_BYTES),
        }
    }
}

/// Where in their chunks the pieces of a transfer from one address to another should start.
///
/// A processor that copies to an address a few bytes above the source's, within their pages, takes each
/// of its loads for dependent on a store just made, and copies several times slower. Both copies of a
/// transfer, into the chunk and out of it, are kept clear of that.
pub fn skew_between(from: u64, to: u64) -> u32 {
    const PAGE: u64 = PAGE_BYTES as u64;
    const CLEAR: u64 = 4 * LINE_BYTES as u64;
    let line = from % PAGE / LINE_BYTES as u64 * LINE_BYTES as u64;
    [PAGE / 2, PAGE / 4, 3 * PAGE / 4]
        .map(|ahead| (line + ahead) % PAGE)
        .into_iter()
        .find(|skew| (CLEAR..=PAGE - CLEAR).contains(&((to % PAGE + PAGE - skew) % PAGE)))
        .and_then(|skew| u32::try_from(skew).ok())
        .unwrap_or(0)
}

/// One piece of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The chunk of staging it goes through.
    pub chunk: u32,
    /// Its first byte in the chunk.
    pub start: usize,
    /// Where it lies in the transfer.
    pub offset: u64,
    /// Its bytes.
    pub len: usize,
}

/// Why a transfer does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Breach {
    /// The other process has ended.
    #[error("the other side has ended")]
    Ended,
    /// The other side gave up; the reply says why.
    #[error("the other side gave up the transfer")]
    Closed,
    /// The other side's counter went where no honest one goes: its violation.
    #[error("the other side's counter says {found}; possible are {least} to {most}")]
    Counter {
        /// What it says.
        found: u32,
        /// What it said before.
        least: u32,
        /// What it can say at most.
        most: u32,
    },
}

/// One lane's pipe.
#[derive(Clone, Debug)]
pub struct Pipe<R> {
    filled: View<R>,
    drained: View<R>,
    filled_bell: Bell<R>,
    drained_bell: Bell<R>,
}

impl<R: Region> Pipe<R> {
    /// The pipe in the [`PIPE_WORDS`] words of `region` from word `start`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the region ends before.
    pub fn new(region: &R, start: usize) -> Result<Self, OutOfBounds> {
        let line = |line: usize| start.saturating_add(line * LINE_WORDS);
        let word = |at: usize| View::new(region, at..at.saturating_add(1));
        Ok(Self {
            filled: word(line(0))?,
            drained: word(line(1))?,
            filled_bell: Bell::new(region, line(2))?,
            drained_bell: Bell::new(region, line(3))?,
        })
    }

    /// Clears the counters: the client, before it posts the record.
    pub fn reset(&self) {
        // The record's own release publishes this to the worker.
        self.filled.words()[0].store(0, Ordering::Relaxed);
        self.drained.words()[0].store(0, Ordering::Relaxed);
    }

    /// Worker: gives up the transfer that the record with this sequence announces, before it has begun. The reply
    /// says why.
    pub fn refuse(&self, sequence: u64) {
        let closed = tag(sequence) << 32 | u64::from(CLOSED);
        let ends = [
            (&self.filled, &self.filled_bell),
            (&self.drained, &self.drained_bell),
        ];
        for (counter, bell) in ends {
            // SYNC: pairs with the Acquire in `look`.
            counter.words()[0].store(closed, Ordering::Release);
            bell.ring();
        }
    }

    /// The filling side of the transfer that the record with this sequence announces.
    pub fn fill(&self, sequence: u64, plan: Plan) -> Filler<R> {
        let filled = (&self.filled, &self.filled_bell);
        Filler(End::new(
            filled,
            (&self.drained, &self.drained_bell),
            sequence,
            plan,
        ))
    }

    /// The draining side of the transfer that the record with this sequence announces.
    pub fn drain(&self, sequence: u64, plan: Plan) -> Drainer<R> {
        let drained = (&self.drained, &self.drained_bell);
        Drainer(End::new(
            drained,
            (&self.filled, &self.filled_bell),
            sequence,
            plan,
        ))
    }
}

/// The filling side of a transfer.
#[derive(Debug)]
pub struct Filler<R>(End<R>);

impl<R: Region> Filler<R> {
    /// The next piece to fill, once its chunk is free. `None`: every piece has been claimed.
    ///
    /// # Errors
    /// [`Breach`] ends the transfer.
    pub fn claim<L: Liveness>(
        &mut self,
        patience: &Patience,
        live: &L,
    ) -> Result<Option<Piece>, Breach> {
        let slots = self.0.plan.chunk_count;
        self.0.next(
            |end| end.ahead - end.seen < slots,
            |end| end.done,
            Some((patience, live)),
        )
    }

    /// [`Filler::claim`] without waiting: `None` also if no chunk is free yet.
    ///
    /// # Errors
    /// [`Breach`] ends the transfer.
    pub fn try_claim(&mut self) -> Result<Option<Piece>, Breach> {
        let slots = self.0.plan.chunk_count;
        self.0.next::<crate::wait::Immortal>(
            |end| end.ahead - end.seen < slots,
            |end| end.done,
            None,
        )
    }

    /// The oldest claimed piece is in its chunk.
    pub fn publish(&mut self) {
        self.0.publish();
    }

    /// Whether every piece was published.
    pub fn finished(&self) -> bool {
        self.0.done == self.0.plan.pieces
    }

    /// Gives up; the reply says why.
    pub fn close(self) {
        self.0.close();
    }
}

/// The draining side of a transfer.
#[derive(Debug)]
pub struct Drainer<R>(End<R>);

impl<R: Region> Drainer<R> {
    /// The next piece to drain, once it is filled. `None`: every piece has been taken.
    ///
    /// # Errors
    /// [`Breach`] ends the transfer.
    pub fn take<L: Liveness>(
        &mut self,
        patience: &Patience,
        live: &L,
    ) -> Result<Option<Piece>, Breach> {
        self.0.next(
            |end| end.ahead < end.seen,
            End::fillable,
            Some((patience, live)),
        )
    }

    /// [`Drainer::take`] without waiting: `None` also if the next piece is not filled yet.
    ///
    /// # Errors
    /// [`Breach`] ends the transfer.
    pub fn try_take(&mut self) -> Result<Option<Piece>, Breach> {
        self.0
            .next::<crate::wait::Immortal>(|end| end.ahead < end.seen, End::fillable, None)
    }

    /// The oldest taken piece has left its chunk.
    pub fn release(&mut self) {
        self.0.publish();
    }

    /// Whether every piece was released.
    pub fn finished(&self) -> bool {
        self.0.done == self.0.plan.pieces
    }

    /// Gives up; the reply says why.
    pub fn close(self) {
        self.0.close();
    }
}

/// What both sides share: a counter to write, one to watch, and three counts.
#[derive(Debug)]
struct End<R> {
    mine: View<R>,
    theirs: View<R>,
    ring: Bell<R>,
    wait: Bell<R>,
    tag: u64,
    plan: Plan,
    /// Pieces claimed or taken.
    ahead: u32,
    /// Pieces published or released.
    done: u32,
    /// Pieces the other side has done, as far as we have looked.
    seen: u32,
}

impl<R: Region> End<R> {
    /// The side that counts in one word and watches the other, at the transfer's beginning.
    fn new(
        (mine, ring): (&View<R>, &Bell<R>),
        (theirs, wait): (&View<R>, &Bell<R>),
        sequence: u64,
        plan: Plan,
    ) -> Self {
        Self {
            mine: mine.clone(),
            theirs: theirs.clone(),
            ring: ring.clone(),
            wait: wait.clone(),
            tag: tag(sequence),
            plan,
            ahead: 0,
            done: 0,
            seen: 0,
        }
    }

    /// What an honest filling side can have filled at most.
    fn fillable(&self) -> u32 {
        self.done
            .saturating_add(self.plan.chunk_count)
            .min(self.plan.pieces)
    }

    fn next<L: Liveness>(
        &mut self,
        possible: impl Fn(&Self) -> bool,
        most: impl Fn(&Self) -> u32,
        wait: Option<(&Patience, &L)>,
    ) -> Result<Option<Piece>, Breach> {
        if self.ahead == self.plan.pieces {
            return Ok(None);
        }
        while !possible(self) {
            if self.look(most(self))? {
                continue;
            }
            let Some((patience, live)) = wait else {
                return Ok(None);
            };
            let (word, tag, seen) = (&self.theirs.words()[0], self.tag, self.seen);
            // Any movement of this transfer's counter is worth a proper look.
            let moved = || {
                let value = word.load(Ordering::Relaxed);
                value >> 32 == tag && value & u64::from(u32::MAX) != u64::from(seen)
            };
            if self.wait.wait(patience, live, moved) == Woken::Ended {
                return Err(Breach::Ended);
            }
        }
        let piece = self.plan.piece(self.ahead);
        self.ahead += 1;
        Ok(Some(piece))
    }

    /// Copies the other side's counter once. Whether it has moved.
    fn look(&mut self, most: u32) -> Result<bool, Breach> {
        // SYNC: pairs with the Release in `publish`: what the other side did to the chunks before it
        // counted them happens before we use them.
        let value = self.theirs.words()[0].load(Ordering::Acquire);
        if value >> 32 != self.tag {
            // An earlier transfer's, or the cleared word: this one has not begun over there.
            return Ok(false);
        }
        let found = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(CLOSED);
        if found == CLOSED {
            return Err(Breach::Closed);
        }
        if found < self.seen || found > most {
            return Err(Breach::Counter {
                found,
                least: self.seen,
                most,
            });
        }
        let moved = found != self.seen;
        self.seen = found;
        Ok(moved)
    }

    fn publish(&mut self) {
        debug_assert!(self.done < self.ahead, "published before it was claimed");
        self.done += 1;
        self.store(self.done);
    }

    fn close(self) {
        self.store(CLOSED);
    }

    fn store(&self, count: u32) {
        // SYNC: pairs with the Acquire in `look`.
        self.mine.words()[0].store(self.tag << 32 | u64::from(count), Ordering::Release);
        self.ring.ring();
    }
}

/// What tells this transfer's counters from an earlier one's.
fn tag(sequence: u64) -> u64 {
    sequence & u64::from(u32::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memory::{Heap, Memory};
    use crate::wait::{Immortal, StopFlag};
    use proptest::prelude::*;

    const PIECE: u64 = PIECE_BYTES as u64;

    fn pipe() -> (Heap, Pipe<Heap>) {
        let heap = Heap::zeroed(PIPE_WORDS);
        let pipe = Pipe::new(&heap, 0).unwrap();
        (heap, pipe)
    }

    fn plan(bytes: u64, chunks: &[u32]) -> Plan {
        Plan::new(bytes, chunks, 64).unwrap()
    }

    #[test]
    fn a_plan_names_each_mistake() {
        assert_eq!(Plan::new(1, &[], 4), Err(PlanError::Count(0)));
        assert_eq!(Plan::new(1, &[0; 17], 4), Err(PlanError::Count(17)));
        assert_eq!(
            Plan::new(1, &[1, 4], 4),
            Err(PlanError::Chunk {
                index: 4,
                staging: 4
            })
        );
        assert_eq!(Plan::new(1, &[1, 2, 1], 4), Err(PlanError::Twice(1)));
        assert_eq!(Plan::new(0, &[1], 4), Err(PlanError::Bytes(0)));
        assert_eq!(
            Plan::new(u64::MAX, &[1], 4),
            Err(PlanError::Bytes(u64::MAX))
        );
    }

    #[test]
    fn pieces_go_round_the_chunks_and_the_last_is_short() {
        let plan = plan(2 * PIECE + 5, &[7, 3]);
        assert_eq!(plan.piece_count(), 3);
        assert_eq!(
            plan.piece(0),
            Piece {
                chunk: 7,
                start: 0,
                offset: 0,
                len: PIECE_BYTES
            }
        );
        assert_eq!(
            plan.piece(1),
            Piece {
                chunk: 3,
                start: 0,
                offset: PIECE,
                len: PIECE_BYTES
            }
        );
        assert_eq!(
            plan.piece(2),
            Piece {
                chunk: 7,
                start: 0,
                offset: 2 * PIECE,
                len: 5
            }
        );
    }

    #[test]
    fn a_filler_waits_for_a_free_chunk_and_a_drainer_for_a_full_one() {
        let (_heap, pipe) = pipe();
        let plan = plan(3 * PIECE, &[0, 1]);
        let mut filler = pipe.fill(9, plan.clone());
        let mut drainer = pipe.drain(9, plan);
        assert_eq!(drainer.try_take().unwrap(), None);
        assert_eq!(filler.try_claim().unwrap().unwrap().chunk, 0);
        assert_eq!(filler.try_claim().unwrap().unwrap().chunk, 1);
        assert_eq!(filler.try_claim().unwrap(), None);
        assert_eq!(drainer.try_take().unwrap(), None);
        filler.publish();
        filler.publish();
        assert_eq!(drainer.try_take().unwrap().unwrap().chunk, 0);
        assert_eq!(filler.try_claim().unwrap(), None);
        drainer.release();
        assert_eq!(filler.try_claim().unwrap().unwrap().offset, 2 * PIECE);
        filler.publish();
        assert!(filler.finished());
        assert_eq!(filler.try_claim().unwrap(), None);
        assert_eq!(drainer.try_take().unwrap().unwrap().chunk, 1);
        assert_eq!(drainer.try_take().unwrap().unwrap().chunk, 0);
        drainer.release();
        drainer.release();
        assert!(drainer.finished());
        assert_eq!(drainer.try_take().unwrap(), None);
    }

    #[test]
    fn counters_of_an_earlier_transfer_say_nothing() {
        let (_heap, pipe) = pipe();
        let mut filler = pipe.fill(1, plan(PIECE, &[0]));
        filler.try_claim().unwrap();
        filler.publish();
        let mut drainer = pipe.drain(2, plan(PIECE, &[0]));
        assert_eq!(drainer.try_take().unwrap(), None);
        pipe.reset();
        let mut drainer = pipe.drain(1, plan(PIECE, &[0]));
        assert_eq!(drainer.try_take().unwrap(), None);
    }

    #[test]
    fn a_lying_counter_is_named_and_never_followed() {
        let (heap, pipe) = pipe();
        let mut drainer = pipe.drain(5, plan(9 * PIECE, &[0, 1]));
        let say = |count: u64| heap.words()[0].store(5 << 32 | count, Ordering::Relaxed);
        say(3);
        let breach = Breach::Counter {
            found: 3,
            least: 0,
            most: 2,
        };
        assert_eq!(drainer.try_take(), Err(breach));
        say(2);
        assert!(drainer.try_take().unwrap().is_some());
        say(1);
        assert!(
            drainer.try_take().unwrap().is_some(),
            "what was seen stays seen"
        );
        assert_eq!(
            drainer.try_take(),
            Err(Breach::Counter {
                found: 1,
                least: 2,
                most: 2
            })
        );
        let mut filler = pipe.fill(5, plan(9 * PIECE, &[0]));
        filler.try_claim().unwrap();
        heap.words()[LINE_WORDS].store(5 << 32 | 1, Ordering::Relaxed);
        let breach = Breach::Counter {
            found: 1,
            least: 0,
            most: 0,
        };
        assert_eq!(filler.try_claim(), Err(breach));
    }

    #[test]
    fn closing_and_ending_stop_the_other_side() {
        let (_heap, pipe) = pipe();
        let mut filler = pipe.fill(5, plan(3 * PIECE, &[0]));
        pipe.drain(5, plan(3 * PIECE, &[0])).close();
        filler.try_claim().unwrap();
        assert_eq!(
            filler.claim(&Patience::none(), &Immortal),
            Err(Breach::Closed)
        );
        let mut drainer = pipe.drain(6, plan(3 * PIECE, &[0]));
        let stop = StopFlag::new();
        stop.raise();
        assert_eq!(drainer.take(&Patience::none(), &stop), Err(Breach::Ended));
    }

    /// Both sides on threads, several pieces in hand, the content carried in plain words.
    fn stream(pieces: u64, chunks: &[u32], hand: usize, patience: Patience) {
        let heap = Heap::zeroed(PIPE_WORDS + 64);
        let pipe = Pipe::new(&heap, 0).unwrap();
        let plan = plan((pieces - 1) * PIECE + 1, chunks);
        let word = |piece: Piece| &heap.words()[PIPE_WORDS + piece.chunk as usize];
        let mut filler = pipe.fill(77, plan.clone());
        let mut drainer = pipe.drain(77, plan);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while let Some(piece) = filler.claim(&patience, &Immortal).unwrap() {
                    word(piece).store(piece.offset + 1, Ordering::Relaxed);
                    filler.publish();
                }
                assert!(filler.finished());
            });
            let mut held = std::collections::VecDeque::new();
            let mut expected = 0;
            while let Some(piece) = drainer.take(&patience, &Immortal).unwrap() {
                held.push_back(piece);
                if held.len() >= hand {
                    let piece = held.pop_front().unwrap();
                    assert_eq!(piece.offset, expected);
                    assert_eq!(word(piece).load(Ordering::Relaxed), expected + 1);
                    expected += PIECE;
                    drainer.release();
                }
            }
        });
    }

    #[test]
    fn every_piece_arrives_in_order_whether_the_sides_spin_or_sleep() {
        let count = if cfg!(miri) { 20 } else { 20_000 };
        stream(count, &[0, 1, 2, 3], 2, Patience::detect());
        stream(count / 10, &[5, 2, 9], 3, Patience::none());
        stream(count / 10, &[5], 1, Patience::none());
    }

    #[test]
    fn a_skew_keeps_both_copies_clear_of_a_page_offset_just_above_the_source() {
        let step = if cfg!(miri) { 1360 } else { 16 };
        for from in (0..4096).step_by(step) {
            for to in (0..4096).step_by(step) {
                let skew = u64::from(skew_between(from, to));
                let plan = plan(1, &[0]).skewed(u32::try_from(skew).unwrap()).unwrap();
                assert_eq!(plan.piece(0).start as u64, skew);
                for ahead in [(4096 + skew - from) % 4096, (4096 + to - skew) % 4096] {
                    assert!((64..=4096 - 64).contains(&ahead), "{from} {to} {skew}");
                }
            }
        }
        for skew in [4096, 1, u32::MAX] {
            assert_eq!(plan(1, &[0]).skewed(skew), Err(PlanError::Skew(skew)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, ..ProptestConfig::default() })]
        #[test]
        fn a_plan_covers_every_byte_once(bytes in 1u64..40_000_000, chunks in 1usize..=16) {
            let chunks: Vec<u32> = (0..).take(chunks).collect();
            let plan = plan(bytes, &chunks);
            let mut end = 0;
            for number in 0..plan.piece_count() {
                let piece = plan.piece(number);
                prop_assert_eq!(piece.offset, end);
                prop_assert!(piece.len > 0 && piece.len <= PIECE_BYTES);
                end += piece.len as u64;
            }
            prop_assert_eq!(end, bytes);
        }

        #[test]
        fn arbitrary_counters_never_yield_a_piece_out_of_turn(values in prop::collection::vec(any::<u64>(), 1..50)) {
            let (heap, pipe) = pipe();
            let mut drainer = pipe.drain(5, plan(9 * PIECE, &[0, 1]));
            let mut next = 0;
            for value in values {
                let value = if value & 1 == 0 { (5 << 32) | ((value >> 1) % 12) } else { value };
                heap.words()[0].store(value, Ordering::Relaxed);
                if let Ok(Some(piece)) = drainer.try_take() {
                    prop_assert_eq!(piece.offset, next);
                    next += PIECE;
                    drainer.release();
                }
            }
        }
    }
}
