//! Libraries: code that belongs to no context and is loaded into each that uses it.

use std::ffi::{c_char, c_int, c_uint, c_void};

use cuda_abi::types::{
    CUdevice, CUdeviceptr, CUfunc_cache, CUfunction, CUfunction_attribute, CUjit_option, CUkernel,
    CUlibrary, CUlibraryOption, CUmodule,
};
use softgpu_core::error::Error;

use crate::api::module;
use crate::driver::{self, driver};
use crate::edge::{self, Outcome, put, put_if_wanted};
use crate::jit::Options;

#[expect(clippy::too_many_arguments, reason = "the C signature")]
pub unsafe fn cuLibraryLoadData(
    library: *mut CUlibrary,
    image: *const c_void,
    jit_options: *mut CUjit_option,
    jit_values: *mut *mut c_void,
    jit_count: c_uint,
    options: *mut CUlibraryOption,
    values: *mut *mut c_void,
    count: c_uint,
) -> Outcome {
    let driver = driver()?;
    edge::require(library)?;
    // SAFETY: the caller's promise.
    unsafe { check_options(count, options, values) }?;
    // SAFETY: the caller's promise.
    let options = unsafe { Options::read(jit_count, jit_options, jit_values) }?;
    // All devices are alike, so code for the first is code for all.
    // SAFETY: the caller's promise.
    let code = unsafe { module::compile(&driver.gpu, 0, image, &options) }?;
    let handle = driver.add_library(code)?;
    // SAFETY: the caller's promise.
    unsafe { put(library, handle as CUlibrary) }
}

#[expect(clippy::too_many_arguments, reason = "the C signature")]
pub unsafe fn cuLibraryLoadFromFile(
    library: *mut CUlibrary,
    path: *const c_char,
    jit_options: *mut CUjit_option,
    jit_values: *mut *mut c_void,
    jit_count: c_uint,
    options: *mut CUlibraryOption,
    values: *mut *mut c_void,
    count: c_uint,
) -> Outcome {
    driver()?;
    edge::require(library)?;
    // SAFETY: the caller's promise.
    unsafe { check_options(count, options, values) }?;
    // SAFETY: the caller's promise.
    let image = unsafe { module::read_image(path) }?;
    let image = image.as_ptr().cast();
    // SAFETY: a whole file with a NUL behind it, and the caller's promise.
    unsafe {
        cuLibraryLoadData(
            library,
            image,
            jit_options,
            jit_values,
            jit_count,
            options,
            values,
            count,
        )
    }
}

pub unsafe fn cuLibraryUnload(library: CUlibrary) -> Outcome {
    driver()?.unload_library(library as u64)
}

pub unsafe fn cuLibraryGetKernel(
    kernel: *mut CUkernel,
    library: CUlibrary,
    name: *const c_char,
) -> Outcome {
    let driver = driver()?;
    if kernel.is_null() {
        return Err(Error::InvalidValue);
    }
    let found = driver
        .libraries
        .get(library as u64)
        .ok_or(Error::InvalidHandle)?;
    // SAFETY: the caller's promise.
    let name = unsafe { edge::name(name) }?;
    let handle = driver.library_kernel(library as u64, found.code.kernel_index(name)?)?;
    // SAFETY: the caller's promise.
    unsafe { put(kernel, handle as CUkernel) }
}

pub unsafe fn cuLibraryGetKernelCount(count: *mut c_uint, library: CUlibrary) -> Outcome {
    let driver = driver()?;
    edge::require(count)?;
    let found = driver
        .libraries
        .get(library as u64)
        .ok_or(Error::InvalidHandle)?;
    let kernels =
        c_uint::try_from(found.code.module().kernels.len()).map_err(|_| Error::Unknown)?;
    // SAFETY: the caller's promise.
    unsafe { put(count, kernels) }
}

pub unsafe fn cuLibraryEnumerateKernels(
    kernels: *mut CUkernel,
    count: c_uint,
    library: CUlibrary,
) -> Outcome {
    driver()?;
    edge::require(kernels)?;
    let driver = driver()?;
    let found = driver
        .libraries
        .get(library as u64)
        .ok_or(Error::InvalidHandle)?;
    let room = usize::try_from(count).map_err(|_| Error::InvalidValue)?;
    if kernels.is_null() {
        return Err(Error::InvalidValue);
    }
    for index in 0..room.min(found.code.module().kernels.len()) {
        let handle = driver.library_kernel(library as u64, index)?;
        // SAFETY: inside the array by the caller's promise.
        let place = unsafe { kernels.add(index) };
        // SAFETY: as above.
        unsafe { put(place, handle as CUkernel) }?;
    }
    Ok(())
}

pub unsafe fn cuLibraryGetModule(module: *mut CUmodule, library: CUlibrary) -> Outcome {
    let context = driver::context()?;
    if module.is_null() {
        return Err(Error::InvalidValue);
    }
    let handle = driver()?.library_module(library as u64, &context)?;
    // SAFETY: the caller's promise.
    unsafe { put(module, handle as CUmodule) }
}

pub unsafe fn cuLibraryGetGlobal(
    pointer: *mut CUdeviceptr,
    size: *mut usize,
    library: CUlibrary,
    name: *const c_char,
) -> Outcome {
    let context = driver::context()?;
    let driver = driver()?;
    let module = driver.library_module(library as u64, &context)?;
    let loaded = driver.modules.get(module).ok_or(Error::InvalidHandle)?;
    // SAFETY: the caller's promise.
    let (address, bytes) = loaded.module.global(unsafe { edge::name(name) }?)?;
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(pointer, address) };
    // SAFETY: the caller's promise.
    unsafe { put_if_wanted(size, usize::try_from(bytes).map_err(|_| Error::Unknown)?) };
    Ok(())
}

pub unsafe fn cuKernelGetFunction(function: *mut CUfunction, kernel: CUkernel) -> Outcome {
    let context = driver::context()?;
    let driver = driver()?;
    if function.is_null() {
        return Err(Error::InvalidValue);
    }
    let found = driver
        .kernels
        .get(kernel as u64)
        .ok_or(Error::InvalidHandle)?;
    let module = driver.library_module(found.library_handle, &context)?;
    let handle = driver.function(module, found.index)?;
    // SAFETY: the caller's promise.
    unsafe { put(function, handle as CUfunction) }
}

pub unsafe fn cuKernelGetLibrary(library: *mut CUlibrary, kernel: CUkernel) -> Outcome {
    driver()?;
    edge::require(library)?;
    let found = driver()?
        .kernels
        .get(kernel as u64)
        .ok_or(Error::InvalidHandle)?;
    // SAFETY: the caller's promise.
    unsafe { put(library, found.library_handle as CUlibrary) }
}

pub unsafe fn cuKernelGetName(name: *mut *const c_char, kernel: CUkernel) -> Outcome {
    let driver = driver()?;
    edge::require(name)?;
    let found = driver
        .kernels
        .get(kernel as u64)
        .ok_or(Error::InvalidHandle)?;
    // SAFETY: the caller's promise; the text lives as long as the kernel.
    unsafe { put(name, found.name.as_ptr()) }
}

pub unsafe fn cuKernelGetParamInfo(
    kernel: CUkernel,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> Outcome {
    let driver = driver()?;
    edge::require(offset)?;
    let found = driver
        .kernels
        .get(kernel as u64)
        .ok_or(Error::InvalidHandle)?;
    // SAFETY: the caller's promise.
    unsafe { module::param_info(&found.kernel, index, offset, size) }
}

pub unsafe fn cuKernelGetParamCount(kernel: CUkernel, count: *mut usize) -> Outcome {
    driver()?;
    edge::require(count)?;
    let found = driver()?
        .kernels
        .get(kernel as u64)
        .ok_or(Error::InvalidHandle)?;
    // SAFETY: the caller's promise.
    unsafe { put(count, found.kernel.code().params.len()) }
}

pub unsafe fn cuKernelGetAttribute(
    value: *mut c_int,
    attribute: CUfunction_attribute,
    kernel: CUkernel,
    device: CUdevice,
) -> Outcome {
    let driver = driver()?;
    edge::require(value)?;
    driver.gpu.device(device)?;
    let found = driver
        .kernels
        .get(kernel as u64)
        .ok_or(Error::InvalidHandle)?;
    // SAFETY: the caller's promise.
    unsafe { put(value, module::kernel_attribute(&found.kernel, attribute)?) }
}

pub unsafe fn cuKernelSetAttribute(
    attribute: CUfunction_attribute,
    value: c_int,
    kernel: CUkernel,
    device: CUdevice,
) -> Outcome {
    let driver = driver()?;
    driver.gpu.device(device)?;
    let found = driver
        .kernels
        .get(kernel as u64)
        .ok_or(Error::InvalidHandle)?;
    module::set_kernel_attribute(&found.kernel, attribute, value)
}

pub unsafe fn cuKernelSetCacheConfig(
    kernel: CUkernel,
    config: CUfunc_cache,
    device: CUdevice,
) -> Outcome {
    let driver = driver()?;
    driver.gpu.device(device)?;
    let found = driver
        .kernels
        .get(kernel as u64)
        .ok_or(Error::InvalidHandle)?;
    module::set_cache_config(&found.kernel, config)
}

/// # Safety
/// As for the functions that take them: so many of both.
unsafe fn check_options(
    count: c_uint,
    options: *const CUlibraryOption,
    values: *const *mut c_void,
) -> Outcome {
    if count == 0 {
        return Ok(());
    }
    edge::require(options)?;
    edge::require(values)?;
    for index in 0..usize::try_from(count).map_err(|_| Error::InvalidValue)? {
        // SAFETY: inside the array by this function's contract.
        match unsafe { edge::element(options, index) }? {
            // Nothing is taken from the image after it was loaded.
            CUlibraryOption::CU_LIBRARY_BINARY_IS_PRESERVED => {}
            CUlibraryOption::CU_LIBRARY_HOST_UNIVERSAL_FUNCTION_AND_DATA_TABLE => {
                return Err(Error::NotSupported);
            }
            _ => return Err(Error::InvalidValue),
        }
    }
    Ok(())
}
