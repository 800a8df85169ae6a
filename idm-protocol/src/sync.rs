//! The one door to atomics, fences, locks, spin hints and the clock.
//!
//! Everything that two threads or two processes touch goes through here, so that `--cfg loom`
//! swaps the primitives under the code that ships and nothing else. clippy's `disallowed-types`
//! keeps the other doors shut.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

#[cfg(not(loom))]
#[allow(clippy::disallowed_types, reason = "this module is the door")]
mod primitives {
    pub(super) type Atomic64 = core::sync::atomic::AtomicU64;
    pub(super) use core::sync::atomic::fence;
    pub(super) use std::hint::spin_loop;
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::thread::yield_now;
}

#[cfg(loom)]
mod primitives {
    pub(super) use loom::hint::spin_loop;
    pub(super) type Atomic64 = loom::sync::atomic::AtomicU64;
    pub(super) use loom::sync::atomic::fence;
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use loom::thread::yield_now;
}

#[allow(clippy::disallowed_types, reason = "this module is the door")]
pub use core::sync::atomic::Ordering;

/// The unit of shared memory: 64 bits that are only ever touched atomically.
///
/// There is no other atomic width on purpose. Accesses of mixed width to one location have no
/// meaning in the memory model; a futex looks at the low half of a word, and only the kernel does.
#[repr(transparent)]
#[derive(Debug, Default)]
#[allow(clippy::disallowed_types, reason = "this module is the door")]
pub struct Word(primitives::Atomic64);

impl Word {
    /// A word that holds `value`.
    pub fn new(value: u64) -> Self {
        Self(primitives::Atomic64::new(value))
    }

    /// Reads the word.
    #[inline]
    pub fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    /// Writes the word.
    #[inline]
    pub fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    /// Writes the word and tells what it held.
    #[inline]
    pub fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.0.swap(value, order)
    }

    /// Adds, wrapping, and tells what the word held.
    #[inline]
    pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_add(value, order)
    }

    /// Sets bits and tells what the word held.
    #[inline]
    pub fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.0.fetch_or(bits, order)
    }

    /// Writes `new` if the word holds `current`; otherwise tells what it holds.
    ///
    /// # Errors
    /// The value found, when it was not `current`.
    #[inline]
    pub fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, success, failure)
    }
}

/// A fence of the given order.
#[inline]
pub fn fence(order: Ordering) {
    primitives::fence(order);
}

/// Tells the core that it spins.
#[inline]
pub fn spin_loop() {
    primitives::spin_loop();
}

/// Lets another thread of this core run.
#[inline]
pub fn yield_now() {
    primitives::yield_now();
}

/// A lock inside one process. Whoever panicked while holding it left its content valid: every
/// user of this type changes state in one last step.
#[derive(Debug, Default)]
pub struct Mutex<T>(primitives::Mutex<T>);

/// What [`Mutex::lock`] returns.
pub type MutexGuard<'a, T> = primitives::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    /// A lock around `value`.
    pub fn new(value: T) -> Self {
        Self(primitives::Mutex::new(value))
    }

    /// Waits for the lock, which is never poisoned.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        match self.0.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// Where threads of one process sleep; for doorbells inside a process.
#[derive(Debug, Default)]
pub struct Condvar(primitives::Condvar);

impl Condvar {
    /// Gives the lock up and sleeps until woken, or until `limit` is over; may return early. Under
    /// loom there is no time, and so no limit.
    pub fn wait<T>(&self, guard: MutexGuard<'_, T>, limit: Option<Duration>) {
        match limit {
            Some(limit) if !cfg!(loom) => drop(self.0.wait_timeout(guard, limit)),
            _ => drop(self.0.wait(guard)),
        }
    }

    /// Wakes everyone.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Where waiting code gets the time from.
pub trait Clock {
    /// The time now; never goes back.
    fn now(&self) -> Instant;
}

/// The machine's monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Monotonic;

impl Clock for Monotonic {
    #[inline]
    fn now(&self) -> Instant {
        Instant::now()
    }
}
