//! Virtual memory management. A reservation is mirrored here as long as it lasts, so that what is mapped in it
//! never lies where something of the program's does (D13).

use std::ffi::c_void;
use std::sync::PoisonError;

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUdeviceptr, CUmemAccessDesc, CUmemAllocationGranularity_flags, CUmemAllocationHandleType,
    CUmemAllocationProp, CUmemAllocationType, CUmemGenericAllocationHandle, CUmemLocation,
    CUmemLocationType, CUresult,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire::{self, access};
use zerocopy::IntoBytes;

use crate::api::memory::place;
use crate::call::{Call, Outcome};
use crate::edge;
use crate::ranges::{Place, Range};
use crate::session::Session;
use crate::state;
use crate::vmm::Vmm;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

pub unsafe fn cuMemGetAllocationGranularity(
    granularity: *mut usize,
    prop: *const CUmemAllocationProp,
    option: CUmemAllocationGranularity_flags,
) -> Outcome {
    let mut call = begin(Function::cuMemGetAllocationGranularity)?;
    edge::require(granularity)?;
    // SAFETY: the caller's promise.
    let (_, device) = unsafe { asked(&call, prop) }?;
    let request = wire::CuMemGetAllocationGranularity {
        device: call.device(device)?,
        option: option.0,
    };
    let reply: wire::CuMemGetAllocationGranularityReply = call.round_trip(&request)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(granularity, usize::try_from(reply.bytes).unwrap_or(0)) }
}

pub unsafe fn cuMemAddressReserve(
    ptr: *mut CUdeviceptr,
    size: usize,
    alignment: usize,
    addr: CUdeviceptr,
    flags: u64,
) -> Outcome {
    let mut call = begin(Function::cuMemAddressReserve)?;
    edge::require(ptr)?;
    if flags != 0 || size == 0 {
        return Err(INVALID);
    }
    let bytes = size as u64;
    let mut hint = addr;
    let (address, _, ()) = place(
        &mut call,
        |call| {
            let request = wire::CuMemAddressReserve {
                bytes,
                alignment: alignment as u64,
                // A place that turned out to be taken here is not asked for again.
                hint: std::mem::take(&mut hint),
            };
            let reply: wire::CuMemAddressReserveReply = call.round_trip(&request)?;
            Ok((reply.address, bytes, ()))
        },
        |call, address| {
            let _ = call.complete(&wire::CuMemAddressFree { address, bytes });
        },
    )?;
    locked(call.session).reserve(address, bytes);
    // SAFETY: the caller's promise.
    unsafe { edge::put(ptr, address) }
}

pub unsafe fn cuMemAddressFree(ptr: CUdeviceptr, size: usize) -> Outcome {
    let mut call = begin(Function::cuMemAddressFree)?;
    let (session, bytes) = (call.session, size as u64);
    if !locked(session).is_reservation(ptr, bytes) {
        return Err(INVALID);
    }
    let request = wire::CuMemAddressFree {
        address: ptr,
        bytes,
    };
    call.exchange(&request, &[], |_, _| Ok(()))?;
    locked(session).unreserve(ptr);
    session.mirrors.release(ptr, bytes);
    call.deliver()
}

pub unsafe fn cuMemCreate(
    handle: *mut CUmemGenericAllocationHandle,
    size: usize,
    prop: *const CUmemAllocationProp,
    flags: u64,
) -> Outcome {
    let mut call = begin(Function::cuMemCreate)?;
    edge::require(handle)?;
    // SAFETY: the caller's promise.
    let (properties, device) = unsafe { asked(&call, prop) }?;
    if flags != 0 || size == 0 {
        return Err(INVALID);
    }
    let device = call.device(device)?;
    let minted = call.mint_with(Kind::ALLOCATION, 0, crate::objects::Detail::Plain)?;
    let request = wire::CuMemCreate {
        allocation: minted.value(),
        bytes: size as u64,
        device,
        reserved: 0,
    };
    call.exchange(&request, &[], |_, _| Ok(()))?;
    call.keep(Kind::ALLOCATION, minted);
    locked(call.session).keep(minted.value(), properties);
    // SAFETY: the caller's promise.
    unsafe { edge::put(handle, minted.value()) }
}

pub unsafe fn cuMemRelease(handle: CUmemGenericAllocationHandle) -> Outcome {
    let mut call = begin(Function::cuMemRelease)?;
    let session = call.session;
    if !locked(session).release(handle)? {
        return Ok(());
    }
    let released = call.exchange(&wire::CuMemRelease { allocation: handle }, &[], |_, _| {
        Ok(())
    });
    forget_unused(&mut call, handle);
    released?;
    call.deliver()
}

pub unsafe fn cuMemRetainAllocationHandle(
    handle: *mut CUmemGenericAllocationHandle,
    addr: *mut c_void,
) -> Outcome {
    let mut call = begin(Function::cuMemRetainAllocationHandle)?;
    edge::require(handle)?;
    let (session, address) = (call.session, addr.addr() as u64);
    let Some(Range {
        place: Place::Mapped { allocation, .. },
        ..
    }) = session.ranges.find(address)
    else {
        return Err(INVALID);
    };
    if locked(session).retain(allocation)? {
        let request = wire::CuMemRetainAllocationHandle { address };
        if let Err(error) = call.exchange(&request, &[], |_, _| Ok(())) {
            let _ = locked(session).release(allocation);
            return Err(error);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { edge::put(handle, allocation) }
}

pub unsafe fn cuMemGetAllocationPropertiesFromHandle(
    prop: *mut CUmemAllocationProp,
    handle: CUmemGenericAllocationHandle,
) -> Outcome {
    let properties = locked(state::ready()?).properties(handle)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(prop, properties.into()) }
}

pub unsafe fn cuMemMap(
    ptr: CUdeviceptr,
    size: usize,
    offset: usize,
    handle: CUmemGenericAllocationHandle,
    flags: u64,
) -> Outcome {
    let mut call = begin(Function::cuMemMap)?;
    let session = call.session;
    let properties = locked(session).properties(handle)?;
    if flags != 0 || size == 0 {
        return Err(INVALID);
    }
    let request = wire::CuMemMap {
        address: ptr,
        bytes: size as u64,
        offset: offset as u64,
        allocation: handle,
    };
    call.exchange(&request, &[], |_, _| Ok(()))?;
    let range = Range {
        start: ptr,
        bytes: size as u64,
        place: Place::Mapped {
            allocation: handle,
            access: Default::default(),
        },
        context: 0,
        device: properties.device,
        id: 0,
    };
    locked(session).mapped(handle);
    if session.ranges.insert(range).is_err() {
        return Err(session.lost("its worker mapped memory where there is some"));
    }
    call.deliver()
}

pub unsafe fn cuMemUnmap(ptr: CUdeviceptr, size: usize) -> Outcome {
    let mut call = begin(Function::cuMemUnmap)?;
    let (session, bytes) = (call.session, size as u64);
    // Off the map first: while the worker unmaps, nothing of ours goes there any more.
    let gone = session.ranges.remove_mappings(ptr, bytes).ok_or(INVALID)?;
    let request = wire::CuMemUnmap {
        address: ptr,
        bytes,
    };
    if let Err(error) = call.exchange(&request, &[], |_, _| Ok(())) {
        for range in gone {
            // It was there a moment ago, and its addresses are still reserved.
            let _ = session.ranges.insert(range);
        }
        return Err(error);
    }
    for range in gone {
        if let Place::Mapped { allocation, .. } = range.place {
            locked(session).unmapped(allocation);
            forget_unused(&mut call, allocation);
        }
    }
    call.deliver()
}

pub unsafe fn cuMemSetAccess(
    ptr: CUdeviceptr,
    size: usize,
    desc: *const CUmemAccessDesc,
    count: usize,
) -> Outcome {
    let mut call = begin(Function::cuMemSetAccess)?;
    let (session, bytes) = (call.session, size as u64);
    // SAFETY: the caller's promise.
    let (entries, changes) = unsafe { entries(&call, desc, count) }?;
    let request = wire::CuMemSetAccess {
        address: ptr,
        bytes,
        count: u32::try_from(count).unwrap_or(0),
        reserved: 0,
    };
    call.exchange(&request, &[entries.as_bytes()], |_, _| Ok(()))?;
    session.ranges.change_access(ptr, bytes, &changes);
    call.deliver()
}

pub unsafe fn cuMemGetAccess(
    flags: *mut u64,
    location: *const CUmemLocation,
    ptr: CUdeviceptr,
) -> Outcome {
    let call = begin(Function::cuMemGetAccess)?;
    // SAFETY: the caller's promise.
    let location = unsafe { edge::take(location) }?;
    let device = located(&call, &location)?;
    let Some(Range {
        place: Place::Mapped { access, .. },
        ..
    }) = call.session.ranges.find(ptr)
    else {
        return Err(INVALID);
    };
    let device = u32::try_from(device).unwrap_or(u32::MAX);
    // SAFETY: the caller's promise.
    unsafe { edge::put(flags, access.of(device).into()) }
}

/// These functions name devices, not contexts: they work without a current one.
fn begin(function: Function) -> Outcome<Call> {
    let call = Call::begin_anywhere(function)?;
    call.deliver()?;
    Ok(call)
}

fn locked(session: &Session) -> std::sync::MutexGuard<'_, Vmm> {
    session.vmm.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handle of memory that is gone names nothing any more.
fn forget_unused(call: &mut Call, handle: u64) {
    if locked(call.session).collect(handle) {
        call.retire(Kind::ALLOCATION, handle);
    }
}

/// What the program asks for, if it can be had: pinned memory of a device. A descriptor to export is noted,
/// because programs ask for one in case they ever need it; exporting is what is refused.
///
/// # Safety
/// `prop` is null or valid for a read.
unsafe fn asked(
    call: &Call,
    prop: *const CUmemAllocationProp,
) -> Outcome<(crate::vmm::Properties, i32)> {
    // SAFETY: the caller's promise.
    let prop = unsafe { edge::take(prop) }?;
    if prop.type_ != CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED {
        return Err(INVALID);
    }
    let descriptor = CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    if prop.requestedHandleTypes.0 & !descriptor.0 != 0 || prop.allocFlags.usage != 0 {
        return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
    let device = located(call, &prop.location)?;
    let properties = crate::vmm::Properties {
        device,
        handle_types: prop.requestedHandleTypes.0,
    };
    Ok((properties, device))
}

/// What devices shall be able to do, as the worker counts them and as the program does.
pub(super) type Wanted = (Vec<access::Entry>, Vec<(u32, u32)>);

/// Reads it.
///
/// # Safety
/// `wanted` is null or valid for a read of `count` elements.
pub(super) unsafe fn entries(
    call: &Call,
    wanted: *const CUmemAccessDesc,
    count: usize,
) -> Outcome<Wanted> {
    edge::require(wanted)?;
    let most = usize::try_from(access::MOST_DEVICES).unwrap_or(0);
    if !(1..=most).contains(&count) {
        return Err(INVALID);
    }
    let (mut entries, mut own) = (Vec::new(), Vec::new());
    for index in 0..count {
        // SAFETY: inside the array by this function's contract.
        let one = unsafe { edge::element(wanted, index) };
        let device = located(call, &one.location)?;
        let entry = access::Entry {
            device,
            flags: one.flags.0,
        };
        own.push(entry.checked().ok_or(INVALID)?);
        entries.push(access::Entry {
            device: call.device(device)?,
            ..entry
        });
    }
    Ok((entries, own))
}

/// The device that a location names, as the program counts.
pub(super) fn located(call: &Call, location: &CUmemLocation) -> Outcome<i32> {
    use CUmemLocationType as T;
    match location.type_ {
        T::CU_MEM_LOCATION_TYPE_DEVICE => {
            call.device(location.id)?;
            Ok(location.id)
        }
        T::CU_MEM_LOCATION_TYPE_HOST
        | T::CU_MEM_LOCATION_TYPE_HOST_NUMA
        | T::CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT => Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
        _ => Err(INVALID),
    }
}
