//! Events of whole contexts. Those of streams are generated.

use cuda_abi::function::Function;
use cuda_abi::types::{CUcontext, CUevent};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use super::context::named;
use crate::call::{Call, Outcome};
use crate::state;

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
