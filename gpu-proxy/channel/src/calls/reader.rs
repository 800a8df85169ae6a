//! The auditor's end.

use std::collections::HashMap;

use idm_protocol::memory::Memory;
use idm_protocol::sync::{Ordering, fence};
use zerocopy::FromZeros;

use super::{
    ANSWERED, ASLEEP, CALL_WORDS, CELL_BITS, CELLS, CUT, Call, FIRST_CELL, FIRST_NAME, HEAD, IDLE,
    KIND_SHIFT, LINE, LOST, MAX_NAME, NAME_WORDS, NAMED, NAMES, SLOTS, TAIL, call_of, fits, slot,
};

/// Reads what a worker claims.
#[derive(Debug)]
pub struct CallReader<M> {
    page: M,
    next: u64,
}

/// A name, as the worker wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// What it names.
    pub kind: u32,
    /// It.
    pub bytes: Vec<u8>,
    /// There was more of it.
    pub is_cut: bool,
}

/// What a worker that is gone has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The call; all zeros if nothing is known but that there was one.
    pub call: Call,
    /// The driver had answered.
    pub is_answered: bool,
}

impl<M: Memory> CallReader<M> {
    /// Goes on with call `next`, as far as the auditor has recorded them, or behind it where an auditor before this
    /// one let go of more. `None` if the page is too small.
    pub fn new(page: M, next: u64) -> Option<Self> {
        if !fits(&page) {
            return None;
        }
        let released = page.words()[HEAD].load(Ordering::Acquire);
        let next = next.max(released);
        Some(Self { page, next })
    }

    /// The number of the next call.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes up to `most` calls, in order, as far as they are whole.
    pub fn take(&mut self, most: usize, calls: &mut Vec<Call>) {
        for _ in 0..most.min(SLOTS) {
            let Some(call) = self.read(self.next) else {
                break;
            };
            calls.push(call);
            self.next = self.next.wrapping_add(1);
        }
    }

    /// Lets the worker use the slots of all that was taken.
    pub fn release(&self) {
        self.page.words()[HEAD].store(self.next, Ordering::Release);
    }

    /// Asks to be woken at the next call; false if there is one already.
    #[must_use]
    pub fn doze(&self) -> bool {
        let asleep = &self.page.words()[ASLEEP];
        asleep.store(1, Ordering::Relaxed);
        // ORDER: with the writer's fence. Either this sees the slot, or the writer sees that this sleeps.
        fence(Ordering::SeqCst);
        if self.read(self.next).is_some() {
            asleep.store(0, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// How many calls have a slot by now, ever: what is to be taken, if no more is to come in between.
    pub fn claimed(&self) -> u64 {
        let claimed = self.page.words()[TAIL].load(Ordering::Acquire);
        claimed.clamp(self.next, self.next.saturating_add(SLOTS as u64))
    }

    /// When the worker is gone: everything that is left, in order. First what has a slot, then what was under way,
    /// which has the numbers behind that. Whoever reads the page again is told the same under the same numbers.
    pub fn take_rest(&mut self) -> Vec<Rest> {
        let words = self.page.words();
        let claimed = words[TAIL].load(Ordering::Acquire);
        let mut under_way = Vec::new();
        // A slot was claimed, and the worker was gone before the call was in it.
        let mut cut_off = HashMap::new();
        for at in (0..CELLS).map(|cell| FIRST_CELL + cell * LINE) {
            let state = words[at].load(Ordering::Acquire);
            if state & ((1 << CELL_BITS) - 1) == ANSWERED {
                cut_off.insert(state >> CELL_BITS, self.body(at));
            } else if state != IDLE {
                under_way.push(self.body(at));
            }
        }
        let mut rest = Vec::new();
        for number in self.next..self.claimed() {
            let call = self.read(number).or_else(|| cut_off.remove(&number));
            let is_answered = call.is_some();
            let call = call.unwrap_or_else(Call::new_zeroed);
            rest.push(Rest { call, is_answered });
        }
        // Those that were taken as rest before.
        let told = usize::try_from(self.next.saturating_sub(claimed)).unwrap_or(usize::MAX);
        let is_answered = false;
        let open = under_way.into_iter().skip(told);
        rest.extend(open.map(|call| Rest { call, is_answered }));
        self.next = self.next.saturating_add(rest.len() as u64);
        rest
    }

    /// Calls that found no room, ever.
    pub fn lost(&self) -> u64 {
        self.page.words()[LOST].load(Ordering::Relaxed)
    }

    /// A name by its number.
    pub fn name(&self, number: u16) -> Option<Name> {
        let words = self.page.words();
        let number = usize::from(number);
        let named = words[NAMED].load(Ordering::Acquire);
        if number >= NAMES || named <= number as u64 {
            return None;
        }
        let at = FIRST_NAME + number * NAME_WORDS;
        let head = words[at].load(Ordering::Relaxed);
        let len = usize::try_from(head & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(MAX_NAME)];
        self.page.read((at + 1) * 8, &mut bytes).ok()?;
        let kind = (head & !CUT) >> KIND_SHIFT;
        Some(Name {
            kind: u32::try_from(kind).unwrap_or(u32::MAX),
            bytes,
            is_cut: head & CUT != 0,
        })
    }

    fn read(&self, number: u64) -> Option<Call> {
        let at = slot(number);
        // ORDER: with the writer's release of the number.
        let found = self.page.words()[at].load(Ordering::Acquire);
        (found == number.wrapping_add(1)).then(|| self.body(at))
    }

    fn body(&self, at: usize) -> Call {
        let words = &self.page.words()[at + 1..];
        let mut copy = [0; CALL_WORDS];
        for (to, word) in copy.iter_mut().zip(words) {
            *to = word.load(Ordering::Relaxed);
        }
        call_of(copy)
    }
}
