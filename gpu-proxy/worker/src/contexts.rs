//! The client's contexts, and what the worker keeps for each: the context current in each of our
//! threads, default streams of the lanes, a private stream, spare events.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cuda_abi::types::CUresult;
use idm_protocol::sync::{Ordering, Word};

use crate::driver::Table;

/// Names a context for as long as the worker lives: slots are used again, serials are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextKey {
    /// Its slot: the slot of its handle.
    pub slot: u16,
    /// Counts contexts, from 1.
    pub serial: u64,
}

/// What is kept for a context.
#[derive(Debug)]
pub struct Context {
    /// Which one.
    pub key: ContextKey,
    /// The driver's object.
    pub pointer: usize,
    /// Its device.
    pub device: i32,
    /// Whether it is the device's primary context.
    pub primary: bool,
    /// Runs what must not wait for the client's work.
    private_stream: Option<usize>,
    /// Default streams of the threads, by lane.
    lane_streams: HashMap<u16, usize>,
    /// Events that nobody uses.
    events: Vec<usize>,
}

/// One client's contexts, by slot.
#[derive(Debug)]
pub struct Contexts {
    slots: Vec<Slot>,
    next_serial: Word,
}

#[derive(Debug, Default)]
struct Slot {
    /// Serial of the context here; 0 if there is none. For the way through every call.
    serial: Word,
    pointer: Word,
    device: Word,
    context: Mutex<Option<Context>>,
}

thread_local! {
    /// Serial of the context that is current in this thread as far as the driver knows.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

impl Contexts {
    /// No contexts, room for `count`.
    pub fn new(count: u32) -> Self {
        Self {
            slots: (0..count).map(|_| Slot::default()).collect(),
            next_serial: Word::new(1),
        }
    }

    /// A context is there now. `None` if the slot does not exist.
    pub fn open(
        &self,
        slot: u16,
        pointer: usize,
        device: i32,
        primary: bool,
    ) -> Option<ContextKey> {
        let place = self.slots.get(usize::from(slot))?;
        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
        let key = ContextKey { slot, serial };
        *lock(&place.context) = Some(Context {
            key,
            pointer,
            device,
            primary,
            private_stream: None,
            lane_streams: HashMap::new(),
            events: Vec::new(),
        });
        place.pointer.store(pointer as u64, Ordering::Relaxed);
        let ordinal = u64::try_from(device).unwrap_or(u64::MAX);
        place.device.store(ordinal, Ordering::Relaxed);
        // SYNC: pairs with the Acquire in `key`: the pointer is there before its serial.
        place.serial.store(serial, Ordering::Release);
        Some(key)
    }

    /// The context is gone, or about to go.
    pub fn close(&self, slot: u16) -> Option<Context> {
        let place = self.slots.get(usize::from(slot))?;
        place.serial.store(0, Ordering::Relaxed);
        lock(&place.context).take()
    }

    /// The context in a slot.
    #[inline]
    pub fn key(&self, slot: u16) -> Result<ContextKey, CUresult> {
        let place = self.slots.get(usize::from(slot));
        // SYNC: pairs with the Release in `open`.
        match place.map_or(0, |place| place.serial.load(Ordering::Acquire)) {
            0 => Err(CUresult::CUDA_ERROR_INVALID_CONTEXT),
            serial => Ok(ContextKey { slot, serial }),
        }
    }

    /// The device of the context in a slot, or of the last that was there.
    #[inline]
    pub fn device(&self, slot: u16) -> Option<i32> {
        let place = self.slots.get(usize::from(slot))?;
        i32::try_from(place.device.load(Ordering::Relaxed)).ok()
    }

    /// A context of a device, if there is one.
    pub fn on_device(&self, device: i32) -> Option<ContextKey> {
        self.slots.iter().find_map(|slot| {
            let context = lock(&slot.context);
            context
                .as_ref()
                .filter(|context| context.device == device)
                .map(|context| context.key)
        })
    }

    /// Makes a context current in this thread.
    ///
    /// # Errors
    /// `INVALID_CONTEXT` if it is gone; the driver's.
    #[inline]
    pub fn enter(&self, key: ContextKey, driver: &Table) -> Result<(), CUresult> {
        if CURRENT.get() == key.serial {
            return Ok(());
        }
        self.switch(key, driver)
    }

    #[cold]
    fn switch(&self, key: ContextKey, driver: &Table) -> Result<(), CUresult> {
        let pointer = self.with(key, |context| context.pointer)?;
        driver.set_current(pointer)?;
        CURRENT.set(key.serial);
        Ok(())
    }

    /// This thread has no context that we know of: whatever is current, the next call sets it anew.
    pub fn leave(driver: &Table) {
        if CURRENT.replace(0) != 0 {
            // Best effort: what counts is that we do not rely on it.
            let _ = driver.set_current(0);
        }
    }

    /// The driver's object.
    ///
    /// # Errors
    /// `INVALID_CONTEXT` if it is gone.
    pub fn pointer(&self, key: ContextKey) -> Result<usize, CUresult> {
        self.with(key, |context| context.pointer)
    }

    /// The default stream of a lane's thread in a context (D7).
    ///
    /// # Errors
    /// As [`Contexts::enter`].
    pub fn lane_stream(
        &self,
        key: ContextKey,
        lane: u16,
        driver: &Table,
    ) -> Result<usize, CUresult> {
        self.enter(key, driver)?;
        self.with(key, |context| match context.lane_streams.get(&lane) {
            Some(&stream) => Ok(stream),
            None => {
                let stream = driver.create_stream(false)?;
                context.lane_streams.insert(lane, stream);
                Ok(stream)
            }
        })?
    }

    /// A stream of our own that waits for none of the client's.
    ///
    /// # Errors
    /// As [`Contexts::enter`].
    pub fn private_stream(&self, key: ContextKey, driver: &Table) -> Result<usize, CUresult> {
        self.enter(key, driver)?;
        self.with(key, |context| match context.private_stream {
            Some(stream) => Ok(stream),
            None => {
                let stream = driver.create_stream(true)?;
                context.private_stream = Some(stream);
                Ok(stream)
            }
        })?
    }

    /// An event without timing.
    ///
    /// # Errors
    /// As [`Contexts::enter`].
    pub fn event(&self, key: ContextKey, driver: &Table) -> Result<usize, CUresult> {
        self.enter(key, driver)?;
        match self.with(key, |context| context.events.pop())? {
            Some(event) => Ok(event),
            None => driver.create_event(),
        }
    }

    /// Keeps an event for the next user. One of a context that is gone went with it.
    pub fn recycle(&self, key: ContextKey, event: usize) {
        let _ = self.with(key, |context| context.events.push(event));
    }

    fn with<T>(
        &self,
        key: ContextKey,
        work: impl FnOnce(&mut Context) -> T,
    ) -> Result<T, CUresult> {
        let gone = CUresult::CUDA_ERROR_INVALID_CONTEXT;
        let place = self.slots.get(usize::from(key.slot)).ok_or(gone)?;
        match &mut *lock(&place.context) {
            Some(context) if context.key == key => Ok(work(context)),
            _ => Err(gone),
        }
    }
}

/// A panic aborts the worker, so no lock is ever poisoned in earnest.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_used_again_has_another_key_and_the_old_one_is_gone() {
        let contexts = Contexts::new(2);
        assert!(contexts.key(0).is_err());
        let first = contexts.open(0, 11, 0, false).unwrap();
        assert_eq!(contexts.key(0), Ok(first));
        contexts.recycle(first, 5);
        assert_eq!(contexts.close(0).unwrap().pointer, 11);
        assert!(contexts.key(0).is_err());
        let second = contexts.open(0, 11, 0, false).unwrap();
        assert_ne!(first, second);
        contexts.recycle(first, 6);
        assert!(contexts.close(0).unwrap().events.is_empty());
    }

    #[test]
    fn a_slot_beyond_the_limit_does_not_exist() {
        let contexts = Contexts::new(2);
        assert!(contexts.open(2, 1, 0, false).is_none());
        assert!(contexts.key(2).is_err());
        assert!(contexts.close(u16::MAX).is_none());
    }
}
