//! What a client's contexts and its code cost the zone, apart from what it allocates.
//!
//! A context costs what the operator says that the driver keeps in it, and what the client has raised of its limits.
//! A module costs the bound of its image, a library the same in each context. The book says what is due; what was
//! charged is compared with it whenever it changes.

#![forbid(unsafe_code)]

use std::collections::HashMap;

/// One client's book.
#[derive(Debug, Default)]
pub struct Code {
    /// Modules and libraries, by handle.
    units: HashMap<u64, Unit>,
    /// What each context costs, by slot.
    contexts: HashMap<u16, Context>,
    /// What was charged for all of it.
    charged: u64,
    /// Of that, for what the driver is about to make.
    pending: u64,
}

/// What was charged for something that the driver is about to make; to be handed in when it has, or has not.
#[derive(Debug)]
#[must_use = "what is not handed in stays charged"]
pub struct Prepaid(u64);

/// A module or a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Device memory, at most.
    pub device_bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Slot of the context it dies with; a library belongs to none and is in each.
    pub context: Option<u16>,
}

#[derive(Debug, Default)]
struct Context {
    overhead: u64,
    /// By limit: what it was before the client changed it, and what it costs now.
    limits: HashMap<u32, (u64, u64)>,
}

impl Code {
    /// Bytes of all images.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        let images = self.units.values().map(|unit| unit.image_bytes);
        images.fold(0, u64::saturating_add)
    }

    /// What one more context costs.
    #[must_use]
    pub fn cost_of_context(&self, overhead: u64) -> u64 {
        // The first copy of a library is paid for with the library.
        let copies = match self.contexts.len() {
            0 => 0,
            _ => self.libraries(),
        };
        overhead.saturating_add(copies)
    }

    /// What one more module or library costs.
    #[must_use]
    pub fn cost_of_unit(&self, unit: &Unit) -> u64 {
        match unit.context {
            Some(_) => unit.device_bytes,
            None => unit.device_bytes.saturating_mul(self.copies()),
        }
    }

    /// So much was charged for what follows.
    pub fn prepay(&mut self, bytes: u64) -> Prepaid {
        self.charged = self.charged.saturating_add(bytes);
        self.pending = self.pending.saturating_add(bytes);
        Prepaid(bytes)
    }

    /// It was made, and is in the book, or it was not.
    pub fn hand_in(&mut self, Prepaid(bytes): Prepaid) {
        self.pending = self.pending.saturating_sub(bytes);
    }

    /// What a balance found missing could not be charged.
    pub fn owe(&mut self, bytes: u64) {
        self.charged = self.charged.saturating_sub(bytes);
    }

    /// A context is there.
    pub fn open(&mut self, slot: u16, overhead: u64) {
        let limits = HashMap::new();
        self.contexts.insert(slot, Context { overhead, limits });
    }

    /// A context is gone, and its modules with it; tells their handles.
    pub fn close(&mut self, slot: u16) -> Vec<u64> {
        self.contexts.remove(&slot);
        let gone = |unit: &Unit| unit.context == Some(slot);
        let all = self.units.iter();
        let handles = all
            .filter(|(_, unit)| gone(unit))
            .map(|(handle, _)| *handle)
            .collect();
        self.units.retain(|_, unit| !gone(unit));
        handles
    }

    /// A module or library is loaded.
    pub fn load(&mut self, handle: u64, unit: Unit) {
        let kept = self.units.entry(handle).or_insert(Unit {
            device_bytes: 0,
            image_bytes: 0,
            ..unit
        });
        // One handle for two is a client's mistake; it pays for both.
        kept.device_bytes = kept.device_bytes.saturating_add(unit.device_bytes);
        kept.image_bytes = kept.image_bytes.saturating_add(unit.image_bytes);
    }

    /// It is unloaded.
    pub fn unload(&mut self, handle: u64) {
        self.units.remove(&handle);
    }

    /// A limit of a context went from one value to another, each unit of which costs so many bytes.
    pub fn limit(&mut self, slot: u16, limit: u32, (from, to): (u64, u64), weight: u64) {
        if let Some(context) = self.contexts.get_mut(&slot) {
            let entry = context.limits.entry(limit).or_insert((from, 0));
            entry.1 = to.saturating_sub(entry.0).saturating_mul(weight);
        }
    }

    /// Compares: what is to be refunded, and what is still to be charged. Either counts as done.
    pub fn balance(&mut self) -> (u64, u64) {
        let due = self.due().saturating_add(self.pending);
        let charged = std::mem::replace(&mut self.charged, due);
        (charged.saturating_sub(due), due.saturating_sub(charged))
    }

    /// What all of it costs.
    #[must_use]
    pub fn due(&self) -> u64 {
        let contexts = self.contexts.values().map(|context| {
            let limits = context.limits.values().map(|(_, cost)| *cost);
            limits.fold(context.overhead, u64::saturating_add)
        });
        let units = self.units.values().map(|unit| self.cost_of_unit(unit));
        contexts.chain(units).fold(0, u64::saturating_add)
    }

    fn libraries(&self) -> u64 {
        let all = self.units.values().filter(|unit| unit.context.is_none());
        all.map(|unit| unit.device_bytes)
            .fold(0, u64::saturating_add)
    }

    /// How often each library is on a device.
    fn copies(&self) -> u64 {
        u64::try_from(self.contexts.len())
            .unwrap_or(u64::MAX)
            .max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unit(device_bytes: u64, context: Option<u16>) -> Unit {
        Unit {
            device_bytes,
            image_bytes: 10,
            context,
        }
    }

    #[test]
    fn a_library_costs_once_in_each_context_and_a_module_in_its_own() {
        let mut code = Code::default();
        code.load(1, unit(100, None));
        code.load(2, unit(7, Some(0)));
        assert_eq!(code.due(), 107);
        assert_eq!(code.cost_of_context(1000), 1000);
        code.open(0, 1000);
        assert_eq!(code.due(), 1107);
        assert_eq!(code.cost_of_context(1000), 1100);
        code.open(1, 1000);
        assert_eq!((code.due(), code.image_bytes()), (2207, 20));
        code.close(0);
        assert_eq!((code.due(), code.image_bytes()), (1100, 10));
        code.unload(1);
        assert_eq!(code.due(), 1000);
    }

    #[test]
    fn a_raised_limit_costs_what_it_is_above_the_first_value() {
        let mut code = Code::default();
        code.open(0, 0);
        code.limit(0, 2, (8, 20), 3);
        assert_eq!(code.due(), 36);
        code.limit(0, 2, (20, 10), 3);
        assert_eq!(code.due(), 6);
        code.limit(0, 2, (10, 4), 3);
        assert_eq!(code.due(), 0);
        code.limit(9, 2, (0, 100), 1);
        assert_eq!(code.due(), 0, "no such context");
    }

    #[test]
    fn a_balance_tells_the_difference_once() {
        let mut code = Code::default();
        let prepaid = code.prepay(100);
        assert_eq!(code.balance(), (0, 0), "it may still be made");
        code.load(1, unit(60, None));
        code.hand_in(prepaid);
        assert_eq!(code.balance(), (40, 0));
        assert_eq!(code.balance(), (0, 0));
        code.open(0, 5);
        assert_eq!(code.balance(), (0, 5));
        code.owe(5);
        code.close(0);
        assert_eq!(
            code.balance(),
            (0, 0),
            "what was never charged is not refunded"
        );
    }

    proptest! {
        #[test]
        fn what_was_asked_for_beforehand_is_what_is_due_afterwards(
            steps in prop::collection::vec((0u8..4, 0u16..4, 0u64..1000), 0..60),
        ) {
            let mut code = Code::default();
            for (what, which, bytes) in steps {
                let handle = u64::from(which);
                let before = code.due();
                match what {
                    0 if !code.contexts.contains_key(&which) => {
                        let cost = code.cost_of_context(bytes);
                        code.open(which, bytes);
                        prop_assert_eq!(code.due(), before + cost);
                    }
                    1 if !code.units.contains_key(&handle) => {
                        let unit = unit(bytes, (bytes % 2 == 0).then_some(which));
                        let cost = code.cost_of_unit(&unit);
                        code.load(handle, unit);
                        prop_assert_eq!(code.due(), before + cost);
                    }
                    2 => drop(code.close(which)),
                    3 => code.unload(handle),
                    _ => {}
                }
                if what > 1 { prop_assert!(code.due() <= before); }
            }
            for which in 0..4 { code.close(which); code.unload(which.into()); }
            prop_assert_eq!((code.due(), code.image_bytes()), (0, 0));
        }
    }
}
