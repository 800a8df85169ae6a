//! The monitor as the supervisor sees it: a process that tells sweep by sweep what the driver says of every process.
//!
//! What becomes of it is the zones' affair ([`crate::zone`]); here it is started, heard, and started again. A monitor
//! that is away costs nobody anything but that nobody is watched meanwhile, which status, log and `vgpuctl doctor` tell.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use proxy_channel::admin;
use proxy_channel::monitor::{FromMonitor, MAX_PROCESSES, MonitorFault};
use tracing::{error, info, warn};

use crate::backoff::Backoff;
use crate::companion::Companion;
use crate::config::{MonitorConfig, MonitorMode, name_of};
use crate::driver::Driver;

/// A monitor that has not finished a sweep for so long, and for twenty intervals, hangs in the driver.
const SILENT: Duration = Duration::from_secs(10);

/// Packets taken before others have their turn: a sweep of all that may be told of.
const PACKETS_AT_ONCE: u32 = MAX_PROCESSES + 1;

/// Device memory of each process over all devices, in bytes.
pub type Sweep = BTreeMap<u32, u64>;

/// What a worker may hold above its grant, and what becomes of it otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// In bytes.
    pub allowance: u64,
    /// It ends; it is only reported otherwise.
    pub ends: bool,
}

/// The monitor, or that there is to be none.
#[derive(Debug)]
pub struct Monitor {
    config: MonitorConfig,
    mode: MonitorMode,
    library: OsString,
    environment: Vec<(String, String)>,
    running: Option<Running>,
    /// Those that were killed and have not been seen to end.
    remains: Vec<Child>,
    backoff: Backoff,
    is_stopping: bool,
}

#[derive(Debug)]
struct Running {
    child: Child,
    channel: OwnedFd,
    /// Of the sweep that is under way.
    sums: Sweep,
    told: u32,
    /// Devices that it looks at; none before it said so.
    devices: Option<u32>,
    /// When it last finished a sweep, or was started.
    heard: Instant,
    has_swept: bool,
}

impl Monitor {
    /// One that is started at the first [`Monitor::tick`], if there is to be one.
    #[must_use]
    pub fn new(config: MonitorConfig, driver: &Driver, environment: Vec<(String, String)>) -> Self {
        Self {
            mode: config.mode(driver.kind),
            library: config.library(driver),
            config,
            environment,
            running: None,
            remains: Vec::new(),
            backoff: Backoff::default(),
            is_stopping: false,
        }
    }

    /// What becomes of a worker that holds too much.
    #[must_use]
    pub fn rule(&self) -> Rule {
        Rule {
            allowance: self.config.allowance,
            ends: self.mode == MonitorMode::Enforce,
        }
    }

    /// What to poll.
    #[must_use]
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        let running = self.running.as_ref()?;
        Some(running.channel.as_fd())
    }

    /// When [`Monitor::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        match &self.running {
            Some(running) => Some(running.heard + self.patience()),
            None if self.is_wanted() => Some(self.backoff.blocked_until(now).unwrap_or(now)),
            None => None,
        }
    }

    /// Starts it, again if need be, and ends one that hangs.
    pub fn tick(&mut self, now: Instant) {
        match &self.running {
            Some(running) if running.heard + self.patience() <= now => {
                let waited = now.saturating_duration_since(running.heard);
                self.lose(now, &format!("it has finished no sweep for {waited:.0?}"));
            }
            None if self.is_wanted() && self.backoff.blocked_until(now).is_none() => {
                self.start(now);
            }
            _ => {}
        }
    }

    /// Its channel is ready: a whole sweep, if one is complete.
    pub fn hear(&mut self, now: Instant) -> Option<Sweep> {
        let mut whole = None;
        for _ in 0..PACKETS_AT_ONCE {
            let running = self.running.as_mut()?;
            match FromMonitor::receive(running.channel.as_fd()) {
                Ok(Some(message)) => match running.obey(message, now) {
                    Ok(sweep) => whole = sweep.or(whole),
                    Err(why) => {
                        self.lose(now, &why);
                        return None;
                    }
                },
                Ok(None) => break,
                Err(fault) => {
                    let why = match fault {
                        MonitorFault::Gone => "it has ended".to_owned(),
                        fault => fault.to_string(),
                    };
                    self.lose(now, &why);
                    return None;
                }
            }
        }
        if whole.is_some() {
            self.backoff.succeeded();
        }
        whole
    }

    /// Looks after those that have ended.
    pub fn reap(&mut self) {
        self.remains
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    /// Ends it, and starts none any more.
    pub fn stop(&mut self) {
        self.is_stopping = true;
        self.end();
    }

    /// How things are, for an administrator.
    #[must_use]
    pub fn status(&self, now: Instant) -> admin::Monitor {
        let running = self.running.as_ref();
        let swept = running.filter(|running| running.has_swept);
        admin::Monitor {
            mode: name_of(&MonitorMode::NAMES, self.mode).into(),
            library: self.library.to_string_lossy().into_owned(),
            pid: running.map(|running| running.child.id()),
            devices: running.and_then(|running| running.devices),
            swept_millis_ago: swept.map(|running| {
                let since = now.saturating_duration_since(running.heard).as_millis();
                u64::try_from(since).unwrap_or(u64::MAX)
            }),
            failure: self.backoff.reason().map(str::to_owned),
        }
    }

    fn is_wanted(&self) -> bool {
        self.mode != MonitorMode::Off && !self.is_stopping
    }

    fn patience(&self) -> Duration {
        SILENT.max(self.config.interval * 20)
    }

    fn start(&mut self, now: Instant) {
        let companion = Companion {
            executable: &self.config.monitor,
            args: vec![
                "--library".into(),
                self.library.clone(),
                "--interval".into(),
                // The configuration allows no more than a minute.
                self.config.interval.as_millis().to_string().into(),
            ],
            environment: &self.environment,
            stdout: Stdio::null(),
            uid: self.config.uid,
            gid: self.config.gid,
        };
        match companion.start(&[]) {
            Ok((channel, child)) => {
                self.running = Some(Running {
                    child,
                    channel,
                    sums: Sweep::new(),
                    told: 0,
                    devices: None,
                    heard: now,
                    has_swept: false,
                });
            }
            Err(error) => {
                let path = self.config.monitor.display();
                let why = format!("cannot start {path}: {error}");
                self.failed(now, &why);
            }
        }
    }

    fn lose(&mut self, now: Instant, why: &str) {
        self.end();
        self.failed(now, why);
    }

    fn failed(&mut self, now: Instant, why: &str) {
        let again = self.backoff.failed(now, why);
        error!(
            alert = "monitor_away",
            ?again,
            "what workers hold is not compared with the driver: the monitor is away: {why}"
        );
    }

    fn end(&mut self) {
        if let Some(mut running) = self.running.take() {
            // It has nothing to lose, and nobody waits for one that the driver holds in the kernel.
            let _ = running.child.kill();
            self.remains.push(running.child);
            self.reap();
        }
    }
}

impl Running {
    /// Takes one message; a sweep if it was the last of one.
    fn obey(&mut self, message: FromMonitor, now: Instant) -> Result<Option<Sweep>, String> {
        match message {
            FromMonitor::Watching { devices, driver } if self.devices.is_none() => {
                let driver = driver.to_string();
                info!(
                    monitor = self.child.id(),
                    devices, driver, "what workers hold is compared with what the driver says"
                );
                self.devices = Some(devices);
            }
            FromMonitor::Holds { pid, bytes, .. }
                if self.devices.is_some() && self.told < MAX_PROCESSES =>
            {
                self.told += 1;
                let sum = self.sums.entry(pid).or_default();
                *sum = sum.saturating_add(bytes);
            }
            FromMonitor::Swept { untold } if self.devices.is_some() => {
                if untold > 0 && !self.has_swept {
                    warn!(
                        untold,
                        "the driver does not tell the memory of some processes"
                    );
                }
                (self.told, self.heard, self.has_swept) = (0, now, true);
                return Ok(Some(std::mem::take(&mut self.sums)));
            }
            FromMonitor::Failed { text } => return Err(text.to_string()),
            other => return Err(format!("it sent a message out of turn: {other:?}")),
        }
        Ok(None)
    }
}
