//! The worker's end.

use std::collections::HashMap;

use idm_protocol::memory::Memory;
use idm_protocol::sync::{Mutex, Ordering, fence};

use super::{
    ANSWERED, ASLEEP, CELL_BITS, CELLS, CUT, Call, FIRST_CELL, FIRST_NAME, HEAD, IDLE, KIND_SHIFT,
    LINE, LOST, MAX_NAME, NAME_WORDS, NAMED, NAMES, NO_NAME, SLOTS, TAIL, UNDER_WAY, fits, slot,
    words_of,
};

/// Kind and bytes.
type NameKey = (u32, Box<[u8]>);

/// Writes calls down. Each thread has a cell of its own; everything else any thread may do.
#[derive(Debug)]
pub struct CallWriter<M> {
    page: M,
    names: Mutex<HashMap<NameKey, u16>>,
}

impl<M: Memory> CallWriter<M> {
    /// Over a page that nobody has written to; `None` if it is too small.
    pub fn new(page: M) -> Option<Self> {
        let names = Mutex::new(HashMap::new());
        fits(&page).then_some(Self { page, names })
    }

    /// The driver will be called.
    #[inline]
    pub fn begin(&self, cell: usize, call: &Call) {
        let Some(words) = self.cell(cell) else { return };
        let (state, body) = (&words[0], &words[1..]);
        for (to, word) in body.iter().zip(words_of(*call)) {
            to.store(word, Ordering::Relaxed);
        }
        // ORDER: the call is whole for whoever sees that there is one.
        state.store(UNDER_WAY, Ordering::Release);
    }

    /// The driver has answered. False if the ring has no room: nothing has changed.
    #[inline]
    #[must_use]
    pub fn end(&self, cell: usize, call: &Call) -> bool {
        let Some(number) = self.claim() else {
            return false;
        };
        let words = self.cell(cell);
        if let Some(words) = words {
            // From here on the call is in the ring or, if the worker is gone before, still in the cell.
            words[0].store(number << CELL_BITS | ANSWERED, Ordering::Release);
        }
        let at = slot(number);
        let line = &self.page.words()[at..at + LINE];
        for (to, word) in line[1..].iter().zip(words_of(*call)) {
            to.store(word, Ordering::Relaxed);
        }
        // ORDER: the call is whole for whoever sees its number.
        line[0].store(number + 1, Ordering::Release);
        if let Some(words) = words {
            words[0].store(IDLE, Ordering::Release);
        }
        true
    }

    /// Whether the auditor sleeps: then wake it. Ask after [`CallWriter::end`].
    #[inline]
    #[must_use]
    pub fn must_wake(&self) -> bool {
        let asleep = &self.page.words()[ASLEEP];
        // ORDER: with the reader's fence. Either it sees the slot, or this sees that it sleeps.
        fence(Ordering::SeqCst);
        asleep.load(Ordering::Relaxed) != 0 && asleep.swap(0, Ordering::Relaxed) != 0
    }

    /// The call of a cell is given up: there is no room, and nobody makes some.
    pub fn lose(&self, cell: usize) {
        self.page.words()[LOST].fetch_add(1, Ordering::Relaxed);
        self.forget(cell);
    }

    /// The call of a cell is none, or will be told of as another thread's.
    #[inline]
    pub fn forget(&self, cell: usize) {
        if let Some(words) = self.cell(cell) {
            words[0].store(IDLE, Ordering::Release);
        }
    }

    /// The number of a name, which is written only once; [`NO_NAME`] if there are too many.
    pub fn name(&self, kind: u32, bytes: &[u8]) -> u16 {
        let kept = &bytes[..bytes.len().min(MAX_NAME)];
        let mut names = self.names.lock();
        if let Some(&number) = names.get(&(kind, kept.into())) {
            return number;
        }
        let count = names.len();
        let Some(number) = u16::try_from(count).ok().filter(|_| count < NAMES) else {
            return NO_NAME;
        };
        let at = FIRST_NAME + count * NAME_WORDS;
        // Inside the page by its size.
        let _ = self.page.write((at + 1) * 8, kept);
        let cut = if kept.len() < bytes.len() { CUT } else { 0 };
        let head = u64::from(kind) << KIND_SHIFT | kept.len() as u64 | cut;
        let words = self.page.words();
        words[at].store(head, Ordering::Relaxed);
        // ORDER: the name is whole for whoever counts it.
        words[NAMED].store(count as u64 + 1, Ordering::Release);
        names.insert((kind, kept.into()), number);
        number
    }

    /// The number of a free slot.
    fn claim(&self) -> Option<u64> {
        let words = self.page.words();
        let mut tail = words[TAIL].load(Ordering::Relaxed);
        loop {
            // ORDER: the auditor has copied what it lets go of.
            let head = words[HEAD].load(Ordering::Acquire);
            if tail.wrapping_sub(head) >= SLOTS as u64 {
                return None;
            }
            match words[TAIL].compare_exchange(tail, tail + 1, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Some(tail),
                Err(found) => tail = found,
            }
        }
    }

    /// The line of a cell; threads beyond them have none.
    fn cell(&self, cell: usize) -> Option<&[idm_protocol::sync::Word]> {
        let at = FIRST_CELL + cell * LINE;
        (cell < CELLS).then(|| &self.page.words()[at..at + LINE])
    }
}
