//! Tensor maps. The driver makes them; the program hands them to its kernels as they come.

use std::ffi::{c_int, c_void};

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUresult, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle, TENSOR_MAP_ALIGNMENT, TENSOR_MAP_RANK,
};
use idm_protocol::wire;
use zerocopy::IntoBytes;

use crate::call::{Call, Outcome};
use crate::edge;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

pub unsafe fn cuTensorMapEncodeTiled(
    tensorMap: *mut CUtensorMap,
    tensorDataType: CUtensorMapDataType,
    tensorRank: u32,
    globalAddress: *mut c_void,
    globalDim: *const u64,
    globalStrides: *const u64,
    boxDim: *const u32,
    elementStrides: *const u32,
    interleave: CUtensorMapInterleave,
    swizzle: CUtensorMapSwizzle,
    l2Promotion: CUtensorMapL2promotion,
    oobFill: CUtensorMapFloatOOBfill,
) -> Outcome {
    let mut call = Call::begin(Function::cuTensorMapEncodeTiled)?;
    check_place(tensorMap)?;
    let rank = rank(tensorRank)?;
    // SAFETY: the caller's promise.
    let mut words = unsafe { shape(rank, globalDim, globalStrides, elementStrides) }?;
    // SAFETY: the caller's promise.
    words.extend(unsafe { list(boxDim, rank) }?.map(u64::from));
    let request = wire::VgpuTensorMap {
        address: globalAddress as u64,
        mode: 0,
        element: tensorDataType.0,
        rank: tensorRank,
        interleave: interleave.0,
        swizzle: swizzle.0,
        promotion: l2Promotion.0,
        fill: oobFill.0,
        channels: 0,
        pixels: 0,
        reserved: 0,
    };
    let opaque = call.round_trip_with(&request, &[words.as_bytes()])?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(tensorMap, CUtensorMap { opaque }) }
}

pub unsafe fn cuTensorMapEncodeIm2col(
    tensorMap: *mut CUtensorMap,
    tensorDataType: CUtensorMapDataType,
    tensorRank: u32,
    globalAddress: *mut c_void,
    globalDim: *const u64,
    globalStrides: *const u64,
    pixelBoxLowerCorner: *const c_int,
    pixelBoxUpperCorner: *const c_int,
    channelsPerPixel: u32,
    pixelsPerColumn: u32,
    elementStrides: *const u32,
    interleave: CUtensorMapInterleave,
    swizzle: CUtensorMapSwizzle,
    l2Promotion: CUtensorMapL2promotion,
    oobFill: CUtensorMapFloatOOBfill,
) -> Outcome {
    let mut call = Call::begin(Function::cuTensorMapEncodeIm2col)?;
    check_place(tensorMap)?;
    let rank = rank(tensorRank)?;
    // All dimensions but channels and images have corners.
    let corners = rank.checked_sub(2).filter(|n| *n > 0).ok_or(INVALID)?;
    // SAFETY: the caller's promise.
    let mut words = unsafe { shape(rank, globalDim, globalStrides, elementStrides) }?;
    for corner in [pixelBoxLowerCorner, pixelBoxUpperCorner] {
        // SAFETY: the caller's promise.
        let corner = unsafe { list(corner, corners) }?;
        words.extend(corner.map(|n| i64::from(n).cast_unsigned()));
    }
    let request = wire::VgpuTensorMap {
        address: globalAddress as u64,
        mode: 1,
        element: tensorDataType.0,
        rank: tensorRank,
        interleave: interleave.0,
        swizzle: swizzle.0,
        promotion: l2Promotion.0,
        fill: oobFill.0,
        channels: channelsPerPixel,
        pixels: pixelsPerColumn,
        reserved: 0,
    };
    let opaque = call.round_trip_with(&request, &[words.as_bytes()])?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(tensorMap, CUtensorMap { opaque }) }
}

pub unsafe fn cuTensorMapReplaceAddress(
    tensorMap: *mut CUtensorMap,
    globalAddress: *mut c_void,
) -> Outcome {
    let mut call = Call::begin(Function::cuTensorMapReplaceAddress)?;
    check_place(tensorMap)?;
    // SAFETY: not null, and the caller's promise.
    let map = unsafe { edge::element(tensorMap.cast_const(), 0) };
    let request = wire::CuTensorMapReplaceAddress {
        address: globalAddress as u64,
    };
    let opaque = call.round_trip_with(&request, &[map.opaque.as_bytes()])?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(tensorMap, CUtensorMap { opaque }) }
}

/// Whether a map can lie there.
fn check_place(map: *mut CUtensorMap) -> Outcome {
    edge::require(map)?;
    let aligned = map.addr().is_multiple_of(TENSOR_MAP_ALIGNMENT);
    aligned.then_some(()).ok_or(INVALID)
}

fn rank(rank: u32) -> Outcome<usize> {
    let rank = usize::try_from(rank).map_err(|_| INVALID)?;
    (1..=TENSOR_MAP_RANK)
        .contains(&rank)
        .then_some(rank)
        .ok_or(INVALID)
}

/// Extents, strides and steps.
///
/// # Safety
/// Each array is null or has that many elements; strides are one fewer.
unsafe fn shape(
    rank: usize,
    extents: *const u64,
    strides: *const u64,
    steps: *const u32,
) -> Outcome<Vec<u64>> {
    // SAFETY: this function's contract.
    let mut words: Vec<u64> = unsafe { list(extents, rank) }?.collect();
    // SAFETY: as above.
    words.extend(unsafe { list(strides, rank - 1) }?);
    // SAFETY: as above.
    words.extend(unsafe { list(steps, rank) }?.map(u64::from));
    Ok(words)
}

/// Copies of the elements of a caller's array. Null is refused, unless there are none.
///
/// # Safety
/// `array` is null or has `count` elements, until the iterator is used up.
unsafe fn list<T: Copy>(array: *const T, count: usize) -> Outcome<impl Iterator<Item = T>> {
    if count > 0 {
        edge::require(array)?;
    }
    // SAFETY: this function's contract.
    let elements = (0..count).map(move |index| unsafe { edge::element(array, index) });
    Ok(elements)
}
