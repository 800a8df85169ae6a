//! What the CUDA runtime's handshake (`cuda_abi::handshake`) asks of this driver.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::Once;

use cuda_abi::handshake::{self, DeviceIdentity};
use cuda_abi::types::{CUcontext, CUdevice, CUmodule, CUresult};
use softgpu_core::error::Error;

use crate::{api, current, driver};

struct Tables;

/// Puts this driver behind the tables, once.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        handshake::install(&Tables);
    });
}

/// Runs the destructors of what the runtime keeps for a context.
pub(crate) fn context_destroyed(handle: u64) {
    handshake::context_destroyed(context_pointer(handle));
}

fn context_pointer(handle: u64) -> CUcontext {
    handle as CUcontext
}

fn result(error: Error) -> CUresult {
    CUresult(error.code())
}

impl handshake::Driver for Tables {
    fn version(&self) -> i32 {
        driver::config().map_or(0, |config| config.driver_version)
    }

    fn devices(&self) -> Result<Vec<DeviceIdentity>, CUresult> {
        let driver = driver::driver().map_err(result)?;
        let identity = |device: &softgpu_core::device::Device| {
            let (domain, bus, slot) = device.pci;
            let signed = |n: u32| i32::try_from(n).map_err(|_| result(Error::Unknown));
            Ok(DeviceIdentity {
                uuid: device.uuid,
                pci_domain: signed(domain)?,
                pci_bus: signed(bus)?,
                pci_device: signed(slot)?,
            })
        };
        driver.gpu.devices().iter().map(identity).collect()
    }

    fn primary_context(&self, device: CUdevice) -> Result<CUcontext, CUresult> {
        let driver = driver::driver().map_err(result)?;
        driver.primary(device).map(context_pointer).map_err(result)
    }

    fn current_context(&self) -> Result<CUcontext, CUresult> {
        driver::driver().map_err(result)?;
        Ok(context_pointer(current::top()))
    }

    fn context_id(&self, context: CUcontext) -> Result<u64, CUresult> {
        let driver = driver::driver().map_err(result)?;
        driver
            .context(context as u64)
            .map(|context| context.id())
            .map_err(result)
    }

    unsafe fn load_module(&self, image: *const c_void) -> Result<CUmodule, CUresult> {
        let mut module = std::ptr::null_mut();
        // SAFETY: a local for the result; the image is the caller's promise.
        let loaded = unsafe { api::module::cuModuleLoadData(&raw mut module, image) };
        loaded.map(|()| module).map_err(result)
    }

    fn unserved(&self, table: &'static str, slot: usize) {
        if let Ok(driver) = driver::driver() {
            driver.gpu.remark(format_args!(
                "private table {table}, entry {slot}: called and not served"
            ));
        }
    }
}
