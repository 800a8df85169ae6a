//! Pools, and allocation in stream order.

use std::ffi::c_void;
use std::sync::{MutexGuard, PoisonError};

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUdevice, CUdeviceptr, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationHandleType,
    CUmemAllocationType, CUmemLocation, CUmemPool_attribute, CUmemPoolProps, CUmemoryPool,
    CUresult, CUstream,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire::{self, access};
use zerocopy::IntoBytes;

use super::memory::place;
use super::vmm::{entries, located};
use crate::call::{Call, Outcome};
use crate::context;
use crate::edge;
use crate::objects::{self, Detail};
use crate::pools::Pools;
use crate::ranges::{Place, Range};
use crate::session::Session;
use crate::thread::Current;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

pub unsafe fn cuMemAllocAsync(
    dptr: *mut CUdeviceptr,
    bytesize: usize,
    hStream: CUstream,
) -> Outcome {
    let mut call = Call::begin(Function::cuMemAllocAsync)?;
    let (stream, context, device) = stream_of(&call, hStream)?;
    if dptr.is_null() || bytesize == 0 {
        return Err(INVALID);
    }
    let pool = current_pool(&mut call, device)?;
    let address = allocate(&mut call, bytesize as u64, pool, stream, context)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(dptr, address) }
}

pub unsafe fn cuMemAllocFromPoolAsync(
    dptr: *mut CUdeviceptr,
    bytesize: usize,
    pool: CUmemoryPool,
    hStream: CUstream,
) -> Outcome {
    let mut call = Call::begin(Function::cuMemAllocFromPoolAsync)?;
    let (stream, context, _) = stream_of(&call, hStream)?;
    if dptr.is_null() || bytesize == 0 {
        return Err(INVALID);
    }
    let address = allocate(&mut call, bytesize as u64, pool as u64, stream, context)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(dptr, address) }
}

fn allocate(call: &mut Call, bytes: u64, pool: u64, stream: u64, context: u64) -> Outcome<u64> {
    let session = call.session;
    let device = locked(session).device(pool)?;
    let request = wire::CuMemAllocFromPoolAsync {
        pool,
        bytes,
        stream,
    };
    let (address, _, ()) = place(
        call,
        |call| {
            let reply: wire::CuMemAllocFromPoolAsyncReply = call.round_trip(&request)?;
            Ok((reply.address, bytes, ()))
        },
        |call, address| {
            // The worker has it and nobody uses it.
            let _ = call.post(&wire::CuMemFreeAsync { address, stream });
        },
    )?;
    let range = Range {
        start: address,
        bytes,
        place: Place::Pooled { pool },
        context,
        device,
        id: 0,
    };
    if session.ranges.insert(range).is_err() {
        session.mirrors.release(address, bytes);
        return Err(session.lost("its worker handed out the same memory twice"));
    }
    call.deliver()?;
    Ok(address)
}

pub unsafe fn cuMemFreeAsync(dptr: CUdeviceptr, hStream: CUstream) -> Outcome {
    let mut call = Call::begin(Function::cuMemFreeAsync)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    let session = call.session;
    // Out of the map first: while the worker frees it, the next allocation of another thread may get it.
    let range = session.ranges.remove(dptr, Range::is_allocated);
    let range = range.ok_or(INVALID)?;
    let request = wire::CuMemFreeAsync {
        address: dptr,
        stream,
    };
    if let Err(error) = call.post(&request) {
        // Refused because of a capture: it is as it was.
        let _ = session.ranges.insert(range);
        return Err(error);
    }
    session.mirrors.release(range.start, range.bytes);
    Ok(())
}

pub unsafe fn cuDeviceGetDefaultMemPool(pool_out: *mut CUmemoryPool, dev: CUdevice) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { put_pool(pool_out, dev, default_pool) }
}

pub unsafe fn cuDeviceGetMemPool(pool: *mut CUmemoryPool, dev: CUdevice) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { put_pool(pool, dev, current_pool) }
}

pub unsafe fn cuDeviceSetMemPool(dev: CUdevice, pool: CUmemoryPool) -> Outcome {
    let mut call = begin(Function::cuDeviceSetMemPool)?;
    locked(call.session).device(pool as u64)?;
    default_pool(&mut call, dev)?;
    locked(call.session).set_current(dev, pool as u64)
}

pub unsafe fn cuMemGetDefaultMemPool(
    pool_out: *mut CUmemoryPool,
    location: *mut CUmemLocation,
    type_: CUmemAllocationType,
) -> Outcome {
    // SAFETY: the caller's promise.
    let device = unsafe { device_at(location, type_) }?;
    // SAFETY: the caller's promise.
    unsafe { cuDeviceGetDefaultMemPool(pool_out, device) }
}

pub unsafe fn cuMemGetMemPool(
    pool_out: *mut CUmemoryPool,
    location: *mut CUmemLocation,
    type_: CUmemAllocationType,
) -> Outcome {
    // SAFETY: the caller's promise.
    let device = unsafe { device_at(location, type_) }?;
    // SAFETY: the caller's promise.
    unsafe { cuDeviceGetMemPool(pool_out, device) }
}

pub unsafe fn cuMemSetMemPool(
    location: *mut CUmemLocation,
    type_: CUmemAllocationType,
    pool: CUmemoryPool,
) -> Outcome {
    // SAFETY: the caller's promise.
    let device = unsafe { device_at(location, type_) }?;
    // SAFETY: the caller's promise.
    unsafe { cuDeviceSetMemPool(device, pool) }
}

pub unsafe fn cuMemPoolCreate(
    pool: *mut CUmemoryPool,
    poolProps: *const CUmemPoolProps,
) -> Outcome {
    let mut call = begin(Function::cuMemPoolCreate)?;
    edge::require(pool)?;
    // SAFETY: the caller's promise.
    let wanted = unsafe { edge::take(poolProps) }?;
    if wanted.allocType != CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED {
        return Err(INVALID);
    }
    // Nothing of a pool can be exported.
    if wanted.handleTypes != CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE || wanted.usage != 0
    {
        return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
    let device = located(&call, &wanted.location)?;
    let handle = call.mint_with(Kind::POOL, 0, Detail::Plain)?;
    let request = wire::CuMemPoolCreate {
        pool: handle.value(),
        most_bytes: wanted.maxSize as u64,
        device: call.device(device)?,
        reserved: 0,
    };
    call.exchange(&request, &[], |_, _| Ok(()))?;
    call.keep(Kind::POOL, handle);
    locked(call.session).keep(handle.value(), device);
    // SAFETY: the caller's promise.
    unsafe { edge::put(pool, handle.value() as CUmemoryPool) }
}

pub unsafe fn cuMemPoolDestroy(pool: CUmemoryPool) -> Outcome {
    let mut call = begin(Function::cuMemPoolDestroy)?;
    let handle = pool as u64;
    locked(call.session).check_own(handle)?;
    call.exchange(&wire::CuMemPoolDestroy { pool: handle }, &[], |_, _| Ok(()))?;
    locked(call.session).forget(handle);
    call.retire(Kind::POOL, handle);
    call.deliver()
}

pub unsafe fn cuMemPoolTrimTo(pool: CUmemoryPool, minBytesToKeep: usize) -> Outcome {
    let mut call = begin(Function::cuMemPoolTrimTo)?;
    locked(call.session).device(pool as u64)?;
    call.complete(&wire::CuMemPoolTrimTo {
        pool: pool as u64,
        keep: minBytesToKeep as u64,
    })
}

pub unsafe fn cuMemPoolSetAttribute(
    pool: CUmemoryPool,
    attr: CUmemPool_attribute,
    value: *mut c_void,
) -> Outcome {
    use CUmemPool_attribute as A;
    let mut call = begin(Function::cuMemPoolSetAttribute)?;
    locked(call.session).device(pool as u64)?;
    edge::require(value)?;
    let word = match attr {
        A::CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES
        | A::CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC
        | A::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES => {
            // SAFETY: the caller's promise: an int.
            u64::from(unsafe { edge::element(value.cast::<i32>(), 0) } != 0)
        }
        A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
        | A::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH
        | A::CU_MEMPOOL_ATTR_USED_MEM_HIGH => {
            // SAFETY: the caller's promise: 64 bits.
            unsafe { edge::element(value.cast::<u64>(), 0) }
        }
        _ => return Err(INVALID),
    };
    call.complete(&wire::CuMemPoolSetAttribute {
        pool: pool as u64,
        value: word,
        attribute: attr.0,
        reserved: 0,
    })
}

pub unsafe fn cuMemPoolGetAttribute(
    pool: CUmemoryPool,
    attr: CUmemPool_attribute,
    value: *mut c_void,
) -> Outcome {
    use CUmemPool_attribute as A;
    let mut call = begin(Function::cuMemPoolGetAttribute)?;
    let device = locked(call.session).device(pool as u64)?;
    edge::require(value)?;
    if attr == A::CU_MEMPOOL_ATTR_LOCATION_ID {
        // As the program counts.
        // SAFETY: the caller's promise: an int.
        return unsafe { edge::put(value.cast(), device) };
    }
    let reply: wire::CuMemPoolGetAttributeReply =
        call.round_trip(&wire::CuMemPoolGetAttribute {
            pool: pool as u64,
            attribute: attr.0,
            reserved: 0,
        })?;
    match attr {
        A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
        | A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT
        | A::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH
        | A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT
        | A::CU_MEMPOOL_ATTR_USED_MEM_HIGH
        | A::CU_MEMPOOL_ATTR_MAX_POOL_SIZE => {
            // SAFETY: the caller's promise: 64 bits.
            unsafe { edge::put(value.cast(), reply.value) }
        }
        // SAFETY: the caller's promise: an int or an enumeration.
        _ => unsafe { edge::put(value.cast(), u32::try_from(reply.value).unwrap_or(0)) },
    }
}

pub unsafe fn cuMemPoolSetAccess(
    pool: CUmemoryPool,
    map: *const CUmemAccessDesc,
    count: usize,
) -> Outcome {
    let mut call = begin(Function::cuMemPoolSetAccess)?;
    let device = locked(call.session).device(pool as u64)?;
    if count == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    let (entries, own) = unsafe { entries(&call, map, count) }?;
    // Reading alone there is not, and the device whose memory it is can always use it.
    let refused = |&(other, flags): &(u32, u32)| {
        flags == access::READ || (flags == access::NONE && i32::try_from(other) == Ok(device))
    };
    if own.iter().any(refused) {
        return Err(INVALID);
    }
    let request = wire::CuMemPoolSetAccess {
        pool: pool as u64,
        count: u32::try_from(count).unwrap_or(0),
        reserved: 0,
    };
    call.complete_with(&request, &[entries.as_bytes()])
}

pub unsafe fn cuMemPoolGetAccess(
    flags: *mut CUmemAccess_flags,
    memPool: CUmemoryPool,
    location: *mut CUmemLocation,
) -> Outcome {
    let mut call = begin(Function::cuMemPoolGetAccess)?;
    locked(call.session).device(memPool as u64)?;
    // SAFETY: the caller's promise.
    let location = unsafe { edge::take(location) }?;
    let device = located(&call, &location)?;
    let request = wire::CuMemPoolGetAccess {
        pool: memPool as u64,
        device: call.device(device)?,
        reserved: 0,
    };
    let reply: wire::CuMemPoolGetAccessReply = call.round_trip(&request)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(flags, CUmemAccess_flags(reply.flags)) }
}

/// Pools belong to devices: these functions work without a context.
fn begin(function: Function) -> Outcome<Call> {
    let call = Call::begin_anywhere(function)?;
    call.deliver()?;
    Ok(call)
}

fn locked(session: &Session) -> MutexGuard<'_, Pools> {
    session.pools.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream of the program's, with its context and that one's device.
fn stream_of(call: &Call, stream: CUstream) -> Outcome<(u64, u64, i32)> {
    let stream = call.handle(Kind::STREAM, stream as u64)?;
    let current = call.context().ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
    let objects = call.session.objects();
    let Ok((_, object)) = objects.resolve(stream, Kind::STREAM) else {
        // One of the default streams.
        return Ok((stream, current.handle, current.device));
    };
    let owner = object.context;
    let (handle, _) = objects
        .resolve(owner, Kind::CONTEXT)
        .map_err(|error| objects::refusal(Kind::CONTEXT, &error))?;
    drop(objects);
    let (device, ..) = context::describe(call.session, Current::new(handle, 0))?;
    Ok((stream, owner, device))
}

/// # Safety
/// `place` is null or valid for a write.
unsafe fn put_pool(
    place: *mut CUmemoryPool,
    device: CUdevice,
    find: fn(&mut Call, CUdevice) -> Outcome<u64>,
) -> Outcome {
    let mut call = begin(Function::cuDeviceGetDefaultMemPool)?;
    call.device(device)?;
    edge::require(place)?;
    let pool = find(&mut call, device)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(place, pool as CUmemoryPool) }
}

/// A device's default pool, which the worker is asked for once.
fn default_pool(call: &mut Call, device: CUdevice) -> Outcome<u64> {
    if let Some(known) = locked(call.session).default_of(device) {
        return Ok(known);
    }
    let handle = call.mint_with(Kind::POOL, 0, Detail::Plain)?;
    let request = wire::CuDeviceGetDefaultMemPool {
        pool: handle.value(),
        device: call.device(device)?,
        reserved: 0,
    };
    call.exchange(&request, &[], |_, _| Ok(()))?;
    // Of two threads that asked at once, one has a handle that nobody uses.
    call.keep(Kind::POOL, handle);
    Ok(locked(call.session).keep_default(handle.value(), device))
}

/// The pool that is used on a device without being named.
fn current_pool(call: &mut Call, device: CUdevice) -> Outcome<u64> {
    let known = locked(call.session).current_of(device);
    match known {
        Some(known) => Ok(known),
        None => default_pool(call, device),
    }
}

/// # Safety
/// `location` is null or valid for a read.
unsafe fn device_at(location: *mut CUmemLocation, kind: CUmemAllocationType) -> Outcome<CUdevice> {
    let call = begin(Function::cuMemGetMemPool)?;
    // SAFETY: the caller's promise.
    let location = unsafe { edge::take(location) }?;
    match kind {
        CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED => located(&call, &location),
        CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_MANAGED => {
            Err(CUresult::CUDA_ERROR_NOT_SUPPORTED)
        }
        _ => Err(INVALID),
    }
}
