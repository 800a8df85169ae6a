//! One record while it is executed: its private copy, and the reply that it collects.

#![forbid(unsafe_code)]

use cuda_abi::types::CUresult;
use idm_protocol::lane::{Pending, REPLY_BYTES, WorkerLane};
use idm_protocol::memory::{Mapped, WORD_BYTES};
use idm_protocol::record::{DecodeError, Flags, Record, Request};
use idm_protocol::wire::credit;
use proxy_channel::calls::NO_DEVICE;
use zerocopy::{Immutable, IntoBytes};

use crate::calls::Claim;
use crate::contexts::ContextKey;
use crate::errors::{Outcome, Refusal};

/// What was done for a record at its place in the ring, before its lane's thread runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// Nothing.
    Nothing,
    /// The stream was found to have nothing to wait for.
    Idle,
    /// An event was recorded on the stream; what is left to do is to wait for it.
    Event {
        /// The event.
        event: usize,
        /// Its context.
        context: ContextKey,
    },
}

/// A reply that is owed, if any, and what must be over before it goes out.
pub type Unfinished = (Option<Pending<'static, Mapped>>, Prepared);

/// What the dispatcher does with a blocking record.
#[derive(Debug)]
pub enum Turn {
    /// It is done already.
    Now(Outcome),
    /// It will not block after all: the dispatcher runs it.
    Here(Prepared),
    /// Its lane's thread runs it.
    Later(Prepared),
}

/// Memory that a thread uses for one record after the other, so that none of them allocates.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The thread's place among those that can have a call under way.
    cell: usize,
    tail: Vec<u8>,
    reply: Vec<u8>,
    /// For whoever needs a private buffer while the record runs.
    pub bytes: Vec<u8>,
}

impl Scratch {
    /// For another thread than the dispatcher's, with its place among those that can have a call under way.
    pub fn of_thread(cell: usize) -> Self {
        Self {
            cell,
            ..Self::default()
        }
    }
}

/// One record and its reply.
#[derive(Debug)]
pub struct Frame<'a> {
    record: &'a Record,
    lane: &'static WorkerLane<Mapped>,
    side_tail: Option<&'a [u8]>,
    pending: Option<Pending<'static, Mapped>>,
    reply: &'a mut Vec<u8>,
    bytes: &'a mut Vec<u8>,
    prepared: Prepared,
    credit: Option<usize>,
    issued_on: Option<usize>,
    unfinished: Option<Prepared>,
    cell: usize,
    /// What is written down of it.
    pub claim: Claim,
}

impl<'a> Frame<'a> {
    /// A frame around a record. Large parameters are copied out of the lane's side buffer.
    ///
    /// # Errors
    /// [`Refusal::Violation`] if they do not fit there.
    pub fn new(
        record: &'a Record,
        lane: &'static WorkerLane<Mapped>,
        pending: Option<Pending<'static, Mapped>>,
        prepared: Prepared,
        scratch: &'a mut Scratch,
    ) -> Result<Self, Refusal> {
        let Scratch {
            cell,
            tail,
            reply,
            bytes,
        } = scratch;
        reply.clear();
        let side_tail = lane.collect(record, tail)?;
        Ok(Self {
            record,
            lane,
            side_tail,
            pending,
            reply,
            bytes,
            prepared,
            credit: None,
            issued_on: None,
            unfinished: None,
            cell: *cell,
            claim: Claim::NOTHING,
        })
    }

    /// What the record asks for.
    pub fn opcode(&self) -> u16 {
        self.record.head().opcode
    }

    /// Its place in the order of submission.
    pub fn sequence(&self) -> u64 {
        self.record.sequence()
    }

    /// The lane of the thread that posted it.
    pub fn lane(&self) -> &'static WorkerLane<Mapped> {
        self.lane
    }

    /// Slot of the context that was current there, if any.
    pub fn context(&self) -> Option<u16> {
        self.record.head().context.checked_sub(1)
    }

    /// What was done for it at its place in the ring.
    pub fn prepared(&self) -> Prepared {
        self.prepared
    }

    /// Whether it is one for a lane's thread.
    pub fn may_block(&self) -> bool {
        self.record.head().flags.contains(Flags::LANE)
    }

    /// Whether its client waits.
    pub fn replies(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether its client waits for the end of the work, and not only for it to be issued.
    pub fn awaits_end(&self) -> bool {
        self.replies() && !self.record.head().flags.contains(Flags::ISSUE)
    }

    /// Its body.
    ///
    /// # Errors
    /// [`Refusal::Violation`] if it is shorter than that.
    pub fn request<T: Request>(&self) -> Result<T, Refusal> {
        Ok(self.record.body()?)
    }

    /// The first `len` bytes after the body, which is a `T`.
    ///
    /// # Errors
    /// [`Refusal::Violation`] if there are fewer.
    pub fn tail<T: Request>(&self, len: usize) -> Result<&'a [u8], Refusal> {
        let tail = match self.side_tail {
            Some(tail) => tail,
            None => {
                let start = size_of::<T>().next_multiple_of(WORD_BYTES);
                self.record.bytes().get(start..).unwrap_or_default()
            }
        };
        let short = DecodeError::ShortTail {
            opcode: self.opcode(),
            have: tail.len(),
        };
        Ok(tail.get(..len).ok_or(short)?)
    }

    /// A private buffer of `len` bytes, of arbitrary content.
    pub fn buffer(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        &mut self.bytes[..len]
    }

    /// Sets the reply's structure. It goes out with the status, also with that of a failure.
    pub fn reply<T: IntoBytes + Immutable>(&mut self, body: &T) {
        self.reply.clear();
        self.reply.extend_from_slice(body.as_bytes());
    }

    /// Answers with the first `len` bytes of [`Frame::buffer`]: in the reply, or in the side buffer
    /// if they do not fit there.
    ///
    /// # Errors
    /// `INVALID_VALUE` if they do not fit into the side buffer either.
    pub fn reply_buffer(&mut self, len: usize) -> Outcome {
        let bytes = self
            .bytes
            .get(..len)
            .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        if len <= REPLY_BYTES {
            self.reply.clear();
            self.reply.extend_from_slice(bytes);
            return Ok(());
        }
        match &self.pending {
            Some(pending) => Ok(pending
                .write_side(0, bytes)
                .map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?),
            None => Ok(()),
        }
    }

    /// Puts bytes into the side buffer, at a multiple of eight, for the client to find with the
    /// reply. Without a client that waits there is no side buffer to write to.
    ///
    /// # Errors
    /// `INVALID_VALUE` if they do not fit.
    pub fn reply_aside(&self, at: usize, bytes: &[u8]) -> Outcome {
        match &self.pending {
            Some(pending) => Ok(pending
                .write_side(at, bytes)
                .map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?),
            None => Ok(()),
        }
    }

    /// Bytes of the side buffer.
    pub fn side_byte_len(&self) -> usize {
        self.pending.as_ref().map_or(0, Pending::side_byte_len)
    }

    /// Where its thread notes the call that is under way.
    pub fn cell(&self) -> usize {
        self.cell
    }

    /// What the call is about: an address or handle, and how many bytes of it.
    #[inline]
    pub fn about(&mut self, object: u64, size: u64) {
        self.claim.object = object;
        self.claim.size = size;
    }

    /// The device that the call is about, by its ordinal.
    #[inline]
    pub fn about_device(&mut self, device: i32) {
        self.claim.device = u8::try_from(device).unwrap_or(NO_DEVICE);
    }

    /// The record took a credit of this stream when it was posted.
    pub fn took_credit(&mut self, stream: u64) {
        self.credit = Some(credit::slot(stream));
    }

    /// Its work is on this driver stream now.
    pub fn issued_on(&mut self, stream: usize) {
        self.issued_on = Some(stream);
    }

    /// The credit's slot, and the driver stream if its work was issued.
    pub fn credit(&self) -> Option<(usize, Option<usize>)> {
        self.credit.map(|slot| (slot, self.issued_on))
    }

    /// The dispatcher issued the work and must not wait for it: the lane's thread does, and answers.
    pub fn finish_later(&mut self, event: usize, context: ContextKey) {
        self.unfinished = Some(Prepared::Event { event, context });
    }

    /// What the lane's thread has to wait for, with the reply that is owed.
    pub fn into_unfinished(self) -> Option<(Option<Pending<'static, Mapped>>, Prepared)> {
        self.unfinished.map(|prepared| (self.pending, prepared))
    }

    /// Whether the lane's thread has to wait for what was issued.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    /// An opcode that this build does not know: the client hears of it and goes on.
    ///
    /// # Errors
    /// Always `NOT_SUPPORTED`.
    pub fn unknown_opcode(&self) -> Outcome {
        Err(CUresult::CUDA_ERROR_NOT_SUPPORTED.into())
    }

    /// The reply comes in a moment, if one is owed.
    #[inline]
    pub fn expect_answer(&self) {
        if let Some(pending) = &self.pending {
            pending.expect();
        }
    }

    /// Sends the reply, if one is owed.
    #[inline]
    pub fn answer(self, status: CUresult) {
        if let Some(pending) = self.pending
            && let Err(error) = pending.reply(status.0, self.reply)
        {
            // A mistake of ours; the client got CUDA_ERROR_UNKNOWN.
            tracing::error!(opcode = self.record.head().opcode, %error, "reply lost");
        }
    }
}
