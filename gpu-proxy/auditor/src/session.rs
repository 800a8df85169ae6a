//! What the supervisor says, in the order in which it must: who it is, then what to record.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use idm_protocol::attach::socket::{receive_with_descriptors, send};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use proxy_audit::block::Source;
use proxy_audit::hash::LogId;
use proxy_audit::spool::{Spool, SpoolError};
use proxy_audit::wire::{
    COLLECT_DESCRIPTORS, FromAuditor, MAX_PACKET_LEN, ToAuditor, What, WireError,
};
use proxy_channel::calls::CallPage;
use thiserror::Error;

use crate::collector::{CollectError, Collector};

/// Packets taken before what they say is put on disk and confirmed.
const BATCH: usize = 256;

/// Why the supervisor passes nothing on.
const FLOODED: &str = "more than the supervisor keeps or passes on of one zone";

/// The channel, seen from the auditor.
#[derive(Debug)]
pub struct Session {
    socket: OwnedFd,
    buffer: Vec<u8>,
    /// Who speaks, and the number of the next event.
    peer: Option<(LogId, u64)>,
}

/// Whether there may be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The supervisor is there.
    Open,
    /// The supervisor is gone, and everything it said was taken.
    Closed,
}

/// Why the channel is of no more use.
#[derive(Debug, Error)]
pub enum SessionError {
    /// It is no channel.
    #[error("standard input is not a supervisor's channel; vgpu-auditor is started by gpu-proxy")]
    NotAChannel,
    /// A system call failed.
    #[error("the channel to the supervisor broke: {0}")]
    Broken(Errno),
    /// The supervisor is of another build.
    #[error("the supervisor sent {0}")]
    Wire(#[from] WireError),
    /// It says things in another order than supervisors do.
    #[error("the supervisor broke the protocol: {0}")]
    Protocol(&'static str),
    /// What it said cannot be kept.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Calls cannot be collected.
    #[error(transparent)]
    Collect(#[from] CollectError),
}

impl Session {
    /// A channel over a packet socket.
    pub fn new(socket: OwnedFd) -> Result<Self, SessionError> {
        if getsockopt(&socket, sockopt::SockType) != Ok(SockType::SeqPacket) {
            return Err(SessionError::NotAChannel);
        }
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(SessionError::Broken)?;
        Ok(Self {
            socket,
            buffer: vec![0; MAX_PACKET_LEN],
            peer: None,
        })
    }

    /// Takes what has come, puts it on disk, and says so.
    pub fn serve(
        &mut self,
        spool: &mut Spool,
        collector: &mut Collector,
    ) -> Result<Progress, SessionError> {
        let mut progress = Progress::Open;
        let mut any = false;
        for _ in 0..BATCH {
            let packet = match receive_with_descriptors(self.socket.as_fd(), &mut self.buffer) {
                Ok(packet) => packet,
                Err(Errno::EAGAIN) => break,
                Err(Errno::ECONNRESET) => {
                    progress = Progress::Closed;
                    break;
                }
                Err(errno) => return Err(SessionError::Broken(errno)),
            };
            if packet.truncated || packet.descriptors_dropped {
                return Err(SessionError::Protocol(
                    "a packet is too long or has too many descriptors",
                ));
            }
            if packet.len == 0 {
                progress = Progress::Closed;
                break;
            }
            let message = ToAuditor::decode(self.buffer.get(..packet.len).unwrap_or_default())?;
            let expected = match message {
                ToAuditor::Collect(_) => COLLECT_DESCRIPTORS,
                _ => 0,
            };
            if packet.descriptors.len() != expected {
                return Err(SessionError::Protocol(
                    "a packet has other descriptors than belong to it",
                ));
            }
            self.obey(message, packet.descriptors, spool, collector)?;
            any = true;
        }
        if any {
            spool.sync()?;
            if let Some((_, next)) = self.peer {
                self.say(&FromAuditor::Recorded { next })?;
            }
        }
        Ok(progress)
    }

    /// Tells the supervisor something. One that does not listen is going; its end will show.
    pub fn say(&self, reply: &FromAuditor) -> Result<(), SessionError> {
        match send(self.socket.as_fd(), &reply.encode(), &[]) {
            Ok(()) | Err(Errno::EAGAIN | Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            Err(errno) => Err(SessionError::Broken(errno)),
        }
    }

    fn obey(
        &mut self,
        message: ToAuditor,
        descriptors: Vec<OwnedFd>,
        spool: &mut Spool,
        collector: &mut Collector,
    ) -> Result<(), SessionError> {
        match (message, &mut self.peer) {
            (ToAuditor::Hello { session }, peer @ None) => {
                let last = spool.chain().source();
                let last = last.filter(|last| last.session == session);
                *peer = Some((session, last.map_or(0, |last| last.n.saturating_add(1))));
                Ok(())
            }
            (ToAuditor::Hello { .. }, Some(_)) => Err(SessionError::Protocol("it greeted twice")),
            (ToAuditor::Collect(collection), Some((session, _))) => {
                let page = CallPage::receive(descriptors).map_err(CollectError::from)?;
                Ok(collector.collect(*collection, page, *session, spool)?)
            }
            (ToAuditor::Finish { client }, Some(_)) => Ok(collector.finish(client, spool)?),
            (_, None) => Err(SessionError::Protocol("it did not greet")),
            // Sent again after another auditor took it.
            (ToAuditor::Submit(submission), Some((_, next))) if submission.n < *next => Ok(()),
            (ToAuditor::Submit(submission), Some((session, next))) => {
                if submission.n != *next {
                    return Err(SessionError::Protocol("a number is missing"));
                }
                let source = Some(Source {
                    session: *session,
                    n: submission.n,
                });
                let (zone, stamp) = (&submission.zone, submission.stamp);
                match submission.what {
                    What::Event(event) => spool.event(zone, stamp, source, event)?,
                    What::Lost(missing) => spool.lost(zone, stamp, source, missing, FLOODED)?,
                };
                *next = next.saturating_add(1);
                Ok(())
            }
        }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
