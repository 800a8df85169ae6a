//! What the workers of one zone have been granted of its device memory (D18).
//!
//! Credit is granted before it is spent and returns when a worker says so or when its process has been seen
//! to end. No grant makes the sum exceed the quota, or takes what is set aside for another zone on the device
//! ([`host`]); a quota that is lowered below the sum takes nothing back.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use thiserror::Error;

pub mod host;

use host::{DeviceFull, Seat};

/// Names a worker within this supervisor; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// One zone's account.
#[derive(Debug)]
pub struct Ledger {
    limit: u64,
    used: u64,
    granted: BTreeMap<WorkerId, u64>,
    seat: Seat,
}

/// Why nothing was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The zone has no more.
    #[error(transparent)]
    Quota(#[from] OverQuota),
    /// The device has no more for this zone.
    #[error(transparent)]
    Device(#[from] DeviceFull),
}

/// The quota does not allow it; nothing was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{asked} bytes do not fit: {used} of {limit} are granted")]
pub struct OverQuota {
    /// Bytes asked for.
    pub asked: u64,
    /// The quota.
    pub limit: u64,
    /// What is granted of it.
    pub used: u64,
}

/// A worker gave back more than it had: it lies or is broken, and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("released {released} bytes but holds {held}")]
pub struct Overdrawn {
    /// Bytes it gave back.
    pub released: u64,
    /// Bytes it had been granted.
    pub held: u64,
}

impl Ledger {
    /// An empty account with a quota of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self::seated(limit, Seat::alone())
    }

    /// An empty account of a zone that shares its device with others.
    #[must_use]
    pub fn seated(limit: u64, seat: Seat) -> Self {
        Self {
            limit,
            used: 0,
            granted: BTreeMap::new(),
            seat,
        }
    }

    /// Where the zone sits.
    #[must_use]
    pub fn seat(&self) -> &Seat {
        &self.seat
    }

    /// What could be granted now.
    #[must_use]
    pub fn room(&self) -> u64 {
        let of_quota = self.limit.saturating_sub(self.used);
        self.seat.room().map_or(of_quota, |room| room.min(of_quota))
    }

    /// The quota in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Changes the quota. What is granted stays granted.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// What is granted of it.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// What one worker has been granted.
    #[must_use]
    pub fn granted(&self, worker: WorkerId) -> u64 {
        self.granted.get(&worker).copied().unwrap_or(0)
    }

    /// Why so much would not be granted now; none if it would.
    #[must_use]
    pub fn refusal(&self, bytes: u64) -> Option<Refused> {
        // More may be used than a quota that was lowered.
        if bytes > self.limit.saturating_sub(self.used) {
            let over = OverQuota {
                asked: bytes,
                limit: self.limit,
                used: self.used,
            };
            return Some(over.into());
        }
        self.seat.refusal(bytes).map(Refused::Device)
    }

    /// Grants all of `bytes` or nothing.
    pub fn charge(&mut self, worker: WorkerId, bytes: u64) -> Result<(), Refused> {
        if let Some(refused) = self.refusal(bytes) {
            return Err(refused);
        }
        self.seat.take(bytes);
        self.used += bytes;
        // No worker holds more than is used in all, so this cannot overflow either.
        *self.granted.entry(worker).or_default() += bytes;
        Ok(())
    }

    /// Takes back what a worker no longer needs.
    pub fn release(&mut self, worker: WorkerId, bytes: u64) -> Result<(), Overdrawn> {
        let held = self.granted(worker);
        let Some(left) = held.checked_sub(bytes) else {
            return Err(Overdrawn {
                released: bytes,
                held,
            });
        };
        self.granted.insert(worker, left);
        self.used -= bytes;
        self.seat.give_back(bytes);
        Ok(())
    }

    /// Moves part of what one holds to another's account.
    pub fn transfer(&mut self, from: WorkerId, to: WorkerId, bytes: u64) -> Result<(), Overdrawn> {
        let held = self.granted(from);
        let left = held.checked_sub(bytes).ok_or(Overdrawn {
            released: bytes,
            held,
        })?;
        self.granted.insert(from, left);
        // No worker holds more than is used in all, so this cannot overflow.
        *self.granted.entry(to).or_default() += bytes;
        Ok(())
    }

    /// The worker's process has ended: all it held is free again. Returns how much that was.
    pub fn close(&mut self, worker: WorkerId) -> u64 {
        let held = self.granted.remove(&worker).unwrap_or(0);
        self.used -= held;
        self.seat.give_back(held);
        held
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Charge(u64, u64),
        Release(u64, u64),
        Close(u64),
        Limit(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = prop_oneof![0..200u64, any::<u64>()];
        prop_oneof![
            (0..4u64, bytes.clone()).prop_map(|(worker, bytes)| Step::Charge(worker, bytes)),
            (0..4u64, bytes).prop_map(|(worker, bytes)| Step::Release(worker, bytes)),
            (0..4u64).prop_map(Step::Close),
            (0..1000u64).prop_map(Step::Limit),
        ]
    }

    proptest! {
        /// The model: a map of what each worker holds, in numbers that cannot overflow.
        #[test]
        fn ledger_agrees_with_a_model_and_never_grows_beyond_its_quota(
            first in prop_oneof![0..1000u64, Just(u64::MAX)],
            steps in proptest::collection::vec(step(), 0..100),
        ) {
            let mut limit = first;
            let mut ledger = Ledger::new(limit);
            let mut model: HashMap<u64, u128> = HashMap::new();
            for step in steps {
                let total: u128 = model.values().sum();
                match step {
                    Step::Charge(worker, bytes) => {
                        // Nothing at all is always granted, also above a quota that was lowered.
                        let fits = bytes == 0 || total + u128::from(bytes) <= u128::from(limit);
                        prop_assert_eq!(ledger.charge(WorkerId(worker), bytes).is_ok(), fits);
                        if fits { *model.entry(worker).or_default() += u128::from(bytes); }
                    }
                    Step::Release(worker, bytes) => {
                        let held = model.entry(worker).or_default();
                        let fits = u128::from(bytes) <= *held;
                        prop_assert_eq!(ledger.release(WorkerId(worker), bytes).is_ok(), fits);
                        if fits { *held -= u128::from(bytes); }
                    }
                    Step::Limit(changed) => {
                        limit = changed;
                        ledger.set_limit(limit);
                    }
                    Step::Close(worker) => {
                        let held = model.remove(&worker).unwrap_or(0);
                        prop_assert_eq!(u128::from(ledger.close(WorkerId(worker))), held);
                    }
                }
                prop_assert_eq!(u128::from(ledger.used()), model.values().sum::<u128>());
                let grew = u128::from(ledger.used()) > total;
                prop_assert!(!grew || ledger.used() <= limit);
                for (&worker, &held) in &model {
                    prop_assert_eq!(u128::from(ledger.granted(WorkerId(worker))), held);
                }
            }
        }
    }

    #[test]
    fn a_refusal_tells_quota_and_use() {
        let mut ledger = Ledger::new(100);
        ledger.charge(WorkerId(1), 60).unwrap();
        let refused = ledger.charge(WorkerId(2), 41).unwrap_err();
        assert_eq!(
            refused,
            Refused::Quota(OverQuota {
                asked: 41,
                limit: 100,
                used: 60
            })
        );
        ledger.charge(WorkerId(2), 40).unwrap();
    }
}
