//! What a zone may have at this moment: by policy, or without one by its configuration alone.
//!
//! A changed grant binds at once what is looked at each time (capability groups, device memory, clients) and
//! whoever attaches from then on (pinned memory, devices). What a client holds it keeps: a zone above its new quota
//! cannot grow, and that is all.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::time::Instant;

use cuda_abi::function::{FunctionInfo, Group};
use idm_protocol::attach::RefusalCode;
use idm_protocol::status::EndReason;
use proxy_channel::message::Refused;
use proxy_policy::limits::Limits;
use proxy_policy::units::size_text;
use proxy_policy::{Audit, OnLostDevice, Policy, group_names};
use tracing::{info, warn};

use super::arrival::State;
use super::audit;
use super::view::View;
use super::worker::Phase;
use super::{Shared, Zone};
use crate::config::ZoneConfig;
use crate::ledger::WorkerId;
use crate::reservations::Claim;

/// One zone's grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Bits of the capability page.
    pub groups: u64,
    /// Device memory of all clients together.
    pub memory: u64,
    /// Pinned host memory of each client.
    pub pinned: u64,
    /// Most clients at one time.
    pub clients: u32,
    /// Devices that clients see; none for all.
    pub devices: Option<Vec<u32>>,
    /// What becomes of new clients when all of those are lost.
    pub on_lost_device: OnLostDevice,
    /// What the log says of its calls.
    pub audit: Audit,
    /// Further limits.
    pub limits: Limits,
    /// What says so, for people.
    pub rule: String,
}

impl Grant {
    /// What configuration and policy grant a zone together.
    #[must_use]
    pub fn of(config: &ZoneConfig, policy: Option<&Policy>) -> Self {
        let configured = Self {
            groups: Group::MASK,
            memory: config.memory,
            pinned: config.pinned,
            clients: config.clients,
            devices: config.devices.clone(),
            on_lost_device: OnLostDevice::default(),
            audit: Audit::default(),
            limits: config.limits.clone(),
            rule: "no policy is configured".into(),
        };
        let Some(policy) = policy else {
            return configured;
        };
        let file = policy.file.display();
        let Some(rule) = policy.rule(&config.name) else {
            return Self {
                groups: 0,
                rule: format!("{file} names no zone \"{}\"", config.name),
                ..configured
            };
        };
        Self {
            groups: rule.groups,
            memory: rule.memory.unwrap_or(config.memory),
            pinned: rule.pinned.unwrap_or(config.pinned),
            clients: rule.clients.unwrap_or(config.clients),
            devices: rule.devices.clone().or(configured.devices),
            on_lost_device: rule.on_lost_device.unwrap_or_default(),
            audit: rule.audit.unwrap_or_default(),
            limits: rule.limits.or(&config.limits),
            rule: format!("{file}:{}", rule.line),
        }
    }

    /// What it asks for on devices.
    #[must_use]
    pub fn claim(&self, zone: &str) -> Claim {
        Claim {
            zone: zone.to_owned(),
            devices: self.devices.clone(),
            memory: self.memory,
            reserve: self.limits.reserve.unwrap_or(0),
        }
    }

    /// Calls and launches that each of so many clients may make in a second: the same share for all; 0 is any number.
    #[must_use]
    pub fn rates(&self, clients: u32) -> (u32, u32) {
        // Less than one in a second is one: a client that may do nothing could not even end well.
        let share = |rate: Option<u32>| rate.map_or(0, |rate| (rate / clients.max(1)).max(1));
        let limits = &self.limits;
        (
            share(limits.calls_per_second),
            share(limits.launches_per_second),
        )
    }

    /// Whether a program has anything to attach for.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.groups & !Group::Nvml.bit() != 0
    }

    /// What is different, in one line; `used` is the device memory in use.
    fn changes_from(&self, old: &Self, used: u64) -> Option<String> {
        let mut parts = Vec::new();
        let (more, less) = (self.groups & !old.groups, old.groups & !self.groups);
        if more != 0 {
            parts.push(format!("also allows {}", group_names(more)));
        }
        if less != 0 {
            parts.push(format!("no longer allows {}", group_names(less)));
        }
        let number =
            |key: &str, old: &dyn Display, new: &dyn Display| format!("{key} {old} -> {new}");
        if self.memory != old.memory {
            let mut text = number("memory", &size_text(old.memory), &size_text(self.memory));
            if used > self.memory {
                let used = size_text(used);
                text.push_str(&format!(
                    " ({used} are in use and stay; nothing more is granted)"
                ));
            }
            parts.push(text);
        }
        if self.pinned != old.pinned {
            let text = number("pinned", &size_text(old.pinned), &size_text(self.pinned));
            parts.push(text + " for new clients");
        }
        if self.clients != old.clients {
            parts.push(number("clients", &old.clients, &self.clients));
        }
        if self.devices != old.devices {
            let list = |devices: &Option<Vec<u32>>| match devices {
                Some(devices) => format!("{devices:?}"),
                None => "all".to_owned(),
            };
            let text = number("devices", &list(&old.devices), &list(&self.devices));
            parts.push(text + " for new clients");
        }
        if self.on_lost_device != old.on_lost_device {
            let (old, new) = (old.on_lost_device.name(), self.on_lost_device.name());
            parts.push(number("on_lost_device", &old, &new));
        }
        if self.audit != old.audit {
            let text = number("audit", &old.audit.name(), &self.audit.name());
            parts.push(text + " for new clients");
        }
        if self.limits != old.limits {
            let list = |limits: &Limits| match limits.to_string() {
                none if none.is_empty() => "none".to_owned(),
                some => some.trim_end().replace('\n', ", "),
            };
            let text = format!("limits {} -> {}", list(&old.limits), list(&self.limits));
            parts.push(text + ", rates at once and the rest for new clients");
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

impl Zone {
    /// Puts another policy into force. Tells what is different for this zone, if anything.
    pub fn adopt(
        &mut self,
        policy: Option<&Policy>,
        shared: &Shared,
        now: Instant,
    ) -> Option<String> {
        let grant = Grant::of(&self.config, policy);
        let old = std::mem::replace(&mut self.grant, grant);
        let changes = self.grant.changes_from(&old, self.ledger.used());
        self.ledger.set_limit(self.grant.memory);
        let place = self.grant.claim(&self.config.name).place();
        self.ledger.seat().move_to(place);
        self.publish_groups();
        self.publish_memory();
        if self.grant.devices != old.devices || self.grant.on_lost_device != old.on_lost_device {
            self.replace_idle_workers("the policy gives the zone other devices", shared, now);
            self.view = View::of(&self.grant, shared);
        }
        self.turn_away_ungranted(now);
        let zone = self.config.name.as_str();
        if let Some(changes) = &changes {
            info!(zone, rule = self.grant.rule, "policy: {changes}");
        }
        changes.map(|changes| format!("zone {zone}: {changes}"))
    }

    /// Nothing is acquired or run where nothing can be recorded, if that is the operator's choice. What frees, waits
    /// or ends is not in any group that could be missing.
    pub(super) fn heed_recorder(&mut self, now: Instant) {
        let zone = self.config.name.as_str();
        let was_crowded = std::mem::replace(&mut self.crowded, self.recorder.is_crowded(zone));
        if self.crowded && !was_crowded {
            warn!(
                zone,
                "new clients wait: the auditor has to take what is kept of those before"
            );
        }
        let objection = self.recorder.objection(zone, now);
        let before = std::mem::replace(&mut self.suspended, objection);
        if before.is_some() == objection.is_some() {
            return;
        }
        match objection {
            Some(why) => warn!(zone, "the zone may acquire and run nothing: {why}"),
            None => info!(zone, "the zone may go on: what happens is recorded again"),
        }
        self.publish_groups();
    }

    fn publish_groups(&self) {
        let groups = match self.suspended {
            Some(_) => 0,
            None => self.grant.groups,
        };
        for worker in self.workers.values() {
            if let Some(session) = &worker.session {
                let known = session.known_groups;
                session.status.set_capabilities(known & groups);
            }
        }
    }

    /// Workers that wait for a client see the devices of the grant they were started under.
    pub(super) fn replace_idle_workers(&mut self, why: &str, shared: &Shared, now: Instant) {
        let idle: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| {
                matches!(worker.phase, Phase::Starting { .. } | Phase::Ready { .. })
            })
            .map(|(&id, _)| id)
            .collect();
        for id in idle {
            self.end(id, EndReason::POLICY, why, shared, now);
        }
        self.devices = None;
    }

    /// Why the zone's grant turns away one that has just spoken or waits; none if it does not.
    pub(super) fn ungranted(&self, state: &State) -> Option<&'static str> {
        match state {
            State::Silent { .. } => None,
            State::Waiting(_) if self.grant.is_usable() => None,
            State::Waiting(_) => Some("the operator's policy grants this zone nothing"),
            State::Asking if self.grant.groups & Group::Nvml.bit() != 0 => None,
            State::Asking => Some("the operator's policy does not grant this zone nvml"),
        }
    }

    fn turn_away_ungranted(&mut self, now: Instant) {
        let ungranted: Vec<(u64, &str)> = self
            .arrivals
            .iter()
            .filter_map(|(&id, arrival)| Some((id, self.ungranted(&arrival.state)?)))
            .collect();
        for (id, text) in ungranted {
            self.refuse(id, RefusalCode::NOT_GRANTED, text, now);
        }
    }

    /// A worker says that it refused a call.
    pub(super) fn record_refusal(
        &mut self,
        id: WorkerId,
        refused: &Refused,
        shared: &Shared,
        now: Instant,
    ) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (zone, pid) = (self.config.name.as_str(), worker.process.pid());
        let call = refused.call.to_string();
        let info = FunctionInfo::named(&call);
        let Some(info) = info.filter(|_| refused.groups & Group::MASK != 0) else {
            warn!(
                zone,
                worker = pid,
                call,
                "worker refused what no policy refuses; it is ended"
            );
            self.condemn(id, "the worker broke the protocol", shared, now);
            self.kill_now(id);
            return;
        };
        let lacks = group_names(refused.groups);
        let client = worker.session.as_ref().map(|session| session.client_id);
        // While the zone is stopped it is no rule that refuses.
        let rule = self.suspended.unwrap_or(&self.grant.rule);
        audit::refused_call(&self.recorder, zone, worker, rule, refused);
        if let Some(suppressed) = self.refused_calls.pass(now) {
            warn!(
                zone,
                client,
                worker = pid,
                call,
                group = lacks,
                audit = info.audit,
                rule,
                times = refused.times,
                suppressed,
                "call refused by policy: the zone is not granted {lacks}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config() -> ZoneConfig {
        ZoneConfig {
            name: "a".into(),
            memory: 4 << 30,
            pinned: 1 << 30,
            host_memory: None,
            clients: 16,
            warm_workers: 1,
            stuck_after: None,
            uid: None,
            gid: None,
            mode: 0o600,
            devices: None,
            limits: Limits::default(),
            worker_uid: None,
            worker_gid: None,
        }
    }

    fn policy(text: &str) -> Policy {
        let source = format!("version = 1\n{text}");
        Policy::parse(Path::new("policy.toml"), &source).unwrap()
    }

    #[test]
    fn without_a_policy_everything_is_granted_and_with_one_nothing_that_it_does_not_name() {
        let open = Grant::of(&config(), None);
        assert_eq!(open.groups, Group::MASK);
        let closed = Grant::of(&config(), Some(&policy("")));
        assert_eq!(closed.groups, 0);
        assert!(!closed.is_usable());
        assert!(
            closed.rule.contains("names no zone \"a\""),
            "{}",
            closed.rule
        );
    }

    #[test]
    fn what_a_rule_leaves_out_is_the_configurations() {
        let text = "[[zone]]\nname = \"a\"\nallow = [\"compute\"]\nclients = 2\n";
        let grant = Grant::of(&config(), Some(&policy(text)));
        assert_eq!((grant.groups, grant.clients), (Group::Compute.bit(), 2));
        assert_eq!((grant.memory, grant.pinned), (4 << 30, 1 << 30));
        assert_eq!(grant.rule, "policy.toml:2");
    }

    #[test]
    fn changes_are_told_and_a_zone_above_its_quota_hears_that_it_keeps_what_it_has() {
        let old = Grant::of(&config(), None);
        let text = "[[zone]]\nname = \"a\"\nallow = [\"compute\", \"memory\"]\nmemory = \"1GiB\"\ndevices = [1]\n";
        let new = Grant::of(&config(), Some(&policy(text)));
        let changes = new.changes_from(&old, 2 << 30).unwrap();
        for part in [
            "no longer allows pools",
            "memory 4GiB -> 1GiB (2GiB are in use",
            "devices all -> [1]",
        ] {
            assert!(changes.contains(part), "{part} in {changes}");
        }
        assert_eq!(new.changes_from(&new, 0), None);
    }
}
