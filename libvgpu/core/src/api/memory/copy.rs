//! Copies. What both sides map or the device holds travels as a record; memory of the program's own goes
//! with the record, through the lane's side buffer, or through staging, by its size.

use std::ffi::c_void;

use cuda_abi::function::Function;
use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{CUdeviceptr, CUresult, CUstream};
use idm_protocol::bulk::skew_between;
use idm_protocol::handle::Kind;
use idm_protocol::lane::REPLY_BYTES;
use idm_protocol::wire::{self, copy_kind};

use super::{captured, pointer, send, stream_of};
use crate::api::capture::is_capturing;
use crate::bulk::{self, Memory};
use crate::call::{Call, Outcome, failed};
use crate::ranges::{Need, Place};
use crate::session::Session;

/// Which ends of a copy must be CUDA's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Ends {
    HostToDevice,
    DeviceToHost,
    DeviceToDevice,
    Any,
}

pub unsafe fn cuMemcpyHtoD_v2(
    default: DefaultStream,
    dstDevice: CUdeviceptr,
    srcHost: *const c_void,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyHtoD_v2)?;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::HostToDevice,
            dstDevice,
            srcHost.expose_provenance() as u64,
            ByteCount,
            stream_of(default),
            true,
        )
    }
}

pub unsafe fn cuMemcpyDtoH_v2(
    default: DefaultStream,
    dstHost: *mut c_void,
    srcDevice: CUdeviceptr,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyDtoH_v2)?;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::DeviceToHost,
            dstHost.expose_provenance() as u64,
            srcDevice,
            ByteCount,
            stream_of(default),
            true,
        )
    }
}

pub unsafe fn cuMemcpyDtoD_v2(
    default: DefaultStream,
    dstDevice: CUdeviceptr,
    srcDevice: CUdeviceptr,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyDtoD_v2)?;
    // The driver does not wait for copies between device memory either, unless the program asked for it.
    let ranges = &call.session.ranges;
    let wait = ranges.synchronises(dstDevice) || ranges.synchronises(srcDevice);
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::DeviceToDevice,
            dstDevice,
            srcDevice,
            ByteCount,
            stream_of(default),
            wait,
        )
    }
}

pub unsafe fn cuMemcpy(
    default: DefaultStream,
    dst: CUdeviceptr,
    src: CUdeviceptr,
    ByteCount: usize,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpy)?;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::Any,
            dst,
            src,
            ByteCount,
            stream_of(default),
            true,
        )
    }
}

pub unsafe fn cuMemcpyHtoDAsync_v2(
    dstDevice: CUdeviceptr,
    srcHost: *const c_void,
    ByteCount: usize,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyHtoDAsync_v2)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::HostToDevice,
            dstDevice,
            srcHost.expose_provenance() as u64,
            ByteCount,
            stream,
            false,
        )
    }
}

pub unsafe fn cuMemcpyDtoHAsync_v2(
    dstHost: *mut c_void,
    srcDevice: CUdeviceptr,
    ByteCount: usize,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyDtoHAsync_v2)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::DeviceToHost,
            dstHost.expose_provenance() as u64,
            srcDevice,
            ByteCount,
            stream,
            false,
        )
    }
}

pub unsafe fn cuMemcpyDtoDAsync_v2(
    dstDevice: CUdeviceptr,
    srcDevice: CUdeviceptr,
    ByteCount: usize,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyDtoDAsync_v2)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    unsafe {
        copy(
            call,
            Ends::DeviceToDevice,
            dstDevice,
            srcDevice,
            ByteCount,
            stream,
            false,
        )
    }
}

pub unsafe fn cuMemcpyAsync(
    dst: CUdeviceptr,
    src: CUdeviceptr,
    ByteCount: usize,
    hStream: CUstream,
) -> Outcome {
    let call = Call::begin(Function::cuMemcpyAsync)?;
    let stream = call.handle(Kind::STREAM, hStream as u64)?;
    // SAFETY: the caller's promise.
    unsafe { copy(call, Ends::Any, dst, src, ByteCount, stream, false) }
}

/// Copies `bytes` in the order of `stream`; waits for the end if `wait`, or if memory of the program's
/// own is written.
///
/// # Safety
/// As `cuMemcpy`: addresses that are not CUDA's are memory of the program's, valid for the copy.
pub(in crate::api) unsafe fn copy(
    mut call: Call,
    ends: Ends,
    dst: u64,
    src: u64,
    bytes: usize,
    stream: u64,
    wait: bool,
) -> Outcome {
    let session = call.session;
    let to = end(session, dst, bytes, Need::Write)?;
    let from = end(session, src, bytes, Need::Read)?;
    let (need_to, need_from) = match ends {
        Ends::HostToDevice => (true, false),
        Ends::DeviceToHost => (false, true),
        Ends::DeviceToDevice => (true, true),
        Ends::Any => (false, false),
    };
    // A copy of nothing succeeds wherever it points.
    if bytes == 0 {
        return Ok(());
    }
    if (need_to && to == End::Program)
        || (need_from && from == End::Program)
        || dst == 0
        || src == 0
    {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let own = to == End::Program || from == End::Program;
    if !wait && own && session.captures.any() && is_capturing(&mut call, stream)? {
        let end = |end, address| match end {
            End::Program => captured::End::Program(address),
            End::Device => captured::End::Shared(address, true),
            End::Pinned => captured::End::Shared(address, false),
        };
        return captured::copy(call, end(to, dst), end(from, src), bytes, stream);
    }
    let length = bytes as u64;
    let side = usize::try_from(session.welcome.limits.side_bytes).unwrap_or(0);
    match (to, from) {
        (End::Program | End::Pinned, End::Program) | (End::Program, End::Pinned) => {
            // In stream order: what was enqueued before may still read or write these bytes. Both are mapped here.
            call.complete(&wire::CuStreamSynchronize { hStream: stream })?;
            // SAFETY: both are the program's, by this function's contract, or the arena's; they may overlap.
            unsafe { std::ptr::copy(pointer(src).cast::<u8>(), pointer(dst).cast(), bytes) };
            Ok(())
        }
        (End::Program, _) if bytes <= side => {
            let request = wire::VgpuCopyOut {
                source: src,
                bytes: length,
                stream,
            };
            call.exchange(&request, &[], |lane, body| {
                let mut large;
                let from = if bytes <= REPLY_BYTES {
                    body.get(..bytes).ok_or(CUresult::CUDA_ERROR_UNKNOWN)?
                } else {
                    large = vec![0; bytes];
                    lane.read_side(&mut large)
                        .map_err(|error| failed(session, &error))?;
                    &large
                };
                // SAFETY: the program's memory, by this function's contract.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), pointer(dst).cast(), bytes) };
                Ok(())
            })?;
            call.deliver()
        }
        (End::Program, _) => {
            let into = Memory::Into(pointer(dst).cast());
            let skew = skew_between(src, dst);
            // SAFETY: the program's memory, by this function's contract; the arena is not.
            unsafe {
                bulk::transfer(&mut call, into, bytes, skew, |chunk_count| {
                    wire::VgpuCopyOutBulk {
                        source: src,
                        bytes: length,
                        stream,
                        chunk_count,
                        skew,
                    }
                })
            }
        }
        (_, End::Program) if bytes <= side => {
            let request = wire::VgpuCopyIn {
                destination: dst,
                bytes: length,
                stream,
            };
            // The bytes are copied into the ring or the side buffer before anything else happens.
            // SAFETY: the program's memory, by this function's contract.
            let from = unsafe { std::slice::from_raw_parts(pointer(src).cast::<u8>(), bytes) };
            send(&mut call, stream, wait, &request, &[from])
        }
        (_, End::Program) => {
            let from = Memory::From(pointer(src).cast::<u8>());
            let skew = skew_between(src, dst);
            // SAFETY: the program's memory, by this function's contract; the arena is not.
            unsafe {
                bulk::transfer(&mut call, from, bytes, skew, |chunk_count| {
                    wire::VgpuCopyInBulk {
                        destination: dst,
                        bytes: length,
                        stream,
                        chunk_count,
                        skew,
                    }
                })
            }
        }
        (to, from) => {
            let kind = match (from, to) {
                (End::Device, End::Device) => copy_kind::DEVICE_TO_DEVICE,
                (End::Device, _) => copy_kind::DEVICE_TO_HOST,
                (_, End::Device) => copy_kind::HOST_TO_DEVICE,
                _ => copy_kind::HOST_TO_HOST,
            };
            let request = wire::VgpuCopy {
                destination: dst,
                source: src,
                bytes: length,
                stream,
                kind,
                reserved: 0,
            };
            send(&mut call, stream, wait, &request, &[])
        }
    }
}

/// What one end of a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Device,
    Pinned,
    /// Memory of the program's own, registered or not.
    Program,
}

fn end(session: &Session, address: u64, bytes: usize, need: Need) -> Outcome<End> {
    let Some(range) = session.ranges.find(address) else {
        return Ok(End::Program);
    };
    let end = match range.place {
        Place::Device
        | Place::Global { .. }
        | Place::Mapped { .. }
        | Place::Pooled { .. }
        | Place::Imported => End::Device,
        Place::Pinned { .. } | Place::Managed => End::Pinned,
        Place::Registered { .. } => return Ok(End::Program),
    };
    if session.ranges.cover(address, bytes as u64, need).is_some() {
        Ok(end)
    } else {
        Err(CUresult::CUDA_ERROR_INVALID_VALUE)
    }
}
