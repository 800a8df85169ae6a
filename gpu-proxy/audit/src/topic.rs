//! A log out of what somebody read from its topics.
//!
//! A topic holds each block at least once, in order only within a zone, and may hold the logs of several nodes. This
//! puts one log in order and leaves out what is there twice, byte for byte; it judges nothing: blocks that contradict
//! each other and lines that cannot be read go on to whoever verifies.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::block::Block;
use crate::chain::Chain;
use crate::event::Event;
use crate::export::{Line, MAX_LINE_LEN};
use crate::hash::{Hash, LogId};
use crate::load::claimed_size;
use crate::note::{Note, PublicKey};
use crate::spool::split_notes;

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arranged {
    /// Which log.
    pub log: LogId,
    /// Its blocks.
    pub blocks: usize,
    /// Blocks that were there again.
    pub again: usize,
    /// Its checkpoints.
    pub checkpoints: usize,
    /// Lines that cannot be read; they stand last.
    pub unreadable: usize,
}

/// Why there is no log.
#[derive(Debug, Error)]
pub enum ArrangeError {
    /// A file.
    #[error("cannot read {}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No block of the log that is wanted.
    #[error("{} holds no block of that log", .0.display())]
    Empty(PathBuf),
    /// Several logs, and nobody said which.
    #[error("the topic holds several logs; say which: {0:?}")]
    Several(BTreeSet<LogId>),
    /// Whoever wants it is gone.
    #[error("cannot write: {0}")]
    Write(io::Error),
}

/// A line of the file.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    len: usize,
}

struct Entry {
    log: LogId,
    leaf: u64,
    hash: Hash,
    place: Place,
}

/// What is in a file of blocks, but for the blocks themselves.
#[derive(Default)]
struct Index {
    entries: Vec<Entry>,
    chains: Vec<Chain>,
    unreadable: Vec<Place>,
    /// What the keys are called that sign, by log.
    names: BTreeSet<(LogId, String)>,
}

/// Writes one log as lines: blocks from a file of lines in any order, checkpoints from a file of notes, each with an
/// empty line after it.
pub fn arrange(
    blocks: &Path,
    checkpoints: Option<&Path>,
    wanted: Option<LogId>,
    out: &mut impl Write,
) -> Result<Arranged, ArrangeError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |error| ArrangeError::File { path, error }
    };
    let file = File::open(blocks).map_err(fail(blocks))?;
    let Index {
        mut entries,
        mut chains,
        unreadable,
        names,
    } = index(&file).map_err(fail(blocks))?;
    let logs: BTreeSet<LogId> = entries.iter().map(|entry| entry.log).collect();
    let log = match (wanted, logs.first()) {
        (Some(wanted), _) => wanted,
        (None, Some(only)) if logs.len() == 1 => *only,
        (None, Some(_)) => return Err(ArrangeError::Several(logs)),
        (None, None) => return Err(ArrangeError::Empty(blocks.to_owned())),
    };
    entries.retain(|entry| entry.log == log);
    entries.sort_by_key(|entry| entry.leaf);
    let found = entries.len();
    entries.dedup_by_key(|entry| (entry.leaf, entry.hash));
    let Some(first) = entries.first() else {
        return Err(ArrangeError::Empty(blocks.to_owned()));
    };
    chains.retain(|chain| chain.log() == log && chain.next_leaf() == first.leaf);
    if let Some(chain) = chains.pop() {
        let line = Line::Chain(Box::new(chain)).to_text();
        out.write_all(line.as_bytes())
            .map_err(ArrangeError::Write)?;
    }
    for place in entries.iter().map(|entry| entry.place) {
        copy(&file, place, out).map_err(ArrangeError::Write)?;
    }
    let mut arranged = Arranged {
        log,
        blocks: entries.len(),
        again: found - entries.len(),
        checkpoints: 0,
        unreadable: unreadable.len(),
    };
    if let Some(path) = checkpoints {
        let text = fs::read_to_string(path).map_err(fail(path))?;
        let names = names.into_iter().filter(|(of, _)| *of == log);
        let names: BTreeSet<String> = names.map(|(_, name)| name).collect();
        for note in notes(&text, &names) {
            arranged.checkpoints += 1;
            let line = Line::Checkpoint(note).to_text();
            out.write_all(line.as_bytes())
                .map_err(ArrangeError::Write)?;
        }
    }
    for place in unreadable {
        copy(&file, place, out).map_err(ArrangeError::Write)?;
    }
    out.flush().map_err(ArrangeError::Write)?;
    Ok(arranged)
}

fn index(file: &File) -> io::Result<Index> {
    let mut index = Index::default();
    let mut input = BufReader::new(file);
    let (mut offset, mut bytes) = (0, Vec::new());
    loop {
        bytes.clear();
        // A line that is longer than any is taken in pieces, none of which can be read.
        let most = u64::try_from(MAX_LINE_LEN + 2).unwrap_or(u64::MAX);
        let len = (&mut input).take(most).read_until(b'\n', &mut bytes)?;
        if len == 0 {
            return Ok(index);
        }
        bytes.pop_if(|last| *last == b'\n');
        let place = Place {
            offset,
            len: bytes.len(),
        };
        offset += len as u64;
        if bytes.is_empty() {
            continue;
        }
        match std::str::from_utf8(&bytes).map(Line::parse) {
            Ok(Ok(Line::Block(block))) => index.block(&block, place),
            Ok(Ok(Line::Chain(chain))) => index.chains.push(*chain),
            _ => index.unreadable.push(place),
        }
    }
}

impl Index {
    fn block(&mut self, bytes: &[u8], place: Place) {
        let Ok(block) = Block::parse(bytes) else {
            self.unreadable.push(place);
            return;
        };
        let header = block.header();
        if let Block::Event {
            event: Event::LogOpened { key } | Event::KeyRotated { key },
            ..
        } = &block
            && let Ok(key) = key.as_str().parse::<PublicKey>()
        {
            self.names.insert((header.log, key.name().to_owned()));
        }
        self.entries.push(Entry {
            log: header.log,
            leaf: header.leaf,
            hash: Hash::leaf(bytes),
            place,
        });
    }
}

fn copy(mut file: &File, place: Place, out: &mut impl Write) -> io::Result<()> {
    let mut line = vec![0; place.len];
    file.seek(SeekFrom::Start(place.offset))?;
    file.read_exact(&mut line)?;
    out.write_all(&line)?;
    out.write_all(b"\n")
}

/// The notes of the log whose keys have these names, or all if it does not say: by size, each once. What makes no
/// whole note is passed on with them, for whoever verifies to see.
fn notes(text: &str, names: &BTreeSet<String>) -> Vec<String> {
    let (mut notes, whole) = split_notes(text);
    notes.extend(
        text.get(whole..)
            .filter(|rest| !rest.trim().is_empty())
            .map(str::to_owned),
    );
    notes.retain(|note| {
        let Ok(parsed) = Note::parse(note) else {
            return true;
        };
        let origin = parsed.unverified_text().lines().next().unwrap_or_default();
        names.is_empty() || names.contains(origin)
    });
    let mut seen = BTreeSet::new();
    notes.retain(|note| seen.insert(note.clone()));
    notes.sort_by_key(|note| claimed_size(note).unwrap_or(u64::MAX));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::event::Stamp;
    use crate::load;
    use crate::note::SecretKey;
    use crate::text::Text;

    /// Blocks of a log in two zones, and a note after each.
    fn log(id: u8, key: &SecretKey, count: u64) -> (Vec<Vec<u8>>, Vec<String>) {
        let mut chain = Chain::new(LogId([id; 16]));
        let (mut blocks, mut notes) = (Vec::new(), Vec::new());
        for leaf in 0..count {
            let zone = ["a", "b"][usize::from(leaf % 3 == 0)].parse().unwrap();
            let event = match leaf {
                0 => Event::LogOpened {
                    key: Text::new(key.public().to_string()),
                },
                _ => Event::ProxyStopped {},
            };
            let draft = chain.event(&zone, Stamp::now(), None, event, 1);
            chain.admit(&draft).unwrap();
            blocks.push(draft.bytes);
            let checkpoint = Checkpoint {
                origin: key.public().name().into(),
                size: leaf + 1,
                root: chain.tree().root(),
            };
            notes.push(checkpoint.sign(&[key]));
        }
        (blocks, notes)
    }

    fn text(blocks: &[&[u8]]) -> String {
        let line = |block: &&[u8]| Line::Block(block.to_vec()).to_text();
        blocks.iter().map(line).collect()
    }

    fn written(blocks: &str, notes: &str, wanted: Option<LogId>) -> (Arranged, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("blocks"), blocks).unwrap();
        fs::write(path("notes"), notes).unwrap();
        let mut out = Vec::new();
        let arranged = arrange(&path("blocks"), Some(&path("notes")), wanted, &mut out).unwrap();
        fs::write(path("log"), out).unwrap();
        (arranged, folder)
    }

    fn judge(folder: &tempfile::TempDir, key: &SecretKey) -> crate::verify::Report {
        let evidence = load::evidence(&folder.path().join("log")).unwrap();
        evidence.judge(&[key.public().clone()])
    }

    #[test]
    fn partitions_repetitions_and_other_logs_come_out_as_one_log_that_holds() {
        let [key, other] = ["node1", "node2"].map(|name| SecretKey::draw(name).unwrap());
        let (blocks, notes) = log(1, &key, 9);
        let (others, other_notes) = log(2, &other, 3);
        let (b, a): (Vec<&[u8]>, Vec<&[u8]>) = (
            blocks.iter().step_by(3).map(Vec::as_slice).collect(),
            (0..9)
                .filter(|leaf| leaf % 3 != 0)
                .map(|leaf| blocks[leaf].as_slice())
                .collect(),
        );
        // One partition, then the other, in which some were sent again after a restart; another node between them.
        let mut lines = text(&a) + &text(&[&others[0], &others[1]]) + &text(&b[..2]);
        lines += &(text(&b[1..]) + &text(&[&others[2]]));
        let mut all: Vec<&String> = notes.iter().chain(&other_notes).collect();
        all.push(&notes[4]);
        let text: String = all.iter().map(|note| format!("{note}\n")).collect();
        let (arranged, folder) = written(&lines, &text, Some(LogId([1; 16])));
        let expected = Arranged {
            log: LogId([1; 16]),
            blocks: 9,
            again: 1,
            checkpoints: 9,
            unreadable: 0,
        };
        assert_eq!(arranged, expected);
        let report = judge(&folder, &key);
        assert_eq!((report.findings, report.signed), (vec![], 9));
        let several = arrange(&folder.path().join("blocks"), None, None, &mut Vec::new());
        assert!(matches!(several, Err(ArrangeError::Several(logs)) if logs.len() == 2));
    }

    #[test]
    fn what_was_changed_in_the_topic_is_still_there_to_be_named() {
        let key = SecretKey::draw("node1").unwrap();
        let (blocks, notes) = log(1, &key, 6);
        let text_of = |blocks: &[Vec<u8>]| {
            let blocks: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
            text(&blocks)
        };
        let notes: String = notes.iter().map(|note| format!("{note}\n")).collect();
        let altered = text_of(&blocks).replacen("proxy_stopped", "auditor_stopped", 1);
        let (_, folder) = written(&altered, &notes, None);
        assert!(!judge(&folder, &key).findings.is_empty());
        // Another block for a leaf that is there: both come out.
        let twice = text_of(&blocks) + altered.lines().nth(1).unwrap() + "\n";
        let (arranged, folder) = written(&twice, &notes, None);
        assert_eq!((arranged.blocks, arranged.again), (7, 0));
        assert!(!judge(&folder, &key).findings.is_empty());
        let garbage = text_of(&blocks) + "not a line\n";
        let (arranged, folder) = written(&garbage, &notes, None);
        assert_eq!(arranged.unreadable, 1);
        assert!(!judge(&folder, &key).findings.is_empty());
        let missing = text_of(&blocks[..4]) + &text_of(&blocks[5..]);
        let (_, folder) = written(&missing, &notes, None);
        assert!(!judge(&folder, &key).findings.is_empty());
    }
}
