//! Pools: memory that is allocated and freed in stream order.
//!
//! A pool keeps what was freed, as chunks, until a synchronisation finds more than its release threshold. A chunk
//! whose free has not run yet is given only to what runs behind that free. What a pool hands out is an
//! [`Allocation`] like any other, on the map from the call on; it goes off the map when its free runs, unless the
//! chunk has been handed out again by then.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::heap::GRANULE;
use super::space::{Allocation, Arena, Kind, Owner, Space};
use super::vmm::{Access, Permission};
use crate::error::{Error, Result};
use crate::schedule::{Scheduler, StreamId, Ticket};

/// Sizes are multiples of this.
const GRAIN: u64 = 512;
/// Larger chunks are whole granules.
const SMALL_MAX: u64 = 1 << 20;

/// A pool of one device's memory.
#[derive(Debug)]
pub struct MemPool {
    device: u32,
    /// What it may hold at most; 0 for no limit.
    max_size: u64,
    /// What it was asked to be exportable as.
    pub handle_types: u32,
    access: Arc<Access>,
    counters: Arc<Counters>,
    state: Mutex<State>,
}

/// How a pool behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Reuse across streams where an event orders them.
    pub follow_events: bool,
    /// Reuse across streams where the free has run.
    pub opportunistic: bool,
    /// Reuse across streams by waiting for the free.
    pub internal_dependencies: bool,
    /// Bytes that a synchronisation leaves in the pool.
    pub release_threshold: u64,
}

/// What a pool holds and has handed out, and the most there was of each.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes held.
    pub reserved: AtomicU64,
    /// The most bytes held since this was last set to 0.
    pub reserved_high: AtomicU64,
    /// Bytes handed out.
    pub used: AtomicU64,
    /// The most bytes handed out since this was last set to 0.
    pub used_high: AtomicU64,
}

#[derive(Debug)]
struct State {
    policy: Policy,
    free: Vec<Free>,
    destroyed: bool,
}

/// Memory of a pool.
#[derive(Debug)]
pub struct Chunk {
    start: u64,
    bytes: u64,
    arena: Arc<Arena>,
    counters: Arc<Counters>,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.arena.heap().release(self.start, self.bytes);
        self.counters
            .reserved
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A chunk that was given back.
#[derive(Debug)]
struct Free {
    chunk: Arc<Chunk>,
    stream: StreamId,
    /// Reached when the free has run.
    ticket: Ticket,
    /// The allocation that goes off the map then, and its size.
    was: (u64, u64),
}

/// What an allocation of a pool has besides.
#[derive(Debug)]
pub struct Pooled {
    /// The pool.
    pub pool: Arc<MemPool>,
    chunk: Arc<Chunk>,
    freed: AtomicBool,
}

impl Pooled {
    /// Takes note that the program freed it. `false`: it did so before.
    fn free(&self) -> bool {
        if self.freed.swap(true, Ordering::Relaxed) {
            return false;
        }
        self.pool
            .counters
            .used
            .fetch_sub(self.chunk.bytes, Ordering::Relaxed);
        true
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        // It went with its context.
        self.free();
    }
}

impl Counters {
    fn add(current: &AtomicU64, high: &AtomicU64, bytes: u64) {
        let now = current.fetch_add(bytes, Ordering::Relaxed) + bytes;
        high.fetch_max(now, Ordering::Relaxed);
    }
}

impl MemPool {
    /// An empty pool.
    #[must_use]
    pub fn new(device: u32, max_size: u64, handle_types: u32) -> Self {
        let access = Arc::<Access>::default();
        access.set(device, Permission::ReadWrite);
        let policy = Policy {
            follow_events: true,
            opportunistic: true,
            internal_dependencies: true,
            release_threshold: 0,
        };
        Self {
            device,
            max_size,
            handle_types,
            access,
            counters: Arc::default(),
            state: Mutex::new(State {
                policy,
                free: Vec::new(),
                destroyed: false,
            }),
        }
    }

    /// The device whose memory it is.
    #[must_use]
    pub const fn device(&self) -> u32 {
        self.device
    }

    /// What it may hold at most; 0 for no limit.
    #[must_use]
    pub const fn max_size(&self) -> u64 {
        self.max_size
    }

    /// What devices may do in its memory.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// What it holds and has handed out.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How it behaves.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.state().policy
    }

    /// Changes how it behaves.
    pub fn set_policy(&self, change: impl FnOnce(&mut Policy)) {
        change(&mut self.state().policy);
    }

    /// The program has no more use for it: it keeps nothing from now on.
    pub fn destroy(&self) {
        self.state().destroyed = true;
    }

    /// Gives back what is free until `keep` bytes are held. What a free is still to run for stays.
    pub fn trim(&self, scheduler: &Scheduler, keep: u64) {
        let mut gone = Vec::new();
        let mut state = self.state();
        let mut held = self.counters.reserved.load(Ordering::Relaxed);
        state.free.retain(|free| {
            let stays = held <= keep || !scheduler.is_done(free.ticket);
            if !stays {
                held -= free.chunk.bytes;
                gone.push(Arc::clone(&free.chunk));
            }
            stays
        });
        // Memory goes back to the system outside the lock.
        drop(state);
    }

    /// What every synchronisation does: gives back what is above the threshold.
    pub fn synchronized(&self, scheduler: &Scheduler) {
        let (threshold, destroyed) = {
            let state = self.state();
            (state.policy.release_threshold, state.destroyed)
        };
        self.trim(scheduler, if destroyed { 0 } else { threshold });
    }

    /// Waits until every free has run.
    pub fn settle(&self, scheduler: &Scheduler) {
        let tickets: Vec<Ticket> = self.state().free.iter().map(|free| free.ticket).collect();
        scheduler.wait(&tickets);
    }

    /// Allocates in the order of a stream.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for size 0, [`Error::OutOfMemory`] when it does not fit.
    pub fn allocate(
        self: &Arc<Self>,
        space: &Space,
        scheduler: &Scheduler,
        owner: Owner,
        stream: StreamId,
        size: u64,
    ) -> Result<Arc<Allocation>> {
        let unit = if size <= SMALL_MAX { GRAIN } else { GRANULE };
        let bytes = size
            .checked_next_multiple_of(unit)
            .ok_or(Error::OutOfMemory)?;
        if bytes == 0 {
            return Err(Error::InvalidValue);
        }
        let (chunk, replaced) = match self.reuse(scheduler, stream, size, bytes) {
            Some(free) => (free.chunk, Some(free.was.0)),
            None => (self.grow(space, bytes)?, None),
        };
        let counters = &self.counters;
        Counters::add(&counters.used, &counters.used_high, chunk.bytes);
        space.enter_pooled(
            Allocation {
                start: chunk.start,
                size,
                kind: Kind::Pooled,
                owner,
                device: self.device,
                id: space.next_id(),
                access: Some(Arc::clone(&self.access)),
                physical: None,
                pooled: Some(Pooled {
                    pool: Arc::clone(self),
                    chunk,
                    freed: AtomicBool::new(false),
                }),
                _foreign: None,
                synchronous: AtomicBool::new(false),
                arena: None,
            },
            replaced,
        )
    }

    /// Frees in the order of a stream.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if it was freed before.
    pub fn free(
        space: &Arc<Space>,
        scheduler: &Scheduler,
        stream: StreamId,
        found: &Arc<Allocation>,
    ) -> Result<()> {
        let pooled = found.pooled.as_ref().filter(|pooled| pooled.free());
        let pooled = pooled.ok_or(Error::InvalidValue)?;
        let (start, id) = (found.start, found.id);
        let map = Arc::clone(space);
        let off_the_map = Box::new(move || drop(map.remove(start, |a| a.id == id)));
        // Locked from before the free is submitted, so that whoever finds the chunk finds the ticket, too.
        let mut state = pooled.pool.state();
        let ticket = scheduler.submit(stream, &[], off_the_map);
        if !state.destroyed {
            state.free.push(Free {
                chunk: Arc::clone(&pooled.chunk),
                stream,
                ticket,
                was: (id, found.size),
            });
        }
        Ok(())
    }

    /// A free chunk that may be used behind what is on the stream by now.
    fn reuse(
        &self,
        scheduler: &Scheduler,
        stream: StreamId,
        size: u64,
        bytes: u64,
    ) -> Option<Free> {
        let mut state = self.state();
        let policy = state.policy;
        let most = bytes.saturating_mul(2);
        let usable = |free: &&(usize, &Free)| {
            let (_, free) = free;
            let fits = (bytes..=most).contains(&free.chunk.bytes);
            let over = || scheduler.is_done(free.ticket);
            // What runs before the free may reach as far as the old allocation did.
            let covers = size >= free.was.1;
            fits && if free.stream == stream {
                covers || over()
            } else {
                (policy.opportunistic && over()) || (policy.internal_dependencies && covers)
            }
        };
        let candidates: Vec<(usize, &Free)> = state.free.iter().enumerate().collect();
        let best = candidates
            .iter()
            .filter(usable)
            .min_by_key(|(_, free)| free.chunk.bytes);
        let index = best.map(|(index, _)| *index)?;
        let free = state.free.swap_remove(index);
        drop(state);
        if free.stream != stream && !scheduler.is_done(free.ticket) {
            scheduler.mark(stream, &[free.ticket], Arc::default());
        }
        Some(free)
    }

    /// A new chunk.
    fn grow(&self, space: &Space, bytes: u64) -> Result<Arc<Chunk>> {
        let held = self.counters.reserved.load(Ordering::Relaxed);
        if self.max_size != 0 && held.saturating_add(bytes) > self.max_size {
            return Err(Error::OutOfMemory);
        }
        let arena = Arc::clone(space.arena(self.device)?);
        let start = arena.heap().allocate(bytes)?;
        let counters = Arc::clone(&self.counters);
        Counters::add(&counters.reserved, &counters.reserved_high, bytes);
        Ok(Arc::new(Chunk {
            start,
            bytes,
            arena,
            counters,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Order;
    use std::sync::mpsc;

    struct Bench {
        space: Arc<Space>,
        scheduler: Scheduler,
        pool: Arc<MemPool>,
        streams: [StreamId; 2],
    }

    impl Bench {
        fn new() -> Self {
            let scheduler = Scheduler::new();
            let streams = [(); 2].map(|()| scheduler.create(1, Order::NonBlocking));
            Self {
                space: Arc::new(Space::new(1, 8 * GRANULE, false).unwrap()),
                scheduler,
                pool: Arc::new(MemPool::new(0, 0, 0)),
                streams,
            }
        }

        fn allocate(&self, stream: usize, size: u64) -> Result<Arc<Allocation>> {
            let stream = self.streams[stream];
            self.pool
                .allocate(&self.space, &self.scheduler, 1, stream, size)
        }

        fn free(&self, stream: usize, what: &Arc<Allocation>) -> Result<()> {
            MemPool::free(&self.space, &self.scheduler, self.streams[stream], what)
        }

        /// Holds a stream until the sender goes.
        fn hold(&self, stream: usize) -> mpsc::Sender<()> {
            let (held, hold) = mpsc::channel::<()>();
            let work = Box::new(move || {
                let _ = hold.recv();
            });
            self.scheduler.submit(self.streams[stream], &[], work);
            held
        }

        fn wait(&self) {
            for stream in self.streams {
                self.scheduler.wait(&self.scheduler.tail(stream));
            }
        }

        fn reserved(&self) -> u64 {
            self.pool.counters.reserved.load(Ordering::Relaxed)
        }

        fn used(&self) -> u64 {
            self.pool.counters.used.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn memory_is_valid_from_the_call_until_its_free_has_run() {
        let bench = Bench::new();
        let made = bench.allocate(0, 1000).unwrap();
        let view = bench.space.view(1, 0);
        assert_eq!(
            view.range(made.start),
            Some((made.start, made.start + 1000, true))
        );
        let held = bench.hold(0);
        bench.free(0, &made).unwrap();
        assert_eq!(bench.free(0, &made), Err(Error::InvalidValue));
        assert!(view.range(made.start).is_some(), "the free has not run");
        assert_eq!((bench.used(), bench.reserved()), (0, 1024));
        drop(held);
        bench.wait();
        assert_eq!(view.range(made.start), None);
    }

    #[test]
    fn a_stream_uses_again_at_once_what_it_frees_and_another_waits_for_it() {
        let bench = Bench::new();
        let first = bench.allocate(0, 1000).unwrap();
        let held = bench.hold(0);
        bench.free(0, &first).unwrap();
        let second = bench.allocate(0, 1000).unwrap();
        assert_eq!(second.start, first.start);
        bench.free(0, &second).unwrap();
        bench
            .pool
            .set_policy(|policy| policy.internal_dependencies = false);
        let third = bench.allocate(1, 1000).unwrap();
        assert_ne!(third.start, first.start);
        bench
            .pool
            .set_policy(|policy| policy.internal_dependencies = true);
        let fourth = bench.allocate(1, 1024).unwrap();
        assert_eq!(fourth.start, first.start);
        let (stream, scheduler) = (bench.streams[1], &bench.scheduler);
        assert!(!scheduler.tail(stream).is_empty(), "it waits for the free");
        drop(held);
        bench.wait();
        let view = bench.space.view(1, 0);
        assert!(
            view.range(fourth.start + 1023).is_some(),
            "the free of what was there before took nothing away"
        );
    }

    #[test]
    fn memory_that_is_used_again_stays_valid_throughout() {
        let bench = Bench::new();
        let mut made = bench.allocate(0, 1000).unwrap();
        let (view, start) = (bench.space.view(1, 0), made.start);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut gone = 0;
                while !over.load(Ordering::Relaxed) {
                    gone += u32::from(view.range(start).is_none());
                }
                gone
            });
            for _ in 0..2000 {
                // Held, so that no free runs between.
                let held = bench.hold(0);
                bench.free(0, &made).unwrap();
                made = bench.allocate(0, 1000).unwrap();
                assert_eq!(made.start, start);
                drop(held);
                bench.wait();
            }
            over.store(true, Ordering::Relaxed);
            assert_eq!(looks.join().unwrap(), 0, "looks that found nothing");
        });
    }

    #[test]
    fn smaller_memory_is_no_reuse_while_what_uses_the_larger_may_still_run() {
        let bench = Bench::new();
        let first = bench.allocate(0, 1000).unwrap();
        let held = bench.hold(0);
        bench.free(0, &first).unwrap();
        assert_ne!(bench.allocate(0, 600).unwrap().start, first.start);
        drop(held);
        bench.wait();
        assert_eq!(bench.allocate(0, 600).unwrap().start, first.start);
    }

    #[test]
    fn a_synchronisation_leaves_what_the_threshold_says_and_a_trim_what_it_is_told() {
        let bench = Bench::new();
        let made: Vec<_> = (0..4).map(|_| bench.allocate(0, 1024).unwrap()).collect();
        bench
            .pool
            .set_policy(|policy| policy.release_threshold = 2048);
        for one in &made {
            bench.free(0, one).unwrap();
        }
        drop(made);
        bench.wait();
        assert_eq!(bench.reserved(), 4096);
        bench.pool.synchronized(&bench.scheduler);
        assert_eq!(bench.reserved(), 2048);
        bench.pool.trim(&bench.scheduler, 1000);
        assert_eq!(bench.reserved(), 0);
        let most = bench.pool.counters.reserved_high.load(Ordering::Relaxed);
        assert_eq!(most, 4096);
        assert_eq!(bench.space.room(0).unwrap().0, 8 * GRANULE);
    }

    #[test]
    fn limits_hold_and_a_destroyed_pool_keeps_nothing() {
        let bench = Bench {
            pool: Arc::new(MemPool::new(0, 2 * GRANULE, 0)),
            ..Bench::new()
        };
        let made = bench.allocate(0, 2 * GRANULE).unwrap();
        assert_eq!(bench.allocate(0, 1).err(), Some(Error::OutOfMemory));
        assert_eq!(bench.allocate(0, 0).err(), Some(Error::InvalidValue));
        bench.pool.destroy();
        bench.free(0, &made).unwrap();
        drop(made);
        bench.wait();
        assert_eq!(bench.reserved(), 0);
    }

    #[test]
    fn a_context_takes_along_what_it_did_not_free() {
        let bench = Bench::new();
        drop(bench.allocate(0, 3 * GRANULE).unwrap());
        assert_eq!(bench.used(), 3 * GRANULE);
        bench.space.remove_owned(1);
        assert_eq!((bench.used(), bench.reserved()), (0, 0));
        assert_eq!(bench.space.room(0).unwrap().0, 8 * GRANULE);
    }
}
