//! Mapped shared memory: the one module with raw pointers into what another process can write.
//!
//! 1. No reference to shared bytes exists, except `&[Word]`, whose elements are atomics.
//! 2. Bulk bytes move through [`copy_from_shared`] and [`copy_to_shared`] and nothing else.
//! 3. A mapping's size is fixed and its file is sealed against shrinking before it is mapped, so no
//!    access can fault.

use std::fmt;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

use super::{FileError, Memory, OutOfBounds, SealedFile, WORD_BYTES, bounds};
use crate::sync::{Ordering, Word};

/// A sealed file, mapped for reading and writing.
#[derive(Clone)]
pub struct Mapped {
    start: NonNull<Word>,
    count: usize,
    // Keeps the mapping; `start` and `count` beside it save an indirection on every access.
    _mapping: Arc<Mapping>,
}

// SAFETY: the memory is reached only through atomics and the copy routines below, from any thread,
// and stays mapped while a handle exists.
unsafe impl Send for Mapped {}
// SAFETY: as above; no method needs exclusive access.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps all of `file`. The pages are not inherited by a forked child (D13), so a child that
    /// touches them faults instead of corrupting its parent's ring.
    ///
    /// # Errors
    /// [`FileError::Map`] with the system's reason.
    pub fn new(file: &SealedFile) -> Result<Self, FileError> {
        let mapping = Mapping::new(file, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        let inherit = MmapAdvise::MADV_DONTFORK;
        // SAFETY: the range is the mapping just made; the advice changes only what a child inherits.
        unsafe { madvise(mapping.start.cast(), mapping.len.get(), inherit) }
            .map_err(FileError::Map)?;
        Ok(Self {
            start: mapping.start.cast(),
            count: mapping.len.get() / WORD_BYTES,
            _mapping: Arc::new(mapping),
        })
    }

    /// Touches every page for writing, so that no first access faults later. The contents stay.
    pub fn prefault(&self) {
        const PAGE_WORDS: usize = 4096 / WORD_BYTES;
        for word in self.words().iter().step_by(PAGE_WORDS) {
            word.fetch_add(0, Ordering::Relaxed);
        }
    }
}

impl Memory for Mapped {
    #[inline]
    fn words(&self) -> &[Word] {
        // SAFETY: `start..start + count` is mapped readable and writable for as long as `self`
        // exists, page-aligned, and `Word` is an atomic: other writers are expected.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }

    #[inline]
    fn expect_write(&self, index: usize) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if let Some(word) = self.words().get(index) {
            // SAFETY: the instruction changes nothing that a program can see and faults nowhere; processors
            // that do not know it ignore it.
            unsafe {
                std::arch::asm!(
                    "prefetchw [{}]",
                    in(reg) std::ptr::from_ref(word),
                    options(nostack, preserves_flags, readonly),
                );
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = index;
    }

    fn read(&self, at: usize, into: &mut [u8]) -> Result<(), OutOfBounds> {
        bounds(self.count * WORD_BYTES, at, into.len())?;
        // SAFETY: `at` is inside the mapping, checked above.
        let from = unsafe { self.start.cast::<u8>().add(at) };
        // SAFETY: `into.len()` bytes from there are too, and stay mapped during the call.
        unsafe { copy_from_shared(from, into) };
        Ok(())
    }

    fn write(&self, at: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        let size = self.count * WORD_BYTES;
        // The rest of the last word is ours to clear too: lengths in words, as in the trait.
        let rounded = from.len().next_multiple_of(WORD_BYTES);
        bounds(size, at, rounded)?;
        if !at.is_multiple_of(WORD_BYTES) {
            return Err(OutOfBounds {
                at,
                len: from.len(),
                size,
            });
        }
        let whole = from.len() - from.len() % WORD_BYTES;
        // SAFETY: `at` is inside the mapping, checked above.
        let to = unsafe { self.start.cast::<u8>().add(at) };
        // SAFETY: `whole` bytes from there are too, and stay mapped during the call.
        unsafe { copy_to_shared(to, &from[..whole]) };
        super::store_bytes(&self.words()[(at + whole) / WORD_BYTES..], &from[whole..]);
        Ok(())
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped")
            .field("bytes", &(self.count * WORD_BYTES))
            .finish_non_exhaustive()
    }
}

/// A sealed file, mapped for reading only. Words can be loaded, nothing else: a store would fault.
#[derive(Clone)]
pub struct ReadOnly {
    start: NonNull<Word>,
    count: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: only loaded from, through atomics, and mapped while a handle exists.
unsafe impl Send for ReadOnly {}
// SAFETY: as above.
unsafe impl Sync for ReadOnly {}

impl ReadOnly {
    /// Maps all of `file`. A forked child inherits it: what it reads there is true for it as well.
    ///
    /// # Errors
    /// [`FileError::Map`] with the system's reason.
    pub fn new(file: &SealedFile) -> Result<Self, FileError> {
        let mapping = Mapping::new(file, ProtFlags::PROT_READ)?;
        Ok(Self {
            start: mapping.start.cast(),
            count: mapping.len.get() / WORD_BYTES,
            _mapping: Arc::new(mapping),
        })
    }

    /// Number of words.
    pub fn word_count(&self) -> usize {
        self.count
    }

    /// One relaxed load, or `None` outside the page. Words on such a page are independent of one
    /// another, so no order is needed.
    #[inline]
    pub fn load(&self, index: usize) -> Option<u64> {
        if index >= self.count {
            return None;
        }
        // SAFETY: inside the mapping, checked above.
        let word = unsafe { self.start.add(index) };
        // SAFETY: readable, aligned, mapped while `self` exists; an eight-byte relaxed atomic load
        // is one the language allows on memory that is mapped read-only.
        let word = unsafe { word.as_ref() };
        Some(word.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for ReadOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnly")
            .field("bytes", &(self.count * WORD_BYTES))
            .finish_non_exhaustive()
    }
}

/// Copies bytes that another process may be writing at this moment into private memory.
///
/// The one audited place, with [`copy_to_shared`], where shared bytes are touched by a plain copy,
/// because a loop of relaxed atomics runs at a fraction of memory's speed. A race with the other
/// process makes the copied *values* arbitrary. That is acceptable because: the writer is another
/// process or a device, outside this program's memory model, as with any shared mapping; the
/// source is never viewed as a type that has invalid values; the compiler cannot re-read the
/// source after the call, since the pointer passes a barrier and only the private copy is ever
/// interpreted; and an honest peer is ordered by the ring's acquire and release, so that for it
/// there is no race at all.
///
/// # Safety
/// `from..from + into.len()` must be mapped readable throughout the call, and no thread of *this*
/// program may write it without ordering against the call.
#[inline]
pub unsafe fn copy_from_shared(from: NonNull<u8>, into: &mut [u8]) {
    let source = std::hint::black_box(from.as_ptr().cast_const());
    // SAFETY: readable by the caller's promise; `into` is a private buffer, so nothing overlaps.
    unsafe { std::ptr::copy_nonoverlapping(source, into.as_mut_ptr(), into.len()) };
}

/// Copies private bytes to memory that another process may read or write at this moment.
///
/// See [`copy_from_shared`] for why this is acceptable; nothing here depends on what the bytes
/// become.
///
/// # Safety
/// `to..to + from.len()` must be mapped writable throughout the call, and no thread of *this*
/// program may access it without ordering against the call.
#[inline]
pub unsafe fn copy_to_shared(to: NonNull<u8>, from: &[u8]) {
    let target = std::hint::black_box(to.as_ptr());
    // SAFETY: writable by the caller's promise; `from` is private memory, so nothing overlaps.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), target, from.len()) };
}

/// Owns one mapping.
struct Mapping {
    start: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: it owns addresses; only its handles touch the memory there.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: &SealedFile, access: ProtFlags) -> Result<Self, FileError> {
        let len = file.byte_len();
        // SAFETY: a new mapping at an address the system chooses replaces nothing; the file cannot
        // shrink (`SealedFile` checked its seals), so no access inside `len` can fault.
        let start = unsafe { mmap(None, len, access, MapFlags::MAP_SHARED, file.as_fd(), 0) }
            .map_err(FileError::Map)?;
        Ok(Self {
            start: start.cast(),
            len,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length, and the last handle is gone. An error would mean
        // that the range is not mapped, and then there is nothing to undo.
        let _ = unsafe { munmap(self.start.cast(), self.len.get()) };
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_of_one_file_see_the_same_words_and_bytes() {
        let file = SealedFile::create(c"test", 4096).unwrap();
        let (one, other) = (Mapped::new(&file).unwrap(), Mapped::new(&file).unwrap());
        one.prefault();
        one.words()[5].store(7, Ordering::Relaxed);
        assert_eq!(other.words()[5].load(Ordering::Relaxed), 7);
        other.write(64, b"thirteen byte").unwrap();
        let mut back = [0xff; 16];
        one.read(64, &mut back).unwrap();
        assert_eq!(&back, b"thirteen byte\0\0\0");
        assert!(one.write(4096, b"x").is_err());
        assert!(one.write(4092, b"x").is_err());
        assert!(one.read(4096 - 15, &mut back).is_err());
    }

    #[test]
    fn a_read_only_mapping_loads_and_refuses_what_is_outside() {
        let file = SealedFile::create(c"test", 4096).unwrap();
        let writer = Mapped::new(&file).unwrap();
        let reader = ReadOnly::new(&file).unwrap();
        writer.words()[511].store(3, Ordering::Relaxed);
        assert_eq!(reader.load(511), Some(3));
        assert_eq!(reader.load(512), None);
    }
}
