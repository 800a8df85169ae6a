//! One zone: its socket, the clients that come to it, its workers, its ledger.
//!
//! A connection first is an *arrival*: silent until it greets, then waiting for a worker. A worker starts,
//! becomes ready, is assigned one arrival (which becomes its *session*), serves it, and ends. Whichever of
//! the two goes first, the other follows; the worker's credit returns when its process has been seen to end.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use idm_protocol::attach::{Capabilities, Header, Hello, MessageKind, RefusalCode, Text, Welcome};
use idm_protocol::layout::Limits;
use idm_protocol::status::EndReason;
use idm_protocol::window::common_candidate;
use nix::errno::Errno;
use nix::sys::socket::SockType;
use proxy_channel::admin;
use proxy_channel::args::WorkerArgs;
use proxy_channel::message::{Assign, Charge, FromWorker, Outcome, Ready, ToWorker, Verdict};
use proxy_channel::supervisor::{Received, SupervisorChannel};
use tracing::{debug, error, info, warn};

use crate::config::{ProxyConfig, ZoneConfig};
use crate::driver::Driver;
use crate::ledger::{Ledger, WorkerId};
use crate::listener::{Access, ListenError, Listener, private_folder};
use crate::process::{Launch, Process, describe};
use crate::relay::Relay;
use crate::throttle::Throttle;

mod arrival;
mod backoff;
mod worker;

use arrival::{Arrival, State, Step, turn_away};
use backoff::Backoff;
use worker::{Handover, Phase, Session, Worker};

/// Connections of one zone that wait for something; more stay in the kernel's queue.
const MAX_ARRIVALS: usize = 64;

/// A worker that was ready for so long and then dies did not fail to start.
const SETTLED: Duration = Duration::from_secs(10);

/// Messages taken from one worker before the others have their turn.
const MESSAGES_AT_ONCE: usize = 32;

/// Lines about refused clients in ten seconds.
const MAX_REFUSAL_LINES: u32 = 20;

/// What all zones share.
#[derive(Debug)]
pub struct Shared {
    /// `[proxy]`
    pub proxy: ProxyConfig,
    /// What the workers load.
    pub driver: Driver,
    /// Environment of the workers.
    pub environment: Vec<(String, String)>,
    /// Whether users, groups and owners can be set.
    pub root: bool,
    /// Version and device count, as the last worker that became ready told.
    pub seen: Cell<Option<(u32, u32)>>,
    /// Next id of a client, an arrival or a worker.
    pub next_id: Cell<u64>,
}

impl Shared {
    fn id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }
}

/// Something to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client connects.
    Listener,
    /// A client without a worker speaks or hangs up.
    Arrival(u64),
    /// A client with a worker hangs up.
    Client(WorkerId),
    /// A worker speaks or hangs up.
    Channel(WorkerId),
    /// A worker writes to its standard error.
    Stderr(WorkerId),
}

/// One zone.
#[derive(Debug)]
pub struct Zone {
    config: ZoneConfig,
    socket_path: PathBuf,
    listener: Option<Listener>,
    accept_after: Option<Instant>,
    ledger: Ledger,
    arrivals: BTreeMap<u64, Arrival>,
    workers: BTreeMap<WorkerId, Worker>,
    backoff: Backoff,
    refusals: Throttle,
    attached_total: u64,
    refused_total: u64,
}

impl Zone {
    /// Listens for clients of the zone.
    pub fn open(config: ZoneConfig, shared: &Shared) -> Result<Self, ListenError> {
        let path = config.socket(&shared.proxy.runtime_dir);
        private_folder(path.parent().unwrap_or(Path::new("/")))?;
        let zone = config.name.as_str();
        let (mut uid, mut gid) = (config.uid, config.gid);
        if !shared.root {
            let own = nix::unistd::Uid::effective().as_raw();
            if uid.is_some_and(|uid| uid != own) || gid.is_some() {
                warn!(
                    zone,
                    "not root: the socket keeps the proxy's own user and group; uid is still checked on attach"
                );
            }
            if config.worker_uid.is_some() || config.worker_gid.is_some() {
                warn!(
                    zone,
                    "not root: workers run as the proxy's own user; worker_uid and worker_gid are ignored"
                );
            }
            (uid, gid) = (None, None);
        }
        let listener = Listener::open(
            &path,
            SockType::SeqPacket,
            Access {
                mode: config.mode,
                uid,
                gid,
            },
        )?;
        info!(zone, socket = %path.display(), memory = config.memory, clients = config.clients, "zone is open");
        Ok(Self {
            socket_path: path,
            listener: Some(listener),
            accept_after: None,
            ledger: Ledger::new(config.memory),
            arrivals: BTreeMap::new(),
            workers: BTreeMap::new(),
            backoff: Backoff::default(),
            refusals: Throttle::new(MAX_REFUSAL_LINES),
            attached_total: 0,
            refused_total: 0,
            config,
        })
    }

    /// Everything to poll. The listener comes last, so that a client that left makes room before the next
    /// one is judged.
    pub fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>)> {
        let workers = self.workers.iter().flat_map(|(&id, worker)| {
            let client = worker
                .session
                .as_ref()
                .and_then(|session| session.socket.as_ref());
            [
                client.map(|socket| (Source::Client(id), socket.as_fd())),
                worker
                    .channel
                    .as_ref()
                    .map(|channel| (Source::Channel(id), channel.as_fd())),
                worker
                    .stderr
                    .as_ref()
                    .map(|relay| (Source::Stderr(id), relay.as_fd())),
            ]
            .into_iter()
            .flatten()
        });
        let arrivals = self
            .arrivals
            .iter()
            .map(|(&id, arrival)| (Source::Arrival(id), arrival.socket.as_fd()));
        let open = self.arrivals.len() < MAX_ARRIVALS && self.accept_after.is_none();
        let listener = self.listener.as_ref().filter(|_| open);
        workers
            .chain(arrivals)
            .chain(listener.map(|listener| (Source::Listener, listener.as_fd())))
    }

    /// A source is ready.
    pub fn on(&mut self, source: Source, shared: &Shared, now: Instant) {
        match source {
            Source::Listener => self.accept(shared, now),
            Source::Arrival(id) => self.hear_arrival(id, now),
            Source::Client(id) => self.hear_client(id, shared, now),
            Source::Channel(id) => self.hear_worker(id, shared, now),
            Source::Stderr(id) => self.relay(id, now),
        }
    }

    /// When [`Zone::tick`] has something to do.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let arrivals = self
            .arrivals
            .values()
            .filter_map(|arrival| match arrival.state {
                State::Silent { deadline } => Some(deadline),
                State::Waiting(_) => None,
            });
        let workers = self
            .workers
            .values()
            .filter_map(|worker| match worker.phase {
                Phase::Starting { deadline } | Phase::Attaching { deadline } => Some(deadline),
                Phase::Ending {
                    kill_at,
                    killed: false,
                } => Some(kill_at),
                _ => None,
            });
        let retry = self
            .backoff
            .blocked_until(now)
            .filter(|_| self.listener.is_some());
        arrivals
            .chain(workers)
            .chain(retry)
            .chain(self.accept_after)
            .min()
    }

    /// Deadlines, then clients to workers, then new workers.
    pub fn tick(&mut self, shared: &Shared, now: Instant) {
        self.accept_after = self.accept_after.filter(|&after| after > now);
        self.expire(shared, now);
        self.match_up(shared, now);
        self.replenish(shared, now);
        let hopeless =
            self.count(|phase| matches!(phase, Phase::Starting { .. } | Phase::Ready { .. })) == 0;
        if hopeless && let Some(reason) = self.backoff.refusal(now) {
            let text = format!("no worker: {reason}");
            self.refuse_all(RefusalCode::NO_WORKER, &text, now);
        }
    }

    /// Looks after workers that have ended.
    pub fn reap(&mut self, shared: &Shared, now: Instant) {
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            let Some(status) = self
                .workers
                .get_mut(&id)
                .and_then(|worker| worker.process.ended())
            else {
                continue;
            };
            // Its last words first.
            while self.hear_worker_once(id, shared, now) {}
            self.relay(id, now);
            let Some(mut worker) = self.workers.remove(&id) else {
                continue;
            };
            let ending = matches!(worker.phase, Phase::Ending { .. });
            let how = describe(status);
            let (zone, pid) = (&self.config.name, worker.process.pid());
            let returned = self.ledger.close(id);
            match &mut worker.session {
                None if ending => info!(zone, worker = pid, how, "worker ended"),
                None => {
                    let what = match worker.phase {
                        Phase::Ready { .. } => "the worker died while it waited for a client",
                        _ => "the worker died before it was ready",
                    };
                    self.judge(&mut worker, now, &format!("{what} ({how})"));
                }
                Some(session) => {
                    let client = session.client_id;
                    let Snapshot { calls, launches } = Snapshot::of(session);
                    if ending {
                        info!(
                            zone,
                            client,
                            worker = pid,
                            how,
                            calls,
                            launches,
                            returned,
                            "worker ended"
                        );
                    } else {
                        warn!(
                            zone,
                            client,
                            worker = pid,
                            how,
                            calls,
                            launches,
                            returned,
                            "worker died"
                        );
                    }
                    session.finish(EndReason::WORKER_DIED, &format!("its worker died ({how})"));
                    if matches!(worker.phase, Phase::Attaching { .. }) {
                        self.judge(
                            &mut worker,
                            now,
                            &format!("the worker died while attaching ({how})"),
                        );
                    }
                }
            }
            self.publish_memory();
        }
    }

    /// Turns arrivals away, closes the socket, and tells all workers to stop.
    pub fn stop(&mut self, shared: &Shared, now: Instant) {
        if self.listener.take().is_some() {
            // Somebody else's files may be in it; then it stays.
            let _ = self.socket_path.parent().map(fs::remove_dir);
        }
        self.refuse_all(
            RefusalCode::SHUTTING_DOWN,
            "the proxy is shutting down",
            now,
        );
        self.arrivals.clear();
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            self.end(
                id,
                EndReason::SHUTDOWN,
                "the proxy is shutting down",
                shared,
                now,
            );
        }
    }

    /// Kills all workers.
    pub fn kill(&mut self) {
        for worker in self.workers.values_mut() {
            worker.process.kill();
            if let Phase::Ending { killed, .. } = &mut worker.phase {
                *killed = true;
            }
        }
    }

    /// Whether no worker is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// The zone, for an administrator.
    #[must_use]
    pub fn status(&self, now: Instant) -> admin::Zone {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let clients = self.workers.iter().filter_map(|(&id, worker)| {
            let session = worker.session.as_ref()?;
            let claims = session.snapshot();
            Some(admin::Client {
                id: session.client_id,
                pid: session.peer.pid,
                uid: session.peer.uid,
                program: session.program.clone(),
                worker_pid: worker.process.pid(),
                state: worker.phase.name().into(),
                attached_seconds: now.saturating_duration_since(session.since).as_secs(),
                memory_granted: self.ledger.granted(id),
                memory_held: claims.memory_held,
                calls: claims.calls,
                launches: claims.launches,
                errors: claims.errors,
                kernels: claims
                    .kernels
                    .into_iter()
                    .map(|(name, launches)| admin::Kernel { name, launches })
                    .collect(),
            })
        });
        admin::Zone {
            name: self.config.name.clone(),
            socket: self.socket_path.display().to_string(),
            memory_limit: self.ledger.limit(),
            memory_used: self.ledger.used(),
            pinned_limit: self.config.pinned,
            client_limit: self.config.clients,
            warm_workers: count(self.count(|phase| matches!(phase, Phase::Ready { .. }))),
            starting_workers: count(self.count(|phase| matches!(phase, Phase::Starting { .. }))),
            attached_total: self.attached_total,
            refused_total: self.refused_total,
            worker_failure: self.backoff.reason().map(str::to_owned),
            clients: clients.collect(),
        }
    }

    fn accept(&mut self, shared: &Shared, now: Instant) {
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

    fn hear_arrival(&mut self, id: u64, now: Instant) {
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
            Step::Greeted(hello) => {
                let ZoneConfig {
                    uid: allowed,
                    clients,
                    ref name,
                    ..
                } = self.config;
                let uid = arrival.peer.uid;
                if allowed.is_some_and(|allowed| allowed != uid) {
                    let text = format!("zone \"{name}\" is not for user {uid}");
                    self.refuse(id, RefusalCode::UID_NOT_ALLOWED, &text, now);
                } else if self.live_clients() >= clients as usize {
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

    /// A client with a worker says nothing until it goes; one that does say something goes too.
    fn hear_client(&mut self, id: WorkerId, shared: &Shared, now: Instant) {
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

    fn hear_worker(&mut self, id: WorkerId, shared: &Shared, now: Instant) {
        for _ in 0..MESSAGES_AT_ONCE {
            if !self.hear_worker_once(id, shared, now) {
                return;
            }
        }
    }

    /// Takes one message of a worker; false if there was none.
    fn hear_worker_once(&mut self, id: WorkerId, shared: &Shared, now: Instant) -> bool {
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

    fn obey(&mut self, id: WorkerId, message: &FromWorker, shared: &Shared, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let (zone, pid) = (self.config.name.as_str(), worker.process.pid());
        match (worker.phase, message) {
            (Phase::Ending { .. }, _) => {}
            (Phase::Starting { .. }, &FromWorker::Ready(ready)) => {
                let Ready {
                    driver_kind,
                    driver_version,
                    device_count,
                    init_micros,
                    ..
                } = ready;
                let kind = driver_kind.name();
                info!(zone, worker = pid, driver = kind, path = %ready.driver_path, why = %ready.why,
                    version = driver_version, devices = device_count, init_micros, "worker is ready");
                shared.seen.set(Some((driver_version, device_count)));
                worker.phase = Phase::Ready { ready, since: now };
            }
            (Phase::Starting { .. } | Phase::Ready { .. }, FromWorker::Failed { text }) => {
                let text = text.to_string();
                self.condemn(id, &text, shared, now);
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
            (_, &FromWorker::Ended { text, violation }) => {
                let client = worker.session.as_ref().map(|session| session.client_id);
                warn!(zone, client, worker = pid, violation, reason = %text, "worker ends");
                let reason = if violation {
                    EndReason::VIOLATION
                } else {
                    EndReason::WORKER_DIED
                };
                self.judge_start(id, now, &text.to_string());
                self.end(id, reason, &text.to_string(), shared, now);
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

    fn welcome(&mut self, id: WorkerId, shared: &Shared, now: Instant) {
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

    fn charge(&mut self, id: WorkerId, charge: Charge, shared: &Shared, now: Instant) {
        let outcome = match self.ledger.charge(id, charge.bytes) {
            Ok(()) => Outcome::Granted,
            Err(over) => {
                debug!(zone = self.config.name, worker = id.0, %over, "charge refused");
                Outcome::Refused {
                    limit: over.limit,
                    used: over.used,
                }
            }
        };
        let verdict = ToWorker::Verdict(Verdict {
            request_id: charge.request_id,
            outcome,
        });
        let sent = self
            .workers
            .get(&id)
            .and_then(|worker| worker.channel.as_ref())
            .map_or(Ok(()), |channel| channel.send(&verdict));
        self.publish_memory();
        if let Err(fault) = sent {
            warn!(zone = self.config.name, worker = id.0, %fault, "worker is ended");
            self.condemn(id, &fault.to_string(), shared, now);
            self.kill_now(id);
        }
    }

    /// Assigns waiting arrivals to ready workers, first come first served.
    fn match_up(&mut self, shared: &Shared, now: Instant) {
        let waiting: Vec<(u64, Hello)> = self
            .arrivals
            .iter()
            .filter_map(|(&id, arrival)| match &arrival.state {
                State::Waiting(hello) => Some((id, **hello)),
                State::Silent { .. } => None,
            })
            .collect();
        for (id, hello) in waiting {
            // One whose worker still ends counts: its memory is not free yet.
            while self.occupied() < self.config.clients as usize {
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
    fn assign(
        &mut self,
        arrival: u64,
        hello: &Hello,
        id: WorkerId,
        ready: Ready,
        window: u32,
        shared: &Shared,
        now: Instant,
    ) -> bool {
        let limits = Limits {
            arena_bytes: self.config.pinned,
            ..Limits::default()
        };
        let welcome = Welcome {
            header: Header::new(MessageKind::WELCOME),
            client_id: shared.id(),
            capabilities: hello.capabilities & Capabilities::ALL,
            memory_limit: self.config.memory,
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
            credit_chunk: credit_chunk(self.config.memory),
            limits,
            window,
            reserved: 0,
            zone: Text::new(&self.config.name),
            program: hello.name,
        };
        let memory = match Handover::create(welcome) {
            Ok(memory) => memory,
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
        status.set_memory(self.ledger.limit(), self.ledger.used());
        let Some(worker) = self.workers.get_mut(&id) else {
            return false;
        };
        let sent = worker
            .channel
            .as_ref()
            .map(|channel| channel.assign(&assign, files));
        if !matches!(sent, Some(Ok(()))) {
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

    /// Starts workers until as many are warm as should be and every waiting client will have one.
    fn replenish(&mut self, shared: &Shared, now: Instant) {
        if self.listener.is_none() || self.backoff.blocked_until(now).is_some() {
            return;
        }
        let room = (self.config.clients as usize).saturating_sub(self.occupied());
        let wanted = room.min(self.config.warm_workers as usize + self.waiting_clients());
        let have =
            self.count(|phase| matches!(phase, Phase::Starting { .. } | Phase::Ready { .. }));
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

    fn start_worker(&mut self, shared: &Shared, now: Instant) -> std::io::Result<()> {
        let (channel, far) = SupervisorChannel::pair()?;
        let Driver { kind, path, why } = &shared.driver;
        let args = WorkerArgs {
            zone: self.config.name.clone(),
            driver_kind: *kind,
            driver_path: path.clone(),
            why: why.clone(),
        };
        let mut environment = shared.environment.clone();
        if let Some(devices) = &self.config.devices {
            let list: Vec<String> = devices.iter().map(u32::to_string).collect();
            environment.push(("CUDA_VISIBLE_DEVICES".into(), list.join(",")));
        }
        let launch = Launch {
            executable: shared.proxy.worker.clone(),
            args: args.to_args(),
            environment,
            uid: self.config.worker_uid.filter(|_| shared.root),
            gid: self.config.worker_gid.filter(|_| shared.root),
        };
        let (process, stderr) = Process::start(&launch, far.as_fd())?;
        debug!(
            zone = self.config.name,
            worker = process.pid(),
            "worker started"
        );
        let worker = Worker {
            process,
            channel: Some(channel),
            stderr: Some(Relay::new(stderr)?),
            phase: Phase::Starting {
                deadline: now + shared.proxy.start_timeout,
            },
            session: None,
            started: now,
            judged: false,
        };
        self.workers.insert(WorkerId(shared.id()), worker);
        Ok(())
    }

    fn expire(&mut self, shared: &Shared, now: Instant) {
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
                    worker.process.kill();
                }
                _ => {}
            }
        }
    }

    /// A worker failed its zone: its client is told, the back-off counts it if it never served one, and it
    /// is told to stop.
    fn condemn(&mut self, id: WorkerId, text: &str, shared: &Shared, now: Instant) {
        self.judge_start(id, now, text);
        self.end(id, EndReason::WORKER_DIED, text, shared, now);
    }

    fn judge_start(&mut self, id: WorkerId, now: Instant, text: &str) {
        // Taken out for a moment, since judging needs the zone too.
        if let Some(mut worker) = self.workers.remove(&id) {
            self.judge(&mut worker, now, text);
            self.workers.insert(id, worker);
        }
    }

    fn judge(&mut self, worker: &mut Worker, now: Instant, text: &str) {
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
    fn end(&mut self, id: WorkerId, reason: EndReason, text: &str, shared: &Shared, now: Instant) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if let Some(session) = &mut worker.session {
            session.finish(reason, text);
        }
        if matches!(worker.phase, Phase::Ending { .. }) {
            return;
        }
        if let Some(channel) = &worker.channel {
            // One that does not take it is killed when the grace is over.
            let _ = channel.send(&ToWorker::Stop);
        }
        worker.judged = true;
        worker.phase = Phase::Ending {
            kill_at: now + shared.proxy.stop_grace,
            killed: false,
        };
    }

    fn kill_now(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.process.kill();
            if let Phase::Ending { killed, .. } = &mut worker.phase {
                *killed = true;
            }
        }
    }

    fn refuse(&mut self, id: u64, code: RefusalCode, text: &str, now: Instant) {
        let Some(arrival) = self.arrivals.remove(&id) else {
            return;
        };
        turn_away(&arrival.socket, code, text);
        self.refused_total += 1;
        if let Some(suppressed) = self.refusals.pass(now) {
            let peer = arrival.peer;
            warn!(
                zone = self.config.name,
                pid = peer.pid,
                uid = peer.uid,
                suppressed,
                "client refused: {text}"
            );
        }
    }

    fn refuse_all(&mut self, code: RefusalCode, text: &str, now: Instant) {
        let waiting = self
            .arrivals
            .iter()
            .filter(|(_, arrival)| matches!(arrival.state, State::Waiting(_)));
        for id in waiting.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.refuse(id, code, text, now);
        }
    }

    fn relay(&mut self, id: WorkerId, now: Instant) {
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
    fn publish_memory(&self) {
        for session in self
            .workers
            .values()
            .filter_map(|worker| worker.session.as_ref())
        {
            session
                .status
                .set_memory(self.ledger.limit(), self.ledger.used());
        }
    }

    /// Workers that belong to a client, be it gone.
    fn occupied(&self) -> usize {
        self.workers
            .values()
            .filter(|worker| worker.session.is_some())
            .count()
    }

    fn waiting_clients(&self) -> usize {
        self.arrivals
            .values()
            .filter(|arrival| matches!(arrival.state, State::Waiting(_)))
            .count()
    }

    /// Clients that are there, with a worker or waiting for one.
    fn live_clients(&self) -> usize {
        let live = |worker: &&Worker| worker.session.as_ref().is_some_and(Session::is_live);
        self.workers.values().filter(live).count() + self.waiting_clients()
    }

    fn count(&self, which: impl Fn(&Phase) -> bool) -> usize {
        self.workers
            .values()
            .filter(|worker| which(&worker.phase))
            .count()
    }
}

/// How much a worker asks for at a time: coarse enough to be rare, fine enough that what idle workers keep
/// does not starve the others.
fn credit_chunk(memory: u64) -> u64 {
    (memory / 256).clamp(1 << 20, 64 << 20)
}

/// The two numbers that a worker's end is logged with.
struct Snapshot {
    calls: u64,
    launches: u64,
}

impl Snapshot {
    fn of(session: &Session) -> Self {
        let claims = session.snapshot();
        Self {
            calls: claims.calls,
            launches: claims.launches,
        }
    }
}
