//! The attach handshake between a client process and the supervisor, over the zone's own
//! `SOCK_SEQPACKET` socket.
//!
//! One conversation, three messages, each a fixed-size packet:
//!
//! 1. the client sends [`Hello`];
//! 2. the supervisor answers [`Welcome`] with three descriptors (control region, arena, status page, in
//!    that order), or [`Refusal`] with a reason that the client prints;
//! 3. nothing more is said. The socket stays open as the sign of life of both sides: end-of-file tells the
//!    supervisor that the client is gone, and the client that its worker is.
//!
//! Whoever only wants to look asks for a [`survey`] instead of greeting.
//!
//! This module owns the messages and their checks. [`socket`] moves packets and descriptors, [`client`]
//! is the client's side of the conversation; the supervisor's side is the supervisor.
//!
//! Everything read here comes from another process: a packet is received into a private buffer, its size
//! and header are checked, and only the checked copy is used. [`Header`] and [`Refusal`] keep their layout
//! in every later protocol version, so that two builds that do not match can still say so.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::Limits;

pub mod client;
pub mod socket;
pub mod survey;
mod text;

pub use text::Text;

#[cfg(not(target_endian = "little"))]
compile_error!("attach messages are little endian and are read in place");

/// First word of every attach packet.
pub const MAGIC: u64 = u64::from_le_bytes(*b"vgpu-att");

/// Version of the attach conversation and of the shared memory behind it.
pub const PROTOCOL_VERSION: u32 = 2;

/// Number of descriptors that travel with a [`Welcome`]: control region, arena, status page.
pub const WELCOME_DESCRIPTORS: usize = 3;

/// Longest packet of an attach; a receive buffer of this size never truncates an honest one. (A [`survey`] is
/// longer: [`survey::SURVEY_LEN`].)
pub const MAX_PACKET_LEN: usize = 512;

/// What a packet is. An unknown value survives parsing and is refused by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct MessageKind(pub u32);

impl MessageKind {
    /// [`Hello`], client to supervisor.
    pub const HELLO: Self = Self(1);
    /// [`Welcome`], supervisor to client.
    pub const WELCOME: Self = Self(2);
    /// [`Refusal`], supervisor to client.
    pub const REFUSAL: Self = Self(3);
    /// [`survey::SurveyRequest`], to the supervisor.
    pub const SURVEY_REQUEST: Self = Self(4);
    /// [`survey::Survey`], from the supervisor.
    pub const SURVEY: Self = Self(5);
}

/// How every packet begins, in every protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// What follows.
    pub kind: MessageKind,
    /// The sender's [`PROTOCOL_VERSION`].
    pub protocol_version: u32,
}

const _: () = assert!(size_of::<Header>() == 16);

impl Header {
    /// The header of a packet of this build.
    #[must_use]
    pub const fn new(kind: MessageKind) -> Self {
        Self {
            magic: MAGIC,
            kind,
            protocol_version: PROTOCOL_VERSION,
        }
    }
}

/// What a client says first. Everything in it is a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hello {
    /// [`MessageKind::HELLO`].
    pub header: Header,
    /// Hash of the generated call table; both sides must have been built from the same one.
    pub table_hash: u64,
    /// Capability groups the client would like ([`Capabilities`]).
    pub capabilities: u64,
    /// Bit `i`: the client could reserve window candidate `i`.
    pub window_mask: u32,
    /// The client's idea of its process id; the supervisor goes by `SO_PEERCRED`.
    pub client_pid: u32,
    /// Name of the program, for status only.
    pub name: Text<64>,
}

const _: () = assert!(size_of::<Hello>() == 104);

impl Hello {
    /// A greeting of this build.
    #[must_use]
    pub fn new(table_hash: u64, capabilities: u64, window_mask: u32, name: &str) -> Self {
        Self {
            header: Header::new(MessageKind::HELLO),
            table_hash,
            capabilities,
            window_mask,
            client_pid: std::process::id(),
            name: Text::new(name),
        }
    }

    /// Reads a greeting from one received packet.
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        decode(packet, MessageKind::HELLO, |hello: &Self| hello.header)
    }
}

/// The capability bitmap in [`Hello`], [`Welcome`] and on the status page: a bit for each
/// [`Group`](cuda_abi::function::Group).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities;

impl Capabilities {
    /// Everything that this build knows.
    pub const ALL: u64 = cuda_abi::function::Group::MASK;
}

/// Which driver a worker loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct DriverKind(pub u32);

impl DriverKind {
    /// NVIDIA's `libcuda.so.1`.
    pub const NVIDIA: Self = Self(1);
    /// The software GPU.
    pub const SOFTGPU: Self = Self(2);

    /// The word that configuration, log and status use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NVIDIA => "nvidia",
            Self::SOFTGPU => "softgpu",
            _ => "unknown",
        }
    }
}

/// The supervisor's consent. Three descriptors travel with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Welcome {
    /// [`MessageKind::WELCOME`].
    pub header: Header,
    /// Names this client in logs and status; unique while the supervisor runs.
    pub client_id: u64,
    /// Capability groups granted.
    pub capabilities: u64,
    /// Device memory the zone may hold, in bytes, over all its clients.
    pub memory_limit: u64,
    /// Sizes of the shared layout.
    pub limits: Limits,
    /// Window candidate that client and worker both use.
    pub window: u32,
    /// Which driver the worker loaded.
    pub driver_kind: DriverKind,
    /// What `cuDriverGetVersion` said there.
    pub driver_version: u32,
    /// Devices the worker sees.
    pub device_count: u32,
}

const _: () = assert!(size_of::<Welcome>() == 184);

impl Welcome {
    /// Reads a welcome from one received packet.
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        decode(packet, MessageKind::WELCOME, |welcome: &Self| {
            welcome.header
        })
    }
}

/// Why a client was turned away. Unknown codes survive parsing; the text says it anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct RefusalCode(pub u32);

impl RefusalCode {
    /// Client and supervisor speak different protocol versions.
    pub const WRONG_VERSION: Self = Self(1);
    /// Client and worker were generated from different call tables.
    pub const WRONG_TABLE: Self = Self(2);
    /// The zone has as many clients as it may.
    pub const ZONE_FULL: Self = Self(3);
    /// No worker could be started, or its driver did not initialise.
    pub const NO_WORKER: Self = Self(4);
    /// The supervisor is shutting down.
    pub const SHUTTING_DOWN: Self = Self(5);
    /// The zone belongs to another user.
    pub const UID_NOT_ALLOWED: Self = Self(6);
    /// Client and worker have no window candidate in common.
    pub const NO_COMMON_WINDOW: Self = Self(7);
    /// The greeting made no sense.
    pub const MALFORMED: Self = Self(8);
    /// The operator's policy grants the zone nothing, or not what was asked.
    pub const NOT_GRANTED: Self = Self(9);
    /// The devices of the zone are lost.
    pub const DEVICE_LOST: Self = Self(10);
}

/// The supervisor's no, with a reason for people. Its layout never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Refusal {
    /// [`MessageKind::REFUSAL`].
    pub header: Header,
    /// Why.
    pub code: RefusalCode,
    /// Zero.
    pub reserved: u32,
    /// Why, in one line that the client prints.
    pub text: Text<200>,
}

const _: () = assert!(size_of::<Refusal>() == 224);

impl Refusal {
    /// A refusal of this build.
    #[must_use]
    pub fn new(code: RefusalCode, text: &str) -> Self {
        Self {
            header: Header::new(MessageKind::REFUSAL),
            code,
            reserved: 0,
            text: Text::new(text),
        }
    }

    /// Reads a refusal from one received packet, from a supervisor of any version.
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let header = peek(packet)?;
        if header.kind != MessageKind::REFUSAL {
            return Err(Malformed::Kind {
                found: header.kind.0,
                wanted: MessageKind::REFUSAL.0,
            });
        }
        exact(packet)
    }
}

/// What somebody may say first on a fresh connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A client that wants a worker.
    Hello(Hello),
    /// Somebody who only looks.
    SurveyRequest,
}

impl Opening {
    /// Reads whichever opening one packet holds.
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        match peek(packet)?.kind {
            MessageKind::SURVEY_REQUEST => {
                survey::SurveyRequest::decode(packet).map(|_| Self::SurveyRequest)
            }
            _ => Hello::decode(packet).map(Self::Hello),
        }
    }
}

/// What the supervisor may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Come in.
    Welcome(Welcome),
    /// Stay out.
    Refusal(Refusal),
}

impl Answer {
    /// Reads whichever answer one packet holds.
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        match peek(packet)?.kind {
            MessageKind::REFUSAL => Refusal::decode(packet).map(Self::Refusal),
            _ => Welcome::decode(packet).map(Self::Welcome),
        }
    }
}

/// A packet that is not the message it should be. The peer is broken, hostile or of another build; the
/// conversation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than a header, or not exactly as long as its kind demands.
    #[error("a packet of {found} bytes where {wanted} were due")]
    Size {
        /// Bytes received.
        found: usize,
        /// Bytes due.
        wanted: usize,
    },
    /// It does not begin with [`MAGIC`].
    #[error("not an attach packet (it begins with {found:#018x})")]
    Magic {
        /// The word in its place.
        found: u64,
    },
    /// It comes from a build with another protocol version.
    #[error("protocol version {found}, this side speaks {PROTOCOL_VERSION}")]
    Version {
        /// The sender's version.
        found: u32,
    },
    /// A message of the conversation, but not the one that is due.
    #[error("message kind {found} where {wanted} was due")]
    Kind {
        /// Kind received.
        found: u32,
        /// Kind due.
        wanted: u32,
    },
}

/// The header of a packet, with nothing checked but length and magic.
fn peek(packet: &[u8]) -> Result<Header, Malformed> {
    let (header, _) = Header::read_from_prefix(packet).map_err(|_| Malformed::Size {
        found: packet.len(),
        wanted: size_of::<Header>(),
    })?;
    if header.magic != MAGIC {
        return Err(Malformed::Magic {
            found: header.magic,
        });
    }
    Ok(header)
}

fn exact<T: FromBytes>(packet: &[u8]) -> Result<T, Malformed> {
    T::read_from_bytes(packet).map_err(|_| Malformed::Size {
        found: packet.len(),
        wanted: size_of::<T>(),
    })
}

fn decode<T: FromBytes>(
    packet: &[u8],
    kind: MessageKind,
    header_of: impl Fn(&T) -> Header,
) -> Result<T, Malformed> {
    let header = peek(packet)?;
    // The version first: a later version may have renumbered or resized what follows the header.
    if header.protocol_version != PROTOCOL_VERSION {
        return Err(Malformed::Version {
            found: header.protocol_version,
        });
    }
    if header.kind != kind {
        return Err(Malformed::Kind {
            found: header.kind.0,
            wanted: kind.0,
        });
    }
    let message = exact::<T>(packet)?;
    debug_assert_eq!(header_of(&message), header);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello::new(0x1234, Capabilities::ALL, 0b101, "vectorAdd")
    }

    #[test]
    fn hello_survives_a_round_trip() {
        let sent = hello();
        assert_eq!(Hello::decode(sent.as_bytes()), Ok(sent));
        assert_eq!(sent.name.to_string(), "vectorAdd");
    }

    #[test]
    fn hello_of_any_other_length_is_refused() {
        let mut packet = hello().as_bytes().to_vec();
        packet.push(0);
        for len in (0..=packet.len()).filter(|&len| len != size_of::<Hello>()) {
            assert!(
                matches!(Hello::decode(&packet[..len]), Err(Malformed::Size { found, .. }) if found == len),
                "length {len}"
            );
        }
    }

    #[test]
    fn hello_with_wrong_magic_version_or_kind_is_refused_by_name() {
        let mut wrong = hello();
        wrong.header.magic ^= 1;
        assert_eq!(
            Hello::decode(wrong.as_bytes()),
            Err(Malformed::Magic { found: MAGIC ^ 1 })
        );
        let mut wrong = hello();
        wrong.header.protocol_version = 7;
        assert_eq!(
            Hello::decode(wrong.as_bytes()),
            Err(Malformed::Version { found: 7 })
        );
        let mut wrong = hello();
        wrong.header.kind = MessageKind(9);
        assert_eq!(
            Hello::decode(wrong.as_bytes()),
            Err(Malformed::Kind {
                found: 9,
                wanted: 1
            })
        );
    }

    #[test]
    fn version_is_judged_before_length_so_that_a_longer_hello_is_told_the_version() {
        let mut later = hello();
        let found = PROTOCOL_VERSION + 1;
        later.header.protocol_version = found;
        let mut packet = later.as_bytes().to_vec();
        packet.extend_from_slice(&[0; 64]);
        assert_eq!(Hello::decode(&packet), Err(Malformed::Version { found }));
    }

    #[test]
    fn refusal_of_another_version_is_still_read() {
        let mut sent = Refusal::new(RefusalCode::WRONG_VERSION, "rebuild");
        sent.header.protocol_version = 99;
        assert_eq!(Answer::decode(sent.as_bytes()), Ok(Answer::Refusal(sent)));
    }
}
