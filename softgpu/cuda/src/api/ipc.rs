//! What processes share.

use std::ffi::c_uint;
use std::sync::Arc;

use cuda_abi::types::{CUdeviceptr, CUevent, CUipcEventHandle, CUipcMem_flags, CUipcMemHandle};
use softgpu_core::error::Error;
use softgpu_core::event::SharedEvent;

use super::event;
use crate::capture;
use crate::driver::{self, Event, driver};
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

pub unsafe fn cuIpcGetEventHandle(pHandle: *mut CUipcEventHandle, event: CUevent) -> Outcome {
    driver::context()?;
    require(pHandle)?;
    let found = event::find(event)?;
    let shared = found.shared.as_ref().ok_or(Error::InvalidValue)?;
    let reserved = shared.handle()?;
    // SAFETY: the caller's promise.
    unsafe { put(pHandle, CUipcEventHandle { reserved }) }
}

/// The event is another process's; it is this one's to destroy.
pub unsafe fn cuIpcOpenEventHandle(phEvent: *mut CUevent, handle: CUipcEventHandle) -> Outcome {
    let context = driver::context()?;
    require(phEvent)?;
    let shared = SharedEvent::open(&context, &handle.reserved)?;
    let flags = event::INTERPROCESS | event::DISABLE_TIMING;
    let made = Arc::new(Event::new(context, flags, Some(shared)));
    let made = driver()?.events.insert(made).ok_or(Error::OutOfMemory)?;
    // SAFETY: the caller's promise.
    unsafe { put(phEvent, made as CUevent) }
}
