//! What a worker writes down of the calls it forwards, where it outlives the worker (D20).
//!
//! A page of shared memory that the supervisor makes for each client, hands to its worker and to the auditor, and
//! keeps until the auditor has everything. Before a driver call the worker notes it in a cell of its thread; when the
//! driver has answered, and before the client hears of it, the call goes into a ring and the cell is free again. So
//! the auditor never waits for a call that takes long, and what was under way when a worker died stands in the cells.
//!
//! Everything in the page is the worker's claim. The auditor copies a slot once and believes nothing but that it was
//! claimed; it reads no further than the ring is long, whatever the page says. Where to go on reading is the
//! auditor's own knowledge: the word for it only tells the worker what room there is.

#![forbid(unsafe_code)]

use idm_protocol::memory::Memory;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

mod page;
mod reader;
mod writer;

pub use page::{CallPage, PageError};
pub use reader::{CallReader, Name, Rest};
pub use writer::CallWriter;

/// Calls that the ring holds.
pub const SLOTS: usize = if cfg!(loom) { 2 } else { 8192 };
/// Threads that can have a call under way: the dispatcher, then the lanes.
pub const CELLS: usize = if cfg!(loom) { 1 } else { 257 };
/// Names of kernels and images; of later ones nothing is told but that they have one.
pub const NAMES: usize = if cfg!(loom) { 1 } else { 4096 };
/// Bytes of a name that are told.
pub const MAX_NAME: usize = 256;

/// A kind of name: a kernel's, as its image calls it.
pub const KERNEL_NAME: u32 = 1;
/// A kind of name: an image's SHA-256.
pub const IMAGE_NAME: u32 = 2;

/// A name that is none, or was one too many.
pub const NO_NAME: u16 = u16::MAX;
/// A device that is none.
pub const NO_DEVICE: u8 = u8::MAX;

/// A driver call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Call {
    /// When the driver was called: nanoseconds of the host's monotonic clock.
    pub start_ns: u64,
    /// Bytes moved or allocated; threads of a launch.
    pub size: u64,
    /// The address or handle it is about.
    pub object: u64,
    /// How long the driver took, in nanoseconds; `u32::MAX` for longer.
    pub duration_ns: u32,
    /// What the driver answered.
    pub result: u32,
    /// Which function, by its number in the call table.
    pub opcode: u16,
    /// The kernel, by its number among the page's names, or [`NO_NAME`].
    pub kernel: u16,
    /// The image, likewise.
    pub image: u16,
    /// The device, or [`NO_DEVICE`].
    pub device: u8,
    /// Zero.
    pub reserved: u8,
}

const CALL_WORDS: usize = size_of::<Call>() / 8;
/// A slot and a cell have a cache line: a word that says what the rest is, and the call.
const LINE: usize = 8;

const _: () = assert!(CALL_WORDS < LINE);

/// Slots that were claimed, ever.
const TAIL: usize = 0;
/// Slots before this one may be used again: the auditor's word.
const HEAD: usize = LINE;
/// The auditor sleeps and wants to be woken.
const ASLEEP: usize = 2 * LINE;
/// Calls that found no room.
const LOST: usize = 2 * LINE + 1;
/// Names that are there.
const NAMED: usize = 2 * LINE + 2;
const FIRST_CELL: usize = 3 * LINE;
const FIRST_SLOT: usize = FIRST_CELL + CELLS * LINE;
const FIRST_NAME: usize = FIRST_SLOT + SLOTS * LINE;
/// A word for kind and length, then the bytes.
const NAME_WORDS: usize = 1 + MAX_NAME / 8;

const WORDS: usize = FIRST_NAME + NAMES * NAME_WORDS;

/// Bytes of the page.
pub const CALLS_BYTES: usize = (WORDS * 8).next_multiple_of(4096);

/// What the first word of a cell says.
const IDLE: u64 = 0;
/// The driver has been called.
const UNDER_WAY: u64 = 1;
/// It has answered, and the call goes into the slot whose number stands above these bits.
const ANSWERED: u64 = 2;
const CELL_BITS: u32 = 2;

/// What a name's first word says: length and kind, and whether there was more.
const KIND_SHIFT: u32 = 32;
const CUT: u64 = 1 << 63;

/// Where the slot of a number lies.
fn slot(number: u64) -> usize {
    // Less than the number of slots.
    FIRST_SLOT + usize::try_from(number % SLOTS as u64).unwrap_or(0) * LINE
}

/// Whether memory is large enough.
fn fits<M: Memory>(page: &M) -> bool {
    page.words().len() >= WORDS
}

/// The words of a call.
fn words_of(call: Call) -> [u64; CALL_WORDS] {
    zerocopy::transmute!(call)
}

/// The call of words.
fn call_of(words: [u64; CALL_WORDS]) -> Call {
    zerocopy::transmute!(words)
}

#[cfg(all(test, not(loom)))]
mod tests;
