//! The log in Kafka: a message for each block, keyed by its zone, and checkpoints in a topic of their own.
//!
//! A block has arrived when as many brokers have it as the topic wants (`acks=all`); what did not arrive before the
//! auditor ended is sent again by the next one. So a block may be there twice, and whoever reads knows it by its leaf.

mod flight;
mod inspect;
mod settings;
mod witness;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use proxy_audit::chain::Chain;
use proxy_audit::event::{Event, PROXY_ZONE};
use proxy_audit::export::Line;
use proxy_audit::hash::LogId;
use proxy_audit::spool::Spool;
use proxy_audit::text::Text;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord};
use tracing::info;

use self::flight::Flight;
use self::settings::Settings;
use self::witness::{News, Witness};
use super::position::Position;
use super::{Sink, SinkError, Taken};

/// The file in the spool's folder that says what has arrived.
const POSITION: &str = "sent-to-kafka";

/// How often deliveries are asked for while there are some to come. To hear of each the moment it comes, by a thread
/// that waits for them, would cost more than anything else here.
const LOOK: Duration = Duration::from_millis(20);

/// The same while there are none: the client may have something to say of brokers.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// What an operator may set otherwise. Brokers and client work by the batch, so few and large ones cost the least; a
/// block may be so much later in the topic.
const DEFAULTS: [(&str, &str); 1] = [("linger.ms", "100")];

/// What the log depends on. Nothing is given up while the auditor runs: what has not arrived stays in the spool.
const FIXED: [(&str, &str); 8] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("compression.codec", "zstd"),
    ("message.timeout.ms", "0"),
    // Where the clients in Java would look for a key.
    ("partitioner", "murmur2_random"),
    // More than this stays in the spool until brokers confirm.
    ("queue.buffering.max.kbytes", "32768"),
    ("log.connection.close", "false"),
    ("socket.keepalive.enable", "true"),
];

/// Where the log goes in Kafka.
#[derive(Clone, Debug, Args)]
#[group(id = "kafka")]
pub struct KafkaArguments {
    /// Send the log to Kafka: brokers to begin with, HOST:PORT,...
    #[arg(long = "kafka-brokers", value_name = "HOST:PORT,...")]
    pub brokers: Option<String>,
    /// The topic of the blocks.
    #[arg(
        long = "kafka-topic",
        value_name = "NAME",
        default_value = "vgpu-audit"
    )]
    pub topic: String,
    /// The topic of the checkpoints.
    #[arg(
        long = "kafka-checkpoints",
        value_name = "NAME",
        default_value = "vgpu-audit-checkpoints"
    )]
    pub checkpoints: String,
    /// A file of settings of librdkafka, KEY=VALUE: TLS, SASL. Nobody else may read it.
    #[arg(long = "kafka-settings", value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// The same with a credential that can only look at topics: whether they keep what is sent to them.
    #[arg(long = "kafka-inspector", value_name = "FILE")]
    pub inspector: Option<PathBuf>,
    /// How long topics are to keep what is sent to them, in days.
    #[arg(
        long = "kafka-retention-days",
        value_name = "DAYS",
        default_value_t = 30
    )]
    pub retention_days: u32,
}

/// A producer and what it has in hand.
pub struct Kafka {
    brokers: String,
    arguments: KafkaArguments,
    position: Position,
    /// None before the first block, and after a failure.
    producer: Option<BaseProducer<Witness>>,
    /// When the client was asked last what has arrived.
    looked: Instant,
    flight: Flight,
    news: Arc<News>,
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka")
            .field("brokers", &self.brokers)
            .field("arguments", &self.arguments)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Kafka {
    /// The sink for a spool, if the arguments want one.
    pub fn open(arguments: &KafkaArguments, spool: &Spool) -> Result<Option<Self>, SinkError> {
        let Some(brokers) = &arguments.brokers else {
            return Ok(None);
        };
        let news = Arc::new(News::new()?);
        inspect::start(brokers, arguments, news.clone())?;
        let log: LogId = spool.chain().log();
        let to = format!("{} {}", arguments.topic, arguments.checkpoints);
        Ok(Some(Self {
            brokers: brokers.clone(),
            arguments: arguments.clone(),
            position: Position::open(spool.folder(), POSITION, log, to)?,
            producer: None,
            looked: Instant::now(),
            flight: Flight::default(),
            news,
        }))
    }

    /// A connection to brokers is made in the background; this fails for wrong settings only. They are read each
    /// time, so that mending the file is enough.
    fn connect(&mut self) -> Result<&BaseProducer<Witness>, SinkError> {
        if self.producer.is_none() {
            let config = client(&self.brokers, self.arguments.settings.as_deref(), &FIXED)?;
            let witness = Witness::new(self.news.clone());
            let made = config.create_with_context(witness);
            info!(brokers = self.brokers, "sending to Kafka");
            self.producer = Some(made.map_err(|error| SinkError(harmless(&error)))?);
        }
        self.producer
            .as_ref()
            .ok_or_else(|| SinkError("there is no client".into()))
    }

    /// Hands a message over; once it has arrived, so has everything before `leaf`.
    fn send(
        &mut self,
        topic: Topic,
        key: &str,
        payload: &[u8],
        leaf: Option<u64>,
    ) -> Result<Taken, SinkError> {
        let name = match topic {
            Topic::Blocks => self.arguments.topic.clone(),
            Topic::Checkpoints => self.arguments.checkpoints.clone(),
        };
        let number = self.flight.next();
        let record = BaseRecord::with_opaque_to(&name, number)
            .key(key)
            .payload(payload);
        let sent = self.connect()?.send(record).map_err(|(error, _)| error);
        match sent {
            Ok(()) => {
                self.flight.push(leaf);
                Ok(Taken::Yes)
            }
            Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull))
                if !self.flight.is_empty() =>
            {
                Ok(Taken::Later)
            }
            Err(error) => Err(self.fail(&format!("{name}: {}", harmless(&error)))),
        }
    }

    /// Has the client say what it has to say.
    fn look(&mut self, now: Instant) {
        self.looked = now;
        let Some(producer) = &self.producer else {
            return;
        };
        // One event at a time, each with as many deliveries as came together.
        loop {
            let heard = self.news.heard();
            producer.poll(Duration::ZERO);
            if self.news.heard() == heard {
                return;
            }
        }
    }

    /// What is in hand is lost, and sent again by another producer.
    fn fail(&mut self, why: &str) -> SinkError {
        self.producer = None;
        self.flight = Flight::default();
        // What the old producer still said concerns nobody.
        self.news.take();
        SinkError(why.into())
    }
}

#[derive(Clone, Copy)]
enum Topic {
    Blocks,
    Checkpoints,
}

impl Sink for Kafka {
    fn name(&self) -> String {
        format!("Kafka topic {}", self.arguments.topic)
    }

    fn first_wanted(&self) -> u64 {
        self.position.leaf()
    }

    fn begin(&mut self, chain: &Chain) -> Result<(), SinkError> {
        let line = Line::Chain(Box::new(chain.clone())).to_text();
        let line = line.trim_end().as_bytes();
        // Nothing is in hand yet, so that there is room.
        self.send(Topic::Blocks, PROXY_ZONE, line, None).map(drop)
    }

    fn block(&mut self, leaf: u64, zone: &str, bytes: &[u8]) -> Result<Taken, SinkError> {
        self.send(Topic::Blocks, zone, bytes, Some(leaf.saturating_add(1)))
    }

    fn checkpoint(&mut self, note: &str) -> Result<Taken, SinkError> {
        // Its first line says whose log it is.
        let origin = note.lines().next().unwrap_or_default();
        self.send(Topic::Checkpoints, origin, note.as_bytes(), None)
    }

    fn settle(&mut self) -> Result<u64, SinkError> {
        let now = Instant::now();
        if self.next_look().is_some_and(|next| next <= now) {
            self.look(now);
        }
        for (number, result) in self.news.take() {
            match result {
                Ok(()) => self.flight.confirm(number),
                Err(why) => return Err(self.fail(&why)),
            }
        }
        if let Some(leaf) = self.flight.land() {
            self.position
                .advance(leaf)
                .map_err(|error| self.fail(&error.to_string()))?;
        }
        Ok(self.position.leaf())
    }

    fn reports(&mut self) -> Vec<Event> {
        let report = |(topic, state): (String, inspect::State)| Event::TopicSettings {
            topic: Text::new(topic),
            state: Text::from(state.word()),
            lines: Event::lines(&state.lines()),
        };
        self.news.topics().into_iter().map(report).collect()
    }

    fn news(&self) -> Option<BorrowedFd<'_>> {
        Some(self.news.fd())
    }

    fn next_look(&self) -> Option<Instant> {
        self.producer.as_ref()?;
        let pause = if self.flight.is_empty() {
            IDLE_LOOK
        } else {
            LOOK
        };
        Some(self.looked + pause)
    }
}

/// A client's configuration: what an operator's file says, and over it what is fixed.
fn client(
    brokers: &str,
    file: Option<&Path>,
    fixed: &[(&str, &str)],
) -> Result<ClientConfig, SinkError> {
    let own = match file {
        Some(path) => settings::read(path).map_err(|error| SinkError(error.to_string()))?,
        None => Settings::new(),
    };
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.set("client.id", "vgpu-auditor");
    for (key, value) in DEFAULTS {
        config.set(key, value);
    }
    for (key, value) in own {
        config.set(key, value);
    }
    for &(key, value) in fixed {
        config.set(key, value);
    }
    config.set_log_level(RDKafkaLogLevel::Warning);
    Ok(config)
}

/// What went wrong, without the values of settings.
fn harmless(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, _, key, _) => format!("the setting {key} cannot be so"),
        KafkaError::MessageProduction(code) => code.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_depends_on_wins_and_no_message_has_a_value() {
        let config = client("127.0.0.1:1", None, &FIXED).unwrap();
        assert_eq!(config.get("acks"), Some("all"));
        assert_eq!(config.get("linger.ms"), Some("100"));
        let mut wrong = config.clone();
        wrong.set("security.protocol", "hunter2");
        let made = wrong.create_with_context::<_, BaseProducer<_>>(Witness::new(Arc::new(
            News::new().unwrap(),
        )));
        let text = harmless(&made.err().unwrap());
        assert!(text.contains("security.protocol"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
