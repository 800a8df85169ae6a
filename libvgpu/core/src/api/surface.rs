//! Surface objects, as texture objects.

use cuda_abi::function::Function;
use cuda_abi::types::{CUDA_RESOURCE_DESC, CUresourcetype, CUresult, CUsurfObject};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use super::texture::{ImageObject, known};
use crate::call::{Call, Outcome};
use crate::edge;
use crate::state;

pub unsafe fn cuSurfObjectCreate(
    pSurfObject: *mut CUsurfObject,
    pResDesc: *const CUDA_RESOURCE_DESC,
) -> Outcome {
    let mut call = Call::begin(Function::cuSurfObjectCreate)?;
    edge::require(pSurfObject)?;
    // SAFETY: the caller's promise.
    let resource = unsafe { edge::take(pResDesc) }?;
    if resource.resType != CUresourcetype::CU_RESOURCE_TYPE_ARRAY {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let array = call.handle(Kind::ARRAY, resource.words[0])?;
    let request = wire::CuSurfObjectCreate {
        array,
        flags: resource.flags,
        reserved: 0,
    };
    let reply: wire::CuSurfObjectCreateReply = call.round_trip(&request)?;
    let object = ImageObject {
        resource,
        texture: None,
        view: None,
    };
    call.session.keep_image(reply.object, object);
    // SAFETY: the caller's promise.
    unsafe { edge::put(pSurfObject, reply.object) }?;
    call.deliver()
}

pub unsafe fn cuSurfObjectDestroy(surfObject: CUsurfObject) -> Outcome {
    let mut call = Call::begin(Function::cuSurfObjectDestroy)?;
    known(call.session, surfObject, false)?;
    call.complete(&wire::CuSurfObjectDestroy { object: surfObject })?;
    call.session.forget_image(surfObject);
    Ok(())
}

pub unsafe fn cuSurfObjectGetResourceDesc(
    pResDesc: *mut CUDA_RESOURCE_DESC,
    surfObject: CUsurfObject,
) -> Outcome {
    let object = known(state::ready()?, surfObject, false)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pResDesc, object.resource) }
}
