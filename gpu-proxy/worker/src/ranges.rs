//! The addresses that a client may name: its device memory, its pinned memory, its modules'
//! variables. Every copy, fill and free is checked here before the driver sees it (D12).

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use idm_protocol::wire::access::DeviceAccess;
use proxy_channel::message::Token;

/// What lies at a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Memory from an allocation; `charged` bytes of the zone's quota.
    Device {
        /// What it cost.
        charged: u64,
        /// What names it to other clients of the zone, if it was exported.
        shared: Option<Token>,
    },
    /// Another client's memory of this zone.
    Imported {
        /// What named it.
        token: Token,
        /// How often it is open.
        count: u32,
    },
    /// Memory of a pool.
    Pooled {
        /// The pool's handle.
        pool: u64,
        /// Its share of what the pool costs.
        charged: u64,
    },
    /// Part of the arena.
    Pinned,
    /// A variable of the module or library with this handle.
    Global {
        /// The handle.
        owner: u64,
    },
    /// Memory without an address of its own, mapped at a reserved one.
    Mapped {
        /// Its handle.
        allocation: u64,
        /// What each device may do here.
        access: DeviceAccess,
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
    /// Slot of the context that it dies with; mappings belong to none.
    pub context: Option<u16>,
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

    /// Whether a copy may touch it at all.
    fn is_accessible(&self) -> bool {
        match self.place {
            Place::Mapped { access, .. } => access.is_some(),
            _ => true,
        }
    }

    const fn is_mapped(&self) -> bool {
        matches!(self.place, Place::Mapped { .. })
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

    /// The range that all of these bytes lie in, or the first of mappings side by side that hold them all;
    /// what no device may touch does not count. No bytes lie in the range of their address.
    pub fn find(&self, address: u64, bytes: u64) -> Option<&Range> {
        let (_, range) = self.by_start.range(..=address).next_back()?;
        let end = address.checked_add(bytes)?;
        if address >= range.end() || !range.is_accessible() {
            return None;
        }
        let mut reached = range.end();
        while reached < end {
            let next = self.by_start.get(&reached)?;
            if !range.is_mapped() || !next.is_mapped() || !next.is_accessible() {
                return None;
            }
            reached = next.end();
        }
        Some(range)
    }

    /// The mappings that make up a range: whole ones, one after the other. `None` if they do not.
    pub fn mappings(&self, start: u64, bytes: u64) -> Option<Vec<Range>> {
        let end = start.checked_add(bytes)?;
        let mut found = Vec::new();
        let mut at = start;
        while at < end {
            let next = self.by_start.get(&at)?;
            if !next.is_mapped() || next.end() > end {
                return None;
            }
            at = next.end();
            found.push(*next);
        }
        (!found.is_empty()).then_some(found)
    }

    /// Changes what devices may do in the mapping that starts exactly here.
    pub fn set_access(&mut self, start: u64, changed: DeviceAccess) {
        if let Some(Range {
            place: Place::Mapped { access, .. },
            ..
        }) = self.by_start.get_mut(&start)
        {
            *access = changed;
        }
    }

    /// Enters the token of a range that was exported just now; `false` if it is gone.
    pub fn set_shared(&mut self, range: &Range, token: Token) -> bool {
        let found = self.by_start.get_mut(&range.start);
        match found.filter(|found| **found == *range) {
            Some(Range {
                place: Place::Device { shared, .. },
                ..
            }) => {
                *shared = Some(token);
                true
            }
            _ => false,
        }
    }

    /// Counts that what starts exactly here is opened again; `false` if it is not what the token names.
    pub fn count_import(&mut self, start: u64, wanted: Token) -> bool {
        match self.by_start.get_mut(&start) {
            Some(Range {
                place: Place::Imported { token, count },
                ..
            }) if *token == wanted => {
                *count = count.saturating_add(1);
                true
            }
            _ => false,
        }
    }

    /// Closes what starts exactly here once, and takes it out if that was the last time. The range as it was;
    /// `None` if nothing is open here.
    pub fn close_import(&mut self, start: u64) -> Option<Range> {
        let found = self.by_start.get_mut(&start)?;
        let was = *found;
        let Place::Imported { count, .. } = &mut found.place else {
            return None;
        };
        if *count > 1 {
            *count -= 1;
        } else {
            self.by_start.remove(&start);
        }
        Some(was)
    }

    /// Undoes that.
    pub fn reopen_import(&mut self, was: Range) {
        self.by_start.insert(was.start, was);
    }

    /// The range that an address lies in, whether or not it may be touched.
    pub fn around(&self, address: u64) -> Option<Range> {
        let (_, range) = self.by_start.range(..=address).next_back()?;
        (address < range.end()).then_some(*range)
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
        let place = Place::Device {
            charged: bytes,
            shared: None,
        };
        Range {
            start,
            bytes,
            place,
            context: Some(0),
        }
    }

    fn mapped(start: u64, bytes: u64, access: DeviceAccess) -> Range {
        Range {
            place: Place::Mapped {
                allocation: 1,
                access,
            },
            context: None,
            ..device(start, bytes)
        }
    }

    #[test]
    fn mappings_side_by_side_hold_what_reaches_over_them_once_all_may_be_touched() {
        let some = DeviceAccess::default().with(0, 3);
        let mut ranges = Ranges::default();
        assert!(ranges.insert(mapped(100, 50, some)));
        assert!(ranges.insert(mapped(150, 50, DeviceAccess::default())));
        assert!(ranges.insert(device(200, 50)));
        assert!(ranges.find(140, 10).is_some());
        assert!(ranges.find(140, 11).is_none() && ranges.find(150, 1).is_none());
        ranges.set_access(150, some);
        assert_eq!(ranges.find(140, 60).unwrap().start, 100);
        assert!(
            ranges.find(140, 61).is_none(),
            "an allocation is no mapping"
        );
    }

    #[test]
    fn only_whole_mappings_without_a_gap_make_up_a_range() {
        let mut ranges = Ranges::default();
        for start in [100, 150, 250] {
            assert!(ranges.insert(mapped(start, 50, DeviceAccess::default())));
        }
        assert!(ranges.insert(device(300, 50)));
        assert_eq!(ranges.mappings(100, 100).unwrap().len(), 2);
        for (start, bytes) in [
            (100, 99),
            (101, 49),
            (100, 200),
            (250, 100),
            (300, 50),
            (100, 0),
            (100, u64::MAX),
        ] {
            assert_eq!(ranges.mappings(start, bytes), None, "{start} {bytes}");
        }
    }

    #[test]
    fn an_import_is_gone_when_it_was_closed_as_often_as_it_was_opened() {
        let (token, other) = ([1; 16], [2; 16]);
        let import = Range {
            place: Place::Imported { token, count: 1 },
            ..device(100, 50)
        };
        let mut ranges = Ranges::default();
        assert!(ranges.insert(import) && ranges.insert(device(200, 50)));
        assert!(ranges.count_import(100, token));
        assert!(!ranges.count_import(100, other) && !ranges.count_import(200, token));
        assert!(ranges.close_import(200).is_none());
        assert!(ranges.close_import(100).is_some() && ranges.find(100, 50).is_some());
        let last = ranges.close_import(100);
        assert_eq!(last, Some(import));
        assert!(ranges.find(100, 1).is_none() && ranges.close_import(100).is_none());
        ranges.reopen_import(import);
        assert_eq!(ranges.find(100, 50), Some(&import));
    }

    #[test]
    fn only_the_range_that_was_exported_gets_the_token() {
        let mut ranges = Ranges::default();
        let range = device(100, 50);
        assert!(!ranges.set_shared(&range, [1; 16]));
        assert!(ranges.insert(range));
        assert!(ranges.set_shared(&range, [1; 16]));
        assert!(!ranges.set_shared(&range, [2; 16]), "it is not as it was");
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
            context: Some(1),
            ..device(0, 10)
        });
        ranges.insert(Range {
            context: Some(2),
            ..device(10, 10)
        });
        assert_eq!(ranges.remove_all(|range| range.context == Some(1)).len(), 1);
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
