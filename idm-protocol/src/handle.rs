//! Handles: opaque names of contexts, streams, events and the rest (D12).
//!
//! The client mints a handle and may use it at once in records it posts; the worker binds it to the
//! driver's object when it gets there and checks it on each use. A handle is a kind, a slot and a
//! generation in 64 bits. Its top bits are `01`, so that as an address it is non-canonical: it is
//! never null, never one of CUDA's small special values, and a program that follows it as a pointer
//! faults instead of reading something. As a signed number it is positive, as pointers of programs are:
//! bindings that carry handles as signed numbers (`intptr_t`) refuse negative ones.

#![forbid(unsafe_code)]

mod client;
#[cfg(all(test, not(loom)))]
mod tests;
mod worker;

pub use client::ClientTable;
pub use worker::{Bound, WorkerTable};

use std::fmt;

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most slots that a kind can have.
pub const MOST_SLOTS: u32 = 1 << 24;

const MARK: u64 = 0b01 << 62;

/// What a handle names: 1 to 63. Which number means what is the declaration table's word; these
/// are the kinds of the Driver API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(u8);

impl Kind {
    /// `CUcontext`
    pub const CONTEXT: Self = Self(1);
    /// `CUmodule`
    pub const MODULE: Self = Self(2);
    /// `CUfunction`
    pub const FUNCTION: Self = Self(3);
    /// `CUstream`
    pub const STREAM: Self = Self(4);
    /// `CUevent`
    pub const EVENT: Self = Self(5);
    /// `CUgraph`
    pub const GRAPH: Self = Self(6);
    /// `CUgraphNode`
    pub const GRAPH_NODE: Self = Self(7);
    /// `CUgraphExec`
    pub const GRAPH_EXEC: Self = Self(8);
    /// `CUmemoryPool`
    pub const POOL: Self = Self(9);
    /// `CUlibrary`
    pub const LIBRARY: Self = Self(10);
    /// `CUkernel`
    pub const KERNEL: Self = Self(11);
    /// `CUarray`
    pub const ARRAY: Self = Self(12);
    /// `CUmipmappedArray`
    pub const MIPMAPPED_ARRAY: Self = Self(13);
    /// `CUlinkState`
    pub const LINK: Self = Self(14);
    /// `CUuserObject`
    pub const USER_OBJECT: Self = Self(15);
    /// `CUmemGenericAllocationHandle`
    pub const ALLOCATION: Self = Self(16);
    /// `CUgreenCtx`
    pub const GREEN_CONTEXT: Self = Self(17);

    /// Kind number `number`, if it can be one.
    pub const fn new(number: u8) -> Option<Self> {
        if matches!(number, 1..=63) {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Whether the worker names objects of this kind: those that come into being without a call that names
    /// each of them.
    pub const fn is_named_by_worker(self) -> bool {
        matches!(self, Self::GRAPH | Self::GRAPH_NODE)
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A well-formed handle. Whether it names anything is a table's word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(u64);

impl Handle {
    /// The handle of these parts. `None` if the slot has more than 24 bits or the generation is 0.
    pub const fn new(kind: Kind, slot: u32, generation: u32) -> Option<Self> {
        if slot >= MOST_SLOTS || generation == 0 {
            return None;
        }
        Some(Self(
            MARK | (kind.0 as u64) << 56 | (slot as u64) << 32 | generation as u64,
        ))
    }

    /// The handle that a program or a record passes as `value`, if it has the shape of one.
    pub fn from_value(value: u64) -> Option<Self> {
        let kind = Kind::new((value >> 56 & 0x3f).to_le_bytes()[0])?;
        let well_formed = value & 0b11 << 62 == MARK && Self(value).generation() != 0;
        (well_formed && kind.0 != 0).then_some(Self(value))
    }

    /// As a program sees it and as records carry it.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// What it names.
    pub const fn kind(self) -> Kind {
        Kind(self.0.to_le_bytes()[7] & 0x3f)
    }

    /// Which one.
    pub const fn slot(self) -> u32 {
        let [_, _, _, _, s0, s1, s2, _] = self.0.to_le_bytes();
        u32::from_le_bytes([s0, s1, s2, 0])
    }

    /// Which use of the slot.
    pub const fn generation(self) -> u32 {
        let [g0, g1, g2, g3, ..] = self.0.to_le_bytes();
        u32::from_le_bytes([g0, g1, g2, g3])
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Handle({}:{}.{})",
            self.kind().0,
            self.slot(),
            self.generation()
        )
    }
}

/// A handle as it stands in a record: any 64 bits, until a table has looked at it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct RawHandle(pub u64);

impl From<Handle> for RawHandle {
    fn from(handle: Handle) -> Self {
        Self(handle.0)
    }
}

/// What is wrong with a handle. The caller gets the driver's error for it; on the worker's side it is
/// also counted, for an honest client checks before it posts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandleError {
    /// It has not the shape of a handle: null, a pointer, a made-up number.
    #[error("{0:#x} is no handle")]
    Forged(u64),
    /// It is a handle of another kind.
    #[error("{found:?} is a handle, but not of kind {wanted:?}")]
    WrongKind {
        /// What was passed.
        found: Handle,
        /// What is wanted.
        wanted: Kind,
    },
    /// Its object is gone, or never was.
    #[error("{0:?} names nothing (any more)")]
    Stale(Handle),
    /// It names an object already; another cannot be bound to it.
    #[error("{0:?} is bound already")]
    Bound(Handle),
    /// Its slot, or one slot more, is beyond what this client may have.
    #[error("more than {limit} objects of kind {kind:?}")]
    OverLimit {
        /// The kind.
        kind: Kind,
        /// How many it may have.
        limit: u32,
    },
    /// Its creation failed with this result of the driver's; every use does.
    #[error("{handle:?} was never created: result {code}")]
    Poisoned {
        /// What was passed.
        handle: Handle,
        /// The driver's result at creation.
        code: u32,
    },
}

/// Slots that each kind may have.
#[derive(Clone, Debug)]
pub struct HandleLimits(crate::layout::Limits);

impl HandleLimits {
    /// The limits of an attach message.
    pub fn new(limits: &crate::layout::Limits) -> Self {
        Self(*limits)
    }

    /// The limit of one kind.
    pub fn of(&self, kind: Kind) -> u32 {
        self.0.handles_of(kind).min(MOST_SLOTS)
    }
}
