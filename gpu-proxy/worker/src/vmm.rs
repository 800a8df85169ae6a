//! The client's reserved addresses, and its memory that has none of its own. Where the one lies at the other is
//! with the other ranges.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use cuda_abi::types::CUresult;

/// Reservations that one client may hold.
const MOST_RESERVATIONS: usize = 1 << 16;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// One client's.
#[derive(Debug, Default)]
pub struct Vmm {
    /// Size of each reservation, by its address.
    reservations: BTreeMap<u64, u64>,
    /// By the client's handle.
    allocations: HashMap<u64, Allocation>,
}

/// Memory without an address of its own.
#[derive(Clone, Copy, Debug)]
pub struct Allocation {
    /// The driver's handle; `None` while the client has released its own and only mappings keep the memory.
    pub driver: Option<u64>,
    /// Bytes, all of them charged.
    pub bytes: u64,
    /// Where it is mapped.
    pub mappings: u32,
}

impl Vmm {
    /// Whether there may be another reservation.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub fn check_room(&self) -> Result<(), CUresult> {
        if self.reservations.len() < MOST_RESERVATIONS {
            Ok(())
        } else {
            Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY)
        }
    }

    /// Addresses are reserved.
    pub fn reserve(&mut self, start: u64, bytes: u64) {
        self.reservations.insert(start, bytes);
    }

    /// Whether exactly this is reserved.
    pub fn is_reservation(&self, start: u64, bytes: u64) -> bool {
        self.reservations.get(&start) == Some(&bytes)
    }

    /// Addresses are reserved no more.
    pub fn unreserve(&mut self, start: u64) {
        self.reservations.remove(&start);
    }

    /// Whether all of a range lies in one reservation.
    pub fn is_reserved(&self, start: u64, bytes: u64) -> bool {
        let Some((base, length)) = self.reservations.range(..=start).next_back() else {
            return false;
        };
        let inside = start - base;
        inside <= *length && bytes <= length - inside
    }

    /// Takes memory in.
    pub fn keep(&mut self, handle: u64, allocation: Allocation) {
        self.allocations.insert(handle, allocation);
    }

    /// The driver's handle of memory, of which `bytes` from `offset` on are wanted.
    ///
    /// # Errors
    /// `INVALID_VALUE` if the client has no handle of it, or it has no such bytes.
    pub fn part(&self, handle: u64, offset: u64, bytes: u64) -> Result<u64, CUresult> {
        let found = self.allocations.get(&handle).ok_or(INVALID)?;
        let end = offset.checked_add(bytes).ok_or(INVALID)?;
        found.driver.filter(|_| end <= found.bytes).ok_or(INVALID)
    }

    /// Memory is mapped once more.
    pub fn mapped(&mut self, handle: u64) {
        if let Some(found) = self.allocations.get_mut(&handle) {
            found.mappings += 1;
        }
    }

    /// Memory is mapped once less. What it cost, if that was the last there was of it.
    pub fn unmapped(&mut self, handle: u64) -> Option<u64> {
        let found = self.allocations.get_mut(&handle)?;
        found.mappings = found.mappings.saturating_sub(1);
        self.collect(handle)
    }

    /// Takes the client's handle of memory away: the driver's, to be released.
    ///
    /// # Errors
    /// `INVALID_VALUE` if it has none.
    pub fn release(&mut self, handle: u64) -> Result<u64, CUresult> {
        let found = self.allocations.get_mut(&handle).ok_or(INVALID)?;
        found.driver.take().ok_or(INVALID)
    }

    /// The client has a handle of it again.
    pub fn retain(&mut self, handle: u64, driver: u64) {
        if let Some(found) = self.allocations.get_mut(&handle) {
            found.driver = Some(driver);
        }
    }

    /// Whether the client has a handle of it.
    pub fn is_held(&self, handle: u64) -> bool {
        let found = self.allocations.get(&handle);
        found.is_some_and(|found| found.driver.is_some())
    }

    /// Forgets memory of which there is neither a handle nor a mapping, and says what it cost.
    pub fn collect(&mut self, handle: u64) -> Option<u64> {
        let found = self.allocations.get(&handle)?;
        if found.driver.is_some() || found.mappings > 0 {
            return None;
        }
        self.allocations
            .remove(&handle)
            .map(|allocation| allocation.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_reserved_only_inside_one_reservation() {
        let mut vmm = Vmm::default();
        vmm.reserve(100, 50);
        vmm.reserve(150, 50);
        assert!(vmm.is_reserved(100, 50) && vmm.is_reserved(149, 1) && vmm.is_reserved(150, 50));
        for (start, bytes) in [(99, 1), (149, 2), (100, 100), (200, 1), (120, u64::MAX)] {
            assert!(!vmm.is_reserved(start, bytes), "{start} {bytes}");
        }
        assert!(vmm.is_reservation(100, 50) && !vmm.is_reservation(100, 49));
        vmm.unreserve(100);
        assert!(!vmm.is_reserved(100, 1));
    }

    #[test]
    fn memory_costs_until_its_handle_and_its_last_mapping_are_gone() {
        let mut vmm = Vmm::default();
        let allocation = Allocation {
            driver: Some(7),
            bytes: 64,
            mappings: 0,
        };
        vmm.keep(1, allocation);
        assert_eq!(vmm.part(1, 32, 32), Ok(7));
        assert_eq!(vmm.part(1, 32, 33), Err(INVALID));
        assert_eq!(vmm.part(1, u64::MAX, 2), Err(INVALID));
        vmm.mapped(1);
        vmm.mapped(1);
        assert_eq!(vmm.release(1), Ok(7));
        assert_eq!(vmm.release(1), Err(INVALID));
        assert_eq!(vmm.part(1, 0, 1), Err(INVALID));
        assert_eq!(vmm.collect(1), None);
        assert_eq!(vmm.unmapped(1), None);
        vmm.retain(1, 8);
        assert_eq!(vmm.unmapped(1), None, "the client has a handle again");
        assert_eq!(vmm.release(1), Ok(8));
        assert_eq!(vmm.collect(1), Some(64));
        assert_eq!(vmm.collect(1), None);
        assert_eq!(vmm.release(2), Err(INVALID));
    }
}
