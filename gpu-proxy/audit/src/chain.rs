//! What ties blocks together: numbers without gaps, hashes in each zone, one tree for all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::block::{Block, BlockError, Header, Origin, Source, Zone};
use crate::call::Calls;
use crate::event::{Event, Stamp};
use crate::hash::{Hash, LogId};
use crate::tree::Frontier;

/// Most zones of one log.
pub const MAX_ZONES: usize = 4096;

/// Clients whose calls were recorded last: more than there can be at a time.
const CLIENTS: usize = 1024;

/// The end of a log: what the next block must name. It is written at the head of every segment, so that a
/// log can be read on where its first part is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    log: LogId,
    tree: Frontier,
    zones: BTreeMap<Zone, Tail>,
    source: Option<Source>,
    /// How many calls of which clients are recorded, those that were last recorded at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    clients: Vec<Recorded>,
}

/// How many calls of a client are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    session: LogId,
    client: u64,
    calls: u64,
}

/// The end of one zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    /// The number of the next record.
    pub seq: u64,
    /// The hash of the last block.
    pub prev: Hash,
    /// Records are being dropped: a gap must be recorded before anything else.
    pub dropping: bool,
}

impl Default for Hash {
    fn default() -> Self {
        Self::ZERO
    }
}

/// A block that is to become the next one.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What it says.
    pub block: Block,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Why a block is not the next one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// It is none.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// It belongs to another log.
    #[error("it belongs to log {found}, and this is log {expected}")]
    Log {
        /// Its own.
        found: LogId,
        /// This one.
        expected: LogId,
    },
    /// It is another leaf.
    #[error("it is leaf {found} where leaf {expected} should be")]
    Leaf {
        /// Its own.
        found: u64,
        /// The next.
        expected: u64,
    },
    /// It has another number.
    #[error("its first record is number {found} where {expected} should be")]
    Seq {
        /// Its own.
        found: u64,
        /// The zone's next.
        expected: u64,
    },
    /// It follows another block than the one before it.
    #[error("it follows another block of its zone than the one that is there")]
    Prev,
    /// There are too many zones, or numbers.
    #[error("the log has no room for it")]
    Full,
}

impl Chain {
    /// The beginning of a log.
    #[must_use]
    pub fn new(log: LogId) -> Self {
        Self {
            log,
            tree: Frontier::default(),
            zones: BTreeMap::new(),
            source: None,
            clients: Vec::new(),
        }
    }

    /// Which log.
    #[must_use]
    pub fn log(&self) -> LogId {
        self.log
    }

    /// The tree so far.
    #[must_use]
    pub fn tree(&self) -> &Frontier {
        &self.tree
    }

    /// The next leaf.
    #[must_use]
    pub fn next_leaf(&self) -> u64 {
        self.tree.size()
    }

    /// The end of a zone.
    #[must_use]
    pub fn tail(&self, zone: &Zone) -> Tail {
        self.zones.get(zone).copied().unwrap_or_default()
    }

    /// All zones that have a record.
    pub fn zones(&self) -> impl Iterator<Item = (&Zone, &Tail)> {
        self.zones.iter()
    }

    /// The last event that was recorded for a supervisor.
    #[must_use]
    pub fn source(&self) -> Option<Source> {
        self.source
    }

    /// An event as the next block. `missing` is the number of records that a gap stands for, otherwise 1.
    #[must_use]
    pub fn event(
        &self,
        zone: &Zone,
        stamp: Stamp,
        source: Option<Source>,
        event: Event,
        missing: u64,
    ) -> Draft {
        let header = self.header(zone, missing, stamp);
        // An event's form tells microseconds.
        let whole = |nanos: u64| nanos - nanos % 1000;
        let stamp = Stamp {
            wall_ns: whole(stamp.wall_ns),
            mono_ns: whole(stamp.mono_ns),
        };
        Draft::new(Block::Event {
            header: Header { stamp, ..header },
            source,
            event,
        })
    }

    /// Calls as the next block.
    #[must_use]
    pub fn calls(&self, zone: &Zone, stamp: Stamp, origin: Origin, calls: Calls) -> Draft {
        let header = self.header(zone, calls.records().len() as u64, stamp);
        Draft::new(Block::Calls {
            header,
            origin,
            calls,
        })
    }

    /// Takes a block of its own making, once it is written.
    pub fn admit(&mut self, draft: &Draft) -> Result<(), ChainError> {
        self.follow(&draft.block, Hash::leaf(&draft.bytes))
    }

    /// Takes the next block if it is that.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Block, ChainError> {
        let block = Block::parse(bytes)?;
        self.follow(&block, Hash::leaf(bytes))?;
        Ok(block)
    }

    /// Whether a block can be the next one.
    pub fn check(&self, header: &Header) -> Result<(), ChainError> {
        if header.log != self.log {
            return Err(ChainError::Log {
                found: header.log,
                expected: self.log,
            });
        }
        if header.leaf != self.next_leaf() {
            return Err(ChainError::Leaf {
                found: header.leaf,
                expected: self.next_leaf(),
            });
        }
        let Tail { seq, prev, .. } = self.tail(&header.zone);
        if header.seq != seq {
            return Err(ChainError::Seq {
                found: header.seq,
                expected: seq,
            });
        }
        if header.prev != prev {
            return Err(ChainError::Prev);
        }
        let known = self.zones.contains_key(&header.zone);
        let room = known || self.zones.len() < MAX_ZONES;
        if !room || seq.checked_add(header.count).is_none() || header.leaf == u64::MAX {
            return Err(ChainError::Full);
        }
        Ok(())
    }

    fn follow(&mut self, block: &Block, hash: Hash) -> Result<(), ChainError> {
        let header = block.header();
        self.check(header)?;
        let mut dropping = false;
        match block {
            Block::Event { event, source, .. } => {
                self.source = source.or(self.source);
                dropping = matches!(event, Event::Dropping { .. });
            }
            Block::Calls { origin, calls, .. } => self.remember(origin, calls.stand_for()),
        }
        let tail = Tail {
            seq: header.seq.saturating_add(header.count),
            prev: hash,
            dropping,
        };
        self.zones.insert(header.zone.clone(), tail);
        self.tree.push(hash);
        Ok(())
    }

    /// How many calls of a client are recorded, as far as is remembered.
    #[must_use]
    pub fn recorded(&self, session: LogId, client: u64) -> u64 {
        let found = self.clients.iter().rev();
        let mut found = found.filter(|known| known.session == session && known.client == client);
        found.next().map_or(0, |known| known.calls)
    }

    fn remember(&mut self, origin: &Origin, count: u64) {
        let &Origin {
            session, client, ..
        } = origin;
        let known = self
            .clients
            .iter()
            .rposition(|known| known.session == session && known.client == client);
        match known {
            // Mostly the last.
            Some(known) => drop(self.clients.remove(known)),
            None if self.clients.len() >= CLIENTS => drop(self.clients.remove(0)),
            None => {}
        }
        let calls = origin.first.saturating_add(count);
        self.clients.push(Recorded {
            session,
            client,
            calls,
        });
    }

    fn header(&self, zone: &Zone, count: u64, stamp: Stamp) -> Header {
        let Tail { seq, prev, .. } = self.tail(zone);
        Header {
            log: self.log,
            leaf: self.next_leaf(),
            zone: zone.clone(),
            seq,
            count,
            prev,
            stamp,
        }
    }
}

impl Draft {
    fn new(block: Block) -> Self {
        let bytes = block.to_bytes();
        Self { block, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{CallRecord, NO_NAME};

    fn calls(count: usize) -> Calls {
        let record = CallRecord {
            client: 3.into(),
            start_ns: 0.into(),
            size: 0.into(),
            object: 0.into(),
            duration_ns: 0.into(),
            result: 0.into(),
            opcode: 1.into(),
            kernel: NO_NAME.into(),
            image: NO_NAME.into(),
            device: 0,
            flags: 0,
        };
        let mut calls = Calls::default();
        (0..count).for_each(|_| calls.push(record).unwrap());
        calls
    }

    #[test]
    fn what_is_recorded_of_each_client_is_known_also_after_reading_the_log_again() {
        let session = LogId([2; 16]);
        let mut chain = Chain::new(LogId([1; 16]));
        let mut again = chain.clone();
        for client in 0..2000u64 {
            let origin = Origin {
                worker: 1,
                session,
                client,
                first: 10,
            };
            let draft = chain.calls(&Zone::proxy(), Stamp::now(), origin, calls(3));
            chain.admit(&draft).unwrap();
            again.read(&draft.bytes).unwrap();
        }
        assert_eq!(chain, again);
        assert_eq!(chain.recorded(session, 1999), 13);
        assert_eq!(chain.recorded(LogId([5; 16]), 1999), 0);
        assert_eq!(chain.recorded(session, 0), 0, "long ago");
        let text = serde_json::to_string(&chain).unwrap();
        assert_eq!(serde_json::from_str::<Chain>(&text).unwrap(), chain);
    }
}
