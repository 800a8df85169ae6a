//! Which pools devices have: a default one each, and one that is used without being named.
#![forbid(unsafe_code)]

use std::sync::{MutexGuard, PoisonError};

use softgpu_core::error::{Error, Result};

use crate::driver::Driver;

impl Driver {
    /// Handle of a device's default pool.
    pub fn default_pool(&self, device: i32) -> Result<u64> {
        self.with_device_pools(device, |(default, _)| *default)
    }

    /// Handle of the pool that is used on a device without being named.
    pub fn current_pool(&self, device: i32) -> Result<u64> {
        self.with_device_pools(device, |(_, current)| *current)
    }

    /// Sets it.
    pub fn set_current_pool(&self, device: i32, pool: u64) -> Result<()> {
        self.with_device_pools(device, |(_, current)| *current = pool)
    }

    /// Ends a pool that is no default one. What is in use stays until it is freed.
    pub fn destroy_pool(&self, handle: u64) -> Result<()> {
        let mut all = self.locked_device_pools();
        if all.iter().any(|(default, _)| *default == handle) {
            return Err(Error::InvalidValue);
        }
        let pool = self.pools.remove(handle).ok_or(Error::InvalidValue)?;
        for (default, current) in all.iter_mut().filter(|(_, current)| *current == handle) {
            *current = *default;
        }
        pool.destroy();
        pool.synchronized(self.gpu.scheduler());
        Ok(())
    }

    fn with_device_pools<T>(
        &self,
        device: i32,
        work: impl FnOnce(&mut (u64, u64)) -> T,
    ) -> Result<T> {
        let index = usize::try_from(device).map_err(|_| Error::InvalidDevice)?;
        let mut all = self.locked_device_pools();
        all.get_mut(index).map(work).ok_or(Error::InvalidDevice)
    }

    fn locked_device_pools(&self) -> MutexGuard<'_, Vec<(u64, u64)>> {
        self.device_pools
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
