//! The memory that kernels allocate for themselves with `malloc` and give back with `free`.
//!
//! One piece of device memory per context, of a size fixed when it is first needed. As on a GPU, what a
//! kernel allocated outlives it, and only kernels can free it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Alignment of every piece; also what keeps the first one from starting where the memory does, so that no
/// address that a kernel got is one that the host could free.
const ALIGNMENT: u64 = 16;

/// A heap.
#[derive(Debug)]
pub struct DeviceHeap {
    pieces: Mutex<Pieces>,
}

/// Start to length, both multiples of the alignment.
#[derive(Debug)]
struct Pieces {
    free: BTreeMap<u64, u64>,
    taken: BTreeMap<u64, u64>,
}

impl DeviceHeap {
    /// Hands out `bytes` bytes from `start`.
    #[must_use]
    pub fn new(start: u64, bytes: u64) -> Self {
        let first = start.next_multiple_of(ALIGNMENT) + ALIGNMENT;
        let room = (start + bytes).saturating_sub(first) / ALIGNMENT * ALIGNMENT;
        let free = (room > 0).then_some((first, room));
        Self {
            pieces: Mutex::new(Pieces {
                free: free.into_iter().collect(),
                taken: BTreeMap::new(),
            }),
        }
    }

    /// The address of a new piece; none where no free one is large enough.
    pub fn allocate(&self, bytes: u64) -> Option<u64> {
        let need = bytes.max(1).checked_next_multiple_of(ALIGNMENT)?;
        let mut pieces = self.pieces();
        let fits = |(_, room): &(&u64, &u64)| **room >= need;
        let (start, room) = pieces.free.iter().find(fits).map(|(a, n)| (*a, *n))?;
        pieces.free.remove(&start);
        if room > need {
            pieces.free.insert(start + need, room - need);
        }
        pieces.taken.insert(start, need);
        Some(start)
    }

    /// Takes a piece back; false where `address` is none that was handed out.
    pub fn free(&self, address: u64) -> bool {
        let mut pieces = self.pieces();
        let Some(mut length) = pieces.taken.remove(&address) else {
            return false;
        };
        let mut start = address;
        if let Some(behind) = pieces.free.remove(&(start + length)) {
            length += behind;
        }
        if let Some((&before, &room)) = pieces.free.range(..start).next_back()
            && before + room == start
        {
            (start, length) = (before, room + length);
        }
        pieces.free.insert(start, length);
        true
    }

    fn pieces(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_aligned_and_apart_and_merge_again() {
        let heap = DeviceHeap::new(0x1008, 1000);
        let a = heap.allocate(1).unwrap();
        let b = heap.allocate(17).unwrap();
        let c = heap.allocate(0).unwrap();
        assert_eq!((a % 16, b - a, c - b), (0, 16, 32));
        assert!(a > 0x1008 && heap.allocate(1000).is_none());
        for piece in [b, a, c] {
            assert!(heap.free(piece));
        }
        assert_eq!(heap.allocate(900), Some(a));
    }

    #[test]
    fn what_was_not_handed_out_is_not_taken_back() {
        let heap = DeviceHeap::new(0x1000, 4096);
        let a = heap.allocate(64).unwrap();
        assert!(!heap.free(a + 16) && !heap.free(0x1000) && heap.free(a) && !heap.free(a));
    }

    #[test]
    fn a_heap_without_room_hands_out_nothing() {
        assert_eq!(DeviceHeap::new(0x1000, 8).allocate(1), None);
        assert_eq!(DeviceHeap::new(0x1000, 4096).allocate(u64::MAX), None);
    }
}
