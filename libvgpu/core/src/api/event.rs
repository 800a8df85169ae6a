//! Making events, and events of whole contexts. What streams do with them is generated.

use std::ffi::c_uint;

use cuda_abi::function::Function;
use cuda_abi::types::{CUcontext, CUevent, CUevent_flags as Flags, CUresult};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use super::context::named;
use crate::call::{Call, Outcome};
use crate::edge;
use crate::state;

pub unsafe fn cuEventCreate(phEvent: *mut CUevent, flags: c_uint) -> Outcome {
    let mut call = Call::begin(Function::cuEventCreate)?;
    edge::require(phEvent)?;
    let (untimed, shared) = (
        Flags::CU_EVENT_DISABLE_TIMING.0,
        Flags::CU_EVENT_INTERPROCESS.0,
    );
    edge::known_flags(flags, Flags::CU_EVENT_BLOCKING_SYNC.0 | untimed | shared)?;
    // What other processes may have takes no time.
    if flags & shared != 0 && flags & untimed == 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let event = call.mint(Kind::EVENT)?;
    call.post(&wire::CuEventCreate {
        phEvent: event.value(),
        Flags: flags,
        reserved: 0,
    })?;
    call.keep(Kind::EVENT, event);
    // SAFETY: the caller's promise.
    unsafe { edge::put(phEvent, event.value() as CUevent) }
}

pub unsafe fn cuCtxRecordEvent(hCtx: CUcontext, hEvent: CUevent) -> Outcome {
    let (mut call, event) = begin(Function::cuCtxRecordEvent, hCtx, hEvent)?;
    call.complete(&wire::CuCtxRecordEvent { event })
}

pub unsafe fn cuCtxWaitEvent(hCtx: CUcontext, hEvent: CUevent) -> Outcome {
    let (mut call, event) = begin(Function::cuCtxWaitEvent, hCtx, hEvent)?;
    call.complete(&wire::CuCtxWaitEvent { event })
}

fn begin(function: Function, context: CUcontext, event: CUevent) -> Outcome<(Call, u64)> {
    state::ready()?;
    let call = Call::begin_on(function, named(context)?)?;
    let event = call.handle(Kind::EVENT, event as u64)?;
    Ok((call, event))
}
