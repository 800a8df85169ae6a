//! What clients hold while they are there, and what they left when they went.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use proxy_channel::admin::{Holder, Piece};
use proxy_channel::holdings::Holdings;
use proxy_policy::limits::handle_name;
use tracing::info;

use super::Zone;
use super::worker::Session;

impl Zone {
    /// What each client holds, for an administrator.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        let sessions = self
            .workers
            .values()
            .filter_map(|worker| worker.session.as_ref());
        sessions.map(Session::holder).collect()
    }
}

impl Session {
    /// What its worker says that the client holds. A table that cannot be read says nothing.
    fn holdings(&self) -> Holdings {
        self.stats.holdings().unwrap_or_default()
    }

    fn holder(&self) -> Holder {
        let held = self.holdings();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
        let (counts, bytes) = sums(&held);
        Holder {
            client: self.client_id,
            pid: self.peer.pid,
            program: self.program.clone(),
            counts,
            bytes,
            pieces: held
                .pieces
                .iter()
                .filter_map(|piece| {
                    Some(Piece {
                        kind: piece.what.name()?.to_owned(),
                        id: piece.id,
                        bytes: piece.bytes,
                        age_seconds: now.saturating_sub(piece.since_millis) / 1000,
                    })
                })
                .collect(),
        }
    }

    /// For the record, when its worker has ended: what the client had not given back by then.
    pub(super) fn record_left(&self, zone: &str) {
        let held = self.holdings();
        let (counts, bytes) = sums(&held);
        if counts.is_empty() {
            return;
        }
        let list = |numbers: &BTreeMap<String, u64>| {
            let parts: Vec<String> = numbers
                .iter()
                .map(|(what, number)| format!("{what}={number}"))
                .collect();
            parts.join(" ")
        };
        info!(
            zone,
            client = self.client_id,
            pid = self.peer.pid,
            program = self.program,
            counts = list(&counts),
            bytes = list(&bytes),
            "client left what it had not given back"
        );
    }
}

/// How many of each sort, and bytes of those that cost memory.
fn sums(held: &Holdings) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let mut counts = BTreeMap::new();
    let mut bytes = BTreeMap::new();
    for &(what, count, size) in &held.totals {
        if let Some(name) = what.name() {
            counts.insert(name.to_owned(), count);
            bytes.insert(name.to_owned(), size);
        }
    }
    for &(kind, count) in &held.handles {
        if let Some(name) = handle_name(kind) {
            counts.insert(format!("handles.{name}"), count);
        }
    }
    (counts, bytes)
}
