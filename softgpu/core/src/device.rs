//! What a device is: its name, identity and limits.
#![forbid(unsafe_code)]

use crate::config::Config;

/// Name of every device.
pub const NAME: &str = "vgpu software GPU";
/// Threads of a warp.
pub const WARP_SIZE: u32 = 32;
/// Threads of a block.
pub const MAX_BLOCK_THREADS: u32 = 1024;
/// Threads of a block by axis.
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks of a grid by axis.
pub const MAX_GRID: [u32; 3] = [0x7fff_ffff, 65535, 65535];
/// Shared memory a block may have without asking for more.
pub const SHARED_PER_BLOCK: u32 = 48 << 10;
/// 32-bit registers of a block, and of a multiprocessor.
pub const REGISTERS: u32 = 65536;
/// Shared memory that the system keeps of each block.
pub const RESERVED_SHARED: u32 = 1024;
/// Largest parameter block of a kernel.
pub const MAX_PARAM_BYTES: u32 = 32764;

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its place among the devices.
    pub ordinal: u32,
    /// The same for the same number on every host and in every run.
    pub uuid: [u8; 16],
    /// PCI domain, bus, device: the same for the same number.
    pub pci: (u32, u32, u32),
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Newest PTX ISA that a driver of the configured version takes.
    pub ptx_version: (u32, u32),
    /// Multiprocessors.
    pub sm_count: u32,
    /// Shared memory a block may have if its kernel asks for it.
    pub shared_per_block_optin: u32,
    /// Shared memory of a multiprocessor.
    pub shared_per_sm: u32,
    /// Threads that a multiprocessor holds.
    pub threads_per_sm: u32,
    /// Blocks that a multiprocessor holds.
    pub blocks_per_sm: u32,
}

impl Device {
    /// The device that is number `number` of all, in place `ordinal` of those that the process sees.
    pub(crate) fn new(config: &Config, ordinal: u32, number: u32) -> Self {
        let (optin, threads, blocks) = match config.compute_capability {
            (..=6, _) => (48 << 10, 2048, 32),
            (7, 5) => (64 << 10, 1024, 16),
            (7, _) => (96 << 10, 2048, 32),
            (8, 6) => (99 << 10, 1536, 16),
            (8, 9) => (99 << 10, 1536, 24),
            (8, _) => (163 << 10, 2048, 32),
            (12, _) => (99 << 10, 1536, 24),
            _ => (227 << 10, 2048, 32),
        };
        Self {
            ordinal,
            uuid: uuid(number),
            pci: (0, 0x40 + number, 0),
            compute_capability: config.compute_capability,
            ptx_version: ptx_version(config.driver_version),
            sm_count: config.sm_count,
            shared_per_block_optin: optin,
            shared_per_sm: optin + RESERVED_SHARED,
            threads_per_sm: threads,
            blocks_per_sm: blocks,
        }
    }

    /// The PCI name, as `cuDeviceGetPCIBusId` writes it.
    #[must_use]
    pub fn pci_name(&self) -> String {
        let (domain, bus, device) = self.pci;
        format!("{domain:04X}:{bus:02X}:{device:02X}.0")
    }
}

/// The UUID of a device by its number.
#[must_use]
pub fn uuid(number: u32) -> [u8; 16] {
    let mut uuid = *b"vgpu-softgpu-\0\0\0";
    // Version and variant bits of a custom UUID (RFC 9562, version 8), then the number.
    uuid[6] = 0x80 | (uuid[6] & 0x0f);
    uuid[8] = 0x80 | (uuid[8] & 0x3f);
    uuid[12..].copy_from_slice(&number.to_be_bytes());
    uuid
}

/// The PTX ISA that came with a CUDA version: its release notes' table.
fn ptx_version(driver: i32) -> (u32, u32) {
    let driver = driver.unsigned_abs();
    let (major, minor) = (driver / 1000, driver % 1000 / 10);
    match (major, minor) {
        (..=11, _) => (7, minor),
        (12, ..=5) => (8, minor),
        // 12.6 brought none.
        (12, _) => (8, minor - 1),
        _ => (9, minor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_driver_takes_the_ptx_of_its_toolkit() {
        for (driver, ptx) in [
            (11080, (7, 8)),
            (12000, (8, 0)),
            (12040, (8, 4)),
            (12050, (8, 5)),
            (12060, (8, 5)),
            (12080, (8, 7)),
            (12090, (8, 8)),
            (13000, (9, 0)),
            (13050, (9, 5)),
        ] {
            assert_eq!(ptx_version(driver), ptx, "{driver}");
        }
    }

    #[test]
    fn identities_are_stable_and_distinct() {
        let config = Config::default();
        let (a, b) = (Device::new(&config, 0, 0), Device::new(&config, 1, 1));
        assert_eq!(a, Device::new(&config, 0, 0));
        // Whoever sees only the second has it in the first place.
        let shown = Device::new(&config, 0, 1);
        assert_eq!((shown.ordinal, shown.uuid), (0, b.uuid));
        assert_ne!(a.uuid, b.uuid);
        assert_eq!(
            (a.pci_name(), b.pci_name()),
            ("0000:40:00.0".into(), "0000:41:00.0".into())
        );
    }
}
