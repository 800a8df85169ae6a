//! One call: whether it may begin, how its record travels, and what comes back.
//!
//! A [`Call`] is made at the start of every function that needs the worker. It finds the session, the
//! thread and the current context, delivers what is latched (D11), and then posts records and waits for
//! replies. Posting takes no lock but the ring's, allocates nothing and makes no system call while the
//! worker is awake.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use cuda_abi::function::{Class, Function};
use cuda_abi::types::CUresult;
use idm_protocol::handle::{Handle, HandleError, Kind};
use idm_protocol::lane::{ClientLane, LaneError};
use idm_protocol::memory::Mapped;
use idm_protocol::record::{Flags, Request, decode_response};
use idm_protocol::ring::PostError;
use idm_protocol::status::CreditError;
use idm_protocol::wire::{VgpuCredit, credit};
use zerocopy::FromBytes;

use crate::objects::{self, Detail, Object, Objects};
use crate::output::print_waiting;
use crate::ranges::Need;
use crate::session::Session;
use crate::state;
use crate::thread::{Current, Thread};

/// What a function returns before the C edge turns it into a `CUresult`.
pub type Outcome<T = ()> = Result<T, CUresult>;

/// Answered once it is issued, by the lane's own thread.
const IN_TURN: Flags = Flags::REPLY.union(Flags::LANE).union(Flags::ISSUE);

/// A call on its way.
#[derive(Debug)]
pub struct Call {
    pub(crate) session: &'static Session,
    thread: &'static Thread,
    function: Function,
    context: Option<Current>,
    /// Minted and not yet kept: given back if the call fails.
    minted: Option<Handle>,
}

impl Call {
    /// Begins a call that needs a current context, as almost all do.
    #[inline]
    pub fn begin(function: Function) -> Outcome<Self> {
        let call = Self::begin_anywhere(function)?;
        if call.context.is_none() {
            if function.info().needs_context {
                return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
            }
            return Ok(call);
        }
        call.checked()
    }

    /// The call, unless its context is gone or something is latched.
    #[inline]
    fn checked(self) -> Outcome<Self> {
        if let Some(context) = self.context
            && !self.session.is_alive(context.slot, context.generation)
        {
            return Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        }
        self.deliver()?;
        Ok(self)
    }

    /// The context that an object ends with.
    #[cold]
    fn context_of(&self, kind: Kind, value: u64) -> Outcome<Current> {
        let objects = self.session.objects();
        let context = if kind == Kind::FUNCTION {
            objects
                .resolve(value, Kind::FUNCTION)
                .or_else(|_| objects.resolve(value, Kind::KERNEL))
        } else {
            objects.resolve(value, kind)
        };
        let (_, object) = context.map_err(|error| objects::refusal(kind, &error))?;
        match objects.resolve(object.context, Kind::CONTEXT) {
            Ok((handle, owner)) => match owner.detail {
                Detail::Context { device, .. } => Ok(Current::new(handle, device)),
                _ => Err(CUresult::CUDA_ERROR_INVALID_CONTEXT),
            },
            // An object of no context, or of one that is gone.
            Err(_) => Err(CUresult::CUDA_ERROR_INVALID_CONTEXT),
        }
    }

    /// Begins a call on an object. Where no context is current it is in the object's own.
    #[inline]
    pub fn begin_on_object(function: Function, kind: Kind, value: u64) -> Outcome<Self> {
        let mut call = Self::begin_anywhere(function)?;
        if call.context.is_none() {
            call.context = Some(call.context_of(kind, value)?);
        }
        call.checked()
    }

    /// Begins a call that works without a current context, and with one that is lost.
    #[inline]
    pub(crate) fn begin_anywhere(function: Function) -> Outcome<Self> {
        let session = state::ready()?;
        let thread = Thread::current();
        let context = thread.context();
        Ok(Self {
            session,
            thread,
            function,
            context,
            minted: None,
        })
    }

    /// Begins a call on a context that need not be the current one.
    pub(crate) fn begin_on(function: Function, context: Current) -> Outcome<Self> {
        let mut call = Self::begin_anywhere(function)?;
        if !call.session.is_alive(context.slot, context.generation) {
            return Err(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        }
        call.context = Some(context);
        Ok(call)
    }

    /// The context that the call is in.
    #[inline]
    pub(crate) fn context(&self) -> Option<Current> {
        self.context
    }

    /// Handle of the current context; 0 for none.
    #[inline]
    pub(crate) fn context_handle(&self) -> u64 {
        self.context.map_or(0, |context| context.handle)
    }

    /// Posts a request that nobody answers.
    #[inline]
    pub fn post<T: Request>(&mut self, request: &T) -> Outcome {
        self.post_with(request, &[])
    }

    /// Posts a request with a tail.
    #[inline]
    pub(crate) fn post_with<T: Request>(&mut self, request: &T, tail: &[&[u8]]) -> Outcome {
        let (session, context) = (self.session, self.context_slot());
        if session.captures.any() {
            return self.post_in_turn(request, tail);
        }
        self.with_lane(|lane| {
            lane.send(
                &session.control.submissions,
                Flags::default(),
                context,
                request,
                tail,
                &session.live(),
            )
            .map_err(|error| failed(session, &error))
        })?;
        Ok(())
    }

    /// Posts a request that other processes may be told of as soon as this returns, and then must find issued.
    pub(crate) fn post_for_all<T: Request>(&mut self, request: &T) -> Outcome {
        if self.session.shares_events.load(Ordering::Relaxed) {
            return self.post_in_turn(request, &[]);
        }
        self.post(request)
    }

    /// Posts a request that takes a credit and has a tail.
    #[inline]
    pub(crate) fn post_charged<T: Request>(
        &mut self,
        request: &T,
        tail: &[&[u8]],
        credit: Credit,
    ) -> Outcome {
        if self.session.captures.any() {
            let status = self.exchange_as(IN_TURN, request, tail, |_, status, _| Ok(status))?;
            // An answer, whatever it says, means that the worker had the record and returns the credit.
            credit.spend();
            return accepted(status);
        }
        self.post_with(request, tail)?;
        credit.spend();
        Ok(())
    }

    /// Posts a request and waits until it is issued, by the lane's own thread: so it is while something may be
    /// captured, for the driver then goes by threads, and says at once what it refuses (D7); and where somebody past
    /// this ring looks at what it does.
    #[cold]
    fn post_in_turn<T: Request>(&mut self, request: &T, tail: &[&[u8]]) -> Outcome {
        let status = self.exchange_as(IN_TURN, request, tail, |_, status, _| Ok(status))?;
        accepted(status)
    }

    /// Posts a request and waits until it is done.
    #[inline]
    pub fn complete<T: Request>(&mut self, request: &T) -> Outcome {
        self.complete_with(request, &[])
    }

    /// Posts a request with a tail and waits until it is done.
    pub(crate) fn complete_with<T: Request>(&mut self, request: &T, tail: &[&[u8]]) -> Outcome {
        self.exchange(request, tail, |_, _| Ok(()))?;
        // What was posted before has been issued by now; if it failed, this call is where CUDA says so.
        self.deliver()
    }

    /// Posts a request and waits for what comes back.
    #[inline]
    pub fn round_trip<T: Request, R: FromBytes>(&mut self, request: &T) -> Outcome<R> {
        self.round_trip_with(request, &[])
    }

    /// Posts a request with a tail and waits for what comes back.
    pub(crate) fn round_trip_with<T: Request, R: FromBytes>(
        &mut self,
        request: &T,
        tail: &[&[u8]],
    ) -> Outcome<R> {
        self.exchange(request, tail, |_, body| parse(body))
    }

    /// Posts a request, waits for its reply and has `read` look at it, with the lane at hand for what lies
    /// in its side buffer. A reply that is an error is one; [`Call::exchange_raw`] looks at those too.
    pub(crate) fn exchange<T: Request, U>(
        &mut self,
        request: &T,
        tail: &[&[u8]],
        read: impl FnOnce(&ClientLane<Mapped>, &[u8]) -> Outcome<U>,
    ) -> Outcome<U> {
        self.exchange_raw(request, tail, |lane, status, body| {
            accepted(status)?;
            read(lane, body)
        })
    }

    /// As [`Call::exchange`], with the status for `read` to judge.
    pub(crate) fn exchange_raw<T: Request, U>(
        &mut self,
        request: &T,
        tail: &[&[u8]],
        read: impl FnOnce(&ClientLane<Mapped>, CUresult, &[u8]) -> Outcome<U>,
    ) -> Outcome<U> {
        let flags = match self.function.info().class {
            Class::Inline if !self.session.captures.any() => Flags::REPLY,
            _ => Flags::REPLY.union(Flags::LANE),
        };
        self.exchange_as(flags, request, tail, read)
    }

    fn exchange_as<T: Request, U>(
        &mut self,
        flags: Flags,
        request: &T,
        tail: &[&[u8]],
        read: impl FnOnce(&ClientLane<Mapped>, CUresult, &[u8]) -> Outcome<U>,
    ) -> Outcome<U> {
        let (session, context) = (self.session, self.context_slot());
        self.with_lane(|lane| {
            let live = session.live();
            let sequence = lane
                .send(
                    &session.control.submissions,
                    flags,
                    context,
                    request,
                    tail,
                    &live,
                )
                .map_err(|error| failed(session, &error))?;
            let reply = lane
                .await_reply(sequence, &live)
                .map_err(|error| failed(session, &error))?;
            let status = CUresult(reply.status);
            // Through the lane, whose side buffer `read` may want too.
            let result = read(lane, status, lane.reply_body());
            if flags.contains(Flags::LANE) {
                print_waiting(session, lane)?;
            }
            result
        })
    }

    /// Works with the thread's lane.
    #[inline]
    pub(crate) fn with_lane<U>(
        &self,
        work: impl FnOnce(&mut ClientLane<Mapped>) -> Outcome<U>,
    ) -> Outcome<U> {
        self.thread.with_lane(self.session, work)
    }

    /// The context as records carry it.
    #[inline]
    pub(crate) fn context_slot(&self) -> u16 {
        let slot = self.context.map_or(0, |context| context.slot + 1);
        // Contexts are at most 65536, and the last slot is never reached: limits say so.
        u16::try_from(slot).unwrap_or(0)
    }

    /// Takes a credit of the stream for a record that needs one (D9). While none is left, the worker is
    /// asked for some and this thread waits, outside every lock: the others go on posting.
    #[inline]
    pub(crate) fn take_credit(&mut self, stream: u64) -> Outcome<Credit> {
        let slot = credit::slot(stream);
        loop {
            match self.session.control.credits.try_take(slot) {
                Ok(true) => {
                    return Ok(Credit {
                        session: self.session,
                        slot,
                        posted: false,
                    });
                }
                Ok(false) => self.ask_for_credit(stream)?,
                Err(CreditError::NoStream(_)) => return Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
                Err(error) => return Err(self.session.lost(&error.to_string())),
            }
        }
    }

    #[cold]
    fn ask_for_credit(&mut self, stream: u64) -> Outcome {
        // The worker counts what was issued itself; our count is for people who read records.
        self.exchange(&VgpuCredit { stream, issued: 0 }, &[], |_, _| Ok(()))
    }

    /// A new handle, the call's until [`Call::keep`].
    pub fn mint(&mut self, kind: Kind) -> Outcome<Handle> {
        self.mint_with(kind, self.context_handle(), Detail::Plain)
    }

    /// As [`Call::mint`], for an object that ends with `context` and about which something is known.
    pub(crate) fn mint_with(
        &mut self,
        kind: Kind,
        context: u64,
        detail: Detail,
    ) -> Outcome<Handle> {
        let minted = self
            .session
            .objects_mut()
            .mint(kind, Object { context, detail });
        let handle = minted.map_err(|error| {
            if matches!(error, HandleError::OverLimit { .. }) {
                crate::policy::limited(kind.number().into(), 0);
            }
            objects::refusal(kind, &error)
        })?;
        self.minted = Some(handle);
        Ok(handle)
    }

    /// The object exists: its handle is the program's.
    pub fn keep(&mut self, _kind: Kind, _handle: Handle) {
        self.minted = None;
    }

    /// The object is gone: its handle names nothing any more.
    pub fn retire(&mut self, kind: Kind, value: u64) {
        if kind.is_named_by_worker() {
            return;
        }
        if kind == Kind::STREAM {
            self.session.captures.forget_stream(value);
        }
        // It was there when the call began; another thread that destroyed it meanwhile did this work.
        let _ = self.session.objects_mut().remove(value, kind);
    }

    /// Checks a handle of the program's.
    #[inline]
    pub fn handle(&self, kind: Kind, value: u64) -> Outcome<u64> {
        if kind.is_named_by_worker() {
            return Ok(value);
        }
        self.handle_in(&self.session.objects(), kind, value)
    }

    /// Checks a handle that the call ends; the default streams cannot be.
    #[inline]
    pub fn own_handle(&self, kind: Kind, value: u64) -> Outcome<u64> {
        if is_default_stream(kind, value) {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        self.handle(kind, value)
    }

    /// As [`Call::handle`], for who looks at the table anyway.
    #[inline]
    pub(crate) fn handle_in(&self, objects: &Objects, kind: Kind, value: u64) -> Outcome<u64> {
        if is_default_stream(kind, value) {
            return Ok(value);
        }
        if kind == Kind::FUNCTION {
            return objects::code(objects, value).map(|_| value);
        }
        objects
            .resolve(value, kind)
            .map(|_| value)
            .map_err(|error| objects::refusal(kind, &error))
    }

    /// The worker's ordinal of a device.
    pub fn device(&self, device: i32) -> Outcome<i32> {
        self.session.devices()?.worker_ordinal(device)
    }

    /// Checks that the client holds all of a device range, to read it.
    pub fn device_range(&self, address: u64, bytes: u64) -> Outcome {
        self.range_for(address, bytes, Need::Read)
    }

    /// The same for what is done with it.
    pub(crate) fn range_for(&self, address: u64, bytes: u64, need: Need) -> Outcome {
        let held = self.session.ranges.cover(address, bytes, need);
        held.map(|_| ()).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    /// Returns what is latched for this context, for ever, or for this thread, once (D11).
    #[inline]
    pub(crate) fn deliver(&self) -> Outcome {
        let latches = &self.session.control.latches;
        if let Some(context) = self.context
            && let Some(lost) = latches.context(u16::try_from(context.slot).unwrap_or(u16::MAX))
        {
            return Err(CUresult(lost.code));
        }
        if let Some(lane) = self.thread.lane_index()
            && let Some(error) = latches.take_lane(lane)
        {
            return Err(CUresult(error.code));
        }
        Ok(())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(handle) = self.minted {
            let _ = self
                .session
                .objects_mut()
                .remove(handle.value(), handle.kind());
        }
    }
}

/// The default streams: legacy by NULL or by name, per-thread by name.
fn is_default_stream(kind: Kind, value: u64) -> bool {
    kind == Kind::STREAM && value <= 2
}

/// A stream's credit, given back unless a record used it.
#[derive(Debug)]
pub(crate) struct Credit {
    session: &'static Session,
    slot: usize,
    posted: bool,
}

impl Credit {
    /// The record is posted; the worker returns the credit.
    #[inline]
    pub(crate) fn spend(mut self) {
        self.posted = true;
    }
}

impl Drop for Credit {
    #[inline]
    fn drop(&mut self) {
        if !self.posted {
            self.session.control.credits.refund(self.slot);
        }
    }
}

/// The fixed-size body of a reply; a worker that sends less than it should is taken for a broken one.
pub(crate) fn parse<R: FromBytes>(body: &[u8]) -> Outcome<R> {
    decode_response(body)
        .map(|(body, _)| body)
        .ok_or(CUresult::CUDA_ERROR_UNKNOWN)
}

/// A reply's status as an outcome.
pub(crate) fn accepted(status: CUresult) -> Outcome {
    if status == CUresult::CUDA_SUCCESS {
        Ok(())
    } else {
        Err(status)
    }
}

/// What the program is told when a record or its reply did not get through.
#[cold]
pub(crate) fn failed(session: &Session, error: &LaneError) -> CUresult {
    match error {
        LaneError::TooLarge { .. } | LaneError::Post(PostError::TooLarge { .. }) => {
            CUresult::CUDA_ERROR_INVALID_VALUE
        }
        LaneError::Ended | LaneError::Post(PostError::Ended) => session.gone(),
        broken => session.lost(&format!("its worker broke the protocol: {broken}")),
    }
}
