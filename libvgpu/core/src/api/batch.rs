//! Several copies in one call: one after the other in the order of the stream, which is one of the orders that
//! the call allows.

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUdeviceptr, CUmemcpyAttributes, CUmemcpyFlags, CUmemcpySrcAccessOrder, CUresult, CUstream,
};
use idm_protocol::handle::Kind;

use super::memory::{Ends, copy};
use crate::call::{Call, Outcome};
use crate::edge;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// What a failure is told as that no single copy is to blame for.
const NONE_OF_THEM: usize = usize::MAX;

pub unsafe fn cuMemcpyBatchAsync(
    dsts: *mut CUdeviceptr,
    srcs: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attrs: *mut CUmemcpyAttributes,
    attrIdxs: *mut usize,
    numAttrs: usize,
    failIdx: *mut usize,
    hStream: CUstream,
) -> Outcome {
    let batch = Batch {
        to: dsts,
        from: srcs,
        sizes,
        count,
        attributes: attrs,
        attribute_starts: attrIdxs,
        attribute_count: numAttrs,
    };
    let function = Function::cuMemcpyBatchAsync;
    // SAFETY: the caller's promise.
    let done = unsafe { batch.run(function, hStream) };
    done.map_err(|(error, index)| {
        // SAFETY: the caller's promise.
        unsafe { edge::put_optional(failIdx, index) };
        error
    })
}

pub unsafe fn cuMemcpyBatchAsync_v2(
    dsts: *mut CUdeviceptr,
    srcs: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attrs: *mut CUmemcpyAttributes,
    attrsIdxs: *mut usize,
    numAttrs: usize,
    hStream: CUstream,
) -> Outcome {
    let batch = Batch {
        to: dsts,
        from: srcs,
        sizes,
        count,
        attributes: attrs,
        attribute_starts: attrsIdxs,
        attribute_count: numAttrs,
    };
    let function = Function::cuMemcpyBatchAsync_v2;
    // SAFETY: the caller's promise.
    unsafe { batch.run(function, hStream) }.map_err(|(error, _)| error)
}

pub unsafe fn cuMemcpyWithAttributesAsync(
    dst: CUdeviceptr,
    src: CUdeviceptr,
    size: usize,
    attr: *mut CUmemcpyAttributes,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyWithAttributesAsync)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    edge::require(attr)?;
    // SAFETY: not null, so readable by the caller's promise.
    check(unsafe { attr.read_unaligned() })?;
    // SAFETY: the caller's promise.
    unsafe { copy(call, Ends::Any, dst, src, size, stream, false) }
}

/// The arguments of a batch.
struct Batch {
    to: *mut CUdeviceptr,
    from: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attributes: *mut CUmemcpyAttributes,
    attribute_starts: *mut usize,
    attribute_count: usize,
}

impl Batch {
    /// Checks all of it and then copies; an error comes with the copy that it is about.
    ///
    /// # Safety
    /// The arrays have as many elements as the counts say, and what is copied is valid for that.
    unsafe fn run(&self, function: Function, stream: CUstream) -> Result<(), (CUresult, usize)> {
        // SAFETY: by this function's contract.
        let stream =
            unsafe { self.check(function, stream) }.map_err(|error| (error, NONE_OF_THEM))?;
        for index in 0..self.count {
            let call = Call::begin(function).map_err(|error| (error, NONE_OF_THEM))?;
            // SAFETY: by this function's contract.
            unsafe { self.copy(call, index, stream) }.map_err(|error| (error, index))?;
        }
        Ok(())
    }

    /// # Safety
    /// As [`Batch::run`].
    unsafe fn check(&self, function: Function, stream: CUstream) -> Outcome<u64> {
        let call = Call::begin(function)?;
        let stream = call.handle(Kind::STREAM, stream as u64)?;
        // The legacy default stream is not allowed.
        if stream <= 1 || self.count == 0 {
            return Err(INVALID);
        }
        edge::require(self.to)?;
        edge::require(self.from)?;
        edge::require(self.sizes)?;
        edge::require(self.attributes)?;
        edge::require(self.attribute_starts)?;
        if !(1..=self.count).contains(&self.attribute_count) {
            return Err(INVALID);
        }
        let mut last = None;
        for index in 0..self.attribute_count {
            // SAFETY: inside the array by this function's contract.
            let start = unsafe { edge::element(self.attribute_starts, index) };
            // They begin with the first copy, and each later than the one before.
            let follows = last.map_or(start == 0, |last| start > last);
            if !follows || start >= self.count {
                return Err(INVALID);
            }
            last = Some(start);
            // SAFETY: as above.
            check(unsafe { edge::element(self.attributes, index) })?;
        }
        Ok(stream)
    }

    /// # Safety
    /// As [`Batch::run`].
    unsafe fn copy(&self, call: Call, index: usize, stream: u64) -> Outcome {
        // SAFETY: inside the array by this function's contract.
        let to = unsafe { edge::element(self.to, index) };
        // SAFETY: as above.
        let from = unsafe { edge::element(self.from, index) };
        // SAFETY: as above.
        let size = unsafe { edge::element(self.sizes, index) };
        // SAFETY: what is copied is valid by this function's contract.
        unsafe { copy(call, Ends::Any, to, from, size, stream, false) }
    }
}

/// Attributes say when the source may be read; ours is read in stream order or, if it is the program's own, during
/// the call, which all of them allow. Hints of places say nothing where nothing moves.
fn check(attributes: CUmemcpyAttributes) -> Outcome {
    use CUmemcpySrcAccessOrder as O;
    let known = matches!(
        attributes.srcAccessOrder,
        O::CU_MEMCPY_SRC_ACCESS_ORDER_STREAM
            | O::CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL
            | O::CU_MEMCPY_SRC_ACCESS_ORDER_ANY
    );
    if !known {
        return Err(INVALID);
    }
    edge::known_flags(
        attributes.flags,
        CUmemcpyFlags::CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE.0,
    )
}
