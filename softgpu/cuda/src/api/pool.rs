//! Pools, and allocation in stream order.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cuda_abi::types::{
    CUdevice, CUdeviceptr, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationHandleType,
    CUmemAllocationType, CUmemLocation, CUmemLocationType, CUmemPool_attribute, CUmemPoolProps,
    CUmemoryPool, CUstream,
};
use softgpu_core::error::Error;
use softgpu_core::memory::{MemPool, Permission};

use super::vmm::located;
use crate::api::device::signed;
use crate::capture;
use crate::driver::{driver, place};
use crate::edge::{self, Outcome, put};

pub unsafe fn cuMemAllocAsync(pointer: *mut CUdeviceptr, size: usize, stream: CUstream) -> Outcome {
    let device = signed(place(stream as u64)?.context.device().ordinal)?;
    let pool = driver()?.current_pool(device)? as CUmemoryPool;
    // SAFETY: the caller's promise.
    unsafe { cuMemAllocFromPoolAsync(pointer, size, pool, stream) }
}

pub unsafe fn cuMemAllocFromPoolAsync(
    pointer: *mut CUdeviceptr,
    size: usize,
    pool: CUmemoryPool,
    stream: CUstream,
) -> Outcome {
    let place = place(stream as u64)?;
    if pointer.is_null() || size == 0 {
        return Err(Error::InvalidValue);
    }
    let pool = pool_of(pool)?;
    // There are no nodes for it.
    capture::waits_for(&place)?;
    let made = place
        .context
        .allocate_async(place.stream, &pool, size as u64)?;
    // SAFETY: the caller's promise.
    unsafe { put(pointer, made.start) }
}

pub unsafe fn cuMemFreeAsync(pointer: CUdeviceptr, stream: CUstream) -> Outcome {
    let place = place(stream as u64)?;
    capture::waits_for(&place)?;
    place.context.free_async(place.stream, pointer)
}

pub unsafe fn cuDeviceGetDefaultMemPool(pool: *mut CUmemoryPool, device: CUdevice) -> Outcome {
    let found = driver()?.default_pool(device)?;
    // SAFETY: the caller's promise.
    unsafe { put(pool, found as CUmemoryPool) }
}

pub unsafe fn cuDeviceGetMemPool(pool: *mut CUmemoryPool, device: CUdevice) -> Outcome {
    let found = driver()?.current_pool(device)?;
    // SAFETY: the caller's promise.
    unsafe { put(pool, found as CUmemoryPool) }
}

pub unsafe fn cuDeviceSetMemPool(device: CUdevice, pool: CUmemoryPool) -> Outcome {
    let found = pool_of(pool)?;
    if signed(found.device())? != device {
        return Err(Error::InvalidValue);
    }
    driver()?.set_current_pool(device, pool as u64)
}

pub unsafe fn cuMemGetDefaultMemPool(
    pool: *mut CUmemoryPool,
    location: *mut CUmemLocation,
    kind: CUmemAllocationType,
) -> Outcome {
    driver()?;
    // SAFETY: the caller's promise.
    let device = unsafe { device_of(location, kind) }?;
    // SAFETY: the caller's promise.
    unsafe { cuDeviceGetDefaultMemPool(pool, device) }
}

pub unsafe fn cuMemGetMemPool(
    pool: *mut CUmemoryPool,
    location: *mut CUmemLocation,
    kind: CUmemAllocationType,
) -> Outcome {
    driver()?;
    // SAFETY: the caller's promise.
    let device = unsafe { device_of(location, kind) }?;
    // SAFETY: the caller's promise.
    unsafe { cuDeviceGetMemPool(pool, device) }
}

pub unsafe fn cuMemSetMemPool(
    location: *mut CUmemLocation,
    kind: CUmemAllocationType,
    pool: CUmemoryPool,
) -> Outcome {
    driver()?;
    // SAFETY: the caller's promise.
    let device = unsafe { device_of(location, kind) }?;
    // SAFETY: the caller's promise.
    unsafe { cuDeviceSetMemPool(device, pool) }
}

pub unsafe fn cuMemPoolCreate(pool: *mut CUmemoryPool, props: *const CUmemPoolProps) -> Outcome {
    let driver = driver()?;
    // SAFETY: the caller's promise.
    let props = unsafe { edge::take(props) }?;
    if pool.is_null() || props.allocType != CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED {
        return Err(Error::InvalidValue);
    }
    // Nothing of a pool can be exported.
    if props.handleTypes != CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE || props.usage != 0 {
        return Err(Error::NotSupported);
    }
    let device = located(&props.location)?;
    let made = driver
        .gpu
        .create_pool(device, props.maxSize as u64, props.handleTypes.0);
    let made = driver.pools.insert(made).ok_or(Error::OutOfMemory)?;
    // SAFETY: the caller's promise.
    unsafe { put(pool, made as CUmemoryPool) }
}

pub unsafe fn cuMemPoolDestroy(pool: CUmemoryPool) -> Outcome {
    pool_of(pool)?;
    driver()?.destroy_pool(pool as u64)
}

pub unsafe fn cuMemPoolTrimTo(pool: CUmemoryPool, keep: usize) -> Outcome {
    pool_of(pool)?.trim(driver()?.gpu.scheduler(), keep as u64);
    Ok(())
}

pub unsafe fn cuMemPoolSetAttribute(
    pool: CUmemoryPool,
    attribute: CUmemPool_attribute,
    value: *mut c_void,
) -> Outcome {
    use CUmemPool_attribute as A;
    let pool = pool_of(pool)?;
    // SAFETY: the caller's promise; an int.
    let truth = || unsafe { edge::take(value.cast::<i32>()) }.map(|value| value != 0);
    // SAFETY: the caller's promise; 64 bits.
    let word = || unsafe { edge::take(value.cast::<u64>()) };
    match attribute {
        A::CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES => {
            let on = truth()?;
            pool.set_policy(|policy| policy.follow_events = on);
        }
        A::CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC => {
            let on = truth()?;
            pool.set_policy(|policy| policy.opportunistic = on);
        }
        A::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES => {
            let on = truth()?;
            pool.set_policy(|policy| policy.internal_dependencies = on);
        }
        A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => {
            let bytes = word()?;
            pool.set_policy(|policy| policy.release_threshold = bytes);
        }
        // A high-water mark can only be put back.
        A::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH if word()? == 0 => {
            let counters = pool.counters();
            restart(&counters.reserved_high, &counters.reserved);
        }
        A::CU_MEMPOOL_ATTR_USED_MEM_HIGH if word()? == 0 => {
            let counters = pool.counters();
            restart(&counters.used_high, &counters.used);
        }
        _ => return Err(Error::InvalidValue),
    }
    Ok(())
}

fn restart(high: &AtomicU64, current: &AtomicU64) {
    high.store(current.load(Ordering::Relaxed), Ordering::Relaxed);
}

pub unsafe fn cuMemPoolGetAttribute(
    pool: CUmemoryPool,
    attribute: CUmemPool_attribute,
    value: *mut c_void,
) -> Outcome {
    use CUmemPool_attribute as A;
    let pool = pool_of(pool)?;
    let (policy, counters) = (pool.policy(), pool.counters());
    let truth = |on: bool| Answer::Int(on.into());
    let count = |word: &AtomicU64| Answer::Word(word.load(Ordering::Relaxed));
    let answer = match attribute {
        A::CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES => truth(policy.follow_events),
        A::CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC => truth(policy.opportunistic),
        A::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES => truth(policy.internal_dependencies),
        A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => Answer::Word(policy.release_threshold),
        A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT => count(&counters.reserved),
        A::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH => count(&counters.reserved_high),
        A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT => count(&counters.used),
        A::CU_MEMPOOL_ATTR_USED_MEM_HIGH => count(&counters.used_high),
        A::CU_MEMPOOL_ATTR_ALLOCATION_TYPE => Answer::Int(signed(
            CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED.0,
        )?),
        A::CU_MEMPOOL_ATTR_EXPORT_HANDLE_TYPES => Answer::Int(signed(pool.handle_types)?),
        A::CU_MEMPOOL_ATTR_LOCATION_ID => Answer::Int(signed(pool.device())?),
        A::CU_MEMPOOL_ATTR_LOCATION_TYPE => {
            Answer::Int(signed(CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE.0)?)
        }
        A::CU_MEMPOOL_ATTR_MAX_POOL_SIZE => Answer::Word(pool.max_size()),
        A::CU_MEMPOOL_ATTR_HW_DECOMPRESS_ENABLED => truth(false),
        _ => return Err(Error::InvalidValue),
    };
    match answer {
        // SAFETY: the caller's promise; an int or an enumeration.
        Answer::Int(int) => unsafe { put(value.cast(), int) },
        // SAFETY: the caller's promise; 64 bits.
        Answer::Word(word) => unsafe { put(value.cast(), word) },
    }
}

enum Answer {
    Int(i32),
    Word(u64),
}

pub unsafe fn cuMemPoolSetAccess(
    pool: CUmemoryPool,
    wanted: *const CUmemAccessDesc,
    count: usize,
) -> Outcome {
    let pool = pool_of(pool)?;
    let mut list = Vec::new();
    for index in 0..count {
        // SAFETY: inside the array by the caller's promise.
        let one = unsafe { edge::element(wanted, index) }?;
        let permission = match Permission::from_flags(one.flags.0) {
            Some(permission @ (Permission::None | Permission::ReadWrite)) => permission,
            _ => return Err(Error::InvalidValue),
        };
        let device = located(&one.location)?;
        // The device whose memory it is can always use it.
        if device == pool.device() && permission == Permission::None {
            return Err(Error::InvalidValue);
        }
        list.push((device, permission));
    }
    for (device, permission) in list {
        pool.access().set(device, permission);
    }
    Ok(())
}

pub unsafe fn cuMemPoolGetAccess(
    flags: *mut CUmemAccess_flags,
    pool: CUmemoryPool,
    location: *mut CUmemLocation,
) -> Outcome {
    let pool = pool_of(pool)?;
    // SAFETY: the caller's promise.
    let device = located(&unsafe { edge::take(location.cast_const()) }?)?;
    let permission = pool.access().of(device);
    // SAFETY: the caller's promise.
    unsafe { put(flags, CUmemAccess_flags(permission.flags())) }
}

fn pool_of(handle: CUmemoryPool) -> Result<Arc<MemPool>, Error> {
    driver()?
        .pools
        .get(handle as u64)
        .ok_or(Error::InvalidValue)
}

/// # Safety
/// `location` is null or valid for a read.
unsafe fn device_of(
    location: *mut CUmemLocation,
    kind: CUmemAllocationType,
) -> Result<CUdevice, Error> {
    // SAFETY: the caller's promise.
    let location = unsafe { edge::take(location.cast_const()) }?;
    match kind {
        CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED => signed(located(&location)?),
        CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_MANAGED => Err(Error::NotSupported),
        _ => Err(Error::InvalidValue),
    }
}
