//! The audit log: what it is made of, how it is written down, how it is checked.
//!
//! Everything that is recorded is a *record* of one zone, with a sequence number that has no gaps. Records
//! travel in *blocks*: one event of the supervisor's as a readable JSON document, or up to 4,096 calls as
//! a worker claims them in a binary form. Each block names the hash of the block before it in its zone and is
//! a leaf of one Merkle tree for the whole log; signed checkpoints say how large the tree was and what its
//! root. The formats are documented in `docs/audit.md`, precisely enough to write another verifier.
//!
//! - [`event`], [`call`]: what is recorded; [`text`]: names that may be anything, made harmless;
//! - [`block`]: one message, read from bytes that may be anything; [`chain`]: what ties blocks together;
//! - [`tree`], [`note`], [`checkpoint`], [`proof`]: RFC 6962 and the C2SP forms; [`keys`]: files of keys;
//! - [`spool`]: the log on disk; [`export`]: the log as lines of text; [`load`]: either of them read;
//!   [`topic`]: a log out of what was read from Kafka; [`verify`]: whether it holds;
//! - [`wire`]: how the supervisor's events come to whoever keeps the log.

#![forbid(unsafe_code)]

pub mod block;
pub mod call;
pub mod chain;
pub mod checkpoint;
pub mod event;
pub mod export;
pub mod hash;
pub mod keys;
pub mod load;
pub mod note;
pub mod proof;
pub mod spool;
pub mod text;
pub mod topic;
pub mod tree;
pub mod verify;
pub mod wire;

/// Most bytes of one block, of either form.
pub const MAX_BLOCK_LEN: usize = 320 << 10;
