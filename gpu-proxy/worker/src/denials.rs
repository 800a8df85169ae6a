//! What limits refused the client, or made it wait for, and the operator's record of it.
//!
//! Ours and the driver's are told apart: a quota that is spent is a policy at work, a device that is full while the
//! quota is not is a promise that nobody can keep. The tenant sees `CUDA_ERROR_OUT_OF_MEMORY` for both.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::HashMap;

use cuda_abi::types::CUresult;
use idm_protocol::handle::{HandleError, Kind};
use proxy_channel::bound::{Bound, Denied};

use crate::policy::is_told;
use crate::session::Session;

const FULL: CUresult = CUresult::CUDA_ERROR_OUT_OF_MEMORY;

thread_local! {
    /// The driver said in this thread that it has no more memory, and no record was made of it yet.
    static DRIVER_IS_FULL: Cell<bool> = const { Cell::new(false) };
}

/// How often each limit refused something.
#[derive(Debug, Default)]
pub struct Denials(HashMap<Bound, u64>);

impl Denials {
    /// Counts; tells how many there are now if that is worth a record.
    fn count(&mut self, bound: Bound) -> Option<u64> {
        let times = self.0.entry(bound).or_default();
        *times += 1;
        is_told(*times).then_some(*times)
    }
}

/// Looks at what the driver says.
#[inline]
pub fn hear(status: CUresult) {
    if status == FULL {
        DRIVER_IS_FULL.set(true);
    }
}

impl Session {
    /// A limit of ours refuses something: what the client gets.
    #[cold]
    pub fn denied(&self, bound: Bound, asked: u64) -> CUresult {
        // It is ours, whatever the driver said before.
        DRIVER_IS_FULL.set(false);
        self.deny(bound, asked);
        FULL
    }

    /// Takes note for the operator.
    pub fn deny(&self, bound: Bound, asked: u64) {
        let Some(times) = self.denials().count(bound) else {
            return;
        };
        let denied = Denied {
            bound,
            asked,
            times,
        };
        // If the supervisor is gone, nobody needs to be told.
        let _ = self.parts.channel.denied(denied);
    }

    /// The client gets to hear that there is no more memory: if the driver said so, the operator does too.
    #[cold]
    pub fn note_full_driver(&self) {
        if DRIVER_IS_FULL.take() {
            self.deny(Bound::DRIVER, 0);
        }
    }

    /// Takes note of a handle that is one too many.
    pub fn note_handle(&self, error: HandleError) -> HandleError {
        if let HandleError::OverLimit { kind, limit } = error {
            self.denied(Bound::handles(kind), u64::from(limit) + 1);
        }
        error
    }

    /// The client says that it may have no more handles of a kind. What makes no sense is passed over.
    pub fn hear_of_limit(&self, kind: u32) {
        let kind = u8::try_from(kind).ok().and_then(Kind::new);
        if let Some(kind) = kind {
            let limit = self.parts.control.layout.limits().handles_of(kind);
            self.deny(Bound::handles(kind), u64::from(limit) + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_ten_are_told_of_each_bound() {
        let mut denials = Denials::default();
        let told: Vec<u64> = (0..100)
            .filter_map(|_| denials.count(Bound::MEMORY))
            .collect();
        assert_eq!(told, [1, 10, 100]);
        assert_eq!(denials.count(Bound::DRIVER), Some(1));
    }
}
