//! User objects. The driver takes it on trust that nobody gives up a reference that he does not hold; so the
//! client's are counted here.

#![forbid(unsafe_code)]

use cuda_abi::types::CUresult;
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use crate::callbacks;
use crate::session::{Frame, Outcome, Session};

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// `CU_GRAPH_USER_OBJECT_MOVE`.
const MOVE: u32 = 1;

/// An object whose end the client's callback thread is told of.
pub fn cuUserObjectCreate(
    session: &Session,
    request: &wire::CuUserObjectCreate,
    frame: &mut Frame<'_>,
) -> Outcome {
    let ended = session.execs().take_ended();
    for object in ended {
        // Their slots are free, and the client may use them again.
        let _ = session.take_object(Kind::USER_OBJECT, object);
    }
    session.check_free(Kind::USER_OBJECT, request.object)?;
    if request.count == 0 {
        return Err(INVALID.into());
    }
    let context = frame.context().map_or(0, |slot| slot + 1);
    let data = callbacks::destructor(session, context, request.callback);
    let driver = session.driver();
    let made = match driver.create_user_object(&data, request.count, request.flags) {
        Ok(made) => made,
        Err(status) => {
            data.cancel();
            return Err(status.into());
        }
    };
    let number = data.number();
    session
        .execs()
        .own(request.object, number, request.count.into());
    let success = CUresult::CUDA_SUCCESS;
    session.bind(frame, Kind::USER_OBJECT, request.object, made, success)
}

/// The driver's object, if it has not ended.
fn alive(session: &Session, frame: &Frame<'_>, object: u64) -> Result<usize, CUresult> {
    let number = session.execs().number(object).ok_or(INVALID)?;
    if !callbacks::is_waiting(number) {
        return Err(INVALID);
    }
    session
        .resolve(frame, Kind::USER_OBJECT, object)
        .map_err(|_| INVALID)
}

/// More references for the client.
pub fn cuUserObjectRetain(
    session: &Session,
    request: &wire::CuUserObjectRetain,
    frame: &mut Frame<'_>,
) -> Outcome {
    let object = alive(session, frame, request.object)?;
    session.driver().retain_user_object(object, request.count)?;
    session
        .execs()
        .own_more(request.object, request.count.into());
    Ok(())
}

/// References of the client's given up; with the last one anywhere the object ends.
pub fn cuUserObjectRelease(
    session: &Session,
    request: &wire::CuUserObjectRelease,
    frame: &mut Frame<'_>,
) -> Outcome {
    let object = alive(session, frame, request.object)?;
    session
        .execs()
        .own_fewer(request.object, request.count.into())?;
    Ok(session
        .driver()
        .release_user_object(object, request.count)?)
}

/// References for a graph, or the client's moved there.
pub fn cuGraphRetainUserObject(
    session: &Session,
    request: &wire::CuGraphRetainUserObject,
    frame: &mut Frame<'_>,
) -> Outcome {
    let graph = session.resolve(frame, Kind::GRAPH, request.graph)?;
    let object = alive(session, frame, request.object)?;
    let count = request.count;
    if request.flags & !MOVE != 0 || count == 0 {
        return Err(INVALID.into());
    }
    let moves = request.flags & MOVE != 0;
    if moves {
        session.execs().own_fewer(request.object, count.into())?;
    }
    let driver = session.driver();
    if let Err(status) = driver.tie_user_object(graph, object, count, request.flags) {
        if moves {
            session.execs().own_more(request.object, count.into());
        }
        return Err(status.into());
    }
    session.graphs().hold(request.graph, request.object, count);
    Ok(())
}

/// References that a graph gives up.
pub fn cuGraphReleaseUserObject(
    session: &Session,
    request: &wire::CuGraphReleaseUserObject,
    frame: &mut Frame<'_>,
) -> Outcome {
    let graph = session.resolve(frame, Kind::GRAPH, request.graph)?;
    let object = alive(session, frame, request.object)?;
    let held = session
        .graphs()
        .release(request.graph, request.object, request.count);
    if !held {
        return Err(INVALID.into());
    }
    Ok(session
        .driver()
        .untie_user_object(graph, object, request.count)?)
}
