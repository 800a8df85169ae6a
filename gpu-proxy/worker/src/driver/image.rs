//! Calls for arrays, copies of boxes, textures and surfaces.

use cuda_abi::types::{
    CUDA_ARRAY3D_DESCRIPTOR, CUDA_MEMCPY3D, CUDA_RESOURCE_DESC, CUDA_RESOURCE_VIEW_DESC,
    CUDA_TEXTURE_DESC, CUarray, CUarray_format, CUmipmappedArray, CUresult, CUstream, CopySide,
};

use super::Table;
use super::calls::{Result, ok};

/// What an array is like.
#[derive(Debug, Clone, Copy)]
pub struct ArrayShape {
    /// Width, height and depth.
    pub extent: [u64; 3],
    /// The C type's value.
    pub format: u32,
    /// Channels of a texel.
    pub channels: u32,
    /// The C flags.
    pub flags: u32,
}

impl ArrayShape {
    fn descriptor(&self) -> Result<CUDA_ARRAY3D_DESCRIPTOR> {
        let size = |n: u64| usize::try_from(n).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE);
        let [width, height, depth] = self.extent;
        Ok(CUDA_ARRAY3D_DESCRIPTOR {
            Width: size(width)?,
            Height: size(height)?,
            Depth: size(depth)?,
            Format: CUarray_format(self.format),
            NumChannels: self.channels,
            Flags: self.flags,
        })
    }
}

impl Table {
    pub(crate) fn create_array(&self, shape: &ArrayShape) -> Result<usize> {
        let function = self.cuArray3DCreate_v2()?;
        let descriptor = shape.descriptor()?;
        let mut array: CUarray = core::ptr::null_mut();
        // SAFETY: two locals.
        ok(unsafe { function(&raw mut array, &raw const descriptor) })?;
        Ok(array.addr())
    }

    pub(crate) fn destroy_array(&self, array: usize) -> Result<()> {
        let function = self.cuArrayDestroy()?;
        // SAFETY: ours.
        ok(unsafe { function(array as CUarray) })
    }

    pub(crate) fn create_mipmapped_array(&self, shape: &ArrayShape, levels: u32) -> Result<usize> {
        let function = self.cuMipmappedArrayCreate()?;
        let descriptor = shape.descriptor()?;
        let mut array: CUmipmappedArray = core::ptr::null_mut();
        // SAFETY: two locals.
        ok(unsafe { function(&raw mut array, &raw const descriptor, levels) })?;
        Ok(array.addr())
    }

    pub(crate) fn destroy_mipmapped_array(&self, array: usize) -> Result<()> {
        let function = self.cuMipmappedArrayDestroy()?;
        // SAFETY: ours.
        ok(unsafe { function(array as CUmipmappedArray) })
    }

    pub(crate) fn array_level(&self, array: usize, level: u32) -> Result<usize> {
        let function = self.cuMipmappedArrayGetLevel()?;
        let mut found: CUarray = core::ptr::null_mut();
        // SAFETY: ours, and a local.
        ok(unsafe { function(&raw mut found, array as CUmipmappedArray, level) })?;
        Ok(found.addr())
    }

    /// Copies a box in stream order. Linear sides were checked by the caller: device memory of the client's, or
    /// part of the arena, or private bytes that stay until the stream has been waited for.
    pub(crate) fn copy_box(
        &self,
        to: &CopySide,
        from: &CopySide,
        extent: [usize; 3],
        stream: usize,
    ) -> Result<()> {
        let function = self.cuMemcpy3DAsync_v2()?;
        let copy = CUDA_MEMCPY3D::between(to, from, extent);
        // SAFETY: the caller has checked both sides; arrays are ours and the driver knows their bounds.
        ok(unsafe { function(&raw const copy, stream as CUstream) })
    }

    pub(crate) fn create_texture(
        &self,
        resource: &CUDA_RESOURCE_DESC,
        texture: &CUDA_TEXTURE_DESC,
        view: Option<&CUDA_RESOURCE_VIEW_DESC>,
    ) -> Result<u64> {
        let function = self.cuTexObjectCreate()?;
        let mut object = 0;
        let view = view.map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: references, a local, and a pointer that is null or a reference; arrays in it are ours and
        // memory was checked.
        ok(unsafe { function(&raw mut object, resource, texture, view) })?;
        Ok(object)
    }

    pub(crate) fn destroy_texture(&self, object: u64) -> Result<()> {
        let function = self.cuTexObjectDestroy()?;
        // SAFETY: the driver made it for this client.
        ok(unsafe { function(object) })
    }

    pub(crate) fn create_surface(&self, resource: &CUDA_RESOURCE_DESC) -> Result<u64> {
        let function = self.cuSurfObjectCreate()?;
        let mut object = 0;
        // SAFETY: a reference and a local; the array in it is ours.
        ok(unsafe { function(&raw mut object, resource) })?;
        Ok(object)
    }

    pub(crate) fn destroy_surface(&self, object: u64) -> Result<()> {
        let function = self.cuSurfObjectDestroy()?;
        // SAFETY: the driver made it for this client.
        ok(unsafe { function(object) })
    }
}
