//! Contexts. The stack of current ones and the counts of primary ones live here; the worker hears of
//! creation and destruction.

use std::ffi::{c_int, c_uint};
use std::sync::PoisonError;

use cuda_abi::function::Function;
use cuda_abi::handshake;
use cuda_abi::types::{CUcontext, CUctxCreateParams, CUdevice, CUexecAffinityParam, CUresult};
use idm_protocol::handle::{Handle, Kind};
use idm_protocol::wire;

use crate::call::{Call, Outcome};
use crate::context::{self, describe, resolve};
use crate::edge;
use crate::objects;
use crate::objects::Detail;
use crate::state;
use crate::thread::{Current, Thread};

/// The scheduling flags and those that may stand beside them.
const KNOWN_FLAGS: c_uint = 0xff;
/// Version of the context interface that `cuCtxGetApiVersion` reports.
const API_VERSION: c_uint = 3020;

/// What `cuCtxGetId` reports: one number per context that ever was.
pub(crate) fn id(context: Current) -> u64 {
    (u64::from(context.generation) << 24) | (u64::from(context.slot) + 1)
}

pub unsafe fn cuDevicePrimaryCtxRetain(pctx: *mut CUcontext, dev: CUdevice) -> Outcome {
    let mut call = Call::begin_anywhere(Function::cuDevicePrimaryCtxRetain)?;
    edge::require(pctx)?;
    let session = call.session;
    let primary = session.devices()?.primary(dev)?;
    let mut primary = primary.lock().unwrap_or_else(PoisonError::into_inner);
    if !primary.active {
        let request = wire::CuDevicePrimaryCtxRetain {
            context: primary.handle.value(),
            device: call.device(dev)?,
            flags: primary.flags,
        };
        call.exchange(&request, &[], |_, _| Ok(()))?;
        primary.activated(session);
    }
    primary.count = primary
        .count
        .checked_add(1)
        .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pctx, primary.handle.value() as CUcontext) }
}

pub unsafe fn cuDevicePrimaryCtxRelease_v2(dev: CUdevice) -> Outcome {
    let mut call = Call::begin_anywhere(Function::cuDevicePrimaryCtxRelease_v2)?;
    let session = call.session;
    let primary = session.devices()?.primary(dev)?;
    let handle = {
        let mut primary = primary.lock().unwrap_or_else(PoisonError::into_inner);
        if primary.count == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
        if primary.count > 1 || !primary.active {
            primary.count -= 1;
            return Ok(());
        }
        let request = wire::CuDevicePrimaryCtxReleaseV2 {
            context: primary.handle.value(),
            device: call.device(dev)?,
            reserved: 0,
        };
        call.exchange(&request, &[], |_, _| Ok(()))?;
        primary.count = 0;
        primary.deactivated(session);
        primary.handle
    };
    // With no lock held: destructors of the program run here.
    handshake::context_destroyed(handle.value() as CUcontext);
    Ok(())
}

pub unsafe fn cuDevicePrimaryCtxReset_v2(dev: CUdevice) -> Outcome {
    let mut call = Call::begin_anywhere(Function::cuDevicePrimaryCtxReset_v2)?;
    let session = call.session;
    let primary = session.devices()?.primary(dev)?;
    let handle = {
        let mut primary = primary.lock().unwrap_or_else(PoisonError::into_inner);
        if !primary.active {
            return Ok(());
        }
        let request = wire::CuDevicePrimaryCtxResetV2 {
            context: primary.handle.value(),
            device: call.device(dev)?,
            reserved: 0,
        };
        call.exchange(&request, &[], |_, _| Ok(()))?;
        primary.deactivated(session);
        primary.handle
    };
    handshake::context_destroyed(handle.value() as CUcontext);
    Ok(())
}

pub unsafe fn cuDevicePrimaryCtxGetState(
    dev: CUdevice,
    flags: *mut c_uint,
    active: *mut c_int,
) -> Outcome {
    let session = state::ready()?;
    let primary = session.devices()?.primary(dev)?;
    edge::require(active)?;
    let primary = primary.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the caller's promise.
    unsafe { edge::put(flags, primary.flags) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(active, c_int::from(primary.active)) }
}

pub unsafe fn cuDevicePrimaryCtxSetFlags_v2(dev: CUdevice, flags: c_uint) -> Outcome {
    let session = state::ready()?;
    let primary = session.devices()?.primary(dev)?;
    check_flags(flags)?;
    primary.lock().unwrap_or_else(PoisonError::into_inner).flags = flags;
    Ok(())
}

pub unsafe fn cuDevicePrimaryCtxRelease(dev: CUdevice) -> Outcome {
    // SAFETY: the same function under its earlier name.
    unsafe { cuDevicePrimaryCtxRelease_v2(dev) }
}

pub unsafe fn cuDevicePrimaryCtxReset(dev: CUdevice) -> Outcome {
    // SAFETY: as above.
    unsafe { cuDevicePrimaryCtxReset_v2(dev) }
}

pub unsafe fn cuDevicePrimaryCtxSetFlags(dev: CUdevice, flags: c_uint) -> Outcome {
    // SAFETY: as above.
    unsafe { cuDevicePrimaryCtxSetFlags_v2(dev, flags) }
}

pub unsafe fn cuCtxCreate_v2(pctx: *mut CUcontext, flags: c_uint, dev: CUdevice) -> Outcome {
    let mut call = Call::begin_anywhere(Function::cuCtxCreate_v2)?;
    edge::require(pctx)?;
    check_flags(flags)?;
    let device = call.device(dev)?;
    let detail = Detail::Context {
        device: dev,
        flags,
        primary: false,
    };
    let handle = call.mint_with(Kind::CONTEXT, 0, detail)?;
    let request = wire::CuCtxCreateV2 {
        context: handle.value(),
        device,
        flags,
    };
    call.exchange(&request, &[], |_, _| Ok(()))?;
    call.keep(Kind::CONTEXT, handle);
    call.session.set_alive(handle.slot(), handle.generation());
    Thread::current().push_context(Current::new(handle, dev));
    // SAFETY: the caller's promise.
    unsafe { edge::put(pctx, handle.value() as CUcontext) }
}

pub unsafe fn cuCtxCreate_v3(
    pctx: *mut CUcontext,
    paramsArray: *mut CUexecAffinityParam,
    numParams: c_int,
    flags: c_uint,
    dev: CUdevice,
) -> Outcome {
    if numParams != 0 || !paramsArray.is_null() {
        state::ready()?;
        return Err(CUresult::CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY);
    }
    // SAFETY: the caller's promise.
    unsafe { cuCtxCreate_v2(pctx, flags, dev) }
}

pub unsafe fn cuCtxCreate_v4(
    pctx: *mut CUcontext,
    ctxCreateParams: *mut CUctxCreateParams,
    flags: c_uint,
    dev: CUdevice,
) -> Outcome {
    if !ctxCreateParams.is_null() {
        state::ready()?;
        // SAFETY: not null, so readable by the caller's promise.
        let params = unsafe { ctxCreateParams.read_unaligned() };
        if params.numExecAffinityParams != 0 {
            return Err(CUresult::CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY);
        }
        if !params.cigParams.is_null() {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { cuCtxCreate_v2(pctx, flags, dev) }
}

pub unsafe fn cuCtxDestroy_v2(ctx: CUcontext) -> Outcome {
    let mut call = Call::begin_anywhere(Function::cuCtxDestroy_v2)?;
    let session = call.session;
    let current = resolve(session, ctx)?;
    let (_, _, primary) = describe(session, current)?;
    if primary {
        // Those are released, not destroyed.
        return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
    }
    let handle = Handle::from_value(current.handle).ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
    call.exchange(
        &wire::CuCtxDestroyV2 {
            context: current.handle,
        },
        &[],
        |_, _| Ok(()),
    )?;
    let thread = Thread::current();
    if thread.context() == Some(current) {
        thread.pop_context();
    }
    context::ended(session, handle);
    call.retire(Kind::CONTEXT, current.handle);
    handshake::context_destroyed(ctx);
    Ok(())
}

pub unsafe fn cuCtxGetCurrent(pctx: *mut CUcontext) -> Outcome {
    state::ready()?;
    let handle = Thread::current()
        .context()
        .map_or(0, |context| context.handle);
    // SAFETY: the caller's promise.
    unsafe { edge::put(pctx, handle as CUcontext) }
}

pub unsafe fn cuCtxSetCurrent(ctx: CUcontext) -> Outcome {
    let session = state::ready()?;
    let context = if ctx.is_null() {
        None
    } else {
        Some(resolve(session, ctx)?)
    };
    Thread::current().set_context(context);
    Ok(())
}

pub unsafe fn cuCtxPushCurrent_v2(ctx: CUcontext) -> Outcome {
    let session = state::ready()?;
    Thread::current().push_context(resolve(session, ctx)?);
    Ok(())
}

pub unsafe fn cuCtxPopCurrent_v2(pctx: *mut CUcontext) -> Outcome {
    state::ready()?;
    let popped = Thread::current()
        .pop_context()
        .ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(pctx, popped.handle as CUcontext) };
    Ok(())
}

pub unsafe fn cuCtxGetDevice(device: *mut CUdevice) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuCtxGetDevice_v2(device, std::ptr::null_mut()) }
}

pub unsafe fn cuCtxGetDevice_v2(device: *mut CUdevice, ctx: CUcontext) -> Outcome {
    let session = state::ready()?;
    let (ordinal, _, _) = describe(session, named(ctx)?)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(device, ordinal) }
}

pub unsafe fn cuCtxGetFlags(flags: *mut c_uint) -> Outcome {
    let session = state::ready()?;
    let (device, mut value, primary) = describe(session, named(std::ptr::null_mut())?)?;
    if primary {
        value = session
            .devices()?
            .primary(device)?
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .flags;
    }
    // SAFETY: the caller's promise.
    unsafe { edge::put(flags, value) }
}

pub unsafe fn cuCtxSetFlags(flags: c_uint) -> Outcome {
    let session = state::ready()?;
    let context = named(std::ptr::null_mut())?;
    check_flags(flags)?;
    let (device, _, primary) = describe(session, context)?;
    if primary {
        let primary = session.devices()?.primary(device)?;
        primary.lock().unwrap_or_else(PoisonError::into_inner).flags = flags;
        return Ok(());
    }
    let mut objects = session.objects_mut();
    match objects.resolve_mut(context.handle, Kind::CONTEXT) {
        Ok((_, object)) => {
            if let Detail::Context { flags: known, .. } = &mut object.detail {
                *known = flags;
            }
            Ok(())
        }
        Err(error) => Err(objects::refusal(Kind::CONTEXT, &error)),
    }
}

pub unsafe fn cuCtxGetId(ctx: CUcontext, ctxId: *mut u64) -> Outcome {
    state::ready()?;
    let context = named(ctx)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(ctxId, id(context)) }
}

pub unsafe fn cuCtxGetApiVersion(ctx: CUcontext, version: *mut c_uint) -> Outcome {
    state::ready()?;
    named(ctx)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(version, API_VERSION) }
}

pub unsafe fn cuCtxSynchronize_v2(ctx: CUcontext) -> Outcome {
    state::ready()?;
    let mut call = Call::begin_on(Function::cuCtxSynchronize, named(ctx)?)?;
    call.complete(&wire::CuCtxSynchronize {})
}

/// The context that is meant: null is the current one.
pub(super) fn named(ctx: CUcontext) -> Outcome<Current> {
    if ctx.is_null() {
        return Thread::current()
            .context()
            .ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT);
    }
    resolve(state::ready()?, ctx)
}

fn check_flags(flags: c_uint) -> Outcome {
    // Of the scheduling flags (the low three bits) one may be set at most.
    let schedule = flags & 0b111;
    if flags & !KNOWN_FLAGS != 0 || !(schedule == 0 || schedule.is_power_of_two()) {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheduling_flags_exclude_each_other_and_unknown_ones_are_refused() {
        assert_eq!(check_flags(0), Ok(()));
        assert_eq!(check_flags(0x04 | 0x08), Ok(()));
        assert!(check_flags(0x01 | 0x02).is_err());
        assert!(check_flags(0x100).is_err());
    }

    #[test]
    fn ids_tell_slots_and_generations_apart_and_are_never_zero() {
        let id_of = |slot, generation| {
            id(Current::new(
                Handle::new(Kind::CONTEXT, slot, generation).unwrap(),
                0,
            ))
        };
        assert_ne!(id_of(0, 1), id_of(0, 2));
        assert_ne!(id_of(0, 1), id_of(1, 1));
        assert_ne!(id_of(0, 1), 0);
    }
}
