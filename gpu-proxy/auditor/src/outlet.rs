//! A sink and how far it is: fed from the spool, left alone for a while when it fails, then taken up where it wants.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use proxy_audit::block::{Block, Zone};
use proxy_audit::event::Event;
use proxy_audit::load::claimed_size;
use proxy_audit::spool::{Cursor, CursorError, ReadError, Spool, read_checkpoints};
use thiserror::Error;
use tracing::{info, warn};

use crate::sink::{Sink, SinkError, Taken};

/// Blocks given to a sink before the channel has its turn.
const BLOCKS_AT_ONCE: usize = 256;

/// How long a sink that failed is left alone; twice as long each time, up to a limit.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// A sink, and how far it is.
pub(crate) struct Outlet {
    sink: Box<dyn Sink>,
    cursor: Cursor,
    /// A block that it had no room for.
    held: Option<Vec<u8>>,
    /// Notes and how many leaves they cover, until those were sent.
    notes: VecDeque<(u64, String)>,
    settled: u64,
    failed: Option<Failed>,
}

/// What a sink said, how long it is left alone and until when.
struct Failed {
    text: String,
    rest: Duration,
    again: Instant,
}

/// Why a sink cannot be fed, whatever the sink does.
#[derive(Debug, Error)]
pub enum OutletError {
    /// The spool cannot be read again.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// The spool cannot be read again.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The sink cannot be begun with.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// It has more than there is.
    #[error("{name} holds {held} blocks, and the spool only {there} of them")]
    Ahead {
        /// Which.
        name: String,
        /// What it holds.
        held: u64,
        /// What there is.
        there: u64,
    },
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at leaf {}", self.sink.name(), self.cursor.leaf())
    }
}

impl Outlet {
    /// A sink that has not been given anything yet.
    pub(crate) fn open(sink: Box<dyn Sink>, spool: &Spool) -> Result<Self, OutletError> {
        let mut outlet = Self {
            sink,
            cursor: Cursor::new(spool.folder(), 0),
            held: None,
            notes: VecDeque::new(),
            settled: 0,
            failed: None,
        };
        match outlet.rewind(spool) {
            // One that cannot begin yet is tried again; the log goes on without it.
            Err(OutletError::Sink(error)) => outlet.rest(&error, Instant::now()),
            other => other?,
        }
        info!(
            sink = outlet.sink.name(),
            first = outlet.cursor.leaf(),
            "sink"
        );
        Ok(outlet)
    }

    /// The leaf before which it has everything safely.
    pub(crate) fn settled(&self) -> u64 {
        self.settled
    }

    /// When it is to be tried again.
    pub(crate) fn again(&self) -> Option<Instant> {
        self.failed.as_ref().map(|failed| failed.again)
    }

    /// When it is to be pumped again although nothing woke the loop.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.again().or_else(|| self.sink.next_look())
    }

    /// What to poll for its news.
    pub(crate) fn news(&self) -> Option<BorrowedFd<'_>> {
        self.sink.news()
    }

    /// What the sink wants recorded.
    pub(crate) fn reports(&mut self) -> Vec<Event> {
        self.sink.reports()
    }

    /// A note for it, once it has the leaves that it covers.
    pub(crate) fn note(&mut self, size: u64, note: &str) {
        self.notes.push_back((size, note.to_owned()));
    }

    /// Gives it what is on disk; true if there is more and it has room.
    pub(crate) fn pump(&mut self, spool: &Spool, now: Instant) -> Result<bool, OutletError> {
        if self.again().is_some_and(|again| now < again) {
            return Ok(false);
        }
        let done = match self.failed {
            Some(_) => self.rewind(spool),
            None => Ok(()),
        };
        match done.and_then(|()| self.feed(spool.chain().next_leaf())) {
            Ok(more) => {
                if self.failed.take().is_some() {
                    info!(sink = self.sink.name(), "it takes blocks again");
                }
                Ok(more)
            }
            Err(OutletError::Sink(error)) => {
                self.rest(&error, now);
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }

    fn rest(&mut self, error: &SinkError, now: Instant) {
        let text = error.to_string();
        let before = self.failed.take();
        // Told once, however often it fails so.
        if before.as_ref().is_none_or(|before| before.text != text) {
            warn!(sink = self.sink.name(), "{text}; trying again");
        }
        let rest = before.map_or(REST, |before| LONGEST_REST.min(before.rest * 2));
        let again = now + rest;
        self.failed = Some(Failed { text, rest, again });
    }

    /// Goes to the leaf that the sink wants.
    fn rewind(&mut self, spool: &Spool) -> Result<(), OutletError> {
        let (mut first, there) = (self.sink.first_wanted(), spool.chain().next_leaf());
        if first > there {
            let (name, held) = (self.sink.name(), first);
            return Err(OutletError::Ahead { name, held, there });
        }
        self.settled = first;
        if let Some(head) = spool.head()?
            && head.next_leaf() > first
        {
            warn!(
                sink = self.sink.name(),
                first,
                from = head.next_leaf(),
                "the spool does not reach back so far"
            );
            first = head.next_leaf();
            self.sink.begin(&head)?;
        }
        self.cursor = Cursor::new(spool.folder(), first);
        self.held = None;
        // Also what was signed for a sink that was away, or by an auditor before this one.
        let notes = read_checkpoints(spool.folder())?.into_iter();
        self.notes = notes
            .filter_map(|note| Some((claimed_size(&note)?, note)))
            .filter(|(size, _)| *size >= first)
            .collect();
        Ok(())
    }

    fn feed(&mut self, end: u64) -> Result<bool, OutletError> {
        let mut more = true;
        for _ in 0..BLOCKS_AT_ONCE {
            if !self.send_notes()? {
                more = false;
                break;
            }
            let next = match self.held.take() {
                Some(held) => Some(held),
                None => self.cursor.next_below(end)?,
            };
            let Some(bytes) = next else {
                more = false;
                break;
            };
            // The cursor is one ahead while a block is in hand.
            let leaf = self.cursor.leaf().saturating_sub(1);
            let zone = Block::zone_of(&bytes).unwrap_or_else(|_| Zone::proxy());
            let taken = self.sink.block(leaf, zone.as_str(), &bytes)?;
            if taken == Taken::Later {
                self.held = Some(bytes);
                more = false;
                break;
            }
        }
        self.settled = self.sink.settle()?;
        Ok(more)
    }

    /// Gives it the notes that cover only what it was given; false if it has no room.
    fn send_notes(&mut self) -> Result<bool, OutletError> {
        let sent = self.cursor.leaf() - u64::from(self.held.is_some());
        while let Some((size, note)) = self.notes.front()
            && *size <= sent
        {
            if self.sink.checkpoint(note)? == Taken::Later {
                return Ok(false);
            }
            self.notes.pop_front();
        }
        Ok(true)
    }
}
