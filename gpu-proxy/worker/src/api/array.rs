//! Arrays: paid for and zeroed before the client has a handle (D13).

#![forbid(unsafe_code)]

use cuda_abi::types::{CUarray, CUarray_format, CUresult, CopySide};
use idm_protocol::handle::Kind;
use idm_protocol::wire;
use proxy_channel::holdings::Holding;

use super::module::object;
use crate::driver::ArrayShape;
use crate::session::{Frame, Outcome, Session};

/// What a driver's heap rounds to, at least.
const GRAIN: u64 = 512;
/// Zeros that are written at a time.
const ZERO_BYTES: u64 = 1 << 20;
/// `CUDA_ARRAY3D_LAYERED` and `CUDA_ARRAY3D_CUBEMAP`: the depth is not halved from level to level.
const LAYERS: u32 = 1 | 4;
/// `CUDA_ARRAY3D_SPARSE` and `CUDA_ARRAY3D_DEFERRED_MAPPING`: memory that comes from elsewhere.
const UNBACKED: u32 = 0x40 | 0x80;
/// More levels than any array has.
const MOST_LEVELS: u32 = 32;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// An array.
pub fn cuArray3DCreate_v2(
    session: &Session,
    request: &wire::CuArray3DCreateV2,
    frame: &mut Frame<'_>,
) -> Outcome {
    session.check_free(Kind::ARRAY, request.array)?;
    let key = session.context(frame)?;
    let shape = ArrayShape {
        extent: [request.width, request.height, request.depth],
        format: request.format,
        channels: request.channels,
        flags: request.flags,
    };
    let bytes = bytes_of(&shape)?;
    session.charge(bytes)?;
    let driver = session.driver();
    let made = session.past_scrub(|| driver.create_array(&shape));
    let made = made.and_then(|array| {
        let zeroed = zero(session, frame, array, &shape, 0);
        if zeroed.is_err() {
            let _ = driver.destroy_array(array);
        }
        zeroed.map(|()| array)
    });
    keep(session, Kind::ARRAY, request.array, key.slot, bytes, made)
}

/// Binds what was made and paid for, or gives the money back.
fn keep(
    session: &Session,
    kind: Kind,
    handle: u64,
    context: u16,
    bytes: u64,
    made: Result<usize, CUresult>,
) -> Outcome {
    let array = made.inspect_err(|_| session.refund(bytes))?;
    session.arrays().charge(handle, context, bytes);
    session.parts.stats.hold(Holding::ARRAY, handle, bytes);
    session.publish_memory();
    session.bind_object(kind, handle, Ok(object(array, Some(context), 0)))
}

/// An array back.
pub fn cuArrayDestroy(
    session: &Session,
    request: &wire::CuArrayDestroy,
    _: &mut Frame<'_>,
) -> Outcome {
    if session.object(Kind::ARRAY, request.array)?.parent != 0 {
        // A level goes with its array.
        return Err(CUresult::CUDA_ERROR_INVALID_HANDLE.into());
    }
    let array = session.take_object(Kind::ARRAY, request.array)?;
    let destroyed = session.driver().destroy_array(array.pointer);
    let bytes = session.arrays().refund(request.array);
    session.parts.stats.give_back(Holding::ARRAY, request.array);
    session.refund(bytes);
    Ok(destroyed?)
}

/// A mipmapped array.
pub fn cuMipmappedArrayCreate(
    session: &Session,
    request: &wire::CuMipmappedArrayCreate,
    frame: &mut Frame<'_>,
) -> Outcome {
    session.check_free(Kind::MIPMAPPED_ARRAY, request.array)?;
    let key = session.context(frame)?;
    let shape = ArrayShape {
        extent: [request.width, request.height, request.depth],
        format: request.format,
        channels: request.channels,
        flags: request.flags,
    };
    if request.levels == 0 {
        return Err(INVALID.into());
    }
    // A driver makes no more levels than there can be.
    let levels = request.levels.min(level_count(&shape)).min(MOST_LEVELS);
    let mut bytes = 0u64;
    for level in 0..levels {
        let more = bytes_of(&level_of(&shape, level))?;
        bytes = bytes.checked_add(more).ok_or(INVALID)?;
    }
    session.charge(bytes)?;
    let driver = session.driver();
    let made = session.past_scrub(|| driver.create_mipmapped_array(&shape, levels));
    let made = made.and_then(|array| {
        let zeroed = (0..levels).try_for_each(|level| {
            let part = driver.array_level(array, level)?;
            zero(session, frame, part, &shape, level)
        });
        if zeroed.is_err() {
            let _ = driver.destroy_mipmapped_array(array);
        }
        zeroed.map(|()| array)
    });
    keep(
        session,
        Kind::MIPMAPPED_ARRAY,
        request.array,
        key.slot,
        bytes,
        made,
    )
}

/// A mipmapped array back, with its levels.
pub fn cuMipmappedArrayDestroy(
    session: &Session,
    request: &wire::CuMipmappedArrayDestroy,
    _: &mut Frame<'_>,
) -> Outcome {
    let array = session.take_object(Kind::MIPMAPPED_ARRAY, request.array)?;
    session.forget_levels(request.array);
    let destroyed = session.driver().destroy_mipmapped_array(array.pointer);
    let bytes = session.arrays().refund(request.array);
    session.parts.stats.give_back(Holding::ARRAY, request.array);
    session.refund(bytes);
    Ok(destroyed?)
}

/// A level, as an array that goes with the whole.
pub fn cuMipmappedArrayGetLevel(
    session: &Session,
    request: &wire::CuMipmappedArrayGetLevel,
    _: &mut Frame<'_>,
) -> Outcome {
    session.check_free(Kind::ARRAY, request.level_array)?;
    let whole = session.object(Kind::MIPMAPPED_ARRAY, request.array)?;
    let level = session.driver().array_level(whole.pointer, request.level)?;
    session.bind_object(
        Kind::ARRAY,
        request.level_array,
        Ok(object(level, whole.context, request.array)),
    )
}

/// What an array takes at least; an array that cannot be is refused before it is paid for.
fn bytes_of(shape: &ArrayShape) -> Result<u64, CUresult> {
    // What is no array is told before what is one that we do not make.
    let row = row_bytes(shape)?;
    if shape.flags & UNBACKED != 0 {
        return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
    let [width, height, depth] = shape.extent;
    row.checked_next_multiple_of(GRAIN)
        .and_then(|row| row.checked_mul(height.max(1)))
        .and_then(|plane| plane.checked_mul(depth.max(1)))
        .filter(|_| width > 0)
        .ok_or(INVALID)
}

/// Bytes of a row of texels.
pub(super) fn row_bytes(shape: &ArrayShape) -> Result<u64, CUresult> {
    use CUarray_format as F;
    let channel = match CUarray_format(shape.format) {
        F::CU_AD_FORMAT_UNSIGNED_INT8 | F::CU_AD_FORMAT_SIGNED_INT8 => 1,
        F::CU_AD_FORMAT_UNSIGNED_INT16 | F::CU_AD_FORMAT_SIGNED_INT16 | F::CU_AD_FORMAT_HALF => 2,
        F::CU_AD_FORMAT_UNSIGNED_INT32 | F::CU_AD_FORMAT_SIGNED_INT32 | F::CU_AD_FORMAT_FLOAT => 4,
        // Their size would have to be known to be paid for and zeroed.
        known if known.name().is_some() => return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
        _ => return Err(INVALID),
    };
    if !matches!(shape.channels, 1 | 2 | 4) {
        return Err(INVALID);
    }
    shape.extent[0]
        .checked_mul(channel * u64::from(shape.channels))
        .ok_or(INVALID)
}

/// Levels down to a single texel.
fn level_count(shape: &ArrayShape) -> u32 {
    let [width, height, depth] = shape.extent;
    let depth = if shape.flags & LAYERS == 0 { depth } else { 0 };
    u64::BITS - width.max(height).max(depth).max(1).leading_zeros()
}

fn level_of(shape: &ArrayShape, level: u32) -> ArrayShape {
    let half = |extent: u64| match extent {
        0 => 0,
        extent => (extent >> level.min(63)).max(1),
    };
    let [width, height, depth] = shape.extent;
    let depth = if shape.flags & LAYERS == 0 {
        half(depth)
    } else {
        depth
    };
    ArrayShape {
        extent: [half(width), half(height), depth],
        ..*shape
    }
}

/// On a stream that waits for none of the client's, and done before the client has a handle.
fn zero(
    session: &Session,
    frame: &Frame<'_>,
    array: usize,
    shape: &ArrayShape,
    level: u32,
) -> Result<(), CUresult> {
    let shape = level_of(shape, level);
    let key = session.context(frame)?;
    let driver = session.driver();
    let stream = session.contexts.private_stream(key, driver)?;
    let size = |n: u64| usize::try_from(n).map_err(|_| INVALID);
    let row = row_bytes(&shape)?;
    let (rows, planes) = (shape.extent[1].max(1), shape.extent[2].max(1));
    let at_once = (ZERO_BYTES / row.max(1)).clamp(1, rows);
    let zeros = vec![0u8; size(row * at_once)?];
    let from = CopySide {
        pitch: size(row)?,
        height: size(at_once)?,
        ..CopySide::host(zeros.as_ptr())
    };
    let mut copied = Ok(());
    'all: for plane in 0..planes {
        let mut first = 0;
        while first < rows {
            let count = at_once.min(rows - first);
            let to = CopySide::array(array as CUarray, [0, size(first)?, size(plane)?]);
            copied = driver.copy_box(&to, &from, [size(row)?, size(count)?, 1], stream);
            if copied.is_err() {
                break 'all;
            }
            first += count;
        }
    }
    // Also after an error: nothing may still be reading the zeros when they go.
    let waited = driver.synchronize_stream(stream);
    drop(zeros);
    copied.and(waited)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(extent: [u64; 3], flags: u32) -> ArrayShape {
        ArrayShape {
            extent,
            format: CUarray_format::CU_AD_FORMAT_FLOAT.0,
            channels: 4,
            flags,
        }
    }

    #[test]
    fn arrays_cost_their_rows_rounded_up_and_impossible_ones_nothing() {
        assert_eq!(bytes_of(&shape([10, 0, 0], 0)), Ok(512));
        assert_eq!(bytes_of(&shape([33, 3, 2], 0)), Ok(1024 * 6));
        assert_eq!(bytes_of(&shape([0, 3, 2], 0)), Err(INVALID));
        assert_eq!(bytes_of(&shape([u64::MAX, 3, 2], 0)), Err(INVALID));
        assert_eq!(
            bytes_of(&shape([1 << 30, 1 << 30, 1 << 30], 0)),
            Err(INVALID)
        );
        assert_eq!(
            bytes_of(&shape([8, 8, 0], 0x40)),
            Err(CUresult::CUDA_ERROR_NOT_SUPPORTED)
        );
    }

    #[test]
    fn levels_halve_extents_but_not_layers() {
        assert_eq!(level_count(&shape([16, 5, 0], 0)), 5);
        assert_eq!(level_of(&shape([16, 5, 7], 0), 2).extent, [4, 1, 1]);
        assert_eq!(level_of(&shape([16, 5, 7], 1), 2).extent, [4, 1, 7]);
        assert_eq!(level_of(&shape([16, 0, 0], 0), 4).extent, [1, 0, 0]);
    }
}
