//! What limits do to the clients of a zone: the rates they share, and the record of what was refused.

#![forbid(unsafe_code)]

use std::time::Instant;

use proxy_channel::bound::{Bound, Denied};
use proxy_policy::limits::handle_name;
use tracing::{info, warn};

use super::worker::Session;
use super::{Shared, Zone, audit};
use crate::devices::Leave;
use crate::ledger::{Refused, WorkerId};

impl Zone {
    /// Tells every client its share of what the zone may do in a second: the same for all that are there.
    pub(super) fn publish_rates(&self) {
        let sessions = self
            .workers
            .values()
            .filter_map(|worker| worker.session.as_ref());
        let live: Vec<&Session> = sessions.filter(|session| session.is_live()).collect();
        let count = u32::try_from(live.len()).unwrap_or(u32::MAX);
        let (calls, launches) = self.grant.rates(count);
        for session in live {
            session.status.set_rates(calls, launches);
        }
    }

    /// A worker says that a limit refused its client something. What the zone has and may have is our own word.
    pub(super) fn record_denial(
        &mut self,
        id: WorkerId,
        denied: &Denied,
        shared: &Shared,
        now: Instant,
    ) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (zone, pid) = (self.config.name.as_str(), worker.process.pid());
        let client = worker.session.as_ref().map(|session| session.client_id);
        let &Denied {
            bound,
            asked,
            times,
        } = denied;
        let (most, used) = (self.ledger.limit(), self.ledger.used());
        let full = match self.ledger.refusal(asked) {
            Some(Refused::Device(full)) => Some(full),
            _ => None,
        };
        let leave = shared.states.borrow().leave(&worker.sees, zone, asked, now);
        // A rule sets what is not the device's own affair.
        let own = self.grant.rule.as_str();
        let (limit, rule) = match (bound, full, leave) {
            (Bound::MEMORY, _, Leave::Denied { .. }) => ("scrub".into(), ""),
            (Bound::MEMORY, Some(_), _) => (bound.to_string(), ""),
            (Bound::DRIVER, ..) => ("device".into(), ""),
            _ => (name(bound), own),
        };
        // Who is faster than its rate waits; nothing is refused.
        if !matches!(bound, Bound::CALLS | Bound::LAUNCHES) {
            audit::denied(&self.recorder, zone, worker, denied, &limit, rule);
        }
        let Some(suppressed) = self.denied.pass(now) else {
            return;
        };
        match (bound, full) {
            (Bound::MEMORY, _) if let Leave::Denied { device } = leave => {
                warn!(
                    zone,
                    client,
                    worker = pid,
                    limit,
                    soft = true,
                    asked,
                    device,
                    most,
                    used,
                    times,
                    suppressed,
                    "out of memory: the device is dirty and has not been scrubbed"
                );
            }
            (Bound::MEMORY, full) => {
                let cause = match full {
                    Some(_) => {
                        "the rest of the device is granted to other zones or set aside for them"
                    }
                    None => "the zone's quota does not allow it",
                };
                warn!(
                    zone,
                    client,
                    worker = pid,
                    limit,
                    soft = true,
                    asked,
                    device = full.map(|full| full.device),
                    capacity = full.map(|full| full.capacity),
                    set_aside = full.map(|full| full.set_aside),
                    most,
                    used,
                    rule = full.is_none().then_some(rule),
                    times,
                    suppressed,
                    "out of memory: {cause}"
                );
            }
            (Bound::DRIVER, _) => {
                warn!(
                    zone,
                    client,
                    worker = pid,
                    limit,
                    soft = false,
                    most,
                    used,
                    times,
                    suppressed,
                    "out of memory: the device has no more, though the zone's quota would allow it"
                );
            }
            (Bound::CALLS | Bound::LAUNCHES, _) => {
                info!(zone, client, worker = pid, limit = %limit, share = asked, rule, times, suppressed,
                    "client is faster than its share of the zone's rate and waits");
            }
            _ => {
                warn!(
                    zone,
                    client,
                    worker = pid,
                    limit,
                    asked,
                    rule,
                    times,
                    suppressed,
                    "refused by a limit of the zone"
                );
            }
        }
    }
}

/// A limit's name in records.
fn name(bound: Bound) -> String {
    match bound.kind().and_then(handle_name) {
        Some(kind) => format!("handles.{kind}"),
        None => bound.to_string(),
    }
}
