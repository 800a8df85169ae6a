//! Opens a spool: begins a log, or goes on with one after whatever end its writer had.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};

use super::{
    ACKNOWLEDGED, CHECKPOINTS, Item, LOCK, Marker, Reader, Segment, Settings, Spool, SpoolError,
    TEMPORARY, create_segment, failing, open_checkpoints, split_notes,
};
use crate::block::Zone;
use crate::chain::Chain;
use crate::event::{Event, Stamp};
use crate::hash::LogId;
use crate::load::claimed_size;
use crate::text::Text;

/// The end of the last segment that was cut off because it made no whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cut {
    segment: String,
    offset: u64,
    bytes: u64,
}

/// What the segments say.
struct Found {
    chain: Chain,
    /// Where the next frame goes in the last segment.
    offset: u64,
    cut: Option<Cut>,
    /// Whose blocks they are, and their lengths, from the first that was not sent.
    waiting: VecDeque<(Zone, u64)>,
}

impl Spool {
    /// Opens the spool in a folder; one that is empty begins a log. A torn end is cut off, and that is
    /// recorded; what was signed or sent and is not there is an error.
    pub fn open(settings: Settings) -> Result<Self, SpoolError> {
        let folder = settings.folder.clone();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(failing("make", &folder))?;
        let lock = lock(&folder)?;
        remove_if_there(&folder.join(TEMPORARY))?;
        let notes = whole_checkpoints(&folder)?;
        let signed = notes.iter().filter_map(|note| claimed_size(note)).max();
        let (marker, acknowledged) = acknowledged(&folder)?;
        let mut segments: VecDeque<Segment> = Segment::list(&folder)?.into();
        let known = signed.unwrap_or(0).max(acknowledged);
        // The mark may be older than the segments that were removed because all of them had been sent.
        let first = segments.front().map_or(0, |segment| segment.first);
        let acknowledged = acknowledged.max(first);
        if segments.is_empty() {
            if known > 0 {
                return Err(damaged(
                    &folder,
                    format!("{known} blocks that it held are gone"),
                ));
            }
            let (segment, ..) = create_segment(&settings, &Chain::new(LogId::draw()?))?;
            segments.push_back(segment);
        }
        let found = read_segments(&folder, acknowledged)?;
        let last = segments.back().map_or("", |segment| &segment.name);
        let path = folder.join(last);
        let fail = failing("open", &path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(&fail)?;
        if found.chain.next_leaf() < known {
            let (whole, broken) = (found.chain.next_leaf(), found.cut.is_some());
            let how = if broken { "readable" } else { "there" };
            let text = format!("{known} blocks were signed or sent and only {whole} are {how}");
            return Err(damaged(&folder, text));
        }
        if found.cut.is_some() {
            let len = i64::try_from(settings.segment.max(found.offset)).unwrap_or(i64::MAX);
            file.set_len(found.offset).map_err(&fail)?;
            fallocate(&file, FallocateFlags::empty(), 0, len)
                .map_err(|errno| fail(errno.into()))?;
            file.sync_all().map_err(&fail)?;
        }
        let mut pending = BTreeMap::new();
        for (zone, len) in &found.waiting {
            *pending.entry(zone.clone()).or_insert(0) += *len;
        }
        let mut spool = Self {
            checkpoints: open_checkpoints(&folder)?,
            settings,
            chain: found.chain,
            file,
            offset: found.offset,
            segments,
            unsynced: true,
            acknowledged,
            marker,
            waiting: found.waiting,
            pending,
            dropped: BTreeMap::new(),
            closed: BTreeSet::new(),
            _lock: lock,
        };
        spool.tell_of_recovery(found.cut)?;
        spool.sync()?;
        Ok(spool)
    }

    fn tell_of_recovery(&mut self, cut: Option<Cut>) -> Result<(), SpoolError> {
        let stamp = Stamp::now();
        if let Some(cut) = cut {
            let event = Event::SpoolRecovered {
                segment: Text::new(&cut.segment),
                offset: cut.offset,
                cut: cut.bytes,
            };
            let draft = self.chain.event(&Zone::proxy(), stamp, None, event, 1);
            self.write(&draft)?;
        }
        let dropping: Vec<Zone> = self
            .chain
            .zones()
            .filter(|(_, tail)| tail.dropping)
            .map(|(zone, _)| zone.clone())
            .collect();
        for zone in dropping {
            self.close_gap(&zone, stamp, true)?;
        }
        Ok(())
    }
}

fn read_segments(folder: &Path, acknowledged: u64) -> Result<Found, SpoolError> {
    let mut reader = Reader::open(folder)?;
    let mut chain: Option<Chain> = None;
    let mut waiting = VecDeque::new();
    let (mut offset, mut cut) = (0, None);
    while let Some(item) = reader.next_item()? {
        if let Some(Cut { segment, .. }) = &cut {
            let text = format!("{segment} has unreadable frames and is not the last segment");
            return Err(damaged(folder, text));
        }
        match (item, &mut chain) {
            (Item::Head(place, head), None) => {
                offset = end_of_frame(folder, &place.segment, 0)?;
                chain = Some(*head);
            }
            (Item::Head(place, head), Some(chain)) => {
                if *head != *chain {
                    let text = format!(
                        "{} does not go on where the one before ended",
                        place.segment
                    );
                    return Err(damaged(folder, text));
                }
                offset = end_of_frame(folder, &place.segment, 0)?;
            }
            (Item::Block(place, bytes), Some(chain)) => {
                let leaf = chain.next_leaf();
                let block = chain
                    .read(&bytes)
                    .map_err(|error| damaged(folder, format!("the block in {place}: {error}")))?;
                let len = bytes.len() as u64 + super::HEAD_LEN;
                if leaf >= acknowledged {
                    waiting.push_back((block.header().zone.clone(), len));
                }
                offset = place.offset.saturating_add(len);
            }
            (Item::Damage(place, _), Some(_)) if place.offset > 0 => {
                let bytes = bytes_after(&folder.join(&place.segment), place.offset)?;
                offset = place.offset;
                cut = Some(Cut {
                    segment: place.segment,
                    offset: place.offset,
                    bytes,
                });
            }
            (Item::Damage(place, why), _) => {
                return Err(damaged(folder, format!("{place}: {why}")));
            }
            (Item::Block(place, _), None) => {
                return Err(damaged(folder, format!("{place}: a block before any head")));
            }
        }
    }
    let chain = chain.ok_or_else(|| damaged(folder, "it has no segment".into()))?;
    Ok(Found {
        chain,
        offset,
        cut,
        waiting,
    })
}

fn end_of_frame(folder: &Path, segment: &str, offset: u64) -> Result<u64, SpoolError> {
    let path = folder.join(segment);
    let file = File::open(&path).map_err(failing("open", &path))?;
    match super::read_at(&file, offset) {
        Ok(Some(frame)) => Ok(frame.next),
        Ok(None) => Ok(offset),
        Err(error) => Err(damaged(folder, format!("{segment}: {error}"))),
    }
}

/// Bytes from `offset` to the last that is not zero.
fn bytes_after(path: &Path, offset: u64) -> Result<u64, SpoolError> {
    let fail = failing("read", path);
    let file = File::open(path).map_err(&fail)?;
    let mut buffer = vec![0; 1 << 16];
    let (mut at, mut last) = (offset, offset);
    loop {
        let len = file.read_at(&mut buffer, at).map_err(&fail)?;
        if len == 0 {
            return Ok(last - offset);
        }
        let used = buffer.iter().take(len).rposition(|&byte| byte != 0);
        if let Some(used) = used {
            last = at + used as u64 + 1;
        }
        at += len as u64;
    }
}

/// The notes; a last one that was cut off is removed from the file.
fn whole_checkpoints(folder: &Path) -> Result<Vec<String>, SpoolError> {
    let path = folder.join(CHECKPOINTS);
    let fail = failing("read", &path);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    // A note ends with an empty line; what a kill left behind the last one may be any bytes of the next.
    let end = bytes
        .windows(2)
        .rposition(|pair| pair == b"\n\n")
        .map_or(0, |at| at + 2);
    let text = std::str::from_utf8(bytes.get(..end).unwrap_or_default())
        .map_err(|_| damaged(folder, "checkpoints is not text".into()))?;
    let (notes, whole) = split_notes(text);
    if whole < bytes.len() {
        let file = OpenOptions::new().write(true).open(&path).map_err(&fail)?;
        file.set_len(whole as u64).map_err(&fail)?;
        file.sync_data().map_err(&fail)?;
    }
    Ok(notes)
}

fn acknowledged(folder: &Path) -> Result<(Marker, u64), SpoolError> {
    let (marker, held) = Marker::open(folder, ACKNOWLEDGED)?;
    let leaf = match held.trim_ascii() {
        [] => Some(0),
        digits => std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| digits.parse().ok()),
    };
    let leaf = leaf.ok_or_else(|| damaged(folder, format!("{ACKNOWLEDGED} holds no number")))?;
    Ok((marker, leaf))
}

fn lock(folder: &Path) -> Result<File, SpoolError> {
    let path = folder.join(LOCK);
    let fail = failing("lock", &path);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(&fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::Locked(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(fail(error)),
    }
}

fn remove_if_there(path: &Path) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failing("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn damaged(folder: &Path, why: String) -> SpoolError {
    SpoolError::Damaged {
        folder: folder.to_owned(),
        why,
    }
}
