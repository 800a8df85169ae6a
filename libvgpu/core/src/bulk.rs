//! Large transfers: this thread and the worker's lane thread at work at the same time, through chunks
//! of staging.

use cuda_abi::types::CUresult;
use idm_protocol::bulk::{Breach, Plan};
use idm_protocol::lane::{ClientLane, LaneError};
use idm_protocol::memory::Mapped;
use idm_protocol::record::{Flags, Request};
use idm_protocol::staging::Chunk;

use crate::call::{Call, Outcome, accepted, failed};
use crate::output::print_waiting;
use crate::session::Session;

/// Chunks that one transfer asks for. Enough for both sides to work all the time.
const CHUNKS: usize = 8;

/// A transfer's place in the program's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Memory {
    /// Bytes to move into the worker.
    From(*const u8),
    /// Where to put bytes that come out of it.
    Into(*mut u8),
}

/// Moves `bytes` bytes between the program's memory and the worker, by the record that `request` makes
/// when it knows how many chunks it names. The pieces start `skew` bytes into the chunks.
///
/// # Safety
/// `memory` is valid for `bytes` bytes, to be read or written, and nothing of the arena.
pub(crate) unsafe fn transfer<T: Request>(
    call: &mut Call,
    memory: Memory,
    bytes: usize,
    skew: u32,
    request: impl FnOnce(u32) -> T,
) -> Outcome {
    let session = call.session;
    let context = call.context_slot();
    let chunks = Chunks::take(session, bytes)?;
    let indices: Vec<u32> = chunks.list.iter().map(Chunk::index).collect();
    let list: Vec<u8> = indices
        .iter()
        .flat_map(|index| index.to_le_bytes())
        .collect();
    let request = request(u32::try_from(indices.len()).unwrap_or(u32::MAX));
    let plan = Plan::new(
        bytes as u64,
        &indices,
        session.welcome.limits.staging_chunks,
    )
    .and_then(|plan| plan.skewed(skew))
    .map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
    call.with_lane(|lane| {
        lane.pipe().reset();
        let flags = Flags::REPLY.union(Flags::LANE);
        let sequence = lane
            .send(
                &session.control.submissions,
                flags,
                context,
                &request,
                &[&list],
                &session.live(),
            )
            .map_err(|error| failed(session, &error))?;
        // SAFETY: by this function's contract.
        let moved = unsafe { pump(session, lane, sequence, plan, memory) };
        match moved {
            // A side that gave up says why in the reply.
            Ok(()) | Err(Breach::Closed) => {}
            Err(Breach::Ended) => return Err(session.gone()),
            Err(breach) => {
                return Err(session.lost(&format!("its worker broke the protocol: {breach}")));
            }
        }
        let reply = lane
            .await_reply(sequence, &session.live())
            .map_err(|error: LaneError| failed(session, &error))?;
        let status = CUresult(reply.status);
        print_waiting(session, lane)?;
        accepted(status)
    })?;
    chunks.put_back();
    call.deliver()
}

/// # Safety
/// As [`transfer`].
unsafe fn pump(
    session: &Session,
    lane: &ClientLane<Mapped>,
    sequence: u64,
    plan: Plan,
    memory: Memory,
) -> Result<(), Breach> {
    let live = session.live();
    let at = |piece: &idm_protocol::bulk::Piece| {
        let chunk = usize::try_from(piece.chunk).unwrap_or(usize::MAX);
        let offset = usize::try_from(piece.offset).unwrap_or(usize::MAX);
        (
            chunk
                .saturating_mul(idm_protocol::layout::CHUNK_BYTES)
                .saturating_add(piece.start),
            offset,
        )
    };
    match memory {
        Memory::From(from) => {
            let mut filler = lane.pipe().fill(sequence, plan);
            while let Some(piece) = filler.claim(&session.patience, &live)? {
                let (chunk, offset) = at(&piece);
                // SAFETY: pieces lie inside the transfer, which lies inside the caller's memory.
                let from = unsafe { from.add(offset) };
                // SAFETY: as above; it is not in the arena.
                let copied = unsafe { session.arena.write_from(chunk, from, piece.len) };
                debug_assert!(copied.is_ok(), "staging lies inside the arena");
                filler.publish();
            }
        }
        Memory::Into(into) => {
            let mut drainer = lane.pipe().drain(sequence, plan);
            while let Some(piece) = drainer.take(&session.patience, &live)? {
                let (chunk, offset) = at(&piece);
                // SAFETY: pieces lie inside the transfer, which lies inside the caller's memory.
                let into = unsafe { into.add(offset) };
                // SAFETY: as above; it is not in the arena.
                let copied = unsafe { session.arena.read_into(chunk, into, piece.len) };
                debug_assert!(copied.is_ok(), "staging lies inside the arena");
                drainer.release();
            }
        }
    }
    Ok(())
}

/// Chunks of staging that a transfer holds. Those of a transfer that did not come to its reply are lost
/// with the session: the worker may still use them.
struct Chunks {
    session: &'static Session,
    list: Vec<Chunk>,
}

impl Chunks {
    fn take(session: &'static Session, bytes: usize) -> Outcome<Self> {
        let wanted = bytes.div_ceil(idm_protocol::bulk::PIECE_BYTES).min(CHUNKS);
        let first = session
            .control
            .staging
            .take(&session.live())
            .map_err(|_| session.gone())?;
        let mut list = vec![first];
        while list.len() < wanted
            && let Some(chunk) = session.control.staging.try_take()
        {
            list.push(chunk);
        }
        Ok(Self { session, list })
    }

    fn put_back(self) {
        for chunk in self.list {
            self.session.control.staging.put(chunk);
        }
    }
}
