//! Events.

use std::ffi::c_uint;
use std::sync::Arc;

use cuda_abi::types::{CUcontext, CUevent, CUstream};
use softgpu_core::error::Error;
use softgpu_core::event::SharedEvent;

use crate::capture;
use crate::driver::{self, Event, driver, place};
use crate::edge::{self, Outcome, put};

const BLOCKING_SYNC: c_uint = 1;
pub(super) const DISABLE_TIMING: c_uint = 2;
pub(super) const INTERPROCESS: c_uint = 4;
/// The event is not the capture's: a graph records it, or waits for it, when it runs.
pub(super) const EXTERNAL: c_uint = 1;

pub unsafe fn cuEventCreate(event: *mut CUevent, flags: c_uint) -> Outcome {
    let context = driver::context()?;
    if event.is_null() || flags & !(BLOCKING_SYNC | DISABLE_TIMING | INTERPROCESS) != 0 {
        return Err(Error::InvalidValue);
    }
    let shared = match flags & (INTERPROCESS | DISABLE_TIMING) {
        // An event for other processes must not take the time.
        INTERPROCESS => return Err(Error::InvalidValue),
        flags if flags & INTERPROCESS != 0 => Some(SharedEvent::new(&context)?),
        _ => None,
    };
    let made = Arc::new(Event::new(context, flags, shared));
    let handle = driver()?.events.insert(made).ok_or(Error::OutOfMemory)?;
    // SAFETY: the caller's promise.
    unsafe { put(event, handle as CUevent) }
}

pub unsafe fn cuEventDestroy_v2(event: CUevent) -> Outcome {
    let gone = driver()?
        .events
        .remove(event as u64)
        .ok_or(Error::InvalidHandle)?;
    gone.context.check()
}

pub unsafe fn cuEventRecord(event: CUevent, stream: CUstream) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuEventRecordWithFlags(event, stream, 0) }
}

pub unsafe fn cuEventRecordWithFlags(event: CUevent, stream: CUstream, flags: c_uint) -> Outcome {
    let place = place(stream as u64)?;
    let found = find(event)?;
    if found.context.id() != place.context.id() {
        return Err(Error::InvalidHandle);
    }
    if flags & !EXTERNAL != 0 {
        return Err(Error::InvalidValue);
    }
    if capture::record(&place, (event as u64, &found), flags & EXTERNAL != 0)? {
        return Ok(());
    }
    found.record(&place.context, place.stream, &[]).map(drop)
}

/// Null is the current context, as in `cuCtxSynchronize_v2`.
pub unsafe fn cuCtxRecordEvent(context: CUcontext, event: CUevent) -> Outcome {
    let context = driver()?.context(context as u64)?;
    context.check()?;
    let found = find(event)?;
    if found.context.id() != context.id() {
        return Err(Error::InvalidHandle);
    }
    capture::waits_for_context(&context)?;
    found.record_all(&context)
}

/// Null is the current context, as in `cuCtxSynchronize_v2`.
pub unsafe fn cuCtxWaitEvent(context: CUcontext, event: CUevent) -> Outcome {
    let context = driver()?.context(context as u64)?;
    context.check()?;
    let found = find(event)?;
    capture::waits_for_context(&context)?;
    capture::waits_for_event(&found)?;
    match found.recorded()? {
        Some(record) => context.wait_for_in_all(&record),
        // An event that was never recorded is waited for by nobody.
        None => Ok(()),
    }
}

/// An event that was never recorded counts as done.
pub unsafe fn cuEventQuery(event: CUevent) -> Outcome {
    let event = find(event)?;
    event.context.check()?;
    event.check_not_captured()?;
    capture::unsafe_call()?;
    if !event.is_done() {
        return Err(Error::NotReady);
    }
    event.context.check()
}

pub unsafe fn cuEventSynchronize(event: CUevent) -> Outcome {
    let event = find(event)?;
    event.context.check()?;
    event.check_not_captured()?;
    capture::unsafe_call()?;
    match event.recorded()? {
        Some(record) => record.wait(event.context.gpu()),
        None => event.context.gpu().synchronized(),
    }
    edge::print(&event.context.take_output());
    event.context.check()
}

pub unsafe fn cuEventElapsedTime(milliseconds: *mut f32, start: CUevent, end: CUevent) -> Outcome {
    driver()?;
    edge::require(milliseconds)?;
    let (start, end) = (find(start)?, find(end)?);
    start.context.check()?;
    start.check_not_captured()?;
    end.check_not_captured()?;
    if (start.flags | end.flags) & DISABLE_TIMING != 0 || start.context.id() != end.context.id() {
        return Err(Error::InvalidHandle);
    }
    let time = |event: &Event| {
        let record = event.recorded()?.ok_or(Error::InvalidHandle)?;
        record.nanoseconds().ok_or(Error::NotReady)
    };
    let (start, end) = (time(&start)?, time(&end)?);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a float is what the call returns"
    )]
    let elapsed = if end >= start {
        (end - start) as f64
    } else {
        -((start - end) as f64)
    };
    #[expect(clippy::cast_possible_truncation, reason = "as above")]
    let elapsed = (elapsed / 1e6) as f32;
    // SAFETY: the caller's promise.
    unsafe { put(milliseconds, elapsed) }
}

pub unsafe fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    start: CUevent,
    end: CUevent,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuEventElapsedTime(milliseconds, start, end) }
}

pub(super) fn find(event: CUevent) -> Result<Arc<Event>, Error> {
    driver()?
        .events
        .get(event as u64)
        .ok_or(Error::InvalidHandle)
}
