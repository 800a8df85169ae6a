//! Whether a topic is set up so that what is in it stays: asked with a credential that can only look.
//!
//! The auditor's own credential may write and nothing else, so that whoever takes it can neither remove nor change
//! what was sent. What the topic's settings are, another one asks.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_executor::block_on;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use tracing::{debug, info, warn};

use super::witness::News;
use super::{KafkaArguments, client, harmless};
use crate::sink::SinkError;

/// How long brokers may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long until a topic is looked at again.
const AGAIN: Duration = Duration::from_secs(600);

/// The same where it could not be: not every broker knows of a new topic at once. Twice as long each time, up to a limit.
const SOON: Duration = Duration::from_secs(1);
const LONGEST_SOON: Duration = Duration::from_secs(30);

const MILLIS_PER_DAY: u64 = 86_400_000;

/// Brokers that have a copy of everything, and how many of them must have it before it counts.
const REPLICAS: usize = 3;
const IN_SYNC: u64 = 2;

/// What is known of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// What is in it stays.
    Good,
    /// What is different from how it should be, and what to do.
    Wrong(Vec<Flaw>),
    /// Nobody could look, and why.
    Unknown(String),
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    what: &'static str,
    found: String,
    wanted: String,
    remedy: String,
}

impl State {
    /// The word for it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Wrong(_) => "wrong",
            Self::Unknown(_) => "unknown",
        }
    }

    /// What more there is to say, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        match self {
            Self::Good => Vec::new(),
            Self::Wrong(flaws) => flaws.iter().map(ToString::to_string).collect(),
            Self::Unknown(why) => vec![why.clone()],
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            found,
            wanted,
            remedy,
        } = self;
        write!(f, "{what} is {found}, should be {wanted}: {remedy}")
    }
}

/// Looks at both topics from time to time, for as long as the process runs, and says what is new.
pub(super) fn start(
    brokers: &str,
    arguments: &KafkaArguments,
    news: Arc<News>,
) -> Result<(), SinkError> {
    let (brokers, arguments) = (brokers.to_owned(), arguments.clone());
    let run = move || {
        let topics = [arguments.topic.clone(), arguments.checkpoints.clone()];
        let mut known: [Option<State>; 2] = [None, None];
        let mut soon = SOON;
        loop {
            let found = look(&brokers, &arguments, &topics);
            let unsure = found.iter().any(|state| matches!(state, State::Unknown(_)));
            for ((topic, state), known) in topics.iter().zip(found).zip(&mut known) {
                if known.as_ref() != Some(&state) {
                    tell(topic, &state);
                    news.add_topic(topic.clone(), state.clone());
                    *known = Some(state);
                }
            }
            if arguments.inspector.is_none() {
                return;
            }
            thread::sleep(if unsure { soon } else { AGAIN });
            soon = if unsure {
                LONGEST_SOON.min(soon * 2)
            } else {
                SOON
            };
        }
    };
    let spawned = thread::Builder::new().name("topics".into()).spawn(run);
    spawned
        .map(drop)
        .map_err(|error| SinkError(format!("no thread to look at topics: {error}")))
}

fn tell(topic: &str, state: &State) {
    match state {
        State::Good => info!(topic, "the topic keeps what is sent to it"),
        State::Wrong(flaws) => {
            for flaw in flaws {
                warn!(topic, "{flaw}");
            }
        }
        State::Unknown(why) => {
            warn!(
                topic,
                "whether the topic keeps what is sent to it is unknown: {why}"
            )
        }
    }
}

fn look(brokers: &str, arguments: &KafkaArguments, topics: &[String; 2]) -> [State; 2] {
    let unknown = |why: &str| [(); 2].map(|()| State::Unknown(why.into()));
    let Some(file) = &arguments.inspector else {
        return unknown(
            "no inspector is configured: give audit.kafka.inspector a credential that may describe topics",
        );
    };
    let asked = client(brokers, Some(file), &[])
        .map_err(|error| error.to_string())
        .and_then(|config| ask(&config, arguments, topics));
    asked.unwrap_or_else(|why| unknown(&why))
}

/// What the client has to say while it looks is of no use to anybody: the answer says what is wrong.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        debug!(target: "librdkafka", ?level, facility, "{text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "librdkafka", %error, "{reason}");
    }
}

fn ask(
    config: &ClientConfig,
    arguments: &KafkaArguments,
    topics: &[String; 2],
) -> Result<[State; 2], String> {
    let client: AdminClient<Quiet> = config
        .create_with_context(Quiet)
        .map_err(|error| harmless(&error))?;
    // One after the other: an error does not say which topic it is about.
    Ok(topics.each_ref().map(|topic| {
        ask_of(&client, topic, arguments.retention_days).unwrap_or_else(State::Unknown)
    }))
}

fn ask_of(client: &AdminClient<Quiet>, topic: &str, retention_days: u32) -> Result<State, String> {
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let answers = block_on(client.describe_configs(&[ResourceSpecifier::Topic(topic)], &options));
    let answers = answers.map_err(|error| harmless(&error))?;
    let answer = answers
        .into_iter()
        .next()
        .ok_or("the brokers said nothing")?;
    let answer = answer.map_err(|code| code.to_string())?;
    Ok(judge(
        &answer,
        replicas(client, topic)?,
        retention_days,
        topic,
    ))
}

/// Of how many brokers the partition with the fewest is. Asked only for topics that exist: brokers may make others.
fn replicas(client: &AdminClient<Quiet>, topic: &str) -> Result<usize, String> {
    let metadata = client.inner().fetch_metadata(Some(topic), PATIENCE);
    let metadata = metadata.map_err(|error| harmless(&error))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let partitions = found.map_or(&[][..], |found| found.partitions());
    let fewest = partitions
        .iter()
        .map(|partition| partition.replicas().len());
    fewest
        .min()
        .ok_or_else(|| "the brokers name no partition of it".into())
}

fn judge(config: &ConfigResource, replicas: usize, retention_days: u32, topic: &str) -> State {
    let mut flaws = Vec::new();
    let mut unread = Vec::new();
    let mut setting = |what: &'static str, wanted: &str, set: &str, good: &dyn Fn(&str) -> bool| {
        let entry = config.get(what).and_then(|entry| entry.value.as_deref());
        match entry {
            None => unread.push(what),
            Some(found) if good(found) => {}
            Some(found) => flaws.push(Flaw {
                what,
                found: found.into(),
                wanted: wanted.into(),
                remedy: format!(
                    "kafka-configs --alter --entity-type topics --entity-name {topic} --add-config {what}={set}"
                ),
            }),
        }
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let keep = u64::from(retention_days).saturating_mul(MILLIS_PER_DAY);
    let stamp = "LogAppendTime";
    setting("message.timestamp.type", stamp, stamp, &|found| {
        found == stamp
    });
    setting("cleanup.policy", "delete", "delete", &|found| {
        found == "delete"
    });
    let wanted = format!("at least {keep} ({retention_days} days), or -1");
    setting("retention.ms", &wanted, &keep.to_string(), &|found| {
        found == "-1" || number(found).is_some_and(|found| found >= keep)
    });
    setting("retention.bytes", "-1", "-1", &|found| found == "-1");
    let wanted = format!("{IN_SYNC} or more");
    setting(
        "min.insync.replicas",
        &wanted,
        &IN_SYNC.to_string(),
        &|found| number(found).is_some_and(|found| found >= IN_SYNC),
    );
    setting(
        "unclean.leader.election.enable",
        "false",
        "false",
        &|found| found == "false",
    );
    if replicas < REPLICAS {
        flaws.push(Flaw {
            what: "the replication factor",
            found: replicas.to_string(),
            wanted: format!("{REPLICAS} or more"),
            remedy: "give its partitions more brokers with kafka-reassign-partitions".into(),
        });
    }
    match (flaws.is_empty(), unread.is_empty()) {
        (false, _) => State::Wrong(flaws),
        (true, false) => State::Unknown(format!("the brokers do not tell {}", unread.join(", "))),
        (true, true) => State::Good,
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::admin::{ConfigEntry, ConfigSource, OwnedResourceSpecifier};

    use super::*;

    const GOOD: [(&str, &str); 6] = [
        ("message.timestamp.type", "LogAppendTime"),
        ("cleanup.policy", "delete"),
        ("retention.ms", "2592000000"),
        ("retention.bytes", "-1"),
        ("min.insync.replicas", "2"),
        ("unclean.leader.election.enable", "false"),
    ];

    fn topic(change: Option<(&str, Option<&str>)>) -> ConfigResource {
        let entry = |(name, value): (&str, &str)| {
            let changed = change.filter(|(other, _)| *other == name);
            ConfigEntry {
                name: name.into(),
                value: changed
                    .map_or(Some(value), |(_, value)| value)
                    .map(Into::into),
                source: ConfigSource::Default,
                is_read_only: false,
                is_default: true,
                is_sensitive: false,
            }
        };
        ConfigResource {
            specifier: OwnedResourceSpecifier::Topic("t".into()),
            entries: GOOD.map(entry).into(),
        }
    }

    #[test]
    fn a_topic_that_keeps_everything_is_good() {
        assert_eq!(judge(&topic(None), 3, 30, "t"), State::Good);
        let forever = topic(Some(("retention.ms", Some("-1"))));
        assert_eq!(judge(&forever, 5, 3650, "t"), State::Good);
    }

    #[test]
    fn every_other_setting_is_named_with_what_to_do() {
        for (setting, value) in [
            ("message.timestamp.type", "CreateTime"),
            ("cleanup.policy", "compact,delete"),
            ("retention.ms", "604800000"),
            ("retention.bytes", "1000000"),
            ("min.insync.replicas", "1"),
            ("unclean.leader.election.enable", "true"),
        ] {
            let state = judge(&topic(Some((setting, Some(value)))), 3, 30, "t");
            let [line] = &state.lines()[..] else {
                panic!("{state:?}");
            };
            assert!(
                line.starts_with(&format!("{setting} is {value}, ")),
                "{line}"
            );
            assert!(line.contains(&format!("--add-config {setting}=")), "{line}");
        }
        let alone = judge(&topic(None), 1, 30, "t");
        assert_eq!(alone.word(), "wrong");
    }

    #[test]
    fn what_brokers_do_not_tell_is_unknown() {
        let state = judge(&topic(Some(("cleanup.policy", None))), 3, 30, "t");
        assert_eq!(
            state,
            State::Unknown("the brokers do not tell cleanup.policy".into())
        );
    }
}
