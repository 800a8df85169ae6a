//! The software GPU of a process: its devices, the memory they share addresses in, its streams.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::config::{Config, Log};
use crate::context::Context;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::handle::Table;
use crate::image::Images;
use crate::ipc::Ipc;
use crate::memory::{MemPool, Space};
use crate::schedule::Scheduler;
use crate::shared::{Health, State, device_folder};

/// All devices of a process.
#[derive(Debug)]
pub struct Gpu {
    config: Config,
    devices: Vec<Device>,
    space: Arc<Space>,
    /// Of shared devices; none of others.
    health: Vec<Arc<Health>>,
    scheduler: Scheduler,
    images: Arc<Images>,
    ipc: Ipc,
    /// All pools that there are.
    pools: Mutex<Vec<Weak<MemPool>>>,
    contexts: AtomicU64,
    grids: AtomicU64,
}

impl Gpu {
    /// Makes the devices that a configuration describes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the process has no address space for them, [`Error::NoDevice`] if it is to see
    /// none.
    pub fn new(config: Config) -> Result<Arc<Self>> {
        let Config { memory, poison, .. } = config;
        let numbers = config.numbers();
        let count = u32::try_from(numbers.len()).map_err(|_| Error::InvalidValue)?;
        if count == 0 {
            return Err(Error::NoDevice);
        }
        let (space, health) = match &config.shared {
            None => (Space::new(count, memory, poison)?, Vec::new()),
            Some(folder) => {
                let folders: Vec<PathBuf> = numbers
                    .iter()
                    .map(|&number| device_folder(folder, number))
                    .collect();
                let space = Space::shared(&folders, memory, poison)?;
                let watch = |folder| Health::watch(folder).map_err(|_| Error::OperatingSystem);
                let health = folders.into_iter().map(watch);
                (space, health.collect::<Result<_>>()?)
            }
        };
        let space = Arc::new(space);
        Ok(Arc::new(Self {
            devices: (0..)
                .zip(numbers)
                .map(|(ordinal, number)| Device::new(&config, ordinal, number))
                .collect(),
            config,
            space,
            health,
            scheduler: Scheduler::new(),
            images: Arc::new(Table::new(16)),
            ipc: Ipc::default(),
            pools: Mutex::default(),
            contexts: AtomicU64::new(1),
            grids: AtomicU64::new(1),
        }))
    }

    /// How it was configured.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The devices in order.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// One device.
    ///
    /// # Errors
    /// [`Error::InvalidDevice`].
    pub fn device(&self, ordinal: i32) -> Result<&Device> {
        let index = usize::try_from(ordinal).map_err(|_| Error::InvalidDevice)?;
        self.devices.get(index).ok_or(Error::InvalidDevice)
    }

    /// Every valid address.
    #[must_use]
    pub const fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// The streams.
    #[must_use]
    pub const fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Texture and surface objects.
    #[must_use]
    pub const fn images(&self) -> &Arc<Images> {
        &self.images
    }

    /// What other processes open of this one's, and this one of theirs.
    #[must_use]
    pub const fn ipc(&self) -> &Ipc {
        &self.ipc
    }

    /// Makes a context on a device.
    ///
    /// # Errors
    /// [`Error::InvalidDevice`], or [`Error::DeviceUnavailable`] for one that is lost.
    pub fn create_context(self: &Arc<Self>, device: u32, flags: u32) -> Result<Arc<Context>> {
        let index = usize::try_from(device).map_err(|_| Error::InvalidDevice)?;
        let device = self.devices.get(index).ok_or(Error::InvalidDevice)?;
        if self
            .health(device.ordinal)
            .is_some_and(|health| health.get() == State::Lost)
        {
            return Err(Error::DeviceUnavailable);
        }
        let id = self.contexts.fetch_add(1, Ordering::Relaxed);
        Ok(Context::new(self, id, device.clone(), flags))
    }

    /// Takes whole mappings away once nothing that was submitted can still use them.
    ///
    /// # Errors
    /// As [`Space::unmap`].
    pub fn unmap(&self, start: u64, size: u64) -> Result<()> {
        self.settle();
        let gone = self.space.unmap(start, size)?;
        // Another thread may have submitted work that found them before.
        self.settle();
        self.space.unmapped(gone);
        Ok(())
    }

    /// Makes a pool.
    #[must_use]
    pub fn create_pool(&self, device: u32, max_size: u64, handle_types: u32) -> Arc<MemPool> {
        let pool = Arc::new(MemPool::new(device, max_size, handle_types));
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        pool
    }

    /// Has pools give back what is above their thresholds: the program has waited for something.
    pub fn synchronized(&self) {
        for pool in self.pools() {
            pool.synchronized(&self.scheduler);
        }
    }

    /// Has pools give back all that nobody uses.
    pub(crate) fn reclaim(&self) {
        for pool in self.pools() {
            pool.trim(&self.scheduler, 0);
        }
    }

    fn pools(&self) -> Vec<Arc<MemPool>> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().filter_map(Weak::upgrade).collect()
    }

    /// Waits for all that was submitted so far.
    fn settle(&self) {
        self.scheduler.wait(&self.scheduler.all_tails());
    }

    /// How a shared device is.
    pub(crate) fn health(&self, ordinal: u32) -> Option<&Arc<Health>> {
        self.health.get(usize::try_from(ordinal).ok()?)
    }

    pub(crate) fn next_grid(&self) -> u64 {
        self.grids.fetch_add(1, Ordering::Relaxed)
    }

    /// Tells a person what went wrong, unless the configuration says not to.
    pub fn report(&self, what: std::fmt::Arguments<'_>) {
        if self.config.log >= Log::Error {
            eprintln!("softgpu: {what}");
        }
    }

    /// Tells a person what is odd but harms nothing, if the configuration says so.
    pub fn remark(&self, what: std::fmt::Arguments<'_>) {
        if self.config.log >= Log::All {
            eprintln!("softgpu: {what}");
        }
    }
}
