//! Memory that two sides see, as words and as opaque bytes.
//!
//! Rules, which the types enforce:
//! - There is never a `&[u8]` or a `&T` into shared memory, only [`Word`]s (atomics) and copies.
//! - A copy is made once, checked as a copy, and used as a copy.
//! - The raw pointers live in the module `mapped` alone; rings and lanes see the [`Memory`] trait,
//!   and loom and Miri run them over [`Heap`].

#[cfg(not(loom))]
mod file;
mod heap;
#[cfg(not(loom))]
mod mapped;

#[cfg(not(loom))]
pub use file::{FileError, SealedFile};
pub use heap::Heap;
#[cfg(not(loom))]
pub use mapped::{Mapped, ReadOnly, copy_from_shared, copy_to_shared};

use std::ops::Range;

use thiserror::Error;

use crate::sync::{Ordering, Word};
use crate::wait::Doorbell;

/// Bytes in a word.
pub const WORD_BYTES: usize = 8;

/// Pages that another process, or another machine, can write at any time.
///
/// Clones are handles to the same memory.
pub trait Memory: Clone + Send + Sync + std::fmt::Debug + 'static {
    /// All of it, as words.
    fn words(&self) -> &[Word];

    /// Word `index` will be written soon: a hint to bring its cache line here, which the other side last
    /// looked at, while there is other work to do.
    #[inline]
    fn expect_write(&self, _index: usize) {}

    /// Copies opaque bytes out, starting at byte `at`. What is copied while the other side writes
    /// is an arbitrary mixture; the caller checks its copy.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range is not inside the memory; nothing is copied.
    fn read(&self, at: usize, into: &mut [u8]) -> Result<(), OutOfBounds> {
        let words = self.words();
        bounds(words.len() * WORD_BYTES, at, into.len())?;
        for (i, byte) in into.iter_mut().enumerate() {
            let at = at + i;
            let word = words[at / WORD_BYTES].load(Ordering::Relaxed);
            *byte = word.to_le_bytes()[at % WORD_BYTES];
        }
        Ok(())
    }

    /// Copies opaque bytes in, starting at byte `at`, which must be a multiple of eight. The rest
    /// of the last word becomes zero.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range is not inside the memory or not aligned; nothing is copied.
    fn write(&self, at: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        let words = self.words();
        bounds(words.len() * WORD_BYTES, at, from.len())?;
        if !at.is_multiple_of(WORD_BYTES) {
            return Err(OutOfBounds {
                at,
                len: from.len(),
                size: words.len() * WORD_BYTES,
            });
        }
        store_bytes(&words[at / WORD_BYTES..], from);
        Ok(())
    }
}

/// What a ring lives in: some pages both sides can see, and a way to wake the other (D21).
pub trait Region: Memory + Doorbell {}

impl<T: Memory + Doorbell> Region for T {}

/// A range of bytes does not lie inside the memory. Where the range came from the other side this is
/// the other side's violation; where it came from us, a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{len} bytes at {at} are not inside {size} bytes of shared memory")]
pub struct OutOfBounds {
    /// First byte.
    pub at: usize,
    /// Number of bytes.
    pub len: usize,
    /// Size of the memory.
    pub size: usize,
}

/// A piece of a region: what each component holds and the only memory it can reach.
#[derive(Clone, Debug)]
pub struct View<R> {
    region: R,
    words: Range<usize>,
}

impl<R: Memory> View<R> {
    /// The `words` of `region`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the region is smaller than that.
    pub fn new(region: &R, words: Range<usize>) -> Result<Self, OutOfBounds> {
        let have = region.words().len();
        if words.start > words.end || words.end > have {
            return Err(OutOfBounds {
                at: words.start.saturating_mul(WORD_BYTES),
                len: words
                    .end
                    .saturating_sub(words.start)
                    .saturating_mul(WORD_BYTES),
                size: have * WORD_BYTES,
            });
        }
        Ok(Self {
            region: region.clone(),
            words,
        })
    }

    /// The words of this piece.
    #[inline]
    pub fn words(&self) -> &[Word] {
        &self.region.words()[self.words.clone()]
    }

    /// Word `index` of this piece will be written soon; see [`Memory::expect_write`].
    #[inline]
    pub fn expect_write(&self, index: usize) {
        self.region
            .expect_write(self.words.start.saturating_add(index));
    }

    /// Bytes in this piece.
    pub fn byte_len(&self) -> usize {
        self.words.len() * WORD_BYTES
    }

    /// The region it is a piece of.
    pub fn region(&self) -> &R {
        &self.region
    }

    /// A smaller piece, counted from the start of this one.
    ///
    /// # Errors
    /// [`OutOfBounds`] if this piece is smaller than that.
    pub fn part(&self, words: Range<usize>) -> Result<Self, OutOfBounds> {
        if words.start > words.end || words.end > self.words.len() {
            return Err(OutOfBounds {
                at: words.start.saturating_mul(WORD_BYTES),
                len: words
                    .end
                    .saturating_sub(words.start)
                    .saturating_mul(WORD_BYTES),
                size: self.byte_len(),
            });
        }
        let start = self.words.start;
        Ok(Self {
            region: self.region.clone(),
            words: start + words.start..start + words.end,
        })
    }

    /// Copies opaque bytes out; see [`Memory::read`].
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range is not inside this piece.
    pub fn read(&self, at: usize, into: &mut [u8]) -> Result<(), OutOfBounds> {
        bounds(self.byte_len(), at, into.len())?;
        self.region.read(self.words.start * WORD_BYTES + at, into)
    }

    /// Copies opaque bytes in; see [`Memory::write`].
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range is not inside this piece or `at` is no multiple of eight.
    pub fn write(&self, at: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        bounds(self.byte_len(), at, from.len())?;
        self.region.write(self.words.start * WORD_BYTES + at, from)
    }
}

/// `len` bytes at `at` lie inside `size` bytes.
fn bounds(size: usize, at: usize, len: usize) -> Result<(), OutOfBounds> {
    match at.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(OutOfBounds { at, len, size }),
    }
}

/// Stores bytes into the first words, the rest of the last one zero. Returns the words written.
#[inline]
pub(crate) fn store_bytes(words: &[Word], bytes: &[u8]) -> usize {
    let (whole, rest) = bytes.as_chunks::<WORD_BYTES>();
    for (word, chunk) in words.iter().zip(whole) {
        word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
    if rest.is_empty() {
        return whole.len();
    }
    let mut last = [0; WORD_BYTES];
    last[..rest.len()].copy_from_slice(rest);
    words[whole.len()].store(u64::from_le_bytes(last), Ordering::Relaxed);
    whole.len() + 1
}

/// Writes a part of a tail, in whole words; see [`View::write`].
pub(crate) fn padded_write<R: Memory>(
    view: &View<R>,
    at: usize,
    part: &[u8],
) -> Result<(), OutOfBounds> {
    bounds(view.byte_len(), at, part.len().next_multiple_of(WORD_BYTES))?;
    view.write(at, part)
}

/// Loads the first words into `into`.
#[inline]
pub(crate) fn load_words(words: &[Word], into: &mut [u64]) {
    for (value, word) in into.iter_mut().zip(words) {
        *value = word.load(Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn bytes_written_come_back_and_the_rest_of_the_word_is_zero() {
        let heap = Heap::zeroed(4);
        heap.words()[1].store(u64::MAX, Ordering::Relaxed);
        heap.write(8, &[1, 2, 3]).unwrap();
        let mut back = [9; 8];
        heap.read(8, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 0, 0, 0, 0, 0]);
        let mut middle = [0; 2];
        heap.read(9, &mut middle).unwrap();
        assert_eq!(middle, [2, 3]);
    }

    #[test]
    fn a_range_outside_is_refused_even_when_its_end_overflows() {
        let heap = Heap::zeroed(4);
        assert!(heap.write(32, &[1]).is_err());
        assert!(heap.write(4, &[1]).is_err());
        assert!(heap.read(usize::MAX, &mut [0; 2]).is_err());
        let view = View::new(&heap, 1..3).unwrap();
        assert!(view.read(9, &mut [0; 8]).is_err());
        assert!(view.part(1..3).is_err());
        #[allow(
            clippy::reversed_empty_ranges,
            reason = "what a hostile length may compute to"
        )]
        let backwards = 2..1;
        assert!(View::new(&heap, backwards).is_err());
    }
}
