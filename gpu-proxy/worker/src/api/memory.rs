//! Device and host memory, copies and fills.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::RwLockReadGuard;

use cuda_abi::types::CUresult;
use idm_protocol::handle::Kind;
use idm_protocol::layout::PAGE_BYTES;
use idm_protocol::record::{Flags, Record};
use idm_protocol::wire::{self, copy_kind, host_memory};

use proxy_channel::holdings::Holding;

use super::session::{breach, give_up, plan};
use super::stream::stream_at_dispatch;
use crate::contexts::ContextKey;
use crate::ranges::{Place, Range};
use crate::session::{Frame, Outcome, Prepared, Refusal, Session, Turn};

/// What the driver's heap rounds to, at least.
const GRAIN: u64 = 512;

/// Copies of one transfer that the driver may have at the same time.
const IN_FLIGHT: usize = 4;

/// How often the dispatcher looks whether a copy that it issued is done: some microseconds in all.
const LOOKS: u32 = 16;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// Device memory, zeroed before anybody learns its address (D13).
pub fn cuMemAlloc_v2(
    session: &Session,
    request: &wire::CuMemAllocV2,
    frame: &mut Frame<'_>,
) -> Outcome {
    let charged = request
        .bytes
        .checked_next_multiple_of(GRAIN)
        .ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
    let (address, _) = acquire(session, frame, charged, |driver| {
        Ok((driver.allocate(request.bytes)?, request.bytes))
    })?;
    frame.about(address, request.bytes);
    frame.reply(&wire::CuMemAllocV2Reply { address });
    Ok(())
}

/// Rows of device memory.
pub fn cuMemAllocPitch_v2(
    session: &Session,
    request: &wire::CuMemAllocPitchV2,
    frame: &mut Frame<'_>,
) -> Outcome {
    let (width, height, element) = (request.width, request.height, request.element_bytes);
    let too_much = CUresult::CUDA_ERROR_OUT_OF_MEMORY;
    let row = width.checked_next_multiple_of(GRAIN).ok_or(too_much)?;
    let charged = row.checked_mul(height).ok_or(too_much)?;
    let mut pitch = 0;
    let (address, _) = acquire(session, frame, charged, |driver| {
        let (address, found) = driver.allocate_pitched(width, height, element)?;
        pitch = found;
        Ok((address, found.saturating_mul(height)))
    })?;
    frame.about(address, pitch.saturating_mul(height));
    frame.reply(&wire::CuMemAllocPitchV2Reply { address, pitch });
    Ok(())
}

/// Pays for memory, has the driver allocate it, and zeroes it.
fn acquire(
    session: &Session,
    frame: &Frame<'_>,
    charged: u64,
    mut allocate: impl FnMut(&crate::driver::Table) -> Result<(u64, u64), CUresult>,
) -> Result<(u64, u64), CUresult> {
    let key = session.context(frame)?;
    session.charge(charged)?;
    let allocated = session.past_scrub(|| allocate(session.driver()));
    let (address, bytes) = allocated.inspect_err(|_| session.refund(charged))?;
    if bytes > charged {
        // A driver that rounds further than we thought.
        session.charge(bytes - charged).inspect_err(|_| {
            let _ = session.driver().free(address);
            session.refund(charged);
        })?;
    }
    let charged = charged.max(bytes);
    zero(session, key, address, bytes).inspect_err(|_| {
        // Whether or not the driver takes it back, the client never learns of it.
        let _ = session.driver().free(address);
        session.refund(charged);
    })?;
    let range = Range {
        start: address,
        bytes,
        place: Place::Device {
            charged,
            shared: None,
        },
        context: Some(key.slot),
    };
    if !session.ranges().insert(range) {
        // A driver that hands out an address twice, or one inside the arena.
        tracing::error!(address, bytes, "the driver allocated what is in use");
        let _ = session.driver().free(address);
        session.refund(charged);
        return Err(CUresult::CUDA_ERROR_UNKNOWN);
    }
    let stats = &session.parts.stats;
    stats.hold(Holding::MEMORY, address, charged);
    session.publish_memory();
    Ok((address, bytes))
}

/// On a stream that waits for none of the client's, and done before the address is known.
fn zero(session: &Session, key: ContextKey, address: u64, bytes: u64) -> Result<(), CUresult> {
    let driver = session.driver();
    let stream = session.contexts.private_stream(key, driver)?;
    driver.fill(address, 0, 1, bytes, stream)?;
    driver.synchronize_stream(stream)
}

/// Device memory back.
pub fn cuMemFree_v2(session: &Session, request: &wire::CuMemFreeV2, _: &mut Frame<'_>) -> Outcome {
    // First the range: once the driver has the address back, another lane may be given it.
    let range = take_range(session, request.address, |place| {
        matches!(place, Place::Device { .. } | Place::Pooled { .. })
    })?;
    if let Err(status) = session.driver().free(request.address) {
        session.ranges().insert(range);
        return Err(status.into());
    }
    session.free_range(&range);
    Ok(())
}

/// What the zone may have and has; not what the device has.
pub fn cuMemGetInfo_v2(
    session: &Session,
    _: &wire::CuMemGetInfoV2,
    frame: &mut Frame<'_>,
) -> Outcome {
    session.observe_pools();
    // What a program freed before is free, although the supervisor hears of it by message.
    if let Err(error) = session.parts.credit.settle() {
        tracing::info!(%error, "the zone's use may be out of date");
    }
    let (mut free, total) = session.driver().memory_info()?;
    let limit = session.parts.status.memory_limit();
    // Less than the quota leaves where neighbours fill the device, or have some of it set aside.
    let room = session.parts.status.memory_room();
    let own = room.saturating_add(session.parts.credit.unspent());
    if free < own.min(limit) && session.parts.credit.barrier().is_ok() {
        // A scrubber may have held it.
        (free, _) = session.driver().memory_info()?;
    }
    frame.reply(&wire::CuMemGetInfoV2Reply {
        free: free.min(own).min(limit),
        total: total.min(limit),
    });
    Ok(())
}

/// Part of the arena becomes pinned memory.
pub fn cuMemHostAlloc(
    session: &Session,
    request: &wire::CuMemHostAlloc,
    frame: &mut Frame<'_>,
) -> Outcome {
    let key = session.context(frame)?;
    let arena = &session.parts.arena;
    let page = PAGE_BYTES as u64;
    let bytes = request
        .bytes
        .checked_next_multiple_of(page)
        .ok_or(INVALID)?;
    let offset = arena.offset_of(request.address, bytes).ok_or(INVALID)?;
    let outside_staging = offset as u64 >= session.staging.byte_len();
    if bytes == 0 || !request.address.is_multiple_of(page) || !outside_staging {
        return Err(INVALID.into());
    }
    let range = Range {
        start: request.address,
        bytes,
        place: Place::Pinned,
        context: Some(key.slot),
    };
    // First the range, so that no two lanes register the same pages.
    if !session.ranges().insert(range) {
        return Err(INVALID.into());
    }
    let register = || session.driver().register(request.address, bytes);
    let registered = clear(session, frame, offset, bytes).and_then(|()| {
        if request.flags & host_memory::FOR_GRAPH == 0 {
            register()
        } else {
            session.captures.relaxed(session.driver(), register)
        }
    });
    if let Err(status) = registered {
        session.ranges().remove(request.address);
        return Err(status.into());
    }
    let stats = &session.parts.stats;
    stats.hold(Holding::PINNED, request.address, bytes);
    Ok(())
}

/// Zeroes a part of the arena, page by page as the client will find it.
fn clear(
    session: &Session,
    frame: &mut Frame<'_>,
    offset: usize,
    bytes: u64,
) -> Result<(), CUresult> {
    const BLOCK: usize = 64 << 10;
    let arena = &session.parts.arena;
    let zeros = frame.buffer(BLOCK);
    zeros.fill(0);
    let end = offset + usize::try_from(bytes).map_err(|_| INVALID)?;
    let mut at = offset;
    while at < end {
        let len = BLOCK.min(end - at);
        arena.write(at, &zeros[..len]).map_err(|_| INVALID)?;
        at += len;
    }
    Ok(())
}

/// Pinned memory back.
pub fn cuMemFreeHost(
    session: &Session,
    request: &wire::CuMemFreeHost,
    _: &mut Frame<'_>,
) -> Outcome {
    let range = take_range(session, request.address, |place| {
        matches!(place, Place::Pinned)
    })?;
    if let Err(status) = session.driver().unregister(request.address) {
        session.ranges().insert(range);
        return Err(status.into());
    }
    session.free_range(&range);
    Ok(())
}

/// Takes the range that starts at an address out of the client's, if it is of the kind.
pub(super) fn take_range(
    session: &Session,
    address: u64,
    is_kind: impl Fn(&Place) -> bool,
) -> Result<Range, CUresult> {
    let mut ranges = session.ranges();
    match ranges.at(address) {
        Some(range) if is_kind(&range.place) => ranges.remove(address).ok_or(INVALID),
        _ => Err(INVALID),
    }
}

/// Between what the device holds and what both sides map.
pub fn vgpuCopy(session: &Session, request: &wire::VgpuCopy, frame: &mut Frame<'_>) -> Outcome {
    let (to, from, bytes) = (request.destination, request.source, request.bytes);
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    if bytes > 0 {
        let target = session.check_range(to, bytes)?;
        let source = session.check_range(from, bytes)?;
        let kind = (source.is_device(), target.is_device());
        let driver = session.driver();
        match (request.kind, kind) {
            (copy_kind::HOST_TO_DEVICE, (false, true)) => {
                driver.copy_in(to, from, bytes, stream)?
            }
            (copy_kind::DEVICE_TO_HOST, (true, false)) => {
                driver.copy_out(to, from, bytes, stream)?
            }
            (copy_kind::DEVICE_TO_DEVICE, (true, true))
            | (copy_kind::HOST_TO_HOST, (false, false)) => driver.copy(to, from, bytes, stream)?,
            _ => return Err(INVALID.into()),
        }
        frame.issued_on(stream);
    }
    complete(session, frame, stream)
}

/// A synchronous copy waits for earlier work on its stream. Where there is none, the dispatcher can issue
/// the copy itself, and often finds it done at once.
pub(crate) fn prepare_copy_in(session: &Session, record: &Record) -> Turn {
    if session.captures.any() || record.head().flags.contains(Flags::ISSUE) {
        return Turn::Later(Prepared::Nothing);
    }
    let idle = record.body::<wire::VgpuCopyIn>().is_ok_and(|request| {
        let stream = stream_at_dispatch(session, record, request.stream);
        stream.is_ok_and(|(_, stream)| session.driver().query_stream(stream).is_ok())
    });
    if idle {
        Turn::Here(Prepared::Idle)
    } else {
        // Also what is wrong with it: where it is executed, that is found again and reported.
        Turn::Later(Prepared::Nothing)
    }
}

/// Bytes that came with the record.
pub fn vgpuCopyIn(session: &Session, request: &wire::VgpuCopyIn, frame: &mut Frame<'_>) -> Outcome {
    if let Prepared::Event { event, context } = frame.prepared() {
        // Issued by the dispatcher already.
        session.driver().synchronize_event(event)?;
        session.contexts.recycle(context, event);
        return Ok(());
    }
    let len = usize::try_from(request.bytes).map_err(|_| INVALID)?;
    let bytes = frame.tail::<wire::VgpuCopyIn>(len)?;
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    if len > 0 {
        session.check_device(request.destination, request.bytes)?;
        let _gate = private(session, stream)?;
        session
            .driver()
            .copy_from_bytes(request.destination, bytes, stream)?;
        frame.issued_on(stream);
    }
    complete(session, frame, stream)
}

/// For a client that waits: the work is done when it has its reply, whatever stream it uses next. What
/// others put on the stream meanwhile is not waited for.
fn complete(session: &Session, frame: &mut Frame<'_>, stream: usize) -> Outcome {
    if !frame.awaits_end() {
        return Ok(());
    }
    let driver = session.driver();
    // The dispatcher may look a few times, but never wait: what it would wait for may need a later record.
    let looks = match frame.prepared() {
        Prepared::Idle => LOOKS,
        _ => 1,
    };
    for _ in 0..looks {
        match driver.query_stream(stream) {
            Err(CUresult::CUDA_ERROR_NOT_READY) => std::hint::spin_loop(),
            over => return Ok(over?),
        }
    }
    let key = session.context(frame)?;
    let event = session.contexts.event(key, driver)?;
    driver.record_event(event, stream)?;
    if frame.prepared() == Prepared::Idle {
        frame.finish_later(event, key);
        return Ok(());
    }
    driver.synchronize_event(event)?;
    session.contexts.recycle(key, event);
    Ok(())
}

/// Bytes that go back with the reply.
pub fn vgpuCopyOut(
    session: &Session,
    request: &wire::VgpuCopyOut,
    frame: &mut Frame<'_>,
) -> Outcome {
    let len = usize::try_from(request.bytes).map_err(|_| INVALID)?;
    if len > frame.side_byte_len() {
        return Err(INVALID.into());
    }
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    if len > 0 {
        session.check_device(request.source, request.bytes)?;
    }
    let gate = private(session, stream)?;
    let buffer = frame.buffer(len);
    session
        .driver()
        .copy_to_bytes(buffer, request.source, stream, || drop(gate))?;
    frame.reply_buffer(len)
}

/// Bytes that come through staging.
pub fn vgpuCopyInBulk(
    session: &Session,
    request: &wire::VgpuCopyInBulk,
    frame: &mut Frame<'_>,
) -> Outcome {
    let (count, skew) = (request.chunk_count, request.skew);
    let plan = plan::<wire::VgpuCopyInBulk>(session, frame, request.bytes, count, skew)?;
    let mut drainer = frame.lane().pipe().drain(frame.sequence(), plan);
    let begun = begin(
        session,
        frame,
        request.stream,
        request.destination,
        request.bytes,
    );
    let (key, stream) = match begun {
        Ok(begun) => begun,
        Err(status) => return give_up(drainer, status),
    };
    let driver = session.driver();
    let mut events = Flight::new(session, key);
    let mut pump = || -> Result<(), Refusal> {
        loop {
            while events.take_done()? {
                drainer.release();
            }
            // A piece that is there goes first; else the oldest copy is waited for; else the client.
            let mut piece = drainer.try_take().map_err(breach)?;
            if piece.is_none() || events.is_full() {
                if events.wait_oldest()? {
                    drainer.release();
                } else if piece.is_none() {
                    piece = drainer
                        .take(&session.patience, &*session.stop)
                        .map_err(breach)?;
                    if piece.is_none() {
                        return Ok(());
                    }
                }
            }
            if let Some(piece) = piece {
                let from = session.staging.address(&piece);
                let to = request.destination + piece.offset;
                driver.copy_in(to, from, piece.len as u64, stream)?;
                events.record(stream)?;
            }
        }
    };
    let pumped = pump();
    if pumped.is_err() {
        // The client looks at the reply then, which says why.
        drainer.close();
    }
    pumped
}

/// Bytes that go out through staging.
pub fn vgpuCopyOutBulk(
    session: &Session,
    request: &wire::VgpuCopyOutBulk,
    frame: &mut Frame<'_>,
) -> Outcome {
    let (count, skew) = (request.chunk_count, request.skew);
    let plan = plan::<wire::VgpuCopyOutBulk>(session, frame, request.bytes, count, skew)?;
    let mut filler = frame.lane().pipe().fill(frame.sequence(), plan);
    let begun = begin(
        session,
        frame,
        request.stream,
        request.source,
        request.bytes,
    );
    let (key, stream) = match begun {
        Ok(begun) => begun,
        Err(status) => {
            filler.close();
            return Err(status.into());
        }
    };
    let driver = session.driver();
    let mut events = Flight::new(session, key);
    let mut pump = || -> Result<(), Refusal> {
        loop {
            while events.take_done()? {
                filler.publish();
            }
            let mut piece = filler.try_claim().map_err(breach)?;
            if piece.is_none() || events.is_full() {
                if events.wait_oldest()? {
                    filler.publish();
                } else if piece.is_none() {
                    piece = filler
                        .claim(&session.patience, &*session.stop)
                        .map_err(breach)?;
                    if piece.is_none() {
                        return Ok(());
                    }
                }
            }
            if let Some(piece) = piece {
                let to = session.staging.address(&piece);
                let from = request.source + piece.offset;
                driver.copy_out(to, from, piece.len as u64, stream)?;
                events.record(stream)?;
            }
        }
    };
    let pumped = pump();
    if pumped.is_err() {
        filler.close();
    }
    pumped
}

/// Sees that a copy from or to memory of our own is not captured, for as long as the guard lives.
///
/// # Errors
/// What the driver says to who waits for such a stream.
pub(super) fn private(
    session: &Session,
    stream: usize,
) -> Result<RwLockReadGuard<'_, ()>, CUresult> {
    let gate = session.captures.hold();
    match session.captures.includes(stream, session.driver()) {
        Ok(false) => Ok(gate),
        _ => {
            session.driver().synchronize_stream(stream)?;
            // A driver that waits for a stream which it captures.
            Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        }
    }
}

/// What both directions check and need.
fn begin(
    session: &Session,
    frame: &Frame<'_>,
    stream: u64,
    address: u64,
    bytes: u64,
) -> Result<(ContextKey, usize), CUresult> {
    let key = session.context(frame)?;
    let stream = session.resolve(frame, Kind::STREAM, stream)?;
    session.check_device(address, bytes)?;
    // Pieces go through staging, which is not ours alone, but a graph has no use for them either.
    drop(private(session, stream)?);
    session.staging.register(key, session.driver());
    Ok((key, stream))
}

/// Copies of one transfer that the driver has, oldest first.
struct Flight<'a> {
    session: &'a Session,
    key: ContextKey,
    events: VecDeque<usize>,
}

impl<'a> Flight<'a> {
    fn new(session: &'a Session, key: ContextKey) -> Self {
        let events = VecDeque::with_capacity(IN_FLIGHT);
        Self {
            session,
            key,
            events,
        }
    }

    fn is_full(&self) -> bool {
        self.events.len() >= IN_FLIGHT
    }

    fn record(&mut self, stream: usize) -> Result<(), CUresult> {
        let driver = self.session.driver();
        let event = self.session.contexts.event(self.key, driver)?;
        self.events.push_back(event);
        driver.record_event(event, stream)
    }

    /// Whether the oldest is over; it is forgotten then.
    fn take_done(&mut self) -> Result<bool, CUresult> {
        let Some(&event) = self.events.front() else {
            return Ok(false);
        };
        match self.session.driver().query_event(event) {
            Err(CUresult::CUDA_ERROR_NOT_READY) => Ok(false),
            Err(status) => Err(status),
            Ok(()) => {
                self.events.pop_front();
                self.session.contexts.recycle(self.key, event);
                Ok(true)
            }
        }
    }

    /// `false`: there is none.
    fn wait_oldest(&mut self) -> Result<bool, CUresult> {
        let Some(event) = self.events.pop_front() else {
            return Ok(false);
        };
        self.session.driver().synchronize_event(event)?;
        self.session.contexts.recycle(self.key, event);
        Ok(true)
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        // After an error: nothing may still be copying when the client uses the chunks again.
        while !self.events.is_empty() && self.wait_oldest().is_ok() {}
    }
}

/// Every fill, of one row or many.
pub fn vgpuMemset(session: &Session, request: &wire::VgpuMemset, frame: &mut Frame<'_>) -> Outcome {
    let &wire::VgpuMemset {
        destination,
        pitch,
        width,
        height,
        value,
        element_bytes,
        ..
    } = request;
    let elements = width.saturating_mul(height);
    frame.about(destination, elements.saturating_mul(element_bytes.into()));
    let stream = session.resolve(frame, Kind::STREAM, request.stream)?;
    if !matches!(element_bytes, 1 | 2 | 4) {
        return Err(INVALID.into());
    }
    if width > 0 && height > 0 {
        let row = width.checked_mul(u64::from(element_bytes)).ok_or(INVALID)?;
        let driver = session.driver();
        if height == 1 {
            check_fill(session, destination, row)?;
            driver.fill(destination, value, element_bytes, width, stream)?;
        } else {
            let rows = pitch.checked_mul(height - 1).ok_or(INVALID)?;
            let all = rows.checked_add(row).ok_or(INVALID)?;
            check_fill(session, destination, all)?;
            let shape = (width, height);
            driver.fill_rows(destination, pitch, value, element_bytes, shape, stream)?;
        }
        frame.issued_on(stream);
    }
    complete(session, frame, stream)
}

/// Pinned memory may be filled, too: its address is good on the device.
fn check_fill(session: &Session, address: u64, bytes: u64) -> Result<(), Refusal> {
    session.check_range(address, bytes)?;
    Ok(())
}
