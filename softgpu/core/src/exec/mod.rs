//! Execution of kernels on the CPU.
//!
//! [`run`] executes one grid and returns when it has finished or faulted. A warp of 32 lanes runs in
//! lockstep over registers laid out lane by lane; diverged paths are scheduled by lowest program
//! counter, by which they meet again (the front end orders blocks for that), with turns for the others
//! so that none starves. The warps of a block share one OS thread and never block it; blocks are spread
//! over several threads. Every access to memory is checked for alignment and against the ranges an
//! [`AddressSpace`] vouches for.

mod access;
mod asynchronous;
mod atomic;
mod block;
mod cross;
mod fault;
mod float;
mod grid;
mod heap;
pub mod image;
mod interpret;
mod lanes;
mod matrix;
mod mbarrier;
mod memory;
mod pool;
mod print;
mod processor;
mod rare;
mod register;
mod scalar;
mod tensor;
mod transfer;
mod warp;
mod wide;

pub use fault::{Fault, FaultKind};
pub use heap::DeviceHeap;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::ptx::ir;

/// A piece of host memory that kernels may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Whether kernels may write to it.
    pub writable: bool,
}

/// The memory that a kernel sees through global and generic addresses.
///
/// # Safety
/// A range returned by `resolve` or `resolve_image` must be mapped, readable (and writable where it says so) host
/// memory until the `run` that asked has returned, and Rust code must not hold references into it
/// meanwhile: kernels access it from several threads at any time.
pub unsafe trait AddressSpace: Sync {
    /// The allocation that holds `address`.
    fn resolve(&self, address: u64) -> Option<Range>;

    /// The texture or surface with this value.
    fn image(&self, _object: u64) -> Option<Arc<image::Image>> {
        None
    }

    /// The memory that an image's texels lie in, which need not be reachable in other ways.
    fn resolve_image(&self, address: u64) -> Option<Range> {
        self.resolve(address)
    }
}

/// One launch of a kernel.
pub struct Launch<'a> {
    /// The module.
    pub module: &'a ir::Module,
    /// The kernel of that module.
    pub kernel: &'a ir::Kernel,
    /// Blocks by axis.
    pub grid: [u32; 3],
    /// Threads of a block by axis; at most 1024 in all.
    pub block: [u32; 3],
    /// Whether blocks may wait for each other: the kernel is told where the grid's workspace lies.
    pub cooperative: bool,
    /// Dynamic shared memory of each block.
    pub dynamic_shared_bytes: u32,
    /// The parameter block; at least the kernel's `param_bytes`.
    pub params: &'a [u8],
    /// Where each of the module's globals was placed.
    pub global_addresses: &'a [u64],
    /// Local memory of each thread where the kernel does not bound it itself.
    pub stack_bytes: u32,
    /// Instructions (counted per warp) after which the launch is ended as a run-away.
    pub instruction_limit: Option<u64>,
    /// OS threads to use, the calling one included.
    pub workers: usize,
    /// Multiprocessors that the kernel is told of; also bounds how many blocks are resident.
    pub sm_count: u32,
    /// Identity of the launch, for `%gridid`.
    pub grid_id: u64,
    /// Ends the launch when set.
    pub cancel: &'a AtomicBool,
    /// Nanoseconds, for `%globaltimer` and `%clock`.
    pub clock: &'a (dyn Fn() -> u64 + Sync),
    /// Where `malloc` takes from; without it, there is nothing to be had.
    pub heap: Option<&'a DeviceHeap>,
    /// Where `printf` output goes, one call per printed text.
    pub output: &'a (dyn Fn(&[u8]) + Sync),
}

impl std::fmt::Debug for Launch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launch")
            .field("kernel", &self.kernel.name)
            .field("grid", &self.grid)
            .field("block", &self.block)
            .finish_non_exhaustive()
    }
}

/// What a launch did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks that ran.
    pub blocks: u64,
    /// Instructions, counted per warp.
    pub instructions: u64,
}

/// Executes a grid.
///
/// # Errors
/// The first fault; nothing is executed after it.
pub fn run(launch: &Launch<'_>, memory: &impl AddressSpace) -> Result<Stats, Fault> {
    grid::run(launch, memory)
}
