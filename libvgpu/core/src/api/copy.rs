//! Copies of rectangles and boxes, and of arrays. What the device holds or both sides map is named by the
//! record; rows of the program's own memory are packed here and travel before it or after it.

use std::ffi::c_void;

use cuda_abi::function::Function;
use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{
    CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUarray, CUdeviceptr, CUmemorytype, CUresult, CUstream, CopySide,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire::{self, box_kind, graph};

use super::array;
use super::memory::stream_of;
use super::module::upload;
use crate::call::{Call, Outcome, failed};
use crate::edge;
use crate::ranges::{Need, Place};

/// Most bytes of the program's own memory in one copy.
const MOST_BYTES: usize = 2 << 30;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

pub unsafe fn cuMemcpy2D_v2(default: DefaultStream, pCopy: *const CUDA_MEMCPY2D) -> Outcome {
    let call = Call::begin(Function::cuMemcpy2D_v2)?;
    // SAFETY: the caller's promise.
    let copy = unsafe { edge::take(pCopy) }?;
    // SAFETY: the caller's promise.
    unsafe { run(call, &copy.into(), stream_of(default), true) }
}

pub unsafe fn cuMemcpy2DUnaligned_v2(
    default: DefaultStream,
    pCopy: *const CUDA_MEMCPY2D,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuMemcpy2D_v2(default, pCopy) }
}

pub unsafe fn cuMemcpy2DAsync_v2(pCopy: *const CUDA_MEMCPY2D, hStream: CUstream) -> Outcome {
    let call = Call::begin(Function::cuMemcpy2DAsync_v2)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    let copy = unsafe { edge::take(pCopy) }?;
    // SAFETY: the caller's promise.
    unsafe { run(call, &copy.into(), stream, false) }
}

pub unsafe fn cuMemcpy3D_v2(default: DefaultStream, pCopy: *const CUDA_MEMCPY3D) -> Outcome {
    let call = Call::begin(Function::cuMemcpy3D_v2)?;
    // SAFETY: the caller's promise.
    let copy = unsafe { edge::take(pCopy) }?;
    // SAFETY: the caller's promise.
    unsafe { run(call, &copy, stream_of(default), true) }
}

pub unsafe fn cuMemcpy3DAsync_v2(pCopy: *const CUDA_MEMCPY3D, hStream: CUstream) -> Outcome {
    let call = Call::begin(Function::cuMemcpy3DAsync_v2)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    let copy = unsafe { edge::take(pCopy) }?;
    // SAFETY: the caller's promise.
    unsafe { run(call, &copy, stream, false) }
}

pub unsafe fn cuMemcpyHtoA_v2(
    default: DefaultStream,
    dstArray: CUarray,
    dstOffset: usize,
    srcHost: *const c_void,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyHtoA_v2)?;
    let ends = [
        CopySide::array(dstArray, [dstOffset, 0, 0]),
        CopySide::host(srcHost),
    ];
    // SAFETY: the caller's promise.
    unsafe { row(call, ends, ByteCount, stream_of(default), true) }
}

pub unsafe fn cuMemcpyHtoAAsync_v2(
    dstArray: CUarray,
    dstOffset: usize,
    srcHost: *const c_void,
    ByteCount: usize,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyHtoAAsync_v2)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    let ends = [
        CopySide::array(dstArray, [dstOffset, 0, 0]),
        CopySide::host(srcHost),
    ];
    // SAFETY: the caller's promise.
    unsafe { row(call, ends, ByteCount, stream, false) }
}

pub unsafe fn cuMemcpyAtoH_v2(
    default: DefaultStream,
    dstHost: *mut c_void,
    srcArray: CUarray,
    srcOffset: usize,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyAtoH_v2)?;
    let ends = [
        CopySide::host(dstHost),
        CopySide::array(srcArray, [srcOffset, 0, 0]),
    ];
    // SAFETY: the caller's promise.
    unsafe { row(call, ends, ByteCount, stream_of(default), true) }
}

pub unsafe fn cuMemcpyAtoHAsync_v2(
    dstHost: *mut c_void,
    srcArray: CUarray,
    srcOffset: usize,
    ByteCount: usize,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyAtoHAsync_v2)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    let ends = [
        CopySide::host(dstHost),
        CopySide::array(srcArray, [srcOffset, 0, 0]),
    ];
    // SAFETY: the caller's promise.
    unsafe { row(call, ends, ByteCount, stream, false) }
}

pub unsafe fn cuMemcpyDtoA_v2(
    default: DefaultStream,
    dstArray: CUarray,
    dstOffset: usize,
    srcDevice: CUdeviceptr,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyDtoA_v2)?;
    let ends = [
        CopySide::array(dstArray, [dstOffset, 0, 0]),
        CopySide::device(srcDevice),
    ];
    // SAFETY: the caller's promise.
    unsafe { row(call, ends, ByteCount, stream_of(default), true) }
}

pub unsafe fn cuMemcpyAtoD_v2(
    default: DefaultStream,
    dstDevice: CUdeviceptr,
    srcArray: CUarray,
    srcOffset: usize,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyAtoD_v2)?;
    let ends = [
        CopySide::device(dstDevice),
        CopySide::array(srcArray, [srcOffset, 0, 0]),
    ];
    // SAFETY: the caller's promise.
    unsafe { row(call, ends, ByteCount, stream_of(default), true) }
}

pub unsafe fn cuMemcpyAtoA_v2(
    default: DefaultStream,
    dstArray: CUarray,
    dstOffset: usize,
    srcArray: CUarray,
    srcOffset: usize,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyAtoA_v2)?;
    let ends = [
        CopySide::array(dstArray, [dstOffset, 0, 0]),
        CopySide::array(srcArray, [srcOffset, 0, 0]),
    ];
    // SAFETY: the caller's promise.
    unsafe { row(call, ends, ByteCount, stream_of(default), true) }
}

/// # Safety
/// As [`copy`].
unsafe fn row(
    call: Call,
    [to, from]: [CopySide; 2],
    bytes: usize,
    stream: u64,
    wait: bool,
) -> Outcome {
    // SAFETY: by this function's contract.
    unsafe { copy(call, to, from, [bytes, 1, 1], stream, wait) }
}

/// # Safety
/// As [`copy`].
pub(super) unsafe fn run(call: Call, what: &CUDA_MEMCPY3D, stream: u64, wait: bool) -> Outcome {
    let (to, from, extent) = sides(what)?;
    // SAFETY: by this function's contract.
    unsafe { copy(call, to, from, extent, stream, wait) }
}

/// A copy that is to be a node.
///
/// # Errors
/// `NOT_SUPPORTED` if memory of the program's own is part of it.
pub(super) fn described(call: &Call, what: &CUDA_MEMCPY3D) -> Outcome<graph::Copy> {
    let (mut to, mut from, extent) = sides(what)?;
    if extent.contains(&0) {
        return Err(INVALID);
    }
    to.fill_in(extent)?;
    from.fill_in(extent)?;
    let side = |side: &CopySide, need| {
        let own = CUresult::CUDA_ERROR_NOT_SUPPORTED;
        let located = side.locate(call, extent, need)?.ok_or(own)?;
        Ok(graph::Side {
            place: located.place,
            at: located.at,
            pitch: located.pitch,
            height: located.height,
            kind: located.kind,
            reserved: 0,
        })
    };
    Ok(graph::Copy {
        to: side(&to, Need::Write)?,
        from: side(&from, Need::Read)?,
        extent: extent.map(|n| n as u64),
    })
}

/// What a node copies, as the program is told.
pub(super) fn params_of(told: &graph::Copy) -> CUDA_MEMCPY3D {
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let side = |side: &graph::Side| CopySide {
        kind: match side.kind {
            box_kind::ARRAY => CUmemorytype::CU_MEMORYTYPE_ARRAY,
            box_kind::PINNED => CUmemorytype::CU_MEMORYTYPE_HOST,
            _ => CUmemorytype::CU_MEMORYTYPE_DEVICE,
        },
        place: side.place,
        at: side.at.map(size),
        pitch: size(side.pitch),
        height: size(side.height),
    };
    CUDA_MEMCPY3D::between(&side(&told.to), &side(&told.from), told.extent.map(size))
}

/// Both sides of a copy and its extent, as the program names them.
fn sides(what: &CUDA_MEMCPY3D) -> Outcome<(CopySide, CopySide, [usize; 3])> {
    if what.srcLOD != 0 || what.dstLOD != 0 {
        return Err(INVALID);
    }
    let (to, from) = what.sides();
    Ok((to, from, what.extent()))
}

/// One side of a copy, as the record names it.
struct Located {
    kind: u32,
    place: u64,
    at: [u64; 3],
    pitch: u64,
    height: u64,
}

/// Copies a box. Memory of the program's own is read before, and written before, this returns.
///
/// # Safety
/// Host memory on either side is valid for what the copy touches of it.
unsafe fn copy(
    mut call: Call,
    mut to: CopySide,
    mut from: CopySide,
    extent: [usize; 3],
    stream: u64,
    wait: bool,
) -> Outcome {
    if extent.contains(&0) {
        return Ok(());
    }
    to.fill_in(extent)?;
    from.fill_in(extent)?;
    let total = extent
        .iter()
        .try_fold(1usize, |product, n| product.checked_mul(*n))
        .ok_or(INVALID)?;
    let down = to.locate(&call, extent, Need::Write)?;
    let source = match from.locate(&call, extent, Need::Read)? {
        Some(located) => located,
        None => {
            if total > MOST_BYTES {
                return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
            }
            let mut packed = vec![0; total];
            for (row, piece) in packed.chunks_exact_mut(extent[0]).enumerate() {
                let start = from.row(row, extent) as *const u8;
                // SAFETY: a row of the caller's memory, and ours of the same length.
                unsafe { std::ptr::copy_nonoverlapping(start, piece.as_mut_ptr(), piece.len()) };
            }
            Located {
                kind: box_kind::UPLOAD,
                place: upload(&mut call, &packed)?,
                at: [0; 3],
                pitch: 0,
                height: 0,
            }
        }
    };
    let brings_back = down.is_none();
    let target = down.unwrap_or(Located {
        kind: box_kind::DOWNLOAD,
        place: 0,
        at: [0; 3],
        pitch: 0,
        height: 0,
    });
    if brings_back && total > MOST_BYTES {
        return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    }
    let [width, height, depth] = extent.map(|n| n as u64);
    call.complete(&wire::VgpuCopyBox {
        to: target.place,
        to_x: target.at[0],
        to_y: target.at[1],
        to_z: target.at[2],
        to_pitch: target.pitch,
        to_height: target.height,
        from: source.place,
        from_x: source.at[0],
        from_y: source.at[1],
        from_z: source.at[2],
        from_pitch: source.pitch,
        from_height: source.height,
        width,
        height,
        depth,
        stream,
        to_kind: target.kind,
        from_kind: source.kind,
        wait: u32::from(wait),
        reserved: 0,
    })?;
    if brings_back {
        let packed = download(&mut call, total)?;
        for (row, piece) in packed.chunks_exact(extent[0]).enumerate() {
            let start = to.row(row, extent) as *mut u8;
            // SAFETY: a row of the caller's memory, and ours of the same length.
            unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), start, piece.len()) };
        }
    }
    Ok(())
}

/// What becomes of a side on its way into a record.
trait Placed: Sized {
    /// A pitch or height of 0 means that rows or planes follow each other.
    fn fill_in(&mut self, extent: [usize; 3]) -> Outcome;
    /// Address of a row, counted over all planes of the box.
    fn row(&self, row: usize, extent: [usize; 3]) -> usize;
    /// As the record names it; none for memory of the program's own.
    fn locate(&self, call: &Call, extent: [usize; 3], need: Need) -> Outcome<Option<Located>>;
}

impl Placed for CopySide {
    fn fill_in(&mut self, [width, height, depth]: [usize; 3]) -> Outcome {
        if self.kind == CUmemorytype::CU_MEMORYTYPE_ARRAY {
            return Ok(());
        }
        if self.pitch == 0 {
            self.pitch = width;
        }
        if self.height == 0 {
            self.height = height;
        }
        let row = self.at[0].checked_add(width).ok_or(INVALID)?;
        let rows = self.at[1].checked_add(height).ok_or(INVALID)?;
        let several = height > 1 || depth > 1;
        if self.place == 0 || (several && self.pitch < row) || (depth > 1 && self.height < rows) {
            return Err(INVALID);
        }
        // Every byte that is touched has an address.
        let planes = self.at[2].checked_add(depth).ok_or(INVALID)?;
        self.pitch
            .checked_mul(self.height.max(rows))
            .and_then(|slice| slice.checked_mul(planes))
            .and_then(|bytes| bytes.checked_add(row))
            .and_then(|bytes| self.place.checked_add(bytes as u64))
            .map(|_| ())
            .ok_or(INVALID)
    }

    fn row(&self, row: usize, [_, height, _]: [usize; 3]) -> usize {
        let (plane, row) = (row / height, row % height);
        // `fill_in` has found that nothing of this overflows.
        let base = usize::try_from(self.place).unwrap_or(0);
        base + (self.at[2] + plane) * self.pitch * self.height
            + (self.at[1] + row) * self.pitch
            + self.at[0]
    }

    fn locate(&self, call: &Call, extent: [usize; 3], need: Need) -> Outcome<Option<Located>> {
        let kind = match self.kind {
            CUmemorytype::CU_MEMORYTYPE_ARRAY => {
                array::holds(call.session, self.place, self.at, extent)?;
                box_kind::ARRAY
            }
            CUmemorytype::CU_MEMORYTYPE_DEVICE
            | CUmemorytype::CU_MEMORYTYPE_HOST
            | CUmemorytype::CU_MEMORYTYPE_UNIFIED => {
                let [_, height, depth] = extent;
                let first = self.row(0, extent) as u64;
                let last = self.row(height * depth - 1, extent) as u64;
                let bytes = last - first + extent[0] as u64;
                let found = call.session.ranges.find(first);
                let inside = call.session.ranges.cover(first, bytes, need);
                match (inside, found) {
                    (Some(range), _) if range.on_device() => box_kind::DEVICE,
                    (Some(range), _)
                        if matches!(range.place, Place::Pinned { .. } | Place::Managed) =>
                    {
                        box_kind::PINNED
                    }
                    (None, Some(range)) if range.on_device() => return Err(INVALID),
                    _ if self.kind == CUmemorytype::CU_MEMORYTYPE_DEVICE => return Err(INVALID),
                    _ => return Ok(None),
                }
            }
            _ => return Err(INVALID),
        };
        Ok(Some(Located {
            kind,
            place: self.place,
            at: self.at.map(|n| n as u64),
            pitch: self.pitch as u64,
            height: self.height as u64,
        }))
    }
}

/// Reads what the copy left in the worker, a side buffer at a time.
fn download(call: &mut Call, total: usize) -> Outcome<Vec<u8>> {
    let session = call.session;
    let side = usize::try_from(session.welcome.limits.side_bytes).unwrap_or(0);
    let mut bytes = Vec::new();
    while bytes.len() < total {
        let piece = (total - bytes.len()).min(side.max(1));
        let request = wire::VgpuReadDown {
            offset: bytes.len() as u64,
            bytes: u32::try_from(piece).map_err(|_| INVALID)?,
            reserved: 0,
        };
        call.exchange(&request, &[], |lane, _| {
            let start = bytes.len();
            bytes.resize(start + piece, 0);
            lane.read_side(&mut bytes[start..])
                .map_err(|error| failed(session, &error))
        })?;
    }
    Ok(bytes)
}
