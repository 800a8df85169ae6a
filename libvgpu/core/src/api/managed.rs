//! Managed memory. It lies in the arena, where the program, the worker and every device have it at one address
//! (D13), so that nothing ever moves: advice and prefetches are checked and kept, and change nothing else.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::{MutexGuard, PoisonError};

use cuda_abi::function::Function;
use cuda_abi::managed::{HOST, Location, Managed};
use cuda_abi::types::{
    CUdevice, CUdeviceptr, CUmem_advise, CUmem_range_attribute, CUmemAttach_flags, CUmemLocation,
    CUmemLocationType, CUresult, CUstream,
};
use idm_protocol::handle::Kind;

use super::memory::allocate_pinned;
use crate::call::{Call, Outcome};
use crate::edge;
use crate::ranges::{Place, Range};
use crate::session::Session;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const GLOBAL: c_uint = CUmemAttach_flags::CU_MEM_ATTACH_GLOBAL.0;
const FROM_HOST: c_uint = CUmemAttach_flags::CU_MEM_ATTACH_HOST.0;
const SINGLE: c_uint = CUmemAttach_flags::CU_MEM_ATTACH_SINGLE.0;

pub unsafe fn cuMemAllocManaged(dptr: *mut CUdeviceptr, bytesize: usize, flags: c_uint) -> Outcome {
    let mut call = Call::begin(Function::cuMemAllocManaged)?;
    edge::require(dptr)?;
    if bytesize == 0 || !matches!(flags, GLOBAL | FROM_HOST) {
        return Err(INVALID);
    }
    let address = allocate_pinned(&mut call, bytesize, 0, Place::Managed)?;
    locked(call.session).insert(address, Managed::new(address, bytesize as u64));
    // SAFETY: the caller's promise.
    unsafe { edge::put(dptr, address) }
}

/// Managed memory is gone.
pub(super) fn forget(session: &Session, address: u64) {
    locked(session).remove(&address);
}

pub unsafe fn cuMemPrefetchAsync(
    devPtr: CUdeviceptr,
    count: usize,
    dstDevice: CUdevice,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemPrefetchAsync)?;
    call.handle(Kind::STREAM, hStream as u64)?;
    let place = by_ordinal(&call, dstDevice)?;
    with(&call, devPtr, count, |managed| {
        managed.prefetch(devPtr, count as u64, place);
        Ok(())
    })
}

pub unsafe fn cuMemPrefetchAsync_v2(
    devPtr: CUdeviceptr,
    count: usize,
    location: CUmemLocation,
    flags: c_uint,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemPrefetchAsync_v2)?;
    call.handle(Kind::STREAM, hStream as u64)?;
    edge::known_flags(flags, 0)?;
    let place = by_location(&call, location)?;
    with(&call, devPtr, count, |managed| {
        managed.prefetch(devPtr, count as u64, place);
        Ok(())
    })
}

pub unsafe fn cuMemAdvise(
    devPtr: CUdeviceptr,
    count: usize,
    advice: CUmem_advise,
    device: CUdevice,
) -> Outcome {
    let call = Call::begin(Function::cuMemAdvise)?;
    // Advice that needs no place says nothing about this one.
    let place = by_ordinal(&call, device).ok();
    with(&call, devPtr, count, |managed| {
        managed.advise(devPtr, count as u64, advice, place)
    })
}

pub unsafe fn cuMemAdvise_v2(
    devPtr: CUdeviceptr,
    count: usize,
    advice: CUmem_advise,
    location: CUmemLocation,
) -> Outcome {
    let call = Call::begin(Function::cuMemAdvise_v2)?;
    let place = by_location(&call, location).ok();
    with(&call, devPtr, count, |managed| {
        managed.advise(devPtr, count as u64, advice, place)
    })
}

pub unsafe fn cuMemRangeGetAttribute(
    data: *mut c_void,
    dataSize: usize,
    attribute: CUmem_range_attribute,
    devPtr: CUdeviceptr,
    count: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemRangeGetAttribute)?;
    // SAFETY: the caller's promise.
    unsafe { tell(&call, data, dataSize, attribute, devPtr, count) }
}

pub unsafe fn cuMemRangeGetAttributes(
    data: *mut *mut c_void,
    dataSizes: *mut usize,
    attributes: *mut CUmem_range_attribute,
    numAttributes: usize,
    devPtr: CUdeviceptr,
    count: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemRangeGetAttributes)?;
    edge::require(data)?;
    edge::require(dataSizes)?;
    edge::require(attributes)?;
    if numAttributes == 0 {
        return Err(INVALID);
    }
    for index in 0..numAttributes {
        // SAFETY: inside the array by the caller's promise.
        let place = unsafe { edge::element(data, index) };
        // SAFETY: as above.
        let size = unsafe { edge::element(dataSizes, index) };
        // SAFETY: as above.
        let attribute = unsafe { edge::element(attributes, index) };
        // SAFETY: the caller's promise.
        unsafe { tell(&call, place, size, attribute, devPtr, count) }?;
    }
    Ok(())
}

pub unsafe fn cuStreamAttachMemAsync(
    hStream: CUstream,
    dptr: CUdeviceptr,
    length: usize,
    flags: c_uint,
) -> Outcome {
    let call = Call::begin(Function::cuStreamAttachMemAsync)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // To one stream memory is attached only if that is not one of the default streams.
    let known = match flags {
        GLOBAL | FROM_HOST => true,
        SINGLE => stream > 2,
        _ => false,
    };
    let range = managed_range(&call, dptr, 1)?;
    let whole = length == 0 || length as u64 == range.bytes;
    if known && dptr == range.start && whole {
        Ok(())
    } else {
        Err(INVALID)
    }
}

/// Writes an attribute where the caller wants it.
///
/// # Safety
/// `data` is null or valid for a write of `size` bytes.
unsafe fn tell(
    call: &Call,
    data: *mut c_void,
    size: usize,
    attribute: CUmem_range_attribute,
    start: u64,
    bytes: usize,
) -> Outcome {
    edge::require(data)?;
    if !size.is_multiple_of(size_of::<c_int>()) {
        return Err(INVALID);
    }
    let words = size / size_of::<c_int>();
    let mut values = Vec::new();
    with(call, start, bytes, |managed| {
        values = managed.attribute(start, bytes as u64, attribute, words)?;
        Ok(())
    })?;
    for (index, value) in values.into_iter().enumerate() {
        let place = data.cast::<c_int>().wrapping_add(index);
        // SAFETY: as many values as fit, by this function's contract.
        unsafe { edge::put_optional(place, value) };
    }
    Ok(())
}

/// Works with what is known of the managed memory that a range lies in.
fn with(
    call: &Call,
    start: u64,
    bytes: usize,
    work: impl FnOnce(&mut Managed) -> Outcome,
) -> Outcome {
    let range = managed_range(call, start, bytes)?;
    let mut all = locked(call.session);
    work(all.get_mut(&range.start).ok_or(INVALID)?)
}

fn managed_range(call: &Call, start: u64, bytes: usize) -> Outcome<Range> {
    let range = call.session.ranges.find(start);
    range
        .filter(|range| range.place == Place::Managed)
        .filter(|range| bytes > 0 && range.holds(start, bytes as u64))
        .ok_or(INVALID)
}

fn locked(session: &Session) -> MutexGuard<'_, std::collections::HashMap<u64, Managed>> {
    session
        .managed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

fn by_ordinal(call: &Call, device: CUdevice) -> Outcome<Location> {
    if device == HOST {
        return Ok(Location::Host);
    }
    call.device(device)?;
    Ok(Location::Device(device))
}

fn by_location(call: &Call, location: CUmemLocation) -> Outcome<Location> {
    use CUmemLocationType as T;
    match location.type_ {
        T::CU_MEM_LOCATION_TYPE_DEVICE => {
            call.device(location.id)?;
            Ok(Location::Device(location.id))
        }
        T::CU_MEM_LOCATION_TYPE_HOST => Ok(Location::Host),
        T::CU_MEM_LOCATION_TYPE_HOST_NUMA if location.id >= 0 => Ok(Location::Node(location.id)),
        _ => Err(INVALID),
    }
}
