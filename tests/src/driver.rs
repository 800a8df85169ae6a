//! The Driver API as a program sees it: a library found by the loader, called by name.
//!
//! The one module here with `unsafe`. Its callers pass numbers and slices; an address that is wrong is
//! the driver's to refuse, which is what tests are about.
// Handles are pointers in the C API only; nothing here or behind it looks through them unchecked.
#![allow(clippy::not_unsafe_ptr_arg_deref)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

use cuda_abi::sig;
use cuda_abi::types::{
    CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUevent_flags, CUfunction,
    CUhostFn, CUipcEventHandle, CUipcMemHandle, CUmemAccess_flags, CUmemAccessDesc,
    CUmemAllocationProp, CUmemAllocationType, CUmemLocation, CUmemLocationType, CUmodule, CUresult,
    CUstream,
};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// Kernels in our own PTX.
pub const KERNELS: &str = concat!(include_str!("kernels.ptx"), "\0");

/// What a call returns when it fails.
pub type Failure = CUresult;

/// An outcome as the driver gave it.
pub type Outcome<T> = Result<T, Failure>;

macro_rules! functions {
    ($($name:ident),* $(,)?) => {
        #[allow(non_snake_case)]
        struct Functions {
            $($name: sig::$name,)*
        }

        impl Functions {
            fn find(library: &Library) -> Result<Self, String> {
                Ok(Self {
                    $($name: {
                        // SAFETY: the name's C signature is the declared one.
                        let symbol = unsafe { library.get::<sig::$name>(concat!(stringify!($name), "\0")) };
                        *symbol.map_err(|error| error.to_string())?
                    },)*
                })
            }
        }
    };
}

functions! {
    cuInit, cuDriverGetVersion, cuDeviceGet, cuDeviceGetCount, cuDeviceGetName, cuDeviceTotalMem_v2,
    cuDeviceGetAttribute, cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRelease_v2, cuCtxCreate_v2,
    cuCtxDestroy_v2, cuCtxSetCurrent, cuCtxGetCurrent, cuCtxSynchronize, cuModuleLoadData, cuModuleUnload,
    cuModuleGetFunction, cuMemAllocAsync, cuMemFreeAsync, cuMemAddressReserve, cuMemAddressFree, cuMemCreate,
    cuMemRelease, cuMemMap, cuMemUnmap, cuMemSetAccess, cuMemAlloc_v2, cuMemFree_v2, cuMemGetInfo_v2, cuMemHostAlloc, cuMemFreeHost,
    cuMemcpyHtoD_v2, cuMemcpyDtoH_v2, cuMemcpyDtoDAsync_v2, cuMemcpyHtoDAsync_v2, cuMemcpyDtoHAsync_v2,
    cuMemsetD32_v2, cuMemsetD8Async, cuStreamCreate, cuStreamDestroy_v2, cuStreamQuery, cuStreamSynchronize, cuStreamWaitEvent,
    cuEventCreate, cuEventRecord, cuEventSynchronize, cuEventDestroy_v2, cuLaunchKernel, cuLaunchHostFunc,
    cuGetErrorName, cuIpcGetMemHandle, cuIpcOpenMemHandle_v2, cuIpcCloseMemHandle, cuIpcGetEventHandle,
    cuIpcOpenEventHandle,
}

/// A kernel argument.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    Word(u64),
    Int(u32),
}

/// A driver library, loaded.
pub struct Gpu {
    calls: Functions,
    library: Library,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Gpu({:?})", self.library)
    }
}

/// Turns what a call returned into a result.
fn check(result: CUresult) -> Outcome<()> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        error => Err(error),
    }
}

impl Gpu {
    /// The `libcuda.so.1` that the loader finds, as a program opens it.
    pub fn find() -> Result<Self, String> {
        Self::open(Path::new("libcuda.so.1"))
    }

    /// The library at `path`.
    pub fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: a driver library has no initialiser with demands on its caller.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|error| format!("cannot load {}: {error}", path.display()))?;
        let calls = Functions::find(&library)?;
        Ok(Self { calls, library })
    }

    /// Closes the library as `dlclose` does.
    pub fn close(self) -> Result<(), String> {
        self.library.close().map_err(|error| error.to_string())
    }

    pub fn init(&self) -> Outcome<()> {
        // SAFETY: no pointers.
        check(unsafe { (self.calls.cuInit)(0) })
    }

    pub fn version(&self) -> Outcome<i32> {
        let mut version = 0;
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuDriverGetVersion)(&raw mut version) })?;
        Ok(version)
    }

    pub fn device_count(&self) -> Outcome<i32> {
        let mut count = 0;
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuDeviceGetCount)(&raw mut count) })?;
        Ok(count)
    }

    pub fn device(&self, ordinal: c_int) -> Outcome<CUdevice> {
        let mut device = 0;
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuDeviceGet)(&raw mut device, ordinal) })?;
        Ok(device)
    }

    pub fn device_name(&self, device: CUdevice) -> Outcome<String> {
        let mut name = [0_u8; 256];
        let length = c_int::try_from(name.len()).expect("256 fits");
        // SAFETY: the buffer has the length that is passed.
        check(unsafe {
            (self.calls.cuDeviceGetName)(name.as_mut_ptr().cast::<c_char>(), length, device)
        })?;
        let text = CStr::from_bytes_until_nul(&name).map_err(|_| CUresult::CUDA_ERROR_UNKNOWN)?;
        Ok(text.to_string_lossy().into_owned())
    }

    pub fn device_memory(&self, device: CUdevice) -> Outcome<usize> {
        let mut bytes = 0;
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuDeviceTotalMem_v2)(&raw mut bytes, device) })?;
        Ok(bytes)
    }

    pub fn attribute(&self, attribute: CUdevice_attribute, device: CUdevice) -> Outcome<i32> {
        let mut value = 0;
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuDeviceGetAttribute)(&raw mut value, attribute, device) })?;
        Ok(value)
    }

    /// Initialises, and makes the first device's primary context current.
    pub fn start(&self) -> Outcome<CUcontext> {
        self.init()?;
        let device = self.device(0)?;
        let mut context = null_mut();
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuDevicePrimaryCtxRetain)(&raw mut context, device) })?;
        self.set_current(context)?;
        Ok(context)
    }

    pub fn release_primary(&self, device: CUdevice) -> Outcome<()> {
        // SAFETY: no pointers.
        check(unsafe { (self.calls.cuDevicePrimaryCtxRelease_v2)(device) })
    }

    pub fn create_context(&self, device: CUdevice) -> Outcome<CUcontext> {
        let mut context = null_mut();
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuCtxCreate_v2)(&raw mut context, 0, device) })?;
        Ok(context)
    }

    pub fn destroy_context(&self, context: CUcontext) -> Outcome<()> {
        // SAFETY: a handle is the driver's to check.
        check(unsafe { (self.calls.cuCtxDestroy_v2)(context) })
    }

    pub fn set_current(&self, context: CUcontext) -> Outcome<()> {
        // SAFETY: a handle is the driver's to check.
        check(unsafe { (self.calls.cuCtxSetCurrent)(context) })
    }

    pub fn current(&self) -> Outcome<CUcontext> {
        let mut context = null_mut();
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuCtxGetCurrent)(&raw mut context) })?;
        Ok(context)
    }

    pub fn synchronize(&self) -> Outcome<()> {
        // SAFETY: no pointers.
        check(unsafe { (self.calls.cuCtxSynchronize)() })
    }

    /// Loads PTX text that ends with a NUL.
    pub fn load(&self, ptx: &str) -> Outcome<CUmodule> {
        assert!(ptx.ends_with('\0'), "PTX is passed as a C string");
        let mut module = null_mut();
        // SAFETY: the image is a C string, as asserted; the result is a local.
        check(unsafe {
            (self.calls.cuModuleLoadData)(&raw mut module, ptx.as_ptr().cast::<c_void>())
        })?;
        Ok(module)
    }

    pub fn unload(&self, module: CUmodule) -> Outcome<()> {
        // SAFETY: a handle is the driver's to check.
        check(unsafe { (self.calls.cuModuleUnload)(module) })
    }

    pub fn function(&self, module: CUmodule, name: &str) -> Outcome<CUfunction> {
        let name = CString::new(name).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let mut function = null_mut();
        // SAFETY: the name is a C string, the result a local, the handle the driver's to check.
        check(unsafe {
            (self.calls.cuModuleGetFunction)(&raw mut function, module, name.as_ptr())
        })?;
        Ok(function)
    }

    pub fn allocate(&self, bytes: usize) -> Outcome<CUdeviceptr> {
        let mut address = 0;
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuMemAlloc_v2)(&raw mut address, bytes) })?;
        Ok(address)
    }

    /// What opens an allocation in another process.
    pub fn export(&self, address: CUdeviceptr) -> Outcome<[u8; 64]> {
        let mut handle = CUipcMemHandle { reserved: [0; 64] };
        // SAFETY: the pointer is to a local; an address is the driver's to check.
        check(unsafe { (self.calls.cuIpcGetMemHandle)(&raw mut handle, address) })?;
        Ok(handle.reserved)
    }

    /// Where another process's allocation is from now on.
    pub fn import(&self, handle: [u8; 64]) -> Outcome<CUdeviceptr> {
        let (mut address, handle) = (0, CUipcMemHandle { reserved: handle });
        // SAFETY: the pointer is to a local; a handle is the driver's to check.
        check(unsafe { (self.calls.cuIpcOpenMemHandle_v2)(&raw mut address, handle, 1) })?;
        Ok(address)
    }

    /// Closes it.
    pub fn close_import(&self, address: CUdeviceptr) -> Outcome<()> {
        // SAFETY: an address is the driver's to check.
        check(unsafe { (self.calls.cuIpcCloseMemHandle)(address) })
    }

    pub fn free(&self, address: CUdeviceptr) -> Outcome<()> {
        // SAFETY: an address is the driver's to check.
        check(unsafe { (self.calls.cuMemFree_v2)(address) })
    }

    /// Memory of the default pool, in the order of the default stream.
    pub fn allocate_async(&self, bytes: usize) -> Outcome<CUdeviceptr> {
        let mut address = 0;
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuMemAllocAsync)(&raw mut address, bytes, null_mut()) })?;
        Ok(address)
    }

    pub fn free_async(&self, address: CUdeviceptr) -> Outcome<()> {
        // SAFETY: an address is the driver's to check.
        check(unsafe { (self.calls.cuMemFreeAsync)(address, null_mut()) })
    }

    /// New memory of device 0 at a new reserved address.
    pub fn map(&self, bytes: usize) -> Outcome<CUdeviceptr> {
        let location = CUmemLocation {
            type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
            id: 0,
        };
        let properties = CUmemAllocationProp {
            type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            requestedHandleTypes: Default::default(),
            location,
            win32HandleMetaData: null_mut(),
            allocFlags: Default::default(),
        };
        let wanted = CUmemAccessDesc {
            location,
            flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        let (mut memory, mut address) = (0, 0);
        // SAFETY: the pointers are to locals.
        check(unsafe {
            (self.calls.cuMemCreate)(&raw mut memory, bytes, &raw const properties, 0)
        })?;
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuMemAddressReserve)(&raw mut address, bytes, 0, 0, 0) })?;
        // SAFETY: addresses and handles are the driver's to check.
        check(unsafe { (self.calls.cuMemMap)(address, bytes, 0, memory, 0) })?;
        // SAFETY: as above.
        check(unsafe { (self.calls.cuMemRelease)(memory) })?;
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuMemSetAccess)(address, bytes, &raw const wanted, 1) })?;
        Ok(address)
    }

    /// Takes back what [`Gpu::map`] made.
    pub fn unmap(&self, address: CUdeviceptr, bytes: usize) -> Outcome<()> {
        // SAFETY: addresses are the driver's to check.
        check(unsafe { (self.calls.cuMemUnmap)(address, bytes) })?;
        // SAFETY: as above.
        check(unsafe { (self.calls.cuMemAddressFree)(address, bytes) })
    }

    /// Free and total bytes.
    pub fn memory(&self) -> Outcome<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the pointers are to locals.
        check(unsafe { (self.calls.cuMemGetInfo_v2)(&raw mut free, &raw mut total) })?;
        Ok((free, total))
    }

    /// Pinned, mapped host memory of at least `bytes` bytes, as its address.
    pub fn allocate_host(&self, bytes: usize) -> Outcome<u64> {
        const PORTABLE_AND_MAPPED: c_uint = 3;
        let mut address = null_mut();
        // SAFETY: the pointer is to a local.
        check(unsafe {
            (self.calls.cuMemHostAlloc)(&raw mut address, bytes, PORTABLE_AND_MAPPED)
        })?;
        Ok(address.addr() as u64)
    }

    pub fn free_host(&self, address: u64) -> Outcome<()> {
        // SAFETY: an address is the driver's to check.
        check(unsafe { (self.calls.cuMemFreeHost)(pointer(address)) })
    }

    pub fn upload(&self, to: CUdeviceptr, from: &[u8]) -> Outcome<()> {
        // SAFETY: the source is a slice of the length that is passed.
        check(unsafe {
            (self.calls.cuMemcpyHtoD_v2)(to, from.as_ptr().cast::<c_void>(), from.len())
        })
    }

    pub fn download(&self, to: &mut [u8], from: CUdeviceptr) -> Outcome<()> {
        // SAFETY: the target is a slice of the length that is passed.
        check(unsafe {
            (self.calls.cuMemcpyDtoH_v2)(to.as_mut_ptr().cast::<c_void>(), from, to.len())
        })
    }

    /// Copies from pinned memory at `from`, in stream order.
    pub fn upload_pinned(
        &self,
        to: CUdeviceptr,
        from: u64,
        bytes: usize,
        stream: CUstream,
    ) -> Outcome<()> {
        // SAFETY: an address of pinned memory is the driver's to check.
        check(unsafe {
            (self.calls.cuMemcpyHtoDAsync_v2)(to, pointer(from).cast_const(), bytes, stream)
        })
    }

    /// Copies to pinned memory at `to`, in stream order.
    pub fn download_pinned(
        &self,
        to: u64,
        from: CUdeviceptr,
        bytes: usize,
        stream: CUstream,
    ) -> Outcome<()> {
        // SAFETY: an address of pinned memory is the driver's to check.
        check(unsafe { (self.calls.cuMemcpyDtoHAsync_v2)(pointer(to), from, bytes, stream) })
    }

    pub fn copy(
        &self,
        to: CUdeviceptr,
        from: CUdeviceptr,
        bytes: usize,
        stream: CUstream,
    ) -> Outcome<()> {
        // SAFETY: device addresses are the driver's to check.
        check(unsafe { (self.calls.cuMemcpyDtoDAsync_v2)(to, from, bytes, stream) })
    }

    pub fn fill(&self, to: CUdeviceptr, value: u32, count: usize) -> Outcome<()> {
        // SAFETY: a device address is the driver's to check.
        check(unsafe { (self.calls.cuMemsetD32_v2)(to, value, count) })
    }

    pub fn fill_bytes(
        &self,
        to: CUdeviceptr,
        value: u8,
        count: usize,
        stream: CUstream,
    ) -> Outcome<()> {
        // SAFETY: a device address is the driver's to check.
        check(unsafe { (self.calls.cuMemsetD8Async)(to, value, count, stream) })
    }

    pub fn create_stream(&self) -> Outcome<CUstream> {
        const NON_BLOCKING: c_uint = 1;
        let mut stream = null_mut();
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuStreamCreate)(&raw mut stream, NON_BLOCKING) })?;
        Ok(stream)
    }

    pub fn destroy_stream(&self, stream: CUstream) -> Outcome<()> {
        // SAFETY: a handle is the driver's to check.
        check(unsafe { (self.calls.cuStreamDestroy_v2)(stream) })
    }

    pub fn query_stream(&self, stream: CUstream) -> Outcome<()> {
        // SAFETY: a handle is the driver's to check.
        check(unsafe { (self.calls.cuStreamQuery)(stream) })
    }

    pub fn synchronize_stream(&self, stream: CUstream) -> Outcome<()> {
        // SAFETY: a handle is the driver's to check.
        check(unsafe { (self.calls.cuStreamSynchronize)(stream) })
    }

    pub fn create_event(&self) -> Outcome<CUevent> {
        let mut event = null_mut();
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuEventCreate)(&raw mut event, 0) })?;
        Ok(event)
    }

    /// An event for other processes, and what opens it there.
    pub fn create_shared_event(&self) -> Outcome<(CUevent, [u8; 64])> {
        let flags =
            CUevent_flags::CU_EVENT_INTERPROCESS.0 | CUevent_flags::CU_EVENT_DISABLE_TIMING.0;
        let (mut event, mut handle) = (null_mut(), CUipcEventHandle { reserved: [0; 64] });
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuEventCreate)(&raw mut event, flags) })?;
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuIpcGetEventHandle)(&raw mut handle, event) })?;
        Ok((event, handle.reserved))
    }

    /// Another process's event.
    pub fn import_event(&self, handle: [u8; 64]) -> Outcome<CUevent> {
        let (mut event, handle) = (null_mut(), CUipcEventHandle { reserved: handle });
        // SAFETY: the pointer is to a local; a handle is the driver's to check.
        check(unsafe { (self.calls.cuIpcOpenEventHandle)(&raw mut event, handle) })?;
        Ok(event)
    }

    pub fn record_event(&self, event: CUevent, stream: CUstream) -> Outcome<()> {
        // SAFETY: handles are the driver's to check.
        check(unsafe { (self.calls.cuEventRecord)(event, stream) })
    }

    pub fn wait_event(&self, stream: CUstream, event: CUevent) -> Outcome<()> {
        // SAFETY: handles; wrong ones are the driver's to refuse.
        check(unsafe { (self.calls.cuStreamWaitEvent)(stream, event, 0) })
    }

    pub fn synchronize_event(&self, event: CUevent) -> Outcome<()> {
        // SAFETY: a handle is the driver's to check.
        check(unsafe { (self.calls.cuEventSynchronize)(event) })
    }

    pub fn destroy_event(&self, event: CUevent) -> Outcome<()> {
        // SAFETY: a handle is the driver's to check.
        check(unsafe { (self.calls.cuEventDestroy_v2)(event) })
    }

    /// Launches a kernel of `KERNELS` with its parameters in order.
    pub fn launch(
        &self,
        function: CUfunction,
        grid: u32,
        block: u32,
        arguments: &[Argument],
        stream: CUstream,
    ) -> Outcome<()> {
        let mut words: [u64; 8] = [0; 8];
        let mut pointers: [*mut c_void; 8] = [null_mut(); 8];
        for ((word, pointer), argument) in words.iter_mut().zip(&mut pointers).zip(arguments) {
            *word = match argument {
                Argument::Word(value) => *value,
                // A parameter of four bytes is read from the low half.
                Argument::Int(value) => u64::from(*value),
            };
            *pointer = (&raw mut *word).cast::<c_void>();
        }
        // SAFETY: the kernels take eight parameters of eight bytes at most; each pointer is to a local word.
        check(unsafe {
            (self.calls.cuLaunchKernel)(
                function,
                grid,
                1,
                1,
                block,
                1,
                1,
                0,
                stream,
                pointers.as_mut_ptr(),
                null_mut(),
            )
        })
    }

    /// Runs a host function in stream order.
    ///
    /// # Safety
    /// `function` must accept `argument`, on another thread and until the stream has passed it.
    pub unsafe fn launch_host(
        &self,
        stream: CUstream,
        function: CUhostFn,
        argument: *mut c_void,
    ) -> Outcome<()> {
        // SAFETY: by this function's contract.
        check(unsafe { (self.calls.cuLaunchHostFunc)(stream, function, argument) })
    }

    /// The header's name of a result.
    pub fn error_name(&self, error: CUresult) -> Option<String> {
        let mut name = null();
        // SAFETY: the pointer is to a local.
        check(unsafe { (self.calls.cuGetErrorName)(error, &raw mut name) }).ok()?;
        if name.is_null() {
            return None;
        }
        // SAFETY: a name is a C string that lives as long as the library.
        let text = unsafe { CStr::from_ptr(name) };
        Some(text.to_string_lossy().into_owned())
    }
}

/// Reads a word of pinned memory that a kernel may be writing.
///
/// # Safety
/// `address` must be a word of mapped memory.
pub unsafe fn peek(address: u64) -> u32 {
    // SAFETY: by this function's contract.
    unsafe { pointer(address).cast::<u32>().read_volatile() }
}

/// Writes a word of pinned memory that a kernel may be reading.
///
/// # Safety
/// `address` must be a word of mapped memory.
pub unsafe fn poke(address: u64, value: u32) {
    // SAFETY: by this function's contract.
    unsafe { pointer(address).cast::<u32>().write_volatile(value) }
}

fn pointer(address: u64) -> *mut c_void {
    let address = usize::try_from(address).expect("the target has 64-bit addresses");
    std::ptr::with_exposed_provenance_mut(address)
}
