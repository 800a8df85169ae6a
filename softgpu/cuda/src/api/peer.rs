//! Peers: copies between contexts, and peer access, which no device offers.
//!
//! Addresses are unified, so to a copy the contexts add nothing but a check.

use std::ffi::{c_int, c_uint};

use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{
    CUDA_MEMCPY3D_PEER, CUcontext, CUdevice, CUdevice_P2PAttribute, CUdeviceptr, CUstream,
};
use softgpu_core::error::Error;

use super::memory::{Side, copy};
use crate::current;
use crate::driver::{self, driver, place, waiting_place};
use crate::edge::{self, Outcome, put};

pub unsafe fn cuMemcpyPeer(
    default: DefaultStream,
    to: CUdeviceptr,
    to_context: CUcontext,
    from: CUdeviceptr,
    from_context: CUcontext,
    length: usize,
) -> Outcome {
    let place = waiting_place(default)?;
    check(to_context)?;
    check(from_context)?;
    let (to, from) = (Side::Device(to), Side::Device(from));
    // SAFETY: both sides are device memory.
    unsafe { copy(&place, to, from, length, false) }
}

pub unsafe fn cuMemcpyPeerAsync(
    to: CUdeviceptr,
    to_context: CUcontext,
    from: CUdeviceptr,
    from_context: CUcontext,
    length: usize,
    stream: CUstream,
) -> Outcome {
    check(to_context)?;
    check(from_context)?;
    let (to, from) = (Side::Device(to), Side::Device(from));
    // SAFETY: both sides are device memory.
    unsafe { copy(&place(stream as u64)?, to, from, length, false) }
}

pub unsafe fn cuMemcpy3DPeer(default: DefaultStream, what: *const CUDA_MEMCPY3D_PEER) -> Outcome {
    let place = waiting_place(default)?;
    // SAFETY: the caller's promise.
    let what = unsafe { checked(what) }?;
    // SAFETY: the caller's promise.
    unsafe { super::copy::copy(&place, &what.copy, true) }
}

pub unsafe fn cuMemcpy3DPeerAsync(what: *const CUDA_MEMCPY3D_PEER, stream: CUstream) -> Outcome {
    driver::driver()?;
    // SAFETY: the caller's promise.
    let what = unsafe { checked(what) }?;
    let place = place(stream as u64)?;
    // SAFETY: the caller's promise.
    unsafe { super::copy::copy(&place, &what.copy, false) }
}

pub unsafe fn cuCtxEnablePeerAccess(peer: CUcontext, flags: c_uint) -> Outcome {
    driver::context()?;
    if flags != 0 {
        return Err(Error::InvalidValue);
    }
    check(peer)?;
    if peer as u64 == current::top() {
        return Err(Error::InvalidContext);
    }
    Err(Error::PeerAccessUnsupported)
}

pub unsafe fn cuCtxDisablePeerAccess(peer: CUcontext) -> Outcome {
    driver::context()?;
    check(peer)?;
    Err(Error::PeerAccessNotEnabled)
}

pub unsafe fn cuDeviceGetP2PAttribute(
    value: *mut c_int,
    attribute: CUdevice_P2PAttribute,
    from: CUdevice,
    to: CUdevice,
) -> Outcome {
    let driver = driver()?;
    if value.is_null() || attribute.name().is_none() {
        return Err(Error::InvalidValue);
    }
    driver.gpu.device(from)?;
    driver.gpu.device(to)?;
    if from == to {
        return Err(Error::InvalidDevice);
    }
    // SAFETY: the caller's promise.
    unsafe { put(value, 0) }
}

/// # Safety
/// `what` is null or valid for a read.
unsafe fn checked(what: *const CUDA_MEMCPY3D_PEER) -> Result<CUDA_MEMCPY3D_PEER, Error> {
    // SAFETY: the caller's promise.
    let what = unsafe { edge::take(what) }?;
    check(what.dst_context())?;
    check(what.src_context())?;
    Ok(what)
}

/// A context that is there.
fn check(context: CUcontext) -> Outcome {
    if context.is_null() {
        return Err(Error::InvalidContext);
    }
    driver()?.context(context as u64)?.check()
}
