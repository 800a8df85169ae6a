//! What the zone is granted, looked up for every record, and what was refused of it.
//!
//! The grant is a word of the status page, which only the supervisor can write: a changed policy binds the next
//! record. Of refusals the supervisor is told the first, the tenth, the hundredth of each function, so that no
//! refusal is without a record and no tenant can flood it.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use cuda_abi::function::{Function, FunctionInfo, Group};
use cuda_abi::types::CUresult;
use idm_protocol::lane::{Pending, WorkerLane};
use idm_protocol::memory::Mapped;
use idm_protocol::record::Record;

use crate::errors::Violation;
use crate::session::{Frame, Prepared, Refusal, Scratch, Session};

/// How often each function was refused.
#[derive(Debug, Default)]
pub struct Refusals {
    granted: u64,
    /// By function and what it lacked.
    times: HashMap<(&'static str, u64), u64>,
}

impl Refusals {
    /// Counts a refusal under a grant; tells how many there are now if that is worth a record.
    fn count(&mut self, granted: u64, call: &'static str, required: u64) -> Option<u64> {
        if granted != self.granted {
            *self = Self {
                granted,
                times: HashMap::new(),
            };
        }
        let times = self.times.entry((call, required)).or_default();
        *times += 1;
        is_told(*times).then_some(*times)
    }
}

/// Whether the supervisor is told of so many, at least one: powers of ten.
pub(crate) fn is_told(times: u64) -> bool {
    let mut rest = times.max(1);
    while rest.is_multiple_of(10) {
        rest /= 10;
    }
    rest == 1
}

impl Session {
    /// Whether the zone is granted what a record needs (bits of the capability page). One load.
    #[inline]
    pub fn grants(&self, required: u64) -> bool {
        required & !self.parts.status.capabilities() == 0
    }

    /// Answers a record that the zone is not granted, without looking at what is in it.
    ///
    /// # Errors
    /// [`Violation`]: the client must be ended.
    #[cold]
    pub fn refuse(
        &self,
        record: &Record,
        lane: &'static WorkerLane<Mapped>,
        pending: Option<Pending<'static, Mapped>>,
        scratch: &mut Scratch,
    ) -> Result<(), Violation> {
        if let Some(function) = Function::from_opcode(record.head().opcode) {
            let info = function.info();
            self.note_refusal(info, info.required_bits());
        }
        let mut frame = match Frame::new(record, lane, pending, Prepared::Nothing, scratch) {
            Ok(frame) => frame,
            Err(Refusal::Violation(violation)) => return Err(violation),
            Err(Refusal::Driver(_) | Refusal::Poisoned(_)) => return Ok(()),
        };
        Self::give_up_transfer(&frame);
        // It was not executed, and took its credit all the same.
        let noted = self.take_note_of_credit(&mut frame);
        let refused = noted.and(Err(CUresult::CUDA_ERROR_NOT_PERMITTED.into()));
        self.settle(frame, refused).map(|_| ())
    }

    /// The client says that it refused a call by this exported name. What makes no sense is passed over: it harms
    /// nobody, and a call that was granted meanwhile is none to tell of.
    pub fn hear_of_refusal(&self, name: &[u8]) {
        let name = std::str::from_utf8(name).unwrap_or_default();
        let plain = name.trim_end_matches("_ptds").trim_end_matches("_ptsz");
        if let Some(info) = FunctionInfo::named(plain)
            && !self.grants(info.required_bits())
        {
            self.note_refusal(info, info.required_bits());
        }
    }

    /// For a record that turns out to need more than its function does.
    ///
    /// # Errors
    /// `NOT_PERMITTED`.
    pub fn require(&self, frame: &Frame<'_>, group: Group) -> Result<(), CUresult> {
        if self.grants(group.bit()) {
            return Ok(());
        }
        if let Some(function) = Function::from_opcode(frame.opcode()) {
            self.note_refusal(function.info(), group.bit());
        }
        Err(CUresult::CUDA_ERROR_NOT_PERMITTED)
    }

    fn note_refusal(&self, info: &'static FunctionInfo, required: u64) {
        let granted = self.parts.status.capabilities();
        let Some(times) = self.refusals().count(granted, info.name, required) else {
            return;
        };
        // If the supervisor is gone, nobody needs to be told.
        let _ = self.parts.channel.refused(info.name, required, times);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_ten_are_told_of_each_function_and_anew_under_another_grant() {
        let [one, other] = ["cuMemAlloc_v2", "cuLaunchKernel"];
        let mut refusals = Refusals::default();
        let told: Vec<u64> = (0..1000)
            .filter_map(|_| refusals.count(2, one, 1))
            .collect();
        assert_eq!(told, [1, 10, 100, 1000]);
        assert_eq!(refusals.count(2, other, 1), Some(1));
        assert_eq!(refusals.count(2, one, 1), None);
        assert_eq!(refusals.count(2, one, 4), Some(1));
        assert_eq!(refusals.count(0, one, 1), Some(1));
    }
}
