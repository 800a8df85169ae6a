//! Credits of streams: how many posted records are still pending, found out with an event every 64
//! of them (D9).
//!
//! The client takes a credit per record that `wire::credit` names, of the slot that it names, and
//! the worker returns it when the work is done, failed, or never began. A stream handle has a slot
//! of its own; the default streams of all contexts and threads share one, so a slot keeps count for
//! each driver stream apart.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cuda_abi::types::CUresult;

use crate::contexts::ContextKey;

/// Records between two events.
const MARK_EVERY: u64 = 64;

/// A client that asks for credits gets some once no more than this many are outstanding.
pub const ENOUGH: u64 = idm_protocol::status::STREAM_CREDITS / 2;

/// Events on streams, as the driver has them.
pub trait Fences {
    /// Records an event behind everything that was issued on a stream of a context so far.
    ///
    /// # Errors
    /// The driver's.
    fn record(&self, stream: &StreamKey) -> Result<usize, CUresult>;

    /// Whether the event's work is over: done or failed.
    fn is_over(&self, event: usize) -> bool;

    /// Waits until it is.
    fn wait(&self, event: usize);

    /// The event is not needed any more.
    fn recycle(&self, context: ContextKey, event: usize);
}

/// Names a driver stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKey {
    /// Its context.
    pub context: ContextKey,
    /// The driver's stream.
    pub stream: usize,
}

/// The counts of every slot.
#[derive(Debug)]
pub struct CreditCounts {
    slots: Vec<Mutex<Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    streams: Vec<Pending>,
    /// Credits returned since the beginning.
    returned: u64,
    /// Marks made since the beginning.
    marked: u64,
}

/// What is pending on one driver stream.
#[derive(Debug)]
struct Pending {
    key: StreamKey,
    /// Records since the last event.
    unmarked: u64,
    /// Events, oldest first, and the records that each one covers.
    marks: VecDeque<Mark>,
}

/// An event behind some records.
#[derive(Debug)]
struct Mark {
    event: usize,
    records: u64,
    /// No other mark of the slot has this number.
    serial: u64,
}

impl Pending {
    fn count(&self) -> u64 {
        self.unmarked + self.marks.iter().map(|mark| mark.records).sum::<u64>()
    }

    /// Drops events that are over; tells how many records those covered.
    fn collect(&mut self, fences: &impl Fences) -> u64 {
        let mut over = 0;
        while let Some(mark) = self.marks.pop_front_if(|mark| fences.is_over(mark.event)) {
            fences.recycle(self.key.context, mark.event);
            over += mark.records;
        }
        over
    }

    /// Puts an event behind the unmarked records. Records whose stream takes no event any more have
    /// failed: they are over.
    fn mark(&mut self, serial: &mut u64, fences: &impl Fences) -> u64 {
        let records = std::mem::take(&mut self.unmarked);
        match fences.record(&self.key) {
            Ok(event) => {
                *serial += 1;
                self.marks.push_back(Mark {
                    event,
                    records,
                    serial: *serial,
                });
                0
            }
            Err(_) => records,
        }
    }
}

impl Slot {
    fn outstanding(&self) -> u64 {
        self.streams.iter().map(Pending::count).sum()
    }
}

impl CreditCounts {
    /// No records yet, in any of `count` slots.
    pub fn new(count: usize) -> Self {
        Self {
            slots: (0..count).map(|_| Mutex::default()).collect(),
        }
    }

    /// A record was issued on a stream. Tells how many credits to return now.
    #[must_use]
    pub fn issued(&self, slot: usize, key: StreamKey, fences: &impl Fences) -> u64 {
        let Some(mut slot) = self.lock(slot) else {
            return 0;
        };
        let slot = &mut *slot;
        let at = slot.streams.iter().position(|pending| pending.key == key);
        let pending = match at {
            Some(at) => &mut slot.streams[at],
            None => {
                slot.streams.push(Pending {
                    key,
                    unmarked: 0,
                    marks: VecDeque::new(),
                });
                let last = slot.streams.len() - 1;
                &mut slot.streams[last]
            }
        };
        pending.unmarked += 1;
        if pending.unmarked < MARK_EVERY {
            return 0;
        }
        let over = pending.mark(&mut slot.marked, fences) + pending.collect(fences);
        slot.returned += over;
        over
    }

    /// A record was not issued. Tells how many credits to return: its own.
    #[must_use]
    pub fn refused(&self, slot: usize) -> u64 {
        let Some(mut slot) = self.lock(slot) else {
            return 0;
        };
        slot.returned += 1;
        1
    }

    /// Waits until the client has credits again. Calls `give` with credits as they come back; tells
    /// how many were returned since the beginning.
    pub fn refill(&self, slot: usize, fences: &impl Fences, mut give: impl FnMut(u64)) -> u64 {
        loop {
            let Some(mut guard) = self.lock(slot) else {
                return 0;
            };
            let state = &mut *guard;
            let mut over = 0;
            for pending in &mut state.streams {
                if pending.unmarked > 0 {
                    over += pending.mark(&mut state.marked, fences);
                }
                over += pending.collect(fences);
            }
            state.streams.retain(|pending| pending.count() > 0);
            state.returned += over;
            let returned = state.returned;
            let enough = state.outstanding() <= ENOUGH;
            // The oldest event of the stream with most to return; others are looked at again after.
            let longest = state.streams.iter().max_by_key(|pending| pending.count());
            let oldest = longest
                .and_then(|pending| pending.marks.front())
                .map(|mark| mark.event);
            drop(guard);
            if over > 0 {
                give(over);
            }
            match oldest {
                Some(event) if !enough => fences.wait(event),
                _ => return returned,
            }
        }
    }

    /// Looks at what is pending in a slot: calls `each` with the number of each stream's oldest mark, the same as long
    /// as that work is not over. Tells how many credits to return.
    #[must_use]
    pub fn look(&self, slot: usize, fences: &impl Fences, mut each: impl FnMut(u64)) -> u64 {
        let Some(mut slot) = self.lock(slot) else {
            return 0;
        };
        let slot = &mut *slot;
        let mut over = 0;
        for pending in &mut slot.streams {
            over += pending.collect(fences);
            if pending.marks.is_empty() && pending.unmarked > 0 {
                over += pending.mark(&mut slot.marked, fences);
            }
            if let Some(oldest) = pending.marks.front() {
                each(oldest.serial);
            }
        }
        slot.returned += over;
        over
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The stream is destroyed. Tells how many credits of the slot to return.
    #[must_use]
    pub fn forget_stream(&self, slot: usize, key: StreamKey, fences: &impl Fences) -> u64 {
        let Some(mut slot) = self.lock(slot) else {
            return 0;
        };
        let Some(at) = slot.streams.iter().position(|pending| pending.key == key) else {
            return 0;
        };
        let pending = slot.streams.swap_remove(at);
        let over = pending.count();
        slot.returned += over;
        for mark in pending.marks {
            fences.recycle(key.context, mark.event);
        }
        over
    }

    /// The context is destroyed, its events with it. Tells how many credits to return, by slot.
    #[must_use]
    pub fn forget_context(&self, context: ContextKey) -> Vec<(usize, u64)> {
        let mut back = Vec::new();
        for index in 0..self.slots.len() {
            let Some(mut slot) = self.lock(index) else {
                continue;
            };
            let mut over = 0;
            slot.streams.retain(|pending| {
                let gone = pending.key.context == context;
                if gone {
                    over += pending.count();
                }
                !gone
            });
            if over > 0 {
                slot.returned += over;
                back.push((index, over));
            }
        }
        back
    }

    fn lock(&self, slot: usize) -> Option<MutexGuard<'_, Slot>> {
        // A panic aborts the worker, so the lock is never poisoned in earnest.
        Some(
            self.slots
                .get(slot)?
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::{Cell, RefCell};

    /// A device on which events are over up to a point that the test moves.
    #[derive(Default)]
    struct Device {
        next: Cell<usize>,
        over: Cell<usize>,
        broken: Cell<bool>,
        recycled: RefCell<Vec<usize>>,
    }

    impl Fences for Device {
        fn record(&self, _: &StreamKey) -> Result<usize, CUresult> {
            if self.broken.get() {
                return Err(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
            }
            self.next.set(self.next.get() + 1);
            Ok(self.next.get())
        }

        fn is_over(&self, event: usize) -> bool {
            event <= self.over.get()
        }

        fn wait(&self, event: usize) {
            self.over.set(self.over.get().max(event));
        }

        fn recycle(&self, _: ContextKey, event: usize) {
            self.recycled.borrow_mut().push(event);
        }
    }

    const CONTEXT: ContextKey = ContextKey { slot: 1, serial: 1 };
    const KEY: StreamKey = StreamKey {
        context: CONTEXT,
        stream: 77,
    };

    fn issue(counts: &CreditCounts, device: &Device, count: u64) -> u64 {
        (0..count).map(|_| counts.issued(1, KEY, device)).sum()
    }

    #[test]
    fn work_that_is_not_over_keeps_its_number_and_later_work_has_another() {
        let (counts, device) = (CreditCounts::new(2), Device::default());
        let look = || {
            let mut seen = Vec::new();
            let back = counts.look(1, &device, |serial| seen.push(serial));
            (back, seen)
        };
        assert_eq!(look(), (0, vec![]), "nothing is pending");
        issue(&counts, &device, 3);
        let (_, first) = look();
        assert_eq!(first.len(), 1);
        issue(&counts, &device, 200);
        assert_eq!(look(), (0, first.clone()), "the oldest is still there");
        device.over.set(1);
        let (back, second) = look();
        assert_eq!(back, 3);
        assert_ne!(second, first);
        device.over.set(usize::MAX);
        assert_eq!(look().0, 200 / 64 * 64, "marked ones");
        assert_eq!(look().0, 200 % 64, "and those that this look marked");
        assert_eq!(look(), (0, vec![]));
    }

    #[test]
    fn credits_come_back_when_a_later_event_finds_earlier_ones_over() {
        let (counts, device) = (CreditCounts::new(2), Device::default());
        assert_eq!(issue(&counts, &device, 64), 0);
        device.over.set(1);
        assert_eq!(issue(&counts, &device, 63), 0);
        assert_eq!(issue(&counts, &device, 1), 64);
        assert_eq!(*device.recycled.borrow(), [1]);
    }

    #[test]
    fn a_refused_record_costs_nothing_and_unknown_slots_are_ignored() {
        let counts = CreditCounts::new(2);
        assert_eq!(counts.refused(1), 1);
        assert_eq!(counts.refused(9), 0);
        assert_eq!(counts.issued(9, KEY, &Device::default()), 0);
    }

    #[test]
    fn a_refill_waits_until_half_is_back_also_without_any_event() {
        let (counts, device) = (CreditCounts::new(2), Device::default());
        assert_eq!(issue(&counts, &device, 512), 0);
        let mut given = 0;
        let returned = counts.refill(1, &device, |count| given += count);
        assert_eq!((given, returned), (256, 256));
        let many = CreditCounts::new(1);
        for stream in 0..10 {
            for _ in 0..60 {
                assert_eq!(
                    many.issued(
                        0,
                        StreamKey {
                            context: CONTEXT,
                            stream
                        },
                        &device
                    ),
                    0
                );
            }
        }
        let returned = many.refill(0, &device, |_| {});
        assert!(returned >= 600 - ENOUGH, "{returned}");
    }

    #[test]
    fn a_stream_that_failed_gives_everything_back() {
        let (counts, device) = (CreditCounts::new(2), Device::default());
        assert_eq!(issue(&counts, &device, 70), 0);
        device.broken.set(true);
        device.over.set(1);
        assert_eq!(counts.refill(1, &device, |_| {}), 70);
    }

    #[test]
    fn a_destroyed_stream_or_context_gives_everything_back() {
        let (counts, device) = (CreditCounts::new(2), Device::default());
        assert_eq!(issue(&counts, &device, 70), 0);
        let other = StreamKey { stream: 78, ..KEY };
        assert_eq!(counts.forget_stream(1, other, &device), 0);
        assert_eq!(counts.forget_stream(1, KEY, &device), 70);
        assert_eq!(*device.recycled.borrow(), [1]);
        assert_eq!(issue(&counts, &device, 3), 0);
        assert_eq!(
            counts.forget_context(ContextKey {
                serial: 2,
                ..CONTEXT
            }),
            []
        );
        assert_eq!(counts.forget_context(CONTEXT), [(1, 3)]);
    }

    proptest! {
        #[test]
        fn never_more_is_returned_than_was_issued_and_in_the_end_all_of_it(
            steps in prop::collection::vec((0usize..3, 1u64..200, 0usize..5), 1..40),
        ) {
            let (counts, device) = (CreditCounts::new(1), Device::default());
            let (mut issued, mut back) = (0u64, 0u64);
            for (stream, count, progress) in steps {
                for _ in 0..count {
                    issued += 1;
                    back += counts.issued(0, StreamKey { context: CONTEXT, stream }, &device);
                    prop_assert!(back <= issued);
                }
                device.over.set((device.over.get() + progress).min(device.next.get()));
                if progress == 4 {
                    let returned = counts.refill(0, &device, |count| back += count);
                    prop_assert_eq!(returned, back);
                    prop_assert!(issued - back <= ENOUGH);
                }
            }
            back += counts.forget_context(CONTEXT).iter().map(|(_, count)| count).sum::<u64>();
            prop_assert_eq!(back, issued);
        }
    }
}
