//! Texture objects. Their values are the driver's, because kernels consume them; what they were made with is
//! kept here.

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUDA_RESOURCE_DESC, CUDA_RESOURCE_VIEW_DESC, CUDA_TEXTURE_DESC, CUresourcetype, CUresult,
    CUtexObject,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use crate::call::{Call, Outcome};
use crate::edge;
use crate::session::Session;
use crate::state;

/// What a texture or surface object was made with.
#[derive(Clone, Copy, Debug)]
pub struct ImageObject {
    /// Array or memory, as the program names it.
    pub resource: CUDA_RESOURCE_DESC,
    /// None for a surface.
    pub texture: Option<CUDA_TEXTURE_DESC>,
    /// Part of the resource.
    pub view: Option<CUDA_RESOURCE_VIEW_DESC>,
}

pub unsafe fn cuTexObjectCreate(
    pTexObject: *mut CUtexObject,
    pResDesc: *const CUDA_RESOURCE_DESC,
    pTexDesc: *const CUDA_TEXTURE_DESC,
    pResViewDesc: *const CUDA_RESOURCE_VIEW_DESC,
) -> Outcome {
    let mut call = Call::begin(Function::cuTexObjectCreate)?;
    edge::require(pTexObject)?;
    edge::require(pResDesc)?;
    edge::require(pTexDesc)?;
    // SAFETY: not null, so readable by the caller's promise.
    let resource = unsafe { pResDesc.read_unaligned() };
    // SAFETY: as above.
    let texture = unsafe { pTexDesc.read_unaligned() };
    let view = if pResViewDesc.is_null() {
        None
    } else {
        // SAFETY: as above.
        Some(unsafe { pResViewDesc.read_unaligned() })
    };
    let memory = resource.memory();
    match resource.resType {
        CUresourcetype::CU_RESOURCE_TYPE_ARRAY => {
            call.handle(Kind::ARRAY, resource.words[0])?;
        }
        CUresourcetype::CU_RESOURCE_TYPE_MIPMAPPED_ARRAY => {
            call.handle(Kind::MIPMAPPED_ARRAY, resource.words[0])?;
        }
        CUresourcetype::CU_RESOURCE_TYPE_LINEAR => {
            call.device_range(memory.devPtr, memory.width)?
        }
        CUresourcetype::CU_RESOURCE_TYPE_PITCH2D => {
            let bytes = memory.pitchInBytes.checked_mul(memory.height);
            let bytes = bytes.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
            call.device_range(memory.devPtr, bytes)?;
        }
        _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    }
    let [address_x, address_y, address_z] = texture.addressMode.map(|mode| mode.0);
    let [border_r, border_g, border_b, border_a] = texture.borderColor;
    let request = wire::CuTexObjectCreate {
        resource: resource.words[0],
        width: memory.width,
        height: memory.height,
        pitch: memory.pitchInBytes,
        view_width: view.map_or(0, |view| view.width as u64),
        view_height: view.map_or(0, |view| view.height as u64),
        view_depth: view.map_or(0, |view| view.depth as u64),
        kind: resource.resType.0,
        format: memory.format.0,
        channels: memory.numChannels,
        resource_flags: resource.flags,
        address_x,
        address_y,
        address_z,
        filter: texture.filterMode.0,
        flags: texture.flags,
        anisotropy: texture.maxAnisotropy,
        mip_filter: texture.mipmapFilterMode.0,
        mip_bias: texture.mipmapLevelBias,
        mip_least: texture.minMipmapLevelClamp,
        mip_most: texture.maxMipmapLevelClamp,
        border_r,
        border_g,
        border_b,
        border_a,
        has_view: u32::from(view.is_some()),
        view_format: view.map_or(0, |view| view.format.0),
        first_level: view.map_or(0, |view| view.firstMipmapLevel),
        last_level: view.map_or(0, |view| view.lastMipmapLevel),
        first_layer: view.map_or(0, |view| view.firstLayer),
        last_layer: view.map_or(0, |view| view.lastLayer),
    };
    let reply: wire::CuTexObjectCreateReply = call.round_trip(&request)?;
    let object = ImageObject {
        resource,
        texture: Some(texture),
        view,
    };
    call.session.keep_image(reply.object, object);
    // SAFETY: the caller's promise.
    unsafe { edge::put(pTexObject, reply.object) }?;
    call.deliver()
}

pub unsafe fn cuTexObjectDestroy(texObject: CUtexObject) -> Outcome {
    let mut call = Call::begin(Function::cuTexObjectDestroy)?;
    known(call.session, texObject, true)?;
    call.complete(&wire::CuTexObjectDestroy { object: texObject })?;
    call.session.forget_image(texObject);
    Ok(())
}

pub unsafe fn cuTexObjectGetResourceDesc(
    pResDesc: *mut CUDA_RESOURCE_DESC,
    texObject: CUtexObject,
) -> Outcome {
    let object = known(state::ready()?, texObject, true)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pResDesc, object.resource) }
}

pub unsafe fn cuTexObjectGetTextureDesc(
    pTexDesc: *mut CUDA_TEXTURE_DESC,
    texObject: CUtexObject,
) -> Outcome {
    let object = known(state::ready()?, texObject, true)?;
    let texture = object.texture.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pTexDesc, texture) }
}

pub unsafe fn cuTexObjectGetResourceViewDesc(
    pResViewDesc: *mut CUDA_RESOURCE_VIEW_DESC,
    texObject: CUtexObject,
) -> Outcome {
    let object = known(state::ready()?, texObject, true)?;
    let view = object.view.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pResViewDesc, view) }
}

/// What an object was made with.
pub(super) fn known(session: &Session, object: u64, texture: bool) -> Outcome<ImageObject> {
    session
        .image(object)
        .filter(|known| known.texture.is_some() == texture)
        .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
}
