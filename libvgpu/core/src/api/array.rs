//! Arrays and mipmapped arrays. What they are like is kept here.

use std::ffi::c_uint;

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUDA_ARRAY_DESCRIPTOR, CUDA_ARRAY3D_CUBEMAP, CUDA_ARRAY3D_DESCRIPTOR, CUDA_ARRAY3D_LAYERED,
    CUarray, CUarray_format, CUmipmappedArray, CUresult,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use crate::call::{Call, Outcome};
use crate::edge;
use crate::objects::{self, Array, Detail};
use crate::session::Session;
use crate::state;

pub unsafe fn cuArray3DCreate_v2(
    pHandle: *mut CUarray,
    pAllocateArray: *const CUDA_ARRAY3D_DESCRIPTOR,
) -> Outcome {
    let call = Call::begin(Function::cuArray3DCreate_v2)?;
    edge::require(pHandle)?;
    // SAFETY: the caller's promise.
    let descriptor = unsafe { edge::take(pAllocateArray) }?;
    let handle = create(call, descriptor)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pHandle, handle as CUarray) }
}

pub unsafe fn cuArrayCreate_v2(
    pHandle: *mut CUarray,
    pAllocateArray: *const CUDA_ARRAY_DESCRIPTOR,
) -> Outcome {
    let call = Call::begin(Function::cuArrayCreate_v2)?;
    edge::require(pHandle)?;
    // SAFETY: the caller's promise.
    let flat = unsafe { edge::take(pAllocateArray) }?;
    let descriptor = CUDA_ARRAY3D_DESCRIPTOR {
        Width: flat.Width,
        Height: flat.Height,
        Depth: 0,
        Format: flat.Format,
        NumChannels: flat.NumChannels,
        Flags: 0,
    };
    let handle = create(call, descriptor)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pHandle, handle as CUarray) }
}

fn create(mut call: Call, descriptor: CUDA_ARRAY3D_DESCRIPTOR) -> Outcome<u64> {
    let detail = Detail::Array(Array {
        descriptor,
        level_of: (0, 0),
    });
    let handle = call.mint_with(Kind::ARRAY, call.context_handle(), detail)?;
    call.complete(&wire::CuArray3DCreateV2 {
        array: handle.value(),
        width: descriptor.Width as u64,
        height: descriptor.Height as u64,
        depth: descriptor.Depth as u64,
        format: descriptor.Format.0,
        channels: descriptor.NumChannels,
        flags: descriptor.Flags,
        reserved: 0,
    })?;
    call.keep(Kind::ARRAY, handle);
    Ok(handle.value())
}

pub unsafe fn cuArrayDestroy(hArray: CUarray) -> Outcome {
    let mut call = Call::begin_on_object(Function::cuArrayDestroy, Kind::ARRAY, hArray as u64)?;
    let array = call.handle(Kind::ARRAY, hArray as u64)?;
    call.complete(&wire::CuArrayDestroy { array })?;
    call.retire(Kind::ARRAY, array);
    Ok(())
}

pub unsafe fn cuArrayGetDescriptor_v2(
    pArrayDescriptor: *mut CUDA_ARRAY_DESCRIPTOR,
    hArray: CUarray,
) -> Outcome {
    let full = known(state::ready()?, Kind::ARRAY, hArray as u64)?.descriptor;
    let flat = CUDA_ARRAY_DESCRIPTOR {
        Width: full.Width,
        Height: full.Height,
        Format: full.Format,
        NumChannels: full.NumChannels,
    };
    // SAFETY: the caller's promise.
    unsafe { edge::put(pArrayDescriptor, flat) }
}

pub unsafe fn cuArray3DGetDescriptor_v2(
    pArrayDescriptor: *mut CUDA_ARRAY3D_DESCRIPTOR,
    hArray: CUarray,
) -> Outcome {
    let known = known(state::ready()?, Kind::ARRAY, hArray as u64)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pArrayDescriptor, known.descriptor) }
}

pub unsafe fn cuMipmappedArrayCreate(
    pHandle: *mut CUmipmappedArray,
    pMipmappedArrayDesc: *const CUDA_ARRAY3D_DESCRIPTOR,
    numMipmapLevels: c_uint,
) -> Outcome {
    let mut call = Call::begin(Function::cuMipmappedArrayCreate)?;
    edge::require(pHandle)?;
    // SAFETY: the caller's promise.
    let descriptor = unsafe { edge::take(pMipmappedArrayDesc) }?;
    let detail = Detail::Array(Array {
        descriptor,
        level_of: (0, 0),
    });
    let handle = call.mint_with(Kind::MIPMAPPED_ARRAY, call.context_handle(), detail)?;
    call.complete(&wire::CuMipmappedArrayCreate {
        array: handle.value(),
        width: descriptor.Width as u64,
        height: descriptor.Height as u64,
        depth: descriptor.Depth as u64,
        format: descriptor.Format.0,
        channels: descriptor.NumChannels,
        flags: descriptor.Flags,
        levels: numMipmapLevels,
    })?;
    call.keep(Kind::MIPMAPPED_ARRAY, handle);
    // SAFETY: the caller's promise.
    unsafe { edge::put(pHandle, handle.value() as CUmipmappedArray) }
}

pub unsafe fn cuMipmappedArrayDestroy(hMipmappedArray: CUmipmappedArray) -> Outcome {
    let mut call = Call::begin_on_object(
        Function::cuMipmappedArrayDestroy,
        Kind::MIPMAPPED_ARRAY,
        hMipmappedArray as u64,
    )?;
    let array = call.handle(Kind::MIPMAPPED_ARRAY, hMipmappedArray as u64)?;
    call.complete(&wire::CuMipmappedArrayDestroy { array })?;
    call.retire(Kind::MIPMAPPED_ARRAY, array);
    let mut objects = call.session.objects_mut();
    let levels: Vec<_> = objects
        .iter(Kind::ARRAY)
        .filter(|(_, object)| level_of(&object.detail).is_some_and(|(owner, _)| owner == array))
        .map(|(handle, _)| handle)
        .collect();
    for level in levels {
        let _ = objects.remove(level.value(), Kind::ARRAY);
    }
    Ok(())
}

pub unsafe fn cuMipmappedArrayGetLevel(
    pLevelArray: *mut CUarray,
    hMipmappedArray: CUmipmappedArray,
    level: c_uint,
) -> Outcome {
    let mut call = Call::begin_on_object(
        Function::cuMipmappedArrayGetLevel,
        Kind::MIPMAPPED_ARRAY,
        hMipmappedArray as u64,
    )?;
    edge::require(pLevelArray)?;
    let array = call.handle(Kind::MIPMAPPED_ARRAY, hMipmappedArray as u64)?;
    let whole = known(call.session, Kind::MIPMAPPED_ARRAY, array)?;
    // Asked for twice, a level is the same array.
    let same = call
        .session
        .objects()
        .iter(Kind::ARRAY)
        .find(|(_, object)| level_of(&object.detail) == Some((array, level)))
        .map(|(handle, _)| handle.value());
    let handle = match same {
        Some(same) => same,
        None => {
            let detail = Detail::Array(Array {
                descriptor: halved(whole.descriptor, level),
                level_of: (array, level),
            });
            let handle = call.mint_with(Kind::ARRAY, call.context_handle(), detail)?;
            call.complete(&wire::CuMipmappedArrayGetLevel {
                level_array: handle.value(),
                array,
                level,
                reserved: 0,
            })?;
            call.keep(Kind::ARRAY, handle);
            handle.value()
        }
    };
    // SAFETY: the caller's promise.
    unsafe { edge::put(pLevelArray, handle as CUarray) }
}

/// What is known about an array.
fn known(session: &Session, kind: Kind, handle: u64) -> Outcome<Array> {
    let objects = session.objects();
    let object = objects
        .resolve(handle, kind)
        .map_err(|error| objects::refusal(kind, &error))?;
    match object.1.detail {
        Detail::Array(array) => Ok(array),
        _ => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
    }
}

/// Checks that an array holds all of a box, `extent[0]` and `at[0]` in bytes.
pub(super) fn holds(session: &Session, handle: u64, at: [usize; 3], extent: [usize; 3]) -> Outcome {
    let what = known(session, Kind::ARRAY, handle)?.descriptor;
    let channels = usize::try_from(what.NumChannels).unwrap_or(usize::MAX);
    let width = texel_bytes(what.Format)
        .saturating_mul(channels)
        .saturating_mul(what.Width);
    let size = [width, what.Height.max(1), what.Depth.max(1)];
    let inside = at
        .iter()
        .zip(extent)
        .zip(size)
        .all(|((at, extent), size)| at.checked_add(extent).is_some_and(|end| end <= size));
    inside
        .then_some(())
        .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
}

/// Bytes of one channel; the worker makes no array of another format.
fn texel_bytes(format: CUarray_format) -> usize {
    use CUarray_format as F;
    match format {
        F::CU_AD_FORMAT_UNSIGNED_INT8 | F::CU_AD_FORMAT_SIGNED_INT8 => 1,
        F::CU_AD_FORMAT_UNSIGNED_INT16 | F::CU_AD_FORMAT_SIGNED_INT16 | F::CU_AD_FORMAT_HALF => 2,
        _ => 4,
    }
}

fn level_of(detail: &Detail) -> Option<(u64, u32)> {
    match detail {
        Detail::Array(array) => Some(array.level_of),
        _ => None,
    }
}

fn halved(whole: CUDA_ARRAY3D_DESCRIPTOR, level: u32) -> CUDA_ARRAY3D_DESCRIPTOR {
    let half = |extent: usize| match extent {
        0 => 0,
        extent => extent.checked_shr(level).unwrap_or(0).max(1),
    };
    let layers = whole.Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP) != 0;
    CUDA_ARRAY3D_DESCRIPTOR {
        Width: half(whole.Width),
        Height: half(whole.Height),
        Depth: if layers {
            whole.Depth
        } else {
            half(whole.Depth)
        },
        ..whole
    }
}
