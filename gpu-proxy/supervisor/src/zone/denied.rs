//! What limits do to the clients of a zone: the rates they share, and the record of what was refused.

#![forbid(unsafe_code)]

use std::time::Instant;

use proxy_channel::bound::{Bound, Denied};
use proxy_policy::limits::handle_name;
use tracing::{info, warn};

use super::Zone;
use super::worker::Session;
use crate::ledger::host::DeviceFull;
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
    pub(super) fn record_denial(&mut self, id: WorkerId, denied: &Denied, now: Instant) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Some(suppressed) = self.denied.pass(now) else {
            return;
        };
        let (zone, pid) = (self.config.name.as_str(), worker.process.pid());
        let client = worker.session.as_ref().map(|session| session.client_id);
        let &Denied {
            bound,
            asked,
            times,
        } = denied;
        let (limit, used) = (self.ledger.limit(), self.ledger.used());
        let rule = self.grant.rule.as_str();
        let full = match self.ledger.refusal(asked) {
            Some(Refused::Device(full)) => Some(full),
            _ => None,
        };
        match (bound, full) {
            (Bound::MEMORY, Some(full)) => {
                let DeviceFull {
                    device,
                    capacity,
                    set_aside,
                    ..
                } = full;
                warn!(
                    zone,
                    client,
                    worker = pid,
                    limit = "memory",
                    soft = true,
                    asked,
                    device,
                    capacity,
                    set_aside,
                    most = limit,
                    used,
                    times,
                    suppressed,
                    "out of memory: the rest of the device is granted to other zones or set aside for them"
                );
            }
            (Bound::MEMORY, None) => {
                warn!(
                    zone,
                    client,
                    worker = pid,
                    limit = "memory",
                    soft = true,
                    asked,
                    most = limit,
                    used,
                    rule,
                    times,
                    suppressed,
                    "out of memory: the zone's quota does not allow it"
                );
            }
            (Bound::DRIVER, _) => {
                warn!(
                    zone,
                    client,
                    worker = pid,
                    limit = "device",
                    soft = false,
                    most = limit,
                    used,
                    times,
                    suppressed,
                    "out of memory: the device has no more, though the zone's quota would allow it"
                );
            }
            (Bound::CALLS | Bound::LAUNCHES, _) => {
                info!(zone, client, worker = pid, limit = %bound, share = asked, rule, times, suppressed,
                    "client is faster than its share of the zone's rate and waits");
            }
            (other, _) => {
                let limit = match other.kind().and_then(handle_name) {
                    Some(name) => format!("handles.{name}"),
                    None => other.to_string(),
                };
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
