//! Words that streams write and wait for. Each is a word of the client's.

#![forbid(unsafe_code)]

use cuda_abi::types::{CUresult, CUstreamBatchMemOpParams, CUstreamBatchMemOpType as Type};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use crate::session::{Frame, Outcome, Refusal, Session};

/// Bytes of an operation in a record.
const OPERATION_BYTES: usize = size_of::<CUstreamBatchMemOpParams>();
const _: () = assert!(OPERATION_BYTES == 48);

/// More than a driver takes.
const MOST: u32 = 256;

/// Writes words and waits for words, in stream order.
pub fn vgpuMemOps(session: &Session, request: &wire::VgpuMemOps, frame: &mut Frame<'_>) -> Outcome {
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    let bytes = operation_bytes(request.count)?;
    let mut operations = operations(session, frame.tail::<wire::VgpuMemOps>(bytes)?)?;
    session
        .driver()
        .memory_operations(stream, &mut operations, request.flags)?;
    frame.issued_on(stream);
    Ok(())
}

/// Bytes of so many operations.
pub(super) fn operation_bytes(count: u32) -> Result<usize, CUresult> {
    if count > MOST {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    Ok(usize::try_from(count).unwrap_or(0) * OPERATION_BYTES)
}

/// The operations in these bytes, each checked.
pub(super) fn operations(
    session: &Session,
    bytes: &[u8],
) -> Result<Vec<CUstreamBatchMemOpParams>, Refusal> {
    let (words, _) = bytes.as_chunks::<8>();
    let (operations, _) = words.as_chunks::<6>();
    let mut checked = Vec::with_capacity(operations.len());
    for words in operations {
        let [head, address, value, flags, ..] = words.map(u64::from_le_bytes);
        if let Some(width) = width(head)? {
            session.check_range(address, width)?;
        }
        // The last two words are the driver's own.
        let words = [head, address, value, flags, 0, 0];
        checked.push(CUstreamBatchMemOpParams { words });
    }
    Ok(checked)
}

/// Bytes that an operation touches; none for those without an address.
fn width(head: u64) -> Result<Option<u64>, CUresult> {
    let [t0, t1, t2, t3, ..] = head.to_le_bytes();
    match Type(u32::from_le_bytes([t0, t1, t2, t3])) {
        Type::CU_STREAM_MEM_OP_WAIT_VALUE_32 | Type::CU_STREAM_MEM_OP_WRITE_VALUE_32 => Ok(Some(4)),
        Type::CU_STREAM_MEM_OP_WAIT_VALUE_64 | Type::CU_STREAM_MEM_OP_WRITE_VALUE_64 => Ok(Some(8)),
        Type::CU_STREAM_MEM_OP_BARRIER | Type::CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES => Ok(None),
        // Its places are not where those of the others are.
        Type::CU_STREAM_MEM_OP_ATOMIC_REDUCTION => Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
        _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_touch_as_much_as_they_say_and_unknown_ones_are_refused() {
        assert_eq!(width(1), Ok(Some(4)));
        assert_eq!(width(5 | 9 << 32), Ok(Some(8)));
        assert_eq!(width(6 | 1 << 32), Ok(None));
        assert_eq!(width(8), Err(CUresult::CUDA_ERROR_NOT_SUPPORTED));
        assert_eq!(width(77), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        assert!(operation_bytes(257).is_err());
        assert_eq!(operation_bytes(2), Ok(96));
    }
}
