//! Copies of rectangles and boxes, and of arrays.

use std::ffi::c_void;
use std::sync::Arc;

use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{
    CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUarray, CUdeviceptr, CUmemorytype, CUstream, CopySide,
};
use softgpu_core::context::Context;
use softgpu_core::error::Error;
use softgpu_core::image::{Rows, copy_rows};
use softgpu_core::schedule::Work;

use super::array;
use super::memory::Side;
use crate::capture;
use crate::driver::{Place, place, waiting_place};
use crate::edge::{self, Outcome};
use crate::graph::Operation;

pub unsafe fn cuMemcpy2D_v2(default: DefaultStream, what: *const CUDA_MEMCPY2D) -> Outcome {
    let place = waiting_place(default)?;
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
    let place = waiting_place(default)?;
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
    let ends = [CopySide::array(to, [offset, 0, 0]), CopySide::host(from)];
    // SAFETY: the caller's promise.
    unsafe { copy_bytes(&waiting_place(default)?, ends, bytes, true) }
}

pub unsafe fn cuMemcpyHtoAAsync_v2(
    to: CUarray,
    offset: usize,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> Outcome {
    let ends = [CopySide::array(to, [offset, 0, 0]), CopySide::host(from)];
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
    let ends = [CopySide::host(to), CopySide::array(from, [offset, 0, 0])];
    // SAFETY: the caller's promise.
    unsafe { copy_bytes(&waiting_place(default)?, ends, bytes, true) }
}

pub unsafe fn cuMemcpyAtoHAsync_v2(
    to: *mut c_void,
    from: CUarray,
    offset: usize,
    bytes: usize,
    stream: CUstream,
) -> Outcome {
    let ends = [CopySide::host(to), CopySide::array(from, [offset, 0, 0])];
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
    let ends = [CopySide::array(to, [offset, 0, 0]), CopySide::device(from)];
    // SAFETY: the caller's promise.
    unsafe { copy_bytes(&waiting_place(default)?, ends, bytes, true) }
}

pub unsafe fn cuMemcpyAtoD_v2(
    default: DefaultStream,
    to: CUdeviceptr,
    from: CUarray,
    offset: usize,
    bytes: usize,
) -> Outcome {
    let ends = [CopySide::device(to), CopySide::array(from, [offset, 0, 0])];
    // SAFETY: the caller's promise.
    unsafe { copy_bytes(&waiting_place(default)?, ends, bytes, true) }
}

pub unsafe fn cuMemcpyAtoA_v2(
    default: DefaultStream,
    to: CUarray,
    to_offset: usize,
    from: CUarray,
    from_offset: usize,
    bytes: usize,
) -> Outcome {
    let ends = [
        CopySide::array(to, [to_offset, 0, 0]),
        CopySide::array(from, [from_offset, 0, 0]),
    ];
    // SAFETY: the caller's promise.
    unsafe { copy_bytes(&waiting_place(default)?, ends, bytes, true) }
}

/// Copies bytes of the first row of arrays.
///
/// # Safety
/// As [`copy`].
unsafe fn copy_bytes(
    place: &Place,
    [to, from]: [CopySide; 2],
    bytes: usize,
    wait: bool,
) -> Outcome {
    let what = CUDA_MEMCPY3D::between(&to, &from, [bytes, 1, 1]);
    // SAFETY: the caller's promise.
    unsafe { copy(place, &what, wait) }
}

/// A copy of a box that is kept. Memory of the host's must be accessible whenever it runs.
#[derive(Clone, Copy)]
pub(crate) struct Copy3D(pub CUDA_MEMCPY3D);

// SAFETY: the addresses in it are looked at when the copy runs, on a thread of the driver's; that they are
// good then is the program's promise.
unsafe impl Send for Copy3D {}
// SAFETY: as above.
unsafe impl Sync for Copy3D {}

impl Copy3D {
    /// A copy of bytes in a row.
    pub fn row(to: Side, from: Side, bytes: usize) -> Self {
        let end = |side| match side {
            Side::Device(address) => CopySide::device(address),
            Side::Any(address) => CopySide::host(address as *const c_void),
        };
        Self(CUDA_MEMCPY3D::between(&end(to), &end(from), [bytes, 1, 1]))
    }

    /// As what a node does.
    pub fn node(self, place: &Place) -> Operation {
        Operation::Copy(Arc::clone(&place.context), self)
    }

    /// The copy as it could run now; none if it moves nothing.
    pub fn ready(&self, context: &Context) -> Result<Option<Work>, Error> {
        // SAFETY: the program's promise in giving the copy.
        let Some((to, from, extent)) = unsafe { prepare(context, &self.0) }? else {
            return Ok(None);
        };
        Ok(Some(Box::new(move || {
            // Both sides were checked to hold the whole extent.
            copy_rows(&to, &from, extent).unwrap_or_default();
        })))
    }

    /// Whether another copy differs in its addresses and sizes only.
    pub fn has_shape_of(&self, other: &Self) -> bool {
        let kinds = |copy: &CUDA_MEMCPY3D| (copy.srcMemoryType, copy.dstMemoryType);
        let flat = |copy: &CUDA_MEMCPY3D| copy.Height <= 1 && copy.Depth <= 1;
        kinds(&self.0) == kinds(&other.0) && flat(&self.0) == flat(&other.0)
    }
}

/// # Safety
/// Host memory on either side is accessible until the copy is done: with `wait` that is during the call.
pub(super) unsafe fn copy(place: &Place, what: &CUDA_MEMCPY3D, wait: bool) -> Outcome {
    place.context.check()?;
    // SAFETY: the caller's promise.
    let Some((to, from, extent)) = unsafe { prepare(&place.context, what) }? else {
        return Ok(());
    };
    if capture::take(place, || Ok(Copy3D(*what).node(place)))? {
        return Ok(());
    }
    submit(place, to, from, extent, wait)
}

/// Finds both sides of a copy; none if it moves nothing.
///
/// # Safety
/// As [`copy`], for as long as what comes back lives.
unsafe fn prepare(
    context: &Context,
    what: &CUDA_MEMCPY3D,
) -> Result<Option<(Rows, Rows, [u64; 3])>, Error> {
    let extent = [what.WidthInBytes, what.Height, what.Depth];
    if extent.contains(&0) {
        return Ok(None);
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
    let to = unsafe { to.rows(context, extent) }?;
    // SAFETY: the caller's promise.
    let from = unsafe { from.rows(context, extent) }?;
    Ok(Some((to, from, extent.map(|n| n as u64))))
}

fn submit(place: &Place, to: Rows, from: Rows, extent: [u64; 3], wait: bool) -> Outcome {
    if !to.is_writable() {
        return Err(Error::InvalidValue);
    }
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
    unsafe fn rows(&self, context: &Context, extent: [usize; 3]) -> Result<Rows, Error> {
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
        let span = unsafe { side.span(context, length) }?;
        Ok(Rows::linear(span, pitch, slice))
    }
}
