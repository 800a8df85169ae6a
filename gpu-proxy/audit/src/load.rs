//! Reads a log from a spool or from lines of text, whole: to verify it, to export it, to prove something.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use thiserror::Error;

use crate::block::{Block, BlockError};
use crate::chain::Chain;
use crate::checkpoint::Checkpoint;
use crate::export::{Line, LineError, MAX_LINE_LEN};
use crate::hash::Hash;
use crate::note::{Note, PublicKey};
use crate::proof::Proof;
use crate::spool::{Item, ReadError, Reader, read_checkpoints};
use crate::tree::{Frontier, Tree};
use crate::verify::{Evidence, Found};

/// One thing that was found.
#[derive(Clone, Debug)]
pub enum Piece {
    /// The state at which a file begins.
    Head(Found, Box<Chain>),
    /// A block.
    Block(Found, Vec<u8>),
    /// Something unreadable.
    Damage(Found, String),
    /// A signed note.
    Checkpoint(String),
}

/// Why a log cannot be read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A spool.
    #[error(transparent)]
    Spool(#[from] ReadError),
    /// A file.
    #[error("cannot read {}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A log without a single block.
    #[error("there is no log in {}", .0.display())]
    Empty(PathBuf),
}

/// Goes through a spool's folder or a file of lines, and hands over what is there. Notes of a spool come last.
pub fn read(path: &Path, mut take: impl FnMut(Piece)) -> Result<(), LoadError> {
    if path.is_dir() {
        read_spool(path, &mut take)
    } else {
        read_lines(path, &mut take)
    }
}

/// All of a log as evidence.
pub fn evidence(path: &Path) -> Result<Evidence, LoadError> {
    let mut evidence = Evidence::default();
    let mut any = false;
    read(path, |piece| {
        any = true;
        match piece {
            Piece::Head(found, chain) => evidence.head(&found, &chain),
            Piece::Block(found, bytes) => evidence.block(found, &bytes),
            Piece::Damage(found, why) => evidence.damage(found, why),
            Piece::Checkpoint(note) => evidence.checkpoint(note),
        }
    })?;
    if !any {
        return Err(LoadError::Empty(path.to_owned()));
    }
    Ok(evidence)
}

/// What somebody wants proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A block by its leaf.
    Leaf(u64),
    /// A record by its zone and number.
    Record(String, u64),
}

/// Why there is no proof.
#[derive(Debug, Error)]
pub enum ProveError {
    /// The log cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It is not in the log.
    #[error("the log does not hold it")]
    Absent,
    /// A block in the log is none.
    #[error("the log is damaged in {0}: {1}; see vgpuctl audit verify")]
    Damaged(Found, String),
    /// A block in the log is not understood.
    #[error("the log is damaged: {0}; see vgpuctl audit verify")]
    Block(#[from] BlockError),
    /// No checkpoint covers it.
    #[error("no checkpoint that the key has signed covers it yet")]
    Unsigned,
}

/// Proves that a block is in the log, by the last checkpoint that one of `keys` has signed.
pub fn prove(path: &Path, wanted: &Wanted, keys: &[PublicKey]) -> Result<Proof, ProveError> {
    let mut tree: Option<Tree> = None;
    let mut block: Option<(u64, Vec<u8>)> = None;
    let mut notes = Vec::new();
    let mut fault: Option<ProveError> = None;
    read(path, |piece| match piece {
        Piece::Head(_, chain) => {
            tree.get_or_insert_with(|| Tree::after(chain.tree().clone()));
        }
        Piece::Block(_, bytes) => {
            let tree = tree.get_or_insert_with(|| Tree::after(Frontier::default()));
            let leaf = tree.size();
            tree.push(Hash::leaf(&bytes));
            match Block::parse(&bytes).map(|block| wanted.is(&block)) {
                Ok(true) => block = Some((leaf, bytes)),
                Ok(false) => {}
                Err(error) => drop(fault.get_or_insert(error.into())),
            }
        }
        Piece::Damage(found, why) => drop(fault.get_or_insert(ProveError::Damaged(found, why))),
        Piece::Checkpoint(note) => notes.push(note),
    })?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    let ((index, block), tree) = block.zip(tree).ok_or(ProveError::Absent)?;
    let signed = |note: &String| {
        let (checkpoint, _) = Checkpoint::open(note, keys).ok()?;
        let path = tree.prove(index, checkpoint.size)?;
        Some((path, note.clone()))
    };
    let (path, checkpoint) = notes
        .iter()
        .rev()
        .find_map(signed)
        .ok_or(ProveError::Unsigned)?;
    Ok(Proof {
        block,
        index,
        path,
        checkpoint,
    })
}

impl Wanted {
    fn is(&self, block: &Block) -> bool {
        let header = block.header();
        match self {
            Self::Leaf(leaf) => header.leaf == *leaf,
            Self::Record(zone, number) => {
                let end = header.seq.saturating_add(header.count);
                header.zone.as_str() == zone && (header.seq..end).contains(number)
            }
        }
    }
}

/// The size that a note claims, whoever signed it.
#[must_use]
pub fn claimed_size(note: &str) -> Option<u64> {
    let note = Note::parse(note).ok()?;
    Some(Checkpoint::parse(note.unverified_text())?.size)
}

fn read_spool(folder: &Path, take: &mut impl FnMut(Piece)) -> Result<(), LoadError> {
    let mut reader = Reader::open(folder)?;
    let mut file: Rc<str> = "".into();
    while let Some(item) = reader.next_item()? {
        let (Item::Head(place, _) | Item::Block(place, _) | Item::Damage(place, _)) = &item;
        if *file != *place.segment {
            file = place.segment.as_str().into();
        }
        let found = Found {
            file: file.clone(),
            at: place.offset,
        };
        take(match item {
            Item::Head(_, chain) => Piece::Head(found, chain),
            Item::Block(_, bytes) => Piece::Block(found, bytes),
            Item::Damage(_, why) => Piece::Damage(found, why),
        });
    }
    for note in read_checkpoints(folder)? {
        take(Piece::Checkpoint(note));
    }
    Ok(())
}

fn read_lines(path: &Path, take: &mut impl FnMut(Piece)) -> Result<(), LoadError> {
    let fail = |error| LoadError::File {
        path: path.to_owned(),
        error,
    };
    let mut input = BufReader::new(File::open(path).map_err(fail)?);
    let name: Rc<str> = path
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
        .into();
    for number in 1.. {
        // One byte more than a line may have, so that a longer one shows.
        let most = u64::try_from(MAX_LINE_LEN + 2).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        let len = (&mut input)
            .take(most)
            .read_until(b'\n', &mut bytes)
            .map_err(fail)?;
        if len == 0 {
            break;
        }
        let found = Found {
            file: name.clone(),
            at: number,
        };
        let cut = bytes.pop_if(|last| *last == b'\n').is_none();
        let line = std::str::from_utf8(&bytes).map_err(|_| LineError::Form);
        let piece = match line.and_then(Line::parse) {
            Ok(Line::Block(bytes)) => Piece::Block(found, bytes),
            Ok(Line::Checkpoint(note)) => Piece::Checkpoint(note),
            Ok(Line::Chain(chain)) => Piece::Head(found, chain),
            Err(error) => Piece::Damage(found, error.to_string()),
        };
        let too_long = bytes.len() > MAX_LINE_LEN;
        take(piece);
        if cut && too_long {
            // What follows is the rest of a line that is no line.
            break;
        }
    }
    Ok(())
}
