//! Occupancy: clusters, and the search for a block size, which runs the caller's own function and therefore here.

use std::ffi::{c_int, c_uint};

use cuda_abi::function::Function;
use cuda_abi::types::{
    CUdevice_attribute as Limit, CUfunction, CUfunction_attribute, CUlaunchConfig,
    CUoccupancyB2DSize, CUresult,
};
use idm_protocol::handle::Kind;
use idm_protocol::wire;

use crate::api::device::attribute;
use crate::api::launch::Attributes;
use crate::api::memory::device_of;
use crate::call::{Call, Outcome};
use crate::edge;

pub unsafe fn cuOccupancyMaxPotentialBlockSize(
    minGridSize: *mut c_int,
    blockSize: *mut c_int,
    func: CUfunction,
    blockSizeToDynamicSMemSize: CUoccupancyB2DSize,
    dynamicSMemSize: usize,
    blockSizeLimit: c_int,
) -> Outcome {
    // SAFETY: the caller's promise.
    unsafe {
        cuOccupancyMaxPotentialBlockSizeWithFlags(
            minGridSize,
            blockSize,
            func,
            blockSizeToDynamicSMemSize,
            dynamicSMemSize,
            blockSizeLimit,
            0,
        )
    }
}

pub unsafe fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    minGridSize: *mut c_int,
    blockSize: *mut c_int,
    func: CUfunction,
    blockSizeToDynamicSMemSize: CUoccupancyB2DSize,
    dynamicSMemSize: usize,
    blockSizeLimit: c_int,
    flags: c_uint,
) -> Outcome {
    let mut call = Call::begin(Function::cuOccupancyMaxPotentialBlockSizeWithFlags)?;
    edge::require(minGridSize)?;
    edge::require(blockSize)?;
    let function = call.handle(Kind::FUNCTION, func as u64)?;
    if blockSizeLimit < 0 {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let device = call.session.devices()?.get(device_of(&call)?)?;
    let of_device = |limit| attribute(device, limit);
    let of_function: wire::CuFuncGetAttributeReply =
        call.round_trip(&wire::CuFuncGetAttribute {
            hfunc: function,
            attrib: CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK.0,
            reserved: 0,
        })?;
    let mut most = of_function
        .pi
        .min(of_device(Limit::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?);
    if blockSizeLimit > 0 {
        most = most.min(blockSizeLimit);
    }
    let search = Search {
        most,
        warp: of_device(Limit::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?,
        threads_per_processor: of_device(
            Limit::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
        )?,
    };
    let found = search.run(|block| {
        let shared = match blockSizeToDynamicSMemSize {
            // SAFETY: the caller's function, called as it is documented to be, with no lock of ours held.
            Some(size) => unsafe { size(block) },
            None => dynamicSMemSize,
        };
        let request = wire::CuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags {
            func: function,
            dynamicSMemSize: shared as u64,
            blockSize: block,
            flags,
        };
        let reply: wire::CuOccupancyMaxActiveBlocksPerMultiprocessorWithFlagsReply =
            call.round_trip(&request)?;
        Ok(reply.numBlocks)
    })?;
    // No block fits: that is an answer too.
    let (block, blocks) = found.unwrap_or((0, 0));
    let grid = blocks.saturating_mul(of_device(Limit::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?);
    // SAFETY: the caller's promise.
    unsafe { edge::put(minGridSize, grid) }?;
    // SAFETY: the caller's promise.
    unsafe { edge::put(blockSize, block) }
}

pub unsafe fn cuOccupancyMaxActiveClusters(
    numClusters: *mut c_int,
    func: CUfunction,
    config: *const CUlaunchConfig,
) -> Outcome {
    let call = Call::begin(Function::cuOccupancyMaxActiveClusters)?;
    // SAFETY: the caller's promise.
    unsafe { clusters(call, numClusters, func, config, false) }
}

pub unsafe fn cuOccupancyMaxPotentialClusterSize(
    clusterSize: *mut c_int,
    func: CUfunction,
    config: *const CUlaunchConfig,
) -> Outcome {
    let call = Call::begin(Function::cuOccupancyMaxPotentialClusterSize)?;
    // SAFETY: the caller's promise.
    unsafe { clusters(call, clusterSize, func, config, true) }
}

/// # Safety
/// As the two functions above.
unsafe fn clusters(
    mut call: Call,
    answer: *mut c_int,
    func: CUfunction,
    config: *const CUlaunchConfig,
    potential: bool,
) -> Outcome {
    edge::require(answer)?;
    // SAFETY: the caller's promise.
    let config = unsafe { edge::take(config) }?;
    // SAFETY: by this function's contract.
    let attributes = unsafe { Attributes::read(&config) }?;
    let request = wire::VgpuClusters {
        function: call.handle(Kind::FUNCTION, func as u64)?,
        grid_x: config.gridDimX,
        grid_y: config.gridDimY,
        grid_z: config.gridDimZ,
        block_x: config.blockDimX,
        block_y: config.blockDimY,
        block_z: config.blockDimZ,
        shared_bytes: config.sharedMemBytes,
        attribute_count: attributes.count(),
        potential: u32::from(potential),
        reserved: 0,
    };
    let reply: wire::VgpuClustersReply = call.round_trip_with(&request, &[attributes.bytes()])?;
    // SAFETY: by this function's contract.
    unsafe { edge::put(answer, reply.count) }
}

/// What block sizes are tried: the largest and then every multiple of a warp below it.
#[derive(Clone, Copy, Debug)]
struct Search {
    most: c_int,
    warp: c_int,
    threads_per_processor: c_int,
}

impl Search {
    /// The largest block size of those that keep most threads of a processor busy, and how many such
    /// blocks one runs at once.
    fn run(
        &self,
        mut active_blocks: impl FnMut(c_int) -> Outcome<c_int>,
    ) -> Outcome<Option<(c_int, c_int)>> {
        let warp = self.warp.max(1);
        let mut best: Option<(c_int, c_int)> = None;
        let mut busiest = 0;
        let mut block = self.most;
        while block > 0 {
            let blocks = active_blocks(block)?;
            let busy = blocks.saturating_mul(block);
            if busy > busiest {
                busiest = busy;
                best = Some((block, blocks));
            }
            if busiest >= self.threads_per_processor {
                break;
            }
            block = (block - 1) / warp * warp;
        }
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_takes_the_largest_of_the_best_and_stops_when_a_processor_is_full() {
        let search = Search {
            most: 1024,
            warp: 32,
            threads_per_processor: 2048,
        };
        let mut asked = Vec::new();
        let found = search.run(|block| {
            asked.push(block);
            // Registers for 1536 threads.
            Ok(1536 / block)
        });
        assert_eq!(found, Ok(Some((768, 2))));
        assert_eq!(asked[..2], [1024, 992]);
        let full = search.run(|block| Ok(2048 / block));
        assert_eq!(full, Ok(Some((1024, 2))));
    }

    #[test]
    fn search_that_finds_nothing_and_one_that_fails_say_so() {
        let search = Search {
            most: 100,
            warp: 32,
            threads_per_processor: 2048,
        };
        assert_eq!(search.run(|_| Ok(0)), Ok(None));
        assert_eq!(
            search.run(|_| Err(CUresult::CUDA_ERROR_UNKNOWN)),
            Err(CUresult::CUDA_ERROR_UNKNOWN)
        );
    }
}
