//! Context-local storage: one value for each context and key, and a destructor to run when the
//! context goes.
//!
//! cudart looks its state up on nearly every call, so each thread remembers the last answer and trusts
//! it while nothing has been stored or removed since.
#![forbid(unsafe_code)]

use crate::types::CUcontext;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Called as (context, key, value).
pub(super) type Destructor = extern "C" fn(CUcontext, *mut c_void, *mut c_void);

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub value: usize,
    pub destructor: Option<Destructor>,
}

#[derive(Debug)]
pub(super) struct Storage {
    entries: RwLock<Option<HashMap<Slot, Entry>>>,
    /// Counts changes; written under the write lock only.
    changes: AtomicU64,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Slot {
    context: usize,
    key: usize,
}

/// What a thread last read, and after how many changes.
#[derive(Clone, Copy)]
struct Recent {
    changes: u64,
    slot: Slot,
    value: usize,
}

thread_local! {
    // Plain data without a destructor: cudart still asks while a thread is being torn down.
    static RECENT: Cell<Option<Recent>> = const { Cell::new(None) };
}

/// The process's storage. There is one, because [`RECENT`] does not say which it remembers.
pub(super) static STORAGE: Storage = Storage {
    entries: RwLock::new(None),
    changes: AtomicU64::new(0),
};

impl Storage {
    /// Stores `entry`, in place of an older one, whose destructor does not run.
    pub(super) fn put(&self, context: usize, key: usize, entry: Entry) {
        // A panic cannot leave the map half changed, so poison means nothing here.
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries
            .get_or_insert_with(HashMap::new)
            .insert(Slot { context, key }, entry);
        self.changed();
    }

    pub(super) fn value(&self, context: usize, key: usize) -> Option<usize> {
        let slot = Slot { context, key };
        // SYNC: pairs with the release in `changed`: who sees the count sees the map it counts.
        let changes = self.changes.load(Ordering::Acquire);
        if let Some(recent) = RECENT.get()
            && recent.changes == changes
            && recent.slot == slot
        {
            return Some(recent.value);
        }
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let value = entries.as_ref()?.get(&slot)?.value;
        // The count cannot move while the read lock is held, and is at least what this map has seen.
        let changes = self.changes.load(Ordering::Relaxed);
        RECENT.set(Some(Recent {
            changes,
            slot,
            value,
        }));
        Some(value)
    }

    /// Removes one entry without running its destructor; `false` if there was none.
    pub(super) fn remove(&self, context: usize, key: usize) -> bool {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let removed = entries
            .as_mut()
            .is_some_and(|map| map.remove(&Slot { context, key }).is_some());
        if removed {
            self.changed();
        }
        removed
    }

    /// Removes all entries of a context and hands them out as (key, entry), so that destructors run
    /// with no lock held.
    pub(super) fn take_context(&self, context: usize) -> Vec<(usize, Entry)> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let taken: Vec<_> = entries
            .as_mut()
            .map(|map| map.extract_if(|slot, _| slot.context == context))
            .into_iter()
            .flatten()
            .map(|(slot, entry)| (slot.key, entry))
            .collect();
        if !taken.is_empty() {
            self.changed();
        }
        taken
    }

    /// To be called with the write lock held.
    fn changed(&self) {
        // SYNC: pairs with the acquire in `value`.
        self.changes.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Tests share the one storage; each uses contexts of its own.

    #[test]
    fn value_is_found_by_context_and_key_alone() {
        STORAGE.put(0x1000, 1, entry(11));
        STORAGE.put(0x1000, 2, entry(12));
        STORAGE.put(0x1001, 1, entry(21));
        assert_eq!(STORAGE.value(0x1000, 1), Some(11));
        assert_eq!(STORAGE.value(0x1000, 2), Some(12));
        assert_eq!(STORAGE.value(0x1001, 1), Some(21));
        assert_eq!(STORAGE.value(0x1001, 2), None);
    }

    #[test]
    fn remembered_value_is_dropped_when_it_changes() {
        STORAGE.put(0x2000, 1, entry(1));
        assert_eq!(STORAGE.value(0x2000, 1), Some(1));
        STORAGE.put(0x2000, 1, entry(2));
        assert_eq!(STORAGE.value(0x2000, 1), Some(2));
        assert!(STORAGE.remove(0x2000, 1));
        assert_eq!(STORAGE.value(0x2000, 1), None);
        assert!(!STORAGE.remove(0x2000, 1));
    }

    #[test]
    fn change_by_another_thread_is_seen() {
        STORAGE.put(0x3000, 1, entry(1));
        assert_eq!(STORAGE.value(0x3000, 1), Some(1));
        std::thread::scope(|scope| {
            scope.spawn(|| STORAGE.put(0x3000, 1, entry(2)));
        });
        assert_eq!(STORAGE.value(0x3000, 1), Some(2));
    }

    #[test]
    fn taking_a_context_leaves_the_others() {
        STORAGE.put(0x4000, 1, entry(1));
        STORAGE.put(0x4000, 2, entry(2));
        STORAGE.put(0x4001, 1, entry(3));
        let mut taken: Vec<_> = STORAGE
            .take_context(0x4000)
            .into_iter()
            .map(|(key, entry)| (key, entry.value))
            .collect();
        taken.sort_unstable();
        assert_eq!(taken, [(1, 1), (2, 2)]);
        assert_eq!(STORAGE.value(0x4000, 1), None);
        assert_eq!(STORAGE.value(0x4001, 1), Some(3));
    }

    fn entry(value: usize) -> Entry {
        Entry {
            value,
            destructor: None,
        }
    }
}
