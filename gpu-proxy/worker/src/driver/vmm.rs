//! Virtual memory management, with Rust's arguments and results.

use cuda_abi::types::{
    CUdevice, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationGranularity_flags,
    CUmemAllocationHandleType, CUmemAllocationProp, CUmemAllocationType, CUmemLocation,
    CUmemLocationType, CUresult,
};

use super::Table;
use super::calls::{Result, ok, size};

/// Memory of a device that the driver exports in no way.
fn properties(device: CUdevice) -> CUmemAllocationProp {
    CUmemAllocationProp {
        type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
        location: on(device),
        win32HandleMetaData: core::ptr::null_mut(),
        allocFlags: Default::default(),
    }
}

pub(super) fn on(device: CUdevice) -> CUmemLocation {
    CUmemLocation {
        type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        id: device,
    }
}

impl Table {
    pub(crate) fn granularity(&self, device: CUdevice, option: u32) -> Result<u64> {
        let function = self.cuMemGetAllocationGranularity()?;
        let (mut bytes, properties) = (0usize, properties(device));
        let option = CUmemAllocationGranularity_flags(option);
        // SAFETY: two locals.
        ok(unsafe { function(&raw mut bytes, &raw const properties, option) })?;
        Ok(bytes as u64)
    }

    pub(crate) fn reserve_addresses(&self, bytes: u64, alignment: u64, hint: u64) -> Result<u64> {
        let function = self.cuMemAddressReserve()?;
        let mut address = 0;
        let (bytes, alignment) = (size(bytes)?, size(alignment)?);
        // SAFETY: a pointer to a local.
        ok(unsafe { function(&raw mut address, bytes, alignment, hint, 0) })?;
        Ok(address)
    }

    pub(crate) fn free_addresses(&self, address: u64, bytes: u64) -> Result<()> {
        let function = self.cuMemAddressFree()?;
        // SAFETY: an address, which the driver looks up.
        ok(unsafe { function(address, size(bytes)?) })
    }

    pub(crate) fn create_memory(&self, device: CUdevice, bytes: u64) -> Result<u64> {
        let function = self.cuMemCreate()?;
        let (mut handle, properties) = (0, properties(device));
        // SAFETY: two locals.
        ok(unsafe { function(&raw mut handle, size(bytes)?, &raw const properties, 0) })?;
        Ok(handle)
    }

    pub(crate) fn release_memory(&self, handle: u64) -> Result<()> {
        let function = self.cuMemRelease()?;
        // SAFETY: ours.
        ok(unsafe { function(handle) })
    }

    /// A handle of what is mapped at an address.
    pub(crate) fn retain_memory(&self, address: u64) -> Result<u64> {
        let function = self.cuMemRetainAllocationHandle()?;
        let (mut handle, address) = (0, size(address)?);
        let address = core::ptr::without_provenance_mut(address);
        // SAFETY: a pointer to a local, and an address, which the driver looks up.
        ok(unsafe { function(&raw mut handle, address) })?;
        Ok(handle)
    }

    pub(crate) fn map(&self, address: u64, bytes: u64, offset: u64, handle: u64) -> Result<()> {
        let function = self.cuMemMap()?;
        // SAFETY: ours; addresses that the driver looks up.
        ok(unsafe { function(address, size(bytes)?, size(offset)?, handle, 0) })
    }

    pub(crate) fn unmap(&self, address: u64, bytes: u64) -> Result<()> {
        let function = self.cuMemUnmap()?;
        // SAFETY: addresses that the driver looks up.
        ok(unsafe { function(address, size(bytes)?) })
    }

    /// Sets what devices may do: ordinals and flags.
    pub(crate) fn set_access(
        &self,
        address: u64,
        bytes: u64,
        entries: &[(CUdevice, u32)],
    ) -> Result<()> {
        let function = self.cuMemSetAccess()?;
        let wanted: Vec<CUmemAccessDesc> = entries
            .iter()
            .map(|&(device, flags)| CUmemAccessDesc {
                location: on(device),
                flags: CUmemAccess_flags(flags),
            })
            .collect();
        if wanted.is_empty() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: addresses that the driver looks up, and a slice.
        ok(unsafe { function(address, size(bytes)?, wanted.as_ptr(), wanted.len()) })
    }
}
