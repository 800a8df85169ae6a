//! The zone's devices: which there are, and what each is.

use core::ffi::{c_char, c_int, c_uint};

use cuda_abi::visible::uuid_text;
use idm_protocol::attach::survey::Device;

use crate::nvml::types::*;
use crate::nvml::{Outcome, claimed_version, put, put_text, put_versioned, state, text};

pub unsafe fn nvmlDeviceGetCount(count: *mut c_uint) -> Outcome {
    let found = state::initialised()?.devices().len();
    // SAFETY: the caller's promise.
    unsafe { put(count, c_uint::try_from(found).unwrap_or(c_uint::MAX)) }
}

pub unsafe fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { nvmlDeviceGetCount(count) }
}

pub unsafe fn nvmlDeviceGetHandleByIndex(index: c_uint, device: *mut nvmlDevice_t) -> Outcome {
    let handle = state::handle(index)?;
    // SAFETY: the caller's promise.
    unsafe { put(device, handle) }
}

pub unsafe fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { nvmlDeviceGetHandleByIndex(index, device) }
}

pub unsafe fn nvmlDeviceGetHandleByUUID(
    wanted: *const c_char,
    device: *mut nvmlDevice_t,
) -> Outcome {
    state::initialised()?;
    // SAFETY: the caller's promise.
    let wanted = unsafe { text(wanted) }?;
    let handle = state::find(|found| uuid(found).eq_ignore_ascii_case(wanted))?;
    // SAFETY: the caller's promise.
    unsafe { put(device, handle) }
}

pub unsafe fn nvmlDeviceGetHandleByUUIDV(
    wanted: *const nvmlUUID_t,
    device: *mut nvmlDevice_t,
) -> Outcome {
    state::initialised()?;
    let version = u32::try_from(size_of::<nvmlUUID_t>()).unwrap_or(0) | (1 << 24);
    // SAFETY: the caller's promise.
    if unsafe { claimed_version(wanted.cast_mut()) }? != version {
        return Err(nvmlReturn_t::NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    }
    // SAFETY: a structure of this version, by its first word.
    let wanted = unsafe { wanted.read_unaligned() };
    let handle = match wanted.type_ {
        NVML_UUID_TYPE_ASCII => {
            let text = wanted.value.split(|&byte| byte == 0).next();
            let text = text.and_then(|text| std::str::from_utf8(text).ok());
            let text = text.ok_or(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT)?;
            state::find(|found| uuid(found).eq_ignore_ascii_case(text))?
        }
        NVML_UUID_TYPE_BINARY => state::find(|found| wanted.value.starts_with(&found.uuid))?,
        _ => return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT),
    };
    // SAFETY: the caller's promise.
    unsafe { put(device, handle) }
}

pub unsafe fn nvmlDeviceGetHandleByPciBusId(
    wanted: *const c_char,
    device: *mut nvmlDevice_t,
) -> Outcome {
    state::initialised()?;
    // SAFETY: the caller's promise.
    let wanted = unsafe { text(wanted) }?;
    let wanted = pci_address(wanted).ok_or(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT)?;
    let handle = state::find(|found| found.pci == wanted)?;
    // SAFETY: the caller's promise.
    unsafe { put(device, handle) }
}

pub unsafe fn nvmlDeviceGetHandleByPciBusId_v2(
    wanted: *const c_char,
    device: *mut nvmlDevice_t,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { nvmlDeviceGetHandleByPciBusId(wanted, device) }
}

pub unsafe fn nvmlDeviceGetIndex(device: nvmlDevice_t, index: *mut c_uint) -> Outcome {
    let (found, _) = state::device(device)?;
    // SAFETY: the caller's promise.
    unsafe { put(index, c_uint::try_from(found).unwrap_or(c_uint::MAX)) }
}

pub unsafe fn nvmlDeviceGetName(
    device: nvmlDevice_t,
    name: *mut c_char,
    length: c_uint,
) -> Outcome {
    let (_, device) = state::device(device)?;
    // SAFETY: the caller's promise.
    unsafe { put_text(name, length, &device.name.to_string()) }
}

pub unsafe fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    place: *mut c_char,
    length: c_uint,
) -> Outcome {
    let (_, device) = state::device(device)?;
    // SAFETY: the caller's promise.
    unsafe { put_text(place, length, &uuid(&device)) }
}

pub unsafe fn nvmlDeviceGetBrand(device: nvmlDevice_t, brand: *mut nvmlBrandType_t) -> Outcome {
    state::device(device)?;
    // SAFETY: the caller's promise.
    unsafe { put(brand, NVML_BRAND_UNKNOWN) }
}

/// The first form of the structure ends before the subsystem; a caller of this symbol has no room for more.
pub unsafe fn nvmlDeviceGetPciInfo(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> Outcome {
    const FIRST_FORM: usize = core::mem::offset_of!(nvmlPciInfo_t, pciSubSystemId);
    // SAFETY: the caller's promise.
    unsafe { put_pci_info(device, pci, FIRST_FORM) }
}

/// The second form ends after the subsystem, but for reserved words.
pub unsafe fn nvmlDeviceGetPciInfo_v2(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> Outcome {
    const SECOND_FORM: usize = core::mem::offset_of!(nvmlPciInfo_t, busId);
    // SAFETY: the caller's promise.
    unsafe { put_pci_info(device, pci, SECOND_FORM) }
}

pub unsafe fn nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { put_pci_info(device, pci, size_of::<nvmlPciInfo_t>()) }
}

pub unsafe fn nvmlDeviceGetPciInfoExt(device: nvmlDevice_t, pci: *mut nvmlPciInfoExt_t) -> Outcome {
    let (_, device) = state::device(device)?;
    let [domain, bus, number] = device.pci;
    let make = |version| nvmlPciInfoExt_v1_t {
        version,
        domain,
        bus,
        device: number,
        pciDeviceId: device.pci_device_id,
        pciSubSystemId: device.pci_subsystem_id,
        // A display controller, of the 3D kind.
        baseClass: 3,
        subClass: 2,
        busId: characters(&bus_id(&device, 8)),
    };
    // SAFETY: the caller's promise.
    unsafe { put_versioned(pci, 1, make) }
}

pub unsafe fn nvmlDeviceGetCudaComputeCapability(
    device: nvmlDevice_t,
    major: *mut c_int,
    minor: *mut c_int,
) -> Outcome {
    let (_, device) = state::device(device)?;
    let [found_major, found_minor] = device.compute_capability;
    // SAFETY: the caller's promise.
    unsafe { put(major, c_int::try_from(found_major).unwrap_or(0)) }?;
    // SAFETY: the caller's promise.
    unsafe { put(minor, c_int::try_from(found_minor).unwrap_or(0)) }
}

pub unsafe fn nvmlDeviceGetArchitecture(
    device: nvmlDevice_t,
    architecture: *mut nvmlDeviceArchitecture_t,
) -> Outcome {
    let (_, device) = state::device(device)?;
    // SAFETY: the caller's promise.
    unsafe { put(architecture, architecture_of(device.compute_capability)) }
}

pub unsafe fn nvmlDeviceGetComputeMode(
    device: nvmlDevice_t,
    mode: *mut nvmlComputeMode_t,
) -> Outcome {
    state::device(device)?;
    // SAFETY: the caller's promise.
    unsafe { put(mode, NVML_COMPUTEMODE_DEFAULT) }
}

pub unsafe fn nvmlDeviceGetEccMode(
    device: nvmlDevice_t,
    current: *mut nvmlEnableState_t,
    pending: *mut nvmlEnableState_t,
) -> Outcome {
    let (_, device) = state::device(device)?;
    // SAFETY: the caller's promise.
    unsafe { put(current, device.ecc) }?;
    // SAFETY: the caller's promise.
    unsafe { put(pending, device.ecc) }
}

pub unsafe fn nvmlDeviceGetMaxClockInfo(
    device: nvmlDevice_t,
    kind: nvmlClockType_t,
    clock: *mut c_uint,
) -> Outcome {
    let (_, device) = state::device(device)?;
    let kilohertz = match kind {
        NVML_CLOCK_GRAPHICS | NVML_CLOCK_SM => device.clock_khz,
        NVML_CLOCK_MEM => device.memory_clock_khz,
        NVML_CLOCK_COUNT.. => return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT),
        _ => 0,
    };
    let megahertz = told(kilohertz / 1000)?;
    // SAFETY: the caller's promise.
    unsafe { put(clock, megahertz) }
}

pub unsafe fn nvmlDeviceGetMemoryBusWidth(device: nvmlDevice_t, width: *mut c_uint) -> Outcome {
    let (_, device) = state::device(device)?;
    let bits = told(device.memory_bus_bits)?;
    // SAFETY: the caller's promise.
    unsafe { put(width, bits) }
}

/// A zone's devices are whole, as CUDA shows them; partitioning is the host's affair.
pub unsafe fn nvmlDeviceGetMigMode(
    device: nvmlDevice_t,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> Outcome {
    state::device(device)?;
    // SAFETY: the caller's promise.
    unsafe { put(current, NVML_DEVICE_MIG_DISABLE) }?;
    // SAFETY: the caller's promise.
    unsafe { put(pending, NVML_DEVICE_MIG_DISABLE) }
}

pub unsafe fn nvmlDeviceGetMaxMigDeviceCount(device: nvmlDevice_t, count: *mut c_uint) -> Outcome {
    state::device(device)?;
    // SAFETY: the caller's promise.
    unsafe { put(count, 0) }
}

pub unsafe fn nvmlDeviceIsMigDeviceHandle(device: nvmlDevice_t, is_mig: *mut c_uint) -> Outcome {
    state::device(device)?;
    // SAFETY: the caller's promise.
    unsafe { put(is_mig, 0) }
}

/// Each field has a status of its own, and none that the header lists is known of a zone's devices.
pub unsafe fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvmlFieldValue_t,
) -> Outcome {
    state::device(device)?;
    let count = usize::try_from(count).unwrap_or(0);
    if count == 0 || values.is_null() {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    for index in 0..count {
        // SAFETY: the caller has as many as it says.
        let value = unsafe { values.add(index) };
        // SAFETY: as above; only this word is written, whatever the others hold.
        let place = unsafe { &raw mut (*value).nvmlReturn };
        // SAFETY: as above.
        unsafe { place.write_unaligned(nvmlReturn_t::NVML_ERROR_NOT_SUPPORTED) };
    }
    Ok(())
}

/// What the driver may not tell, as 0, is not supported.
fn told(value: u32) -> Outcome<u32> {
    (value != 0)
        .then_some(value)
        .ok_or(nvmlReturn_t::NVML_ERROR_NOT_SUPPORTED)
}

unsafe fn put_pci_info(device: nvmlDevice_t, place: *mut nvmlPciInfo_t, bytes: usize) -> Outcome {
    let (_, device) = state::device(device)?;
    if place.is_null() {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    let [domain, bus, number] = device.pci;
    let info = nvmlPciInfo_t {
        busIdLegacy: characters(&bus_id(&device, 4)),
        domain,
        bus,
        device: number,
        pciDeviceId: device.pci_device_id,
        pciSubSystemId: device.pci_subsystem_id,
        busId: characters(&bus_id(&device, 8)),
    };
    let from = (&raw const info).cast::<u8>();
    // SAFETY: the caller has room for the form that it asked for, which begins as `info` does.
    unsafe { from.copy_to_nonoverlapping(place.cast(), bytes.min(size_of_val(&info))) };
    Ok(())
}

/// `00000000:01:00.0`, as NVML writes it, with so many digits of the domain.
fn bus_id(device: &Device, digits: usize) -> String {
    let [domain, bus, number] = device.pci;
    format!("{domain:0digits$X}:{bus:02X}:{number:02X}.0")
}

/// A text in a field of fixed size, with its end.
fn characters<const N: usize>(text: &str) -> [c_char; N] {
    let mut field = [0; N];
    for (place, byte) in field.iter_mut().take(N - 1).zip(text.bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    field
}

fn uuid(device: &Device) -> String {
    uuid_text(&device.uuid)
}

/// Domain, bus and device of `[domain:]bus:device[.function]` in hexadecimal digits. Functions other than 0 are
/// no GPUs.
fn pci_address(text: &str) -> Option<[u32; 3]> {
    let (place, function) = text.split_once('.').unwrap_or((text, "0"));
    let parts: Vec<&str> = place.split(':').collect();
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u32::from_str_radix(text, 16).ok())?
    };
    if number(function)? != 0 {
        return None;
    }
    match parts[..] {
        [bus, device] => Some([0, number(bus)?, number(device)?]),
        [domain, bus, device] => Some([number(domain)?, number(bus)?, number(device)?]),
        _ => None,
    }
}

/// NVML's number for an architecture, by compute capability.
fn architecture_of(capability: [u32; 2]) -> nvmlDeviceArchitecture_t {
    match capability {
        [3, _] => 2,
        [5, _] => 3,
        [6, _] => 4,
        [7, 0..5] => 5,
        [7, _] => 6,
        [8, 9] => 8,
        [8, _] => 7,
        [9, _] => 9,
        [10..=12, _] => 10,
        _ => nvmlDeviceArchitecture_t::MAX,
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn pci_addresses_are_read_in_every_form_that_programs_write() {
        for text in [
            "0000:3B:00.0",
            "00000000:3b:00.0",
            "3b:00.0",
            "3b:0",
            "0:3b:0",
        ] {
            assert_eq!(pci_address(text), Some([0, 0x3b, 0]), "{text}");
        }
        for text in [
            "",
            "3b",
            "0:3b:00.1",
            "0:0:3b:0.0",
            "0:+3b:00.0",
            "g:0",
            "1ffffffff:0:0",
        ] {
            assert_eq!(pci_address(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_written_as_nvml_writes_them() {
        let device = Device {
            uuid: *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef",
            pci: [0, 0x3b, 0x1f],
            ..Device::new_zeroed()
        };
        assert_eq!(uuid(&device), "GPU-01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(bus_id(&device, 8), "00000000:3B:1F.0");
        assert_eq!(bus_id(&device, 4), "0000:3B:1F.0");
        assert_eq!(
            characters::<4>("abcdef").map(|c| c.to_ne_bytes()[0]),
            *b"abc\0"
        );
    }

    #[test]
    fn architectures_follow_the_compute_capability() {
        let of = |major, minor| architecture_of([major, minor]);
        assert_eq!([of(7, 0), of(7, 2), of(7, 5)], [5, 5, 6]);
        assert_eq!([of(8, 0), of(8, 6), of(8, 9), of(9, 0)], [7, 7, 8, 9]);
        assert_eq!([of(12, 0), of(99, 0)], [10, u32::MAX]);
    }
}
