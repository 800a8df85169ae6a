//! How the supervisor hears the processes that work for all zones: packets of one size, checked like a worker's word.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use idm_protocol::attach::socket::receive;
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

/// The next packet of a channel that does not block, by `decode`; none if there is nothing now. `buffer` is longer than
/// any packet.
pub(crate) fn receive_packet<M>(
    channel: BorrowedFd<'_>,
    buffer: &mut [u8],
    decode: impl FnOnce(&[u8]) -> Result<M, Malformed>,
) -> Result<Option<M>, Fault> {
    match receive(channel.as_fd(), buffer) {
        Ok(packet) if packet.descriptors_dropped || packet.truncated => Err(Malformed.into()),
        Ok(packet) if packet.len > 0 => {
            let bytes = buffer.get(..packet.len).unwrap_or_default();
            Ok(Some(decode(bytes)?))
        }
        Ok(_) | Err(Errno::ECONNRESET) => Err(Fault::Gone),
        Err(Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(Fault::Broken(errno)),
    }
}
