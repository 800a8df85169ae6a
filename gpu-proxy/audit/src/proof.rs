//! Proofs that a block is in the log (C2SP tlog-proof), for whoever has nothing but the public key.

use std::fmt::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::MAX_BLOCK_LEN;
use crate::block::{Block, BlockError};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::hash::Hash;
use crate::note::{MAX_NOTE_LEN, PublicKey};
use crate::tree::is_included;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// Longest path: a tree has fewer than 2^64 leaves.
const MAX_PATH: usize = 64;

/// Most bytes of a proof.
pub const MAX_PROOF_LEN: usize = 2 * MAX_BLOCK_LEN + MAX_NOTE_LEN + 64 * 64;

/// A block, the way from it to a root, and who signed that root. Printed, it is the file to hand over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The block: what is proved.
    pub block: Vec<u8>,
    /// Its leaf.
    pub index: u64,
    /// The hashes beside the way from the leaf to the root.
    pub path: Vec<Hash>,
    /// The signed note.
    pub checkpoint: String,
}

/// Why something proves nothing.
#[derive(Debug, Error)]
pub enum ProofError {
    /// It is no proof.
    #[error("it is not a proof of the form {FIRST_LINE}")]
    Form,
    /// It holds a block that is none.
    #[error("the block in it is not understood: {0}")]
    Block(#[from] BlockError),
    /// Its checkpoint is worth nothing.
    #[error("its checkpoint proves nothing: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The block is not where it says.
    #[error("its block says that it is leaf {block} and the proof says {index}")]
    Index {
        /// The block's word.
        block: u64,
        /// The proof's.
        index: u64,
    },
    /// The hashes do not lead to the root.
    #[error("its block is not in the log that was signed")]
    Root,
}

impl Proof {
    /// Reads a proof; nothing is checked yet.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        Self::split(text).ok_or(ProofError::Form)
    }

    fn split(text: &str) -> Option<Self> {
        if text.len() > MAX_PROOF_LEN {
            return None;
        }
        let (head, checkpoint) = text.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let first = lines.next()?;
        let extra = lines.next()?.strip_prefix("extra ")?;
        let index = lines.next()?.strip_prefix("index ")?;
        if first != FIRST_LINE || (index != "0" && index.starts_with(['0', '+'])) {
            return None;
        }
        let path: Option<Vec<Hash>> = lines.map(Hash::from_base64).take(MAX_PATH + 1).collect();
        let path = path.filter(|path| path.len() <= MAX_PATH)?;
        Some(Self {
            block: STANDARD.decode(extra).ok()?,
            index: index.parse().ok()?,
            path,
            checkpoint: checkpoint.to_owned(),
        })
    }

    /// What it proves to whoever trusts one of `keys`.
    pub fn check<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k PublicKey>,
    ) -> Result<(Block, Checkpoint), ProofError> {
        let (checkpoint, _) = Checkpoint::open(&self.checkpoint, keys)?;
        let leaf = Hash::leaf(&self.block);
        if !is_included(
            leaf,
            self.index,
            checkpoint.size,
            &self.path,
            &checkpoint.root,
        ) {
            return Err(ProofError::Root);
        }
        let block = Block::parse(&self.block)?;
        if block.header().leaf != self.index {
            return Err(ProofError::Index {
                block: block.header().leaf,
                index: self.index,
            });
        }
        Ok((block, checkpoint))
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extra = STANDARD.encode(&self.block);
        writeln!(f, "{FIRST_LINE}\nextra {extra}\nindex {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", hash.to_base64())?;
        }
        f.write_char('\n')?;
        f.write_str(&self.checkpoint)
    }
}
