//! The driver library: a file chosen by absolute path, its functions, and who it says it is (D3).
//!
//! The C ABI of the Driver API is the only interface; nothing here knows whether a GPU or the
//! software GPU is behind it. Our own client library exports the same names, and a worker that
//! loaded it would call itself, so a library with the client's marker symbol is refused.

mod calls;
mod code;
mod graph;
mod image;
mod ipc;
mod link;
mod node;
mod pool;
mod stream;
mod tensor;
mod vmm;

pub use calls::{JitOptions, Launch};
pub use graph::{CaptureInfo, Edges};
pub use image::ArrayShape;
pub use link::{Input, Link};
pub use node::NodeParams;
pub use tensor::{Pixels, TensorShape};

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cuda_abi::types::CUresult;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use thiserror::Error;

pub use crate::generated::driver::Table;

/// Exported by our own `libcuda.so.1` and by nothing else.
const CLIENT_MARKER: &CStr = c"vgpu_libvgpu_marker";

/// The functions of a loaded library.
#[derive(Debug)]
pub struct Symbols {
    library: Library,
}

impl Symbols {
    /// The function of this name, if the library has it.
    ///
    /// # Safety
    ///
    /// `T` must be a function pointer type with the signature of the symbol.
    #[must_use]
    pub unsafe fn find<T: Copy>(&self, name: &CStr) -> Option<T> {
        // SAFETY: the caller vouches for the type; the library stays loaded for ever (`Driver`).
        let symbol = unsafe { self.library.get::<T>(name.to_bytes_with_nul()) };
        symbol.ok().map(|symbol| *symbol)
    }
}

/// A driver that is loaded and initialised.
#[derive(Debug)]
pub struct Driver {
    /// Its functions.
    pub table: Table,
    /// The file it was loaded from, as the loader says.
    pub path: PathBuf,
    /// What `cuDriverGetVersion` says.
    pub version: i32,
    /// What `cuDeviceGetCount` says.
    pub device_count: u32,
    /// The major numbers of the devices' compute capabilities.
    pub majors: Vec<u32>,
}

/// Why there is no driver. The worker says so and exits; the supervisor tells clients.
#[derive(Debug, Error)]
pub enum DriverError {
    /// A relative path would be searched for, and could find anything.
    #[error("driver path {} is not absolute", .0.display())]
    NotAbsolute(PathBuf),
    /// The loader refused.
    #[error("cannot load {}: {reason}", path.display())]
    Load {
        /// What was to be loaded.
        path: PathBuf,
        /// The loader's reason.
        reason: libloading::Error,
    },
    /// It is our own client library.
    #[error(
        "{} is the client's libcuda of this project, not a driver; set [driver] library to the real one",
        .0.display()
    )]
    Client(PathBuf),
    /// It lacks what every driver has.
    #[error("{} has no {function}: it is not a CUDA driver library", path.display())]
    Missing {
        /// What was loaded.
        path: PathBuf,
        /// What it should have.
        function: &'static str,
    },
    /// It is there but does not work.
    #[error("{function} of {} failed: {status:?}", path.display())]
    Failed {
        /// What was loaded.
        path: PathBuf,
        /// What was called.
        function: &'static str,
        /// What it returned.
        status: CUresult,
    },
}

impl Driver {
    /// Loads the library at `path` and initialises it. It is never unloaded.
    ///
    /// # Errors
    /// [`DriverError`].
    ///
    /// # Safety
    ///
    /// `path` must be a library that implements the CUDA Driver API: its constructors run, and
    /// functions are called by their names.
    pub unsafe fn load(path: &Path) -> Result<Self, DriverError> {
        if !path.is_absolute() {
            return Err(DriverError::NotAbsolute(path.into()));
        }
        // SAFETY: running its constructors is what the caller asked for.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|reason| DriverError::Load {
            path: path.into(),
            reason,
        })?;
        let symbols = Symbols { library };
        // SAFETY: only asked whether it is there; a pointer to anything may be looked at as one.
        if unsafe { symbols.find::<*const ()>(CLIENT_MARKER) }.is_some() {
            return Err(DriverError::Client(path.into()));
        }
        // SAFETY: the caller vouches that the library implements the Driver API.
        let table = unsafe { Table::load(&symbols) };
        let path = loaded_from(&symbols).unwrap_or_else(|| path.into());
        // Functions of the table are called until the process ends.
        std::mem::forget(symbols);
        let mut driver = Self {
            table,
            path,
            version: 0,
            device_count: 0,
            majors: Vec::new(),
        };
        driver.call("cuInit", Table::init)?;
        driver.version = driver.call("cuDriverGetVersion", Table::driver_version)?;
        let count = driver.call("cuDeviceGetCount", Table::device_count)?;
        driver.device_count = u32::try_from(count).unwrap_or(0);
        driver.majors = driver.call("cuDeviceGetAttribute", |table| table.majors(count))?;
        Ok(driver)
    }

    fn call<T>(
        &self,
        function: &'static str,
        call: impl Fn(&Table) -> Result<T, CUresult>,
    ) -> Result<T, DriverError> {
        call(&self.table).map_err(|status| {
            let path = self.path.clone();
            if status == CUresult::CUDA_ERROR_NOT_SUPPORTED {
                DriverError::Missing { path, function }
            } else {
                DriverError::Failed {
                    path,
                    function,
                    status,
                }
            }
        })
    }
}

/// The file that the loader took the library from: what a link resolved to, say.
fn loaded_from(symbols: &Symbols) -> Option<PathBuf> {
    // SAFETY: only its address is used.
    let address = unsafe { symbols.find::<*const libc::c_void>(c"cuInit") }?;
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: `info` is a place for the answer.
    if unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: dladdr filled it in, and zero is a valid value of all its fields anyway.
    let info = unsafe { info.assume_init() };
    if info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: a NUL-terminated name that the loader keeps as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    std::fs::canonicalize(OsStr::from_bytes(name.to_bytes())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_is_refused_before_the_loader_sees_it() {
        // SAFETY: nothing is loaded.
        let refused = unsafe { Driver::load(Path::new("libcuda.so.1")) };
        assert!(matches!(refused, Err(DriverError::NotAbsolute(_))));
    }

    #[test]
    fn what_is_no_library_and_what_is_no_driver_are_told_apart() {
        // SAFETY: the file is no library.
        let refused = unsafe { Driver::load(Path::new("/etc/passwd")) };
        assert!(matches!(refused, Err(DriverError::Load { .. })));
        let libc = Path::new("/lib/x86_64-linux-gnu/libc.so.6");
        if libc.exists() {
            // SAFETY: the C library is loaded already, and none of its functions is called.
            let refused = unsafe { Driver::load(libc) };
            let missing = matches!(
                refused,
                Err(DriverError::Missing {
                    function: "cuInit",
                    ..
                })
            );
            assert!(missing, "{refused:?}");
        }
    }
}
