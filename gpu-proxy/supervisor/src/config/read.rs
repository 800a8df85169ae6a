//! From a TOML document to a [`Config`].

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_channel::jail::Mode;
use proxy_policy::document::{Item, Mistakes, Reader, Section, article};
use proxy_policy::limits::Limits;
use proxy_policy::units::{duration, duration_text, size, size_text};
use proxy_policy::values::{self, MAX_CLIENTS};
use toml::de::DeValue;

use super::{
    Config, DriverConfig, DriverSelection, Installation, LogFormat, LogLevel, ProxyConfig,
    ZoneConfig, api, audit, monitor,
};
use crate::reservations::{self, Capacity, Claim};
use crate::zone::grant::Grant;

/// What fits into the address of a UNIX socket, without the final zero.
const MAX_SOCKET_PATH_LEN: usize = 107;

pub(super) const NO_ID: u64 = u32::MAX as u64;

pub(super) fn config(
    file: &Path,
    source: &str,
    installation: &Installation,
) -> Result<Config, Mistakes> {
    let (mut reader, mut root) = Reader::open(source);
    let section = reader.table(&mut root, "proxy");
    let proxy = proxy(&mut reader, section, installation);
    let section = reader.table(&mut root, "driver");
    let driver = driver(&mut reader, section);
    let sections = reader.tables(&mut root, "device");
    let devices = devices(&mut reader, sections);
    let section = reader.table(&mut root, "audit");
    let audit = audit::read(&mut reader, section, installation);
    let audit = root.took("audit").then_some(audit);
    let section = reader.table(&mut root, "monitor");
    let monitor = monitor::read(&mut reader, section, installation);
    let section = reader.table(&mut root, "api");
    let api = api::read(&mut reader, section, installation);
    let api = root.took("api").then_some(api);
    let sections = reader.tables(&mut root, "zone");
    if sections.is_empty() && !root.took("zone") {
        reader.missing(
            0,
            "zone",
            "is missing: nobody could attach",
            "add a [[zone]] with at least name and memory",
        );
    }
    reader.close(root);
    let mut zones: Vec<ZoneConfig> = Vec::new();
    let mut places = Vec::new();
    for section in sections {
        let at = section.at();
        let key = section.key("name");
        let reserve = section.key("reserve");
        let Some(zone) = zone(&mut reader, section, &proxy.runtime_dir) else {
            continue;
        };
        if zones.iter().any(|other| other.name == zone.name) {
            let problem = format!("{:?} is the name of an earlier zone", zone.name);
            reader.mistake(at, &key, problem, "give each zone a name of its own");
        }
        zones.push(zone);
        places.push((at, reserve));
    }
    // With a policy its word counts, and it is checked with it.
    if proxy.policy.is_none() {
        let claims: Vec<Claim> = zones
            .iter()
            .map(|zone| Grant::of(zone, None).claim(&zone.name))
            .collect();
        for problem in reservations::check(&devices, &claims) {
            if let Some((at, key)) = places.get(problem.claim) {
                reader.mistake(*at, key, problem.problem, problem.remedy);
            }
        }
    }
    reader.finish(
        file,
        Config {
            proxy,
            driver,
            devices,
            audit,
            monitor,
            api,
            zones,
        },
    )
}

fn proxy<'s>(
    reader: &mut Reader<'s>,
    mut section: Section<'s>,
    installation: &Installation,
) -> ProxyConfig {
    let keys = &mut section;
    let runtime_dir =
        absolute(reader, keys, "runtime_dir").unwrap_or_else(|| PathBuf::from("/run/vgpu"));
    let worker = absolute(reader, keys, "worker")
        .unwrap_or_else(|| installation.executable_dir.join("vgpu-worker"));
    let admin_socket = match absolute(reader, keys, "admin_socket") {
        Some(path) => path,
        None => runtime_dir.join("admin.sock"),
    };
    if admin_socket.as_os_str().len() > MAX_SOCKET_PATH_LEN {
        let key = keys.key("admin_socket");
        too_long(reader, keys.at(), &key, &admin_socket);
    }
    let config = ProxyConfig {
        runtime_dir,
        worker,
        admin_socket,
        policy: absolute(reader, keys, "policy"),
        log_level: reader
            .word(keys, "log_level", &LogLevel::NAMES)
            .unwrap_or(LogLevel::Info),
        log_format: reader
            .word(keys, "log_format", &LogFormat::NAMES)
            .unwrap_or(LogFormat::Text),
        stop_grace: time(reader, keys, "stop_grace", 2_000, 0..=60_000),
        hello_timeout: time(reader, keys, "hello_timeout", 2_000, 10..=60_000),
        start_timeout: time(reader, keys, "start_timeout", 60_000, 100..=600_000),
        scrub_patience: time(reader, keys, "scrub_patience", 30_000, 100..=600_000),
        scrubber_uid: reader.number(keys, "scrubber_uid", 0..NO_ID),
        scrubber_gid: reader.number(keys, "scrubber_gid", 0..NO_ID),
    };
    reader.close(section);
    config
}

fn driver<'s>(reader: &mut Reader<'s>, mut section: Section<'s>) -> DriverConfig {
    let kind = reader
        .word(&mut section, "kind", &DriverSelection::NAMES)
        .unwrap_or_default();
    let at = section.at();
    let library = absolute(reader, &mut section, "library");
    if library.is_some() && kind == DriverSelection::Auto {
        let key = section.key("library");
        let remedy = "set driver.kind to \"nvidia\" or \"softgpu\", whichever it is";
        reader.mistake(at, &key, "is given, but driver.kind is \"auto\"", remedy);
    }
    let jail = reader.word(&mut section, "jail", &Mode::NAMES);
    let table = reader.table(&mut section, "env");
    let env = environment(reader, table);
    reader.close(section);
    DriverConfig {
        kind,
        library,
        env,
        jail,
    }
}

fn devices<'s>(reader: &mut Reader<'s>, sections: Vec<Section<'s>>) -> Vec<Capacity> {
    let mut devices: Vec<Capacity> = Vec::new();
    for mut section in sections {
        let keys = &mut section;
        let at = keys.at();
        let key = keys.key("ordinal");
        let ordinal = reader.number(keys, "ordinal", 0..values::MAX_DEVICES);
        let memory = values::memory(reader, keys);
        for (name, missing) in [("ordinal", ordinal.is_none()), ("memory", memory.is_none())] {
            if missing && !keys.took(name) {
                let key = keys.key(name);
                reader.missing(at, &key, "is missing", "add it: both make a device");
            }
        }
        reader.close(section);
        let (Some(ordinal), Some(memory)) = (ordinal, memory) else {
            continue;
        };
        if devices.iter().any(|(known, _)| *known == ordinal) {
            let problem = format!("{ordinal} is the ordinal of an earlier device");
            reader.mistake(at, &key, problem, "write one [[device]] for each");
        }
        devices.push((ordinal, memory));
    }
    devices
}

fn environment<'s>(reader: &mut Reader<'s>, section: Section<'s>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (name, item) in section.into_items() {
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty()
            || name.starts_with(|c: char| c.is_ascii_digit())
            || !name.chars().all(valid)
        {
            reader.mistake(
                item.at,
                &item.key,
                "is not a name of an environment variable",
                "use letters, digits and underscores",
            );
            continue;
        }
        if name.starts_with("LD_") || name == "CUDA_VISIBLE_DEVICES" {
            let remedy = if name.starts_with("LD_") {
                "name the driver by driver.library; a worker loads nothing by search path"
            } else {
                "use devices in a [[zone]]"
            };
            reader.mistake(item.at, &item.key, "may not be set", remedy);
            continue;
        }
        match &item.value {
            DeValue::String(text) if !text.contains('\0') => {
                env.insert(name, text.to_string());
            }
            DeValue::String(_) => {
                reader.mistake(item.at, &item.key, "contains a zero byte", "remove it");
            }
            other => {
                let problem = format!(
                    "is {} and should be a text in quotes",
                    article(other.type_str())
                );
                reader.mistake(
                    item.at,
                    &item.key,
                    problem,
                    format!("write {name} = \"...\""),
                );
            }
        }
    }
    env
}

fn zone<'s>(
    reader: &mut Reader<'s>,
    mut section: Section<'s>,
    runtime_dir: &Path,
) -> Option<ZoneConfig> {
    let keys = &mut section;
    let name = zone_name(reader, keys, runtime_dir);
    let memory = values::memory(reader, keys);
    if memory.is_none() && !keys.took("memory") {
        let key = keys.key("memory");
        reader.missing(
            keys.at(),
            &key,
            "is missing",
            "add it, for example memory = \"4GiB\"",
        );
    }
    let pinned = values::pinned(reader, keys).unwrap_or(1 << 30);
    let host_memory = values::host_memory(reader, keys);
    let clients = values::clients(reader, keys).unwrap_or(16);
    let at = keys.at();
    let warm_key = keys.key("warm_workers");
    let warm_workers = match reader.number(keys, "warm_workers", 0..MAX_CLIENTS + 1) {
        Some(warm) if warm > clients => {
            let problem = format!("{warm} would wait where only {clients} clients may come");
            reader.mistake(at, &warm_key, problem, "lower it, or raise clients");
            clients
        }
        warm => warm.unwrap_or(1),
    };
    let stuck_after = optional_time(
        reader,
        keys,
        "stuck_after",
        Duration::from_secs(60),
        100..=86_400_000,
    );
    let uid = reader.number(keys, "uid", 0..NO_ID);
    let gid = reader.number(keys, "gid", 0..NO_ID);
    let mode = mode(reader, keys).unwrap_or(if gid.is_some() { 0o660 } else { 0o600 });
    let devices = values::devices(reader, keys);
    let limits = Limits::take(reader, keys);
    let worker_uid = reader.number(keys, "worker_uid", 0..NO_ID);
    let worker_gid = reader.number(keys, "worker_gid", 0..NO_ID);
    reader.close(section);
    Some(ZoneConfig {
        name: name?,
        memory: memory?,
        pinned,
        host_memory,
        clients,
        warm_workers,
        stuck_after,
        uid,
        gid,
        mode,
        devices,
        limits,
        worker_uid,
        worker_gid,
    })
}

fn zone_name<'s>(
    reader: &mut Reader<'s>,
    keys: &mut Section<'s>,
    runtime_dir: &Path,
) -> Option<String> {
    let (item, name) = values::zone_name(reader, keys)?;
    let path = runtime_dir.join(&name).join("gpu.sock");
    if path.as_os_str().len() > MAX_SOCKET_PATH_LEN {
        too_long(reader, item.at, &item.key, &path);
    }
    Some(name)
}

fn mode<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>) -> Option<u32> {
    let (item, text) = reader.text(keys, "mode", "\"0660\"")?;
    let found = (3..=4)
        .contains(&text.len())
        .then(|| u32::from_str_radix(&text, 8).ok())
        .flatten()
        .filter(|mode| mode & !0o666 == 0 && mode & 0o200 != 0);
    if found.is_none() {
        let problem = format!("{text:?} is not a permission for a socket");
        let remedy = "write an octal text of read and write bits in which the owner may write, such as \"0660\"";
        reader.mistake(item.at, &item.key, problem, remedy);
    }
    found
}

pub(super) fn absolute<'s>(
    reader: &mut Reader<'s>,
    keys: &mut Section<'s>,
    key: &'static str,
) -> Option<PathBuf> {
    let (item, text) = reader.text(keys, key, "\"/a/path\"")?;
    whole_path(reader, &item, &text, "write the whole path from / on")
}

pub(super) fn whole_path(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    text: &str,
    remedy: &str,
) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    if !path.is_absolute() || text.contains('\0') {
        let problem = format!("{text:?} is not an absolute path");
        reader.mistake(item.at, &item.key, problem, remedy);
        return None;
    }
    Some(path)
}

pub(super) fn time<'s>(
    reader: &mut Reader<'s>,
    keys: &mut Section<'s>,
    key: &'static str,
    default_millis: u64,
    bounds: RangeInclusive<u64>,
) -> Duration {
    let default = Duration::from_millis(default_millis);
    optional_time(reader, keys, key, default, bounds).unwrap_or(default)
}

fn optional_time<'s>(
    reader: &mut Reader<'s>,
    keys: &mut Section<'s>,
    key: &'static str,
    example: Duration,
    bounds: RangeInclusive<u64>,
) -> Option<Duration> {
    let example = duration_text(example);
    let (item, text) = reader.text(keys, key, &format!("\"{example}\""))?;
    let (low, high) = (
        Duration::from_millis(*bounds.start()),
        Duration::from_millis(*bounds.end()),
    );
    let remedy = format!(
        "write a number with ms, s or m from {} to {}, such as \"{example}\"",
        duration_text(low),
        duration_text(high),
    );
    let problem = match duration(&text) {
        Some(time) if (low..=high).contains(&time) => return Some(time),
        Some(_) => "is out of range",
        None => "is not a duration",
    };
    reader.mistake(item.at, &item.key, format!("{text:?} {problem}"), remedy);
    None
}

fn too_long(reader: &mut Reader<'_>, at: usize, key: &str, path: &Path) {
    let problem = format!(
        "leads to the socket {}, which is too long for the system",
        path.display()
    );
    let remedy =
        format!("shorten proxy.runtime_dir or the name; {MAX_SOCKET_PATH_LEN} bytes is the most");
    reader.mistake(at, key, problem, remedy);
}

/// A size from 1 MiB to 1 PiB.
pub(super) fn bytes<'s>(
    reader: &mut Reader<'s>,
    keys: &mut Section<'s>,
    key: &'static str,
    default: u64,
) -> u64 {
    let bounds = (1 << 20)..=(1 << 50);
    let Some((item, text)) = reader.text(keys, key, &format!("\"{}\"", size_text(default))) else {
        return default;
    };
    match size(&text).filter(|bytes| bounds.contains(bytes)) {
        Some(bytes) => bytes,
        None => {
            let problem = format!("{text:?} is no size from 1MiB to 1PiB");
            let remedy = format!(
                "write a number with MiB or GiB, such as \"{}\"",
                size_text(default)
            );
            reader.mistake(item.at, &item.key, problem, remedy);
            default
        }
    }
}
