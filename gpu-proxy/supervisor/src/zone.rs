//! One zone: its socket, the clients that come to it, its workers, its ledger.
//!
//! A connection first is an *arrival*: silent until it greets, then waiting for a worker. A worker starts,
//! becomes ready, is assigned one arrival (which becomes its *session*), serves it, and ends. Whichever of
//! the two goes first, the other follows; the worker's credit returns when its process has been seen to end.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cuda_abi::function::Group;
use idm_protocol::attach::RefusalCode;
use idm_protocol::status::EndReason;
use nix::errno::Errno;
use nix::sys::socket::SockType;
use proxy_channel::admin;
use proxy_channel::jail::{Mode, Report};
use proxy_channel::stats::Snapshot;
use proxy_policy::{Policy, group_names};
use tracing::{info, warn};

use crate::audit::Recorder;
use crate::backoff::Backoff;
use crate::cgroups::{Bounds, Cgroup, Cgroups};
use crate::config::{ProxyConfig, ZoneConfig};
use crate::devices::Devices as DeviceStates;
use crate::driver::Driver;
use crate::launch::Fallback;
use crate::ledger::host::Seat;
use crate::ledger::{Ledger, WorkerId};
use crate::listener::{Access, ListenError, Listener, private_folder};
use crate::namespaces::Network;
use crate::process::describe;
use crate::reservations::Capacity;
use crate::shares::Shares;
use crate::throttle::Throttle;

mod arrival;
mod audit;
mod clients;
mod denied;
mod dirt;
pub mod grant;
mod holders;
mod jail;
mod reconcile;
mod shares;
mod spare;
mod survey;
mod view;
mod worker;
mod workers;

use arrival::{Arrival, State};
use dirt::Unrest;
use grant::Grant;
use survey::Devices;
use view::View;
use worker::{Phase, Session, Worker};

/// Connections of one zone that wait for something; more stay in the kernel's queue.
const MAX_ARRIVALS: usize = 64;

/// A worker that was ready for so long and then dies did not fail to start.
const SETTLED: Duration = Duration::from_secs(10);

/// Messages taken from one worker before the others have their turn.
const MESSAGES_AT_ONCE: usize = 32;

/// Lines about refused clients in ten seconds, and as many about refused calls.
const MAX_REFUSAL_LINES: u32 = 20;

/// What all zones share.
#[derive(Debug)]
pub struct Shared {
    /// `[proxy]`
    pub proxy: ProxyConfig,
    /// What the workers load.
    pub driver: Driver,
    /// How much of the jail they get.
    pub jail: Mode,
    /// Environment of the workers.
    pub environment: Vec<(String, String)>,
    /// Whether users, groups and owners can be set.
    pub root: bool,
    /// Version and device count, as the last worker that became ready told.
    pub seen: Cell<Option<(u32, u32)>>,
    /// Next id of a client, an arrival or a worker.
    pub next_id: Cell<u64>,
    /// What may be granted of each device.
    pub devices: Vec<Capacity>,
    /// Has things recorded.
    pub recorder: Recorder,
    /// Whether the devices' memory is clean.
    pub states: RefCell<DeviceStates>,
    /// What serves clients whose devices are lost, if it is there.
    pub fallback: Option<Fallback>,
    /// Where zones' workers are counted.
    pub cgroups: Cgroups,
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
    recorder: Recorder,
    /// Why what happens here cannot be recorded, where the configuration says that then nothing may happen.
    suspended: Option<&'static str>,
    /// As much of its clients is kept for the auditor as may be: new ones wait.
    crowded: bool,
    grant: Grant,
    socket_path: PathBuf,
    listener: Option<Listener>,
    accept_after: Option<Instant>,
    ledger: Ledger,
    shares: Shares,
    arrivals: BTreeMap<u64, Arrival>,
    workers: BTreeMap<WorkerId, Worker>,
    backoff: Backoff,
    unrest: Unrest,
    /// What its next clients get.
    view: View,
    /// What the last worker that became ready said of its driver.
    devices: Option<Devices>,
    /// What the last worker that became ready said of its jail.
    jail: Vec<Report>,
    /// What its workers have of a network, once one was started.
    network: Option<Result<Network, Errno>>,
    /// Where the kernel counts its workers, or why nowhere.
    cgroup: Result<Cgroup, String>,
    /// Since when there are more workers than clients could want.
    spare_since: Option<Instant>,
    refusals: Throttle,
    refused_calls: Throttle,
    denied: Throttle,
    attached_total: u64,
    refused_total: u64,
    ended: Ended,
    /// What clients did that have left.
    left: admin::Totals,
}

impl Zone {
    /// Listens for clients of the zone.
    pub fn open(
        config: ZoneConfig,
        policy: Option<&Policy>,
        seat: Seat,
        shared: &Shared,
    ) -> Result<Self, ListenError> {
        let grant = Grant::of(&config, policy);
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
        info!(zone, socket = %path.display(), memory = grant.memory, clients = grant.clients, allow = group_names(grant.groups), rule = grant.rule, "zone is open");
        Ok(Self {
            socket_path: path,
            listener: Some(listener),
            accept_after: None,
            ledger: Ledger::seated(grant.memory, seat),
            shares: Shares::default(),
            arrivals: BTreeMap::new(),
            workers: BTreeMap::new(),
            backoff: Backoff::default(),
            unrest: Unrest::default(),
            view: View::Devices(grant.devices.clone()),
            devices: None,
            jail: Vec::new(),
            network: None,
            cgroup: shared.cgroups.zone(
                &config.name,
                Bounds {
                    clients: grant.clients,
                    memory: config.host_memory,
                },
            ),
            spare_since: None,
            refusals: Throttle::new(MAX_REFUSAL_LINES),
            refused_calls: Throttle::new(MAX_REFUSAL_LINES),
            denied: Throttle::new(MAX_REFUSAL_LINES),
            attached_total: 0,
            refused_total: 0,
            ended: Ended::default(),
            left: admin::Totals::default(),
            grant,
            recorder: shared.recorder.clone(),
            suspended: None,
            crowded: false,
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
    pub fn next_deadline(&self, shared: &Shared, now: Instant) -> Option<Instant> {
        let arrivals = self
            .arrivals
            .values()
            .filter_map(|arrival| match arrival.state {
                State::Silent { deadline } => Some(deadline),
                State::Waiting(_) | State::Asking => None,
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
                _ => worker.process.stuck_from().filter(|_| !worker.is_stuck),
            });
        let retry = self
            .backoff
            .blocked_until(now)
            .filter(|_| self.listener.is_some());
        arrivals
            .chain(workers)
            .chain(retry)
            .chain(self.accept_after)
            .chain(self.next_dirt(shared, now))
            .chain(self.next_dismissal())
            .min()
    }

    /// Deadlines, then clients to workers, then new workers.
    pub fn tick(&mut self, shared: &Shared, now: Instant) {
        self.accept_after = self.accept_after.filter(|&after| after > now);
        self.expire(shared, now);
        self.heed_recorder(now);
        self.heed_losses(shared, now);
        self.answer_surveys();
        self.look_at_held(shared, now);
        self.match_up(shared, now);
        self.replenish(shared, now);
        self.publish_rates();
        // Also what neighbours on the device took or gave back.
        self.publish_memory();
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
            self.look_behind(&worker, status, shared, now);
            let (zone, pid) = (&self.config.name, worker.process.pid());
            self.shares.forget(id, &mut self.ledger);
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
                    // Its calls first, then its end.
                    self.recorder.finish_page(client);
                    session.record_left(zone);
                    let claims = session.snapshot();
                    let Snapshot {
                        calls, launches, ..
                    } = claims;
                    count(&mut self.left, &claims);
                    let named = session.audit_client(pid);
                    audit::detached(
                        &self.recorder,
                        zone,
                        named,
                        &how,
                        ending,
                        returned,
                        (calls, launches),
                    );
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
                    let text = format!("its worker died ({how})");
                    self.ended.finish(session, EndReason::WORKER_DIED, &text);
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
            audit::killed(
                &self.recorder,
                &self.config.name,
                worker,
                "an administrator asked twice",
            );
            worker.process.kill();
            if let Phase::Ending { killed, .. } = &mut worker.phase {
                *killed = true;
            }
        }
    }

    /// What the configuration says of it.
    #[must_use]
    pub fn config(&self) -> &ZoneConfig {
        &self.config
    }

    /// Whether no worker is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// The zone, for an administrator.
    #[must_use]
    pub fn status(&self, now: Instant) -> admin::Zone {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let mut totals = self.left;
        let clients = self.workers.iter().filter_map(|(&id, worker)| {
            let session = worker.session.as_ref()?;
            let claims = session.snapshot();
            count(&mut totals, &claims);
            Some(admin::Client {
                id: session.client_id,
                pid: session.peer.pid,
                uid: session.peer.uid,
                program: session.program.clone(),
                worker_pid: worker.process.pid(),
                state: if worker.is_stuck {
                    "stuck".into()
                } else {
                    worker.phase.name().into()
                },
                attached_seconds: now.saturating_duration_since(session.since).as_secs(),
                memory_granted: self.ledger.granted(id),
                memory_held: claims.memory_held,
                memory_measured: worker.measured.held,
                calls: claims.calls,
                launches: claims.launches,
                errors: claims.errors,
                paced_micros: claims.paced_micros,
                kernels: claims
                    .kernels
                    .into_iter()
                    .map(|(name, launches)| admin::Kernel { name, launches })
                    .collect(),
            })
        });
        let clients = clients.collect();
        admin::Zone {
            name: self.config.name.clone(),
            socket: self.socket_path.display().to_string(),
            memory_limit: self.ledger.limit(),
            memory_used: self.ledger.used(),
            memory_room: self.ledger.room(),
            pinned_limit: self.grant.pinned,
            client_limit: self.grant.clients,
            limits: self.grant.limits.list(),
            allow: Group::in_mask(self.grant.groups)
                .map(|group| group.name().to_owned())
                .collect(),
            rule: self.grant.rule.clone(),
            warm_workers: number(self.count(|phase| matches!(phase, Phase::Ready { .. }))),
            starting_workers: number(self.count(|phase| matches!(phase, Phase::Starting { .. }))),
            attached_total: self.attached_total,
            refused_total: self.refused_total,
            ended_total: self.ended.list(),
            totals,
            fallback: self.fallback_reason(),
            worker_failure: self.backoff.reason().map(str::to_owned),
            jail: self.jail_status(),
            clients,
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

/// Clients that had a worker and are over, by the reason, in the order of [`EndReason::NAMES`].
#[derive(Debug, Default)]
struct Ended([u64; EndReason::NAMES.len()]);

impl Ended {
    /// Has the client be over, and counts it once.
    fn finish(&mut self, session: &mut Session, reason: EndReason, text: &str) {
        if !session.finish(reason, text) {
            return;
        }
        let counts = EndReason::NAMES.iter().zip(&mut self.0);
        for (_, count) in counts.filter(|((name, _), _)| *name == reason) {
            *count += 1;
        }
    }

    fn list(&self) -> BTreeMap<String, u64> {
        let counts = EndReason::NAMES.iter().zip(self.0);
        counts
            .map(|((_, name), count)| ((*name).to_owned(), count))
            .collect()
    }
}

/// Adds what a worker claims to what others did.
fn count(totals: &mut admin::Totals, claims: &Snapshot) {
    let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
    add(&mut totals.calls, claims.calls);
    add(&mut totals.launches, claims.launches);
    add(&mut totals.errors, claims.errors);
    add(&mut totals.paced_micros, claims.paced_micros);
}
