//! What a process that listens on a network gives up once it listens: capabilities, files, ports, other processes.

use caps::CapSet;
use caps::errors::CapsError;
use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, Scope};
use thiserror::Error;

/// The newest that this code knows; an older kernel enforces what it has, which may be nothing.
const NEWEST: ABI = ABI::V6;

/// Why something could not be given up.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// Capabilities.
    #[error("cannot give up capabilities: {0}")]
    Capabilities(#[from] CapsError),
    /// Files, ports and processes.
    #[error("cannot give up files: {0}")]
    Landlock(#[from] RulesetError),
}

/// Gives up everything that serving does not need. For the calling thread and those that it makes: call it before there
/// are others.
///
/// # Errors
/// [`ConfineError`]; what the kernel does not offer is none.
pub fn confine() -> Result<(), ConfineError> {
    // Only root may; whoever is not root has none to draw from.
    let _ = caps::clear(None, CapSet::Bounding);
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set)?;
    }
    // Connecting to a socket by its path is not held against it; opening any file, another port, signals to others are.
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::Signal | Scope::AbstractUnixSocket)?
        .create()?
        .restrict_self()?;
    Ok(())
}
