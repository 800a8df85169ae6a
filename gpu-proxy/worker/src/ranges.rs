//! The addresses that a client may name: its device memory, its pinned memory, its modules'
//! variables. Every copy, fill and free is checked here before the driver sees it (D12).

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// What lies at a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Memory from an allocation; `charged` bytes of the zone's quota.
    Device {
        /// What it cost.
        charged: u64,
    },
    /// Part of the arena.
    Pinned,
    /// A variable of the module or library with this handle.
    Global {
        /// The handle.
        owner: u64,
    },
}

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Bytes; never 0.
    pub bytes: u64,
    /// What it is.
    pub place: Place,
    /// Slot of the context that it dies with.
    pub context: u16,
}

impl Range {
    const fn end(&self) -> u64 {
        // No overflow: checked by `Ranges::insert`.
        self.start + self.bytes
    }

    /// Whether it is memory of a device.
    pub const fn is_device(&self) -> bool {
        !matches!(self.place, Place::Pinned)
    }
}

/// One client's ranges; disjoint, except that a variable may be found twice.
#[derive(Debug, Default)]
pub struct Ranges {
    by_start: BTreeMap<u64, Range>,
}

impl Ranges {
    /// Adds a range. `false`, and nothing is added, if it is empty, wraps, or meets another one.
    pub fn insert(&mut self, range: Range) -> bool {
        let Some(end) = range.start.checked_add(range.bytes) else {
            return false;
        };
        if range.bytes == 0 || self.meets(range.start, end) {
            return false;
        }
        self.by_start.insert(range.start, range);
        true
    }

    /// Whether any range has an address in `start..end`.
    pub fn meets(&self, start: u64, end: u64) -> bool {
        let before = self.by_start.range(..end).next_back();
        before.is_some_and(|(_, range)| range.end() > start)
    }

    /// The range that all of these bytes lie in. No bytes lie in the range of their address.
    pub fn find(&self, address: u64, bytes: u64) -> Option<&Range> {
        let (_, range) = self.by_start.range(..=address).next_back()?;
        let end = address.checked_add(bytes)?;
        (address < range.end() && end <= range.end()).then_some(range)
    }

    /// The range that starts exactly here.
    pub fn at(&self, address: u64) -> Option<&Range> {
        self.by_start.get(&address)
    }

    /// Takes out the range that starts exactly here.
    pub fn remove(&mut self, address: u64) -> Option<Range> {
        self.by_start.remove(&address)
    }

    /// Takes out every range that `gone` names.
    pub fn remove_all(&mut self, mut gone: impl FnMut(&Range) -> bool) -> Vec<Range> {
        let mut removed = Vec::new();
        self.by_start.retain(|_, range| {
            let gone = gone(range);
            if gone {
                removed.push(*range);
            }
            !gone
        });
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn device(start: u64, bytes: u64) -> Range {
        let place = Place::Device { charged: bytes };
        Range {
            start,
            bytes,
            place,
            context: 0,
        }
    }

    #[test]
    fn bytes_are_found_only_where_one_range_has_them_all() {
        let mut ranges = Ranges::default();
        assert!(ranges.insert(device(100, 50)));
        assert!(ranges.insert(device(150, 50)));
        assert_eq!(ranges.find(100, 50).unwrap().start, 100);
        assert_eq!(ranges.find(149, 1).unwrap().start, 100);
        assert_eq!(ranges.find(150, 0).unwrap().start, 150);
        assert!(ranges.find(149, 2).is_none());
        assert!(ranges.find(99, 1).is_none());
        assert!(ranges.find(200, 0).is_none());
        assert!(ranges.find(120, u64::MAX).is_none());
    }

    #[test]
    fn a_range_that_meets_another_or_wraps_is_not_added() {
        let mut ranges = Ranges::default();
        assert!(ranges.insert(device(100, 50)));
        assert!(!ranges.insert(device(149, 1)));
        assert!(!ranges.insert(device(50, 51)));
        assert!(!ranges.insert(device(0, 1000)));
        assert!(!ranges.insert(device(u64::MAX, 2)));
        assert!(!ranges.insert(device(10, 0)));
        assert!(ranges.insert(device(50, 50)));
    }

    #[test]
    fn ranges_of_a_context_go_together() {
        let mut ranges = Ranges::default();
        ranges.insert(Range {
            context: 1,
            ..device(0, 10)
        });
        ranges.insert(Range {
            context: 2,
            ..device(10, 10)
        });
        assert_eq!(ranges.remove_all(|range| range.context == 1).len(), 1);
        assert!(ranges.at(0).is_none());
        assert!(ranges.remove(10).is_some());
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_list(
            inserts in prop::collection::vec((0u64..200, 1u64..40), 0..20),
            asked in 0u64..260, bytes in 0u64..50,
        ) {
            let mut ranges = Ranges::default();
            let mut list: Vec<Range> = Vec::new();
            for (start, len) in inserts {
                let range = device(start, len);
                let free = list.iter().all(|other| other.end() <= start || start + len <= other.start);
                prop_assert_eq!(ranges.insert(range), free);
                if free {
                    list.push(range);
                }
            }
            let expected = list.iter().find(|range| {
                range.start <= asked && asked < range.end() && asked + bytes <= range.end()
            });
            prop_assert_eq!(ranges.find(asked, bytes), expected);
        }
    }
}
