//! Surface objects, as texture objects.

#![forbid(unsafe_code)]

use cuda_abi::types::{CUDA_RESOURCE_DESC, CUresourcetype, CUresult};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use super::texture::check_room;
use crate::session::{Frame, Outcome, Session};

/// A surface.
pub fn cuSurfObjectCreate(
    session: &Session,
    request: &wire::CuSurfObjectCreate,
    frame: &mut Frame<'_>,
) -> Outcome {
    let key = session.context(frame)?;
    let mut words = [0; 16];
    words[0] = session.object(Kind::ARRAY, request.array)?.pointer as u64;
    let resource = CUDA_RESOURCE_DESC {
        resType: CUresourcetype::CU_RESOURCE_TYPE_ARRAY,
        words,
        flags: request.flags,
    };
    check_room(session)?;
    let object = session.driver().create_surface(&resource)?;
    session.arrays().add(object, key.slot, false);
    frame.reply(&wire::CuSurfObjectCreateReply { object });
    Ok(())
}

/// A surface back.
pub fn cuSurfObjectDestroy(
    session: &Session,
    request: &wire::CuSurfObjectDestroy,
    frame: &mut Frame<'_>,
) -> Outcome {
    let key = session.context(frame)?;
    if !session.arrays().take(request.object, key.slot, false) {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE.into());
    }
    Ok(session.driver().destroy_surface(request.object)?)
}
