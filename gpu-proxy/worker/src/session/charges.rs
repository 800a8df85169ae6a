//! What a client's device memory costs, and when it costs no more.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::MutexGuard;

use cuda_abi::types::CUresult;
use idm_protocol::sync::Ordering;
use proxy_channel::message::Token;

use super::{Session, SharedEvent, lock};
use crate::pools::Pools;
use crate::ranges::{Place, Range};

impl Session {
    /// Spends device memory of the zone's.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` if the zone has no more.
    pub fn charge(&self, bytes: u64) -> Result<(), CUresult> {
        self.charge_as_it_is(bytes).or_else(|_| {
            // Pools may hold what nobody uses.
            crate::api::pool::reclaim(self, &mut self.pools());
            self.charge_as_it_is(bytes)
        })
    }

    /// The same without a look at the pools, for who has them locked.
    ///
    /// # Errors
    /// As [`Session::charge`].
    pub fn charge_as_it_is(&self, bytes: u64) -> Result<(), CUresult> {
        if let Err(error) = self.parts.credit.take(bytes) {
            tracing::info!(bytes, %error, "allocation refused");
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        Ok(())
    }

    /// Gives device memory of the zone's back.
    pub fn refund(&self, bytes: u64) {
        if let Err(error) = self.parts.credit.give_back(bytes) {
            // The thread that reads the channel ends the worker.
            tracing::warn!(%error, "credit not returned");
        }
        self.publish_memory();
    }

    /// Device memory was freed: what it cost, or its share of its pool, goes back.
    pub fn free_range(&self, range: &Range) {
        match range.place {
            Place::Device {
                charged,
                shared: None,
            } => self.refund(charged),
            Place::Device {
                charged,
                shared: Some(token),
            } => self.withdraw(token, charged),
            Place::Imported { token, count } => {
                (0..count).for_each(|_| crate::api::ipc::closed(self, token));
            }
            Place::Pooled { pool, charged } => {
                let refund = self.pools().given_back(pool, charged);
                self.refund(refund);
                self.pools_shrink.store(1, Ordering::Relaxed);
            }
            Place::Pinned | Place::Global { .. } | Place::Mapped { .. } => {}
        }
    }

    /// Shared memory was freed: others who have it open still pay for it.
    pub fn withdraw(&self, token: Token, returned: u64) {
        if let Err(error) = self.parts.credit.withdraw(token, returned) {
            // The thread that reads the channel ends the worker.
            tracing::warn!(%error, "shared memory not withdrawn");
        }
        self.publish_memory();
    }

    /// Held while something is exported, opened or closed.
    pub fn sharing(&self) -> MutexGuard<'_, ()> {
        lock(&self.sharing)
    }

    /// Events that other clients of the zone have too, locked: for as long as one is exported or opened.
    pub fn shared_events(&self) -> MutexGuard<'_, HashMap<u64, SharedEvent>> {
        lock(&self.shared_events)
    }

    /// Refunds what pools have given back to the driver since memory of them was freed.
    pub fn observe_pools(&self) {
        if !self.pools_hold_unused() {
            return;
        }
        let mut pools = self.pools();
        crate::api::pool::observe(self, &mut pools);
        // Until all of it went back, any later synchronisation may be the one that gives it back.
        let more = u64::from(pools.hold_unused());
        self.pools_shrink.store(more, Ordering::Relaxed);
    }

    /// Whether memory of a pool was freed and may still be in the pool.
    pub fn pools_hold_unused(&self) -> bool {
        self.pools_shrink.load(Ordering::Relaxed) != 0
    }

    /// What the client's pools cost, locked.
    pub fn pools(&self) -> MutexGuard<'_, Pools> {
        lock(&self.pools)
    }

    /// Tells the supervisor's statistics how much device memory is held.
    pub fn publish_memory(&self) {
        self.parts.stats.set_memory_held(self.parts.credit.spent());
    }
}
