//! Tensor maps, with Rust's arguments and results.

use core::ffi::c_void;

use cuda_abi::types::{
    CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle, TENSOR_MAP_RANK,
};

use super::Table;
use super::calls::{Result, ok};

/// A tensor, whatever of it is copied. Arrays are as long as the driver could want them.
#[derive(Clone, Copy, Debug)]
pub struct TensorShape {
    pub element: CUtensorMapDataType,
    pub rank: u32,
    pub address: u64,
    pub extents: [u64; TENSOR_MAP_RANK],
    pub strides: [u64; TENSOR_MAP_RANK],
    pub steps: [u32; TENSOR_MAP_RANK],
    pub interleave: u32,
    pub swizzle: u32,
    pub promotion: u32,
    pub fill: u32,
}

impl Default for TensorShape {
    fn default() -> Self {
        Self {
            element: CUtensorMapDataType(0),
            rank: 0,
            address: 0,
            extents: [0; TENSOR_MAP_RANK],
            strides: [0; TENSOR_MAP_RANK],
            steps: [0; TENSOR_MAP_RANK],
            interleave: 0,
            swizzle: 0,
            promotion: 0,
            fill: 0,
        }
    }
}

/// Which pixels a map in im2col mode stands for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pixels {
    pub lower: [i32; TENSOR_MAP_RANK],
    pub upper: [i32; TENSOR_MAP_RANK],
    pub channels: u32,
    pub count: u32,
}

const EMPTY: CUtensorMap = CUtensorMap { opaque: [0; 16] };

/// As the driver takes an address, at which it does not look.
fn pointer(address: u64) -> *mut c_void {
    core::ptr::without_provenance_mut(usize::try_from(address).unwrap_or(0))
}

impl Table {
    pub(crate) fn encode_tiled(
        &self,
        shape: &TensorShape,
        boxes: &[u32; TENSOR_MAP_RANK],
    ) -> Result<[u64; 16]> {
        let function = self.cuTensorMapEncodeTiled()?;
        let mut map = EMPTY;
        // SAFETY: a local, and arrays of the most elements that a rank can ask for; the driver refuses larger
        // ranks before it reads them.
        ok(unsafe {
            function(
                &raw mut map,
                shape.element,
                shape.rank,
                pointer(shape.address),
                shape.extents.as_ptr(),
                shape.strides.as_ptr(),
                boxes.as_ptr(),
                shape.steps.as_ptr(),
                CUtensorMapInterleave(shape.interleave),
                CUtensorMapSwizzle(shape.swizzle),
                CUtensorMapL2promotion(shape.promotion),
                CUtensorMapFloatOOBfill(shape.fill),
            )
        })?;
        Ok(map.opaque)
    }

    pub(crate) fn encode_im2col(&self, shape: &TensorShape, pixels: &Pixels) -> Result<[u64; 16]> {
        let function = self.cuTensorMapEncodeIm2col()?;
        let mut map = EMPTY;
        // SAFETY: as above.
        ok(unsafe {
            function(
                &raw mut map,
                shape.element,
                shape.rank,
                pointer(shape.address),
                shape.extents.as_ptr(),
                shape.strides.as_ptr(),
                pixels.lower.as_ptr(),
                pixels.upper.as_ptr(),
                pixels.channels,
                pixels.count,
                shape.steps.as_ptr(),
                CUtensorMapInterleave(shape.interleave),
                CUtensorMapSwizzle(shape.swizzle),
                CUtensorMapL2promotion(shape.promotion),
                CUtensorMapFloatOOBfill(shape.fill),
            )
        })?;
        Ok(map.opaque)
    }

    pub(crate) fn move_tensor_map(&self, opaque: [u64; 16], address: u64) -> Result<[u64; 16]> {
        let function = self.cuTensorMapReplaceAddress()?;
        let mut map = CUtensorMap { opaque };
        // SAFETY: a local; whatever its bytes are, a map is a value to the driver.
        ok(unsafe { function(&raw mut map, pointer(address)) })?;
        Ok(map.opaque)
    }
}
