//! Texture objects: values that kernels consume, so they pass unchanged and are tracked by value (D12).

#![forbid(unsafe_code)]

use cuda_abi::types::{
    CUDA_RESOURCE_DESC, CUDA_RESOURCE_VIEW_DESC, CUDA_TEXTURE_DESC, CUaddress_mode, CUfilter_mode,
    CUresourceViewFormat, CUresourcetype, CUresult,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire;
use proxy_channel::bound::Bound;

use super::array::row_bytes;
use crate::driver::ArrayShape;
use crate::session::{Frame, Outcome, Refusal, Session};

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// A texture.
pub fn cuTexObjectCreate(
    session: &Session,
    request: &wire::CuTexObjectCreate,
    frame: &mut Frame<'_>,
) -> Outcome {
    let key = session.context(frame)?;
    let resource = resource(session, request)?;
    let texture = CUDA_TEXTURE_DESC {
        addressMode: [request.address_x, request.address_y, request.address_z].map(CUaddress_mode),
        filterMode: CUfilter_mode(request.filter),
        flags: request.flags,
        maxAnisotropy: request.anisotropy,
        mipmapFilterMode: CUfilter_mode(request.mip_filter),
        mipmapLevelBias: request.mip_bias,
        minMipmapLevelClamp: request.mip_least,
        maxMipmapLevelClamp: request.mip_most,
        borderColor: [
            request.border_r,
            request.border_g,
            request.border_b,
            request.border_a,
        ],
        reserved: [0; 12],
    };
    let size = |n: u64| usize::try_from(n).map_err(|_| INVALID);
    let view = CUDA_RESOURCE_VIEW_DESC {
        format: CUresourceViewFormat(request.view_format),
        width: size(request.view_width)?,
        height: size(request.view_height)?,
        depth: size(request.view_depth)?,
        firstMipmapLevel: request.first_level,
        lastMipmapLevel: request.last_level,
        firstLayer: request.first_layer,
        lastLayer: request.last_layer,
        reserved: [0; 16],
    };
    check_room(session)?;
    let view = (request.has_view != 0).then_some(&view);
    let object = session.driver().create_texture(&resource, &texture, view)?;
    session.arrays().add(object, key.slot, true);
    frame.reply(&wire::CuTexObjectCreateReply { object });
    Ok(())
}

/// A texture back.
pub fn cuTexObjectDestroy(
    session: &Session,
    request: &wire::CuTexObjectDestroy,
    frame: &mut Frame<'_>,
) -> Outcome {
    let key = session.context(frame)?;
    if !session.arrays().take(request.object, key.slot, true) {
        return Err(INVALID.into());
    }
    Ok(session.driver().destroy_texture(request.object)?)
}

pub(super) fn check_room(session: &Session) -> Result<(), CUresult> {
    if session.arrays().has_room() {
        Ok(())
    } else {
        Err(session.denied(Bound::OBJECTS, 1))
    }
}

/// The resource with the driver's array, or with memory that was checked.
fn resource(
    session: &Session,
    request: &wire::CuTexObjectCreate,
) -> Result<CUDA_RESOURCE_DESC, Refusal> {
    let mut words = [0; 16];
    let kind = CUresourcetype(request.kind);
    match kind {
        CUresourcetype::CU_RESOURCE_TYPE_ARRAY => {
            words[0] = session.object(Kind::ARRAY, request.resource)?.pointer as u64;
        }
        CUresourcetype::CU_RESOURCE_TYPE_MIPMAPPED_ARRAY => {
            let array = session.object(Kind::MIPMAPPED_ARRAY, request.resource)?;
            words[0] = array.pointer as u64;
        }
        CUresourcetype::CU_RESOURCE_TYPE_LINEAR => {
            session.check_device(request.resource, request.width)?;
            words[0] = request.resource;
            words[1] = format_word(request);
            words[2] = request.width;
        }
        CUresourcetype::CU_RESOURCE_TYPE_PITCH2D => {
            let row = row_bytes(&ArrayShape {
                extent: [request.width, request.height, 0],
                format: request.format,
                channels: request.channels,
                flags: 0,
            })?;
            if row > request.pitch {
                return Err(INVALID.into());
            }
            // The last row counts in full: rows of pitched memory were allocated so.
            let bytes = request.pitch.checked_mul(request.height).ok_or(INVALID)?;
            session.check_device(request.resource, bytes)?;
            words[0] = request.resource;
            words[1] = format_word(request);
            words[2] = request.width;
            words[3] = request.height;
            words[4] = request.pitch;
        }
        _ => return Err(INVALID.into()),
    }
    Ok(CUDA_RESOURCE_DESC {
        resType: kind,
        words,
        flags: request.resource_flags,
    })
}

fn format_word(request: &wire::CuTexObjectCreate) -> u64 {
    u64::from(request.channels) << 32 | u64::from(request.format)
}
