//! The processes that work for all zones beside the supervisor: how auditor, monitor and api are started, and how those
//! that have nothing to lose are kept running.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use idm_protocol::attach::socket::send;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Uid;

use crate::backoff::Backoff;
use crate::process::passed_environment;

/// What to start.
#[derive(Debug)]
pub(crate) struct Companion<'a> {
    /// Its executable.
    pub(crate) executable: &'a Path,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// Its environment, besides what every process of the proxy is passed.
    pub(crate) environment: &'a [(String, String)],
    /// Where its standard output goes.
    pub(crate) stdout: Stdio,
    /// The user to become, if the supervisor is root.
    pub(crate) uid: Option<u32>,
    /// The group to become, if the supervisor is root.
    pub(crate) gid: Option<u32>,
}

impl Companion<'_> {
    /// Starts it with one end of a channel of packets as its standard input, in which `first` waits for it unless that
    /// is empty. The other end, which never blocks, is returned; its closing tells the process to end.
    pub(crate) fn start(self, first: &[u8]) -> io::Result<(OwnedFd, Child)> {
        let (near, far) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        fcntl(&near, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        if !first.is_empty() {
            send(near.as_fd(), first, &[])?;
        }
        let mut command = Command::new(self.executable);
        command
            .args(self.args)
            .env_clear()
            .envs(passed_environment())
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .current_dir("/")
            .stdin(Stdio::from(far))
            .stdout(self.stdout)
            // A signal from a terminal is the supervisor's alone: they end after it.
            .process_group(0);
        let root = Uid::effective().is_root();
        if let Some(gid) = self.gid.filter(|_| root) {
            command.gid(gid);
        }
        if let Some(uid) = self.uid.filter(|_| root) {
            command.uid(uid);
        }
        Ok((near, command.spawn()?))
    }
}

/// One that is started again when it ends, after a while that grows.
#[derive(Debug)]
pub(crate) struct Keeper {
    running: Option<(OwnedFd, Child)>,
    /// Those that were killed and have not been seen to end.
    remains: Vec<Child>,
    backoff: Backoff,
    is_wanted: bool,
}

impl Keeper {
    /// None runs yet.
    pub(crate) fn new(is_wanted: bool) -> Self {
        Self {
            running: None,
            remains: Vec::new(),
            backoff: Backoff::default(),
            is_wanted,
        }
    }

    /// The channel of the one that runs.
    pub(crate) fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|(channel, _)| channel.as_fd())
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|(_, child)| child.id())
    }

    /// Why the last one ended, if none has done its work since.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.backoff.reason()
    }

    /// When to start one, if there is to be one and none is.
    pub(crate) fn start_at(&self, now: Instant) -> Option<Instant> {
        let is_due = self.is_wanted && self.running.is_none();
        is_due.then(|| self.backoff.blocked_until(now).unwrap_or(now))
    }

    /// Starts one; whether it could, or how long to wait and why.
    pub(crate) fn start(
        &mut self,
        companion: Companion<'_>,
        now: Instant,
    ) -> Result<(), (Duration, String)> {
        let path = companion.executable;
        match companion.start(&[]) {
            Ok(running) => {
                self.running = Some(running);
                Ok(())
            }
            Err(error) => {
                let why = format!("cannot start {}: {error}", path.display());
                Err((self.backoff.failed(now, &why), why))
            }
        }
    }

    /// It does its work.
    pub(crate) fn works(&mut self) {
        self.backoff.succeeded();
    }

    /// Ends it; tells when there is another.
    pub(crate) fn lose(&mut self, now: Instant, why: &str) -> Duration {
        self.end();
        self.backoff.failed(now, why)
    }

    /// Looks after those that have ended.
    pub(crate) fn reap(&mut self) {
        self.remains
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    /// Ends it, and starts none any more.
    pub(crate) fn stop(&mut self) {
        self.is_wanted = false;
        self.end();
    }

    fn end(&mut self) {
        if let Some((_, mut child)) = self.running.take() {
            // It has nothing to lose, and nobody waits for one that the driver holds in the kernel.
            let _ = child.kill();
            self.remains.push(child);
            self.reap();
        }
    }
}
