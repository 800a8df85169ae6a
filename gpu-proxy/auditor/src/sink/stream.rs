//! The log as lines of JSON on standard output, for whatever collects that.
//!
//! Who reads it may be slow or gone. So a thread writes, and the log goes on without it: what was not written stays in
//! the spool. Nobody confirms that a line was kept; a line counts as sent when the system took it.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::sys::eventfd::{EfdFlags, EventFd};
use proxy_audit::chain::Chain;
use proxy_audit::export::Line;
use proxy_audit::spool::Spool;

use super::position::Position;
use super::{Sink, SinkError, Taken};

/// The file in the spool's folder that says how much was written.
const POSITION: &str = "sent-to-stdout";

/// Lines that wait for the thread.
const WAITING: usize = 64;

/// What opens the stream, again after it failed.
type Open = Box<dyn Fn() -> Box<dyn Write + Send> + Send>;

/// A stream that lines are written to.
pub struct Stream {
    open: Open,
    position: Position,
    /// What stands there already may end with half a line.
    goes_on: bool,
    /// None before the first line, and after a failure.
    queue: Option<SyncSender<Item>>,
    shared: Arc<Shared>,
}

/// A line, and the leaf before which everything is out when it is.
type Item = (String, Option<u64>);

#[derive(Debug)]
struct Shared {
    /// The leaf before which everything was written.
    written: AtomicU64,
    failure: Mutex<Option<io::Error>>,
    bell: EventFd,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("position", &self.position)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// Standard output. Where something stands there it begins with an empty line: the last may not be whole.
    pub fn stdout(spool: &Spool) -> Result<Self, SinkError> {
        Self::new(spool, Box::new(|| Box::new(io::stdout())))
    }

    fn new(spool: &Spool, open: Open) -> Result<Self, SinkError> {
        let log = spool.chain().log();
        let position = Position::open(spool.folder(), POSITION, log, "stdout".into())?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = EventFd::from_value_and_flags(0, flags)
            .map_err(|errno| SinkError(format!("no event descriptor: {errno}")))?;
        let shared = Shared {
            written: AtomicU64::new(position.leaf()),
            failure: Mutex::default(),
            bell,
        };
        Ok(Self {
            open,
            goes_on: position.leaf() > 0,
            position,
            queue: None,
            shared: Arc::new(shared),
        })
    }

    fn put(&mut self, line: &Line, leaf: Option<u64>) -> Result<Taken, SinkError> {
        if self.queue.is_none() {
            let (queue, items) = sync_channel(WAITING);
            let (stream, shared) = ((self.open)(), self.shared.clone());
            let goes_on = std::mem::replace(&mut self.goes_on, true);
            thread::Builder::new()
                .name("lines".into())
                .spawn(move || shared.write_all(stream, &items, goes_on))
                .map_err(|error| SinkError(format!("no thread: {error}")))?;
            self.queue = Some(queue);
        }
        let queue = self.queue.as_ref().map(|queue| {
            let item = (line.to_text(), leaf);
            queue.try_send(item)
        });
        match queue {
            None | Some(Ok(())) => Ok(Taken::Yes),
            Some(Err(TrySendError::Full(_))) => Ok(Taken::Later),
            Some(Err(TrySendError::Disconnected(_))) => Err(self.fail()),
        }
    }

    /// What waits is lost, and written again by another thread.
    fn fail(&mut self) -> SinkError {
        self.queue = None;
        let mut failure = self.shared.lock_failure();
        let why = failure.take().map(|error| error.to_string());
        let why = why.unwrap_or_else(|| "its thread has ended".into());
        SinkError(format!("cannot write to standard output: {why}"))
    }
}

impl Shared {
    fn write_all(&self, mut stream: Box<dyn Write + Send>, items: &Receiver<Item>, goes_on: bool) {
        let mut write = || {
            if goes_on {
                stream.write_all(b"\n")?;
            }
            for (line, leaf) in items {
                stream.write_all(line.as_bytes())?;
                stream.flush()?;
                if let Some(leaf) = leaf {
                    // ORDER: nothing but the number itself.
                    self.written.store(leaf, Ordering::Relaxed);
                }
                self.ring();
            }
            Ok(())
        };
        if let Err(error) = write() {
            *self.lock_failure() = Some(error);
            self.ring();
        }
    }

    fn lock_failure(&self) -> std::sync::MutexGuard<'_, Option<io::Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // It fails only where it has rung already.
        let _ = self.bell.write(1);
    }
}

impl Sink for Stream {
    fn name(&self) -> String {
        "lines on standard output".into()
    }

    fn first_wanted(&self) -> u64 {
        self.position.leaf()
    }

    fn begin(&mut self, chain: &Chain) -> Result<(), SinkError> {
        // Nothing waits yet, so that there is room.
        self.put(&Line::Chain(Box::new(chain.clone())), None)
            .map(drop)
    }

    fn block(&mut self, leaf: u64, _zone: &str, bytes: &[u8]) -> Result<Taken, SinkError> {
        self.put(&Line::Block(bytes.to_vec()), Some(leaf.saturating_add(1)))
    }

    fn checkpoint(&mut self, note: &str) -> Result<Taken, SinkError> {
        self.put(&Line::Checkpoint(note.to_owned()), None)
    }

    fn settle(&mut self) -> Result<u64, SinkError> {
        // Before the numbers are looked at: what comes in between rings again. It fails only where nobody rang.
        let _ = self.shared.bell.read();
        if self.shared.lock_failure().is_some() {
            return Err(self.fail());
        }
        let written = self.shared.written.load(Ordering::Relaxed);
        self.position.advance(written)?;
        Ok(self.position.leaf())
    }

    fn news(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.bell.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader};
    use std::time::{Duration, Instant};

    use proxy_audit::event::{Event, Stamp};
    use proxy_audit::spool::{Settings, WhenFull};

    use super::*;

    fn spool(folder: &std::path::Path) -> Spool {
        Spool::open(Settings {
            folder: folder.to_owned(),
            segment: 1 << 20,
            retain: 1 << 20,
            share: 1 << 20,
            headroom: 1 << 20,
            when_full: WhenFull::FailClosed,
        })
        .unwrap()
    }

    fn piped(spool: &Spool) -> (Stream, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let open = move || Box::new(writer.try_clone().unwrap()) as Box<dyn Write + Send>;
        (Stream::new(spool, Box::new(open)).unwrap(), reader)
    }

    fn wait_until_settled(sink: &mut Stream, leaf: u64) {
        let give_up = Instant::now() + Duration::from_secs(60);
        while sink.settle().unwrap() < leaf {
            assert!(Instant::now() < give_up, "{sink:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn who_does_not_read_keeps_nobody_and_gets_everything_later() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = spool(folder.path());
        let zone = "a".parse().unwrap();
        spool
            .event(&zone, Stamp::now(), None, Event::ProxyStopped {})
            .unwrap();
        let (mut sink, reader) = piped(&spool);
        assert_eq!(sink.first_wanted(), 0);
        // More than a pipe holds.
        let block = vec![7; 1 << 17];
        let mut taken = 0;
        while sink.block(taken, "a", &block).unwrap() == Taken::Yes {
            taken += 1;
        }
        assert!((WAITING as u64..WAITING as u64 + 3).contains(&taken));
        assert_eq!(sink.settle().unwrap(), 0);
        let reader = thread::spawn(move || {
            let lines = BufReader::new(reader).lines().map(Result::unwrap);
            lines.collect::<Vec<String>>()
        });
        wait_until_settled(&mut sink, taken);
        assert_eq!(sink.checkpoint("a note").unwrap(), Taken::Yes);
        drop(sink);
        let lines = reader.join().unwrap();
        assert_eq!(lines.len() as u64, taken + 1);
        assert!(
            lines[0].starts_with("{\"calls\":\"BwcH"),
            "{}",
            &lines[0][..20]
        );
        // The next auditor goes on.
        let (sink, _reader) = piped(&spool);
        assert_eq!(sink.first_wanted(), taken);
    }

    #[test]
    fn what_nobody_reads_any_more_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path());
        let (mut sink, reader) = piped(&spool);
        drop(reader);
        assert_eq!(sink.block(0, "a", b"block").unwrap(), Taken::Yes);
        let give_up = Instant::now() + Duration::from_secs(60);
        let error = loop {
            assert!(Instant::now() < give_up, "{sink:?}");
            if let Err(error) = sink.settle() {
                break error;
            }
        };
        assert!(error.to_string().contains("Broken pipe"), "{error}");
        assert_eq!(sink.first_wanted(), 0);
    }
}
