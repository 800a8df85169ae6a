//! Whether workers hold no more device memory than they were granted, by the driver's word (D18).
//!
//! A worker that was taken over may spend what nobody granted it. Its process cannot hide from the driver what it holds.

#![forbid(unsafe_code)]

use std::time::Instant;

use idm_protocol::status::EndReason;
use tracing::error;

use super::worker::{Phase, Worker};
use super::{Shared, Zone, audit};
use crate::ledger::WorkerId;
use crate::monitor::{Rule, Sweep};

/// So many sweeps in a row must find too much: memory that was just given back may be in a sweep that is compared with
/// what is granted now.
const SWEEPS: u32 = 3;

/// What the driver said of a worker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    /// Device memory of its process in bytes; none before it was seen.
    pub(super) held: Option<u64>,
    /// Sweeps in a row that found too much.
    excesses: u32,
}

impl Zone {
    /// Compares a sweep with the ledger. What a worker holds beyond its grant and the rule's allowance it was never
    /// granted: it is reported, or ends.
    pub fn reconcile(&mut self, sweep: &Sweep, rule: Rule, shared: &Shared, now: Instant) {
        let mut found = Vec::new();
        for (&id, worker) in &mut self.workers {
            let held = sweep.get(&worker.process.pid()).copied().unwrap_or(0);
            let granted = self.ledger.granted(id);
            if worker.measure(held, granted, rule.allowance) {
                found.push((id, held, granted));
            }
        }
        for (id, held, granted) in found {
            self.overdrawn(id, held, granted, rule, shared, now);
        }
    }

    fn overdrawn(
        &mut self,
        id: WorkerId,
        held: u64,
        granted: u64,
        rule: Rule,
        shared: &Shared,
        now: Instant,
    ) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let allowance = rule.allowance;
        let client = worker.session.as_ref().map(|session| session.client_id);
        error!(
            alert = "worker_overdrawn",
            zone = self.config.name,
            client,
            worker = worker.process.pid(),
            held,
            granted,
            allowance,
            ended = rule.ends,
            "worker holds more device memory than it was granted, by the driver's word"
        );
        let text = format!(
            "it holds {held} bytes of device memory by the driver's word, was granted {granted} and is allowed {allowance} more"
        );
        if rule.ends {
            self.end(id, EndReason::OVERDRAWN, &text, shared, now);
            self.kill_now(id);
        } else {
            audit::failed(&self.recorder, &self.config.name, worker, &text);
        }
    }
}

impl Worker {
    /// Notes what its process holds; true if that has just become too much for too long.
    fn measure(&mut self, held: u64, granted: u64, allowance: u64) -> bool {
        let serves = matches!(self.phase, Phase::Attaching { .. } | Phase::Running);
        self.measured.note(serves, held, granted, allowance)
    }
}

impl Measured {
    fn note(&mut self, serves: bool, held: u64, granted: u64, allowance: u64) -> bool {
        self.held = Some(held);
        let is_excess = serves && held > granted.saturating_add(allowance);
        self.excesses = match is_excess {
            true => self.excesses.saturating_add(1),
            false => 0,
        };
        self.excesses == SWEEPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lasting_excess_counts_and_each_is_told_once() {
        let mut measured = Measured::default();
        let mut note = |serves, held| measured.note(serves, held, 100, 10);
        assert!(!note(true, 110));
        assert!(!note(true, 111) && !note(true, 111), "twice is chance");
        assert!(!note(true, 110));
        assert!(!note(true, 111) && !note(true, 111) && note(true, 111));
        assert!(!note(true, 999), "it was told");
        assert!(!note(false, 999));
        assert!(!note(true, 111) && !note(true, 111) && note(true, 111));
        assert!(!Measured::default().note(true, u64::MAX, u64::MAX, 1));
    }
}
