//! What can be limited besides credit, and how a worker tells of it.

#![forbid(unsafe_code)]

use std::fmt;

use idm_protocol::handle::Kind;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A limit refused the client something, or made it wait. Told the first time, the tenth, the hundredth and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Denied {
    /// Which.
    pub bound: Bound,
    /// What was asked for, in the bound's unit.
    pub asked: u64,
    /// How often so far.
    pub times: u64,
}

/// What can be limited. An unknown value survives, and is named as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Bound(pub u64);

impl Bound {
    /// The zone's quota of device memory, in bytes: ours.
    pub const MEMORY: Self = Self(1);
    /// The device has no more memory, whatever the quota says: the driver's.
    pub const DRIVER: Self = Self(2);
    /// Code images, in bytes.
    pub const IMAGES: Self = Self(3);
    /// Calls per second: the client waits.
    pub const CALLS: Self = Self(4);
    /// Launches per second: the client waits.
    pub const LAUNCHES: Self = Self(5);
    /// Objects that have no handle of ours, such as textures.
    pub const OBJECTS: Self = Self(6);

    /// Pinned memory of the client, in bytes, by its own word.
    pub const PINNED: Self = Self(7);

    const FIRST_HANDLE: u64 = 64;

    /// Handles of a kind.
    #[must_use]
    pub const fn handles(kind: Kind) -> Self {
        // Lossless.
        Self(Self::FIRST_HANDLE + kind.number() as u64)
    }

    /// The kind whose handles it limits.
    #[must_use]
    pub fn kind(self) -> Option<Kind> {
        let number = self.0.checked_sub(Self::FIRST_HANDLE)?;
        Kind::new(u8::try_from(number).ok()?)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::MEMORY => "memory",
            Self::DRIVER => "the device's own memory",
            Self::IMAGES => "images",
            Self::CALLS => "calls_per_second",
            Self::LAUNCHES => "launches_per_second",
            Self::OBJECTS => "objects without a handle",
            Self::PINNED => "pinned",
            other => match other.kind() {
                Some(kind) => return write!(f, "handles of kind {}", kind.number()),
                None => return write!(f, "bound {}", other.0),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_of_handles_names_its_kind_and_others_name_none() {
        assert_eq!(Bound::handles(Kind::STREAM).kind(), Some(Kind::STREAM));
        for other in [Bound::MEMORY, Bound::OBJECTS, Bound(64), Bound(u64::MAX)] {
            assert_eq!(other.kind(), None, "{other}");
        }
    }
}
