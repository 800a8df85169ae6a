//! What the workers of a zone ask about memory that its clients share.

#![forbid(unsafe_code)]

use std::time::Instant;

use proxy_channel::message::{
    FromWorker, Open, Share, Shared as Answer, Sharing, ToWorker, Token, Withdraw,
};
use tracing::{error, warn};

use super::{Shared, Zone};
use crate::ledger::WorkerId;
use crate::shares::Offer;

impl Zone {
    /// Takes a message about shared memory.
    pub(super) fn hear_of_shares(
        &mut self,
        id: WorkerId,
        message: &FromWorker,
        shared: &Shared,
        now: Instant,
    ) {
        let done = match *message {
            FromWorker::Share(share) => {
                self.share(id, &share, shared, now);
                Ok(())
            }
            FromWorker::Open(Open { request_id, token }) => {
                let found = self.shares.open(id, &token);
                let offer = found.unwrap_or(Offer {
                    bytes: 0,
                    charged: 0,
                    handle: [0; 64],
                });
                let outcome = found.err().unwrap_or(Sharing::DONE);
                let answer = answer(request_id, outcome);
                let answer = Answer {
                    bytes: offer.bytes,
                    handle: offer.handle,
                    ..answer
                };
                self.answer(id, answer, shared, now);
                Ok(())
            }
            FromWorker::CloseShare { token } => self.shares.close(id, &token, &mut self.ledger),
            FromWorker::Withdraw(Withdraw { token, returned }) => {
                self.shares.withdraw(id, &token, returned, &mut self.ledger)
            }
            _ => Ok(()),
        };
        match done {
            Ok(()) => self.publish_memory(),
            Err(lie) => {
                warn!(zone = self.config.name, worker = id.0, %lie, "worker is ended");
                self.condemn(id, &lie.to_string(), shared, now);
                self.kill_now(id);
            }
        }
    }

    fn share(&mut self, id: WorkerId, share: &Share, shared: &Shared, now: Instant) {
        let &Share {
            request_id,
            bytes,
            charged,
            handle,
        } = share;
        let mut token = Token::default();
        let answered = match getrandom::fill(&mut token) {
            Ok(()) => {
                let account = WorkerId(shared.id());
                let outcome = self.shares.add(
                    id,
                    account,
                    token,
                    Offer {
                        bytes,
                        charged,
                        handle,
                    },
                );
                Answer {
                    token,
                    ..answer(request_id, outcome)
                }
            }
            Err(error) => {
                error!(zone = self.config.name, %error, "no random numbers, so nothing is shared");
                answer(request_id, Sharing::FULL)
            }
        };
        self.answer(id, answered, shared, now);
    }

    fn answer(&mut self, id: WorkerId, answer: Answer, shared: &Shared, now: Instant) {
        self.tell(id, &ToWorker::Shared(answer), shared, now);
    }
}

fn answer(request_id: u64, outcome: Sharing) -> Answer {
    Answer {
        request_id,
        outcome,
        reserved: 0,
        bytes: 0,
        token: [0; 16],
        handle: [0; 64],
    }
}
