//! One message of the log: an event, or a list of calls, with its place in log, tree and chain.

use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::MAX_BLOCK_LEN;
use crate::call::{CallError, Calls};
use crate::event::{Event, PROXY_ZONE, Stamp};
use crate::hash::{HASH_LEN, Hash, LogId};

/// Version of both forms.
pub const VERSION: u16 = 1;

/// Most bytes of a zone's name.
pub const MAX_ZONE_LEN: usize = 64;

/// Where a block stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which log.
    pub log: LogId,
    /// Its leaf in the tree: 0, 1, 2 and so on over all zones.
    pub leaf: u64,
    /// Whose records.
    pub zone: Zone,
    /// The number of its first record in the zone, from 0.
    pub seq: u64,
    /// How many numbers it takes.
    pub count: u64,
    /// The leaf hash of the block before it in the zone; zeros for the first.
    pub prev: Hash,
    /// When: of an event, or what the times of calls are relative to.
    pub stamp: Stamp,
}

/// Who had an event recorded, and which of theirs it is; so that one that is sent again is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Drawn when the supervisor starts.
    pub session: LogId,
    /// 0, 1, 2 and so on.
    pub n: u64,
}

/// Where calls were written down: by whom, and which of theirs they are, so that those that are read again are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The process that claims them.
    pub worker: u32,
    /// Of the supervisor that started it.
    pub session: LogId,
    /// The client, in that session.
    pub client: u64,
    /// How many of this client's calls came before.
    pub first: u64,
}

/// A block, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// An event.
    Event {
        /// Where it stands.
        header: Header,
        /// Who had it recorded; none for what the auditor says of itself.
        source: Option<Source>,
        /// What happened.
        event: Event,
    },
    /// Calls.
    Calls {
        /// Where it stands.
        header: Header,
        /// Who claims them.
        origin: Origin,
        /// Which.
        calls: Calls,
    },
}

/// Bytes that are no block.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BlockError {
    /// Longer than a block may be.
    #[error("{0} bytes are more than a block may have")]
    Size(usize),
    /// Neither JSON nor the binary form, or cut off.
    #[error("it is of no form that is known: {0}")]
    Form(String),
    /// Another version.
    #[error("it is of version {0} and this program reads {VERSION}")]
    Version(u64),
    /// The same said in other bytes than a writer uses.
    #[error("it is not written the one way that it may be written")]
    NotCanonical,
    /// A zone's name that is none.
    #[error("its zone is not a name")]
    Zone,
    /// Takes no number, or more than there are.
    #[error("it counts no records, or more than one event is")]
    Count,
    /// The list of calls.
    #[error(transparent)]
    Calls(#[from] CallError),
}

/// A zone's name: lower-case letters, digits, `-` and `_`; or [`PROXY_ZONE`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(Box<str>);

impl Zone {
    /// The proxy's own.
    #[must_use]
    pub fn proxy() -> Self {
        Self(PROXY_ZONE.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Zone {
    type Err = BlockError;

    fn from_str(name: &str) -> Result<Self, BlockError> {
        let letter = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        let plain = (1..=MAX_ZONE_LEN).contains(&name.len()) && name.bytes().all(letter);
        if !plain && name != PROXY_ZONE {
            return Err(BlockError::Zone);
        }
        Ok(Self(name.into()))
    }
}

impl std::fmt::Display for Zone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.0.into()
    }
}

impl TryFrom<String> for Zone {
    type Error = BlockError;

    fn try_from(name: String) -> Result<Self, BlockError> {
        name.parse()
    }
}

impl Block {
    /// Understands the bytes of a block, whoever wrote them.
    pub fn parse(bytes: &[u8]) -> Result<Self, BlockError> {
        if bytes.len() > MAX_BLOCK_LEN {
            return Err(BlockError::Size(bytes.len()));
        }
        let block = if bytes.starts_with(&MAGIC) {
            parse_calls(bytes)?
        } else {
            parse_event(bytes)?
        };
        // What has two spellings would have two hashes.
        if block.to_bytes() != bytes {
            return Err(BlockError::NotCanonical);
        }
        Ok(block)
    }

    /// Whose the bytes of a block are that this process wrote: of calls no more than the head is looked at.
    pub fn zone_of(bytes: &[u8]) -> Result<Zone, BlockError> {
        if bytes.starts_with(&MAGIC) {
            return CallHead::of(bytes)?.0.zone();
        }
        Ok(parse_event(bytes)?.header().zone.clone())
    }

    /// The bytes: what is hashed, stored and sent.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Event {
                header,
                source,
                event,
            } => event_bytes(header, *source, event),
            Self::Calls {
                header,
                origin,
                calls,
            } => call_bytes(header, origin, calls),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn header(&self) -> &Header {
        match self {
            Self::Event { header, .. } | Self::Calls { header, .. } => header,
        }
    }
}

/// The event form, in the order in which it is written.
#[derive(Serialize, Deserialize)]
struct EventForm {
    v: u16,
    log: LogId,
    leaf: u64,
    zone: Zone,
    seq: u64,
    count: u64,
    prev: Hash,
    time: String,
    mono_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(flatten)]
    event: Event,
}

#[derive(Deserialize)]
struct VersionOnly {
    v: u64,
}

fn event_bytes(header: &Header, source: Option<Source>, event: &Event) -> Vec<u8> {
    let time = UNIX_EPOCH + Duration::from_nanos(header.stamp.wall_ns);
    let form = EventForm {
        v: VERSION,
        log: header.log,
        leaf: header.leaf,
        zone: header.zone.clone(),
        seq: header.seq,
        count: header.count,
        prev: header.prev,
        time: humantime::format_rfc3339_micros(time).to_string(),
        mono_us: header.stamp.mono_ns / 1000,
        source,
        event: event.clone(),
    };
    // Plain data with string keys: writing it to memory cannot fail.
    serde_json::to_vec(&form).unwrap_or_default()
}

fn parse_event(bytes: &[u8]) -> Result<Block, BlockError> {
    let form_error = |error: serde_json::Error| BlockError::Form(error.to_string());
    let VersionOnly { v } = serde_json::from_slice(bytes).map_err(form_error)?;
    if v != u64::from(VERSION) {
        return Err(BlockError::Version(v));
    }
    let form: EventForm = serde_json::from_slice(bytes).map_err(form_error)?;
    let time = humantime::parse_rfc3339(&form.time)
        .map_err(|error| BlockError::Form(error.to_string()))?;
    let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let is_gap = matches!(form.event, Event::Gap { .. });
    if form.count == 0 || (form.count > 1 && !is_gap) {
        return Err(BlockError::Count);
    }
    Ok(Block::Event {
        header: Header {
            log: form.log,
            leaf: form.leaf,
            zone: form.zone,
            seq: form.seq,
            count: form.count,
            prev: form.prev,
            stamp: Stamp {
                wall_ns: u64::try_from(since_1970.as_nanos()).map_err(|_| BlockError::Count)?,
                mono_ns: form.mono_us.checked_mul(1000).ok_or(BlockError::Count)?,
            },
        },
        source: form.source,
        event: form.event,
    })
}

const MAGIC: [u8; 8] = *b"VGPUCALL";

/// The head of the binary form.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct CallHead {
    magic: [u8; 8],
    version: U16,
    zone_len: U16,
    records: U32,
    leaf: U64,
    seq: U64,
    log: [u8; 16],
    prev: [u8; HASH_LEN],
    wall_ns: U64,
    mono_ns: U64,
    names: U32,
    names_len: U32,
    worker: U32,
    reserved: U32,
    zone: [u8; MAX_ZONE_LEN],
    session: [u8; 16],
    client: U64,
    first: U64,
}

const _: () = assert!(size_of::<CallHead>() == 208);

fn call_bytes(header: &Header, origin: &Origin, calls: &Calls) -> Vec<u8> {
    // All of these are bounded far below what their fields hold.
    let small = |number: usize| U32::new(u32::try_from(number).unwrap_or(u32::MAX));
    let (names, names_len) = calls.counts();
    let name = header.zone.as_str().as_bytes();
    let mut zone = [0; MAX_ZONE_LEN];
    zone.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
    let head = CallHead {
        magic: MAGIC,
        version: U16::new(VERSION),
        zone_len: U16::new(u16::try_from(name.len()).unwrap_or(u16::MAX)),
        records: small(calls.records().len()),
        leaf: U64::new(header.leaf),
        seq: U64::new(header.seq),
        log: header.log.0,
        prev: header.prev.0,
        wall_ns: U64::new(header.stamp.wall_ns),
        mono_ns: U64::new(header.stamp.mono_ns),
        names: small(names),
        names_len: small(names_len),
        worker: U32::new(origin.worker),
        reserved: U32::ZERO,
        zone,
        session: origin.session.0,
        client: U64::new(origin.client),
        first: U64::new(origin.first),
    };
    let mut bytes = head.as_bytes().to_vec();
    calls.write(&mut bytes);
    bytes
}

fn cut_off() -> BlockError {
    BlockError::Form("its head is cut off".into())
}

impl CallHead {
    /// The head, and what follows it.
    fn of(bytes: &[u8]) -> Result<(&Self, &[u8]), BlockError> {
        Self::ref_from_prefix(bytes).map_err(|_| cut_off())
    }

    fn zone(&self) -> Result<Zone, BlockError> {
        let name = self.zone.get(..usize::from(self.zone_len.get()));
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        name.ok_or(BlockError::Zone)?.parse()
    }
}

fn parse_calls(bytes: &[u8]) -> Result<Block, BlockError> {
    let (head, rest) = CallHead::of(bytes)?;
    if head.version.get() != VERSION {
        return Err(BlockError::Version(head.version.get().into()));
    }
    let zone = head.zone()?;
    let count = |number: U32| usize::try_from(number.get()).map_err(|_| cut_off());
    let calls = Calls::read(
        rest,
        count(head.names)?,
        count(head.names_len)?,
        count(head.records)?,
    )?;
    Ok(Block::Calls {
        header: Header {
            log: LogId(head.log),
            leaf: head.leaf.get(),
            zone,
            seq: head.seq.get(),
            count: head.records.get().into(),
            prev: Hash(head.prev),
            stamp: Stamp {
                wall_ns: head.wall_ns.get(),
                mono_ns: head.mono_ns.get(),
            },
        },
        origin: Origin {
            worker: head.worker.get(),
            session: LogId(head.session),
            client: head.client.get(),
            first: head.first.get(),
        },
        calls,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::call::{CallRecord, NO_NAME, Name};
    use crate::chain::Chain;
    use crate::event::Client;
    use crate::text::Text;

    fn stamp() -> Stamp {
        Stamp {
            wall_ns: 1_795_293_000_000_123_456,
            mono_ns: 5_000,
        }
    }

    fn attach() -> Event {
        Event::Attach {
            client: Client {
                id: 3,
                pid: 4711,
                uid: 1000,
                program: Text::new(b"py\nthon"),
                worker: 4712,
            },
            groups: Text::from("compute, memory"),
            memory: 1 << 30,
        }
    }

    fn chain() -> Chain {
        Chain::new(LogId([7; 16]))
    }

    fn origin(worker: u32) -> Origin {
        Origin {
            worker,
            session: LogId([9; 16]),
            client: 3,
            first: 40,
        }
    }

    /// What `docs/audit.md` shows.
    const DOCUMENTED: &str = concat!(
        r#"{"v":1,"log":"07070707070707070707070707070707","leaf":0,"zone":"tenant-a","seq":0,"count":1,"#,
        r#""prev":"0000000000000000000000000000000000000000000000000000000000000000","#,
        r#""time":"2026-11-21T20:30:00.000123Z","mono_us":5,"#,
        r#""source":{"session":"09090909090909090909090909090909","n":2},"event":"attach","#,
        r#""data":{"client":{"id":3,"pid":4711,"uid":1000,"program":"py\\x0athon","worker":4712},"#,
        r#""groups":"compute, memory","memory":1073741824}}"#
    );

    #[test]
    fn an_event_is_written_as_documented_and_read_back() {
        let zone = "tenant-a".parse().unwrap();
        let session = LogId([9; 16]);
        let source = Some(Source { session, n: 2 });
        let draft = chain().event(&zone, stamp(), source, attach(), 1);
        assert_eq!(std::str::from_utf8(&draft.bytes), Ok(DOCUMENTED));
        assert_eq!(Block::parse(&draft.bytes), Ok(draft.block));
    }

    #[test]
    fn other_spellings_versions_zones_and_counts_are_refused() {
        let parse = |from: &str, to: &str| {
            assert!(DOCUMENTED.contains(from));
            Block::parse(DOCUMENTED.replace(from, to).as_bytes())
        };
        assert_eq!(parse("\"v\":1", "\"v\": 1"), Err(BlockError::NotCanonical));
        assert_eq!(
            parse("\"memory\":1073741824", "\"memory\":1073741824,\"x\":1"),
            Err(BlockError::NotCanonical)
        );
        assert_eq!(parse("\"v\":1", "\"v\":2"), Err(BlockError::Version(2)));
        assert_eq!(parse("\"count\":1", "\"count\":0"), Err(BlockError::Count));
        assert_eq!(parse("\"count\":1", "\"count\":2"), Err(BlockError::Count));
        for (from, to) in [
            ("tenant-a", "Tenant"),
            ("\"attach\"", "\"attack\""),
            ("\\\\x0a", "\\n"),
            ("0707", "07zz"),
        ] {
            assert!(matches!(parse(from, to), Err(BlockError::Form(_))), "{to}");
        }
    }

    fn calls(kernels: &[Vec<u8>], records: &[(u8, u64)]) -> Calls {
        let mut calls = Calls::default();
        let indices: Vec<u16> = kernels
            .iter()
            .map(|name| calls.intern(&Name::Kernel(Text::new(name))).unwrap())
            .collect();
        for &(pick, size) in records {
            let kernel = indices.get(usize::from(pick)).copied().unwrap_or(NO_NAME);
            let mut record: CallRecord = zerocopy::FromZeros::new_zeroed();
            record.size = size.into();
            record.kernel = kernel.into();
            record.image = NO_NAME.into();
            calls.push(record).unwrap();
        }
        calls
    }

    #[test]
    fn a_common_call_costs_48_bytes_and_a_name_is_written_once() {
        let zone = "a".parse().unwrap();
        let one = chain().calls(
            &zone,
            stamp(),
            origin(1),
            calls(&[b"saxpy".to_vec()], &[(0, 1)]),
        );
        let many = chain().calls(
            &zone,
            stamp(),
            origin(1),
            calls(&[b"saxpy".to_vec()], &[(0, 1); 100]),
        );
        assert_eq!(many.bytes.len() - one.bytes.len(), 99 * 48);
        assert_eq!(one.bytes.len(), 208 + 3 + 5 + 48);
    }

    proptest! {
        #[test]
        fn calls_survive_a_round_trip(
            kernels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            records in proptest::collection::vec((any::<u8>(), any::<u64>()), 1..50),
            worker in any::<u32>(),
        ) {
            let zone = "a".parse().unwrap();
            let draft = chain().calls(&zone, stamp(), origin(worker), calls(&kernels, &records));
            prop_assert_eq!(Block::parse(&draft.bytes), Ok(draft.block));
        }

        #[test]
        fn damaged_blocks_are_refused_or_read_as_something_else_but_never_panic(
            at in any::<usize>(), value in any::<u8>(), cut in any::<usize>(),
        ) {
            let zone = "a".parse().unwrap();
            let draft = chain().calls(&zone, stamp(), origin(1), calls(&[b"k".to_vec()], &[(0, 1), (1, 2)]));
            for bytes in [&draft.bytes[..], DOCUMENTED.as_bytes()] {
                let mut changed = bytes.to_vec();
                let at = at % changed.len();
                changed[at] = value;
                if let Ok(block) = Block::parse(&changed) {
                    prop_assert_eq!(block.to_bytes(), changed);
                }
                prop_assert!(Block::parse(&bytes[..cut % bytes.len()]).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Block::parse(&bytes);
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend([1, 0]);
            with_magic.extend(&bytes);
            let _ = Block::parse(&with_magic);
        }
    }
}
