//! Copies of rectangles and boxes, and of arrays.

use std::ffi::c_void;

use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUarray, CUdeviceptr, CUmemorytype, CUstream};
use softgpu_core::error::Error;
use softgpu_core::image::{Rows, copy_rows};

use super::array;
use super::memory::Side;
use crate::driver::{Place, default_place, place};
use crate::edge::{self, Outcome};

pub unsafe fn cuMemcpy2D_v2(default: DefaultStream, what: *const CUDA_MEMCPY2D) -> Outcome {
    let place = default_place(default)?;
    // SAFETY: the caller's promise.
    let what = unsafe { edge::take(what) }?;
    // SAFETY: the caller's promise.
    unsafe { copy(&place, &what.into(), true) }
}

pub unsafe fn cuMemcpy2DUnaligned_v2(
    default: DefaultStream,
    what: *const CUDA_MEMCPY2D,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuMemcpy2D_v2(default, what) }
}

pub unsafe fn cuMemcpy2DAsync_v2(what: *const CUDA_MEMCPY2D, stream: CUstream) -> Outcome {
    let place = place(stream as u64)?;
    // SAFETY: the caller's promise.
    let what = unsafe { edge::take(what) }?;
    // SAFETY: the caller's promise.
    unsafe { copy(&place, &what.into(), false) }
}

pub unsafe fn cuMemcpy3D_v2(default: DefaultStream, what: *const CUDA_MEMCPY3D) -> Outcome {
    let place = default_place(default)?;
    // SAFETY: the caller's promise.
    let what = unsafe { edge::take(what) }?;
    // SAFETY: the caller's promise.
    unsafe { copy(&place, &what, true) }
}

pub unsafe fn cuMemcpy3DAsync_v2(what: *const CUDA_MEMCPY3D, stream: CUstream) -> Outcome {
    let place = place(stream as u64)?;
    // SAFETY: the caller's promise.
    let what = unsafe { edge::take(what) }?;
    // SAFETY: the caller's promise.
    unsafe { copy(&place, &what, false) }
}

pub unsafe fn cuMemcpyHtoA_v2(
    default: DefaultStream,
    to: CUarray,
    offset: usize,
    from: *const c_void,
    bytes: usize,
) -> Outcome {
    let ends = [End::Array(to, offset), End::Host(from as u64)];
    // SAFETY: the caller's promise.
    unsafe { copy_bytes(&default_place(default)?, ends, bytes, true) }
}

pub unsafe fn cuMemcpyHtoAAsync_v2(
    to: CUarray,
    offset: usize,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> Outcome {
    let ends = [End::Array(to, offset), End::Host(from as u64)];
    // SAFETY: the caller's promise.
    unsafe { copy_bytes(&place(stream as u64)?, ends, bytes, false) }
}

pub unsafe fn cuMemcpyAtoH_v2(
    default: DefaultStream,
    to: *mut c_void,
    from: CUarray,
    offset: usize,
    bytes: usize,
) -> Outcome {
    let ends = [End::Host(to as u64), End::Array(from, offset)];
    // SAFETY: the caller's promise.
    unsafe { copy_bytes(&default_place(default)?, ends, bytes, true) }
}

pub unsafe fn cuMemcpyAtoHAsync_v2(
    to: *mut c_void,
    from: CUarray,
    offset: usize,
    bytes: usize,
    stream: CUstream,
) -> Outcome {
    let ends = [End::Host(to as u64), End::Array(from, offset)];
    // SAFETY: the caller's promise.
    unsafe { copy_bytes(&place(stream as u64)?, ends, bytes, false) }
}

pub unsafe fn cuMemcpyDtoA_v2(
    default: DefaultStream,
    to: CUarray,
    offset: usize,
    from: CUdeviceptr,
    bytes: usize,
) -> Outcome {
    let ends = [End::Array(to, offset), End::Device(from)];
    // SAFETY: the caller's promise.
    unsafe { copy_bytes(&default_place(default)?, ends, bytes, true) }
}

pub unsafe fn cuMemcpyAtoD_v2(
    default: DefaultStream,
    to: CUdeviceptr,
    from: CUarray,
    offset: usize,
    bytes: usize,
) -> Outcome {
    let ends = [End::Device(to), End::Array(from, offset)];
    // SAFETY: the caller's promise.
    unsafe { copy_bytes(&default_place(default)?, ends, bytes, true) }
}

pub unsafe fn cuMemcpyAtoA_v2(
    default: DefaultStream,
    to: CUarray,
    to_offset: usize,
    from: CUarray,
    from_offset: usize,
    bytes: usize,
) -> Outcome {
    let ends = [End::Array(to, to_offset), End::Array(from, from_offset)];
    // SAFETY: the caller's promise.
    unsafe { copy_bytes(&default_place(default)?, ends, bytes, true) }
}

/// One side of a copy of bytes in a row.
#[derive(Clone, Copy)]
enum End {
    Host(u64),
    Device(u64),
    Array(CUarray, usize),
}

/// Copies bytes of the first row of arrays.
///
/// # Safety
/// As [`copy`].
unsafe fn copy_bytes(place: &Place, [to, from]: [End; 2], bytes: usize, wait: bool) -> Outcome {
    place.context.check()?;
    if bytes == 0 {
        return Ok(());
    }
    let rows = |end: End| {
        let side = match end {
            End::Array(handle, offset) => {
                let array = array::array(handle)?;
                return array
                    .array
                    .part([offset as u64, 0, 0], [bytes as u64, 1, 1]);
            }
            End::Host(0) => return Err(Error::InvalidValue),
            End::Host(address) => Side::Any(address),
            End::Device(address) => Side::Device(address),
        };
        // SAFETY: the caller's promise.
        let span = unsafe { side.span(place, bytes as u64) }?;
        Ok(Rows::linear(span, 0, 0))
    };
    submit(place, rows(to)?, rows(from)?, [bytes as u64, 1, 1], wait)
}

/// # Safety
/// Host memory on either side is accessible until the copy is done: with `wait` that is during the call.
unsafe fn copy(place: &Place, what: &CUDA_MEMCPY3D, wait: bool) -> Outcome {
    place.context.check()?;
    let extent = [what.WidthInBytes, what.Height, what.Depth];
    if extent.contains(&0) {
        return Ok(());
    }
    if what.srcLOD != 0 || what.dstLOD != 0 {
        return Err(Error::InvalidValue);
    }
    let from = Corner {
        kind: what.srcMemoryType,
        host: what.srcHost as u64,
        device: what.srcDevice,
        array: what.srcArray,
        at: [what.srcXInBytes, what.srcY, what.srcZ],
        pitch: what.srcPitch,
        height: what.srcHeight,
    };
    let to = Corner {
        kind: what.dstMemoryType,
        host: what.dstHost as u64,
        device: what.dstDevice,
        array: what.dstArray,
        at: [what.dstXInBytes, what.dstY, what.dstZ],
        pitch: what.dstPitch,
        height: what.dstHeight,
    };
    // SAFETY: the caller's promise.
    let to = unsafe { to.rows(place, extent) }?;
    // SAFETY: the caller's promise.
    let from = unsafe { from.rows(place, extent) }?;
    submit(place, to, from, extent.map(|n| n as u64), wait)
}

fn submit(place: &Place, to: Rows, from: Rows, extent: [u64; 3], wait: bool) -> Outcome {
    // Host memory the device does not know may change once the call returns.
    let wait = wait || to.is_pageable() || from.is_pageable();
    let work = Box::new(move || {
        // Both sides were checked to hold the whole extent.
        copy_rows(&to, &from, extent).unwrap_or_default();
    });
    if wait {
        let done = place.context.run(place.stream, work);
        edge::print(&place.context.take_output());
        done
    } else {
        place.context.submit(place.stream, work)
    }
}

/// Where one side of a copy begins.
struct Corner {
    kind: CUmemorytype,
    host: u64,
    device: u64,
    array: CUarray,
    at: [usize; 3],
    pitch: usize,
    height: usize,
}

impl Corner {
    /// From the first byte of the first row to the last of the last.
    ///
    /// # Safety
    /// As [`copy`].
    unsafe fn rows(&self, place: &Place, extent: [usize; 3]) -> Result<Rows, Error> {
        let (base, device) = match self.kind {
            CUmemorytype::CU_MEMORYTYPE_HOST => (self.host, false),
            CUmemorytype::CU_MEMORYTYPE_DEVICE => (self.device, true),
            CUmemorytype::CU_MEMORYTYPE_UNIFIED => (self.device, false),
            CUmemorytype::CU_MEMORYTYPE_ARRAY => {
                let object = array::array(self.array)?;
                return object
                    .array
                    .part(self.at.map(|n| n as u64), extent.map(|n| n as u64));
            }
            _ => return Err(Error::InvalidValue),
        };
        let [x, y, z] = self.at.map(|n| n as u64);
        let [width, rows, planes] = extent.map(|n| n as u64);
        let pitch = if self.pitch == 0 {
            width
        } else {
            self.pitch as u64
        };
        let height = if self.height == 0 {
            rows
        } else {
            self.height as u64
        };
        let several = rows > 1 || planes > 1;
        let row_end = x.checked_add(width).ok_or(Error::InvalidValue)?;
        if (several && pitch < row_end) || (planes > 1 && height < rows) {
            return Err(Error::InvalidValue);
        }
        let sum = |terms: [Option<u64>; 3]| {
            terms
                .into_iter()
                .try_fold(0u64, |sum, term| sum.checked_add(term?))
                .ok_or(Error::InvalidValue)
        };
        let slice = pitch.checked_mul(height).ok_or(Error::InvalidValue)?;
        let offset = sum([z.checked_mul(slice), y.checked_mul(pitch), Some(x)])?;
        let length = sum([
            (planes - 1).checked_mul(slice),
            (rows - 1).checked_mul(pitch),
            Some(width),
        ])?;
        if base == 0 {
            return Err(Error::InvalidValue);
        }
        let start = base.checked_add(offset).ok_or(Error::InvalidValue)?;
        let side = if device {
            Side::Device(start)
        } else {
            Side::Any(start)
        };
        // SAFETY: the caller's promise.
        let span = unsafe { side.span(place, length) }?;
        Ok(Rows::linear(span, pitch, slice))
    }
}
