//! Device memory, pinned host memory, copies.

use std::ffi::{c_uint, c_void};

use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{CUdeviceptr, CUstream};
use softgpu_core::context::Context;
use softgpu_core::error::Error;
use softgpu_core::memory::Kind;
use softgpu_core::transfer::Span;

use crate::api::copy::Copy3D;
use crate::capture;
use crate::driver::{self, Place, driver, place, waiting_place};
use crate::edge::{self, Outcome, put, put_if_wanted};

/// Portable, mapped, write-combined.
const HOST_ALLOC_FLAGS: c_uint = 7;
/// Portable, mapped.
const REGISTER_FLAGS: c_uint = 3;
/// I/O memory and read-only memory.
const REGISTER_UNSUPPORTED: c_uint = 0xc;
/// Mapped, in both sets of flags.
const MAPPED: c_uint = 2;
/// Rows of pitched memory start on multiples of this.
const PITCH: usize = 512;

pub unsafe fn cuMemAlloc_v2(pointer: *mut CUdeviceptr, size: usize) -> Outcome {
    let context = driver::context()?;
    capture::unsafe_call()?;
    if pointer.is_null() {
        return Err(Error::InvalidValue);
    }
    let made = context.allocate(size as u64)?;
    // SAFETY: the caller's promise.
    unsafe { put(pointer, made.start) }
}

pub unsafe fn cuMemAllocPitch_v2(
    pointer: *mut CUdeviceptr,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: c_uint,
) -> Outcome {
    let context = driver::context()?;
    capture::unsafe_call()?;
    if pointer.is_null() || pitch.is_null() || !matches!(element, 4 | 8 | 16) {
        return Err(Error::InvalidValue);
    }
    let row = width
        .checked_next_multiple_of(PITCH)
        .ok_or(Error::OutOfMemory)?;
    let size = row.checked_mul(height).ok_or(Error::OutOfMemory)?;
    let made = context.allocate(size as u64)?;
    // SAFETY: the caller's promise.
    unsafe { put(pointer, made.start) }?;
    // SAFETY: the caller's promise.
    unsafe { put(pitch, row) }
}

pub unsafe fn cuMemFree_v2(pointer: CUdeviceptr) -> Outcome {
    let context = driver::context()?;
    capture::unsafe_call()?;
    if pointer == 0 {
        return Ok(());
    }
    context.free(pointer)?;
    driver()?.forget_managed();
    Ok(())
}

pub unsafe fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Outcome {
    let context = driver::context()?;
    let (room, all) = context.gpu().space().room(context.device().ordinal)?;
    // SAFETY: the caller's promise.
    unsafe { put(free, usize::try_from(room).map_err(|_| Error::Unknown)?) }?;
    // SAFETY: the caller's promise.
    unsafe { put(total, usize::try_from(all).map_err(|_| Error::Unknown)?) }
}

pub unsafe fn cuMemGetAddressRange_v2(
    base: *mut CUdeviceptr,
    size: *mut usize,
    pointer: CUdeviceptr,
) -> Outcome {
    let found = driver::anywhere()?.gpu.space().find(pointer);
    let found = found.ok_or(Error::NotFound)?;
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(base, found.start) };
    // SAFETY: the caller's promise.
    unsafe {
        put_if_wanted(
            size,
            usize::try_from(found.size).map_err(|_| Error::Unknown)?,
        )
    };
    Ok(())
}

pub unsafe fn cuMemHostAlloc(pointer: *mut *mut c_void, size: usize, flags: c_uint) -> Outcome {
    let context = driver::context()?;
    capture::unsafe_call()?;
    if pointer.is_null() || flags & !HOST_ALLOC_FLAGS != 0 {
        return Err(Error::InvalidValue);
    }
    if size == 0 {
        // SAFETY: the caller's promise.
        return unsafe { put(pointer, std::ptr::null_mut()) };
    }
    let space = context.gpu().space();
    // All pinned memory is mapped, as always under unified addressing.
    let made = space.allocate_host(
        context.device().ordinal,
        context.id(),
        size as u64,
        Kind::HostAllocated(flags | MAPPED),
    )?;
    // SAFETY: the caller's promise.
    unsafe { put(pointer, made.start as *mut c_void) }
}

pub unsafe fn cuMemAllocHost_v2(pointer: *mut *mut c_void, size: usize) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuMemHostAlloc(pointer, size, 0) }
}

pub unsafe fn cuMemFreeHost(pointer: *mut c_void) -> Outcome {
    let context = driver::context()?;
    capture::unsafe_call()?;
    if pointer.is_null() {
        return Ok(());
    }
    context.release(pointer as u64, |kind| {
        matches!(kind, Kind::HostAllocated(_))
    })
}

pub unsafe fn cuMemHostGetDevicePointer_v2(
    device: *mut CUdeviceptr,
    pointer: *mut c_void,
    flags: c_uint,
) -> Outcome {
    let found = driver::anywhere()?
        .gpu
        .space()
        .find(pointer as u64)
        .filter(|a| a.kind.is_host());
    if flags != 0 || found.is_none() {
        return Err(Error::InvalidValue);
    }
    // SAFETY: the caller's promise.
    unsafe { put(device, pointer as u64) }
}

pub unsafe fn cuMemHostGetFlags(flags: *mut c_uint, pointer: *mut c_void) -> Outcome {
    let driver = driver::anywhere()?;
    match driver.gpu.space().find(pointer as u64).map(|a| a.kind) {
        // SAFETY: the caller's promise.
        Some(Kind::HostAllocated(own) | Kind::HostRegistered(own)) => unsafe { put(flags, own) },
        _ => Err(Error::InvalidValue),
    }
}

pub unsafe fn cuMemHostRegister_v2(pointer: *mut c_void, size: usize, flags: c_uint) -> Outcome {
    let context = driver::context()?;
    capture::unsafe_call()?;
    if flags & !(REGISTER_FLAGS | REGISTER_UNSUPPORTED) != 0 {
        return Err(Error::InvalidValue);
    }
    if flags & REGISTER_UNSUPPORTED != 0 {
        return Err(Error::NotSupported);
    }
    let space = context.gpu().space();
    let device = context.device().ordinal;
    space
        .register(
            device,
            context.id(),
            pointer as u64,
            size as u64,
            flags | MAPPED,
        )
        .map(drop)
}

pub unsafe fn cuMemHostUnregister(pointer: *mut c_void) -> Outcome {
    let context = driver::context()?;
    capture::unsafe_call()?;
    edge::require(pointer)?;
    let released = context.release(pointer as u64, |kind| {
        matches!(kind, Kind::HostRegistered(_))
    });
    released.map_err(|error| {
        if error == Error::InvalidValue {
            Error::HostMemoryNotRegistered
        } else {
            error
        }
    })
}

/// What one side of a copy is.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// Memory that the device knows.
    Device(u64),
    /// Host memory or, as addresses are unified, a device's.
    Any(u64),
}

impl Side {
    /// # Safety
    /// Host memory is accessible until the copy is done.
    pub unsafe fn span(self, context: &Context, length: u64) -> Result<Span, Error> {
        let space = context.gpu().space();
        match self {
            Self::Device(address) => Span::device(space, address, length),
            // SAFETY: the caller's promise.
            Self::Any(address) => unsafe { Span::any(space, address, length) },
        }
    }
}

/// # Safety
/// Host memory on either side is accessible until the copy is done: with `wait` that is during the call.
pub(super) unsafe fn copy(
    place: &Place,
    to: Side,
    from: Side,
    length: usize,
    wait: bool,
) -> Outcome {
    place.context.check()?;
    if length == 0 {
        return Ok(());
    }
    // SAFETY: the caller's promise.
    let target = unsafe { to.span(&place.context, length as u64) }?;
    // SAFETY: the caller's promise.
    let source = unsafe { from.span(&place.context, length as u64) }?;
    let copy = || Ok(Copy3D::row(to, from, length).node(place));
    if capture::take(place, copy)? {
        return Ok(());
    }
    let (to, from) = (target, source);
    let done = place.context.copy(place.stream, to, from, wait);
    if wait {
        edge::print(&place.context.take_output());
    }
    done
}

pub unsafe fn cuMemcpy(
    default: DefaultStream,
    to: CUdeviceptr,
    from: CUdeviceptr,
    length: usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            &waiting_place(default)?,
            Side::Any(to),
            Side::Any(from),
            length,
            true,
        )
    }
}

pub unsafe fn cuMemcpyHtoD_v2(
    default: DefaultStream,
    to: CUdeviceptr,
    from: *const c_void,
    length: usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            &waiting_place(default)?,
            Side::Device(to),
            Side::Any(from as u64),
            length,
            true,
        )
    }
}

pub unsafe fn cuMemcpyDtoH_v2(
    default: DefaultStream,
    to: *mut c_void,
    from: CUdeviceptr,
    length: usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            &waiting_place(default)?,
            Side::Any(to as u64),
            Side::Device(from),
            length,
            true,
        )
    }
}

fn synchronises(place: &Place, address: u64) -> bool {
    let space = place.context.gpu().space();
    Span::device(space, address, 1).is_ok_and(|span| span.synchronises())
}

/// Between two places on devices nobody waits, as on a GPU: what comes after is ordered behind it. Unless the
/// program asked for it.
pub unsafe fn cuMemcpyDtoD_v2(
    default: DefaultStream,
    to: CUdeviceptr,
    from: CUdeviceptr,
    length: usize,
) -> Outcome {
    let place = waiting_place(default)?;
    let wait = synchronises(&place, to) || synchronises(&place, from);
    // SAFETY: the caller's promise.
    unsafe { copy(&place, Side::Device(to), Side::Device(from), length, wait) }
}

pub unsafe fn cuMemcpyAsync(
    to: CUdeviceptr,
    from: CUdeviceptr,
    length: usize,
    stream: CUstream,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            &place(stream as u64)?,
            Side::Any(to),
            Side::Any(from),
            length,
            false,
        )
    }
}

pub unsafe fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    length: usize,
    stream: CUstream,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            &place(stream as u64)?,
            Side::Device(to),
            Side::Any(from as u64),
            length,
            false,
        )
    }
}

pub unsafe fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    length: usize,
    stream: CUstream,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            &place(stream as u64)?,
            Side::Any(to as u64),
            Side::Device(from),
            length,
            false,
        )
    }
}

pub unsafe fn cuMemcpyDtoDAsync_v2(
    to: CUdeviceptr,
    from: CUdeviceptr,
    length: usize,
    stream: CUstream,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            &place(stream as u64)?,
            Side::Device(to),
            Side::Device(from),
            length,
            false,
        )
    }
}
