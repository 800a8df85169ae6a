//! `[audit]`: whether there is a log, and how it is kept.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_audit::spool::WhenFull;
use proxy_policy::document::{Reader, Section};
use proxy_policy::units::{duration_text, size_text};

use super::read::{NO_ID, absolute, bytes, time, whole_path};
use super::{Installation, KafkaConfig, kafka, name_of, quoted};

/// `[audit]`: the auditor. Default: none, and nothing is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// `auditor`: its executable. Default: `vgpu-auditor` beside `gpu-proxy`.
    pub auditor: PathBuf,
    /// `spool`: the log's folder. Default `/var/lib/vgpu/audit`.
    pub spool: PathBuf,
    /// `key`: the signing key, made where there is none. Default `/var/lib/vgpu/audit.key`.
    pub key: PathBuf,
    /// `name`: what a new key, and with it the log, is called. Default `vgpu-audit`.
    pub name: String,
    /// `json_lines`: what also gets the log as lines of JSON. Default: nothing.
    pub json_lines: Option<JsonLines>,
    /// `[audit.kafka]`: where it goes in Kafka. Default: nowhere.
    pub kafka: Option<KafkaConfig>,
    /// `checkpoint_after`: how long a record may be unsigned. Default `1s`.
    pub checkpoint_after: Duration,
    /// `share`: how much of each zone may wait to be sent. Default `64MiB`.
    pub share: u64,
    /// `headroom`: how much above its share is kept for a zone's events. Default `16MiB`.
    pub headroom: u64,
    /// `retain`: how much of the log is kept after it was sent. Default `1GiB`.
    pub retain: u64,
    /// `when_full`: `fail-closed` or `drop-with-gap-record`. Default `fail-closed`.
    pub when_full: WhenFull,
    /// `uid`: the user that it runs as, if the proxy is root. Default: the proxy's.
    pub uid: Option<u32>,
    /// `gid`: its group. Default: the proxy's.
    pub gid: Option<u32>,
}

/// Where lines of JSON go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonLines {
    /// To a file.
    File(PathBuf),
    /// To the proxy's own standard output: `-`.
    Stdout,
}

impl JsonLines {
    /// As it is written.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Stdout => Path::new("-"),
        }
    }
}

impl AuditConfig {
    /// The auditor's command line, without its program.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |key: &str, value: OsString| args.extend([key.into(), value]);
        add("--spool", self.spool.clone().into());
        add("--key", self.key.clone().into());
        add("--name", self.name.clone().into());
        if let Some(lines) = &self.json_lines {
            add("--json-lines", lines.as_path().into());
        }
        let millis = self.checkpoint_after.as_millis().to_string();
        add("--checkpoint-after", millis.into());
        add("--share", self.share.to_string().into());
        add("--headroom", self.headroom.to_string().into());
        add("--retain", self.retain.to_string().into());
        let word = name_of(&WhenFull::NAMES, self.when_full);
        add("--when-full", word.into());
        args.extend(self.kafka.iter().flat_map(KafkaConfig::to_args));
        args
    }
}

pub(super) fn read<'s>(
    reader: &mut Reader<'s>,
    mut section: Section<'s>,
    installation: &Installation,
) -> AuditConfig {
    let kafka = reader.table(&mut section, "kafka");
    let kafka = section
        .took("kafka")
        .then(|| kafka::read(reader, kafka))
        .flatten();
    let keys = &mut section;
    let or = |path: Option<PathBuf>, default: &str| path.unwrap_or_else(|| default.into());
    let config = AuditConfig {
        auditor: absolute(reader, keys, "auditor")
            .unwrap_or_else(|| installation.executable_dir.join("vgpu-auditor")),
        spool: or(absolute(reader, keys, "spool"), "/var/lib/vgpu/audit"),
        key: or(absolute(reader, keys, "key"), "/var/lib/vgpu/audit.key"),
        name: name(reader, keys).unwrap_or_else(|| "vgpu-audit".into()),
        json_lines: json_lines(reader, keys),
        kafka,
        checkpoint_after: time(reader, keys, "checkpoint_after", 1_000, 10..=60_000),
        share: bytes(reader, keys, "share", 64 << 20),
        headroom: bytes(reader, keys, "headroom", 16 << 20),
        retain: bytes(reader, keys, "retain", 1 << 30),
        when_full: reader
            .word(keys, "when_full", &WhenFull::NAMES)
            .unwrap_or(WhenFull::FailClosed),
        uid: reader.number(keys, "uid", 0..NO_ID),
        gid: reader.number(keys, "gid", 0..NO_ID),
    };
    reader.close(section);
    config
}

fn json_lines<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>) -> Option<JsonLines> {
    let (item, text) = reader.text(keys, "json_lines", "\"/a/path\" or \"-\"")?;
    if text == "-" {
        return Some(JsonLines::Stdout);
    }
    let remedy = "write the whole path from / on, or \"-\" for standard output";
    whole_path(reader, &item, &text, remedy).map(JsonLines::File)
}

fn name<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>) -> Option<String> {
    let (item, name) = reader.text(keys, "name", "\"node1.example.com/audit\"")?;
    let letters = name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'+');
    if !letters || !(1..=128).contains(&name.len()) {
        let problem = format!("{name:?} cannot be the name of a key");
        let remedy = "use 1 to 128 printable characters of ASCII, neither space nor plus";
        reader.mistake(item.at, &item.key, problem, remedy);
        return None;
    }
    Some(name)
}

impl fmt::Display for AuditConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[audit]")?;
        let mut paths = vec![
            ("auditor", self.auditor.as_path()),
            ("spool", &self.spool),
            ("key", &self.key),
        ];
        let lines = self.json_lines.as_ref().map(JsonLines::as_path);
        paths.extend(lines.map(|path| ("json_lines", path)));
        for (key, path) in paths {
            writeln!(f, "{key} = {}", quoted(&path.to_string_lossy()))?;
        }
        writeln!(f, "name = {}", quoted(&self.name))?;
        let after = duration_text(self.checkpoint_after);
        writeln!(f, "checkpoint_after = \"{after}\"")?;
        for (key, bytes) in [
            ("share", self.share),
            ("headroom", self.headroom),
            ("retain", self.retain),
        ] {
            writeln!(f, "{key} = \"{}\"", size_text(bytes))?;
        }
        let word = name_of(&WhenFull::NAMES, self.when_full);
        writeln!(f, "when_full = \"{word}\"")?;
        super::numbers(f, &[("uid", self.uid), ("gid", self.gid)])?;
        self.kafka.iter().try_for_each(|kafka| kafka.fmt(f))
    }
}
