//! The linker. A link lives in the worker; here are the program's log buffers, and the finished image, which
//! the program may read until it destroys the link.

use std::ffi::{c_char, c_uint, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use cuda_abi::function::Function;
use cuda_abi::types::{CUjit_option, CUjitInputType, CUlinkState, CUresult};
use idm_protocol::handle::Kind;
use idm_protocol::lane::ClientLane;
use idm_protocol::memory::Mapped;
use idm_protocol::wire;

use super::module::{MOST_NAME_BYTES, length, upload};
use crate::call::{Call, Outcome, accepted, failed, parse};
use crate::edge;
use crate::image::MOST_BYTES;
use crate::jit::Options;
use crate::objects::{self, Detail};
use crate::session::Session;

/// What the client keeps of a link.
#[derive(Debug)]
pub struct Link {
    options: Options,
    image: Vec<u8>,
}

pub unsafe fn cuLinkCreate_v2(
    numOptions: c_uint,
    options: *mut CUjit_option,
    optionValues: *mut *mut c_void,
    stateOut: *mut CUlinkState,
) -> Outcome {
    let mut call = Call::begin(Function::cuLinkCreate_v2)?;
    edge::require(stateOut)?;
    // SAFETY: the caller's promise, and it keeps the buffers until it destroys the link.
    let options = unsafe { Options::read(numOptions, options, optionValues) }?;
    let scalars = options.scalars.clone();
    let (log_bytes, option_count) = (options.log_bytes(), options.scalar_count);
    let link = Link {
        options,
        image: Vec::new(),
    };
    let detail = Detail::Link(Arc::new(Mutex::new(link)));
    let handle = call.mint_with(Kind::LINK, 0, detail)?;
    let request = wire::CuLinkCreateV2 {
        link: handle.value(),
        log_bytes,
        option_count,
    };
    call.complete_with(&request, &[&scalars])?;
    call.keep(Kind::LINK, handle);
    // SAFETY: the caller's promise.
    unsafe { edge::put(stateOut, handle.value() as CUlinkState) }
}

pub unsafe fn cuLinkAddData_v2(
    state: CUlinkState,
    type_: CUjitInputType,
    data: *mut c_void,
    size: usize,
    name: *const c_char,
    numOptions: c_uint,
    options: *mut CUjit_option,
    optionValues: *mut *mut c_void,
) -> Outcome {
    let call = Call::begin(Function::cuLinkAddData_v2)?;
    // SAFETY: the caller's promise.
    let given = unsafe { Options::read(numOptions, options, optionValues) }?;
    edge::require(data)?;
    if size == 0 || size > MOST_BYTES {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: so many bytes, by the caller's promise.
    let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), size) };
    let name = if name.is_null() {
        &[]
    } else {
        // SAFETY: the caller's promise.
        unsafe { edge::text(name, MOST_NAME_BYTES) }?.to_bytes()
    };
    // SAFETY: the options are the caller's.
    unsafe { add(call, state, type_, data, name, &given) }
}

pub unsafe fn cuLinkAddFile_v2(
    state: CUlinkState,
    type_: CUjitInputType,
    path: *const c_char,
    numOptions: c_uint,
    options: *mut CUjit_option,
    optionValues: *mut *mut c_void,
) -> Outcome {
    use std::os::unix::ffi::OsStrExt as _;
    let call = Call::begin(Function::cuLinkAddFile_v2)?;
    // SAFETY: the caller's promise.
    let given = unsafe { Options::read(numOptions, options, optionValues) }?;
    // SAFETY: the caller's promise.
    let path = unsafe { edge::text(path, MOST_NAME_BYTES) }?.to_bytes();
    let data = std::fs::read(std::ffi::OsStr::from_bytes(path));
    let data = data.map_err(|_| CUresult::CUDA_ERROR_FILE_NOT_FOUND)?;
    if data.is_empty() || data.len() > MOST_BYTES {
        return Err(CUresult::CUDA_ERROR_INVALID_IMAGE);
    }
    // SAFETY: the options are the caller's.
    unsafe { add(call, state, type_, &data, path, &given) }
}

/// # Safety
/// The options are of arrays that are still there.
unsafe fn add(
    mut call: Call,
    state: CUlinkState,
    kind: CUjitInputType,
    data: &[u8],
    name: &[u8],
    given: &Options,
) -> Outcome {
    let link = link(call.session, state)?;
    let link = link.lock().unwrap_or_else(PoisonError::into_inner);
    let session = call.session;
    let side = usize::try_from(session.welcome.limits.side_bytes).unwrap_or(0);
    let padding = 16;
    let inline = data.len() + name.len() + given.scalars.len() + padding <= side;
    // Parts of a tail begin at whole words; the name does not end at one by itself.
    let mut head = [&given.scalars[..], name].concat();
    head.resize(head.len().next_multiple_of(8), 0);
    let upload = if inline { 0 } else { upload(&mut call, data)? };
    let request = wire::CuLinkAddDataV2 {
        link: state as u64,
        upload,
        data_bytes: data.len() as u64,
        kind: kind.0,
        name_bytes: length(name),
        option_count: given.scalar_count,
        reserved: 0,
    };
    let parts: [&[u8]; 2] = [&head, if inline { data } else { &[] }];
    call.exchange_raw(&request, &parts, |lane, status, body| {
        if let Ok(reply) = parse::<wire::CuLinkAddDataV2Reply>(body) {
            let bytes = (reply.info_log_bytes, reply.error_log_bytes);
            let (info, error) = logs(session, lane, &link.options, bytes)?;
            // SAFETY: the program keeps the link's buffers; the call's are the caller's.
            unsafe { link.options.give_back(&info, &error, reply.wall_time) };
            let own: &[u8] = if status == CUresult::CUDA_SUCCESS {
                &[]
            } else {
                &error
            };
            // SAFETY: as above.
            unsafe { given.give_back(&[], own, reply.wall_time) };
        }
        accepted(status)
    })?;
    call.deliver()
}

pub unsafe fn cuLinkComplete(
    state: CUlinkState,
    cubinOut: *mut *mut c_void,
    sizeOut: *mut usize,
) -> Outcome {
    let mut call = Call::begin(Function::cuLinkComplete)?;
    edge::require(cubinOut)?;
    let link = link(call.session, state)?;
    let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
    // What was completed already stays where it is: the program may hold on to it.
    if link.image.is_empty() {
        let session = call.session;
        let request = wire::CuLinkComplete { link: state as u64 };
        let bytes = call.exchange_raw(&request, &[], |lane, status, body| {
            let reply = parse::<wire::CuLinkCompleteReply>(body);
            if let Ok(reply) = &reply {
                let bytes = (reply.info_log_bytes, reply.error_log_bytes);
                let (info, error) = logs(session, lane, &link.options, bytes)?;
                // SAFETY: the program keeps the link's buffers until it destroys the link.
                unsafe { link.options.give_back(&info, &error, reply.wall_time) };
            }
            accepted(status)?;
            Ok(reply?.image_bytes)
        })?;
        link.image = fetch(&mut call, state as u64, bytes)?;
    }
    // SAFETY: the caller's promise.
    unsafe { edge::put(cubinOut, link.image.as_mut_ptr().cast::<c_void>()) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put_optional(sizeOut, link.image.len()) };
    call.deliver()
}

pub unsafe fn cuLinkDestroy(state: CUlinkState) -> Outcome {
    let mut call = Call::begin(Function::cuLinkDestroy)?;
    let handle = call.handle(Kind::LINK, state as u64)?;
    call.exchange(&wire::CuLinkDestroy { link: handle }, &[], |_, _| Ok(()))?;
    call.retire(Kind::LINK, handle);
    Ok(())
}

/// Reads a finished image, a side buffer at a time.
fn fetch(call: &mut Call, link: u64, bytes: u64) -> Outcome<Vec<u8>> {
    let broken = CUresult::CUDA_ERROR_UNKNOWN;
    let total = usize::try_from(bytes).map_err(|_| broken)?;
    if total == 0 || total > MOST_BYTES {
        return Err(broken);
    }
    let session = call.session;
    let side = usize::try_from(session.welcome.limits.side_bytes).unwrap_or(0);
    let mut image = Vec::new();
    while image.len() < total {
        let piece = (total - image.len()).min(side.max(1));
        let request = wire::VgpuLinkRead {
            link,
            offset: image.len() as u64,
            bytes: u32::try_from(piece).map_err(|_| broken)?,
            reserved: 0,
        };
        call.exchange(&request, &[], |lane, _| {
            let start = image.len();
            image.resize(start + piece, 0);
            lane.read_side(&mut image[start..])
                .map_err(|error| failed(session, &error))
        })?;
    }
    Ok(image)
}

fn link(session: &Session, state: CUlinkState) -> Outcome<Arc<Mutex<Link>>> {
    let objects = session.objects();
    let object = objects
        .resolve(state as u64, Kind::LINK)
        .map_err(|error| objects::refusal(Kind::LINK, &error))?;
    match &object.1.detail {
        Detail::Link(link) => Ok(Arc::clone(link)),
        _ => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
    }
}

/// The logs that came back in the side buffer.
fn logs(
    session: &Session,
    lane: &ClientLane<Mapped>,
    options: &Options,
    bytes: (u32, u32),
) -> Outcome<(Vec<u8>, Vec<u8>)> {
    let most = usize::try_from(options.log_bytes()).unwrap_or(0);
    let clamp = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX).min(most);
    let (info, error) = (clamp(bytes.0), clamp(bytes.1));
    let start = info.next_multiple_of(8);
    let mut side = vec![0; if info + error == 0 { 0 } else { start + error }];
    lane.read_side(&mut side)
        .map_err(|error| failed(session, &error))?;
    let error = side.split_off(start.min(side.len()));
    side.truncate(info);
    Ok((side, error))
}
