//! Handles: numbers that stand for objects and can be checked.
//!
//! A handle looks like a pointer to the program but is none. It holds the object's kind, the slot it lives
//! in and how often the slot has been used, so that a forged, freed or mistyped one is told apart from a
//! good one without touching memory it names.
#![forbid(unsafe_code)]

use std::sync::{Arc, PoisonError, RwLock};

/// Objects of one kind, by handle.
#[derive(Debug)]
pub struct Table<T> {
    kind: u8,
    slots: RwLock<Slots<T>>,
}

#[derive(Debug)]
struct Slots<T> {
    entries: Vec<Slot<T>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    object: Option<Arc<T>>,
}

// Handle: bits 4..24 slot, 24..48 generation, 48..56 kind. Bits 0..4 are 0 as in an aligned pointer, and as
// the generation starts at 1 no handle collides with the small numbers that name default streams.
const SLOT_SHIFT: u32 = 4;
const SLOT_BITS: u32 = 20;
const GENERATION_SHIFT: u32 = 24;
const GENERATION_BITS: u32 = 24;
const KIND_SHIFT: u32 = 48;

impl<T> Table<T> {
    /// An empty table; `kind` tells its handles from those of other tables.
    #[must_use]
    pub const fn new(kind: u8) -> Self {
        Self {
            kind,
            slots: RwLock::new(Slots {
                entries: Vec::new(),
                free: Vec::new(),
            }),
        }
    }

    /// Takes an object in. None when the table is full (a million objects of one kind).
    pub fn insert(&self, object: Arc<T>) -> Option<u64> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let index = match slots.free.pop() {
            Some(index) => index,
            None if slots.entries.len() < 1 << SLOT_BITS => {
                slots.entries.push(Slot {
                    generation: 1,
                    object: None,
                });
                slots.entries.len() - 1
            }
            None => return None,
        };
        let slot = &mut slots.entries[index]; // From the free list or just pushed.
        slot.object = Some(object);
        Some(self.encode(index, slot.generation))
    }

    /// The object a handle stands for.
    #[must_use]
    pub fn get(&self, handle: u64) -> Option<Arc<T>> {
        let (index, generation) = self.decode(handle)?;
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entries.get(index)?;
        if slot.generation == generation {
            slot.object.clone()
        } else {
            None
        }
    }

    /// Takes an object out; its handle is never good again.
    pub fn remove(&self, handle: u64) -> Option<Arc<T>> {
        let (index, generation) = self.decode(handle)?;
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entries.get_mut(index)?;
        if slot.generation != generation {
            return None;
        }
        let object = slot.object.take()?;
        slot.generation += 1;
        // A slot whose generations are used up is retired rather than used twice.
        if slot.generation < 1 << GENERATION_BITS {
            slots.free.push(index);
        }
        Some(object)
    }

    /// The handle of the first object that `wanted` accepts.
    pub fn find(&self, wanted: impl Fn(&T) -> bool) -> Option<u64> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let mut taken = slots.entries.iter().enumerate();
        let found = taken.find(|(_, slot)| slot.object.as_deref().is_some_and(&wanted));
        found.map(|(index, slot)| self.encode(index, slot.generation))
    }

    /// Takes out every object that `wanted` accepts.
    pub fn remove_where(&self, wanted: impl Fn(&T) -> bool) -> Vec<(u64, Arc<T>)> {
        let found: Vec<u64> = {
            let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
            let taken = slots.entries.iter().enumerate();
            taken
                .filter(|(_, slot)| slot.object.as_deref().is_some_and(&wanted))
                .map(|(index, slot)| self.encode(index, slot.generation))
                .collect()
        };
        found
            .into_iter()
            .filter_map(|handle| Some((handle, self.remove(handle)?)))
            .collect()
    }

    fn encode(&self, index: usize, generation: u32) -> u64 {
        u64::from(self.kind) << KIND_SHIFT
            | u64::from(generation) << GENERATION_SHIFT
            | (index as u64) << SLOT_SHIFT
    }

    fn decode(&self, handle: u64) -> Option<(usize, u32)> {
        let generation =
            u32::try_from(handle >> GENERATION_SHIFT & ((1 << GENERATION_BITS) - 1)).ok()?;
        let index = usize::try_from(handle >> SLOT_SHIFT & ((1 << SLOT_BITS) - 1)).ok()?;
        (self.encode(index, generation) == handle).then_some((index, generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_forged_and_foreign_handles_name_nothing() {
        let streams = Table::new(3);
        let events = Table::new(4);
        let handle = streams.insert(Arc::new("stream")).unwrap();
        let other = events.insert(Arc::new("event")).unwrap();
        assert_eq!(streams.get(handle).as_deref(), Some(&"stream"));
        assert!(streams.get(other).is_none() && events.get(handle).is_none());
        for forged in [
            0,
            1,
            2,
            handle + 1,
            handle + 16,
            handle ^ 1 << 24,
            handle | 1 << 63,
            u64::MAX,
        ] {
            assert!(streams.get(forged).is_none(), "{forged:#x}");
            assert!(streams.remove(forged).is_none(), "{forged:#x}");
        }
        assert!(streams.remove(handle).is_some());
        assert!(streams.get(handle).is_none() && streams.remove(handle).is_none());
        let again = streams.insert(Arc::new("next")).unwrap();
        assert_ne!(again, handle, "the slot is used again, the handle is not");
    }

    #[test]
    fn remove_where_takes_what_is_wanted() {
        let table = Table::new(1);
        let handles: Vec<u64> = (0..10)
            .map(|n| table.insert(Arc::new(n)).unwrap())
            .collect();
        let gone = table.remove_where(|n| n % 2 == 0);
        assert_eq!(gone.len(), 5);
        assert!(table.get(handles[2]).is_none() && table.get(handles[3]).is_some());
    }
}
