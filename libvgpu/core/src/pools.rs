//! Which pools there are, as far as the client must know: the device of each, and which of a device's is used
//! without being named.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use cuda_abi::types::CUresult;

use crate::call::Outcome;

/// A session's pools. Devices are counted as the program counts them.
#[derive(Debug, Default)]
pub struct Pools {
    devices: HashMap<u64, i32>,
    of_device: HashMap<i32, OfDevice>,
}

#[derive(Clone, Copy, Debug)]
struct OfDevice {
    default: u64,
    current: u64,
}

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

impl Pools {
    /// A pool of a device's memory.
    pub fn keep(&mut self, handle: u64, device: i32) {
        self.devices.insert(handle, device);
    }

    /// A device's default pool, unless it has one already: the one that it has then.
    pub fn keep_default(&mut self, handle: u64, device: i32) -> u64 {
        let known = self.of_device.entry(device).or_insert(OfDevice {
            default: handle,
            current: handle,
        });
        if known.default == handle {
            self.devices.insert(handle, device);
        }
        known.default
    }

    /// The device of a pool.
    ///
    /// # Errors
    /// `INVALID_VALUE` for what is no pool.
    pub fn device(&self, handle: u64) -> Outcome<i32> {
        self.devices.get(&handle).copied().ok_or(INVALID)
    }

    /// A device's default pool, if it was asked for before.
    pub fn default_of(&self, device: i32) -> Option<u64> {
        self.of_device.get(&device).map(|known| known.default)
    }

    /// The pool that is used on a device without being named, if the default one was asked for before.
    pub fn current_of(&self, device: i32) -> Option<u64> {
        self.of_device.get(&device).map(|known| known.current)
    }

    /// Sets it.
    ///
    /// # Errors
    /// `INVALID_VALUE` if the pool is none of the device's.
    pub fn set_current(&mut self, device: i32, handle: u64) -> Outcome {
        if self.device(handle)? != device {
            return Err(INVALID);
        }
        let known = self.of_device.get_mut(&device).ok_or(INVALID)?;
        known.current = handle;
        Ok(())
    }

    /// Whether a pool may be destroyed.
    ///
    /// # Errors
    /// `INVALID_VALUE` for a default pool and for what is none.
    pub fn check_own(&self, handle: u64) -> Outcome {
        let device = self.device(handle)?;
        match self.default_of(device) {
            Some(default) if default == handle => Err(INVALID),
            _ => Ok(()),
        }
    }

    /// A pool is gone. Where it was current, the default one is again.
    pub fn forget(&mut self, handle: u64) {
        self.devices.remove(&handle);
        for known in self.of_device.values_mut() {
            if known.current == handle {
                known.current = known.default;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_pools_stay_and_take_over_from_one_that_goes() {
        let mut pools = Pools::default();
        assert_eq!(pools.current_of(0), None);
        assert_eq!(pools.keep_default(1, 0), 1);
        assert_eq!(pools.keep_default(2, 0), 1, "another thread was first");
        pools.keep(3, 0);
        pools.keep(4, 1);
        assert_eq!(pools.set_current(0, 3), Ok(()));
        assert_eq!(pools.set_current(0, 4), Err(INVALID));
        assert_eq!(pools.set_current(0, 2), Err(INVALID));
        assert_eq!(
            (pools.default_of(0), pools.current_of(0)),
            (Some(1), Some(3))
        );
        assert_eq!(pools.check_own(1), Err(INVALID));
        assert_eq!(pools.check_own(2), Err(INVALID));
        assert_eq!(pools.check_own(3), Ok(()));
        pools.forget(3);
        assert_eq!(pools.current_of(0), Some(1));
        assert_eq!(pools.device(3), Err(INVALID));
    }
}
