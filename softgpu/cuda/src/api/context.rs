//! Contexts, primary ones and the program's own, and each thread's current one.

use std::ffi::{c_int, c_uint};

use cuda_abi::types::{
    CUcontext, CUctxCreateParams, CUdevice, CUexecAffinityParam, CUfunc_cache, CUlimit,
    CUsharedconfig,
};
use softgpu_core::context::Context;
use softgpu_core::error::Error;

use crate::api::device::signed;
use crate::capture;
use crate::current;
use crate::driver::{self, driver};
use crate::edge::{self, Outcome, put, put_if_wanted};

/// Scheduling, mapped host memory, local memory kept, core dumps, synchronous memory operations.
const FLAGS: c_uint = 0xff;
const LEAST_PRIORITY: c_int = 0;
const GREATEST_PRIORITY: c_int = -5;

pub unsafe fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice) -> Outcome {
    let driver = driver()?;
    driver.gpu.device(device)?;
    if context.is_null() {
        return Err(Error::InvalidValue);
    }
    let handle = driver.retain_primary(device)?;
    // SAFETY: the caller's promise.
    unsafe { put(context, handle as CUcontext) }
}

pub unsafe fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) -> Outcome {
    driver()?.release_primary(device)
}

pub unsafe fn cuDevicePrimaryCtxReset_v2(device: CUdevice) -> Outcome {
    driver()?.reset_primary(device)
}

pub unsafe fn cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: c_uint) -> Outcome {
    let driver = driver()?;
    driver.gpu.device(device)?;
    check_flags(flags)?;
    driver.set_primary_flags(device, flags)
}

pub unsafe fn cuDevicePrimaryCtxRelease(device: CUdevice) -> Outcome {
    // SAFETY: the same function under its earlier name.
    unsafe { cuDevicePrimaryCtxRelease_v2(device) }
}

pub unsafe fn cuDevicePrimaryCtxReset(device: CUdevice) -> Outcome {
    // SAFETY: as above.
    unsafe { cuDevicePrimaryCtxReset_v2(device) }
}

pub unsafe fn cuDevicePrimaryCtxSetFlags(device: CUdevice, flags: c_uint) -> Outcome {
    // SAFETY: as above.
    unsafe { cuDevicePrimaryCtxSetFlags_v2(device, flags) }
}

pub unsafe fn cuDevicePrimaryCtxGetState(
    device: CUdevice,
    flags: *mut c_uint,
    active: *mut c_int,
) -> Outcome {
    let (own, is_active) = driver()?.primary_slot(device)?.flags();
    // SAFETY: the caller's promise.
    unsafe { put(flags, own) }?;
    // SAFETY: the caller's promise.
    unsafe { put(active, c_int::from(is_active)) }
}

pub unsafe fn cuCtxCreate_v2(context: *mut CUcontext, flags: c_uint, device: CUdevice) -> Outcome {
    let driver = driver()?;
    check_flags(flags)?;
    if context.is_null() {
        return Err(Error::InvalidValue);
    }
    let handle = driver.create_context(device, flags)?;
    current::push(handle)?;
    // SAFETY: the caller's promise.
    unsafe { put(context, handle as CUcontext) }
}

pub unsafe fn cuCtxCreate_v3(
    context: *mut CUcontext,
    affinities: *mut CUexecAffinityParam,
    count: c_int,
    flags: c_uint,
    device: CUdevice,
) -> Outcome {
    driver()?;
    if count != 0 || !affinities.is_null() {
        return Err(Error::UnsupportedExecAffinity);
    }
    // SAFETY: the caller's promise.
    unsafe { cuCtxCreate_v2(context, flags, device) }
}

pub unsafe fn cuCtxCreate_v4(
    context: *mut CUcontext,
    parameters: *mut CUctxCreateParams,
    flags: c_uint,
    device: CUdevice,
) -> Outcome {
    if !parameters.is_null() {
        // SAFETY: the caller's promise.
        let wanted = unsafe { edge::take(parameters) }?;
        if wanted.numExecAffinityParams != 0 || !wanted.cigParams.is_null() {
            return Err(Error::NotSupported);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { cuCtxCreate_v2(context, flags, device) }
}

fn check_flags(flags: c_uint) -> Outcome {
    // At most one way of scheduling may be asked for.
    let one_way = matches!(flags & 7, 0 | 1 | 2 | 4);
    if flags & !FLAGS == 0 && one_way {
        Ok(())
    } else {
        Err(Error::InvalidValue)
    }
}

pub unsafe fn cuCtxDestroy_v2(context: CUcontext) -> Outcome {
    let driver = driver()?;
    let handle = context as u64;
    driver.destroy_context(handle)?;
    if current::top() == handle {
        current::pop();
    }
    Ok(())
}

pub unsafe fn cuCtxGetCurrent(context: *mut CUcontext) -> Outcome {
    driver()?;
    // SAFETY: the caller's promise.
    unsafe { put(context, current::top() as CUcontext) }
}

pub unsafe fn cuCtxSetCurrent(context: CUcontext) -> Outcome {
    check_handle(context as u64)?;
    current::replace(context as u64)
}

pub unsafe fn cuCtxPushCurrent_v2(context: CUcontext) -> Outcome {
    if context.is_null() {
        driver()?;
        return Err(Error::InvalidContext);
    }
    check_handle(context as u64)?;
    current::push(context as u64)
}

pub unsafe fn cuCtxPopCurrent_v2(context: *mut CUcontext) -> Outcome {
    driver()?;
    let handle = current::pop().ok_or(Error::InvalidContext)?;
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(context, handle as CUcontext) };
    Ok(())
}

/// A primary context's handle is good before the context is made: the CUDA runtime sets it first.
fn check_handle(handle: u64) -> Outcome {
    let driver = driver()?;
    if handle != 0 && driver.contexts.get(handle).is_none() {
        return Err(Error::InvalidContext);
    }
    Ok(())
}

pub unsafe fn cuCtxGetDevice(device: *mut CUdevice) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuCtxGetDevice_v2(device, std::ptr::null_mut()) }
}

pub unsafe fn cuCtxGetDevice_v2(device: *mut CUdevice, context: CUcontext) -> Outcome {
    let driver = driver()?;
    let handle = if context.is_null() {
        current::top()
    } else {
        context as u64
    };
    let slot = driver.contexts.get(handle).ok_or(Error::InvalidContext)?;
    // SAFETY: the caller's promise.
    unsafe { put(device, signed(slot.device)?) }
}

pub unsafe fn cuCtxGetFlags(flags: *mut c_uint) -> Outcome {
    let slot = driver()?.current_slot()?;
    slot.active()?;
    // SAFETY: the caller's promise.
    unsafe { put(flags, slot.flags().0) }
}

pub unsafe fn cuCtxSetFlags(flags: c_uint) -> Outcome {
    let slot = driver()?.current_slot()?;
    slot.active()?;
    check_flags(flags)?;
    slot.set_flags(flags);
    Ok(())
}

/// Nothing is kept in a cache.
pub unsafe fn cuCtxResetPersistingL2Cache() -> Outcome {
    driver::context()?.check()
}

pub unsafe fn cuCtxGetId(context: CUcontext, id: *mut u64) -> Outcome {
    let context = driver()?.context(context as u64)?;
    // SAFETY: the caller's promise.
    unsafe { put(id, context.id()) }
}

pub unsafe fn cuCtxGetApiVersion(context: CUcontext, version: *mut c_uint) -> Outcome {
    /// What drivers answer for contexts of the `_v2` functions and later.
    const API_VERSION: c_uint = 3020;
    driver()?.context(context as u64)?;
    // SAFETY: the caller's promise.
    unsafe { put(version, API_VERSION) }
}

pub unsafe fn cuCtxSynchronize() -> Outcome {
    let context = driver::context()?;
    synchronize(&context)
}

pub unsafe fn cuCtxSynchronize_v2(context: CUcontext) -> Outcome {
    let context = driver()?.context(context as u64)?;
    synchronize(&context)
}

fn synchronize(context: &Context) -> Outcome {
    capture::waits_for_context(context)?;
    capture::unsafe_call()?;
    let done = context.synchronize();
    edge::print(&context.take_output());
    done
}

pub unsafe fn cuCtxGetLimit(value: *mut usize, limit: CUlimit) -> Outcome {
    let context = driver::context()?;
    let limits = *context.limits();
    let found = match limit {
        CUlimit::CU_LIMIT_STACK_SIZE => {
            usize::try_from(limits.stack_bytes).map_err(|_| Error::Unknown)?
        }
        CUlimit::CU_LIMIT_PRINTF_FIFO_SIZE => limits.printf_bytes,
        CUlimit::CU_LIMIT_MALLOC_HEAP_SIZE => limits.heap_bytes,
        CUlimit::CU_LIMIT_MAX_L2_FETCH_GRANULARITY => 64,
        CUlimit::CU_LIMIT_PERSISTING_L2_CACHE_SIZE => 0,
        _ => return Err(Error::NotSupported),
    };
    // SAFETY: the caller's promise.
    unsafe { put(value, found) }
}

pub unsafe fn cuCtxSetLimit(limit: CUlimit, value: usize) -> Outcome {
    /// Of each thread, as on current GPUs.
    const MOST_STACK: u32 = 512 << 10;
    let context = driver::context()?;
    let mut limits = context.limits();
    match limit {
        CUlimit::CU_LIMIT_STACK_SIZE => {
            let bytes = u32::try_from(value)
                .ok()
                .filter(|bytes| *bytes <= MOST_STACK);
            limits.stack_bytes = bytes.ok_or(Error::InvalidValue)?;
        }
        CUlimit::CU_LIMIT_PRINTF_FIFO_SIZE => limits.printf_bytes = value,
        CUlimit::CU_LIMIT_MALLOC_HEAP_SIZE => {
            drop(limits);
            context.set_heap_bytes(value)?;
        }
        CUlimit::CU_LIMIT_MAX_L2_FETCH_GRANULARITY | CUlimit::CU_LIMIT_PERSISTING_L2_CACHE_SIZE => {
        }
        _ => return Err(Error::NotSupported),
    }
    Ok(())
}

pub unsafe fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> Outcome {
    driver::context()?;
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(least, LEAST_PRIORITY) };
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(greatest, GREATEST_PRIORITY) };
    Ok(())
}

/// A priority, cut to the range.
pub(crate) fn clamp_priority(priority: c_int) -> c_int {
    priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY)
}

pub unsafe fn cuCtxGetCacheConfig(config: *mut CUfunc_cache) -> Outcome {
    let wanted = driver::context()?.limits().cache_config;
    // SAFETY: the caller's promise.
    unsafe { put(config, CUfunc_cache(wanted)) }
}

/// Banks are of four bytes, as on every device of these compute capabilities; nothing else can be set.
pub unsafe fn cuCtxGetSharedMemConfig(config: *mut CUsharedconfig) -> Outcome {
    driver::context()?;
    // SAFETY: the caller's promise.
    unsafe {
        put(
            config,
            CUsharedconfig::CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE,
        )
    }
}

/// Without effect; see `cuCtxGetSharedMemConfig`.
pub unsafe fn cuCtxSetSharedMemConfig(config: CUsharedconfig) -> Outcome {
    driver::context()?;
    known_banks(config)
}

pub(super) fn known_banks(config: CUsharedconfig) -> Outcome {
    config.name().map(drop).ok_or(Error::InvalidValue)
}

pub unsafe fn cuCtxSetCacheConfig(config: CUfunc_cache) -> Outcome {
    if config.name().is_none() {
        return Err(Error::InvalidValue);
    }
    driver::context()?.limits().cache_config = config.0;
    Ok(())
}
