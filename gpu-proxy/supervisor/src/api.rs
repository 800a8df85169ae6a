//! The api as the supervisor sees it: a process that listens on a network and asks at the status socket.
//!
//! The supervisor opens no network (D17). One that is away costs nobody anything but that nobody sees the metrics, which
//! status, log and `vgpuctl doctor` tell.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use proxy_channel::admin;
use proxy_channel::api::FromApi;
use proxy_channel::companion::Message;
use tracing::{error, info};

use crate::companion::{Companion, Keeper};
use crate::config::ApiConfig;

/// The api.
#[derive(Debug)]
pub struct Api {
    config: ApiConfig,
    /// Where it asks.
    socket: PathBuf,
    environment: Vec<(String, String)>,
    keeper: Keeper,
    /// Where the one that runs listens, once it said so.
    address: Option<SocketAddr>,
}

impl Api {
    /// One that is started at the first [`Api::tick`] and asks at `socket`.
    #[must_use]
    pub fn new(config: ApiConfig, socket: PathBuf, environment: Vec<(String, String)>) -> Self {
        Self {
            config,
            socket,
            environment,
            keeper: Keeper::new(true),
            address: None,
        }
    }

    /// What to poll.
    #[must_use]
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.keeper.channel()
    }

    /// When [`Api::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.keeper.start_at(now)
    }

    /// Starts it, again if need be.
    pub fn tick(&mut self, now: Instant) {
        if self.keeper.start_at(now).is_some_and(|at| at <= now) {
            let companion = Companion {
                executable: &self.config.api,
                args: vec![
                    "--listen".into(),
                    self.config.listen.to_string().into(),
                    "--socket".into(),
                    self.socket.clone().into(),
                ],
                environment: &self.environment,
                stdout: Stdio::null(),
                uid: self.config.uid,
                gid: self.config.gid,
            };
            if let Err((again, why)) = self.keeper.start(companion, now) {
                tell_away(again, &why);
            }
        }
    }

    /// Its channel is ready.
    pub fn hear(&mut self, now: Instant) {
        let Some(channel) = self.keeper.channel() else {
            return;
        };
        let why = match FromApi::receive(channel) {
            Ok(None) => return,
            Ok(Some(FromApi::Listening { address })) if self.address.is_none() => {
                info!(api = self.keeper.pid(), %address, "metrics are served");
                self.address = Some(address);
                self.keeper.works();
                return;
            }
            Ok(Some(FromApi::Failed { text })) => text.to_string(),
            Ok(Some(other)) => format!("it sent a message out of turn: {other:?}"),
            Err(fault) => fault.to_string(),
        };
        self.address = None;
        tell_away(self.keeper.lose(now, &why), &why);
    }

    /// Looks after those that have ended.
    pub fn reap(&mut self) {
        self.keeper.reap();
    }

    /// Ends it, and starts none any more.
    pub fn stop(&mut self) {
        self.address = None;
        self.keeper.stop();
    }

    /// How things are, for an administrator.
    #[must_use]
    pub fn status(&self) -> admin::Api {
        admin::Api {
            listen: self.config.listen.to_string(),
            address: self.address.map(|address| address.to_string()),
            pid: self.keeper.pid(),
            failure: self.keeper.failure().map(str::to_owned),
        }
    }
}

fn tell_away(again: Duration, why: &str) {
    error!(alert = "api_away", ?again, "metrics are not served: {why}");
}
