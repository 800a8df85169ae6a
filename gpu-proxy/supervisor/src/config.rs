//! The configuration: what an operator may write, what it means, and every mistake in it.
//!
//! [`Config::parse`] reads a whole file and reports all mistakes, each with line, key, what is wrong and what
//! to do about it. Printing a [`Config`] gives the effective configuration as a file that reads back as the
//! same.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_channel::DriverKind;
use proxy_channel::jail::Mode;

mod api;
mod audit;
mod kafka;
mod monitor;
mod read;

pub use api::ApiConfig;
pub use audit::{AuditConfig, JsonLines};
pub use kafka::KafkaConfig;
pub use monitor::{MonitorConfig, MonitorMode};

pub use proxy_policy::document::{Mistake, Mistakes};

use proxy_policy::limits::Limits;
use proxy_policy::units::{duration_text, size_text};

use crate::reservations::Capacity;

/// Everything the supervisor is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[proxy]`
    pub proxy: ProxyConfig,
    /// `[driver]`
    pub driver: DriverConfig,
    /// Each `[[device]]`: what may be granted of it, by ordinal. Default: none, and quotas alone count.
    pub devices: Vec<Capacity>,
    /// `[audit]`, if there is one.
    pub audit: Option<AuditConfig>,
    /// `[monitor]`
    pub monitor: MonitorConfig,
    /// `[api]`, if there is one.
    pub api: Option<ApiConfig>,
    /// Each `[[zone]]`, in the order of the file.
    pub zones: Vec<ZoneConfig>,
}

/// `[proxy]`: the supervisor itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// `runtime_dir`: holds one folder with a socket per zone. Default `/run/vgpu`.
    pub runtime_dir: PathBuf,
    /// `worker`: the worker's executable. Default: `vgpu-worker` beside `gpu-proxy`.
    pub worker: PathBuf,
    /// `admin_socket`. Default: `admin.sock` in `runtime_dir`.
    pub admin_socket: PathBuf,
    /// `policy`: the file that says which zone is granted what. Default: none, and every zone may do everything.
    pub policy: Option<PathBuf>,
    /// `log_level`: `error`, `warn`, `info`, `debug` or `trace`. Default `info`.
    pub log_level: LogLevel,
    /// `log_format`: `text` or `json`. Default `text`.
    pub log_format: LogFormat,
    /// `stop_grace`: how long a worker that was told to stop may take before it is killed. Default `2s`.
    pub stop_grace: Duration,
    /// `hello_timeout`: how long a connection may stay silent. Default `2s`.
    pub hello_timeout: Duration,
    /// `start_timeout`: how long a worker may take to load and initialise the driver. Default `60s`.
    pub start_timeout: Duration,
    /// `scrub_patience`: how long device memory may be waited for that is dirty. Default `30s`.
    pub scrub_patience: Duration,
    /// `scrubber_uid`: the user that scrubbers run as, if the proxy is root. Default: the proxy's.
    pub scrubber_uid: Option<u32>,
    /// `scrubber_gid`: their group. Default: the proxy's.
    pub scrubber_gid: Option<u32>,
}

/// `[driver]`: what the workers load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverConfig {
    /// `kind`: `auto`, `nvidia` or `softgpu`. Default `auto`.
    pub kind: DriverSelection,
    /// `library`: absolute path of the driver library. Default: looked for.
    pub library: Option<PathBuf>,
    /// `env`: a table of environment variables for the workers, such as `SOFTGPU_MEMORY`.
    pub env: BTreeMap<String, String>,
    /// `jail`: `enforce`, `log` or `off`. Default: `enforce` for the software GPU; `log` for NVIDIA's driver,
    /// whose system calls have not been learned yet.
    pub jail: Option<Mode>,
}

impl DriverConfig {
    /// How much of the jail the workers of a driver of this kind get.
    #[must_use]
    pub fn jail(&self, kind: DriverKind) -> Mode {
        self.jail.unwrap_or(match kind {
            DriverKind::SOFTGPU => Mode::Enforce,
            _ => Mode::Log,
        })
    }
}

/// `driver.kind`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverSelection {
    /// NVIDIA's driver where there is one, otherwise the software GPU; the log says which and why.
    #[default]
    Auto,
    /// NVIDIA's driver.
    Nvidia,
    /// The software GPU.
    Softgpu,
}

/// `proxy.log_level`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// `proxy.log_format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines, one object per line.
    Json,
}

/// `[[zone]]`: one tenant, its socket and its quotas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneConfig {
    /// `name`: lower-case letters, digits, `-` and `_`. Names the folder of its socket. No default.
    pub name: String,
    /// `memory`: device memory that all its clients together may hold. No default.
    pub memory: u64,
    /// `pinned`: pinned host memory of each client, staging included. Default `1GiB`.
    pub pinned: u64,
    /// `host_memory`: host memory that all its workers together may have, where the host can count it. Default: any.
    pub host_memory: Option<u64>,
    /// `clients`: most clients at one time. Default 16.
    pub clients: u32,
    /// `warm_workers`: workers that wait with the driver initialised. Default 1.
    pub warm_workers: u32,
    /// `stuck_after`: how long work of one stream may stand still, or an image be translated, before its client is
    /// ended, with `CUDA_ERROR_LAUNCH_TIMEOUT`. Default: any time.
    pub stuck_after: Option<Duration>,
    /// `uid`: the only user that may attach; the socket becomes theirs if the proxy is root. Default: whoever
    /// can open the socket.
    pub uid: Option<u32>,
    /// `gid`: the socket's group, if the proxy is root. Default: the proxy's.
    pub gid: Option<u32>,
    /// `mode`: the socket's permissions. Default `"0600"`, with a `gid` `"0660"`.
    pub mode: u32,
    /// `devices`: ordinals of the devices its workers see. Default: all.
    pub devices: Option<Vec<u32>>,
    /// Further limits; see [`Limits`].
    pub limits: Limits,
    /// `worker_uid`: the user its workers run as, if the proxy is root. Default: the proxy's.
    pub worker_uid: Option<u32>,
    /// `worker_gid`: their group. Default: the proxy's.
    pub worker_gid: Option<u32>,
}

/// Where defaults come from that depend on the installation.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The folder that `gpu-proxy` itself lies in.
    pub executable_dir: PathBuf,
}

impl Config {
    /// Reads a configuration; `file` only names it in messages.
    pub fn parse(file: &Path, source: &str, installation: &Installation) -> Result<Self, Mistakes> {
        read::config(file, source, installation)
    }
}

impl ZoneConfig {
    /// The zone's socket.
    #[must_use]
    pub fn socket(&self, runtime_dir: &Path) -> PathBuf {
        runtime_dir.join(&self.name).join("gpu.sock")
    }
}

impl DriverSelection {
    /// All of them, with the words for them.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("nvidia", Self::Nvidia),
        ("softgpu", Self::Softgpu),
    ];
}

impl LogLevel {
    /// All of them, with the words for them.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl LogFormat {
    /// All of them, with the words for them.
    pub const NAMES: [(&'static str, Self); 2] = [("text", Self::Text), ("json", Self::Json)];
}

/// The word for a value.
#[must_use]
pub fn name_of<T: PartialEq + Copy>(names: &[(&'static str, T)], value: T) -> &'static str {
    names
        .iter()
        .find(|(_, candidate)| *candidate == value)
        .map_or("?", |(name, _)| name)
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            proxy,
            driver,
            devices,
            audit,
            monitor,
            api,
            zones,
        } = self;
        writeln!(f, "[proxy]")?;
        writeln!(
            f,
            "runtime_dir = {}",
            quoted(&proxy.runtime_dir.to_string_lossy())
        )?;
        writeln!(f, "worker = {}", quoted(&proxy.worker.to_string_lossy()))?;
        writeln!(
            f,
            "admin_socket = {}",
            quoted(&proxy.admin_socket.to_string_lossy())
        )?;
        if let Some(policy) = &proxy.policy {
            writeln!(f, "policy = {}", quoted(&policy.to_string_lossy()))?;
        }
        writeln!(
            f,
            "log_level = \"{}\"",
            name_of(&LogLevel::NAMES, proxy.log_level)
        )?;
        writeln!(
            f,
            "log_format = \"{}\"",
            name_of(&LogFormat::NAMES, proxy.log_format)
        )?;
        writeln!(f, "stop_grace = \"{}\"", duration_text(proxy.stop_grace))?;
        writeln!(
            f,
            "hello_timeout = \"{}\"",
            duration_text(proxy.hello_timeout)
        )?;
        writeln!(
            f,
            "start_timeout = \"{}\"",
            duration_text(proxy.start_timeout)
        )?;
        writeln!(
            f,
            "scrub_patience = \"{}\"",
            duration_text(proxy.scrub_patience)
        )?;
        numbers(
            f,
            &[
                ("scrubber_uid", proxy.scrubber_uid),
                ("scrubber_gid", proxy.scrubber_gid),
            ],
        )?;
        writeln!(f, "\n[driver]")?;
        writeln!(
            f,
            "kind = \"{}\"",
            name_of(&DriverSelection::NAMES, driver.kind)
        )?;
        if let Some(library) = &driver.library {
            writeln!(f, "library = {}", quoted(&library.to_string_lossy()))?;
        }
        if let Some(jail) = driver.jail {
            writeln!(f, "jail = \"{}\"", jail.name())?;
        }
        if !driver.env.is_empty() {
            let pairs: Vec<String> = driver
                .env
                .iter()
                .map(|(key, value)| format!("{key} = {}", quoted(value)))
                .collect();
            writeln!(f, "env = {{ {} }}", pairs.join(", "))?;
        }
        for (ordinal, memory) in devices {
            let memory = size_text(*memory);
            writeln!(
                f,
                "\n[[device]]\nordinal = {ordinal}\nmemory = \"{memory}\""
            )?;
        }
        if let Some(audit) = audit {
            write!(f, "\n{audit}")?;
        }
        write!(f, "\n{monitor}")?;
        if let Some(api) = api {
            write!(f, "\n{api}")?;
        }
        zones.iter().try_for_each(|zone| write!(f, "\n{zone}"))
    }
}

impl fmt::Display for ZoneConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[[zone]]")?;
        writeln!(f, "name = \"{}\"", self.name)?;
        writeln!(f, "memory = \"{}\"", size_text(self.memory))?;
        writeln!(f, "pinned = \"{}\"", size_text(self.pinned))?;
        if let Some(host_memory) = self.host_memory {
            writeln!(f, "host_memory = \"{}\"", size_text(host_memory))?;
        }
        writeln!(f, "clients = {}", self.clients)?;
        writeln!(f, "warm_workers = {}", self.warm_workers)?;
        if let Some(limit) = self.stuck_after {
            writeln!(f, "stuck_after = \"{}\"", duration_text(limit))?;
        }
        let ids = [
            ("uid", self.uid),
            ("gid", self.gid),
            ("worker_uid", self.worker_uid),
            ("worker_gid", self.worker_gid),
        ];
        numbers(f, &ids)?;
        writeln!(f, "mode = \"{:04o}\"", self.mode)?;
        if let Some(devices) = &self.devices {
            writeln!(f, "devices = {devices:?}")?;
        }
        self.limits.fmt(f)
    }
}

/// Those that are given.
fn numbers(f: &mut fmt::Formatter<'_>, list: &[(&str, Option<u32>)]) -> fmt::Result {
    for (key, number) in list {
        if let Some(number) = number {
            writeln!(f, "{key} = {number}")?;
        }
    }
    Ok(())
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(control)));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
