//! What a worker asks its supervisor about memory that clients of its zone share.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use crate::message::{DriverHandle, Open, Share, Shared, Sharing, Token};
use crate::worker::{ChannelError, WorkerChannel};

/// A worker's questions. Any thread may ask; the thread that receives from the channel hands answers to
/// [`Shares::answer`] and, at the end, calls [`Shares::close`].
#[derive(Debug)]
pub struct Shares {
    channel: Arc<WorkerChannel>,
    asked: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Asked {
    next_request: u64,
    /// What is asked now, and the answers that are there.
    answers: HashMap<u64, Option<Shared>>,
    closed: bool,
}

/// Why there is no answer to act on.
#[derive(Debug, Error)]
pub enum ShareError {
    /// The supervisor says no.
    #[error("the supervisor refuses: {0:?}")]
    Refused(Sharing),
    /// The supervisor is gone or the worker is ending.
    #[error("the supervisor no longer answers")]
    Closed,
    /// The channel broke.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

impl Shares {
    /// Nothing asked yet.
    #[must_use]
    pub fn new(channel: Arc<WorkerChannel>) -> Self {
        Self {
            channel,
            asked: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Offers memory to the zone: the token that names it there. From a thread that may block and is not the
    /// one that receives, like [`Shares::open`].
    pub fn share(
        &self,
        bytes: u64,
        charged: u64,
        handle: DriverHandle,
    ) -> Result<Token, ShareError> {
        let answer = self.ask(|request_id| {
            self.channel.share(Share {
                request_id,
                bytes,
                charged,
                handle,
            })
        })?;
        Ok(answer.token)
    }

    /// What a token names in this zone, bytes and the driver's handle. It counts as open from now on.
    pub fn open(&self, token: Token) -> Result<(u64, DriverHandle), ShareError> {
        let answer = self.ask(|request_id| self.channel.open(Open { request_id, token }))?;
        Ok((answer.bytes, answer.handle))
    }

    /// What was opened is closed.
    pub fn closed(&self, token: Token) -> Result<(), ChannelError> {
        self.channel.close_share(token)
    }

    /// Hands over the supervisor's answer.
    pub fn answer(&self, answer: Shared) {
        if let Some(place @ None) = self.lock().answers.get_mut(&answer.request_id) {
            *place = Some(answer);
            self.changed.notify_all();
        }
    }

    /// Wakes everybody who waits; no more answers will come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn ask(
        &self,
        send: impl FnOnce(u64) -> Result<(), ChannelError>,
    ) -> Result<Shared, ShareError> {
        let mut asked = self.lock();
        let request_id = asked.next_request;
        asked.next_request += 1;
        asked.answers.insert(request_id, None);
        if let Err(error) = send(request_id) {
            asked.answers.remove(&request_id);
            return Err(error.into());
        }
        loop {
            if asked.closed {
                return Err(ShareError::Closed);
            }
            if let Some(Some(answer)) = asked.answers.get(&request_id).copied() {
                asked.answers.remove(&request_id);
                return match answer.outcome {
                    Sharing::DONE => Ok(answer),
                    refused => Err(ShareError::Refused(refused)),
                };
            }
            asked = self
                .changed
                .wait(asked)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        // Changed in single steps that cannot panic, so a poisoned one is consistent.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::message::{FromWorker, ToWorker};
    use crate::supervisor::{Received, SupervisorChannel};
    use crate::worker::Event;

    fn pair() -> (SupervisorChannel, Arc<Shares>) {
        let (near, far) = SupervisorChannel::pair().unwrap();
        let channel = Arc::new(WorkerChannel::new(far).unwrap());
        let shares = Arc::new(Shares::new(Arc::clone(&channel)));
        let answered = Arc::clone(&shares);
        thread::spawn(move || {
            while let Ok(Event::Shared(answer)) = channel.receive() {
                answered.answer(answer);
            }
            answered.close();
        });
        (near, shares)
    }

    fn next(channel: &SupervisorChannel) -> FromWorker {
        loop {
            match channel.receive().unwrap() {
                Received::Message(message) => return message,
                Received::Nothing => thread::yield_now(),
                Received::Closed => panic!("the worker closed its channel"),
            }
        }
    }

    fn reply(channel: &SupervisorChannel, request_id: u64, outcome: Sharing, bytes: u64) {
        let answer = Shared {
            request_id,
            outcome,
            reserved: 0,
            bytes,
            token: [5; 16],
            handle: [6; 64],
        };
        channel.send(&ToWorker::Shared(answer)).unwrap();
    }

    #[test]
    fn answers_find_who_asked_in_whatever_order_they_come() {
        let (channel, shares) = pair();
        let opener = Arc::clone(&shares);
        let open = thread::spawn(move || opener.open([1; 16]));
        let FromWorker::Open(first) = next(&channel) else {
            panic!("not what was asked")
        };
        let sharer = Arc::clone(&shares);
        let share = thread::spawn(move || sharer.share(10, 16, [2; 64]));
        let FromWorker::Share(second) = next(&channel) else {
            panic!("not what was asked")
        };
        assert_eq!(
            (second.bytes, second.charged, second.handle),
            (10, 16, [2; 64])
        );
        // An answer that nobody asked for is none.
        reply(&channel, 77, Sharing::DONE, 0);
        reply(&channel, second.request_id, Sharing::DONE, 0);
        reply(&channel, first.request_id, Sharing::DONE, 10);
        assert_eq!(share.join().unwrap().unwrap(), [5; 16]);
        assert_eq!(open.join().unwrap().unwrap(), (10, [6; 64]));
    }

    #[test]
    fn a_refusal_and_the_end_of_the_supervisor_are_told() {
        let (channel, shares) = pair();
        let opener = Arc::clone(&shares);
        let open = thread::spawn(move || opener.open([1; 16]));
        let FromWorker::Open(asked) = next(&channel) else {
            panic!("not what was asked")
        };
        reply(&channel, asked.request_id, Sharing::OWN, 0);
        let refused = open.join().unwrap();
        assert!(matches!(refused, Err(ShareError::Refused(Sharing::OWN))));
        drop(channel);
        assert!(shares.open([1; 16]).is_err());
    }
}
