//! What a worker's client holds, piece by piece, as the supervisor can read it at any moment: also when the worker
//! does not answer, and after it has died.
//!
//! A table behind the counters of [`crate::stats`]. The worker writes it as it goes; the supervisor reads it like a
//! file into a private copy, and takes nothing from it but numbers. Pieces beyond the table are in the totals only.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use idm_protocol::handle::Kind;
use idm_protocol::memory::{Mapped, Memory};
use idm_protocol::sync::Ordering;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Pieces that are listed one by one.
pub const LISTED: usize = 4096;

/// Totals: what costs memory first, then handles by the numbers of their kinds.
const TOTALS: usize = 64;
const FIRST_HANDLE: usize = 32;

/// Bytes of the table.
pub const HOLDINGS_BYTES: usize = size_of::<Table>();

/// What can be held. An unknown number survives, and has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Holding(pub u64);

impl Holding {
    /// Device memory at an address.
    pub const MEMORY: Self = Self(1);
    /// Device memory of a pool.
    pub const POOLED: Self = Self(2);
    /// Device memory without an address of its own.
    pub const CREATED: Self = Self(3);
    /// Arrays and mipmapped arrays.
    pub const ARRAY: Self = Self(4);
    /// Modules and libraries.
    pub const CODE: Self = Self(5);
    /// Contexts.
    pub const CONTEXT: Self = Self(6);
    /// Pinned host memory.
    pub const PINNED: Self = Self(7);

    /// All of them, with the words for them.
    pub const NAMES: [(&'static str, Self); 7] = [
        ("memory", Self::MEMORY),
        ("pooled", Self::POOLED),
        ("created", Self::CREATED),
        ("array", Self::ARRAY),
        ("code", Self::CODE),
        ("context", Self::CONTEXT),
        ("pinned", Self::PINNED),
    ];

    /// The word for it.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let found = Self::NAMES.iter().find(|(_, known)| *known == self);
        found.map(|(name, _)| *name)
    }

    fn index(self) -> Option<usize> {
        let index = usize::try_from(self.0).ok()?;
        (index < FIRST_HANDLE).then_some(index)
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Table {
    totals: [Total; TOTALS],
    entries: [Entry; LISTED],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Total {
    count: u64,
    bytes: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Entry {
    /// 0 where nothing is.
    what: Holding,
    id: u64,
    bytes: u64,
    since_millis: u64,
}

const TOTAL_WORDS: usize = size_of::<Total>() / 8;
const ENTRY_WORDS: usize = size_of::<Entry>() / 8;

/// The worker's end: what is where in the table. Any thread may write.
#[derive(Debug)]
pub(crate) struct Writer {
    /// First word of the table in the page.
    base: usize,
    places: Mutex<Places>,
}

#[derive(Debug)]
struct Places {
    /// Bytes, and the entry if there was room for one.
    held: HashMap<(Holding, u64), (u64, Option<usize>)>,
    free: Vec<usize>,
}

impl Writer {
    pub(crate) fn new(base_bytes: usize) -> Self {
        Self {
            base: base_bytes / 8,
            places: Mutex::new(Places {
                held: HashMap::new(),
                free: (0..LISTED).rev().collect(),
            }),
        }
    }

    pub(crate) fn hold(&self, page: &Mapped, what: Holding, id: u64, bytes: u64) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = places.free.pop();
        if let Some((bytes, entry)) = places.held.insert((what, id), (bytes, entry)) {
            // Held twice under one name: the later one counts.
            self.forget(page, &mut places, what, bytes, entry);
        }
        self.total(page, what, 1, bytes);
        if let Some(entry) = entry {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let since = now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
            let at = self.entry(entry);
            for (offset, word) in [(1, id), (2, bytes), (3, since), (0, what.0)] {
                page.words()[at + offset].store(word, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn give_back(&self, page: &Mapped, what: Holding, id: u64) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((bytes, entry)) = places.held.remove(&(what, id)) {
            self.forget(page, &mut places, what, bytes, entry);
        }
    }

    /// One more or fewer handle of a kind.
    pub(crate) fn count_handles(&self, page: &Mapped, kind: Kind, change: i64) {
        let index = FIRST_HANDLE + usize::from(kind.number());
        if index < TOTALS {
            let word = &page.words()[self.base + index * TOTAL_WORDS];
            // A step down is a step up by its complement.
            word.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
        }
    }

    fn forget(
        &self,
        page: &Mapped,
        places: &mut Places,
        what: Holding,
        bytes: u64,
        entry: Option<usize>,
    ) {
        self.total(page, what, 1u64.wrapping_neg(), bytes.wrapping_neg());
        if let Some(entry) = entry {
            page.words()[self.entry(entry)].store(0, Ordering::Relaxed);
            places.free.push(entry);
        }
    }

    fn total(&self, page: &Mapped, what: Holding, count: u64, bytes: u64) {
        if let Some(index) = what.index() {
            let at = self.base + index * TOTAL_WORDS;
            page.words()[at].fetch_add(count, Ordering::Relaxed);
            page.words()[at + 1].fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn entry(&self, entry: usize) -> usize {
        self.base + TOTALS * TOTAL_WORDS + entry * ENTRY_WORDS
    }
}

/// What a worker claims that its client holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The pieces that are listed, largest first.
    pub pieces: Vec<Piece>,
    /// Of everything that costs memory: what, how many, and bytes.
    pub totals: Vec<(Holding, u64, u64)>,
    /// Handles by kind.
    pub handles: Vec<(Kind, u64)>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it is.
    pub what: Holding,
    /// Its address, or the client's handle of it.
    pub id: u64,
    /// What it costs.
    pub bytes: u64,
    /// When it came, in milliseconds of the epoch.
    pub since_millis: u64,
}

impl Holdings {
    /// Takes a private copy of the table apart. None if it is cut short.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (table, _) = Table::ref_from_prefix(bytes).ok()?;
        let mut pieces: Vec<Piece> = table
            .entries
            .iter()
            .filter(|entry| entry.what.name().is_some())
            .map(|entry| Piece {
                what: entry.what,
                id: entry.id,
                bytes: entry.bytes,
                since_millis: entry.since_millis,
            })
            .collect();
        pieces.sort_by_key(|piece| (std::cmp::Reverse(piece.bytes), piece.what.0, piece.id));
        let totals = Holding::NAMES.iter().filter_map(|(_, what)| {
            let total = table.totals.get(what.index()?)?;
            (total.count > 0).then_some((*what, total.count, total.bytes))
        });
        let handles = (FIRST_HANDLE..TOTALS).filter_map(|index| {
            let count = table.totals.get(index)?.count;
            let kind = Kind::new(u8::try_from(index - FIRST_HANDLE).ok()?)?;
            (count > 0).then_some((kind, count))
        });
        Some(Self {
            totals: totals.collect(),
            handles: handles.collect(),
            pieces,
        })
    }
}
