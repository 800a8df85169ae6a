//! The handshake that NVIDIA's CUDA runtime (cudart) expects of a driver, apart from everything else.
//!
//! cudart asks `cuGetExportTable` for a handful of private tables of functions, keeps per-context state
//! in one of them and has another answer a self-test before it makes its first ordinary call. This
//! module owns those tables, that storage and that answer; what a table must know of the driver it asks
//! through [`Driver`]. It exists so that unmodified programs run on a driver that is not NVIDIA's.
//!
//! All of it can be left out: without the cargo feature `cudart-handshake` only the face below is
//! compiled, [`export_table`] knows no table, and programs on the Driver API itself still work. Why it
//! is here and what a deployer should weigh is in `docs/adr/0001-cudart-handshake.md` and
//! `docs/licensing.md`.

use crate::types::{CUcontext, CUdevice, CUmodule, CUresult, CUuuid};
use std::ffi::c_void;

#[cfg(feature = "cudart-handshake")]
mod integrity;
#[cfg(feature = "cudart-handshake")]
mod storage;
#[cfg(feature = "cudart-handshake")]
mod tables;

/// What identifies a device in the self-test. The caller sees the same values through
/// `cuDeviceGetUuid` and the PCI attributes; the answer is wrong if they differ.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceIdentity {
    pub uuid: [u8; 16],
    pub pci_domain: i32,
    pub pci_bus: i32,
    pub pci_device: i32,
}

/// The driver behind the tables.
pub trait Driver: Send + Sync {
    /// What `cuDriverGetVersion` reports.
    fn version(&self) -> i32;

    /// The visible devices in the order of their ordinals.
    fn devices(&self) -> Result<Vec<DeviceIdentity>, CUresult>;

    /// The handle that retaining the device's primary context would return, without retaining it.
    fn primary_context(&self, device: CUdevice) -> Result<CUcontext, CUresult>;

    /// The calling thread's current context, null for none, `NOT_INITIALIZED` before `cuInit`.
    fn current_context(&self) -> Result<CUcontext, CUresult>;

    /// What `cuCtxGetId` reports for the context; null names the current one.
    fn context_id(&self, context: CUcontext) -> Result<u64, CUresult>;

    /// Loads a module into the current context from a fat binary or its wrapper, as
    /// `cuModuleLoadData` does. Old runtimes load their kernels this way.
    ///
    /// # Safety
    /// `image` must point at a complete image, as for `cuModuleLoadData`.
    unsafe fn load_module(&self, image: *const c_void) -> Result<CUmodule, CUresult>;

    /// A program called a slot that we do not serve. Called once for each slot of a process.
    fn unserved(&self, table: &'static str, slot: usize) {
        let _ = (table, slot);
    }
}

/// Puts `driver` behind the tables. The first one stays: the tables are process-wide, so a second
/// driver in one library is a mistake, reported by `false`.
pub fn install(driver: &'static dyn Driver) -> bool {
    #[cfg(feature = "cudart-handshake")]
    {
        tables::install(driver)
    }
    #[cfg(not(feature = "cudart-handshake"))]
    {
        let _ = driver;
        true
    }
}

/// The private table that `id` (a `CUuuid`'s bytes in memory order) names, if we serve it.
///
/// The address is the same for the life of the process.
pub fn export_table(id: &[u8; 16]) -> Option<*const c_void> {
    #[cfg(feature = "cudart-handshake")]
    {
        tables::find(id)
    }
    #[cfg(not(feature = "cudart-handshake"))]
    {
        let _ = id;
        None
    }
}

/// `cuGetExportTable` itself: a table we do not serve is refused with `NOT_SUPPORTED` and a null
/// pointer, never left unwritten.
///
/// # Safety
/// Each pointer must be null or valid: `table` for a write, `id` for a read of 16 bytes.
pub unsafe fn get_export_table(table: *mut *const c_void, id: *const CUuuid) -> CUresult {
    if table.is_null() || id.is_null() {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: not null, so readable by this function's contract; a UUID has alignment 1.
    let id = unsafe { *id };
    let found = export_table(&id.bytes);
    // SAFETY: not null, so writable by this function's contract.
    unsafe { table.write_unaligned(found.unwrap_or(std::ptr::null())) };
    match found {
        Some(_) => CUresult::CUDA_SUCCESS,
        None => CUresult::CUDA_ERROR_NOT_SUPPORTED,
    }
}

/// Tells the storage that a context is gone: its entries are dropped and their destructors run on the
/// calling thread. Call it when a context is destroyed and when a primary context is reset or released
/// for the last time, with no lock held: a destructor may call back into the driver.
pub fn context_destroyed(context: CUcontext) {
    #[cfg(feature = "cudart-handshake")]
    tables::context_destroyed(context);
    #[cfg(not(feature = "cudart-handshake"))]
    let _ = context;
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUDART: CUuuid = CUuuid {
        bytes: 0x6bd5_fb6c_5bf4_e74a_8987_d939_12fd_9df9_u128.to_be_bytes(),
    };

    #[cfg(not(feature = "cudart-handshake"))]
    #[test]
    fn every_table_is_refused_without_the_feature() {
        assert_eq!(ask(&CUDART), (CUresult::CUDA_ERROR_NOT_SUPPORTED, true));
    }

    #[cfg(feature = "cudart-handshake")]
    #[test]
    fn runtime_table_is_served() {
        assert_eq!(ask(&CUDART), (CUresult::CUDA_SUCCESS, false));
    }

    #[test]
    fn unknown_table_is_refused_and_the_pointer_cleared() {
        let unknown = CUuuid { bytes: [7; 16] };
        assert_eq!(ask(&unknown), (CUresult::CUDA_ERROR_NOT_SUPPORTED, true));
    }

    #[test]
    fn null_arguments_are_invalid() {
        let (mut table, id) = (std::ptr::null(), CUDART);
        // SAFETY: null is allowed for either pointer, and the other is to a local.
        let no_id = unsafe { get_export_table(&raw mut table, std::ptr::null()) };
        // SAFETY: as above.
        let no_table = unsafe { get_export_table(std::ptr::null_mut(), &raw const id) };
        assert_eq!(no_id, CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(no_table, CUresult::CUDA_ERROR_INVALID_VALUE);
    }

    /// The status, and whether the table came back null.
    fn ask(id: &CUuuid) -> (CUresult, bool) {
        let mut table = std::ptr::dangling();
        // SAFETY: both pointers are to live values.
        let status = unsafe { get_export_table(&raw mut table, id) };
        (status, table.is_null())
    }
}
