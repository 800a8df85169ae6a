//! Attributes of streams: what programs set is checked, kept and told.
//!
//! None has an effect here: there is no cache to keep memory in, threads that wait wait in one way, streams
//! are served in the order in which they become ready, and there is one domain of memory synchronisation.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cuda_abi::types::{
    CUaccessProperty, CUlaunchAttributeID as Id, CUlaunchAttributeValue as Value,
    CUlaunchMemSyncDomain, CUsynchronizationPolicy,
};
use softgpu_core::error::{Error, Result};
use softgpu_core::schedule::StreamId;

use crate::api::context::clamp_priority;
use crate::driver::Place;

/// Domains of memory synchronisation that the device has.
pub(crate) const DOMAINS: u32 = 1;

/// Most bytes of an access policy window.
pub(crate) const MOST_WINDOW_BYTES: u32 = 128 << 20;

/// What streams have.
const KNOWN: [Id; 5] = [
    Id::CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW,
    Id::CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY,
    Id::CU_LAUNCH_ATTRIBUTE_PRIORITY,
    Id::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP,
    Id::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN,
];

/// What was set, by stream and attribute.
#[derive(Default)]
pub(crate) struct StreamAttributes(Mutex<HashMap<StreamId, BTreeMap<u32, Value>>>);

impl StreamAttributes {
    pub fn get(&self, place: &Place, id: Id) -> Result<Value> {
        let set = self.lock();
        let set = set.get(&place.stream).and_then(|set| set.get(&id.0));
        set.map_or_else(|| unset(place, id), |value| Ok(*value))
    }

    pub fn set(&self, place: &Place, id: Id, value: Value) -> Result<()> {
        let value = checked(id, value)?;
        let mut set = self.lock();
        set.entry(place.stream).or_default().insert(id.0, value);
        Ok(())
    }

    pub fn copy(&self, to: &Place, from: &Place) -> Result<()> {
        let values = KNOWN.map(|id| self.get(from, id).map(|value| (id.0, value)));
        let values = values.into_iter().collect::<Result<_>>()?;
        self.lock().insert(to.stream, values);
        Ok(())
    }

    pub fn priority(&self, place: &Place) -> i32 {
        let value = self.get(place, Id::CU_LAUNCH_ATTRIBUTE_PRIORITY);
        value.map_or(place.priority, |value| low(value.bytes[0]).cast_signed())
    }

    /// The streams are gone.
    pub fn forget(&self, streams: &[StreamId]) {
        let mut set = self.lock();
        for stream in streams {
            set.remove(stream);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, BTreeMap<u32, Value>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What holds before anything is set.
fn unset(place: &Place, id: Id) -> Result<Value> {
    let first = match id {
        Id::CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY => {
            CUsynchronizationPolicy::CU_SYNC_POLICY_AUTO.0
        }
        Id::CU_LAUNCH_ATTRIBUTE_PRIORITY => place.priority.cast_unsigned(),
        id if KNOWN.contains(&id) => 0,
        _ => return Err(Error::InvalidValue),
    };
    Ok(word(first))
}

/// The value as it is kept, if it is one: what it does not need is 0.
fn checked(id: Id, value: Value) -> Result<Value> {
    let [first, second, third, fourth, ..] = value.bytes;
    let own = low(first);
    let (valid, kept) = match id {
        Id::CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW => {
            // Address; length; ratio and property of hits; property of misses.
            let (hits, misses) = (CUaccessProperty(high(third)), CUaccessProperty(low(fourth)));
            let valid = second <= u64::from(MOST_WINDOW_BYTES)
                && (0.0..=1.0).contains(&f32::from_bits(low(third)))
                && hits.name().is_some()
                && misses.name().is_some()
                && misses != CUaccessProperty::CU_ACCESS_PROPERTY_PERSISTING;
            let bytes = [first, second, third, misses.0.into(), 0, 0, 0, 0];
            (valid, Value { bytes })
        }
        Id::CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY => {
            (CUsynchronizationPolicy(own).name().is_some(), word(own))
        }
        Id::CU_LAUNCH_ATTRIBUTE_PRIORITY => {
            let nearest = clamp_priority(own.cast_signed());
            (true, word(nearest.cast_unsigned()))
        }
        Id::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP => {
            let [default, remote, ..] = own.to_le_bytes();
            let valid = u32::from(default.max(remote)) < DOMAINS;
            (valid, word(u32::from_le_bytes([default, remote, 0, 0])))
        }
        Id::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN => {
            (CUlaunchMemSyncDomain(own).name().is_some(), word(own))
        }
        _ => return Err(Error::InvalidValue),
    };
    valid.then_some(kept).ok_or(Error::InvalidValue)
}

fn word(first: u32) -> Value {
    Value {
        bytes: [first.into(), 0, 0, 0, 0, 0, 0, 0],
    }
}

fn low(word: u64) -> u32 {
    let [b0, b1, b2, b3, ..] = word.to_le_bytes();
    u32::from_le_bytes([b0, b1, b2, b3])
}

fn high(word: u64) -> u32 {
    low(word >> 32)
}
