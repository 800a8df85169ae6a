//! Words that streams write and wait for.

use std::ffi::c_uint;

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUdeviceptr, CUresult, CUstream, CUstreamBatchMemOpParams, CUstreamBatchMemOpType as Type,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use super::memory::send;
use crate::call::{Call, Outcome};
use crate::edge;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
/// Most operations of a batch, as drivers have it.
const MOST: c_uint = 256;
/// How a wait compares.
const WAIT: u64 = 3;
/// That a write is not ordered behind what came before.
const WRITE: u64 = 1;

macro_rules! operations {
    ($($name:ident, $type:ty, $kind:ident;)+) => {$(
        pub unsafe fn $name(stream: CUstream, addr: CUdeviceptr, value: $type, flags: c_uint) -> Outcome {
            let call = Call::begin(Function::$name)?;
            let words = [Type::$kind.0.into(), addr, value.into(), flags.into(), 0, 0];
            submit(call, stream, &[CUstreamBatchMemOpParams { words }], 0)
        }
    )+};
}

operations! {
    cuStreamWaitValue32, u32, CU_STREAM_MEM_OP_WAIT_VALUE_32;
    cuStreamWaitValue32_v2, u32, CU_STREAM_MEM_OP_WAIT_VALUE_32;
    cuStreamWaitValue64, u64, CU_STREAM_MEM_OP_WAIT_VALUE_64;
    cuStreamWaitValue64_v2, u64, CU_STREAM_MEM_OP_WAIT_VALUE_64;
    cuStreamWriteValue32, u32, CU_STREAM_MEM_OP_WRITE_VALUE_32;
    cuStreamWriteValue32_v2, u32, CU_STREAM_MEM_OP_WRITE_VALUE_32;
    cuStreamWriteValue64, u64, CU_STREAM_MEM_OP_WRITE_VALUE_64;
    cuStreamWriteValue64_v2, u64, CU_STREAM_MEM_OP_WRITE_VALUE_64;
}

pub unsafe fn cuStreamBatchMemOp(
    stream: CUstream,
    count: c_uint,
    paramArray: *mut CUstreamBatchMemOpParams,
    flags: c_uint,
) -> Outcome {
    let call = Call::begin(Function::cuStreamBatchMemOp)?;
    call.handle(Kind::STREAM, stream as u64)?;
    // SAFETY: the caller's promise.
    let list = unsafe { operations(count, paramArray) }?;
    submit(call, stream, &list, flags)
}

pub unsafe fn cuStreamBatchMemOp_v2(
    stream: CUstream,
    count: c_uint,
    paramArray: *mut CUstreamBatchMemOpParams,
    flags: c_uint,
) -> Outcome {
    let call = Call::begin(Function::cuStreamBatchMemOp_v2)?;
    call.handle(Kind::STREAM, stream as u64)?;
    // SAFETY: the caller's promise.
    let list = unsafe { operations(count, paramArray) }?;
    submit(call, stream, &list, flags)
}

fn submit(
    mut call: Call,
    stream: CUstream,
    list: &[CUstreamBatchMemOpParams],
    flags: c_uint,
) -> Outcome {
    let stream = call.handle(Kind::STREAM, stream as u64)?;
    if flags != 0 {
        return Err(INVALID);
    }
    let mut tail = Vec::with_capacity(size_of_val(list));
    for operation in list {
        check(&call, operation)?;
        append(&mut tail, operation);
    }
    let request = wire::VgpuMemOps {
        stream,
        // At most `MOST`.
        count: u32::try_from(list.len()).unwrap_or(u32::MAX),
        flags,
    };
    send(&mut call, stream, false, &request, &[&tail])
}

/// An operation as it travels.
pub(super) fn append(tail: &mut Vec<u8>, operation: &CUstreamBatchMemOpParams) {
    let words = operation.words;
    tail.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

/// Whether the driver would take the operation: it would say so at once, and posted it cannot.
pub(super) fn check(call: &Call, operation: &CUstreamBatchMemOpParams) -> Outcome {
    let [head, address, _, flags, ..] = operation.words;
    let [t0, t1, t2, t3, f0, f1, f2, f3] = head.to_le_bytes();
    let flags = flags & u64::from(u32::MAX);
    // How to compare, or not to order what came before.
    let (width, known) = match Type(u32::from_le_bytes([t0, t1, t2, t3])) {
        Type::CU_STREAM_MEM_OP_WAIT_VALUE_32 => (4, WAIT),
        Type::CU_STREAM_MEM_OP_WRITE_VALUE_32 => (4, WRITE),
        Type::CU_STREAM_MEM_OP_WAIT_VALUE_64 => (8, WAIT),
        Type::CU_STREAM_MEM_OP_WRITE_VALUE_64 => (8, WRITE),
        Type::CU_STREAM_MEM_OP_BARRIER if u32::from_le_bytes([f0, f1, f2, f3]) <= 1 => {
            return Ok(());
        }
        Type::CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES | Type::CU_STREAM_MEM_OP_ATOMIC_REDUCTION => {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        _ => return Err(INVALID),
    };
    const FLUSH: u64 = 1 << 30;
    // Only a wait has that flag; where it does, the driver looks at it first.
    if known == WAIT && flags & FLUSH != 0 {
        return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
    if flags > known || !address.is_multiple_of(width) {
        return Err(INVALID);
    }
    call.device_range(address, width)
}

/// # Safety
/// `list` is null or has `count` elements.
pub(super) unsafe fn operations(
    count: c_uint,
    list: *const CUstreamBatchMemOpParams,
) -> Outcome<Vec<CUstreamBatchMemOpParams>> {
    edge::require(list)?;
    if count == 0 || count > MOST {
        return Err(INVALID);
    }
    let count = usize::try_from(count).map_err(|_| INVALID)?;
    // SAFETY: inside the array by the caller's promise.
    Ok((0..count)
        .map(|index| unsafe { edge::element(list, index) })
        .collect())
}
