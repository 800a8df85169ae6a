//! Namespaces that a process is born into: of process ids its own, of a network that of its zone.
//!
//! A child begins where its parent is, and nothing can move into a namespace of process ids later. So whoever starts
//! one goes there before, and goes home after.

#![forbid(unsafe_code)]

use std::fs::File;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

/// While this is there, the calling thread's next children begin elsewhere.
#[derive(Debug)]
#[must_use]
pub struct Away {
    home: File,
    kind: CloneFlags,
}

/// A network that several processes share: they reach each other's local sockets and nothing else.
#[derive(Debug)]
pub struct Network(File);

impl Away {
    /// The next child is the first of a namespace of process ids.
    ///
    /// # Errors
    /// The system's: most likely that the caller may not.
    pub fn from_processes() -> Result<Self, Errno> {
        Self::leave(CloneFlags::CLONE_NEWPID)
    }

    /// Makes a new namespace of a kind, and goes there.
    fn leave(kind: CloneFlags) -> Result<Self, Errno> {
        let home = here(kind)?;
        unshare(kind)?;
        Ok(Self { home, kind })
    }

    /// Later children begin where the caller was.
    ///
    /// # Errors
    /// The system's. Away from its processes the caller can start no more; of its network it needs nothing.
    pub fn go_home(self) -> Result<(), Errno> {
        setns(self.home, self.kind)
    }
}

impl Network {
    /// Makes one, with nothing in it.
    ///
    /// # Errors
    /// The system's: most likely that the caller may not.
    pub fn new() -> Result<Self, Errno> {
        let away = Away::leave(CloneFlags::CLONE_NEWNET)?;
        let network = here(CloneFlags::CLONE_NEWNET);
        away.go_home()?;
        network.map(Self)
    }

    /// Goes there.
    ///
    /// # Errors
    /// The system's.
    pub fn enter(&self) -> Result<Away, Errno> {
        let kind = CloneFlags::CLONE_NEWNET;
        let home = here(kind)?;
        setns(&self.0, kind)?;
        Ok(Away { home, kind })
    }
}

/// The namespace that the calling thread is in.
fn here(kind: CloneFlags) -> Result<File, Errno> {
    let path = match kind {
        CloneFlags::CLONE_NEWPID => "/proc/thread-self/ns/pid",
        _ => "/proc/thread-self/ns/net",
    };
    File::open(path).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}
