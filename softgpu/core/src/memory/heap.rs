//! The allocator of one device's slice of the window.
//!
//! Small requests share 2 MiB granules, larger ones take granules of their own. Every allocation starts on
//! 256 bytes and is followed by a gap that belongs to nobody, so that an overrun by a little is caught and
//! does not reach a neighbour. Addresses are given out lowest first.
//!
//! What other processes are to open must lie in a file. Shared granules always do; a larger allocation is
//! moved into one when it is first exported, since the system may have no huge pages for files.
#![forbid(unsafe_code)]

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use super::vmm::Store;
use crate::error::{Error, Result};
use crate::os;
use crate::shared::Pool;

/// Alignment of every allocation.
pub const ALIGNMENT: u64 = 256;
/// Unit in which a device's memory is taken and counted.
pub const GRANULE: u64 = 2 << 20;
/// Requests up to this size share granules.
pub(super) const SMALL_MAX: u64 = 1 << 20;
/// What separates small neighbours.
const GAP: u64 = ALIGNMENT;

/// Where a device's memory comes from.
#[derive(Debug)]
pub(super) enum Backing {
    /// The process's own, zero when it is fresh.
    Private(Private),
    /// That of a device which other processes share, as they left it.
    Shared {
        /// All of it.
        pool: Pool,
        /// Which granules lie at an address.
        granules: BTreeMap<u64, Vec<u32>>,
    },
}

/// The files behind a process's own memory.
#[derive(Debug, Default)]
pub(super) struct Private {
    /// Shared granules: as far from its start as they are from the heap's.
    small: Option<File>,
    /// Larger allocations that were exported, by address.
    exported: BTreeMap<u64, File>,
}

/// Who gets whole granules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Small allocations, which share them.
    Small,
    /// One allocation.
    Large,
}

impl Backing {
    pub(super) fn private() -> Self {
        Self::Private(Private::default())
    }

    pub(super) fn shared(pool: Pool) -> Self {
        Self::Shared {
            pool,
            granules: BTreeMap::new(),
        }
    }

    /// Puts memory behind whole granules of reserved address space.
    fn commit(
        &mut self,
        (base, size): (u64, u64),
        address: u64,
        bytes: u64,
        by: Use,
    ) -> Result<()> {
        match self {
            Self::Private(_) if by == Use::Large => {
                os::commit(address, bytes).map_err(|_| Error::OutOfMemory)?;
                os::advise_huge(address, bytes);
            }
            Self::Private(private) => {
                let file = match &mut private.small {
                    Some(file) => file,
                    none => none.insert(os::anonymous_file(size).map_err(|_| Error::OutOfMemory)?),
                };
                os::map_file(address, bytes, file, address - base)
                    .map_err(|_| Error::OutOfMemory)?;
            }
            Self::Shared { pool, granules } => {
                let taken = pool.take(bytes / GRANULE).map_err(os_error)?;
                let taken = taken.ok_or(Error::OutOfMemory)?;
                for (place, granule) in (address..).step_by(os::usize_of(GRANULE)).zip(&taken) {
                    let offset = u64::from(*granule) * GRANULE;
                    let mapped = os::map_file(place, GRANULE, pool.memory(), offset);
                    if mapped.is_err() {
                        os::decommit(address, bytes);
                        pool.give_back(&taken).map_err(os_error)?;
                        return Err(Error::OutOfMemory);
                    }
                }
                granules.insert(address, taken);
            }
        }
        Ok(())
    }

    fn decommit(&mut self, base: u64, address: u64, bytes: u64, by: Use) {
        os::decommit(address, bytes);
        match self {
            Self::Private(private) if by == Use::Large => drop(private.exported.remove(&address)),
            Self::Private(private) => {
                let freed = private
                    .small
                    .as_ref()
                    .map(|file| os::punch(file, address - base, bytes));
                if let Some(Err(error)) = freed {
                    // It is used again, as it was left.
                    eprintln!("softgpu: memory is not given back to the system: {error}");
                }
            }
            Self::Shared { pool, granules } => {
                return_to(pool, &granules.remove(&address).unwrap_or_default());
            }
        }
    }
}

fn return_to(pool: &Pool, granules: &[u32]) {
    if let Err(error) = pool.give_back(granules) {
        // They are free when this process ends.
        eprintln!("softgpu: memory of the shared device is not given back: {error}");
    }
}

fn os_error(_: std::io::Error) -> Error {
    Error::OperatingSystem
}

/// Address space of one device and what is taken of it.
#[derive(Debug)]
pub(super) struct Heap {
    backing: Backing,
    /// First address and bytes of address space.
    extent: (u64, u64),
    capacity: u64,
    used: u64,
    /// Free address space: start to length, in granules' multiples, neighbours merged.
    free: BTreeMap<u64, u64>,
    /// Granules that small allocations share, by start.
    shared: BTreeMap<u64, Shared>,
    /// (largest free piece, granule): finds the fullest granule that still fits.
    by_room: BTreeSet<(u64, u64)>,
}

/// One granule shared by small allocations: its free pieces, start to length.
#[derive(Debug)]
struct Shared {
    free: BTreeMap<u64, u64>,
}

impl Shared {
    fn room(&self) -> u64 {
        self.free.values().copied().max().unwrap_or(0)
    }
}

impl Heap {
    /// Takes charge of `[base, base + size)`, all of it reserved and inaccessible, and hands out at most
    /// `capacity` bytes at a time.
    pub(super) fn new(base: u64, size: u64, capacity: u64, backing: Backing) -> Self {
        Self {
            backing,
            extent: (base, size),
            capacity: capacity / GRANULE * GRANULE,
            used: 0,
            free: BTreeMap::from([(base, size / GRANULE * GRANULE)]),
            shared: BTreeMap::new(),
            by_room: BTreeSet::new(),
        }
    }

    /// Bytes not taken, and bytes in all.
    pub(super) fn room(&self) -> Result<(u64, u64)> {
        match &self.backing {
            Backing::Private(_) => Ok((self.capacity - self.used, self.capacity)),
            Backing::Shared { pool, .. } => pool.room().map_err(os_error),
        }
    }

    /// Address of a new allocation of `size` bytes.
    pub(super) fn allocate(&mut self, size: u64) -> Result<u64> {
        if size == 0 {
            return Err(Error::InvalidValue);
        }
        if size <= SMALL_MAX {
            self.allocate_small(size)
        } else {
            self.take(size, Use::Large)
        }
    }

    /// Takes back what [`Self::allocate`] gave for the same size.
    pub(super) fn release(&mut self, address: u64, size: u64) {
        if size > SMALL_MAX {
            self.give_back(address, size, Use::Large);
            return;
        }
        let granule = address / GRANULE * GRANULE;
        let Some(shared) = self.shared.get_mut(&granule) else {
            debug_assert!(false, "release of {address:#x}, which is not allocated");
            return;
        };
        self.by_room.remove(&(shared.room(), granule));
        insert_merged(&mut shared.free, address, small_footprint(size));
        if shared.room() == GRANULE {
            self.shared.remove(&granule);
            self.give_back(granule, GRANULE - GAP, Use::Small);
        } else {
            let room = shared.room();
            self.by_room.insert((room, granule));
        }
    }

    /// The file that an allocation lies in, for another process to map, and where in it. Nobody may touch the
    /// allocation meanwhile.
    pub(super) fn export(&mut self, address: u64, size: u64) -> Result<(File, u64)> {
        let Backing::Private(private) = &mut self.backing else {
            // The granules of a dead process are anybody's, also while others have them mapped.
            return Err(Error::NotSupported);
        };
        let (file, offset) = if size <= SMALL_MAX {
            let file = private.small.as_ref().ok_or(Error::Unknown)?;
            (file, address - self.extent.0)
        } else {
            let file = match private.exported.entry(address) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let moved = os::move_to_file(address, granules(size)?);
                    new.insert(moved.map_err(|_| Error::OutOfMemory)?)
                }
            };
            (&*file, 0)
        };
        Ok((file.try_clone().map_err(os_error)?, offset))
    }

    /// Takes memory without an address.
    pub(super) fn take_physical(&mut self, bytes: u64) -> Result<Store> {
        if bytes > self.capacity - self.used {
            return Err(Error::OutOfMemory);
        }
        let store = match &self.backing {
            Backing::Private(_) => {
                Store::File(os::anonymous_file(bytes).map_err(|_| Error::OutOfMemory)?)
            }
            Backing::Shared { pool, .. } => {
                let taken = pool.take(bytes / GRANULE).map_err(os_error)?;
                Store::Granules(taken.ok_or(Error::OutOfMemory)?)
            }
        };
        self.used += bytes;
        Ok(store)
    }

    /// Takes back what [`Self::take_physical`] gave.
    pub(super) fn give_back_physical(&mut self, store: Store, bytes: u64) {
        self.used -= bytes;
        if let (Store::Granules(granules), Backing::Shared { pool, .. }) = (store, &self.backing) {
            return_to(pool, &granules);
        }
    }

    /// Maps a part of such memory at reserved addresses.
    pub(super) fn map_physical(
        &self,
        store: &Store,
        address: u64,
        offset: u64,
        bytes: u64,
    ) -> Result<()> {
        let mapped = match (store, &self.backing) {
            (Store::File(file), _) => os::map_file(address, bytes, file, offset),
            (Store::Granules(granules), Backing::Shared { pool, .. }) => {
                let first = os::usize_of(offset / GRANULE);
                (address..address + bytes)
                    .step_by(os::usize_of(GRANULE))
                    .zip(&granules[first..])
                    .try_for_each(|(place, granule)| {
                        let offset = u64::from(*granule) * GRANULE;
                        os::map_file(place, GRANULE, pool.memory(), offset)
                    })
            }
            (Store::Granules(_), Backing::Private(_)) => return Err(Error::Unknown),
        };
        mapped.map_err(|_| {
            os::decommit(address, bytes);
            Error::OutOfMemory
        })
    }

    /// Works on the memory of a shared device.
    pub(super) fn with_shared(&self, work: impl FnOnce(&File) -> Result<()>) -> Result<()> {
        match &self.backing {
            Backing::Private(_) => Ok(()),
            Backing::Shared { pool, .. } => work(pool.memory()),
        }
    }

    fn allocate_small(&mut self, size: u64) -> Result<u64> {
        let need = small_footprint(size);
        let granule = match self.by_room.range((need, 0)..).next() {
            Some(&(room, granule)) => {
                self.by_room.remove(&(room, granule));
                granule
            }
            None => {
                let granule = self.take(GRANULE - GAP, Use::Small)?;
                let free = BTreeMap::from([(granule, GRANULE)]);
                self.shared.insert(granule, Shared { free });
                granule
            }
        };
        let shared = self.shared.get_mut(&granule).ok_or(Error::Unknown)?;
        let found = shared
            .free
            .iter()
            .find(|(_, room)| **room >= need)
            .map(|(a, n)| (*a, *n));
        let (address, room) = found.ok_or(Error::Unknown)?;
        shared.free.remove(&address);
        if room > need {
            shared.free.insert(address + need, room - need);
        }
        let room = shared.room();
        self.by_room.insert((room, granule));
        Ok(address)
    }

    /// Takes whole granules for `size` bytes, with an untouched granule behind large ones.
    fn take(&mut self, size: u64, by: Use) -> Result<u64> {
        let bytes = granules(size)?;
        if bytes > self.capacity - self.used {
            return Err(Error::OutOfMemory);
        }
        let span = span(bytes);
        let found = self
            .free
            .iter()
            .find(|(_, room)| **room >= span)
            .map(|(a, n)| (*a, *n));
        let (address, room) = found.ok_or(Error::OutOfMemory)?;
        self.backing.commit(self.extent, address, bytes, by)?;
        self.free.remove(&address);
        if room > span {
            self.free.insert(address + span, room - span);
        }
        self.used += bytes;
        Ok(address)
    }

    fn give_back(&mut self, address: u64, size: u64, by: Use) {
        // The size was accepted when it was taken, so the sum fits now too.
        let bytes = granules(size).unwrap_or(GRANULE);
        self.backing.decommit(self.extent.0, address, bytes, by);
        self.used -= bytes;
        insert_merged(&mut self.free, address, span(bytes));
    }
}

fn small_footprint(size: u64) -> u64 {
    size.next_multiple_of(ALIGNMENT) + GAP
}

fn granules(size: u64) -> Result<u64> {
    size.checked_next_multiple_of(GRANULE)
        .ok_or(Error::OutOfMemory)
}

fn span(bytes: u64) -> u64 {
    bytes.saturating_add(GRANULE)
}

pub(super) fn insert_merged(free: &mut BTreeMap<u64, u64>, mut start: u64, mut length: u64) {
    if let Some((&before, &room)) = free.range(..start).next_back()
        && before + room == start
    {
        free.remove(&before);
        start = before;
        length += room;
    }
    if let Some(after) = free.remove(&(start + length)) {
        length += after;
    }
    free.insert(start, length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::space::reserve_window;

    fn heap(capacity: u64) -> Heap {
        let size = 64 * GRANULE;
        Heap::new(
            reserve_window(size).unwrap(),
            size,
            capacity,
            Backing::private(),
        )
    }

    #[test]
    fn allocations_are_aligned_apart_and_writable() {
        let mut heap = heap(32 * GRANULE);
        let mut taken = Vec::new();
        for size in [
            1,
            255,
            256,
            257,
            4096,
            70_000,
            SMALL_MAX,
            SMALL_MAX + 1,
            5 * GRANULE,
        ] {
            let address = heap.allocate(size).unwrap();
            assert_eq!(address % ALIGNMENT, 0);
            for (other, length) in &taken {
                assert!(
                    address + size + GAP <= *other || other + length + GAP <= address,
                    "{address:#x}+{size} touches {other:#x}+{length}"
                );
            }
            taken.push((address, size));
        }
        for (address, size) in taken {
            heap.release(address, size);
        }
        assert_eq!(heap.room(), Ok((32 * GRANULE, 32 * GRANULE)));
        assert_eq!(heap.free.len(), 1, "free space is whole again");
        assert!(heap.shared.is_empty() && heap.by_room.is_empty());
    }

    #[test]
    fn more_than_the_capacity_is_out_of_memory_and_changes_nothing() {
        let mut heap = heap(4 * GRANULE);
        let first = heap.allocate(3 * GRANULE).unwrap();
        assert_eq!(heap.allocate(2 * GRANULE), Err(Error::OutOfMemory));
        assert_eq!(heap.allocate(u64::MAX), Err(Error::OutOfMemory));
        assert_eq!(heap.allocate(0), Err(Error::InvalidValue));
        assert_eq!(heap.room().unwrap().0, GRANULE);
        heap.release(first, 3 * GRANULE);
        assert!(heap.allocate(4 * GRANULE).is_ok());
    }

    #[test]
    fn freed_small_space_is_used_again() {
        let mut heap = heap(GRANULE);
        let blocks: Vec<u64> = std::iter::from_fn(|| heap.allocate(1000).ok()).collect();
        assert_eq!(blocks.len() as u64, GRANULE / small_footprint(1000));
        heap.release(blocks[7], 1000);
        assert_eq!(heap.allocate(1024), Ok(blocks[7]));
        assert_eq!(heap.allocate(1024), Err(Error::OutOfMemory));
    }
}
