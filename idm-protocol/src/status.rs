//! What the worker tells without being asked: latched errors, returned credits, signs of life.
//!
//! All of it is single words that the client reads with one load on its way through a call (D9,
//! D11). The client believes none of it further than its own process.

#![forbid(unsafe_code)]

mod output;
#[cfg(not(loom))]
mod page;

#[cfg(not(loom))]
pub use page::{ClientState, EndReason, StatusPage, StatusWriter};

pub use output::Output;

use crossbeam_utils::CachePadded;
use thiserror::Error;

use crate::layout::{HeadLine, Layout};
use crate::memory::{OutOfBounds, Region, View};
use crate::sync::{Ordering, Word};
use crate::wait::{Bell, Liveness, Patience, Woken};

/// Records that may be pending on one stream: below what makes the driver block (D9).
pub const STREAM_CREDITS: u64 = 512;

/// An error with its origin, as it is latched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latched {
    /// The driver's result; never 0.
    pub code: u32,
    /// Opcode of the record that the driver reported it on, or that caused it.
    pub opcode: u16,
}

impl Latched {
    fn pack(self) -> u64 {
        u64::from(self.code) | u64::from(self.opcode) << 32
    }

    fn unpack(word: u64) -> Option<Self> {
        let [c0, c1, c2, c3, o0, o1, ..] = word.to_le_bytes();
        let code = u32::from_le_bytes([c0, c1, c2, c3]);
        // A word without a code is nothing latched, whatever else it holds.
        (code != 0).then(|| Self {
            code,
            opcode: u16::from_le_bytes([o0, o1]),
        })
    }
}

/// The sticky word of each context and the once-word of each lane. Both sides use this type: the
/// worker latches and clears, the client looks and takes.
#[derive(Debug)]
pub struct Latches<R> {
    contexts: View<R>,
    lanes: View<R>,
}

impl<R: Region> Latches<R> {
    /// The latches of a region.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the region is smaller than the layout.
    pub fn new(region: &R, layout: &Layout) -> Result<Self, OutOfBounds> {
        Ok(Self {
            contexts: View::new(region, layout.contexts())?,
            lanes: View::new(region, layout.lane_latches())?,
        })
    }

    /// Worker: the context is lost, with this error. The first one stays. Slots that do not exist
    /// are ignored: they belong to no context.
    pub fn latch_context(&self, slot: u16, error: Latched) {
        latch(self.contexts.words().get(usize::from(slot)), error);
    }

    /// Worker: the slot belongs to a new context.
    pub fn clear_context(&self, slot: u16) {
        if let Some(word) = self.contexts.words().get(usize::from(slot)) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Client: the error that this context is lost with. One load.
    #[inline]
    pub fn context(&self, slot: u16) -> Option<Latched> {
        Latched::unpack(
            self.contexts
                .words()
                .get(usize::from(slot))?
                .load(Ordering::Relaxed),
        )
    }

    /// Client: the error of some context that is lost, for when the worker that knew more is gone.
    pub fn any_context(&self) -> Option<Latched> {
        let mut words = self.contexts.words().iter();
        words.find_map(|word| Latched::unpack(word.load(Ordering::Relaxed)))
    }

    /// Worker: a posted call of this lane failed; its thread shall hear of it once. If it has not
    /// heard of an earlier one yet, that one stays.
    pub fn latch_lane(&self, lane: u16, error: Latched) {
        latch(self.lanes.words().get(usize::from(lane)), error);
    }

    /// Client: the error that this lane's thread has not heard of. One load where there is none.
    #[inline]
    pub fn take_lane(&self, lane: u16) -> Option<Latched> {
        let word = self.lanes.words().get(usize::from(lane))?;
        if word.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Latched::unpack(word.swap(0, Ordering::Relaxed))
    }
}

/// Relaxed throughout: the word is all there is to see. Whoever needs it ordered with a call gets
/// that from the call's reply.
fn latch(word: Option<&Word>, error: Latched) {
    if let Some(word) = word {
        let _ = word.compare_exchange(0, error.pack(), Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Why a poster got no credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CreditError {
    /// There is no such stream slot: a mistake of the caller's.
    #[error("there is no stream slot {0}")]
    NoStream(usize),
    /// The worker has ended.
    #[error("the worker has ended")]
    Ended,
    /// The worker returned more than was taken: it broke the protocol and counts as gone.
    #[error("the worker returned {returned} credits of {taken} on stream slot {slot}")]
    Overpaid {
        /// The stream's slot.
        slot: usize,
        /// What it returned since the beginning.
        returned: u64,
        /// What was taken since the beginning.
        taken: u64,
    },
}

/// The client's view of the streams' credits. Counts are since the beginning and go on when a slot
/// gets a new stream.
#[derive(Debug)]
pub struct Credits<R> {
    streams: View<R>,
    bells: Vec<Bell<R>>,
    taken: Vec<CachePadded<Word>>,
    patience: Patience,
}

impl<R: Region> Credits<R> {
    /// The credits of a region that nobody used yet.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the region is smaller than the layout.
    pub fn new(region: &R, layout: &Layout, patience: Patience) -> Result<Self, OutOfBounds> {
        let streams = View::new(region, layout.streams())?;
        Ok(Self {
            bells: stream_bells(region, layout)?,
            taken: (0..streams.words().len() / 2)
                .map(|_| CachePadded::default())
                .collect(),
            streams,
            patience,
        })
    }

    /// Takes one credit of a stream; waits while none is left. Call it before taking the ring's
    /// lock (D9).
    ///
    /// # Errors
    /// [`CreditError`]; no credit was taken then.
    #[inline]
    pub fn take<L: Liveness>(&self, slot: usize, live: &L) -> Result<(), CreditError> {
        while !self.try_take(slot)? {
            let returned_word = &self.streams.words()[2 * slot];
            let returned = returned_word.load(Ordering::Relaxed);
            if self.outstanding(slot, returned) < STREAM_CREDITS {
                continue;
            }
            let ready = || returned_word.load(Ordering::Relaxed) != returned;
            if self.bells[slot].wait(&self.patience, live, ready) == Woken::Ended {
                return Err(CreditError::Ended);
            }
        }
        Ok(())
    }

    /// Takes one credit of a stream if one is left; tells whether it did.
    ///
    /// # Errors
    /// [`CreditError`]; no credit was taken then.
    #[inline]
    pub fn try_take(&self, slot: usize) -> Result<bool, CreditError> {
        let taken_word = self.taken.get(slot).ok_or(CreditError::NoStream(slot))?;
        let returned_word = &self.streams.words()[2 * slot];
        loop {
            // Before `taken`: what was returned was taken earlier, and the chain from the taker
            // through the ring to the worker and back makes that visible here.
            // SYNC: pairs with the Release in `CreditReturns::add`.
            let returned = returned_word.load(Ordering::Acquire);
            let taken = taken_word.load(Ordering::Relaxed);
            if returned > taken {
                return Err(CreditError::Overpaid {
                    slot,
                    returned,
                    taken,
                });
            }
            if taken - returned >= STREAM_CREDITS {
                return Ok(false);
            }
            let order = Ordering::Relaxed;
            let one_more = taken_word.compare_exchange(taken, taken + 1, order, order);
            if one_more.is_ok() {
                return Ok(true);
            }
        }
    }

    fn outstanding(&self, slot: usize, returned: u64) -> u64 {
        let taken = self
            .taken
            .get(slot)
            .map_or(0, |taken| taken.load(Ordering::Relaxed));
        taken.saturating_sub(returned)
    }

    /// Takes back a credit for a record that was not posted after all.
    pub fn refund(&self, slot: usize) {
        if let Some(taken) = self.taken.get(slot) {
            taken.fetch_add(u64::MAX, Ordering::Relaxed);
        }
    }
}

/// The worker's side of the streams' credits.
#[derive(Debug)]
pub struct CreditReturns<R> {
    streams: View<R>,
    bells: Vec<Bell<R>>,
    returned: Vec<Word>,
}

impl<R: Region> CreditReturns<R> {
    /// The credits of a region that nobody used yet.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the region is smaller than the layout.
    pub fn new(region: &R, layout: &Layout) -> Result<Self, OutOfBounds> {
        let streams = View::new(region, layout.streams())?;
        Ok(Self {
            bells: stream_bells(region, layout)?,
            returned: (0..streams.words().len() / 2)
                .map(|_| Word::new(0))
                .collect(),
            streams,
        })
    }

    /// Returns `count` credits of a stream and wakes who waits for them. Slots that do not exist are
    /// ignored. The count is kept in private memory; the client only ever sees a copy.
    pub fn add(&self, slot: usize, count: u64) {
        let Some(returned) = self.returned.get(slot) else {
            return;
        };
        let sum = returned
            .fetch_add(count, Ordering::Relaxed)
            .wrapping_add(count);
        // Two threads may store in the wrong order: then the later stream event corrects it, or a
        // waiter sees a smaller count for that long. They never do: one thread serves a stream.
        // SYNC: pairs with the Acquire in `Credits::take`.
        self.streams.words()[2 * slot].store(sum, Ordering::Release);
        self.bells[slot].ring();
    }
}

fn stream_bells<R: Region>(region: &R, layout: &Layout) -> Result<Vec<Bell<R>>, OutOfBounds> {
    layout
        .streams()
        .skip(1)
        .step_by(2)
        .map(|word| Bell::new(region, word))
        .collect()
}

/// The client's question whether the worker process runs at all.
#[derive(Debug)]
pub struct Ping<R> {
    ping: View<R>,
    pong: View<R>,
    worker: Bell<R>,
    client: Bell<R>,
}

impl<R: Region> Ping<R> {
    /// The ping words of a region.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the region has no head page.
    pub fn new(region: &R) -> Result<Self, OutOfBounds> {
        let word = |line: HeadLine| line.word()..line.word() + 1;
        Ok(Self {
            ping: View::new(region, word(HeadLine::Ping))?,
            pong: View::new(region, word(HeadLine::Pong))?,
            worker: Bell::new(region, HeadLine::PingBell.word())?,
            client: Bell::new(region, HeadLine::PongBell.word())?,
        })
    }

    /// Asks. Returns what [`Ping::answered`] and [`Ping::wait`] want to know.
    pub fn ask(&self) -> u64 {
        let question = self.ping.words()[0]
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1);
        self.worker.ring();
        question
    }

    /// Whether that question, or a later one, was answered.
    pub fn answered(&self, question: u64) -> bool {
        let pong = self.pong.words()[0].load(Ordering::Relaxed);
        // Not `>=`: counts that a liar wrote may be anything; the distance of honest ones is small.
        pong.wrapping_sub(question) < u64::MAX / 2
    }

    /// Waits for the answer. With a [`Deadline`](crate::wait::Deadline) for `live`, at most so long.
    pub fn wait<L: Liveness>(&self, question: u64, patience: &Patience, live: &L) -> Woken {
        self.client.wait(patience, live, || self.answered(question))
    }

    /// Worker: answers until `live` ends; its thread sleeps in between. `live` without slices needs
    /// [`Ping::waker`] rung when it ends.
    pub fn serve<L: Liveness>(&self, live: &L) {
        let mut last = 0;
        let patience = Patience::none();
        loop {
            let ping = &self.ping.words()[0];
            let ready = || ping.load(Ordering::Relaxed) != last;
            if self.worker.wait(&patience, live, ready) == Woken::Ended {
                return;
            }
            last = ping.load(Ordering::Relaxed);
            self.pong.words()[0].store(last, Ordering::Relaxed);
            self.client.ring();
        }
    }

    /// Wakes the thread in [`Ping::serve`].
    pub fn waker(&self) -> Bell<R> {
        self.worker.clone()
    }
}
