//! The map of valid addresses.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::heap::{Backing, GRANULE, Heap};
use super::ipc::Foreign;
use super::pool::Pooled;
use super::vmm::{self, Access, Permission, Physical, RESERVABLE, Reservable};
use crate::error::{Error, Result};
use crate::os;
use crate::schedule::Work;
use crate::shared::Pool;

/// What an allocation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Device memory from an allocation call.
    Device,
    /// A module's global; kernels may write it unless it is constant.
    Global {
        /// Kernels must not write it.
        constant: bool,
    },
    /// Texels of an array, which kernels reach through textures and surfaces alone.
    Array,
    /// Physical memory mapped at a reserved address.
    Mapped,
    /// Device memory of a pool.
    Pooled,
    /// Device memory of another process.
    Imported,
    /// Pinned host memory that the device allocated, with the caller's flags.
    HostAllocated(u32),
    /// Managed memory: as pinned memory, for every context and the program.
    Managed,
    /// The program's own memory that it registered, with its flags.
    HostRegistered(u32),
}

impl Kind {
    /// Whether the bytes belong to the host.
    #[must_use]
    pub const fn is_host(self) -> bool {
        matches!(
            self,
            Self::HostAllocated(_) | Self::HostRegistered(_) | Self::Managed
        )
    }
}

/// The context an allocation belongs to.
pub type Owner = u64;

/// One valid range. Its memory goes back when the last user lets go of it.
#[derive(Debug)]
pub struct Allocation {
    /// First address.
    pub start: u64,
    /// Bytes that were asked for; nothing beyond is valid.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
    /// Context it was made in.
    pub owner: Owner,
    /// Device of that context.
    pub device: u32,
    /// Unique for the life of the process.
    pub id: u64,
    /// What each device may do here, where that is not for the owner to say.
    pub access: Option<Arc<Access>>,
    /// What is mapped here.
    pub physical: Option<Arc<Physical>>,
    /// The pool it is from.
    pub pooled: Option<Pooled>,
    /// Where another process's memory is mapped.
    pub(super) _foreign: Option<Foreign>,
    /// Whether synchronous calls wait here that need not: the program asked for it.
    pub synchronous: AtomicBool,
    pub(super) arena: Option<Arc<Arena>>,
}

impl Allocation {
    /// One past the last valid address.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.size
    }

    /// What a copy may do here.
    #[must_use]
    pub fn permission(&self) -> Permission {
        match &self.access {
            Some(access) => access.most(),
            None => Permission::ReadWrite,
        }
    }

    /// What kernels of a context on a device may do here.
    fn permits(&self, owner: Owner, device: u32) -> Permission {
        match (&self.access, self.kind) {
            (Some(access), _) => access.of(device),
            (None, kind) if kind.is_host() => Permission::ReadWrite,
            (None, _) if self.owner != owner => Permission::None,
            (None, Kind::Global { constant: true }) => Permission::Read,
            (None, _) => Permission::ReadWrite,
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        match self.kind {
            Kind::Device | Kind::Global { .. } | Kind::Array => {
                if let Some(arena) = &self.arena {
                    arena.heap().release(self.start, self.size);
                }
            }
            Kind::HostAllocated(_) | Kind::Managed => {
                os::unmap(self.start, self.size.next_multiple_of(os::PAGE))
            }
            Kind::HostRegistered(_) | Kind::Mapped | Kind::Pooled | Kind::Imported => {}
        }
    }
}

/// One device's slice of the window.
#[derive(Debug)]
pub(super) struct Arena {
    base: u64,
    size: u64,
    heap: Mutex<Heap>,
}

impl Drop for Arena {
    fn drop(&mut self) {
        os::unmap(self.base, self.size);
    }
}

impl Arena {
    pub(super) fn heap(&self) -> MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every valid range of the process, by address.
#[derive(Debug)]
pub struct Space {
    arenas: Vec<Arc<Arena>>,
    pub(super) reservable: Arc<Reservable>,
    ranges: RwLock<BTreeMap<u64, Arc<Allocation>>>,
    next_id: AtomicU64,
    /// First address of the window and one past the last.
    window: (u64, u64),
    poison: bool,
}

/// What new memory holds when poisoning is on: a signalling NaN as f32 and f64, a negative integer.
const POISON: u32 = 0xfff5_a5a5;

impl Space {
    /// Reserves the window for `devices` devices of `memory` bytes each.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the process has no such address space.
    pub fn new(devices: u32, memory: u64, poison: bool) -> Result<Self> {
        Self::with_backing(devices, memory, poison, |_| Ok(Backing::private()))
    }

    /// The same with the memory of devices that other processes share, each in its folder.
    ///
    /// # Errors
    /// [`Error::OperatingSystem`] if they cannot be had; what is wrong is told on stderr.
    pub fn shared(folders: &[PathBuf], memory: u64, poison: bool) -> Result<Self> {
        let devices = u32::try_from(folders.len()).map_err(|_| Error::InvalidValue)?;
        Self::with_backing(devices, memory, poison, |ordinal| {
            let index = usize::try_from(ordinal).map_err(|_| Error::InvalidDevice)?;
            let folder = folders.get(index).ok_or(Error::InvalidDevice)?;
            let pool = Pool::join(folder, memory).map_err(|error| {
                eprintln!("softgpu: {}: {error}", folder.display());
                Error::OperatingSystem
            })?;
            Ok(Backing::shared(pool))
        })
    }

    fn with_backing(
        devices: u32,
        memory: u64,
        poison: bool,
        backing: impl Fn(u32) -> Result<Backing>,
    ) -> Result<Self> {
        // Room to spare, so that guard gaps and fragmentation never refuse what the memory would hold.
        let slice = memory
            .checked_mul(4)
            .map(|n| n.max(64 << 30))
            .map(u64::next_power_of_two);
        let slice = slice.ok_or(Error::OutOfMemory)?;
        let slices = slice
            .checked_mul(u64::from(devices))
            .ok_or(Error::OutOfMemory)?;
        let size = slices.checked_add(RESERVABLE).ok_or(Error::OutOfMemory)?;
        let base = reserve_window(size)?;
        let arena = |index: u32| {
            let base = base + slice * u64::from(index);
            let heap = Heap::new(base, slice, memory, backing(index)?);
            Ok(Arc::new(Arena {
                base,
                size: slice,
                heap: Mutex::new(heap),
            }))
        };
        Ok(Self {
            arenas: (0..devices).map(arena).collect::<Result<_>>()?,
            reservable: Arc::new(Reservable::new(base + slices)),
            ranges: RwLock::default(),
            next_id: AtomicU64::new(1),
            window: (base, base + size),
            poison,
        })
    }

    /// Whether an address is one that only device memory can have, allocated or not.
    #[must_use]
    pub fn is_device_address(&self, address: u64) -> bool {
        (self.window.0..self.window.1).contains(&address)
    }

    /// Free and total bytes of a device.
    ///
    /// # Errors
    /// [`Error::InvalidDevice`] for a device that is not there.
    pub fn room(&self, device: u32) -> Result<(u64, u64)> {
        self.arena(device)?.heap().room()
    }

    /// Allocates device memory of `size` bytes.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for size 0, [`Error::OutOfMemory`] when it does not fit.
    pub fn allocate(
        &self,
        device: u32,
        owner: Owner,
        size: u64,
        kind: Kind,
    ) -> Result<Arc<Allocation>> {
        let arena = Arc::clone(self.arena(device)?);
        let start = arena.heap().allocate(size)?;
        let made = self.insert(Allocation {
            start,
            size,
            kind,
            owner,
            device,
            id: self.next_id(),
            access: None,
            physical: None,
            pooled: None,
            _foreign: None,
            synchronous: AtomicBool::new(false),
            arena: Some(arena),
        })?;
        if self.poison {
            crate::transfer::fill_owned(&made, POISON);
        }
        Ok(made)
    }

    /// Allocates pinned or managed host memory, which every context may use.
    ///
    /// # Errors
    /// As [`Self::allocate`].
    pub fn allocate_host(
        &self,
        device: u32,
        owner: Owner,
        size: u64,
        kind: Kind,
    ) -> Result<Arc<Allocation>> {
        if size == 0 {
            return Err(Error::InvalidValue);
        }
        let bytes = size
            .checked_next_multiple_of(os::PAGE)
            .ok_or(Error::OutOfMemory)?;
        let start = os::map_anywhere(bytes).map_err(|_| Error::OutOfMemory)?;
        let id = self.next_id();
        self.insert(Allocation {
            start,
            size,
            kind,
            owner,
            device,
            id,
            access: None,
            physical: None,
            pooled: None,
            _foreign: None,
            synchronous: AtomicBool::new(false),
            arena: None,
        })
    }

    /// Makes the program's own memory known to the device.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for an empty or impossible range,
    /// [`Error::HostMemoryAlreadyRegistered`] if any of it is known already.
    pub fn register(
        &self,
        device: u32,
        owner: Owner,
        start: u64,
        size: u64,
        flags: u32,
    ) -> Result<Arc<Allocation>> {
        if start == 0 || size == 0 || start.checked_add(size).is_none() {
            return Err(Error::InvalidValue);
        }
        let kind = Kind::HostRegistered(flags);
        let id = self.next_id();
        self.insert(Allocation {
            start,
            size,
            kind,
            owner,
            device,
            id,
            access: None,
            physical: None,
            pooled: None,
            _foreign: None,
            synchronous: AtomicBool::new(false),
            arena: None,
        })
        .map_err(|_| Error::HostMemoryAlreadyRegistered)
    }

    /// The allocation that holds an address.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<Arc<Allocation>> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (_, found) = ranges.range(..=address).next_back()?;
        (address < found.end()).then(|| Arc::clone(found))
    }

    /// All of what a copy of so many bytes touches: one allocation, or mappings side by side that may all be
    /// read.
    #[must_use]
    pub fn cover(&self, address: u64, length: u64) -> Option<Cover> {
        let end = address.checked_add(length)?;
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (_, found) = ranges.range(..=address).next_back()?;
        let mut cover = Cover {
            first: Arc::clone(found),
            more: Vec::new(),
        };
        if address >= found.end() || found.permission() == Permission::None {
            return None;
        }
        let mut reached = found.end();
        while reached < end {
            let next = ranges.get(&reached)?;
            if (found.kind, next.kind) != (Kind::Mapped, Kind::Mapped)
                || next.permission() == Permission::None
            {
                return None;
            }
            reached = next.end();
            cover.more.push(Arc::clone(next));
        }
        Some(cover)
    }

    /// The allocation that starts at an address.
    #[must_use]
    pub fn at(&self, start: u64) -> Option<Arc<Allocation>> {
        self.ranges
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&start)
            .cloned()
    }

    /// Forgets the allocation that starts at an address, if `wanted` accepts it.
    pub fn remove(
        &self,
        start: u64,
        wanted: impl Fn(&Allocation) -> bool,
    ) -> Option<Arc<Allocation>> {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        if ranges.get(&start).is_some_and(|found| wanted(found)) {
            ranges.remove(&start)
        } else {
            None
        }
    }

    /// Forgets everything that belongs to a context.
    pub fn remove_owned(&self, owner: Owner) {
        let mut dropped = Vec::new();
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        ranges.retain(|_, allocation| {
            let keep = allocation.owner != owner;
            if !keep {
                dropped.push(Arc::clone(allocation));
            }
            keep
        });
        // Memory goes back to the system outside the lock that kernels resolve addresses under.
        drop(ranges);
        drop(dropped);
    }

    /// The addresses that kernels of one context, on its device, may touch.
    #[must_use]
    pub fn view(self: &Arc<Self>, owner: Owner, device: u32) -> View {
        View {
            space: Arc::clone(self),
            owner,
            device,
        }
    }

    /// Whether anything is at an address from `start` to before `end`.
    pub(super) fn holds_any(&self, start: u64, end: u64) -> bool {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let below = ranges.range(..end).next_back();
        below.is_some_and(|(_, below)| below.end() > start)
    }

    pub(super) fn enter_mapping(
        &self,
        start: u64,
        size: u64,
        memory: &Arc<Physical>,
    ) -> Result<Arc<Allocation>> {
        self.insert(vmm::mapping(start, size, memory, self.next_id()))
    }

    /// Enters memory of a pool, in the place of an allocation that goes off the map a little later otherwise:
    /// in one step, for kernels may be at work there.
    pub(super) fn enter_pooled(
        &self,
        allocation: Allocation,
        replaced: Option<u64>,
    ) -> Result<Arc<Allocation>> {
        self.insert_over(allocation, replaced)
    }

    /// The mappings that make up a range.
    pub(super) fn whole_mappings(&self, start: u64, size: u64) -> Result<Vec<Arc<Allocation>>> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        mappings(&ranges, start, size)
    }

    /// The same, taken off the map.
    pub(super) fn remove_mappings(&self, start: u64, size: u64) -> Result<Vec<Arc<Allocation>>> {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let found = mappings(&ranges, start, size)?;
        for mapping in &found {
            ranges.remove(&mapping.start);
        }
        Ok(found)
    }

    /// Has new memory filled with the pattern, if it shall hold one, by work that `submit` puts where it belongs.
    pub(crate) fn poison_later(&self, made: &Arc<Allocation>, submit: impl FnOnce(Work)) {
        if self.poison {
            let made = Arc::clone(made);
            submit(Box::new(move || {
                crate::transfer::fill_owned(&made, POISON);
            }));
        }
    }

    /// The pattern that new memory holds, if it shall hold one.
    pub(super) fn poison(&self) -> Option<u32> {
        self.poison.then_some(POISON)
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn arena(&self, device: u32) -> Result<&Arc<Arena>> {
        let index = usize::try_from(device).map_err(|_| Error::InvalidDevice)?;
        self.arenas.get(index).ok_or(Error::InvalidDevice)
    }

    pub(super) fn insert(&self, allocation: Allocation) -> Result<Arc<Allocation>> {
        self.insert_over(allocation, None)
    }

    /// Enters an allocation, in the place of the one that has the id `replaced` if that starts where it does.
    fn insert_over(
        &self,
        allocation: Allocation,
        replaced: Option<u64>,
    ) -> Result<Arc<Allocation>> {
        let made = Arc::new(allocation);
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let gives_way =
            |below: &Allocation| below.start == made.start && Some(below.id) == replaced;
        let overlaps = ranges
            .range(..made.end())
            .next_back()
            .is_some_and(|(_, below)| below.end() > made.start && !gives_way(below));
        let before = match overlaps {
            true => None,
            false => ranges.insert(made.start, Arc::clone(&made)),
        };
        // Memory goes back to the system outside the lock that kernels resolve addresses under.
        drop(ranges);
        drop(before);
        if overlaps {
            return Err(Error::InvalidValue);
        }
        Ok(made)
    }
}

/// Whole mappings that follow each other from `start` on and are `size` bytes together.
fn mappings(
    ranges: &BTreeMap<u64, Arc<Allocation>>,
    start: u64,
    size: u64,
) -> Result<Vec<Arc<Allocation>>> {
    let end = start.checked_add(size).ok_or(Error::InvalidValue)?;
    let mut found = Vec::new();
    let mut at = start;
    while at < end {
        let next = ranges
            .get(&at)
            .filter(|a| a.kind == Kind::Mapped && a.end() <= end);
        let next = next.ok_or(Error::InvalidValue)?;
        at = next.end();
        found.push(Arc::clone(next));
    }
    if found.is_empty() {
        return Err(Error::InvalidValue);
    }
    Ok(found)
}

/// What a copy touches.
#[derive(Clone, Debug)]
pub struct Cover {
    /// Where it begins.
    pub first: Arc<Allocation>,
    /// Mappings that follow; none of anything else.
    pub more: Vec<Arc<Allocation>>,
}

/// What one context's kernels may touch: its own device memory, all pinned host memory, and what its device
/// was given access to.
#[derive(Clone, Debug)]
pub struct View {
    space: Arc<Space>,
    owner: Owner,
    device: u32,
}

impl View {
    /// The valid range that holds `address`: start, end, and whether kernels may write it.
    #[must_use]
    pub fn range(&self, address: u64) -> Option<(u64, u64, bool)> {
        self.find(address, false)
    }

    /// The same, for accesses through textures and surfaces.
    #[must_use]
    pub fn image_range(&self, address: u64) -> Option<(u64, u64, bool)> {
        self.find(address, true)
    }

    /// The context.
    #[must_use]
    pub const fn owner(&self) -> Owner {
        self.owner
    }

    fn find(&self, address: u64, image: bool) -> Option<(u64, u64, bool)> {
        let ranges = self
            .space
            .ranges
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let (_, found) = ranges.range(..=address).next_back()?;
        let permits = |range: &Allocation| range.permits(self.owner, self.device);
        let permission = permits(found);
        if address >= found.end()
            || permission == Permission::None
            || (found.kind == Kind::Array && !image)
        {
            return None;
        }
        let (mut start, mut end) = (found.start, found.end());
        if found.kind == Kind::Mapped {
            // To a kernel, mappings side by side are one range: an instruction may reach over both.
            let alike = |other: &Arc<Allocation>| {
                other.kind == Kind::Mapped && permits(other) == permission
            };
            while let Some(next) = ranges.get(&end).filter(|next| alike(next)) {
                end = next.end();
            }
            while let Some((_, before)) = ranges
                .range(..start)
                .next_back()
                .filter(|(_, before)| before.end() == start && alike(before))
            {
                start = before.start;
            }
        }
        Some((start, end, permission == Permission::ReadWrite))
    }
}

/// Reserves `size` bytes of address space at the first of a fixed list of places that is free.
///
/// The places are fixed so that another process can reserve the same one and see device memory, or its
/// absence, at the same addresses. They lie below where the system puts mappings of its own accord and
/// above the heap and the program image.
pub(super) fn reserve_window(size: u64) -> Result<u64> {
    const TOP: u64 = 0x7e00_0000_0000;
    const BOTTOM: u64 = 0x1000_0000_0000;
    const STEP: u64 = 1 << 40;
    let mut base = TOP.checked_sub(size).ok_or(Error::OutOfMemory)? / GRANULE * GRANULE;
    while base >= BOTTOM {
        if os::reserve_at(base, size).is_ok() {
            return Ok(base);
        }
        base -= STEP;
    }
    Err(Error::OutOfMemory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(poison: bool) -> Arc<Space> {
        Arc::new(Space::new(2, 16 * GRANULE, poison).unwrap())
    }

    #[test]
    fn exactly_the_requested_bytes_are_valid() {
        let space = space(false);
        let made = space.allocate(0, 7, 1000, Kind::Device).unwrap();
        let view = space.view(7, 0);
        assert_eq!(
            view.range(made.start),
            Some((made.start, made.start + 1000, true))
        );
        assert_eq!(
            view.range(made.start + 999),
            Some((made.start, made.start + 1000, true))
        );
        assert_eq!(view.range(made.start + 1000), None);
        assert_eq!(view.range(made.start - 1), None);
        assert_eq!(view.range(0), None);
    }

    #[test]
    fn device_memory_of_another_context_is_not_valid_but_pinned_memory_is() {
        let space = space(false);
        let device = space.allocate(0, 7, 64, Kind::Device).unwrap();
        let pinned = space
            .allocate_host(0, 7, 64, Kind::HostAllocated(0))
            .unwrap();
        assert_eq!(space.view(8, 0).range(device.start), None);
        assert!(space.view(8, 0).range(pinned.start).is_some());
    }

    #[test]
    fn constants_are_not_writable() {
        let space = space(false);
        let made = space
            .allocate(0, 1, 64, Kind::Global { constant: true })
            .unwrap();
        assert_eq!(space.view(1, 0).range(made.start).map(|r| r.2), Some(false));
    }

    #[test]
    fn memory_goes_back_when_the_last_user_lets_go() {
        let space = space(false);
        let before = space.room(1).unwrap();
        let made = space.allocate(1, 7, 3 * GRANULE, Kind::Device).unwrap();
        assert_eq!(space.room(1).unwrap().0, before.0 - 3 * GRANULE);
        let start = made.start;
        assert!(space.remove(start, |a| a.kind == Kind::Device).is_some());
        assert_eq!(space.view(7, 0).range(start), None);
        assert_ne!(space.room(1).unwrap(), before, "still held by `made`");
        drop(made);
        assert_eq!(space.room(1).unwrap(), before);
    }

    #[test]
    fn a_context_takes_its_memory_with_it() {
        let space = space(false);
        let before = space.room(0).unwrap();
        for size in [10, 1000, 4 * GRANULE] {
            space.allocate(0, 3, size, Kind::Device).unwrap();
        }
        let other = space.allocate(0, 4, 10, Kind::Device).unwrap();
        space.remove_owned(3);
        assert_eq!(space.room(0).unwrap().0, before.0 - GRANULE);
        assert!(space.view(4, 0).range(other.start).is_some());
    }

    #[test]
    fn registered_ranges_may_not_overlap() {
        let space = space(false);
        assert!(space.register(0, 1, 0x1000, 0x1000, 0).is_ok());
        for (start, size) in [(0x1000, 1), (0x1fff, 1), (0xfff, 2), (0x800, 0x2000)] {
            let again = space.register(0, 1, start, size, 0);
            assert_eq!(
                again.err(),
                Some(Error::HostMemoryAlreadyRegistered),
                "{start:#x}"
            );
        }
        assert!(space.register(0, 1, 0x2000, 8, 0).is_ok());
        assert_eq!(
            space.register(0, 1, u64::MAX, 8, 0).err(),
            Some(Error::InvalidValue)
        );
        assert!(space.remove(0x1000, |a| a.kind.is_host()).is_some());
        assert!(space.register(0, 1, 0x1800, 8, 0).is_ok());
    }

    #[test]
    fn poisoned_memory_is_not_zero() {
        let made = space(true).allocate(0, 1, 4099, Kind::Device).unwrap();
        let bytes = crate::transfer::read_owned(&made);
        assert!(bytes.iter().all(|b| *b != 0));
    }

    #[test]
    fn devices_have_memory_of_their_own() {
        let space = space(false);
        let a = space.allocate(0, 1, 64, Kind::Device).unwrap();
        let b = space.allocate(1, 2, 64, Kind::Device).unwrap();
        assert_ne!(a.start, b.start);
        assert_eq!(
            space.allocate(2, 1, 64, Kind::Device).err(),
            Some(Error::InvalidDevice)
        );
    }
}
