//! What a zone's workers leave on devices, themselves included, and what the zone waits for there.

#![forbid(unsafe_code)]

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use proxy_channel::message::{Charge, Outcome};
use tracing::{debug, info, warn};

use super::worker::{Held, Phase, Worker};
use super::{Shared, Zone};
use crate::backoff::Backoff;
use crate::devices::Leave;
use crate::ledger::WorkerId;

/// A zone whose workers die has been calm for so long when it starts anew.
const CALM: Duration = Duration::from_secs(60);

/// A zone's next client waits for no longer: it would give up.
const LONGEST: Duration = Duration::from_secs(5);

/// Keeps a zone from having devices scrubbed all the time, for while they are nobody is granted memory: the more of
/// its workers die, the longer its next clients wait.
#[derive(Debug, Default)]
pub(super) struct Unrest {
    backoff: Backoff,
    last: Option<Instant>,
    until: Option<Instant>,
}

impl Unrest {
    /// A worker died. Tells how long the zone's next client waits.
    fn more(&mut self, now: Instant) -> Duration {
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) >= CALM)
        {
            self.backoff.succeeded();
        }
        self.last = Some(now);
        let wait = self.backoff.failed(now, "").min(LONGEST);
        self.until = Some(now + wait);
        wait
    }

    /// Until when clients wait, if they do.
    pub(super) fn blocked_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|&until| until > now)
    }
}

impl Zone {
    /// A worker has ended: unless that was in order, its devices are dirty. One that never met a client left nothing.
    pub(super) fn look_behind(
        &mut self,
        worker: &Worker,
        status: ExitStatus,
        shared: &Shared,
        now: Instant,
    ) {
        if worker.is_stuck {
            let pid = worker.process.pid();
            shared.states.borrow_mut().release(&worker.sees, pid);
            let zone = self.config.name.as_str();
            info!(zone, worker = pid, "worker is gone after all");
        }
        let told = matches!(worker.phase, Phase::Ending { .. }) && !worker.is_at_fault;
        if worker.session.is_none() || (told && status.success()) {
            return;
        }
        let zone = self.config.name.as_str();
        let devices = shared.states.borrow_mut().soil(&worker.sees, zone, now);
        if devices.is_empty() {
            return;
        }
        let wait = self.unrest.more(now);
        warn!(
            zone,
            worker = worker.process.pid(),
            ?devices,
            next_client_after = ?wait,
            "devices are dirty: a worker did not end in order; other zones get no memory there before a scrub"
        );
    }

    /// A worker was killed and does not go: something holds it in the kernel. What it was granted stays granted, and
    /// nobody new comes to its devices.
    pub(super) fn quarantine(&mut self, id: WorkerId, shared: &Shared, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.is_stuck = true;
        let (zone, pid) = (self.config.name.as_str(), worker.process.pid());
        let charged = self.ledger.granted(id);
        crate::scrub::quarantine(shared, &worker.sees, zone, pid, charged, now);
    }

    /// A worker asks for device memory: now or never, or when its devices are clean.
    pub(super) fn charge(&mut self, id: WorkerId, charge: Charge, shared: &Shared, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.held.is_some() {
            let (zone, pid) = (self.config.name.as_str(), worker.process.pid());
            warn!(
                zone,
                worker = pid,
                "worker asks for memory while it waits for some; it is ended"
            );
            self.condemn(id, "the worker broke the protocol", shared, now);
            self.kill_now(id);
            return;
        }
        let leave =
            shared
                .states
                .borrow()
                .leave(&worker.sees, &self.config.name, charge.bytes, now);
        match leave {
            Leave::Given => self.decide(id, charge, shared, now),
            Leave::Wait(_) => {
                let zone = self.config.name.as_str();
                debug!(
                    zone,
                    worker = id.0,
                    bytes = charge.bytes,
                    "charge waits for a scrub"
                );
                worker.held = Some(Held::UntilScrubbed(charge));
            }
            Leave::Denied { .. } => {
                let refused = Outcome::Refused {
                    limit: self.ledger.limit(),
                    used: self.ledger.used(),
                };
                self.answer_charge(id, charge, refused, shared, now);
            }
        }
    }

    /// Looks again at what was held.
    pub(super) fn look_at_held(&mut self, shared: &Shared, now: Instant) {
        let held: Vec<(WorkerId, Charge)> = self
            .workers
            .iter_mut()
            .filter_map(|(&id, worker)| Some((id, worker.held.take()?.charge())))
            .collect();
        for (id, charge) in held {
            self.charge(id, charge, shared, now);
        }
    }

    /// When the zone need not wait any more for what it waits for.
    pub(super) fn next_dirt(&self, shared: &Shared, now: Instant) -> Option<Instant> {
        let states = shared.states.borrow();
        let held = self.workers.values().filter_map(|worker| {
            // What workers return that end, is looked at when they have.
            let Some(Held::UntilScrubbed(charge)) = worker.held else {
                return None;
            };
            match states.leave(&worker.sees, &self.config.name, charge.bytes, now) {
                Leave::Wait(until) => Some(until),
                Leave::Given | Leave::Denied { .. } => Some(now),
            }
        });
        held.chain(self.unrest.blocked_until(now)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_whose_workers_die_waits_longer_each_time_and_starts_anew_when_it_was_calm() {
        let now = Instant::now();
        let mut unrest = Unrest::default();
        assert_eq!(unrest.blocked_until(now), None);
        let first = unrest.more(now);
        assert_eq!(unrest.blocked_until(now), Some(now + first));
        assert_eq!(unrest.more(now), first * 2);
        for _ in 0..20 {
            unrest.more(now);
        }
        assert_eq!(unrest.more(now), LONGEST);
        assert_eq!(unrest.more(now + CALM), first);
    }
}
