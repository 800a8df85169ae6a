//! `[monitor]`: whether the driver is asked what each worker holds, and what becomes of one that holds too much.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use proxy_channel::DriverKind;
use proxy_policy::document::{Reader, Section};
use proxy_policy::units::{duration_text, size_text};

use super::read::{NO_ID, absolute, bytes, time};
use super::{Installation, name_of, quoted};
use crate::driver::Driver;

/// `[monitor]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorConfig {
    /// `mode`: `enforce`, `report` or `off`. Default: `report` with NVIDIA's driver, `off` with the software GPU.
    pub mode: Option<MonitorMode>,
    /// `monitor`: its executable. Default: `vgpu-monitor` beside `gpu-proxy`.
    pub monitor: PathBuf,
    /// `library`: the management library, by absolute path. Default: the one that belongs to the driver.
    pub library: Option<PathBuf>,
    /// `interval`: from one sweep to the next. Default `1s`.
    pub interval: Duration,
    /// `allowance`: what a worker's process may have above what it was granted, for what the driver keeps in it.
    /// Default `1GiB`.
    pub allowance: u64,
    /// `uid`: the user that it runs as, if the proxy is root. Default: the proxy's.
    pub uid: Option<u32>,
    /// `gid`: its group. Default: the proxy's.
    pub gid: Option<u32>,
}

/// What becomes of a worker that holds more than it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonitorMode {
    /// It ends.
    Enforce,
    /// It is recorded.
    Report,
    /// Nobody asks.
    Off,
}

impl MonitorMode {
    /// All of them, with the words for them.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("enforce", Self::Enforce),
        ("report", Self::Report),
        ("off", Self::Off),
    ];
}

impl MonitorConfig {
    /// What is done with a driver of this kind.
    #[must_use]
    pub fn mode(&self, kind: DriverKind) -> MonitorMode {
        self.mode.unwrap_or(match kind {
            DriverKind::SOFTGPU => MonitorMode::Off,
            _ => MonitorMode::Report,
        })
    }

    /// The library to ask, by path or, for the dynamic linker, by name.
    #[must_use]
    pub fn library(&self, driver: &Driver) -> OsString {
        if let Some(path) = &self.library {
            return path.clone().into();
        }
        let name = match driver.kind {
            DriverKind::SOFTGPU => "libsoftnvml.so",
            _ => "libnvidia-ml.so.1",
        };
        let beside = driver.path.with_file_name(name);
        match beside.exists() {
            true => beside.into(),
            false => name.into(),
        }
    }
}

pub(super) fn read<'s>(
    reader: &mut Reader<'s>,
    mut section: Section<'s>,
    installation: &Installation,
) -> MonitorConfig {
    let keys = &mut section;
    let config = MonitorConfig {
        mode: reader.word(keys, "mode", &MonitorMode::NAMES),
        monitor: absolute(reader, keys, "monitor")
            .unwrap_or_else(|| installation.executable_dir.join("vgpu-monitor")),
        library: absolute(reader, keys, "library"),
        interval: time(reader, keys, "interval", 1_000, 10..=60_000),
        allowance: bytes(reader, keys, "allowance", 1 << 30),
        uid: reader.number(keys, "uid", 0..NO_ID),
        gid: reader.number(keys, "gid", 0..NO_ID),
    };
    reader.close(section);
    config
}

impl fmt::Display for MonitorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[monitor]")?;
        if let Some(mode) = self.mode {
            writeln!(f, "mode = \"{}\"", name_of(&MonitorMode::NAMES, mode))?;
        }
        writeln!(f, "monitor = {}", quoted(&self.monitor.to_string_lossy()))?;
        if let Some(library) = &self.library {
            writeln!(f, "library = {}", quoted(&library.to_string_lossy()))?;
        }
        writeln!(f, "interval = \"{}\"", duration_text(self.interval))?;
        writeln!(f, "allowance = \"{}\"", size_text(self.allowance))?;
        super::numbers(f, &[("uid", self.uid), ("gid", self.gid)])
    }
}
