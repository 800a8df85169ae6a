//! Threads for what may block: one per lane, from its first blocking record on (D5, D6).

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use idm_protocol::lane::{Pending, WorkerLane};
use idm_protocol::layout::LINE_WORDS;
use idm_protocol::memory::{Heap, Mapped, Memory};
use idm_protocol::record::Record;
use idm_protocol::sync::Ordering;
use idm_protocol::wait::{Bell, Liveness, Patience, Woken};

use crate::errors::Violation;
use crate::session::{Prepared, Scratch, Session};

/// Records that may wait for a lane's thread before the dispatcher waits for it. A client that waits
/// for its replies has one there.
const MOST_QUEUED: usize = 64;

/// A record on its way to a lane's thread.
#[derive(Debug)]
pub struct Job {
    /// Its private copy.
    pub record: Record,
    /// The reply that is owed, if any.
    pub pending: Option<Pending<'static, Mapped>>,
    /// What was done for it at its place in the ring.
    pub prepared: Prepared,
}

/// The lanes' threads; the dispatcher owns them.
#[derive(Debug)]
pub struct Lanes {
    session: &'static Session,
    mailboxes: Vec<Option<Arc<Mailbox>>>,
    on_violation: fn(&Session, Violation) -> !,
}

impl Lanes {
    /// No threads yet. A thread that meets a violation calls `on_violation`.
    pub fn new(session: &'static Session, on_violation: fn(&Session, Violation) -> !) -> Self {
        Self {
            session,
            mailboxes: Vec::new(),
            on_violation,
        }
    }

    /// Hands a record to its lane's thread, in order.
    ///
    /// # Errors
    /// The system's, if it gives us no more threads; the record is dropped then, which answers it.
    pub fn submit(&mut self, lane: &'static WorkerLane<Mapped>, job: Job) -> io::Result<()> {
        let index = usize::from(lane.index());
        if index >= self.mailboxes.len() {
            self.mailboxes.resize_with(index + 1, || None);
        }
        let mailbox = match &self.mailboxes[index] {
            Some(mailbox) => mailbox,
            None => {
                let mailbox = Arc::new(Mailbox::new());
                self.start(lane, Arc::clone(&mailbox))?;
                self.mailboxes[index].insert(mailbox)
            }
        };
        mailbox.put(job, &self.session.patience, &*self.session.stop);
        Ok(())
    }

    fn start(&self, lane: &'static WorkerLane<Mapped>, mailbox: Arc<Mailbox>) -> io::Result<()> {
        let (session, on_violation) = (self.session, self.on_violation);
        let index = lane.index();
        let name = format!("lane {index}");
        thread::Builder::new().name(name).spawn(move || {
            // The dispatcher has the first cell.
            let mut scratch = Scratch::of_thread(usize::from(index) + 1);
            // Nothing to do for as long as the client likes: no slices. And no spinning: the next
            // job comes through the dispatcher, which may need this core to bring it.
            let patience = Patience {
                spin: Duration::ZERO,
                ..session.patience.unsliced()
            };
            while let Some(job) = mailbox.take(&patience, &*session.stop) {
                let Job {
                    record,
                    pending,
                    prepared,
                } = job;
                let executed = session.execute(&record, lane, pending, prepared, &mut scratch);
                if let Err(violation) = executed {
                    on_violation(session, violation);
                }
            }
        })?;
        Ok(())
    }
}

/// A queue between the dispatcher and one lane's thread, with the waiting of D10.
#[derive(Debug)]
struct Mailbox {
    queue: Mutex<VecDeque<Job>>,
    /// Jobs put and jobs taken, a line each, so that a waiter looks at one word.
    words: Heap,
    put: Bell<Heap>,
    taken: Bell<Heap>,
}

const PUT: usize = 0;
const TAKEN: usize = LINE_WORDS;

impl Mailbox {
    fn new() -> Self {
        let words = Heap::zeroed(4 * LINE_WORDS);
        let bell = |line: usize| match Bell::new(&words, line * LINE_WORDS) {
            Ok(bell) => bell,
            // Both lines are inside the words made above.
            Err(error) => unreachable!("{error}"),
        };
        Self {
            put: bell(2),
            taken: bell(3),
            queue: Mutex::default(),
            words,
        }
    }

    fn put(&self, job: Job, patience: &Patience, live: &impl Liveness) {
        if self.lock().len() >= MOST_QUEUED {
            let room = || self.lock().len() < MOST_QUEUED;
            if self.taken.wait(patience, live, room) == Woken::Ended {
                return;
            }
        }
        self.lock().push_back(job);
        // SYNC: pairs with the Acquire in `take`; the queue itself is behind its lock.
        self.words.words()[PUT].fetch_add(1, Ordering::Release);
        self.put.ring();
    }

    fn take(&self, patience: &Patience, live: &impl Liveness) -> Option<Job> {
        let (put, taken) = (&self.words.words()[PUT], &self.words.words()[TAKEN]);
        // Only this thread changes it.
        let count = taken.load(Ordering::Relaxed);
        // SYNC: pairs with the Release in `put`.
        let ready = || put.load(Ordering::Acquire) != count;
        if self.put.wait(patience, live, ready) == Woken::Ended {
            return None;
        }
        let job = self.lock().pop_front();
        taken.store(count + 1, Ordering::Relaxed);
        self.taken.ring();
        job
    }

    /// A panic aborts the worker, so the lock is never poisoned in earnest.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use idm_protocol::record::Head;
    use idm_protocol::wait::StopFlag;

    fn job(number: u64) -> Job {
        let record = Record::from_bytes(number, Head::default(), &[]).unwrap();
        Job {
            record,
            pending: None,
            prepared: Prepared::Nothing,
        }
    }

    #[test]
    fn jobs_come_out_in_order_and_a_full_box_waits() {
        let mailbox = Mailbox::new();
        let stop = StopFlag::new();
        let count = 1000;
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=count {
                    mailbox.put(job(number), &Patience::detect(), &stop);
                }
            });
            for number in 1..=count {
                let job = mailbox.take(&Patience::none(), &stop).unwrap();
                assert_eq!(job.record.sequence(), number);
            }
        });
    }

    #[test]
    fn a_stopped_box_ends_both_sides() {
        let mailbox = Mailbox::new();
        let stop = StopFlag::new();
        stop.raise();
        assert!(mailbox.take(&Patience::none(), &stop).is_none());
        for number in 0..100 {
            mailbox.put(job(number), &Patience::none(), &stop);
        }
        assert_eq!(mailbox.lock().len(), MOST_QUEUED);
    }
}
