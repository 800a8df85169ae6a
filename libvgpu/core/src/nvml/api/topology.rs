//! How devices reach each other. What NCCL asks before it chooses its routes.

use crate::nvml::types::*;
use crate::nvml::{Outcome, claimed_version, put, put_versioned, state};

/// A zone's clients reach each device through their worker; a device reaches itself.
pub unsafe fn nvmlDeviceGetP2PStatus(
    device: nvmlDevice_t,
    peer: nvmlDevice_t,
    index: nvmlGpuP2PCapsIndex_t,
    status: *mut nvmlGpuP2PStatus_t,
) -> Outcome {
    let (device, _) = state::device(device)?;
    let (peer, _) = state::device(peer)?;
    if index >= NVML_P2P_CAPS_INDEX_UNKNOWN {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    let found = if device == peer {
        NVML_P2P_STATUS_OK
    } else {
        NVML_P2P_STATUS_NOT_SUPPORTED
    };
    // SAFETY: the caller's promise.
    unsafe { put(status, found) }
}

/// A zone is part of no fabric.
pub unsafe fn nvmlDeviceGetGpuFabricInfo(
    device: nvmlDevice_t,
    info: *mut nvmlGpuFabricInfo_t,
) -> Outcome {
    state::device(device)?;
    let none = nvmlGpuFabricInfo_t {
        clusterUuid: [0; 16],
        status: nvmlReturn_t::NVML_SUCCESS,
        cliqueId: 0,
        state: NVML_GPU_FABRIC_STATE_NOT_SUPPORTED,
    };
    // SAFETY: the caller's promise.
    unsafe { put(info, none) }
}

/// The same in the form that the first word names.
pub unsafe fn nvmlDeviceGetGpuFabricInfoV(
    device: nvmlDevice_t,
    info: *mut nvmlGpuFabricInfoV_t,
) -> Outcome {
    state::device(device)?;
    // SAFETY: the caller's promise.
    let version = unsafe { claimed_version(info) }? >> 24;
    if version == 2 {
        let make = |version| nvmlGpuFabricInfo_v2_t {
            version,
            clusterUuid: [0; 16],
            status: nvmlReturn_t::NVML_SUCCESS,
            cliqueId: 0,
            state: NVML_GPU_FABRIC_STATE_NOT_SUPPORTED,
            healthMask: 0,
        };
        // SAFETY: the caller's promise.
        return unsafe { put_versioned(info.cast(), 2, make) };
    }
    let make = |version| nvmlGpuFabricInfo_v3_t {
        version,
        clusterUuid: [0; 16],
        status: nvmlReturn_t::NVML_SUCCESS,
        cliqueId: 0,
        state: NVML_GPU_FABRIC_STATE_NOT_SUPPORTED,
        healthMask: 0,
        healthSummary: 0,
    };
    // SAFETY: the caller's promise.
    unsafe { put_versioned(info, 3, make) }
}
