//! Copies of the program's own memory on a stream that is captured.
//!
//! Such a copy is done when the graph runs, with what then lies in the program's memory. The device cannot
//! reach that, so the bytes go through a piece of pinned memory that is the graph's: a host function moves them
//! there before the device reads them, or from there when the device has written them. The piece is free
//! when the worker says that the graph, and all that was made from it, is gone.

use std::sync::PoisonError;

use cuda_abi::types::CUresult;
use idm_protocol::wire::{self, copy_kind, host_memory};

use super::send;
use crate::call::{Call, Outcome};
use crate::callbacks::Work;
use crate::session::Session;

/// One end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Device memory, or pinned memory, at an address that means the same everywhere.
    Shared(u64, bool),
    /// The program's own.
    Program(u64),
}

/// Captures a copy; an end is, or both ends are, the program's own memory.
pub(super) fn copy(mut call: Call, to: End, from: End, bytes: usize, stream: u64) -> Outcome {
    match (to, from) {
        (End::Program(to), End::Program(from)) => host(
            &mut call,
            stream,
            Work::Move {
                to,
                from,
                bytes,
                piece: 0,
            },
        ),
        (End::Shared(destination, device), End::Program(from)) => {
            let piece = take(&mut call, bytes)?;
            let work = Work::Move {
                to: piece,
                from,
                bytes,
                piece,
            };
            host(&mut call, stream, work).inspect_err(|_| put(call.session, piece))?;
            let kind = match device {
                true => copy_kind::HOST_TO_DEVICE,
                false => copy_kind::HOST_TO_HOST,
            };
            shared(&mut call, destination, piece, bytes, stream, kind)
        }
        (End::Program(to), End::Shared(source, device)) => {
            let piece = take(&mut call, bytes)?;
            let kind = match device {
                true => copy_kind::DEVICE_TO_HOST,
                false => copy_kind::HOST_TO_HOST,
            };
            let work = Work::Move {
                to,
                from: piece,
                bytes,
                piece,
            };
            shared(&mut call, piece, source, bytes, stream, kind)
                .and_then(|()| host(&mut call, stream, work))
                .inspect_err(|_| put(call.session, piece))
        }
        (End::Shared(..), End::Shared(..)) => Err(CUresult::CUDA_ERROR_UNKNOWN),
    }
}

fn shared(
    call: &mut Call,
    destination: u64,
    source: u64,
    bytes: usize,
    stream: u64,
    kind: u32,
) -> Outcome {
    let request = wire::VgpuCopy {
        destination,
        source,
        bytes: bytes as u64,
        stream,
        kind,
        reserved: 0,
    };
    send(call, stream, false, &request, &[])
}

fn host(call: &mut Call, stream: u64, work: Work) -> Outcome {
    let session = call.session;
    let callback = session
        .callbacks
        .enqueue(session, work, std::ptr::null_mut())?;
    let request = wire::CuLaunchHostFunc {
        stream,
        callback,
        with_status: 0,
        reserved: 0,
    };
    send(call, stream, false, &request, &[]).inspect_err(|_| session.callbacks.forget(callback))
}

/// A piece of pinned memory that the worker knows; its address.
fn take(call: &mut Call, bytes: usize) -> Outcome<u64> {
    let session = call.session;
    let none = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    let mut pieces = session
        .pieces
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let (offset, len) = pieces.take(bytes).ok_or(none)?;
    drop(pieces);
    let address = session.arena.address_of(offset, len).ok_or(none)?;
    let request = wire::CuMemHostAlloc {
        address,
        bytes: len as u64,
        flags: host_memory::FOR_GRAPH,
        reserved: 0,
    };
    if let Err(error) = call.exchange(&request, &[], |_, _| Ok(())) {
        let mut pieces = session
            .pieces
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pieces.put(offset, len);
        return Err(error);
    }
    let mut pinned = session
        .pinned
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    pinned.insert(address, len);
    Ok(address)
}

/// A piece is not needed any more; [`free_unused`] gives it back when no capture minds.
pub(crate) fn put(session: &Session, address: u64) {
    let mut unused = session
        .unused
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    unused.push(address);
}

/// Gives pieces back that no graph needs any more.
pub(crate) fn free_unused(call: &mut Call) {
    let session = call.session;
    if session.captures.any() {
        return;
    }
    let unused = std::mem::take(
        &mut *session
            .unused
            .lock()
            .unwrap_or_else(PoisonError::into_inner),
    );
    for address in unused {
        let freed = call.exchange(&wire::CuMemFreeHost { address }, &[], |_, _| Ok(()));
        let mut pinned = session
            .pinned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let len = pinned.remove(&address);
        drop(pinned);
        let offset = len.and_then(|len| session.arena.offset_of(address, len as u64));
        // One that the worker still has is not given to anybody else.
        if let (Ok(()), Some(offset), Some(len)) = (freed, offset, len) {
            let mut pieces = session
                .pieces
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            pieces.put(offset, len);
        }
    }
}
