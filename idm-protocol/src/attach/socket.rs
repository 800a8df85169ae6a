//! Packets and descriptors over a `SOCK_SEQPACKET` socket: what attach and the worker channel stand on.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, accept4, recvmsg, sendmsg,
};

/// Most descriptors that one packet of ours carries.
pub const MAX_DESCRIPTORS: usize = 4;

/// One packet as it came.
#[derive(Debug)]
pub struct Packet {
    /// Bytes in the caller's buffer. Zero means end-of-file: nobody here sends empty packets, and one from
    /// a hostile peer ends its conversation just as well.
    pub len: usize,
    /// The packet was longer than the buffer; the rest is lost.
    pub truncated: bool,
    /// The peer sent descriptors that the receiver had no room for. The kernel has closed them.
    pub descriptors_dropped: bool,
    /// Descriptors received, all close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Sends one packet; never raises `SIGPIPE`. On a non-blocking socket without room: `EAGAIN`.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let parts = [IoSlice::new(bytes)];
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &parts,
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            // A packet socket takes all or nothing; anything else is not such a socket.
            Ok(_) => return Err(Errno::EMSGSIZE),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Receives one packet and takes no descriptor: the kernel drops what the peer sent along, before it ever
/// enters this process, and the packet says so. For everything that comes from a tenant.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Packet, Errno> {
    receive_into(socket, buffer, None)
}

/// Receives one packet with up to [`MAX_DESCRIPTORS`] descriptors, close-on-exec.
pub fn receive_with_descriptors(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<Packet, Errno> {
    receive_into(socket, buffer, Some(cmsg_space!([RawFd; MAX_DESCRIPTORS])))
}

/// Takes one connection from a listening socket, close-on-exec.
pub fn accept(listener: BorrowedFd<'_>, flags: SockFlag) -> Result<OwnedFd, Errno> {
    let raw = accept4(listener.as_raw_fd(), flags | SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just made `raw` for this call; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn receive_into(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    mut control: Option<Vec<u8>>,
) -> Result<Packet, Errno> {
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let room = control.as_deref_mut();
        let offered = room.is_some();
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, room, flags) {
            Ok(message) => message,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        };
        let mut descriptors = Vec::new();
        // More descriptors than there was room for is an error: that peer does not speak our protocol, and
        // whoever receives from it gives up.
        if offered {
            for part in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(raw) = part {
                    descriptors.extend(raw.into_iter().map(|fd| {
                        // SAFETY: the kernel has just installed `fd` for this message; nobody else
                        // knows it.
                        unsafe { OwnedFd::from_raw_fd(fd) }
                    }));
                }
            }
        }
        return Ok(Packet {
            len: message.bytes,
            truncated: message.flags.contains(MsgFlags::MSG_TRUNC),
            descriptors_dropped: message.flags.contains(MsgFlags::MSG_CTRUNC),
            descriptors,
        });
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap()
    }

    #[test]
    fn packets_keep_their_bounds_and_say_when_they_were_cut() {
        let (near, far) = pair();
        send(near.as_fd(), b"first", &[]).unwrap();
        send(near.as_fd(), b"second", &[]).unwrap();
        let mut buffer = [0; 5];
        let packet = receive(far.as_fd(), &mut buffer).unwrap();
        assert_eq!((packet.len, packet.truncated), (5, false));
        let packet = receive(far.as_fd(), &mut buffer).unwrap();
        assert_eq!((packet.len, packet.truncated), (5, true));
        drop(near);
        assert_eq!(receive(far.as_fd(), &mut buffer).unwrap().len, 0);
    }

    #[test]
    fn descriptors_that_nobody_asked_for_never_arrive() {
        let (near, far) = pair();
        send(near.as_fd(), b"x", &[near.as_fd(), far.as_fd()]).unwrap();
        let packet = receive(far.as_fd(), &mut [0; 8]).unwrap();
        assert!(packet.descriptors_dropped && packet.descriptors.is_empty());
    }

    #[test]
    fn descriptors_that_were_asked_for_arrive_close_on_exec() {
        let (near, far) = pair();
        send(near.as_fd(), b"x", &[near.as_fd(), far.as_fd()]).unwrap();
        let packet = receive_with_descriptors(far.as_fd(), &mut [0; 8]).unwrap();
        assert_eq!(packet.descriptors.len(), 2);
        for fd in &packet.descriptors {
            let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
    }

    #[test]
    fn more_descriptors_than_a_packet_of_ours_carries_is_an_error() {
        let (near, far) = pair();
        send(near.as_fd(), b"x", &[far.as_fd(); MAX_DESCRIPTORS + 3]).unwrap();
        assert_eq!(
            receive_with_descriptors(far.as_fd(), &mut [0; 8]).unwrap_err(),
            Errno::ENOBUFS
        );
    }
}
