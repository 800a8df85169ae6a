//! Virtual memory management.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cuda_abi::types::{
    CUdeviceptr, CUmemAccessDesc, CUmemAllocationGranularity_flags, CUmemAllocationHandleType,
    CUmemAllocationProp, CUmemAllocationType, CUmemGenericAllocationHandle, CUmemLocation,
    CUmemLocationType,
};
use softgpu_core::error::Error;
use softgpu_core::memory::{GRANULE, Kind, Permission};

use crate::api::device::signed;
use crate::driver::{Generic, driver};
use crate::edge::{self, Outcome, put};

pub unsafe fn cuMemGetAllocationGranularity(
    granularity: *mut usize,
    prop: *const CUmemAllocationProp,
    option: CUmemAllocationGranularity_flags,
) -> Outcome {
    driver()?;
    // SAFETY: the caller's promise.
    let prop = unsafe { edge::take(prop) }?;
    device_of(&prop)?;
    option.name().ok_or(Error::InvalidValue)?;
    // SAFETY: the caller's promise.
    unsafe {
        put(
            granularity,
            usize::try_from(GRANULE).map_err(|_| Error::Unknown)?,
        )
    }
}

pub unsafe fn cuMemAddressReserve(
    pointer: *mut CUdeviceptr,
    size: usize,
    alignment: usize,
    address: CUdeviceptr,
    flags: u64,
) -> Outcome {
    let space = driver()?.gpu.space();
    if pointer.is_null() || flags != 0 {
        return Err(Error::InvalidValue);
    }
    let start = space.reserve(size as u64, alignment as u64, address)?;
    // SAFETY: the caller's promise.
    unsafe { put(pointer, start) }
}

pub unsafe fn cuMemAddressFree(pointer: CUdeviceptr, size: usize) -> Outcome {
    driver()?.gpu.space().free_reservation(pointer, size as u64)
}

pub unsafe fn cuMemCreate(
    handle: *mut CUmemGenericAllocationHandle,
    size: usize,
    prop: *const CUmemAllocationProp,
    flags: u64,
) -> Outcome {
    let driver = driver()?;
    // SAFETY: the caller's promise.
    let prop = unsafe { edge::take(prop) }?;
    if handle.is_null() || flags != 0 {
        return Err(Error::InvalidValue);
    }
    let device = device_of(&prop)?;
    let physical =
        driver
            .gpu
            .space()
            .create_physical(device, size as u64, prop.requestedHandleTypes.0)?;
    let made = Generic {
        physical,
        references: AtomicU32::new(1),
    };
    let made = driver.allocations.insert(Arc::new(made));
    // SAFETY: the caller's promise.
    unsafe { put(handle, made.ok_or(Error::OutOfMemory)?) }
}

pub unsafe fn cuMemRelease(handle: CUmemGenericAllocationHandle) -> Outcome {
    let driver = driver()?;
    let _order = driver.references();
    let found = driver.allocations.get(handle).ok_or(Error::InvalidValue)?;
    if found.references.fetch_sub(1, Ordering::Relaxed) == 1 {
        driver.allocations.remove(handle);
    }
    Ok(())
}

pub unsafe fn cuMemRetainAllocationHandle(
    handle: *mut CUmemGenericAllocationHandle,
    address: *mut c_void,
) -> Outcome {
    let driver = driver()?;
    let mapping = driver.gpu.space().find(address as u64);
    let physical = mapping
        .and_then(|found| found.physical.clone())
        .ok_or(Error::InvalidValue)?;
    if handle.is_null() {
        return Err(Error::InvalidValue);
    }
    let _order = driver.references();
    let known = driver
        .allocations
        .find(|generic| generic.physical.id == physical.id);
    let retained = match known.and_then(|known| Some((known, driver.allocations.get(known)?))) {
        Some((known, generic)) => {
            generic.references.fetch_add(1, Ordering::Relaxed);
            known
        }
        None => {
            let made = Generic {
                physical,
                references: AtomicU32::new(1),
            };
            let made = driver.allocations.insert(Arc::new(made));
            made.ok_or(Error::OutOfMemory)?
        }
    };
    // SAFETY: the caller's promise.
    unsafe { put(handle, retained) }
}

pub unsafe fn cuMemGetAllocationPropertiesFromHandle(
    prop: *mut CUmemAllocationProp,
    handle: CUmemGenericAllocationHandle,
) -> Outcome {
    let found = driver()?
        .allocations
        .get(handle)
        .ok_or(Error::InvalidValue)?;
    let known = CUmemAllocationProp {
        type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: CUmemAllocationHandleType(found.physical.handle_types),
        location: CUmemLocation {
            type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
            id: signed(found.physical.device)?,
        },
        win32HandleMetaData: std::ptr::null_mut(),
        allocFlags: Default::default(),
    };
    // SAFETY: the caller's promise.
    unsafe { put(prop, known) }
}

pub unsafe fn cuMemMap(
    pointer: CUdeviceptr,
    size: usize,
    offset: usize,
    handle: CUmemGenericAllocationHandle,
    flags: u64,
) -> Outcome {
    let driver = driver()?;
    let found = driver.allocations.get(handle).ok_or(Error::InvalidValue)?;
    if flags != 0 {
        return Err(Error::InvalidValue);
    }
    let space = driver.gpu.space();
    space.map(pointer, size as u64, offset as u64, &found.physical)
}

pub unsafe fn cuMemUnmap(pointer: CUdeviceptr, size: usize) -> Outcome {
    driver()?.gpu.unmap(pointer, size as u64)
}

pub unsafe fn cuMemSetAccess(
    pointer: CUdeviceptr,
    size: usize,
    wanted: *const CUmemAccessDesc,
    count: usize,
) -> Outcome {
    let driver = driver()?;
    if count == 0 {
        return Err(Error::InvalidValue);
    }
    let mut list = Vec::new();
    for index in 0..count {
        // SAFETY: inside the array by the caller's promise.
        let one = unsafe { edge::element(wanted, index) }?;
        let permission = Permission::from_flags(one.flags.0).ok_or(Error::InvalidValue)?;
        list.push((located(&one.location)?, permission));
    }
    // All of them or none: what is wrong was found before anything is changed.
    for (device, permission) in list {
        let space = driver.gpu.space();
        space.set_access(pointer, size as u64, device, permission)?;
    }
    Ok(())
}

pub unsafe fn cuMemGetAccess(
    flags: *mut u64,
    location: *const CUmemLocation,
    pointer: CUdeviceptr,
) -> Outcome {
    driver()?;
    // SAFETY: the caller's promise.
    let device = located(&unsafe { edge::take(location) }?)?;
    let found = driver()?.gpu.space().find(pointer);
    let found = found.filter(|found| found.kind == Kind::Mapped);
    let access = found.as_ref().and_then(|found| found.access.as_ref());
    let permission = access.ok_or(Error::InvalidValue)?.of(device);
    // SAFETY: the caller's promise.
    unsafe { put(flags, permission.flags().into()) }
}

/// The device that memory is asked for on. Other kinds of memory there are not.
fn device_of(prop: &CUmemAllocationProp) -> Result<u32, Error> {
    const POSIX_OR_NONE: u32 =
        CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR.0;
    if prop.type_ != CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED {
        return Err(Error::InvalidValue);
    }
    // Programs ask for descriptors in case they ever export, which is refused then.
    if prop.requestedHandleTypes.0 & !POSIX_OR_NONE != 0 {
        return Err(Error::NotSupported);
    }
    if prop.allocFlags.usage != 0 {
        return Err(Error::NotSupported);
    }
    located(&prop.location)
}

/// The device that a location names.
pub(super) fn located(location: &CUmemLocation) -> Result<u32, Error> {
    use CUmemLocationType as T;
    match location.type_ {
        T::CU_MEM_LOCATION_TYPE_DEVICE => {
            let id: c_int = location.id;
            Ok(driver()?.gpu.device(id)?.ordinal)
        }
        T::CU_MEM_LOCATION_TYPE_HOST
        | T::CU_MEM_LOCATION_TYPE_HOST_NUMA
        | T::CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT => Err(Error::NotSupported),
        _ => Err(Error::InvalidValue),
    }
}
