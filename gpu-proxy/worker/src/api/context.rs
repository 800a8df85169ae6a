//! Contexts. The client keeps the stacks of current contexts and the reference counts; here they
//! are made and destroyed.

#![forbid(unsafe_code)]

use cuda_abi::types::CUresult;
use idm_protocol::handle::{Handle, Kind};
use idm_protocol::wire;

use crate::contexts::{ContextKey, Contexts};
use crate::session::{Frame, Object, Outcome, Session};

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
    match session
        .driver()
        .retain_primary(request.device, request.flags)
    {
        Ok(pointer) if known => {
            session.rebind_context(handle, pointer);
            open(session, slot, pointer, request.device, true)
        }
        Ok(pointer) => {
            bind(session, handle, pointer)?;
            open(session, slot, pointer, request.device, true)
        }
        Err(status) => Err(status.into()),
    }
}

/// The last reference to the primary context goes.
pub fn cuDevicePrimaryCtxRelease_v2(
    session: &Session,
    request: &wire::CuDevicePrimaryCtxReleaseV2,
    _: &mut Frame<'_>,
) -> Outcome {
    close_primary(session, request.context, request.device)?;
    Ok(session.driver().release_primary(request.device)?)
}

/// The primary context is destroyed, whatever refers to it.
pub fn cuDevicePrimaryCtxReset_v2(
    session: &Session,
    request: &wire::CuDevicePrimaryCtxResetV2,
    _: &mut Frame<'_>,
) -> Outcome {
    close_primary(session, request.context, request.device)?;
    session.driver().reset_primary(request.device)?;
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
    let pointer = session
        .driver()
        .create_context(request.device, request.flags)?;
    bind(session, request.context, pointer)?;
    open(session, slot, pointer, request.device, false)
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

fn open(session: &Session, slot: u16, pointer: usize, device: i32, primary: bool) -> Outcome {
    session.parts.control.latches.clear_context(slot);
    let opened = session.contexts.open(slot, pointer, device, primary);
    opened
        .map(|_| ())
        .ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT.into())
}

fn bind(session: &Session, handle: u64, pointer: usize) -> Outcome {
    let object = Object {
        pointer,
        context: None,
        parent: 0,
        counter: None,
    };
    session.bind_object(Kind::CONTEXT, handle, Ok(object))
}

/// The slot of a context's handle; tables and latches bound it.
fn slot(handle: u64) -> Result<u16, CUresult> {
    let invalid = CUresult::CUDA_ERROR_INVALID_CONTEXT;
    let handle = Handle::from_value(handle).ok_or(invalid)?;
    u16::try_from(handle.slot()).map_err(|_| invalid)
}
