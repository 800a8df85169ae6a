//! What a worker's jail is made of, in words that both ends and the operator share.
//!
//! Each layer is reported, one packet each, before the worker is ready: on, or off and why. A report is the
//! worker's word; it is given before the worker has met a tenant.

#![forbid(unsafe_code)]

use idm_protocol::attach::Text;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// More reports than this from one worker are a violation.
pub const MAX_LAYERS: usize = 16;

/// How much of the jail is wanted: `driver.jail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All of it; a system call outside the filter ends the worker.
    Enforce,
    /// What no driver can mind, and a filter that only logs: to learn what a driver needs.
    Log,
    /// None of it.
    Off,
}

impl Mode {
    /// All of them, with the words for them.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("enforce", Self::Enforce),
        ("log", Self::Log),
        ("off", Self::Off),
    ];

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Log => "log",
            Self::Off => "off",
        }
    }
}

/// One layer. An unknown value has no name and is shown as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Layer(pub u32);

impl Layer {
    /// The worker runs as a user of its zone's own.
    pub const USER: Self = Self(1);
    /// Not dumpable, no new privileges, no core file, a small environment.
    pub const PROCESS: Self = Self(2);
    /// Limits of descriptors, threads and the like.
    pub const LIMITS: Self = Self(3);
    /// No capabilities.
    pub const CAPABILITIES: Self = Self(4);
    /// A user namespace of its own.
    pub const USER_NAMESPACE: Self = Self(5);
    /// A mount namespace of its own, and in it an empty root.
    pub const ROOT: Self = Self(6);
    /// A network namespace of its own.
    pub const NETWORK: Self = Self(7);
    /// A namespace of its own for the older kinds of shared memory and queues.
    pub const IPC: Self = Self(8);
    /// A namespace of its own for process ids.
    pub const PROCESSES: Self = Self(9);
    /// Landlock: which files, TCP ports and processes are in reach.
    pub const LANDLOCK: Self = Self(10);
    /// The filter of system calls.
    pub const CALLS: Self = Self(11);
    /// A control group for all workers of its zone.
    pub const CGROUP: Self = Self(12);

    /// All of them, with their names.
    pub const NAMES: [(Self, &'static str); 12] = [
        (Self::USER, "user"),
        (Self::PROCESS, "process"),
        (Self::LIMITS, "limits"),
        (Self::CAPABILITIES, "capabilities"),
        (Self::USER_NAMESPACE, "user-namespace"),
        (Self::ROOT, "root"),
        (Self::NETWORK, "network"),
        (Self::IPC, "ipc"),
        (Self::PROCESSES, "processes"),
        (Self::LANDLOCK, "landlock"),
        (Self::CALLS, "calls"),
        (Self::CGROUP, "cgroup"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        let known = Self::NAMES.iter().find(|(layer, _)| *layer == self);
        known.map_or_else(|| self.0.to_string(), |(_, name)| (*name).to_owned())
    }
}

/// Whether a layer is on. An unknown value counts as [`State::MISSING`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct State(pub u32);

impl State {
    /// On.
    pub const ON: Self = Self(1);
    /// Off, because the configuration or the driver wants it so.
    pub const OFF: Self = Self(2);
    /// Off, because the host does not offer it.
    pub const MISSING: Self = Self(3);
    /// Watches and stops nothing.
    pub const LOG: Self = Self(4);

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ON => "on",
            Self::OFF => "off",
            Self::LOG => "log",
            _ => "missing",
        }
    }
}

/// A worker's word on one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Report {
    /// Which.
    pub layer: Layer,
    /// Whether it is on.
    pub state: State,
    /// Why it is not, or what is missing in it; may be empty.
    pub why: Text<240>,
}

impl Report {
    /// A layer that is on as it should be.
    #[must_use]
    pub fn on(layer: Layer) -> Self {
        Self::new(layer, State::ON, "")
    }

    /// A layer in any state.
    #[must_use]
    pub fn new(layer: Layer, state: State, why: &str) -> Self {
        Self {
            layer,
            state,
            why: Text::new(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_one_name_and_fits_into_a_workers_reports() {
        let mut names: Vec<_> = Layer::NAMES.iter().map(|(_, name)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Layer::NAMES.len());
        assert!(Layer::NAMES.len() <= MAX_LAYERS);
        assert_eq!(Layer(99).name(), "99");
        assert_eq!(State(99).name(), "missing");
        assert!(Mode::NAMES.iter().all(|(name, mode)| mode.name() == *name));
    }
}
