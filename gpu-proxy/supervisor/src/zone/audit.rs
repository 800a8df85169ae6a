//! What of a zone's life is recorded, and in which words.

#![forbid(unsafe_code)]

use idm_protocol::attach::Hello;
use proxy_audit::event::{Client, Event};
use proxy_audit::text::Text;
use proxy_channel::bound::Denied;
use proxy_channel::message::{Charge, Outcome, Refused};
use proxy_policy::group_names;

use super::Zone;
use super::arrival::{Arrival, State};
use super::grant::Grant;
use super::worker::{Session, Worker};
use crate::audit::Recorder;
use crate::ledger::WorkerId;

impl Session {
    /// The client, as records name it.
    pub(super) fn audit_client(&self, worker: u32) -> Client {
        Client {
            id: self.client_id,
            pid: self.peer.pid,
            uid: self.peer.uid,
            program: Text::new(&self.program),
            worker,
        }
    }
}

/// The client of a worker; one that has none yet is named by its process alone.
fn client_of(worker: &Worker) -> Client {
    let pid = worker.process.pid();
    worker.session.as_ref().map_or_else(
        || Client {
            id: 0,
            pid: 0,
            uid: 0,
            program: Text::default(),
            worker: pid,
        },
        |session| session.audit_client(pid),
    )
}

pub(super) fn attached(recorder: &Recorder, zone: &str, client: Client, grant: &Grant) {
    let groups = Text::new(group_names(grant.groups));
    let memory = grant.memory;
    recorder.record(
        zone,
        Event::Attach {
            client,
            groups,
            memory,
        },
    );
}

pub(super) fn detached(
    recorder: &Recorder,
    zone: &str,
    client: Client,
    how: &str,
    in_order: bool,
    returned: u64,
    (calls, launches): (u64, u64),
) {
    if !in_order {
        let what = Text::new(format!("its worker died ({how})"));
        let client = client.clone();
        recorder.record(zone, Event::Fault { client, what });
    }
    let reason = if in_order {
        "it ended"
    } else {
        "its worker died"
    };
    let event = Event::Detach {
        client,
        reason: Text::from(reason),
        how: Text::new(how),
        calls,
        launches,
        returned,
    };
    recorder.record(zone, event);
}

pub(super) fn refused(
    recorder: &Recorder,
    zone: &str,
    arrival: &Arrival,
    why: &str,
    suppressed: u64,
) {
    let program = match &arrival.state {
        State::Waiting(hello) => {
            let hello: &Hello = hello;
            Text::new(hello.name.to_string())
        }
        State::Silent { .. } | State::Asking => Text::default(),
    };
    let client = Client {
        id: 0,
        pid: arrival.peer.pid,
        uid: arrival.peer.uid,
        program,
        worker: 0,
    };
    let why = Text::new(why);
    let event = Event::Refusal {
        client,
        why,
        suppressed,
    };
    recorder.record(zone, event);
}

/// The policy refused a call: the worker's word, as often as it tells (the first, tenth, hundredth of a function).
pub(super) fn refused_call(
    recorder: &Recorder,
    zone: &str,
    worker: &Worker,
    rule: &str,
    refused: &Refused,
) {
    let event = Event::Verdict {
        client: client_of(worker),
        call: Text::new(refused.call.to_string()),
        groups: Text::new(group_names(refused.groups)),
        rule: Text::new(rule),
        times: refused.times,
    };
    recorder.record(zone, event);
}

/// A limit refused something, as often as the worker tells.
pub(super) fn denied(
    recorder: &Recorder,
    zone: &str,
    worker: &Worker,
    denied: &Denied,
    limit: &str,
    rule: &str,
) {
    let event = Event::Denial {
        client: client_of(worker),
        limit: Text::new(limit),
        asked: denied.asked,
        rule: Text::new(rule),
        times: denied.times,
    };
    recorder.record(zone, event);
}

pub(super) fn charged(zone: &Zone, id: WorkerId, charge: &Charge, outcome: Outcome) {
    // A worker that asks for nothing only waits until it was heard.
    let Some(worker) = zone.workers.get(&id).filter(|_| charge.bytes > 0) else {
        return;
    };
    let event = Event::Grant {
        client: client_of(worker),
        bytes: charge.bytes,
        granted: outcome == Outcome::Granted,
    };
    zone.recorder.record(&zone.config.name, event);
}

/// A worker failed its zone; one without a client is no tenant's affair.
pub(super) fn failed(recorder: &Recorder, zone: &str, worker: &Worker, what: &str) {
    let what = Text::new(what);
    let client = client_of(worker);
    recorder.record(zone, Event::Fault { client, what });
}

pub(super) fn killed(recorder: &Recorder, zone: &str, worker: &Worker, why: &str) {
    let why = Text::from(why);
    let client = client_of(worker);
    recorder.record(zone, Event::Kill { client, why });
}
