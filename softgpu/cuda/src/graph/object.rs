//! User objects: something of the program's that is told when nobody refers to it any more.
//!
//! The program holds references, and so does each graph, each clone, and each launch under way.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use softgpu_core::error::{Error, Result};

use crate::api::launch::HostCall;
use crate::driver::driver;

/// An object of the program's, as its handle sees it.
pub(crate) struct UserObject {
    kept: Mutex<Weak<Kept>>,
    owned: Mutex<Owned>,
}

/// References that the program holds itself.
#[derive(Default)]
struct Owned {
    count: u64,
    reference: Option<Reference>,
}

/// One reference. The last one to go calls the program.
#[derive(Clone)]
pub(crate) struct Reference(Arc<Kept>);

struct Kept {
    handle: u64,
    destroy: HostCall,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Ok(driver) = driver() {
            drop(driver.user_objects.remove(self.handle));
        }
        self.destroy.run();
    }
}

impl Reference {
    /// The object's handle.
    pub fn object(&self) -> u64 {
        self.0.handle
    }
}

impl UserObject {
    /// Makes an object to which the program holds `count` references. Returns its handle.
    pub fn create(destroy: HostCall, count: u32) -> Result<u64> {
        if count == 0 {
            return Err(Error::InvalidValue);
        }
        let object = Arc::new(Self {
            kept: Mutex::default(),
            owned: Mutex::default(),
        });
        let handle = driver()?
            .user_objects
            .insert(Arc::clone(&object))
            .ok_or(Error::OutOfMemory)?;
        let kept = Arc::new(Kept { handle, destroy });
        *lock(&object.kept) = Arc::downgrade(&kept);
        *lock(&object.owned) = Owned {
            count: count.into(),
            reference: Some(Reference(kept)),
        };
        Ok(handle)
    }

    /// The object behind a handle.
    pub fn find(handle: u64) -> Result<Arc<Self>> {
        driver()?
            .user_objects
            .get(handle)
            .ok_or(Error::InvalidValue)
    }

    /// A reference for whoever asks.
    pub fn reference(&self) -> Result<Reference> {
        let kept = lock(&self.kept).upgrade();
        kept.map(Reference).ok_or(Error::InvalidValue)
    }

    /// `count` more references for the program.
    pub fn retain(&self, count: u32) -> Result<()> {
        let reference = self.reference()?;
        let mut owned = lock(&self.owned);
        owned.count = owned
            .count
            .checked_add(count.into())
            .filter(|_| count > 0)
            .ok_or(Error::InvalidValue)?;
        owned.reference = Some(reference);
        Ok(())
    }

    /// Takes `count` references from the program.
    pub fn release(&self, count: u32) -> Result<()> {
        let mut owned = lock(&self.owned);
        let left = owned.count.checked_sub(count.into());
        owned.count = left.filter(|_| count > 0).ok_or(Error::InvalidValue)?;
        let gone = if owned.count == 0 {
            owned.reference.take()
        } else {
            None
        };
        // The last one calls the program: not with a lock held.
        drop(owned);
        drop(gone);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
