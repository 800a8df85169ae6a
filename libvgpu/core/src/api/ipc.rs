//! What processes of one zone share. A handle holds a token of the supervisor's, and nothing of the driver's.

use std::ffi::c_uint;
use std::sync::atomic::Ordering;

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUdeviceptr, CUevent, CUipcEventHandle, CUipcMem_flags, CUipcMemHandle, CUresult,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use super::memory::device_of;
use crate::call::{Call, Outcome};
use crate::edge;
use crate::ranges::{Place, Range};

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

const LAZY_PEER_ACCESS: c_uint = CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS.0;

/// Begins every handle of memory; after it come the token's two words and zeros.
const MEMORY_MAGIC: [u8; 8] = *b"vgpuipc1";
/// The same of an event.
const EVENT_MAGIC: [u8; 8] = *b"vgpuevt1";

pub unsafe fn cuIpcGetMemHandle(pHandle: *mut CUipcMemHandle, dptr: CUdeviceptr) -> Outcome {
    let mut call = Call::begin(Function::cuIpcGetMemHandle)?;
    edge::require(pHandle)?;
    let found = call.session.ranges.find(dptr);
    let range = found.filter(|range| range.place == Place::Device);
    let address = range.ok_or(INVALID)?.start;
    let reply: wire::CuIpcGetMemHandleReply =
        call.round_trip(&wire::CuIpcGetMemHandle { address })?;
    let reserved = handle(MEMORY_MAGIC, [reply.token_low, reply.token_high]);
    // SAFETY: the caller's promise.
    unsafe { edge::put(pHandle, CUipcMemHandle { reserved }) }
}

pub unsafe fn cuIpcGetEventHandle(pHandle: *mut CUipcEventHandle, event: CUevent) -> Outcome {
    let mut call = Call::begin(Function::cuIpcGetEventHandle)?;
    edge::require(pHandle)?;
    let event = call.handle(Kind::EVENT, event as u64)?;
    let reply: wire::CuIpcGetEventHandleReply =
        call.round_trip(&wire::CuIpcGetEventHandle { event })?;
    call.session.shares_events.store(true, Ordering::Relaxed);
    let reserved = handle(EVENT_MAGIC, [reply.token_low, reply.token_high]);
    // SAFETY: the caller's promise.
    unsafe { edge::put(pHandle, CUipcEventHandle { reserved }) }
}

pub unsafe fn cuIpcOpenEventHandle(phEvent: *mut CUevent, handle: CUipcEventHandle) -> Outcome {
    let mut call = Call::begin(Function::cuIpcOpenEventHandle)?;
    edge::require(phEvent)?;
    let words = token(EVENT_MAGIC, &handle.reserved);
    let [token_low, token_high] = words.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
    let event = call.mint(Kind::EVENT)?;
    call.complete(&wire::CuIpcOpenEventHandle {
        event: event.value(),
        token_low,
        token_high,
    })?;
    call.keep(Kind::EVENT, event);
    call.session.shares_events.store(true, Ordering::Relaxed);
    // SAFETY: the caller's promise.
    unsafe { edge::put(phEvent, event.value() as CUevent) }
}

pub unsafe fn cuIpcOpenMemHandle_v2(
    pdptr: *mut CUdeviceptr,
    handle: CUipcMemHandle,
    Flags: c_uint,
) -> Outcome {
    let mut call = Call::begin(Function::cuIpcOpenMemHandle_v2)?;
    edge::require(pdptr)?;
    if Flags & !LAZY_PEER_ACCESS != 0 {
        return Err(INVALID);
    }
    let words = token(MEMORY_MAGIC, &handle.reserved).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
    let request = wire::CuIpcOpenMemHandleV2 {
        token_low: words[0],
        token_high: words[1],
        flags: Flags,
        reserved: 0,
    };
    let session = call.session;
    // The worker counts; what it says first must be entered here before anybody hears what it says next.
    let _one_at_a_time = session.imports();
    let reply: wire::CuIpcOpenMemHandleV2Reply = call.round_trip(&request)?;
    let (address, bytes) = (reply.address, reply.bytes);
    if reply.is_new != 0 {
        let range = Range {
            start: address,
            bytes,
            place: Place::Imported,
            context: call.context_handle(),
            device: device_of(&call)?,
            id: 0,
        };
        if session.mirrors.reserve(address, bytes).is_err() {
            // Something of the program's is there, and opened again it would be at the same place.
            let closed = wire::CuIpcCloseMemHandle { address };
            let _: Outcome<wire::CuIpcCloseMemHandleReply> = call.round_trip(&closed);
            return Err(CUresult::CUDA_ERROR_MAP_FAILED);
        }
        if session.ranges.insert(range).is_err() {
            session.mirrors.release(address, bytes);
            return Err(session.lost("its worker opened memory where something is"));
        }
    }
    // SAFETY: the caller's promise.
    unsafe { edge::put(pdptr, address) }
}

pub unsafe fn cuIpcCloseMemHandle(dptr: CUdeviceptr) -> Outcome {
    let mut call = Call::begin(Function::cuIpcCloseMemHandle)?;
    let session = call.session;
    let _one_at_a_time = session.imports();
    let found = session.ranges.find(dptr);
    let range = found.filter(|range| range.place == Place::Imported && range.start == dptr);
    let range = range.ok_or(INVALID)?;
    let reply: wire::CuIpcCloseMemHandleReply =
        call.round_trip(&wire::CuIpcCloseMemHandle { address: dptr })?;
    if reply.is_gone != 0 {
        session.ranges.remove(dptr, |found| found.id == range.id);
        session.mirrors.release(range.start, range.bytes);
    }
    Ok(())
}

fn handle(magic: [u8; 8], token: [u64; 2]) -> [u8; 64] {
    let mut handle = [0; 64];
    handle[..8].copy_from_slice(&magic);
    handle[8..16].copy_from_slice(&token[0].to_le_bytes());
    handle[16..24].copy_from_slice(&token[1].to_le_bytes());
    handle
}

/// `None` for what is no handle of ours, or of something else.
fn token(magic: [u8; 8], handle: &[u8; 64]) -> Option<[u64; 2]> {
    let (words, _) = handle.as_chunks::<8>();
    let valid = words[0] == magic && words[3..].iter().all(|word| *word == [0; 8]);
    valid.then(|| [u64::from_le_bytes(words[1]), u64::from_le_bytes(words[2])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_holds_its_token_and_what_is_no_handle_holds_none() {
        let made = handle(MEMORY_MAGIC, [1, u64::MAX]);
        assert_eq!(token(MEMORY_MAGIC, &made), Some([1, u64::MAX]));
        assert_eq!(token(EVENT_MAGIC, &made), None, "memory is no event");
        for index in [0, 7, 24, 63] {
            let mut wrong = made;
            wrong[index] ^= 1;
            assert_eq!(token(MEMORY_MAGIC, &wrong), None, "{index}");
        }
        assert_eq!(token(MEMORY_MAGIC, &[0; 64]), None);
    }
}
