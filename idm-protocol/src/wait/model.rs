//! The doorbell that loom checks: what a futex promises, made of a lock and a condition variable.
//! It never times out, so that a lost wake-up is a deadlock, which loom reports.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::Doorbell;
use crate::memory::Heap;
use crate::sync::{Ordering, Word};

/// The kernel's side of a futex.
#[derive(Debug, Default)]
pub struct LoomBell {
    queue: loom::sync::Mutex<()>,
    sleepers: loom::sync::Condvar,
}

impl Doorbell for Heap {
    fn sleep(&self, word: &Word, value: u64, _slice: Option<Duration>) {
        let queue = self.bell.queue.lock().unwrap();
        if word.load(Ordering::Relaxed) == value {
            drop(self.bell.sleepers.wait(queue).unwrap());
        }
    }

    fn wake(&self, _word: &Word) {
        let _queue = self.bell.queue.lock().unwrap();
        self.bell.sleepers.notify_all();
    }
}
