//! A namespace of process ids for the next worker.
//!
//! A process cannot move into one; it can only be started as the first of a new one. So whoever starts it
//! says so before and takes it back after.

#![forbid(unsafe_code)]

use std::fs::File;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

/// While this is there, the calling thread's next child is the first of a namespace of its own.
#[derive(Debug)]
#[must_use]
pub struct PidNamespace {
    home: File,
}

impl PidNamespace {
    /// Asks for it.
    ///
    /// # Errors
    /// The system's: most likely that the caller may not.
    pub fn announce() -> Result<Self, Errno> {
        let home = File::open("/proc/self/ns/pid")
            .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        unshare(CloneFlags::CLONE_NEWPID)?;
        Ok(Self { home })
    }

    /// Takes it back: later children are where the caller is.
    ///
    /// # Errors
    /// The system's; the caller can start no more processes then.
    pub fn retract(self) -> Result<(), Errno> {
        setns(self.home, CloneFlags::CLONE_NEWPID)
    }
}
