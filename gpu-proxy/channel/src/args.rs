//! The command line that a supervisor starts a worker with; both ends build and read it here.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use idm_protocol::attach::DriverKind;
use thiserror::Error;

use crate::jail::Mode;

/// What a worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// To serve one client.
    Serve,
    /// To zero what is free on the one device that it sees, and end. It never meets a tenant.
    Scrub,
    /// To look whether that device does anything, and end.
    Probe,
}

impl Task {
    /// All of them, with the words for them.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("serve", Self::Serve),
        ("scrub", Self::Scrub),
        ("probe", Self::Probe),
    ];

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Scrub => "scrub",
            Self::Probe => "probe",
        }
    }
}

/// What a worker must know before it can say that it is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerArgs {
    /// What it is for.
    pub task: Task,
    /// The zone it will serve, for its log lines; empty for a scrubber.
    pub zone: String,
    /// What the library is supposed to be.
    pub driver_kind: DriverKind,
    /// Absolute path of the driver library.
    pub driver_path: PathBuf,
    /// Why this one; comes back in [`crate::message::Ready`].
    pub why: String,
    /// How much of the jail is wanted.
    pub jail: Mode,
}

const TASK: &str = "--task";
const ZONE: &str = "--zone";
const KIND: &str = "--driver-kind";
const PATH: &str = "--driver";
const WHY: &str = "--why";
const JAIL: &str = "--jail";

impl WorkerArgs {
    /// The arguments, without the program's name.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let kind = self.driver_kind.name();
        let pairs: [(&str, &OsStr); 6] = [
            (TASK, self.task.name().as_ref()),
            (ZONE, self.zone.as_ref()),
            (KIND, kind.as_ref()),
            (PATH, self.driver_path.as_ref()),
            (WHY, self.why.as_ref()),
            (JAIL, self.jail.name().as_ref()),
        ];
        pairs
            .iter()
            .flat_map(|&(key, value)| [key.into(), value.to_owned()])
            .collect()
    }

    /// Reads the arguments, without the program's name.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, ArgsError> {
        let (mut task, mut zone, mut kind) = (None, None, None);
        let (mut path, mut why, mut jail) = (None, None, None);
        let mut args = args.into_iter();
        while let Some(key) = args.next() {
            let place = match key.to_str() {
                Some(TASK) => &mut task,
                Some(ZONE) => &mut zone,
                Some(KIND) => &mut kind,
                Some(PATH) => &mut path,
                Some(WHY) => &mut why,
                Some(JAIL) => &mut jail,
                _ => return Err(ArgsError::Unknown(key)),
            };
            *place = Some(
                args.next()
                    .ok_or(ArgsError::Missing("a value after the last key"))?,
            );
        }
        let kind = kind.ok_or(ArgsError::Missing(KIND))?;
        let driver_kind = [DriverKind::NVIDIA, DriverKind::SOFTGPU]
            .into_iter()
            .find(|candidate| kind == candidate.name())
            .ok_or(ArgsError::Unknown(kind))?;
        let task = one_of(&Task::NAMES, task, TASK)?;
        let jail = one_of(&Mode::NAMES, jail, JAIL)?;
        let driver_path = PathBuf::from(path.ok_or(ArgsError::Missing(PATH))?);
        if !driver_path.is_absolute() {
            return Err(ArgsError::NotAbsolute(driver_path));
        }
        let text = |value: Option<OsString>, key| {
            value
                .map(|value| value.to_string_lossy().into_owned())
                .ok_or(ArgsError::Missing(key))
        };
        Ok(Self {
            task,
            zone: text(zone, ZONE)?,
            driver_kind,
            driver_path,
            why: text(why, WHY)?,
            jail,
        })
    }
}

/// The value for one of some words.
fn one_of<T: Copy>(
    names: &[(&str, T)],
    word: Option<OsString>,
    key: &'static str,
) -> Result<T, ArgsError> {
    let word = word.ok_or(ArgsError::Missing(key))?;
    let found = names.iter().find(|(name, _)| word == *name);
    found
        .map(|&(_, value)| value)
        .ok_or(ArgsError::Unknown(word))
}

/// A worker that was not started by a supervisor of its build.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum ArgsError {
    /// An argument nobody knows.
    #[error("unknown argument {0:?}; vgpu-worker is started by gpu-proxy, not by hand")]
    Unknown(OsString),
    /// Something is not there.
    #[error("missing: {0}; vgpu-worker is started by gpu-proxy, not by hand")]
    Missing(&'static str),
    /// A library is only ever loaded by absolute path (D3).
    #[error("driver path {} is not absolute", .0.display())]
    NotAbsolute(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> WorkerArgs {
        WorkerArgs {
            task: Task::Scrub,
            zone: "a".into(),
            driver_kind: DriverKind::SOFTGPU,
            driver_path: "/lib/libsoftcuda.so.1".into(),
            why: "no /dev/nvidiactl".into(),
            jail: Mode::Log,
        }
    }

    #[test]
    fn arguments_survive_a_round_trip() {
        assert_eq!(WorkerArgs::from_args(args().to_args()), Ok(args()));
    }

    #[test]
    fn missing_unknown_and_relative_are_refused() {
        let all = args().to_args();
        for key in (0..all.len()).step_by(2) {
            let mut fewer = all.clone();
            fewer.drain(key..key + 2);
            assert!(matches!(
                WorkerArgs::from_args(fewer),
                Err(ArgsError::Missing(_))
            ));
        }
        assert!(matches!(
            WorkerArgs::from_args(["-x".into()]),
            Err(ArgsError::Unknown(_))
        ));
        let relative = WorkerArgs {
            driver_path: "libcuda.so.1".into(),
            ..args()
        };
        assert!(matches!(
            WorkerArgs::from_args(relative.to_args()),
            Err(ArgsError::NotAbsolute(_))
        ));
    }
}
