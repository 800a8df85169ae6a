//! A loaded module: compiled code, globals placed in device memory, kernels with what may be set on them.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::device::{Device, SHARED_PER_BLOCK};
use crate::error::{Error, Result};
use crate::memory::{Allocation, Kind, Owner, Space};
use crate::ptx::{self, ErrorKind, Target, ir};
use crate::transfer::Span;

/// Highest PTX ISA version that is accepted: what the front end knows.
pub const MAX_PTX_VERSION: (u32, u32) = (9, 5);

/// Why a module was not loaded; the text is what a JIT log holds.
#[derive(Debug, thiserror::Error)]
#[error("{log}")]
pub struct LoadError {
    /// The driver's error.
    pub error: Error,
    /// What is wrong, for a person.
    pub log: String,
}

/// Compiled code, independent of any context.
#[derive(Debug)]
pub struct Code {
    module: ir::Module,
    kernels: Vec<KernelSettings>,
}

/// A module in one context: code, and its globals in that context's memory.
#[derive(Debug)]
pub struct Module {
    code: Arc<Code>,
    /// One per global; none for external ones, which have no memory here.
    places: Vec<Option<Arc<Allocation>>>,
    addresses: Vec<u64>,
    space: Arc<Space>,
}

/// What a program may set on a kernel.
#[derive(Debug)]
pub struct KernelSettings {
    /// Dynamic shared memory that a launch may ask for.
    pub max_dynamic_shared: AtomicU32,
    /// Preferred share of shared memory, percent; −1 for the default.
    pub carveout: AtomicI32,
    /// Preferred cache configuration.
    pub cache_config: AtomicU32,
}

/// One of the texts that make up a module, and what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// A name for logs.
    pub name: String,
    /// PTX.
    pub text: String,
}

pub(crate) fn target(device: &Device) -> Target {
    Target {
        compute_capability: device.compute_capability,
        max_ptx_version: device.ptx_version.min(MAX_PTX_VERSION),
    }
}

/// What a load reports.
const fn load_error(kind: ErrorKind) -> Error {
    match kind {
        ErrorKind::InvalidPtx | ErrorKind::Duplicate | ErrorKind::Undefined => Error::InvalidPtx,
        ErrorKind::UnsupportedVersion => Error::UnsupportedPtxVersion,
        ErrorKind::UnsupportedTarget => Error::NoBinaryForGpu,
    }
}

impl Code {
    /// Compiles PTX for a device.
    ///
    /// # Errors
    /// [`LoadError`]: what is wrong with the text.
    pub fn compile(device: &Device, text: &str) -> Result<Arc<Self>, LoadError> {
        let module = ptx::compile(text, &target(device)).map_err(|refusal| LoadError {
            error: load_error(refusal.kind),
            log: refusal.to_string(),
        })?;
        Ok(Self::new(module))
    }

    /// Compiles PTX texts that refer to each other, each with its name.
    ///
    /// # Errors
    /// [`LoadError`]: what is wrong with one of them.
    pub fn link(device: &Device, units: &[Unit]) -> Result<Arc<Self>, LoadError> {
        let texts: Vec<&str> = units.iter().map(|unit| unit.text.as_str()).collect();
        let linked = ptx::link(&texts, &target(device)).map_err(|(unit, refusal)| LoadError {
            error: load_error(refusal.kind),
            log: format!("{}: {refusal}", units[unit].name),
        });
        linked.map(Self::new)
    }

    fn new(module: ir::Module) -> Arc<Self> {
        let kernels = module.kernels.iter().map(KernelSettings::new).collect();
        Arc::new(Self { module, kernels })
    }

    /// What was compiled.
    #[must_use]
    pub const fn module(&self) -> &ir::Module {
        &self.module
    }

    /// Index of a kernel.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn kernel_index(&self, name: &str) -> Result<usize> {
        self.module
            .kernels
            .iter()
            .position(|k| k.name == name)
            .ok_or(Error::NotFound)
    }
}

impl Module {
    /// Places the globals of compiled code in a context's memory and fills them in.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or [`Error::InvalidImage`] for data that cannot be placed.
    pub fn place(
        space: &Arc<Space>,
        device: u32,
        owner: Owner,
        code: &Arc<Code>,
    ) -> Result<Arc<Self>> {
        let globals = &code.module.globals;
        let mut module = Self {
            code: Arc::clone(code),
            places: Vec::with_capacity(globals.len()),
            addresses: Vec::with_capacity(globals.len()),
            space: Arc::clone(space),
        };
        // On an error the half-placed module is dropped, and with it what was placed.
        for global in globals {
            let place = module.place_one(device, owner, global)?;
            module.addresses.push(place.as_ref().map_or(0, |p| p.start));
            module.places.push(place);
        }
        for (global, address) in globals.iter().zip(&module.addresses) {
            if *address != 0 {
                module.initialise(global, *address)?;
            }
        }
        Ok(Arc::new(module))
    }

    fn place_one(
        &self,
        device: u32,
        owner: Owner,
        global: &ir::Global,
    ) -> Result<Option<Arc<Allocation>>> {
        if global.linkage == ir::Linkage::Extern {
            return Ok(None);
        }
        let constant = global.space == ir::GlobalSpace::Const;
        let made =
            self.space
                .allocate(device, owner, global.size.max(1), Kind::Global { constant })?;
        if made.start % u64::from(global.align.max(1)) != 0 {
            self.space.remove(made.start, |_| true);
            return Err(Error::InvalidImage);
        }
        Ok(Some(made))
    }

    fn initialise(&self, global: &ir::Global, address: u64) -> Result<()> {
        let all = Span::device(&self.space, address, global.size.max(1))?;
        all.fill(0, 1);
        all.write(&global.init);
        for relocation in &global.relocations {
            let target = match relocation.target {
                ir::RelocationTarget::Global(index) => {
                    let index = usize::try_from(index).map_err(|_| Error::InvalidImage)?;
                    *self.addresses.get(index).ok_or(Error::InvalidImage)?
                }
                ir::RelocationTarget::Function(index) => ir::function_address(index),
            };
            let value = target.wrapping_add_signed(relocation.addend).to_le_bytes();
            let bytes = value
                .get(..usize::from(relocation.bytes))
                .ok_or(Error::InvalidImage)?;
            all.part(relocation.offset, u64::from(relocation.bytes))?
                .write(bytes);
        }
        Ok(())
    }

    /// The compiled code.
    #[must_use]
    pub const fn code(&self) -> &Arc<Code> {
        &self.code
    }

    /// Where each global lies; 0 for external ones.
    #[must_use]
    pub fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    /// Address and size of a global.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn global(&self, name: &str) -> Result<(u64, u64)> {
        let (index, global) = self.code.module.global(name).ok_or(Error::NotFound)?;
        let address = self.addresses.get(index).copied().filter(|a| *a != 0);
        Ok((address.ok_or(Error::NotFound)?, global.size))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        for place in self.places.iter().flatten() {
            let id = place.id;
            self.space.remove(place.start, |found| found.id == id);
        }
    }
}

impl KernelSettings {
    fn new(kernel: &ir::Kernel) -> Self {
        Self {
            max_dynamic_shared: AtomicU32::new(
                SHARED_PER_BLOCK.saturating_sub(kernel.shared_bytes),
            ),
            carveout: AtomicI32::new(-1),
            cache_config: AtomicU32::new(0),
        }
    }
}

/// One kernel of compiled code.
#[derive(Clone, Debug)]
pub struct Kernel {
    code: Arc<Code>,
    index: usize,
}

impl Kernel {
    /// The kernel at an index.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn new(code: &Arc<Code>, index: usize) -> Result<Self> {
        if index >= code.module.kernels.len() {
            return Err(Error::NotFound);
        }
        Ok(Self {
            code: Arc::clone(code),
            index,
        })
    }

    /// What was compiled.
    #[must_use]
    pub fn code(&self) -> &ir::Kernel {
        &self.code.module.kernels[self.index] // `new` checked the index and code never changes.
    }

    /// The code it is part of.
    #[must_use]
    pub fn module(&self) -> &ir::Module {
        &self.code.module
    }

    /// What was set on it.
    #[must_use]
    pub fn settings(&self) -> &KernelSettings {
        &self.code.kernels[self.index] // As above; both lists have one entry per kernel.
    }

    /// Threads that a block of it may have.
    #[must_use]
    pub fn max_threads(&self) -> u32 {
        let code = self.code();
        let limit = code.max_threads.unwrap_or(crate::device::MAX_BLOCK_THREADS);
        limit.min(crate::device::MAX_BLOCK_THREADS)
    }

    /// Lets launches ask for so much dynamic shared memory.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if with the static shared memory it is more than a block can have.
    pub fn set_max_dynamic_shared(&self, device: &Device, bytes: u32) -> Result<()> {
        let total = bytes
            .checked_add(self.code().shared_bytes)
            .ok_or(Error::InvalidValue)?;
        if total > device.shared_per_block_optin {
            return Err(Error::InvalidValue);
        }
        self.settings()
            .max_dynamic_shared
            .store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Blocks of `threads` threads and `dynamic_shared` bytes that one multiprocessor holds.
    #[must_use]
    pub fn blocks_per_sm(&self, device: &Device, threads: u32, dynamic_shared: u64) -> u32 {
        let code = self.code();
        let registers = code.register_count.max(16).next_multiple_of(8);
        let shared = dynamic_shared + u64::from(code.shared_bytes + crate::device::RESERVED_SHARED);
        if threads == 0 || threads > self.max_threads() {
            return 0;
        }
        if dynamic_shared > u64::from(self.settings().max_dynamic_shared.load(Ordering::Relaxed)) {
            return 0;
        }
        let threads = threads.next_multiple_of(crate::device::WARP_SIZE);
        let by_shared = u64::from(device.shared_per_sm) / shared;
        let by_registers = crate::device::REGISTERS / (registers * threads);
        device
            .blocks_per_sm
            .min(device.threads_per_sm / threads)
            .min(by_registers)
            .min(u32::try_from(by_shared).unwrap_or(u32::MAX))
    }
}
