//! The way back: the worker asks the client to run host functions, print, and the like (D8).
//!
//! The same ring in the other direction, and a slot table for those who must know when the client is
//! done. An acknowledgement is one word, never a submission, so that a stream that waits for a host
//! function does not wait for anything in the ring. Nobody holds a lock while waiting.

#![forbid(unsafe_code)]

use thiserror::Error;

use crate::layout::{HeadLine, Layout};
use crate::memory::{OutOfBounds, Region, View};
use crate::record::{Flags, Head, Record, Request};
use crate::ring::{
    Consumer, Next, PlaceError, PostError, Producer, RingPlace, SharedProducer, Violation,
};
use crate::sync::{Mutex, Ordering};
use crate::wait::{Bell, Liveness, Patience, Woken};

/// Why a callback was not run to its end, as far as the worker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CallbackError {
    /// The ring did not take it.
    #[error(transparent)]
    Post(#[from] PostError),
    /// Every slot waits for an acknowledgement; the caller tries again later.
    #[error("every callback slot is waiting")]
    Busy,
    /// The client has ended.
    #[error("the client has ended")]
    Ended,
}

/// The place of the callback ring in a region.
pub fn ring_place(layout: &Layout) -> RingPlace {
    RingPlace {
        lines: layout.callback(),
        head: HeadLine::CallbackHead.word(),
        bell: HeadLine::CallbackBell.word(),
        space: HeadLine::CallbackSpace.word(),
    }
}

/// The worker's end.
#[derive(Debug)]
pub struct Callbacks<R> {
    ring: SharedProducer<R>,
    slots: View<R>,
    bells: Vec<Bell<R>>,
    free: Mutex<Vec<u16>>,
    patience: Patience,
}

impl<R: Region> Callbacks<R> {
    /// The worker's end of a region that nobody used yet.
    ///
    /// # Errors
    /// [`PlaceError`] if the region is smaller than the layout.
    pub fn new(region: &R, layout: &Layout, patience: Patience) -> Result<Self, PlaceError> {
        let slots = View::new(region, layout.callback_slots())?;
        let bells = layout.callback_slots().skip(1).step_by(2);
        let count = u16::try_from(slots.words().len() / 2).unwrap_or(u16::MAX);
        Ok(Self {
            ring: SharedProducer::new(Producer::new(region, &ring_place(layout), patience)?),
            slots,
            bells: bells
                .map(|word| Bell::new(region, word))
                .collect::<Result<_, _>>()?,
            free: Mutex::new((0..count).rev().collect()),
            patience,
        })
    }

    /// Asks the client to run something and does not wait for it.
    ///
    /// # Errors
    /// [`CallbackError::Post`].
    pub fn post<T: Request, L: Liveness>(
        &self,
        context: u16,
        request: &T,
        tail: &[&[u8]],
        live: &L,
    ) -> Result<(), CallbackError> {
        let head = Head {
            opcode: T::OPCODE,
            context,
            ..Head::default()
        };
        self.ring
            .post(head, zerocopy::IntoBytes::as_bytes(request), tail, live)?;
        Ok(())
    }

    /// Asks the client to run something and waits until it has.
    ///
    /// # Errors
    /// [`CallbackError`].
    pub fn call<T: Request, L: Liveness>(
        &self,
        context: u16,
        request: &T,
        tail: &[&[u8]],
        live: &L,
    ) -> Result<(), CallbackError> {
        let slot = self.free.lock().pop().ok_or(CallbackError::Busy)?;
        let done = self.call_in(slot, context, request, tail, live);
        self.free.lock().push(slot);
        done
    }

    fn call_in<T: Request, L: Liveness>(
        &self,
        slot: u16,
        context: u16,
        request: &T,
        tail: &[&[u8]],
        live: &L,
    ) -> Result<(), CallbackError> {
        let head = Head {
            opcode: T::OPCODE,
            flags: Flags::REPLY,
            lane: slot,
            context,
        };
        let body = zerocopy::IntoBytes::as_bytes(request);
        let sequence = self.ring.post(head, body, tail, live)?;
        let slot = usize::from(slot);
        let word = &self.slots.words()[2 * slot];
        // SYNC: pairs with the Release in `CallbackEnd::acknowledge`.
        let ready = || word.load(Ordering::Acquire) == sequence;
        match self.bells[slot].wait(&self.patience, live, ready) {
            Woken::Ready => Ok(()),
            Woken::Ended => Err(CallbackError::Ended),
        }
    }
}

/// The client's end: owned by the one thread that runs callbacks.
#[derive(Debug)]
pub struct CallbackEnd<R> {
    ring: Consumer<R>,
    slots: View<R>,
    bells: Vec<Bell<R>>,
}

impl<R: Region> CallbackEnd<R> {
    /// The client's end of a region that nobody used yet.
    ///
    /// # Errors
    /// [`PlaceError`] if the region is smaller than the layout.
    pub fn new(region: &R, layout: &Layout) -> Result<Self, PlaceError> {
        let bells = layout.callback_slots().skip(1).step_by(2);
        Ok(Self {
            ring: Consumer::new(region, &ring_place(layout))?,
            slots: View::new(region, layout.callback_slots())?,
            bells: bells
                .map(|word| Bell::new(region, word))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Waits for the next callback.
    ///
    /// # Errors
    /// [`Violation`] by the worker; the client treats it as gone.
    pub fn next<L: Liveness>(
        &mut self,
        into: &mut Record,
        patience: &Patience,
        live: &L,
    ) -> Result<Next, Violation> {
        self.ring.next(into, patience, live)
    }

    /// Says that a callback has run, if the worker wants to know.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the worker named a slot that does not exist: it broke the protocol.
    pub fn acknowledge(&self, record: &Record) -> Result<(), OutOfBounds> {
        let head = record.head();
        if !head.flags.contains(Flags::REPLY) {
            return Ok(());
        }
        let slot = usize::from(head.lane);
        let Some(bell) = self.bells.get(slot) else {
            return Err(OutOfBounds {
                at: slot,
                len: 1,
                size: self.bells.len(),
            });
        };
        // SYNC: pairs with the Acquire in `Callbacks::call_in`.
        self.slots.words()[2 * slot].store(record.sequence(), Ordering::Release);
        bell.ring();
        Ok(())
    }

    /// Wakes the thread in [`CallbackEnd::next`], so that it looks at its `live` again.
    pub fn waker(&self) -> Bell<R> {
        self.ring.waker()
    }
}
