//! Streams: what the client answers itself, and host functions.

use std::ffi::{c_uint, c_void};

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUcontext, CUhostFn, CUresult, CUstream, CUstreamCallback, CUstreamCaptureStatus,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

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

/// Nothing begins a capture yet, so nothing is being captured.
pub unsafe fn cuStreamIsCapturing(
    hStream: CUstream,
    captureStatus: *mut CUstreamCaptureStatus,
) -> Outcome {
    let call = Call::begin(Function::cuStreamIsCapturing)?;
    call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    unsafe {
        edge::put(
            captureStatus,
            CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE,
        )
    }
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
    match call.post(&request) {
        Ok(()) => {
            credit.spend();
            Ok(())
        }
        Err(error) => {
            session.callbacks.forget(callback);
            Err(error)
        }
    }
}
