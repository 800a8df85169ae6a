//! Types of the Driver API, by their C names.
//!
//! Enumerations are integer newtypes (generated); structures are written here, one for each that a
//! declared function takes. Layouts are held to C by `tests/abi`.
#![allow(non_camel_case_types, non_snake_case, missing_docs)]

use core::ffi::{c_char, c_int, c_uint, c_void};

pub use crate::generated::enums::*;

pub type CUdevice = c_int;
pub type CUdeviceptr = u64;

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
    CUlinkState = CUlinkState_st,
    CUlogsCallbackHandle = CUlogsCallbackEntry_st,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct CUgraphEdgeData {
    pub from_port: u8,
    pub to_port: u8,
    pub type_: u8,
    pub reserved: [u8; 5],
}

/// `cuGetErrorString`'s text type.
pub type ErrorText = *const c_char;
