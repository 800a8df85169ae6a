//! Streams.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use cuda_abi::types::{
    CUcontext, CUdevice, CUevent, CUgreenCtx, CUlaunchAttributeID, CUlaunchAttributeValue,
    CUresult, CUstream, CUstreamCallback,
};
use softgpu_core::error::Error;

use crate::api::context::clamp_priority;
use crate::api::device::signed;
use crate::api::event::{self, EXTERNAL};
use crate::capture;
use crate::current;
use crate::driver::{self, NON_BLOCKING, Stream, driver, place};
use crate::edge::{self, Outcome, put, put_if_wanted};

pub unsafe fn cuStreamCreate(stream: *mut CUstream, flags: c_uint) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuStreamCreateWithPriority(stream, flags, 0) }
}

pub unsafe fn cuStreamCreateWithPriority(
    stream: *mut CUstream,
    flags: c_uint,
    priority: c_int,
) -> Outcome {
    let context = driver::context()?;
    if stream.is_null() || flags & !NON_BLOCKING != 0 {
        return Err(Error::InvalidValue);
    }
    let id = context.create_stream(flags & NON_BLOCKING != 0);
    let made = Stream {
        context,
        context_handle: current::top(),
        id,
        flags,
        priority: clamp_priority(priority),
    };
    let handle = driver()?
        .streams
        .insert(Arc::new(made))
        .ok_or(Error::OutOfMemory)?;
    // SAFETY: the caller's promise.
    unsafe { put(stream, handle as CUstream) }
}

/// Returns at once; what was submitted is still done.
pub unsafe fn cuStreamDestroy_v2(stream: CUstream) -> Outcome {
    let driver = driver()?;
    let gone = driver
        .streams
        .remove(stream as u64)
        .ok_or(Error::InvalidHandle)?;
    driver.captures.forget_stream(gone.id);
    driver.stream_attributes.forget(&[gone.id]);
    driver.gpu.scheduler().close(gone.id);
    gone.context.check()
}

pub unsafe fn cuStreamSynchronize(stream: CUstream) -> Outcome {
    let place = place(stream as u64)?;
    capture::waits_for(&place)?;
    capture::unsafe_call()?;
    let done = place.context.synchronize_stream(place.stream);
    edge::print(&place.context.take_output());
    done
}

pub unsafe fn cuStreamQuery(stream: CUstream) -> Outcome {
    let place = place(stream as u64)?;
    capture::waits_for(&place)?;
    capture::unsafe_call()?;
    place.context.query(place.stream)
}

pub unsafe fn cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint) -> Outcome {
    let place = place(stream as u64)?;
    if flags & !EXTERNAL != 0 {
        return Err(Error::InvalidValue);
    }
    let found = event::find(event)?;
    if capture::wait(&place, (event as u64, &found), flags & EXTERNAL != 0)? {
        return Ok(());
    }
    match found.recorded()? {
        Some(record) => place.context.wait_for(place.stream, &record),
        // An event that was never recorded is waited for by nobody.
        None => place.context.check(),
    }
}

pub unsafe fn cuStreamGetFlags(stream: CUstream, flags: *mut c_uint) -> Outcome {
    let place = place(stream as u64)?;
    // SAFETY: the caller's promise.
    unsafe { put(flags, place.flags) }
}

pub unsafe fn cuStreamGetPriority(stream: CUstream, priority: *mut c_int) -> Outcome {
    let place = place(stream as u64)?;
    let told = driver()?.stream_attributes.priority(&place);
    // SAFETY: the caller's promise.
    unsafe { put(priority, told) }
}

pub unsafe fn cuStreamGetAttribute(
    stream: CUstream,
    attribute: CUlaunchAttributeID,
    value: *mut CUlaunchAttributeValue,
) -> Outcome {
    let place = place(stream as u64)?;
    place.context.check()?;
    let told = driver()?.stream_attributes.get(&place, attribute)?;
    // SAFETY: the caller's promise.
    unsafe { put(value, told) }
}

pub unsafe fn cuStreamSetAttribute(
    stream: CUstream,
    attribute: CUlaunchAttributeID,
    value: *const CUlaunchAttributeValue,
) -> Outcome {
    let place = place(stream as u64)?;
    place.context.check()?;
    // SAFETY: the caller's promise.
    let value = unsafe { edge::take(value) }?;
    driver()?.stream_attributes.set(&place, attribute, value)
}

pub unsafe fn cuStreamCopyAttributes(to: CUstream, from: CUstream) -> Outcome {
    let (to, from) = (place(to as u64)?, place(from as u64)?);
    to.context.check()?;
    if to.context.id() != from.context.id() {
        return Err(Error::InvalidValue);
    }
    driver()?.stream_attributes.copy(&to, &from)
}

pub unsafe fn cuStreamGetCtx(stream: CUstream, context: *mut CUcontext) -> Outcome {
    let place = place(stream as u64)?;
    // SAFETY: the caller's promise.
    unsafe { put(context, place.context_handle as CUcontext) }
}

/// No stream belongs to a green context: there are none.
pub unsafe fn cuStreamGetCtx_v2(
    stream: CUstream,
    context: *mut CUcontext,
    green: *mut CUgreenCtx,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuStreamGetCtx(stream, context) }?;
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(green, std::ptr::null_mut()) };
    Ok(())
}

pub unsafe fn cuStreamGetId(stream: CUstream, id: *mut u64) -> Outcome {
    let place = place(stream as u64)?;
    // SAFETY: the caller's promise.
    unsafe { put(id, place.stream) }
}

/// A callback of the program's and its arguments, on their way to another thread.
struct Callback {
    function: unsafe extern "C" fn(CUstream, CUresult, *mut c_void),
    stream: CUstream,
    argument: *mut c_void,
}

// SAFETY: the Driver API calls callbacks on threads of the driver's; that the argument may be used there is
// the program's promise, and the stream is a handle.
unsafe impl Send for Callback {}

impl Callback {
    fn run(self, status: Result<(), Error>) {
        let status =
            status.map_or_else(|error| CUresult(error.code()), |()| CUresult::CUDA_SUCCESS);
        // SAFETY: the program's promise in giving the callback.
        unsafe { (self.function)(self.stream, status, self.argument) };
    }
}

/// Runs after an error too, and is told of it.
pub unsafe fn cuStreamAddCallback(
    stream: CUstream,
    callback: CUstreamCallback,
    argument: *mut c_void,
    flags: c_uint,
) -> Outcome {
    let place = place(stream as u64)?;
    let function = callback.ok_or(Error::InvalidValue)?;
    if flags != 0 {
        return Err(Error::InvalidValue);
    }
    // What cannot be done again and again is in no graph.
    capture::waits_for(&place)?;
    let callback = Callback {
        function,
        stream,
        argument,
    };
    place
        .context
        .submit_always(place.stream, move |status| callback.run(status))
}

pub unsafe fn cuStreamGetDevice(stream: CUstream, device: *mut CUdevice) -> Outcome {
    let place = place(stream as u64)?;
    // SAFETY: the caller's promise.
    unsafe { put(device, signed(place.context.device().ordinal)?) }
}
