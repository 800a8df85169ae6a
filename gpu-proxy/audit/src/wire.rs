//! The channel from the supervisor to the auditor: packets, each read from bytes that may be anything.
//!
//! The supervisor greets with [`ToAuditor::Hello`]; the auditor answers with the number of the first event that
//! it does not have, and the supervisor goes on from there. So nothing that it still knows is lost when an auditor
//! is killed, and nothing is recorded twice. Every answer says before which number everything is on disk.
//!
//! Calls do not come this way: workers write them to pages, which the supervisor has the auditor
//! [collect](ToAuditor::Collect) from, again after each greeting until it says that it has everything.
//!
//! Both ends are built together; a version in every packet catches an installation that is not.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{MAX_ZONE_LEN, Zone};
use crate::event::{Event, Stamp};
use crate::hash::LogId;

/// Version of this channel; both must agree exactly.
pub const WIRE_VERSION: u32 = 2;

/// Descriptors that travel with [`ToAuditor::Collect`]: the page, and what wakes its reader.
pub const COLLECT_DESCRIPTORS: usize = 2;

/// No packet to the auditor is longer.
pub const MAX_PACKET_LEN: usize = 64 << 10;

/// Bytes of every packet from the auditor.
pub const REPLY_LEN: usize = size_of::<RawReply>();

/// What the supervisor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToAuditor {
    /// Who speaks; the first packet of a connection, and only that.
    Hello {
        /// Drawn when the supervisor started.
        session: LogId,
    },
    /// Something to record.
    Submit(Box<Submission>),
    /// Calls of a client to collect, from a page that comes along; see `proxy_channel::calls`.
    Collect(Box<Collection>),
    /// Nothing more will be written to the page of this client: its worker is gone.
    Finish {
        /// Which.
        client: u64,
    },
}

/// A page to collect calls from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collection {
    /// The client, in the session.
    pub client: u64,
    /// The process that writes.
    pub worker: u32,
    /// Its zone.
    pub zone: Zone,
    /// How much of it is recorded.
    pub detail: Detail,
    /// When the page was made: nanoseconds of the host's monotonic clock. No call is older.
    pub since_ns: u64,
}

/// How much of a client's calls is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// Every one.
    Every,
    /// How many of each kind there were in an interval.
    Summary,
}

/// Something to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Its number: 0, 1, 2 and so on in a session.
    pub n: u64,
    /// Whose.
    pub zone: Zone,
    /// When.
    pub stamp: Stamp,
    /// What.
    pub what: What,
}

/// What to record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// An event.
    Event(Event),
    /// So many events were more than the supervisor keeps or passes on of one zone.
    Lost(u64),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPacket {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hello: Option<LogId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    submit: Option<RawSubmission>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    collect: Option<Collection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finish: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSubmission {
    n: u64,
    zone: Zone,
    wall_ns: u64,
    mono_ns: u64,
    what: What,
}

/// What the auditor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromAuditor {
    /// Everything before this number is on disk.
    Recorded {
        /// The first that is not.
        next: u64,
    },
    /// Everything on the page of this client is recorded, and nothing more will be.
    Collected {
        /// Which.
        client: u64,
    },
    /// The zone's share of the spool is full: it is to acquire and run nothing.
    Closed {
        /// Which.
        zone: Zone,
    },
    /// There is room again.
    Opened {
        /// Which.
        zone: Zone,
    },
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawReply {
    version: U32,
    kind: U32,
    next: U64,
    zone_len: U32,
    reserved: U32,
    zone: [u8; MAX_ZONE_LEN],
}

const _: () = assert!(size_of::<RawReply>() == 88);

const RECORDED: u32 = 1;
const CLOSED: u32 = 2;
const OPENED: u32 = 3;
const COLLECTED: u32 = 4;

/// A packet that neither end of this build sends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// Too long or too short.
    #[error("a packet of {0} bytes")]
    Length(usize),
    /// Another version.
    #[error("a packet of version {0}, and this is version {WIRE_VERSION}")]
    Version(u32),
    /// Not understood.
    #[error("a packet that is not understood: {0}")]
    Form(String),
}

impl ToAuditor {
    /// The packet.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut raw = RawPacket {
            version: WIRE_VERSION,
            hello: None,
            submit: None,
            collect: None,
            finish: None,
        };
        match self {
            Self::Hello { session } => raw.hello = Some(*session),
            Self::Collect(collection) => raw.collect = Some(collection.as_ref().clone()),
            Self::Finish { client } => raw.finish = Some(*client),
            Self::Submit(submission) => {
                let Submission {
                    n,
                    zone,
                    stamp,
                    what,
                } = submission.as_ref();
                raw.submit = Some(RawSubmission {
                    n: *n,
                    zone: zone.clone(),
                    wall_ns: stamp.wall_ns,
                    mono_ns: stamp.mono_ns,
                    what: what.clone(),
                });
            }
        }
        let packet = serde_json::to_vec(&raw).map_err(form)?;
        if packet.len() > MAX_PACKET_LEN {
            return Err(WireError::Length(packet.len()));
        }
        Ok(packet)
    }

    /// Reads a packet.
    pub fn decode(packet: &[u8]) -> Result<Self, WireError> {
        if packet.len() > MAX_PACKET_LEN {
            return Err(WireError::Length(packet.len()));
        }
        let raw: RawPacket = serde_json::from_slice(packet).map_err(form)?;
        if raw.version != WIRE_VERSION {
            return Err(WireError::Version(raw.version));
        }
        match (raw.hello, raw.submit, raw.collect, raw.finish) {
            (Some(session), None, None, None) => Ok(Self::Hello { session }),
            (None, None, Some(collection), None) => Ok(Self::Collect(Box::new(collection))),
            (None, None, None, Some(client)) => Ok(Self::Finish { client }),
            (None, Some(raw), None, None) => Ok(Self::Submit(Box::new(Submission {
                n: raw.n,
                zone: raw.zone,
                stamp: Stamp {
                    wall_ns: raw.wall_ns,
                    mono_ns: raw.mono_ns,
                },
                what: raw.what,
            }))),
            _ => Err(WireError::Form("it says not exactly one thing".into())),
        }
    }
}

impl FromAuditor {
    /// The packet.
    #[must_use]
    pub fn encode(&self) -> [u8; REPLY_LEN] {
        let (kind, next, name) = match self {
            Self::Recorded { next } => (RECORDED, *next, ""),
            Self::Collected { client } => (COLLECTED, *client, ""),
            Self::Closed { zone } => (CLOSED, 0, zone.as_str()),
            Self::Opened { zone } => (OPENED, 0, zone.as_str()),
        };
        let mut zone = [0; MAX_ZONE_LEN];
        let bytes = zone.iter_mut().zip(name.as_bytes());
        bytes.for_each(|(to, from)| *to = *from);
        let raw = RawReply {
            version: U32::new(WIRE_VERSION),
            kind: U32::new(kind),
            next: U64::new(next),
            // At most 64.
            zone_len: U32::new(u32::try_from(name.len()).unwrap_or(0)),
            reserved: U32::ZERO,
            zone,
        };
        zerocopy::transmute!(raw)
    }

    /// Reads a packet.
    pub fn decode(packet: &[u8]) -> Result<Self, WireError> {
        let raw = RawReply::read_from_bytes(packet).map_err(|_| WireError::Length(packet.len()))?;
        if raw.version.get() != WIRE_VERSION {
            return Err(WireError::Version(raw.version.get()));
        }
        let len = usize::try_from(raw.zone_len.get()).unwrap_or(usize::MAX);
        let name = raw
            .zone
            .get(..len)
            .and_then(|name| std::str::from_utf8(name).ok());
        let zone = || {
            name.and_then(|name| name.parse().ok())
                .ok_or_else(|| WireError::Form("its zone is no name".into()))
        };
        let reply = match raw.kind.get() {
            RECORDED => Self::Recorded {
                next: raw.next.get(),
            },
            COLLECTED => Self::Collected {
                client: raw.next.get(),
            },
            CLOSED => Self::Closed { zone: zone()? },
            OPENED => Self::Opened { zone: zone()? },
            other => return Err(WireError::Form(format!("kind {other}"))),
        };
        if reply.encode() != packet {
            return Err(WireError::Form("it says more than it may".into()));
        }
        Ok(reply)
    }
}

fn form(error: serde_json::Error) -> WireError {
    WireError::Form(error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::Text;

    #[test]
    fn packets_survive_a_round_trip_in_both_directions() {
        let session = LogId([3; 16]);
        let zone: Zone = "a".parse().unwrap();
        let why = Text::from("x");
        let driver = why.clone();
        let submission = |what| {
            ToAuditor::Submit(Box::new(Submission {
                n: 7,
                zone: zone.clone(),
                stamp: Stamp {
                    wall_ns: 1,
                    mono_ns: 2,
                },
                what,
            }))
        };
        for packet in [
            ToAuditor::Hello { session },
            submission(What::Event(Event::Fallback { driver, why })),
            submission(What::Lost(5)),
            ToAuditor::Collect(Box::new(Collection {
                client: 3,
                worker: 4,
                zone: zone.clone(),
                detail: Detail::Summary,
                since_ns: 5,
            })),
            ToAuditor::Finish { client: 3 },
        ] {
            let bytes = packet.encode().unwrap();
            assert_eq!(ToAuditor::decode(&bytes), Ok(packet));
        }
        for reply in [
            FromAuditor::Recorded { next: 9 },
            FromAuditor::Collected { client: 3 },
            FromAuditor::Closed { zone: zone.clone() },
            FromAuditor::Opened { zone },
        ] {
            assert_eq!(FromAuditor::decode(&reply.encode()), Ok(reply));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_packets_are_refused_or_say_the_same_again(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0..REPLY_LEN, value in any::<u8>(),
        ) {
            let _ = ToAuditor::decode(&bytes);
            let _ = FromAuditor::decode(&bytes);
            let mut reply = FromAuditor::Recorded { next: 9 }.encode();
            reply[at] = value;
            if let Ok(read) = FromAuditor::decode(&reply) {
                prop_assert_eq!(read.encode(), reply);
            }
        }
    }
}
