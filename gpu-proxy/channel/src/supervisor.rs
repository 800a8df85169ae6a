//! The supervisor's end of the channel.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use idm_protocol::attach::socket::{receive, send};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use thiserror::Error;

use crate::calls::CallPage;
use crate::message::{ASSIGN_DESCRIPTORS, Assign, FromWorker, MAX_PACKET_LEN, Malformed, ToWorker};

/// One worker's channel; never blocks and takes no descriptors.
#[derive(Debug)]
pub struct SupervisorChannel {
    socket: OwnedFd,
}

/// What the channel holds at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "made and taken apart a few times in a worker's life"
)]
pub enum Received {
    /// A message.
    Message(FromWorker),
    /// Nothing now.
    Nothing,
    /// The worker has closed its end.
    Closed,
}

impl SupervisorChannel {
    /// A new channel and the worker's end of it, both close-on-exec.
    pub fn pair() -> Result<(Self, OwnedFd), Errno> {
        let (socket, far) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self { socket }, far))
    }

    /// Takes the next message, if there is one.
    pub fn receive(&self) -> Result<Received, ChannelFault> {
        let mut buffer = [0; MAX_PACKET_LEN];
        let packet = match receive(self.socket.as_fd(), &mut buffer) {
            Ok(packet) if packet.len > 0 => packet,
            Ok(packet) if packet.descriptors_dropped => {
                return Err(Malformed::Descriptors(0).into());
            }
            Ok(_) | Err(Errno::ECONNRESET) => return Ok(Received::Closed),
            Err(Errno::EAGAIN) => return Ok(Received::Nothing),
            Err(errno) => return Err(ChannelFault::Broken(errno)),
        };
        if packet.truncated || packet.descriptors_dropped {
            return Err(Malformed::Descriptors(packet.descriptors.len()).into());
        }
        Ok(Received::Message(FromWorker::decode(
            &buffer[..packet.len],
        )?))
    }

    /// Has the worker write down the calls of the client that it is assigned next.
    pub fn record(&self, page: &CallPage) -> Result<(), ChannelFault> {
        self.put(&ToWorker::Record, &page.descriptors())
    }

    /// Makes the worker one client's.
    pub fn assign(
        &self,
        assign: &Assign,
        memory: [BorrowedFd<'_>; ASSIGN_DESCRIPTORS],
    ) -> Result<(), ChannelFault> {
        self.put(&ToWorker::Assign(*assign), &memory)
    }

    /// Sends a message without descriptors.
    pub fn send(&self, message: &ToWorker) -> Result<(), ChannelFault> {
        self.put(message, &[])
    }

    fn put(&self, message: &ToWorker, memory: &[BorrowedFd<'_>]) -> Result<(), ChannelFault> {
        send(self.socket.as_fd(), message.encode().as_bytes(), memory).map_err(
            |errno| match errno {
                Errno::EAGAIN => ChannelFault::NotReading,
                errno => ChannelFault::Broken(errno),
            },
        )
    }
}

impl AsFd for SupervisorChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Why a worker must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChannelFault {
    /// It sent what no worker of ours sends.
    #[error("protocol violation: {0}")]
    Malformed(#[from] Malformed),
    /// It asks but does not read the answers.
    #[error("it does not read its channel")]
    NotReading,
    /// A system call on its channel failed.
    #[error("its channel broke: {0}")]
    Broken(Errno),
}
