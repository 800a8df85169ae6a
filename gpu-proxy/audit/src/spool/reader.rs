//! Reads a spool from its files, while somebody writes it or afterwards.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::frame::{FrameError, Kind, read_at};
use crate::chain::Chain;

/// What the file name of a segment ends with.
pub(super) const SUFFIX: &str = ".seg";

/// Where something stands in a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment's file name.
    pub segment: String,
    /// Bytes before it.
    pub offset: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.segment, self.offset)
    }
}

/// What is in a spool, in order.
#[derive(Clone, Debug)]
pub enum Item {
    /// A segment begins, and says what came before it.
    Head(Place, Box<Chain>),
    /// A block; nobody has looked into it yet.
    Block(Place, Vec<u8>),
    /// Something that is no frame. The rest of its segment is passed over.
    Damage(Place, String),
}

/// A spool that cannot be read at all.
#[derive(Debug, Error)]
#[error("cannot read {}: {error}", path.display())]
pub struct ReadError {
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// A segment's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its first leaf, by its name.
    pub first: u64,
    /// Its name.
    pub name: String,
}

impl Segment {
    /// The segment that begins with a leaf.
    #[must_use]
    pub fn of(first: u64) -> Self {
        let name = format!("{first:020}{SUFFIX}");
        Self { first, name }
    }

    /// All of a spool, in order.
    pub fn list(folder: &Path) -> Result<Vec<Self>, ReadError> {
        let fail = |error| ReadError {
            path: folder.to_owned(),
            error,
        };
        let mut list = Vec::new();
        for entry in fs::read_dir(folder).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let first = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            let first = first.and_then(|digits| digits.parse().ok());
            list.extend(first.map(Self::of).filter(|segment| *segment.name == *name));
        }
        list.sort_by_key(|segment| segment.first);
        Ok(list)
    }
}

/// Goes through a spool.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    /// Segments that come after the one that is open.
    rest: std::vec::IntoIter<Segment>,
    open: Option<(Segment, File, u64)>,
}

impl Reader {
    /// Begins with the first segment.
    pub fn open(folder: &Path) -> Result<Self, ReadError> {
        Self::from_leaf(folder, 0)
    }

    /// Begins with the segment that holds `leaf`, or with the first.
    pub fn from_leaf(folder: &Path, leaf: u64) -> Result<Self, ReadError> {
        let mut list = Segment::list(folder)?;
        let before = list.partition_point(|segment| segment.first <= leaf);
        let rest = list.split_off(before.saturating_sub(1));
        Ok(Self {
            folder: folder.to_owned(),
            rest: rest.into_iter(),
            open: None,
        })
    }

    /// The next thing; none at the end of what was written when the reader began.
    pub fn next_item(&mut self) -> Result<Option<Item>, ReadError> {
        loop {
            let Some((segment, file, offset)) = &mut self.open else {
                let Some(segment) = self.rest.next() else {
                    return Ok(None);
                };
                let path = self.folder.join(&segment.name);
                let file = File::open(&path).map_err(|error| ReadError { path, error })?;
                self.open = Some((segment, file, 0));
                continue;
            };
            let place = Place {
                segment: segment.name.clone(),
                offset: *offset,
            };
            let is_first = *offset == 0;
            let item = match read_at(file, *offset) {
                Ok(None) if is_first => Item::Damage(place, "it is empty".into()),
                Ok(None) => {
                    self.open = None;
                    continue;
                }
                Ok(Some(frame)) => {
                    *offset = frame.next;
                    match frame.kind {
                        Kind::Block if !is_first => {
                            return Ok(Some(Item::Block(place, frame.payload)));
                        }
                        Kind::Chain if is_first => match serde_json::from_slice(&frame.payload) {
                            Ok(chain) => return Ok(Some(Item::Head(place, chain))),
                            Err(error) => {
                                Item::Damage(place, format!("its head is wrong: {error}"))
                            }
                        },
                        _ => Item::Damage(place, "a frame is not in its place".into()),
                    }
                }
                Err(FrameError::Read(error)) => {
                    let path = self.folder.join(&segment.name);
                    return Err(ReadError { path, error });
                }
                Err(error) => Item::Damage(place, error.to_string()),
            };
            self.open = None;
            return Ok(Some(item));
        }
    }
}

/// Reads blocks from a leaf on, as they are written, up to a leaf that the caller knows to be on disk.
#[derive(Debug)]
pub struct Cursor {
    folder: PathBuf,
    next: u64,
    open: Option<(File, u64)>,
}

/// Why a cursor cannot go on.
#[derive(Debug, Error)]
pub enum CursorError {
    /// A file.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What was written is not there any more.
    #[error("the spool is damaged: {1} ({0})")]
    Damaged(Place, String),
}

impl Cursor {
    /// Begins at a leaf.
    #[must_use]
    pub fn new(folder: &Path, leaf: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            next: leaf,
            open: None,
        }
    }

    /// The leaf that comes next.
    #[must_use]
    pub fn leaf(&self) -> u64 {
        self.next
    }

    /// The block at the next leaf if that is below `end`.
    pub fn next_below(&mut self, end: u64) -> Result<Option<Vec<u8>>, CursorError> {
        if self.next >= end {
            return Ok(None);
        }
        if let Some(block) = self.read()? {
            return Ok(Some(block));
        }
        // It was the segment's last, or nothing was read yet.
        self.seek()?;
        match self.read()? {
            Some(block) => Ok(Some(block)),
            None => {
                let at = self.open.as_ref().map_or(0, |(_, offset)| *offset);
                Err(self.damaged(at, "there is no block where one was written"))
            }
        }
    }

    /// The next block of the open segment; none at its end.
    fn read(&mut self) -> Result<Option<Vec<u8>>, CursorError> {
        let Some((file, offset)) = &mut self.open else {
            return Ok(None);
        };
        let at = *offset;
        match read_at(file, at) {
            Ok(Some(frame)) if frame.kind == Kind::Block => {
                *offset = frame.next;
                self.next += 1;
                Ok(Some(frame.payload))
            }
            Ok(Some(_)) => Err(self.damaged(at, "a head is in the place of a block")),
            Ok(None) => Ok(None),
            Err(error) => Err(self.damaged(at, &error.to_string())),
        }
    }

    /// Opens the segment that holds the next leaf, at that leaf.
    fn seek(&mut self) -> Result<(), CursorError> {
        let list = Segment::list(&self.folder)?;
        let at = list.partition_point(|segment| segment.first <= self.next);
        let Some(segment) = list.get(at.wrapping_sub(1)) else {
            return Err(self.damaged(0, "the segment that held it is gone"));
        };
        let path = self.folder.join(&segment.name);
        let file = File::open(&path).map_err(|error| ReadError { path, error })?;
        let (mut leaf, mut offset) = (segment.first, 0);
        // One more frame than leaves: the head.
        loop {
            match read_at(&file, offset) {
                Ok(Some(frame)) => offset = frame.next,
                Ok(None) => return Err(self.damaged(offset, "it ends too early")),
                Err(error) => return Err(self.damaged(offset, &error.to_string())),
            }
            if leaf == self.next {
                self.open = Some((file, offset));
                return Ok(());
            }
            leaf += 1;
        }
    }

    fn damaged(&self, offset: u64, why: &str) -> CursorError {
        let segment = format!("leaf {}", self.next);
        CursorError::Damaged(Place { segment, offset }, why.into())
    }
}
