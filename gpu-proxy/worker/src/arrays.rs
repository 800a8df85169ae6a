//! What arrays cost the zone, and which values are texture and surface objects of the client's.

#![forbid(unsafe_code)]

use std::collections::HashMap;

/// Arrays and image objects of a session.
#[derive(Debug, Default)]
pub struct Arrays {
    /// Context slot and bytes charged, by handle.
    charges: HashMap<u64, (u16, u64)>,
    /// Context slot and whether it is a texture, by value.
    objects: HashMap<u64, (u16, bool)>,
}

/// Image objects that a client may have: each takes room in the driver that nobody charges for.
const MOST_OBJECTS: usize = 1 << 16;

impl Arrays {
    /// An array was paid for.
    pub fn charge(&mut self, array: u64, context: u16, bytes: u64) {
        self.charges.insert(array, (context, bytes));
    }

    /// What an array that is gone has cost.
    pub fn refund(&mut self, array: u64) -> u64 {
        self.charges.remove(&array).map_or(0, |(_, bytes)| bytes)
    }

    /// Whether the client may have another object.
    pub fn has_room(&self) -> bool {
        self.objects.len() < MOST_OBJECTS
    }

    /// A new object of the client's.
    pub fn add(&mut self, object: u64, context: u16, texture: bool) {
        self.objects.insert(object, (context, texture));
    }

    /// Takes an object away from the client; whether it was one.
    pub fn take(&mut self, object: u64, context: u16, texture: bool) -> bool {
        let own = self.objects.get(&object) == Some(&(context, texture));
        own && self.objects.remove(&object).is_some()
    }

    /// Forgets what ends with a context; what its arrays have cost, and their handles.
    pub fn forget_context(&mut self, context: u16) -> (u64, Vec<u64>) {
        self.objects.retain(|_, (slot, _)| *slot != context);
        let (mut bytes, mut gone) = (0, Vec::new());
        self.charges.retain(|handle, (slot, charged)| {
            if *slot == context {
                bytes += *charged;
                gone.push(*handle);
            }
            *slot != context
        });
        (bytes, gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_taken_once_by_their_context_and_kind() {
        let mut arrays = Arrays::default();
        arrays.add(7, 1, true);
        assert!(!arrays.take(7, 2, true));
        assert!(!arrays.take(7, 1, false));
        assert!(arrays.take(7, 1, true));
        assert!(!arrays.take(7, 1, true));
    }

    #[test]
    fn a_context_that_ends_gives_back_what_its_arrays_cost() {
        let mut arrays = Arrays::default();
        arrays.charge(1, 0, 100);
        arrays.charge(2, 1, 10);
        arrays.charge(3, 0, 1000);
        assert_eq!(arrays.refund(3), 1000);
        assert_eq!(arrays.refund(3), 0);
        assert_eq!(arrays.forget_context(0), (100, vec![1]));
        assert_eq!(arrays.refund(2), 10);
    }
}
