//! Asynchronous copies and the barriers in shared memory that tell of their completion.
//!
//! A copy may complete at any time between its instruction and whatever waits for it. Here it is
//! complete when the instruction is: groups of copies need no bookkeeping, and what a copy reports to
//! a barrier, it reports at once.
//!
//! A barrier (`mbarrier`) is a word of 64 bits in shared memory whose format is the executor's. The
//! token of an arrival is that word as it was before.
#![forbid(unsafe_code)]

/// Most arrivals that a phase may expect, and most bytes it may be told of.
pub const MBARRIER_MAX: u32 = (1 << 20) - 1;

/// What is done to a barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MbarrierOp {
    /// Makes a barrier of the word.
    Init,
    /// Makes the word free for other use.
    Inval,
    /// Counts arrivals, and bytes to be expected before them.
    Arrive,
    /// The same, and expects as many arrivals fewer in the phases to come.
    ArriveDrop,
    /// Expects bytes.
    ExpectTx,
    /// Counts bytes that have come.
    CompleteTx,
}

/// Which way a box of a tensor goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorCopy {
    /// From global to shared memory.
    Load,
    /// From shared to global memory.
    Store,
    /// The same, onto what is there; each element by itself.
    Reduce(TensorReduction),
}

/// What is done to an element in global memory. The map tells its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TensorReduction {
    Add,
    Min,
    Max,
    Inc,
    Dec,
    And,
    Or,
    Xor,
}
