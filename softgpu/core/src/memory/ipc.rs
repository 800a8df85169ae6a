//! Memory that two processes have: the file that an allocation lies in, and another process's file mapped here.
#![forbid(unsafe_code)]

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::heap::{GRANULE, SMALL_MAX};
use super::space::{Allocation, Kind, Owner, Space};
use super::vmm::Reservable;
use crate::error::{Error, Result};
use crate::os::{self, PAGE};

/// Where another process's memory is mapped; gone with the allocation that has it.
#[derive(Debug)]
pub(super) struct Foreign {
    reservable: Arc<Reservable>,
    base: u64,
    bytes: u64,
}

impl Foreign {
    fn map(space: &Space, file: &File, offset: u64, bytes: u64) -> Result<Self> {
        // A page that belongs to nobody catches an overrun.
        let room = bytes
            .checked_add(PAGE)
            .and_then(|n| n.checked_next_multiple_of(GRANULE));
        let reservable = Arc::clone(&space.reservable);
        let room = room.ok_or(Error::OutOfMemory)?;
        let base = reservable.state().take(room, GRANULE, 0);
        let base = base.ok_or(Error::OutOfMemory)?;
        let mapped = Self {
            reservable,
            base,
            bytes,
        };
        os::map_file(base, bytes, file, offset).map_err(|_| Error::OutOfMemory)?;
        Ok(mapped)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        os::decommit(self.base, self.bytes);
        self.reservable.state().give_back(self.base);
    }
}

impl Space {
    /// Whether [`Space::export`] moves an allocation.
    #[must_use]
    pub const fn moves_to_export(allocation: &Allocation) -> bool {
        allocation.size > SMALL_MAX
    }

    /// The file that an allocation lies in and where in it. If it moves, nobody may touch the allocation meanwhile.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] unless an allocation call of this process returned it, [`Error::NotSupported`]
    /// for a device that processes share, [`Error::OutOfMemory`] if it cannot be moved into a file.
    pub fn export(&self, allocation: &Allocation) -> Result<(File, u64)> {
        if allocation.kind != Kind::Device {
            return Err(Error::InvalidValue);
        }
        let mut heap = self.arena(allocation.device)?.heap();
        heap.export(allocation.start, allocation.size)
    }

    /// Maps `size` bytes of another process's memory, which are in `file` from `offset` on.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if the file has no such bytes, [`Error::OutOfMemory`] if there is no place for them.
    pub fn import(
        &self,
        device: u32,
        owner: Owner,
        (file, offset): (&File, u64),
        size: u64,
    ) -> Result<Arc<Allocation>> {
        let first = offset / PAGE * PAGE;
        let lead = offset - first;
        let pages = lead
            .checked_add(size)
            .and_then(|n| n.checked_next_multiple_of(PAGE));
        let pages = pages.filter(|_| size > 0).ok_or(Error::InvalidValue)?;
        let end = first.checked_add(pages).ok_or(Error::InvalidValue)?;
        // What lies beyond the end of a file would kill who touches it.
        if file.metadata().map_err(|_| Error::InvalidValue)?.len() < end {
            return Err(Error::InvalidValue);
        }
        let foreign = Foreign::map(self, file, first, pages)?;
        self.insert(Allocation {
            start: foreign.base + lead,
            size,
            kind: Kind::Imported,
            owner,
            device,
            id: self.next_id(),
            access: None,
            physical: None,
            pooled: None,
            _foreign: Some(foreign),
            synchronous: AtomicBool::new(false),
            arena: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Span;

    const MIB: u64 = 1 << 20;

    fn write(space: &Space, address: u64, bytes: &[u8]) {
        Span::device(space, address, bytes.len() as u64)
            .unwrap()
            .write(bytes);
    }

    fn read(space: &Space, address: u64, count: u64) -> Vec<u8> {
        Span::device(space, address, count).unwrap().to_bytes()
    }

    #[test]
    fn both_sides_see_the_same_bytes_whatever_the_size() {
        let space = Space::new(1, 64 * MIB, false).unwrap();
        let other = Space::new(1, 64 * MIB, false).unwrap();
        let _first = space.allocate(0, 1, 5000, Kind::Device).unwrap();
        for size in [1, 300, 70_000, MIB, MIB + 1, 5 * MIB + 3] {
            let made = space.allocate(0, 1, size, Kind::Device).unwrap();
            write(&space, made.end() - 1, &[7]);
            let (file, offset) = space.export(&made).unwrap();
            let import = other.import(0, 9, (&file, offset), size).unwrap();
            assert_eq!(import.start % super::super::ALIGNMENT, 0);
            assert_eq!(read(&other, import.end() - 1, 1), [7]);
            write(&other, import.end() - 1, &[8]);
            assert_eq!(read(&space, made.end() - 1, 1), [8]);
            assert!(Span::device(&other, import.end(), 1).is_err());
            let (_, again) = space.export(&made).unwrap();
            assert_eq!(again, offset);
            // Whoever still has it mapped keeps its bytes.
            space.remove(made.start, |_| true);
            drop(made);
            assert_eq!(read(&other, import.end() - 1, 1).len(), 1);
            other.remove(import.start, |_| true);
        }
        assert_eq!(other.room(0).unwrap(), (64 * MIB, 64 * MIB));
    }

    #[test]
    fn only_allocations_are_exported_and_only_bytes_that_are_there_imported() {
        let space = Space::new(1, 64 * MIB, false).unwrap();
        let made = space.allocate(0, 1, 2 * MIB, Kind::Device).unwrap();
        let (file, _) = space.export(&made).unwrap();
        for (offset, size) in [
            (0, 0),
            (0, 2 * MIB + 1),
            (PAGE, 2 * MIB),
            (u64::MAX, 1),
            (0, u64::MAX),
        ] {
            let refused = space.import(0, 1, (&file, offset), size);
            assert_eq!(refused.err(), Some(Error::InvalidValue), "{offset} {size}");
        }
        let import = space.import(0, 1, (&file, 0), 2 * MIB).unwrap();
        assert_eq!(space.export(&import).err(), Some(Error::InvalidValue));
        let constant = space
            .allocate(0, 1, 64, Kind::Global { constant: true })
            .unwrap();
        assert_eq!(space.export(&constant).err(), Some(Error::InvalidValue));
    }

    #[test]
    fn places_of_imports_are_used_again() {
        let space = Space::new(1, 64 * MIB, false).unwrap();
        let made = space.allocate(0, 1, 100, Kind::Device).unwrap();
        let (file, offset) = space.export(&made).unwrap();
        let start = space.import(0, 1, (&file, offset), 100).unwrap().start;
        space.remove(start, |_| true).unwrap();
        assert_eq!(
            space.import(0, 1, (&file, offset), 100).unwrap().start,
            start
        );
    }
}
