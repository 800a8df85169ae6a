//! Which parts of the arena are handed out as pinned host memory.
//!
//! The client chooses the place, the worker checks, zeroes and registers it (D13). Whole pages, first
//! fit; neighbours that are free are one piece.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// Bytes that every piece is a multiple of.
pub const PAGE: usize = 4096;

/// The free pieces of an arena.
#[derive(Debug)]
pub struct Pieces {
    /// Length of each free piece by its offset.
    free: BTreeMap<usize, usize>,
}

impl Pieces {
    /// An arena of `len` bytes whose first `taken` bytes are somebody else's.
    pub fn new(taken: usize, len: usize) -> Self {
        let start = taken.next_multiple_of(PAGE);
        let free = (len > start)
            .then(|| (start, (len - start) / PAGE * PAGE))
            .filter(|piece| piece.1 > 0);
        Self {
            free: free.into_iter().collect(),
        }
    }

    /// Offset and length of a new piece that holds `bytes`; `None` if no free piece does.
    pub fn take(&mut self, bytes: usize) -> Option<(usize, usize)> {
        let len = bytes.max(1).checked_next_multiple_of(PAGE)?;
        let (&offset, &room) = self.free.iter().find(|(_, room)| **room >= len)?;
        self.free.remove(&offset);
        if room > len {
            self.free.insert(offset + len, room - len);
        }
        Some((offset, len))
    }

    /// Takes back a piece that [`Pieces::take`] gave.
    pub fn put(&mut self, offset: usize, len: usize) {
        let (mut start, mut end) = (offset, offset + len);
        if let Some((&before, &room)) = self.free.range(..offset).next_back()
            && before + room == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(room) = self.free.remove(&end) {
            end += room;
        }
        self.free.insert(start, end - start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_pages_after_what_is_taken_and_run_out() {
        let mut pieces = Pieces::new(PAGE + 1, 4 * PAGE);
        assert_eq!(pieces.take(1), Some((2 * PAGE, PAGE)));
        assert_eq!(pieces.take(PAGE + 1), None);
        assert_eq!(pieces.take(0), Some((3 * PAGE, PAGE)));
        assert_eq!(pieces.take(1), None);
        assert_eq!(pieces.take(usize::MAX), None);
    }

    #[test]
    fn returned_pieces_join_their_neighbours_in_any_order() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]] {
            let mut pieces = Pieces::new(0, 3 * PAGE);
            let taken: Vec<_> = (0..3).map(|_| pieces.take(PAGE).unwrap()).collect();
            for index in order {
                let (offset, len) = taken[index];
                pieces.put(offset, len);
            }
            assert_eq!(pieces.take(3 * PAGE), Some((0, 3 * PAGE)), "{order:?}");
        }
    }

    #[test]
    fn arena_smaller_than_what_is_taken_has_no_pieces() {
        assert_eq!(Pieces::new(2 * PAGE, PAGE).take(1), None);
    }
}
