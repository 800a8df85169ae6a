//! A context: streams, memory and a first error that stays.
//!
//! Every operation of a context is submitted here. Once a kernel of it has faulted nothing more of it runs,
//! and every call in it returns the fault's error; other contexts and the process go on.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crate::device::{self, Device};
use crate::error::{Error, Result};
use crate::exec::{self, DeviceHeap, Fault, FaultKind, Launch};
use crate::gpu::Gpu;
use crate::memory::{Allocation, Kind, MemPool, Owner};
use crate::module::{Code, Kernel, Module};
use crate::schedule::{Order, Stamp, StreamId, Ticket, Work};
use crate::shared::Health;
use crate::transfer::{LaunchSpace, Span};

/// A context.
#[derive(Debug)]
pub struct Context {
    gpu: Arc<Gpu>,
    id: u64,
    device: Device,
    flags: u32,
    legacy: StreamId,
    fault: Arc<FaultState>,
    /// Of the device, if it is shared.
    health: Option<Arc<Health>>,
    destroyed: AtomicBool,
    freeing: Mutex<HashSet<u64>>,
    limits: Mutex<Limits>,
    output: Arc<Mutex<Vec<u8>>>,
    heap: OnceLock<Arc<DeviceHeap>>,
}

/// What a program may set on a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of stack of each thread, where a kernel's call graph does not bound it.
    pub stack_bytes: u32,
    /// Bytes of `printf` output that are kept until the next synchronisation.
    pub printf_bytes: usize,
    /// Bytes of the heap that kernels allocate from.
    pub heap_bytes: usize,
    /// Preferred cache configuration; kept and reported.
    pub cache_config: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stack_bytes: 1024,
            printf_bytes: 1 << 20,
            heap_bytes: 8 << 20,
            cache_config: 0,
        }
    }
}

/// The first fault of a context, shared with its operations in flight.
#[derive(Debug, Default)]
struct FaultState {
    code: AtomicU32,
    error: Mutex<Option<Error>>,
    /// Ends whatever else of the context is running.
    cancel: AtomicBool,
}

impl FaultState {
    fn get(&self) -> Option<Error> {
        // SYNC: pairs with the release store in `set`.
        if self.code.load(Ordering::Acquire) == 0 {
            return None;
        }
        *self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, error: Error) -> bool {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_some() {
            return false;
        }
        *first = Some(error);
        // SYNC: pairs with the acquire load in `get`.
        self.code.store(error.code(), Ordering::Release);
        self.cancel.store(true, Ordering::Relaxed);
        true
    }
}

/// A kernel launch, as asked for.
#[derive(Clone, Debug)]
pub struct LaunchRequest {
    /// The module that the kernel is in, in this context.
    pub module: Arc<Module>,
    /// The kernel.
    pub kernel: Kernel,
    /// Blocks by axis.
    pub grid: [u32; 3],
    /// Threads of a block by axis.
    pub block: [u32; 3],
    /// Dynamic shared memory of each block.
    pub shared_bytes: u32,
    /// All blocks must be on the device at once, so that they can wait for each other.
    pub cooperative: bool,
    /// The parameter block.
    pub params: Vec<u8>,
}

impl LaunchRequest {
    /// Whether it can run.
    ///
    /// # Errors
    /// What the driver reports at the launch itself; such errors do not stay.
    pub fn check(&self, device: &Device) -> Result<()> {
        let code = self.kernel.code();
        let within = |shape: &[u32; 3], most: &[u32; 3]| {
            shape
                .iter()
                .zip(most)
                .all(|(n, max)| (1..=*max).contains(n))
        };
        let threads: u64 = self.block.iter().map(|n| u64::from(*n)).product();
        if !within(&self.grid, &device::MAX_GRID)
            || !within(&self.block, &device::MAX_BLOCK)
            || threads > u64::from(device::MAX_BLOCK_THREADS)
            || code
                .required_block
                .is_some_and(|required| required != self.block)
            // A bound that the kernel was compiled for is one of the launch, not of the device.
            || code.max_threads.is_some_and(|most| threads > u64::from(most))
        {
            return Err(Error::InvalidValue);
        }
        if self.shared_bytes
            > self
                .kernel
                .settings()
                .max_dynamic_shared
                .load(Ordering::Relaxed)
        {
            return Err(Error::InvalidValue);
        }
        if self.cooperative {
            // At most 1024, as was just checked.
            let threads = u32::try_from(threads).unwrap_or(u32::MAX);
            let shared = u64::from(self.shared_bytes);
            let fitting = self.kernel.blocks_per_sm(device, threads, shared);
            let blocks: u64 = self.grid.iter().map(|n| u64::from(*n)).product();
            if blocks > u64::from(fitting) * u64::from(device.sm_count) {
                return Err(Error::CooperativeLaunchTooLarge);
            }
        }
        if self.params.len() as u64 != u64::from(code.param_bytes) {
            return Err(Error::InvalidValue);
        }
        Ok(())
    }
}

impl Context {
    pub(crate) fn new(gpu: &Arc<Gpu>, id: u64, device: Device, flags: u32) -> Arc<Self> {
        let fault = Arc::<FaultState>::default();
        let health = gpu.health(device.ordinal).cloned();
        if let Some(health) = &health {
            let fault = Arc::downgrade(&fault);
            health.on_loss(move || {
                fault
                    .upgrade()
                    .map(|fault| fault.set(Error::Unknown))
                    .is_some()
            });
        }
        Arc::new(Self {
            gpu: Arc::clone(gpu),
            id,
            device,
            health,
            flags,
            legacy: gpu.scheduler().create(id, Order::Legacy),
            fault,
            destroyed: AtomicBool::new(false),
            freeing: Mutex::default(),
            limits: Mutex::default(),
            output: Arc::default(),
            heap: OnceLock::new(),
        })
    }

    /// Unique for the life of the process.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The device it is on.
    #[must_use]
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// The flags it was made with.
    #[must_use]
    pub const fn flags(&self) -> u32 {
        self.flags
    }

    /// The GPU it is on.
    #[must_use]
    pub const fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Its legacy default stream.
    #[must_use]
    pub const fn legacy_stream(&self) -> StreamId {
        self.legacy
    }

    /// What may be set on it.
    pub fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether calls in it can go on.
    ///
    /// # Errors
    /// The first fault of the context, or [`Error::ContextIsDestroyed`].
    pub fn check(&self) -> Result<()> {
        if self.destroyed.load(Ordering::Acquire) {
            return Err(Error::ContextIsDestroyed);
        }
        self.fault.get().map_or(Ok(()), Err)
    }

    /// Returns when memory is as it is waited for, or the context ends or fails. For what other processes or
    /// devices may write, which cannot wake a thread of this one.
    pub fn watch(&self, mut is_met: impl FnMut() -> bool) {
        /// Looks before the thread sleeps between two.
        const EAGER: u32 = 64;
        let mut looks = 0;
        while !is_met() && self.check().is_ok() {
            looks += 1;
            if looks < EAGER {
                thread::yield_now();
            } else {
                thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// Makes a stream.
    #[must_use]
    pub fn create_stream(&self, non_blocking: bool) -> StreamId {
        let order = if non_blocking {
            Order::NonBlocking
        } else {
            Order::Blocking
        };
        self.gpu.scheduler().create(self.id, order)
    }

    /// Places a module in the context's memory.
    ///
    /// # Errors
    /// As [`Module::place`], or [`Error::OutOfMemory`] if its kernels allocate and there is no room for a heap.
    pub fn load_module(&self, code: &Arc<Code>) -> Result<Arc<Module>> {
        if code.module().uses_heap() && self.heap.get().is_none() {
            let bytes = self.limits().heap_bytes.max(1) as u64;
            let start = self.allocate(bytes)?.start;
            // Another thread may have been first; its heap is as good, and this one goes with the context.
            self.heap
                .get_or_init(|| Arc::new(DeviceHeap::new(start, bytes)));
        }
        Module::place(self.gpu.space(), self.device.ordinal, self.id, code)
    }

    /// Sets the size of the heap that kernels allocate from.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] once a module that allocates has been loaded.
    pub fn set_heap_bytes(&self, bytes: usize) -> Result<()> {
        if self.heap.get().is_some() {
            return Err(Error::InvalidValue);
        }
        self.limits().heap_bytes = bytes;
        Ok(())
    }

    /// Allocates device memory.
    ///
    /// # Errors
    /// As [`crate::memory::Space::allocate`].
    pub fn allocate(&self, size: u64) -> Result<Arc<Allocation>> {
        let device = self.device.ordinal;
        let space = self.gpu.space();
        match space.allocate(device, self.id, size, Kind::Device) {
            // Pools may hold what nobody uses.
            Err(Error::OutOfMemory) => {
                self.gpu.reclaim();
                space.allocate(device, self.id, size, Kind::Device)
            }
            made => made,
        }
    }

    /// Allocates memory of a pool in the order of a stream.
    ///
    /// # Errors
    /// As [`MemPool::allocate`], or the context's fault.
    pub fn allocate_async(
        &self,
        stream: StreamId,
        pool: &Arc<MemPool>,
        size: u64,
    ) -> Result<Arc<Allocation>> {
        self.check()?;
        let (space, scheduler) = (self.gpu.space(), self.gpu.scheduler());
        let ask = || pool.allocate(space, scheduler, self.id, stream, size);
        let made = ask().or_else(|error| {
            if error != Error::OutOfMemory {
                return Err(error);
            }
            self.gpu.reclaim();
            ask().or_else(|_| {
                pool.settle(scheduler);
                self.gpu.reclaim();
                ask()
            })
        })?;
        space.poison_later(&made, |work| {
            scheduler.submit(stream, &[], work);
        });
        Ok(made)
    }

    /// Frees memory in the order of a stream.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if no allocation call returned this address, or the context's fault.
    pub fn free_async(&self, stream: StreamId, address: u64) -> Result<()> {
        self.check()?;
        let (space, scheduler) = (self.gpu.space(), self.gpu.scheduler());
        let found = space.at(address).ok_or(Error::InvalidValue)?;
        match found.kind {
            Kind::Pooled => MemPool::free(space, scheduler, stream, &found),
            Kind::Device => {
                // To the program it is gone now; its bytes are there until the stream has come to it.
                if !self.freeing().insert(found.id) {
                    return Err(Error::InvalidValue);
                }
                let map = Arc::clone(space);
                let off_the_map = Box::new(move || drop(map.remove(address, |a| a.id == found.id)));
                scheduler.submit(stream, &[], off_the_map);
                Ok(())
            }
            _ => Err(Error::InvalidValue),
        }
    }

    /// Allocations that a stream has yet to free. Their numbers are never used again.
    fn freeing(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.freeing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees device memory, once the context's work is done.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if no allocation call returned this address, or the context's fault.
    pub fn free(&self, address: u64) -> Result<()> {
        let space = self.gpu.space();
        let found = space
            .at(address)
            .filter(|a| matches!(a.kind, Kind::Device | Kind::Pooled | Kind::Managed))
            .filter(|a| !self.freeing().contains(&a.id))
            .ok_or(Error::InvalidValue)?;
        // Work of the owner may still touch it, whoever frees it.
        self.settle(found.owner);
        self.check()?;
        if found.kind == Kind::Pooled {
            self.free_async(self.legacy, address)?;
            self.settle(self.id);
            return Ok(());
        }
        self.let_go(address, &found)
    }

    /// Lets go of memory that no allocation call returned and that `wanted` accepts, once the work that may use it is done.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if there is none at this address, or the context's fault.
    pub fn release(&self, address: u64, wanted: impl Fn(Kind) -> bool) -> Result<()> {
        let space = self.gpu.space();
        let found = space
            .at(address)
            .filter(|a| wanted(a.kind))
            .ok_or(Error::InvalidValue)?;
        self.settle(self.id);
        self.settle(found.owner);
        self.let_go(address, &found)
    }

    /// Waits for all that was submitted so far in a context.
    fn settle(&self, owner: Owner) {
        let scheduler = self.gpu.scheduler();
        scheduler.wait(&scheduler.group_tail(owner));
    }

    /// Takes an allocation off the map, and drops its memory only when no work is left that found it there:
    /// another thread may have launched some while this one waited.
    fn let_go(&self, address: u64, found: &Allocation) -> Result<()> {
        let gone = self.gpu.space().remove(address, |a| a.id == found.id);
        let gone = gone.ok_or(Error::InvalidValue)?;
        self.settle(self.id);
        self.settle(found.owner);
        drop(gone);
        Ok(())
    }

    /// Submits a kernel launch; returns before it has run.
    ///
    /// # Errors
    /// [`LaunchRequest::check`]'s, or the context's fault.
    pub fn launch(&self, stream: StreamId, request: LaunchRequest) -> Result<()> {
        self.launch_after(stream, &[], request).map(drop)
    }

    /// As [`Context::launch`], behind places in other streams too.
    ///
    /// # Errors
    /// As there.
    pub fn launch_after(
        &self,
        stream: StreamId,
        after: &[Ticket],
        request: LaunchRequest,
    ) -> Result<Ticket> {
        self.check()?;
        request.check(&self.device)?;
        let job = Job {
            gpu: Arc::clone(&self.gpu),
            space: LaunchSpace::new(
                self.gpu.space().view(self.id, self.device.ordinal),
                Arc::clone(self.gpu.images()),
            ),
            fault: Arc::clone(&self.fault),
            health: self.health.clone(),
            output: Arc::clone(&self.output),
            limits: *self.limits(),
            heap: self.heap.get().cloned(),
            request,
        };
        let work = Box::new(move || job.run());
        Ok(self.gpu.scheduler().submit(stream, after, work))
    }

    /// Submits work that is skipped once the context has a fault.
    ///
    /// # Errors
    /// The context's fault.
    pub fn submit(&self, stream: StreamId, work: Work) -> Result<()> {
        self.submit_after(stream, &[], work).map(drop)
    }

    /// As [`Context::submit`], behind places in other streams too.
    ///
    /// # Errors
    /// As there.
    pub fn submit_after(&self, stream: StreamId, after: &[Ticket], work: Work) -> Result<Ticket> {
        self.check()?;
        let work = self.unless_faulted(work);
        Ok(self.gpu.scheduler().submit(stream, after, work))
    }

    /// Submits work that runs in any case and is told whether the context has a fault.
    ///
    /// # Errors
    /// The context's fault.
    pub fn submit_always(
        &self,
        stream: StreamId,
        work: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<()> {
        self.check()?;
        let fault = Arc::clone(&self.fault);
        let health = self.health.clone();
        let work = Box::new(move || {
            hold(health.as_deref());
            work(fault.get().map_or(Ok(()), Err));
        });
        self.gpu.scheduler().submit(stream, &[], work);
        Ok(())
    }

    /// Runs work at the stream's end and waits for it.
    ///
    /// # Errors
    /// The context's fault.
    pub fn run(&self, stream: StreamId, work: Work) -> Result<()> {
        self.check()?;
        self.gpu.scheduler().run(stream, self.unless_faulted(work));
        self.check()
    }

    /// Copies in stream order. With `wait` it returns when the copy is done; without it, host memory that
    /// the device does not know is read before, and written before, it returns.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if the lengths differ, or the context's fault.
    pub fn copy(&self, stream: StreamId, to: Span, from: Span, wait: bool) -> Result<()> {
        /// Pageable bytes that are set aside for an asynchronous copy rather than waited for.
        const MOST_STAGED: u64 = 64 << 20;
        /// Bytes that are copied sooner than a thread wakes to copy them.
        const SHORT: u64 = 512 << 10;
        if to.length() != from.length() || !to.is_writable() {
            return Err(Error::InvalidValue);
        }
        self.check()?;
        if !wait && !to.is_pageable() {
            if !from.is_pageable() {
                let short = from.length() <= SHORT;
                let work = self.unless_faulted(Box::new(move || to.copy_from(&from)));
                let scheduler = self.gpu.scheduler();
                if short {
                    scheduler.submit_short(stream, work);
                } else {
                    scheduler.submit(stream, &[], work);
                }
                return Ok(());
            }
            if from.length() <= MOST_STAGED {
                let staged = from.to_bytes();
                return self.submit(stream, Box::new(move || to.write(&staged)));
            }
        }
        self.run(stream, Box::new(move || to.copy_from(&from)))
    }

    /// Marks a place in a stream, behind places in others too.
    ///
    /// # Errors
    /// The context's fault.
    pub fn record_after(&self, stream: StreamId, after: &[Ticket]) -> Result<Record> {
        self.check()?;
        let stamp = Arc::new(Stamp::default());
        let ticket = self.gpu.scheduler().mark(stream, after, Arc::clone(&stamp));
        Ok(Record { ticket, stamp })
    }

    /// Makes what is submitted to a stream from now on wait for a place in another.
    ///
    /// # Errors
    /// The context's fault.
    pub fn wait_for(&self, stream: StreamId, record: &Record) -> Result<()> {
        self.check()?;
        self.gpu
            .scheduler()
            .mark(stream, &[record.ticket], Arc::default());
        Ok(())
    }

    /// Runs work in a stream of its own, behind these places, and marks its end.
    ///
    /// # Errors
    /// The context's fault.
    pub fn record_behind(&self, after: &[Ticket], work: Option<Work>) -> Result<Record> {
        let stream = self.create_stream(true);
        let done = match work {
            Some(work) => self.submit_after(stream, after, work).map(drop),
            None => Ok(()),
        };
        let record = done.and_then(|()| self.record_after(stream, after));
        // It ends when the mark is passed.
        self.gpu.scheduler().close(stream);
        record
    }

    /// Places behind all that was submitted to the context so far.
    #[must_use]
    pub fn tails(&self) -> Vec<Ticket> {
        self.gpu.scheduler().group_tail(self.id)
    }

    /// Makes what is submitted to any stream of the context from now on wait for a place.
    ///
    /// # Errors
    /// The context's fault.
    pub fn wait_for_in_all(&self, record: &Record) -> Result<()> {
        self.check()?;
        self.gpu.scheduler().hold_group(self.id, &[record.ticket]);
        Ok(())
    }

    /// Whether a stream's work is done.
    ///
    /// # Errors
    /// [`Error::NotReady`] if not, or the context's fault.
    pub fn query(&self, stream: StreamId) -> Result<()> {
        self.check()?;
        if self.gpu.scheduler().tail(stream).is_empty() {
            self.check()
        } else {
            Err(Error::NotReady)
        }
    }

    /// Waits for a stream's work.
    ///
    /// # Errors
    /// The context's fault.
    pub fn synchronize_stream(&self, stream: StreamId) -> Result<()> {
        self.check()?;
        self.gpu
            .scheduler()
            .wait(&self.gpu.scheduler().tail(stream));
        self.gpu.synchronized();
        self.check()
    }

    /// Waits for all work of the context.
    ///
    /// # Errors
    /// The context's fault.
    pub fn synchronize(&self) -> Result<()> {
        self.check()?;
        self.gpu
            .scheduler()
            .wait(&self.gpu.scheduler().group_tail(self.id));
        self.gpu.synchronized();
        self.check()
    }

    /// What kernels have printed since the last time this was asked.
    #[must_use]
    pub fn take_output(&self) -> Vec<u8> {
        std::mem::take(&mut *self.output.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the context: waits for its work, closes its streams, gives its memory back.
    pub fn destroy(&self, streams: impl IntoIterator<Item = StreamId>) {
        self.destroyed.store(true, Ordering::Release);
        let scheduler = self.gpu.scheduler();
        scheduler.wait(&scheduler.group_tail(self.id));
        for stream in streams {
            scheduler.close(stream);
        }
        scheduler.close(self.legacy);
        scheduler.forget_group(self.id);
        self.gpu
            .images()
            .remove_where(|bound| bound.owner == self.id);
        self.gpu.space().remove_owned(self.id);
    }

    fn unless_faulted(&self, work: Work) -> Work {
        let fault = Arc::clone(&self.fault);
        let health = self.health.clone();
        Box::new(move || {
            hold(health.as_deref());
            if fault.get().is_none() {
                work();
            }
        })
    }
}

/// A place in a stream that an event remembers.
#[derive(Clone, Debug)]
pub struct Record {
    ticket: Ticket,
    stamp: Arc<Stamp>,
}

impl Record {
    /// The place itself.
    #[must_use]
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whether it was reached.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stamp.nanoseconds().is_some()
    }

    /// When it was reached.
    #[must_use]
    pub fn nanoseconds(&self) -> Option<u64> {
        self.stamp.nanoseconds()
    }

    /// Waits until it is reached.
    pub fn wait(&self, gpu: &Gpu) {
        gpu.scheduler().wait(&[self.ticket]);
        gpu.synchronized();
    }
}

/// A launch on its way.
struct Job {
    gpu: Arc<Gpu>,
    space: LaunchSpace,
    fault: Arc<FaultState>,
    health: Option<Arc<Health>>,
    output: Arc<Mutex<Vec<u8>>>,
    limits: Limits,
    heap: Option<Arc<DeviceHeap>>,
    request: LaunchRequest,
}

impl Job {
    fn run(self) {
        hold(self.health.as_deref());
        if self.fault.get().is_some() {
            return;
        }
        let kernel = &self.request.kernel;
        let config = self.gpu.config();
        let launch = Launch {
            module: kernel.module(),
            kernel: kernel.code(),
            grid: self.request.grid,
            block: self.request.block,
            cooperative: self.request.cooperative,
            dynamic_shared_bytes: self.request.shared_bytes,
            params: &self.request.params,
            global_addresses: self.request.module.addresses(),
            stack_bytes: self.limits.stack_bytes,
            instruction_limit: config.instruction_limit,
            workers: config.threads,
            sm_count: config.sm_count,
            grid_id: self.gpu.next_grid(),
            cancel: &self.fault.cancel,
            clock: &|| self.gpu.scheduler().now(),
            heap: self.heap.as_deref(),
            output: &|text| self.print(text),
        };
        // A defect in the executor must not pass for a kernel that ran.
        let run =
            std::panic::AssertUnwindSafe(|| exec::run(&launch, &self.space).map_err(Box::new));
        match std::panic::catch_unwind(run) {
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => {
                let error = error_of(&fault);
                if self.fault.set(error) {
                    self.gpu.report(format_args!("{fault}"));
                }
            }
            Err(_) => {
                self.fault.set(Error::Unknown);
            }
        }
        hold(self.health.as_deref());
    }

    fn print(&self, text: &[u8]) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        // As on a GPU, the buffer is bounded and what does not fit is lost.
        if output.len() + text.len() <= self.limits.printf_bytes {
            output.extend_from_slice(text);
        }
    }
}

/// Returns when the device, if it is shared, does not hang.
fn hold(health: Option<&Health>) {
    if let Some(health) = health {
        health.hold();
    }
}

/// The driver's error for a fault.
fn error_of(fault: &Fault) -> Error {
    match fault.kind {
        FaultKind::IllegalAddress { .. } | FaultKind::InvalidImage { .. } => Error::IllegalAddress,
        FaultKind::MisalignedAddress { .. } => Error::MisalignedAddress,
        FaultKind::IllegalInstruction => Error::IllegalInstruction,
        FaultKind::Assert { .. } => Error::Assert,
        FaultKind::StackOverflow => Error::HardwareStackError,
        FaultKind::RunAway => Error::LaunchTimeout,
        FaultKind::InvalidAddressSpace { .. } => Error::InvalidAddressSpace,
        FaultKind::InvalidPc { .. } => Error::InvalidPc,
        // `Cancelled` follows an earlier fault of the context, which is the one that stays.
        FaultKind::Trap | FaultKind::Cancelled | FaultKind::InvalidLaunch { .. } => {
            Error::LaunchFailed
        }
    }
}
