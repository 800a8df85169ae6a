//! Work that goes on while something else is tried.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Does each of `works` over and over, in a thread of its own, until `meanwhile` has ended: also where one of its
/// checks fails, so that the failure is told.
pub fn beside<T>(works: &[&(dyn Fn() + Sync)], meanwhile: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop_at_end = StopAtEnd(&stop);
        for work in works {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    work();
                }
            });
        }
        meanwhile()
    })
}

struct StopAtEnd<'s>(&'s AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn work_ends_with_what_it_goes_on_beside_however_that_ends() {
        let rounds = AtomicU32::new(0);
        let work = || {
            rounds.fetch_add(1, Ordering::Relaxed);
        };
        let some_rounds = || {
            while rounds.load(Ordering::Relaxed) < 3 {
                thread::yield_now();
            }
        };
        beside(&[&work, &work], some_rounds);
        let failed = catch_unwind(AssertUnwindSafe(|| {
            beside(&[&work], || panic!("a check fails"));
        }));
        assert!(failed.is_err());
    }
}
