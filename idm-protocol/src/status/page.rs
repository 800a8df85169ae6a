//! The status page: what the supervisor tells a client, in memory that only the supervisor can
//! write.
//!
//! A file of one page, sealed against further writable mappings after the supervisor made its own.
//! Words on it are independent of one another; each is read with one load.

#![forbid(unsafe_code)]

use crate::layout::PAGE_BYTES;
use crate::memory::{FileError, Mapped, Memory, ReadOnly, SealedFile};
use crate::sync::Ordering;

const STATE: usize = 0;
const REASON: usize = 1;
const CAPABILITIES: usize = 2;
const MEMORY_LIMIT: usize = 3;
const MEMORY_USED: usize = 4;
const RATES: usize = 5;
const MEMORY_ROOM: usize = 6;

/// Whether a client may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientState(pub u64);

impl ClientState {
    /// Attached, worker alive.
    pub const RUNNING: Self = Self(0);
    /// Over: every call fails from now on; [`StatusPage::end_reason`] says why.
    pub const ENDED: Self = Self(1);
}

/// Why a client was ended. An unknown value survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndReason(pub u64);

impl EndReason {
    /// It was not.
    pub const NONE: Self = Self(0);
    /// Its worker died.
    pub const WORKER_DIED: Self = Self(1);
    /// It broke the protocol.
    pub const VIOLATION: Self = Self(2);
    /// An operator or a changed policy ended it.
    pub const POLICY: Self = Self(3);
    /// It used more than it was granted.
    pub const OVERDRAWN: Self = Self(4);
    /// The proxy is shutting down.
    pub const SHUTDOWN: Self = Self(5);
    /// It detached.
    pub const DETACHED: Self = Self(6);
    /// Its work stood still for longer than its zone allows.
    pub const STUCK: Self = Self(7);

    /// All of them but none, with a word for each.
    pub const NAMES: [(Self, &'static str); 7] = [
        (Self::DETACHED, "detached"),
        (Self::WORKER_DIED, "worker_died"),
        (Self::VIOLATION, "violation"),
        (Self::OVERDRAWN, "overdrawn"),
        (Self::STUCK, "stuck"),
        (Self::POLICY, "policy"),
        (Self::SHUTDOWN, "shutdown"),
    ];
}

impl std::fmt::Display for EndReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::NONE => f.write_str("not ended"),
            Self::WORKER_DIED => f.write_str("its worker died"),
            Self::VIOLATION => f.write_str("it broke the protocol"),
            Self::POLICY => f.write_str("ended by policy"),
            Self::OVERDRAWN => f.write_str("it used more than it was granted"),
            Self::SHUTDOWN => f.write_str("the proxy is shutting down"),
            Self::DETACHED => f.write_str("it detached"),
            Self::STUCK => {
                f.write_str("its work stood still for longer than its zone allows (stuck_after)")
            }
            Self(other) => write!(f, "reason {other}"),
        }
    }
}

/// The supervisor's end of one client's status page.
#[derive(Debug)]
pub struct StatusWriter {
    page: Mapped,
}

impl StatusWriter {
    /// A new page and the file to hand to client and worker, which can map it for reading only.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn create() -> Result<(Self, SealedFile), FileError> {
        let file = SealedFile::create_freezable(c"vgpu-status", PAGE_BYTES)?;
        let page = Mapped::new(&file)?;
        file.freeze_writers()?;
        Ok((Self { page }, file))
    }

    /// What the client may use.
    pub fn set_capabilities(&self, bitmap: u64) {
        self.set(CAPABILITIES, bitmap);
    }

    /// The memory of its zone: how much there is, how much is used, and how much could be granted now, in bytes.
    pub fn set_memory(&self, limit: u64, used: u64, room: u64) {
        self.set(MEMORY_LIMIT, limit);
        self.set(MEMORY_USED, used);
        self.set(MEMORY_ROOM, room);
    }

    /// Calls and launches that the client may make in a second; 0 for as many as it likes.
    pub fn set_rates(&self, calls: u32, launches: u32) {
        self.set(RATES, u64::from(calls) | u64::from(launches) << 32);
    }

    /// Ends the client. The first reason stays.
    pub fn end(&self, reason: EndReason) {
        let words = self.page.words();
        if words[STATE].load(Ordering::Relaxed) != ClientState::ENDED.0 {
            words[REASON].store(reason.0, Ordering::Relaxed);
            // SYNC: no partner needs it for memory safety; it keeps the reason visible first, for
            // readers on the same machine.
            words[STATE].store(ClientState::ENDED.0, Ordering::Release);
        }
    }

    fn set(&self, index: usize, value: u64) {
        self.page.words()[index].store(value, Ordering::Relaxed);
    }
}

/// The reading end, in the client and in the worker.
#[derive(Clone, Debug)]
pub struct StatusPage {
    page: ReadOnly,
}

impl StatusPage {
    /// Maps a page that came with the attach message.
    ///
    /// # Errors
    /// [`FileError::WrongSize`] if it is not one page; [`FileError::Map`].
    pub fn open(file: &SealedFile) -> Result<Self, FileError> {
        let found = file.byte_len().get();
        if found != PAGE_BYTES {
            let found = u64::try_from(found).unwrap_or(u64::MAX);
            return Err(FileError::WrongSize {
                found,
                announced: PAGE_BYTES,
            });
        }
        Ok(Self {
            page: ReadOnly::new(file)?,
        })
    }

    /// Whether the client may go on.
    #[inline]
    pub fn state(&self) -> ClientState {
        ClientState(self.load(STATE))
    }

    /// Why it may not.
    pub fn end_reason(&self) -> EndReason {
        EndReason(self.load(REASON))
    }

    /// What the client may use.
    #[inline]
    pub fn capabilities(&self) -> u64 {
        self.load(CAPABILITIES)
    }

    /// Bytes of device memory that its zone may have.
    pub fn memory_limit(&self) -> u64 {
        self.load(MEMORY_LIMIT)
    }

    /// Bytes of device memory that its zone has.
    pub fn memory_used(&self) -> u64 {
        self.load(MEMORY_USED)
    }

    /// Bytes of device memory that its zone could be granted now.
    pub fn memory_room(&self) -> u64 {
        self.load(MEMORY_ROOM)
    }

    /// Calls and launches that the client may make in a second; 0 for as many as it likes. One load.
    #[inline]
    pub fn rates(&self) -> (u32, u32) {
        let [c0, c1, c2, c3, l0, l1, l2, l3] = self.load(RATES).to_le_bytes();
        (
            u32::from_le_bytes([c0, c1, c2, c3]),
            u32::from_le_bytes([l0, l1, l2, l3]),
        )
    }

    #[inline]
    fn load(&self, index: usize) -> u64 {
        // A page has 512 words; `open` checked the size.
        self.page.load(index).unwrap_or(0)
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn every_reason_that_can_be_told_has_a_word() {
        for reason in (1..16).map(EndReason) {
            let is_known = reason.to_string() != format!("reason {}", reason.0);
            let words = EndReason::NAMES
                .iter()
                .filter(|(named, _)| *named == reason);
            assert_eq!(words.count(), usize::from(is_known), "{reason}");
        }
    }

    #[test]
    fn what_the_supervisor_writes_is_read_and_nobody_else_can_write() {
        let (writer, file) = StatusWriter::create().unwrap();
        let reader = StatusPage::open(&file).unwrap();
        assert_eq!(reader.state(), ClientState::RUNNING);
        writer.set_capabilities(5);
        writer.set_memory(100, 40, 50);
        assert_eq!(reader.memory_room(), 50);
        assert_eq!(reader.capabilities(), 5);
        assert_eq!((reader.memory_limit(), reader.memory_used()), (100, 40));
        writer.set_rates(3, 7);
        assert_eq!(reader.rates(), (3, 7));
        writer.end(EndReason::WORKER_DIED);
        writer.end(EndReason::SHUTDOWN);
        assert_eq!(reader.state(), ClientState::ENDED);
        assert_eq!(reader.end_reason(), EndReason::WORKER_DIED);
        assert!(Mapped::new(&file).is_err());
    }
}
