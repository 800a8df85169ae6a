//! The processes that work for all zones beside the supervisor: how auditor and monitor are started.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use idm_protocol::attach::socket::send;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Uid;

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
