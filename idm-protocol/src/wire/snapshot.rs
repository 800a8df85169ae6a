//! What a client learns of its devices at initialisation: one block per device in the side buffer.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Device attributes that a snapshot holds, indexed by the attribute's number.
pub const ATTRIBUTE_COUNT: usize = 256;

/// One device as its driver describes it.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Device {
    /// Bytes of memory the zone may use on the device.
    pub total_memory: u64,
    /// PCI domain, bus and device.
    pub pci: [i32; 3],
    /// Compute capability, major and minor.
    pub compute_capability: [i32; 2],
    /// Reserved, zero.
    pub reserved: u32,
    /// UUID as `cuDeviceGetUuid_v2` gives it.
    pub uuid: [u8; 16],
    /// Name, NUL-terminated.
    pub name: [u8; 256],
    /// Attribute values; valid where the bit of the same index is set in `known`.
    pub attributes: [i32; ATTRIBUTE_COUNT],
    /// One bit per attribute: whether the driver answered it.
    pub known: [u64; ATTRIBUTE_COUNT / 64],
}

const _: () = assert!(size_of::<Device>() == 1360);
