//! The client's mirror of device memory: its addresses, reserved, so that nothing of the program's can
//! ever lie there (D13).
//!
//! Drivers put several small allocations into one page. A page that an allocation shares with others is
//! counted; what it has to itself is one reservation.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use idm_protocol::window::{Mirror, ReserveError};

const PAGE: u64 = 4096;

/// All mirrors of a session.
#[derive(Debug, Default)]
pub struct Mirrors(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// What an allocation has to itself, by the allocation's address.
    own: HashMap<u64, Mirror>,
    /// Pages at the ends of allocations, with the number of allocations in each.
    shared: HashMap<u64, (Mirror, usize)>,
}

impl Mirrors {
    /// Reserves the addresses of an allocation.
    ///
    /// # Errors
    /// [`ReserveError::Taken`] if the program has something there; nothing is reserved then.
    pub fn reserve(&self, start: u64, bytes: u64) -> Result<(), ReserveError> {
        let invalid = ReserveError::Invalid {
            addr: start,
            len: bytes,
        };
        let parts = Parts::of(start, bytes).ok_or(invalid)?;
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = match parts.own {
            Some((start, len)) => Some(Mirror::at(start, len)?),
            None => None,
        };
        let mut done = Vec::new();
        for page in parts.shared.into_iter().flatten() {
            if let Err(error) = held.share(page) {
                done.into_iter().for_each(|page| held.unshare(page));
                return Err(error);
            }
            done.push(page);
        }
        if let Some(own) = own {
            held.own.insert(start, own);
        }
        Ok(())
    }

    /// Gives the addresses of an allocation back.
    pub fn release(&self, start: u64, bytes: u64) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.own.remove(&start);
        if let Some(parts) = Parts::of(start, bytes) {
            parts
                .shared
                .into_iter()
                .flatten()
                .for_each(|page| held.unshare(page));
        }
    }
}

impl Held {
    fn share(&mut self, page: u64) -> Result<(), ReserveError> {
        if let Some((_, count)) = self.shared.get_mut(&page) {
            *count += 1;
            return Ok(());
        }
        self.shared.insert(page, (Mirror::at(page, PAGE)?, 1));
        Ok(())
    }

    fn unshare(&mut self, page: u64) {
        if let Some((_, count)) = self.shared.get_mut(&page) {
            *count -= 1;
            if *count == 0 {
                self.shared.remove(&page);
            }
        }
    }
}

/// An allocation cut at its first and last whole page.
struct Parts {
    own: Option<(u64, u64)>,
    shared: [Option<u64>; 2],
}

impl Parts {
    fn of(start: u64, bytes: u64) -> Option<Self> {
        let end = start.checked_add(bytes)?;
        let first_whole = start.checked_next_multiple_of(PAGE)?;
        let last_whole = end / PAGE * PAGE;
        let head = (first_whole != start).then_some(start / PAGE * PAGE);
        let tail = (last_whole != end && Some(last_whole) != head).then_some(last_whole);
        let own = (last_whole > first_whole).then(|| (first_whole, last_whole - first_whole));
        Some(Self {
            own,
            shared: [head, tail],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses that nothing else of a test process uses.
    const BASE: u64 = 0x5100_0000_0000;

    #[test]
    fn allocations_in_one_page_share_it_until_the_last_is_gone() {
        let mirrors = Mirrors::default();
        mirrors.reserve(BASE, 256).unwrap();
        mirrors.reserve(BASE + 256, 256).unwrap();
        mirrors.release(BASE, 256);
        assert!(matches!(
            Mirror::at(BASE, PAGE),
            Err(ReserveError::Taken { .. })
        ));
        mirrors.release(BASE + 256, 256);
        assert!(Mirror::at(BASE, PAGE).is_ok());
    }

    #[test]
    fn long_allocation_holds_its_pages_and_shares_its_ends() {
        let base = BASE + (1 << 30);
        let mirrors = Mirrors::default();
        mirrors.reserve(base + 512, 4 * PAGE).unwrap();
        mirrors.reserve(base, 512).unwrap();
        assert!(Mirror::at(base + 2 * PAGE, PAGE).is_err());
        mirrors.release(base + 512, 4 * PAGE);
        assert!(Mirror::at(base + 2 * PAGE, PAGE).is_ok());
        assert!(Mirror::at(base, PAGE).is_err());
    }

    #[test]
    fn clash_with_a_mapping_of_the_program_reserves_nothing() {
        let base = BASE + (2 << 30);
        let mirrors = Mirrors::default();
        let programs = Mirror::at(base + 4 * PAGE, PAGE).unwrap();
        assert!(mirrors.reserve(base + 512, 4 * PAGE).is_err());
        assert!(mirrors.reserve(base, 6 * PAGE).is_err());
        drop(programs);
        assert!(Mirror::at(base, 6 * PAGE).is_ok());
    }
}
