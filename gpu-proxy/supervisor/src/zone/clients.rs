//! The clients of a zone: how they come in, are paired with a worker, and are turned away.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use idm_protocol::attach::{Header, Hello, MessageKind, RefusalCode, Text, Welcome};
use idm_protocol::layout::Limits;
use idm_protocol::status::EndReason;
use idm_protocol::window::common_candidate;
use nix::errno::Errno;
use proxy_audit::wire::Detail;
use proxy_channel::message::{Assign, Ready};
use proxy_policy::Audit;
use tracing::{debug, error, info, warn};

use super::arrival::{Arrival, Peer, State, Step, turn_away};
use super::audit;
use super::worker::{Handover, Phase, Session};
use super::{MAX_ARRIVALS, Shared, Zone};
use crate::ledger::WorkerId;

impl Zone {
    pub(super) fn accept(&mut self, shared: &Shared, now: Instant) {
        let Some(listener) = &self.listener else {
            return;
        };
        while self.arrivals.len() < MAX_ARRIVALS {
            let socket = match listener.accept() {
                Ok(socket) => socket,
                Err(Errno::EAGAIN) => return,
                // The client gave up in the queue.
                Err(Errno::ECONNABORTED | Errno::EINTR) => continue,
                Err(errno) => {
                    error!(zone = self.config.name, %errno, "cannot accept clients; trying again in a second");
                    self.accept_after = now.checked_add(Duration::from_secs(1));
                    return;
                }
            };
            let deadline = now + shared.proxy.hello_timeout;
            match Arrival::new(socket, deadline) {
                Ok(arrival) => {
                    self.arrivals.insert(shared.id(), arrival);
                }
                Err(errno) => {
                    warn!(zone = self.config.name, %errno, "a client without credentials")
                }
            }
        }
    }

    pub(super) fn hear_arrival(&mut self, id: u64, now: Instant) {
        let Some(arrival) = self.arrivals.get(&id) else {
            return;
        };
        match arrival.read() {
            Step::Nothing => {}
            Step::Gone => {
                debug!(
                    zone = self.config.name,
                    pid = arrival.peer.pid,
                    "a client left before it had a worker"
                );
                self.arrivals.remove(&id);
            }
            Step::Refuse(code, text) => self.refuse(id, code, &text, now),
            Step::Greeted(_) | Step::Asked if !self.is_for(arrival.peer) => {
                let text = format!(
                    "zone \"{}\" is not for user {}",
                    self.config.name, arrival.peer.uid
                );
                self.refuse(id, RefusalCode::UID_NOT_ALLOWED, &text, now);
            }
            // Whoever only looks is no client: a zone that is full can still be looked at.
            Step::Asked => {
                if let Some(text) = self.ungranted(&State::Asking) {
                    self.refuse(id, RefusalCode::NOT_GRANTED, text, now);
                } else if let Some(arrival) = self.arrivals.get_mut(&id) {
                    arrival.state = State::Asking;
                }
                self.answer_surveys();
            }
            Step::Greeted(_) if !self.grant.is_usable() => {
                let text = "the operator's policy grants this zone nothing";
                self.refuse(id, RefusalCode::NOT_GRANTED, text, now);
            }
            Step::Greeted(_) if self.suspended.is_some() => {
                let why = self.suspended.unwrap_or_default();
                let text = format!("nobody new may come in: {why}");
                self.refuse(id, RefusalCode::NOT_GRANTED, &text, now);
            }
            Step::Greeted(hello) => {
                let (clients, name) = (self.grant.clients, &self.config.name);
                if self.live_clients() >= clients as usize {
                    let text = format!(
                        "zone \"{name}\" already has its {clients} clients; end one or raise clients in the proxy's configuration"
                    );
                    self.refuse(id, RefusalCode::ZONE_FULL, &text, now);
                } else if let Some(arrival) = self.arrivals.get_mut(&id) {
                    arrival.state = State::Waiting(hello);
                }
            }
        }
    }

    /// Whether the zone's configuration lets this user in.
    fn is_for(&self, peer: Peer) -> bool {
        self.config.uid.is_none_or(|allowed| allowed == peer.uid)
    }

    /// A client with a worker says nothing until it goes; one that does say something goes too.
    pub(super) fn hear_client(&mut self, id: WorkerId, shared: &Shared, now: Instant) {
        let Some(session) = self
            .workers
            .get(&id)
            .and_then(|worker| worker.session.as_ref())
        else {
            return;
        };
        let Some(socket) = &session.socket else {
            return;
        };
        let (zone, client) = (&self.config.name, session.client_id);
        match idm_protocol::attach::socket::receive(socket.as_fd(), &mut [0; 8]) {
            Err(Errno::EAGAIN) => {}
            Ok(packet) if packet.len > 0 || packet.descriptors_dropped => {
                warn!(
                    zone,
                    client, "client spoke on its attach socket after its greeting; it is ended"
                );
                self.end(
                    id,
                    EndReason::VIOLATION,
                    "it spoke after its greeting",
                    shared,
                    now,
                );
            }
            Ok(_) | Err(_) => {
                info!(zone, client, "client detached");
                self.end(id, EndReason::DETACHED, "it detached", shared, now);
            }
        }
    }

    /// Assigns waiting arrivals to ready workers, first come first served.
    pub(super) fn match_up(&mut self, shared: &Shared, now: Instant) {
        if self.suspended.is_some() || self.unrest.blocked_until(now).is_some() {
            return;
        }
        let waiting: Vec<(u64, Hello)> = self
            .arrivals
            .iter()
            .filter_map(|(&id, arrival)| match &arrival.state {
                State::Waiting(hello) => Some((id, **hello)),
                State::Silent { .. } | State::Asking => None,
            })
            .collect();
        for (id, hello) in waiting {
            // Asked again for each: every one that comes in leaves more to be recorded.
            if self.recorder.is_crowded(&self.config.name) {
                return;
            }
            // One whose worker still ends counts: its memory is not free yet.
            while self.occupied() < self.grant.clients as usize {
                let ready: Vec<(WorkerId, Ready)> = self
                    .workers
                    .iter()
                    .filter_map(|(&id, worker)| match worker.phase {
                        Phase::Ready { ready, .. } => Some((id, ready)),
                        _ => None,
                    })
                    .collect();
                if ready.is_empty() {
                    return;
                }
                let Some(&(worker, said)) = ready
                    .iter()
                    .find(|(_, said)| said.table_hash == hello.table_hash)
                else {
                    let text = "this libvgpu was built from another version of the call table than the proxy; install the libvgpu that matches the proxy";
                    self.refuse(id, RefusalCode::WRONG_TABLE, text, now);
                    break;
                };
                let masks = [hello.window_mask, said.window_mask];
                let Some(window) =
                    common_candidate(&masks).and_then(|index| u32::try_from(index).ok())
                else {
                    let text = "program and worker have no free address range in common for pinned memory; is the program's address space limited (ulimit -v) or full?";
                    self.refuse(id, RefusalCode::NO_COMMON_WINDOW, text, now);
                    break;
                };
                if self.assign(id, &hello, worker, said, window, shared, now) {
                    break;
                }
            }
        }
    }

    /// Gives a waiting arrival to a ready worker; false if that worker turned out to be of no use.
    #[allow(
        clippy::too_many_arguments,
        reason = "one caller; they are what was just found out"
    )]
    pub(super) fn assign(
        &mut self,
        arrival: u64,
        hello: &Hello,
        id: WorkerId,
        ready: Ready,
        window: u32,
        shared: &Shared,
        now: Instant,
    ) -> bool {
        let mut limits = Limits {
            arena_bytes: self.grant.pinned,
            ..Limits::default()
        };
        self.grant.limits.apply(&mut limits);
        let welcome = Welcome {
            header: Header::new(MessageKind::WELCOME),
            client_id: shared.id(),
            capabilities: hello.capabilities & self.grant.groups,
            memory_limit: self.grant.memory,
            limits,
            window,
            driver_kind: ready.driver_kind,
            driver_version: ready.driver_version,
            device_count: ready.device_count,
        };
        let assign = Assign {
            client_id: welcome.client_id,
            capabilities: welcome.capabilities,
            memory_limit: welcome.memory_limit,
            credit_chunk: credit_chunk(self.grant.memory),
            context_overhead: self.grant.limits.context_overhead.unwrap_or(0),
            images: self.grant.limits.images.unwrap_or(u64::MAX),
            limits,
            window,
            stuck_after_millis: self.config.stuck_after.map_or(0, |limit| {
                // The configuration allows no more than a day.
                u32::try_from(limit.as_millis()).unwrap_or(u32::MAX)
            }),
            zone: Text::new(&self.config.name),
            program: hello.name,
        };
        let made = Handover::create(welcome).and_then(|memory| {
            let worker = self
                .workers
                .get(&id)
                .map_or(0, |worker| worker.process.pid());
            let detail = match self.grant.audit {
                Audit::Every => Detail::Every,
                Audit::Summary => Detail::Summary,
            };
            let (zone, client) = (&self.config.name, welcome.client_id);
            let page = self.recorder.open_page(zone, client, worker, detail);
            Ok((memory, page.map_err(|error| error.to_string())?))
        });
        let (memory, page) = match made {
            Ok(made) => made,
            Err(text) => {
                error!(
                    zone = self.config.name,
                    text, "cannot make a client's memory"
                );
                self.refuse(
                    arrival,
                    RefusalCode::NO_WORKER,
                    &format!("no memory: {text}"),
                    now,
                );
                return true;
            }
        };
        let (handover, status, stats) = &memory;
        let files = [
            handover.control.as_fd(),
            handover.arena.as_fd(),
            handover.status.as_fd(),
            stats.as_fd(),
        ];
        status.set_capabilities(welcome.capabilities);
        status.set_memory(self.ledger.limit(), self.ledger.used(), self.ledger.room());
        let Some(worker) = self.workers.get_mut(&id) else {
            self.recorder.finish_page(welcome.client_id);
            return false;
        };
        let sent = worker.channel.as_ref().map(|channel| {
            if let Some(page) = &page {
                channel.record(page)?;
            }
            channel.assign(&assign, files)
        });
        if !matches!(sent, Some(Ok(()))) {
            self.recorder.finish_page(welcome.client_id);
            self.condemn(id, "the worker did not take its client", shared, now);
            return false;
        }
        if let Some(arrival) = self.arrivals.remove(&arrival) {
            worker.session = Some(Session::new(arrival, hello, now, memory));
            worker.phase = Phase::Attaching {
                deadline: now + shared.proxy.start_timeout,
            };
        }
        true
    }

    pub(super) fn refuse(&mut self, id: u64, code: RefusalCode, text: &str, now: Instant) {
        let Some(arrival) = self.arrivals.remove(&id) else {
            return;
        };
        turn_away(&arrival.socket, code, text);
        self.refused_total += 1;
        if let Some(suppressed) = self.refusals.pass(now) {
            let peer = arrival.peer;
            audit::refused(
                &self.recorder,
                &self.config.name,
                &arrival,
                text,
                suppressed,
            );
            warn!(
                zone = self.config.name,
                pid = peer.pid,
                uid = peer.uid,
                suppressed,
                "client refused: {text}"
            );
        }
    }

    pub(super) fn refuse_all(&mut self, code: RefusalCode, text: &str, now: Instant) {
        let waiting = self
            .arrivals
            .iter()
            .filter(|(_, arrival)| !matches!(arrival.state, State::Silent { .. }));
        for id in waiting.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.refuse(id, code, text, now);
        }
    }
}

/// How much a worker asks for at a time: coarse enough to be rare, fine enough that what idle workers keep
/// does not starve the others.
fn credit_chunk(memory: u64) -> u64 {
    (memory / 256).clamp(1 << 20, 64 << 20)
}
