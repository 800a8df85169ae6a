//! Workers that were started for clients who have gone.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use idm_protocol::status::EndReason;

use super::worker::Phase;
use super::{Shared, Zone};

/// How long there must be too many for one to go: the next client is glad of it.
const REST: Duration = Duration::from_secs(5);

impl Zone {
    /// There are more workers without a client than should be, or not. The longer that lasts, the more of them go.
    pub(super) fn dismiss_spare(&mut self, is_spare: bool, shared: &Shared, now: Instant) {
        if !is_spare {
            self.spare_since = None;
            return;
        }
        let since = *self.spare_since.get_or_insert(now);
        if now.saturating_duration_since(since) < REST {
            return;
        }
        self.spare_since = None;
        let mut workers = self.workers.iter();
        let ready = workers.find(|(_, worker)| matches!(worker.phase, Phase::Ready { .. }));
        if let Some((&id, _)) = ready {
            self.end(id, EndReason::DETACHED, "nobody waits for it", shared, now);
        }
    }

    /// When one goes.
    pub(super) fn next_dismissal(&self) -> Option<Instant> {
        Some(self.spare_since? + REST)
    }
}
