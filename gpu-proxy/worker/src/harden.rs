//! What a worker takes away from itself before it loads anything (D16).
//!
//! The jail proper (namespaces, system call filter) is sealed between `Ready` and `Assign`, in
//! [`seal`]: after the driver's initialisation, before the tenant's descriptors arrive.

use std::ffi::OsStr;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};

/// Environment that the driver may need. Everything else is removed.
const KEPT: [&str; 6] = [
    "SOFTGPU_",
    "CUDA_",
    "NVIDIA_",
    "VGPU_LOG",
    "RUST_BACKTRACE",
    "TZ",
];

/// Limits this process before it has loaded anything. Call it before any other thread exists.
///
/// # Errors
/// The system's reason; the worker does not go on without these.
pub fn begin() -> Result<(), Errno> {
    // A worker outlives nobody, not even its supervisor.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // No core file and no ptrace: the tenant's data and the driver's state stay inside.
    nix::sys::prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    nix::sys::prctl::set_no_new_privs()?;
    scrub_environment();
    Ok(())
}

/// Seals what can be sealed once the driver is initialised. At present nothing is left to do here;
/// it is the place of the jail.
pub fn seal() {}

/// Ends this process at once, without the exit handlers of a driver whose threads still run.
pub fn exit(code: i32) -> ! {
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// Logs a panic and ends the worker: no half-done state is worth going on with.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        tracing::error!(%info, "panic; the worker ends");
        std::process::abort();
    }));
}

fn scrub_environment() {
    let removed: Vec<_> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| !is_kept(name))
        .collect();
    for name in removed {
        // SAFETY: no other thread exists yet (`begin`), so nobody reads the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }
}

fn is_kept(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    // The loader's own variables start with LD_; none of them is on the list.
    KEPT.iter()
        .any(|prefix| name.starts_with(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_not_told_what_to_preload() {
        assert!(is_kept(OsStr::new("SOFTGPU_THREADS")));
        assert!(is_kept(OsStr::new("CUDA_VISIBLE_DEVICES")));
        for name in [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "HOME",
            "PATH",
            "AWS_SECRET",
        ] {
            assert!(!is_kept(OsStr::new(name)), "{name}");
        }
    }
}
