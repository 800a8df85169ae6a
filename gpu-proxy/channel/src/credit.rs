//! Device memory that a worker may spend without asking each time.
//!
//! The supervisor grants in chunks before the memory is allocated; the worker spends locally, returns what
//! it no longer needs beyond one spare chunk, and asks again when it runs out. So the ledger is never
//! overdrawn by an honest worker, and an allocation that fits into what is left costs no message.

#![forbid(unsafe_code)]

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::message::{Charge, Outcome, Token, Verdict, Withdraw};
use crate::worker::{ChannelError, WorkerChannel};

/// A worker's account. Any thread may take and give back; the thread that receives from the channel hands
/// verdicts to [`Credit::answer`] and, at the end, calls [`Credit::close`].
#[derive(Debug)]
pub struct Credit {
    channel: Arc<WorkerChannel>,
    chunk: u64,
    account: Mutex<Account>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Account {
    granted: u64,
    spent: u64,
    next_request: u64,
    /// The one charge under way, and its answer once it is there.
    pending: Option<(u64, Option<Outcome>)>,
    /// Something was released since the last charge was sent.
    unsettled: bool,
    closed: bool,
}

/// Why memory may not be spent.
#[derive(Debug, Error)]
pub enum CreditError {
    /// The zone's quota does not allow it: the program sees "out of memory".
    #[error("the zone's quota of {limit} bytes does not allow it ({used} bytes are in use)")]
    Refused {
        /// The zone's quota in bytes.
        limit: u64,
        /// What its workers hold of it.
        used: u64,
    },
    /// The supervisor is gone or the worker is ending.
    #[error("the supervisor no longer answers")]
    Closed,
    /// The channel broke.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

impl Credit {
    /// An empty account that asks for `chunk` bytes at a time ([`crate::message::Assign::credit_chunk`]).
    #[must_use]
    pub fn new(channel: Arc<WorkerChannel>, chunk: u64) -> Self {
        Self {
            channel,
            chunk,
            account: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Spends `bytes`, asking the supervisor if need be. Call before the driver allocates, from a thread
    /// that may block and is not the one that receives.
    pub fn take(&self, bytes: u64) -> Result<(), CreditError> {
        let mut account = self.lock();
        // Asking for a whole chunk may be refused where what is needed would be granted; then ask for that.
        let mut modest = false;
        loop {
            if account.closed {
                return Err(CreditError::Closed);
            }
            let left = account.granted - account.spent;
            if bytes <= left {
                account.spent += bytes;
                return Ok(());
            }
            if account.pending.is_some() {
                // Another thread asks; look again when it has its answer.
                account = self.wait(account);
                continue;
            }
            let need = bytes - left;
            let ask = if modest { need } else { need.max(self.chunk) };
            match self.ask(account, ask)? {
                (_, Outcome::Refused { limit, used }) if modest || need >= self.chunk => {
                    return Err(CreditError::Refused { limit, used });
                }
                (after, Outcome::Refused { .. }) => {
                    modest = true;
                    account = after;
                }
                (after, Outcome::Granted) => account = after,
            }
        }
    }

    /// Un-spends `bytes`, after the driver has freed them or refused to allocate them.
    pub fn give_back(&self, bytes: u64) -> Result<(), ChannelError> {
        let mut account = self.lock();
        account.spent = account.spent.saturating_sub(bytes);
        let left = account.granted - account.spent;
        if left < self.chunk.saturating_mul(2) || account.closed {
            return Ok(());
        }
        let excess = left - self.chunk;
        account.granted -= excess;
        account.unsettled = true;
        // Sent under the lock, so that the supervisor sees charges and releases in the order of the account.
        self.channel.release(excess)
    }

    /// Hands back at once what shared memory cost that was freed, for others may have it open: then it is not
    /// ours to spend again.
    pub fn withdraw(&self, token: Token, returned: u64) -> Result<(), ChannelError> {
        let mut account = self.lock();
        account.spent = account.spent.saturating_sub(returned);
        account.granted = account.granted.saturating_sub(returned);
        account.unsettled = true;
        // Sent under the lock, as releases are.
        self.channel.withdraw(Withdraw { token, returned })
    }

    /// Waits until the supervisor has counted all that this account asked for and gave back by now, so that
    /// what it publishes agrees. Costs no message unless something was given back. From a thread as for
    /// [`Credit::take`].
    pub fn settle(&self) -> Result<(), CreditError> {
        let account = self.unasked();
        if account.unsettled && !account.closed {
            // It takes messages in their order: the answer comes after the releases.
            let (_account, _granted) = self.ask(account, 0)?;
        }
        Ok(())
    }

    /// Waits until the supervisor has taken note of everything so far, and no scrubber holds the device's memory.
    /// From a thread as for [`Credit::take`].
    pub fn barrier(&self) -> Result<(), CreditError> {
        let (_account, _granted) = self.ask(self.unasked(), 0)?;
        Ok(())
    }

    /// Bytes spent now.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.lock().spent
    }

    /// Bytes granted but not spent: part of what the zone counts as used, and free to us.
    #[must_use]
    pub fn unspent(&self) -> u64 {
        let account = self.lock();
        account.granted - account.spent
    }

    /// Hands over the supervisor's answer.
    pub fn answer(&self, verdict: Verdict) {
        let mut account = self.lock();
        if let Some((request_id, answer @ None)) = &mut account.pending
            && *request_id == verdict.request_id
        {
            *answer = Some(verdict.outcome);
            self.changed.notify_all();
        }
    }

    /// Wakes everybody who waits; no more answers will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn ask<'a>(
        &'a self,
        mut account: MutexGuard<'a, Account>,
        bytes: u64,
    ) -> Result<(MutexGuard<'a, Account>, Outcome), CreditError> {
        let request_id = account.next_request;
        account.next_request += 1;
        self.channel.charge(Charge { request_id, bytes })?;
        account.pending = Some((request_id, None));
        account.unsettled = false;
        loop {
            if account.closed {
                return Err(CreditError::Closed);
            }
            if let Some((_, Some(outcome))) = account.pending {
                account.pending = None;
                if outcome == Outcome::Granted {
                    account.granted += bytes;
                }
                self.changed.notify_all();
                return Ok((account, outcome));
            }
            account = self.wait(account);
        }
    }

    /// The account when nobody asks.
    fn unasked(&self) -> MutexGuard<'_, Account> {
        let mut account = self.lock();
        while account.pending.is_some() && !account.closed {
            account = self.wait(account);
        }
        account
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        // The account is changed in single steps that cannot panic, so a poisoned one is consistent.
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, account: MutexGuard<'a, Account>) -> MutexGuard<'a, Account> {
        self.changed
            .wait(account)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::message::{FromWorker, ToWorker};
    use crate::supervisor::{Received, SupervisorChannel};
    use crate::worker::Event;

    /// Answers charges against a quota until the worker's end closes; returns what is still granted.
    fn supervise(channel: SupervisorChannel, quota: u64) -> thread::JoinHandle<(u64, u64)> {
        thread::spawn(move || {
            let (mut used, mut charges) = (0, 0);
            loop {
                match channel.receive().unwrap() {
                    Received::Message(FromWorker::Charge(charge)) => {
                        charges += 1;
                        let outcome = if charge.bytes <= quota - used {
                            used += charge.bytes;
                            Outcome::Granted
                        } else {
                            Outcome::Refused { limit: quota, used }
                        };
                        let request_id = charge.request_id;
                        channel
                            .send(&ToWorker::Verdict(Verdict {
                                request_id,
                                outcome,
                            }))
                            .unwrap();
                    }
                    Received::Message(FromWorker::Release { bytes }) => used -= bytes,
                    Received::Message(other) => panic!("{other:?}"),
                    Received::Nothing => thread::yield_now(),
                    Received::Closed => return (used, charges),
                }
            }
        })
    }

    fn with_credit(quota: u64, chunk: u64, test: impl FnOnce(&Credit)) -> (u64, u64) {
        let (near, far) = SupervisorChannel::pair().unwrap();
        let supervisor = supervise(near, quota);
        let channel = Arc::new(WorkerChannel::new(far).unwrap());
        let credit = Arc::new(Credit::new(Arc::clone(&channel), chunk));
        let receiver = {
            let (channel, credit) = (Arc::clone(&channel), Arc::clone(&credit));
            thread::spawn(move || {
                while let Event::Verdict(verdict) = channel.receive().unwrap() {
                    credit.answer(verdict);
                }
                credit.close();
            })
        };
        test(&credit);
        nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&*channel)),
            nix::sys::socket::Shutdown::Both,
        )
        .unwrap();
        receiver.join().unwrap();
        supervisor.join().unwrap()
    }

    #[test]
    fn small_allocations_within_a_chunk_cost_one_message() {
        let (used, charges) = with_credit(1000, 100, |credit| {
            for _ in 0..10 {
                credit.take(10).unwrap();
            }
        });
        assert_eq!((used, charges), (100, 1));
    }

    #[test]
    fn when_a_chunk_does_not_fit_what_is_needed_is_still_granted() {
        let (used, _) = with_credit(120, 100, |credit| {
            credit.take(100).unwrap();
            credit.take(20).unwrap();
            assert!(matches!(
                credit.take(1),
                Err(CreditError::Refused {
                    limit: 120,
                    used: 120
                })
            ));
            credit.give_back(20).unwrap();
            credit.take(20).unwrap();
        });
        assert_eq!(used, 120);
    }

    #[test]
    fn what_is_given_back_beyond_a_spare_chunk_returns_to_the_zone() {
        let (used, _) = with_credit(10_000, 100, |credit| {
            credit.take(5000).unwrap();
            credit.give_back(5000).unwrap();
            assert_eq!(credit.spent(), 0);
        });
        assert_eq!(used, 100);
    }

    #[test]
    fn settling_costs_one_message_and_only_after_something_was_returned() {
        let (used, charges) = with_credit(10_000, 100, |credit| {
            credit.settle().unwrap();
            credit.take(5000).unwrap();
            credit.settle().unwrap();
            credit.give_back(5000).unwrap();
            credit.settle().unwrap();
            credit.settle().unwrap();
        });
        assert_eq!((used, charges), (100, 2));
    }

    #[test]
    fn an_absurd_size_is_refused_and_changes_nothing() {
        let (used, _) = with_credit(1000, 100, |credit| {
            assert!(matches!(
                credit.take(u64::MAX),
                Err(CreditError::Refused { .. })
            ));
            credit.take(1).unwrap();
            assert!(matches!(
                credit.take(u64::MAX),
                Err(CreditError::Refused { .. })
            ));
        });
        assert_eq!(used, 100);
    }

    #[test]
    fn many_threads_never_spend_more_than_the_quota() {
        let (used, _) = with_credit(1000, 50, |credit| {
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        for _ in 0..200 {
                            if credit.take(90).is_ok() {
                                assert!(credit.spent() <= 1000);
                                credit.give_back(90).unwrap();
                            }
                        }
                    });
                }
            });
            assert_eq!(credit.spent(), 0);
        });
        assert!(used <= 100, "{used}");
    }

    #[test]
    fn a_supervisor_that_is_gone_is_an_error_and_not_a_wait() {
        let (near, far) = SupervisorChannel::pair().unwrap();
        drop(near);
        let credit = Credit::new(Arc::new(WorkerChannel::new(far).unwrap()), 1);
        assert!(matches!(credit.take(1), Err(CreditError::Channel(_))));
        credit.close();
        assert!(matches!(credit.take(1), Err(CreditError::Closed)));
    }
}
