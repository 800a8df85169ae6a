//! The log on disk: written before it is sent, and found again after any end.
//!
//! A folder holds segments (preallocated files of frames, named by their first leaf), `checkpoints` (signed
//! notes with an empty line after each), `acknowledged` (the leaf before which everything has been sent) and
//! `lock`. One process writes; anybody may read.
//!
//! Every zone has a share of what has not been sent yet, for its calls, and a headroom above it for events.
//! What does not fit is refused (`fail-closed`) or counted and recorded as a gap.

mod frame;
mod marker;
mod reader;
mod recover;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use thiserror::Error;

pub use frame::{Frame, FrameError, HEAD_LEN, Kind, MAX_PAYLOAD_LEN, encode, read_at};
pub use marker::Marker;
pub use reader::{Cursor, CursorError, Item, Place, ReadError, Reader, Segment};

use crate::block::{Origin, Source, Zone};
use crate::call::Calls;
use crate::chain::{Chain, ChainError, Draft};
use crate::checkpoint::Checkpoint;
use crate::event::{Event, Stamp};
use crate::load::claimed_size;
use crate::note::SecretKey;
use crate::text::Text;

const CHECKPOINTS: &str = "checkpoints";
const ACKNOWLEDGED: &str = "acknowledged";
const LOCK: &str = "lock";
const TEMPORARY: &str = "new.tmp";

/// How a spool is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes of a segment's file.
    pub segment: u64,
    /// Bytes that segments may take before the oldest that were sent are removed.
    pub retain: u64,
    /// Bytes of a zone's that may wait to be sent.
    pub share: u64,
    /// Bytes above its share that are kept for a zone's events.
    pub headroom: u64,
    /// What happens when a zone's share is full.
    pub when_full: WhenFull,
}

/// What happens when a zone's share is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The zone may not acquire or run anything until there is room.
    FailClosed,
    /// Records are counted and not kept; a record says how many.
    DropWithGapRecord,
}

impl WhenFull {
    /// All of them, with the words for them.
    pub const NAMES: [(&'static str, Self); 2] = [
        ("fail-closed", Self::FailClosed),
        ("drop-with-gap-record", Self::DropWithGapRecord),
    ];
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is this leaf. [`Spool::sync`] puts it on disk.
    Written(u64),
    /// It is counted and will show as a gap.
    Dropped,
}

/// Why the spool does not do what it should.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// Another process writes it.
    #[error("another process writes the spool in {}", .0.display())]
    Locked(PathBuf),
    /// A file.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// What could not be done.
        what: &'static str,
        /// To which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It holds what its writer did not write, or lacks what it did.
    #[error("the spool in {} is damaged: {why}; keep it for vgpuctl audit verify and let the auditor begin another folder", folder.display())]
    Damaged {
        /// Which.
        folder: PathBuf,
        /// How.
        why: String,
    },
    /// The zone's share is full and the policy is to refuse.
    #[error("the share of zone {0} in the spool is full")]
    Full(Zone),
    /// A block that cannot be written.
    #[error("a record cannot become part of the log: {0}")]
    Chain(#[from] ChainError),
    /// No random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// A spool that this process writes.
#[derive(Debug)]
pub struct Spool {
    settings: Settings,
    chain: Chain,
    file: File,
    offset: u64,
    segments: VecDeque<Segment>,
    unsynced: bool,
    /// All leaves before it have been sent.
    acknowledged: u64,
    /// Where that is written.
    marker: Marker,
    /// Blocks that have not been sent, in order: whose, and how long.
    waiting: VecDeque<(Zone, u64)>,
    pending: BTreeMap<Zone, u64>,
    dropped: BTreeMap<Zone, u64>,
    closed: BTreeSet<Zone>,
    checkpoints: File,
    _lock: File,
}

impl Spool {
    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.settings.folder
    }

    /// The end of the log.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The state before the first leaf that is still there.
    pub fn head(&self) -> Result<Option<Chain>, ReadError> {
        match Reader::open(&self.settings.folder)?.next_item()? {
            Some(Item::Head(_, chain)) => Ok(Some(*chain)),
            _ => Ok(None),
        }
    }

    /// The leaf before which everything has been sent.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Bytes of a zone's that have not been sent.
    #[must_use]
    pub fn pending(&self, zone: &Zone) -> u64 {
        self.pending.get(zone).copied().unwrap_or(0)
    }

    /// Zones that may not acquire or run anything.
    #[must_use]
    pub fn closed(&self) -> &BTreeSet<Zone> {
        &self.closed
    }

    /// Records an event.
    pub fn event(
        &mut self,
        zone: &Zone,
        stamp: Stamp,
        source: Option<Source>,
        event: Event,
    ) -> Result<Outcome, SpoolError> {
        let limit = self.settings.share.saturating_add(self.settings.headroom);
        let draft = |chain: &Chain| chain.event(zone, stamp, source, event.clone(), 1);
        let first = draft(&self.chain);
        if !self.fits(&first, limit) {
            self.drop_records(zone, stamp, 1)?;
            return Ok(Outcome::Dropped);
        }
        self.append(zone, stamp, first, draft)
    }

    /// Records that `missing` records of a zone never came this far, and why.
    pub fn lost(
        &mut self,
        zone: &Zone,
        stamp: Stamp,
        source: Option<Source>,
        missing: u64,
        why: &'static str,
    ) -> Result<Outcome, SpoolError> {
        let why = Text::from(why);
        let uncertain = false;
        let event = Event::Gap { why, uncertain };
        let draft = self.chain.event(zone, stamp, source, event, missing.max(1));
        self.write(&draft).map(Outcome::Written)
    }

    /// Records calls; with [`WhenFull::FailClosed`] refuses them when the zone's share is full.
    pub fn calls(
        &mut self,
        zone: &Zone,
        stamp: Stamp,
        origin: Origin,
        calls: &Calls,
    ) -> Result<Outcome, SpoolError> {
        let draft = |chain: &Chain| chain.calls(zone, stamp, origin, calls.clone());
        let first = draft(&self.chain);
        if !self.fits(&first, self.settings.share) {
            if self.settings.when_full == WhenFull::FailClosed {
                self.closed.insert(zone.clone());
                return Err(SpoolError::Full(zone.clone()));
            }
            self.drop_records(zone, stamp, calls.stand_for())?;
            return Ok(Outcome::Dropped);
        }
        self.append(zone, stamp, first, draft)
    }

    /// Puts everything that was recorded on disk.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        if self.unsynced {
            let path = self.segment_path();
            self.file.sync_data().map_err(failing("sync", &path))?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Signs the tree as it is, after everything in it is on disk, and keeps the note.
    pub fn checkpoint(&mut self, keys: &[&SecretKey]) -> Result<String, SpoolError> {
        self.sync()?;
        let checkpoint = Checkpoint {
            origin: keys
                .first()
                .map_or_else(String::new, |key| key.public().name().to_owned()),
            size: self.chain.next_leaf(),
            root: self.chain.tree().root(),
        };
        let note = checkpoint.sign(keys);
        let path = self.settings.folder.join(CHECKPOINTS);
        let fail = failing("write", &path);
        writeln!(&self.checkpoints, "{note}").map_err(&fail)?;
        self.checkpoints.sync_data().map_err(&fail)?;
        Ok(note)
    }

    /// All leaves before `leaf` have been sent to whoever is to have them.
    pub fn acknowledge(&mut self, leaf: u64) -> Result<(), SpoolError> {
        let leaf = leaf.min(self.chain.next_leaf());
        if leaf <= self.acknowledged {
            return Ok(());
        }
        while self.acknowledged < leaf {
            self.acknowledged += 1;
            let Some((zone, len)) = self.waiting.pop_front() else {
                continue;
            };
            if let Some(pending) = self.pending.get_mut(&zone) {
                *pending = pending.saturating_sub(len);
                // Opens again only when there is room for more than the next record.
                if *pending <= self.settings.share / 4 * 3 {
                    self.closed.remove(&zone);
                }
            }
        }
        self.marker.set(format!("{leaf}\n").as_bytes())?;
        self.retire()
    }

    /// Counts are kept in memory; this writes those of zones that have room again.
    pub fn settle(&mut self, stamp: Stamp) -> Result<(), SpoolError> {
        let zones: Vec<Zone> = self.dropped.keys().cloned().collect();
        for zone in zones {
            if self.pending(&zone) <= self.settings.share / 4 * 3 {
                self.close_gap(&zone, stamp, false)?;
            }
        }
        Ok(())
    }

    fn fits(&self, draft: &Draft, limit: u64) -> bool {
        let len = (draft.bytes.len() as u64).saturating_add(HEAD_LEN);
        self.pending(&draft.block.header().zone).saturating_add(len) <= limit
    }

    fn append(
        &mut self,
        zone: &Zone,
        stamp: Stamp,
        mut next: Draft,
        again: impl Fn(&Chain) -> Draft,
    ) -> Result<Outcome, SpoolError> {
        if self.dropped.contains_key(zone) {
            self.close_gap(zone, stamp, false)?;
            next = again(&self.chain);
        }
        self.write(&next).map(Outcome::Written)
    }

    fn drop_records(&mut self, zone: &Zone, stamp: Stamp, count: u64) -> Result<(), SpoolError> {
        if !self.dropped.contains_key(zone) {
            let why = Text::from("what waits to be sent fills the zone's share of the spool");
            // Beyond the share, but only once until there is room again.
            let event = Event::Dropping { why };
            let draft = self.chain.event(zone, stamp, None, event, 1);
            self.write(&draft)?;
        }
        let dropped = self.dropped.entry(zone.clone()).or_default();
        *dropped = dropped.saturating_add(count);
        Ok(())
    }

    fn close_gap(&mut self, zone: &Zone, stamp: Stamp, uncertain: bool) -> Result<(), SpoolError> {
        let missing = self.dropped.remove(zone).unwrap_or(1).max(1);
        let why = Text::from(if uncertain {
            "the zone's share of the spool was full, and whoever counted was killed"
        } else {
            "the zone's share of the spool was full"
        });
        let event = Event::Gap { why, uncertain };
        let draft = self.chain.event(zone, stamp, None, event, missing);
        self.write(&draft).map(drop)
    }

    fn write(&mut self, draft: &Draft) -> Result<u64, SpoolError> {
        // A block is far below what a frame can hold.
        let frame = encode(Kind::Block, &draft.bytes).ok_or(ChainError::Full)?;
        let len = frame.len() as u64;
        if self.offset.saturating_add(len) > self.settings.segment && !self.is_fresh() {
            self.roll()?;
        }
        let path = self.segment_path();
        let leaf = self.chain.next_leaf();
        // Checked before anything is written: what is on disk is always a log.
        self.chain.check(draft.block.header())?;
        self.unsynced = true;
        self.file
            .write_all_at(&frame, self.offset)
            .map_err(failing("write", &path))?;
        self.chain.admit(draft)?;
        self.offset += len;
        let zone = draft.block.header().zone.clone();
        let pending = self.pending.entry(zone.clone()).or_default();
        *pending = pending.saturating_add(len);
        let closes = self.settings.when_full == WhenFull::FailClosed;
        if closes && *pending > self.settings.share {
            self.closed.insert(zone.clone());
        }
        self.waiting.push_back((zone, len));
        Ok(leaf)
    }

    /// Whether the open segment has no block yet.
    fn is_fresh(&self) -> bool {
        self.segments
            .back()
            .is_some_and(|segment| segment.first == self.chain.next_leaf())
    }

    fn roll(&mut self) -> Result<(), SpoolError> {
        self.sync()?;
        let (segment, file, offset) = create_segment(&self.settings, &self.chain)?;
        self.segments.push_back(segment);
        self.file = file;
        self.offset = offset;
        Ok(())
    }

    /// Removes the oldest segments that were sent, where there are more than should be kept.
    fn retire(&mut self) -> Result<(), SpoolError> {
        let from = self.segments.front().map_or(0, |segment| segment.first);
        while let Some(second) = self.segments.get(1)
            && second.first <= self.acknowledged
            && self.segments.len() as u64 * self.settings.segment > self.settings.retain
        {
            let Some(oldest) = self.segments.pop_front() else {
                break;
            };
            let path = self.settings.folder.join(&oldest.name);
            fs::remove_file(&path).map_err(failing("remove", &path))?;
        }
        let to = self.segments.front().map_or(0, |segment| segment.first);
        if to > from {
            self.forget_checkpoints_before(to)?;
            let event = Event::SpoolRetired { from, to };
            let zone = Zone::proxy();
            let draft = self.chain.event(&zone, Stamp::now(), None, event, 1);
            self.write(&draft)?;
        }
        Ok(())
    }

    fn forget_checkpoints_before(&mut self, leaf: u64) -> Result<(), SpoolError> {
        let notes = read_checkpoints(&self.settings.folder)?;
        let kept: String = notes
            .into_iter()
            .filter(|note| claimed_size(note).is_none_or(|size| size >= leaf))
            .map(|note| note + "\n")
            .collect();
        replace(&self.settings.folder, CHECKPOINTS, kept.as_bytes())?;
        self.checkpoints = open_checkpoints(&self.settings.folder)?;
        Ok(())
    }

    fn segment_path(&self) -> PathBuf {
        let name = self.segments.back().map_or("", |segment| &segment.name);
        self.settings.folder.join(name)
    }
}

/// The notes of a spool, oldest first. One that was cut off at the end is left out.
pub fn read_checkpoints(folder: &Path) -> Result<Vec<String>, ReadError> {
    let path = folder.join(CHECKPOINTS);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(split_notes(&text).0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(ReadError { path, error }),
    }
}

/// Takes concatenated notes apart, each with an empty line after it, and tells how many bytes are whole.
#[must_use]
pub fn split_notes(text: &str) -> (Vec<String>, usize) {
    let mut notes = Vec::new();
    let mut whole = 0;
    while let Some(rest) = text.get(whole..)
        && let Some(body) = rest.find("\n\n")
        && let Some(lines) = rest.get(body + 2..)
        && let Some(signatures) = lines.find("\n\n")
    {
        let end = body + 2 + signatures + 1;
        notes.extend(rest.get(..end).map(str::to_owned));
        whole += end + 1;
    }
    (notes, whole)
}

fn create_segment(settings: &Settings, chain: &Chain) -> Result<(Segment, File, u64), SpoolError> {
    let segment = Segment::of(chain.next_leaf());
    let folder = &settings.folder;
    let temporary = folder.join(TEMPORARY);
    let fail = failing("create", &temporary);
    // Plain data: writing it to memory cannot fail; a frame holds the state of as many zones as there can be.
    let state = serde_json::to_vec(chain).unwrap_or_default();
    let head = encode(Kind::Chain, &state).ok_or(ChainError::Full)?;
    let file = create(&temporary).map_err(&fail)?;
    let offset = head.len() as u64;
    let len = i64::try_from(settings.segment.max(offset)).unwrap_or(i64::MAX);
    fallocate(&file, FallocateFlags::empty(), 0, len).map_err(|errno| fail(errno.into()))?;
    file.write_all_at(&head, 0).map_err(&fail)?;
    file.sync_all().map_err(&fail)?;
    // Its name appears when its head is whole: a segment without one is damage, never an accident.
    let path = folder.join(&segment.name);
    fs::rename(&temporary, &path).map_err(failing("create", &path))?;
    sync_folder(folder)?;
    Ok((segment, file, offset))
}

fn open_checkpoints(folder: &Path) -> Result<File, SpoolError> {
    let path = folder.join(CHECKPOINTS);
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(failing("open", &path))
}

/// Writes a file of the spool's anew, whole or not at all.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), SpoolError> {
    let temporary = folder.join(format!("{name}.tmp"));
    let path = folder.join(name);
    let fail = failing("write", &path);
    let mut file = create(&temporary).map_err(&fail)?;
    file.write_all(bytes).map_err(&fail)?;
    file.sync_data().map_err(&fail)?;
    fs::rename(&temporary, &path).map_err(&fail)
}

/// An empty file for what is renamed once it is whole.
fn create(temporary: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    options.mode(0o600).open(temporary)
}

fn sync_folder(folder: &Path) -> Result<(), SpoolError> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(failing("sync", folder))
}

fn failing<'p>(what: &'static str, path: &'p Path) -> impl Fn(io::Error) -> SpoolError + 'p {
    move |error| SpoolError::File {
        what,
        path: path.to_owned(),
        error,
    }
}
