//! How a forked child learns that it is one, with one load and no system call.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::layout::PAGE_BYTES;
use crate::sync::{Ordering, Word};

/// A page that the system zeroes in a forked child. CUDA does not work there, and neither do our
/// mappings, which the child does not inherit: a client looks here first.
#[derive(Debug)]
pub struct ForkPage {
    word: NonNull<Word>,
}

// SAFETY: the word is an atomic, mapped while `self` exists.
unsafe impl Send for ForkPage {}
// SAFETY: as above.
unsafe impl Sync for ForkPage {}

const PAGE: NonZeroUsize = NonZeroUsize::new(PAGE_BYTES).expect("not zero");

impl ForkPage {
    /// A page for this process.
    ///
    /// # Errors
    /// The system's reason: out of memory, or a kernel before 4.14.
    pub fn new() -> Result<Self, Errno> {
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new private mapping at an address the system chooses replaces nothing.
        let start = unsafe { mmap_anonymous(None, PAGE, access, MapFlags::MAP_PRIVATE) }?;
        let page = Self { word: start.cast() };
        let wipe = nix::sys::mman::MmapAdvise::MADV_WIPEONFORK;
        // SAFETY: the page just made; the advice changes only what a child inherits.
        unsafe { madvise(start, PAGE_BYTES, wipe) }?;
        page.word().store(1, Ordering::Relaxed);
        Ok(page)
    }

    /// Whether this process was forked from the one that made the page.
    #[inline]
    pub fn forked(&self) -> bool {
        self.word().load(Ordering::Relaxed) == 0
    }

    #[inline]
    fn word(&self) -> &Word {
        // SAFETY: aligned, mapped readable and writable while `self` exists.
        unsafe { self.word.as_ref() }
    }
}

impl Drop for ForkPage {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nobody else has its address.
        let _ = unsafe { munmap(self.word.cast(), PAGE_BYTES) };
    }
}
