//! Copies of boxes between linear memory and arrays. Every byte of linear memory that a copy touches is
//! checked; arrays are the driver's to check.

#![forbid(unsafe_code)]

use cuda_abi::types::{CUarray, CUmemorytype, CUresult, CopySide};
use idm_protocol::handle::Kind;
use idm_protocol::wire::{self, box_kind};

use crate::session::{Frame, Outcome, Refusal, Session};

/// Most bytes that come back at once.
const MOST_DOWN: u64 = 2 << 30;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// One side, as a record names it.
pub(super) struct Side {
    pub(super) kind: u32,
    pub(super) place: u64,
    pub(super) at: [u64; 3],
    pub(super) pitch: u64,
    pub(super) height: u64,
}

/// Copies a box.
pub fn vgpuCopyBox(
    session: &Session,
    request: &wire::VgpuCopyBox,
    frame: &mut Frame<'_>,
) -> Outcome {
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    let extent = [request.width, request.height, request.depth];
    if extent.contains(&0) {
        return Err(INVALID.into());
    }
    let to = Side {
        kind: request.to_kind,
        place: request.to,
        at: [request.to_x, request.to_y, request.to_z],
        pitch: request.to_pitch,
        height: request.to_height,
    };
    let from = Side {
        kind: request.from_kind,
        place: request.from,
        at: [request.from_x, request.from_y, request.from_z],
        pitch: request.from_pitch,
        height: request.from_height,
    };
    let lane = frame.lane().index();
    let total = extent
        .iter()
        .try_fold(1u64, |product, n| product.checked_mul(*n))
        .ok_or(INVALID)?;
    // Both live until the stream has been waited for.
    let mut down = Vec::new();
    let up;
    let from = if from.kind == box_kind::UPLOAD {
        up = session.take_upload(lane, from.place)?;
        if up.len() as u64 != total {
            return Err(INVALID.into());
        }
        packed(up.as_ptr().expose_provenance() as u64, extent)?
    } else {
        corner(session, &from, extent)?
    };
    let downwards = to.kind == box_kind::DOWNLOAD;
    let to = if downwards {
        if total > MOST_DOWN.saturating_sub(session.uploaded_by_others(lane)) {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY.into());
        }
        down.resize(size(total)?, 0);
        packed(down.as_mut_ptr().expose_provenance() as u64, extent)?
    } else {
        corner(session, &to, extent)?
    };
    let [width, height, depth] = extent;
    let extent = [size(width)?, size(height)?, size(depth)?];
    let driver = session.driver();
    let private = downwards || request.from_kind == box_kind::UPLOAD;
    let gate = match private {
        true => Some(super::memory::private(session, stream)?),
        false => None,
    };
    let copied = driver.copy_box(&to, &from, extent, stream);
    drop(gate);
    let waited = if private || request.wait != 0 {
        // Also after an error: nothing may still be at private bytes when they go.
        driver.synchronize_stream(stream)
    } else {
        Ok(())
    };
    copied.and(waited)?;
    if downwards {
        session.keep_download(lane, down);
    }
    Ok(())
}

/// Hands out a piece of the lane's download.
pub fn vgpuReadDown(
    session: &Session,
    request: &wire::VgpuReadDown,
    frame: &mut Frame<'_>,
) -> Outcome {
    let piece = session.download(frame.lane().index(), request.offset, request.bytes)?;
    frame.reply_aside(0, &piece)
}

/// Rows one after the other in memory of ours.
fn packed(address: u64, [width, height, _]: [u64; 3]) -> Result<CopySide, CUresult> {
    Ok(CopySide {
        kind: CUmemorytype::CU_MEMORYTYPE_HOST,
        place: address,
        at: [0; 3],
        pitch: size(width)?,
        height: size(height)?,
    })
}

pub(super) fn corner(
    session: &Session,
    side: &Side,
    extent: [u64; 3],
) -> Result<CopySide, Refusal> {
    let [x, y, z] = side.at;
    let at = [size(x)?, size(y)?, size(z)?];
    let kind = match side.kind {
        box_kind::ARRAY => {
            let array = session.object(Kind::ARRAY, side.place)?.pointer;
            return Ok(CopySide::array(array as CUarray, at));
        }
        box_kind::DEVICE => CUmemorytype::CU_MEMORYTYPE_DEVICE,
        box_kind::PINNED => CUmemorytype::CU_MEMORYTYPE_HOST,
        _ => return Err(INVALID.into()),
    };
    let (offset, length) = touched(side, extent).ok_or(INVALID)?;
    let start = side.place.checked_add(offset).ok_or(INVALID)?;
    let range = session.check_range(start, length)?;
    if range.is_device() != (side.kind == box_kind::DEVICE) {
        return Err(INVALID.into());
    }
    // The driver gets what was checked, and no offset to count in another way.
    Ok(CopySide {
        kind,
        place: start,
        at: [0; 3],
        pitch: size(side.pitch)?,
        height: size(side.height)?,
    })
}

/// Where the first byte that a copy touches lies, and how far it is to the last.
fn touched(side: &Side, [width, height, depth]: [u64; 3]) -> Option<(u64, u64)> {
    let [x, y, z] = side.at;
    let several = height > 1 || depth > 1;
    if (several && side.pitch < x.checked_add(width)?)
        || (depth > 1 && side.height < y.checked_add(height)?)
    {
        return None;
    }
    let slice = side.pitch.checked_mul(side.height)?;
    let offset = z
        .checked_mul(slice)?
        .checked_add(y.checked_mul(side.pitch)?)?
        .checked_add(x)?;
    let length = (depth - 1)
        .checked_mul(slice)?
        .checked_add((height - 1).checked_mul(side.pitch)?)?
        .checked_add(width)?;
    Some((offset, length))
}

pub(super) fn size(n: u64) -> Result<usize, CUresult> {
    usize::try_from(n).map_err(|_| INVALID)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(at: [u64; 3], pitch: u64, height: u64) -> Side {
        Side {
            kind: box_kind::DEVICE,
            place: 0,
            at,
            pitch,
            height,
        }
    }

    #[test]
    fn touched_bytes_reach_from_the_first_row_to_the_last() {
        assert_eq!(touched(&side([0; 3], 10, 4), [10, 4, 2]), Some((0, 80)));
        assert_eq!(touched(&side([2, 1, 1], 10, 4), [3, 2, 1]), Some((52, 13)));
        assert_eq!(touched(&side([0; 3], 0, 0), [10, 1, 1]), Some((0, 10)));
    }

    #[test]
    fn rows_that_overlap_and_sums_that_wrap_are_refused() {
        assert_eq!(touched(&side([0; 3], 9, 4), [10, 4, 1]), None);
        assert_eq!(touched(&side([0; 3], 10, 3), [10, 4, 2]), None);
        assert_eq!(touched(&side([0; 3], u64::MAX, 4), [10, 4, 2]), None);
        assert_eq!(touched(&side([u64::MAX, 0, 0], 10, 4), [10, 4, 2]), None);
        assert_eq!(touched(&side([0, 0, u64::MAX], 10, 4), [10, 4, 2]), None);
    }
}
