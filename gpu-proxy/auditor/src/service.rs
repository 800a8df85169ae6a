//! The poll loop: take, put on disk, sign, send on.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proxy_audit::block::Zone;
use proxy_audit::event::{Event, Stamp};
use proxy_audit::keys::{self, KeysError};
use proxy_audit::note::SecretKey;
use proxy_audit::spool::{Spool, SpoolError};
use proxy_audit::text::Text;
use proxy_audit::wire::FromAuditor;
use thiserror::Error;
use tracing::{info, warn};

use crate::args::Arguments;
use crate::collector::{CollectError, Collector};
use crate::outlet::{Outlet, OutletError};
use crate::session::{Progress, Session, SessionError};
use crate::sink::{JsonLines, Kafka, Sink, SinkError, Stream};

/// How long the sinks may take when the supervisor has gone.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How long the kernel may take to end the workers of a supervisor that was killed.
const WORKERS_END: Duration = Duration::from_millis(100);

/// Why the auditor ends.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The key.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The channel.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The workers' pages.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// A sink cannot be opened.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A sink cannot be fed.
    #[error(transparent)]
    Outlet(#[from] OutletError),
    /// The key is of another log.
    #[error("the key is called {0:?}, and its successor {1:?}: a log keeps its name")]
    Renamed(String, String),
    /// A system call failed.
    #[error("cannot wait: {0}")]
    Poll(Errno),
}

/// The auditor.
#[derive(Debug)]
pub struct Service {
    spool: Spool,
    session: Session,
    collector: Collector,
    key: SecretKey,
    checkpoint_after: Duration,
    /// When the first block that is not signed was seen.
    unsigned_since: Option<Instant>,
    signed: u64,
    told_closed: BTreeSet<Zone>,
    outlets: Vec<Outlet>,
}

impl Service {
    /// Opens everything, with the sinks that the arguments name.
    pub fn open(arguments: &Arguments, channel: OwnedFd) -> Result<Self, ServiceError> {
        Self::with_sinks(arguments, channel, |spool| {
            let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
            match arguments.json_lines.as_deref() {
                Some(path) if path == Path::new("-") => {
                    sinks.push(Box::new(Stream::stdout(spool)?));
                }
                Some(path) => sinks.push(Box::new(JsonLines::open(path, spool.chain().log())?)),
                None => {}
            }
            if let Some(kafka) = Kafka::open(&arguments.kafka, spool)? {
                sinks.push(Box::new(kafka));
            }
            Ok(sinks)
        })
    }

    /// Opens everything, with sinks of the caller's, and records that it did.
    pub fn with_sinks(
        arguments: &Arguments,
        channel: OwnedFd,
        sinks: impl FnOnce(&Spool) -> Result<Vec<Box<dyn Sink>>, SinkError>,
    ) -> Result<Self, ServiceError> {
        let session = Session::new(channel)?;
        let mut spool = Spool::open(arguments.settings())?;
        let key = match keys::read(&arguments.key)? {
            Some(key) => {
                // Its public half may have been lost, or never written.
                keys::publish(&arguments.key, &key)?;
                key
            }
            None => keys::create(&arguments.key, &arguments.name)?,
        };
        let record =
            |spool: &mut Spool, event| spool.event(&Zone::proxy(), Stamp::now(), None, event);
        if spool.chain().next_leaf() == 0 {
            let key = Text::new(key.public().to_string());
            record(&mut spool, Event::LogOpened { key })?;
        }
        let version = Text::from(env!("CARGO_PKG_VERSION"));
        record(&mut spool, Event::AuditorStarted { version })?;
        let key = rotate(&mut spool, key, arguments)?;
        let outlets: Result<Vec<Outlet>, OutletError> = sinks(&spool)?
            .into_iter()
            .map(|sink| Outlet::open(sink, &spool))
            .collect();
        info!(log = %spool.chain().log(), key = %key.public(), leaf = spool.chain().next_leaf(), "auditor goes on");
        Ok(Self {
            outlets: outlets?,
            session,
            collector: Collector::new()?,
            key,
            checkpoint_after: arguments.checkpoint_after(),
            unsigned_since: None,
            signed: 0,
            told_closed: BTreeSet::new(),
            spool,
        })
    }

    /// Serves until the supervisor has gone.
    pub fn run(mut self) -> Result<(), ServiceError> {
        // What recovery and the start recorded is signed and sent like everything else.
        loop {
            self.collector.look()?;
            let progress = self.session.serve(&mut self.spool, &mut self.collector)?;
            self.collect(Instant::now())?;
            self.sign_when_due(Instant::now())?;
            let busy = self.send_on(Instant::now())?;
            self.tell_closed()?;
            if progress == Progress::Closed {
                return self.end();
            }
            self.wait(busy)?;
        }
    }

    /// Takes what workers have written.
    fn collect(&mut self, now: Instant) -> Result<(), ServiceError> {
        for client in self.collector.take(&mut self.spool, now)? {
            self.session.say(&FromAuditor::Collected { client })?;
        }
        Ok(())
    }

    fn end(mut self) -> Result<(), ServiceError> {
        if self.collector.is_unfinished() {
            // The supervisor was killed; its workers are ended with it by the kernel, in a moment.
            std::thread::sleep(WORKERS_END);
        }
        self.collector.finish_all(&mut self.spool)?;
        let zone = Zone::proxy();
        self.spool
            .event(&zone, Stamp::now(), None, Event::AuditorStopped {})?;
        self.sign()?;
        let give_up = Instant::now() + LAST_WORDS;
        while Instant::now() < give_up {
            let busy = self.send_on(Instant::now())?;
            let end = self.spool.chain().next_leaf();
            // What a sink does not have by then it gets from the next auditor.
            let done = |outlet: &Outlet| outlet.settled() >= end || outlet.again().is_some();
            if self.outlets.iter().all(done) {
                break;
            }
            if !busy {
                let news = self.outlets.iter().filter_map(Outlet::news);
                let looks = self.outlets.iter().filter_map(Outlet::next_look);
                wait_for(news, looks.chain([give_up]).min())?;
            }
        }
        info!(
            leaf = self.spool.chain().next_leaf(),
            "the supervisor has gone; bye"
        );
        Ok(())
    }

    fn sign_when_due(&mut self, now: Instant) -> Result<(), ServiceError> {
        if self.spool.chain().next_leaf() <= self.signed {
            return Ok(());
        }
        let since = *self.unsigned_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.checkpoint_after {
            self.sign()?;
        }
        Ok(())
    }

    fn sign(&mut self) -> Result<(), ServiceError> {
        let note = self.spool.checkpoint(&[&self.key])?;
        self.signed = self.spool.chain().next_leaf();
        self.unsigned_since = None;
        for outlet in &mut self.outlets {
            outlet.note(self.signed, &note);
        }
        Ok(())
    }

    /// Gives the sinks what is on disk; true if one of them could take more at once.
    fn send_on(&mut self, now: Instant) -> Result<bool, ServiceError> {
        for event in self.outlets.iter_mut().flat_map(Outlet::reports) {
            self.spool
                .event(&Zone::proxy(), Stamp::now(), None, event)?;
        }
        // Events of the auditor's own may not be on disk yet.
        self.spool.sync()?;
        let end = self.spool.chain().next_leaf();
        let mut busy = false;
        let mut settled = end;
        for outlet in &mut self.outlets {
            busy |= outlet.pump(&self.spool, now)?;
            settled = settled.min(outlet.settled());
        }
        self.spool.acknowledge(settled)?;
        self.spool.settle(Stamp::now())?;
        Ok(busy)
    }

    fn tell_closed(&mut self) -> Result<(), ServiceError> {
        let closed = self.spool.closed().clone();
        for zone in closed.difference(&self.told_closed).cloned() {
            warn!(%zone, "the zone's share of the spool is full: it may acquire and run nothing");
            self.session.say(&FromAuditor::Closed { zone })?;
        }
        for zone in self.told_closed.difference(&closed).cloned() {
            info!(%zone, "the zone's share of the spool has room again");
            self.session.say(&FromAuditor::Opened { zone })?;
        }
        self.told_closed = closed;
        Ok(())
    }

    fn wait(&self, busy: bool) -> Result<(), ServiceError> {
        let due = self
            .unsigned_since
            .map(|since| since + self.checkpoint_after);
        let looks = self.outlets.iter().filter_map(Outlet::next_look);
        let deadline = match busy {
            true => Some(Instant::now()),
            false => looks.chain(due).chain(self.collector.next_look()).min(),
        };
        let news = self.outlets.iter().filter_map(Outlet::news);
        let own = [self.session.as_fd()].into_iter();
        wait_for(own.chain(self.collector.wakes()).chain(news), deadline)
    }
}

/// Waits until one of them can be read, or for the deadline.
fn wait_for<'f>(
    watched: impl Iterator<Item = BorrowedFd<'f>>,
    deadline: Option<Instant>,
) -> Result<(), ServiceError> {
    let timeout = match deadline {
        None => PollTimeout::NONE,
        Some(deadline) => {
            // Rounded up, so that the last wait is not a spin.
            let left = deadline.saturating_duration_since(Instant::now());
            let millis = left.as_micros().div_ceil(1000);
            u16::try_from(millis).map_or(PollTimeout::MAX, PollTimeout::from)
        }
    };
    let mut watched: Vec<PollFd<'_>> = watched
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    match poll(&mut watched, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(ServiceError::Poll(errno)),
    }
}

/// Makes the successor of the key the key, if there is one: recorded, signed by both, then put in its place. Killed
/// in between, it is done again.
fn rotate(
    spool: &mut Spool,
    key: SecretKey,
    arguments: &Arguments,
) -> Result<SecretKey, ServiceError> {
    let Some(next) = keys::read(&keys::successor(&arguments.key))? else {
        return Ok(key);
    };
    let names = [key.public().name(), next.public().name()].map(str::to_owned);
    if names[0] != names[1] {
        let [old, new] = names;
        return Err(ServiceError::Renamed(old, new));
    }
    let text = Text::new(next.public().to_string());
    let event = Event::KeyRotated { key: text };
    spool.event(&Zone::proxy(), Stamp::now(), None, event)?;
    spool.checkpoint(&[&key, &next])?;
    keys::replace(&arguments.key, &next)?;
    info!(old = %key.public(), new = %next.public(), "the signing key was replaced");
    Ok(next)
}
