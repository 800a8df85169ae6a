//! The poll loop: take, put on disk, sign, send on.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proxy_audit::block::{Block, Zone};
use proxy_audit::event::{Event, Stamp};
use proxy_audit::keys::{self, KeysError};
use proxy_audit::note::SecretKey;
use proxy_audit::spool::{Cursor, CursorError, Spool, SpoolError};
use proxy_audit::text::Text;
use proxy_audit::wire::FromAuditor;
use thiserror::Error;
use tracing::{info, warn};

use crate::args::Arguments;
use crate::session::{Progress, Session, SessionError};
use crate::sink::{JsonLines, Sink, SinkError, Taken};

/// Blocks given to a sink before the channel has its turn.
const BLOCKS_AT_ONCE: usize = 256;

/// How long a sink that failed is left alone.
const REST: Duration = Duration::from_secs(1);

/// How long the sinks may take when the supervisor has gone.
const LAST_WORDS: Duration = Duration::from_secs(5);

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
    /// The spool cannot be read again.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// A sink cannot be opened.
    #[error(transparent)]
    Sink(#[from] SinkError),
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
    key: SecretKey,
    checkpoint_after: Duration,
    /// When the first block that is not signed was seen.
    unsigned_since: Option<Instant>,
    signed: u64,
    told_closed: BTreeSet<Zone>,
    outlets: Vec<Outlet>,
}

/// A sink, and how far it is.
struct Outlet {
    sink: Box<dyn Sink>,
    cursor: Cursor,
    /// A block that it had no room for.
    held: Option<Vec<u8>>,
    /// Notes and how many leaves they cover, until those were sent.
    notes: Vec<(u64, String)>,
    settled: u64,
    again: Option<Instant>,
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at leaf {}", self.sink.name(), self.cursor.leaf())
    }
}

impl Service {
    /// Opens everything, with the sinks that the arguments name.
    pub fn open(arguments: &Arguments, channel: OwnedFd) -> Result<Self, ServiceError> {
        Self::with_sinks(arguments, channel, |spool| {
            let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
            if let Some(path) = &arguments.json_lines {
                sinks.push(Box::new(JsonLines::open(path, spool.chain().log())?));
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
        let outlets: Result<Vec<Outlet>, ServiceError> = sinks(&spool)?
            .into_iter()
            .map(|sink| Outlet::open(sink, &spool))
            .collect();
        info!(log = %spool.chain().log(), key = %key.public(), leaf = spool.chain().next_leaf(), "auditor goes on");
        Ok(Self {
            outlets: outlets?,
            session,
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
            let progress = self.session.serve(&mut self.spool)?;
            self.sign_when_due(Instant::now())?;
            let busy = self.send_on(Instant::now())?;
            self.tell_closed()?;
            if progress == Progress::Closed {
                return self.end();
            }
            self.wait(busy)?;
        }
    }

    fn end(mut self) -> Result<(), ServiceError> {
        let zone = Zone::proxy();
        self.spool
            .event(&zone, Stamp::now(), None, Event::AuditorStopped {})?;
        self.sign()?;
        let give_up = Instant::now() + LAST_WORDS;
        while self.send_on(Instant::now())? && Instant::now() < give_up {}
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
            outlet.notes.push((self.signed, note.clone()));
        }
        Ok(())
    }

    /// Gives the sinks what is on disk; true if one of them could take more at once.
    fn send_on(&mut self, now: Instant) -> Result<bool, ServiceError> {
        // Events of the auditor's own may not be on disk yet.
        self.spool.sync()?;
        let end = self.spool.chain().next_leaf();
        let mut busy = false;
        let mut settled = end;
        for outlet in &mut self.outlets {
            if outlet.again.is_none_or(|again| again <= now) {
                outlet.again = None;
                match outlet.pump(end) {
                    Ok(more) => busy |= more,
                    Err(PumpError::Cursor(error)) => return Err(error.into()),
                    Err(PumpError::Sink(error)) => {
                        warn!(sink = outlet.sink.name(), "{error}; trying again");
                        outlet.again = Some(now + REST);
                    }
                }
            }
            settled = settled.min(outlet.settled);
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
        let again = self.outlets.iter().filter_map(|outlet| outlet.again);
        let deadline = again.chain(due).min();
        let timeout = match deadline {
            _ if busy => PollTimeout::ZERO,
            None => PollTimeout::NONE,
            Some(deadline) => {
                // Rounded up, so that the last wait is not a spin.
                let left = deadline.saturating_duration_since(Instant::now());
                let millis = left.as_micros().div_ceil(1000);
                u16::try_from(millis).map_or(PollTimeout::MAX, PollTimeout::from)
            }
        };
        let mut watched = [PollFd::new(self.session.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(ServiceError::Poll(errno)),
        }
    }
}

enum PumpError {
    Cursor(CursorError),
    Sink(SinkError),
}

impl Outlet {
    fn open(mut sink: Box<dyn Sink>, spool: &Spool) -> Result<Self, ServiceError> {
        let (mut first, end) = (sink.first_wanted(), spool.chain().next_leaf());
        if first > end {
            let name = sink.name();
            let text = format!("{name} holds {first} blocks, and the spool only {end} of them");
            return Err(SinkError(text).into());
        }
        if let Some(head) = spool.head().map_err(SpoolError::from)?
            && head.next_leaf() > first
        {
            warn!(
                sink = sink.name(),
                first,
                from = head.next_leaf(),
                "the spool does not reach back so far"
            );
            first = head.next_leaf();
            sink.begin(&head)?;
        }
        info!(sink = sink.name(), first, "sink");
        Ok(Self {
            cursor: Cursor::new(spool.folder(), first),
            sink,
            held: None,
            notes: Vec::new(),
            settled: 0,
            again: None,
        })
    }

    /// Sends blocks below `end`; true if there are more and the sink has room.
    fn pump(&mut self, end: u64) -> Result<bool, PumpError> {
        let mut more = true;
        for _ in 0..BLOCKS_AT_ONCE {
            self.send_notes()?;
            let next = match self.held.take() {
                Some(held) => Some(held),
                None => self.cursor.next_below(end).map_err(PumpError::Cursor)?,
            };
            let Some(bytes) = next else {
                more = false;
                break;
            };
            // The cursor is one ahead while a block is in hand.
            let leaf = self.cursor.leaf().saturating_sub(1);
            let zone = Block::parse(&bytes).map(|block| block.header().zone.clone());
            let zone = zone.unwrap_or_else(|_| Zone::proxy());
            match self.sink.block(leaf, zone.as_str(), &bytes) {
                Ok(Taken::Yes) => {}
                Ok(Taken::Later) => {
                    self.held = Some(bytes);
                    more = false;
                    break;
                }
                Err(error) => {
                    self.held = Some(bytes);
                    return Err(PumpError::Sink(error));
                }
            }
        }
        self.settled = self.sink.settle().map_err(PumpError::Sink)?;
        Ok(more)
    }

    fn send_notes(&mut self) -> Result<(), PumpError> {
        let sent = self.cursor.leaf() - u64::from(self.held.is_some());
        while let Some((size, note)) = self.notes.first()
            && *size <= sent
        {
            self.sink.checkpoint(note).map_err(PumpError::Sink)?;
            self.notes.remove(0);
        }
        Ok(())
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
