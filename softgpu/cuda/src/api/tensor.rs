//! Tensor maps, which kernels copy boxes of tensors by.

use std::ffi::{c_int, c_void};

use cuda_abi::types::{
    CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle, TENSOR_MAP_ALIGNMENT,
};
use softgpu_core::error::Error;
use softgpu_core::tensor_map::{self, BYTES, MOST_RANK, Pixels, Shape, TensorMap};

use crate::driver;
use crate::edge::{self, Outcome, put, take};

#[expect(clippy::too_many_arguments, reason = "the C signature")]
pub unsafe fn cuTensorMapEncodeTiled(
    map: *mut CUtensorMap,
    element: CUtensorMapDataType,
    rank: u32,
    address: *mut c_void,
    extents: *const u64,
    strides: *const u64,
    boxes: *const u32,
    steps: *const u32,
    interleave: CUtensorMapInterleave,
    swizzle: CUtensorMapSwizzle,
    promotion: CUtensorMapL2promotion,
    fill: CUtensorMapFloatOOBfill,
) -> Outcome {
    check_place(map)?;
    let rank = checked_rank(rank)?;
    // SAFETY: the caller's promise.
    let extents = unsafe { list(extents, rank) }?;
    // SAFETY: as above.
    let strides = unsafe { list(strides, rank - 1) }?;
    // SAFETY: as above.
    let steps = unsafe { list(steps, rank) }?;
    // SAFETY: as above.
    let boxes = unsafe { list(boxes, rank) }?;
    let shape = Shape {
        element: element.0,
        address: address as u64,
        extents: &extents,
        strides: &strides,
        steps: &steps,
        interleave: interleave.0,
        swizzle: swizzle.0,
        promotion: promotion.0,
        fill: fill.0,
    };
    let made = TensorMap::tiled(&shape, &boxes)?;
    // SAFETY: the caller's promise.
    unsafe { put(map, opaque(&made)) }
}

/// Told what is wrong with it; what is right is refused all the same, for no kernel could use it.
#[expect(clippy::too_many_arguments, reason = "the C signature")]
pub unsafe fn cuTensorMapEncodeIm2col(
    map: *mut CUtensorMap,
    element: CUtensorMapDataType,
    rank: u32,
    address: *mut c_void,
    extents: *const u64,
    strides: *const u64,
    lower: *const c_int,
    upper: *const c_int,
    channels: u32,
    pixels: u32,
    steps: *const u32,
    interleave: CUtensorMapInterleave,
    swizzle: CUtensorMapSwizzle,
    promotion: CUtensorMapL2promotion,
    fill: CUtensorMapFloatOOBfill,
) -> Outcome {
    check_place(map)?;
    let rank = checked_rank(rank)?;
    let corners = rank.checked_sub(2).filter(|n| *n > 0);
    let corners = corners.ok_or(Error::InvalidValue)?;
    // SAFETY: the caller's promise.
    let extents = unsafe { list(extents, rank) }?;
    // SAFETY: as above.
    let strides = unsafe { list(strides, rank - 1) }?;
    // SAFETY: as above.
    let steps = unsafe { list(steps, rank) }?;
    // SAFETY: as above.
    let lower = unsafe { list(lower, corners) }?;
    // SAFETY: as above.
    let upper = unsafe { list(upper, corners) }?;
    let shape = Shape {
        element: element.0,
        address: address as u64,
        extents: &extents,
        strides: &strides,
        steps: &steps,
        interleave: interleave.0,
        swizzle: swizzle.0,
        promotion: promotion.0,
        fill: fill.0,
    };
    let pixels = Pixels {
        lower: &lower,
        upper: &upper,
        channels,
        count: pixels,
    };
    tensor_map::check_pixels(&shape, &pixels)?;
    Err(Error::NotSupported)
}

pub unsafe fn cuTensorMapReplaceAddress(map: *mut CUtensorMap, address: *mut c_void) -> Outcome {
    check_place(map)?;
    // SAFETY: the caller's promise.
    let old = unsafe { take(map.cast_const()) }?;
    let mut bytes = [0; BYTES];
    for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(old.opaque) {
        *place = word.to_le_bytes();
    }
    let old = TensorMap::decode(&bytes).ok_or(Error::InvalidValue)?;
    let moved = old.at(address as u64)?;
    // SAFETY: the caller's promise.
    unsafe { put(map, opaque(&moved)) }
}

/// Whether there are maps in the current context, and one can lie there.
fn check_place(map: *mut CUtensorMap) -> Outcome {
    let context = driver::context()?;
    edge::require(map)?;
    if !map.addr().is_multiple_of(TENSOR_MAP_ALIGNMENT) {
        return Err(Error::InvalidValue);
    }
    let capable = context.device().compute_capability >= tensor_map::CAPABILITY;
    capable.then_some(()).ok_or(Error::NotSupported)
}

fn checked_rank(rank: u32) -> Result<usize, Error> {
    let rank = usize::try_from(rank).map_err(|_| Error::InvalidValue)?;
    let valid = (1..=MOST_RANK).contains(&rank);
    valid.then_some(rank).ok_or(Error::InvalidValue)
}

/// A copy of a caller's array. Null is refused, unless there is nothing in it.
///
/// # Safety
/// `array` is null or has `count` elements.
unsafe fn list<T: Copy>(array: *const T, count: usize) -> Result<Vec<T>, Error> {
    // SAFETY: this function's contract.
    let elements = (0..count).map(|index| unsafe { edge::element(array, index) });
    elements.collect()
}

fn opaque(map: &TensorMap) -> CUtensorMap {
    let mut opaque = [0; BYTES / 8];
    for (word, bytes) in opaque.iter_mut().zip(map.encode().as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    CUtensorMap { opaque }
}
