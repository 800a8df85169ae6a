//! The arena: pinned host memory, at one address on both sides.

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap};

use super::reserve::{Reservation, ReserveError};
use crate::memory::{OutOfBounds, SealedFile, copy_from_shared, copy_to_shared};

/// A sealed file mapped at the start of a reserved window; readable and writable, never executable,
/// not inherited by fork. Devices, kernels and the other side write it at any time: its bytes are
/// copied or handed to the program as an address, never seen as a reference.
#[derive(Debug)]
pub struct Arena {
    // Unmaps the arena with the rest of the window.
    window: Reservation,
    len: NonZeroUsize,
}

impl Arena {
    /// Maps all of `file` at the start of `window`, which must have room for it.
    ///
    /// # Errors
    /// [`ReserveError`]; the window is given up then.
    pub fn map(window: Reservation, file: &SealedFile) -> Result<Self, ReserveError> {
        let (start, room) = window.raw();
        let (addr, len) = (window.start(), file.byte_len());
        if len > room {
            let len = u64::try_from(len.get()).unwrap_or(u64::MAX);
            return Err(ReserveError::Invalid { addr, len });
        }
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        let fail = |reason| ReserveError::System { addr, reason };
        // SAFETY: it replaces part of `window` only, which is ours and holds nothing. The file
        // cannot shrink, so no access inside `len` can fault.
        unsafe { mmap(Some(start.addr()), len, access, flags, file.as_fd(), 0) }.map_err(fail)?;
        let inherit = MmapAdvise::MADV_DONTFORK;
        // SAFETY: the range was just mapped; the advice changes only what a child inherits.
        unsafe { madvise(start.cast(), len.get(), inherit) }.map_err(fail)?;
        Ok(Self { window, len })
    }

    /// Its first address, the same on both sides.
    pub fn start(&self) -> u64 {
        self.window.start()
    }

    /// Its number of bytes.
    pub fn byte_len(&self) -> usize {
        self.len.get()
    }

    /// The offset of a range of addresses, if all of it lies inside.
    pub fn offset_of(&self, addr: u64, len: u64) -> Option<usize> {
        let offset = usize::try_from(addr.checked_sub(self.start())?).ok()?;
        let end = offset.checked_add(usize::try_from(len).ok()?)?;
        (end <= self.len.get()).then_some(offset)
    }

    /// The address of a range of offsets, if all of it lies inside.
    pub fn address_of(&self, at: usize, len: usize) -> Option<u64> {
        let end = at.checked_add(len)?;
        (end <= self.len.get()).then(|| self.start() + u64::try_from(at).unwrap_or(0))
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range is not inside the arena.
    pub fn read(&self, at: usize, into: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.at(at, into.len())?;
        // SAFETY: `into.len()` bytes from there are mapped while `self` exists, and what this
        // program does to them it does through copies and its user's own accesses.
        unsafe { copy_from_shared(from, into) };
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range is not inside the arena.
    pub fn write(&self, at: usize, from: &[u8]) -> Result<(), OutOfBounds> {
        let to = self.at(at, from.len())?;
        // SAFETY: as in `read`.
        unsafe { copy_to_shared(to, from) };
        Ok(())
    }

    /// Copies from memory that a program handed us the address of, as in a host-to-device copy.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range is not inside the arena.
    ///
    /// # Safety
    /// `from..from + len` must be readable and not overlap `at..at + len` of the arena.
    pub unsafe fn write_from(
        &self,
        at: usize,
        from: *const u8,
        len: usize,
    ) -> Result<(), OutOfBounds> {
        let to = self.at(at, len)?;
        // SAFETY: the target is mapped, the source readable by the caller's promise. The program
        // may write it meanwhile, as it may during any copy of CUDA's: bytes without meaning to us.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_ptr(), len) };
        Ok(())
    }

    /// Copies to memory that a program handed us the address of, as in a device-to-host copy.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range is not inside the arena.
    ///
    /// # Safety
    /// `to..to + len` must be writable and not overlap `at..at + len` of the arena.
    pub unsafe fn read_into(&self, at: usize, to: *mut u8, len: usize) -> Result<(), OutOfBounds> {
        let from = self.at(at, len)?;
        // SAFETY: the source is mapped, the target writable by the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, len) };
        Ok(())
    }

    /// Makes the pages of a range present, so that first copies do not fault page by page. Kernels
    /// before 5.14 cannot; the pages then come when touched.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the range is not inside the arena.
    pub fn prefault(&self, at: usize, len: usize) -> Result<(), OutOfBounds> {
        let start = self.at(at, len)?;
        // SAFETY: the range is mapped; populating changes no content. Failure only loses speed.
        let _ = unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_POPULATE_WRITE) };
        Ok(())
    }

    fn at(&self, at: usize, len: usize) -> Result<NonNull<u8>, OutOfBounds> {
        let size = self.len.get();
        if at.checked_add(len).is_none_or(|end| end > size) {
            return Err(OutOfBounds { at, len, size });
        }
        // SAFETY: inside the mapping, checked above.
        Ok(unsafe { self.window.raw().0.add(at) })
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_same_bytes_and_ranges_outside_are_refused() {
        let addr = 0x6100_0000_0000;
        let file = SealedFile::create(c"test", 1 << 20).unwrap();
        let arena = Arena::map(Reservation::at(addr, 1 << 30).unwrap(), &file).unwrap();
        let other = crate::memory::Mapped::new(&file).unwrap();
        arena.prefault(0, 1 << 20).unwrap();
        arena.write(8, b"one address").unwrap();
        let mut back = [0; 11];
        crate::memory::Memory::read(&other, 8, &mut back).unwrap();
        assert_eq!(&back, b"one address");
        let mut program = [0u8; 3];
        // SAFETY: a local array of that size.
        unsafe { arena.read_into(8, program.as_mut_ptr(), 3) }.unwrap();
        assert_eq!(&program, b"one");
        // SAFETY: as above.
        let outside = unsafe { arena.write_from((1 << 20) - 2, program.as_ptr(), 3) };
        assert!(outside.is_err());
        assert_eq!(arena.start(), addr);
        assert_eq!(arena.offset_of(addr + 8, (1 << 20) - 8), Some(8));
        assert_eq!(arena.offset_of(addr + 8, 1 << 20), None);
        assert_eq!(arena.offset_of(addr - 8, 4), None);
        assert_eq!(arena.offset_of(u64::MAX, u64::MAX), None);
        assert_eq!(arena.address_of(16, 1), Some(addr + 16));
        assert_eq!(arena.address_of(1 << 20, 1), None);
        assert!(arena.read(usize::MAX, &mut back).is_err());
    }

    #[test]
    fn an_arena_larger_than_its_window_is_refused_and_the_window_free_again() {
        let addr = 0x6200_0000_0000;
        let file = SealedFile::create(c"test", 1 << 20).unwrap();
        assert!(Arena::map(Reservation::at(addr, 1 << 16).unwrap(), &file).is_err());
        Reservation::at(addr, 1 << 16).unwrap();
    }
}
