//! The heads of machine code: ELF files of 64 bits, little endian. Every number in one is the sender's.

#![forbid(unsafe_code)]

/// First bytes of a file.
pub const MAGIC: [u8; 4] = *b"\x7fELF";

/// Bytes of a file's own head, and the least of an entry of each table.
const HEAD: usize = 64;
const SEGMENT: usize = 56;
const SECTION: usize = 64;

/// `SHT_NOBITS`.
const NOBITS: u32 = 8;
/// `SHF_ALLOC`.
const ALLOCATED: u64 = 2;

/// A file whose head is there.
#[derive(Clone, Copy)]
pub struct Elf<'a> {
    file: &'a [u8],
    head: &'a [u8; HEAD],
}

/// A piece of the file that is loaded.
#[derive(Clone, Copy)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes in the file.
    pub size: u64,
}

/// A named piece of the file.
#[derive(Clone, Copy)]
pub struct Section {
    kind: u32,
    flags: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
}

impl Section {
    /// Whether its bytes are in the file.
    pub fn in_file(self) -> bool {
        self.kind != NOBITS
    }

    /// Whether it occupies memory once loaded.
    pub fn occupies_memory(self) -> bool {
        !self.in_file() || self.flags & ALLOCATED != 0
    }
}

impl<'a> Elf<'a> {
    /// `None` if it is no such file.
    pub fn of(file: &'a [u8]) -> Option<Self> {
        let head = file.first_chunk()?;
        (head.starts_with(&MAGIC) && head[4..6] == [2, 1]).then_some(Self { file, head })
    }

    /// The header's flags.
    pub fn flags(self) -> [u8; 4] {
        number(self.head, 48)
    }

    /// Each segment; `None` for one that the file does not describe.
    pub fn segments(self) -> impl Iterator<Item = Option<Segment>> {
        let entries = self.table(32, 54, SEGMENT);
        entries.map(|entry| {
            entry.map(|entry| Segment {
                offset: u64::from_le_bytes(number(entry, 8)),
                size: u64::from_le_bytes(number(entry, 32)),
            })
        })
    }

    /// Each section; `None` for one that the file does not describe.
    pub fn sections(self) -> impl Iterator<Item = Option<Section>> {
        let entries = self.table(40, 58, SECTION);
        entries.map(|entry| {
            entry.map(|entry| Section {
                kind: u32::from_le_bytes(number(entry, 4)),
                flags: u64::from_le_bytes(number(entry, 8)),
                offset: u64::from_le_bytes(number(entry, 24)),
                size: u64::from_le_bytes(number(entry, 32)),
            })
        })
    }

    /// The entries of the table whose start stands at `start` of the head, the bytes of an entry and their number at
    /// `shape`. `None` for one that has fewer than `least` bytes or is not inside the file.
    fn table(
        self,
        start: usize,
        shape: usize,
        least: usize,
    ) -> impl Iterator<Item = Option<&'a [u8]>> {
        let start = u64::from_le_bytes(number(self.head, start));
        let bytes = u16::from_le_bytes(number(self.head, shape));
        let count = u16::from_le_bytes(number(self.head, shape + 2));
        (0..u64::from(count)).map(move |index| {
            let at = start.checked_add(index * u64::from(bytes))?;
            let entry = self.file.get(usize::try_from(at).ok()?..)?;
            let entry = entry.get(..usize::from(bytes))?;
            (entry.len() >= least).then_some(entry)
        })
    }
}

/// The bytes of the number at `at`, which lies inside of every head and of the least entry.
fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut number = [0; N];
    number.copy_from_slice(&bytes[at..at + N]);
    number
}
