//! `libsoftnvml.so`: how much memory of a software GPU each process has, told as NVIDIA's management library tells it.
//!
//! Only for devices that processes share (`SOFTGPU_SHARED`, [`softgpu_core::shared`]): any other is its process's own.
//! It has the functions that ask for that and no others; whoever looks up another finds none. Device handles are
//! ordinals, counted from one. Each function returns what `nvml.h` names: 0, or an error.

use std::ffi::{c_char, c_uint};
use std::path::PathBuf;
use std::ptr;

use nvml_wrapper_sys::bindings as nvml;
use softgpu_core::config::Config;
use softgpu_core::shared;

type Code = nvml::nvmlReturn_t;

const SUCCESS: Code = nvml::nvmlReturn_enum_NVML_SUCCESS;
const INVALID: Code = nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
const TOO_SMALL: Code = nvml::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
const NO_DRIVER: Code = nvml::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED;
const UNKNOWN: Code = nvml::nvmlReturn_enum_NVML_ERROR_UNKNOWN;

/// What the driver is called; it has no releases of its own.
const RELEASE: &str = concat!("softgpu ", env!("CARGO_PKG_VERSION"), "\0");

/// The folder of the shared devices, and how many there are.
fn devices() -> Result<(PathBuf, u32), Code> {
    let config = Config::from_env().map_err(|_| NO_DRIVER)?;
    Ok((config.shared.ok_or(NO_DRIVER)?, config.devices))
}

fn code(result: Result<(), Code>) -> Code {
    result.err().unwrap_or(SUCCESS)
}

/// Begins: an error if no devices are shared.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> Code {
    code(devices().map(drop))
}

/// Begins: an error if no devices are shared.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Code {
    nvmlInitWithFlags(0)
}

/// Ends.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Code {
    SUCCESS
}

/// The version, as text of at most `length` bytes with its NUL.
///
/// # Safety
/// `version` is NULL or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> Code {
    if version.is_null() {
        return INVALID;
    }
    if usize::try_from(length).is_ok_and(|length| length < RELEASE.len()) {
        return TOO_SMALL;
    }
    // SAFETY: the caller says that there is room for `length` bytes, which are no fewer; they are not the constant's.
    unsafe { ptr::copy_nonoverlapping(RELEASE.as_ptr().cast(), version, RELEASE.len()) };
    SUCCESS
}

/// How many devices there are.
///
/// # Safety
/// `count` is NULL or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Code {
    // SAFETY: the caller says so.
    let Some(count) = (unsafe { count.as_mut() }) else {
        return INVALID;
    };
    code(devices().map(|(_, devices)| *count = devices))
}

/// A device's handle.
///
/// # Safety
/// `device` is NULL or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    device: *mut nvml::nvmlDevice_t,
) -> Code {
    // SAFETY: the caller says so.
    let Some(device) = (unsafe { device.as_mut() }) else {
        return INVALID;
    };
    code(devices().and_then(|(_, devices)| {
        let number = (index < devices).then(|| usize::try_from(index).ok());
        let number = number.flatten().ok_or(INVALID)?;
        *device = ptr::without_provenance_mut(number + 1);
        Ok(())
    }))
}

/// Which processes have memory on a device, and how much. With too little room: how many there are.
///
/// # Safety
/// `count` is NULL or can be read and written; `infos` is NULL or has room for as many as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvml::nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvml::nvmlProcessInfo_t,
) -> Code {
    // SAFETY: the caller says so.
    let Some(count) = (unsafe { count.as_mut() }) else {
        return INVALID;
    };
    let told = usage(device).and_then(|usage| {
        let found = u32::try_from(usage.len()).map_err(|_| UNKNOWN)?;
        let room = std::mem::replace(count, found);
        if room < found || (infos.is_null() && found > 0) {
            return Err(TOO_SMALL);
        }
        for (place, (pid, bytes)) in usage.into_iter().enumerate() {
            let info = nvml::nvmlProcessInfo_t {
                pid,
                usedGpuMemory: bytes,
                gpuInstanceId: u32::MAX,
                computeInstanceId: u32::MAX,
            };
            // SAFETY: there are `found` places and no fewer, by the caller's word.
            let to = unsafe { infos.add(place) };
            // SAFETY: as above; what was there needs no drop.
            unsafe { to.write(info) };
        }
        Ok(())
    });
    code(told)
}

/// Bytes by process.
fn usage(device: nvml::nvmlDevice_t) -> Result<Vec<(u32, u64)>, Code> {
    let (folder, devices) = devices()?;
    let ordinal = device.addr().checked_sub(1).ok_or(INVALID)?;
    let ordinal = u32::try_from(ordinal).map_err(|_| INVALID)?;
    if ordinal >= devices {
        return Err(INVALID);
    }
    match shared::usage(&shared::device_folder(&folder, ordinal)) {
        Ok(usage) => Ok(usage.into_iter().collect()),
        // Nobody has used it yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(_) => Err(UNKNOWN),
    }
}
