//! Peers: copies between contexts, which need no peer access because addresses are unified, and peer access, which
//! is not offered: every device says that it reaches no other.

use std::ffi::{c_int, c_uint};

use cuda_abi::function::Function;
use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{
    CUDA_MEMCPY3D_PEER, CUcontext, CUdevice, CUdevice_P2PAttribute, CUdeviceptr, CUresult, CUstream,
};
use idm_protocol::handle::Kind;

use super::copy::run;
use super::memory::{Ends, copy, stream_of};
use crate::call::{Call, Outcome};
use crate::context;
use crate::edge;
use crate::session::Session;
use crate::state;

pub unsafe fn cuMemcpyPeer(
    default: DefaultStream,
    dstDevice: CUdeviceptr,
    dstContext: CUcontext,
    srcDevice: CUdeviceptr,
    srcContext: CUcontext,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyPeer)?;
    check_both(call.session, dstContext, srcContext)?;
    let ends = Ends::DeviceToDevice;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            ends,
            dstDevice,
            srcDevice,
            ByteCount,
            stream_of(default),
            false,
        )
    }
}

pub unsafe fn cuMemcpyPeerAsync(
    dstDevice: CUdeviceptr,
    dstContext: CUcontext,
    srcDevice: CUdeviceptr,
    srcContext: CUcontext,
    ByteCount: usize,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyPeerAsync)?;
    check_both(call.session, dstContext, srcContext)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    let ends = Ends::DeviceToDevice;
    // SAFETY: the caller's promise.
    unsafe { copy(call, ends, dstDevice, srcDevice, ByteCount, stream, false) }
}

pub unsafe fn cuMemcpy3DPeer(default: DefaultStream, pCopy: *const CUDA_MEMCPY3D_PEER) -> Outcome {
    let call = Call::begin(Function::cuMemcpy3DPeer)?;
    // SAFETY: the caller's promise.
    let what = unsafe { checked(&call, pCopy) }?;
    // SAFETY: the caller's promise.
    unsafe { run(call, &what.copy, stream_of(default), true) }
}

pub unsafe fn cuMemcpy3DPeerAsync(pCopy: *const CUDA_MEMCPY3D_PEER, hStream: CUstream) -> Outcome {
    let call = Call::begin(Function::cuMemcpy3DPeerAsync)?;
    // SAFETY: the caller's promise.
    let what = unsafe { checked(&call, pCopy) }?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    unsafe { run(call, &what.copy, stream, false) }
}

pub unsafe fn cuCtxEnablePeerAccess(peerContext: CUcontext, Flags: c_uint) -> Outcome {
    let call = Call::begin(Function::cuCtxEnablePeerAccess)?;
    edge::known_flags(Flags, 0)?;
    check(call.session, peerContext)?;
    if peerContext as u64 == call.context_handle() {
        return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
    }
    Err(CUresult::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED)
}

pub unsafe fn cuCtxDisablePeerAccess(peerContext: CUcontext) -> Outcome {
    let call = Call::begin(Function::cuCtxDisablePeerAccess)?;
    check(call.session, peerContext)?;
    Err(CUresult::CUDA_ERROR_PEER_ACCESS_NOT_ENABLED)
}

pub unsafe fn cuDeviceGetP2PAttribute(
    value: *mut c_int,
    attrib: CUdevice_P2PAttribute,
    srcDevice: CUdevice,
    dstDevice: CUdevice,
) -> Outcome {
    let devices = state::ready()?.devices()?;
    edge::require(value)?;
    attrib.name().ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    devices.get(srcDevice)?;
    devices.get(dstDevice)?;
    if srcDevice == dstDevice {
        return Err(CUresult::CUDA_ERROR_INVALID_DEVICE);
    }
    // SAFETY: the caller's promise.
    unsafe { edge::put(value, 0) }
}

/// # Safety
/// `what` is null or valid for a read.
unsafe fn checked(call: &Call, what: *const CUDA_MEMCPY3D_PEER) -> Outcome<CUDA_MEMCPY3D_PEER> {
    // SAFETY: the caller's promise.
    let what = unsafe { edge::take(what) }?;
    check_both(call.session, what.dst_context(), what.src_context())?;
    Ok(what)
}

fn check_both(session: &Session, to: CUcontext, from: CUcontext) -> Outcome {
    check(session, to)?;
    check(session, from)
}

/// A context of the program's that is alive.
fn check(session: &Session, context: CUcontext) -> Outcome {
    let found = context::resolve(session, context)?;
    if session.is_alive(found.slot, found.generation) {
        Ok(())
    } else {
        Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED)
    }
}
