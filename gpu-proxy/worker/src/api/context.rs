//! Contexts. The client keeps the stacks of current contexts and the reference counts; here they
//! are made and destroyed.

#![forbid(unsafe_code)]

use cuda_abi::types::{CUdevice_attribute, CUlimit, CUresult};
use idm_protocol::handle::{Handle, Kind};
use idm_protocol::wire;

use crate::calls::Names;
use crate::contexts::{ContextKey, Contexts};
use crate::session::{Frame, Object, Outcome, Refusal, Session};

/// The primary context comes to life.
pub fn cuDevicePrimaryCtxRetain(
    session: &Session,
    request: &wire::CuDevicePrimaryCtxRetain,
    _: &mut Frame<'_>,
) -> Outcome {
    let handle = request.context;
    let slot = slot(handle)?;
    // A primary context keeps its handle while it is inactive.
    let known = session.object(Kind::CONTEXT, handle).is_ok();
    if known && session.contexts.key(slot).is_ok() {
        return Ok(());
    }
    if !known {
        session.check_free(Kind::CONTEXT, handle)?;
    }
    make(session, slot, request.device, true, || {
        let pointer = session
            .driver()
            .retain_primary(request.device, request.flags)?;
        if known {
            session.rebind_context(handle, pointer);
        } else {
            bind(session, handle, pointer)?;
        }
        Ok(pointer)
    })
}

/// The last reference to the primary context goes.
pub fn cuDevicePrimaryCtxRelease_v2(
    session: &Session,
    request: &wire::CuDevicePrimaryCtxReleaseV2,
    _: &mut Frame<'_>,
) -> Outcome {
    let key = close_primary(session, request.context, request.device)?;
    let released = session.driver().release_primary(request.device);
    session.close_code(key.slot);
    Ok(released?)
}

/// The primary context is destroyed, whatever refers to it.
pub fn cuDevicePrimaryCtxReset_v2(
    session: &Session,
    request: &wire::CuDevicePrimaryCtxResetV2,
    _: &mut Frame<'_>,
) -> Outcome {
    let key = close_primary(session, request.context, request.device)?;
    let reset = session.driver().reset_primary(request.device);
    session.close_code(key.slot);
    reset?;
    // Our reference went with it, or is of no use any more: the client retains anew.
    let _ = session.driver().release_primary(request.device);
    Ok(())
}

/// A context of the client's own.
pub fn cuCtxCreate_v2(
    session: &Session,
    request: &wire::CuCtxCreateV2,
    _: &mut Frame<'_>,
) -> Outcome {
    let slot = slot(request.context)?;
    session.check_free(Kind::CONTEXT, request.context)?;
    make(session, slot, request.device, false, || {
        let pointer = session
            .driver()
            .create_context(request.device, request.flags)?;
        bind(session, request.context, pointer)?;
        Ok(pointer)
    })
}

/// It goes, with all that was made in it.
pub fn cuCtxDestroy_v2(
    session: &Session,
    request: &wire::CuCtxDestroyV2,
    _: &mut Frame<'_>,
) -> Outcome {
    let slot = slot(request.context)?;
    let object = session.object(Kind::CONTEXT, request.context)?;
    let invalid = CUresult::CUDA_ERROR_INVALID_CONTEXT;
    let context = session.contexts.close(slot).ok_or(invalid)?;
    if context.primary || context.pointer != object.pointer {
        // Two destroys at once, or a primary context, which is released instead.
        session
            .contexts
            .open(slot, context.pointer, context.device, context.primary);
        return Err(invalid.into());
    }
    session.take_object(Kind::CONTEXT, request.context)?;
    Contexts::leave(session.driver());
    let status = session.driver().destroy_context(context.pointer);
    // Also after an error: what the driver says of a context that was lost is no reason to keep it.
    session.forget_context(context.key);
    session.close_code(slot);
    Ok(status?)
}

fn close_primary(session: &Session, handle: u64, device: i32) -> Result<ContextKey, CUresult> {
    let invalid = CUresult::CUDA_ERROR_INVALID_CONTEXT;
    session.object(Kind::CONTEXT, handle)?;
    let slot = slot(handle)?;
    let context = session.contexts.close(slot).ok_or(invalid)?;
    if !context.primary || context.device != device {
        session
            .contexts
            .open(slot, context.pointer, context.device, context.primary);
        return Err(invalid);
    }
    Contexts::leave(session.driver());
    session.forget_context(context.key);
    Ok(context.key)
}

/// Pays for a context, has it made and enters it.
fn make(
    session: &Session,
    slot: u16,
    device: i32,
    primary: bool,
    driver_makes: impl Fn() -> Result<usize, Refusal>,
) -> Outcome {
    let prepaid = session.charge_context()?;
    let pointer = match session.past_scrub(driver_makes) {
        Ok(pointer) => pointer,
        Err(refusal) => {
            session.hand_in(prepaid);
            return Err(refusal);
        }
    };
    session.open_code(slot, prepaid);
    session.parts.control.latches.clear_context(slot);
    let opened = session.contexts.open(slot, pointer, device, primary);
    opened
        .map(|_| ())
        .ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT.into())
}

/// A limit of the current context. What it sets aside on the device is paid for: the heap and the buffer of printed
/// text once, the stack for every thread that the device can have at a time.
pub fn cuCtxSetLimit(
    session: &Session,
    request: &wire::CuCtxSetLimit,
    frame: &mut Frame<'_>,
) -> Outcome {
    let limit = CUlimit(request.limit);
    let slot = session.context(frame)?.slot;
    let weight = match limit {
        CUlimit::CU_LIMIT_MALLOC_HEAP_SIZE | CUlimit::CU_LIMIT_PRINTF_FIFO_SIZE => 1,
        CUlimit::CU_LIMIT_STACK_SIZE => resident_threads(session)?,
        _ => 0,
    };
    Ok(session.set_limit(slot, limit, request.value, weight)?)
}

/// Threads that the current context's device can have at a time.
fn resident_threads(session: &Session) -> Result<u64, CUresult> {
    let driver = session.driver();
    let device = driver.current_device()?;
    let mut threads = 1u64;
    for attribute in [
        CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
        CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
    ] {
        let count = driver.device_attribute(device, attribute.0)?;
        threads = threads.saturating_mul(u64::try_from(count).unwrap_or(0));
    }
    Ok(threads)
}

fn bind(session: &Session, handle: u64, pointer: usize) -> Outcome {
    let object = Object {
        pointer,
        context: None,
        parent: 0,
        counter: None,
        names: Names::NONE,
    };
    session.bind_object(Kind::CONTEXT, handle, Ok(object))
}

/// The slot of a context's handle; tables and latches bound it.
fn slot(handle: u64) -> Result<u16, CUresult> {
    let invalid = CUresult::CUDA_ERROR_INVALID_CONTEXT;
    let handle = Handle::from_value(handle).ok_or(invalid)?;
    u16::try_from(handle.slot()).map_err(|_| invalid)
}
