//! The log as lines of JSON in a file: what `vgpuctl audit export` would write.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use proxy_audit::block::Block;
use proxy_audit::chain::Chain;
use proxy_audit::export::Line;
use proxy_audit::hash::LogId;

use super::{Sink, SinkError, Taken};

/// A file that only ever grows.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    len: u64,
    /// The first leaf that is not in the file.
    next: u64,
    settled: u64,
}

impl JsonLines {
    /// Goes on with a file that holds nothing but this log. A last line that is not whole is cut off: its block
    /// comes again.
    pub fn open(path: &Path, log: LogId) -> Result<Self, SinkError> {
        let fail = failing(path);
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(&fail)?;
        let mut reader = BufReader::new(&file);
        let (mut whole, mut next) = (0, 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            let len = reader.read_until(b'\n', &mut line).map_err(&fail)?;
            if line.pop_if(|last| *last == b'\n').is_none() {
                break;
            }
            whole += len as u64;
            let text = std::str::from_utf8(&line).unwrap_or_default();
            if let Ok(Line::Block(bytes)) = Line::parse(text)
                && let Ok(block) = Block::parse(&bytes)
            {
                if block.header().log != log {
                    let path = path.display();
                    return Err(SinkError(format!(
                        "{path} holds another log; name another file, or move it away"
                    )));
                }
                next = block.header().leaf.saturating_add(1);
            }
        }
        file.set_len(whole).map_err(&fail)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            len: whole,
            next,
            settled: next,
        })
    }

    fn write(&mut self, line: &Line) -> Result<(), SinkError> {
        let text = line.to_text();
        // One call, and at the end of the file whatever happens.
        if let Err(error) = self.file.write_all(text.as_bytes()) {
            // What a full disk took of it must not be the beginning of another line.
            let _ = self.file.set_len(self.len);
            return Err(failing(&self.path)(error));
        }
        self.len += text.len() as u64;
        Ok(())
    }
}

impl Sink for JsonLines {
    fn name(&self) -> String {
        format!("lines in {}", self.path.display())
    }

    fn first_wanted(&self) -> u64 {
        self.next
    }

    fn begin(&mut self, chain: &Chain) -> Result<(), SinkError> {
        self.write(&Line::Chain(Box::new(chain.clone())))
    }

    fn block(&mut self, leaf: u64, _zone: &str, bytes: &[u8]) -> Result<Taken, SinkError> {
        self.write(&Line::Block(bytes.to_vec()))?;
        self.next = leaf.saturating_add(1);
        Ok(Taken::Yes)
    }

    fn checkpoint(&mut self, note: &str) -> Result<Taken, SinkError> {
        self.write(&Line::Checkpoint(note.to_owned()))?;
        Ok(Taken::Yes)
    }

    fn settle(&mut self) -> Result<u64, SinkError> {
        if self.settled < self.next {
            self.file.sync_data().map_err(failing(&self.path))?;
            self.settled = self.next;
        }
        Ok(self.settled)
    }
}

fn failing(path: &Path) -> impl Fn(io::Error) -> SinkError + '_ {
    move |error| SinkError(format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use proxy_audit::event::{Event, Stamp};

    use super::*;

    #[test]
    fn a_file_is_gone_on_with_after_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let mut chain = Chain::new(LogId([1; 16]));
        let mut blocks = Vec::new();
        for _ in 0..4 {
            let zone = "a".parse().unwrap();
            let draft = chain.event(&zone, Stamp::now(), None, Event::ProxyStopped {}, 1);
            chain.admit(&draft).unwrap();
            blocks.push(draft.bytes);
        }
        let mut sink = JsonLines::open(&path, LogId([1; 16])).unwrap();
        for (leaf, block) in (0..).zip(&blocks) {
            assert_eq!(sink.block(leaf, "a", block).unwrap(), Taken::Yes);
        }
        sink.checkpoint("a note").unwrap();
        assert_eq!(sink.settle().unwrap(), 4);
        let whole = std::fs::read(&path).unwrap();
        let first_three = whole.split_inclusive(|&byte| byte == b'\n').take(3);
        let kept: usize = first_three.map(<[u8]>::len).sum();
        std::fs::write(&path, &whole[..kept + 20]).unwrap();
        let mut sink = JsonLines::open(&path, LogId([1; 16])).unwrap();
        assert_eq!(sink.first_wanted(), 3);
        sink.block(3, "a", &blocks[3]).unwrap();
        sink.checkpoint("a note").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        let other = JsonLines::open(&path, LogId([2; 16]));
        assert!(other.unwrap_err().to_string().contains("holds another log"));
    }
}
