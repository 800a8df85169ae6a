//! OS threads that help with launches: started when first wanted, asleep while nothing runs.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::os;

/// The threads of the process.
static POOL: Pool = Pool::new();

/// Runs `work` on the calling thread and on up to `helpers` others at the same time. Returns when no
/// thread runs it any more; those that have not begun by the time the calling one is done do not. A
/// panic of `work` goes on in the caller.
pub fn together(helpers: usize, work: &(dyn Fn() + Sync)) {
    POOL.together(helpers, work);
}

struct Pool {
    state: Mutex<State>,
    /// There is work.
    work: Condvar,
    /// The last helper has left a job.
    left: Condvar,
}

struct State {
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    next: u64,
    /// Oldest first.
    jobs: Vec<Job>,
}

struct Job {
    number: u64,
    /// Valid while the job is listed: its owner does not return before.
    work: &'static (dyn Fn() + Sync),
    /// Helpers it still has room for.
    places: usize,
    running: usize,
    panic: Option<Box<dyn Any + Send>>,
}

impl Pool {
    const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                threads: 0,
                idle: 0,
                next: 0,
                jobs: Vec::new(),
            }),
            work: Condvar::new(),
            left: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn together(&'static self, helpers: usize, work: &(dyn Fn() + Sync)) {
        if helpers == 0 {
            return work();
        }
        let owner = Owner {
            pool: self,
            number: self.publish(helpers, work),
        };
        work();
        let panic = owner.withdraw();
        std::mem::forget(owner);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Lists a job and makes sure that somebody looks; the caller must withdraw it.
    fn publish(&'static self, helpers: usize, work: &(dyn Fn() + Sync)) -> u64 {
        // SAFETY: the lifetime is that of the listing: `together` keeps the reference alive until
        // `withdraw` has taken the job off the list and seen the last helper leave it, and does so
        // on unwinding too.
        let work =
            unsafe { std::mem::transmute::<&(dyn Fn() + Sync), &'static (dyn Fn() + Sync)>(work) };
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.jobs.push(Job {
            number,
            work,
            places: helpers,
            running: 0,
            panic: None,
        });
        // As many threads as the largest launch has asked for serve all of them.
        for _ in state.threads..helpers {
            // Where no thread is to be had, the others do its work.
            if os::spawn_quiet("softgpu-sm", || self.help()).is_err() {
                break;
            }
            state.threads += 1;
        }
        for _ in 0..helpers.min(state.idle) {
            self.work.notify_one();
        }
        number
    }

    /// A thread's life.
    fn help(&self) {
        let mut state = self.state();
        loop {
            let Some(job) = state.jobs.iter_mut().find(|job| job.places > 0) else {
                state.idle += 1;
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            job.places -= 1;
            job.running += 1;
            let (number, work) = (job.number, job.work);
            drop(state);
            let result = catch_unwind(AssertUnwindSafe(work));
            state = self.state();
            if let Some(job) = state.jobs.iter_mut().find(|job| job.number == number) {
                job.running -= 1;
                if let Err(panic) = result {
                    job.panic.get_or_insert(panic);
                }
                if job.running == 0 {
                    self.left.notify_all();
                }
            }
        }
    }
}

/// Takes a job off the list when it goes.
struct Owner {
    pool: &'static Pool,
    number: u64,
}

impl Owner {
    /// Lets nobody begin, waits for those who have, and returns a panic of theirs.
    fn withdraw(&self) -> Option<Box<dyn Any + Send>> {
        let mut state = self.pool.state();
        loop {
            let place = state
                .jobs
                .iter()
                .position(|job| job.number == self.number)?;
            state.jobs[place].places = 0;
            if state.jobs[place].running == 0 {
                return state.jobs.remove(place).panic;
            }
            state = self
                .pool
                .left
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn pool() -> &'static Pool {
        Box::leak(Box::new(Pool::new()))
    }

    #[test]
    fn work_runs_on_as_many_threads_as_asked_for() {
        let (pool, barrier) = (pool(), Barrier::new(4));
        for _ in 0..50 {
            // Nobody passes the barrier unless four threads have come.
            pool.together(3, &|| {
                barrier.wait();
            });
        }
        assert_eq!(pool.state().threads, 3);
    }

    #[test]
    fn jobs_of_several_owners_share_the_threads() {
        let (pool, count) = (pool(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let runs = AtomicUsize::new(0);
                        pool.together(2, &|| {
                            runs.fetch_add(1, Ordering::Relaxed);
                        });
                        let runs = runs.into_inner();
                        assert!((1..=3).contains(&runs));
                        count.fetch_add(runs, Ordering::Relaxed);
                    }
                });
            }
        });
        assert!(count.into_inner() >= 1600);
        let state = pool.state();
        assert_eq!((state.threads, state.jobs.len()), (2, 0));
    }

    #[test]
    fn panic_of_a_helper_or_of_the_caller_goes_on_in_the_caller() {
        let (pool, barrier) = (pool(), Barrier::new(2));
        let caller = std::thread::current().id();
        for helper in [true, false] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.together(1, &|| {
                    barrier.wait();
                    assert!(
                        (std::thread::current().id() == caller) == helper,
                        "on purpose"
                    );
                });
            }));
            assert!(result.is_err());
        }
        pool.together(1, &|| {
            barrier.wait();
        });
        let state = pool.state();
        assert_eq!((state.threads, state.jobs.len()), (1, 0));
    }
}
