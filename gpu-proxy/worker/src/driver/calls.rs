//! Calls into the driver that the worker makes itself, with Rust's arguments and results.
//!
//! Objects travel as addresses (`usize`). All of them come from this table: the driver returned
//! them to us and we keep them until they are destroyed; none is ever taken from a record. That is
//! the invariant behind every `SAFETY` below that says "ours".

use core::ffi::{CStr, c_int, c_uint, c_void};

use cuda_abi::types::{
    CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END, CUcontext,
    CUdevice, CUdevice_attribute, CUevent, CUfunction, CUhostFn, CUjit_option, CUkernel,
    CUlaunchAttribute, CUlaunchConfig, CUlibrary, CUlimit, CUmodule, CUresult, CUstream,
    CUstreamCallback, CUuuid,
};

use super::Table;
use crate::denials;

/// `CU_EVENT_DISABLE_TIMING`
const EVENT_WITHOUT_TIMING: c_uint = 2;
/// `CU_STREAM_NON_BLOCKING`
const STREAM_NON_BLOCKING: c_uint = 1;
/// `CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP`
const REGISTER_FOR_ALL: c_uint = 3;

pub(super) type Result<T> = core::result::Result<T, CUresult>;

pub(super) fn ok(status: CUresult) -> Result<()> {
    if status == CUresult::CUDA_SUCCESS {
        Ok(())
    } else {
        denials::hear(status);
        Err(status)
    }
}

pub(super) fn size(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)
}

/// Shape of a launch, already decoded.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
}

impl Launch {
    /// Threads of the whole grid.
    pub fn threads(&self) -> u64 {
        let sizes = self.grid.iter().chain(&self.block);
        sizes.fold(1, |all: u64, &size| all.saturating_mul(size.into()))
    }

    /// As the driver takes it, with attributes that outlive the call.
    pub(super) fn config(
        &self,
        stream: usize,
        attributes: &mut [CUlaunchAttribute],
    ) -> CUlaunchConfig {
        let ([gx, gy, gz], [bx, by, bz]) = (self.grid, self.block);
        CUlaunchConfig {
            gridDimX: gx,
            gridDimY: gy,
            gridDimZ: gz,
            blockDimX: bx,
            blockDimY: by,
            blockDimZ: bz,
            sharedMemBytes: self.shared_bytes,
            hStream: stream as CUstream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: c_uint::try_from(attributes.len()).unwrap_or(c_uint::MAX),
        }
    }
}

/// Parameters of a load: options in pairs of id and scalar, and buffers for the logs.
#[derive(Debug, Default)]
pub struct JitOptions {
    /// Id and value of each scalar option.
    pub scalars: Vec<(u32, u64)>,
    /// Room for the compiler's information, empty if not wanted; its length is what was written.
    pub info_log: Vec<u8>,
    /// The same for errors.
    pub error_log: Vec<u8>,
    /// Whether the time is wanted, and then how long it took, in milliseconds.
    pub wall_time: Option<f32>,
}

/// The C form of [`JitOptions`]: two arrays, of which the driver writes some values back.
#[derive(Debug)]
pub(super) struct JitArrays {
    pub(super) ids: Vec<CUjit_option>,
    pub(super) values: Vec<*mut c_void>,
    info_size: Option<usize>,
    error_size: Option<usize>,
    wall_time: Option<usize>,
}

impl JitArrays {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the driver reads scalars of 32 bits"
    )]
    pub(super) fn new(options: &mut JitOptions) -> Self {
        let mut arrays = Self {
            ids: Vec::new(),
            values: Vec::new(),
            info_size: None,
            error_size: None,
            wall_time: None,
        };
        for &(id, value) in &options.scalars {
            arrays.push(CUjit_option(id), value as usize as *mut c_void);
        }
        if options.wall_time.is_some() {
            arrays.wall_time =
                Some(arrays.push(CUjit_option::CU_JIT_WALL_TIME, core::ptr::null_mut()));
        }
        if !options.info_log.is_empty() {
            let log = options.info_log.as_mut_ptr().cast();
            arrays.push(CUjit_option::CU_JIT_INFO_LOG_BUFFER, log);
            let size = options.info_log.len() as *mut c_void;
            let id = CUjit_option::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES;
            arrays.info_size = Some(arrays.push(id, size));
        }
        if !options.error_log.is_empty() {
            let log = options.error_log.as_mut_ptr().cast();
            arrays.push(CUjit_option::CU_JIT_ERROR_LOG_BUFFER, log);
            let size = options.error_log.len() as *mut c_void;
            let id = CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES;
            arrays.error_size = Some(arrays.push(id, size));
        }
        arrays
    }

    fn push(&mut self, id: CUjit_option, value: *mut c_void) -> usize {
        self.ids.push(id);
        self.values.push(value);
        self.values.len() - 1
    }

    pub(super) fn count(&self) -> c_uint {
        c_uint::try_from(self.ids.len()).unwrap_or(c_uint::MAX)
    }

    /// What the driver wrote back.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the driver writes 32 bits into the slot"
    )]
    pub(super) fn finish(&self, options: &mut JitOptions) {
        let written =
            |index: Option<usize>| index.map_or(0, |index| self.values[index].addr() as u32);
        let cut = |log: &mut Vec<u8>, size: u32| {
            log.truncate(usize::try_from(size).unwrap_or(usize::MAX));
            // Drivers disagree about counting the terminator; the text ends at the first one.
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            log.truncate(end);
        };
        cut(&mut options.info_log, written(self.info_size));
        cut(&mut options.error_log, written(self.error_size));
        if self.wall_time.is_some() {
            options.wall_time = Some(f32::from_bits(written(self.wall_time)));
        }
    }
}

impl Table {
    pub(crate) fn init(&self) -> Result<()> {
        let function = self.cuInit()?;
        // SAFETY: no pointers.
        ok(unsafe { function(0) })
    }

    pub(crate) fn driver_version(&self) -> Result<i32> {
        let function = self.cuDriverGetVersion()?;
        let mut version: c_int = 0;
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut version) })?;
        Ok(version)
    }

    pub(crate) fn device_count(&self) -> Result<i32> {
        let function = self.cuDeviceGetCount()?;
        let mut count: c_int = 0;
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut count) })?;
        Ok(count)
    }

    pub(crate) fn device(&self, ordinal: i32) -> Result<CUdevice> {
        let function = self.cuDeviceGet()?;
        let mut device: CUdevice = 0;
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut device, ordinal) })?;
        Ok(device)
    }

    pub(crate) fn device_name(&self, device: CUdevice, name: &mut [u8; 256]) -> Result<()> {
        let function = self.cuDeviceGetName()?;
        // SAFETY: room for the length given.
        ok(unsafe { function(name.as_mut_ptr().cast(), 256, device) })
    }

    pub(crate) fn device_uuid(&self, device: CUdevice) -> Result<[u8; 16]> {
        let function = self.cuDeviceGetUuid_v2()?;
        let mut uuid = CUuuid::default();
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut uuid, device) })?;
        Ok(uuid.bytes)
    }

    pub(crate) fn device_memory(&self, device: CUdevice) -> Result<u64> {
        let function = self.cuDeviceTotalMem_v2()?;
        let mut bytes = 0usize;
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut bytes, device) })?;
        Ok(bytes as u64)
    }

    pub(crate) fn device_attribute(&self, device: CUdevice, id: u32) -> Result<i32> {
        let function = self.cuDeviceGetAttribute()?;
        let mut value: c_int = 0;
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut value, CUdevice_attribute(id), device) })?;
        Ok(value)
    }

    /// The major numbers of so many devices' compute capabilities, each once.
    pub(super) fn majors(&self, count: c_int) -> Result<Vec<u32>> {
        let id = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR.0;
        let mut majors = Vec::new();
        for ordinal in 0..count {
            let major = self.device_attribute(self.device(ordinal)?, id)?;
            majors.extend(u32::try_from(major));
        }
        majors.sort_unstable();
        majors.dedup();
        Ok(majors)
    }

    pub(crate) fn retain_primary(&self, device: CUdevice, flags: u32) -> Result<usize> {
        if flags != 0 {
            let function = self.cuDevicePrimaryCtxSetFlags_v2()?;
            // SAFETY: no pointers.
            ok(unsafe { function(device, flags) })?;
        }
        let function = self.cuDevicePrimaryCtxRetain()?;
        let mut context: CUcontext = core::ptr::null_mut();
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut context, device) })?;
        Ok(context.addr())
    }

    pub(crate) fn release_primary(&self, device: CUdevice) -> Result<()> {
        let function = self.cuDevicePrimaryCtxRelease_v2()?;
        // SAFETY: no pointers.
        ok(unsafe { function(device) })
    }

    pub(crate) fn reset_primary(&self, device: CUdevice) -> Result<()> {
        let function = self.cuDevicePrimaryCtxReset_v2()?;
        // SAFETY: no pointers.
        ok(unsafe { function(device) })
    }

    /// A new context, which is not current afterwards.
    pub(crate) fn create_context(&self, device: CUdevice, flags: u32) -> Result<usize> {
        let function = self.cuCtxCreate_v2()?;
        let pop = self.cuCtxPopCurrent_v2()?;
        let mut context: CUcontext = core::ptr::null_mut();
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut context, flags, device) })?;
        let mut popped: CUcontext = core::ptr::null_mut();
        // SAFETY: a pointer to a local.
        ok(unsafe { pop(&raw mut popped) })?;
        Ok(context.addr())
    }

    pub(crate) fn destroy_context(&self, context: usize) -> Result<()> {
        let function = self.cuCtxDestroy_v2()?;
        // SAFETY: ours; its owner has taken it out of every table.
        ok(unsafe { function(context as CUcontext) })
    }

    pub(crate) fn set_current(&self, context: usize) -> Result<()> {
        let function = self.cuCtxSetCurrent()?;
        // SAFETY: ours, or null.
        ok(unsafe { function(context as CUcontext) })
    }

    pub(crate) fn create_stream(&self, non_blocking: bool) -> Result<usize> {
        let function = self.cuStreamCreate()?;
        let mut stream: CUstream = core::ptr::null_mut();
        let flags = if non_blocking { STREAM_NON_BLOCKING } else { 0 };
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut stream, flags) })?;
        Ok(stream.addr())
    }

    pub(crate) fn query_stream(&self, stream: usize) -> Result<()> {
        let function = self.cuStreamQuery()?;
        // SAFETY: ours, or one of the default streams.
        ok(unsafe { function(stream as CUstream) })
    }

    pub(crate) fn synchronize_stream(&self, stream: usize) -> Result<()> {
        let function = self.cuStreamSynchronize()?;
        // SAFETY: ours, or one of the default streams.
        ok(unsafe { function(stream as CUstream) })
    }

    pub(crate) fn create_event(&self) -> Result<usize> {
        let function = self.cuEventCreate()?;
        let mut event: CUevent = core::ptr::null_mut();
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut event, EVENT_WITHOUT_TIMING) })?;
        Ok(event.addr())
    }

    pub(crate) fn record_event(&self, event: usize, stream: usize) -> Result<()> {
        let function = self.cuEventRecord()?;
        // SAFETY: ours.
        ok(unsafe { function(event as CUevent, stream as CUstream) })
    }

    pub(crate) fn wait_event(&self, stream: usize, event: usize, flags: u32) -> Result<()> {
        let function = self.cuStreamWaitEvent()?;
        // SAFETY: ours.
        ok(unsafe { function(stream as CUstream, event as CUevent, flags) })
    }

    pub(crate) fn query_event(&self, event: usize) -> Result<()> {
        let function = self.cuEventQuery()?;
        // SAFETY: ours.
        ok(unsafe { function(event as CUevent) })
    }

    pub(crate) fn synchronize_event(&self, event: usize) -> Result<()> {
        let function = self.cuEventSynchronize()?;
        // SAFETY: ours.
        ok(unsafe { function(event as CUevent) })
    }

    pub(crate) fn allocate(&self, bytes: u64) -> Result<u64> {
        let function = self.cuMemAlloc_v2()?;
        let mut address = 0;
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut address, size(bytes)?) })?;
        Ok(address)
    }

    pub(crate) fn allocate_pitched(
        &self,
        width: u64,
        height: u64,
        element: u32,
    ) -> Result<(u64, u64)> {
        let function = self.cuMemAllocPitch_v2()?;
        let (mut address, mut pitch) = (0, 0usize);
        let (width, height) = (size(width)?, size(height)?);
        // SAFETY: pointers to locals.
        ok(unsafe { function(&raw mut address, &raw mut pitch, width, height, element) })?;
        Ok((address, pitch as u64))
    }

    pub(crate) fn free(&self, address: u64) -> Result<()> {
        let function = self.cuMemFree_v2()?;
        // SAFETY: an address, which the driver looks up.
        ok(unsafe { function(address) })
    }

    pub(crate) fn memory_info(&self) -> Result<(u64, u64)> {
        let function = self.cuMemGetInfo_v2()?;
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: pointers to locals.
        ok(unsafe { function(&raw mut free, &raw mut total) })?;
        Ok((free as u64, total as u64))
    }

    /// The current context's device.
    pub(crate) fn current_device(&self) -> Result<CUdevice> {
        let function = self.cuCtxGetDevice()?;
        let mut device = 0;
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut device) })?;
        Ok(device)
    }

    /// One of the current context's limits.
    pub(crate) fn context_limit(&self, limit: CUlimit) -> Result<u64> {
        let function = self.cuCtxGetLimit()?;
        let mut value = 0usize;
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut value, limit) })?;
        Ok(value as u64)
    }

    pub(crate) fn set_context_limit(&self, limit: CUlimit, value: u64) -> Result<()> {
        let function = self.cuCtxSetLimit()?;
        // SAFETY: numbers alone.
        ok(unsafe { function(limit, size(value)?) })
    }

    /// Registers host memory for all contexts and devices.
    pub(crate) fn register(&self, address: u64, bytes: u64) -> Result<()> {
        let function = self.cuMemHostRegister_v2()?;
        // SAFETY: part of the arena, which stays mapped until the process ends; whatever a device
        // writes there, nobody holds a reference to.
        ok(unsafe {
            function(
                size(address)? as *mut c_void,
                size(bytes)?,
                REGISTER_FOR_ALL,
            )
        })
    }

    pub(crate) fn unregister(&self, address: u64) -> Result<()> {
        let function = self.cuMemHostUnregister()?;
        // SAFETY: an address, which the driver looks up.
        ok(unsafe { function(size(address)? as *mut c_void) })
    }

    /// Copies between addresses that are both device memory or the arena, checked by the caller.
    pub(crate) fn copy(&self, to: u64, from: u64, bytes: u64, stream: usize) -> Result<()> {
        let function = self.cuMemcpyAsync()?;
        // SAFETY: both ranges belong to this client and are mapped.
        ok(unsafe { function(to, from, size(bytes)?, stream as CUstream) })
    }

    /// Copies from the arena to device memory, checked by the caller.
    pub(crate) fn copy_in(&self, to: u64, from: u64, bytes: u64, stream: usize) -> Result<()> {
        let function = self.cuMemcpyHtoDAsync_v2()?;
        let from = size(from)? as *const c_void;
        // SAFETY: the source is part of the arena, which stays mapped.
        ok(unsafe { function(to, from, size(bytes)?, stream as CUstream) })
    }

    /// Copies from device memory to the arena, checked by the caller.
    pub(crate) fn copy_out(&self, to: u64, from: u64, bytes: u64, stream: usize) -> Result<()> {
        let function = self.cuMemcpyDtoHAsync_v2()?;
        let to = size(to)? as *mut c_void;
        // SAFETY: the target is part of the arena, which stays mapped.
        ok(unsafe { function(to, from, size(bytes)?, stream as CUstream) })
    }

    /// Copies private bytes to device memory. The driver has taken the bytes when this returns: that
    /// is what an asynchronous copy from pageable memory means.
    pub(crate) fn copy_from_bytes(&self, to: u64, from: &[u8], stream: usize) -> Result<()> {
        let function = self.cuMemcpyHtoDAsync_v2()?;
        // SAFETY: the source is a slice.
        ok(unsafe { function(to, from.as_ptr().cast(), from.len(), stream as CUstream) })
    }

    /// Copies device memory into private bytes and waits until they are there; calls `issued` before it waits.
    pub(crate) fn copy_to_bytes(
        &self,
        to: &mut [u8],
        from: u64,
        stream: usize,
        issued: impl FnOnce(),
    ) -> Result<()> {
        let function = self.cuMemcpyDtoHAsync_v2()?;
        // SAFETY: the target is a slice, and the stream is waited for before it is used again.
        let copied =
            ok(unsafe { function(to.as_mut_ptr().cast(), from, to.len(), stream as CUstream) });
        issued();
        // Also after an error: nothing may still be writing when the caller goes on.
        let waited = self.synchronize_stream(stream);
        copied.and(waited)
    }

    /// Fills `count` elements of 1, 2 or 4 bytes.
    pub(crate) fn fill(
        &self,
        to: u64,
        value: u32,
        element: u32,
        count: u64,
        stream: usize,
    ) -> Result<()> {
        let (count, stream) = (size(count)?, stream as CUstream);
        let [low, high, ..] = value.to_le_bytes();
        let status = match element {
            1 => {
                let function = self.cuMemsetD8Async()?;
                // SAFETY: device memory, which the driver looks up.
                unsafe { function(to, low, count, stream) }
            }
            2 => {
                let function = self.cuMemsetD16Async()?;
                // SAFETY: as above.
                unsafe { function(to, u16::from_le_bytes([low, high]), count, stream) }
            }
            4 => {
                let function = self.cuMemsetD32Async()?;
                // SAFETY: as above.
                unsafe { function(to, value, count, stream) }
            }
            _ => CUresult::CUDA_ERROR_INVALID_VALUE,
        };
        ok(status)
    }

    /// Fills `height` rows of `width` elements, `pitch` bytes apart.
    pub(crate) fn fill_rows(
        &self,
        to: u64,
        pitch: u64,
        value: u32,
        element: u32,
        (width, height): (u64, u64),
        stream: usize,
    ) -> Result<()> {
        let (pitch, width, height) = (size(pitch)?, size(width)?, size(height)?);
        let stream = stream as CUstream;
        let [low, high, ..] = value.to_le_bytes();
        let status = match element {
            1 => {
                let function = self.cuMemsetD2D8Async()?;
                // SAFETY: device memory, which the driver looks up.
                unsafe { function(to, pitch, low, width, height, stream) }
            }
            2 => {
                let function = self.cuMemsetD2D16Async()?;
                let value = u16::from_le_bytes([low, high]);
                // SAFETY: as above.
                unsafe { function(to, pitch, value, width, height, stream) }
            }
            4 => {
                let function = self.cuMemsetD2D32Async()?;
                // SAFETY: as above.
                unsafe { function(to, pitch, value, width, height, stream) }
            }
            _ => CUresult::CUDA_ERROR_INVALID_VALUE,
        };
        ok(status)
    }

    /// Loads a module; the image was checked to end where it says.
    pub(crate) fn load_module(&self, image: &[u8], options: &mut JitOptions) -> Result<usize> {
        let function = self.cuModuleLoadDataEx()?;
        let mut module: CUmodule = core::ptr::null_mut();
        let mut arrays = JitArrays::new(options);
        let (ids, values) = (arrays.ids.as_mut_ptr(), arrays.values.as_mut_ptr());
        // SAFETY: the image is complete, the arrays have `count` entries, and the logs they point to
        // have the sizes that they say.
        let status = unsafe {
            function(
                &raw mut module,
                image.as_ptr().cast(),
                arrays.count(),
                ids,
                values,
            )
        };
        arrays.finish(options);
        ok(status)?;
        Ok(module.addr())
    }

    pub(crate) fn unload_module(&self, module: usize) -> Result<()> {
        let function = self.cuModuleUnload()?;
        // SAFETY: ours.
        ok(unsafe { function(module as CUmodule) })
    }

    pub(crate) fn module_function(&self, module: usize, name: &CStr) -> Result<usize> {
        let lookup = self.cuModuleGetFunction()?;
        let mut function: CUfunction = core::ptr::null_mut();
        // SAFETY: ours, and a C string.
        ok(unsafe { lookup(&raw mut function, module as CUmodule, name.as_ptr()) })?;
        Ok(function.addr())
    }

    pub(crate) fn module_global(&self, module: usize, name: &CStr) -> Result<(u64, u64)> {
        let lookup = self.cuModuleGetGlobal_v2()?;
        let (mut address, mut bytes) = (0, 0usize);
        let (to, len) = (&raw mut address, &raw mut bytes);
        // SAFETY: ours, and a C string.
        ok(unsafe { lookup(to, len, module as CUmodule, name.as_ptr()) })?;
        Ok((address, bytes as u64))
    }

    /// Offset and size of a function's parameter; `INVALID_VALUE` past the last.
    pub(crate) fn function_parameter(
        &self,
        function: usize,
        index: usize,
    ) -> Result<(usize, usize)> {
        let lookup = self.cuFuncGetParamInfo()?;
        let (mut offset, mut bytes) = (0, 0);
        let (to, len) = (&raw mut offset, &raw mut bytes);
        // SAFETY: ours.
        ok(unsafe { lookup(function as CUfunction, index, to, len) })?;
        Ok((offset, bytes))
    }

    /// Loads a library; the image was checked to end where it says.
    pub(crate) fn load_library(&self, image: &[u8], options: &mut JitOptions) -> Result<usize> {
        let function = self.cuLibraryLoadData()?;
        let mut library: CUlibrary = core::ptr::null_mut();
        let mut arrays = JitArrays::new(options);
        let (ids, values) = (arrays.ids.as_mut_ptr(), arrays.values.as_mut_ptr());
        let (none, nothing) = (core::ptr::null_mut(), core::ptr::null_mut());
        let image = image.as_ptr().cast();
        // SAFETY: as in `load_module`; there are no library options.
        let status = unsafe {
            function(
                &raw mut library,
                image,
                ids,
                values,
                arrays.count(),
                none,
                nothing,
                0,
            )
        };
        arrays.finish(options);
        ok(status)?;
        Ok(library.addr())
    }

    pub(crate) fn unload_library(&self, library: usize) -> Result<()> {
        let function = self.cuLibraryUnload()?;
        // SAFETY: ours.
        ok(unsafe { function(library as CUlibrary) })
    }

    pub(crate) fn library_kernel(&self, library: usize, name: &CStr) -> Result<usize> {
        let lookup = self.cuLibraryGetKernel()?;
        let mut kernel: CUkernel = core::ptr::null_mut();
        // SAFETY: ours, and a C string.
        ok(unsafe { lookup(&raw mut kernel, library as CUlibrary, name.as_ptr()) })?;
        Ok(kernel.addr())
    }

    pub(crate) fn library_module(&self, library: usize) -> Result<usize> {
        let lookup = self.cuLibraryGetModule()?;
        let mut module: CUmodule = core::ptr::null_mut();
        // SAFETY: ours.
        ok(unsafe { lookup(&raw mut module, library as CUlibrary) })?;
        Ok(module.addr())
    }

    pub(crate) fn library_global(&self, library: usize, name: &CStr) -> Result<(u64, u64)> {
        let lookup = self.cuLibraryGetGlobal()?;
        let (mut address, mut bytes) = (0, 0usize);
        let (to, len) = (&raw mut address, &raw mut bytes);
        // SAFETY: ours, and a C string.
        ok(unsafe { lookup(to, len, library as CUlibrary, name.as_ptr()) })?;
        Ok((address, bytes as u64))
    }

    /// Offset and size of a kernel's parameter; `INVALID_VALUE` past the last.
    pub(crate) fn kernel_parameter(&self, kernel: usize, index: usize) -> Result<(usize, usize)> {
        let lookup = self.cuKernelGetParamInfo()?;
        let (mut offset, mut bytes) = (0, 0);
        let (to, len) = (&raw mut offset, &raw mut bytes);
        // SAFETY: ours.
        ok(unsafe { lookup(kernel as CUkernel, index, to, len) })?;
        Ok((offset, bytes))
    }

    pub(crate) fn kernel_function(&self, kernel: usize) -> Result<usize> {
        let lookup = self.cuKernelGetFunction()?;
        let mut function: CUfunction = core::ptr::null_mut();
        // SAFETY: ours.
        ok(unsafe { lookup(&raw mut function, kernel as CUkernel) })?;
        Ok(function.addr())
    }

    /// Launches with packed parameters. `attributes` hold no pointers and no handles.
    pub(crate) fn launch(
        &self,
        function: usize,
        stream: usize,
        shape: &Launch,
        parameters: &[u8],
        attributes: &mut [CUlaunchAttribute],
    ) -> Result<()> {
        let function = function as CUfunction;
        let mut len = parameters.len();
        let mut packed = [
            CU_LAUNCH_PARAM_BUFFER_POINTER,
            parameters.as_ptr().cast_mut().cast(),
            CU_LAUNCH_PARAM_BUFFER_SIZE,
            (&raw mut len).cast(),
            CU_LAUNCH_PARAM_END,
        ];
        let extra = if parameters.is_empty() {
            core::ptr::null_mut()
        } else {
            packed.as_mut_ptr()
        };
        let none = core::ptr::null_mut();
        let ([gx, gy, gz], [bx, by, bz]) = (shape.grid, shape.block);
        if attributes.is_empty() {
            let launch = self.cuLaunchKernel()?;
            let (shared, stream) = (shape.shared_bytes, stream as CUstream);
            // SAFETY: ours; the parameters are a slice that the driver copies before it returns.
            return ok(unsafe {
                launch(
                    function, gx, gy, gz, bx, by, bz, shared, stream, none, extra,
                )
            });
        }
        let launch = self.cuLaunchKernelEx()?;
        let config = shape.config(stream, attributes);
        // SAFETY: as above; the attributes are a slice of that length.
        ok(unsafe { launch(&raw const config, function, none, extra) })
    }

    /// Runs `function` in stream order.
    ///
    /// # Safety
    ///
    /// `function` must be callable with `data` once, on any thread, at any later time.
    pub(crate) unsafe fn launch_host(
        &self,
        stream: usize,
        function: CUhostFn,
        data: *mut c_void,
    ) -> Result<()> {
        let launch = self.cuLaunchHostFunc()?;
        // SAFETY: the caller's promise.
        ok(unsafe { launch(stream as CUstream, function, data) })
    }

    /// Runs `callback` in stream order, also if the stream's work has failed.
    ///
    /// # Safety
    ///
    /// `callback` must be callable with `data` once, on any thread, at any later time.
    pub(crate) unsafe fn add_callback(
        &self,
        stream: usize,
        callback: CUstreamCallback,
        data: *mut c_void,
    ) -> Result<()> {
        let add = self.cuStreamAddCallback()?;
        // SAFETY: the caller's promise.
        ok(unsafe { add(stream as CUstream, callback, data, 0) })
    }
}
