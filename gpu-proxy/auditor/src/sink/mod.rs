//! Where blocks go once they are on disk.

mod kafka;
mod lines;
mod position;
mod stream;

use std::os::fd::BorrowedFd;
use std::time::Instant;

use proxy_audit::chain::Chain;
use proxy_audit::event::Event;
use thiserror::Error;

pub use kafka::{Kafka, KafkaArguments};
pub use lines::JsonLines;
pub use stream::Stream;

/// Somebody who is to have the log. A sink is given each block once it is on disk, in order, and may be given a
/// block again after a restart; whoever reads it knows a block by its leaf.
pub trait Sink {
    /// What it is, for the log.
    fn name(&self) -> String;

    /// The first leaf that it wants. Asked before anything is sent, and again after it failed.
    fn first_wanted(&self) -> u64;

    /// What it wants first is not there any more: the blocks that follow go on from this state.
    fn begin(&mut self, chain: &Chain) -> Result<(), SinkError>;

    /// Takes a block if it has room.
    fn block(&mut self, leaf: u64, zone: &str, bytes: &[u8]) -> Result<Taken, SinkError>;

    /// Takes a checkpoint if it has room, after every block that it covers.
    fn checkpoint(&mut self, note: &str) -> Result<Taken, SinkError>;

    /// The leaf before which it has everything safely.
    fn settle(&mut self) -> Result<u64, SinkError>;

    /// What it wants recorded about itself.
    fn reports(&mut self) -> Vec<Event> {
        Vec::new()
    }

    /// What can be read when it has more safely, room again, or a report. None where that never happens by itself.
    fn news(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// When it is to be settled again although nothing could be read. None where that is of no use.
    fn next_look(&self) -> Option<Instant> {
        None
    }
}

/// Whether a sink took a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It has it.
    Yes,
    /// It has no room at the moment.
    Later,
}

/// A sink that does not take anything now. It is tried again, from the leaf that it wants then.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SinkError(pub String);
