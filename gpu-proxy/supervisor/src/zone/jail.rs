//! What is known of the jail of a zone's workers.

#![forbid(unsafe_code)]

use proxy_channel::admin;
use proxy_channel::jail::{Layer, Report, State};
use tracing::{info, warn};

use super::{Shared, Zone};
use crate::config::ZoneConfig;

/// The layer that the supervisor answers for when it starts a worker: whose user it runs as.
pub(super) fn user(zone: &ZoneConfig, shared: &Shared) -> Report {
    let state_and_why = match (shared.root, zone.worker_uid) {
        (true, Some(0)) => (State::OFF, "worker_uid is root"),
        (true, Some(_)) => return Report::on(Layer::USER),
        (true, None) => (
            State::OFF,
            "worker_uid is not set: workers run as gpu-proxy's user",
        ),
        (false, _) => (
            State::MISSING,
            "gpu-proxy is not root: workers run as its user",
        ),
    };
    Report::new(Layer::USER, state_and_why.0, state_and_why.1)
}

impl Zone {
    /// A worker is ready and has told of its jail; the log hears of it when it is news.
    pub(super) fn learn_jail(&mut self, mut reports: Vec<Report>) {
        reports.sort_by_key(|report| report.layer.0);
        if self.jail == reports {
            return;
        }
        let zone = &self.config.name;
        let list = |which: &dyn Fn(&Report) -> bool| {
            let chosen = reports.iter().filter(|report| which(report));
            let texts: Vec<String> = chosen.map(text).collect();
            texts.join("; ")
        };
        let on = list(&|report| report.state == State::ON);
        let off = list(&|report| [State::OFF, State::LOG].contains(&report.state));
        let other = [State::ON, State::OFF, State::LOG];
        let missing = list(&|report| !other.contains(&report.state));
        if missing.is_empty() {
            info!(zone, on, off, "jail of the workers");
        } else {
            warn!(
                zone,
                on,
                off,
                missing,
                "jail of the workers: this host does not offer all of it; see vgpuctl doctor"
            );
        }
        self.jail = reports;
    }

    /// The same for an administrator.
    pub(super) fn jail_status(&self) -> Vec<admin::Layer> {
        let layers = self.jail.iter().map(|report| admin::Layer {
            name: report.layer.name(),
            state: report.state.name().into(),
            why: report.why.to_string(),
        });
        layers.collect()
    }
}

fn text(report: &Report) -> String {
    let (name, why) = (report.layer.name(), report.why.to_string());
    if why.is_empty() {
        name
    } else {
        format!("{name} ({why})")
    }
}
