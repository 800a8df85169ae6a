//! Staging: chunks at the start of the arena that pageable copies go through (D13).
//!
//! Which chunk is free is the client's private knowledge. A chunk that went along with a request
//! that is answered comes back with the reply ([`StagingPool::put`]). One that went along with a
//! posted request ([`StagingPool::lend`]) comes back when the worker stores the chunk's ticket in
//! its release word, once its copy is complete.

#![forbid(unsafe_code)]

use std::ops::Range;

use thiserror::Error;

use crate::layout::{CHUNK_BYTES, HeadLine, Layout};
use crate::memory::{OutOfBounds, Region, View};
use crate::sync::{Mutex, Ordering};
use crate::wait::{Bell, Liveness, Patience, Woken};

/// A chunk of staging that its holder may fill. To be put back or lent; one that is dropped is lost
/// until the process ends.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Chunk {
    index: u32,
    ticket: u64,
}

impl Chunk {
    /// Its number, as it goes into a record.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// What the worker stores to release it, as it goes into a record.
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// Its bytes, counted from the start of the arena.
    pub fn bytes(&self) -> Range<usize> {
        // The layout bounds the index: its chunks lie in an arena that is mapped.
        chunk_bytes(self.index)
    }
}

/// The wait for a chunk ended because the worker did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the worker has ended")]
pub struct Ended;

/// The client's chunks.
#[derive(Debug)]
pub struct StagingPool<R> {
    releases: View<R>,
    bell: Bell<R>,
    patience: Patience,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: Vec<u32>,
    lent: Vec<Chunk>,
    next_ticket: u64,
}

impl<R: Region> StagingPool<R> {
    /// All chunks of a region that nobody used yet.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the region is smaller than the layout.
    pub fn new(region: &R, layout: &Layout, patience: Patience) -> Result<Self, OutOfBounds> {
        let free = (0..layout.limits().staging_chunks).rev().collect();
        Ok(Self {
            releases: View::new(region, layout.staging())?,
            bell: Bell::new(region, HeadLine::StagingBell.word())?,
            patience,
            state: Mutex::new(State {
                free,
                lent: Vec::new(),
                next_ticket: 1,
            }),
        })
    }

    /// A chunk; waits while all are in use. A thread that holds a chunk asks with
    /// [`StagingPool::try_take`] for another, or threads could wait for each other's.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn take<L: Liveness>(&self, live: &L) -> Result<Chunk, Ended> {
        let mut chunk = None;
        let ready = || {
            chunk = self.try_take();
            chunk.is_some()
        };
        match self.bell.wait(&self.patience, live, ready) {
            Woken::Ready => chunk.ok_or(Ended),
            Woken::Ended => Err(Ended),
        }
    }

    /// A chunk, if one is free now.
    pub fn try_take(&self) -> Option<Chunk> {
        let mut state = self.state.lock();
        if state.free.is_empty() {
            self.reclaim(&mut state);
        }
        let index = state.free.pop()?;
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        Some(Chunk { index, ticket })
    }

    /// Takes back a chunk that the worker has no claim on: never sent, or answered.
    pub fn put(&self, chunk: Chunk) {
        self.state.lock().free.push(chunk.index);
        self.bell.ring();
    }

    /// Takes note that a chunk went along with a posted record; the worker will release it.
    pub fn lend(&self, chunk: Chunk) {
        self.state.lock().lent.push(chunk);
    }

    /// Chunks that are free, after looking which were released.
    pub fn free_count(&self) -> usize {
        let mut state = self.state.lock();
        self.reclaim(&mut state);
        state.free.len()
    }

    fn reclaim(&self, state: &mut State) {
        let words = self.releases.words();
        let State { free, lent, .. } = state;
        lent.retain(|chunk| {
            let index = usize::try_from(chunk.index).unwrap_or(usize::MAX);
            // SYNC: pairs with the Release in `StagingReturns::release`: the worker has read the
            // chunk before we fill it again. Equality: other values release nothing.
            let held = words
                .get(index)
                .is_none_or(|word| word.load(Ordering::Acquire) != chunk.ticket);
            if !held {
                free.push(chunk.index);
            }
            held
        });
    }
}

/// The worker's side: bounds and releases.
#[derive(Debug)]
pub struct StagingReturns<R> {
    releases: View<R>,
    bell: Bell<R>,
}

impl<R: Region> StagingReturns<R> {
    /// The worker's side of a region.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the region is smaller than the layout.
    pub fn new(region: &R, layout: &Layout) -> Result<Self, OutOfBounds> {
        Ok(Self {
            releases: View::new(region, layout.staging())?,
            bell: Bell::new(region, HeadLine::StagingBell.word())?,
        })
    }

    /// The first `len` bytes of a chunk that a record names, counted from the start of the arena.
    ///
    /// # Errors
    /// [`OutOfBounds`] if there is no such chunk or it is smaller: the client's violation.
    pub fn bytes(&self, index: u32, len: usize) -> Result<Range<usize>, OutOfBounds> {
        let out = OutOfBounds {
            at: 0,
            len,
            size: CHUNK_BYTES,
        };
        let number = usize::try_from(index).map_err(|_| out)?;
        if number >= self.releases.words().len() || len > CHUNK_BYTES {
            return Err(OutOfBounds {
                at: number.saturating_mul(CHUNK_BYTES),
                ..out
            });
        }
        let start = chunk_bytes(index).start;
        Ok(start..start + len)
    }

    /// The copy out of, or into, a lent chunk is complete.
    ///
    /// # Errors
    /// [`OutOfBounds`] if there is no such chunk: the client's violation.
    pub fn release(&self, index: u32, ticket: u64) -> Result<(), OutOfBounds> {
        let words = self.releases.words();
        let number = usize::try_from(index).unwrap_or(usize::MAX);
        let word = words.get(number).ok_or(OutOfBounds {
            at: number,
            len: 1,
            size: words.len(),
        })?;
        // SYNC: pairs with the Acquire in `StagingPool::reclaim`.
        word.store(ticket, Ordering::Release);
        self.bell.ring();
        Ok(())
    }
}

fn chunk_bytes(index: u32) -> Range<usize> {
    let start = usize::try_from(index)
        .unwrap_or(usize::MAX)
        .saturating_mul(CHUNK_BYTES);
    start..start.saturating_add(CHUNK_BYTES)
}
