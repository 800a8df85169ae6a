//! The packets of the worker channel.
//!
//! The life of a worker, seen from the channel: it starts, loads and initialises the driver, describes each
//! [`Device`] and each layer of its jail ([`Report`]), and says [`Ready`] (or `Failed` and exits). It may then wait
//! for long. [`Assign`] makes it one client's worker, with `Record` before it where calls are written down; it maps
//! what came along and says `Attached` or `AttachFailed`. From then on it charges device memory before it allocates and
//! releases it afterwards, and asks for what clients of its zone share. `Stop`, or the end of the channel, ends it;
//! `Ended` tells why it ends of its own accord.
//!
//! A scrubber is a worker that never has a client, and so is one that looks whether a device is there: after `Ready`
//! it says [`Scrubbed`] once, and exits.
//!
//! Both ends are built together; a version in every packet catches an installation that is not.

#![forbid(unsafe_code)]

use idm_protocol::attach::survey::Device;
use idm_protocol::attach::{DriverKind, Text};
use idm_protocol::layout::Limits;
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::bound::Denied;
use crate::jail::Report;

/// Version of this channel; supervisor and worker must agree exactly.
pub const CHANNEL_VERSION: u32 = 8;

/// A receive buffer of this size never truncates an honest packet.
pub const MAX_PACKET_LEN: usize = 1024;

/// Descriptors that travel with [`Assign`]: control region, arena, status page, statistics page.
pub const ASSIGN_DESCRIPTORS: usize = 4;

/// Descriptors that travel with [`ToWorker::Record`]: the page of calls, and what wakes its reader.
pub const RECORD_DESCRIPTORS: usize = 2;

/// What a packet is. An unknown value is a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
struct Kind(u32);

impl Kind {
    const READY: Self = Self(1);
    const FAILED: Self = Self(2);
    const ATTACHED: Self = Self(3);
    const ATTACH_FAILED: Self = Self(4);
    const CHARGE: Self = Self(5);
    const RELEASE: Self = Self(6);
    const ENDED: Self = Self(7);
    const DEVICE: Self = Self(8);
    const SHARE: Self = Self(9);
    const OPEN: Self = Self(10);
    const CLOSE_SHARE: Self = Self(11);
    const WITHDRAW: Self = Self(12);
    const LAYER: Self = Self(13);
    const REFUSED: Self = Self(14);
    const DENIED: Self = Self(15);
    const SCRUBBED: Self = Self(16);
    const SUSPECT: Self = Self(17);
    const BEHIND: Self = Self(18);
    const ASSIGN: Self = Self(64);
    const VERDICT: Self = Self(65);
    const STOP: Self = Self(66);
    const SHARED: Self = Self(67);
    const RECORD: Self = Self(68);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    kind: Kind,
    version: u32,
}

/// The driver is loaded and initialised; no context exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ready {
    /// Hash of the call table the worker was generated from; a client must have the same.
    pub table_hash: u64,
    /// Time from the worker's start to this message, in microseconds.
    pub init_micros: u64,
    /// Which driver.
    pub driver_kind: DriverKind,
    /// What `cuDriverGetVersion` said.
    pub driver_version: u32,
    /// What `cuDeviceGetCount` said.
    pub device_count: u32,
    /// Bit `i`: the worker could reserve window candidate `i`.
    pub window_mask: u32,
    /// The file that was loaded.
    pub driver_path: Text<256>,
    /// The driver's own version, as `nvidia-smi` would name it; empty if it does not tell.
    pub driver_release: Text<80>,
    /// Why this driver.
    pub why: Text<160>,
}

/// Become the worker of one client. Four descriptors travel with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Assign {
    /// Names the client in logs and status.
    pub client_id: u64,
    /// Capability groups granted to it.
    pub capabilities: u64,
    /// Device memory its zone may hold, in bytes.
    pub memory_limit: u64,
    /// How much to ask for at a time, in bytes; see [`crate::credit`].
    pub credit_chunk: u64,
    /// Sizes of the shared layout.
    pub limits: Limits,
    /// Device memory that each context is charged for what the driver keeps in it, in bytes.
    pub context_overhead: u64,
    /// Bytes of code images that may be loaded at one time.
    pub images: u64,
    /// Window candidate that both sides use.
    pub window: u32,
    /// How long work of one stream may stand still before the worker ends the client; 0 for any time.
    pub stuck_after_millis: u32,
    /// The zone, for log lines.
    pub zone: Text<64>,
    /// The client's program, as it claims, for log lines.
    pub program: Text<64>,
}

/// May this much device memory be spent?
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Charge {
    /// Comes back in the [`Verdict`].
    pub request_id: u64,
    /// Bytes asked for.
    pub bytes: u64,
}

/// The answer to a [`Charge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// From the charge.
    pub request_id: u64,
    /// Whether the bytes may be spent.
    pub outcome: Outcome,
}

/// What became of a [`Charge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They may be spent.
    Granted,
    /// They would go beyond the zone's quota; nothing was granted.
    Refused {
        /// The zone's quota in bytes.
        limit: u64,
        /// What the zone's workers hold of it.
        used: u64,
    },
}

/// Names shared memory in its zone; nobody can guess one.
pub type Token = [u8; 16];

/// The driver's own handle of memory for other processes. No client ever sees one.
pub type DriverHandle = [u8; 64];

/// Other clients of the zone may open this memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Share {
    /// Comes back in [`Shared`].
    pub request_id: u64,
    /// Bytes that can be used.
    pub bytes: u64,
    /// Bytes that it was charged.
    pub charged: u64,
    /// What opens it in another worker.
    pub handle: DriverHandle,
}

/// What is this token good for? If anything, it counts as open from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Open {
    /// Comes back in [`Shared`].
    pub request_id: u64,
    /// The token.
    pub token: Token,
}

/// Shared memory was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Withdraw {
    /// Its token, which names nothing from now on.
    pub token: Token,
    /// Bytes of its charge that the worker gives back.
    pub returned: u64,
}

/// The policy refused a call of the client's. Told the first time, the tenth, the hundredth and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Refused {
    /// The function's declared name.
    pub call: Text<64>,
    /// What the zone is not granted: bits of the capability page.
    pub groups: u64,
    /// How often it has been refused since the grant last changed.
    pub times: u64,
}

/// A call failed as calls do on a device that is lost. Which device, and whether it is, others find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Suspect {
    /// What the driver said: a `CUresult`.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
}

/// What a scrubber came to, on the one device that it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Scrubbed {
    /// 0, or what the driver said that it failed with: a `CUresult`.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
    /// Memory of the device in bytes.
    pub total: u64,
    /// Of it free, when the scrubber began.
    pub free: u64,
    /// Bytes that it was given and zeroed.
    pub zeroed: u64,
    /// Still free while it held those: too small or too scattered to be given out.
    pub left: u64,
}

/// The answer to a [`Share`] or an [`Open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Shared {
    /// From the question.
    pub request_id: u64,
    /// What became of it; the rest counts only if it is done.
    pub outcome: Sharing,
    /// Zero.
    pub reserved: u32,
    /// Of what is opened: bytes.
    pub bytes: u64,
    /// Of what is shared: its token.
    pub token: Token,
    /// Of what is opened: what opens it.
    pub handle: DriverHandle,
}

/// What became of a [`Share`] or an [`Open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Sharing(pub u32);

impl Sharing {
    /// It is done.
    pub const DONE: Self = Self(0);
    /// The token names nothing in this zone.
    pub const UNKNOWN: Self = Self(1);
    /// The token names memory of the worker's own.
    pub const OWN: Self = Self(2);
    /// The worker shares too much already.
    pub const FULL: Self = Self(3);
}

/// Whose doing it is that a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(u8)]
pub enum Ending {
    /// Its own.
    Own,
    /// The client broke the protocol.
    Violation,
    /// The client's work stood still for longer than its zone allows.
    Stuck,
}

/// What a worker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "made and taken apart a few times in a worker's life"
)]
pub enum FromWorker {
    /// One device of the driver's; they come in the order of their ordinals, before [`Ready`].
    Device(Device),
    /// One layer of its jail; all of them before [`Ready`].
    Layer(Report),
    /// See [`Ready`].
    Ready(Ready),
    /// The driver could not be loaded or initialised; the worker exits.
    Failed {
        /// Why, in one line.
        text: Text<400>,
    },
    /// The client's memory is mapped and its ring is served.
    Attached,
    /// It could not be; the worker exits.
    AttachFailed {
        /// Why, in one line.
        text: Text<400>,
    },
    /// See [`Charge`].
    Charge(Charge),
    /// This many granted bytes are no longer needed.
    Release {
        /// How many.
        bytes: u64,
    },
    /// See [`Share`].
    Share(Share),
    /// See [`Open`].
    Open(Open),
    /// What was opened is closed, once.
    CloseShare {
        /// Its token.
        token: Token,
    },
    /// See [`Withdraw`].
    Withdraw(Withdraw),
    /// See [`Refused`].
    Refused(Refused),
    /// See [`Denied`].
    Denied(Denied),
    /// See [`Scrubbed`].
    Scrubbed(Scrubbed),
    /// See [`Suspect`].
    Suspect(Suspect),
    /// Nobody takes the calls that are written down: the page is full.
    Behind,
    /// The worker ends of its own accord.
    Ended {
        /// Why, in one line.
        text: Text<400>,
        /// Whose doing it is.
        ending: Ending,
    },
}

/// What the supervisor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "made and taken apart a few times in a worker's life"
)]
pub enum ToWorker {
    /// Write down every call of the client that [`Assign`] tells of next; see [`crate::calls`].
    Record,
    /// See [`Assign`].
    Assign(Assign),
    /// See [`Verdict`].
    Verdict(Verdict),
    /// See [`Shared`].
    Shared(Shared),
    /// Free everything and exit.
    Stop,
}

/// A packet that is none of ours. From a worker it is a violation that ends the worker; from the supervisor
/// it means that the builds do not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// Too short for a header, or not exactly as long as its kind demands, or a field that cannot be.
    #[error("a packet of kind {kind} with {len} bytes is not understood")]
    Body {
        /// Its kind, zero if it is too short to have one.
        kind: u32,
        /// Its length.
        len: usize,
    },
    /// The other end was built from another version.
    #[error(
        "worker channel version {found}, this side speaks {CHANNEL_VERSION}: install gpu-proxy and vgpu-worker of one build"
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// No such message in this direction.
    #[error("message kind {0} is not one that this side receives")]
    Kind(u32),
    /// Longer than any message of ours, or with descriptors that do not belong to it.
    #[error("a packet that was cut short or carries {0} descriptors that are not its own")]
    Descriptors(usize),
}

/// A packet ready to send.
#[derive(Clone, Debug)]
pub struct Packet(Vec<u8>);

impl Packet {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn new(kind: Kind, body: &(impl IntoBytes + Immutable)) -> Self {
        let mut bytes = Header {
            kind,
            version: CHANNEL_VERSION,
        }
        .as_bytes()
        .to_vec();
        bytes.extend_from_slice(body.as_bytes());
        Self(bytes)
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawVerdict {
    request_id: u64,
    refused: u64,
    limit: u64,
    used: u64,
}

#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawEnded {
    text: Text<400>,
    ending: Ending,
}

const _: () = assert!(size_of::<Header>() + size_of::<Ready>() <= MAX_PACKET_LEN);
const _: () = assert!(size_of::<Header>() + size_of::<Assign>() <= MAX_PACKET_LEN);
const _: () = assert!(size_of::<Header>() + size_of::<RawEnded>() <= MAX_PACKET_LEN);

impl FromWorker {
    /// The packet of this message.
    #[must_use]
    pub fn encode(&self) -> Packet {
        match self {
            Self::Device(device) => Packet::new(Kind::DEVICE, device),
            Self::Layer(report) => Packet::new(Kind::LAYER, report),
            Self::Ready(ready) => Packet::new(Kind::READY, ready),
            Self::Failed { text } => Packet::new(Kind::FAILED, text),
            Self::Attached => Packet::new(Kind::ATTACHED, &()),
            Self::AttachFailed { text } => Packet::new(Kind::ATTACH_FAILED, text),
            Self::Charge(charge) => Packet::new(Kind::CHARGE, charge),
            Self::Release { bytes } => Packet::new(Kind::RELEASE, bytes),
            Self::Share(share) => Packet::new(Kind::SHARE, share),
            Self::Open(open) => Packet::new(Kind::OPEN, open),
            Self::CloseShare { token } => Packet::new(Kind::CLOSE_SHARE, token),
            Self::Withdraw(withdraw) => Packet::new(Kind::WITHDRAW, withdraw),
            Self::Refused(refused) => Packet::new(Kind::REFUSED, refused),
            Self::Denied(denied) => Packet::new(Kind::DENIED, denied),
            Self::Scrubbed(scrubbed) => Packet::new(Kind::SCRUBBED, scrubbed),
            Self::Suspect(suspect) => Packet::new(Kind::SUSPECT, suspect),
            Self::Behind => Packet::new(Kind::BEHIND, &()),
            &Self::Ended { text, ending } => Packet::new(Kind::ENDED, &RawEnded { text, ending }),
        }
    }

    /// Reads one received packet.
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let (kind, body) = open(packet)?;
        Ok(match kind {
            Kind::DEVICE => Self::Device(exact(kind, body)?),
            Kind::LAYER => Self::Layer(exact(kind, body)?),
            Kind::READY => Self::Ready(exact(kind, body)?),
            Kind::FAILED => Self::Failed {
                text: exact(kind, body)?,
            },
            Kind::ATTACHED => {
                exact::<()>(kind, body)?;
                Self::Attached
            }
            Kind::ATTACH_FAILED => Self::AttachFailed {
                text: exact(kind, body)?,
            },
            Kind::CHARGE => Self::Charge(exact(kind, body)?),
            Kind::RELEASE => Self::Release {
                bytes: exact(kind, body)?,
            },
            Kind::SHARE => Self::Share(exact(kind, body)?),
            Kind::OPEN => Self::Open(exact(kind, body)?),
            Kind::CLOSE_SHARE => Self::CloseShare {
                token: exact(kind, body)?,
            },
            Kind::WITHDRAW => Self::Withdraw(exact(kind, body)?),
            Kind::REFUSED => Self::Refused(exact(kind, body)?),
            Kind::DENIED => Self::Denied(exact(kind, body)?),
            Kind::SCRUBBED => Self::Scrubbed(exact(kind, body)?),
            Kind::SUSPECT => Self::Suspect(exact(kind, body)?),
            Kind::BEHIND => {
                exact::<()>(kind, body)?;
                Self::Behind
            }
            Kind::ENDED => {
                let RawEnded { text, ending } = exact(kind, body)?;
                Self::Ended { text, ending }
            }
            Kind(other) => return Err(Malformed::Kind(other)),
        })
    }
}

impl ToWorker {
    /// The packet of this message.
    #[must_use]
    pub fn encode(&self) -> Packet {
        match self {
            Self::Assign(assign) => Packet::new(Kind::ASSIGN, assign),
            &Self::Verdict(Verdict {
                request_id,
                outcome,
            }) => {
                let raw = match outcome {
                    Outcome::Granted => RawVerdict {
                        request_id,
                        refused: 0,
                        limit: 0,
                        used: 0,
                    },
                    Outcome::Refused { limit, used } => RawVerdict {
                        request_id,
                        refused: 1,
                        limit,
                        used,
                    },
                };
                Packet::new(Kind::VERDICT, &raw)
            }
            Self::Shared(shared) => Packet::new(Kind::SHARED, shared),
            Self::Stop => Packet::new(Kind::STOP, &()),
            Self::Record => Packet::new(Kind::RECORD, &()),
        }
    }

    /// Reads one received packet.
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let (kind, body) = open(packet)?;
        Ok(match kind {
            Kind::ASSIGN => Self::Assign(exact(kind, body)?),
            Kind::VERDICT => {
                let RawVerdict {
                    request_id,
                    refused,
                    limit,
                    used,
                } = exact(kind, body)?;
                let outcome = if refused == 0 {
                    Outcome::Granted
                } else {
                    Outcome::Refused { limit, used }
                };
                Self::Verdict(Verdict {
                    request_id,
                    outcome,
                })
            }
            Kind::SHARED => Self::Shared(exact(kind, body)?),
            Kind::STOP => {
                exact::<()>(kind, body)?;
                Self::Stop
            }
            Kind::RECORD => {
                exact::<()>(kind, body)?;
                Self::Record
            }
            Kind(other) => return Err(Malformed::Kind(other)),
        })
    }

    /// Descriptors that must come with this message.
    #[must_use]
    pub const fn descriptors(&self) -> usize {
        match self {
            Self::Assign(_) => ASSIGN_DESCRIPTORS,
            Self::Record => RECORD_DESCRIPTORS,
            Self::Verdict(_) | Self::Shared(_) | Self::Stop => 0,
        }
    }
}

fn open(packet: &[u8]) -> Result<(Kind, &[u8]), Malformed> {
    let (header, body) = Header::read_from_prefix(packet).map_err(|_| Malformed::Body {
        kind: 0,
        len: packet.len(),
    })?;
    if header.version != CHANNEL_VERSION {
        return Err(Malformed::Version {
            found: header.version,
        });
    }
    Ok((header.kind, body))
}

fn exact<T: TryFromBytes>(kind: Kind, body: &[u8]) -> Result<T, Malformed> {
    T::try_read_from_bytes(body).map_err(|_| Malformed::Body {
        kind: kind.0,
        len: body.len(),
    })
}

#[cfg(test)]
mod tests;
