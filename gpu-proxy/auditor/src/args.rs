//! The command line of an auditor.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use proxy_audit::spool::{Settings, WhenFull};

use crate::sink::KafkaArguments;

/// Keeps the audit log of a gpu-proxy, which starts it; the channel is standard input.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Arguments {
    /// The spool's folder.
    #[arg(long, value_name = "FOLDER")]
    pub spool: PathBuf,
    /// The signing key. It is made where there is none; one in FILE.next replaces it.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// What a new key is called, and with it the log.
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Also write the log as lines of JSON to this file; to standard output for -.
    #[arg(long, value_name = "FILE")]
    pub json_lines: Option<PathBuf>,
    /// Also send the log to Kafka.
    #[command(flatten)]
    pub kafka: KafkaArguments,
    /// How long a block may be unsigned, in milliseconds.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1000)]
    pub checkpoint_after: u64,
    /// Bytes of a segment of the spool.
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20)]
    pub segment: u64,
    /// Bytes of segments that are kept after they were sent.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30)]
    pub retain: u64,
    /// Bytes of each zone's that may wait to be sent.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    pub share: u64,
    /// Bytes above it for a zone's events.
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20)]
    pub headroom: u64,
    /// What happens when a zone's share is full: fail-closed or drop-with-gap-record.
    #[arg(long, value_name = "WORD", default_value = "fail-closed", value_parser = when_full)]
    pub when_full: WhenFull,
}

impl Arguments {
    /// How the spool is kept.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            folder: self.spool.clone(),
            segment: self.segment,
            retain: self.retain,
            share: self.share,
            headroom: self.headroom,
            when_full: self.when_full,
        }
    }

    /// How long a block may be unsigned.
    #[must_use]
    pub fn checkpoint_after(&self) -> Duration {
        Duration::from_millis(self.checkpoint_after)
    }
}

fn when_full(word: &str) -> Result<WhenFull, String> {
    let found = WhenFull::NAMES.iter().find(|(name, _)| *name == word);
    found
        .map(|&(_, value)| value)
        .ok_or_else(|| "write fail-closed or drop-with-gap-record".into())
}
