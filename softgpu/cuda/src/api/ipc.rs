//! What processes share.

use std::ffi::c_uint;

use cuda_abi::types::{CUdeviceptr, CUipcMem_flags, CUipcMemHandle};
use softgpu_core::error::Error;

use crate::capture;
use crate::driver;
use crate::edge::{Outcome, put, require};

const LAZY_PEER_ACCESS: c_uint = CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS.0;

pub unsafe fn cuIpcGetMemHandle(pHandle: *mut CUipcMemHandle, dptr: CUdeviceptr) -> Outcome {
    let context = driver::context()?;
    require(pHandle)?;
    let gpu = context.gpu();
    let found = gpu.space().find(dptr).ok_or(Error::InvalidValue)?;
    let reserved = gpu.ipc().export(&context, &found)?;
    // SAFETY: the caller's promise.
    unsafe { put(pHandle, CUipcMemHandle { reserved }) }
}

pub unsafe fn cuIpcOpenMemHandle_v2(
    pdptr: *mut CUdeviceptr,
    handle: CUipcMemHandle,
    Flags: c_uint,
) -> Outcome {
    let context = driver::context()?;
    capture::unsafe_call()?;
    require(pdptr)?;
    if Flags & !LAZY_PEER_ACCESS != 0 {
        return Err(Error::InvalidValue);
    }
    let start = context.gpu().ipc().open(&context, &handle.reserved)?;
    // SAFETY: the caller's promise.
    unsafe { put(pdptr, start) }
}

pub unsafe fn cuIpcCloseMemHandle(dptr: CUdeviceptr) -> Outcome {
    let context = driver::context()?;
    capture::unsafe_call()?;
    context.gpu().ipc().close(&context, dptr)
}
