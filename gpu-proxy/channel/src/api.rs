//! What the api says to the supervisor: where it listens, or why it does not (D17).
//!
//! Packets of one size; one of them, and nothing more. It is told nothing: what it shows it asks for at the status
//! socket ([`crate::admin`]), and the end of the channel ends it. It listens on a network, so its word is checked like a
//! worker's.

#![forbid(unsafe_code)]

use std::net::SocketAddr;

use idm_protocol::attach::Text;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::companion::{Malformed, Message};

/// Version of these packets; both ends are built together.
pub const API_VERSION: u32 = 1;

/// What the api says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromApi {
    /// It serves.
    Listening {
        /// Where, with the port that the kernel chose if it was to.
        address: SocketAddr,
    },
    /// It cannot, and exits.
    Failed {
        /// Why, in one line.
        text: Text<160>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Packet {
    kind: u32,
    version: u32,
    text: Text<160>,
}

const LISTENING: u32 = 1;
const FAILED: u32 = 2;

impl Message for FromApi {
    type Packet = [u8; size_of::<Packet>()];

    fn encode(&self) -> Self::Packet {
        let (kind, text) = match *self {
            Self::Listening { address } => (LISTENING, Text::new(&address.to_string())),
            Self::Failed { text } => (FAILED, text),
        };
        let version = API_VERSION;
        zerocopy::transmute!(Packet {
            kind,
            version,
            text
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let Packet { kind, text, .. } = Packet::read_from_bytes(bytes).map_err(|_| Malformed)?;
        let message = match kind {
            LISTENING => Self::Listening {
                address: text.to_string().parse().map_err(|_| Malformed)?,
            },
            FAILED => Self::Failed { text },
            _ => return Err(Malformed),
        };
        // The version, and how it is written, in one.
        (message.encode() == bytes)
            .then_some(message)
            .ok_or(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_and_anything_else_is_malformed() {
        let addresses = ["127.0.0.1:9464", "[::1]:1", "[2001:db8::1%7]:65535"];
        let listening = addresses.map(|address| FromApi::Listening {
            address: address.parse().unwrap(),
        });
        let failed = FromApi::Failed {
            text: Text::new("Address already in use"),
        };
        for message in listening.into_iter().chain([failed]) {
            let packet = message.encode();
            assert_eq!(FromApi::decode(&packet), Ok(message));
            assert!(FromApi::decode(&packet[1..]).is_err());
            for at in [0, 4] {
                let mut other = packet;
                other[at] ^= 0x40;
                assert!(FromApi::decode(&other).is_err(), "{message:?}");
            }
        }
        let mut packet = listening[0].encode();
        let end = packet.len() - 1;
        packet[end] = 1;
        assert!(FromApi::decode(&packet).is_err());
    }
}
