//! What devices may do in memory that is mapped: as `cuMemSetAccess` records carry it, and as both sides keep it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Nothing.
pub const NONE: u32 = 0;
/// Reading.
pub const READ: u32 = 1;
/// Reading and writing.
pub const READ_WRITE: u32 = 3;

/// Devices that one word can tell about.
pub const MOST_DEVICES: u32 = u64::BITS / 2;

/// One element of the tail of a `cuMemSetAccess` record.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Entry {
    /// Ordinal of the device.
    pub device: i32,
    /// What it may do from now on.
    pub flags: u32,
}

const _: () = assert!(size_of::<Entry>() == 8);

impl Entry {
    /// The device and what it may do, if both are something that can be kept.
    pub fn checked(self) -> Option<(u32, u32)> {
        let device = u32::try_from(self.device).ok()?;
        let known = matches!(self.flags, NONE | READ | READ_WRITE);
        (device < MOST_DEVICES && known).then_some((device, self.flags))
    }
}

/// What each device may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceAccess(u64);

impl DeviceAccess {
    /// What one device may do.
    pub fn of(self, device: u32) -> u32 {
        let bits = self.0.checked_shr(device.saturating_mul(2)).unwrap_or(0);
        u32::try_from(bits & 3).unwrap_or(NONE)
    }

    /// The same with what one device may do changed. A device that there cannot be changes nothing.
    #[must_use]
    pub fn with(self, device: u32, flags: u32) -> Self {
        let shift = device.saturating_mul(2);
        let mask = 3u64.checked_shl(shift).unwrap_or(0);
        let bits = u64::from(flags & 3).checked_shl(shift).unwrap_or(0);
        Self(self.0 & !mask | bits)
    }

    /// Whether any device may do anything: then copies may read here.
    pub fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Whether any device may write: then copies may, too.
    pub fn is_writable(self) -> bool {
        // Only reading and writing has the upper bit.
        self.0 & 0xaaaa_aaaa_aaaa_aaaa != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_access_of_their_own() {
        let access = DeviceAccess::default();
        assert!(!access.is_some());
        let access = access.with(0, READ).with(31, READ_WRITE);
        assert_eq!(
            [access.of(0), access.of(1), access.of(31)],
            [READ, NONE, READ_WRITE]
        );
        assert_eq!(
            [access.of(32), access.of(u32::MAX)],
            [NONE, NONE],
            "there are no such devices"
        );
        assert_eq!(access.with(32, READ_WRITE), access);
        assert!(!access.with(0, NONE).with(31, NONE).is_some());
        assert!(access.is_writable() && !access.with(31, READ).is_writable());
    }

    #[test]
    fn entries_of_no_device_and_unknown_flags_are_refused() {
        let entry = |device, flags| Entry { device, flags }.checked();
        assert_eq!(entry(3, READ_WRITE), Some((3, READ_WRITE)));
        for (device, flags) in [(-1, READ), (32, READ), (0, 2), (0, 4)] {
            assert_eq!(entry(device, flags), None);
        }
    }
}
