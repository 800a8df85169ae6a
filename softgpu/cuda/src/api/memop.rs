//! Words that streams write and wait for.

use std::ffi::c_uint;
use std::sync::Arc;

use cuda_abi::types::{
    CUdeviceptr, CUstream, CUstreamBatchMemOpParams, CUstreamBatchMemOpType as Type,
    CUstreamWaitValue_flags as Compare,
};
use softgpu_core::context::Context;
use softgpu_core::error::Error;
use softgpu_core::schedule::Work;
use softgpu_core::transfer::Span;

use crate::capture;
use crate::driver::place;
use crate::edge::{self, Outcome};
use crate::graph::Operation;

/// Most operations of a batch.
const MOST: usize = 256;
/// `CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER`.
const NO_BARRIER: c_uint = 1;

/// Operations on words, one after the other.
pub(crate) struct MemOps {
    pub list: Box<[CUstreamBatchMemOpParams]>,
    pub flags: u32,
}

/// One of them, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemOp {
    Wait(Word, Compare),
    Write(Word),
    /// What is before is seen before what is after: always so here.
    Barrier,
}

/// A place and what is to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    address: u64,
    value: u64,
    width: u64,
}

impl MemOp {
    fn read(params: &CUstreamBatchMemOpParams) -> Result<Self, Error> {
        let [head, address, value, flags, ..] = params.words;
        let [t0, t1, t2, t3, f0, f1, f2, f3] = head.to_le_bytes();
        let low = |word: u64| word & 0xffff_ffff;
        let flags = c_uint::try_from(low(flags)).unwrap_or(0);
        let word = |width| Word {
            address,
            value: if width == 4 { low(value) } else { value },
            width,
        };
        match Type(u32::from_le_bytes([t0, t1, t2, t3])) {
            Type::CU_STREAM_MEM_OP_WAIT_VALUE_32 => Self::wait(word(4), flags),
            Type::CU_STREAM_MEM_OP_WAIT_VALUE_64 => Self::wait(word(8), flags),
            Type::CU_STREAM_MEM_OP_WRITE_VALUE_32 => Self::write(word(4), flags),
            Type::CU_STREAM_MEM_OP_WRITE_VALUE_64 => Self::write(word(8), flags),
            Type::CU_STREAM_MEM_OP_BARRIER if u32::from_le_bytes([f0, f1, f2, f3]) <= 1 => {
                Ok(Self::Barrier)
            }
            // Remote writes need not be flushed by a device that says so: this one does.
            Type::CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES
            | Type::CU_STREAM_MEM_OP_ATOMIC_REDUCTION => Err(Error::NotSupported),
            _ => Err(Error::InvalidValue),
        }
    }

    fn wait(word: Word, flags: c_uint) -> Result<Self, Error> {
        let flush = Compare::CU_STREAM_WAIT_VALUE_FLUSH.0;
        if flags & flush != 0 {
            return Err(Error::NotSupported);
        }
        if flags > Compare::CU_STREAM_WAIT_VALUE_NOR.0 {
            return Err(Error::InvalidValue);
        }
        Ok(Self::Wait(word, Compare(flags)))
    }

    fn write(word: Word, flags: c_uint) -> Result<Self, Error> {
        if flags & !NO_BARRIER != 0 {
            return Err(Error::InvalidValue);
        }
        Ok(Self::Write(word))
    }

    fn span(&self, context: &Context) -> Result<Option<Span>, Error> {
        let (Self::Wait(word, _) | Self::Write(word)) = self else {
            return Ok(None);
        };
        if !word.address.is_multiple_of(word.width) {
            return Err(Error::InvalidValue);
        }
        Span::device(context.gpu().space(), word.address, word.width).map(Some)
    }
}

impl Word {
    /// Whether what was found is what is waited for.
    fn is_met(&self, found: u64, compare: Compare) -> bool {
        let mask = if self.width == 4 {
            0xffff_ffff
        } else {
            u64::MAX
        };
        match compare {
            // Counted in a circle: at most half of it ahead.
            Compare::CU_STREAM_WAIT_VALUE_GEQ => found.wrapping_sub(self.value) & mask <= mask >> 1,
            Compare::CU_STREAM_WAIT_VALUE_EQ => found == self.value,
            Compare::CU_STREAM_WAIT_VALUE_AND => found & self.value != 0,
            _ => !(found | self.value) & mask != 0,
        }
    }
}

impl MemOps {
    pub fn new(list: Vec<CUstreamBatchMemOpParams>, flags: u32) -> Result<Self, Error> {
        if list.is_empty() || list.len() > MOST || flags != 0 {
            return Err(Error::InvalidValue);
        }
        Ok(Self {
            list: list.into(),
            flags,
        })
    }

    /// The operations as they could run now.
    pub fn ready(&self, context: &Arc<Context>) -> Result<Work, Error> {
        let understand = |params| {
            let op = MemOp::read(params)?;
            Ok((op, op.span(context)?))
        };
        let list: Result<Vec<_>, Error> = self.list.iter().map(understand).collect();
        let list = list?;
        let context = Arc::clone(context);
        Ok(Box::new(move || {
            for (op, span) in &list {
                match (op, span) {
                    (MemOp::Wait(word, compare), Some(span)) => {
                        wait(&context, span, *word, *compare);
                    }
                    (MemOp::Write(word), Some(span)) => span.store(word.value),
                    _ => {}
                }
            }
        }))
    }
}

/// Returns when the word is as it should be, or its context ends or fails.
fn wait(context: &Context, span: &Span, word: Word, compare: Compare) {
    context.watch(|| span.load().is_none_or(|found| word.is_met(found, compare)));
}

fn submit(stream: CUstream, list: Vec<CUstreamBatchMemOpParams>, flags: c_uint) -> Outcome {
    let place = place(stream as u64)?;
    place.context.check()?;
    let ops = Arc::new(MemOps::new(list, flags)?);
    let work = ops.ready(&place.context)?;
    let context = Arc::clone(&place.context);
    if capture::take(&place, || Ok(Operation::MemOps(context, ops)))? {
        return Ok(());
    }
    place.context.submit(place.stream, work)
}

fn one(stream: CUstream, kind: Type, address: u64, value: u64, flags: c_uint) -> Outcome {
    let words = [kind.0.into(), address, value, flags.into(), 0, 0];
    submit(stream, vec![CUstreamBatchMemOpParams { words }], 0)
}

pub unsafe fn cuStreamWaitValue32(
    stream: CUstream,
    address: CUdeviceptr,
    value: u32,
    flags: c_uint,
) -> Outcome {
    let kind = Type::CU_STREAM_MEM_OP_WAIT_VALUE_32;
    one(stream, kind, address, value.into(), flags)
}

pub unsafe fn cuStreamWaitValue32_v2(
    stream: CUstream,
    address: CUdeviceptr,
    value: u32,
    flags: c_uint,
) -> Outcome {
    let kind = Type::CU_STREAM_MEM_OP_WAIT_VALUE_32;
    one(stream, kind, address, value.into(), flags)
}

pub unsafe fn cuStreamWaitValue64(
    stream: CUstream,
    address: CUdeviceptr,
    value: u64,
    flags: c_uint,
) -> Outcome {
    let kind = Type::CU_STREAM_MEM_OP_WAIT_VALUE_64;
    one(stream, kind, address, value, flags)
}

pub unsafe fn cuStreamWaitValue64_v2(
    stream: CUstream,
    address: CUdeviceptr,
    value: u64,
    flags: c_uint,
) -> Outcome {
    let kind = Type::CU_STREAM_MEM_OP_WAIT_VALUE_64;
    one(stream, kind, address, value, flags)
}

pub unsafe fn cuStreamWriteValue32(
    stream: CUstream,
    address: CUdeviceptr,
    value: u32,
    flags: c_uint,
) -> Outcome {
    let kind = Type::CU_STREAM_MEM_OP_WRITE_VALUE_32;
    one(stream, kind, address, value.into(), flags)
}

pub unsafe fn cuStreamWriteValue32_v2(
    stream: CUstream,
    address: CUdeviceptr,
    value: u32,
    flags: c_uint,
) -> Outcome {
    let kind = Type::CU_STREAM_MEM_OP_WRITE_VALUE_32;
    one(stream, kind, address, value.into(), flags)
}

pub unsafe fn cuStreamWriteValue64(
    stream: CUstream,
    address: CUdeviceptr,
    value: u64,
    flags: c_uint,
) -> Outcome {
    let kind = Type::CU_STREAM_MEM_OP_WRITE_VALUE_64;
    one(stream, kind, address, value, flags)
}

pub unsafe fn cuStreamWriteValue64_v2(
    stream: CUstream,
    address: CUdeviceptr,
    value: u64,
    flags: c_uint,
) -> Outcome {
    let kind = Type::CU_STREAM_MEM_OP_WRITE_VALUE_64;
    one(stream, kind, address, value, flags)
}

pub unsafe fn cuStreamBatchMemOp(
    stream: CUstream,
    count: c_uint,
    params: *mut CUstreamBatchMemOpParams,
    flags: c_uint,
) -> Outcome {
    // SAFETY: the caller's promise.
    let list = unsafe { list(count, params) }?;
    submit(stream, list, flags)
}

pub unsafe fn cuStreamBatchMemOp_v2(
    stream: CUstream,
    count: c_uint,
    params: *mut CUstreamBatchMemOpParams,
    flags: c_uint,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuStreamBatchMemOp(stream, count, params, flags) }
}

/// # Safety
/// `params` is null or has `count` elements.
pub(super) unsafe fn list(
    count: c_uint,
    params: *const CUstreamBatchMemOpParams,
) -> Result<Vec<CUstreamBatchMemOpParams>, Error> {
    let count = usize::try_from(count).map_err(|_| Error::InvalidValue)?;
    if count > MOST {
        return Err(Error::InvalidValue);
    }
    (0..count)
        // SAFETY: inside the array by the caller's promise.
        .map(|index| unsafe { edge::element(params, index) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_count_in_a_circle_and_look_at_bits() {
        let word = |value, width| Word {
            address: 0,
            value,
            width,
        };
        let geq = Compare::CU_STREAM_WAIT_VALUE_GEQ;
        assert!(word(5, 4).is_met(5, geq) && word(5, 4).is_met(6, geq));
        assert!(!word(5, 4).is_met(4, geq));
        assert!(word(0xffff_ffff, 4).is_met(3, geq));
        assert!(word(u64::MAX, 8).is_met(0, geq) && !word(1, 8).is_met(0, geq));
        assert!(!word(5, 8).is_met(6, Compare::CU_STREAM_WAIT_VALUE_EQ));
        assert!(word(6, 4).is_met(3, Compare::CU_STREAM_WAIT_VALUE_AND));
        assert!(!word(6, 4).is_met(9, Compare::CU_STREAM_WAIT_VALUE_AND));
        let nor = Compare::CU_STREAM_WAIT_VALUE_NOR;
        assert!(word(0xffff_fffe, 4).is_met(0, nor));
        assert!(!word(0xffff_fffe, 4).is_met(1, nor));
    }

    #[test]
    fn parameters_are_read_by_their_operation_and_bad_flags_refused() {
        let read = |words| MemOp::read(&CUstreamBatchMemOpParams { words });
        let word = Word {
            address: 64,
            value: 7,
            width: 4,
        };
        let geq = Compare::CU_STREAM_WAIT_VALUE_GEQ;
        assert_eq!(
            read([1, 64, 9 << 32 | 7, 0, 0, 0]),
            Ok(MemOp::Wait(word, geq))
        );
        assert_eq!(read([2, 64, 7, 1, 0, 0]), Ok(MemOp::Write(word)));
        assert_eq!(read([2, 64, 7, 2, 0, 0]), Err(Error::InvalidValue));
        assert_eq!(read([1, 64, 7, 4, 0, 0]), Err(Error::InvalidValue));
        assert_eq!(read([6 | 1 << 32, 0, 0, 0, 0, 0]), Ok(MemOp::Barrier));
        assert_eq!(read([3, 0, 0, 0, 0, 0]), Err(Error::NotSupported));
        assert_eq!(read([77, 0, 0, 0, 0, 0]), Err(Error::InvalidValue));
    }
}
