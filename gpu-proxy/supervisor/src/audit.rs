//! What the supervisor has recorded: a bounded queue, and the auditor that it goes to.
//!
//! Nobody waits for the auditor. Events are kept until it says that they are on disk; one that is killed is started
//! again and gets the rest. What a zone has too much of is counted and recorded as lost.

#![forbid(unsafe_code)]

mod pages;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use idm_protocol::attach::socket::{receive, send};
use nix::errno::Errno;
use proxy_audit::block::Zone;
use proxy_audit::event::{Event, Stamp};
use proxy_audit::hash::LogId;
use proxy_audit::spool::WhenFull;
use proxy_audit::wire::{
    Collection, Detail, FromAuditor, REPLY_LEN, Submission, ToAuditor, What, WireError,
};
use proxy_channel::admin;
use proxy_channel::calls::{CallPage, PageError};
use thiserror::Error;
use tracing::{error, info, warn};

use self::pages::Pages;
use crate::companion::Companion;
use crate::config::{AuditConfig, JsonLines};
use crate::throttle::Throttle;

/// Events of one zone that are kept while the auditor is away or slow: a zone that has more costs itself, and nobody
/// else.
const MAX_WAITING: usize = 512;

/// With so many waiting, a zone that is to fail closed lets nobody new in: what they did would soon be lost.
const CROWDED: usize = MAX_WAITING / 2;

/// Without an auditor for so long, or with one that does not take what waits, a zone that is to fail closed stops: calls
/// have room for a while, and then they wait.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks at a page that was found full.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Events in ten seconds of those that a worker can cause as fast as it can write.
const MAX_NOISE: u32 = 500;

/// How long an auditor must have worked for another to be started at once when it ends, and how long it takes otherwise.
const REST: Duration = Duration::from_secs(1);

/// A handle to have things recorded by; without an auditor it does nothing.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Option<Arc<Mutex<Auditor>>>);

#[derive(Debug)]
struct Auditor {
    config: AuditConfig,
    session: LogId,
    queue: VecDeque<Entry>,
    /// Entries of the queue that were sent on this connection.
    sent: usize,
    next_n: u64,
    /// How many in the queue are of which zone.
    waiting: BTreeMap<Zone, usize>,
    noise: BTreeMap<Zone, Throttle>,
    lost: BTreeMap<Zone, u64>,
    closed: BTreeSet<Zone>,
    pages: Pages,
    link: Option<Link>,
    /// When the last auditor went, or the first was started; none while one is there.
    away_since: Option<Instant>,
    child: Option<Child>,
    start_at: Option<Instant>,
    stopping: bool,
}

#[derive(Debug)]
struct Entry {
    n: u64,
    zone: Zone,
    since: Instant,
    packet: Vec<u8>,
}

#[derive(Debug)]
struct Link {
    socket: Arc<OwnedFd>,
    /// When the auditor said what it has; before that nothing is sent.
    greeted: Option<Instant>,
    /// The socket is full.
    blocked: bool,
}

/// Why there is no auditor.
#[derive(Debug, Error)]
pub enum AuditError {
    /// It cannot be started.
    #[error("cannot start {0}: {1}")]
    Start(String, io::Error),
    /// No random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// Why a connection to an auditor ends.
#[derive(Debug, Error)]
enum LinkError {
    #[error("it has gone")]
    Gone,
    #[error("it sent {0}")]
    Wire(#[from] WireError),
    #[error("it confirmed what was never sent")]
    Unsent,
    #[error("its channel broke: {0}")]
    Broken(Errno),
}

impl Recorder {
    /// Starts the auditor of a configuration that wants one.
    pub fn start(config: Option<&AuditConfig>) -> Result<Self, AuditError> {
        let Some(config) = config else {
            return Ok(Self(None));
        };
        let mut auditor = Auditor {
            config: config.clone(),
            session: LogId::draw()?,
            queue: VecDeque::new(),
            sent: 0,
            next_n: 0,
            waiting: BTreeMap::new(),
            noise: BTreeMap::new(),
            lost: BTreeMap::new(),
            closed: BTreeSet::new(),
            pages: Pages::default(),
            link: None,
            away_since: Some(Instant::now()),
            child: None,
            start_at: None,
            stopping: false,
        };
        auditor.start()?;
        Ok(Self(Some(Arc::new(Mutex::new(auditor)))))
    }

    /// Has something recorded that concerns a zone.
    pub fn record(&self, zone: &str, event: Event) {
        // Names of zones are checked with the configuration, more strictly than here.
        if let (Some(mut auditor), Ok(zone)) = (self.auditor(), zone.parse()) {
            auditor.record(&zone, event);
        }
    }

    /// Has something recorded that concerns the proxy.
    pub fn record_own(&self, event: Event) {
        if let Some(mut auditor) = self.auditor() {
            auditor.record(&Zone::proxy(), event);
        }
    }

    /// A page for the calls of a client, which the auditor collects from [`Recorder::collect`] on; none without an
    /// auditor.
    ///
    /// # Errors
    /// [`PageError`] if none can be made.
    pub fn open_page(
        &self,
        zone: &str,
        client: u64,
        worker: u32,
        detail: Detail,
    ) -> Result<Option<Arc<CallPage>>, PageError> {
        let (Some(mut auditor), Ok(zone)) = (self.auditor(), zone.parse()) else {
            return Ok(None);
        };
        let page = Arc::new(CallPage::create()?);
        if let Some(lost) = auditor.pages.drop_one_too_many(&zone) {
            *auditor.lost.entry(zone.clone()).or_default() += lost;
        }
        let collection = Collection {
            client,
            worker,
            zone,
            detail,
            since_ns: Stamp::now().mono_ns,
        };
        auditor.pages.add(collection, Arc::clone(&page));
        Ok(Some(page))
    }

    /// A client may call from now on. What was recorded before comes before its calls in the log.
    pub fn collect(&self, client: u64) {
        if let Some(mut auditor) = self.auditor() {
            let at = auditor.next_n;
            auditor.pages.collect(at, client);
            // A failure shows again when the channel is polled.
            let _ = auditor.send();
        }
    }

    /// How things are, for an administrator.
    #[must_use]
    pub fn status(&self, now: Instant) -> Option<admin::Audit> {
        let auditor = self.auditor()?;
        let kafka = auditor.config.kafka.iter();
        let away = auditor.away_since;
        Some(admin::Audit {
            spool: auditor.config.spool.display().to_string(),
            auditor: auditor.child.as_ref().map(Child::id),
            away_seconds: away.map(|since| now.saturating_duration_since(since).as_secs()),
            waiting: u64::try_from(auditor.queue.len()).unwrap_or(u64::MAX),
            closed: auditor.closed.iter().map(ToString::to_string).collect(),
            topics: kafka
                .flat_map(|kafka| [kafka.topic.clone(), kafka.checkpoints.clone()])
                .collect(),
        })
    }

    /// Nothing more comes into the page of a client: its worker is gone.
    pub fn finish_page(&self, client: u64) {
        if let Some(mut auditor) = self.auditor() {
            let at = auditor.next_n;
            auditor.pages.finish(at, client);
            let _ = auditor.send();
        }
    }

    /// Nobody takes the calls of a client.
    pub fn page_is_full(&self, client: u64) {
        if let Some(mut auditor) = self.auditor() {
            auditor.pages.mark_behind(client);
        }
    }

    /// Why a zone may not acquire or run anything at the moment, if so.
    #[must_use]
    pub fn objection(&self, zone: &str, now: Instant) -> Option<&'static str> {
        let mut auditor = self.auditor()?;
        if auditor.config.when_full != WhenFull::FailClosed {
            return None;
        }
        if auditor.closed.iter().any(|closed| closed.as_str() == zone) {
            return Some("the zone's share of the audit spool is full");
        }
        let zone = zone.parse().ok()?;
        let is_long = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
        let is_crowded = auditor.is_crowded(&zone);
        if auditor.away_since.is_some_and(is_long) && (is_crowded || auditor.pages.has_live(&zone))
        {
            return Some("calls cannot be recorded: the auditor is away");
        }
        if auditor.pages.is_behind(&zone) {
            return Some("calls are not recorded: the auditor does not take them");
        }
        let is_late = auditor
            .queue
            .front()
            .is_some_and(|first| is_long(first.since));
        (is_late && is_crowded).then_some("what happens cannot be recorded: the auditor is away")
    }

    /// Whether who comes to a zone waits until the auditor has taken what is kept of those before.
    #[must_use]
    pub fn is_crowded(&self, zone: &str) -> bool {
        let (Some(auditor), Ok(zone)) = (self.auditor(), zone.parse()) else {
            return false;
        };
        auditor.config.when_full == WhenFull::FailClosed && auditor.is_crowded(&zone)
    }

    /// The channel to poll, and whether something waits to be sent.
    #[must_use]
    pub fn source(&self) -> Option<(Arc<OwnedFd>, bool)> {
        let auditor = self.auditor()?;
        let link = auditor.link.as_ref()?;
        Some((link.socket.clone(), link.blocked))
    }

    /// When [`Recorder::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let auditor = self.auditor()?;
        let now = Instant::now();
        let first = auditor.queue.front().map(|first| first.since);
        let waits = auditor.away_since.into_iter().chain(first);
        // Once it has come it changes nothing more.
        let late = waits.map(|since| since + PATIENCE).filter(|at| *at > now);
        let behind = auditor.pages.any_behind().then(|| now + LOOK_AGAIN);
        auditor.start_at.into_iter().chain(late).chain(behind).min()
    }

    /// Starts an auditor again.
    pub fn tick(&self, now: Instant) {
        if let Some(mut auditor) = self.auditor()
            && auditor.start_at.is_some_and(|at| at <= now)
        {
            auditor.start_at = None;
            if let Err(error) = auditor.start() {
                error!("{error}; trying again");
                auditor.start_at = Some(now + REST);
            }
        }
    }

    /// The channel is ready.
    pub fn on_ready(&self, now: Instant) {
        if let Some(mut auditor) = self.auditor() {
            let heard = auditor.hear().and_then(|()| auditor.send());
            if let Err(why) = heard {
                auditor.lose(&why, now);
            }
        }
    }

    /// Looks after an auditor that has ended.
    pub fn reap(&self) {
        if let Some(mut auditor) = self.auditor()
            && let Some(child) = &mut auditor.child
            && let Ok(Some(_)) = child.try_wait()
        {
            auditor.child = None;
        }
    }

    /// Whether everything that was recorded is on disk, as far as an auditor said.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.auditor()
            .is_none_or(|auditor| auditor.queue.is_empty() && auditor.pages.is_empty())
    }

    /// Hangs up and waits until the auditor has ended, for at most `patience`.
    pub fn finish(&self, patience: Duration) {
        let Some(mut auditor) = self.auditor() else {
            return;
        };
        auditor.stopping = true;
        auditor.link = None;
        let deadline = Instant::now() + patience;
        let Some(mut child) = auditor.child.take() else {
            return;
        };
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                warn!("the auditor does not end; it is killed");
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn auditor(&self) -> Option<MutexGuard<'_, Auditor>> {
        // One thread uses it; a panic there ends the supervisor.
        let auditor = self.0.as_ref()?;
        Some(auditor.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Auditor {
    fn record(&mut self, zone: &Zone, event: Event) {
        let passes = match event {
            Event::Grant { .. } | Event::Verdict { .. } | Event::Denial { .. } => {
                let noise = self.noise.entry(zone.clone());
                let noise = noise.or_insert_with(|| Throttle::new(MAX_NOISE));
                noise.pass(Instant::now()).is_some()
            }
            _ => true,
        };
        if !passes || self.waiting(zone) >= MAX_WAITING {
            *self.lost.entry(zone.clone()).or_default() += 1;
            return;
        }
        if matches!(event, Event::ProxyStopped {}) {
            let zones: Vec<Zone> = self.lost.keys().cloned().collect();
            zones.iter().for_each(|zone| self.push_lost(zone));
        }
        self.push_lost(zone);
        self.push(zone.clone(), What::Event(event));
        // A failure shows again when the channel is polled.
        let _ = self.send();
    }

    /// What was lost is recorded where there is room again, before what happened after it.
    fn push_lost(&mut self, zone: &Zone) {
        if let Some(count) = self.lost.remove(zone) {
            self.push(zone.clone(), What::Lost(count));
        }
    }

    /// Whether as much of a zone is kept as may be without losing some of what clients do who are there.
    fn is_crowded(&self, zone: &Zone) -> bool {
        self.waiting(zone) >= CROWDED || self.pages.is_full(zone)
    }

    fn waiting(&self, zone: &Zone) -> usize {
        self.waiting.get(zone).copied().unwrap_or(0)
    }

    fn push(&mut self, zone: Zone, what: What) {
        let submission = Submission {
            n: self.next_n,
            zone: zone.clone(),
            stamp: Stamp::now(),
            what,
        };
        match ToAuditor::Submit(Box::new(submission)).encode() {
            Ok(packet) => {
                let n = self.next_n;
                *self.waiting.entry(zone.clone()).or_default() += 1;
                let since = Instant::now();
                self.queue.push_back(Entry {
                    n,
                    zone,
                    since,
                    packet,
                });
                self.next_n += 1;
            }
            // Every text in an event is bounded, so that no event is too long.
            Err(error) => error!("an event cannot be recorded: {error}"),
        }
    }

    fn start(&mut self) -> Result<(), AuditError> {
        let fail = |error| AuditError::Start(self.config.auditor.display().to_string(), error);
        let session = self.session;
        let hello = ToAuditor::Hello { session }
            .encode()
            .map_err(|error| fail(io::Error::other(error)))?;
        let companion = Companion {
            executable: &self.config.auditor,
            args: self.config.to_args(),
            environment: &[],
            stdout: match self.config.json_lines {
                Some(JsonLines::Stdout) => Stdio::inherit(),
                _ => Stdio::null(),
            },
            uid: self.config.uid,
            gid: self.config.gid,
        };
        let (near, child) = companion.start(&hello).map_err(fail)?;
        info!(auditor = child.id(), spool = %self.config.spool.display(), "auditor started");
        self.child = Some(child);
        self.sent = 0;
        self.link = Some(Link {
            socket: Arc::new(near),
            greeted: None,
            blocked: false,
        });
        Ok(())
    }

    /// Takes what the auditor says; its bytes are as hostile as a worker's.
    fn hear(&mut self) -> Result<(), LinkError> {
        while let Some(link) = &self.link {
            let mut buffer = [0; REPLY_LEN + 1];
            let packet = match receive(link.socket.as_fd(), &mut buffer) {
                Ok(packet) if packet.len > 0 => packet,
                Ok(_) | Err(Errno::ECONNRESET) => return Err(LinkError::Gone),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(LinkError::Broken(errno)),
            };
            match FromAuditor::decode(buffer.get(..packet.len).unwrap_or_default())? {
                FromAuditor::Recorded { next } => self.confirm(next)?,
                FromAuditor::Collected { client } => {
                    if !self.pages.collected(client) {
                        return Err(LinkError::Unsent);
                    }
                }
                FromAuditor::Closed { zone } => {
                    warn!(%zone, "the zone's share of the audit spool is full: it acquires nothing");
                    // As many as there are zones: others are not kept.
                    if self.closed.len() < proxy_audit::chain::MAX_ZONES {
                        self.closed.insert(zone);
                    }
                }
                FromAuditor::Opened { zone } => {
                    info!(%zone, "the zone's share of the audit spool has room again");
                    self.closed.remove(&zone);
                }
            }
        }
        Ok(())
    }

    fn confirm(&mut self, next: u64) -> Result<(), LinkError> {
        if next > self.next_n {
            return Err(LinkError::Unsent);
        }
        while let Some(entry) = self.queue.pop_front_if(|entry| entry.n < next) {
            self.sent = self.sent.saturating_sub(1);
            let Some(waiting) = self.waiting.get_mut(&entry.zone) else {
                continue;
            };
            *waiting = waiting.saturating_sub(1);
            if *waiting < CROWDED {
                self.push_lost(&entry.zone);
            }
        }
        if let Some(link) = &mut self.link {
            link.greeted.get_or_insert_with(Instant::now);
            self.away_since = None;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), LinkError> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        link.blocked = false;
        while link.greeted.is_some() {
            let entry = self.queue.get(self.sent);
            // In the order in which it happened, also where an auditor comes late: attach, calls, detach.
            let page = self.pages.next(entry.map(|entry| entry.n));
            let sent = match (&page, entry) {
                (Some((message, page)), _) => {
                    let descriptors = page.map_or_else(Vec::new, |page| page.descriptors().into());
                    send(link.socket.as_fd(), &message.encode()?, &descriptors)
                }
                (None, Some(entry)) => send(link.socket.as_fd(), &entry.packet, &[]),
                (None, None) => break,
            };
            match (sent, page) {
                (Ok(()), Some((message, _))) => self.pages.told(&message),
                (Ok(()), None) => self.sent += 1,
                (Err(Errno::EAGAIN), _) => {
                    link.blocked = true;
                    break;
                }
                (Err(Errno::EPIPE | Errno::ECONNRESET), _) => return Err(LinkError::Gone),
                (Err(errno), _) => return Err(LinkError::Broken(errno)),
            }
        }
        Ok(())
    }

    fn lose(&mut self, why: &LinkError, now: Instant) {
        let worked_from = self.link.take().and_then(|link| link.greeted);
        let has_worked =
            worked_from.is_some_and(|from| now.saturating_duration_since(from) >= REST);
        self.away_since = Some(now);
        self.pages.forget_told();
        self.closed.clear();
        if let Some(mut child) = self.child.take() {
            // One that is of no use must not keep the spool locked.
            let _ = child.kill();
            let _ = child.wait();
        }
        if !self.stopping {
            let waiting = self.queue.len();
            error!(%why, waiting, "the auditor is away; another is started");
            self.start_at = Some(if has_worked { now } else { now + REST });
        }
    }
}

#[cfg(test)]
mod tests {
    use proxy_audit::text::Text;

    use super::*;

    /// A recorder whose auditor never listens.
    fn deaf() -> Recorder {
        let config = AuditConfig {
            auditor: "/bin/true".into(),
            spool: "/".into(),
            key: "/".into(),
            name: "test".into(),
            json_lines: None,
            kafka: None,
            checkpoint_after: Duration::from_secs(1),
            share: 1 << 20,
            headroom: 1 << 20,
            retain: 1 << 20,
            when_full: WhenFull::FailClosed,
            uid: None,
            gid: None,
        };
        Recorder::start(Some(&config)).unwrap()
    }

    fn reload() -> Event {
        Event::QuotaChange {
            change: Text::from("x"),
        }
    }

    #[test]
    fn a_zone_that_floods_a_silent_auditor_loses_its_own_events_and_stops_alone() {
        let recorder = deaf();
        let now = Instant::now();
        recorder.record("b", reload());
        (0..MAX_WAITING + 88).for_each(|_| recorder.record("a", reload()));
        {
            let auditor = recorder.auditor().unwrap();
            let [a, b]: [Zone; 2] = ["a", "b"].map(|zone| zone.parse().unwrap());
            assert_eq!((auditor.waiting(&a), auditor.waiting(&b)), (MAX_WAITING, 1));
            assert_eq!(auditor.lost.get(&a), Some(&88));
        }
        // A moment's wait is no reason to stop anybody, but new ones wait.
        assert_eq!(recorder.objection("a", now), None);
        assert!(recorder.is_crowded("a") && !recorder.is_crowded("b"));
        // Somebody looks again when it has been too long, also where an auditor is there and says nothing.
        recorder.auditor().unwrap().away_since = None;
        let later = Instant::now() + PATIENCE;
        assert!(recorder.next_deadline().is_some_and(|next| next <= later));
        assert!(recorder.objection("a", later).is_some());
        assert_eq!(recorder.objection("b", later), None);
    }

    #[test]
    fn what_a_worker_can_cause_at_will_is_bounded_and_counted() {
        let recorder = deaf();
        let most = usize::try_from(MAX_NOISE).unwrap();
        for _ in 0..most + 7 {
            let client = proxy_audit::event::Client {
                id: 1,
                pid: 1,
                uid: 1,
                program: Text::default(),
                worker: 1,
            };
            let (bytes, granted) = (1, true);
            recorder.record(
                "a",
                Event::Grant {
                    client,
                    bytes,
                    granted,
                },
            );
        }
        let auditor = recorder.auditor().unwrap();
        assert_eq!(auditor.lost.values().sum::<u64>(), 7);
        assert_eq!(auditor.queue.len(), most);
    }

    #[test]
    fn an_auditor_that_confirms_what_was_never_sent_is_not_believed() {
        let recorder = deaf();
        recorder.record("a", reload());
        let mut auditor = recorder.auditor().unwrap();
        assert!(matches!(auditor.confirm(9), Err(LinkError::Unsent)));
        assert_eq!(auditor.queue.len(), 1);
        assert!(auditor.confirm(1).is_ok());
        assert_eq!(auditor.queue.len(), 0);
    }
}
