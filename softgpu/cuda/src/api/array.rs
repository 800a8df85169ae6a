//! Arrays and mipmapped arrays.

use std::ffi::c_uint;
use std::sync::Arc;

use cuda_abi::types::{
    CUDA_ARRAY_DESCRIPTOR, CUDA_ARRAY3D_COLOR_ATTACHMENT, CUDA_ARRAY3D_CUBEMAP,
    CUDA_ARRAY3D_DESCRIPTOR, CUDA_ARRAY3D_LAYERED, CUDA_ARRAY3D_SURFACE_LDST,
    CUDA_ARRAY3D_TEXTURE_GATHER, CUarray, CUarray_format, CUmipmappedArray,
};
use softgpu_core::error::Error;
use softgpu_core::exec::image::{Channel, Format};
use softgpu_core::image::{Array, ArrayShape, MipmappedArray};

use crate::driver::{self, ArrayObject, MipmappedObject, driver};
use crate::edge::{self, Outcome, put};

/// Flags that an array can be made with here.
const FLAGS: c_uint = CUDA_ARRAY3D_LAYERED
    | CUDA_ARRAY3D_SURFACE_LDST
    | CUDA_ARRAY3D_CUBEMAP
    | CUDA_ARRAY3D_TEXTURE_GATHER
    | CUDA_ARRAY3D_COLOR_ATTACHMENT;
/// Flags that there are: beside those, depth textures, sparse arrays, deferred mapping, video.
const KNOWN_FLAGS: c_uint = FLAGS | 0x1d0;

pub unsafe fn cuArrayCreate_v2(
    handle: *mut CUarray,
    what: *const CUDA_ARRAY_DESCRIPTOR,
) -> Outcome {
    driver::context()?;
    // SAFETY: the caller's promise.
    let flat = unsafe { edge::take(what) }?;
    let what = CUDA_ARRAY3D_DESCRIPTOR {
        Width: flat.Width,
        Height: flat.Height,
        Depth: 0,
        Format: flat.Format,
        NumChannels: flat.NumChannels,
        Flags: 0,
    };
    // SAFETY: the caller's promise, and a local.
    unsafe { cuArray3DCreate_v2(handle, &raw const what) }
}

pub unsafe fn cuArray3DCreate_v2(
    handle: *mut CUarray,
    what: *const CUDA_ARRAY3D_DESCRIPTOR,
) -> Outcome {
    let context = driver::context()?;
    // SAFETY: the caller's promise.
    let shape = shape(&unsafe { edge::take(what) }?)?;
    if handle.is_null() {
        return Err(Error::InvalidValue);
    }
    let array = Array::new(&context, shape)?;
    let made = add(&context, &array, None)?;
    // SAFETY: the caller's promise.
    unsafe { put(handle, made as CUarray) }
}

fn add(
    context: &Arc<softgpu_core::context::Context>,
    array: &Arc<Array>,
    level_of: Option<u64>,
) -> Result<u64, Error> {
    let object = ArrayObject {
        context: Arc::clone(context),
        array: Arc::clone(array),
        level_of,
    };
    let made = driver()?.arrays.insert(Arc::new(object));
    made.ok_or(Error::OutOfMemory)
}

pub unsafe fn cuArrayDestroy(handle: CUarray) -> Outcome {
    let driver = driver()?;
    let object = array(handle)?;
    if object.level_of.is_some() {
        return Err(Error::InvalidHandle);
    }
    driver.arrays.remove(handle as u64);
    // What kernels and copies still do with it comes first.
    let settled = object.context.synchronize();
    object.array.remove(&object.context);
    settled.or_else(|_| object.context.check())
}

pub unsafe fn cuArrayGetDescriptor_v2(
    what: *mut CUDA_ARRAY_DESCRIPTOR,
    handle: CUarray,
) -> Outcome {
    let full = descriptor(&array(handle)?.array.shape);
    let flat = CUDA_ARRAY_DESCRIPTOR {
        Width: full.Width,
        Height: full.Height,
        Format: full.Format,
        NumChannels: full.NumChannels,
    };
    // SAFETY: the caller's promise.
    unsafe { put(what, flat) }
}

pub unsafe fn cuArray3DGetDescriptor_v2(
    what: *mut CUDA_ARRAY3D_DESCRIPTOR,
    handle: CUarray,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { put(what, descriptor(&array(handle)?.array.shape)) }
}

pub unsafe fn cuMipmappedArrayCreate(
    handle: *mut CUmipmappedArray,
    what: *const CUDA_ARRAY3D_DESCRIPTOR,
    levels: c_uint,
) -> Outcome {
    let context = driver::context()?;
    // SAFETY: the caller's promise.
    let shape = shape(&unsafe { edge::take(what) }?)?;
    if handle.is_null() || levels == 0 {
        return Err(Error::InvalidValue);
    }
    let object = MipmappedObject {
        array: MipmappedArray::new(&context, shape, levels)?,
        context,
    };
    let made = driver()?.mipmapped_arrays.insert(Arc::new(object));
    // SAFETY: the caller's promise.
    unsafe { put(handle, made.ok_or(Error::OutOfMemory)? as CUmipmappedArray) }
}

pub unsafe fn cuMipmappedArrayDestroy(handle: CUmipmappedArray) -> Outcome {
    let driver = driver()?;
    let removed = driver.mipmapped_arrays.remove(handle as u64);
    let object = removed.ok_or(Error::InvalidHandle)?;
    driver
        .arrays
        .remove_where(|array| array.level_of == Some(handle as u64));
    let settled = object.context.synchronize();
    object.array.remove(&object.context);
    settled.or_else(|_| object.context.check())
}

pub unsafe fn cuMipmappedArrayGetLevel(
    level: *mut CUarray,
    handle: CUmipmappedArray,
    index: c_uint,
) -> Outcome {
    let driver = driver()?;
    edge::require(level)?;
    let whole = driver.mipmapped_arrays.get(handle as u64);
    let whole = whole.ok_or(Error::InvalidHandle)?;
    let array = usize::try_from(index)
        .ok()
        .and_then(|index| whole.array.levels.get(index))
        .ok_or(Error::InvalidValue)?;
    // Asked for twice, a level is the same array.
    let known = driver.arrays.find(|other| Arc::ptr_eq(&other.array, array));
    let made = match known {
        Some(known) => known,
        None => add(&whole.context, array, Some(handle as u64))?,
    };
    // SAFETY: the caller's promise.
    unsafe { put(level, made as CUarray) }
}

/// The array behind a handle.
pub(super) fn array(handle: CUarray) -> Result<Arc<ArrayObject>, Error> {
    let found = driver()?.arrays.get(handle as u64);
    found.ok_or(Error::InvalidHandle)
}

/// A texel format. Packed, compressed and video formats are not supported.
pub(super) fn format(format: CUarray_format, channels: c_uint) -> Result<Format, Error> {
    use CUarray_format as F;
    let channel = match format {
        F::CU_AD_FORMAT_UNSIGNED_INT8 => Channel::U8,
        F::CU_AD_FORMAT_UNSIGNED_INT16 => Channel::U16,
        F::CU_AD_FORMAT_UNSIGNED_INT32 => Channel::U32,
        F::CU_AD_FORMAT_SIGNED_INT8 => Channel::S8,
        F::CU_AD_FORMAT_SIGNED_INT16 => Channel::S16,
        F::CU_AD_FORMAT_SIGNED_INT32 => Channel::S32,
        F::CU_AD_FORMAT_HALF => Channel::F16,
        F::CU_AD_FORMAT_FLOAT => Channel::F32,
        known if known.name().is_some() => return Err(Error::NotSupported),
        _ => return Err(Error::InvalidValue),
    };
    if !matches!(channels, 1 | 2 | 4) {
        return Err(Error::InvalidValue);
    }
    Ok(Format {
        channel,
        count: channels,
    })
}

fn shape(what: &CUDA_ARRAY3D_DESCRIPTOR) -> Result<ArrayShape, Error> {
    if what.Flags & !KNOWN_FLAGS != 0 {
        return Err(Error::InvalidValue);
    }
    if what.Flags & !FLAGS != 0 {
        return Err(Error::NotSupported);
    }
    let extent = |n: usize| u32::try_from(n).map_err(|_| Error::InvalidValue);
    Ok(ArrayShape {
        width: extent(what.Width)?,
        height: extent(what.Height)?,
        depth: extent(what.Depth)?,
        layered: what.Flags & CUDA_ARRAY3D_LAYERED != 0,
        cube: what.Flags & CUDA_ARRAY3D_CUBEMAP != 0,
        format: format(what.Format, what.NumChannels)?,
        flags: what.Flags,
    })
}

fn descriptor(shape: &ArrayShape) -> CUDA_ARRAY3D_DESCRIPTOR {
    use CUarray_format as F;
    // An extent came from a `usize`.
    let extent = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    CUDA_ARRAY3D_DESCRIPTOR {
        Width: extent(shape.width),
        Height: extent(shape.height),
        Depth: extent(shape.depth),
        Format: match shape.format.channel {
            Channel::U8 => F::CU_AD_FORMAT_UNSIGNED_INT8,
            Channel::U16 => F::CU_AD_FORMAT_UNSIGNED_INT16,
            Channel::U32 => F::CU_AD_FORMAT_UNSIGNED_INT32,
            Channel::S8 => F::CU_AD_FORMAT_SIGNED_INT8,
            Channel::S16 => F::CU_AD_FORMAT_SIGNED_INT16,
            Channel::S32 => F::CU_AD_FORMAT_SIGNED_INT32,
            Channel::F16 => F::CU_AD_FORMAT_HALF,
            Channel::F32 => F::CU_AD_FORMAT_FLOAT,
        },
        NumChannels: shape.format.count,
        Flags: shape.flags,
    }
}
