//! Streams.

#![forbid(unsafe_code)]

use cuda_abi::types::{CUlaunchAttributeID, CUresult};
use idm_protocol::handle::Kind;
use idm_protocol::record::Record;
use idm_protocol::wire;

use super::launch::attribute_value;
use crate::callbacks;
use crate::contexts::ContextKey;
use crate::session::{Frame, Outcome, Prepared, Session, Turn};

/// At its place in the ring: is there anything to wait for? If so, mark the place.
pub(crate) fn prepare_synchronize(session: &Session, record: &Record) -> Turn {
    if session.captures.any() {
        // The driver is to judge, in the lane's thread and mode.
        return Turn::Later(Prepared::Nothing);
    }
    match mark(session, record) {
        Ok(None) => Turn::Now(Ok(())),
        Ok(Some(prepared)) => Turn::Later(prepared),
        Err(status) => Turn::Now(Err(status.into())),
    }
}

fn mark(session: &Session, record: &Record) -> Result<Option<Prepared>, CUresult> {
    // A record without a body is caught where it is executed.
    let Ok(request) = record.body::<wire::CuStreamSynchronize>() else {
        return Ok(Some(Prepared::Nothing));
    };
    let (context, stream) = stream_at_dispatch(session, record, request.hStream)?;
    let driver = session.driver();
    match driver.query_stream(stream) {
        Ok(()) => {
            // A driver shows what kernels printed when something is synchronised, not when it is queried.
            // Events of ours that nobody uses are over; the stream may get new work from a lane's thread.
            let event = session.contexts.event(context, driver)?;
            let shown = driver.synchronize_event(event);
            session.contexts.recycle(context, event);
            return shown.map(|()| None);
        }
        Err(CUresult::CUDA_ERROR_NOT_READY) => {}
        Err(status) => return Err(status),
    }
    let event = session.contexts.event(context, driver)?;
    driver.record_event(event, stream)?;
    Ok(Some(Prepared::Event { event, context }))
}

/// The stream that a record names, and its context, which becomes current in this thread.
pub(super) fn stream_at_dispatch(
    session: &Session,
    record: &Record,
    stream: u64,
) -> Result<(ContextKey, usize), CUresult> {
    let head = record.head();
    let slot = head
        .context
        .checked_sub(1)
        .ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
    let context = session.contexts.key(slot)?;
    let driver = session.driver();
    session.contexts.enter(context, driver)?;
    let stream = match stream {
        2 => session.contexts.lane_stream(context, head.lane, driver)?,
        value @ (0 | 1) => usize::try_from(value).unwrap_or(0),
        value => session.object(Kind::STREAM, value)?.pointer,
    };
    Ok((context, stream))
}

/// Waits for what was on the stream at the record's place in the ring.
pub fn cuStreamSynchronize(
    session: &Session,
    request: &wire::CuStreamSynchronize,
    frame: &mut Frame<'_>,
) -> Outcome {
    match frame.prepared() {
        Prepared::Event { event, context } => {
            session.driver().synchronize_event(event)?;
            session.contexts.recycle(context, event);
            Ok(())
        }
        Prepared::Nothing | Prepared::Idle => {
            let stream = session.resolve(frame, Kind::STREAM, request.hStream)?;
            Ok(session.driver().synchronize_stream(stream)?)
        }
    }
}

/// Makes a stream wait for an event, with which it may come into a capture.
pub fn cuStreamWaitEvent(
    session: &Session,
    request: &wire::CuStreamWaitEvent,
    frame: &mut Frame<'_>,
) -> Outcome {
    let stream = session.resolve(frame, Kind::STREAM, request.hStream)?;
    let event = session.resolve(frame, Kind::EVENT, request.hEvent)?;
    let driver = session.driver();
    let open = session.captures.hold();
    if session.captures.any() {
        drop(open);
        let _closed = session.captures.close();
        return Ok(driver.wait_event(stream, event, request.Flags)?);
    }
    Ok(driver.wait_event(stream, event, request.Flags)?)
}

/// Tells an attribute of a stream.
pub fn cuStreamGetAttribute(
    session: &Session,
    request: &wire::CuStreamGetAttribute,
    frame: &mut Frame<'_>,
) -> Outcome {
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    let attribute = attribute(request.attribute)?;
    let value = session.driver().stream_attribute(stream, attribute)?;
    frame.reply(&value.bytes);
    Ok(())
}

/// Sets an attribute of a stream.
pub fn cuStreamSetAttribute(
    session: &Session,
    request: &wire::CuStreamSetAttribute,
    frame: &mut Frame<'_>,
) -> Outcome {
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    let attribute = attribute(request.attribute)?;
    let value = attribute_value::<wire::CuStreamSetAttribute>(frame)?;
    if attribute == CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW {
        // Where the window lies, and how long it is; one without length lies nowhere.
        let [start, length, ..] = value.bytes;
        if length != 0 {
            session.check_range(start, length)?;
        }
    }
    Ok(session
        .driver()
        .set_stream_attribute(stream, attribute, &value)?)
}

/// An attribute that streams have and whose value holds no handle.
fn attribute(number: u32) -> Result<CUlaunchAttributeID, CUresult> {
    use CUlaunchAttributeID as A;
    let attribute = A(number);
    matches!(
        attribute,
        A::CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW
            | A::CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY
            | A::CU_LAUNCH_ATTRIBUTE_PRIORITY
            | A::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP
            | A::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN
    )
    .then_some(attribute)
    .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
}

/// The client runs a function when the stream comes to it.
pub fn cuLaunchHostFunc(
    session: &Session,
    request: &wire::CuLaunchHostFunc,
    frame: &mut Frame<'_>,
) -> Outcome {
    let context = frame
        .context()
        .ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    callbacks::launch(
        session,
        context + 1,
        stream,
        request.callback,
        request.with_status != 0,
    )?;
    frame.issued_on(stream);
    Ok(())
}
