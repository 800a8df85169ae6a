//! One worker as the supervisor sees it, and the client it serves.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use idm_protocol::attach::socket::send;
use idm_protocol::attach::survey::Device;
use idm_protocol::attach::{Hello, RefusalCode, Welcome};
use idm_protocol::layout::{Layout, Limits};
use idm_protocol::memory::SealedFile;
use idm_protocol::status::{EndReason, StatusWriter};
use nix::errno::Errno;
use proxy_channel::jail::Report;
use proxy_channel::message::{Charge, Ready};
use proxy_channel::stats::{Snapshot, StatsPage};
use proxy_channel::supervisor::SupervisorChannel;
use zerocopy::IntoBytes;

use super::arrival::{Arrival, Peer, turn_away};
use super::reconcile::Measured;
use crate::process::Process;
use crate::relay::Relay;

/// Kernels that status shows of each client.
const TOP_KERNELS: usize = 10;

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) process: Process,
    /// Gone once either side has closed it.
    pub(super) channel: Option<SupervisorChannel>,
    /// Gone at its end-of-file.
    pub(super) stderr: Option<Relay>,
    pub(super) phase: Phase,
    /// The devices it has described so far.
    pub(super) devices: Vec<Device>,
    /// The layers of its jail that have been reported so far.
    pub(super) jail: Vec<Report>,
    /// From its greeting to the end of the worker, the client included that has already left.
    pub(super) session: Option<Session>,
    pub(super) started: Instant,
    /// The devices that its zone had when it started; none for all.
    pub(super) visible: Option<Vec<u32>>,
    /// The software GPU serves it in the place of devices that are lost, and it has none of them.
    pub(super) is_fallback: bool,
    /// Those of them that it has, by ordinal; empty before it is ready.
    pub(super) sees: Vec<u32>,
    /// What the driver says that its process holds.
    pub(super) measured: Measured,
    /// The charge of its that waits.
    pub(super) held: Option<Held>,
    /// It was killed and does not go.
    pub(super) is_stuck: bool,
    /// It failed its zone or its client, or somebody had to end it.
    pub(super) is_at_fault: bool,
    /// The zone's back-off knows how this one fared.
    pub(super) judged: bool,
}

/// A charge that is neither granted nor refused yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Held {
    /// The devices are dirty.
    UntilScrubbed(Charge),
    /// Workers of the zone are ending, and what they hold will do.
    UntilReturned(Charge),
}

impl Held {
    pub(super) fn charge(self) -> Charge {
        match self {
            Self::UntilScrubbed(charge) | Self::UntilReturned(charge) => charge,
        }
    }
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there are as many as there are workers"
)]
pub(super) enum Phase {
    /// Loading and initialising the driver.
    Starting { deadline: Instant },
    /// Waiting for a client.
    Ready { ready: Ready, since: Instant },
    /// Mapping a client's memory.
    Attaching { deadline: Instant },
    /// Serving a client.
    Running,
    /// Told to stop, or ending of its own accord.
    Ending { kill_at: Instant, killed: bool },
}

impl Phase {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Starting { .. } => "starting",
            Self::Ready { .. } => "ready",
            Self::Attaching { .. } => "attaching",
            Self::Running => "running",
            Self::Ending { .. } => "ending",
        }
    }
}

/// A client that has a worker.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client_id: u64,
    pub(super) peer: Peer,
    /// Its process id, as it claims: the one that it has itself, in a namespace of its own maybe.
    pub(super) claimed_pid: u32,
    pub(super) program: String,
    /// Capability groups that the client's build knows.
    pub(super) known_groups: u64,
    pub(super) since: Instant,
    pub(super) status: StatusWriter,
    pub(super) stats: StatsPage,
    /// Gone once the client is.
    pub(super) socket: Option<OwnedFd>,
    /// What the client gets when its worker has it too.
    pub(super) handover: Option<Handover>,
}

#[derive(Debug)]
pub(super) struct Handover {
    pub(super) welcome: Welcome,
    pub(super) control: SealedFile,
    pub(super) arena: SealedFile,
    pub(super) status: SealedFile,
}

impl Handover {
    /// Makes the memory that client and worker will share, and the supervisor's word on the client.
    pub(super) fn create(welcome: Welcome) -> Result<(Self, StatusWriter, StatsPage), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let limits: &Limits = &welcome.limits;
        let layout = Layout::new(limits).map_err(|error| text(&error))?;
        let arena_len = usize::try_from(limits.arena_bytes).map_err(|error| text(&error))?;
        let control = SealedFile::create(c"vgpu-control", layout.byte_len());
        let arena = SealedFile::create(c"vgpu-arena", arena_len);
        let (writer, status) = StatusWriter::create().map_err(|error| text(&error))?;
        let handover = Self {
            welcome,
            control: control.map_err(|error| text(&error))?,
            arena: arena.map_err(|error| text(&error))?,
            status,
        };
        Ok((
            handover,
            writer,
            StatsPage::create().map_err(|error| text(&error))?,
        ))
    }
}

impl Session {
    pub(super) fn new(
        arrival: Arrival,
        hello: &Hello,
        now: Instant,
        (handover, status, stats): (Handover, StatusWriter, StatsPage),
    ) -> Self {
        Self {
            client_id: handover.welcome.client_id,
            peer: arrival.peer,
            claimed_pid: hello.client_pid,
            program: hello.name.to_string(),
            known_groups: hello.capabilities,
            since: now,
            status,
            stats,
            socket: Some(arrival.socket),
            handover: Some(handover),
        }
    }

    /// Whether the client is still there.
    pub(super) fn is_live(&self) -> bool {
        self.socket.is_some()
    }

    /// Hands the client its memory; from here on it talks to its worker alone.
    pub(super) fn welcome(&mut self) -> Result<(), Errno> {
        let (Some(handover), Some(socket)) = (self.handover.take(), &self.socket) else {
            return Err(Errno::ENOTCONN);
        };
        let memory = [
            handover.control.as_fd(),
            handover.arena.as_fd(),
            handover.status.as_fd(),
        ];
        send(socket.as_fd(), handover.welcome.as_bytes(), &memory)
    }

    /// The client is over: one that still waits is told why, one that runs finds it on its status page. False if it
    /// was over before.
    pub(super) fn finish(&mut self, reason: EndReason, text: &str) -> bool {
        self.status.end(reason);
        let waiting = self.handover.take().is_some();
        let Some(socket) = self.socket.take() else {
            return false;
        };
        if waiting {
            let code = match reason {
                EndReason::SHUTDOWN => RefusalCode::SHUTTING_DOWN,
                _ => RefusalCode::NO_WORKER,
            };
            turn_away(&socket, code, text);
        }
        true
    }

    /// What its worker claims.
    pub(super) fn snapshot(&self) -> Snapshot {
        // A page that cannot be read says nothing; that is no reason to fail.
        self.stats.snapshot(TOP_KERNELS).unwrap_or_default()
    }
}
