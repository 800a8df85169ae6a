//! What the private tables of NVIDIA's runtime need to know of this driver; the tables themselves are in
//! `cuda_abi::handshake`.

use std::ffi::c_void;
use std::sync::PoisonError;

use cuda_abi::handshake::{DeviceIdentity, Driver};
use cuda_abi::types::{CUcontext, CUdevice, CUmodule, CUresult};

use crate::api;
use crate::context;
use crate::log::say;
use crate::state;
use crate::thread::Thread;

/// The driver behind the tables.
#[derive(Debug)]
pub(crate) struct Client;

impl Driver for Client {
    fn version(&self) -> i32 {
        api::device::driver_version()
    }

    fn devices(&self) -> Result<Vec<DeviceIdentity>, CUresult> {
        let devices = state::ready()?.devices()?;
        let identity = |device: &idm_protocol::wire::snapshot::Device| DeviceIdentity {
            uuid: device.uuid,
            pci_domain: device.pci[0],
            pci_bus: device.pci[1],
            pci_device: device.pci[2],
        };
        Ok(devices.list.iter().map(identity).collect())
    }

    fn primary_context(&self, device: CUdevice) -> Result<CUcontext, CUresult> {
        let primary = state::ready()?.devices()?.primary(device)?;
        let primary = primary.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(primary.handle.value() as CUcontext)
    }

    fn current_context(&self) -> Result<CUcontext, CUresult> {
        state::ready()?;
        Ok(Thread::current()
            .context()
            .map_or(0, |context| context.handle) as CUcontext)
    }

    fn context_id(&self, context: CUcontext) -> Result<u64, CUresult> {
        let session = state::ready()?;
        let context = if context.is_null() {
            Thread::current()
                .context()
                .ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?
        } else {
            context::resolve(session, context)?
        };
        Ok(api::context::id(context))
    }

    unsafe fn load_module(&self, image: *const c_void) -> Result<CUmodule, CUresult> {
        let mut module = std::ptr::null_mut();
        // SAFETY: a local, and an image that the caller vouches for.
        unsafe { api::module::cuModuleLoadData(&raw mut module, image) }?;
        Ok(module)
    }

    fn unserved(&self, table: &'static str, slot: usize) {
        say!(
            Warn,
            "private table {table}: slot {slot} is not served: CUDA_ERROR_NOT_SUPPORTED"
        );
    }
}
