//! A worker's counters: a page the worker writes as it goes and the supervisor reads when an administrator
//! asks.
//!
//! The numbers are the worker's claims. The supervisor never maps the page; it reads it like a file, once,
//! into a private copy, and takes nothing from it but numbers and printable names.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use idm_protocol::attach::Text;
use idm_protocol::handle::Kind;
use idm_protocol::memory::{FileError, Mapped, Memory, SealedFile};
use idm_protocol::sync::Ordering;
use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::holdings::{HOLDINGS_BYTES, Holding, Holdings, Writer};

/// Kernels that are counted by name; launches of any later ones are counted together.
pub const KERNEL_SLOTS: usize = 128;

/// Where the table of holdings begins.
const HOLDINGS_AT: usize = 16 << 10;

/// Bytes of counters and holdings.
pub const STATS_BYTES: usize = (HOLDINGS_AT + HOLDINGS_BYTES).next_multiple_of(4096);

/// The page, as the supervisor's private copy of it.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Page {
    calls: u64,
    launches: u64,
    errors: u64,
    memory_held: u64,
    device_count: u64,
    other_launches: u64,
    /// How long it was made to wait, in microseconds.
    paced_micros: u64,
    reserved: u64,
    kernels: [Kernel; KERNEL_SLOTS],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Kernel {
    launches: u64,
    name: Text<96>,
}

const _: () = assert!(size_of::<Page>() <= HOLDINGS_AT);

const CALLS: usize = 0;
const LAUNCHES: usize = 1;
const ERRORS: usize = 2;
const MEMORY_HELD: usize = 3;
const DEVICE_COUNT: usize = 4;
const OTHER_LAUNCHES: usize = 5;
const PACED_MICROS: usize = 6;
const KERNELS: usize = 8;
const KERNEL_WORDS: usize = size_of::<Kernel>() / 8;

/// The worker's end. Counting costs one relaxed atomic addition at most; any thread may count what is not
/// said to be counted by one.
#[derive(Debug)]
pub struct StatsWriter {
    page: Mapped,
    slots: Mutex<HashMap<Text<96>, KernelSlot>>,
    holdings: Writer,
}

/// Where launches of one kernel are counted; look it up once per function, not per launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelSlot(usize);

impl StatsWriter {
    /// Maps a page that came with the assignment.
    pub fn new(file: &SealedFile) -> Result<Self, FileError> {
        let found = file.byte_len().get();
        if found != STATS_BYTES {
            let found = u64::try_from(found).unwrap_or(u64::MAX);
            return Err(FileError::WrongSize {
                found,
                announced: STATS_BYTES,
            });
        }
        Ok(Self {
            page: Mapped::new(file)?,
            slots: Mutex::default(),
            holdings: Writer::new(HOLDINGS_AT),
        })
    }

    /// One forwarded call. Only the thread that takes them counts them.
    #[inline]
    pub fn count_call(&self) {
        self.count_calls(1);
    }

    /// Many forwarded calls, for a worker that counts privately and publishes now and then.
    #[inline]
    pub fn count_calls(&self, count: u64) {
        let calls = &self.page.words()[CALLS];
        let before = calls.load(Ordering::Relaxed);
        calls.store(before.wrapping_add(count), Ordering::Relaxed);
    }

    /// One call that the driver answered with an error.
    #[inline]
    pub fn count_error(&self) {
        self.add(ERRORS, 1);
    }

    /// One launch of a kernel.
    #[inline]
    pub fn count_launch(&self, slot: KernelSlot) {
        self.add(LAUNCHES, 1);
        self.add(slot.0, 1);
    }

    /// The client was made to wait, for it was faster than its zone may be.
    pub fn count_paced(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.add(PACED_MICROS, micros);
    }

    /// The slot of a kernel by name; the same name has the same slot.
    pub fn kernel(&self, name: &str) -> KernelSlot {
        let name = Text::<96>::new(name);
        // A panic elsewhere cannot leave the map half-changed in a way that matters to counters.
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&slot) = slots.get(&name) {
            return slot;
        }
        if slots.len() == KERNEL_SLOTS {
            return KernelSlot(OTHER_LAUNCHES);
        }
        let word = KERNELS + slots.len() * KERNEL_WORDS;
        // Inside the page by the assertion above; an error would only cost the name.
        let _ = self.page.write((word + 1) * 8, name.as_bytes());
        slots.insert(name, KernelSlot(word));
        KernelSlot(word)
    }

    /// The client holds something more, of so many bytes, under a name that nothing else of its sort has.
    pub fn hold(&self, what: Holding, id: u64, bytes: u64) {
        self.holdings.hold(&self.page, what, id, bytes);
    }

    /// The client gave it back. What it does not hold is passed over.
    pub fn give_back(&self, what: Holding, id: u64) {
        self.holdings.give_back(&self.page, what, id);
    }

    /// The client has so many handles of a kind more, or fewer.
    pub fn count_handles(&self, kind: Kind, change: i64) {
        self.holdings.count_handles(&self.page, kind, change);
    }

    /// Device memory held now, in bytes.
    pub fn set_memory_held(&self, bytes: u64) {
        self.page.words()[MEMORY_HELD].store(bytes, Ordering::Relaxed);
    }

    /// Devices seen.
    pub fn set_device_count(&self, count: u32) {
        self.page.words()[DEVICE_COUNT].store(count.into(), Ordering::Relaxed);
    }

    #[inline]
    fn add(&self, index: usize, count: u64) {
        self.page.words()[index].fetch_add(count, Ordering::Relaxed);
    }
}

/// The supervisor's end.
#[derive(Debug)]
pub struct StatsPage {
    file: SealedFile,
}

/// What a worker claims at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Forwarded calls.
    pub calls: u64,
    /// Kernel launches.
    pub launches: u64,
    /// Calls that the driver answered with an error.
    pub errors: u64,
    /// Device memory held, in bytes.
    pub memory_held: u64,
    /// Devices seen.
    pub device_count: u64,
    /// Launches of kernels beyond the named ones.
    pub other_launches: u64,
    /// How long it was made to wait by the zone's rates, in microseconds.
    pub paced_micros: u64,
    /// Kernels by launches, most first.
    pub kernels: Vec<(String, u64)>,
}

impl StatsPage {
    /// A new page.
    pub fn create() -> Result<Self, FileError> {
        Ok(Self {
            file: SealedFile::create(c"vgpu-stats", STATS_BYTES)?,
        })
    }

    /// Reads only how much device memory the worker claims to hold.
    pub fn memory_held(&self) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        let at = i64::try_from(MEMORY_HELD * 8).map_err(|_| Errno::EOVERFLOW)?;
        let len = nix::sys::uio::pread(&self.file, &mut bytes, at)?;
        (len == bytes.len())
            .then(|| u64::from_le_bytes(bytes))
            .ok_or(Errno::EIO)
    }

    /// Reads what the client holds, as its worker claims.
    pub fn holdings(&self) -> Result<Holdings, Errno> {
        let mut bytes = vec![0; HOLDINGS_BYTES];
        let at = i64::try_from(HOLDINGS_AT).map_err(|_| Errno::EOVERFLOW)?;
        let len = nix::sys::uio::pread(&self.file, &mut bytes, at)?;
        Holdings::read(bytes.get(..len).unwrap_or_default()).ok_or(Errno::EIO)
    }

    /// Reads it once and keeps the `top` most launched kernels.
    pub fn snapshot(&self, top: usize) -> Result<Snapshot, Errno> {
        let mut bytes = vec![0; size_of::<Page>()];
        let len = nix::sys::uio::pread(&self.file, &mut bytes, 0)?;
        let page = Page::read_from_bytes(&bytes[..len]).map_err(|_| Errno::EIO)?;
        let mut kernels: Vec<(String, u64)> = page
            .kernels
            .iter()
            .filter(|kernel| kernel.launches > 0 && !kernel.name.is_empty())
            .map(|kernel| (kernel.name.to_string(), kernel.launches))
            .collect();
        kernels.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        kernels.truncate(top);
        Ok(Snapshot {
            calls: page.calls,
            launches: page.launches,
            errors: page.errors,
            memory_held: page.memory_held,
            device_count: page.device_count,
            other_launches: page.other_launches,
            paced_micros: page.paced_micros,
            kernels,
        })
    }
}

impl AsFd for StatsPage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holdings::LISTED;

    fn pair() -> (StatsPage, StatsWriter) {
        let page = StatsPage::create().unwrap();
        let copy = page.file.as_fd().try_clone_to_owned().unwrap();
        let writer = StatsWriter::new(&SealedFile::receive(copy, STATS_BYTES).unwrap()).unwrap();
        (page, writer)
    }

    #[test]
    fn what_the_worker_counts_is_what_the_supervisor_reads() {
        let (page, writer) = pair();
        let (saxpy, matmul) = (writer.kernel("saxpy"), writer.kernel("matmul"));
        assert_eq!(writer.kernel("saxpy"), saxpy);
        writer.count_calls(5);
        writer.count_call();
        writer.count_error();
        writer.count_launch(saxpy);
        writer.count_launch(matmul);
        writer.count_launch(matmul);
        writer.count_paced(Duration::from_millis(3));
        writer.set_memory_held(4096);
        writer.set_device_count(2);
        assert_eq!(page.memory_held(), Ok(4096));
        let snapshot = page.snapshot(1).unwrap();
        let expected = Snapshot {
            calls: 6,
            launches: 3,
            errors: 1,
            memory_held: 4096,
            device_count: 2,
            other_launches: 0,
            paced_micros: 3000,
            kernels: vec![("matmul".into(), 2)],
        };
        assert_eq!(snapshot, expected);
    }

    #[test]
    fn what_is_held_is_listed_largest_first_until_it_is_given_back() {
        let (page, writer) = pair();
        writer.hold(Holding::MEMORY, 0x1000, 64);
        writer.hold(Holding::MEMORY, 0x2000, 512);
        writer.hold(Holding::PINNED, 0x1000, 128);
        writer.count_handles(Kind::STREAM, 2);
        writer.count_handles(Kind::STREAM, -1);
        writer.give_back(Holding::MEMORY, 0x1000);
        writer.give_back(Holding::ARRAY, 0x1000);
        let held = page.holdings().unwrap();
        let pieces: Vec<_> = held
            .pieces
            .iter()
            .map(|piece| (piece.what, piece.id, piece.bytes))
            .collect();
        let expected = [
            (Holding::MEMORY, 0x2000, 512),
            (Holding::PINNED, 0x1000, 128),
        ];
        assert_eq!(pieces, expected);
        assert!(held.pieces.iter().all(|piece| piece.since_millis > 0));
        let expected = [(Holding::MEMORY, 1, 512), (Holding::PINNED, 1, 128)];
        assert_eq!(held.totals, expected);
        assert_eq!(held.handles, [(Kind::STREAM, 1)]);
    }

    #[test]
    fn pieces_beyond_the_table_are_in_the_totals_and_places_are_used_again() {
        let (page, writer) = pair();
        let count = LISTED as u64 + 10;
        for id in 0..count {
            writer.hold(Holding::MEMORY, id, 1);
        }
        let held = page.holdings().unwrap();
        assert_eq!(held.pieces.len(), LISTED);
        assert_eq!(held.totals, [(Holding::MEMORY, count, count)]);
        for id in 0..count {
            writer.give_back(Holding::MEMORY, id);
        }
        assert_eq!(page.holdings().unwrap(), Holdings::default());
        writer.hold(Holding::CODE, 7, 5);
        writer.hold(Holding::CODE, 7, 6);
        let held = page.holdings().unwrap();
        assert_eq!((held.pieces.len(), held.pieces[0].bytes), (1, 6));
        assert_eq!(held.totals, [(Holding::CODE, 1, 6)]);
    }

    #[test]
    fn kernels_beyond_the_table_are_counted_together() {
        let (page, writer) = pair();
        for index in 0..KERNEL_SLOTS + 3 {
            writer.count_launch(writer.kernel(&format!("kernel{index}")));
        }
        let snapshot = page.snapshot(1000).unwrap();
        assert_eq!(
            (snapshot.kernels.len(), snapshot.other_launches),
            (KERNEL_SLOTS, 3)
        );
    }

    #[test]
    fn a_page_of_garbage_yields_printable_names_only() {
        let (page, writer) = pair();
        for word in writer.page.words() {
            word.store(0x9b1b_0a0d_ff7f_0141, Ordering::Relaxed);
        }
        // Numbers without a name are nothing.
        assert_eq!(page.holdings().unwrap().pieces, []);
        let snapshot = page.snapshot(3).unwrap();
        assert_eq!(snapshot.kernels.len(), 3);
        assert!(
            snapshot.kernels[0]
                .0
                .bytes()
                .all(|byte| (b' '..=b'~').contains(&byte))
        );
    }
}
