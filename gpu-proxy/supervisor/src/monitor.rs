//! The monitor as the supervisor sees it: a process that tells sweep by sweep what the driver says of every process.
//!
//! What becomes of it is the zones' affair ([`crate::zone`]); here it is started, heard, and started again. A monitor
//! that is away costs nobody anything but that nobody is watched meanwhile, which status, log and `vgpuctl doctor` tell.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use proxy_channel::admin;
use proxy_channel::companion::Message;
use proxy_channel::monitor::{FromMonitor, MAX_PROCESSES};
use tracing::{error, info, warn};

use crate::companion::{Companion, Keeper};
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
    keeper: Keeper,
    /// Of the one that runs.
    progress: Progress,
}

#[derive(Debug)]
struct Progress {
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
        let mode = config.mode(driver.kind);
        Self {
            library: config.library(driver),
            config,
            environment,
            keeper: Keeper::new(mode != MonitorMode::Off),
            progress: Progress::new(Instant::now()),
            mode,
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
        self.keeper.channel()
    }

    /// When [`Monitor::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        match self.keeper.channel() {
            Some(_) => Some(self.progress.heard + self.patience()),
            None => self.keeper.start_at(now),
        }
    }

    /// Starts it, again if need be, and ends one that hangs.
    pub fn tick(&mut self, now: Instant) {
        if self.keeper.channel().is_some() && self.progress.heard + self.patience() <= now {
            let waited = now.saturating_duration_since(self.progress.heard);
            self.lose(now, &format!("it has finished no sweep for {waited:.0?}"));
        } else if self.keeper.start_at(now).is_some_and(|at| at <= now) {
            self.start(now);
        }
    }

    /// Its channel is ready: a whole sweep, if one is complete.
    pub fn hear(&mut self, now: Instant) -> Option<Sweep> {
        let mut whole = None;
        for _ in 0..PACKETS_AT_ONCE {
            let message = FromMonitor::receive(self.keeper.channel()?);
            let heard = match message.map_err(|fault| fault.to_string()) {
                Ok(None) => break,
                Ok(Some(message)) => self.progress.obey(message, self.keeper.pid(), now),
                Err(why) => Err(why),
            };
            match heard {
                Ok(sweep) => whole = sweep.or(whole),
                Err(why) => {
                    self.lose(now, &why);
                    return None;
                }
            }
        }
        if whole.is_some() {
            self.keeper.works();
        }
        whole
    }

    /// Looks after those that have ended.
    pub fn reap(&mut self) {
        self.keeper.reap();
    }

    /// Ends it, and starts none any more.
    pub fn stop(&mut self) {
        self.keeper.stop();
    }

    /// How things are, for an administrator.
    #[must_use]
    pub fn status(&self, now: Instant) -> admin::Monitor {
        let pid = self.keeper.pid();
        let progress = pid.map(|_| &self.progress);
        let swept = progress.filter(|progress| progress.has_swept);
        admin::Monitor {
            mode: name_of(&MonitorMode::NAMES, self.mode).into(),
            library: self.library.to_string_lossy().into_owned(),
            pid,
            devices: progress.and_then(|progress| progress.devices),
            swept_millis_ago: swept.map(|progress| {
                let since = now.saturating_duration_since(progress.heard).as_millis();
                u64::try_from(since).unwrap_or(u64::MAX)
            }),
            failure: self.keeper.failure().map(str::to_owned),
        }
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
        self.progress = Progress::new(now);
        if let Err((again, why)) = self.keeper.start(companion, now) {
            tell_away(again, &why);
        }
    }

    fn lose(&mut self, now: Instant, why: &str) {
        tell_away(self.keeper.lose(now, why), why);
    }
}

fn tell_away(again: Duration, why: &str) {
    error!(
        alert = "monitor_away",
        ?again,
        "what workers hold is not compared with the driver: the monitor is away: {why}"
    );
}

impl Progress {
    fn new(now: Instant) -> Self {
        Self {
            sums: Sweep::new(),
            told: 0,
            devices: None,
            heard: now,
            has_swept: false,
        }
    }

    /// Takes one message; a sweep if it was the last of one.
    fn obey(
        &mut self,
        message: FromMonitor,
        pid: Option<u32>,
        now: Instant,
    ) -> Result<Option<Sweep>, String> {
        match message {
            FromMonitor::Watching { devices, driver } if self.devices.is_none() => {
                let driver = driver.to_string();
                info!(
                    monitor = pid,
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
