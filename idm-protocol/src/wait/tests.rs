//! The three steps of a wait, by a clock that the test moves.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::memory::{Heap, Memory};

/// Moves on by a step with every reading.
struct Steps {
    now: Cell<Instant>,
    step: Duration,
    readings: Cell<u32>,
}

impl Steps {
    fn new(step: Duration) -> Self {
        Self {
            now: Cell::new(Instant::now()),
            step,
            readings: Cell::new(0),
        }
    }
}

impl Clock for Steps {
    fn now(&self) -> Instant {
        self.readings.set(self.readings.get() + 1);
        let now = self.now.get() + self.step;
        self.now.set(now);
        now
    }
}

/// A region that notes what a waiter and a waker ask of it, and never sleeps.
#[derive(Clone, Debug)]
struct Noting {
    words: Arc<[Word]>,
    sleeps: Arc<Word>,
    wakes: Arc<Word>,
}

impl Noting {
    fn new() -> Self {
        Self {
            words: (0..2).map(|_| Word::new(0)).collect(),
            sleeps: Arc::default(),
            wakes: Arc::default(),
        }
    }

    fn sleeps(&self) -> u64 {
        self.sleeps.load(Ordering::Relaxed)
    }

    fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }
}

impl Memory for Noting {
    fn words(&self) -> &[Word] {
        &self.words
    }
}

impl Doorbell for Noting {
    fn sleep(&self, word: &Word, value: u64, _slice: Option<Duration>) {
        assert_eq!(word.load(Ordering::Relaxed), value);
        assert_eq!(value & PARKED, PARKED);
        self.sleeps.fetch_add(1, Ordering::Relaxed);
    }

    fn wake(&self, _word: &Word) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
    }
}

const PATIENCE: Patience = Patience {
    spin: Duration::from_micros(20),
    yielding: Duration::from_micros(50),
    slice: Some(Duration::from_millis(50)),
};

/// Ends after it was probed so often; counts.
#[derive(Default)]
struct Probed {
    limit: u32,
    probes: RefCell<u32>,
}

impl Liveness for Probed {
    fn ended(&self) -> bool {
        false
    }

    fn probe(&self) -> bool {
        *self.probes.borrow_mut() += 1;
        *self.probes.borrow() >= self.limit
    }
}

#[test]
fn what_is_there_already_costs_neither_clock_nor_sleep() {
    let region = Noting::new();
    let bell = Bell::new(&region, 0).unwrap();
    assert_eq!(bell.wait(&PATIENCE, &Immortal, || true), Woken::Ready);
    assert_eq!(region.sleeps(), 0);
}

#[test]
fn what_comes_within_the_spin_is_found_without_sleeping() {
    let region = Noting::new();
    let bell = Bell::new(&region, 0).unwrap();
    let clock = Steps::new(Duration::from_micros(1));
    let mut looks = 0;
    let ready = || {
        looks += 1;
        looks > 100
    };
    let woken = bell.wait_by(&clock, &PATIENCE, &Immortal, ready);
    assert_eq!(woken, Woken::Ready);
    assert_eq!(region.sleeps(), 0);
    assert_eq!(region.words()[0].load(Ordering::Relaxed), 0);
    assert!(clock.readings.get() < 20);
}

#[test]
fn spinning_and_yielding_end_by_the_clock_and_then_it_sleeps() {
    let region = Noting::new();
    let bell = Bell::new(&region, 0).unwrap();
    let clock = Steps::new(Duration::from_micros(10));
    let woken = bell.wait_by(&clock, &PATIENCE, &Immortal, || region.sleeps() > 0);
    assert_eq!(woken, Woken::Ready);
    assert_eq!(region.sleeps(), 1);
    // 70 microseconds in steps of ten, and the start of the first slice.
    assert!((8..=10).contains(&clock.readings.get()));
}

#[test]
fn without_a_spin_it_never_spins() {
    let region = Noting::new();
    let bell = Bell::new(&region, 0).unwrap();
    let clock = Steps::new(Duration::from_micros(1));
    let mut looks = 0;
    let woken = bell.wait_by(&clock, &Patience::none(), &Immortal, || {
        looks += 1;
        region.sleeps() > 0
    });
    assert_eq!(woken, Woken::Ready);
    assert_eq!(clock.readings.get(), 0);
    assert_eq!(looks, 2);
}

#[test]
fn a_peer_that_wakes_us_for_nothing_is_still_asked_whether_it_lives() {
    let region = Noting::new();
    let bell = Bell::new(&region, 0).unwrap();
    // Every sleep ends at once, as with a peer that rings for nothing; a slice is ten readings.
    let clock = Steps::new(Duration::from_millis(5));
    let live = Probed {
        limit: 3,
        ..Probed::default()
    };
    assert_eq!(
        bell.wait_by(&clock, &PATIENCE, &live, || false),
        Woken::Ended
    );
    assert!(region.sleeps() >= 27);
}

#[test]
fn what_arrives_with_the_end_is_still_delivered() {
    let region = Noting::new();
    let bell = Bell::new(&region, 0).unwrap();
    let stop = StopFlag::new();
    let mut looks = 0;
    let ready = || {
        looks += 1;
        if looks == 3 {
            stop.raise();
        }
        looks > 4
    };
    let clock = Steps::new(Duration::from_micros(1));
    assert_eq!(
        bell.wait_by(&clock, &Patience::none(), &stop, ready),
        Woken::Ended
    );
    // The look after the end decides.
    let bell = Bell::new(&region, 1).unwrap();
    let mut looks = 0;
    let ready = || {
        looks += 1;
        looks > 2
    };
    assert_eq!(bell.wait(&Patience::none(), &stop, ready), Woken::Ready);
}

#[test]
fn ringing_calls_the_system_only_while_somebody_sleeps() {
    let region = Noting::new();
    let bell = Bell::new(&region, 0).unwrap();
    for _ in 0..5 {
        bell.ring();
    }
    assert_eq!(region.wakes(), 0);
    let word = &region.words()[0];
    word.fetch_or(PARKED, Ordering::Relaxed);
    bell.ring();
    bell.ring();
    assert_eq!(region.wakes(), 1);
    // The count went up, the flag is down.
    let value = word.load(Ordering::Relaxed);
    assert_eq!(value & ((1 << WAKER_SHIFT) - 1), 2);
}

#[test]
fn a_waker_on_the_same_cpu_is_recognised_and_one_elsewhere_is_not() {
    let region = Noting::new();
    let bell = Bell::new(&region, 0).unwrap();
    assert!(!bell.was_rung_from_here(), "nobody rang");
    let word = &region.words()[0];
    // The system may move this thread between the two looks: not in every one of many rounds.
    let recognised = (0..1000).any(|_| {
        word.fetch_or(PARKED, Ordering::Relaxed);
        let before = bell.wakes();
        bell.ring();
        assert_ne!(bell.wakes(), before);
        bell.was_rung_from_here()
    });
    // Where the CPU is not known, nothing is recognised.
    assert_eq!(recognised, current_cpu() != 0);
    word.store(u64::from(u16::MAX) << WAKER_SHIFT, Ordering::Relaxed);
    assert!(!bell.was_rung_from_here());
}

#[test]
fn a_word_full_of_nonsense_costs_a_wake_and_nothing_else() {
    let region = Noting::new();
    let bell = Bell::new(&region, 0).unwrap();
    for nonsense in [u64::MAX, 0x8000_0000_0000_0001, 3] {
        region.words()[0].store(nonsense, Ordering::Relaxed);
        bell.ring();
        bell.ring();
    }
    assert_eq!(region.wakes(), 3);
}

#[test]
fn a_deadline_ends_a_wait_for_what_never_comes() {
    let heap = Heap::zeroed(1);
    let bell = Bell::new(&heap, 0).unwrap();
    let patience = Patience {
        slice: Some(Duration::from_millis(1)),
        ..Patience::detect()
    };
    let deadline = Deadline(Instant::now() + Duration::from_millis(5));
    assert_eq!(bell.wait(&patience, &deadline, || false), Woken::Ended);
}
