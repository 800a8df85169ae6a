//! What the client's pools cost.
//!
//! A driver's pool takes and returns memory of its own accord: it grows by more than was asked for, and shrinks
//! when somebody waits. What a pool is charged for is therefore compared with what the driver says that it
//! holds: after every allocation, after what may have made it shrink, and before the zone is told that it has no
//! more memory.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use cuda_abi::types::CUresult;

/// One client's pools, by handle.
#[derive(Debug, Default)]
pub struct Pools {
    pools: HashMap<u64, Pool>,
}

/// What one costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// The driver's; `None` once it is destroyed and only what was not freed is left of it.
    driver: Option<usize>,
    /// Bytes that were charged.
    charged: u64,
    /// Bytes that the client has of it.
    used: u64,
}

impl Pools {
    /// A pool of the driver's has this handle.
    pub fn keep(&mut self, handle: u64, driver: usize) {
        let pool = Pool {
            driver: Some(driver),
            ..Pool::default()
        };
        self.pools.insert(handle, pool);
    }

    /// The driver's pool.
    ///
    /// # Errors
    /// `INVALID_VALUE`.
    pub fn driver(&self, handle: u64) -> Result<usize, CUresult> {
        let pool = self.pools.get(&handle).and_then(|pool| pool.driver);
        pool.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    /// The driver's pools, with their handles.
    pub fn all(&self) -> Vec<(u64, usize)> {
        let pools = self.pools.iter();
        pools
            .filter_map(|(handle, pool)| Some((*handle, pool.driver?)))
            .collect()
    }

    /// Whether any holds what nobody uses.
    pub fn hold_unused(&self) -> bool {
        self.pools.values().any(|pool| pool.charged > pool.used)
    }

    /// What must be charged before so many bytes more can be asked for. Memory that the pool holds and nobody
    /// has is paid for.
    pub fn shortage(&self, handle: u64, bytes: u64) -> u64 {
        let pool = self.pools.get(&handle).copied().unwrap_or_default();
        pool.used.saturating_add(bytes).saturating_sub(pool.charged)
    }

    /// So much was charged.
    pub fn charged(&mut self, handle: u64, bytes: u64) {
        if let Some(pool) = self.pools.get_mut(&handle) {
            pool.charged += bytes;
        }
    }

    /// The client has so many bytes more.
    pub fn taken(&mut self, handle: u64, bytes: u64) {
        if let Some(pool) = self.pools.get_mut(&handle) {
            pool.used += bytes;
        }
    }

    /// The client has so many bytes less. What is to be refunded for it: nothing, unless the pool was
    /// destroyed.
    pub fn given_back(&mut self, handle: u64, bytes: u64) -> u64 {
        let Some(pool) = self.pools.get_mut(&handle) else {
            return 0;
        };
        pool.used = pool.used.saturating_sub(bytes);
        let due = match pool.driver {
            Some(_) => pool.charged,
            None => pool.used,
        };
        self.lower(handle, due)
    }

    /// The driver says that a pool holds so many bytes: what is to be refunded, and what is still to be
    /// charged.
    pub fn compare(&mut self, handle: u64, reserved: u64) -> (u64, u64) {
        let pool = self.pools.get(&handle).copied().unwrap_or_default();
        let due = reserved.max(pool.used);
        (self.lower(handle, due), due.saturating_sub(pool.charged))
    }

    /// The pool is destroyed: what is to be refunded at once. The rest follows as it is freed.
    pub fn destroy(&mut self, handle: u64) -> u64 {
        let Some(pool) = self.pools.get_mut(&handle) else {
            return 0;
        };
        pool.driver = None;
        let due = pool.used;
        self.lower(handle, due)
    }

    /// Lowers the charge. Of a destroyed pool nothing is kept once nothing of it is used.
    fn lower(&mut self, handle: u64, due: u64) -> u64 {
        let Some(pool) = self.pools.get_mut(&handle) else {
            return 0;
        };
        let refund = pool.charged.saturating_sub(due);
        pool.charged -= refund;
        if pool.driver.is_none() && pool.used == 0 {
            self.pools.remove(&handle);
        }
        refund
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: u64 = 1;

    fn pool() -> Pools {
        let mut pools = Pools::default();
        pools.keep(POOL, 7);
        pools
    }

    #[test]
    fn what_a_pool_holds_is_paid_for_whoever_has_it() {
        let mut pools = pool();
        assert_eq!(pools.shortage(POOL, 100), 100);
        pools.charged(POOL, 100);
        pools.taken(POOL, 100);
        assert_eq!(pools.compare(POOL, 512), (0, 412));
        pools.charged(POOL, 412);
        assert_eq!(pools.given_back(POOL, 100), 0, "the pool holds it still");
        assert_eq!(pools.shortage(POOL, 512), 0);
        assert_eq!(pools.shortage(POOL, 513), 1);
        assert_eq!(pools.compare(POOL, 128), (384, 0));
        assert_eq!(pools.compare(POOL, 0), (128, 0));
    }

    #[test]
    fn a_driver_that_tells_less_than_is_used_is_not_believed() {
        let mut pools = pool();
        pools.charged(POOL, 100);
        pools.taken(POOL, 100);
        assert_eq!(pools.compare(POOL, 10), (0, 0));
    }

    #[test]
    fn a_destroyed_pool_costs_what_is_not_freed() {
        let mut pools = pool();
        pools.charged(POOL, 512);
        pools.taken(POOL, 100);
        assert_eq!(pools.destroy(POOL), 412);
        assert!(pools.driver(POOL).is_err() && pools.all().is_empty());
        assert_eq!(pools.given_back(POOL, 60), 60);
        assert_eq!(pools.given_back(POOL, 40), 40);
        assert_eq!(pools.given_back(POOL, 40), 0);
    }
}
