//! The poll loop.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Uid;
use proxy_audit::event::Event;
use proxy_audit::text::Text;
use proxy_channel::DriverKind;
use proxy_channel::admin as report;
use proxy_policy::document::{Mistake, Mistakes};
use proxy_policy::{Policy, Unusable};
use thiserror::Error;
use tracing::{info, warn};

use crate::admin::{self, Admin};
use crate::api::Api;
use crate::audit::{AuditError, Recorder};
use crate::cgroups::Cgroups;
use crate::config::{
    Config, DriverConfig, DriverSelection, Installation, LogLevel, MonitorMode, ProxyConfig,
    ZoneConfig, name_of,
};
use crate::devices::Devices;
use crate::driver::{Driver, DriverError};
use crate::launch::{Fallback, SHARED_SOFTWARE_GPU};
use crate::ledger::host::{Host, Seat};
use crate::listener::{ListenError, private_folder};
use crate::monitor::Monitor;
use crate::process::{self, UNKILLABLE};
use crate::reservations::{self, Capacity, Claim};
use crate::scrub::{self, Scrubbers};
use crate::signals::Signals;
use crate::zone::grant::Grant;
use crate::zone::{self, Shared, Zone};

/// The supervisor, listening.
#[derive(Debug)]
pub struct Server {
    shared: Shared,
    zones: Vec<Zone>,
    scrubbers: Scrubbers,
    monitor: Monitor,
    policy: Option<Policy>,
    /// The administrator's socket, and the api's.
    admin: Vec<Admin>,
    api: Option<Api>,
    signals: Signals,
    started: Instant,
    stop: Option<Stop>,
    /// Keeps a second supervisor out of the folder.
    _lock: File,
}

#[derive(Clone, Copy, Debug)]
struct Stop {
    give_up_at: Instant,
    killed: bool,
    /// The end was recorded.
    is_recorded: bool,
}

/// Why the supervisor cannot serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// No driver library.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A socket cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is no worker to start.
    #[error(
        "there is no worker to start: {0}; install vgpu-worker beside gpu-proxy, or set proxy.worker"
    )]
    Worker(String),
    /// The policy file cannot be read or is wrong.
    #[error("the policy is not usable\n{0}")]
    Policy(#[from] Unusable),
    /// There is no auditor to start.
    #[error(
        "there is no auditor to start: {0}; install vgpu-auditor beside gpu-proxy, or set audit.auditor"
    )]
    Auditor(String),
    /// There is no monitor to start.
    #[error(
        "there is no monitor to start: {0}; install vgpu-monitor beside gpu-proxy, set monitor.monitor, or set monitor.mode = \"off\""
    )]
    Monitor(String),
    /// There is no api to start.
    #[error(
        "there is no api to start: {0}; install vgpu-api beside gpu-proxy, set api.api, or remove [api]"
    )]
    Api(String),
    /// The auditor cannot be started.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Another supervisor uses the folder.
    #[error("another gpu-proxy uses {}; stop it, or set another proxy.runtime_dir", .0.display())]
    Locked(PathBuf),
    /// A system call failed.
    #[error("cannot {0}: {1}")]
    System(&'static str, io::Error),
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Signals,
    Zone(usize, zone::Source),
    Scrub(scrub::Source),
    /// Which of the sockets.
    Admin(usize, admin::Source),
    Audit {
        is_blocked: bool,
    },
    Monitor,
    Api,
}

impl Server {
    /// Opens everything; from here on clients are served by [`Server::run`]. Call it while the process has
    /// one thread, since it blocks signals for the calling one.
    pub fn open(config: Config, installation: &Installation) -> Result<Self, ServeError> {
        let system = |what| move |errno: Errno| ServeError::System(what, errno.into());
        let Config {
            proxy,
            driver,
            devices,
            audit,
            monitor,
            api,
            zones,
        } = config;
        let policy = read_policy(&proxy, &devices, &zones)?;
        let signals = Signals::new().map_err(system("collect signals"))?;
        raise_descriptor_limit();
        private_folder(&proxy.runtime_dir)?;
        let lock = lock(&proxy.runtime_dir)?;
        let mut environment: Vec<(String, String)> = driver.env.clone().into_iter().collect();
        if !driver.env.contains_key("RUST_LOG") {
            let level = name_of(&LogLevel::NAMES, proxy.log_level);
            environment.push(("RUST_LOG".into(), level.into()));
        }
        let configured = driver;
        let driver = Driver::choose(&configured, Path::new("/"), &installation.executable_dir)?;
        let jail = configured.jail(driver.kind);
        info!(kind = driver.kind.name(), path = %driver.path.display(), why = driver.why, jail = jail.name(), "driver chosen");
        process::executable(&proxy.worker).map_err(ServeError::Worker)?;
        let root = Uid::effective().is_root();
        if !root {
            info!("not root: users, groups and owners stay as they are");
        }
        if policy.is_none() {
            info!(
                "no policy is configured: every zone may call everything (proxy.policy names a file)"
            );
        }
        let mut admin = vec![Admin::open(&proxy.admin_socket)?];
        if let Some(audit) = &audit {
            process::executable(&audit.auditor).map_err(ServeError::Auditor)?;
        }
        if monitor.mode(driver.kind) != MonitorMode::Off {
            process::executable(&monitor.monitor).map_err(ServeError::Monitor)?;
        }
        let monitor = Monitor::new(monitor, &driver, environment.clone());
        let api = match api {
            Some(api) => {
                process::executable(&api.api).map_err(ServeError::Api)?;
                let socket = proxy.runtime_dir.join("status.sock");
                admin.push(Admin::open_status(&socket, api.uid)?);
                Some(Api::new(api, socket, environment.clone()))
            }
            None => None,
        };
        let recorder = Recorder::start(audit.as_ref())?;
        record_start(&recorder, &proxy, &driver, configured.kind);
        let is_shared =
            driver.kind != DriverKind::SOFTGPU || configured.env.contains_key(SHARED_SOFTWARE_GPU);
        let states = Devices::new(is_shared, proxy.scrub_patience);
        let fallback = fallback(&configured, &driver, installation);
        let (seen, next_id) = (Cell::new(None), Cell::new(1));
        let shared = Shared {
            proxy,
            driver,
            jail,
            environment,
            root,
            seen,
            next_id,
            devices,
            recorder,
            states: RefCell::new(states),
            fallback,
            cgroups: Cgroups::find(),
        };
        let places = zones
            .iter()
            .map(|zone| Grant::of(zone, policy.as_ref()).claim(&zone.name).place());
        let host = Rc::new(RefCell::new(Host::new(shared.devices.clone(), places)));
        let zones: Result<Vec<Zone>, ListenError> = zones
            .into_iter()
            .enumerate()
            .map(|(index, zone)| {
                let seat = Seat::new(Rc::clone(&host), index);
                Zone::open(zone, policy.as_ref(), seat, &shared)
            })
            .collect();
        Ok(Self {
            zones: zones?,
            scrubbers: Scrubbers::default(),
            monitor,
            policy,
            admin,
            api,
            signals,
            started: Instant::now(),
            stop: None,
            _lock: lock,
            shared,
        })
    }

    /// Serves until told to stop and all workers are gone.
    pub fn run(mut self) -> Result<(), ServeError> {
        info!(
            pid = std::process::id(),
            zones = self.zones.len(),
            "gpu-proxy serves"
        );
        loop {
            let now = Instant::now();
            for zone in &mut self.zones {
                zone.tick(&self.shared, now);
            }
            self.scrubbers.tick(&self.shared, now);
            self.monitor.tick(now);
            self.api.iter_mut().for_each(|api| api.tick(now));
            self.admin.iter_mut().for_each(|admin| admin.expire(now));
            self.shared.recorder.tick(now);
            if let Some(stop) = self.stop {
                if self.is_empty() && self.is_written_down() {
                    self.api.iter_mut().for_each(Api::stop);
                    self.shared.recorder.finish(UNKILLABLE);
                    info!("all workers have ended; bye");
                    return Ok(());
                }
                if now >= stop.give_up_at {
                    warn!("a killed worker or the auditor does not go on; leaving without it");
                    self.api.iter_mut().for_each(Api::stop);
                    self.shared.recorder.finish(Duration::ZERO);
                    return Ok(());
                }
            }
            for source in self.wait(now)? {
                self.serve(source);
            }
        }
    }

    fn wait(&self, now: Instant) -> Result<Vec<Source>, ServeError> {
        let zones = self.zones.iter().enumerate().flat_map(|(index, zone)| {
            zone.sources()
                .map(move |(source, fd)| (Source::Zone(index, source), fd))
        });
        let scrubbers = self.scrubbers.sources();
        let scrubbers = scrubbers.map(|(source, fd)| (Source::Scrub(source), fd));
        let admin = self.admin.iter().enumerate().flat_map(|(index, admin)| {
            let sources = admin.sources();
            sources.map(move |(source, fd)| (Source::Admin(index, source), fd))
        });
        let api = self.api.as_ref().and_then(Api::source);
        let signals = [(Source::Signals, self.signals.as_fd())];
        let audit = self.shared.recorder.source();
        let audit = audit.iter().map(|(fd, is_blocked)| {
            (
                Source::Audit {
                    is_blocked: *is_blocked,
                },
                fd.as_fd(),
            )
        });
        let watched: Vec<(Source, BorrowedFd<'_>)> = signals
            .into_iter()
            .chain(zones)
            .chain(scrubbers)
            .chain(admin)
            .chain(audit)
            .chain(self.monitor.source().map(|fd| (Source::Monitor, fd)))
            .chain(api.map(|fd| (Source::Api, fd)))
            .collect();
        let mut fds: Vec<PollFd<'_>> = watched
            .iter()
            .map(|&(source, fd)| {
                let flags = match source {
                    Source::Admin(_, admin::Source::Reply(_)) => PollFlags::POLLOUT,
                    Source::Audit { is_blocked: true } => PollFlags::POLLIN | PollFlags::POLLOUT,
                    _ => PollFlags::POLLIN,
                };
                PollFd::new(fd, flags)
            })
            .collect();
        let zones = self.zones.iter();
        let deadlines = zones.filter_map(|zone| zone.next_deadline(&self.shared, now));
        let deadlines = deadlines.chain(self.scrubbers.next_deadline(&self.shared, now));
        let deadlines = deadlines.chain(self.monitor.next_deadline(now));
        let api = self.api.iter();
        let deadlines = deadlines.chain(api.filter_map(|api| api.next_deadline(now)));
        let deadlines = deadlines.chain(self.admin.iter().filter_map(Admin::next_deadline));
        let deadlines = deadlines.chain(self.shared.recorder.next_deadline());
        let deadline = deadlines.chain(self.stop.map(|stop| stop.give_up_at)).min();
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            // Rounded up, so that the last wait is not a spin.
            let millis = deadline
                .saturating_duration_since(now)
                .as_micros()
                .div_ceil(1000);
            i32::try_from(millis)
                .ok()
                .and_then(|millis| PollTimeout::try_from(millis).ok())
                .unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR | Errno::EAGAIN) => return Ok(Vec::new()),
            Err(errno) => return Err(ServeError::System("poll", errno.into())),
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_none_or(|events| !events.is_empty());
        let pairs = watched.iter().zip(&fds);
        Ok(pairs
            .filter(|(_, fd)| ready(fd))
            .map(|(&(source, _), _)| source)
            .collect())
    }

    fn serve(&mut self, source: Source) {
        let now = Instant::now();
        match source {
            Source::Signals => self.obey_signals(now),
            Source::Scrub(source) => self.scrubbers.on(source, now),
            Source::Audit { .. } => self.shared.recorder.on_ready(now),
            Source::Monitor => {
                if let Some(sweep) = self.monitor.hear(now) {
                    let rule = self.monitor.rule();
                    for zone in &mut self.zones {
                        zone.reconcile(&sweep, rule, &self.shared, now);
                    }
                }
            }
            Source::Api => self.api.iter_mut().for_each(|api| api.hear(now)),
            Source::Zone(index, source) => {
                if let Some(zone) = self.zones.get_mut(index) {
                    zone.on(source, &self.shared, now);
                }
            }
            Source::Admin(index, source) => {
                let Self {
                    shared,
                    zones,
                    monitor,
                    policy,
                    admin,
                    api,
                    started,
                    stop,
                    ..
                } = self;
                // Plain data without maps or floats; writing it cannot fail, and if it did, an empty reply says so.
                let answer = |request, who: admin::Peer| match request {
                    admin::Request::Status => {
                        let stopping = stop.is_some();
                        let companions = (monitor.status(now), api.as_ref().map(Api::status));
                        let policy = policy.as_ref();
                        let status =
                            status(shared, zones, companions, policy, *started, stopping, now);
                        serde_json::to_vec(&status).unwrap_or_default()
                    }
                    admin::Request::Allocations(name) => {
                        shared
                            .recorder
                            .record_own(who.did(format!("asked for the allocations of {name}")));
                        let zone = zones.iter().find(|zone| zone.config().name == name);
                        let answer = report::Allocations {
                            schema: report::SCHEMA,
                            zone: zone.map(|zone| zone.config().name.clone()),
                            holders: zone.map_or_else(Vec::new, Zone::holders),
                        };
                        serde_json::to_vec(&answer).unwrap_or_default()
                    }
                    admin::Request::Reload => {
                        shared
                            .recorder
                            .record_own(who.did("had the policy reloaded".into()));
                        serde_json::to_vec(&reload(shared, zones, policy, now)).unwrap_or_default()
                    }
                };
                if let Some(admin) = admin.get_mut(index) {
                    admin.on(source, now, answer);
                }
            }
        }
    }

    /// Whether no worker is left, of any kind.
    fn is_empty(&self) -> bool {
        self.zones.iter().all(Zone::is_empty) && self.scrubbers.is_empty()
    }

    /// Whether the end was recorded too. Called when all else is over.
    fn is_written_down(&mut self) -> bool {
        if let Some(stop) = &mut self.stop
            && !std::mem::replace(&mut stop.is_recorded, true)
        {
            self.shared.recorder.record_own(Event::ProxyStopped {});
        }
        self.shared.recorder.is_settled()
    }

    fn obey_signals(&mut self, now: Instant) {
        let arrived = self.signals.take();
        if arrived.child {
            self.shared.recorder.reap();
            self.monitor.reap();
            self.api.iter_mut().for_each(Api::reap);
            for zone in &mut self.zones {
                zone.reap(&self.shared, now);
            }
            self.scrubbers.reap(&self.shared, now);
        }
        if arrived.reload {
            info!("SIGHUP: the policy is read again; the configuration is read at start only");
            reload(&self.shared, &mut self.zones, &mut self.policy, now);
        }
        for _ in 0..arrived.stop_count {
            let grace = self.shared.proxy.stop_grace;
            match &mut self.stop {
                None => {
                    info!(
                        ?grace,
                        "stopping: no new clients, all workers are told to end"
                    );
                    self.stop = Some(Stop {
                        give_up_at: now + grace + UNKILLABLE,
                        killed: false,
                        is_recorded: false,
                    });
                    self.scrubbers.stop();
                    self.monitor.stop();
                    for zone in &mut self.zones {
                        zone.stop(&self.shared, now);
                    }
                }
                Some(stop) if !stop.killed => {
                    warn!("second signal: all workers are killed");
                    stop.killed = true;
                    self.zones.iter_mut().for_each(Zone::kill);
                }
                Some(_) => {}
            }
        }
    }
}

/// Reads the policy that the configuration names, if it names one.
///
/// # Errors
/// It cannot be read, is wrong, or promises more than there is.
pub fn read_policy(
    proxy: &ProxyConfig,
    devices: &[Capacity],
    zones: &[ZoneConfig],
) -> Result<Option<Policy>, Unusable> {
    let Some(file) = &proxy.policy else {
        return Ok(None);
    };
    let policy = Policy::read(file)?;
    let names: Vec<&str> = zones.iter().map(|zone| zone.name.as_str()).collect();
    policy.check_zones(&names).map_err(Unusable::Wrong)?;
    let claims: Vec<Claim> = zones
        .iter()
        .map(|zone| Grant::of(zone, Some(&policy)).claim(&zone.name))
        .collect();
    let list: Vec<Mistake> = reservations::check(devices, &claims)
        .into_iter()
        .map(|problem| {
            let zone = claims.get(problem.claim).map_or("", |claim| &claim.zone);
            Mistake {
                // Of a zone that the policy does not name, the configuration speaks.
                line: policy.rule(zone).map_or(1, |rule| rule.line),
                key: format!("zone {zone}"),
                problem: problem.problem,
                remedy: problem.remedy,
            }
        })
        .collect();
    if !list.is_empty() {
        let file = policy.file.clone();
        return Err(Unusable::Wrong(Mistakes { file, list }));
    }
    Ok(Some(policy))
}

/// Reads the policy again and puts it into force, all of it or nothing.
fn reload(
    shared: &Shared,
    zones: &mut [Zone],
    policy: &mut Option<Policy>,
    now: Instant,
) -> report::Reload {
    let outcome = |done, changes, mistakes| report::Reload {
        schema: report::SCHEMA,
        done,
        file: shared
            .proxy
            .policy
            .as_ref()
            .map(|file| file.display().to_string()),
        changes,
        mistakes,
    };
    let configs: Vec<ZoneConfig> = zones.iter().map(|zone| zone.config().clone()).collect();
    match read_policy(&shared.proxy, &shared.devices, &configs) {
        Ok(None) => {
            let text = "no policy is configured: set proxy.policy in the configuration and restart gpu-proxy";
            warn!("policy not reloaded: {text}");
            outcome(false, Vec::new(), vec![text.into()])
        }
        Ok(Some(new)) => {
            let new = policy.insert(new);
            let changes: Vec<String> = zones
                .iter_mut()
                .filter_map(|zone| {
                    let change = zone.adopt(Some(new), shared, now)?;
                    let event = Event::QuotaChange {
                        change: Text::new(&change),
                    };
                    shared.recorder.record(&zone.config().name, event);
                    Some(change)
                })
                .collect();
            info!(file = %new.file.display(), changed_zones = changes.len(), "policy reloaded");
            record_reload(shared, true, &changes);
            outcome(true, changes, Vec::new())
        }
        Err(unusable) => {
            let mistakes: Vec<String> = unusable.to_string().lines().map(str::to_owned).collect();
            for mistake in &mistakes {
                warn!("policy rejected, the old one stays: {mistake}");
            }
            record_reload(shared, false, &mistakes);
            outcome(false, Vec::new(), mistakes)
        }
    }
}

fn record_reload(shared: &Shared, done: bool, lines: &[String]) {
    let file = shared.proxy.policy.as_deref().unwrap_or(Path::new(""));
    shared.recorder.record_own(Event::PolicyReload {
        file: Text::new(file.as_os_str().as_bytes()),
        done,
        lines: Event::lines(lines),
    });
}

/// The software GPU, should all devices of a zone be lost; the one that is configured, or the one beside this program.
fn fallback(
    configured: &DriverConfig,
    driver: &Driver,
    installation: &Installation,
) -> Option<Fallback> {
    let wanted = DriverConfig {
        kind: DriverSelection::Softgpu,
        library: configured
            .library
            .clone()
            .filter(|_| driver.kind == DriverKind::SOFTGPU),
        ..DriverConfig::default()
    };
    let found = Driver::choose(&wanted, Path::new("/"), &installation.executable_dir).ok()?;
    let jail = configured.jail(found.kind);
    let why = "the zone's devices are lost, and its policy says so".into();
    let driver = Driver { why, ..found };
    Some(Fallback { driver, jail })
}

fn record_start(
    recorder: &Recorder,
    proxy: &ProxyConfig,
    driver: &Driver,
    wanted: DriverSelection,
) {
    let policy = proxy.policy.as_deref().unwrap_or(Path::new(""));
    let kind = Text::from(driver.kind.name());
    recorder.record_own(Event::ProxyStarted {
        version: Text::from(env!("CARGO_PKG_VERSION")),
        pid: std::process::id(),
        driver: kind.clone(),
        path: Text::new(driver.path.as_os_str().as_bytes()),
        policy: Text::new(policy.as_os_str().as_bytes()),
    });
    if wanted == DriverSelection::Auto && driver.kind == DriverKind::SOFTGPU {
        let why = Text::new(&driver.why);
        recorder.record_own(Event::Fallback { driver: kind, why });
    }
}

fn status(
    shared: &Shared,
    zones: &[Zone],
    (monitor, api): (report::Monitor, Option<report::Api>),
    policy: Option<&Policy>,
    started: Instant,
    stopping: bool,
    now: Instant,
) -> report::Status {
    let seen = shared.seen.get();
    report::Status {
        schema: report::SCHEMA,
        proxy: report::Proxy {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_seconds: now.saturating_duration_since(started).as_secs(),
            state: if stopping { "stopping" } else { "running" }.into(),
            driver: report::Driver {
                kind: shared.driver.kind.name().into(),
                path: shared.driver.path.display().to_string(),
                why: shared.driver.why.clone(),
                version: seen.map(|(version, _)| version),
                device_count: seen.map(|(_, count)| count),
            },
            policy: policy.map(|policy| policy.file.display().to_string()),
        },
        devices: shared.states.borrow().status(now),
        audit: shared.recorder.status(now),
        monitor: Some(monitor),
        api,
        zones: zones.iter().map(|zone| zone.status(now)).collect(),
    }
}

fn lock(folder: &Path) -> Result<File, ServeError> {
    let path = folder.join("lock");
    let fail = |error| ServeError::System("open the lock file", error);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServeError::Locked(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(ServeError::System("lock the folder", error)),
    }
}

/// Each client costs a handful of descriptors; the customary 1024 is soon used up.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        warn!(%errno, soft, "cannot raise the limit of open descriptors");
    }
}
