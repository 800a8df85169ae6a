//! Device and host memory: allocation, and in the rooms below what an address is, copies and fills.

pub(crate) mod captured;
mod copy;
mod fill;
mod pointer;

pub use copy::*;
pub use fill::*;
pub use pointer::*;

use std::ffi::{c_int, c_uint, c_void};
use std::sync::PoisonError;

use cuda_abi::function::Function;
use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{CUdeviceptr, CUresult};
use idm_protocol::wire::{self, refused};

use super::managed;
use crate::call::{Call, Outcome, accepted};
use crate::edge;
use crate::ranges::{Place, Range};
use crate::state;

/// `CU_MEMHOSTALLOC_DEVICEMAP`, which all our pinned memory has.
const DEVICE_MAP: c_uint = 2;
const HOST_ALLOC_FLAGS: c_uint = 0b111;
const HOST_REGISTER_FLAGS: c_uint = 0b1111;
/// How often an allocation is tried again that fell onto a mapping of the program's.
const CLASHES: usize = 4;

pub unsafe fn cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytesize: usize) -> Outcome {
    let mut call = Call::begin(Function::cuMemAlloc_v2)?;
    edge::require(dptr)?;
    if bytesize == 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let (address, ()) = allocate(&mut call, |call| {
        let reply: wire::CuMemAllocV2Reply = call.round_trip(&wire::CuMemAllocV2 {
            bytes: bytesize as u64,
        })?;
        Ok((reply.address, bytesize as u64, ()))
    })?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(dptr, address) }
}

pub unsafe fn cuMemAllocPitch_v2(
    dptr: *mut CUdeviceptr,
    pPitch: *mut usize,
    WidthInBytes: usize,
    Height: usize,
    ElementSizeBytes: c_uint,
) -> Outcome {
    let mut call = Call::begin(Function::cuMemAllocPitch_v2)?;
    edge::require(dptr)?;
    edge::require(pPitch)?;
    if WidthInBytes == 0 || Height == 0 || !matches!(ElementSizeBytes, 4 | 8 | 16) {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let request = wire::CuMemAllocPitchV2 {
        width: WidthInBytes as u64,
        height: Height as u64,
        element_bytes: ElementSizeBytes,
        reserved: 0,
    };
    let (address, pitch) = allocate(&mut call, |call| {
        let reply: wire::CuMemAllocPitchV2Reply = call.round_trip(&request)?;
        let bytes = reply
            .pitch
            .checked_mul(Height as u64)
            .ok_or(CUresult::CUDA_ERROR_UNKNOWN)?;
        Ok((reply.address, bytes, reply.pitch))
    })?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pPitch, usize::try_from(pitch).unwrap_or(usize::MAX)) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(dptr, address) }
}

/// Allocates device memory and enters it.
fn allocate<T>(
    call: &mut Call,
    ask: impl FnMut(&mut Call) -> Outcome<(u64, u64, T)>,
) -> Outcome<(u64, T)> {
    let session = call.session;
    let context = call.context_handle();
    let device = device_of(call)?;
    let (address, bytes, more) = place(call, ask, |call, address| {
        // The worker has it and nobody uses it.
        let _ = call.complete(&wire::CuMemFreeV2 { address });
    })?;
    let range = Range {
        start: address,
        bytes,
        place: Place::Device,
        context,
        device,
        id: 0,
    };
    if session.ranges.insert(range).is_err() {
        session.mirrors.release(address, bytes);
        return Err(session.lost("its worker handed out the same memory twice"));
    }
    Ok((address, more))
}

/// Asks for addresses until they are free here too, and reserves them. What falls onto a mapping of the
/// program's is kept until the next try has found another place.
pub(super) fn place<T>(
    call: &mut Call,
    mut ask: impl FnMut(&mut Call) -> Outcome<(u64, u64, T)>,
    mut give_back: impl FnMut(&mut Call, u64),
) -> Outcome<(u64, u64, T)> {
    let session = call.session;
    let mut parked = Vec::new();
    let mut result = Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    for _ in 0..CLASHES {
        match ask(call) {
            Ok((address, bytes, _)) if session.mirrors.reserve(address, bytes).is_err() => {
                parked.push(address);
            }
            over => {
                result = over;
                break;
            }
        }
    }
    for address in parked {
        give_back(call, address);
    }
    result
}

pub unsafe fn cuMemFree_v2(dptr: CUdeviceptr) -> Outcome {
    let mut call = Call::begin(Function::cuMemFree_v2)?;
    if dptr == 0 {
        return Ok(());
    }
    let session = call.session;
    // Out of the map first: while the worker frees it, the next allocation of another thread may get it.
    let range = session.ranges.remove(dptr, |range| {
        range.is_allocated() || range.place == Place::Managed
    });
    let range = range.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    if range.place == Place::Managed {
        managed::forget(session, dptr);
        return free_pinned(&mut call, dptr);
    }
    let freed = call.complete(&wire::CuMemFreeV2 { address: dptr });
    if freed == Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) {
        // Refused because of a capture: it is as it was.
        let _ = session.ranges.insert(range);
        return freed;
    }
    session.mirrors.release(range.start, range.bytes);
    freed
}

pub unsafe fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Outcome {
    let mut call = Call::begin(Function::cuMemGetInfo_v2)?;
    edge::require(free)?;
    edge::require(total)?;
    let reply: wire::CuMemGetInfoV2Reply = call.round_trip(&wire::CuMemGetInfoV2 {})?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(free, usize::try_from(reply.free).unwrap_or(usize::MAX)) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(total, usize::try_from(reply.total).unwrap_or(usize::MAX)) }
}

pub unsafe fn cuMemGetAddressRange_v2(
    pbase: *mut CUdeviceptr,
    psize: *mut usize,
    dptr: CUdeviceptr,
) -> Outcome {
    let session = state::ready()?;
    let range = session
        .ranges
        .find(dptr)
        .ok_or(CUresult::CUDA_ERROR_NOT_FOUND)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(pbase, range.start) };
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(psize, usize::try_from(range.bytes).unwrap_or(usize::MAX)) };
    Ok(())
}

pub unsafe fn cuMemHostAlloc(pp: *mut *mut c_void, bytesize: usize, Flags: c_uint) -> Outcome {
    let mut call = Call::begin(Function::cuMemHostAlloc)?;
    edge::require(pp)?;
    if Flags & !HOST_ALLOC_FLAGS != 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    captured::free_unused(&mut call);
    if bytesize == 0 {
        // SAFETY: the caller's promise.
        return unsafe { edge::put(pp, std::ptr::null_mut()) };
    }
    let address = allocate_pinned(&mut call, bytesize, Flags, Place::Pinned { flags: Flags })?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pp, pointer(address)) }
}

/// A piece of the arena, zeroed and registered by the worker.
pub(super) fn allocate_pinned(
    call: &mut Call,
    bytesize: usize,
    flags: c_uint,
    place: Place,
) -> Outcome<u64> {
    let session = call.session;
    let piece = session
        .pieces
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take(bytesize);
    let Some((offset, len)) = piece else {
        crate::policy::limited(refused::PINNED, bytesize as u64);
        return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    };
    let address = session
        .arena
        .address_of(offset, len)
        .ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
    let put_back = || {
        session
            .pieces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(offset, len)
    };
    let request = wire::CuMemHostAlloc {
        address,
        bytes: len as u64,
        flags,
        reserved: 0,
    };
    if let Err(error) = call.exchange(&request, &[], |_, _| Ok(())) {
        put_back();
        return Err(error);
    }
    let range = Range {
        start: address,
        bytes: bytesize as u64,
        place,
        context: call.context_handle(),
        device: device_of(call)?,
        id: 0,
    };
    if session.ranges.insert(range).is_err() {
        // The program registered addresses that were never its own.
        let _ = call.exchange(&wire::CuMemFreeHost { address }, &[], |_, _| Ok(()));
        put_back();
        return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    }
    session
        .pinned
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(address, len);
    Ok(address)
}

pub unsafe fn cuMemAllocHost_v2(pp: *mut *mut c_void, bytesize: usize) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuMemHostAlloc(pp, bytesize, 0) }
}

pub unsafe fn cuMemFreeHost(p: *mut c_void) -> Outcome {
    let mut call = Call::begin(Function::cuMemFreeHost)?;
    if p.is_null() {
        return Ok(());
    }
    let session = call.session;
    let address = p.addr() as u64;
    let range = session
        .ranges
        .remove(address, |range| matches!(range.place, Place::Pinned { .. }));
    range.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    free_pinned(&mut call, address)
}

/// Gives a piece of the arena back that is in no range any more.
fn free_pinned(call: &mut Call, address: u64) -> Outcome {
    let session = call.session;
    let freed = call.complete(&wire::CuMemFreeHost { address });
    let len = session
        .pinned
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&address);
    if let (Some(len), Some(offset)) = (
        len,
        len.and_then(|len| session.arena.offset_of(address, len as u64)),
    ) {
        session
            .pieces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(offset, len);
    }
    freed
}

pub unsafe fn cuMemHostGetDevicePointer_v2(
    pdptr: *mut CUdeviceptr,
    p: *mut c_void,
    Flags: c_uint,
) -> Outcome {
    let session = state::ready()?;
    edge::require(pdptr)?;
    if Flags != 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    match session.ranges.find(p.addr() as u64) {
        // One address for both: that is what the arena is for.
        Some(Range {
            place: Place::Pinned { .. },
            ..
        }) => {
            // SAFETY: the caller's promise.
            unsafe { edge::put(pdptr, p.addr() as u64) }
        }
        _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    }
}

pub unsafe fn cuMemHostGetFlags(pFlags: *mut c_uint, p: *mut c_void) -> Outcome {
    let session = state::ready()?;
    edge::require(pFlags)?;
    let flags = match session
        .ranges
        .find(p.addr() as u64)
        .map(|range| range.place)
    {
        Some(Place::Pinned { flags }) => flags | DEVICE_MAP,
        Some(Place::Registered { flags }) => flags,
        _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    };
    // SAFETY: the caller's promise.
    unsafe { edge::put(pFlags, flags) }
}

/// Existing memory stays where it is: it is noted, and its copies are staged. Mapping it for the device is
/// refused, for the device could not reach it.
pub unsafe fn cuMemHostRegister_v2(p: *mut c_void, bytesize: usize, Flags: c_uint) -> Outcome {
    let call = Call::begin(Function::cuMemHostRegister_v2)?;
    edge::require(p)?;
    let ends = (p.addr() as u64).checked_add(bytesize as u64);
    if bytesize == 0 || ends.is_none() || Flags & !HOST_REGISTER_FLAGS != 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    if Flags & !1 != 0 {
        // Device-mapped, I/O or read-only memory.
        return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
    let range = Range {
        start: p.addr() as u64,
        bytes: bytesize as u64,
        place: Place::Registered { flags: Flags },
        context: call.context_handle(),
        device: device_of(&call)?,
        id: 0,
    };
    match call.session.ranges.insert(range) {
        Ok(_) => Ok(()),
        Err(_) => Err(CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED),
    }
}

pub unsafe fn cuMemHostUnregister(p: *mut c_void) -> Outcome {
    let session = Call::begin(Function::cuMemHostUnregister)?.session;
    edge::require(p)?;
    let removed = session.ranges.remove(p.addr() as u64, |range| {
        matches!(range.place, Place::Registered { .. })
    });
    removed
        .map(|_| ())
        .ok_or(CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED)
}

/// Posts a record that takes a credit; waits for its end if `wait`.
pub(super) fn send<T: idm_protocol::record::Request>(
    call: &mut Call,
    stream: u64,
    wait: bool,
    request: &T,
    tail: &[&[u8]],
) -> Outcome {
    let credit = call.take_credit(stream)?;
    if wait {
        // An answer, whatever it says, means that the worker had the record and returns the credit.
        let status = call.exchange_raw(request, tail, |_, status, _| Ok(status))?;
        credit.spend();
        accepted(status)?;
        return call.deliver();
    }
    call.post_charged(request, tail, credit)
}

pub(super) fn stream_of(default: DefaultStream) -> u64 {
    match default {
        DefaultStream::Legacy => 0,
        DefaultStream::PerThread => 2,
    }
}

/// Ordinal of the current context's device.
pub(super) fn device_of(call: &Call) -> Outcome<c_int> {
    let context = call.context().ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
    Ok(context.device)
}

/// The pointer of an address that the program passed or gets.
fn pointer(address: u64) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}
