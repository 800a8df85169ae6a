//! What workers claim of the calls they forwarded: 48 bytes a call, names once a block.

use std::collections::HashMap;

use thiserror::Error;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::hash::{HASH_LEN, Hash};
use crate::text::{Text, Unprintable};

/// Most records of one block.
pub const MAX_RECORDS: usize = 4096;

/// Most names of one block.
pub const MAX_NAMES: usize = 1024;

/// Most bytes of the names of one block.
pub const MAX_NAMES_LEN: usize = 64 << 10;

/// A name index that names nothing.
pub const NO_NAME: u16 = u16::MAX;

/// A device that is none.
pub const NO_DEVICE: u8 = u8::MAX;

/// One call, or where [`SUMMARY`] is set all calls of a kind in an interval.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CallRecord {
    /// The client that called.
    pub client: U64,
    /// When the driver was called: nanoseconds after the block's own time.
    pub start_ns: U64,
    /// Bytes moved or allocated; threads of a launch; the number of calls of a summary.
    pub size: U64,
    /// The address or handle it is about; the nanoseconds of all calls of a summary.
    pub object: U64,
    /// How long the driver took, in nanoseconds; `u32::MAX` for longer.
    pub duration_ns: U32,
    /// What the driver answered.
    pub result: U32,
    /// Which function, by its number in the call table.
    pub opcode: U16,
    /// The kernel, as an index into the block's names, or [`NO_NAME`].
    pub kernel: U16,
    /// The image, as an index into the block's names, or [`NO_NAME`].
    pub image: U16,
    /// The device, or [`NO_DEVICE`].
    pub device: u8,
    /// [`COMPLETED`], [`SUMMARY`].
    pub flags: u8,
}

const _: () = assert!(size_of::<CallRecord>() == 48);

/// The driver has answered; without it the worker was gone before.
pub const COMPLETED: u8 = 1;

/// The record stands for several calls.
pub const SUMMARY: u8 = 2;

/// What an index in a record means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// A kernel, as its image calls it.
    Kernel(Text),
    /// An image, by its SHA-256.
    Image(Hash),
}

impl Name {
    const KERNEL: u8 = 1;
    const IMAGE: u8 = 2;

    fn write(&self, bytes: &mut Vec<u8>) {
        let (kind, body) = match self {
            Self::Kernel(text) => (Self::KERNEL, text.as_str().as_bytes()),
            Self::Image(hash) => (Self::IMAGE, hash.0.as_slice()),
        };
        // A text has at most 256 bytes.
        let len = u16::try_from(body.len()).unwrap_or(u16::MAX);
        bytes.push(kind);
        bytes.extend(len.to_le_bytes());
        bytes.extend(body);
    }

    fn read(bytes: &[u8]) -> Result<(Self, &[u8]), CallError> {
        let (head, rest) = bytes.split_first_chunk::<3>().ok_or(CallError::Names)?;
        let [kind, low, high] = *head;
        let len = usize::from(u16::from_le_bytes([low, high]));
        let (body, rest) = rest.split_at_checked(len).ok_or(CallError::Names)?;
        let name = match kind {
            Self::KERNEL => {
                let text = std::str::from_utf8(body).map_err(|_| Unprintable)?;
                Self::Kernel(Text::recorded(text)?)
            }
            Self::IMAGE => Self::Image(Hash(
                <[u8; HASH_LEN]>::try_from(body).map_err(|_| CallError::Names)?,
            )),
            other => return Err(CallError::NameKind(other)),
        };
        Ok((name, rest))
    }

    fn written_len(&self) -> usize {
        3 + match self {
            Self::Kernel(text) => text.as_str().len(),
            Self::Image(_) => HASH_LEN,
        }
    }
}

/// Why a list of calls cannot be read or grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// There is no room for another record or name; begin the next block.
    #[error("the block is full")]
    Full,
    /// The names are cut off or longer than they say.
    #[error("its names are not laid out as they say")]
    Names,
    /// A name of an unknown kind.
    #[error("a name is of kind {0}, which nobody knows")]
    NameKind(u8),
    /// A name that is not bounded and printable.
    #[error(transparent)]
    Text(#[from] Unprintable),
    /// No records, or too many, or not as many bytes.
    #[error("its records are not laid out as they say")]
    Records,
    /// A record names what is not there.
    #[error("record {0} names a kernel or an image that is not among the names")]
    Index(usize),
}

/// The calls of one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    names: Vec<Name>,
    indices: HashMap<Name, u16>,
    names_len: usize,
    records: Vec<CallRecord>,
}

impl Calls {
    /// The index of a name, which is written only once.
    pub fn intern(&mut self, name: &Name) -> Result<u16, CallError> {
        if let Some(&index) = self.indices.get(name) {
            return Ok(index);
        }
        let len = self.names_len + name.written_len();
        let index = u16::try_from(self.names.len()).map_err(|_| CallError::Full)?;
        if self.names.len() >= MAX_NAMES || len > MAX_NAMES_LEN {
            return Err(CallError::Full);
        }
        self.names_len = len;
        self.names.push(name.clone());
        self.indices.insert(name.clone(), index);
        Ok(index)
    }

    /// Adds a call whose names have been interned.
    pub fn push(&mut self, record: CallRecord) -> Result<(), CallError> {
        if self.records.len() >= MAX_RECORDS {
            return Err(CallError::Full);
        }
        self.check(self.records.len(), &record)?;
        self.records.push(record);
        Ok(())
    }

    /// The calls, in order.
    #[must_use]
    pub fn records(&self) -> &[CallRecord] {
        &self.records
    }

    /// What an index in a record names.
    #[must_use]
    pub fn name(&self, index: u16) -> Option<&Name> {
        self.names.get(usize::from(index))
    }

    /// How many calls the records stand for.
    #[must_use]
    pub fn stand_for(&self) -> u64 {
        let each = self
            .records
            .iter()
            .map(|record| match record.flags & SUMMARY {
                0 => 1,
                _ => record.size.get(),
            });
        each.fold(0, u64::saturating_add)
    }

    /// The kernel of a record, if it has one.
    #[must_use]
    pub fn kernel(&self, record: &CallRecord) -> Option<&Text> {
        match self.names.get(usize::from(record.kernel.get()))? {
            Name::Kernel(text) => Some(text),
            Name::Image(_) => None,
        }
    }

    /// The image of a record, if it has one.
    #[must_use]
    pub fn image(&self, record: &CallRecord) -> Option<&Hash> {
        match self.names.get(usize::from(record.image.get()))? {
            Name::Image(hash) => Some(hash),
            Name::Kernel(_) => None,
        }
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.names.len(), self.names_len)
    }

    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        self.names.iter().for_each(|name| name.write(bytes));
        bytes.extend(self.records.as_bytes());
    }

    /// Reads what [`Calls::write`] wrote: `names` names in `names_len` bytes, then `records` records.
    pub(crate) fn read(
        bytes: &[u8],
        names: usize,
        names_len: usize,
        records: usize,
    ) -> Result<Self, CallError> {
        if names > MAX_NAMES || names_len > MAX_NAMES_LEN {
            return Err(CallError::Names);
        }
        if !(1..=MAX_RECORDS).contains(&records) {
            return Err(CallError::Records);
        }
        let mut calls = Self::default();
        let (mut named, rest) = bytes.split_at_checked(names_len).ok_or(CallError::Names)?;
        for index in 0..names {
            let (name, rest) = Name::read(named)?;
            named = rest;
            // Interning again finds a name that is there twice.
            if calls.intern(&name).map(usize::from) != Ok(index) {
                return Err(CallError::Names);
            }
        }
        if !named.is_empty() {
            return Err(CallError::Names);
        }
        let list = <[CallRecord]>::ref_from_bytes(rest).map_err(|_| CallError::Records)?;
        if list.len() != records {
            return Err(CallError::Records);
        }
        for record in list {
            calls.push(*record)?;
        }
        Ok(calls)
    }

    fn check(&self, at: usize, record: &CallRecord) -> Result<(), CallError> {
        let kernel = record.kernel.get() == NO_NAME || self.kernel(record).is_some();
        let image = record.image.get() == NO_NAME || self.image(record).is_some();
        if !(kernel && image) {
            return Err(CallError::Index(at));
        }
        Ok(())
    }
}
