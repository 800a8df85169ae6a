//! Several copies in one call: one after the other in the order of the stream.

use cuda_abi::types::{
    CUdeviceptr, CUmemcpyAttributes, CUmemcpyFlags, CUmemcpySrcAccessOrder, CUstream,
};
use softgpu_core::error::Error;

use super::memory::{Side, copy};
use crate::driver::{Place, place};
use crate::edge::{self, Outcome, put_if_wanted};

#[expect(clippy::too_many_arguments, reason = "the C signature")]
pub unsafe fn cuMemcpyBatchAsync(
    to: *mut CUdeviceptr,
    from: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attributes: *mut CUmemcpyAttributes,
    starts: *mut usize,
    attribute_count: usize,
    failed: *mut usize,
    stream: CUstream,
) -> Outcome {
    let attributes = (
        attributes.cast_const(),
        starts.cast_const(),
        attribute_count,
    );
    // SAFETY: the caller's promise.
    unsafe { batch(to, from, sizes, count, attributes, stream) }.map_err(|(error, index)| {
        // SAFETY: the caller's promise.
        unsafe { put_if_wanted(failed, index) };
        error
    })
}

#[expect(clippy::too_many_arguments, reason = "the C signature")]
pub unsafe fn cuMemcpyBatchAsync_v2(
    to: *mut CUdeviceptr,
    from: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attributes: *mut CUmemcpyAttributes,
    starts: *mut usize,
    attribute_count: usize,
    stream: CUstream,
) -> Outcome {
    let attributes = (
        attributes.cast_const(),
        starts.cast_const(),
        attribute_count,
    );
    // SAFETY: the caller's promise.
    unsafe { batch(to, from, sizes, count, attributes, stream) }.map_err(|(error, _)| error)
}

pub unsafe fn cuMemcpyWithAttributesAsync(
    to: CUdeviceptr,
    from: CUdeviceptr,
    size: usize,
    attributes: *mut CUmemcpyAttributes,
    stream: CUstream,
) -> Outcome {
    let place = place(stream as u64)?;
    // SAFETY: the caller's promise.
    check(unsafe { edge::take(attributes.cast_const()) }?)?;
    // SAFETY: the caller's promise.
    unsafe { copy(&place, Side::Any(to), Side::Any(from), size, false) }
}

type Attributes = (*const CUmemcpyAttributes, *const usize, usize);

/// Checks all of a batch and then copies; an error comes with the copy that it is about.
///
/// # Safety
/// The arrays have as many elements as the counts say, and what is copied is valid for that.
unsafe fn batch(
    to: *mut CUdeviceptr,
    from: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attributes: Attributes,
    stream: CUstream,
) -> Result<(), (Error, usize)> {
    let nobody = |error| (error, usize::MAX);
    // SAFETY: by this function's contract.
    let place = unsafe { checked(count, attributes, stream) }.map_err(nobody)?;
    if to.is_null() || from.is_null() || sizes.is_null() {
        return Err(nobody(Error::InvalidValue));
    }
    for index in 0..count {
        let one = || {
            // SAFETY: inside the array by this function's contract.
            let to = unsafe { edge::element(to.cast_const(), index) }?;
            // SAFETY: as above.
            let from = unsafe { edge::element(from.cast_const(), index) }?;
            // SAFETY: as above.
            let size = unsafe { edge::element(sizes.cast_const(), index) }?;
            // SAFETY: by this function's contract.
            unsafe { copy(&place, Side::Any(to), Side::Any(from), size, false) }
        };
        one().map_err(|error| (error, index))?;
    }
    Ok(())
}

/// # Safety
/// As [`batch`].
unsafe fn checked(
    count: usize,
    (attributes, starts, attribute_count): Attributes,
    stream: CUstream,
) -> Result<Place, Error> {
    let place = place(stream as u64)?;
    // The legacy default stream is not allowed.
    if stream as u64 <= 1 || !(1..=count).contains(&attribute_count) {
        return Err(Error::InvalidValue);
    }
    let mut last = None;
    for index in 0..attribute_count {
        // SAFETY: inside the array by this function's contract.
        let start = unsafe { edge::element(starts, index) }?;
        // They begin with the first copy, and each later than the one before.
        let follows = last.map_or(start == 0, |last| start > last);
        if !follows || start >= count {
            return Err(Error::InvalidValue);
        }
        last = Some(start);
        // SAFETY: as above.
        check(unsafe { edge::element(attributes, index) }?)?;
    }
    Ok(place)
}

fn check(attributes: CUmemcpyAttributes) -> Outcome {
    use CUmemcpySrcAccessOrder as O;
    let overlap = CUmemcpyFlags::CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE.0;
    let known = matches!(
        attributes.srcAccessOrder,
        O::CU_MEMCPY_SRC_ACCESS_ORDER_STREAM
            | O::CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL
            | O::CU_MEMCPY_SRC_ACCESS_ORDER_ANY
    );
    if known && attributes.flags & !overlap == 0 {
        Ok(())
    } else {
        Err(Error::InvalidValue)
    }
}
