//! What the worker tells the supervisor of its driver's devices, before it has met a client: the facts behind
//! the zone's view in `libnvidia-ml.so.1`.

#![forbid(unsafe_code)]

use std::fs;

use cuda_abi::types::{CUdevice_attribute, CUresult};
use idm_protocol::attach::survey::{Device, MAX_DEVICES};
use proxy_channel::{DriverKind, Text};

use crate::driver::{Driver, Table};

/// Where NVIDIA's kernel module tells its version, which is the driver's.
const NVIDIA_RELEASE: &str = "/sys/module/nvidia/version";

/// Describes every device that a survey has room for, in the order of their ordinals.
///
/// # Errors
/// What the driver said where it must not fail.
pub fn describe(driver: &Driver) -> Result<Vec<Device>, CUresult> {
    let most = u32::try_from(MAX_DEVICES).unwrap_or(u32::MAX);
    (0..driver.device_count.min(most))
        .map(|ordinal| describe_one(&driver.table, ordinal))
        .collect()
}

/// The driver's own version, as `nvidia-smi` would name it; empty if it does not tell. The software GPU is of
/// one build with this worker.
#[must_use]
pub fn release(kind: DriverKind) -> Text<80> {
    match kind {
        DriverKind::SOFTGPU => Text::new(env!("CARGO_PKG_VERSION")),
        _ => fs::read_to_string(NVIDIA_RELEASE)
            .map_or(Text::EMPTY, |release| Text::new(release.trim())),
    }
}

fn describe_one(driver: &Table, ordinal: u32) -> Result<Device, CUresult> {
    let ordinal = i32::try_from(ordinal).map_err(|_| CUresult::CUDA_ERROR_INVALID_DEVICE)?;
    let handle = driver.device(ordinal)?;
    let attribute = |id: CUdevice_attribute| {
        let value = driver.device_attribute(handle, id.0)?;
        u32::try_from(value).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)
    };
    // Older drivers do not know them all; 0 says so.
    let told = |id: CUdevice_attribute| attribute(id).unwrap_or(0);
    let mut name = [0; 256];
    driver.device_name(handle, &mut name)?;
    let len = name
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(name.len());
    Ok(Device {
        total_memory: driver.device_memory(handle)?,
        uuid: driver.device_uuid(handle)?,
        pci: [
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?,
        ],
        pci_device_id: told(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GPU_PCI_DEVICE_ID),
        pci_subsystem_id: told(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GPU_PCI_SUBSYSTEM_ID),
        compute_capability: [
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ],
        multiprocessors: told(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
        clock_khz: told(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
        memory_clock_khz: told(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
        memory_bus_bits: told(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
        ecc: told(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_ECC_ENABLED).min(1),
        name: Text::new(&String::from_utf8_lossy(&name[..len])),
    })
}
