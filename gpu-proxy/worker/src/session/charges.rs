//! What a client's device memory costs, and when it costs no more.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::MutexGuard;

use cuda_abi::types::{CUlimit, CUresult};
use idm_protocol::sync::Ordering;
use proxy_channel::bound::Bound;
use proxy_channel::holdings::Holding;
use proxy_channel::message::Token;

use super::{Session, SharedEvent, lock};
use crate::code::{Code, Prepaid, Unit};
use crate::errors::Refusal;
use crate::pools::Pools;
use crate::ranges::{Place, Range};

impl Session {
    /// Spends device memory of the zone's.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` if the zone has no more.
    pub fn charge(&self, bytes: u64) -> Result<(), CUresult> {
        self.charge_as_it_is(bytes)
            .or_else(|_| {
                // Pools may hold what nobody uses.
                crate::api::pool::reclaim(self, &mut self.pools());
                self.charge_as_it_is(bytes)
            })
            .map_err(|_| self.denied(Bound::MEMORY, bytes))
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

    /// Has the driver make something that takes memory of the device. A scrubber holds, for a moment, all that is
    /// free there: a driver that has no more is asked again when the supervisor says that none is at work.
    ///
    /// # Errors
    /// As `ask`.
    pub fn past_scrub<T, E: Copy + Into<Refusal>>(
        &self,
        mut ask: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let full = Refusal::Driver(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        match ask() {
            Err(refusal) if refusal.into() == full => match self.parts.credit.barrier() {
                Ok(()) => ask(),
                Err(_) => Err(refusal),
            },
            other => other,
        }
    }

    /// Gives device memory of the zone's back.
    pub fn refund(&self, bytes: u64) {
        if let Err(error) = self.parts.credit.give_back(bytes) {
            // The thread that reads the channel ends the worker.
            tracing::warn!(%error, "credit not returned");
        }
        self.publish_memory();
    }

    /// Spends what a context costs before the driver makes it.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` if the zone has no more.
    pub fn charge_context(&self) -> Result<Prepaid, CUresult> {
        let cost = self.code().cost_of_context(self.parts.context_overhead);
        self.prepay(cost)
    }

    /// The context is there.
    pub fn open_code(&self, slot: u16, prepaid: Prepaid) {
        let overhead = self.parts.context_overhead;
        self.code().open(slot, overhead);
        self.parts
            .stats
            .hold(Holding::CONTEXT, slot.into(), overhead);
        self.hand_in(prepaid);
    }

    /// The context is gone, with the modules that were its own.
    pub fn close_code(&self, slot: u16) {
        let modules = self.code().close(slot);
        let stats = &self.parts.stats;
        stats.give_back(Holding::CONTEXT, slot.into());
        for module in modules {
            stats.give_back(Holding::CODE, module);
        }
        self.balance_code();
    }

    /// Spends what a module or library costs before the driver loads it.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` if the zone has no more, or the client has too many images.
    pub fn charge_code(&self, unit: &Unit) -> Result<Prepaid, CUresult> {
        let (cost, images) = {
            let code = self.code();
            (code.cost_of_unit(unit), code.image_bytes())
        };
        if unit.image_bytes > self.parts.images.saturating_sub(images) {
            return Err(self.denied(Bound::IMAGES, unit.image_bytes));
        }
        self.prepay(cost)
    }

    /// The driver has loaded it.
    pub fn keep_code(&self, handle: u64, unit: Unit, prepaid: Prepaid) {
        self.code().load(handle, unit);
        let stats = &self.parts.stats;
        stats.hold(Holding::CODE, handle, unit.device_bytes);
        self.hand_in(prepaid);
    }

    /// What was paid for is in the book by now, or there is nothing to pay for.
    pub fn hand_in(&self, prepaid: Prepaid) {
        self.code().hand_in(prepaid);
        self.balance_code();
    }

    fn prepay(&self, bytes: u64) -> Result<Prepaid, CUresult> {
        self.charge(bytes)?;
        Ok(self.code().prepay(bytes))
    }

    /// It is unloaded.
    pub fn drop_code(&self, handle: u64) {
        self.code().unload(handle);
        self.parts.stats.give_back(Holding::CODE, handle);
        self.balance_code();
    }

    /// Sets a limit of a context; what it costs of the device is paid for before.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` if the zone has no more; the driver's.
    pub fn set_limit(
        &self,
        slot: u16,
        limit: CUlimit,
        value: u64,
        weight: u64,
    ) -> Result<(), CUresult> {
        let driver = self.driver();
        if weight == 0 {
            return driver.set_context_limit(limit, value);
        }
        let before = driver.context_limit(limit)?;
        let more = value.saturating_sub(before).checked_mul(weight);
        // More than there can be is as much as is not there.
        let prepaid = self.prepay(more.unwrap_or(u64::MAX))?;
        let done = driver.set_context_limit(limit, value);
        // It rounds.
        let after = driver.context_limit(limit).unwrap_or(value);
        self.code().limit(slot, limit.0, (before, after), weight);
        self.hand_in(prepaid);
        done
    }

    /// Refunds what was charged for contexts and code and is not due.
    pub fn balance_code(&self) {
        let (refund, missing) = self.code().balance();
        self.refund(refund);
        if missing > 0 && self.charge_as_it_is(missing).is_err() {
            // Two lanes at once, or a driver that rounds up: it is there already and cannot be refused.
            tracing::warn!(
                missing,
                "device memory in use that the zone has no credit for"
            );
            self.code().owe(missing);
        }
        self.publish_memory();
    }

    /// What contexts and code cost, locked.
    pub fn code(&self) -> MutexGuard<'_, Code> {
        lock(&self.code)
    }

    /// Device memory was freed: what it cost, or its share of its pool, goes back.
    pub fn free_range(&self, range: &Range) {
        let held = match range.place {
            Place::Device { .. } => Some(Holding::MEMORY),
            Place::Pooled { .. } => Some(Holding::POOLED),
            Place::Pinned => Some(Holding::PINNED),
            Place::Imported { .. } | Place::Global { .. } | Place::Mapped { .. } => None,
        };
        if let Some(held) = held {
            self.parts.stats.give_back(held, range.start);
        }
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
