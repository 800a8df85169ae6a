//! How many blocks of a kernel fit.

use std::ffi::{c_int, c_uint};

use cuda_abi::types::{CUfunction, CUlaunchAttributeID, CUlaunchConfig, CUoccupancyB2DSize};
use softgpu_core::device::{Device, RESERVED_SHARED, WARP_SIZE};
use softgpu_core::error::Error;
use softgpu_core::module::Kernel;

use crate::api::device::signed;
use crate::driver::{self, driver};
use crate::edge::{self, Outcome, put};

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
    let context = driver::context_for(function as u64)?;
    edge::require(blocks)?;
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
    let context = driver::context_for(function as u64)?;
    edge::require(bytes)?;
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
    edge::require(min_grid)?;
    edge::require(block_size)?;
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

/// Blocks of a cluster that every device with clusters takes.
const PORTABLE_CLUSTER: u32 = 8;

pub unsafe fn cuOccupancyMaxActiveClusters(
    clusters: *mut c_int,
    function: CUfunction,
    config: *const CUlaunchConfig,
) -> Outcome {
    driver()?;
    edge::require(clusters)?;
    // SAFETY: the caller's promise.
    let (resident, cluster) = unsafe { cluster_config(function, config) }?;
    // SAFETY: the caller's promise.
    unsafe { put(clusters, signed(resident / cluster)?) }
}

pub unsafe fn cuOccupancyMaxPotentialClusterSize(
    blocks: *mut c_int,
    function: CUfunction,
    config: *const CUlaunchConfig,
) -> Outcome {
    driver()?;
    edge::require(blocks)?;
    // SAFETY: the caller's promise.
    let (resident, _) = unsafe { cluster_config(function, config) }?;
    // SAFETY: the caller's promise.
    unsafe { put(blocks, signed(resident.min(PORTABLE_CLUSTER))?) }
}

/// Blocks of this shape that the device runs at once, and the size of a cluster that the attributes ask for.
///
/// # Safety
/// `config` is null or readable, with its attributes.
unsafe fn cluster_config(
    function: CUfunction,
    config: *const CUlaunchConfig,
) -> Result<(u32, u32), Error> {
    let context = driver::context()?;
    let kernel = driver()?.kernel(function as u64)?;
    let device = context.device();
    if device.compute_capability.0 < 9 {
        return Err(Error::NotSupported);
    }
    // SAFETY: by this function's contract.
    let config = unsafe { edge::take(config) }?;
    let mut cluster = 1;
    for index in 0..usize::try_from(config.numAttrs).map_err(|_| Error::InvalidValue)? {
        // SAFETY: inside the array by this function's contract.
        let attribute = unsafe { edge::element(config.attrs.cast_const(), index) }?;
        if attribute.id == CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION {
            let [xy, z, ..] = attribute.value.bytes;
            let sides = [xy & 0xffff_ffff, xy >> 32, z & 0xffff_ffff];
            let product = sides
                .iter()
                .try_fold(1u64, |product, side| product.checked_mul(*side));
            cluster = product
                .and_then(|product| u32::try_from(product).ok())
                .filter(|blocks| (1..=PORTABLE_CLUSTER).contains(blocks))
                .ok_or(Error::InvalidClusterSize)?;
        }
    }
    let threads = [config.blockDimX, config.blockDimY, config.blockDimZ]
        .iter()
        .try_fold(1u32, |product, side| product.checked_mul(*side))
        .filter(|threads| *threads > 0)
        .ok_or(Error::InvalidValue)?;
    let each = kernel.blocks_per_sm(device, threads, u64::from(config.sharedMemBytes));
    Ok((each.saturating_mul(device.sm_count), cluster))
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
