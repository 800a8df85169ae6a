//! Managed memory. Device memory is the host's here, so nothing moves: advice is checked and kept.

use std::ffi::{c_int, c_uint, c_void};

use cuda_abi::managed::{HOST, Location, Managed};
use cuda_abi::types::{
    CUdevice, CUdeviceptr, CUmem_advise, CUmem_range_attribute, CUmemAttach_flags, CUmemLocation,
    CUmemLocationType, CUresult, CUstream,
};
use softgpu_core::error::Error;
use softgpu_core::memory::{Allocation, Kind};

use crate::driver::{self, driver, place};
use crate::edge::{self, Outcome, put, put_if_wanted};

const GLOBAL: c_uint = CUmemAttach_flags::CU_MEM_ATTACH_GLOBAL.0;
const FROM_HOST: c_uint = CUmemAttach_flags::CU_MEM_ATTACH_HOST.0;
const SINGLE: c_uint = CUmemAttach_flags::CU_MEM_ATTACH_SINGLE.0;

pub unsafe fn cuMemAllocManaged(pointer: *mut CUdeviceptr, size: usize, flags: c_uint) -> Outcome {
    let context = driver::context()?;
    if pointer.is_null() || size == 0 || !matches!(flags, GLOBAL | FROM_HOST) {
        return Err(Error::InvalidValue);
    }
    let space = context.gpu().space();
    let device = context.device().ordinal;
    let made = space.allocate_host(device, context.id(), size as u64, Kind::Managed)?;
    let managed = Managed::new(made.start, made.size);
    driver()?.managed().insert(made.id, managed);
    // SAFETY: the caller's promise.
    unsafe { put(pointer, made.start) }
}

pub unsafe fn cuMemPrefetchAsync(
    pointer: CUdeviceptr,
    size: usize,
    device: CUdevice,
    stream: CUstream,
) -> Outcome {
    place(stream as u64)?.context.check()?;
    let to = by_ordinal(device)?;
    with(pointer, size, |managed| {
        managed.prefetch(pointer, size as u64, to);
        Ok(())
    })
}

pub unsafe fn cuMemPrefetchAsync_v2(
    pointer: CUdeviceptr,
    size: usize,
    location: CUmemLocation,
    flags: c_uint,
    stream: CUstream,
) -> Outcome {
    place(stream as u64)?.context.check()?;
    if flags != 0 {
        return Err(Error::InvalidValue);
    }
    let to = by_location(location)?;
    with(pointer, size, |managed| {
        managed.prefetch(pointer, size as u64, to);
        Ok(())
    })
}

pub unsafe fn cuMemAdvise(
    pointer: CUdeviceptr,
    size: usize,
    advice: CUmem_advise,
    device: CUdevice,
) -> Outcome {
    driver::context()?;
    // Advice that needs no place says nothing about this one.
    let place = by_ordinal(device).ok();
    with(pointer, size, |managed| {
        managed.advise(pointer, size as u64, advice, place)
    })
}

pub unsafe fn cuMemAdvise_v2(
    pointer: CUdeviceptr,
    size: usize,
    advice: CUmem_advise,
    location: CUmemLocation,
) -> Outcome {
    driver::context()?;
    let place = by_location(location).ok();
    with(pointer, size, |managed| {
        managed.advise(pointer, size as u64, advice, place)
    })
}

pub unsafe fn cuMemRangeGetAttribute(
    data: *mut c_void,
    size: usize,
    attribute: CUmem_range_attribute,
    pointer: CUdeviceptr,
    bytes: usize,
) -> Outcome {
    driver::context()?;
    // SAFETY: the caller's promise.
    unsafe { tell(data, size, attribute, pointer, bytes) }
}

pub unsafe fn cuMemRangeGetAttributes(
    data: *mut *mut c_void,
    sizes: *mut usize,
    attributes: *mut CUmem_range_attribute,
    count: usize,
    pointer: CUdeviceptr,
    bytes: usize,
) -> Outcome {
    driver::context()?;
    if count == 0 {
        return Err(Error::InvalidValue);
    }
    for index in 0..count {
        // SAFETY: inside the array by the caller's promise.
        let place = unsafe { edge::element(data.cast_const(), index) }?;
        // SAFETY: as above.
        let size = unsafe { edge::element(sizes.cast_const(), index) }?;
        // SAFETY: as above.
        let attribute = unsafe { edge::element(attributes.cast_const(), index) }?;
        // SAFETY: the caller's promise.
        unsafe { tell(place, size, attribute, pointer, bytes) }?;
    }
    Ok(())
}

pub unsafe fn cuStreamAttachMemAsync(
    stream: CUstream,
    pointer: CUdeviceptr,
    length: usize,
    flags: c_uint,
) -> Outcome {
    place(stream as u64)?.context.check()?;
    let known = match flags {
        GLOBAL | FROM_HOST => true,
        SINGLE => stream as u64 > 2,
        _ => false,
    };
    let found = managed_range(pointer, 1)?;
    let whole = length == 0 || length as u64 == found.size;
    if known && pointer == found.start && whole {
        Ok(())
    } else {
        Err(Error::InvalidValue)
    }
}

/// # Safety
/// `data` is null or valid for a write of `size` bytes.
unsafe fn tell(
    data: *mut c_void,
    size: usize,
    attribute: CUmem_range_attribute,
    start: u64,
    bytes: usize,
) -> Outcome {
    if data.is_null() || !size.is_multiple_of(size_of::<c_int>()) {
        return Err(Error::InvalidValue);
    }
    let words = size / size_of::<c_int>();
    let mut values = Vec::new();
    with(start, bytes, |managed| {
        values = managed.attribute(start, bytes as u64, attribute, words)?;
        Ok(())
    })?;
    for (index, value) in values.into_iter().enumerate() {
        let place = data.cast::<c_int>().wrapping_add(index);
        // SAFETY: as many values as fit, by this function's contract.
        unsafe { put_if_wanted(place, value) };
    }
    Ok(())
}

/// Works with what is known of the managed memory that a range lies in.
fn with(
    start: u64,
    bytes: usize,
    work: impl FnOnce(&mut Managed) -> Result<(), CUresult>,
) -> Outcome {
    let found = managed_range(start, bytes)?;
    let mut all = driver()?.managed();
    let managed = all.get_mut(&found.id).ok_or(Error::InvalidValue)?;
    work(managed).map_err(|status| match status {
        CUresult::CUDA_ERROR_INVALID_DEVICE => Error::InvalidDevice,
        _ => Error::InvalidValue,
    })
}

fn managed_range(start: u64, bytes: usize) -> Result<std::sync::Arc<Allocation>, Error> {
    let found = driver()?.gpu.space().find(start);
    let end = start.checked_add(bytes as u64);
    found
        .filter(|found| found.kind == Kind::Managed && bytes > 0)
        .filter(|found| end.is_some_and(|end| end <= found.end()))
        .ok_or(Error::InvalidValue)
}

fn by_ordinal(device: CUdevice) -> Result<Location, Error> {
    if device == HOST {
        return Ok(Location::Host);
    }
    driver()?.gpu.device(device)?;
    Ok(Location::Device(device))
}

fn by_location(location: CUmemLocation) -> Result<Location, Error> {
    use CUmemLocationType as T;
    match location.type_ {
        T::CU_MEM_LOCATION_TYPE_DEVICE => {
            driver()?.gpu.device(location.id)?;
            Ok(Location::Device(location.id))
        }
        T::CU_MEM_LOCATION_TYPE_HOST => Ok(Location::Host),
        T::CU_MEM_LOCATION_TYPE_HOST_NUMA if location.id >= 0 => Ok(Location::Node(location.id)),
        _ => Err(Error::InvalidValue),
    }
}
