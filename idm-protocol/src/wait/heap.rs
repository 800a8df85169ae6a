//! The doorbell of heap memory: what a futex promises, made of a lock and a condition variable, so
//! that loom and Miri check everything above it. Under loom it never times out: a lost wake-up is a
//! deadlock there, which loom reports.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::Doorbell;
use crate::memory::Heap;
use crate::sync::{Condvar, Mutex, Ordering, Word};

/// The kernel's side of a futex.
#[derive(Debug, Default)]
pub struct HeapBell {
    queue: Mutex<()>,
    sleepers: Condvar,
}

impl Doorbell for Heap {
    fn sleep(&self, word: &Word, value: u64, slice: Option<Duration>) {
        let queue = self.bell.queue.lock();
        if word.load(Ordering::Relaxed) == value {
            self.bell.sleepers.wait(queue, slice);
        }
    }

    fn wake(&self, _word: &Word) {
        let _queue = self.bell.queue.lock();
        self.bell.sleepers.notify_all();
    }
}
