//! Surface objects.

use cuda_abi::types::{
    CUDA_ARRAY3D_SURFACE_LDST, CUDA_RESOURCE_DESC, CUarray, CUresourcetype, CUsurfObject,
};
use softgpu_core::error::Error;

use super::{array, texture};
use crate::driver;
use crate::edge::{self, Outcome, put};

pub unsafe fn cuSurfObjectCreate(
    object: *mut CUsurfObject,
    resource: *const CUDA_RESOURCE_DESC,
) -> Outcome {
    let context = driver::context()?;
    // SAFETY: the caller's promise.
    let resource = unsafe { edge::take(resource) }?;
    if object.is_null()
        || resource.flags != 0
        || resource.resType != CUresourcetype::CU_RESOURCE_TYPE_ARRAY
    {
        return Err(Error::InvalidValue);
    }
    let found = array::array(resource.words[0] as CUarray)?;
    texture::own(&context, &found.context)?;
    if found.array.shape.flags & CUDA_ARRAY3D_SURFACE_LDST == 0 {
        return Err(Error::InvalidValue);
    }
    let image = texture::array_image(&found.array);
    let made = texture::register(&context, image, resource, None, None)?;
    // SAFETY: the caller's promise.
    unsafe { put(object, made) }
}

pub unsafe fn cuSurfObjectDestroy(object: CUsurfObject) -> Outcome {
    texture::destroy(object, false)
}

pub unsafe fn cuSurfObjectGetResourceDesc(
    resource: *mut CUDA_RESOURCE_DESC,
    object: CUsurfObject,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { put(resource, texture::described(object, false)?.resource) }
}
