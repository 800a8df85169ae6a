//! Pools, with Rust's arguments and results.

use core::ffi::c_void;

use cuda_abi::types::{
    CUdevice, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationHandleType, CUmemAllocationType,
    CUmemPool_attribute, CUmemPoolProps, CUmemoryPool, CUresult, CUstream,
};

use super::Table;
use super::calls::{Result, ok, size};
use super::vmm::on;

/// Attributes that are an int or an enumeration; the others are 64 bits.
fn is_int(attribute: u32) -> Result<bool> {
    use CUmemPool_attribute as A;
    match CUmemPool_attribute(attribute) {
        A::CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES
        | A::CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC
        | A::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES
        | A::CU_MEMPOOL_ATTR_ALLOCATION_TYPE
        | A::CU_MEMPOOL_ATTR_EXPORT_HANDLE_TYPES
        | A::CU_MEMPOOL_ATTR_LOCATION_TYPE
        | A::CU_MEMPOOL_ATTR_HW_DECOMPRESS_ENABLED => Ok(true),
        A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
        | A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT
        | A::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH
        | A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT
        | A::CU_MEMPOOL_ATTR_USED_MEM_HIGH
        | A::CU_MEMPOOL_ATTR_MAX_POOL_SIZE => Ok(false),
        // The width of what nobody knows is not known either.
        _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    }
}

impl Table {
    pub(crate) fn default_pool(&self, device: CUdevice) -> Result<usize> {
        let function = self.cuDeviceGetDefaultMemPool()?;
        let mut pool: CUmemoryPool = core::ptr::null_mut();
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut pool, device) })?;
        Ok(pool.addr())
    }

    /// A pool of a device's memory that the driver exports in no way.
    pub(crate) fn create_pool(&self, device: CUdevice, most_bytes: u64) -> Result<usize> {
        let function = self.cuMemPoolCreate()?;
        let properties = CUmemPoolProps {
            allocType: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            handleTypes: CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
            location: on(device),
            win32SecurityAttributes: core::ptr::null_mut(),
            maxSize: size(most_bytes)?,
            usage: 0,
            gpuDirectRDMACapable: 0,
            reserved: [0; 53],
        };
        let mut pool: CUmemoryPool = core::ptr::null_mut();
        // SAFETY: two locals.
        ok(unsafe { function(&raw mut pool, &raw const properties) })?;
        Ok(pool.addr())
    }

    pub(crate) fn destroy_pool(&self, pool: usize) -> Result<()> {
        let function = self.cuMemPoolDestroy()?;
        // SAFETY: ours; its owner has taken it out of every table.
        ok(unsafe { function(pool as CUmemoryPool) })
    }

    pub(crate) fn trim_pool(&self, pool: usize, keep: u64) -> Result<()> {
        let function = self.cuMemPoolTrimTo()?;
        // SAFETY: ours.
        ok(unsafe { function(pool as CUmemoryPool, size(keep)?) })
    }

    pub(crate) fn pool_attribute(&self, pool: usize, attribute: u32) -> Result<u64> {
        let function = self.cuMemPoolGetAttribute()?;
        let id = CUmemPool_attribute(attribute);
        if is_int(attribute)? {
            let mut value = 0u32;
            // SAFETY: ours, and a local as wide as the attribute.
            ok(unsafe { function(pool as CUmemoryPool, id, (&raw mut value).cast::<c_void>()) })?;
            return Ok(value.into());
        }
        let mut value = 0u64;
        // SAFETY: as above.
        ok(unsafe { function(pool as CUmemoryPool, id, (&raw mut value).cast::<c_void>()) })?;
        Ok(value)
    }

    pub(crate) fn set_pool_attribute(&self, pool: usize, attribute: u32, value: u64) -> Result<()> {
        let function = self.cuMemPoolSetAttribute()?;
        let id = CUmemPool_attribute(attribute);
        // In this byte order an int is the first half of a word.
        let mut word = value;
        is_int(attribute)?;
        // SAFETY: ours, and a local at least as wide as the attribute.
        ok(unsafe { function(pool as CUmemoryPool, id, (&raw mut word).cast::<c_void>()) })
    }

    /// Sets what devices may do in the pool's memory: ordinals and flags.
    pub(crate) fn set_pool_access(&self, pool: usize, entries: &[(CUdevice, u32)]) -> Result<()> {
        let function = self.cuMemPoolSetAccess()?;
        let wanted: Vec<CUmemAccessDesc> = entries
            .iter()
            .map(|&(device, flags)| CUmemAccessDesc {
                location: on(device),
                flags: CUmemAccess_flags(flags),
            })
            .collect();
        // SAFETY: ours, and a slice.
        ok(unsafe { function(pool as CUmemoryPool, wanted.as_ptr(), wanted.len()) })
    }

    pub(crate) fn pool_access(&self, pool: usize, device: CUdevice) -> Result<u32> {
        let function = self.cuMemPoolGetAccess()?;
        let (mut flags, mut location) = (CUmemAccess_flags(0), on(device));
        // SAFETY: ours, and two locals.
        ok(unsafe { function(&raw mut flags, pool as CUmemoryPool, &raw mut location) })?;
        Ok(flags.0)
    }

    pub(crate) fn allocate_async(&self, pool: usize, bytes: u64, stream: usize) -> Result<u64> {
        let function = self.cuMemAllocFromPoolAsync()?;
        let (mut address, bytes) = (0, size(bytes)?);
        let (pool, stream) = (pool as CUmemoryPool, stream as CUstream);
        // SAFETY: ours, and a pointer to a local.
        ok(unsafe { function(&raw mut address, bytes, pool, stream) })?;
        Ok(address)
    }

    pub(crate) fn free_async(&self, address: u64, stream: usize) -> Result<()> {
        let function = self.cuMemFreeAsync()?;
        // SAFETY: ours, and an address, which the driver looks up.
        ok(unsafe { function(address, stream as CUstream) })
    }
}
