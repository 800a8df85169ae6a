//! Clients that have connected and have no worker yet.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use idm_protocol::attach::socket::{receive, send};
use idm_protocol::attach::{
    Hello, MAX_PACKET_LEN, Malformed, Opening, PROTOCOL_VERSION, Refusal, RefusalCode,
};
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use zerocopy::IntoBytes;

/// Who is on the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) pid: i32,
    pub(super) uid: u32,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) socket: OwnedFd,
    pub(super) peer: Peer,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// It has not greeted and is given up at the deadline.
    Silent { deadline: Instant },
    /// It has greeted and waits for a worker.
    Waiting(Box<Hello>),
    /// It has asked for a survey and waits until the devices are known.
    Asking,
}

/// What a look at the connection brings.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing yet.
    Nothing,
    /// It greets.
    Greeted(Box<Hello>),
    /// It asks for a survey.
    Asked,
    /// It has hung up.
    Gone,
    /// It is to be turned away.
    Refuse(RefusalCode, String),
}

impl Arrival {
    pub(super) fn new(socket: OwnedFd, deadline: Instant) -> Result<Self, Errno> {
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
        let peer = Peer {
            pid: credentials.pid(),
            uid: credentials.uid(),
        };
        Ok(Self {
            socket,
            peer,
            state: State::Silent { deadline },
        })
    }

    /// Reads one packet, if there is one. No descriptor enters this process.
    pub(super) fn read(&self) -> Step {
        // One byte more than an honest packet can have, so that a longer one shows.
        let mut buffer = [0; MAX_PACKET_LEN + 1];
        let packet = match receive(self.socket.as_fd(), &mut buffer) {
            Ok(packet) => packet,
            Err(Errno::EAGAIN) => return Step::Nothing,
            Err(_) => return Step::Gone,
        };
        let refuse = |text: String| Step::Refuse(RefusalCode::MALFORMED, text);
        if packet.descriptors_dropped {
            return refuse("it sent descriptors; none are ever taken".into());
        }
        if packet.len == 0 {
            return Step::Gone;
        }
        if !matches!(self.state, State::Silent { .. }) {
            return refuse("it spoke again after its greeting".into());
        }
        match Opening::decode(&buffer[..packet.len]) {
            Ok(Opening::Hello(hello)) => Step::Greeted(Box::new(hello)),
            Ok(Opening::SurveyRequest) => Step::Asked,
            Err(Malformed::Version { found }) => Step::Refuse(
                RefusalCode::WRONG_VERSION,
                format!(
                    "this libvgpu speaks protocol {found} and the proxy {PROTOCOL_VERSION}; install the libvgpu that matches the proxy"
                ),
            ),
            Err(error) => refuse(format!("its greeting is not understood: {error}")),
        }
    }
}

/// Tells a client why not. It may be gone or may not listen; that is its own affair.
pub(super) fn turn_away(socket: &OwnedFd, code: RefusalCode, text: &str) {
    let _ = send(socket.as_fd(), Refusal::new(code, text).as_bytes(), &[]);
}
