//! Events of whole contexts. Those of streams are generated.

#![forbid(unsafe_code)]

use idm_protocol::handle::Kind;
use idm_protocol::wire;

use crate::session::{Frame, Outcome, Session};

/// Records an event behind all work of a context.
pub fn cuCtxRecordEvent(
    session: &Session,
    request: &wire::CuCtxRecordEvent,
    frame: &mut Frame<'_>,
) -> Outcome {
    let context = session.contexts.pointer(session.context(frame)?)?;
    let event = session.resolve(frame, Kind::EVENT, request.event)?;
    Ok(session.driver().record_context_event(context, event)?)
}

/// Makes what is submitted to a context from now on wait for an event. That includes what we submit there
/// ourselves.
pub fn cuCtxWaitEvent(
    session: &Session,
    request: &wire::CuCtxWaitEvent,
    frame: &mut Frame<'_>,
) -> Outcome {
    let context = session.contexts.pointer(session.context(frame)?)?;
    let event = session.resolve(frame, Kind::EVENT, request.event)?;
    Ok(session.driver().wait_context_event(context, event)?)
}
