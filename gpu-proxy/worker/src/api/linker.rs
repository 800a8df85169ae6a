//! The linker: links under way, with their logs and what came of them.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda_abi::types::CUresult;
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use proxy_channel::bound::Bound;

use super::module::{as_c, object, option_bytes, options};
use crate::driver::{self, Input};
use crate::session::{Frame, Outcome, Refusal, Session};

/// Links that a client may have under way: each holds logs, and inputs in the driver.
const MOST_LINKS: usize = 64;
/// Most bytes of a log: more would not fit into a side buffer beside another.
const MOST_LOG_BYTES: u32 = 1 << 20;
/// Longest name of an input.
const MOST_NAME_BYTES: u32 = 32 << 10;

/// What the session keeps of a link besides the driver's object.
#[derive(Debug)]
pub struct Link {
    driver: driver::Link,
    image: Vec<u8>,
}

/// The links of a session, by handle.
pub type Links = HashMap<u64, Arc<Mutex<Link>>>;

/// Begins a link.
pub fn cuLinkCreate_v2(
    session: &Session,
    request: &wire::CuLinkCreateV2,
    frame: &mut Frame<'_>,
) -> Outcome {
    session.check_free(Kind::LINK, request.link)?;
    if request.log_bytes > MOST_LOG_BYTES {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE.into());
    }
    if session.links().len() >= MOST_LINKS {
        return Err(session
            .denied(Bound::handles(Kind::LINK), MOST_LINKS as u64)
            .into());
    }
    let listed = frame.tail::<wire::CuLinkCreateV2>(option_bytes(request.option_count)?)?;
    let mut options = options(listed)?;
    let log_bytes = usize::try_from(request.log_bytes).unwrap_or(0);
    options.info_log = vec![0; log_bytes];
    options.error_log = vec![0; log_bytes];
    let link = Link {
        driver: session.driver().create_link(options)?,
        image: Vec::new(),
    };
    let link = Arc::new(Mutex::new(link));
    // The table decides which of two threads that use one handle has made a link.
    let bound = session.bind_object(Kind::LINK, request.link, Ok(object(0, None, 0)));
    if bound.is_err() {
        session.driver().destroy_link(&mut lock(&link).driver)?;
        return bound;
    }
    session.links().insert(request.link, link);
    Ok(())
}

/// Adds an input.
pub fn cuLinkAddData_v2(
    session: &Session,
    request: &wire::CuLinkAddDataV2,
    frame: &mut Frame<'_>,
) -> Outcome {
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    if request.name_bytes > MOST_NAME_BYTES {
        return Err(invalid.into());
    }
    let option_bytes = option_bytes(request.option_count)?;
    let name_bytes = usize::try_from(request.name_bytes).map_err(|_| invalid)?;
    let fixed = (option_bytes + name_bytes).next_multiple_of(8);
    let (head, mut data) = if request.upload == 0 {
        let data_bytes = usize::try_from(request.data_bytes).map_err(|_| invalid)?;
        let tail = frame.tail::<wire::CuLinkAddDataV2>(fixed.saturating_add(data_bytes))?;
        let (head, data) = tail.split_at(fixed);
        (head, data.to_vec())
    } else {
        let data = session.take_upload(frame.lane().index(), request.upload)?;
        (frame.tail::<wire::CuLinkAddDataV2>(fixed)?, data)
    };
    if data.is_empty() {
        return Err(invalid.into());
    }
    let (listed, name) = head.split_at(option_bytes);
    let mut options = options(listed)?;
    let name = name.iter().copied().take(name_bytes);
    let name: Vec<u8> = name.take_while(|&b| b != 0).collect();
    let name = [&name[..], &[0]].concat();
    let link = find(session, request.link)?;
    let mut link = lock(&link);
    // A driver that takes text for a string finds its end, and what it writes to is ours.
    let size = data.len();
    data.push(0);
    let input = Input {
        kind: request.kind,
        data: &mut data,
        size,
        name: (request.name_bytes > 0).then(|| as_c(&name)),
    };
    let _translation = session.translations.begin();
    let added = session
        .driver()
        .add_to_link(&mut link.driver, input, &mut options);
    let (info_log_bytes, error_log_bytes) = send_logs(frame, &mut link);
    frame.reply(&wire::CuLinkAddDataV2Reply {
        info_log_bytes,
        error_log_bytes,
        wall_time: options.wall_time.unwrap_or(link.driver.wall_time()),
        reserved: 0,
    });
    Ok(added?)
}

/// Makes the image, which stays with the link.
pub fn cuLinkComplete(
    session: &Session,
    request: &wire::CuLinkComplete,
    frame: &mut Frame<'_>,
) -> Outcome {
    let link = find(session, request.link)?;
    let mut link = lock(&link);
    let _translation = session.translations.begin();
    let completed = session.driver().complete_link(&mut link.driver);
    let completed = completed.map(|image| link.image = image);
    let (info_log_bytes, error_log_bytes) = send_logs(frame, &mut link);
    frame.reply(&wire::CuLinkCompleteReply {
        image_bytes: link.image.len() as u64,
        info_log_bytes,
        error_log_bytes,
        wall_time: link.driver.wall_time(),
        reserved: 0,
    });
    Ok(completed?)
}

/// Hands out a piece of the image.
pub fn vgpuLinkRead(
    session: &Session,
    request: &wire::VgpuLinkRead,
    frame: &mut Frame<'_>,
) -> Outcome {
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    let link = find(session, request.link)?;
    let link = lock(&link);
    let start = usize::try_from(request.offset).map_err(|_| invalid)?;
    let bytes = usize::try_from(request.bytes).map_err(|_| invalid)?;
    let piece = start
        .checked_add(bytes)
        .and_then(|end| link.image.get(start..end))
        .ok_or(invalid)?;
    frame.reply_aside(0, piece)
}

/// Ends a link.
pub fn cuLinkDestroy(
    session: &Session,
    request: &wire::CuLinkDestroy,
    _: &mut Frame<'_>,
) -> Outcome {
    session.take_object(Kind::LINK, request.link)?;
    let link = session.links().remove(&request.link);
    let link = link.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
    // Waits for a call of another thread that uses it.
    Ok(session.driver().destroy_link(&mut lock(&link).driver)?)
}

fn find(session: &Session, link: u64) -> Result<Arc<Mutex<Link>>, Refusal> {
    session.object(Kind::LINK, link)?;
    let found = session.links().get(&link).cloned();
    Ok(found.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?)
}

/// A panic aborts the worker, so the lock is never poisoned in earnest.
fn lock(link: &Mutex<Link>) -> MutexGuard<'_, Link> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Info first, error at the next multiple of 8; what does not fit is cut.
fn send_logs(frame: &Frame<'_>, link: &mut Link) -> (u32, u32) {
    let (mut info, mut error) = link.driver.logs();
    let room = frame.side_byte_len();
    info.truncate(room);
    let at = info.len().next_multiple_of(8);
    error.truncate(room.saturating_sub(at));
    // Cut to fit; and a log that is lost is no reason to fail a link.
    let _ = frame.reply_aside(0, &info);
    let _ = frame.reply_aside(at, &error);
    let count = |log: &[u8]| u32::try_from(log.len()).unwrap_or(0);
    (count(&info), count(&error))
}
