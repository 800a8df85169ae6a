//! Modules and their functions.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use cuda_abi::types::{
    CUdeviceptr, CUfunc_cache, CUfunction, CUfunction_attribute, CUfunctionLoadingState,
    CUjit_option, CUmodule, CUmoduleLoadingMode, CUsharedconfig,
};
use softgpu_core::error::Error;
use softgpu_core::gpu::Gpu;
use softgpu_core::linker;
use softgpu_core::module::{Code, Kernel, MAX_PTX_VERSION};
use std::sync::atomic::Ordering;

use super::context;
use crate::api::device::signed;
use crate::capture;
use crate::driver::{self, driver};
use crate::edge::{self, Outcome, put, put_if_wanted};
use crate::image;
use crate::jit::Options;

pub unsafe fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) -> Outcome {
    // SAFETY: no options.
    let options = unsafe { Options::read(0, std::ptr::null(), std::ptr::null_mut()) }?;
    // SAFETY: the caller's promise.
    unsafe { load(module, image, &options) }
}

pub unsafe fn cuModuleLoadDataEx(
    module: *mut CUmodule,
    image: *const c_void,
    count: c_uint,
    options: *mut CUjit_option,
    values: *mut *mut c_void,
) -> Outcome {
    // SAFETY: the caller's promise.
    let options = unsafe { Options::read(count, options, values) }?;
    // SAFETY: the caller's promise.
    unsafe { load(module, image, &options) }
}

pub unsafe fn cuModuleLoadFatBinary(module: *mut CUmodule, image: *const c_void) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuModuleLoadData(module, image) }
}

pub unsafe fn cuModuleLoad(module: *mut CUmodule, path: *const c_char) -> Outcome {
    driver::context()?;
    edge::require(module)?;
    // SAFETY: the caller's promise.
    let image = unsafe { read_image(path) }?;
    // SAFETY: a whole file and a NUL behind it.
    unsafe { cuModuleLoadData(module, image.as_ptr().cast()) }
}

/// A file with a NUL behind it, so that text ends.
///
/// # Safety
/// `path` is null or a NUL-terminated string.
pub(crate) unsafe fn read_image(path: *const c_char) -> Result<Vec<u8>, Error> {
    // SAFETY: the caller's promise.
    let path = unsafe { edge::name(path) }?;
    let mut image = std::fs::read(path).map_err(|_| Error::FileNotFound)?;
    // An image's own lengths are believed: what a file is too short for must not be read past its end.
    check_extent(&image)?;
    image.extend([0; 8]);
    Ok(image)
}

fn check_extent(image: &[u8]) -> Outcome {
    use cuda_abi::fatbin::{FATBIN_HEADER, fatbin_length};
    use softgpu_core::fatbin::ImageKind;
    let first = image.first_chunk().copied().unwrap_or_default();
    match ImageKind::of(first) {
        // A wrapper holds an address and makes no sense in a file.
        ImageKind::Wrapper => Err(Error::InvalidImage),
        ImageKind::Fatbin => {
            let header = image
                .first_chunk::<FATBIN_HEADER>()
                .ok_or(Error::InvalidImage)?;
            let length = fatbin_length(*header).map_err(|_| Error::InvalidImage)?;
            if length > image.len() as u64 {
                Err(Error::InvalidImage)
            } else {
                Ok(())
            }
        }
        ImageKind::Elf => linker::unpack(image).map(drop).ok_or(Error::NoBinaryForGpu),
        ImageKind::Text => Ok(()),
    }
}

/// # Safety
/// `module` is null or valid for a write, `image` null or a complete image.
unsafe fn load(module: *mut CUmodule, image: *const c_void, options: &Options) -> Outcome {
    let context = driver::context()?;
    let driver = driver()?;
    if module.is_null() {
        return Err(Error::InvalidValue);
    }
    // SAFETY: the caller's promise.
    let code = unsafe { compile(&driver.gpu, context.device().ordinal, image, options) }?;
    let handle = driver.add_module(&context, &code, None)?;
    // SAFETY: the caller's promise.
    unsafe { put(module, handle as CUmodule) }
}

/// Compiles an image for a device; a failure goes to the error log and to the person who runs it.
///
/// # Safety
/// `image` is null or a complete image.
pub(crate) unsafe fn compile(
    gpu: &Gpu,
    ordinal: u32,
    image: *const c_void,
    options: &Options,
) -> Result<Arc<Code>, Error> {
    let device = gpu.device(signed(ordinal)?)?;
    // SAFETY: the caller's promise.
    let units = unsafe { image::units(image, device.compute_capability) };
    let compiled = units.and_then(|units| {
        let compiled = match &units[..] {
            [unit] => Code::compile(device, &unit.text),
            units => Code::link(device, units),
        };
        compiled.map_err(|refusal| (refusal.error, refusal.log))
    });
    compiled
        .inspect(|_| options.finish(""))
        .map_err(|(error, log)| {
            options.finish(&log);
            if !log.is_empty() {
                gpu.report(format_args!("{log}"));
            }
            error
        })
}

pub unsafe fn cuModuleUnload(module: CUmodule) -> Outcome {
    driver::context()?;
    capture::unsafe_call()?;
    driver()?.unload_module(module as u64)
}

pub unsafe fn cuModuleGetLoadingMode(mode: *mut CUmoduleLoadingMode) -> Outcome {
    driver()?;
    // SAFETY: the caller's promise.
    unsafe { put(mode, CUmoduleLoadingMode::CU_MODULE_LAZY_LOADING) }
}

pub unsafe fn cuModuleGetFunction(
    function: *mut CUfunction,
    module: CUmodule,
    name: *const c_char,
) -> Outcome {
    driver::context()?;
    let driver = driver()?;
    if function.is_null() {
        return Err(Error::InvalidValue);
    }
    let loaded = driver
        .modules
        .get(module as u64)
        .ok_or(Error::InvalidHandle)?;
    // SAFETY: the caller's promise.
    let name = unsafe { edge::name(name) }?;
    let index = loaded.module.code().kernel_index(name)?;
    let handle = driver.function(module as u64, index)?;
    // SAFETY: the caller's promise.
    unsafe { put(function, handle as CUfunction) }
}

pub unsafe fn cuModuleGetFunctionCount(count: *mut c_uint, module: CUmodule) -> Outcome {
    driver()?;
    edge::require(count)?;
    let loaded = driver()?
        .modules
        .get(module as u64)
        .ok_or(Error::InvalidHandle)?;
    let kernels = loaded.module.code().module().kernels.len();
    // SAFETY: the caller's promise.
    unsafe {
        put(
            count,
            c_uint::try_from(kernels).map_err(|_| Error::Unknown)?,
        )
    }
}

pub unsafe fn cuModuleEnumerateFunctions(
    functions: *mut CUfunction,
    count: c_uint,
    module: CUmodule,
) -> Outcome {
    driver()?;
    edge::require(functions)?;
    driver::context()?;
    let driver = driver()?;
    let loaded = driver
        .modules
        .get(module as u64)
        .ok_or(Error::InvalidHandle)?;
    let room = usize::try_from(count).map_err(|_| Error::InvalidValue)?;
    if functions.is_null() {
        return Err(Error::InvalidValue);
    }
    for index in 0..room.min(loaded.module.code().module().kernels.len()) {
        let handle = driver.function(module as u64, index)?;
        // SAFETY: inside the array by the caller's promise.
        let place = unsafe { functions.add(index) };
        // SAFETY: as above.
        unsafe { put(place, handle as CUfunction) }?;
    }
    Ok(())
}

pub unsafe fn cuModuleGetGlobal_v2(
    pointer: *mut CUdeviceptr,
    size: *mut usize,
    module: CUmodule,
    name: *const c_char,
) -> Outcome {
    driver::context()?;
    let loaded = driver()?
        .modules
        .get(module as u64)
        .ok_or(Error::InvalidHandle)?;
    // SAFETY: the caller's promise.
    let name = unsafe { edge::name(name) }?;
    let (address, bytes) = loaded.module.global(name)?;
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(pointer, address) };
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(size, usize::try_from(bytes).map_err(|_| Error::Unknown)?) };
    Ok(())
}

pub unsafe fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: CUfunction_attribute,
    function: CUfunction,
) -> Outcome {
    let driver = driver()?;
    edge::require(value)?;
    let kernel = driver.kernel(function as u64)?;
    // SAFETY: the caller's promise.
    unsafe { put(value, kernel_attribute(&kernel, attribute)?) }
}

pub unsafe fn cuFuncSetAttribute(
    function: CUfunction,
    attribute: CUfunction_attribute,
    value: c_int,
) -> Outcome {
    set_kernel_attribute(&driver()?.kernel(function as u64)?, attribute, value)
}

pub unsafe fn cuFuncSetCacheConfig(function: CUfunction, config: CUfunc_cache) -> Outcome {
    set_cache_config(&driver()?.kernel(function as u64)?, config)
}

/// Without effect, as on a context.
pub unsafe fn cuFuncSetSharedMemConfig(function: CUfunction, config: CUsharedconfig) -> Outcome {
    driver()?.kernel(function as u64)?;
    context::known_banks(config)
}

pub unsafe fn cuFuncGetName(name: *mut *const c_char, function: CUfunction) -> Outcome {
    let driver = driver()?;
    edge::require(name)?;
    let found = driver
        .functions
        .get(function as u64)
        .ok_or(Error::InvalidHandle)?;
    // SAFETY: the caller's promise; the text lives as long as the function.
    unsafe { put(name, found.name.as_ptr()) }
}

pub unsafe fn cuFuncGetModule(module: *mut CUmodule, function: CUfunction) -> Outcome {
    let driver = driver()?;
    edge::require(module)?;
    let found = driver
        .functions
        .get(function as u64)
        .ok_or(Error::InvalidHandle)?;
    // SAFETY: the caller's promise.
    unsafe { put(module, found.module_handle as CUmodule) }
}

pub unsafe fn cuFuncGetParamInfo(
    function: CUfunction,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> Outcome {
    let driver = driver()?;
    edge::require(offset)?;
    // SAFETY: the caller's promise.
    unsafe { param_info(&driver.kernel(function as u64)?, index, offset, size) }
}

pub unsafe fn cuFuncGetParamCount(function: CUfunction, count: *mut usize) -> Outcome {
    driver()?;
    edge::require(count)?;
    let kernel = driver()?.kernel(function as u64)?;
    // SAFETY: the caller's promise.
    unsafe { put(count, kernel.code().params.len()) }
}

/// Functions are loaded with their module.
pub unsafe fn cuFuncLoad(function: CUfunction) -> Outcome {
    driver()?
        .functions
        .get(function as u64)
        .map(drop)
        .ok_or(Error::InvalidHandle)
}

pub unsafe fn cuFuncIsLoaded(state: *mut CUfunctionLoadingState, function: CUfunction) -> Outcome {
    let driver = driver()?;
    edge::require(state)?;
    driver
        .functions
        .get(function as u64)
        .ok_or(Error::InvalidHandle)?;
    // SAFETY: the caller's promise.
    unsafe {
        put(
            state,
            CUfunctionLoadingState::CU_FUNCTION_LOADING_STATE_LOADED,
        )
    }
}

/// # Safety
/// The pointers are null or valid for writes.
pub(crate) unsafe fn param_info(
    kernel: &Kernel,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> Outcome {
    let param = kernel.code().params.get(index).ok_or(Error::InvalidValue)?;
    let wide = |n: u32| usize::try_from(n).map_err(|_| Error::Unknown);
    // SAFETY: the caller's promise.
    unsafe { put(offset, wide(param.offset)?) }?;
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(size, wide(param.size)?) };
    Ok(())
}

pub(crate) fn kernel_attribute(
    kernel: &Kernel,
    attribute: CUfunction_attribute,
) -> Result<c_int, Error> {
    use CUfunction_attribute as A;
    let code = kernel.code();
    let version = |(major, minor): (u32, u32)| major * 10 + minor;
    let value = match attribute {
        A::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK => kernel.max_threads(),
        A::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES => code.shared_bytes,
        A::CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES => constant_bytes(kernel),
        A::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES => code.local_bytes.unwrap_or(0),
        A::CU_FUNC_ATTRIBUTE_NUM_REGS => code.register_count,
        A::CU_FUNC_ATTRIBUTE_PTX_VERSION => target_version(&kernel.module().target),
        A::CU_FUNC_ATTRIBUTE_BINARY_VERSION => target_version(&kernel.module().target),
        A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES => {
            kernel.settings().max_dynamic_shared.load(Ordering::Relaxed)
        }
        A::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT => {
            return Ok(kernel.settings().carveout.load(Ordering::Relaxed));
        }
        known if known.name().is_some() => 0,
        _ => return Err(Error::InvalidValue),
    };
    debug_assert!(version(kernel.module().version) <= version(MAX_PTX_VERSION));
    signed(value)
}

fn constant_bytes(kernel: &Kernel) -> u32 {
    use softgpu_core::ptx::ir::GlobalSpace;
    let constants = kernel
        .module()
        .globals
        .iter()
        .filter(|g| g.space == GlobalSpace::Const);
    constants.fold(0, |sum: u32, g| {
        sum.saturating_add(u32::try_from(g.size).unwrap_or(u32::MAX))
    })
}

/// 75 for `sm_75`: the virtual architecture that the code was made for.
fn target_version(target: &str) -> u32 {
    let digits = target
        .trim_start_matches("sm_")
        .trim_end_matches(|c: char| !c.is_ascii_digit());
    digits.parse().unwrap_or(0)
}

pub(crate) fn set_kernel_attribute(
    kernel: &Kernel,
    attribute: CUfunction_attribute,
    value: c_int,
) -> Outcome {
    use CUfunction_attribute as A;
    match attribute {
        A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES => {
            let bytes = u32::try_from(value).map_err(|_| Error::InvalidValue)?;
            kernel.set_max_dynamic_shared(driver()?.gpu.device(0)?, bytes)
        }
        A::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT if (-1..=100).contains(&value) => {
            kernel.settings().carveout.store(value, Ordering::Relaxed);
            Ok(())
        }
        // Clusters are not supported; asking for none is fine.
        A::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED if value == 0 => Ok(()),
        _ => Err(Error::InvalidValue),
    }
}

pub(crate) fn set_cache_config(kernel: &Kernel, config: CUfunc_cache) -> Outcome {
    if config.name().is_none() {
        return Err(Error::InvalidValue);
    }
    kernel
        .settings()
        .cache_config
        .store(config.0, Ordering::Relaxed);
    Ok(())
}
