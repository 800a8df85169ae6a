//! Types of the Driver API, by their C names.
//!
//! Enumerations are integer newtypes (generated); structures are written here, one for each that a
//! declared function takes. Layouts are held to C by `tests/abi`.
#![allow(non_camel_case_types, non_snake_case, missing_docs)]

use core::ffi::{c_char, c_int, c_uint, c_void};

pub use crate::generated::enums::*;

/// First bytes of a fat binary.
pub const FATBIN_MAGIC: u32 = 0xba55_ed50;

pub type CUdevice = c_int;
pub type CUdeviceptr = u64;
pub type CUtexObject = u64;
pub type CUsurfObject = u64;
/// Memory without an address of its own.
pub type CUmemGenericAllocationHandle = u64;

macro_rules! opaque {
    ($($handle:ident = $target:ident),* $(,)?) => {$(
        /// What the handle points to; never looked into.
        #[derive(Debug)]
        #[repr(C)]
        pub struct $target {
            _private: [u8; 0],
        }
        pub type $handle = *mut $target;
    )*};
}

opaque! {
    CUcontext = CUctx_st,
    CUmodule = CUmod_st,
    CUfunction = CUfunc_st,
    CUlibrary = CUlib_st,
    CUkernel = CUkern_st,
    CUstream = CUstream_st,
    CUevent = CUevent_st,
    CUgraph = CUgraph_st,
    CUgreenCtx = CUgreenCtx_st,
    CUgraphExec = CUgraphExec_st,
    CUgraphNode = CUgraphNode_st,
    CUmemoryPool = CUmemPoolHandle_st,
    CUarray = CUarray_st,
    CUmipmappedArray = CUmipmappedArray_st,
    CUlinkState = CUlinkState_st,
    CUlogsCallbackHandle = CUlogsCallbackEntry_st,
    CUuserObject = CUuserObject_st,
}

pub const CU_STREAM_LEGACY: CUstream = 1 as CUstream;
pub const CU_STREAM_PER_THREAD: CUstream = 2 as CUstream;

/// Ends the `extra` array of `cuLaunchKernel`, and names its two entries.
pub const CU_LAUNCH_PARAM_END: *mut c_void = core::ptr::null_mut();
pub const CU_LAUNCH_PARAM_BUFFER_POINTER: *mut c_void = core::ptr::without_provenance_mut(1);
pub const CU_LAUNCH_PARAM_BUFFER_SIZE: *mut c_void = core::ptr::without_provenance_mut(2);

pub type CUhostFn = Option<unsafe extern "C" fn(userData: *mut c_void)>;
pub type CUstreamCallback =
    Option<unsafe extern "C" fn(hStream: CUstream, status: CUresult, userData: *mut c_void)>;
pub type CUoccupancyB2DSize = Option<unsafe extern "C" fn(blockSize: c_int) -> usize>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct CUuuid {
    pub bytes: [u8; 16],
}

/// Device memory, as another process may open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CUipcMemHandle {
    pub reserved: [u8; 64],
}

/// An event, as another process may open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CUipcEventHandle {
    pub reserved: [u8; 64],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct CUdevprop {
    pub maxThreadsPerBlock: c_int,
    pub maxThreadsDim: [c_int; 3],
    pub maxGridSize: [c_int; 3],
    pub sharedMemPerBlock: c_int,
    pub totalConstantMemory: c_int,
    pub SIMDWidth: c_int,
    pub memPitch: c_int,
    pub regsPerBlock: c_int,
    pub clockRate: c_int,
    pub textureAlign: c_int,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUlaunchAttributeValue {
    pub bytes: [u64; 8],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUlaunchAttribute {
    pub id: CUlaunchAttributeID,
    pub pad: [u8; 4],
    pub value: CUlaunchAttributeValue,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUlaunchConfig {
    pub gridDimX: c_uint,
    pub gridDimY: c_uint,
    pub gridDimZ: c_uint,
    pub blockDimX: c_uint,
    pub blockDimY: c_uint,
    pub blockDimZ: c_uint,
    pub sharedMemBytes: c_uint,
    pub hStream: CUstream,
    pub attrs: *mut CUlaunchAttribute,
    pub numAttrs: c_uint,
}

/// Most dimensions of a tensor that a map is made of.
pub const TENSOR_MAP_RANK: usize = 5;

/// What a map's address must be a multiple of. Programs of CUDA 12 align it to no more; CUDA 13's type has 128.
pub const TENSOR_MAP_ALIGNMENT: usize = 64;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(128))]
pub struct CUtensorMap {
    pub opaque: [u64; 16],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUexecAffinityParam {
    pub type_: CUexecAffinityType,
    pub smCount: c_uint,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUctxCigParam {
    pub sharedDataType: c_uint,
    pub sharedData: *mut c_void,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUctxCreateParams {
    pub execAffinityParams: *mut CUexecAffinityParam,
    pub numExecAffinityParams: c_int,
    pub cigParams: *mut CUctxCigParam,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUDA_MEMCPY2D {
    pub srcXInBytes: usize,
    pub srcY: usize,
    pub srcMemoryType: CUmemorytype,
    pub srcHost: *const c_void,
    pub srcDevice: CUdeviceptr,
    pub srcArray: CUarray,
    pub srcPitch: usize,
    pub dstXInBytes: usize,
    pub dstY: usize,
    pub dstMemoryType: CUmemorytype,
    pub dstHost: *mut c_void,
    pub dstDevice: CUdeviceptr,
    pub dstArray: CUarray,
    pub dstPitch: usize,
    pub WidthInBytes: usize,
    pub Height: usize,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUDA_MEMCPY3D {
    pub srcXInBytes: usize,
    pub srcY: usize,
    pub srcZ: usize,
    pub srcLOD: usize,
    pub srcMemoryType: CUmemorytype,
    pub srcHost: *const c_void,
    pub srcDevice: CUdeviceptr,
    pub srcArray: CUarray,
    pub reserved0: *mut c_void,
    pub srcPitch: usize,
    pub srcHeight: usize,
    pub dstXInBytes: usize,
    pub dstY: usize,
    pub dstZ: usize,
    pub dstLOD: usize,
    pub dstMemoryType: CUmemorytype,
    pub dstHost: *mut c_void,
    pub dstDevice: CUdeviceptr,
    pub dstArray: CUarray,
    pub reserved1: *mut c_void,
    pub dstPitch: usize,
    pub dstHeight: usize,
    pub WidthInBytes: usize,
    pub Height: usize,
    pub Depth: usize,
}

impl From<CUDA_MEMCPY2D> for CUDA_MEMCPY3D {
    fn from(flat: CUDA_MEMCPY2D) -> Self {
        Self {
            srcXInBytes: flat.srcXInBytes,
            srcY: flat.srcY,
            srcZ: 0,
            srcLOD: 0,
            srcMemoryType: flat.srcMemoryType,
            srcHost: flat.srcHost,
            srcDevice: flat.srcDevice,
            srcArray: flat.srcArray,
            reserved0: core::ptr::null_mut(),
            srcPitch: flat.srcPitch,
            srcHeight: 0,
            dstXInBytes: flat.dstXInBytes,
            dstY: flat.dstY,
            dstZ: 0,
            dstLOD: 0,
            dstMemoryType: flat.dstMemoryType,
            dstHost: flat.dstHost,
            dstDevice: flat.dstDevice,
            dstArray: flat.dstArray,
            reserved1: core::ptr::null_mut(),
            dstPitch: flat.dstPitch,
            dstHeight: 0,
            WidthInBytes: flat.WidthInBytes,
            Height: flat.Height,
            Depth: 1,
        }
    }
}

/// One side of a [`CUDA_MEMCPY3D`].
#[derive(Debug, Clone, Copy)]
pub struct CopySide {
    /// Linear memory, or an array.
    pub kind: CUmemorytype,
    /// Its address, or the array.
    pub place: u64,
    /// Byte of a row, row, plane.
    pub at: [usize; 3],
    /// Bytes of a row, of linear memory.
    pub pitch: usize,
    /// Rows of a plane, of linear memory.
    pub height: usize,
}

impl CopySide {
    /// Bytes one after the other in the program's memory.
    pub fn host<T>(pointer: *const T) -> Self {
        let place = pointer.expose_provenance() as u64;
        Self::linear(CUmemorytype::CU_MEMORYTYPE_HOST, place)
    }

    /// Bytes one after the other in the device's memory.
    pub const fn device(address: CUdeviceptr) -> Self {
        Self::linear(CUmemorytype::CU_MEMORYTYPE_DEVICE, address)
    }

    /// An array, from a byte, row and plane on.
    pub fn array(array: CUarray, at: [usize; 3]) -> Self {
        let place = array.expose_provenance() as u64;
        Self {
            at,
            ..Self::linear(CUmemorytype::CU_MEMORYTYPE_ARRAY, place)
        }
    }

    const fn linear(kind: CUmemorytype, place: u64) -> Self {
        Self {
            kind,
            place,
            at: [0; 3],
            pitch: 0,
            height: 0,
        }
    }

    /// The place, for the field that this kind of side has it in; 0 for the others.
    fn place_as(&self, field: CUmemorytype) -> u64 {
        let of_side = match self.kind {
            CUmemorytype::CU_MEMORYTYPE_UNIFIED => CUmemorytype::CU_MEMORYTYPE_DEVICE,
            kind => kind,
        };
        if of_side == field { self.place } else { 0 }
    }

    fn as_host(&self) -> *mut c_void {
        self.place_as(CUmemorytype::CU_MEMORYTYPE_HOST) as *mut c_void
    }

    fn as_device(&self) -> CUdeviceptr {
        self.place_as(CUmemorytype::CU_MEMORYTYPE_DEVICE)
    }

    fn as_array(&self) -> CUarray {
        self.place_as(CUmemorytype::CU_MEMORYTYPE_ARRAY) as CUarray
    }
}

impl CUDA_MEMCPY3D {
    /// A copy of a box: bytes, rows, planes.
    pub fn between(to: &CopySide, from: &CopySide, extent: [usize; 3]) -> Self {
        Self {
            srcXInBytes: from.at[0],
            srcY: from.at[1],
            srcZ: from.at[2],
            srcLOD: 0,
            srcMemoryType: from.kind,
            srcHost: from.as_host(),
            srcDevice: from.as_device(),
            srcArray: from.as_array(),
            reserved0: core::ptr::null_mut(),
            srcPitch: from.pitch,
            srcHeight: from.height,
            dstXInBytes: to.at[0],
            dstY: to.at[1],
            dstZ: to.at[2],
            dstLOD: 0,
            dstMemoryType: to.kind,
            dstHost: to.as_host(),
            dstDevice: to.as_device(),
            dstArray: to.as_array(),
            reserved1: core::ptr::null_mut(),
            dstPitch: to.pitch,
            dstHeight: to.height,
            WidthInBytes: extent[0],
            Height: extent[1],
            Depth: extent[2],
        }
    }

    /// Where it goes and where it comes from.
    pub fn sides(&self) -> (CopySide, CopySide) {
        let place = |kind, host: *const c_void, device, array: CUarray| match kind {
            CUmemorytype::CU_MEMORYTYPE_HOST => host.expose_provenance() as u64,
            CUmemorytype::CU_MEMORYTYPE_ARRAY => array.expose_provenance() as u64,
            _ => device,
        };
        let (to, from) = (self.dstMemoryType, self.srcMemoryType);
        let to = CopySide {
            kind: to,
            place: place(to, self.dstHost, self.dstDevice, self.dstArray),
            at: [self.dstXInBytes, self.dstY, self.dstZ],
            pitch: self.dstPitch,
            height: self.dstHeight,
        };
        let from = CopySide {
            kind: from,
            place: place(from, self.srcHost, self.srcDevice, self.srcArray),
            at: [self.srcXInBytes, self.srcY, self.srcZ],
            pitch: self.srcPitch,
            height: self.srcHeight,
        };
        (to, from)
    }

    /// Bytes, rows, planes.
    pub const fn extent(&self) -> [usize; 3] {
        [self.WidthInBytes, self.Height, self.Depth]
    }
}

/// A [`CUDA_MEMCPY3D`] whose two reserved words are the contexts of its sides.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct CUDA_MEMCPY3D_PEER {
    pub copy: CUDA_MEMCPY3D,
}

impl CUDA_MEMCPY3D_PEER {
    /// The source's context.
    pub const fn src_context(&self) -> CUcontext {
        self.copy.reserved0.cast()
    }

    /// The destination's context.
    pub const fn dst_context(&self) -> CUcontext {
        self.copy.reserved1.cast()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct CUmemcpyAttributes {
    pub srcAccessOrder: CUmemcpySrcAccessOrder,
    pub srcLocHint: CUmemLocation,
    pub dstLocHint: CUmemLocation,
    pub flags: c_uint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CUDA_ARRAY_DESCRIPTOR {
    pub Width: usize,
    pub Height: usize,
    pub Format: CUarray_format,
    pub NumChannels: c_uint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CUDA_ARRAY3D_DESCRIPTOR {
    pub Width: usize,
    pub Height: usize,
    pub Depth: usize,
    pub Format: CUarray_format,
    pub NumChannels: c_uint,
    pub Flags: c_uint,
}

pub const CUDA_ARRAY3D_LAYERED: c_uint = 1;
pub const CUDA_ARRAY3D_SURFACE_LDST: c_uint = 2;
pub const CUDA_ARRAY3D_CUBEMAP: c_uint = 4;
pub const CUDA_ARRAY3D_TEXTURE_GATHER: c_uint = 8;
pub const CUDA_ARRAY3D_COLOR_ATTACHMENT: c_uint = 0x20;

/// The union of the C type is `words`, whose meaning `resType` tells: a handle in the first word, or the
/// fields of [`CUresourcePitch2D`] (of which linear memory has the first three, and its size).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CUDA_RESOURCE_DESC {
    pub resType: CUresourcetype,
    pub words: [u64; 16],
    pub flags: c_uint,
}

/// Memory that a texture reads without an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CUresourcePitch2D {
    pub devPtr: CUdeviceptr,
    pub format: CUarray_format,
    pub numChannels: c_uint,
    /// For linear memory, its size in bytes.
    pub width: u64,
    pub height: u64,
    pub pitchInBytes: u64,
}

impl CUDA_RESOURCE_DESC {
    /// The fields of linear or pitched memory.
    pub const fn memory(&self) -> CUresourcePitch2D {
        let [f0, f1, f2, f3, c0, c1, c2, c3] = self.words[1].to_le_bytes();
        CUresourcePitch2D {
            devPtr: self.words[0],
            format: CUarray_format(u32::from_le_bytes([f0, f1, f2, f3])),
            numChannels: u32::from_le_bytes([c0, c1, c2, c3]),
            width: self.words[2],
            height: self.words[3],
            pitchInBytes: self.words[4],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct CUDA_TEXTURE_DESC {
    pub addressMode: [CUaddress_mode; 3],
    pub filterMode: CUfilter_mode,
    pub flags: c_uint,
    pub maxAnisotropy: c_uint,
    pub mipmapFilterMode: CUfilter_mode,
    pub mipmapLevelBias: f32,
    pub minMipmapLevelClamp: f32,
    pub maxMipmapLevelClamp: f32,
    pub borderColor: [f32; 4],
    pub reserved: [c_int; 12],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CUDA_RESOURCE_VIEW_DESC {
    pub format: CUresourceViewFormat,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
    pub firstMipmapLevel: c_uint,
    pub lastMipmapLevel: c_uint,
    pub firstLayer: c_uint,
    pub lastLayer: c_uint,
    pub reserved: [c_uint; 16],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct CUmemLocation {
    pub type_: CUmemLocationType,
    pub id: c_int,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct CUmemAllocationFlags {
    pub compressionType: u8,
    pub gpuDirectRDMACapable: u8,
    pub usage: u16,
    pub reserved: [u8; 4],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CUmemAllocationProp {
    pub type_: CUmemAllocationType,
    pub requestedHandleTypes: CUmemAllocationHandleType,
    pub location: CUmemLocation,
    pub win32HandleMetaData: *mut c_void,
    pub allocFlags: CUmemAllocationFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct CUmemAccessDesc {
    pub location: CUmemLocation,
    pub flags: CUmemAccess_flags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CUmemPoolProps {
    pub allocType: CUmemAllocationType,
    pub handleTypes: CUmemAllocationHandleType,
    pub location: CUmemLocation,
    pub win32SecurityAttributes: *mut c_void,
    pub maxSize: usize,
    pub usage: u16,
    /// Since CUDA 13.4; reserved and 0 before.
    pub gpuDirectRDMACapable: u8,
    pub reserved: [u8; 53],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct CUgraphEdgeData {
    pub from_port: u8,
    pub to_port: u8,
    pub type_: u8,
    pub reserved: [u8; 5],
}

/// The union of the C type by its words: the operation (and, of what has no address, its flags) in the
/// first, then address, value and flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CUstreamBatchMemOpParams {
    pub words: [u64; 6],
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUDA_GRAPH_INSTANTIATE_PARAMS {
    pub flags: u64,
    pub hUploadStream: CUstream,
    pub hErrNode_out: CUgraphNode,
    pub result_out: CUgraphInstantiateResult,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUDA_KERNEL_NODE_PARAMS_v1 {
    pub func: CUfunction,
    pub gridDimX: c_uint,
    pub gridDimY: c_uint,
    pub gridDimZ: c_uint,
    pub blockDimX: c_uint,
    pub blockDimY: c_uint,
    pub blockDimZ: c_uint,
    pub sharedMemBytes: c_uint,
    pub kernelParams: *mut *mut c_void,
    pub extra: *mut *mut c_void,
}

/// Also what [`CUgraphNodeParams`] holds for a kernel.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUDA_KERNEL_NODE_PARAMS_v2 {
    pub func: CUfunction,
    pub gridDimX: c_uint,
    pub gridDimY: c_uint,
    pub gridDimZ: c_uint,
    pub blockDimX: c_uint,
    pub blockDimY: c_uint,
    pub blockDimZ: c_uint,
    pub sharedMemBytes: c_uint,
    pub kernelParams: *mut *mut c_void,
    pub extra: *mut *mut c_void,
    pub kern: CUkernel,
    pub ctx: CUcontext,
}

impl From<CUDA_KERNEL_NODE_PARAMS_v1> for CUDA_KERNEL_NODE_PARAMS_v2 {
    fn from(old: CUDA_KERNEL_NODE_PARAMS_v1) -> Self {
        Self {
            func: old.func,
            gridDimX: old.gridDimX,
            gridDimY: old.gridDimY,
            gridDimZ: old.gridDimZ,
            blockDimX: old.blockDimX,
            blockDimY: old.blockDimY,
            blockDimZ: old.blockDimZ,
            sharedMemBytes: old.sharedMemBytes,
            kernelParams: old.kernelParams,
            extra: old.extra,
            kern: core::ptr::null_mut(),
            ctx: core::ptr::null_mut(),
        }
    }
}

impl From<CUDA_KERNEL_NODE_PARAMS_v2> for CUDA_KERNEL_NODE_PARAMS_v1 {
    fn from(new: CUDA_KERNEL_NODE_PARAMS_v2) -> Self {
        Self {
            // The older form has no place for a library's kernel but this one, where it does as well.
            func: if new.func.is_null() {
                new.kern.cast()
            } else {
                new.func
            },
            gridDimX: new.gridDimX,
            gridDimY: new.gridDimY,
            gridDimZ: new.gridDimZ,
            blockDimX: new.blockDimX,
            blockDimY: new.blockDimY,
            blockDimZ: new.blockDimZ,
            sharedMemBytes: new.sharedMemBytes,
            kernelParams: new.kernelParams,
            extra: new.extra,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CUDA_MEMSET_NODE_PARAMS_v1 {
    pub dst: CUdeviceptr,
    pub pitch: usize,
    pub value: c_uint,
    pub elementSize: c_uint,
    pub width: usize,
    pub height: usize,
}

/// What [`CUgraphNodeParams`] holds for a memset.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUDA_MEMSET_NODE_PARAMS_v2 {
    pub v1: CUDA_MEMSET_NODE_PARAMS_v1,
    pub ctx: CUcontext,
}

/// What [`CUgraphNodeParams`] holds for a copy.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUDA_MEMCPY_NODE_PARAMS {
    pub flags: c_int,
    pub reserved: c_int,
    pub copyCtx: CUcontext,
    pub copyParams: CUDA_MEMCPY3D,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUDA_HOST_NODE_PARAMS_v1 {
    pub fn_: CUhostFn,
    pub userData: *mut c_void,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUDA_BATCH_MEM_OP_NODE_PARAMS {
    pub ctx: CUcontext,
    pub count: c_uint,
    pub paramArray: *mut CUstreamBatchMemOpParams,
    pub flags: c_uint,
}

/// The union of the C type is `words`, whose meaning `type_` tells.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUgraphNodeParams {
    pub type_: CUgraphNodeType,
    pub reserved0: [c_int; 3],
    pub words: [u64; 29],
    pub reserved2: u64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CUgraphExecUpdateResultInfo {
    pub result: CUgraphExecUpdateResult,
    pub errorNode: CUgraphNode,
    pub errorFromNode: CUgraphNode,
}

/// `cuGetErrorString`'s text type.
pub type ErrorText = *const c_char;
