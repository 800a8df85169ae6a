//! Which addresses are what: the ranges that the client holds on the device, pinned, or registered.
//!
//! An address belongs to one range at most. The map answers what a copy or a pointer query needs; the
//! worker has the authority over device and pinned ranges and checks each again.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet};
use std::sync::{PoisonError, RwLock};

use idm_protocol::wire::access::DeviceAccess;

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Device memory.
    Device,
    /// Host memory of the arena: one address in this process, the worker and on the device.
    Pinned {
        /// The flags it was asked for with.
        flags: u32,
    },
    /// Memory of the program's own that it registered. Its copies are staged.
    Registered {
        /// The flags it was registered with.
        flags: u32,
    },
    /// Managed memory, which lies in the arena like pinned memory.
    Managed,
    /// A variable of a loaded module.
    Global {
        /// Handle of the module or library.
        owner: u64,
    },
    /// Memory of a pool.
    Pooled {
        /// Its handle.
        pool: u64,
    },
    /// Another process's memory.
    Imported,
    /// Memory without an address of its own, mapped at a reserved one.
    Mapped {
        /// Its handle.
        allocation: u64,
        /// What each device, as the program counts, may do here.
        access: DeviceAccess,
    },
}

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Bytes; at least one.
    pub bytes: u64,
    /// What it is.
    pub place: Place,
    /// Handle of the context it belongs to.
    pub context: u64,
    /// Ordinal of the context's device.
    pub device: i32,
    /// Names the range for its life, and none after it.
    pub id: u64,
}

impl Range {
    /// Whether `bytes` from `address` all lie inside.
    pub fn holds(&self, address: u64, bytes: u64) -> bool {
        // Ranges never end past the last address: `insert` refuses those.
        address >= self.start && bytes <= self.bytes && address - self.start <= self.bytes - bytes
    }

    /// Whether it is device memory from an allocation call.
    pub fn is_allocated(&self) -> bool {
        matches!(self.place, Place::Device | Place::Pooled { .. })
    }

    /// Whether it is device memory with a mirror of its own.
    pub fn has_mirror(&self) -> bool {
        self.is_allocated() || self.place == Place::Imported
    }

    /// Whether kernels see it.
    pub fn on_device(&self) -> bool {
        matches!(
            self.place,
            Place::Device
                | Place::Global { .. }
                | Place::Mapped { .. }
                | Place::Pooled { .. }
                | Place::Imported
        )
    }
}

impl Range {
    const fn is_mapped(&self) -> bool {
        matches!(self.place, Place::Mapped { .. })
    }

    fn permits(&self, need: Need) -> bool {
        match (self.place, need) {
            (Place::Mapped { access, .. }, Need::Read) => access.is_some(),
            (Place::Mapped { access, .. }, Need::Write) => access.is_writable(),
            _ => true,
        }
    }
}

/// What a copy or a fill does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Read it.
    Read,
    /// Write it.
    Write,
}

/// The range overlaps one that is already there, is empty, or ends past the last address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a range that overlaps another, is empty or wraps around")]
pub struct Overlap;

/// All ranges of a session.
#[derive(Debug, Default)]
pub struct Ranges(RwLock<Map>);

#[derive(Debug, Default)]
struct Map {
    by_start: BTreeMap<u64, Range>,
    last_id: u64,
    /// Names of ranges where synchronous calls shall wait that need not.
    synchronous: HashSet<u64>,
}

impl Ranges {
    /// Enters a range and returns the name it got.
    pub fn insert(&self, mut range: Range) -> Result<u64, Overlap> {
        let end = range.start.checked_add(range.bytes).ok_or(Overlap)?;
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let clash = map
            .by_start
            .range(..end)
            .next_back()
            .is_some_and(|(_, last)| last.start + last.bytes > range.start);
        if range.bytes == 0 || clash {
            return Err(Overlap);
        }
        map.last_id += 1;
        range.id = map.last_id;
        map.by_start.insert(range.start, range);
        Ok(range.id)
    }

    /// The range that holds `address`.
    #[inline]
    pub fn find(&self, address: u64) -> Option<Range> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (_, range) = map.by_start.range(..=address).next_back()?;
        range.holds(address, 1).then_some(*range)
    }

    /// Whether a synchronous fill, or copy between device memory, waits for its end here: in memory that the
    /// program itself sees, or that it asked for.
    pub fn synchronises(&self, address: u64) -> bool {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = map.by_start.range(..=address).next_back();
        found.is_some_and(|(_, range)| {
            range.holds(address, 1) && (!range.on_device() || map.synchronous.contains(&range.id))
        })
    }

    /// Whether the program asked for that.
    pub fn is_synchronous(&self, range: &Range) -> bool {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        map.synchronous.contains(&range.id)
    }

    /// The program asks for it, or no longer.
    pub fn set_synchronous(&self, range: &Range, on: bool) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if on {
            map.synchronous.insert(range.id);
        } else {
            map.synchronous.remove(&range.id);
        }
    }

    /// The range that all of these bytes lie in, or the first of mappings side by side that hold them all;
    /// what no device may touch, or write if that is the `need`, does not count.
    pub fn cover(&self, address: u64, bytes: u64, need: Need) -> Option<Range> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (_, first) = map.by_start.range(..=address).next_back()?;
        let end = address.checked_add(bytes)?;
        if !first.holds(address, 0) || !first.permits(need) {
            return None;
        }
        let mut reached = first.start + first.bytes;
        while reached < end {
            let next = map.by_start.get(&reached)?;
            if !first.is_mapped() || !next.is_mapped() || !next.permits(need) {
                return None;
            }
            reached = next.start + next.bytes;
        }
        Some(*first)
    }

    /// Takes out the mappings that make up a range: whole ones, one after the other. `None`, and nothing is
    /// taken out, if they do not.
    pub fn remove_mappings(&self, start: u64, bytes: u64) -> Option<Vec<Range>> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let end = start.checked_add(bytes)?;
        let mut found = Vec::new();
        let mut at = start;
        while at < end {
            let next = map.by_start.get(&at).filter(|next| next.is_mapped())?;
            at = next.start + next.bytes;
            found.push(*next);
        }
        if at != end || found.is_empty() {
            return None;
        }
        for range in &found {
            map.by_start.remove(&range.start);
        }
        Some(found)
    }

    /// Changes what devices may do in all mappings from `start` on.
    pub fn change_access(&self, start: u64, bytes: u64, changes: &[(u32, u32)]) {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let end = start.saturating_add(bytes);
        for (_, range) in map.by_start.range_mut(start..end) {
            if let Place::Mapped { access, .. } = &mut range.place {
                *access = changes.iter().fold(*access, |access, &(device, flags)| {
                    access.with(device, flags)
                });
            }
        }
    }

    /// Takes out the range that starts at `start` if `wanted` agrees.
    pub fn remove(&self, start: u64, wanted: impl FnOnce(&Range) -> bool) -> Option<Range> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let range = *map.by_start.get(&start)?;
        if !wanted(&range) {
            return None;
        }
        map.synchronous.remove(&range.id);
        map.by_start.remove(&start)
    }

    /// Takes out every range that `gone` names, as when a context ends.
    pub fn remove_all(&self, mut gone: impl FnMut(&Range) -> bool) -> Vec<Range> {
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        map.by_start
            .extract_if(.., |_, range| gone(range))
            .map(|(_, range)| range)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, bytes: u64) -> Range {
        Range {
            start,
            bytes,
            place: Place::Device,
            context: 1,
            device: 0,
            id: 0,
        }
    }

    #[test]
    fn address_is_found_from_the_first_to_the_last_byte_and_no_further() {
        let ranges = Ranges::default();
        ranges.insert(range(0x1000, 0x100)).unwrap();
        assert_eq!(ranges.find(0xfff), None);
        assert_eq!(ranges.find(0x1000).map(|found| found.start), Some(0x1000));
        assert!(ranges.find(0x10ff).is_some());
        assert_eq!(ranges.find(0x1100), None);
    }

    #[test]
    fn overlaps_empty_and_wrapping_ranges_are_refused_and_neighbours_are_not() {
        let ranges = Ranges::default();
        ranges.insert(range(0x1000, 0x100)).unwrap();
        for bad in [
            range(0x1000, 1),
            range(0xf00, 0x101),
            range(0x10ff, 2),
            range(0xf00, 0x1000),
            range(0x2000, 0),
            range(u64::MAX, 2),
        ] {
            assert_eq!(ranges.insert(bad), Err(Overlap), "{bad:x?}");
        }
        ranges.insert(range(0xf00, 0x100)).unwrap();
        ranges.insert(range(0x1100, 0x100)).unwrap();
    }

    #[test]
    fn holds_refuses_lengths_that_reach_past_the_end_or_around() {
        let found = range(0x1000, 0x100);
        assert!(found.holds(0x1000, 0x100) && found.holds(0x1080, 0x80) && found.holds(0x1100, 0));
        assert!(
            !found.holds(0x1001, 0x100) && !found.holds(0x1080, u64::MAX) && !found.holds(0xfff, 1)
        );
    }

    #[test]
    fn remove_takes_only_a_start_and_only_what_is_wanted() {
        let ranges = Ranges::default();
        let id = ranges.insert(range(0x1000, 0x100)).unwrap();
        assert_eq!(ranges.remove(0x1001, |_| true), None);
        assert_eq!(ranges.remove(0x1000, |range| !range.on_device()), None);
        assert_eq!(
            ranges
                .remove(0x1000, Range::on_device)
                .map(|range| range.id),
            Some(id)
        );
        assert_eq!(ranges.remove(0x1000, |_| true), None);
    }

    #[test]
    fn mappings_side_by_side_hold_what_reaches_over_them_once_all_may_be_touched() {
        let ranges = Ranges::default();
        let mapped = |start| Range {
            place: Place::Mapped {
                allocation: 1,
                access: DeviceAccess::default(),
            },
            ..range(start, 0x100)
        };
        ranges.insert(mapped(0x1000)).unwrap();
        ranges.insert(mapped(0x1100)).unwrap();
        ranges.insert(range(0x1200, 0x100)).unwrap();
        assert_eq!(ranges.cover(0x1000, 1, Need::Read), None);
        ranges.change_access(0x1000, 0x100, &[(0, 3)]);
        assert_eq!(ranges.cover(0x1080, 0x100, Need::Read), None);
        ranges.change_access(0x1000, 0x200, &[(0, 3)]);
        assert!(ranges.cover(0x1080, 0x180, Need::Read).is_some());
        assert_eq!(
            ranges.cover(0x1080, 0x181, Need::Read),
            None,
            "no mapping any more"
        );
        ranges.change_access(0x1100, 0x100, &[(0, 1)]);
        assert!(ranges.cover(0x1080, 0x180, Need::Read).is_some());
        assert_eq!(ranges.cover(0x1080, 0x180, Need::Write), None);
        for (start, bytes) in [(0x1000, 0x80), (0x1080, 0x80), (0x1000, 0x300), (0x1000, 0)] {
            assert_eq!(ranges.remove_mappings(start, bytes), None);
        }
        assert_eq!(
            ranges.remove_mappings(0x1000, 0x200).map(|gone| gone.len()),
            Some(2)
        );
        assert_eq!(ranges.find(0x1000), None);
    }

    #[test]
    fn names_of_ranges_are_never_used_again() {
        let ranges = Ranges::default();
        let first = ranges.insert(range(0x1000, 1)).unwrap();
        assert_eq!(ranges.remove_all(|range| range.context == 1).len(), 1);
        assert_ne!(ranges.insert(range(0x1000, 1)).unwrap(), first);
    }
}
