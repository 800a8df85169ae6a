//! Libraries and kernels: modules that belong to no context.

use std::ffi::{CStr, c_char, c_uint, c_void};

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUdeviceptr, CUfunction, CUjit_option, CUkernel, CUlibrary, CUlibraryOption, CUmodule, CUresult,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use crate::api::module::{
    MOST_NAME_BYTES, find_code, forget, global, length, load, names, parameters, read_file,
};
use crate::call::{Call, Outcome, parse};
use crate::edge;
use crate::image::{self, Image};
use crate::jit::Options;
use crate::objects::{self, Code, Detail};
use crate::state;

pub unsafe fn cuLibraryLoadData(
    library: *mut CUlibrary,
    code: *const c_void,
    jitOptions: *mut CUjit_option,
    jitOptionsValues: *mut *mut c_void,
    numJitOptions: c_uint,
    libraryOptions: *mut CUlibraryOption,
    libraryOptionValues: *mut *mut c_void,
    numLibraryOptions: c_uint,
) -> Outcome {
    let call = Call::begin_anywhere(Function::cuLibraryLoadData)?;
    edge::require(library)?;
    // SAFETY: the caller's promise.
    unsafe { check_options(numLibraryOptions, libraryOptions, libraryOptionValues) }?;
    // SAFETY: the caller's promise.
    let image = unsafe { image::sniff(code) }?;
    // SAFETY: the caller's promise.
    let options = unsafe { Options::read(numJitOptions, jitOptions, jitOptionsValues) }?;
    // SAFETY: the options are the caller's.
    let handle = unsafe { load_library(call, image, &options) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(library, handle as CUlibrary) }
}

pub unsafe fn cuLibraryLoadFromFile(
    library: *mut CUlibrary,
    fileName: *const c_char,
    jitOptions: *mut CUjit_option,
    jitOptionsValues: *mut *mut c_void,
    numJitOptions: c_uint,
    libraryOptions: *mut CUlibraryOption,
    libraryOptionValues: *mut *mut c_void,
    numLibraryOptions: c_uint,
) -> Outcome {
    let call = Call::begin_anywhere(Function::cuLibraryLoadFromFile)?;
    edge::require(library)?;
    // SAFETY: the caller's promise.
    unsafe { check_options(numLibraryOptions, libraryOptions, libraryOptionValues) }?;
    // SAFETY: the caller's promise.
    let bytes = unsafe { read_file(fileName) }?;
    // SAFETY: the caller's promise.
    let options = unsafe { Options::read(numJitOptions, jitOptions, jitOptionsValues) }?;
    // SAFETY: the options are the caller's.
    let handle = unsafe { load_library(call, image::sniff_bytes(&bytes)?, &options) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(library, handle as CUlibrary) }
}

pub unsafe fn cuLibraryUnload(library: CUlibrary) -> Outcome {
    let mut call = Call::begin_anywhere(Function::cuLibraryUnload)?;
    let library = call.handle(Kind::LIBRARY, library as u64)?;
    call.exchange(&wire::CuLibraryUnload { library }, &[], |_, _| Ok(()))?;
    forget(call.session, library, Kind::KERNEL);
    // What `cuKernelGetFunction` made of them.
    forget(call.session, library, Kind::FUNCTION);
    call.retire(Kind::LIBRARY, library);
    Ok(())
}

pub unsafe fn cuLibraryGetKernel(
    pKernel: *mut CUkernel,
    library: CUlibrary,
    name: *const c_char,
) -> Outcome {
    let mut call = Call::begin_anywhere(Function::cuLibraryGetKernel)?;
    edge::require(pKernel)?;
    let library = call.handle(Kind::LIBRARY, library as u64)?;
    // SAFETY: the caller's promise.
    let name = unsafe { edge::text(name, MOST_NAME_BYTES) }?;
    let handle = kernel(&mut call, library, name)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pKernel, handle as CUkernel) }
}

pub unsafe fn cuLibraryEnumerateKernels(
    kernels: *mut CUkernel,
    numKernels: c_uint,
    lib: CUlibrary,
) -> Outcome {
    let mut call = Call::begin_anywhere(Function::cuLibraryEnumerateKernels)?;
    edge::require(kernels)?;
    let library = call.handle(Kind::LIBRARY, lib as u64)?;
    for (index, name) in names(&mut call, library, numKernels)?.iter().enumerate() {
        let handle = kernel(&mut call, library, name)?;
        // SAFETY: the array has room for so many by the caller's promise.
        let place = unsafe { kernels.add(index) };
        // SAFETY: as above.
        unsafe { edge::put(place, handle as CUkernel) }?;
    }
    Ok(())
}

/// A library's kernel by name.
fn kernel(call: &mut Call, library: u64, name: &CStr) -> Outcome<u64> {
    find_code(
        call,
        Kind::KERNEL,
        0,
        library,
        name,
        |call, kernel, name| {
            let request = wire::CuLibraryGetKernel {
                kernel,
                library,
                name_bytes: length(name),
                reserved: 0,
            };
            call.exchange(&request, &[name], |lane, body| {
                let reply: wire::CuLibraryGetKernelReply = parse(body)?;
                parameters(lane, reply.parameter_count)
            })
        },
    )
}

pub unsafe fn cuKernelGetLibrary(pLib: *mut CUlibrary, kernel: CUkernel) -> Outcome {
    let session = state::ready()?;
    edge::require(pLib)?;
    let owner = objects::code(&session.objects(), kernel as u64)?.owner;
    // SAFETY: the caller's promise.
    unsafe { edge::put(pLib, owner as CUlibrary) }
}

pub unsafe fn cuLibraryGetModule(pMod: *mut CUmodule, library: CUlibrary) -> Outcome {
    let mut call = Call::begin(Function::cuLibraryGetModule)?;
    edge::require(pMod)?;
    let library = call.handle(Kind::LIBRARY, library as u64)?;
    let handle = call.mint(Kind::MODULE)?;
    call.exchange(
        &wire::CuLibraryGetModule {
            module: handle.value(),
            library,
        },
        &[],
        |_, _| Ok(()),
    )?;
    call.keep(Kind::MODULE, handle);
    // SAFETY: the caller's promise.
    unsafe { edge::put(pMod, handle.value() as CUmodule) }
}

pub unsafe fn cuLibraryGetGlobal(
    dptr: *mut CUdeviceptr,
    bytes: *mut usize,
    library: CUlibrary,
    name: *const c_char,
) -> Outcome {
    let mut call = Call::begin(Function::cuLibraryGetGlobal)?;
    let library = call.handle(Kind::LIBRARY, library as u64)?;
    // SAFETY: the caller's promise.
    let name = unsafe { edge::text(name, MOST_NAME_BYTES) }?.to_bytes();
    let request = wire::CuLibraryGetGlobal {
        library,
        name_bytes: length(name),
        reserved: 0,
    };
    let reply: wire::CuLibraryGetGlobalReply = call.round_trip_with(&request, &[name])?;
    // SAFETY: the caller's promise.
    unsafe { global(&call, library, dptr, bytes, reply.address, reply.bytes) }
}

pub unsafe fn cuKernelGetFunction(pFunc: *mut CUfunction, kernel: CUkernel) -> Outcome {
    let mut call = Call::begin(Function::cuKernelGetFunction)?;
    edge::require(pFunc)?;
    let kernel = call.handle(Kind::KERNEL, kernel as u64)?;
    let code = objects::code(&call.session.objects(), kernel)?.clone();
    let twin = Code::new(code.name.clone(), code.owner, code.parameters.clone());
    let context = call.context_handle();
    // Asked twice in one context, it is the same function.
    let known = {
        let objects = call.session.objects();
        let same = |detail: &Detail| matches!(detail, Detail::Code(known) if known.owner == code.owner && known.name == code.name);
        objects
            .iter(Kind::FUNCTION)
            .find(|(_, object)| object.context == context && same(&object.detail))
            .map(|(handle, _)| handle.value())
    };
    let function = match known {
        Some(known) => known,
        None => {
            let handle = call.mint_with(Kind::FUNCTION, context, Detail::Code(twin.into()))?;
            call.exchange(
                &wire::CuKernelGetFunction {
                    function: handle.value(),
                    kernel,
                },
                &[],
                |_, _| Ok(()),
            )?;
            call.keep(Kind::FUNCTION, handle);
            handle.value()
        }
    };
    // SAFETY: the caller's promise.
    unsafe { edge::put(pFunc, function as CUfunction) }
}

pub unsafe fn cuKernelGetName(name: *mut *const c_char, hfunc: CUkernel) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { super::module::cuFuncGetName(name, hfunc.cast()) }
}

pub unsafe fn cuKernelGetParamInfo(
    kernel: CUkernel,
    paramIndex: usize,
    paramOffset: *mut usize,
    paramSize: *mut usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { super::module::cuFuncGetParamInfo(kernel.cast(), paramIndex, paramOffset, paramSize) }
}

pub unsafe fn cuKernelGetParamCount(kernel: CUkernel, paramCount: *mut usize) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { super::module::cuFuncGetParamCount(kernel.cast(), paramCount) }
}

/// # Safety
/// The options are of arrays that are still there.
unsafe fn load_library(mut call: Call, image: Image<'_>, options: &Options) -> Outcome<u64> {
    let handle = call.mint_with(Kind::LIBRARY, 0, Detail::Plain)?;
    // SAFETY: by this function's contract.
    unsafe {
        load(&mut call, image, options, |image| wire::CuLibraryLoadData {
            library: handle.value(),
            upload: image.upload,
            image_bytes: image.bytes,
            kind: image.kind,
            log_bytes: options.log_bytes(),
            option_count: options.scalar_count,
            reserved: 0,
        })
    }?;
    call.keep(Kind::LIBRARY, handle);
    Ok(handle.value())
}

/// Library options: that the image stays where it is means nothing to us, who copy it; the other known one
/// maps functions of the program's into the library.
///
/// # Safety
/// The arrays have `count` elements.
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
    for index in 0..usize::try_from(count).unwrap_or(usize::MAX) {
        // SAFETY: inside the array, by this function's contract.
        match unsafe { edge::element(options, index) } {
            CUlibraryOption::CU_LIBRARY_BINARY_IS_PRESERVED => {}
            CUlibraryOption::CU_LIBRARY_HOST_UNIVERSAL_FUNCTION_AND_DATA_TABLE => {
                return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
            }
            _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        }
    }
    Ok(())
}
