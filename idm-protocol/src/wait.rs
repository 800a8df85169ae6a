//! Waiting for the other side: spin, then yield, then park (D10).
//!
//! A waiter spins by the clock, then gives its core away between looks, then raises the PARKED
//! flag of its [`Bell`] and sleeps. A poster publishes, passes a full fence, and looks at the flag:
//! while the other side is awake it makes no system call. The two full fences are what makes a lost
//! wake-up impossible: of "publish, then look at the flag" and "raise the flag, then look for what
//! was published", at least one sees the other.
//!
//! Several threads may wait on one bell. Only wakers lower the flag, and they wake everyone; and
//! each time they do, the count above the flag goes up. A waiter sleeps only while flag *and* count
//! are what it raised, or a flag raised by a second waiter after the wake would let the first one
//! sleep through it.
//!
//! The word lives in shared memory and its content is never trusted: a peer that scribbles on it
//! costs itself wake-ups and us system calls.

#[cfg(not(loom))]
mod futex;
mod heap;

pub use heap::HeapBell;

use std::time::Duration;

use crate::memory::{OutOfBounds, Region, View};
use crate::sync::{Clock, Monotonic, Ordering, Word, fence, spin_loop, yield_now};

/// Somebody sleeps, or is about to. Above it, the number of wakes.
const PARKED: u64 = 1;

/// Above that number: the CPU of the last waker, counted from one.
const WAKER_SHIFT: u32 = 48;

/// Looks between two readings of the clock: a pause takes from 5 ns to 100 ns, a reading about 25.
const LOOKS_PER_READING: u32 = 16;

/// How a region's two sides wake each other.
pub trait Doorbell {
    /// Sleeps while `word` holds `value`, until a wake, a signal, or the end of `slice`; may
    /// return early for no reason.
    fn sleep(&self, word: &Word, value: u64, slice: Option<Duration>);

    /// Wakes everyone who sleeps on `word`.
    fn wake(&self, word: &Word);
}

/// How a waiter learns that what it waits for will never come.
pub trait Liveness {
    /// Whether the other side, or this one, has ended. One load: asked at every look.
    fn ended(&self) -> bool;

    /// The same, asked once per slice asleep; may make system calls to find out.
    fn probe(&self) -> bool {
        self.ended()
    }
}

/// A peer that cannot end, for tests and for waits inside one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Immortal;

impl Liveness for Immortal {
    fn ended(&self) -> bool {
        false
    }
}

impl<T: Liveness + ?Sized> Liveness for &T {
    fn ended(&self) -> bool {
        (**self).ended()
    }

    fn probe(&self) -> bool {
        (**self).probe()
    }
}

/// A flag that ends every wait given it. Whoever raises it also rings the bells concerned.
#[derive(Debug, Default)]
pub struct StopFlag(Word);

impl StopFlag {
    /// Not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises it, for good.
    pub fn raise(&self) {
        // SYNC: pairs with the Acquire in `ended`: what the raiser did before is seen after.
        self.0.store(1, Ordering::Release);
    }
}

impl Liveness for StopFlag {
    #[inline]
    fn ended(&self) -> bool {
        // SYNC: pairs with the Release in `raise`.
        self.0.load(Ordering::Acquire) != 0
    }
}

/// Gives up at a moment. The wait must have slices for it to be noticed asleep, and is as exact as they
/// are short.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub std::time::Instant);

impl Liveness for Deadline {
    fn ended(&self) -> bool {
        std::time::Instant::now() >= self.0
    }
}

/// How long to spin, to yield, and to sleep between two questions whether the peer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Spinning ends after this.
    pub spin: Duration,
    /// Yielding ends after this much more.
    pub yielding: Duration,
    /// After each such time asleep [`Liveness::probe`] is asked. `None`: sleep until woken, which
    /// costs nothing while idle and suits a waiter whose bell is also rung when the peer ends.
    pub slice: Option<Duration>,
}

impl Patience {
    /// The measured defaults: spin 20 µs, yield 50 µs, ask every 50 ms. Where this thread may run
    /// on one CPU only, it does not spin: nobody could answer meanwhile.
    pub fn detect() -> Self {
        let spin = if single_cpu() {
            Duration::ZERO
        } else {
            Duration::from_micros(20)
        };
        Self {
            spin,
            yielding: Duration::from_micros(50),
            slice: Some(Duration::from_millis(50)),
        }
    }

    /// Sleep at once. For threads that are expected to wait long, and for models.
    pub const fn none() -> Self {
        Self {
            spin: Duration::ZERO,
            yielding: Duration::ZERO,
            slice: None,
        }
    }

    /// The same without slices; see [`Patience::slice`].
    pub const fn unsliced(self) -> Self {
        Self {
            slice: None,
            ..self
        }
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Woken {
    /// What was waited for is there.
    Ready,
    /// [`Liveness`] said that it will not come. It is not there, as of the last look.
    Ended,
}

/// A word on which one side waits and which the other side rings.
#[derive(Clone, Debug)]
pub struct Bell<R> {
    word: View<R>,
}

impl<R: Region> Bell<R> {
    /// The bell at word `index` of `region`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the region has no such word.
    pub fn new(region: &R, index: usize) -> Result<Self, OutOfBounds> {
        Ok(Self {
            word: View::new(region, index..index.saturating_add(1))?,
        })
    }

    /// Wakes the waiters if there are any. Call it after publishing; without sleepers it is a fence
    /// and a load.
    #[inline]
    pub fn ring(&self) {
        // SYNC: full fence, pairs with the one in `wait`: either we see PARKED here, or the waiter
        // sees what we published.
        fence(Ordering::SeqCst);
        let word = &self.word.words()[0];
        let seen = word.load(Ordering::Relaxed);
        if seen & PARKED == 0 {
            return;
        }
        // Lowers the flag and counts the wake. If that fails, another waker does it; and whoever
        // has raised the flag anew since then passed its fence after ours and sees what we published.
        let count = seen.wrapping_add(PARKED) & ((1 << WAKER_SHIFT) - 1);
        let woken = count | current_cpu() << WAKER_SHIFT;
        let order = Ordering::Relaxed;
        if word.compare_exchange(seen, woken, order, order).is_ok() {
            self.word.region().wake(word);
        }
    }

    /// Tells one wake from the next: different after somebody was woken.
    #[inline]
    pub(crate) fn wakes(&self) -> u64 {
        self.word.words()[0].load(Ordering::Relaxed) & !PARKED
    }

    /// Whether the last waker says that it rang from the CPU that this thread runs on: until this thread
    /// sleeps, or the system moves one of them, that one cannot go on. A hint; a peer may say anything.
    pub(crate) fn was_rung_from_here(&self) -> bool {
        let waker = self.wakes() >> WAKER_SHIFT;
        waker != 0 && waker == current_cpu()
    }

    /// Waits until `ready` says so or `live` says that it never will. `ready` must read what it
    /// looks at with the order it needs; it is asked first and last.
    #[inline]
    pub fn wait<L: Liveness>(
        &self,
        patience: &Patience,
        live: &L,
        mut ready: impl FnMut() -> bool,
    ) -> Woken {
        if ready() {
            return Woken::Ready;
        }
        self.wait_by(&Monotonic, patience, live, ready)
    }

    /// [`Bell::wait`] with another clock.
    pub fn wait_by<L: Liveness>(
        &self,
        clock: &impl Clock,
        patience: &Patience,
        live: &L,
        mut ready: impl FnMut() -> bool,
    ) -> Woken {
        let Patience {
            spin,
            yielding,
            slice,
        } = *patience;
        if spin + yielding > Duration::ZERO {
            let start = clock.now();
            let yield_from = start + spin;
            let park_from = yield_from + yielding;
            let mut now = start;
            while now < park_from {
                for _ in 0..LOOKS_PER_READING {
                    if ready() {
                        return Woken::Ready;
                    }
                    if now >= yield_from {
                        // A yield may take as long as another thread's time slice: look once.
                        yield_now();
                        break;
                    }
                    spin_loop();
                }
                if live.ended() {
                    return if ready() { Woken::Ready } else { Woken::Ended };
                }
                now = clock.now();
            }
        }
        let word = &self.word.words()[0];
        let mut probe_from = slice.map(|slice| clock.now() + slice);
        loop {
            let raised = word.fetch_or(PARKED, Ordering::Relaxed) | PARKED;
            // SYNC: full fence, pairs with the one in `ring`.
            fence(Ordering::SeqCst);
            if ready() {
                return Woken::Ready;
            }
            if live.ended() {
                return if ready() { Woken::Ready } else { Woken::Ended };
            }
            self.word.region().sleep(word, raised, slice);
            if ready() {
                return Woken::Ready;
            }
            // By the clock and not by how the sleep ended: a peer that keeps waking us for nothing
            // does not escape the question.
            if let (Some(slice), Some(from)) = (slice, probe_from) {
                let now = clock.now();
                if now >= from {
                    if live.probe() {
                        return if ready() { Woken::Ready } else { Woken::Ended };
                    }
                    probe_from = Some(now + slice);
                }
            }
        }
    }
}

#[cfg(any(loom, miri))]
fn single_cpu() -> bool {
    false
}

/// The CPU that this thread runs on, counted from one; 0: not known.
#[cfg(any(loom, miri))]
fn current_cpu() -> u64 {
    0
}

/// The CPU that this thread runs on, counted from one; 0: not known.
#[cfg(not(any(loom, miri)))]
fn current_cpu() -> u64 {
    nix::sched::sched_getcpu().map_or(0, |cpu| (cpu as u64 + 1) & u64::from(u16::MAX))
}

/// Whether this thread may run on one CPU only. Where the system does not say, it may not.
#[cfg(not(any(loom, miri)))]
fn single_cpu() -> bool {
    use nix::sched::{CpuSet, sched_getaffinity};
    let Ok(set) = sched_getaffinity(nix::unistd::Pid::from_raw(0)) else {
        return false;
    };
    (0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .count()
        == 1
}

#[cfg(all(test, not(loom)))]
mod tests;
