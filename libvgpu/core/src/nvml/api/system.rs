//! Initialisation, versions, and what is no device.

use core::ffi::{c_char, c_int, c_uint};

use crate::nvml::types::*;
use crate::nvml::{Outcome, put, put_text, put_versioned, state};

pub unsafe fn nvmlInit() -> Outcome {
    state::initialise()
}

pub unsafe fn nvmlInit_v2() -> Outcome {
    state::initialise()
}

pub unsafe fn nvmlInitWithFlags(flags: c_uint) -> Outcome {
    // No GPUs, no attach, force: a zone without devices initialises anyway, and nothing is ever attached.
    const KNOWN: c_uint = 0b111;
    if flags & !KNOWN != 0 {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    state::initialise()
}

pub unsafe fn nvmlShutdown() -> Outcome {
    state::shut_down()
}

pub unsafe fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> Outcome {
    let release = state::initialised()?.driver_release;
    if release.is_empty() {
        return Err(nvmlReturn_t::NVML_ERROR_NOT_SUPPORTED);
    }
    // SAFETY: the caller's promise.
    unsafe { put_text(version, length, &release.to_string()) }
}

pub unsafe fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> Outcome {
    let zone = state::known()?;
    // The interface, which has the number of the CUDA release, then the driver.
    let interface = zone.driver_version / 1000;
    let text = match zone.driver_release {
        release if release.is_empty() => interface.to_string(),
        release => format!("{interface}.{release}"),
    };
    // SAFETY: the caller's promise.
    unsafe { put_text(version, length, &text) }
}

pub unsafe fn nvmlSystemGetCudaDriverVersion(version: *mut c_int) -> Outcome {
    let found = state::known()?.driver_version;
    // SAFETY: the caller's promise.
    unsafe { put(version, c_int::try_from(found).unwrap_or(c_int::MAX)) }
}

pub unsafe fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { nvmlSystemGetCudaDriverVersion(version) }
}

/// The name of a process, as this one may see it: from its own `/proc`, in its own namespace.
pub unsafe fn nvmlSystemGetProcessName(pid: c_uint, name: *mut c_char, length: c_uint) -> Outcome {
    state::initialised()?;
    if name.is_null() || length == 0 {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    let line = std::fs::read(format!("/proc/{pid}/cmdline"))
        .map_err(|_| nvmlReturn_t::NVML_ERROR_NOT_FOUND)?;
    let first = line.split(|&byte| byte == 0).next().unwrap_or_default();
    let mut text = String::from_utf8_lossy(first).into_owned();
    // A name that does not fit is cut, where a character ends.
    let room = usize::try_from(length).unwrap_or(usize::MAX) - 1;
    text.truncate(text.floor_char_boundary(room));
    // SAFETY: the caller's promise.
    unsafe { put_text(name, length, &text) }
}

pub unsafe fn nvmlSystemGetHicVersion(count: *mut c_uint, _: *mut nvmlHwbcEntry_t) -> Outcome {
    state::initialised()?;
    // SAFETY: the caller's promise.
    unsafe { put(count, 0) }
}

pub unsafe fn nvmlUnitGetCount(count: *mut c_uint) -> Outcome {
    state::initialised()?;
    // SAFETY: the caller's promise.
    unsafe { put(count, 0) }
}

pub unsafe fn nvmlGetExcludedDeviceCount(count: *mut c_uint) -> Outcome {
    state::initialised()?;
    // SAFETY: the caller's promise.
    unsafe { put(count, 0) }
}

/// A zone offers no confidential computing, whatever the host's hardware can do.
pub unsafe fn nvmlSystemGetConfComputeState(place: *mut nvmlConfComputeSystemState_t) -> Outcome {
    state::initialised()?;
    let off = nvmlConfComputeSystemState_t {
        environment: 0,
        ccFeature: 0,
        devToolsMode: 0,
    };
    // SAFETY: the caller's promise.
    unsafe { put(place, off) }
}

pub unsafe fn nvmlSystemGetConfComputeSettings(
    settings: *mut nvmlSystemConfComputeSettings_t,
) -> Outcome {
    state::initialised()?;
    let off = |version| nvmlSystemConfComputeSettings_v1_t {
        version,
        environment: 0,
        ccFeature: 0,
        devToolsMode: 0,
        multiGpuMode: 0,
    };
    // SAFETY: the caller's promise.
    unsafe { put_versioned(settings, 1, off) }
}

pub unsafe fn nvmlSystemGetConfComputeCapabilities(
    place: *mut nvmlConfComputeSystemCaps_t,
) -> Outcome {
    state::initialised()?;
    let none = nvmlConfComputeSystemCaps_t {
        cpuCaps: 0,
        gpusCaps: 0,
    };
    // SAFETY: the caller's promise.
    unsafe { put(place, none) }
}
