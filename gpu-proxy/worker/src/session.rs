//! One client: its objects, ranges and credit, and the way from a record to a reply.
//!
//! The session is shared by the dispatcher, the lanes' threads and the driver's callback threads,
//! and lives as long as the process. Generated dispatch and the halves under [`crate::api`] go
//! through it for everything that must be checked (D12).

#![forbid(unsafe_code)]

mod charges;
mod uploads;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda_abi::types::CUresult;
use idm_protocol::control::WorkerControl;
use idm_protocol::handle::{Bound, Handle, HandleLimits, Kind, WorkerTable};
use idm_protocol::lane::{Pending, WorkerLane};
use idm_protocol::memory::Mapped;
use idm_protocol::record::{Record, Request};
use idm_protocol::status::{Latched, StatusPage};
use idm_protocol::sync::Word;
use idm_protocol::wait::{Patience, StopFlag};
use idm_protocol::window::Arena;
use idm_protocol::wire::{self, credit};
use proxy_channel::credit::Credit;
use proxy_channel::holdings::Holding;
use proxy_channel::message::Token;
use proxy_channel::shares::Shares;
use proxy_channel::stats::{KernelSlot, StatsWriter};
use proxy_channel::worker::WorkerChannel;

use crate::api::linker::Links;
use crate::arrays::Arrays;
use crate::calls::{Calls, Names};
use crate::captures::Captures;
use crate::code::Code;
use crate::contexts::{ContextKey, Contexts};
use crate::credits::{CreditCounts, StreamKey};
use crate::denials::{self, Denials};
use crate::driver::{Driver, Table};
use crate::errors::{Violation, handle_error, is_sticky};
use crate::execs::Execs;
use crate::generated::dispatch::dispatch;
use crate::graphs::Graphs;
use crate::output::Output;
use crate::policy::Refusals;
use crate::pools::Pools;
use crate::ranges::{Place, Range, Ranges};
use crate::staging::Staging;
use crate::suspicion::Suspicion;
use crate::translations::Translations;
use crate::vmm::Vmm;

pub use crate::errors::{Outcome, Refusal};
pub use crate::frame::{Frame, Prepared, Scratch, Turn, Unfinished};

/// Opcodes up to this one serve the session itself, or make and destroy contexts.
const LAST_WITHOUT_CONTEXT: u16 = <wire::CuCtxDestroyV2 as Request>::OPCODE;

/// Opcodes after which a driver's pools may hold less.
const SYNCHRONISING: [u16; 3] = [
    <wire::CuStreamSynchronize as Request>::OPCODE,
    <wire::CuEventSynchronize as Request>::OPCODE,
    <wire::CuCtxSynchronize as Request>::OPCODE,
];

/// Opcodes whose bytes both sides move at the same time.
const TRANSFERS: [u16; 3] = [
    <wire::VgpuCopyInBulk as Request>::OPCODE,
    <wire::VgpuCopyOutBulk as Request>::OPCODE,
    <wire::VgpuUpload as Request>::OPCODE,
];

/// What a handle stands for.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// The driver's object.
    pub pointer: usize,
    /// Slot of the context it dies with; libraries and kernels belong to none.
    pub context: Option<u16>,
    /// Handle of the module, library or kernel it came from and dies with; 0 if none.
    pub parent: u64,
    /// Where launches are counted, for functions and kernels.
    pub counter: Option<KernelSlot>,
    /// What the log calls it: the kernel, for functions and kernels, and the image.
    pub names: Names,
}

/// What an attach gives a session to work with.
#[derive(Debug)]
pub struct Parts {
    /// The driver.
    pub driver: Driver,
    /// Rings, lanes, latches.
    pub control: Arc<WorkerControl<Mapped>>,
    /// Pinned host memory.
    pub arena: Arena,
    /// The supervisor's word.
    pub status: StatusPage,
    /// Device memory that may be spent.
    pub credit: Arc<Credit>,
    /// What contexts cost.
    pub context_overhead: u64,
    /// Bytes of code images that may be loaded.
    pub images: u64,
    /// What clients of the zone share.
    pub shares: Arc<Shares>,
    /// Counters.
    pub stats: StatsWriter,
    /// The way to the supervisor.
    pub channel: Arc<WorkerChannel>,
    /// What the driver prints.
    pub output: Output,
    /// What is written down of every call.
    pub calls: Calls,
}

/// One client.
#[derive(Debug)]
pub struct Session {
    pub(crate) parts: Parts,
    pub(crate) contexts: Contexts,
    pub(crate) staging: Staging,
    pub(crate) captures: Captures,
    pub(crate) stop: Arc<StopFlag>,
    pub(crate) patience: Patience,
    pub(crate) suspicion: Suspicion,
    pub(crate) translations: Translations,
    objects: Mutex<WorkerTable<Object>>,
    ranges: Mutex<Ranges>,
    counts: CreditCounts,
    /// Order of the credit words' stores.
    credit_order: Mutex<()>,
    /// What a lane has uploaded and not used yet, or (number 0) has still to read, by lane: number and bytes.
    uploads: Mutex<HashMap<u16, (u64, Vec<u8>)>>,
    links: Mutex<Links>,
    arrays: Mutex<Arrays>,
    graphs: Mutex<Graphs>,
    execs: Mutex<Execs>,
    vmm: Mutex<Vmm>,
    pools: Mutex<Pools>,
    /// Exports, and what is opened and closed of others', one after the other.
    sharing: Mutex<()>,
    /// Events that other clients of the zone have too, by handle.
    shared_events: Mutex<HashMap<u64, SharedEvent>>,
    refusals: Mutex<Refusals>,
    denials: Mutex<Denials>,
    code: Mutex<Code>,
    /// Memory of a pool was freed, and the pool may hold less from the next synchronisation on.
    pools_shrink: Word,
}

/// How an event is shared.
#[derive(Debug)]
pub enum SharedEvent {
    /// Others may open it under this token.
    Exported(Token),
    /// It is another client's.
    Opened(Token),
}

impl Session {
    /// A client that has nothing yet.
    pub fn new(parts: Parts) -> Self {
        let limits = parts.control.layout.limits();
        let streams = usize::try_from(limits.streams).unwrap_or(usize::MAX);
        Self {
            contexts: Contexts::new(limits.contexts),
            staging: Staging::new(&parts.arena, limits.staging_chunks),
            objects: Mutex::new(WorkerTable::new(HandleLimits::new(limits))),
            counts: CreditCounts::new(streams),
            graphs: Mutex::new(Graphs::new(HandleLimits::new(limits))),
            execs: Mutex::default(),
            captures: Captures::default(),
            stop: Arc::default(),
            patience: Patience::detect(),
            suspicion: Suspicion::default(),
            translations: Translations::default(),
            ranges: Mutex::default(),
            credit_order: Mutex::default(),
            uploads: Mutex::default(),
            links: Mutex::default(),
            arrays: Mutex::default(),
            vmm: Mutex::default(),
            pools: Mutex::default(),
            sharing: Mutex::default(),
            shared_events: Mutex::default(),
            refusals: Mutex::default(),
            denials: Mutex::default(),
            code: Mutex::default(),
            pools_shrink: Word::new(0),
            parts,
        }
    }

    /// What policy refused, locked.
    pub fn refusals(&self) -> MutexGuard<'_, Refusals> {
        lock(&self.refusals)
    }

    /// What limits refused, locked.
    pub fn denials(&self) -> MutexGuard<'_, Denials> {
        lock(&self.denials)
    }

    /// Ends this session's waits: a thread that is woken after this runs no more records. A worker
    /// process does not need it: it exits.
    pub fn end(&self) {
        self.stop.raise();
        self.parts.control.ping.waker().ring();
    }

    /// Device memory that this client holds, in bytes.
    pub fn memory_held(&self) -> u64 {
        self.parts.credit.spent()
    }

    /// The driver's functions.
    #[inline]
    pub fn driver(&self) -> &Table {
        &self.parts.driver.table
    }

    /// Executes a record and answers it, unless it left something for its lane's thread to wait for.
    ///
    /// # Errors
    /// [`Violation`]: the client must be ended.
    pub fn execute(
        &self,
        record: &Record,
        lane: &'static WorkerLane<Mapped>,
        pending: Option<Pending<'static, Mapped>>,
        prepared: Prepared,
        scratch: &mut Scratch,
    ) -> Result<Option<Unfinished>, Violation> {
        let mut frame = match Frame::new(record, lane, pending, prepared, scratch) {
            Ok(frame) => frame,
            Err(Refusal::Violation(violation)) => return Err(violation),
            Err(Refusal::Driver(_) | Refusal::Poisoned(_)) => return Ok(None),
        };
        self.begin_call(&mut frame);
        let outcome = self.take_note_of_credit(&mut frame).and_then(|()| {
            self.enter(&frame)
                .inspect_err(|_| Self::give_up_transfer(&frame))?;
            dispatch(self, &mut frame)
        });
        self.settle(frame, outcome)
    }

    /// Answers a record that was executed already.
    ///
    /// # Errors
    /// [`Violation`]: the client must be ended.
    pub fn finish(
        &self,
        record: &Record,
        lane: &'static WorkerLane<Mapped>,
        pending: Option<Pending<'static, Mapped>>,
        outcome: Outcome,
        scratch: &mut Scratch,
    ) -> Result<(), Violation> {
        match Frame::new(record, lane, pending, Prepared::Nothing, scratch) {
            Ok(frame) => self.settle(frame, outcome).map(|_| ()),
            Err(Refusal::Violation(violation)) => Err(violation),
            Err(Refusal::Driver(_) | Refusal::Poisoned(_)) => Ok(()),
        }
    }

    /// Notes the call that the record is.
    #[inline]
    fn begin_call(&self, frame: &mut Frame<'_>) {
        if let Some(device) = frame.context().and_then(|slot| self.contexts.device(slot)) {
            frame.about_device(device);
        }
        let (cell, opcode) = (frame.cell(), frame.opcode());
        self.parts.calls.begin(cell, opcode, &mut frame.claim);
    }

    /// Writes it down.
    #[inline]
    fn end_call(&self, frame: &Frame<'_>, status: CUresult) {
        let (cell, opcode) = (frame.cell(), frame.opcode());
        self.parts.calls.end(cell, opcode, &frame.claim, status);
    }

    /// For a record that is not executed: the client does not wait for the other end of its transfer.
    pub(crate) fn give_up_transfer(frame: &Frame<'_>) {
        if TRANSFERS.contains(&frame.opcode()) {
            frame.lane().pipe().refuse(frame.sequence());
        }
    }

    /// What must happen at a blocking record's place in the ring, before its lane's thread runs it.
    pub fn prepare(&self, record: &Record) -> Turn {
        match record.head().opcode {
            <wire::CuStreamSynchronize as Request>::OPCODE => {
                crate::api::stream::prepare_synchronize(self, record)
            }
            <wire::VgpuCopyIn as Request>::OPCODE => {
                crate::api::memory::prepare_copy_in(self, record)
            }
            _ => Turn::Later(Prepared::Nothing),
        }
    }

    /// Makes the record's context current in this thread. Records that make and destroy contexts do
    /// without: a program makes a primary context current before it is retained.
    fn enter(&self, frame: &Frame<'_>) -> Result<(), Refusal> {
        let Some(slot) = frame.context() else {
            return Ok(());
        };
        match self.contexts.key(slot) {
            Ok(key) => Ok(self.contexts.enter(key, self.driver())?),
            Err(_) if frame.opcode() <= LAST_WITHOUT_CONTEXT => Ok(()),
            Err(status) => Err(status.into()),
        }
    }

    /// The record's context.
    ///
    /// # Errors
    /// `INVALID_CONTEXT`.
    pub fn context(&self, frame: &Frame<'_>) -> Result<ContextKey, CUresult> {
        let slot = frame
            .context()
            .ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        self.contexts.key(slot)
    }

    /// The driver's object behind a handle. A kernel will do for a function, and the default
    /// streams for a stream.
    ///
    /// # Errors
    /// The driver's error for what is wrong with the handle.
    pub fn resolve(&self, frame: &Frame<'_>, kind: Kind, value: u64) -> Result<usize, CUresult> {
        if kind == Kind::STREAM {
            match value {
                0 => return Ok(0),
                1 => return Ok(1),
                2 => {
                    let key = self.context(frame)?;
                    let lane = frame.lane().index();
                    return self.contexts.lane_stream(key, lane, self.driver());
                }
                _ => {}
            }
        }
        if kind.is_named_by_worker() {
            return lock(&self.graphs).resolve(kind, value);
        }
        Ok(self.object(kind, value)?.pointer)
    }

    /// The handle of a driver's graph or node; see [`Graphs::name`].
    ///
    /// # Errors
    /// As there.
    pub fn name(&self, kind: Kind, pointer: usize, parent: u64) -> Result<u64, CUresult> {
        let named = lock(&self.graphs).name(kind, pointer, parent);
        named.inspect_err(|_| self.hear_of_limit(kind.number().into()))
    }

    /// The handle of a driver's object that the client has one for.
    pub fn find(&self, kind: Kind, pointer: usize) -> Option<u64> {
        let objects = lock(&self.objects);
        let mut all = objects.iter(kind);
        all.find(|(_, object)| object.pointer == pointer)
            .map(|(handle, _)| handle.value())
    }

    /// The names of graphs and nodes, locked.
    pub fn graphs(&self) -> MutexGuard<'_, Graphs> {
        lock(&self.graphs)
    }

    /// What is known about executable graphs, locked.
    pub fn execs(&self) -> MutexGuard<'_, Execs> {
        lock(&self.execs)
    }

    /// All that is known about a handle; a kernel will do for a function.
    ///
    /// # Errors
    /// The driver's error for what is wrong with the handle.
    pub fn object(&self, kind: Kind, value: u64) -> Result<Object, CUresult> {
        let kernel = kind == Kind::FUNCTION
            && Handle::from_value(value).is_some_and(|handle| handle.kind() == Kind::KERNEL);
        let kind = if kernel { Kind::KERNEL } else { kind };
        let objects = lock(&self.objects);
        objects
            .resolve(value, kind)
            .copied()
            .map_err(|error| handle_error(error, kind))
    }

    /// Whether a handle can be bound.
    ///
    /// # Errors
    /// The driver's error for what is wrong with the handle.
    pub fn check_free(&self, kind: Kind, value: u64) -> Result<(), CUresult> {
        lock(&self.objects)
            .check_free(value, kind)
            .map(|_| ())
            .map_err(|error| handle_error(self.note_handle(error), kind))
    }

    /// Binds a handle to what the driver made, or to its failure.
    ///
    /// # Errors
    /// [`Refusal::Poisoned`] if it failed: the handle tells the client, at its next use.
    pub fn bind(
        &self,
        frame: &Frame<'_>,
        kind: Kind,
        value: u64,
        pointer: usize,
        status: CUresult,
    ) -> Outcome {
        let object = Object {
            pointer,
            context: frame.context(),
            parent: 0,
            counter: None,
            names: Names::NONE,
        };
        if status != CUresult::CUDA_SUCCESS && frame.replies() {
            // The client hears of it at once and gives the handle up.
            return Err(status.into());
        }
        self.bind_object(
            kind,
            value,
            if status == CUresult::CUDA_SUCCESS {
                Ok(object)
            } else {
                Err(status)
            },
        )
    }

    /// [`Session::bind`] with everything said.
    ///
    /// # Errors
    /// As there.
    pub fn bind_object(&self, kind: Kind, value: u64, made: Result<Object, CUresult>) -> Outcome {
        let mut objects = lock(&self.objects);
        match made {
            Ok(object) => match objects.bind(value, kind, object) {
                Ok(_) => {
                    self.parts.stats.count_handles(kind, 1);
                    Ok(())
                }
                Err((error, _)) => Err(handle_error(self.note_handle(error), kind).into()),
            },
            Err(status) => {
                // A handle that cannot be bound cannot be poisoned either; the status stays.
                let _ = objects.poison(value, kind, status.0);
                Err(Refusal::Poisoned(status))
            }
        }
    }

    /// Changes what a context's handle stands for: a primary context that comes back to life.
    pub fn rebind_context(&self, value: u64, pointer: usize) {
        if let Ok(object) = lock(&self.objects).resolve_mut(value, Kind::CONTEXT) {
            object.pointer = pointer;
        }
    }

    /// Takes the object behind a handle away from the client, to be destroyed.
    ///
    /// # Errors
    /// The driver's error for what is wrong with the handle.
    pub fn take(&self, _frame: &Frame<'_>, kind: Kind, value: u64) -> Result<usize, CUresult> {
        if kind.is_named_by_worker() {
            let mut graphs = lock(&self.graphs);
            let pointer = graphs.resolve(kind, value)?;
            graphs.forget(kind, value);
            return Ok(pointer);
        }
        let object = self.take_object(kind, value)?;
        if kind == Kind::STREAM
            && let Some(Ok(key)) = object.context.map(|slot| self.contexts.key(slot))
        {
            let (slot, stream) = (credit::slot(value), object.pointer);
            self.captures.ended(stream);
            let back = self.counts.forget_stream(
                slot,
                StreamKey {
                    context: key,
                    stream,
                },
                self,
            );
            self.return_credits(slot, back);
        }
        if kind == Kind::EVENT {
            crate::api::ipc::event_gone(self, value);
        }
        Ok(object.pointer)
    }

    /// [`Session::take`] for objects that are no streams.
    ///
    /// # Errors
    /// As there.
    pub fn take_object(&self, kind: Kind, value: u64) -> Result<Object, CUresult> {
        match lock(&self.objects).unbind(value, kind) {
            Ok(Bound::Object(object)) => {
                self.parts.stats.count_handles(kind, -1);
                Ok(object)
            }
            Ok(Bound::Poisoned(code)) => Err(CUresult(code)),
            Err(error) => Err(handle_error(error, kind)),
        }
    }

    /// The status as an outcome.
    ///
    /// # Errors
    /// The status, unless it is success.
    #[inline]
    pub fn checked(&self, status: CUresult) -> Outcome {
        if status == CUresult::CUDA_SUCCESS {
            Ok(())
        } else {
            denials::hear(status);
            Err(Refusal::Driver(status))
        }
    }

    /// The range of the client's that these bytes lie in.
    ///
    /// # Errors
    /// `INVALID_VALUE` if there is none.
    pub fn check_range(&self, address: u64, bytes: u64) -> Result<Range, CUresult> {
        let ranges = lock(&self.ranges);
        ranges
            .find(address, bytes)
            .copied()
            .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    /// The same, of device memory.
    ///
    /// # Errors
    /// `INVALID_VALUE` if there is none.
    pub fn check_device(&self, address: u64, bytes: u64) -> Result<(), CUresult> {
        let range = self.check_range(address, bytes)?;
        range
            .is_device()
            .then_some(())
            .ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
    }

    /// The ranges, locked.
    pub fn ranges(&self) -> MutexGuard<'_, Ranges> {
        lock(&self.ranges)
    }

    /// Arrays and image objects, locked.
    pub fn arrays(&self) -> MutexGuard<'_, Arrays> {
        lock(&self.arrays)
    }

    /// Reserved addresses and memory without one, locked.
    pub fn vmm(&self) -> MutexGuard<'_, Vmm> {
        lock(&self.vmm)
    }

    /// The links under way, locked.
    pub fn links(&self) -> MutexGuard<'_, Links> {
        lock(&self.links)
    }

    /// Takes away everything that goes with a context that is destroyed.
    pub fn forget_context(&self, key: ContextKey) {
        let mut objects = lock(&self.objects);
        let of_context = |_, object: &Object| object.context == Some(key.slot);
        for kind in [
            Kind::MODULE,
            Kind::FUNCTION,
            Kind::STREAM,
            Kind::ARRAY,
            Kind::MIPMAPPED_ARRAY,
        ] {
            remove_all(&self.parts.stats, &mut objects, kind, of_context);
        }
        let events = remove_all(&self.parts.stats, &mut objects, Kind::EVENT, of_context);
        drop(objects);
        for event in events {
            crate::api::ipc::event_gone(self, event);
        }
        let ranges = self
            .ranges()
            .remove_all(|range| range.context == Some(key.slot));
        let (of_arrays, arrays) = self.arrays().forget_context(key.slot);
        for array in arrays {
            self.parts.stats.give_back(Holding::ARRAY, array);
        }
        ranges.iter().for_each(|range| self.free_range(range));
        self.refund(of_arrays);
        self.staging.forget_context(key);
        self.captures.forget_context(key.slot);
        for (slot, back) in self.counts.forget_context(key) {
            self.return_credits(slot, back);
        }
    }

    /// Takes away the levels of a mipmapped array that is gone.
    pub fn forget_levels(&self, owner: u64) {
        remove_all(
            &self.parts.stats,
            &mut lock(&self.objects),
            Kind::ARRAY,
            |_, object| object.parent == owner,
        );
    }

    /// Takes away everything that came from a module or library that is unloaded.
    pub fn forget_code(&self, owner: u64) {
        let mut objects = lock(&self.objects);
        let kernels = remove_all(
            &self.parts.stats,
            &mut objects,
            Kind::KERNEL,
            |_, object| object.parent == owner,
        );
        remove_all(
            &self.parts.stats,
            &mut objects,
            Kind::MODULE,
            |_, object| object.parent == owner,
        );
        remove_all(
            &self.parts.stats,
            &mut objects,
            Kind::FUNCTION,
            |_, object| object.parent == owner || kernels.contains(&object.parent),
        );
        drop(objects);
        let of_owner = |range: &Range| range.place == Place::Global { owner };
        self.ranges().remove_all(of_owner);
    }

    /// Calls `each` with slot and number of every stream's oldest work; see [`CreditCounts::look`].
    pub fn look_at_work(&self, mut each: impl FnMut(usize, u64)) {
        for slot in 0..self.counts.slots() {
            let back = self.counts.look(slot, self, |serial| each(slot, serial));
            self.return_credits(slot, back);
        }
    }

    /// Every context is lost with this error.
    pub fn latch_all(&self, error: Latched) {
        for slot in 0..=u16::MAX {
            if self.contexts.key(slot).is_ok() {
                self.parts.control.latches.latch_context(slot, error);
            }
        }
    }

    /// Waits until the client has credits of a slot again; see [`CreditCounts::refill`].
    pub fn refill(&self, slot: usize) -> u64 {
        self.counts
            .refill(slot, self, |back| self.return_credits(slot, back))
    }

    /// Returns credits to the client.
    fn return_credits(&self, slot: usize, count: u64) {
        if count > 0 {
            let _in_order = lock(&self.credit_order);
            self.parts.control.credits.add(slot, count);
        }
    }

    /// Notes the credit that the record took of its stream, so that it goes back.
    pub(crate) fn take_note_of_credit(&self, frame: &mut Frame<'_>) -> Outcome {
        let noted = matches!(frame.prepared(), Prepared::Event { .. });
        if noted || !credit::takes(frame.opcode()) {
            return Ok(());
        }
        let stream = match frame.opcode() {
            <wire::CuLaunchKernel as Request>::OPCODE => {
                frame.request::<wire::CuLaunchKernel>()?.stream
            }
            <wire::CuLaunchHostFunc as Request>::OPCODE => {
                frame.request::<wire::CuLaunchHostFunc>()?.stream
            }
            <wire::VgpuCopy as Request>::OPCODE => frame.request::<wire::VgpuCopy>()?.stream,
            <wire::VgpuCopyIn as Request>::OPCODE => frame.request::<wire::VgpuCopyIn>()?.stream,
            <wire::VgpuMemset as Request>::OPCODE => frame.request::<wire::VgpuMemset>()?.stream,
            <wire::VgpuMemOps as Request>::OPCODE => frame.request::<wire::VgpuMemOps>()?.stream,
            <wire::CuGraphLaunch as Request>::OPCODE => {
                frame.request::<wire::CuGraphLaunch>()?.stream
            }
            _ => return Ok(()),
        };
        frame.took_credit(stream);
        Ok(())
    }

    /// Answers, latches errors that nobody waits for, and counts.
    #[inline]
    pub(crate) fn settle(
        &self,
        frame: Frame<'_>,
        outcome: Outcome,
    ) -> Result<Option<Unfinished>, Violation> {
        frame.expect_answer();
        let (opcode, lane, context) = (frame.opcode(), frame.lane().index(), frame.context());
        let (credit, replies) = (frame.credit(), frame.replies());
        if SYNCHRONISING.contains(&opcode) {
            // Before the reply: what a program waited for is free, for other programs too.
            self.observe_pools();
        }
        let (status, told) = match outcome {
            Ok(()) => (CUresult::CUDA_SUCCESS, true),
            Err(Refusal::Driver(status)) => (status, replies),
            Err(Refusal::Poisoned(status)) => (status, true),
            Err(Refusal::Violation(violation)) => return Err(violation),
        };
        if status != CUresult::CUDA_SUCCESS {
            if status == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                self.note_full_driver();
            }
            self.suspect(status);
            // Before the reply, so that the client finds it latched when it has the reply.
            let error = Latched {
                code: status.0,
                opcode,
            };
            match context {
                Some(slot) if is_sticky(status) => {
                    self.parts.control.latches.latch_context(slot, error);
                }
                _ if !told => self.parts.control.latches.latch_lane(lane, error),
                _ => {}
            }
            if status != CUresult::CUDA_ERROR_NOT_READY {
                self.parts.stats.count_error();
            }
        }
        if frame.may_block() {
            // It may be one that makes the driver print, and then its reply tells of it.
            let told = &self.parts.control.output;
            self.parts.output.collect(told);
        }
        let unfinished = if status == CUresult::CUDA_SUCCESS && frame.is_unfinished() {
            self.parts.calls.hand_on(frame.cell(), opcode);
            frame.into_unfinished()
        } else {
            self.end_call(&frame, status);
            frame.answer(status);
            None
        };
        if let Some((slot, issued)) = credit {
            let key = context.and_then(|slot| self.contexts.key(slot).ok());
            let back = match (issued, key) {
                (Some(stream), Some(context)) => {
                    self.counts
                        .issued(slot, StreamKey { context, stream }, self)
                }
                _ => self.counts.refused(slot),
            };
            self.return_credits(slot, back);
        }
        Ok(unfinished)
    }
}

/// Unbinds what `gone` names; tells the handles.
fn remove_all(
    stats: &StatsWriter,
    objects: &mut WorkerTable<Object>,
    kind: Kind,
    gone: impl Fn(Handle, &Object) -> bool,
) -> Vec<u64> {
    let list = objects
        .iter(kind)
        .filter(|&(handle, object)| gone(handle, object));
    let list: Vec<u64> = list.map(|(handle, _)| handle.value()).collect();
    for &value in &list {
        // It was there a line ago, under the same lock.
        let _ = objects.unbind(value, kind);
        stats.count_handles(kind, -1);
    }
    list
}

/// A panic aborts the worker, so no lock is ever poisoned in earnest.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
