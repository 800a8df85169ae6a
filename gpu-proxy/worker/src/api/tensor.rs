//! Tensor maps: values that the driver computes and kernels use.
//!
//! Where a tensor lies and how far it reaches is not checked against what the client holds. The driver only
//! writes the numbers down; what uses them is a kernel, which may as well take an address from an argument or
//! change the map itself, and reaches no more than the worker's own context, where nobody else's memory is. A
//! check would protect nothing and refuse programs that the driver serves: grouped kernels of CUTLASS encode null
//! and replace it on the device, ragged tensors of Triton have extents that no memory has.

#![forbid(unsafe_code)]

use cuda_abi::types::{CUresult, CUtensorMapDataType as Type, TENSOR_MAP_RANK};
use idm_protocol::wire;
use zerocopy::FromBytes;

use crate::driver::{Pixels, TensorShape};
use crate::session::{Frame, Outcome, Session};

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// Makes a map.
pub fn vgpuTensorMap(
    session: &Session,
    request: &wire::VgpuTensorMap,
    frame: &mut Frame<'_>,
) -> Outcome {
    let rank = usize::try_from(request.rank).map_err(|_| INVALID)?;
    if !(1..=TENSOR_MAP_RANK).contains(&rank) || request.mode > 1 || request.mode == 1 && rank < 3 {
        return Err(INVALID.into());
    }
    let corners = rank.saturating_sub(2);
    let more = if request.mode == 1 { 2 * corners } else { rank };
    let tail = frame.tail::<wire::VgpuTensorMap>(8 * (3 * rank - 1 + more))?;
    let mut words = tail
        .as_chunks::<8>()
        .0
        .iter()
        .copied()
        .map(u64::from_le_bytes);
    let mut shape = TensorShape {
        element: Type(request.element),
        rank: request.rank,
        address: request.address,
        interleave: request.interleave,
        swizzle: request.swizzle,
        promotion: request.promotion,
        fill: request.fill,
        ..TensorShape::default()
    };
    for (place, word) in shape.extents[..rank].iter_mut().zip(&mut words) {
        *place = word;
    }
    for (place, word) in shape.strides[..rank - 1].iter_mut().zip(&mut words) {
        *place = word;
    }
    fill(&mut shape.steps[..rank], &mut words)?;
    let driver = session.driver();
    let map = if request.mode == 1 {
        let mut pixels = Pixels {
            channels: request.channels,
            count: request.pixels,
            ..Pixels::default()
        };
        fill(&mut pixels.lower[..corners], &mut words)?;
        fill(&mut pixels.upper[..corners], &mut words)?;
        driver.encode_im2col(&shape, &pixels)?
    } else {
        let mut boxes = [0; TENSOR_MAP_RANK];
        fill(&mut boxes[..rank], &mut words)?;
        driver.encode_tiled(&shape, &boxes)?
    };
    frame.reply(&map);
    Ok(())
}

/// Makes a map of the same tensor elsewhere.
pub fn cuTensorMapReplaceAddress(
    session: &Session,
    request: &wire::CuTensorMapReplaceAddress,
    frame: &mut Frame<'_>,
) -> Outcome {
    let tail = frame.tail::<wire::CuTensorMapReplaceAddress>(size_of::<[u64; 16]>())?;
    let map = <[u64; 16]>::read_from_bytes(tail).map_err(|_| INVALID)?;
    let moved = session.driver().move_tensor_map(map, request.address)?;
    frame.reply(&moved);
    Ok(())
}

/// Takes words that must be numbers of a smaller type; signed ones were extended.
fn fill<T: TryFrom<i64>>(places: &mut [T], words: &mut impl Iterator<Item = u64>) -> Outcome {
    for (place, word) in places.iter_mut().zip(words) {
        *place = T::try_from(word.cast_signed()).map_err(|_| INVALID)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_too_large_are_invalid() {
        let mut corners = [0i32; 2];
        let minus = (-3i64).cast_unsigned();
        fill(&mut corners, &mut [minus, 7].into_iter()).unwrap();
        assert_eq!(corners, [-3, 7]);
        assert!(fill(&mut corners, &mut [1 << 40].into_iter()).is_err());
        assert!(fill(&mut [0u32], &mut [minus].into_iter()).is_err());
    }
}
