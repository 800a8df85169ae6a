//! Devices and initialisation. Everything is answered from the snapshot that `cuInit` brings.

use std::ffi::{c_char, c_int, c_uint};

use cuda_abi::CUDA_VERSION;
use cuda_abi::function::Function;
use cuda_abi::types::{CUdevice, CUdevice_attribute, CUdevprop, CUresult, CUuuid};
use idm_protocol::record::{self, Request};
use idm_protocol::wire;
use idm_protocol::wire::snapshot::{ATTRIBUTE_COUNT, Device};
use zerocopy::FromBytes;

use crate::call::{self, Outcome};
use crate::edge;
use crate::session::Session;
use crate::state;
use crate::thread::Thread;

/// What `cuDriverGetVersion` reports: the worker's driver, as far as we implement it. Without an
/// attachment it is our own version, so that `cuInit` is what reports the failure.
pub(crate) fn driver_version() -> i32 {
    match state::attached() {
        Ok(session) => i32::try_from(session.welcome.driver_version)
            .map_or(CUDA_VERSION, |version| version.min(CUDA_VERSION)),
        Err(_) => CUDA_VERSION,
    }
}

pub unsafe fn cuInit(Flags: c_uint) -> Outcome {
    if Flags != 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let session = state::attached()?;
    let devices = match session.devices() {
        Ok(known) => known,
        Err(_) => session.set_devices(snapshot(session)?)?,
    };
    if devices.list.is_empty() {
        return Err(CUresult::CUDA_ERROR_NO_DEVICE);
    }
    state::initialised();
    Ok(())
}

pub unsafe fn cuDriverGetVersion(driverVersion: *mut c_int) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { edge::put(driverVersion, driver_version()) }
}

pub unsafe fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) -> Outcome {
    state::ready()?.devices()?.get(ordinal)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(device, ordinal) }
}

pub unsafe fn cuDeviceGetCount(count: *mut c_int) -> Outcome {
    let devices = state::ready()?.devices()?;
    // SAFETY: the caller's promise.
    unsafe {
        edge::put(
            count,
            c_int::try_from(devices.list.len()).unwrap_or(c_int::MAX),
        )
    }
}

pub unsafe fn cuDeviceGetName(name: *mut c_char, len: c_int, dev: CUdevice) -> Outcome {
    let device = known(dev)?;
    let text = device
        .name
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    // SAFETY: the caller's promise.
    unsafe { put_text(name, len, text) }
}

pub unsafe fn cuDeviceGetUuid(uuid: *mut CUuuid, dev: CUdevice) -> Outcome {
    let device = known(dev)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(uuid, CUuuid { bytes: device.uuid }) }
}

pub unsafe fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, dev: CUdevice) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuDeviceGetUuid(uuid, dev) }
}

pub unsafe fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: CUdevice) -> Outcome {
    let device = known(dev)?;
    // SAFETY: the caller's promise.
    unsafe {
        edge::put(
            bytes,
            usize::try_from(device.total_memory).unwrap_or(usize::MAX),
        )
    }
}

pub unsafe fn cuDeviceGetAttribute(
    pi: *mut c_int,
    attrib: CUdevice_attribute,
    dev: CUdevice,
) -> Outcome {
    edge::require(pi)?;
    let value = attribute(known(dev)?, attrib)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pi, value) }
}

pub unsafe fn cuDeviceGetPCIBusId(pciBusId: *mut c_char, len: c_int, dev: CUdevice) -> Outcome {
    let device = known(dev)?;
    let [domain, bus, slot] = device.pci;
    // SAFETY: the caller's promise.
    unsafe {
        put_text(
            pciBusId,
            len,
            format!("{domain:04X}:{bus:02X}:{slot:02X}.0").as_bytes(),
        )
    }
}

pub unsafe fn cuDeviceGetByPCIBusId(dev: *mut CUdevice, pciBusId: *const c_char) -> Outcome {
    let devices = state::ready()?.devices()?;
    edge::require(dev)?;
    // SAFETY: the caller's promise.
    let text = unsafe { edge::text(pciBusId, 64) }?;
    let wanted = text
        .to_str()
        .ok()
        .and_then(pci_address)
        .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    let found = devices.list.iter().position(|device| device.pci == wanted);
    let found = found.ok_or(CUresult::CUDA_ERROR_INVALID_DEVICE)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(dev, c_int::try_from(found).unwrap_or(c_int::MAX)) }
}

pub unsafe fn cuDeviceComputeCapability(
    major: *mut c_int,
    minor: *mut c_int,
    dev: CUdevice,
) -> Outcome {
    let device = known(dev)?;
    edge::require(minor)?;
    let [value_major, value_minor] = device.compute_capability;
    // SAFETY: the caller's promise.
    unsafe { edge::put(major, value_major) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(minor, value_minor) }
}

pub unsafe fn cuDeviceGetProperties(prop: *mut CUdevprop, dev: CUdevice) -> Outcome {
    use CUdevice_attribute as A;
    let device = known(dev)?;
    edge::require(prop)?;
    let of = |attrib| attribute(device, attrib).unwrap_or(0);
    let properties = CUdevprop {
        maxThreadsPerBlock: of(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK),
        maxThreadsDim: [
            of(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X),
            of(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y),
            of(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z),
        ],
        maxGridSize: [
            of(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X),
            of(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y),
            of(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z),
        ],
        sharedMemPerBlock: of(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK),
        totalConstantMemory: of(A::CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY),
        SIMDWidth: of(A::CU_DEVICE_ATTRIBUTE_WARP_SIZE),
        memPitch: of(A::CU_DEVICE_ATTRIBUTE_MAX_PITCH),
        regsPerBlock: of(A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK),
        clockRate: of(A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
        textureAlign: of(A::CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT),
    };
    // SAFETY: the caller's promise.
    unsafe { edge::put(prop, properties) }
}

pub unsafe fn cuDeviceCanAccessPeer(
    canAccessPeer: *mut c_int,
    dev: CUdevice,
    peerDev: CUdevice,
) -> Outcome {
    known(dev)?;
    known(peerDev)?;
    // Peer access is not offered yet, and saying so is what lets programs take another way.
    // SAFETY: the caller's promise.
    unsafe { edge::put(canAccessPeer, 0) }
}

/// An attribute as the program shall see it.
pub(crate) fn attribute(device: &Device, attrib: CUdevice_attribute) -> Outcome<c_int> {
    let index = usize::try_from(attrib.0).unwrap_or(usize::MAX);
    if index == 0 || index >= ATTRIBUTE_COUNT || device.known[index / 64] >> (index % 64) & 1 == 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    if is_withheld(attrib) {
        Ok(0)
    } else {
        Ok(device.attributes[index])
    }
}

/// What the device may have and we do not pass on (yet): a program that asks takes another way.
fn is_withheld(attrib: CUdevice_attribute) -> bool {
    use CUdevice_attribute as A;
    matches!(
        attrib,
        A::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS
            | A::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES
            | A::CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST
            | A::CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
            | A::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_COOPERATIVE_MULTI_DEVICE_LAUNCH
            | A::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_WIN32_HANDLE_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_WIN32_KMT_HANDLE_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_GENERIC_COMPRESSION_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS
            | A::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING
            | A::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_LOCALIZED_MEMORY_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_DMA_BUF_MMAP_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_HOST_ALLOC_DMA_BUF_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_SPARSE_CUDA_ARRAY_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_TIMELINE_SEMAPHORE_INTEROP_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES
            | A::CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_MEM_DECOMPRESS_ALGORITHM_MASK
            | A::CU_DEVICE_ATTRIBUTE_MEM_DECOMPRESS_MAXIMUM_LENGTH
            | A::CU_DEVICE_ATTRIBUTE_D3D12_CIG_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_D3D12_CIG_STREAMS_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_VULKAN_CIG_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_VULKAN_CIG_STREAMS_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_HOST_NUMA_MEMORY_POOLS_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_HOST_NUMA_MULTINODE_IPC_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_HOST_MEMORY_POOLS_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_LOGICAL_ENDPOINT_UNICAST_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_LOGICAL_ENDPOINT_MULTICAST_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_LOGICAL_ENDPOINT_COUNTED_OPS_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_LOGICAL_ENDPOINT_UNICAST_ACCESS_ON_OWNER_DEVICE_SUPPORTED
            | A::CU_DEVICE_ATTRIBUTE_LOGICAL_ENDPOINT_SUPPORTED_HANDLE_TYPES
    )
}

fn known(dev: CUdevice) -> Outcome<&'static Device> {
    state::ready()?.devices()?.get(dev)
}

/// Asks the worker for all devices: the one record that travels before `cuInit` has succeeded.
fn snapshot(session: &'static Session) -> Outcome<Vec<Device>> {
    let flags = record::Flags::REPLY.union(record::Flags::LANE);
    debug_assert_eq!(
        wire::VgpuSnapshot::OPCODE,
        Function::vgpuSnapshot.info().opcode
    );
    Thread::current().with_lane(session, |lane| {
        let live = session.live();
        let failed = |error| call::failed(session, &error);
        let ring = &session.control.submissions;
        let sequence = lane
            .send(ring, flags, 0, &wire::VgpuSnapshot {}, &[], &live)
            .map_err(failed)?;
        let reply = lane.await_reply(sequence, &live).map_err(failed)?;
        call::accepted(CUresult(reply.status))?;
        let reply: wire::VgpuSnapshotReply = call::parse(reply.body)?;
        let count = usize::try_from(reply.device_count).unwrap_or(usize::MAX);
        let bytes = count
            .checked_mul(size_of::<Device>())
            .filter(|bytes| *bytes <= lane.side_byte_len());
        let mut side = vec![0; bytes.ok_or(CUresult::CUDA_ERROR_UNKNOWN)?];
        lane.read_side(&mut side).map_err(failed)?;
        let read = |bytes: &[u8]| Device::read_from_bytes(bytes).ok();
        Ok(side
            .chunks_exact(size_of::<Device>())
            .filter_map(read)
            .collect())
    })
}

/// Writes a text and its NUL, cut to `len` bytes.
unsafe fn put_text(place: *mut c_char, len: c_int, text: &[u8]) -> Outcome {
    edge::require(place)?;
    let room = usize::try_from(len)
        .ok()
        .and_then(|len| len.checked_sub(1))
        .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    let text = &text[..text.len().min(room)];
    // SAFETY: the caller's buffer has `len` bytes, and this is less.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), place.cast(), text.len()) };
    // SAFETY: still inside.
    let end = unsafe { place.add(text.len()) };
    // SAFETY: as above.
    unsafe { end.write(0) };
    Ok(())
}

/// `[domain:]bus:device[.function]`, in hexadecimal.
fn pci_address(text: &str) -> Option<[i32; 3]> {
    let hex = |part: &str| i32::from_str_radix(part, 16).ok();
    let text = text.split_once('.').map_or(text, |(address, _)| address);
    let mut parts = text.rsplit(':');
    let (device, bus) = (hex(parts.next()?)?, hex(parts.next()?)?);
    let domain = parts.next().map_or(Some(0), hex)?;
    parts.next().is_none().then_some([domain, bus, device])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Device {
        Device {
            total_memory: 0,
            pci: [0; 3],
            compute_capability: [9, 0],
            reserved: 0,
            uuid: [0; 16],
            name: [0; 256],
            attributes: [7; ATTRIBUTE_COUNT],
            known: [u64::MAX, u64::MAX, 0, 0],
        }
    }

    #[test]
    fn attribute_is_the_drivers_unless_it_is_withheld_or_unknown() {
        let device = device();
        assert_eq!(
            attribute(&device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE),
            Ok(7)
        );
        assert_eq!(
            attribute(
                &device,
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS
            ),
            Ok(0)
        );
        for unknown in [0, 200, 256, u32::MAX] {
            assert_eq!(
                attribute(&device, CUdevice_attribute(unknown)),
                Err(CUresult::CUDA_ERROR_INVALID_VALUE)
            );
        }
    }

    #[test]
    fn pci_addresses_are_read_with_and_without_domain_and_function() {
        assert_eq!(pci_address("0000:3B:00.0"), Some([0, 0x3b, 0]));
        assert_eq!(pci_address("1:3b:1f"), Some([1, 0x3b, 0x1f]));
        assert_eq!(pci_address("3b:00"), Some([0, 0x3b, 0]));
        assert_eq!(pci_address("3b"), None);
        assert_eq!(pci_address("0:0:0:0"), None);
        assert_eq!(pci_address("x:y:z"), None);
    }

    #[test]
    fn text_is_cut_to_its_buffer_and_always_ended() {
        let mut buffer: [c_char; 4] = [1; 4];
        // SAFETY: four bytes.
        unsafe { put_text(buffer.as_mut_ptr(), 4, b"GPU 0") }.unwrap();
        assert_eq!(buffer.map(|byte| byte.to_le_bytes()[0]), *b"GPU\0");
        // SAFETY: refused before anything is written.
        assert!(unsafe { put_text(buffer.as_mut_ptr(), 0, b"x") }.is_err());
    }
}
