//! Devices.

use std::ffi::{c_char, c_int};

use cuda_abi::types::{CUdevice, CUdevice_attribute, CUdevprop, CUuuid};
use softgpu_core::device::{self, Device};
use softgpu_core::error::Error;
use softgpu_core::image;
use softgpu_core::tensor_map;

use crate::attributes;
use crate::driver::driver;
use crate::edge::{self, Outcome, put, put_text};

pub unsafe fn cuDeviceGetCount(count: *mut c_int) -> Outcome {
    let devices = driver()?.gpu.devices().len();
    // SAFETY: the caller's promise.
    unsafe { put(count, signed(devices)?) }
}

pub unsafe fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) -> Outcome {
    driver()?.gpu.device(ordinal)?;
    // SAFETY: the caller's promise.
    unsafe { put(device, ordinal) }
}

pub unsafe fn cuDeviceGetName(name: *mut c_char, length: c_int, device: CUdevice) -> Outcome {
    driver()?.gpu.device(device)?;
    // SAFETY: the caller's promise.
    unsafe { put_text(name, length, device::NAME) }
}

pub unsafe fn cuDeviceGetUuid(uuid: *mut CUuuid, device: CUdevice) -> Outcome {
    let bytes = driver()?.gpu.device(device)?.uuid;
    // SAFETY: the caller's promise.
    unsafe { put(uuid, CUuuid { bytes }) }
}

pub unsafe fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, device: CUdevice) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuDeviceGetUuid(uuid, device) }
}

pub unsafe fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) -> Outcome {
    let driver = driver()?;
    let (_, total) = driver
        .gpu
        .space()
        .room(driver.gpu.device(device)?.ordinal)?;
    // SAFETY: the caller's promise.
    unsafe { put(bytes, usize::try_from(total).map_err(|_| Error::Unknown)?) }
}

pub unsafe fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: CUdevice_attribute,
    device: CUdevice,
) -> Outcome {
    let found = self::attribute(driver()?.gpu.device(device)?, attribute)?;
    // SAFETY: the caller's promise.
    unsafe { put(value, found) }
}

pub unsafe fn cuDeviceComputeCapability(
    major: *mut c_int,
    minor: *mut c_int,
    device: CUdevice,
) -> Outcome {
    let (own_major, own_minor) = driver()?.gpu.device(device)?.compute_capability;
    // SAFETY: the caller's promise.
    unsafe { put(major, signed(own_major)?) }?;
    // SAFETY: the caller's promise.
    unsafe { put(minor, signed(own_minor)?) }
}

pub unsafe fn cuDeviceGetProperties(properties: *mut CUdevprop, device: CUdevice) -> Outcome {
    use CUdevice_attribute as A;
    let device = driver()?.gpu.device(device)?;
    let get = |wanted| attribute(device, wanted);
    let all = CUdevprop {
        maxThreadsPerBlock: get(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        maxThreadsDim: [
            get(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X)?,
            get(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y)?,
            get(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z)?,
        ],
        maxGridSize: [
            get(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
            get(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y)?,
            get(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)?,
        ],
        sharedMemPerBlock: get(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK)?,
        totalConstantMemory: get(A::CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY)?,
        SIMDWidth: get(A::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?,
        memPitch: get(A::CU_DEVICE_ATTRIBUTE_MAX_PITCH)?,
        regsPerBlock: get(A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK)?,
        clockRate: get(A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
        textureAlign: get(A::CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT)?,
    };
    // SAFETY: the caller's promise.
    unsafe { put(properties, all) }
}

pub unsafe fn cuDeviceGetPCIBusId(name: *mut c_char, length: c_int, device: CUdevice) -> Outcome {
    let text = driver()?.gpu.device(device)?.pci_name();
    // SAFETY: the caller's promise.
    unsafe { put_text(name, length, &text) }
}

pub unsafe fn cuDeviceGetByPCIBusId(device: *mut CUdevice, name: *const c_char) -> Outcome {
    let driver = driver()?;
    // SAFETY: the caller's promise.
    let text = unsafe { edge::name(name) }.map_err(|_| Error::InvalidValue)?;
    let wanted = parse_pci(text).ok_or(Error::InvalidValue)?;
    let found = driver
        .gpu
        .devices()
        .iter()
        .find(|d| d.pci == wanted)
        .ok_or(Error::InvalidDevice)?;
    // SAFETY: the caller's promise.
    unsafe { put(device, signed(found.ordinal)?) }
}

pub unsafe fn cuDeviceCanAccessPeer(can: *mut c_int, device: CUdevice, peer: CUdevice) -> Outcome {
    let driver = driver()?;
    driver.gpu.device(device)?;
    driver.gpu.device(peer)?;
    // SAFETY: the caller's promise.
    unsafe { put(can, 0) }
}

/// `[domain:]bus:device[.function]`, hexadecimal.
fn parse_pci(text: &str) -> Option<(u32, u32, u32)> {
    let parts: Vec<&str> = text.split(':').collect();
    let (domain, bus, slot) = match parts[..] {
        [bus, slot] => ("0", bus, slot),
        [domain, bus, slot] => (domain, bus, slot),
        _ => return None,
    };
    let slot = slot.split('.').next()?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some((number(domain)?, number(bus)?, number(slot)?))
}

pub(crate) fn signed<T: TryInto<c_int>>(value: T) -> Result<c_int, Error> {
    value.try_into().map_err(|_| Error::Unknown)
}

/// What a device says of itself. What it cannot do (clusters, say)
/// is 0, so that programs take their other way.
fn attribute(device: &Device, attribute: CUdevice_attribute) -> Result<c_int, Error> {
    use CUdevice_attribute as A;
    let value = match attribute {
        A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK => device::MAX_BLOCK_THREADS,
        A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X => device::MAX_BLOCK[0],
        A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y => device::MAX_BLOCK[1],
        A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z => device::MAX_BLOCK[2],
        A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X => device::MAX_GRID[0],
        A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y => device::MAX_GRID[1],
        A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z => device::MAX_GRID[2],
        A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK => device::SHARED_PER_BLOCK,
        A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN => device.shared_per_block_optin,
        A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR => device.shared_per_sm,
        A::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK => device::RESERVED_SHARED,
        A::CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY => 64 << 10,
        A::CU_DEVICE_ATTRIBUTE_WARP_SIZE => device::WARP_SIZE,
        A::CU_DEVICE_ATTRIBUTE_MAX_PITCH => 0x7fff_ffff,
        A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK
        | A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR => device::REGISTERS,
        // A nominal gigahertz (in kHz): `clock()` counts nanoseconds.
        A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE | A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE => 1_000_000,
        A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH => 64,
        A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE => 4 << 20,
        A::CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT | A::CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT => 256,
        A::CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT => 32,
        A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => device.sm_count,
        A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR => device.threads_per_sm,
        A::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR => device.blocks_per_sm,
        A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => device.compute_capability.0,
        A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => device.compute_capability.1,
        A::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID => device.pci.0,
        A::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID => device.pci.1,
        A::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID => device.pci.2,
        A::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT => 2,
        A::CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO => 2,
        A::CU_DEVICE_ATTRIBUTE_MULTI_GPU_BOARD_GROUP_ID => device.ordinal,
        A::CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED => {
            u32::from(device.compute_capability >= tensor_map::CAPABILITY)
        }
        A::CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT => attributes::DOMAINS,
        A::CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE => attributes::MOST_WINDOW_BYTES,
        A::CU_DEVICE_ATTRIBUTE_GPU_OVERLAP
        | A::CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY
        | A::CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS
        | A::CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING
        | A::CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED
        | A::CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED
        | A::CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED
        | A::CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED
        | A::CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED
        | A::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH
        | A::CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1
        | A::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1
        | A::CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR_V1
        | A::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS
        | A::CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR
        | A::CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
        | A::CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED
        | A::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
        | A::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED
        | A::CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY
        | A::CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS => 1,
        known if known.name().is_some() => image_limit(known),
        _ => return Err(Error::InvalidValue),
    };
    signed(value)
}

/// Extents of textures and surfaces: one limit for each kind of axis, whatever the attribute's dimensions are.
fn image_limit(attribute: CUdevice_attribute) -> u32 {
    let name = attribute.name().unwrap_or_default();
    let Some(axis) = name.strip_prefix("CU_DEVICE_ATTRIBUTE_MAXIMUM_") else {
        return 0;
    };
    if axis.ends_with("_LAYERS") || axis.ends_with("_NUMSLICES") {
        image::MOST_LAYERS
    } else if axis.contains("1D_LINEAR") {
        1 << 28
    } else {
        image::MOST_EXTENT
    }
    .try_into()
    .unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::parse_pci;

    #[test]
    fn pci_names_are_read_in_every_form() {
        assert_eq!(parse_pci("0000:40:00.0"), Some((0, 0x40, 0)));
        assert_eq!(parse_pci("1:af:1f"), Some((1, 0xaf, 0x1f)));
        assert_eq!(parse_pci("40:00.0"), Some((0, 0x40, 0)));
        assert_eq!(parse_pci("40"), None);
        assert_eq!(parse_pci("x:y:z"), None);
    }
}
