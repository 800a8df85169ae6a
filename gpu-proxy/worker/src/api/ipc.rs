//! What processes of one zone share. The client has a token, the driver's handle travels between workers.

#![forbid(unsafe_code)]

use cuda_abi::types::{CUipcMem_flags, CUresult};
use idm_protocol::handle::Kind;
use idm_protocol::wire;
use proxy_channel::message::{Sharing, Token};
use proxy_channel::shares::ShareError;

use crate::ranges::{Place, Range};
use crate::session::{Frame, Outcome, Session, SharedEvent};

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// Offers an allocation to the zone; the same token every time.
pub fn cuIpcGetMemHandle(
    session: &Session,
    request: &wire::CuIpcGetMemHandle,
    frame: &mut Frame<'_>,
) -> Outcome {
    let _one_at_a_time = session.sharing();
    let range = session.check_range(request.address, 1)?;
    let Place::Device { charged, shared } = range.place else {
        return Err(INVALID.into());
    };
    let token = match shared {
        Some(token) => token,
        None => share(session, &range, charged)?,
    };
    let [token_low, token_high] = words(token);
    frame.reply(&wire::CuIpcGetMemHandleReply {
        token_low,
        token_high,
    });
    Ok(())
}

fn share(session: &Session, range: &Range, charged: u64) -> Result<Token, CUresult> {
    let handle = session.driver().export(range.start)?;
    let shares = &session.parts.shares;
    let token = shares
        .share(range.bytes, charged, handle)
        .map_err(|error| refused(&error))?;
    if session.ranges().set_shared(range, token) {
        return Ok(token);
    }
    // The program freed it meanwhile, and with that got its charge back.
    session.withdraw(token, 0);
    Err(INVALID)
}

/// Opens what another client of the zone shares.
pub fn cuIpcOpenMemHandle_v2(
    session: &Session,
    request: &wire::CuIpcOpenMemHandleV2,
    frame: &mut Frame<'_>,
) -> Outcome {
    let _one_at_a_time = session.sharing();
    let key = session.context(frame)?;
    if request.flags & !CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS.0 != 0 {
        return Err(INVALID.into());
    }
    let token = token([request.token_low, request.token_high]);
    let shares = &session.parts.shares;
    let (bytes, handle) = shares.open(token).map_err(|error| refused(&error))?;
    if bytes == 0 {
        closed(session, token);
        return Err(CUresult::CUDA_ERROR_INVALID_HANDLE.into());
    }
    let opened = session.driver().import(handle).and_then(|address| {
        enter(session, key.slot, address, bytes, token)
            .map(|is_new| (address, is_new))
            .inspect_err(|_| {
                // Whether or not the driver closes it, the client never learns of it.
                let _ = session.driver().close_import(address);
            })
    });
    let (address, is_new) = opened.inspect_err(|_| closed(session, token))?;
    frame.reply(&wire::CuIpcOpenMemHandleV2Reply {
        address,
        bytes,
        is_new: is_new.into(),
        reserved: 0,
    });
    Ok(())
}

/// Makes what was opened a range of the client's, or counts it if it is one already.
fn enter(
    session: &Session,
    slot: u16,
    address: u64,
    bytes: u64,
    token: Token,
) -> Result<bool, CUresult> {
    // The size is another worker's word.
    let (start, size) = session.driver().allocation(address)?;
    let has = start
        .checked_add(size)
        .and_then(|end| end.checked_sub(address));
    if has.is_none_or(|has| has < bytes) {
        tracing::warn!(
            address,
            bytes,
            size,
            "shared memory is smaller than it was said to be"
        );
        return Err(CUresult::CUDA_ERROR_MAP_FAILED);
    }
    let mut ranges = session.ranges();
    if ranges.count_import(address, token) {
        return Ok(false);
    }
    let range = Range {
        start: address,
        bytes,
        place: Place::Imported { token, count: 1 },
        context: Some(slot),
    };
    if ranges.insert(range) {
        Ok(true)
    } else {
        tracing::error!(
            address,
            bytes,
            "the driver put shared memory where something is"
        );
        Err(CUresult::CUDA_ERROR_MAP_FAILED)
    }
}

/// Closes it once; after the last time the range is gone.
pub fn cuIpcCloseMemHandle(
    session: &Session,
    request: &wire::CuIpcCloseMemHandle,
    frame: &mut Frame<'_>,
) -> Outcome {
    let _one_at_a_time = session.sharing();
    // First the range: once the driver has the address back, another lane may be given it.
    let range = session
        .ranges()
        .close_import(request.address)
        .ok_or(INVALID)?;
    let Place::Imported { token, count } = range.place else {
        return Err(INVALID.into());
    };
    if let Err(status) = session.driver().close_import(request.address) {
        session.ranges().reopen_import(range);
        return Err(status.into());
    }
    closed(session, token);
    frame.reply(&wire::CuIpcCloseMemHandleReply {
        is_gone: (count == 1).into(),
        reserved: 0,
    });
    Ok(())
}

/// Offers an event to the zone; the same token every time.
pub fn cuIpcGetEventHandle(
    session: &Session,
    request: &wire::CuIpcGetEventHandle,
    frame: &mut Frame<'_>,
) -> Outcome {
    let event = session.resolve(frame, Kind::EVENT, request.event)?;
    let mut events = session.shared_events();
    let token = match events.get(&request.event) {
        Some(SharedEvent::Exported(token)) => *token,
        Some(SharedEvent::Opened(_)) => return Err(INVALID.into()),
        None => {
            let handle = session.driver().export_event(event)?;
            let shared = session.parts.shares.share(0, 0, handle);
            let token = shared.map_err(|error| refused(&error))?;
            events.insert(request.event, SharedEvent::Exported(token));
            token
        }
    };
    let [token_low, token_high] = words(token);
    frame.reply(&wire::CuIpcGetEventHandleReply {
        token_low,
        token_high,
    });
    Ok(())
}

/// Opens what another client of the zone shares.
pub fn cuIpcOpenEventHandle(
    session: &Session,
    request: &wire::CuIpcOpenEventHandle,
    frame: &mut Frame<'_>,
) -> Outcome {
    session.context(frame)?;
    session.check_free(Kind::EVENT, request.event)?;
    let token = token([request.token_low, request.token_high]);
    let mut events = session.shared_events();
    let shares = &session.parts.shares;
    let (bytes, handle) = shares.open(token).map_err(|error| refused(&error))?;
    let opened = match bytes {
        0 => session.driver().import_event(handle),
        _ => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
    };
    let pointer = opened.inspect_err(|_| closed(session, token))?;
    let status = CUresult::CUDA_SUCCESS;
    session.bind(frame, Kind::EVENT, request.event, pointer, status)?;
    events.insert(request.event, SharedEvent::Opened(token));
    Ok(())
}

/// An event of the client's is gone.
pub(crate) fn event_gone(session: &Session, event: u64) {
    let known = session.shared_events().remove(&event);
    match known {
        Some(SharedEvent::Exported(token)) => session.withdraw(token, 0),
        Some(SharedEvent::Opened(token)) => closed(session, token),
        None => {}
    }
}

/// Tells the supervisor that what was opened is closed, once.
pub(crate) fn closed(session: &Session, token: Token) {
    if let Err(error) = session.parts.shares.closed(token) {
        // The thread that reads the channel ends the worker.
        tracing::warn!(%error, "the supervisor does not hear that shared memory is closed");
    }
}

fn refused(error: &ShareError) -> CUresult {
    tracing::info!(%error, "nothing is shared");
    match error {
        ShareError::Refused(Sharing::OWN) => CUresult::CUDA_ERROR_INVALID_CONTEXT,
        ShareError::Refused(Sharing::UNKNOWN) => CUresult::CUDA_ERROR_INVALID_HANDLE,
        ShareError::Refused(_) => CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        ShareError::Closed | ShareError::Channel(_) => CUresult::CUDA_ERROR_UNKNOWN,
    }
}

fn words(token: Token) -> [u64; 2] {
    let (words, _) = token.as_chunks::<8>();
    [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
}

fn token(words: [u64; 2]) -> Token {
    let mut token = Token::default();
    token[..8].copy_from_slice(&words[0].to_le_bytes());
    token[8..].copy_from_slice(&words[1].to_le_bytes());
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_crosses_the_ring_as_two_words() {
        let bytes: Token = core::array::from_fn(|index| u8::try_from(index).unwrap());
        assert_eq!(token(words(bytes)), bytes);
    }
}
