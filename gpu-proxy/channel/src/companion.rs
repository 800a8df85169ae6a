//! How the supervisor hears the processes that work for all zones: packets of one size, checked like a worker's word.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use idm_protocol::attach::socket::{receive, send};
use nix::errno::Errno;
use thiserror::Error;

/// What none of ours sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a packet that none of this version sends")]
pub struct Malformed;

/// Why a companion must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// It sent what none of ours sends.
    #[error("protocol violation: {0}")]
    Malformed(#[from] Malformed),
    /// It closed its channel.
    #[error("it has ended")]
    Gone,
    /// A system call on its channel failed.
    #[error("its channel broke: {0}")]
    Broken(Errno),
}

/// What one of them says: packets of one size, both ends built together.
pub trait Message: Sized {
    /// The packet.
    type Packet: AsRef<[u8]>;

    /// Length of every packet.
    const LEN: usize = size_of::<Self::Packet>();

    /// The packet.
    #[must_use]
    fn encode(&self) -> Self::Packet;

    /// Reads a packet.
    ///
    /// # Errors
    /// [`Malformed`], also if anything stands where nothing belongs.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed>;

    /// Sends it; waits for room if the channel blocks.
    ///
    /// # Errors
    /// The system's.
    fn send(&self, channel: BorrowedFd<'_>) -> Result<(), Errno> {
        send(channel.as_fd(), self.encode().as_ref(), &[])
    }

    /// The next message of a channel that does not block; none if there is nothing now.
    ///
    /// # Errors
    /// Why the one that sends must end.
    fn receive(channel: BorrowedFd<'_>) -> Result<Option<Self>, Fault> {
        const { assert!(Self::LEN <= MAX_LEN, "MAX_LEN is too small") };
        // One more, so that a longer packet shows.
        let mut buffer = [0; MAX_LEN + 1];
        let buffer = &mut buffer[..=Self::LEN];
        match receive(channel.as_fd(), buffer) {
            Ok(packet) if packet.descriptors_dropped || packet.truncated => Err(Malformed.into()),
            Ok(packet) if packet.len > 0 => {
                let bytes = buffer.get(..packet.len).unwrap_or_default();
                Ok(Some(Self::decode(bytes)?))
            }
            Ok(_) | Err(Errno::ECONNRESET) => Err(Fault::Gone),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(Fault::Broken(errno)),
        }
    }
}

/// No packet is longer.
const MAX_LEN: usize = 256;
