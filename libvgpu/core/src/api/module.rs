//! Modules and their functions. Images are sniffed here and travel with the record or by the bulk pipe.

use std::ffi::{CStr, CString, c_char, c_uint, c_void};
use std::os::unix::ffi::OsStrExt as _;

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUdeviceptr, CUfunction, CUfunctionLoadingState, CUjit_option, CUmodule, CUmoduleLoadingMode,
    CUresult,
};
use idm_protocol::handle::{Handle, Kind};
use idm_protocol::lane::ClientLane;
use idm_protocol::memory::Mapped;
use idm_protocol::wire::{self, image_kind};
use zerocopy::FromBytes;

use crate::api::memory::device_of;
use crate::bulk::{self, Memory};
use crate::call::{Call, Outcome, accepted, failed, parse};
use crate::edge;
use crate::image::{self, Image};
use crate::jit::Options;
use crate::objects::{self, Code, Detail, Object};
use crate::ranges::{Place, Range};
use crate::session::Session;
use crate::state;

/// Longest name of a function or variable.
pub(super) const MOST_NAME_BYTES: usize = 16 << 10;

pub unsafe fn cuModuleLoadDataEx(
    module: *mut CUmodule,
    image: *const c_void,
    numOptions: c_uint,
    options: *mut CUjit_option,
    optionValues: *mut *mut c_void,
) -> Outcome {
    let call = Call::begin(Function::cuModuleLoadDataEx)?;
    edge::require(module)?;
    // SAFETY: the caller's promise.
    let image = unsafe { image::sniff(image) }?;
    // SAFETY: the caller's promise.
    let options = unsafe { Options::read(numOptions, options, optionValues) }?;
    // SAFETY: the options are the caller's.
    let handle = unsafe { load_module(call, image, &options) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(module, handle as CUmodule) }
}

pub unsafe fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuModuleLoadDataEx(module, image, 0, std::ptr::null_mut(), std::ptr::null_mut()) }
}

pub unsafe fn cuModuleLoadFatBinary(module: *mut CUmodule, fatCubin: *const c_void) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe { cuModuleLoadData(module, fatCubin) }
}

pub unsafe fn cuModuleLoad(module: *mut CUmodule, fname: *const c_char) -> Outcome {
    let call = Call::begin(Function::cuModuleLoad)?;
    edge::require(module)?;
    // SAFETY: the caller's promise.
    let bytes = unsafe { read_file(fname) }?;
    // SAFETY: no options.
    let handle = unsafe { load_module(call, image::sniff_bytes(&bytes)?, &Options::default()) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(module, handle as CUmodule) }
}

pub unsafe fn cuModuleUnload(hmod: CUmodule) -> Outcome {
    let mut call = Call::begin(Function::cuModuleUnload)?;
    let module = call.handle(Kind::MODULE, hmod as u64)?;
    call.exchange(&wire::CuModuleUnload { module }, &[], |_, _| Ok(()))?;
    forget(call.session, module, Kind::FUNCTION);
    call.retire(Kind::MODULE, module);
    Ok(())
}

pub unsafe fn cuModuleGetFunction(
    hfunc: *mut CUfunction,
    hmod: CUmodule,
    name: *const c_char,
) -> Outcome {
    let mut call = Call::begin(Function::cuModuleGetFunction)?;
    edge::require(hfunc)?;
    let module = call.handle(Kind::MODULE, hmod as u64)?;
    // SAFETY: the caller's promise.
    let name = unsafe { edge::text(name, MOST_NAME_BYTES) }?;
    let handle = function(&mut call, module, name)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(hfunc, handle as CUfunction) }
}

pub unsafe fn cuModuleEnumerateFunctions(
    functions: *mut CUfunction,
    numFunctions: c_uint,
    mod_: CUmodule,
) -> Outcome {
    let mut call = Call::begin(Function::cuModuleEnumerateFunctions)?;
    edge::require(functions)?;
    let module = call.handle(Kind::MODULE, mod_ as u64)?;
    for (index, name) in names(&mut call, module, numFunctions)?.iter().enumerate() {
        let handle = function(&mut call, module, name)?;
        // SAFETY: the array has room for so many by the caller's promise.
        let place = unsafe { functions.add(index) };
        // SAFETY: as above.
        unsafe { edge::put(place, handle as CUfunction) }?;
    }
    Ok(())
}

/// A module's function by name.
fn function(call: &mut Call, module: u64, name: &CStr) -> Outcome<u64> {
    let context = call.context_handle();
    find_code(
        call,
        Kind::FUNCTION,
        context,
        module,
        name,
        |call, function, name| {
            let request = wire::CuModuleGetFunction {
                function,
                module,
                name_bytes: length(name),
                reserved: 0,
            };
            call.exchange(&request, &[name], |lane, body| {
                let reply: wire::CuModuleGetFunctionReply = parse(body)?;
                parameters(lane, reply.parameter_count)
            })
        },
    )
}

/// The names of what a module or library holds, at most so many.
pub(super) fn names(call: &mut Call, owner: u64, most: c_uint) -> Outcome<Vec<CString>> {
    let broken = CUresult::CUDA_ERROR_UNKNOWN;
    let mut names = Vec::new();
    loop {
        let first = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let request = wire::VgpuCodeNames {
            owner,
            first,
            most: most.saturating_sub(first),
        };
        let count = call.exchange(&request, &[], |lane, body| {
            let reply: wire::VgpuCodeNamesReply = parse(body)?;
            let bytes = usize::try_from(reply.bytes).unwrap_or(usize::MAX);
            if bytes > lane.side_byte_len() {
                return Err(broken);
            }
            let mut side = vec![0; bytes];
            lane.read_side(&mut side).map_err(|_| broken)?;
            let before = names.len();
            for name in side.split_inclusive(|byte| *byte == 0) {
                let name = CStr::from_bytes_with_nul(name).map_err(|_| broken)?;
                names.push(name.to_owned());
            }
            Ok(names.len() - before)
        })?;
        // A worker that goes on for ever with nothing to say is broken; one that says something is bounded by
        // what was asked for.
        if count == 0 || names.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
            names.truncate(usize::try_from(most).unwrap_or(usize::MAX));
            return Ok(names);
        }
    }
}

pub unsafe fn cuModuleGetGlobal_v2(
    dptr: *mut CUdeviceptr,
    bytes: *mut usize,
    hmod: CUmodule,
    name: *const c_char,
) -> Outcome {
    let mut call = Call::begin(Function::cuModuleGetGlobal_v2)?;
    let module = call.handle(Kind::MODULE, hmod as u64)?;
    // SAFETY: the caller's promise.
    let name = unsafe { edge::text(name, MOST_NAME_BYTES) }?.to_bytes();
    let request = wire::CuModuleGetGlobalV2 {
        module,
        name_bytes: length(name),
        reserved: 0,
    };
    let reply: wire::CuModuleGetGlobalV2Reply = call.round_trip_with(&request, &[name])?;
    // SAFETY: the caller's promise.
    unsafe { global(&call, module, dptr, bytes, reply.address, reply.bytes) }
}

pub unsafe fn cuModuleGetLoadingMode(mode: *mut CUmoduleLoadingMode) -> Outcome {
    state::ready()?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(mode, CUmoduleLoadingMode::CU_MODULE_LAZY_LOADING) }
}

pub unsafe fn cuFuncGetName(name: *mut *const c_char, hfunc: CUfunction) -> Outcome {
    let session = state::ready()?;
    edge::require(name)?;
    // The text lives as long as the function, as the driver's does.
    let text = objects::code(&session.objects(), hfunc as u64)?
        .name
        .as_ptr();
    // SAFETY: the caller's promise.
    unsafe { edge::put(name, text) }
}

pub unsafe fn cuFuncGetModule(hmod: *mut CUmodule, hfunc: CUfunction) -> Outcome {
    let session = state::ready()?;
    edge::require(hmod)?;
    let owner = objects::code(&session.objects(), hfunc as u64)?.owner;
    let module = match Handle::from_value(owner) {
        Some(handle) if handle.kind() == Kind::LIBRARY => {
            let mut module = std::ptr::null_mut();
            // SAFETY: a local.
            unsafe {
                super::library::cuLibraryGetModule(
                    &raw mut module,
                    owner as cuda_abi::types::CUlibrary,
                )
            }?;
            module
        }
        _ => owner as CUmodule,
    };
    // SAFETY: the caller's promise.
    unsafe { edge::put(hmod, module) }
}

pub unsafe fn cuFuncGetParamInfo(
    func: CUfunction,
    paramIndex: usize,
    paramOffset: *mut usize,
    paramSize: *mut usize,
) -> Outcome {
    let session = state::ready()?;
    edge::require(paramOffset)?;
    let code = objects::code(&session.objects(), func as u64)?.clone();
    let parameters = code
        .parameters
        .as_ref()
        .ok_or(CUresult::CUDA_ERROR_NOT_SUPPORTED)?;
    let (offset, size) = parameters
        .get(paramIndex)
        .copied()
        .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(paramOffset, usize::try_from(offset).unwrap_or(usize::MAX)) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(paramSize, usize::try_from(size).unwrap_or(usize::MAX)) };
    Ok(())
}

pub unsafe fn cuFuncGetParamCount(func: CUfunction, paramCount: *mut usize) -> Outcome {
    let session = state::ready()?;
    edge::require(paramCount)?;
    let code = objects::code(&session.objects(), func as u64)?.clone();
    let parameters = code
        .parameters
        .as_ref()
        .ok_or(CUresult::CUDA_ERROR_NOT_SUPPORTED)?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(paramCount, parameters.len()) }
}

pub unsafe fn cuFuncLoad(hfunc: CUfunction) -> Outcome {
    objects::code(&state::ready()?.objects(), hfunc as u64).map(|_| ())
}

pub unsafe fn cuFuncIsLoaded(state: *mut CUfunctionLoadingState, hfunc: CUfunction) -> Outcome {
    edge::require(state)?;
    objects::code(&crate::state::ready()?.objects(), hfunc as u64)?;
    // To a program it is: it finds no difference but the time of the first launch.
    // SAFETY: the caller's promise.
    unsafe {
        edge::put(
            state,
            CUfunctionLoadingState::CU_FUNCTION_LOADING_STATE_LOADED,
        )
    }
}

/// # Safety
/// The options are of arrays that are still there.
unsafe fn load_module(mut call: Call, image: Image<'_>, options: &Options) -> Outcome<u64> {
    let handle = call.mint(Kind::MODULE)?;
    // SAFETY: by this function's contract.
    unsafe {
        load(&mut call, image, options, |image| {
            wire::CuModuleLoadDataEx {
                module: handle.value(),
                upload: image.upload,
                image_bytes: image.bytes,
                kind: image.kind,
                log_bytes: options.log_bytes(),
                option_count: options.scalar_count,
                reserved: 0,
            }
        })
    }?;
    call.keep(Kind::MODULE, handle);
    Ok(handle.value())
}

/// An image on its way: with the record, or uploaded before.
pub(super) struct Travelling {
    pub(super) upload: u64,
    pub(super) bytes: u64,
    pub(super) kind: u32,
}

/// Brings an image over and has it loaded; logs come back, whether it worked or not.
///
/// # Safety
/// The options are of arrays that are still there.
pub(super) unsafe fn load<T: idm_protocol::record::Request>(
    call: &mut Call,
    image: Image<'_>,
    options: &Options,
    request: impl FnOnce(Travelling) -> T,
) -> Outcome {
    let session = call.session;
    let side = usize::try_from(session.welcome.limits.side_bytes).unwrap_or(0);
    let padding = 16;
    let inline = image.bytes.len() + options.scalars.len() + padding <= side;
    let upload = if inline {
        0
    } else {
        upload(call, image.bytes)?
    };
    let request = request(Travelling {
        upload,
        bytes: image.bytes.len() as u64,
        kind: image.kind,
    });
    let parts: [&[u8]; 2] = [&options.scalars, if inline { image.bytes } else { &[] }];
    let log_bytes = usize::try_from(options.log_bytes()).unwrap_or(0);
    call.exchange_raw(&request, &parts, |lane, status, body| {
        // Both loads answer with the same three fields, also when they fail.
        if let Ok(reply) = parse::<wire::CuModuleLoadDataExReply>(body) {
            let clamp = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX).min(log_bytes);
            let (info, error) = (clamp(reply.info_log_bytes), clamp(reply.error_log_bytes));
            let start = info.next_multiple_of(8);
            let mut side = vec![0; if info + error == 0 { 0 } else { start + error }];
            lane.read_side(&mut side)
                .map_err(|error| failed(session, &error))?;
            let (info, error) = (
                &side[..info.min(side.len())],
                &side[start.min(side.len())..],
            );
            // SAFETY: by this function's contract.
            unsafe { options.give_back(info, error, reply.wall_time) };
        }
        accepted(status)
    })?;
    call.deliver()
}

/// Moves an image over by the bulk pipe; the next record of this lane names it.
pub(super) fn upload(call: &mut Call, bytes: &[u8]) -> Outcome<u64> {
    let upload = call.session.next_upload();
    let total = bytes.len();
    // SAFETY: a slice of the caller's image, readable for all its length; the arena holds no images.
    unsafe {
        bulk::transfer(
            call,
            Memory::From(bytes.as_ptr()),
            total,
            0,
            |chunk_count| wire::VgpuUpload {
                upload,
                total: total as u64,
                chunk_count,
                reserved: 0,
            },
        )
    }?;
    Ok(upload)
}

/// The function or kernel of this name, known already or asked for now. Asked for twice, it is the same
/// handle, as the driver's is.
pub(super) fn find_code(
    call: &mut Call,
    kind: Kind,
    context: u64,
    owner: u64,
    name: &CStr,
    ask: impl FnOnce(&mut Call, u64, &[u8]) -> Outcome<Option<Vec<(u32, u32)>>>,
) -> Outcome<u64> {
    let session = call.session;
    if let Some(known) = known_code(session, kind, owner, name) {
        return Ok(known);
    }
    let handle = call.mint_with(kind, context, Detail::Plain)?;
    let parameters = ask(call, handle.value(), name.to_bytes())?;
    let code = Code::new(CString::from(name), owner, parameters);
    let mut objects = session.objects_mut();
    let entry = objects
        .resolve_mut(handle.value(), kind)
        .map_err(|error| objects::refusal(kind, &error))?;
    entry.1.detail = Detail::Code(code.into());
    drop(objects);
    call.keep(kind, handle);
    Ok(handle.value())
}

fn known_code(session: &Session, kind: Kind, owner: u64, name: &CStr) -> Option<u64> {
    let objects = session.objects();
    let same = |object: &Object| match &object.detail {
        Detail::Code(code) => code.owner == owner && code.name.as_c_str() == name,
        _ => false,
    };
    objects
        .iter(kind)
        .find(|(_, object)| same(object))
        .map(|(handle, _)| handle.value())
}

/// Forgets the functions or kernels, and the variables, of a module or library that is gone.
pub(super) fn forget(session: &Session, owner: u64, kind: Kind) {
    session
        .ranges
        .remove_all(|range| range.place == Place::Global { owner });
    let mut objects = session.objects_mut();
    let of_owner =
        |object: &Object| matches!(&object.detail, Detail::Code(code) if code.owner == owner);
    let gone: Vec<_> = objects
        .iter(kind)
        .filter(|(_, object)| of_owner(object))
        .map(|(handle, _)| handle)
        .collect();
    for handle in gone {
        let _ = objects.remove(handle.value(), kind);
    }
}

/// The parameter layout that a lookup left in the side buffer: pairs of offset and size. `None`: the driver
/// cannot tell.
pub(super) fn parameters(
    lane: &ClientLane<Mapped>,
    count: u32,
) -> Outcome<Option<Vec<(u32, u32)>>> {
    if count == u32::MAX {
        return Ok(None);
    }
    let bytes = usize::try_from(count)
        .ok()
        .and_then(|count| count.checked_mul(8));
    let bytes = bytes
        .filter(|bytes| *bytes <= lane.side_byte_len())
        .ok_or(CUresult::CUDA_ERROR_UNKNOWN)?;
    let mut side = vec![0; bytes];
    lane.read_side(&mut side)
        .map_err(|_| CUresult::CUDA_ERROR_UNKNOWN)?;
    let pair = |bytes: &[u8]| {
        <[u32; 2]>::read_from_bytes(bytes)
            .map(|[offset, size]| (offset, size))
            .unwrap_or_default()
    };
    let list: Vec<_> = side.chunks_exact(8).map(pair).collect();
    // The longest parameter list that any device takes; more is a worker's lie, and would be our memory.
    let sane = list
        .iter()
        .all(|&(offset, size)| offset.saturating_add(size) <= 64 << 10);
    if sane {
        Ok(Some(list))
    } else {
        Err(CUresult::CUDA_ERROR_UNKNOWN)
    }
}

/// Notes where a variable lies and tells the caller.
///
/// # Safety
/// The pointers are null or valid for a write.
pub(super) unsafe fn global(
    call: &Call,
    owner: u64,
    dptr: *mut CUdeviceptr,
    bytes: *mut usize,
    address: u64,
    size: u64,
) -> Outcome {
    let session = call.session;
    if session.ranges.find(address).is_none() {
        let context = call.context_handle();
        let device = device_of(call).unwrap_or(0);
        let range = Range {
            start: address,
            bytes: size,
            place: Place::Global { owner },
            context,
            device,
            id: 0,
        };
        // Another thread that asked for the same variable may have been faster.
        let _ = session.ranges.insert(range);
    }
    // SAFETY: by this function's contract.
    unsafe { edge::put_optional(dptr, address) };
    // SAFETY: by this function's contract.
    unsafe { edge::put_optional(bytes, usize::try_from(size).unwrap_or(usize::MAX)) };
    Ok(())
}

/// A file's contents. PTX text gets the NUL that ends it in memory.
///
/// # Safety
/// `path` is null or a NUL-terminated string.
pub(super) unsafe fn read_file(path: *const c_char) -> Outcome<Vec<u8>> {
    // SAFETY: by this function's contract.
    let path = unsafe { edge::text(path, 1 << 16) }?;
    let path = std::ffi::OsStr::from_bytes(path.to_bytes());
    let mut bytes = std::fs::read(path).map_err(|_| CUresult::CUDA_ERROR_FILE_NOT_FOUND)?;
    if image::sniff_bytes(&bytes).is_err() {
        bytes.push(0);
        if image::sniff_bytes(&bytes)?.kind != image_kind::PTX {
            return Err(CUresult::CUDA_ERROR_INVALID_IMAGE);
        }
    }
    Ok(bytes)
}

pub(super) fn length(name: &[u8]) -> u32 {
    // At most `MOST_NAME_BYTES`.
    u32::try_from(name.len()).unwrap_or(u32::MAX)
}
