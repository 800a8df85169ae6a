//! Which captures are open, and the gate between them and what must never be captured.
//!
//! A copy that reads or writes memory of ours (bytes of a record, a reply) must not become a node of a
//! graph, which would use that memory again later. So such a copy is issued with the gate held, after a look
//! at its stream, and whatever may bring a stream into a capture waits until nobody holds it.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use cuda_abi::types::{CUresult, CUstreamCaptureMode};
use idm_protocol::sync::{Ordering, Word};

use crate::driver::Table;

/// The captures of a session.
#[derive(Debug, Default)]
pub struct Captures {
    /// How many are open: for the way through every call.
    open: Word,
    gate: RwLock<()>,
    /// By the driver's stream on which each began.
    list: Mutex<HashMap<usize, Capture>>,
}

/// An open capture.
#[derive(Clone, Copy, Debug)]
pub struct Capture {
    /// Slot of the stream's context.
    pub context: u16,
    /// Handle of the graph that nodes are added to; 0 if it is the capture's own.
    pub into: u64,
}

impl Captures {
    /// Whether any is open.
    #[inline]
    pub fn any(&self) -> bool {
        // SYNC: pairs with the Release in `count`.
        self.open.load(Ordering::Acquire) > 0
    }

    /// For as long as this lives, no stream comes into a capture.
    pub fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody holds the gate. Those who come meanwhile do not wait for this: a copy that a stream
    /// waits for may be among them.
    pub fn close(&self) -> RwLockWriteGuard<'_, ()> {
        loop {
            match self.gate.try_write() {
                Ok(guard) => return guard,
                Err(std::sync::TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(std::sync::TryLockError::WouldBlock) => {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        }
    }

    /// A capture began.
    pub fn begun(&self, stream: usize, capture: Capture) {
        let mut list = self.list();
        list.insert(stream, capture);
        self.count(&list);
    }

    /// The capture that began on a stream.
    pub fn on(&self, stream: usize) -> Option<Capture> {
        self.list().get(&stream).copied()
    }

    /// The capture that began on a stream is over, or the stream is.
    pub fn ended(&self, stream: usize) {
        if self.any() {
            let mut list = self.list();
            list.remove(&stream);
            self.count(&list);
        }
    }

    /// The captures of a context are over: it is gone.
    pub fn forget_context(&self, slot: u16) {
        let mut list = self.list();
        list.retain(|_, capture| capture.context != slot);
        self.count(&list);
    }

    /// Does work of our own that a capture must not hinder and that does not harm it: a thread may say so.
    pub fn relaxed<T>(&self, driver: &Table, work: impl FnOnce() -> T) -> T {
        if !self.any() {
            return work();
        }
        let relaxed = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        let before = driver.exchange_capture_mode(relaxed);
        let done = work();
        if let Ok(before) = before {
            // It worked a moment ago.
            let _ = driver.exchange_capture_mode(before);
        }
        done
    }

    /// Whether what is submitted to a stream is captured now.
    ///
    /// # Errors
    /// The driver's, where it cannot tell: the stream is not to be used.
    #[inline]
    pub fn includes(&self, stream: usize, driver: &Table) -> Result<bool, CUresult> {
        if !self.any() {
            return Ok(false);
        }
        driver.is_capturing(stream)
    }

    fn count(&self, list: &HashMap<usize, Capture>) {
        // SYNC: pairs with the Acquire in `any`.
        self.open.store(list.len() as u64, Ordering::Release);
    }

    fn list(&self) -> MutexGuard<'_, HashMap<usize, Capture>> {
        // A panic aborts the worker, so the lock is never poisoned in earnest.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_open_until_they_end_or_their_context_does() {
        let captures = Captures::default();
        let capture = |context| Capture { context, into: 0 };
        captures.begun(10, capture(1));
        captures.begun(11, capture(2));
        captures.ended(12);
        assert!(captures.any() && captures.on(10).is_some());
        captures.ended(10);
        assert!(captures.any() && captures.on(10).is_none());
        captures.forget_context(2);
        assert!(!captures.any());
    }

    #[test]
    fn the_gate_closes_when_nobody_holds_it_and_keeps_nobody_out_before() {
        let captures = Captures::default();
        let held = captures.hold();
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| drop(captures.close()));
            std::thread::sleep(Duration::from_millis(5));
            assert!(!closing.is_finished());
            drop(captures.hold());
            drop(held);
        });
    }
}
