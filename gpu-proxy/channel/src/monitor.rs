//! What the monitor tells the supervisor: how much device memory each process has, by the driver's word (D18).
//!
//! Packets of one size. First [`FromMonitor::Watching`], or `Failed` and the end; then sweep after sweep: one
//! [`FromMonitor::Holds`] for each process on each device, and [`FromMonitor::Swept`]. The monitor links a library that
//! is not ours, so what it says is checked like a worker's word. It is told nothing; the end of the channel ends it.

#![forbid(unsafe_code)]

use idm_protocol::attach::Text;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::companion::{Malformed, Message};

/// Version of these packets; both ends are built together.
pub const MONITOR_VERSION: u32 = 1;

/// Processes in one sweep, over all devices: a driver that tells of more is not asked further, and a monitor that does
/// breaks the protocol.
pub const MAX_PROCESSES: u32 = 4096;

/// What the monitor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromMonitor {
    /// It will sweep.
    Watching {
        /// Devices that it looks at.
        devices: u32,
        /// The driver's version, as it tells it.
        driver: Text<160>,
    },
    /// It cannot, and exits.
    Failed {
        /// Why, in one line.
        text: Text<160>,
    },
    /// A process has memory on a device.
    Holds {
        /// The device, as NVML numbers it.
        device: u32,
        /// The process.
        pid: u32,
        /// How much, in bytes.
        bytes: u64,
    },
    /// These were all.
    Swept {
        /// Processes that the driver did not tell the memory of.
        untold: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Packet {
    kind: u32,
    version: u32,
    first: u32,
    second: u32,
    bytes: u64,
    text: Text<160>,
}

const WATCHING: u32 = 1;
const FAILED: u32 = 2;
const HOLDS: u32 = 3;
const SWEPT: u32 = 4;

impl FromMonitor {
    fn packet(&self) -> Packet {
        let packet = |kind| Packet {
            kind,
            version: MONITOR_VERSION,
            first: 0,
            second: 0,
            bytes: 0,
            text: Text::new(""),
        };
        match *self {
            Self::Watching { devices, driver } => Packet {
                first: devices,
                text: driver,
                ..packet(WATCHING)
            },
            Self::Failed { text } => Packet {
                text,
                ..packet(FAILED)
            },
            Self::Holds { device, pid, bytes } => Packet {
                first: device,
                second: pid,
                bytes,
                ..packet(HOLDS)
            },
            Self::Swept { untold } => Packet {
                first: untold,
                ..packet(SWEPT)
            },
        }
    }
}

impl Message for FromMonitor {
    type Packet = [u8; size_of::<Packet>()];

    fn encode(&self) -> Self::Packet {
        zerocopy::transmute!(self.packet())
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let packet = Packet::read_from_bytes(bytes).map_err(|_| Malformed)?;
        let Packet {
            kind,
            first,
            second,
            bytes,
            text,
            ..
        } = packet;
        let message = match kind {
            WATCHING => Self::Watching {
                devices: first,
                driver: text,
            },
            FAILED => Self::Failed { text },
            HOLDS => Self::Holds {
                device: first,
                pid: second,
                bytes,
            },
            SWEPT => Self::Swept { untold: first },
            _ => return Err(Malformed),
        };
        // The version, and all that is not used, in one.
        (message.packet() == packet)
            .then_some(message)
            .ok_or(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [fn() -> FromMonitor; 4] = [
        || FromMonitor::Watching {
            devices: 2,
            driver: Text::new("580.95.05"),
        },
        || FromMonitor::Failed {
            text: Text::new("no library"),
        },
        || FromMonitor::Holds {
            device: 1,
            pid: 7,
            bytes: u64::MAX,
        },
        || FromMonitor::Swept { untold: 3 },
    ];

    #[test]
    fn messages_survive_and_anything_else_is_malformed() {
        for message in ALL.map(|make| make()) {
            let packet = message.encode();
            assert_eq!(FromMonitor::decode(&packet), Ok(message));
            assert!(FromMonitor::decode(&packet[1..]).is_err());
            for at in [0, 4] {
                let mut other = packet;
                other[at] ^= 0x40;
                assert!(FromMonitor::decode(&other).is_err(), "{message:?}");
            }
        }
        let mut packet = FromMonitor::Swept { untold: 0 }.encode();
        packet[12] = 1;
        assert!(FromMonitor::decode(&packet).is_err());
    }
}
