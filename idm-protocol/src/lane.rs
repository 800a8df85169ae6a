//! Lanes: how one client thread gets replies and passes large parameters.
//!
//! A lane is a reply slot of one record's size, a bell on which its thread waits, and a side buffer
//! with a release word. The thread's request carries the lane's number; its reply carries the
//! request's ring sequence, so that neither side counts anything of its own and an old reply cannot
//! pass for a new one.
//!
//! The side buffer belongs to the client until a record with [`Flags::SIDE`] is posted, then to the
//! worker until it has copied the parameters out, which it says by storing that record's sequence
//! in the release word. A posted call thus may have large parameters without waiting; only the
//! next use of the side buffer waits.
//!
//! Neither side trusts the other: lengths are bounded, everything is copied once.

#![forbid(unsafe_code)]

use thiserror::Error;
use zerocopy::IntoBytes;

use crate::bulk::Pipe;
use crate::layout::{LINE_WORDS, Layout, PAGE_WORDS};
use crate::memory::{OutOfBounds, Region, View, WORD_BYTES, load_words, padded_write, store_bytes};
use crate::record::{
    DecodeError, Flags, Head, RECORD_WORDS, Record, Request, Tail, padded, tail_len,
};
use crate::ring::{PostError, SharedProducer};
use crate::sync::{Mutex, Ordering, Word};
use crate::wait::{Bell, Liveness, Patience, Woken};

/// Bytes that a reply can have besides its status.
pub const REPLY_BYTES: usize = (RECORD_WORDS - 2) * WORD_BYTES;

/// What a reply says when the worker lost the request without an answer: `CUDA_ERROR_UNKNOWN`.
pub const STATUS_UNKNOWN: u32 = 999;

const BELL_WORD: usize = RECORD_WORDS;
const RELEASE_WORD: usize = RECORD_WORDS + LINE_WORDS;
const PIPE_WORD: usize = RECORD_WORDS + 2 * LINE_WORDS;

/// Why a call over a lane failed. The call may or may not have been executed when the error is
/// [`LaneError::Ended`] or [`LaneError::ReplyLength`]; otherwise it was not posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The ring did not take the record.
    #[error(transparent)]
    Post(#[from] PostError),
    /// Parameters larger than the side buffer; the caller reports invalid arguments.
    #[error("{bytes} bytes of parameters do not fit into a side buffer of {most}")]
    TooLarge {
        /// Bytes, padding included.
        bytes: usize,
        /// Size of the side buffer.
        most: usize,
    },
    /// The worker has ended.
    #[error("the worker has ended")]
    Ended,
    /// The worker claims a reply longer than a slot: it broke the protocol and counts as gone.
    #[error("the worker claims a reply of {0} bytes; {REPLY_BYTES} are possible")]
    ReplyLength(u32),
    /// The worker promised more than is there.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
}

/// A reply, copied and bounded.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// The driver's result, as a number.
    pub status: u32,
    /// What came with it.
    pub body: &'a [u8],
}

/// The client's end of a lane: owned by one thread at a time.
#[derive(Debug)]
pub struct ClientLane<R> {
    index: u16,
    slot: View<R>,
    bell: Bell<R>,
    side: View<R>,
    pipe: Pipe<R>,
    patience: Patience,
    /// Sequence of the last record that took the side buffer along.
    side_handed: u64,
    reply: [u64; RECORD_WORDS - 2],
    reply_len: usize,
}

impl<R: Region> ClientLane<R> {
    /// The client's end of lane `index`, which nobody used yet.
    ///
    /// # Errors
    /// [`OutOfBounds`] if there is no such lane, or the region is smaller than the layout.
    pub fn new(
        region: &R,
        layout: &Layout,
        index: u16,
        patience: Patience,
    ) -> Result<Self, OutOfBounds> {
        let Parts {
            slot,
            bell,
            side,
            pipe,
        } = Parts::new(region, layout, index)?;
        Ok(Self {
            index,
            slot,
            bell,
            side,
            pipe,
            patience,
            side_handed: 0,
            reply: [0; RECORD_WORDS - 2],
            reply_len: 0,
        })
    }

    /// Its number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Posts a request that nobody answers; the tail goes inline if it fits, else through the side
    /// buffer. Returns its sequence.
    ///
    /// # Errors
    /// [`LaneError`]; nothing was posted then.
    #[inline]
    pub fn post<T: Request, L: Liveness>(
        &mut self,
        ring: &SharedProducer<R>,
        context: u16,
        request: &T,
        tail: &[&[u8]],
        live: &L,
    ) -> Result<u64, LaneError> {
        self.send(ring, Flags::default(), context, request, tail, live)
    }

    /// Posts a request and waits for its reply.
    ///
    /// # Errors
    /// [`LaneError`].
    #[inline]
    pub fn call<T: Request, L: Liveness>(
        &mut self,
        ring: &SharedProducer<R>,
        context: u16,
        request: &T,
        tail: &[&[u8]],
        live: &L,
    ) -> Result<Reply<'_>, LaneError> {
        let sequence = self.send(ring, Flags::REPLY, context, request, tail, live)?;
        self.await_reply(sequence, live)
    }

    /// Posts a request with flags of the caller's choice; see [`ClientLane::post`].
    ///
    /// # Errors
    /// [`LaneError`]; nothing was posted then.
    #[inline]
    pub fn send<T: Request, L: Liveness>(
        &mut self,
        ring: &SharedProducer<R>,
        flags: Flags,
        context: u16,
        request: &T,
        tail: &[&[u8]],
        live: &L,
    ) -> Result<u64, LaneError> {
        let head = Head {
            opcode: T::OPCODE,
            flags,
            lane: self.index,
            context,
        };
        match ring.post(head, request.as_bytes(), tail, live) {
            Err(PostError::TooLarge { .. }) if !tail.is_empty() => {
                self.send_aside(ring, head, request.as_bytes(), tail, live)
            }
            posted => Ok(posted?),
        }
    }

    /// Waits for the reply to the request that has `sequence`.
    ///
    /// # Errors
    /// [`LaneError::Ended`], [`LaneError::ReplyLength`].
    #[inline]
    pub fn await_reply<L: Liveness>(
        &mut self,
        sequence: u64,
        live: &L,
    ) -> Result<Reply<'_>, LaneError> {
        let words = self.slot.words();
        // SYNC: pairs with the Release in `Pending::publish`.
        let ready = || words[0].load(Ordering::Acquire) == sequence;
        if self.bell.wait(&self.patience, live, ready) == Woken::Ended {
            return Err(LaneError::Ended);
        }
        // The only look at status and length; their private copies count.
        let [s0, s1, s2, s3, l0, l1, l2, l3] = words[1].load(Ordering::Relaxed).to_le_bytes();
        let len_claimed = u32::from_le_bytes([l0, l1, l2, l3]);
        let len = usize::try_from(len_claimed).unwrap_or(usize::MAX);
        if len > REPLY_BYTES {
            return Err(LaneError::ReplyLength(len_claimed));
        }
        load_words(&words[2..], &mut self.reply[..len.div_ceil(WORD_BYTES)]);
        self.reply_len = len;
        let status = u32::from_le_bytes([s0, s1, s2, s3]);
        Ok(Reply {
            status,
            body: self.reply_body(),
        })
    }

    /// What came with the last reply, for who needs the lane at the same time.
    pub fn reply_body(&self) -> &[u8] {
        &self.reply.as_bytes()[..self.reply_len]
    }

    /// Copies out what the worker put into the side buffer before its last reply on this lane.
    ///
    /// # Errors
    /// [`LaneError::OutOfBounds`] if the worker promised more than a side buffer holds.
    pub fn read_side(&self, into: &mut [u8]) -> Result<(), LaneError> {
        Ok(self.side.read(0, into)?)
    }

    /// Bytes of the side buffer.
    pub fn side_byte_len(&self) -> usize {
        self.side.byte_len()
    }

    /// The lane's pipe for large transfers.
    pub fn pipe(&self) -> &Pipe<R> {
        &self.pipe
    }

    #[cold]
    fn send_aside<L: Liveness>(
        &mut self,
        ring: &SharedProducer<R>,
        head: Head,
        body: &[u8],
        tail: &[&[u8]],
        live: &L,
    ) -> Result<u64, LaneError> {
        let most = self.side.byte_len();
        let bytes = tail_len(tail).unwrap_or(usize::MAX);
        if bytes > most {
            return Err(LaneError::TooLarge { bytes, most });
        }
        let handed = self.side_handed;
        let release = &self.slot.words()[RELEASE_WORD];
        // SYNC: pairs with the Release in `WorkerLane::open`: the worker's copy is complete before
        // we overwrite. Equality, not order: a worker that stores anything else only stops us.
        let ready = || handed == 0 || release.load(Ordering::Acquire) == handed;
        if self.bell.wait(&self.patience, live, ready) == Woken::Ended {
            return Err(LaneError::Ended);
        }
        let mut at = 0;
        for part in tail {
            padded_write(&self.side, at, part)?;
            at += padded(part.len()).unwrap_or(most);
        }
        let head = Head {
            flags: head.flags.union(Flags::SIDE),
            ..head
        };
        // SYNC: the ring's publication orders these bytes before the record that announces them.
        let len = u64::try_from(bytes).unwrap_or(u64::MAX).to_le_bytes();
        self.side_handed = ring.post(head, &len, &[body], live)?;
        Ok(self.side_handed)
    }
}

/// The lanes of a client process that no thread holds.
#[derive(Debug)]
pub struct LanePool<R> {
    region: R,
    layout: Layout,
    patience: Patience,
    free: Mutex<FreeLanes<R>>,
}

#[derive(Debug)]
struct FreeLanes<R> {
    returned: Vec<ClientLane<R>>,
    next: u16,
}

impl<R: Region> LanePool<R> {
    /// All lanes of a region that nobody used yet.
    pub fn new(region: &R, layout: &Layout, patience: Patience) -> Self {
        let free = Mutex::new(FreeLanes {
            returned: Vec::new(),
            next: 0,
        });
        Self {
            region: region.clone(),
            layout: layout.clone(),
            patience,
            free,
        }
    }

    /// A lane for the calling thread; `None` while every lane is held.
    pub fn take(&self) -> Option<ClientLane<R>> {
        let mut free = self.free.lock();
        if let Some(lane) = free.returned.pop() {
            return Some(lane);
        }
        let lane = ClientLane::new(&self.region, &self.layout, free.next, self.patience).ok()?;
        free.next += 1;
        Some(lane)
    }

    /// Takes back the lane of a thread that ends. No reply may be outstanding on it.
    pub fn put(&self, lane: ClientLane<R>) {
        self.free.lock().returned.push(lane);
    }
}

/// What a client did wrong on a lane; the worker ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LaneViolation {
    /// A record does not hold what it says.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It claims more parameters than a side buffer holds.
    #[error("record {sequence} claims {len} bytes in a side buffer of {most}")]
    SideLength {
        /// The record.
        sequence: u64,
        /// What it claims.
        len: usize,
        /// Size of the side buffer.
        most: usize,
    },
    /// It asked for a second reply on a lane whose first one it does not have yet.
    #[error("lane {lane} asks for a reply to {sequence} while waiting for one to {awaited}")]
    Busy {
        /// The lane.
        lane: u16,
        /// The second request.
        sequence: u64,
        /// The first one.
        awaited: u64,
    },
    /// It named a lane that does not exist.
    #[error("there is no lane {0}")]
    NoLane(u16),
}

/// The worker's end of a lane; shared by the dispatcher and the lane's own thread.
#[derive(Debug)]
pub struct WorkerLane<R> {
    index: u16,
    slot: View<R>,
    bell: Bell<R>,
    side: View<R>,
    pipe: Pipe<R>,
    /// Sequence of the request that is being answered, 0 if none. Private to the worker.
    awaited: Word,
}

impl<R: Region> WorkerLane<R> {
    /// The worker's end of lane `index`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if there is no such lane, or the region is smaller than the layout.
    pub fn new(region: &R, layout: &Layout, index: u16) -> Result<Self, OutOfBounds> {
        let Parts {
            slot,
            bell,
            side,
            pipe,
        } = Parts::new(region, layout, index)?;
        Ok(Self {
            index,
            slot,
            bell,
            side,
            pipe,
            awaited: Word::new(0),
        })
    }

    /// Its number.
    #[inline]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Body and tail of a record of this lane, wherever the tail is; see [`WorkerLane::collect`].
    ///
    /// # Errors
    /// [`LaneViolation`].
    pub fn open<'a, T: Request>(
        &self,
        record: &'a Record,
        scratch: &'a mut Vec<u8>,
    ) -> Result<(T, Tail<'a>), LaneViolation> {
        match self.collect(record, scratch)? {
            None => Ok(record.decode()?),
            Some(tail) => Ok((record.body()?, Tail::new(record.head().opcode, tail))),
        }
    }

    /// The first `len` bytes of the tail of a record whose body is `T`, wherever they are; see
    /// [`WorkerLane::collect`].
    ///
    /// # Errors
    /// [`LaneViolation`] if the record promises more than is there.
    pub fn tail<'a, T: Request>(
        &self,
        record: &'a Record,
        len: usize,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], LaneViolation> {
        let start = size_of::<T>().next_multiple_of(WORD_BYTES);
        let tail = match self.collect(record, scratch)? {
            None => record.bytes().get(start..).unwrap_or_default(),
            Some(tail) => tail,
        };
        let (opcode, have) = (record.head().opcode, tail.len());
        Ok(tail
            .get(..len)
            .ok_or(DecodeError::ShortTail { opcode, have })?)
    }

    /// If the record's tail is in the side buffer, copies it into `scratch` and gives the side
    /// buffer back at once; `None` if it is inline. To be called once per record, in the order of
    /// the ring, best before anything else is known about the record: a side buffer that is never
    /// given back stops its client's thread.
    ///
    /// # Errors
    /// [`LaneViolation::SideLength`].
    #[inline]
    pub fn collect<'a>(
        &self,
        record: &Record,
        scratch: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, LaneViolation> {
        match record.side_len() {
            None => Ok(None),
            Some(claimed) => self.collect_aside(record, claimed, scratch).map(Some),
        }
    }

    #[cold]
    fn collect_aside<'a>(
        &self,
        record: &Record,
        claimed: u64,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], LaneViolation> {
        let (sequence, most) = (record.sequence(), self.side.byte_len());
        let len = usize::try_from(claimed).unwrap_or(usize::MAX);
        let too_long = LaneViolation::SideLength {
            sequence,
            len,
            most,
        };
        if len > most {
            return Err(too_long);
        }
        if scratch.len() < len {
            scratch.resize(len, 0);
        }
        let tail = &mut scratch[..len];
        self.side.read(0, tail).map_err(|_| too_long)?;
        // SYNC: pairs with the Acquire in `ClientLane::send_aside`.
        self.slot.words()[RELEASE_WORD].store(sequence, Ordering::Release);
        self.bell.ring();
        Ok(tail)
    }

    /// The lane's pipe for large transfers.
    pub fn pipe(&self) -> &Pipe<R> {
        &self.pipe
    }

    /// Undertakes to answer the request that has `sequence`. Only the thread that takes records from the
    /// ring does so: nobody else makes the lane busy between its look and its claim.
    ///
    /// # Errors
    /// [`LaneViolation::Busy`] if the lane's last request is not answered yet.
    #[inline]
    pub fn claim(&self, sequence: u64) -> Result<Pending<'_, R>, LaneViolation> {
        // SYNC: pairs with the Release in `Pending::publish`: what the thread that answered last
        // wrote into the slot comes before what we will write.
        let awaited = self.awaited.load(Ordering::Acquire);
        if awaited != 0 {
            return Err(LaneViolation::Busy {
                lane: self.index,
                sequence,
                awaited,
            });
        }
        self.awaited.store(sequence, Ordering::Relaxed);
        Ok(Pending {
            lane: self,
            sequence,
            answered: false,
        })
    }
}

/// A reply that is owed. Dropped unanswered, it answers [`STATUS_UNKNOWN`]: no client waits for ever
/// because of a path we forgot.
#[derive(Debug)]
pub struct Pending<'a, R: Region> {
    lane: &'a WorkerLane<R>,
    sequence: u64,
    answered: bool,
}

/// A reply that does not fit into its slot: a mistake of ours. The client got [`STATUS_UNKNOWN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a reply of {0} bytes does not fit into {REPLY_BYTES}")]
pub struct ReplyTooLong(pub usize);

impl<R: Region> Pending<'_, R> {
    /// The request's sequence.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Puts bytes into the lane's side buffer, to be found there once the reply is.
    ///
    /// # Errors
    /// [`OutOfBounds`] if they do not fit, or `at` is no multiple of eight.
    pub fn write_side(&self, at: usize, bytes: &[u8]) -> Result<(), OutOfBounds> {
        self.lane.side.write(at, bytes)
    }

    /// Bytes of the lane's side buffer.
    pub fn side_byte_len(&self) -> usize {
        self.lane.side.byte_len()
    }

    /// The answer comes in a moment: its line is with the client, which spins on it. Said earlier, the client
    /// would have taken it back.
    #[inline]
    pub fn expect(&self) {
        self.lane.slot.expect_write(0);
    }

    /// Answers.
    ///
    /// # Errors
    /// [`ReplyTooLong`].
    #[inline]
    pub fn reply(mut self, status: u32, body: &[u8]) -> Result<(), ReplyTooLong> {
        if body.len() > REPLY_BYTES {
            return Err(ReplyTooLong(body.len()));
        }
        self.publish(status, body);
        Ok(())
    }

    #[inline]
    fn publish(&mut self, status: u32, body: &[u8]) {
        self.answered = true;
        let words = self.lane.slot.words();
        // Bounded by REPLY_BYTES, checked by the caller.
        let len = u64::try_from(body.len()).unwrap_or(0);
        words[1].store(u64::from(status) | len << 32, Ordering::Relaxed);
        store_bytes(&words[2..], body);
        // SYNC: pairs with the Acquire in `WorkerLane::claim`. Before the client can see its reply,
        // so that its next request never finds the lane busy.
        self.lane.awaited.store(0, Ordering::Release);
        // SYNC: pairs with the Acquire in `ClientLane::await_reply`.
        words[0].store(self.sequence, Ordering::Release);
        self.lane.bell.ring();
    }
}

impl<R: Region> Drop for Pending<'_, R> {
    fn drop(&mut self) {
        if !self.answered {
            self.publish(STATUS_UNKNOWN, &[]);
        }
    }
}

struct Parts<R> {
    slot: View<R>,
    bell: Bell<R>,
    side: View<R>,
    pipe: Pipe<R>,
}

impl<R: Region> Parts<R> {
    fn new(region: &R, layout: &Layout, index: u16) -> Result<Self, OutOfBounds> {
        let place = layout.lane(index).ok_or(OutOfBounds {
            at: usize::from(index),
            len: 1,
            size: usize::try_from(layout.limits().lanes).unwrap_or(usize::MAX),
        })?;
        let bell = Bell::new(region, place.start + BELL_WORD)?;
        let pipe = Pipe::new(region, place.start + PIPE_WORD)?;
        let lane = View::new(region, place)?;
        let side = lane.part(PAGE_WORDS..lane.words().len())?;
        Ok(Self {
            slot: lane.part(0..PAGE_WORDS)?,
            bell,
            side,
            pipe,
        })
    }
}
