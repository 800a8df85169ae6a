//! Virtual memory management: addresses without memory, memory without an address, and which lies where.
//!
//! A reservation is a piece of the window's last slice. Physical memory is a file (or, of a device that
//! processes share, granules of it), so that the same bytes can be mapped at several addresses. What is
//! mapped is an [`Allocation`] like any other, except that it says for each device what may be done there.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::heap::{GRANULE, insert_merged};
use super::space::{Allocation, Arena, Kind, Space};
use crate::error::{Error, Result};
use crate::os;

/// Address space for reservations: more than all memory that a host has.
pub(super) const RESERVABLE: u64 = 1 << 40;

/// What kernels of a device may do with memory: `CUmemAccess_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Nothing.
    None,
    /// Read it.
    Read,
    /// Read and write it.
    ReadWrite,
}

impl Permission {
    /// From the flags of the Driver API.
    #[must_use]
    pub const fn from_flags(flags: u32) -> Option<Self> {
        match flags {
            0 => Some(Self::None),
            1 => Some(Self::Read),
            3 => Some(Self::ReadWrite),
            _ => None,
        }
    }

    /// As the flags of the Driver API.
    #[must_use]
    pub const fn flags(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Read => 1,
            Self::ReadWrite => 3,
        }
    }
}

/// What each device may do: two bits for each of at most sixteen.
#[derive(Debug, Default)]
pub struct Access(AtomicU32);

impl Access {
    /// For one device.
    #[must_use]
    pub fn of(&self, device: u32) -> Permission {
        let bits = self.0.load(Ordering::Relaxed);
        let flags = bits.checked_shr(device * 2).unwrap_or(0) & 3;
        Permission::from_flags(flags).unwrap_or(Permission::None)
    }

    /// The most that any device may do; copies are held to it.
    #[must_use]
    pub fn most(&self) -> Permission {
        let devices = (0..u32::BITS / 2).map(|device| self.of(device));
        devices.max().unwrap_or(Permission::None)
    }

    /// Sets it for one device.
    pub fn set(&self, device: u32, permission: Permission) {
        let shift = device * 2;
        let mask = 3_u32.checked_shl(shift).unwrap_or(0);
        let bits = permission.flags().checked_shl(shift).unwrap_or(0);
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
                Some(old & !mask | bits)
            });
    }
}

/// Memory without an address of its own. It goes back when its last handle and its last mapping are gone.
#[derive(Debug)]
pub struct Physical {
    /// Unique among physical memory for the life of the process.
    pub id: u64,
    /// Bytes.
    pub size: u64,
    /// Where it is.
    pub device: u32,
    /// What it was asked to be exportable as (`CUmemAllocationHandleType`).
    pub handle_types: u32,
    arena: Arc<Arena>,
    store: Store,
}

/// Where the bytes of physical memory are.
#[derive(Debug)]
pub(super) enum Store {
    /// In a file of their own.
    File(File),
    /// In these granules of the device's.
    Granules(Vec<u32>),
}

impl Drop for Physical {
    fn drop(&mut self) {
        let store = std::mem::replace(&mut self.store, Store::Granules(Vec::new()));
        self.arena.heap().give_back_physical(store, self.size);
    }
}

/// The addresses for reservations, all of them reserved in the process and inaccessible.
#[derive(Debug)]
pub(super) struct Reservable {
    base: u64,
    state: Mutex<Reservations>,
}

#[derive(Debug)]
pub(super) struct Reservations {
    free: BTreeMap<u64, u64>,
    taken: BTreeMap<u64, u64>,
}

impl Drop for Reservable {
    fn drop(&mut self) {
        os::unmap(self.base, RESERVABLE);
    }
}

impl Reservable {
    /// Takes charge of [`RESERVABLE`] bytes from `base`.
    pub(super) fn new(base: u64) -> Self {
        let state = Reservations {
            free: BTreeMap::from([(base, RESERVABLE)]),
            taken: BTreeMap::new(),
        };
        Self {
            base,
            state: Mutex::new(state),
        }
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, Reservations> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservations {
    /// Takes `size` bytes: at `hint` if they are free there, else at the lowest place that fits.
    pub(super) fn take(&mut self, size: u64, alignment: u64, hint: u64) -> Option<u64> {
        let fits = |start: u64, (&piece, &room): (&u64, &u64)| {
            start >= piece && start - piece <= room && size <= room - (start - piece)
        };
        let at_hint = Some(hint)
            .filter(|hint| *hint != 0 && hint.is_multiple_of(alignment))
            .and_then(|hint| {
                let (piece, room) = self.free.range(..=hint).next_back()?;
                fits(hint, (piece, room)).then_some((*piece, *room, hint))
            });
        let (piece, room, start) = at_hint.or_else(|| {
            self.free.iter().find_map(|(piece, room)| {
                let start = piece.checked_next_multiple_of(alignment)?;
                fits(start, (piece, room)).then_some((*piece, *room, start))
            })
        })?;
        self.free.remove(&piece);
        if start > piece {
            self.free.insert(piece, start - piece);
        }
        if start + size < piece + room {
            self.free.insert(start + size, piece + room - start - size);
        }
        self.taken.insert(start, size);
        Some(start)
    }

    /// Gives them back.
    pub(super) fn give_back(&mut self, start: u64) {
        if let Some(size) = self.taken.remove(&start) {
            insert_merged(&mut self.free, start, size);
        }
    }

    /// The reservation that all of a range lies in.
    fn around(&self, start: u64, size: u64) -> Option<(u64, u64)> {
        let (base, length) = self.taken.range(..=start).next_back()?;
        let end = start.checked_add(size)?;
        (end <= base + length).then_some((*base, *length))
    }
}

impl Space {
    /// Reserves addresses.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for sizes and alignments that are none, [`Error::OutOfMemory`] when there are
    /// not so many.
    pub fn reserve(&self, size: u64, alignment: u64, hint: u64) -> Result<u64> {
        let whole = size != 0 && size.is_multiple_of(GRANULE);
        if !whole || !(alignment == 0 || alignment.is_power_of_two()) {
            return Err(Error::InvalidValue);
        }
        let alignment = alignment.max(GRANULE);
        let taken = self.reservable.state().take(size, alignment, hint);
        taken.ok_or(Error::OutOfMemory)
    }

    /// Gives reserved addresses back.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] unless exactly this was reserved and nothing is mapped in it.
    pub fn free_reservation(&self, start: u64, size: u64) -> Result<()> {
        let mut state = self.reservable.state();
        if state.taken.get(&start) != Some(&size) || self.holds_any(start, start + size) {
            return Err(Error::InvalidValue);
        }
        state.give_back(start);
        Ok(())
    }

    /// The reservation that an address lies in: start and size.
    #[must_use]
    pub fn reservation(&self, address: u64) -> Option<(u64, u64)> {
        self.reservable.state().around(address, 1)
    }

    /// Takes memory without an address.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for sizes that are no granules, [`Error::OutOfMemory`] when it does not fit.
    pub fn create_physical(
        &self,
        device: u32,
        size: u64,
        handle_types: u32,
    ) -> Result<Arc<Physical>> {
        if size == 0 || !size.is_multiple_of(GRANULE) {
            return Err(Error::InvalidValue);
        }
        let arena = Arc::clone(self.arena(device)?);
        let store = arena.heap().take_physical(size)?;
        let made = Physical {
            id: self.next_id(),
            size,
            device,
            handle_types,
            arena,
            store,
        };
        if let Some(word) = self.poison() {
            made.fill(word)?;
        }
        Ok(Arc::new(made))
    }

    /// Maps memory at reserved addresses. No device may touch it there yet.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if the memory has no such part, or the addresses are not reserved, in two
    /// reservations or taken.
    pub fn map(&self, start: u64, size: u64, offset: u64, memory: &Arc<Physical>) -> Result<()> {
        let whole = |n: u64| n.is_multiple_of(GRANULE);
        let fits = offset
            .checked_add(size)
            .is_some_and(|end| end <= memory.size);
        if size == 0 || !whole(start) || !whole(size) || !whole(offset) || !fits {
            return Err(Error::InvalidValue);
        }
        // Held until the range is entered: of two maps at one place the second finds it taken.
        let state = self.reservable.state();
        state.around(start, size).ok_or(Error::InvalidValue)?;
        if self.holds_any(start, start + size) {
            return Err(Error::InvalidValue);
        }
        memory
            .arena
            .heap()
            .map_physical(&memory.store, start, offset, size)?;
        self.enter_mapping(start, size, memory)
            .map(drop)
            .inspect_err(|_| os::decommit(start, size))
    }

    /// Takes whole mappings off the map. The caller waits for what may still use them and then lets go with
    /// [`Space::unmapped`].
    ///
    /// # Errors
    /// [`Error::InvalidValue`] unless the range is one or more whole mappings without a gap.
    pub fn unmap(&self, start: u64, size: u64) -> Result<Vec<Arc<Allocation>>> {
        self.remove_mappings(start, size)
    }

    /// Makes the addresses of mappings that are off the map inaccessible.
    pub fn unmapped(&self, gone: Vec<Arc<Allocation>>) {
        for mapping in gone {
            os::decommit(mapping.start, mapping.size);
        }
    }

    /// Sets what a device may do in whole mappings.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] unless the range is one or more whole mappings without a gap.
    pub fn set_access(
        &self,
        start: u64,
        size: u64,
        device: u32,
        permission: Permission,
    ) -> Result<()> {
        for mapping in self.whole_mappings(start, size)? {
            if let Some(access) = &mapping.access {
                access.set(device, permission);
            }
        }
        Ok(())
    }
}

impl Physical {
    fn fill(&self, word: u32) -> Result<()> {
        let block = word.to_le_bytes().repeat(1 << 14);
        let write = |file: &File, from: u64, size: u64| {
            (from..from + size)
                .step_by(block.len())
                .try_for_each(|at| file.write_all_at(&block, at))
                .map_err(|_| Error::OutOfMemory)
        };
        match &self.store {
            Store::File(file) => write(file, 0, self.size),
            Store::Granules(granules) => self.arena.heap().with_shared(|file| {
                granules
                    .iter()
                    .try_for_each(|granule| write(file, u64::from(*granule) * GRANULE, GRANULE))
            }),
        }
    }
}

/// A mapping before it is on the map.
pub(super) fn mapping(start: u64, size: u64, memory: &Arc<Physical>, id: u64) -> Allocation {
    Allocation {
        start,
        size,
        kind: Kind::Mapped,
        // No context's: it stays until it is unmapped.
        owner: 0,
        device: memory.device,
        id,
        access: Some(Arc::default()),
        physical: Some(Arc::clone(memory)),
        pooled: None,
        _foreign: None,
        synchronous: AtomicBool::new(false),
        arena: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::Span;

    const G: u64 = GRANULE;

    fn space() -> Arc<Space> {
        Arc::new(Space::new(2, 8 * G, false).unwrap())
    }

    #[test]
    fn reservations_are_aligned_apart_and_given_back_only_as_they_were_taken() {
        let space = space();
        let first = space.reserve(3 * G, 0, 0).unwrap();
        let second = space.reserve(G, 64 * G, 0).unwrap();
        assert!(second.is_multiple_of(64 * G) && second >= first + 3 * G);
        let third = space.reserve(G, 0, second + 5 * G).unwrap();
        assert_eq!(third, second + 5 * G, "a hint that is free is taken");
        assert_ne!(space.reserve(G, 0, second), Ok(second));
        for (start, size) in [(first + G, 2 * G), (first, 2 * G), (0, G)] {
            assert_eq!(
                space.free_reservation(start, size),
                Err(Error::InvalidValue)
            );
        }
        assert_eq!(space.free_reservation(first, 3 * G), Ok(()));
        assert_eq!(space.reservation(first), None);
        assert_eq!(space.reserve(3 * G, 0, 0), Ok(first));
        for (size, alignment) in [(0, 0), (G - 1, 0), (G, 3)] {
            assert_eq!(space.reserve(size, alignment, 0), Err(Error::InvalidValue));
        }
        assert_eq!(space.reserve(2 * RESERVABLE, 0, 0), Err(Error::OutOfMemory));
    }

    #[test]
    fn memory_mapped_twice_is_the_same_memory_and_counted_once() {
        let space = space();
        let before = space.room(0).unwrap().0;
        let memory = space.create_physical(0, 2 * G, 0).unwrap();
        let base = space.reserve(4 * G, 0, 0).unwrap();
        space.map(base, 2 * G, 0, &memory).unwrap();
        space.map(base + 2 * G, 2 * G, 0, &memory).unwrap();
        assert_eq!(space.room(0).unwrap().0, before - 2 * G);
        space
            .set_access(base, 4 * G, 0, Permission::ReadWrite)
            .unwrap();
        let span = Span::device(&space, base + G, 8).unwrap();
        span.write(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let other = Span::device(&space, base + 3 * G, 8).unwrap();
        assert_eq!(other.to_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        drop((span, other, memory));
        let gone = space.unmap(base, 2 * G).unwrap();
        space.unmapped(gone);
        assert_eq!(space.room(0).unwrap().0, before - 2 * G, "still mapped");
        let gone = space.unmap(base + 2 * G, 2 * G).unwrap();
        space.unmapped(gone);
        assert_eq!(space.room(0).unwrap().0, before);
        space.free_reservation(base, 4 * G).unwrap();
    }

    #[test]
    fn mappings_side_by_side_are_one_range_as_far_as_the_access_goes() {
        let space = space();
        let base = space.reserve(3 * G, 0, 0).unwrap();
        for place in 0..2 {
            let memory = space.create_physical(0, G, 0).unwrap();
            space.map(base + place * G, G, 0, &memory).unwrap();
        }
        assert_eq!(
            Span::device(&space, base, 8).err(),
            Some(Error::InvalidValue)
        );
        assert_eq!(space.view(7, 0).range(base), None);
        space.set_access(base, G, 0, Permission::ReadWrite).unwrap();
        assert_eq!(
            space.view(7, 0).range(base + 5),
            Some((base, base + G, true))
        );
        assert!(Span::device(&space, base + G - 4, 8).is_err());
        space
            .set_access(base + G, G, 0, Permission::ReadWrite)
            .unwrap();
        assert_eq!(
            space.view(7, 0).range(base + G),
            Some((base, base + 2 * G, true))
        );
        let span = Span::device(&space, base + G - 4, 8).unwrap();
        span.fill(7, 1);
        assert_eq!(span.to_bytes(), [7; 8]);
        assert!(Span::device(&space, base + 2 * G - 4, 8).is_err());
        // Another device sees nothing, and one that may read does not write.
        assert_eq!(space.view(7, 1).range(base), None);
        space.set_access(base, 2 * G, 1, Permission::Read).unwrap();
        assert_eq!(
            space.view(7, 1).range(base),
            Some((base, base + 2 * G, false))
        );
    }

    #[test]
    fn parts_of_mappings_and_gaps_are_refused() {
        let space = space();
        let base = space.reserve(4 * G, 0, 0).unwrap();
        let memory = space.create_physical(0, 2 * G, 0).unwrap();
        space.map(base, 2 * G, 0, &memory).unwrap();
        space.map(base + 3 * G, G, G, &memory).unwrap();
        for (start, size) in [(base, G), (base + G, G), (base, 3 * G), (base, 4 * G)] {
            assert!(space.unmap(start, size).is_err(), "{size}");
            assert!(
                space
                    .set_access(start, size, 0, Permission::ReadWrite)
                    .is_err()
            );
        }
        // Taken, outside, too long, no whole granule.
        for (start, size, offset) in [
            (base, G, 0),
            (base + 4 * G, G, 0),
            (base + 2 * G, 2 * G, 0),
            (base + 2 * G, G, 2 * G),
            (base + 2 * G + 1, G, 0),
            (base + 2 * G, G, 1),
        ] {
            assert_eq!(
                space.map(start, size, offset, &memory),
                Err(Error::InvalidValue)
            );
        }
        assert_eq!(
            space.free_reservation(base, 4 * G),
            Err(Error::InvalidValue)
        );
    }

    #[test]
    fn memory_without_an_address_counts_and_runs_out() {
        let space = space();
        let memory = space.create_physical(1, 8 * G, 0).unwrap();
        assert_eq!(
            space.create_physical(1, G, 0).err(),
            Some(Error::OutOfMemory)
        );
        drop(memory);
        assert!(space.create_physical(1, G, 0).is_ok());
        assert_eq!(
            space.create_physical(1, G + 1, 0).err(),
            Some(Error::InvalidValue)
        );
    }
}
