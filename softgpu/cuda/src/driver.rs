//! The process's driver: objects behind checked handles.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cuda_abi::managed::Managed;
use cuda_abi::resolver::DefaultStream;
use cuda_abi::types::{CUDA_RESOURCE_DESC, CUDA_RESOURCE_VIEW_DESC, CUDA_TEXTURE_DESC};
use softgpu_core::config::Config;
use softgpu_core::context::{Context, Record};
use softgpu_core::error::{Error, Result};
use softgpu_core::event::SharedEvent;
use softgpu_core::gpu::Gpu;
use softgpu_core::handle::Table;
use softgpu_core::image::{Array, MipmappedArray};
use softgpu_core::memory::{MemPool, Physical};
use softgpu_core::module::{Code, Kernel, Module};
use softgpu_core::schedule::{StreamId, Ticket};

use crate::attributes::StreamAttributes;
use crate::capture::{self, Captured, Captures};
use crate::current;
use crate::graph::exec::Exec;
use crate::graph::object::UserObject;
use crate::graph::{Graph, Node};

/// What `cuInit` makes.
pub(crate) struct Driver {
    pub gpu: Arc<Gpu>,
    pub contexts: Table<ContextSlot>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub modules: Table<LoadedModule>,
    pub functions: Table<Function>,
    pub libraries: Table<Library>,
    pub kernels: Table<LibraryKernel>,
    pub links: Table<Link>,
    pub graphs: Table<Graph>,
    pub nodes: Table<Node>,
    pub execs: Table<Exec>,
    pub user_objects: Table<UserObject>,
    pub captures: Captures,
    pub stream_attributes: StreamAttributes,
    pub arrays: Table<ArrayObject>,
    pub mipmapped_arrays: Table<MipmappedObject>,
    pub allocations: Table<Generic>,
    /// What was said about managed memory, by the allocation's id.
    managed: Mutex<HashMap<u64, Managed>>,
    /// The order of what changes numbers of references to them.
    references: Mutex<()>,
    pub pools: Table<MemPool>,
    /// Handle of each device's default pool, and of the one that is used without being named.
    pub device_pools: Mutex<Vec<(u64, u64)>>,
    /// What texture and surface objects were made with, by value.
    pub image_objects: Mutex<HashMap<u64, ImageObject>>,
    /// Handle of each device's primary context.
    primaries: Vec<u64>,
    /// Per-thread default streams, by thread and context. A thread's entry outlives it, until the context
    /// goes: it is a queue, not a thread.
    thread_streams: Mutex<HashMap<(u64, u64), StreamId>>,
}

/// A context as its handle sees it. A primary context's handle stays while the context comes and goes.
pub(crate) struct ContextSlot {
    pub device: u32,
    pub primary: bool,
    state: Mutex<SlotState>,
}

struct SlotState {
    active: Option<Arc<Context>>,
    retained: u32,
    flags: u32,
}

impl ContextSlot {
    fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The context, if it is there.
    pub fn active(&self) -> Result<Arc<Context>> {
        self.state().active.clone().ok_or(Error::ContextIsDestroyed)
    }

    /// The flags, and whether it is there.
    pub fn flags(&self) -> (u32, bool) {
        let state = self.state();
        (state.flags, state.active.is_some())
    }

    /// How threads wait in it from now on.
    pub fn set_flags(&self, flags: u32) {
        self.state().flags = flags;
    }
}

/// A stream that the program made.
pub(crate) struct Stream {
    pub context: Arc<Context>,
    pub context_handle: u64,
    pub id: StreamId,
    pub flags: u32,
    pub priority: i32,
}

/// Where an operation goes.
pub(crate) struct Place {
    pub context: Arc<Context>,
    pub context_handle: u64,
    pub stream: StreamId,
    pub flags: u32,
    pub priority: i32,
}

/// An event.
pub(crate) struct Event {
    pub context: Arc<Context>,
    pub flags: u32,
    state: Mutex<EventState>,
    /// Where others see it, if they may.
    pub shared: Option<SharedEvent>,
}

/// What was done with an event last.
#[derive(Clone)]
enum EventState {
    Never,
    Recorded(Record),
    Captured(Captured),
}

impl Event {
    pub const fn new(context: Arc<Context>, flags: u32, shared: Option<SharedEvent>) -> Self {
        Self {
            context,
            flags,
            state: Mutex::new(EventState::Never),
            shared,
        }
    }

    /// What is to be waited for: the place recorded last, in whatever process. None if it was never recorded.
    pub fn recorded(&self) -> Result<Option<Record>> {
        if let EventState::Recorded(record) = &*self.state() {
            return Ok(Some(record.clone()));
        }
        let ahead = self.shared.as_ref().and_then(SharedEvent::wait);
        ahead
            .map(|wait| self.context.record_behind(&[], Some(wait)))
            .transpose()
    }

    /// Whether the place recorded last was reached, if there is one.
    pub fn is_done(&self) -> bool {
        match &*self.state() {
            EventState::Recorded(record) => record.is_done(),
            _ => self
                .shared
                .as_ref()
                .is_none_or(|shared| shared.wait().is_none()),
        }
    }

    /// Records it in a stream of `context`, behind places in others.
    pub fn record(&self, context: &Context, stream: StreamId, after: &[Ticket]) -> Result<Ticket> {
        if let Some(shared) = &self.shared {
            let ticket = context.submit_after(stream, after, shared.record())?;
            *self.state() = EventState::Never;
            return Ok(ticket);
        }
        let record = context.record_after(stream, after)?;
        let ticket = record.ticket();
        *self.state() = EventState::Recorded(record);
        Ok(ticket)
    }

    /// Records it behind all that was submitted to `context` so far.
    pub fn record_all(&self, context: &Context) -> Result<()> {
        let work = self.shared.as_ref().map(SharedEvent::record);
        let record = context.record_behind(&context.tails(), work)?;
        *self.state() = match self.shared {
            Some(_) => EventState::Never,
            None => EventState::Recorded(record),
        };
        Ok(())
    }

    /// Where it stands in a capture, if it was recorded there last.
    pub fn captured(&self) -> Option<Captured> {
        match &*self.state() {
            EventState::Captured(captured) => Some(captured.clone()),
            _ => None,
        }
    }

    pub fn capture(&self, captured: Captured) {
        *self.state() = EventState::Captured(captured);
    }

    /// For calls that need a time at which it happens.
    pub fn check_not_captured(&self) -> Result<()> {
        match &*self.state() {
            EventState::Captured(_) => Err(Error::CapturedEvent),
            _ => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, EventState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A module in a context.
pub(crate) struct LoadedModule {
    pub context: Arc<Context>,
    pub module: Arc<Module>,
    /// The library whose module this is in that context.
    pub library: Option<u64>,
    /// Handles given out for its kernels, by index: asking twice gives the same.
    functions: Mutex<HashMap<usize, u64>>,
}

/// A kernel in a context.
pub(crate) struct Function {
    pub context: Arc<Context>,
    pub module: Arc<Module>,
    pub module_handle: u64,
    pub kernel: Kernel,
    pub name: CString,
}

/// Code that is loaded into contexts as they use it.
pub(crate) struct Library {
    pub code: Arc<Code>,
    kernels: Mutex<HashMap<usize, u64>>,
    /// Module handle by context.
    modules: Mutex<HashMap<u64, u64>>,
}

/// A kernel of a library.
pub(crate) struct LibraryKernel {
    pub library_handle: u64,
    pub index: usize,
    pub kernel: Kernel,
    pub name: CString,
}

/// An array of a program's.
pub(crate) struct ArrayObject {
    pub context: Arc<Context>,
    pub array: Arc<Array>,
    /// Handle of the mipmapped array that it is a level of, and goes with.
    pub level_of: Option<u64>,
}

/// A mipmapped array of a program's.
pub(crate) struct MipmappedObject {
    pub context: Arc<Context>,
    pub array: MipmappedArray,
}

/// Memory without an address of its own, as its handle sees it.
pub(crate) struct Generic {
    pub physical: Arc<Physical>,
    pub references: AtomicU32,
}

/// What a texture or surface object was made with.
#[derive(Clone, Copy)]
pub(crate) struct ImageObject {
    pub owner: u64,
    pub resource: CUDA_RESOURCE_DESC,
    /// None for a surface.
    pub texture: Option<CUDA_TEXTURE_DESC>,
    pub view: Option<CUDA_RESOURCE_VIEW_DESC>,
}

/// A link that a program has under way.
pub(crate) type Link = Mutex<crate::api::linker::Link>;

static DRIVER: OnceLock<Result<Driver>> = OnceLock::new();
static FORKED: AtomicBool = AtomicBool::new(false);

/// The configuration, read once. What is wrong with it is told once.
pub(crate) fn config() -> Result<&'static Config> {
    static CONFIG: OnceLock<Option<Config>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let read = Config::from_env().map(|config| Config {
            shown: shown(config.devices),
            ..config
        });
        read.inspect_err(|error| eprintln!("softgpu: {error}")).ok()
    });
    config.as_ref().ok_or(Error::InvalidValue)
}

/// What `CUDA_VISIBLE_DEVICES` leaves of so many devices.
fn shown(devices: u32) -> Option<Vec<u32>> {
    let variable = std::env::var("CUDA_VISIBLE_DEVICES").ok()?;
    let uuids: Vec<_> = (0..devices).map(softgpu_core::device::uuid).collect();
    let shown = cuda_abi::visible::visible(Some(&variable), &uuids);
    Some(shown.into_iter().flat_map(u32::try_from).collect())
}

/// `cuInit`.
pub(crate) fn initialize() -> Result<()> {
    if FORKED.load(Ordering::Relaxed) {
        return Err(Error::NotInitialized);
    }
    match DRIVER.get_or_init(Driver::new) {
        Ok(_) => Ok(()),
        Err(error) => Err(*error),
    }
}

/// The driver, once `cuInit` has made it in this very process.
pub(crate) fn driver() -> Result<&'static Driver> {
    match DRIVER.get() {
        Some(Ok(driver)) if !FORKED.load(Ordering::Relaxed) => Ok(driver),
        _ => Err(Error::NotInitialized),
    }
}

/// The current context, if calls in it can go on.
pub(crate) fn context() -> Result<Arc<Context>> {
    let context = driver()?.current_unchecked()?;
    context.check()?;
    Ok(context)
}

/// The current context, or where none is current that of the function.
pub(crate) fn context_for(function: u64) -> Result<Arc<Context>> {
    match context() {
        Err(Error::InvalidContext) => {
            let found = driver()?.functions.get(function);
            found
                .map(|function| function.context.clone())
                .ok_or(Error::InvalidContext)
        }
        other => other,
    }
}

/// The driver, for questions that need no current context; one that is lost is told all the same.
pub(crate) fn anywhere() -> Result<&'static Driver> {
    let driver = driver()?;
    match driver.current_unchecked() {
        Ok(context) => context.check()?,
        Err(Error::InvalidContext) => {}
        Err(error) => return Err(error),
    }
    Ok(driver)
}

/// Where an operation on a stream handle goes.
pub(crate) fn place(stream: u64) -> Result<Place> {
    driver()?.place(stream)
}

/// Where an operation without a stream argument goes.
pub(crate) fn default_place(default: DefaultStream) -> Result<Place> {
    place(match default {
        DefaultStream::Legacy => LEGACY,
        DefaultStream::PerThread => PER_THREAD,
    })
}

/// The same for a call that waits, which a stream that is captured refuses.
pub(crate) fn waiting_place(default: DefaultStream) -> Result<Place> {
    let place = default_place(default)?;
    capture::waits_for(&place)?;
    Ok(place)
}

const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;
/// `CU_STREAM_NON_BLOCKING`.
pub(crate) const NON_BLOCKING: u32 = 1;

extern "C" fn forked() {
    FORKED.store(true, Ordering::Relaxed);
}

impl Driver {
    fn new() -> Result<Self> {
        let gpu = Gpu::new(config()?.clone())?;
        let contexts = Table::new(1);
        let primary = |ordinal| {
            let state = Mutex::new(SlotState {
                active: None,
                retained: 0,
                flags: 0,
            });
            let slot = ContextSlot {
                device: ordinal,
                primary: true,
                state,
            };
            contexts.insert(Arc::new(slot)).ok_or(Error::OutOfMemory)
        };
        let primaries = gpu
            .devices()
            .iter()
            .map(|d| primary(d.ordinal))
            .collect::<Result<_>>()?;
        let pools = Table::new(12);
        let device_pools = gpu.devices().iter().map(|device| {
            let pool = pools.insert(gpu.create_pool(device.ordinal, 0, 0));
            pool.map(|pool| (pool, pool)).ok_or(Error::OutOfMemory)
        });
        let device_pools = device_pools.collect::<Result<_>>()?;
        crate::edge::after_fork_in_child(forked);
        Ok(Self {
            gpu,
            contexts,
            streams: Table::new(2),
            events: Table::new(3),
            modules: Table::new(4),
            functions: Table::new(5),
            libraries: Table::new(6),
            kernels: Table::new(7),
            links: Table::new(8),
            graphs: Table::new(21),
            nodes: Table::new(22),
            execs: Table::new(23),
            user_objects: Table::new(24),
            captures: Captures::default(),
            stream_attributes: StreamAttributes::default(),
            arrays: Table::new(9),
            mipmapped_arrays: Table::new(10),
            allocations: Table::new(11),
            managed: Mutex::default(),
            references: Mutex::default(),
            pools,
            device_pools: Mutex::new(device_pools),
            image_objects: Mutex::default(),
            primaries,
            thread_streams: Mutex::default(),
        })
    }

    /// Handle of a device's primary context.
    pub fn primary(&self, device: i32) -> Result<u64> {
        let index = usize::try_from(device).map_err(|_| Error::InvalidDevice)?;
        self.primaries
            .get(index)
            .copied()
            .ok_or(Error::InvalidDevice)
    }

    /// The slot behind a device's primary context.
    pub fn primary_slot(&self, device: i32) -> Result<Arc<ContextSlot>> {
        self.contexts
            .get(self.primary(device)?)
            .ok_or(Error::InvalidContext)
    }

    /// Makes a context of the program's own.
    pub fn create_context(&self, device: i32, flags: u32) -> Result<u64> {
        let ordinal = self.gpu.device(device)?.ordinal;
        let context = self.gpu.create_context(ordinal, flags)?;
        let state = Mutex::new(SlotState {
            active: Some(context),
            retained: 0,
            flags,
        });
        let slot = ContextSlot {
            device: ordinal,
            primary: false,
            state,
        };
        self.contexts
            .insert(Arc::new(slot))
            .ok_or(Error::OutOfMemory)
    }

    /// Ends a context of the program's own.
    pub fn destroy_context(&self, handle: u64) -> Result<()> {
        let slot = self.contexts.get(handle).ok_or(Error::InvalidContext)?;
        if slot.primary {
            return Err(Error::InvalidContext);
        }
        self.contexts.remove(handle).ok_or(Error::InvalidContext)?;
        let active = slot.state().active.take();
        if let Some(context) = active {
            self.end(&context, handle);
        }
        Ok(())
    }

    /// Takes a reference to a device's primary context, which the first one makes.
    pub fn retain_primary(&self, device: i32) -> Result<u64> {
        let slot = self.primary_slot(device)?;
        let mut state = slot.state();
        if state.active.is_none() {
            state.active = Some(self.gpu.create_context(slot.device, state.flags)?);
        }
        state.retained = state.retained.saturating_add(1);
        self.primary(device)
    }

    /// Gives a reference back; the last one ends the context.
    pub fn release_primary(&self, device: i32) -> Result<()> {
        let slot = self.primary_slot(device)?;
        let ended = {
            let mut state = slot.state();
            state.retained = state.retained.checked_sub(1).ok_or(Error::InvalidContext)?;
            if state.retained == 0 {
                state.active.take()
            } else {
                None
            }
        };
        if let Some(context) = ended {
            self.end(&context, self.primary(device)?);
        }
        Ok(())
    }

    /// Ends a device's primary context whoever holds references. They are still to be released; the next one
    /// makes the context anew.
    pub fn reset_primary(&self, device: i32) -> Result<()> {
        let slot = self.primary_slot(device)?;
        let ended = slot.state().active.take();
        if let Some(context) = ended {
            self.end(&context, self.primary(device)?);
        }
        Ok(())
    }

    /// Sets the flags of a device's primary context.
    pub fn set_primary_flags(&self, device: i32, flags: u32) -> Result<()> {
        self.primary_slot(device)?.set_flags(flags);
        Ok(())
    }

    fn end(&self, context: &Arc<Context>, handle: u64) {
        let id = context.id();
        self.captures.forget_context(id);
        let mut streams: Vec<StreamId> = self
            .streams
            .remove_where(|s| s.context.id() == id)
            .into_iter()
            .map(|(_, s)| s.id)
            .collect();
        {
            let mut own = self
                .thread_streams
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            own.retain(|(_, owner), stream| {
                if *owner == id {
                    streams.push(*stream);
                }
                *owner != id
            });
        }
        self.stream_attributes.forget(&streams);
        self.stream_attributes.forget(&[context.legacy_stream()]);
        context.destroy(streams);
        crate::edge::print(&context.take_output());
        self.forget_managed();
        self.events.remove_where(|e| e.context.id() == id);
        self.arrays.remove_where(|a| a.context.id() == id);
        self.mipmapped_arrays.remove_where(|a| a.context.id() == id);
        self.image_objects().retain(|_, object| object.owner != id);
        self.functions.remove_where(|f| f.context.id() == id);
        for (module, gone) in self.modules.remove_where(|m| m.context.id() == id) {
            if let Some(library) = gone.library.and_then(|l| self.libraries.get(l)) {
                let mut modules = library
                    .modules
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                modules.retain(|_, other| *other != module);
            }
        }
        // Last and with no lock held: destructors of context-local storage may call back in.
        crate::private_tables::context_destroyed(handle);
    }

    /// What was said about managed memory, locked.
    pub fn managed(&self) -> MutexGuard<'_, HashMap<u64, Managed>> {
        self.managed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was said about managed memory that is gone.
    pub fn forget_managed(&self) {
        let space = self.gpu.space();
        self.managed().retain(|id, managed| {
            let found = space.at(managed.start());
            found.is_some_and(|found| found.id == *id)
        });
    }

    /// Held while the number of references to a [`Generic`] changes.
    pub fn references(&self) -> MutexGuard<'_, ()> {
        self.references
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What image objects were made with, locked.
    pub fn image_objects(&self) -> MutexGuard<'_, HashMap<u64, ImageObject>> {
        self.image_objects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Handle of the context with an id.
    pub fn context_handle(&self, id: u64) -> Option<u64> {
        self.contexts
            .find(|slot| slot.active().is_ok_and(|context| context.id() == id))
    }

    /// The context a handle names; 0 names the current one.
    pub fn context(&self, handle: u64) -> Result<Arc<Context>> {
        if handle == 0 {
            return self.current_unchecked();
        }
        self.contexts
            .get(handle)
            .ok_or(Error::InvalidContext)?
            .active()
    }

    /// The current context, whatever state it is in.
    pub fn current_unchecked(&self) -> Result<Arc<Context>> {
        self.current_slot()?.active()
    }

    /// What the current context's handle stands for.
    pub fn current_slot(&self) -> Result<Arc<ContextSlot>> {
        let handle = current::top();
        if handle == 0 {
            return Err(Error::InvalidContext);
        }
        self.contexts.get(handle).ok_or(Error::ContextIsDestroyed)
    }

    fn place(&self, stream: u64) -> Result<Place> {
        let current = self.current_unchecked()?;
        let context_handle = current::top();
        if stream > PER_THREAD {
            let found = self.streams.get(stream).ok_or(Error::InvalidHandle)?;
            return Ok(Place {
                context: Arc::clone(&found.context),
                context_handle: found.context_handle,
                stream: found.id,
                flags: found.flags,
                priority: found.priority,
            });
        }
        let id = if stream == PER_THREAD {
            let key = (current::thread_number(), current.id());
            let mut own = self
                .thread_streams
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *own.entry(key)
                .or_insert_with(|| current.create_stream(false))
        } else {
            current.legacy_stream()
        };
        Ok(Place {
            context: current,
            context_handle,
            stream: id,
            flags: 0,
            priority: 0,
        })
    }

    /// Takes a module in.
    pub fn add_module(
        &self,
        context: &Arc<Context>,
        code: &Arc<Code>,
        library: Option<u64>,
    ) -> Result<u64> {
        let module = context.load_module(code)?;
        let functions = Mutex::default();
        let loaded = LoadedModule {
            context: Arc::clone(context),
            module,
            library,
            functions,
        };
        self.modules
            .insert(Arc::new(loaded))
            .ok_or(Error::OutOfMemory)
    }

    /// Drops a module and the functions made from it, once the work that may use them is done.
    pub fn unload_module(&self, handle: u64) -> Result<()> {
        let loaded = self.modules.remove(handle).ok_or(Error::InvalidHandle)?;
        self.functions.remove_where(|f| f.module_handle == handle);
        // Its globals go with it; a fault shows at the next call.
        loaded
            .context
            .synchronize()
            .or_else(|_| loaded.context.check())
    }

    /// Handle of a kernel of a module.
    pub fn function(&self, module: u64, index: usize) -> Result<u64> {
        let loaded = self.modules.get(module).ok_or(Error::InvalidHandle)?;
        let mut known = loaded
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = known.get(&index) {
            return Ok(*handle);
        }
        let kernel = Kernel::new(loaded.module.code(), index)?;
        let function = Function {
            context: Arc::clone(&loaded.context),
            module: Arc::clone(&loaded.module),
            module_handle: module,
            name: c_name(&kernel)?,
            kernel,
        };
        let handle = self
            .functions
            .insert(Arc::new(function))
            .ok_or(Error::OutOfMemory)?;
        known.insert(index, handle);
        Ok(handle)
    }

    /// Takes a library in.
    pub fn add_library(&self, code: Arc<Code>) -> Result<u64> {
        let library = Library {
            code,
            kernels: Mutex::default(),
            modules: Mutex::default(),
        };
        self.libraries
            .insert(Arc::new(library))
            .ok_or(Error::OutOfMemory)
    }

    /// Drops a library, its kernels and its modules.
    pub fn unload_library(&self, handle: u64) -> Result<()> {
        let library = self.libraries.remove(handle).ok_or(Error::InvalidHandle)?;
        self.kernels.remove_where(|k| k.library_handle == handle);
        let modules = std::mem::take(
            &mut *library
                .modules
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for module in modules.into_values() {
            // A fault of the context is no reason to keep its module.
            self.unload_module(module).unwrap_or_default();
        }
        Ok(())
    }

    /// Handle of a library's module in a context, which the first use loads.
    pub fn library_module(&self, handle: u64, context: &Arc<Context>) -> Result<u64> {
        let library = self.libraries.get(handle).ok_or(Error::InvalidHandle)?;
        let mut modules = library
            .modules
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&context.id()) {
            return Ok(*module);
        }
        let module = self.add_module(context, &library.code, Some(handle))?;
        modules.insert(context.id(), module);
        Ok(module)
    }

    /// Handle of a kernel of a library.
    pub fn library_kernel(&self, handle: u64, index: usize) -> Result<u64> {
        let library = self.libraries.get(handle).ok_or(Error::InvalidHandle)?;
        let mut known = library
            .kernels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = known.get(&index) {
            return Ok(*kernel);
        }
        let kernel = Kernel::new(&library.code, index)?;
        let made = LibraryKernel {
            library_handle: handle,
            index,
            name: c_name(&kernel)?,
            kernel,
        };
        let made = self
            .kernels
            .insert(Arc::new(made))
            .ok_or(Error::OutOfMemory)?;
        known.insert(index, made);
        Ok(made)
    }

    /// What a handle launches in a context: a function, or a library's kernel loaded there.
    pub fn launchable(&self, handle: u64, context: &Arc<Context>) -> Result<Arc<Function>> {
        if let Some(function) = self.functions.get(handle) {
            return Ok(function);
        }
        let kernel = self.kernels.get(handle).ok_or(Error::InvalidHandle)?;
        let module = self.library_module(kernel.library_handle, context)?;
        let function = self.function(module, kernel.index)?;
        self.functions.get(function).ok_or(Error::InvalidHandle)
    }

    /// The kernel behind a function or a library's kernel.
    pub fn kernel(&self, handle: u64) -> Result<Kernel> {
        if let Some(function) = self.functions.get(handle) {
            return Ok(function.kernel.clone());
        }
        self.kernels
            .get(handle)
            .map(|k| k.kernel.clone())
            .ok_or(Error::InvalidHandle)
    }
}

fn c_name(kernel: &Kernel) -> Result<CString> {
    CString::new(kernel.code().name.as_str()).map_err(|_| Error::InvalidImage)
}
