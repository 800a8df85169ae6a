//! How many blocks of a kernel fit.

use std::ffi::{c_int, c_uint};

use cuda_abi::types::{CUfunction, CUoccupancyB2DSize};
use softgpu_core::device::{Device, RESERVED_SHARED, WARP_SIZE};
use softgpu_core::error::Error;
use softgpu_core::module::Kernel;

use crate::api::device::signed;
use crate::driver::{self, driver};
use crate::edge::{Outcome, put};

pub unsafe fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    function: CUfunction,
    block_size: c_int,
    dynamic_shared: usize,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe {
        cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
            blocks,
            function,
            block_size,
            dynamic_shared,
            0,
        )
    }
}

pub unsafe fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut c_int,
    function: CUfunction,
    block_size: c_int,
    dynamic_shared: usize,
    flags: c_uint,
) -> Outcome {
    let context = driver::context()?;
    let kernel = driver()?.kernel(function as u64)?;
    let threads = u32::try_from(block_size)
        .ok()
        .filter(|n| *n > 0)
        .ok_or(Error::InvalidValue)?;
    if flags > 1 {
        return Err(Error::InvalidValue);
    }
    let fitting = kernel.blocks_per_sm(context.device(), threads, dynamic_shared as u64);
    // SAFETY: the caller's promise.
    unsafe { put(blocks, signed(fitting)?) }
}

pub unsafe fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: *mut usize,
    function: CUfunction,
    blocks: c_int,
    block_size: c_int,
) -> Outcome {
    let context = driver::context()?;
    let kernel = driver()?.kernel(function as u64)?;
    let positive = |n: c_int| {
        u32::try_from(n)
            .ok()
            .filter(|n| *n > 0)
            .ok_or(Error::InvalidValue)
    };
    let (blocks, threads) = (positive(blocks)?, positive(block_size)?);
    if kernel.blocks_per_sm(context.device(), threads, 0) < blocks {
        return Err(Error::InvalidValue);
    }
    let device = context.device();
    let each = (device.shared_per_sm / blocks).min(device.shared_per_block_optin + RESERVED_SHARED);
    let free = each.saturating_sub(RESERVED_SHARED + kernel.code().shared_bytes) / 128 * 128;
    // SAFETY: the caller's promise.
    unsafe { put(bytes, usize::try_from(free).map_err(|_| Error::Unknown)?) }
}

pub unsafe fn cuOccupancyMaxPotentialBlockSize(
    min_grid: *mut c_int,
    block_size: *mut c_int,
    function: CUfunction,
    shared_of_block: CUoccupancyB2DSize,
    dynamic_shared: usize,
    limit: c_int,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe {
        cuOccupancyMaxPotentialBlockSizeWithFlags(
            min_grid,
            block_size,
            function,
            shared_of_block,
            dynamic_shared,
            limit,
            0,
        )
    }
}

pub unsafe fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    min_grid: *mut c_int,
    block_size: *mut c_int,
    function: CUfunction,
    shared_of_block: CUoccupancyB2DSize,
    dynamic_shared: usize,
    limit: c_int,
    flags: c_uint,
) -> Outcome {
    let context = driver::context()?;
    let kernel = driver()?.kernel(function as u64)?;
    let limit = u32::try_from(limit).map_err(|_| Error::InvalidValue)?;
    if flags > 1 {
        return Err(Error::InvalidValue);
    }
    let shared = |threads: u32| {
        let own = c_int::try_from(threads).unwrap_or(c_int::MAX);
        // SAFETY: the program's promise in giving the function.
        shared_of_block.map_or(dynamic_shared, |f| unsafe { f(own) }) as u64
    };
    let (blocks, threads) = best_block(context.device(), &kernel, limit, shared);
    // SAFETY: the caller's promise.
    unsafe { put(min_grid, signed(blocks * context.device().sm_count)?) }?;
    // SAFETY: the caller's promise.
    unsafe { put(block_size, signed(threads)?) }
}

/// The largest block with the most resident threads, and how many of it a multiprocessor holds.
fn best_block(
    device: &Device,
    kernel: &Kernel,
    limit: u32,
    shared: impl Fn(u32) -> u64,
) -> (u32, u32) {
    let most = if limit == 0 {
        kernel.max_threads()
    } else {
        limit.min(kernel.max_threads())
    };
    let (mut best, mut resident) = ((0, 0), 0);
    let mut threads = most;
    while threads > 0 {
        let blocks = kernel.blocks_per_sm(device, threads, shared(threads));
        if blocks * threads > resident {
            resident = blocks * threads;
            best = (blocks, threads);
        }
        // From the largest down, by whole warps.
        threads = (threads - 1) / WARP_SIZE * WARP_SIZE;
    }
    best
}
