//! What the client knows about reserved addresses and about memory that has none of its own.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use cuda_abi::types::{
    CUmemAllocationHandleType, CUmemAllocationProp, CUmemAllocationType, CUmemLocation,
    CUmemLocationType, CUresult,
};

use crate::call::Outcome;

/// A session's reservations, and its memory by handle.
#[derive(Debug, Default)]
pub struct Vmm {
    reservations: BTreeMap<u64, u64>,
    memory: HashMap<u64, Memory>,
}

/// Memory without an address of its own.
#[derive(Debug)]
struct Memory {
    properties: Properties,
    /// How often the program has to release it. The driver counts on one handle, and so do we.
    references: u32,
    mappings: u32,
}

/// What the program asked for: pinned memory of a device.
#[derive(Clone, Copy, Debug)]
pub struct Properties {
    /// Ordinal of the device, as the program counts.
    pub device: i32,
    /// What it wants to be able to export it as.
    pub handle_types: u32,
}

impl From<Properties> for CUmemAllocationProp {
    fn from(properties: Properties) -> Self {
        Self {
            type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            requestedHandleTypes: CUmemAllocationHandleType(properties.handle_types),
            location: CUmemLocation {
                type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
                id: properties.device,
            },
            win32HandleMetaData: std::ptr::null_mut(),
            allocFlags: Default::default(),
        }
    }
}

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

impl Vmm {
    /// Addresses are reserved.
    pub fn reserve(&mut self, start: u64, bytes: u64) {
        self.reservations.insert(start, bytes);
    }

    /// Addresses are reserved no more.
    pub fn unreserve(&mut self, start: u64) {
        self.reservations.remove(&start);
    }

    /// Whether exactly this is reserved.
    pub fn is_reservation(&self, start: u64, bytes: u64) -> bool {
        self.reservations.get(&start) == Some(&bytes)
    }

    /// Address and size of the reservation that an address lies in.
    pub fn reservation(&self, address: u64) -> Option<(u64, u64)> {
        let (start, bytes) = self.reservations.range(..=address).next_back()?;
        (address - start < *bytes).then_some((*start, *bytes))
    }

    /// New memory, with one reference.
    pub fn keep(&mut self, handle: u64, properties: Properties) {
        let memory = Memory {
            properties,
            references: 1,
            mappings: 0,
        };
        self.memory.insert(handle, memory);
    }

    /// What memory is like that the program has a reference to.
    ///
    /// # Errors
    /// `INVALID_VALUE`.
    pub fn properties(&self, handle: u64) -> Outcome<Properties> {
        let held = self.memory.get(&handle).filter(|held| held.references > 0);
        held.map(|held| held.properties).ok_or(INVALID)
    }

    /// What memory is like that is mapped somewhere, whether or not the program has a reference.
    pub fn mapped_properties(&self, handle: u64) -> Option<Properties> {
        self.memory.get(&handle).map(|memory| memory.properties)
    }

    /// One reference less; whether that was the last.
    ///
    /// # Errors
    /// `INVALID_VALUE` if there was none.
    pub fn release(&mut self, handle: u64) -> Outcome<bool> {
        let held = self.memory.get_mut(&handle).ok_or(INVALID)?;
        held.references = held.references.checked_sub(1).ok_or(INVALID)?;
        Ok(held.references == 0)
    }

    /// One reference more; whether it is the first again.
    ///
    /// # Errors
    /// `INVALID_VALUE` if there is no such memory.
    pub fn retain(&mut self, handle: u64) -> Outcome<bool> {
        let held = self.memory.get_mut(&handle).ok_or(INVALID)?;
        held.references = held.references.checked_add(1).ok_or(INVALID)?;
        Ok(held.references == 1)
    }

    /// Memory is mapped once more.
    pub fn mapped(&mut self, handle: u64) {
        if let Some(held) = self.memory.get_mut(&handle) {
            held.mappings += 1;
        }
    }

    /// Memory is mapped once less.
    pub fn unmapped(&mut self, handle: u64) {
        if let Some(held) = self.memory.get_mut(&handle) {
            held.mappings = held.mappings.saturating_sub(1);
        }
    }

    /// Forgets memory of which there is neither a reference nor a mapping; whether it was so.
    pub fn collect(&mut self, handle: u64) -> bool {
        let over = self
            .memory
            .get(&handle)
            .is_some_and(|held| held.references == 0 && held.mappings == 0);
        if over {
            self.memory.remove(&handle);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_there_until_its_references_and_mappings_are_gone() {
        let mut vmm = Vmm::default();
        let properties = Properties {
            device: 0,
            handle_types: 0,
        };
        vmm.keep(1, properties);
        assert_eq!(vmm.retain(1), Ok(false));
        vmm.mapped(1);
        assert_eq!(vmm.release(1), Ok(false));
        assert_eq!(vmm.release(1), Ok(true));
        assert_eq!(vmm.release(1), Err(INVALID));
        assert!(vmm.properties(1).is_err() && vmm.mapped_properties(1).is_some());
        assert!(!vmm.collect(1));
        assert_eq!(vmm.retain(1), Ok(true), "the first again");
        vmm.unmapped(1);
        assert!(!vmm.collect(1));
        assert_eq!(vmm.release(1), Ok(true));
        assert!(vmm.collect(1) && !vmm.collect(1));
        assert_eq!(vmm.retain(1), Err(INVALID));
    }

    #[test]
    fn reservations_are_found_by_every_address_in_them() {
        let mut vmm = Vmm::default();
        vmm.reserve(100, 50);
        assert_eq!(vmm.reservation(149), Some((100, 50)));
        assert_eq!(vmm.reservation(150), None);
        assert_eq!(vmm.reservation(99), None);
        assert!(vmm.is_reservation(100, 50) && !vmm.is_reservation(100, 49));
        vmm.unreserve(100);
        assert_eq!(vmm.reservation(120), None);
    }
}
