//! `[audit.kafka]`: where the log goes in Kafka. Passwords are in files that the auditor alone reads.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use proxy_policy::document::{Reader, Section};

use super::quoted;
use super::read::absolute;

/// Most bytes of a topic's name.
const MAX_TOPIC_LEN: usize = 249;

/// `[audit.kafka]`: the log's topics. Default: none, and the log does not go to Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaConfig {
    /// `brokers`: some of them, `"HOST:PORT,..."`. No default.
    pub brokers: String,
    /// `topic`: of the blocks. Default `vgpu-audit`.
    pub topic: String,
    /// `checkpoints`: the topic of the checkpoints. Default `vgpu-audit-checkpoints`.
    pub checkpoints: String,
    /// `settings`: a file of the client's settings (TLS, SASL), which only the auditor should be able to read.
    /// Default: none.
    pub settings: Option<PathBuf>,
    /// `inspector`: the same with a credential that can only look at topics. Default: none, and whether they keep what
    /// is sent to them is unknown.
    pub inspector: Option<PathBuf>,
    /// `retention_days`: how long topics are to keep what is sent to them. Default 30.
    pub retention_days: u32,
}

impl KafkaConfig {
    /// What it adds to the auditor's command line.
    pub(super) fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut add = |key: &str, value: OsString| args.extend([key.into(), value]);
        add("--kafka-brokers", self.brokers.clone().into());
        add("--kafka-topic", self.topic.clone().into());
        add("--kafka-checkpoints", self.checkpoints.clone().into());
        if let Some(path) = &self.settings {
            add("--kafka-settings", path.clone().into());
        }
        if let Some(path) = &self.inspector {
            add("--kafka-inspector", path.clone().into());
        }
        let days = self.retention_days.to_string();
        add("--kafka-retention-days", days.into());
        args
    }
}

pub(super) fn read<'s>(reader: &mut Reader<'s>, mut section: Section<'s>) -> Option<KafkaConfig> {
    let keys = &mut section;
    let at = keys.at();
    let brokers = brokers(reader, keys);
    if brokers.is_none() && !keys.took("brokers") {
        let remedy = "add it: brokers = \"kafka1.example.com:9093\"";
        reader.missing(at, &keys.key("brokers"), "is missing", remedy);
    }
    let blocks = topic(reader, keys, "topic", "vgpu-audit");
    let checkpoints = topic(reader, keys, "checkpoints", "vgpu-audit-checkpoints");
    if blocks == checkpoints {
        let problem = format!("{blocks:?} is the topic of the blocks");
        let remedy = "name another: who may write the one should not write the other";
        reader.mistake(at, &keys.key("checkpoints"), problem, remedy);
    }
    let settings = absolute(reader, keys, "settings");
    let inspector = absolute(reader, keys, "inspector");
    let retention_days = reader.number(keys, "retention_days", 1..36_501);
    reader.close(section);
    Some(KafkaConfig {
        brokers: brokers?,
        topic: blocks,
        checkpoints,
        settings,
        inspector,
        retention_days: retention_days.unwrap_or(30),
    })
}

fn brokers<'s>(reader: &mut Reader<'s>, keys: &mut Section<'s>) -> Option<String> {
    let (item, text) = reader.text(keys, "brokers", "\"kafka1.example.com:9093\"")?;
    let is_address = |address: &str| {
        address.rsplit_once(':').is_some_and(|(host, port)| {
            let letters = host.bytes().all(|byte| byte.is_ascii_graphic());
            !host.is_empty() && letters && port.parse::<u16>().is_ok_and(|port| port != 0)
        })
    };
    if text.split(',').all(is_address) {
        return Some(text);
    }
    let problem = format!("{text:?} is no list of brokers");
    let remedy = "write HOST:PORT, with commas and no spaces between several";
    reader.mistake(item.at, &item.key, problem, remedy);
    None
}

fn topic<'s>(
    reader: &mut Reader<'s>,
    keys: &mut Section<'s>,
    key: &'static str,
    default: &str,
) -> String {
    let Some((item, name)) = reader.text(keys, key, &format!("{default:?}")) else {
        return default.into();
    };
    let letters = (name.bytes())
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    let long = (1..=MAX_TOPIC_LEN).contains(&name.len());
    if !letters || !long || name == "." || name == ".." {
        let problem = format!("{name:?} cannot be the name of a topic");
        let remedy = "use 1 to 249 letters, digits, dots, underscores and hyphens";
        reader.mistake(item.at, &item.key, problem, remedy);
        return default.into();
    }
    name
}

impl fmt::Display for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n[audit.kafka]")?;
        writeln!(f, "brokers = {}", quoted(&self.brokers))?;
        writeln!(f, "topic = {}", quoted(&self.topic))?;
        writeln!(f, "checkpoints = {}", quoted(&self.checkpoints))?;
        for (key, path) in [("settings", &self.settings), ("inspector", &self.inspector)] {
            if let Some(path) = path {
                writeln!(f, "{key} = {}", quoted(&path.to_string_lossy()))?;
            }
        }
        writeln!(f, "retention_days = {}", self.retention_days)
    }
}
