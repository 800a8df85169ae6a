//! What processes share, with Rust's arguments and results.

use cuda_abi::types::{CUevent, CUipcEventHandle, CUipcMem_flags, CUipcMemHandle};
use proxy_channel::message::DriverHandle;

use super::Table;
use super::calls::{Result, ok};

const LAZY_PEER_ACCESS: u32 = CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS.0;

impl Table {
    /// What opens an allocation in another process.
    pub(crate) fn export(&self, address: u64) -> Result<DriverHandle> {
        let function = self.cuIpcGetMemHandle()?;
        let mut handle = CUipcMemHandle { reserved: [0; 64] };
        // SAFETY: a pointer to a local, and an address, which the driver looks up.
        ok(unsafe { function(&raw mut handle, address) })?;
        Ok(handle.reserved)
    }

    /// Where another process's allocation is from now on.
    pub(crate) fn import(&self, handle: DriverHandle) -> Result<u64> {
        let function = self.cuIpcOpenMemHandle_v2()?;
        let mut address = 0;
        let handle = CUipcMemHandle { reserved: handle };
        // SAFETY: a pointer to a local; the handle is a driver's, which the supervisor got from a worker.
        ok(unsafe { function(&raw mut address, handle, LAZY_PEER_ACCESS) })?;
        Ok(address)
    }

    /// Closes it, as often as it was opened.
    pub(crate) fn close_import(&self, address: u64) -> Result<()> {
        let function = self.cuIpcCloseMemHandle()?;
        // SAFETY: an address, which the driver looks up.
        ok(unsafe { function(address) })
    }

    /// What opens an event in another process.
    pub(crate) fn export_event(&self, event: usize) -> Result<DriverHandle> {
        let function = self.cuIpcGetEventHandle()?;
        let mut handle = CUipcEventHandle { reserved: [0; 64] };
        // SAFETY: a pointer to a local; the event is ours.
        ok(unsafe { function(&raw mut handle, event as CUevent) })?;
        Ok(handle.reserved)
    }

    /// Another process's event, which is this one's to destroy.
    pub(crate) fn import_event(&self, handle: DriverHandle) -> Result<usize> {
        let function = self.cuIpcOpenEventHandle()?;
        let mut event: CUevent = core::ptr::null_mut();
        let handle = CUipcEventHandle { reserved: handle };
        // SAFETY: a pointer to a local; the handle is a driver's, which the supervisor got from a worker.
        ok(unsafe { function(&raw mut event, handle) })?;
        Ok(event.addr())
    }

    /// The allocation that an address lies in: start and bytes.
    pub(crate) fn allocation(&self, address: u64) -> Result<(u64, u64)> {
        let function = self.cuMemGetAddressRange_v2()?;
        let (mut start, mut bytes) = (0, 0usize);
        // SAFETY: two locals, and an address, which the driver looks up.
        ok(unsafe { function(&raw mut start, &raw mut bytes, address) })?;
        Ok((start, bytes as u64))
    }
}
