//! A grid: launch constants, and its blocks spread over OS threads.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "block numbers have been checked against 2^31"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::access::WithWorkspace;
use super::block::{Block, Turn};
use super::fault::{Fault, FaultKind};
use super::pool;
use super::{AddressSpace, Launch, Stats};
use crate::ptx::ir::*;

/// Instructions that a block executes before its OS thread looks around.
const BLOCK_BUDGET: u64 = 1 << 18;
/// Blocks per multiprocessor that may be under way at once: what any device holds, so that all blocks of a
/// cooperative launch are.
const RESIDENT_PER_SM: u32 = 32;
/// Largest block.
const MAX_THREADS: u32 = 1024;
/// Largest register file of a block.
const MAX_REGISTER_BYTES: u64 = 1 << 30;

/// A launch with what follows from it.
pub struct Shape<'a> {
    pub launch: &'a Launch<'a>,
    /// Threads of a block.
    pub threads: u32,
    pub blocks: u64,
    pub shared_bytes: u32,
    pub dynamic_shared: u32,
    /// Where the shared memory starts that belongs to the system, behind the kernel's own; it is there only if
    /// the module asks for its place.
    pub reserved_shared: Option<u32>,
    pub local_bytes: u32,
    /// Address of the grid's workspace; 0 if the launch is not cooperative.
    workspace: u64,
}

impl<'a> Shape<'a> {
    fn of(launch: &'a Launch<'a>, workspace: u64) -> Result<Self, FaultKind> {
        let invalid = |reason| Err(FaultKind::InvalidLaunch { reason });
        let kernel = launch.kernel;
        let threads = launch
            .block
            .iter()
            .try_fold(1u32, |a, &b| a.checked_mul(b))
            .unwrap_or(u32::MAX);
        let blocks = launch
            .grid
            .iter()
            .try_fold(1u64, |a, &b| a.checked_mul(b.into()))
            .unwrap_or(u64::MAX);
        if threads == 0
            || threads > MAX_THREADS
            || kernel.max_threads.is_some_and(|max| threads > max)
        {
            return invalid("block size");
        }
        if kernel
            .required_block
            .is_some_and(|block| block != launch.block)
        {
            return invalid("block shape is not the required one");
        }
        if blocks == 0
            || launch.grid[0] > i32::MAX as u32
            || launch.grid[1] > 65535
            || launch.grid[2] > 65535
        {
            return invalid("grid size");
        }
        if launch.params.len() < kernel.param_bytes as usize {
            return invalid("parameters are missing");
        }
        if launch.global_addresses.len() < launch.module.globals.len() {
            return invalid("variables have no addresses");
        }
        if launch
            .module
            .functions
            .get(kernel.function as usize)
            .is_none_or(|f| f.name != kernel.name)
        {
            return invalid("kernel is not of this module");
        }
        let dynamic_shared = kernel
            .shared_bytes
            .next_multiple_of(kernel.shared_align.max(16));
        let Some(shared_bytes) = dynamic_shared
            .checked_add(launch.dynamic_shared_bytes)
            .filter(|&b| b <= 1 << 28)
        else {
            return invalid("shared memory size");
        };
        let mut preloads = launch.module.functions.iter().flat_map(|f| &f.preloads);
        let reserved_shared = preloads
            .any(|preload| {
                matches!(
                    preload.value,
                    Constant::Special(Special::ReservedShared { .. })
                )
            })
            .then_some(shared_bytes.next_multiple_of(16));
        let registers = launch.module.functions.iter().map(|f| f.registers);
        let largest = registers
            .map(|r| u64::from(r.w) * 128 + u64::from(r.d) * 256 + u64::from(r.p) * 4)
            .max();
        if largest.unwrap_or(0) * u64::from(threads.div_ceil(32)) > MAX_REGISTER_BYTES {
            return invalid("too many registers for the block size");
        }
        let local_bytes = match kernel.local_bytes {
            Some(bytes) => bytes,
            None => launch
                .stack_bytes
                .saturating_add(launch.module.functions[kernel.function as usize].local_bytes),
        };
        if u64::from(local_bytes) * u64::from(threads) > 1 << 32 {
            return invalid("too much local memory for the block size");
        }
        let local_bytes = local_bytes.next_multiple_of(16);
        Ok(Self {
            launch,
            threads,
            blocks,
            shared_bytes,
            dynamic_shared,
            reserved_shared,
            local_bytes,
            workspace,
        })
    }

    /// Bytes of shared memory of a block, the system's included.
    pub fn shared_extent(&self) -> usize {
        let reserved = self.reserved_shared;
        let end = reserved.map_or(self.shared_bytes, |start| {
            start + u32::from(RESERVED_SHARED_BYTES)
        });
        end as usize
    }

    /// The value of a constant in one lane; those of a block are filled in when it starts.
    pub fn constant(&self, constant: Constant, warp: u32, lane: u32) -> u64 {
        let launch = self.launch;
        match constant {
            Constant::Bits(bits) => bits,
            Constant::Param { offset, ty } => {
                let (start, bytes) = (offset as usize, ty.bytes() as usize);
                let mut value = [0; 8];
                if let Some(source) = launch.params.get(start..start + bytes) {
                    value[..bytes].copy_from_slice(source);
                }
                let value = u64::from_le_bytes(value);
                match ty {
                    MemType::S8 => i64::from((value as u8).cast_signed()).cast_unsigned(),
                    MemType::S16 => i64::from((value as u16).cast_signed()).cast_unsigned(),
                    _ => value,
                }
            }
            Constant::Global { index, addend } => {
                launch.global_addresses[index as usize].wrapping_add_signed(addend)
            }
            Constant::DynamicShared { addend } => {
                u64::from(self.dynamic_shared).wrapping_add_signed(addend)
            }
            Constant::Special(special) => {
                let thread = warp * 32 + lane;
                let [nx, ny, _] = launch.block;
                let bit = 1u32 << lane;
                u64::from(match special {
                    Special::Tid(0) => thread % nx,
                    Special::Tid(1) => thread / nx % ny,
                    Special::Tid(_) => thread / nx / ny,
                    Special::Ntid(axis) => launch.block[usize::from(axis)],
                    Special::Nctaid(axis) => launch.grid[usize::from(axis)],
                    Special::LaneId => lane,
                    Special::WarpId => warp,
                    Special::NwarpId => self.threads.div_ceil(32),
                    Special::NsmId => launch.sm_count,
                    Special::GridId => return launch.grid_id,
                    Special::LaneMaskEq => bit,
                    Special::LaneMaskLe => bit | (bit - 1),
                    Special::LaneMaskLt => bit - 1,
                    Special::LaneMaskGe => !(bit - 1),
                    Special::LaneMaskGt => !(bit | (bit - 1)),
                    Special::TotalSharedBytes => self.shared_bytes,
                    Special::DynamicSharedBytes => launch.dynamic_shared_bytes,
                    Special::ReservedShared { addend } => {
                        self.reserved_shared.unwrap_or(0) + u32::from(addend)
                    }
                    Special::GridWorkspace { upper: true } => (self.workspace >> 32) as u32,
                    Special::GridWorkspace { upper: false } => self.workspace as u32,
                    Special::Ctaid(_) | Special::SmId => 0,
                })
            }
        }
    }

    pub fn sm_id(&self, block: [u32; 3]) -> u32 {
        let [x, y, z] = block.map(u64::from);
        let [nx, ny, _] = self.launch.grid.map(u64::from);
        (((z * ny + y) * nx + x) % u64::from(self.launch.sm_count.max(1))) as u32
    }

    fn position(&self, number: u64) -> [u32; 3] {
        let [nx, ny, _] = self.launch.grid.map(u64::from);
        [
            (number % nx) as u32,
            (number / nx % ny) as u32,
            (number / nx / ny) as u32,
        ]
    }
}

/// What the threads of one launch share.
struct Progress {
    next: AtomicU64,
    instructions: AtomicU64,
    resident: AtomicU64,
    stop: AtomicBool,
    fault: Mutex<Option<Fault>>,
}

/// Executes a grid.
pub fn run(launch: &Launch<'_>, space: &dyn AddressSpace) -> Result<Stats, Fault> {
    let space = &WithWorkspace::new(space);
    let workspace = if launch.cooperative {
        space.address()
    } else {
        0
    };
    let shape = Shape::of(launch, workspace).map_err(|kind| Fault {
        kind,
        kernel: launch.kernel.name.clone(),
        block: [0; 3],
        thread: [0; 3],
        pc: 0,
        line: 0,
    })?;
    let progress = Progress {
        next: AtomicU64::new(0),
        instructions: AtomicU64::new(0),
        resident: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        fault: Mutex::new(None),
    };
    let workers = u64::try_from(launch.workers.max(1))
        .unwrap_or(1)
        .min(shape.blocks);
    let helpers = usize::try_from(workers - 1).unwrap_or(0);
    pool::together(helpers, &|| {
        let _stop = StopOnPanic(&progress.stop);
        work(&shape, space, &progress);
    });
    match progress
        .fault
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
    {
        Some(fault) => Err(fault),
        None => Ok(Stats {
            blocks: shape.blocks,
            instructions: progress.instructions.into_inner(),
        }),
    }
}

/// Lets the other threads stop when one panics: they might wait for its blocks.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// One OS thread: takes blocks until none are left. A block that runs long may be waiting for one
/// that has not started; then another is started beside it, up to what the device holds.
fn work(shape: &Shape<'_>, space: &dyn AddressSpace, progress: &Progress) {
    let launch = shape.launch;
    let resident_limit = u64::from(launch.sm_count.max(1)) * u64::from(RESIDENT_PER_SM);
    let mut idle: Vec<Block> = Vec::new();
    let mut active: Vec<Block> = Vec::new();
    let mut turn = 0;
    loop {
        if active.is_empty() || turn >= active.len() {
            turn = 0;
            let may_start =
                active.is_empty() || progress.resident.load(Ordering::Relaxed) < resident_limit;
            if may_start && progress.next.load(Ordering::Relaxed) < shape.blocks {
                let number = progress.next.fetch_add(1, Ordering::Relaxed);
                if number < shape.blocks {
                    let mut block = idle.pop().unwrap_or_else(|| Block::new(shape));
                    block.start(shape, shape.position(number));
                    progress.resident.fetch_add(1, Ordering::Relaxed);
                    active.push(block);
                    turn = active.len() - 1;
                }
            }
            if active.is_empty() {
                return;
            }
        }
        if progress.stop.load(Ordering::Relaxed) {
            return;
        }
        let block = &mut active[turn];
        let before = block.instructions;
        let result = block.run(shape, space, BLOCK_BUDGET);
        let spent = block.instructions - before;
        let total = progress.instructions.fetch_add(spent, Ordering::Relaxed) + spent;
        let fault = match &result {
            Err(fault) => Some((fault.kind.clone(), fault.thread, fault.pc)),
            _ if launch.cancel.load(Ordering::Relaxed) => Some((FaultKind::Cancelled, 0, 0)),
            _ if launch.instruction_limit.is_some_and(|limit| total > limit) => {
                Some((FaultKind::RunAway, 0, 0))
            }
            _ => None,
        };
        if let Some((kind, thread, pc)) = fault {
            let [nx, ny, _] = launch.block;
            let fault = Fault {
                kind,
                kernel: launch.kernel.name.clone(),
                block: block.index(),
                thread: [thread % nx, thread / nx % ny, thread / nx / ny],
                pc,
                line: launch.module.lines.get(pc as usize).copied().unwrap_or(0),
            };
            let mut slot = progress
                .fault
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            slot.get_or_insert(fault);
            progress.stop.store(true, Ordering::Relaxed);
            return;
        }
        match result {
            Ok(Turn::Finished) => {
                progress.resident.fetch_sub(1, Ordering::Relaxed);
                idle.push(active.swap_remove(turn));
                if active.is_empty() {
                    turn = 0;
                }
            }
            _ => turn += 1,
        }
    }
}
