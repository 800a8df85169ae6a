//! Where blocks go once they are on disk.

mod lines;

use proxy_audit::chain::Chain;
use thiserror::Error;

pub use lines::JsonLines;

/// Somebody who is to have the log. A sink is given each block once it is on disk, in order, and may be given a
/// block again after a restart; whoever reads it knows a block by its leaf.
pub trait Sink {
    /// What it is, for the log.
    fn name(&self) -> String;

    /// The first leaf that it wants. Asked once, before anything is sent.
    fn first_wanted(&self) -> u64;

    /// What it wants first is not there any more: the blocks that follow go on from this state.
    fn begin(&mut self, chain: &Chain) -> Result<(), SinkError>;

    /// Takes a block if it has room.
    fn block(&mut self, leaf: u64, zone: &str, bytes: &[u8]) -> Result<Taken, SinkError>;

    /// Takes a checkpoint, after every block that it covers.
    fn checkpoint(&mut self, note: &str) -> Result<(), SinkError>;

    /// The leaf before which it has everything safely.
    fn settle(&mut self) -> Result<u64, SinkError>;
}

/// Whether a sink took a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It has it.
    Yes,
    /// It has no room at the moment.
    Later,
}

/// A sink that does not take anything now. It is tried again.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SinkError(pub String);
