//! Brokers of a test's own: Apache Kafka on loopback, stopped at the end. See `tests/kafka`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;

use crate::place;
use crate::process::{Finished, Program};

/// Longer than any of Kafka's programs takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(400);

/// Brokers that run; dropped, they are ended.
#[derive(Debug)]
pub struct Brokers {
    directory: tempfile::TempDir,
}

/// A message that a client which is not ours has read.
#[derive(Clone, Debug)]
pub struct Message {
    pub partition: u64,
    pub offset: u64,
    pub timestamp_type: String,
    pub key: String,
    /// Its value, as a line of the log.
    pub line: String,
}

/// Where a block stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub zone: String,
    pub leaf: u64,
    pub seq: u64,
    pub count: u64,
}

impl Message {
    /// An event's value; none of a block of calls.
    ///
    /// # Panics
    /// If it is neither.
    pub fn event(&self) -> Option<Value> {
        let value: Value = serde_json::from_str(&self.line).expect("it is JSON");
        value.get("calls").is_none().then_some(value)
    }

    /// Where it stands, as docs/audit.md says where to find it.
    ///
    /// # Panics
    /// If it does not say.
    pub fn place(&self) -> Place {
        let value: Value = serde_json::from_str(&self.line).expect("it is JSON");
        let Some(calls) = value.get("calls") else {
            let number = |key: &str| value[key].as_u64().expect("it is a number");
            return Place {
                zone: value["zone"].as_str().expect("a name").to_owned(),
                leaf: number("leaf"),
                seq: number("seq"),
                count: number("count"),
            };
        };
        let calls = calls.as_str().expect("it is base64");
        let block = BASE64_STANDARD.decode(calls).expect("it is base64");
        let number = |at: usize, len: usize| {
            let mut bytes = [0; 8];
            bytes[..len].copy_from_slice(&block[at..at + len]);
            u64::from_le_bytes(bytes)
        };
        let zone_len = usize::try_from(number(10, 2)).expect("at most 64");
        Place {
            zone: String::from_utf8_lossy(&block[112..112 + zone_len]).into_owned(),
            leaf: number(16, 8),
            seq: number(24, 8),
            count: number(12, 4),
        }
    }
}

impl Brokers {
    /// Starts so many and waits until they serve. `None`, said loudly, where Kafka cannot be had.
    ///
    /// # Panics
    /// If they do not come up, or if `VGPU_TEST_REQUIRE_KAFKA` says that Kafka must be there.
    pub fn start(count: usize) -> Option<Self> {
        let folder = kafka_directory();
        if !folder.join("installed").exists() {
            assert!(
                std::env::var_os("VGPU_TEST_REQUIRE_KAFKA").is_none(),
                "{} holds no Kafka: run `make kafka` first",
                folder.display()
            );
            eprintln!(
                "SKIPPED: Apache Kafka is not installed (tests/kafka/fetch.sh fetches it where Java and Maven are)"
            );
            return None;
        }
        let directory = tempfile::Builder::new()
            .prefix("vgpu-kafka-")
            .tempdir()
            .expect("the temporary directory is writable");
        let brokers = Self { directory };
        brokers.script(&["start"], &[&count.to_string()]);
        Some(brokers)
    }

    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_path_buf()
    }

    /// Addresses for anybody on this machine.
    pub fn bootstrap(&self) -> String {
        self.text("bootstrap")
    }

    /// Addresses that want TLS and a password.
    pub fn secure(&self) -> String {
        self.text("secure")
    }

    /// Settings of a client for them.
    pub fn settings(&self, user: &str) -> String {
        format!(
            "security.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nsasl.username={user}\n\
             sasl.password={user}-secret\nssl.ca.location={}\n",
            self.directory.path().join("ca.pem").display()
        )
    }

    /// Makes a topic that keeps what is sent to it, with one setting or another changed.
    pub fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        replicas: u32,
        changed: &[(&str, &str)],
    ) {
        let in_sync = replicas.min(2).to_string();
        let mut settings = BTreeMap::from([
            ("message.timestamp.type", "LogAppendTime"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            ("min.insync.replicas", &in_sync),
        ]);
        settings.extend(changed.iter().copied());
        let mut arguments: Vec<String> = ["--create", "--topic", name]
            .into_iter()
            .map(Into::into)
            .collect();
        arguments.extend([
            "--partitions".into(),
            partitions.to_string(),
            "--replication-factor".into(),
            replicas.to_string(),
        ]);
        for (key, value) in settings {
            arguments.extend(["--config".into(), format!("{key}={value}")]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.tool("topics", &arguments);
    }

    /// Lets a user do something with a topic.
    pub fn allow(&self, user: &str, operations: &[&str], topic: &str) {
        let user = format!("User:{user}");
        let mut arguments = vec!["--add", "--allow-principal", &user, "--topic", topic];
        for operation in operations {
            arguments.extend(["--operation", operation]);
        }
        self.tool("acls", &arguments);
    }

    /// Runs one of Kafka's own tools.
    ///
    /// # Panics
    /// If it fails.
    pub fn tool(&self, name: &str, arguments: &[&str]) -> Finished {
        let bootstrap = self.bootstrap();
        let begin = ["tool", name, "--bootstrap-server", &bootstrap];
        script()
            .args(begin.iter().chain(arguments))
            .run()
            .expect_success()
    }

    /// All of a topic, read by a client that is not ours: one partition after the other.
    pub fn read(&self, topic: &str) -> Vec<Message> {
        let python = kafka_directory().join("venv/bin/python");
        let finished = Program::new(python)
            .arg(place::repository().join("tests/kafka/read.py"))
            .args([&self.bootstrap(), topic, "--messages"])
            .watchdog(PATIENCE)
            .run()
            .expect_success();
        let message = |line: &str| {
            let value: Value = serde_json::from_str(line).expect("a message is JSON");
            let text = |key: &str| value[key].as_str().expect("it is a text").to_owned();
            Message {
                partition: value["partition"].as_u64().expect("it is a number"),
                offset: value["offset"].as_u64().expect("it is a number"),
                timestamp_type: text("type"),
                key: text("key"),
                line: text("line"),
            }
        };
        finished.stdout.lines().map(message).collect()
    }

    /// Stops a broker in good order.
    pub fn stop(&self, node: usize) {
        self.script(&["stop"], &[&node.to_string()]);
    }

    pub fn kill(&self, node: usize) {
        self.script(&["kill"], &[&node.to_string()]);
    }

    /// Starts a broker again and waits until it serves.
    pub fn resume(&self, node: usize) {
        self.script(&["resume"], &[&node.to_string()]);
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name))
            .expect("broker.sh wrote it")
            .trim()
            .to_owned()
    }

    fn script(&self, command: &[&str], arguments: &[&str]) {
        script()
            .args(command)
            .arg(self.directory.path())
            .args(arguments)
            .run()
            .expect_success();
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        // Nothing of theirs is wanted any more.
        let _ = script().arg("kill").arg(self.directory.path()).run();
    }
}

fn script() -> Program {
    Program::new(place::repository().join("tests/kafka/broker.sh")).watchdog(PATIENCE)
}

/// Where `tests/kafka/fetch.sh` installs Kafka.
fn kafka_directory() -> PathBuf {
    std::env::var_os("KAFKA_DIR")
        .map_or_else(|| place::repository().join("target/kafka"), PathBuf::from)
}
