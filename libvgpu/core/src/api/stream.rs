//! Streams: what the client answers itself, and host functions.

use std::ffi::{c_uint, c_void};

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUcontext, CUdevice, CUgreenCtx, CUhostFn, CUlaunchAttributeID, CUlaunchAttributeValue,
    CUresult, CUstream, CUstreamCallback,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire;
use zerocopy::IntoBytes;

use crate::call::{Call, Outcome};
use crate::callbacks::Work;
use crate::edge;
use crate::objects;

pub unsafe fn cuStreamGetCtx(hStream: CUstream, pctx: *mut CUcontext) -> Outcome {
    let call = Call::begin(Function::cuStreamGetCtx)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    let context = if stream <= 2 {
        call.context_handle()
    } else {
        let objects = call.session.objects();
        let found = objects.resolve(stream, Kind::STREAM);
        found
            .map(|(_, object)| object.context)
            .map_err(|error| objects::refusal(Kind::STREAM, &error))?
    };
    // SAFETY: the caller's promise.
    unsafe { edge::put(pctx, context as CUcontext) }
}

pub unsafe fn cuStreamGetCtx_v2(
    hStream: CUstream,
    pctx: *mut CUcontext,
    pGreenCtx: *mut CUgreenCtx,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuStreamGetCtx(hStream, pctx) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(pGreenCtx, std::ptr::null_mut()) };
    Ok(())
}

pub unsafe fn cuStreamGetDevice(hStream: CUstream, device: *mut CUdevice) -> Outcome {
    let mut context = std::ptr::null_mut();
    // SAFETY: a local.
    unsafe { cuStreamGetCtx(hStream, &raw mut context) }?;
    // SAFETY: the caller's promise.
    unsafe { super::context::cuCtxGetDevice_v2(device, context) }
}

pub unsafe fn cuStreamGetAttribute(
    hStream: CUstream,
    attr: CUlaunchAttributeID,
    value: *mut CUlaunchAttributeValue,
) -> Outcome {
    let mut call = Call::begin(Function::cuStreamGetAttribute)?;
    edge::require(value)?;
    let request = wire::CuStreamGetAttribute {
        stream: call.handle(Kind::STREAM, hStream as u64)?,
        attribute: attr.0,
        reserved: 0,
    };
    let bytes = call.round_trip(&request)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(value, CUlaunchAttributeValue { bytes }) }
}

pub unsafe fn cuStreamSetAttribute(
    hStream: CUstream,
    attr: CUlaunchAttributeID,
    value: *const CUlaunchAttributeValue,
) -> Outcome {
    let mut call = Call::begin(Function::cuStreamSetAttribute)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    let value = unsafe { edge::take(value) }?;
    let request = wire::CuStreamSetAttribute {
        stream,
        attribute: attr.0,
        reserved: 0,
    };
    call.complete_with(&request, &[value.bytes.as_bytes()])
}

/// The mode only tunes how the thread that runs the function is waited for.
pub unsafe fn cuLaunchHostFunc_v2(
    hStream: CUstream,
    fn_: CUhostFn,
    userData: *mut c_void,
    syncMode: c_uint,
) -> Outcome {
    edge::known_flags(syncMode, 1)?;
    // SAFETY: the caller's promise.
    unsafe { cuLaunchHostFunc(hStream, fn_, userData) }
}

pub unsafe fn cuLaunchHostFunc(hStream: CUstream, fn_: CUhostFn, userData: *mut c_void) -> Outcome {
    let call = Call::begin(Function::cuLaunchHostFunc)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    let function = fn_.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    launch(call, stream, Work::HostFunction(function), userData, 0)
}

pub unsafe fn cuStreamAddCallback(
    hStream: CUstream,
    callback: CUstreamCallback,
    userData: *mut c_void,
    flags: c_uint,
) -> Outcome {
    let call = Call::begin(Function::cuStreamAddCallback)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    let function = callback.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    if flags != 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    launch(
        call,
        stream,
        Work::StreamCallback(function, stream),
        userData,
        1,
    )
}

fn launch(mut call: Call, stream: u64, work: Work, data: *mut c_void, with_status: u32) -> Outcome {
    let session = call.session;
    let credit = call.take_credit(stream)?;
    let callback = session.callbacks.enqueue(session, work, data)?;
    let request = wire::CuLaunchHostFunc {
        stream,
        callback,
        with_status,
        reserved: 0,
    };
    call.post_charged(&request, &[], credit)
        .inspect_err(|_| session.callbacks.forget(callback))
}
