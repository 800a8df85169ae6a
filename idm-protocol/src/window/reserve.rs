//! Address space held so that nothing else is mapped there.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use thiserror::Error;

use super::CANDIDATES;
use crate::layout::PAGE_BYTES;

/// Why addresses could not be reserved, or memory not mapped into them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// Something of this process is mapped there. A client tries another candidate; for a device
    /// range the worker parks it and tries again.
    #[error("addresses {addr:#x} to {addr:#x} + {len:#x} are taken")]
    Taken {
        /// First address.
        addr: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Not whole pages, empty, or not in user space: the mistake of whoever asked.
    #[error("addresses {addr:#x} to {addr:#x} + {len:#x} cannot be reserved")]
    Invalid {
        /// First address.
        addr: u64,
        /// Number of bytes.
        len: u64,
    },
    /// The system refused (out of memory, of mappings).
    #[error("cannot map at {addr:#x}: {reason}")]
    System {
        /// First address.
        addr: u64,
        /// The system's reason.
        reason: Errno,
    },
}

/// Addresses that are mapped inaccessible and give up their place when dropped.
#[derive(Debug)]
pub struct Reservation {
    start: NonNull<u8>,
    len: NonZeroUsize,
}

/// A device range, reserved in the client (D13).
pub type Mirror = Reservation;

// SAFETY: it owns addresses, not memory that a thread could touch.
unsafe impl Send for Reservation {}
// SAFETY: as above; it has no interior to share.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `len` bytes at `addr` if nothing is mapped there; whole pages.
    ///
    /// # Errors
    /// [`ReserveError`].
    pub fn at(addr: u64, len: u64) -> Result<Self, ReserveError> {
        let invalid = ReserveError::Invalid { addr, len };
        let start = usize::try_from(addr).map_err(|_| invalid)?;
        let size = usize::try_from(len).map_err(|_| invalid)?;
        let end = start.checked_add(size).ok_or(invalid)?;
        if !start.is_multiple_of(PAGE_BYTES) || !size.is_multiple_of(PAGE_BYTES) || end >= 1 << 56 {
            return Err(invalid);
        }
        let wanted = NonZeroUsize::new(start).ok_or(invalid)?;
        let size = NonZeroUsize::new(size).ok_or(invalid)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED_NOREPLACE;
        // SAFETY: MAP_FIXED_NOREPLACE replaces no mapping; a kernel that does not know the flag
        // takes the address as a hint and replaces none either.
        let mapped = unsafe { mmap_anonymous(Some(wanted), size, ProtFlags::PROT_NONE, flags) };
        let mapped = match mapped {
            Ok(mapped) => Self {
                start: mapped.cast(),
                len: size,
            },
            Err(Errno::EEXIST) => return Err(ReserveError::Taken { addr, len }),
            Err(Errno::EINVAL) => return Err(invalid),
            Err(reason) => return Err(ReserveError::System { addr, reason }),
        };
        if mapped.start.addr() != wanted {
            // Placed elsewhere by such a kernel; dropping it unmaps it.
            return Err(ReserveError::Taken { addr, len });
        }
        Ok(mapped)
    }

    /// Its first address.
    pub fn start(&self) -> u64 {
        self.start.as_ptr().addr().try_into().unwrap_or(u64::MAX)
    }

    /// Its number of bytes.
    pub fn byte_len(&self) -> u64 {
        self.len.get().try_into().unwrap_or(u64::MAX)
    }

    pub(super) fn raw(&self) -> (NonNull<u8>, NonZeroUsize) {
        (self.start, self.len)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the addresses are ours: made by `at`, handed out only as addresses. An error would
        // mean that they are not mapped, and then there is nothing to undo.
        let _ = unsafe { munmap(self.start.cast(), self.len.get()) };
    }
}

/// Reserves `len` bytes at each candidate window that is free here: the mask to negotiate with, and
/// the reservations, of which the caller keeps the one that was picked.
pub fn reserve_candidates(len: u64) -> (u32, [Option<Reservation>; CANDIDATES.len()]) {
    let held = CANDIDATES.map(|base| Reservation::at(base, len).ok());
    let mask = held
        .iter()
        .rev()
        .fold(0, |mask, held| mask << 1 | u32::from(held.is_some()));
    (mask, held)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    // Away from the candidates, which other tests use at the same time.
    const ADDR: u64 = 0x6000_0000_0000;

    #[test]
    fn reserved_addresses_are_taken_until_dropped() {
        let held = Reservation::at(ADDR, 1 << 30).unwrap();
        let taken = ReserveError::Taken {
            addr: ADDR + 4096,
            len: 4096,
        };
        assert_eq!(Mirror::at(ADDR + 4096, 4096).unwrap_err(), taken);
        assert_eq!((held.start(), held.byte_len()), (ADDR, 1 << 30));
        drop(held);
        Mirror::at(ADDR + 4096, 4096).unwrap();
    }

    #[test]
    fn addresses_that_no_mapping_can_have_are_refused() {
        for (addr, len) in [
            (0, 4096),
            (ADDR + 1, 4096),
            (ADDR, 0),
            (ADDR, 100),
            (u64::MAX - 4095, 4096),
        ] {
            let error = Reservation::at(addr, len).unwrap_err();
            assert_eq!(error, ReserveError::Invalid { addr, len });
        }
        assert!(Reservation::at(1 << 50, 4096).is_err());
    }
}
