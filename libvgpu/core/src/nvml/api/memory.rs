//! What changes: memory and processes, as they are at the moment of the call.
//!
//! A zone has one quota over all its devices and clients. So each device shows as its memory the quota (or what
//! it has, if that is less), and as used what the zone's clients hold together, on whichever device; a process
//! likewise. This is what `cuMemGetInfo` says too.

use core::ffi::c_uint;

use idm_protocol::attach::survey::Process;

use crate::nvml::types::*;
use crate::nvml::{Outcome, put, put_versioned, state};

/// A zone's processes belong to no instance of a partitioned device.
const NO_INSTANCE: c_uint = c_uint::MAX;

pub unsafe fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) -> Outcome {
    let (total, used) = usage(device)?;
    let info = nvmlMemory_t {
        total,
        free: total - used,
        used,
    };
    // SAFETY: the caller's promise.
    unsafe { put(memory, info) }
}

pub unsafe fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    memory: *mut nvmlMemory_v2_t,
) -> Outcome {
    let (total, used) = usage(device)?;
    let make = |version| nvmlMemory_v2_t {
        version,
        total,
        reserved: 0,
        free: total - used,
        used,
    };
    // SAFETY: the caller's promise.
    unsafe { put_versioned(memory, 2, make) }
}

pub unsafe fn nvmlDeviceGetComputeRunningProcesses(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_v1_t,
) -> Outcome {
    let (zone, _) = state::device_now(device)?;
    let form = |process: &Process| nvmlProcessInfo_v1_t {
        pid: process.pid,
        usedGpuMemory: process.memory,
    };
    // SAFETY: the caller's promise.
    unsafe { put_list(count, infos, zone.processes().iter().map(form)) }
}

pub unsafe fn nvmlDeviceGetComputeRunningProcesses_v2(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_v2_t,
) -> Outcome {
    let (zone, _) = state::device_now(device)?;
    let form = |process: &Process| nvmlProcessInfo_v2_t {
        pid: process.pid,
        usedGpuMemory: process.memory,
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
    };
    // SAFETY: the caller's promise.
    unsafe { put_list(count, infos, zone.processes().iter().map(form)) }
}

pub unsafe fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_t,
) -> Outcome {
    // SAFETY: the caller's promise; the two forms are one.
    unsafe { nvmlDeviceGetComputeRunningProcesses_v2(device, count, infos) }
}

/// A zone has no graphics and no MPS clients.
macro_rules! no_processes {
    ($(pub unsafe fn $name:ident: $info:ty;)+) => {$(
        pub unsafe fn $name(
            device: nvmlDevice_t,
            count: *mut c_uint,
            _: *mut $info,
        ) -> Outcome {
            state::device(device)?;
            // SAFETY: the caller's promise.
            unsafe { put(count, 0) }
        }
    )+};
}

no_processes! {
    pub unsafe fn nvmlDeviceGetGraphicsRunningProcesses: nvmlProcessInfo_v1_t;
    pub unsafe fn nvmlDeviceGetGraphicsRunningProcesses_v2: nvmlProcessInfo_v2_t;
    pub unsafe fn nvmlDeviceGetGraphicsRunningProcesses_v3: nvmlProcessInfo_t;
    pub unsafe fn nvmlDeviceGetMPSComputeRunningProcesses: nvmlProcessInfo_v1_t;
    pub unsafe fn nvmlDeviceGetMPSComputeRunningProcesses_v2: nvmlProcessInfo_v2_t;
    pub unsafe fn nvmlDeviceGetMPSComputeRunningProcesses_v3: nvmlProcessInfo_t;
}

/// Total and used.
fn usage(device: nvmlDevice_t) -> Outcome<(u64, u64)> {
    let (zone, device) = state::device_now(device)?;
    let total = device.total_memory.min(zone.memory_limit);
    Ok((total, zone.memory_used.min(total)))
}

/// Writes a list where the caller has room for it; one that has not learns how much it needs.
///
/// # Safety
/// `count` is null or holds how many elements `infos` has room for.
unsafe fn put_list<T>(
    count: *mut c_uint,
    infos: *mut T,
    list: impl ExactSizeIterator<Item = T>,
) -> Outcome {
    if count.is_null() {
        return Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT);
    }
    // SAFETY: the caller's promise.
    let room = unsafe { count.read_unaligned() };
    let len = c_uint::try_from(list.len()).unwrap_or(c_uint::MAX);
    // SAFETY: the caller's promise.
    unsafe { put(count, len) }?;
    if len == 0 {
        return Ok(());
    }
    if room < len {
        return Err(nvmlReturn_t::NVML_ERROR_INSUFFICIENT_SIZE);
    }
    for (index, info) in list.enumerate() {
        // SAFETY: null, which `put` refuses, or inside the caller's room.
        unsafe { put(infos.wrapping_add(index), info) }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_without_room_tells_how_much_it_needs() {
        let list = || [3u32, 4].into_iter();
        let mut count = 1;
        let mut room = [0; 3];
        // SAFETY: locals.
        let refused = unsafe { put_list(&raw mut count, room.as_mut_ptr(), list()) };
        assert_eq!(refused, Err(nvmlReturn_t::NVML_ERROR_INSUFFICIENT_SIZE));
        assert_eq!((count, room), (2, [0; 3]));
        count = 3;
        // SAFETY: locals.
        let written = unsafe { put_list(&raw mut count, room.as_mut_ptr(), list()) };
        assert_eq!((written, count, room), (Ok(()), 2, [3, 4, 0]));
        // SAFETY: a local and null.
        let refused = unsafe { put_list(&raw mut count, std::ptr::null_mut(), list()) };
        assert_eq!(refused, Err(nvmlReturn_t::NVML_ERROR_INVALID_ARGUMENT));
        count = 0;
        // SAFETY: nothing is written.
        let none = unsafe { put_list::<u32>(&raw mut count, std::ptr::null_mut(), [].into_iter()) };
        assert_eq!((none, count), (Ok(()), 0));
    }
}
