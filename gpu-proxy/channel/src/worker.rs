//! The worker's end of the channel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use idm_protocol::attach::socket::{receive_with_descriptors, send};
use idm_protocol::attach::survey::Device;
use idm_protocol::attach::{Text, socket};
use idm_protocol::layout::{Layout, LimitsError, PAGE_BYTES};
use idm_protocol::memory::{FileError, SealedFile};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use thiserror::Error;

use crate::CHANNEL_FD;
use crate::bound::Denied;
use crate::calls::{CallPage, PageError};
use crate::jail::Report;
use crate::message::{
    ASSIGN_DESCRIPTORS, Assign, Charge, Ending, FromWorker, MAX_PACKET_LEN, Malformed, Open, Ready,
    Refused, Scrubbed, Share, Shared, Suspect, ToWorker, Token, Verdict, Withdraw,
};
use crate::stats::{STATS_BYTES, StatsWriter};

/// The channel of this process to its supervisor. Sending takes `&self` and one packet is one unit, so
/// threads may share it; receive on one thread only.
#[derive(Debug)]
pub struct WorkerChannel {
    socket: OwnedFd,
}

/// What arrives.
#[derive(Debug)]
pub enum Event {
    /// Write down the calls of the client that comes next.
    Record(CallPage),
    /// Become one client's worker.
    Assign(Box<Assignment>),
    /// The answer to a charge; hand it to [`crate::credit::Credit::answer`].
    Verdict(Verdict),
    /// The answer about shared memory; hand it to [`crate::shares::Shares::answer`].
    Shared(Shared),
    /// Free everything and exit.
    Stop,
    /// The supervisor is gone; exit.
    Closed,
}

/// A client, and its memory: sealed, of the announced sizes.
#[derive(Debug)]
pub struct Assignment {
    /// Who and how much.
    pub assign: Assign,
    /// Where everything lies in the control region.
    pub layout: Layout,
    /// Rings, lanes, latches.
    pub control: SealedFile,
    /// Pinned host memory.
    pub arena: SealedFile,
    /// The supervisor's word on the client; read only.
    pub status: SealedFile,
    /// Where this worker publishes its counters.
    pub stats: StatsWriter,
}

impl WorkerChannel {
    /// Takes over descriptor 3. Works once per process.
    #[allow(
        unsafe_code,
        reason = "adopts an inherited descriptor; explained inside"
    )]
    pub fn from_inherited_fd() -> Result<Self, ChannelError> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        // SYNC: one atomic decides who was first; nothing else is published by it.
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Err(ChannelError::Taken);
        }
        // SAFETY: the number is borrowed only for the question whether it is open.
        let candidate = unsafe { BorrowedFd::borrow_raw(CHANNEL_FD) };
        if getsockopt(&candidate, sockopt::SockType) != Ok(SockType::SeqPacket) {
            return Err(ChannelError::NotStartedBySupervisor);
        }
        // SAFETY: it is open, and by the flag above nobody in this process has taken it; the supervisor
        // passed it to be owned by whoever runs this.
        let socket = unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) };
        Self::new(socket)
    }

    /// A channel over any packet socket (tests make a pair).
    pub fn new(socket: OwnedFd) -> Result<Self, ChannelError> {
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(broken)?;
        Ok(Self { socket })
    }

    /// Describes the next device, in the order of their ordinals; all of them before [`WorkerChannel::ready`].
    pub fn device(&self, device: &Device) -> Result<(), ChannelError> {
        self.send(&FromWorker::Device(*device))
    }

    /// Tells of a layer of the jail; all of them before [`WorkerChannel::ready`].
    pub fn layer(&self, report: &Report) -> Result<(), ChannelError> {
        self.send(&FromWorker::Layer(*report))
    }

    /// Says that the driver is loaded and initialised.
    pub fn ready(&self, ready: &Ready) -> Result<(), ChannelError> {
        self.send(&FromWorker::Ready(*ready))
    }

    /// Says that it could not be. Exit afterwards.
    pub fn failed(&self, why: &str) -> Result<(), ChannelError> {
        self.send(&FromWorker::Failed {
            text: Text::new(why),
        })
    }

    /// Says that the client is being served.
    pub fn attached(&self) -> Result<(), ChannelError> {
        self.send(&FromWorker::Attached)
    }

    /// Says that nobody takes the calls that are written down.
    pub fn behind(&self) -> Result<(), ChannelError> {
        self.send(&FromWorker::Behind)
    }

    /// Says that it cannot be. Exit afterwards.
    pub fn attach_failed(&self, why: &str) -> Result<(), ChannelError> {
        self.send(&FromWorker::AttachFailed {
            text: Text::new(why),
        })
    }

    /// Says why the worker ends, where it was not told to. Exit afterwards.
    pub fn ended(&self, why: &str, ending: Ending) -> Result<(), ChannelError> {
        self.send(&FromWorker::Ended {
            text: Text::new(why),
            ending,
        })
    }

    /// Asks for device memory; the answer arrives as [`Event::Verdict`].
    pub fn charge(&self, charge: Charge) -> Result<(), ChannelError> {
        self.send(&FromWorker::Charge(charge))
    }

    /// Gives granted device memory back.
    pub fn release(&self, bytes: u64) -> Result<(), ChannelError> {
        self.send(&FromWorker::Release { bytes })
    }

    /// Offers memory to the zone; the answer arrives as [`Event::Shared`].
    pub fn share(&self, share: Share) -> Result<(), ChannelError> {
        self.send(&FromWorker::Share(share))
    }

    /// Asks what a token names; the answer arrives as [`Event::Shared`].
    pub fn open(&self, open: Open) -> Result<(), ChannelError> {
        self.send(&FromWorker::Open(open))
    }

    /// Says that what was opened is closed.
    pub fn close_share(&self, token: Token) -> Result<(), ChannelError> {
        self.send(&FromWorker::CloseShare { token })
    }

    /// Says that shared memory was freed.
    pub fn withdraw(&self, withdraw: Withdraw) -> Result<(), ChannelError> {
        self.send(&FromWorker::Withdraw(withdraw))
    }

    /// Says that the policy refused a call.
    pub fn refused(&self, call: &str, groups: u64, times: u64) -> Result<(), ChannelError> {
        self.send(&FromWorker::Refused(Refused {
            call: Text::new(call),
            groups,
            times,
        }))
    }

    /// Says that a limit refused the client something.
    pub fn denied(&self, denied: Denied) -> Result<(), ChannelError> {
        self.send(&FromWorker::Denied(denied))
    }

    /// Says that a call failed as calls do on a device that is lost.
    pub fn suspect(&self, status: u32) -> Result<(), ChannelError> {
        self.send(&FromWorker::Suspect(Suspect {
            status,
            reserved: 0,
        }))
    }

    /// Says what a scrubber came to. Exit afterwards.
    pub fn scrubbed(&self, scrubbed: &Scrubbed) -> Result<(), ChannelError> {
        self.send(&FromWorker::Scrubbed(*scrubbed))
    }

    /// Waits for the next event.
    pub fn receive(&self) -> Result<Event, ChannelError> {
        let mut buffer = [0; MAX_PACKET_LEN];
        let packet = match receive_with_descriptors(self.socket.as_fd(), &mut buffer) {
            Ok(packet) if packet.len > 0 => packet,
            Ok(_) | Err(Errno::ECONNRESET) => return Ok(Event::Closed),
            Err(errno) => return Err(broken(errno)),
        };
        let message = ToWorker::decode(&buffer[..packet.len])?;
        let count = packet.descriptors.len();
        if packet.truncated || count != message.descriptors() {
            return Err(Malformed::Descriptors(count).into());
        }
        match message {
            ToWorker::Assign(assign) => {
                Assignment::new(assign, packet).map(|assigned| Event::Assign(Box::new(assigned)))
            }
            ToWorker::Verdict(verdict) => Ok(Event::Verdict(verdict)),
            ToWorker::Shared(answer) => Ok(Event::Shared(answer)),
            ToWorker::Stop => Ok(Event::Stop),
            ToWorker::Record => Ok(Event::Record(CallPage::receive(packet.descriptors)?)),
        }
    }

    /// Waits for the next event for at most `timeout`.
    pub fn receive_timeout(&self, timeout: Duration) -> Result<Option<Event>, ChannelError> {
        let millis = timeout.as_micros().div_ceil(1000);
        let timeout = u16::try_from(millis).map_or(PollTimeout::MAX, PollTimeout::from);
        let mut watched = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, timeout) {
            Ok(0) | Err(Errno::EINTR) => Ok(None),
            Ok(_) => self.receive().map(Some),
            Err(errno) => Err(broken(errno)),
        }
    }

    fn send(&self, message: &FromWorker) -> Result<(), ChannelError> {
        send(self.socket.as_fd(), message.encode().as_bytes(), &[]).map_err(broken)
    }
}

impl AsFd for WorkerChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Assignment {
    fn new(assign: Assign, packet: socket::Packet) -> Result<Self, ChannelError> {
        let layout = Layout::new(&assign.limits)?;
        let arena_len =
            usize::try_from(assign.limits.arena_bytes).map_err(|_| FileError::Size(usize::MAX))?;
        let count = packet.descriptors.len();
        let [control, arena, status, stats] =
            <[OwnedFd; ASSIGN_DESCRIPTORS]>::try_from(packet.descriptors)
                .map_err(|_| Malformed::Descriptors(count))?;
        Ok(Self {
            control: SealedFile::receive(control, layout.byte_len())?,
            arena: SealedFile::receive(arena, arena_len)?,
            status: SealedFile::receive(status, PAGE_BYTES)?,
            stats: StatsWriter::new(&SealedFile::receive(stats, STATS_BYTES)?)?,
            assign,
            layout,
        })
    }
}

/// Why the channel is of no more use. A worker that meets one exits.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// There is no channel on descriptor 3.
    #[error(
        "descriptor 3 is not a supervisor's channel; vgpu-worker is started by gpu-proxy, not by hand"
    )]
    NotStartedBySupervisor,
    /// Asked for twice.
    #[error("the channel has already been taken")]
    Taken,
    /// A system call failed.
    #[error("the channel to the supervisor broke: {0}")]
    Broken(io::Error),
    /// The supervisor is of another build.
    #[error("the supervisor's message is not understood: {0}")]
    Malformed(#[from] Malformed),
    /// The assignment's sizes cannot be laid out.
    #[error("the supervisor's assignment is not usable: {0}")]
    Limits(#[from] LimitsError),
    /// The page for the client's calls is none.
    #[error("the supervisor's page for calls is not usable: {0}")]
    Page(#[from] PageError),
    /// The assignment's memory is not what it announced.
    #[error("the supervisor's assignment is not usable: {0}")]
    Memory(#[from] FileError),
}

fn broken(errno: Errno) -> ChannelError {
    ChannelError::Broken(errno.into())
}
