//! Calls that ask what a module holds and how it fits a device.

use core::ffi::{CStr, c_char, c_uint};
use std::ffi::CString;

use cuda_abi::types::{CUfunction, CUkernel, CUlaunchAttribute, CUlibrary, CUmodule, CUresult};

use super::Table;
use super::calls::{Launch, Result, ok};

/// More kernels than any image holds; the driver says how many there are.
const MOST_KERNELS: u32 = 1 << 20;

impl Table {
    /// The names of a library's kernels.
    pub(crate) fn library_names(&self, library: usize) -> Result<Vec<CString>> {
        let (count_of, enumerate) = (
            self.cuLibraryGetKernelCount()?,
            self.cuLibraryEnumerateKernels()?,
        );
        let library = library as CUlibrary;
        let mut count = 0;
        // SAFETY: ours.
        ok(unsafe { count_of(&raw mut count, library) })?;
        let mut kernels: Vec<CUkernel> = vec![core::ptr::null_mut(); bounded(count)?];
        // SAFETY: ours; the array has room for `count`.
        ok(unsafe { enumerate(kernels.as_mut_ptr(), count, library) })?;
        let name = self.cuKernelGetName()?;
        let named = kernels.into_iter().map(|kernel| {
            text(|to| {
                // SAFETY: the driver gave us the kernel a moment ago.
                unsafe { name(to, kernel) }
            })
        });
        named.collect()
    }

    /// The names of a module's functions.
    pub(crate) fn module_names(&self, module: usize) -> Result<Vec<CString>> {
        let (count_of, enumerate) = (
            self.cuModuleGetFunctionCount()?,
            self.cuModuleEnumerateFunctions()?,
        );
        let module = module as CUmodule;
        let mut count = 0;
        // SAFETY: ours.
        ok(unsafe { count_of(&raw mut count, module) })?;
        let mut functions: Vec<CUfunction> = vec![core::ptr::null_mut(); bounded(count)?];
        // SAFETY: ours; the array has room for `count`.
        ok(unsafe { enumerate(functions.as_mut_ptr(), count, module) })?;
        let name = self.cuFuncGetName()?;
        let named = functions.into_iter().map(|function| {
            text(|to| {
                // SAFETY: the driver gave us the function a moment ago.
                unsafe { name(to, function) }
            })
        });
        named.collect()
    }

    /// How many clusters of that shape run at once, or the largest one.
    pub(crate) fn clusters(
        &self,
        potential: bool,
        function: usize,
        shape: &Launch,
        attributes: &mut [CUlaunchAttribute],
    ) -> Result<i32> {
        let ask = if potential {
            self.cuOccupancyMaxPotentialClusterSize()?
        } else {
            self.cuOccupancyMaxActiveClusters()?
        };
        let config = shape.config(0, attributes);
        let mut count = 0;
        // SAFETY: ours; the attributes are a slice of the length in `config`.
        ok(unsafe { ask(&raw mut count, function as CUfunction, &raw const config) })?;
        Ok(count)
    }
}

fn bounded(count: c_uint) -> Result<usize> {
    if count > MOST_KERNELS {
        return Err(CUresult::CUDA_ERROR_UNKNOWN);
    }
    usize::try_from(count).map_err(|_| CUresult::CUDA_ERROR_UNKNOWN)
}

/// A copy of a text of the driver's that `ask` brings.
fn text(ask: impl FnOnce(*mut *const c_char) -> CUresult) -> Result<CString> {
    let mut text: *const c_char = core::ptr::null();
    ok(ask(&raw mut text))?;
    if text.is_null() {
        return Err(CUresult::CUDA_ERROR_NOT_FOUND);
    }
    // SAFETY: a name of the driver's, which ends and lives as long as what it names.
    Ok(unsafe { CStr::from_ptr(text) }.to_owned())
}
