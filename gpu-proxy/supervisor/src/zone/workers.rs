//! The workers of a zone: how they start, what they say, and how they end.

#![forbid(unsafe_code)]

use std::time::Instant;

use cuda_abi::types::CUresult;
use idm_protocol::attach::RefusalCode;
use idm_protocol::attach::survey::MAX_DEVICES;
use idm_protocol::status::EndReason;
use proxy_channel::args::Task;
use proxy_channel::jail::MAX_LAYERS;
use proxy_channel::message::{Charge, Ending, FromWorker, Outcome, Ready, ToWorker, Verdict};
use proxy_channel::supervisor::Received;
use tracing::{debug, error, info, warn};

use super::arrival::State;
use super::audit;
use super::jail::user;
use super::reconcile::Measured;
use super::survey::Devices;
use super::view::{self, View};
use super::worker::{Held, Phase, Worker};
use super::{MESSAGES_AT_ONCE, SETTLED, Shared, Zone};
use crate::launch::{Launched, Wanted};
use crate::ledger::WorkerId;
use crate::namespaces::Network;

impl Zone {
    pub(super) fn hear_worker(&mut self, id: WorkerId, shared: &Shared, now: Instant) {
        for _ in 0..MESSAGES_AT_ONCE {
            if !self.hear_worker_once(id, shared, now) {
                return;
            }
        }
    }

    /// Takes one message of a worker; false if there was none.
    pub(super) fn hear_worker_once(&mut self, id: WorkerId, shared: &Shared, now: Instant) -> bool {
        let Some(worker) = self.workers.get_mut(&id) else {
            return false;
        };
        let Some(channel) = &worker.channel else {
            return false;
        };
        match channel.receive() {
            Ok(Received::Nothing) => false,
            Ok(Received::Message(message)) => {
                self.obey(id, &message, shared, now);
                true
            }
            Ok(Received::Closed) => {
                worker.channel = None;
                // It is exiting; how, `reap` will see. The grace is for one that is not.
                if !matches!(worker.phase, Phase::Ending { .. }) {
                    let pid = worker.process.pid();
                    let client = worker.session.as_ref().map(|session| session.client_id);
                    warn!(
                        zone = self.config.name,
                        client,
                        worker = pid,
                        "worker hung up"
                    );
                    self.condemn(id, "the worker closed its channel", shared, now);
                }
                false
            }
            Err(fault) => {
                let pid = worker.process.pid();
                warn!(zone = self.config.name, worker = pid, %fault, "worker is ended");
                self.condemn(id, &fault.to_string(), shared, now);
                self.kill_now(id);
                false
            }
        }
    }

    pub(super) fn obey(
        &mut self,
        id: WorkerId,
        message: &FromWorker,
        shared: &Shared,
        now: Instant,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let (zone, pid) = (self.config.name.as_str(), worker.process.pid());
        match (worker.phase, message) {
            // What was refused before its client left is on record whichever of the two is heard of first: nobody
            // hides a refusal by leaving at once.
            (Phase::Ending { .. }, FromWorker::Refused(refused)) if worker.session.is_some() => {
                self.record_refusal(id, refused, shared, now);
            }
            (Phase::Ending { .. }, FromWorker::Denied(denied)) if worker.session.is_some() => {
                self.record_denial(id, denied, shared, now);
            }
            (Phase::Ending { .. }, _) => {}
            (Phase::Starting { .. }, &FromWorker::Device(device))
                if worker.devices.len() < MAX_DEVICES =>
            {
                worker.devices.push(device);
            }
            (Phase::Starting { .. }, &FromWorker::Layer(report))
                if worker.jail.len() < MAX_LAYERS =>
            {
                worker.jail.push(report);
            }
            (Phase::Starting { .. }, &FromWorker::Ready(ready))
                if worker.devices.len() == described(&ready) =>
            {
                let Ready {
                    driver_kind,
                    driver_version,
                    device_count,
                    init_micros,
                    ..
                } = ready;
                let kind = driver_kind.name();
                info!(
                    zone,
                    worker = pid,
                    driver = kind,
                    path = ready.driver_path.to_string(),
                    why = ready.why.to_string(),
                    version = driver_version,
                    devices = device_count,
                    init_micros,
                    "worker is ready"
                );
                if !worker.is_fallback {
                    shared.seen.set(Some((driver_version, device_count)));
                    worker.sees = sees(worker.visible.as_deref(), &ready);
                }
                let new = shared.states.borrow_mut().learn(&worker.sees, now);
                if !new.is_empty() {
                    info!(devices = ?new, "nobody knows who used these devices before: they are scrubbed first");
                }
                // It has met no tenant yet, so this is the driver's word.
                if let (Some(&[device]), Some(seen)) =
                    (self.grant.devices.as_deref(), worker.devices.first())
                    && !worker.is_fallback
                    && self.ledger.seat().measure(device, seen.total_memory)
                {
                    let has = seen.total_memory;
                    error!(
                        zone,
                        device,
                        has,
                        "the device has less memory than the configuration says; what is set aside may not be there"
                    );
                }
                self.devices = Some(Devices {
                    ready,
                    list: std::mem::take(&mut worker.devices),
                });
                worker.phase = Phase::Ready { ready, since: now };
                let jail = std::mem::take(&mut worker.jail);
                self.learn_jail(jail);
            }
            (Phase::Starting { .. } | Phase::Ready { .. }, FromWorker::Failed { text }) => {
                if !worker.is_fallback {
                    let mut states = shared.states.borrow_mut();
                    states.suspect_granted(worker.visible.as_deref(), now);
                }
                let text = text.to_string();
                self.condemn(id, &text, shared, now);
            }
            (Phase::Attaching { .. } | Phase::Running, FromWorker::Suspect(suspect)) => {
                if shared.states.borrow_mut().suspect(&worker.sees, now) {
                    let status = CUresult(suspect.status);
                    warn!(
                        zone,
                        worker = pid,
                        devices = ?worker.sees,
                        ?status,
                        "a call failed as on a device that is lost: whether it is, a probe finds out"
                    );
                }
            }
            (Phase::Attaching { .. }, FromWorker::Attached) => self.welcome(id, shared, now),
            (Phase::Attaching { .. }, FromWorker::AttachFailed { text }) => {
                let text = format!("its worker could not attach: {text}");
                self.condemn(id, &text, shared, now);
            }
            (Phase::Attaching { .. } | Phase::Running, &FromWorker::Charge(charge)) => {
                self.charge(id, charge, shared, now);
            }
            (Phase::Attaching { .. } | Phase::Running, &FromWorker::Release { bytes }) => {
                match self.ledger.release(id, bytes) {
                    Ok(()) => self.publish_memory(),
                    Err(lie) => {
                        warn!(zone, worker = pid, %lie, "worker is ended");
                        self.condemn(id, &lie.to_string(), shared, now);
                        self.kill_now(id);
                    }
                }
            }
            (
                Phase::Attaching { .. } | Phase::Running,
                FromWorker::Share(_)
                | FromWorker::Open(_)
                | FromWorker::CloseShare { .. }
                | FromWorker::Withdraw(_),
            ) => self.hear_of_shares(id, message, shared, now),
            (Phase::Attaching { .. } | Phase::Running, FromWorker::Refused(refused)) => {
                self.record_refusal(id, refused, shared, now);
            }
            (Phase::Attaching { .. } | Phase::Running, FromWorker::Denied(denied)) => {
                self.record_denial(id, denied, shared, now);
            }
            (Phase::Running, FromWorker::Behind) => {
                if let Some(session) = &worker.session {
                    warn!(zone, worker = pid, "calls are not taken into the log");
                    self.recorder.page_is_full(session.client_id);
                }
            }
            (_, &FromWorker::Ended { text, ending }) => {
                let client = worker.session.as_ref().map(|session| session.client_id);
                let text = text.to_string();
                warn!(
                    zone,
                    client,
                    worker = pid,
                    ?ending,
                    reason = text,
                    "worker ends"
                );
                let reason = match ending {
                    Ending::Own => EndReason::WORKER_DIED,
                    Ending::Violation => EndReason::VIOLATION,
                    Ending::Stuck => EndReason::STUCK,
                };
                self.judge_start(id, now, &text);
                self.end(id, reason, &text, shared, now);
            }
            (phase, _) => {
                let phase = phase.name();
                warn!(
                    zone,
                    worker = pid,
                    phase,
                    ?message,
                    "worker sent a message out of turn; it is ended"
                );
                self.condemn(id, "the worker broke the protocol", shared, now);
                self.kill_now(id);
            }
        }
    }

    pub(super) fn welcome(&mut self, id: WorkerId, shared: &Shared, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Some(session) = &mut worker.session else {
            return;
        };
        worker.phase = Phase::Running;
        worker.judged = true;
        self.backoff.succeeded();
        let (client, pid, program) = (session.client_id, session.peer.pid, session.program.clone());
        // Before it can call, so that the log has this first.
        if worker.is_fallback {
            view::record_fallback(&self.recorder, &self.config.name, session, &self.view);
        }
        let named = session.audit_client(worker.process.pid());
        audit::attached(&self.recorder, &self.config.name, named, &self.grant);
        self.recorder.collect(client);
        match session.welcome() {
            Ok(()) => {
                let micros = now.saturating_duration_since(session.since).as_micros();
                self.attached_total += 1;
                info!(
                    zone = self.config.name,
                    client,
                    pid,
                    uid = session.peer.uid,
                    program,
                    worker = worker.process.pid(),
                    micros,
                    "client attached"
                );
            }
            Err(errno) => {
                info!(zone = self.config.name, client, pid, program, %errno, "client left while it was attached");
                self.end(id, EndReason::DETACHED, "it left", shared, now);
            }
        }
    }

    /// Grants a charge or refuses it, or has it wait for memory that is on its way back: a program that is started
    /// again when it has ended finds what it held free, as it does where the driver frees it.
    pub(super) fn decide(&mut self, id: WorkerId, charge: Charge, shared: &Shared, now: Instant) {
        let outcome = match self.ledger.charge(id, charge.bytes) {
            Ok(()) => Outcome::Granted,
            Err(refused) => {
                let lacking = charge.bytes.saturating_sub(self.returning());
                let will_fit = lacking < charge.bytes && self.ledger.refusal(lacking).is_none();
                if let Some(worker) = self.workers.get_mut(&id).filter(|_| will_fit) {
                    debug!(zone = self.config.name, worker = id.0, %refused, "charge waits for workers that end");
                    worker.held = Some(Held::UntilReturned(charge));
                    return;
                }
                // Worth a record once its worker gives up: it may still ask for less.
                debug!(zone = self.config.name, worker = id.0, %refused, "charge refused");
                Outcome::Refused {
                    limit: self.ledger.limit(),
                    used: self.ledger.used(),
                }
            }
        };
        self.answer_charge(id, charge, outcome, shared, now);
    }

    /// Bytes that come back to the zone soon, since whoever holds them is ending: in good time, or by force.
    fn returning(&self) -> u64 {
        self.workers
            .iter()
            .filter(|(_, worker)| matches!(worker.phase, Phase::Ending { .. }) && !worker.is_stuck)
            .map(|(&id, _)| self.ledger.granted(id))
            .sum()
    }

    pub(super) fn answer_charge(
        &mut self,
        id: WorkerId,
        charge: Charge,
        outcome: Outcome,
        shared: &Shared,
        now: Instant,
    ) {
        audit::charged(self, id, &charge, outcome);
        // Before the answer: what a worker reads after it counts the grant.
        self.publish_memory();
        let verdict = ToWorker::Verdict(Verdict {
            request_id: charge.request_id,
            outcome,
        });
        self.tell(id, &verdict, shared, now);
    }

    /// Answers a worker; one that does not take the answer ends.
    pub(super) fn tell(&mut self, id: WorkerId, message: &ToWorker, shared: &Shared, now: Instant) {
        let sent = self
            .workers
            .get(&id)
            .and_then(|worker| worker.channel.as_ref())
            .map_or(Ok(()), |channel| channel.send(message));
        if let Err(fault) = sent {
            warn!(zone = self.config.name, worker = id.0, %fault, "worker is ended");
            self.condemn(id, &fault.to_string(), shared, now);
            self.kill_now(id);
        }
    }

    /// Starts workers until as many are warm as should be and every waiting client will have one.
    pub(super) fn replenish(&mut self, shared: &Shared, now: Instant) {
        let is_lost = matches!(self.view, View::Lost { .. });
        if self.listener.is_none() || is_lost || self.backoff.blocked_until(now).is_some() {
            self.dismiss_spare(false, shared, now);
            return;
        }
        let room = (self.grant.clients as usize).saturating_sub(self.occupied());
        // Somebody looks and no worker has told yet what there is: one does, and stays a while for the next client.
        let curious = usize::from(self.devices.is_none() && self.is_asked());
        let wanted =
            room.min((self.config.warm_workers as usize + self.waiting_clients()).max(curious));
        let have =
            self.count(|phase| matches!(phase, Phase::Starting { .. } | Phase::Ready { .. }));
        self.dismiss_spare(have > wanted, shared, now);
        for _ in have..wanted {
            if let Err(error) = self.start_worker(shared, now) {
                let text = format!("cannot start {}: {error}", shared.proxy.worker.display());
                let again = self.backoff.failed(now, &text);
                error!(
                    zone = self.config.name,
                    failures = self.backoff.failures(),
                    ?again,
                    "{text}"
                );
                return;
            }
        }
    }

    pub(super) fn start_worker(&mut self, shared: &Shared, now: Instant) -> std::io::Result<()> {
        let (visible, fallback) = match &self.view {
            View::Devices(devices) => (devices.clone(), false),
            View::Software { .. } => (None, true),
            View::Lost { why } => return Err(std::io::Error::other(why.clone())),
        };
        let wanted = Wanted {
            task: Task::Serve,
            zone: &self.config.name,
            devices: visible.as_deref(),
            fallback,
            uid: self.config.worker_uid,
            gid: self.config.worker_gid,
            network: self.network.get_or_insert_with(Network::new),
            cgroup: Some(&self.cgroup),
        };
        let Launched {
            process,
            channel,
            stderr,
            layers,
        } = shared.launch(&wanted)?;
        debug!(
            zone = self.config.name,
            worker = process.pid(),
            "worker started"
        );
        let worker = Worker {
            process,
            channel: Some(channel),
            stderr: Some(stderr),
            phase: Phase::Starting {
                deadline: now + shared.proxy.start_timeout,
            },
            devices: Vec::new(),
            jail: [user(&self.config, shared)]
                .into_iter()
                .chain(layers)
                .collect(),
            session: None,
            started: now,
            visible,
            is_fallback: fallback,
            sees: Vec::new(),
            measured: Measured::default(),
            held: None,
            is_stuck: false,
            is_at_fault: false,
            judged: false,
        };
        self.workers.insert(WorkerId(shared.id()), worker);
        Ok(())
    }

    pub(super) fn expire(&mut self, shared: &Shared, now: Instant) {
        let silent: Vec<u64> = self
            .arrivals
            .iter()
            .filter(|(_, arrival)| matches!(arrival.state, State::Silent { deadline } if deadline <= now))
            .map(|(&id, _)| id)
            .collect();
        for id in silent {
            self.refuse(
                id,
                RefusalCode::MALFORMED,
                "it connected and did not greet",
                now,
            );
        }
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            let Some(worker) = self.workers.get_mut(&id) else {
                continue;
            };
            if !worker.is_stuck && worker.process.stuck_from().is_some_and(|at| at <= now) {
                self.quarantine(id, shared, now);
                continue;
            }
            let (zone, pid) = (&self.config.name, worker.process.pid());
            match &mut worker.phase {
                Phase::Starting { deadline } if *deadline <= now => {
                    let waited = now.saturating_duration_since(worker.started);
                    let text = format!("the worker did not get ready within {waited:.1?}");
                    self.condemn(id, &text, shared, now);
                    self.kill_now(id);
                }
                Phase::Attaching { deadline } if *deadline <= now => {
                    self.condemn(id, "the worker did not attach in time", shared, now);
                    self.kill_now(id);
                }
                Phase::Ending { kill_at, killed } if *kill_at <= now && !*killed => {
                    *killed = true;
                    warn!(zone, worker = pid, "worker did not stop in time; killed");
                    audit::killed(&self.recorder, zone, worker, "it did not stop in time");
                    worker.process.kill();
                }
                _ => {}
            }
        }
    }

    /// A worker failed its zone: its client is told, the back-off counts it if it never served one, and it
    /// is told to stop.
    pub(super) fn condemn(&mut self, id: WorkerId, text: &str, shared: &Shared, now: Instant) {
        self.judge_start(id, now, text);
        self.end(id, EndReason::WORKER_DIED, text, shared, now);
    }

    pub(super) fn judge_start(&mut self, id: WorkerId, now: Instant, text: &str) {
        // Taken out for a moment, since judging needs the zone too.
        if let Some(mut worker) = self.workers.remove(&id) {
            self.judge(&mut worker, now, text);
            self.workers.insert(id, worker);
        }
    }

    pub(super) fn judge(&mut self, worker: &mut Worker, now: Instant, text: &str) {
        if std::mem::replace(&mut worker.judged, true) {
            return;
        }
        let settled = |since: Instant| now.saturating_duration_since(since) >= SETTLED;
        if matches!(worker.phase, Phase::Ready { since, .. } if settled(since)) {
            self.backoff.succeeded();
        }
        let again = self.backoff.failed(now, text);
        let (zone, failures) = (&self.config.name, self.backoff.failures());
        error!(
            zone,
            worker = worker.process.pid(),
            failures,
            ?again,
            "no worker: {text}"
        );
    }

    /// Ends a worker and its client: gently first, `expire` sees to the rest.
    pub(super) fn end(
        &mut self,
        id: WorkerId,
        reason: EndReason,
        text: &str,
        shared: &Shared,
        now: Instant,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if let Some(session) = &mut worker.session {
            self.ended.finish(session, reason, text);
        }
        if matches!(worker.phase, Phase::Ending { .. }) {
            return;
        }
        let in_order = [EndReason::DETACHED, EndReason::SHUTDOWN, EndReason::POLICY];
        worker.is_at_fault = !in_order.contains(&reason);
        if !matches!(reason, EndReason::DETACHED | EndReason::SHUTDOWN) {
            audit::failed(&self.recorder, &self.config.name, worker, text);
        }
        if let Some(channel) = &worker.channel {
            // One that does not take it is killed when the grace is over.
            let _ = channel.send(&ToWorker::Stop);
        }
        worker.held = None;
        worker.judged = true;
        worker.phase = Phase::Ending {
            kill_at: now + shared.proxy.stop_grace,
            killed: false,
        };
    }

    pub(super) fn kill_now(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            audit::killed(
                &self.recorder,
                &self.config.name,
                worker,
                "it failed its zone",
            );
            worker.process.kill();
            if let Phase::Ending { killed, .. } = &mut worker.phase {
                *killed = true;
            }
        }
    }

    pub(super) fn relay(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let (zone, pid) = (&self.config.name, worker.process.pid());
        let client = worker.session.as_ref().map(|session| session.client_id);
        let log = |line: &str| info!(target: "worker", zone, client, worker = pid, "{line}");
        if worker
            .stderr
            .as_mut()
            .is_some_and(|relay| !relay.drain(now, log))
        {
            worker.stderr = None;
        }
    }

    /// Tells every client of the zone how much of its memory is used.
    pub(super) fn publish_memory(&self) {
        let room = self.ledger.room();
        for session in self
            .workers
            .values()
            .filter_map(|worker| worker.session.as_ref())
        {
            session
                .status
                .set_memory(self.ledger.limit(), self.ledger.used(), room);
        }
    }
}

/// The devices of a worker that is ready, as the supervisor numbers them. A driver leaves out what is not there, and
/// what follows it.
fn sees(visible: Option<&[u32]>, ready: &Ready) -> Vec<u32> {
    let count = described(ready);
    match visible {
        Some(list) => list.iter().copied().take(count).collect(),
        None => (0..).take(count).collect(),
    }
}

/// How many devices a worker must have described when it is ready: all, or as many as can be.
fn described(ready: &Ready) -> usize {
    usize::try_from(ready.device_count).map_or(MAX_DEVICES, |count| count.min(MAX_DEVICES))
}
