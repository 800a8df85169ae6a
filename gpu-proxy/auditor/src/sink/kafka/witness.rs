//! What is heard of brokers: what arrived, what did not, what is wrong with them and with their topics.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use tracing::{debug, info, warn};

use super::super::SinkError;
use super::inspect::State;

/// A broker that is away is told of at every attempt; the log needs it less often.
const SILENCE: Duration = Duration::from_secs(30);

/// A message's number, and whether it arrived or why not.
pub(super) type Delivery = (usize, Result<(), String>);

/// Deliveries, what was seen of topics, and something to poll for the latter: what arrived is asked for.
#[derive(Debug)]
pub(super) struct News {
    deliveries: Mutex<Vec<Delivery>>,
    /// Grows with whatever the client says.
    heard: AtomicUsize,
    topics: Mutex<Vec<(String, State)>>,
    bell: EventFd,
}

impl News {
    pub(super) fn new() -> Result<Self, SinkError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = EventFd::from_value_and_flags(0, flags);
        Ok(Self {
            deliveries: Mutex::default(),
            heard: AtomicUsize::new(0),
            topics: Mutex::default(),
            bell: bell.map_err(|errno| SinkError(format!("no event descriptor: {errno}")))?,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Changes whenever the client says something.
    pub(super) fn heard(&self) -> usize {
        // SYNC: none; who asks has just had the client speak, on the same thread.
        self.heard.load(Ordering::Relaxed)
    }

    fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// What arrived or did not, once.
    pub(super) fn take(&self) -> Vec<Delivery> {
        let mut deliveries = self
            .deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *deliveries)
    }

    /// What was seen of topics, once.
    pub(super) fn topics(&self) -> Vec<(String, State)> {
        // Before the list is emptied: what comes in between rings again. It fails only where nobody rang.
        let _ = self.bell.read();
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *topics)
    }

    pub(super) fn add_topic(&self, topic: String, state: State) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.push((topic, state));
        // It fails only where it has rung already.
        let _ = self.bell.write(1);
    }

    fn add(&self, delivery: Delivery) {
        let mut deliveries = self
            .deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        deliveries.push(delivery);
        self.hear();
    }
}

/// Hears what one producer has to say.
#[derive(Debug)]
pub(super) struct Witness {
    news: Arc<News>,
    /// When each kind of error was told last: as many as the client knows.
    told: Mutex<BTreeMap<String, Instant>>,
    troubled: AtomicBool,
}

impl Witness {
    pub(super) fn new(news: Arc<News>) -> Self {
        Self {
            news,
            told: Mutex::default(),
            troubled: AtomicBool::new(false),
        }
    }
}

impl ClientContext for Witness {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        debug!(target: "librdkafka", ?level, facility, "{text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // SYNC: none; only what the log says depends on it.
        self.troubled.store(true, Ordering::Relaxed);
        self.news.hear();
        let what = error.to_string();
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = told.get(&what);
        if last.is_none_or(|last| now.saturating_duration_since(*last) >= SILENCE) {
            warn!("Kafka: {what}: {reason}");
            told.insert(what, now);
        }
    }
}

impl ProducerContext for Witness {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let result = match result {
            Ok(_) => {
                if self.troubled.swap(false, Ordering::Relaxed) {
                    info!("Kafka takes messages again");
                }
                Ok(())
            }
            Err((error, message)) => {
                use rdkafka::Message;
                Err(format!("{}: {}", message.topic(), super::harmless(error)))
            }
        };
        self.news.add((number, result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_taken_once_and_topics_ring() {
        let news = News::new().unwrap();
        assert!(news.take().is_empty());
        news.add((1, Ok(())));
        news.add((2, Err("no".into())));
        assert_eq!(news.heard(), 2);
        assert_eq!(news.take(), [(1, Ok(())), (2, Err("no".into()))]);
        assert!(news.take().is_empty());
        assert!(news.bell.read().is_err());
        news.add_topic("t".into(), State::Good);
        assert_eq!(news.topics(), [("t".into(), State::Good)]);
        assert!(news.bell.read().is_err());
        news.add_topic("t".into(), State::Good);
        assert_eq!(news.bell.read(), Ok(1));
    }
}
