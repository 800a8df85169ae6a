//! Where everything lies in the control region.
//!
//! Both sides compute the geometry from the [`Limits`] of the attach message and never read any of
//! it from shared memory. A zero-filled region is the valid empty state of every part.
//!
//! | part | size |
//! |---|---|
//! | head page: one line per index or bell of the two rings, of ping and pong, of staging | 1 page |
//! | submission ring, client to worker | `ring_lines` lines |
//! | callback ring, worker to client | `callback_lines` lines |
//! | callback slots: acknowledgement and bell | 2 words each |
//! | context latches | 1 word each |
//! | lane latches | 1 word each |
//! | stream credits: returned and bell | 2 words each |
//! | staging releases | 1 word each |
//! | lanes: reply slot, bell, side-buffer release, then the side buffer | 1 page + `side_bytes` each |
//!
//! Every part starts on a page.

#![forbid(unsafe_code)]

use std::ops::Range;

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::handle::Kind;
use crate::memory::WORD_BYTES;

/// Bytes in a page, the unit that transports share.
pub const PAGE_BYTES: usize = 4096;
/// Bytes in a line, the unit that cores exchange.
pub const LINE_BYTES: usize = 64;
/// Words in a line.
pub const LINE_WORDS: usize = LINE_BYTES / WORD_BYTES;
/// Words in a page.
pub const PAGE_WORDS: usize = PAGE_BYTES / WORD_BYTES;
/// Lines in a page.
pub const PAGE_LINES: usize = PAGE_BYTES / LINE_BYTES;
/// Bytes in a chunk of staging.
pub const CHUNK_BYTES: usize = 256 * 1024;

/// How much of everything one client gets: the supervisor's word, in the attach message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Limits {
    /// Bytes of the arena (D13), staging included; whole pages.
    pub arena_bytes: u64,
    /// Lines of the submission ring; a power of two, at least a page of them.
    pub ring_lines: u32,
    /// Lines of the callback ring; a power of two, at least a page of them.
    pub callback_lines: u32,
    /// Callbacks that may wait for an acknowledgement at once.
    pub callback_slots: u32,
    /// Threads that may wait for a reply at once.
    pub lanes: u32,
    /// Bytes of each lane's side buffer; whole pages.
    pub side_bytes: u32,
    /// Contexts, alive at once.
    pub contexts: u32,
    /// Streams, alive at once, over all contexts.
    pub streams: u32,
    /// Handles of any one other kind, alive at once.
    pub handles_per_kind: u32,
    /// Chunks of 256 KiB at the start of the arena that serve pageable copies.
    pub staging_chunks: u32,
    /// Zero.
    pub reserved: u32,
    /// Handles of each kind, by its number; 0 for `handles_per_kind`. Contexts and streams have fields of their own.
    pub handles: [u32; KIND_LIMITS],
}

const _: () = assert!(size_of::<Limits>() == 48 + 4 * KIND_LIMITS);

/// Kinds whose handles can be limited apart.
const KIND_LIMITS: usize = 20;

/// More than any of these is a mistake, whoever made it.
const MOST_LINES: u32 = 1 << 20;
const MOST_LANES: u32 = 1 << 12;
const MOST_SIDE_BYTES: u32 = 1 << 24;
const MOST_SLOTS: u32 = 1 << 16;
const MOST_HANDLES: u32 = 1 << 24;
const MOST_CHUNKS: u32 = 1 << 16;

impl Default for Limits {
    /// 256 KiB of ring, 256 threads, 1024 streams, 16 MiB of staging in a 256 MiB arena.
    fn default() -> Self {
        Self {
            arena_bytes: 256 << 20,
            ring_lines: 4096,
            callback_lines: 1024,
            callback_slots: 256,
            lanes: 256,
            side_bytes: 64 << 10,
            contexts: 64,
            streams: 1024,
            handles_per_kind: 1 << 16,
            staging_chunks: 64,
            reserved: 0,
            handles: [0; KIND_LIMITS],
        }
    }
}

impl Limits {
    /// Handles of a kind, alive at once.
    #[must_use]
    pub fn handles_of(&self, kind: Kind) -> u32 {
        match kind {
            Kind::CONTEXT => self.contexts,
            Kind::STREAM => self.streams,
            other => match self.handles.get(usize::from(other.number())) {
                None | Some(0) => self.handles_per_kind,
                Some(&count) => count,
            },
        }
    }

    /// Sets how many of a kind there may be.
    pub fn set_handles(&mut self, kind: Kind, count: u32) {
        match kind {
            Kind::CONTEXT => self.contexts = count,
            Kind::STREAM => self.streams = count,
            other => {
                if let Some(limit) = self.handles.get_mut(usize::from(other.number())) {
                    *limit = count;
                }
            }
        }
    }
}

/// Limits that cannot be laid out. Whoever receives them refuses the attach: they are the
/// supervisor's mistake or its operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("limit {name} = {value} is refused: it must be {rule}")]
pub struct LimitsError {
    /// The field.
    pub name: &'static str,
    /// What it held.
    pub value: u64,
    /// What it should have been.
    pub rule: &'static str,
}

/// Where each part of the control region lies, in words from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    limits: Limits,
    submission: Range<usize>,
    callback: Range<usize>,
    callback_slots: Range<usize>,
    contexts: Range<usize>,
    lane_latches: Range<usize>,
    streams: Range<usize>,
    staging: Range<usize>,
    lanes: Range<usize>,
    lane_words: usize,
}

/// What lies in the head page: one line each, so that the two sides never write into one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum HeadLine {
    /// Lines of the submission ring the worker has consumed.
    SubmissionHead,
    /// The worker waits here for submissions.
    SubmissionBell,
    /// The client waits here for room in the submission ring.
    SubmissionSpace,
    /// The client's question whether the worker lives.
    Ping,
    /// The worker waits here for the question.
    PingBell,
    /// The worker's answer.
    Pong,
    /// The client waits here for the answer.
    PongBell,
    /// Lines of the callback ring the client has consumed.
    CallbackHead,
    /// The client waits here for callbacks.
    CallbackBell,
    /// The worker waits here for room in the callback ring.
    CallbackSpace,
    /// The client waits here for a chunk of staging.
    StagingBell,
    /// Bytes that kernels printed and the client has not read.
    Output,
}

impl HeadLine {
    /// Its word.
    pub const fn word(self) -> usize {
        self as usize * LINE_WORDS
    }
}

impl Layout {
    /// Lays out a region for `limits`.
    ///
    /// # Errors
    /// [`LimitsError`] names the first limit out of range.
    pub fn new(limits: &Limits) -> Result<Self, LimitsError> {
        check(limits)?;
        let mut end = PAGE_WORDS;
        // Every count is bounded by `check`, so the sums stay far below `usize::MAX` of a 64-bit
        // machine; a narrower one is refused here.
        let mut place = |name, count: u32, words_each: usize| {
            let too_large = LimitsError {
                name,
                value: u64::from(count),
                rule: "small enough for the address space",
            };
            let count = usize::try_from(count).map_err(|_| too_large)?;
            let words = count.checked_mul(words_each).ok_or(too_large)?;
            let start = end;
            end = start
                .checked_add(words)
                .and_then(|end| end.checked_next_multiple_of(PAGE_WORDS))
                .ok_or(too_large)?;
            Ok(start..start + words)
        };
        let side_words = usize::try_from(limits.side_bytes).map_err(|_| LimitsError {
            name: "side_bytes",
            value: u64::from(limits.side_bytes),
            rule: "small enough for the address space",
        })? / WORD_BYTES;
        let lane_words = PAGE_WORDS + side_words;
        Ok(Self {
            limits: *limits,
            submission: place("ring_lines", limits.ring_lines, LINE_WORDS)?,
            callback: place("callback_lines", limits.callback_lines, LINE_WORDS)?,
            callback_slots: place("callback_slots", limits.callback_slots, 2)?,
            contexts: place("contexts", limits.contexts, 1)?,
            lane_latches: place("lanes", limits.lanes, 1)?,
            streams: place("streams", limits.streams, 2)?,
            staging: place("staging_chunks", limits.staging_chunks, 1)?,
            lanes: place("lanes", limits.lanes, lane_words)?,
            lane_words,
        })
    }

    /// What it was computed from.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Words of the whole region.
    pub fn word_count(&self) -> usize {
        self.lanes.end
    }

    /// Bytes of the whole region; whole pages.
    pub fn byte_len(&self) -> usize {
        self.word_count() * WORD_BYTES
    }

    /// The submission ring.
    pub fn submission(&self) -> Range<usize> {
        self.submission.clone()
    }

    /// The callback ring.
    pub fn callback(&self) -> Range<usize> {
        self.callback.clone()
    }

    /// Acknowledgement and bell of each callback slot.
    pub fn callback_slots(&self) -> Range<usize> {
        self.callback_slots.clone()
    }

    /// The sticky word of each context.
    pub fn contexts(&self) -> Range<usize> {
        self.contexts.clone()
    }

    /// The once-word of each lane.
    pub fn lane_latches(&self) -> Range<usize> {
        self.lane_latches.clone()
    }

    /// Returned credits and bell of each stream.
    pub fn streams(&self) -> Range<usize> {
        self.streams.clone()
    }

    /// The release word of each chunk of staging.
    pub fn staging(&self) -> Range<usize> {
        self.staging.clone()
    }

    /// Lane `index`, or `None` if there is no such lane.
    pub fn lane(&self, index: u16) -> Option<Range<usize>> {
        if u32::from(index) >= self.limits.lanes {
            return None;
        }
        let start = self.lanes.start + usize::from(index) * self.lane_words;
        Some(start..start + self.lane_words)
    }
}

fn check(limits: &Limits) -> Result<(), LimitsError> {
    let counted = |name, value: u32, most: u32, rule| {
        if (1..=most).contains(&value) {
            Ok(())
        } else {
            Err(LimitsError {
                name,
                value: u64::from(value),
                rule,
            })
        }
    };
    let ring = |name, lines: u32| {
        if lines.is_power_of_two() && (64..=MOST_LINES).contains(&lines) {
            Ok(())
        } else {
            let rule = "a power of two from 64 to 1048576";
            Err(LimitsError {
                name,
                value: u64::from(lines),
                rule,
            })
        }
    };
    ring("ring_lines", limits.ring_lines)?;
    ring("callback_lines", limits.callback_lines)?;
    counted(
        "callback_slots",
        limits.callback_slots,
        MOST_SLOTS,
        "from 1 to 65536",
    )?;
    counted("lanes", limits.lanes, MOST_LANES, "from 1 to 4096")?;
    counted("contexts", limits.contexts, MOST_SLOTS, "from 1 to 65536")?;
    counted("streams", limits.streams, MOST_SLOTS, "from 1 to 65536")?;
    counted(
        "handles_per_kind",
        limits.handles_per_kind,
        MOST_HANDLES,
        "from 1 to 16777216",
    )?;
    for count in limits.handles {
        let most = "no more than 16777216";
        counted("handles", count.max(1), MOST_HANDLES, most)?;
    }
    counted(
        "staging_chunks",
        limits.staging_chunks,
        MOST_CHUNKS,
        "from 1 to 65536",
    )?;
    let page = 4096;
    if !limits.side_bytes.is_multiple_of(page)
        || !(page..=MOST_SIDE_BYTES).contains(&limits.side_bytes)
    {
        let rule = "whole pages, from 4096 to 16777216";
        return Err(LimitsError {
            name: "side_bytes",
            value: limits.side_bytes.into(),
            rule,
        });
    }
    let staging = u64::from(limits.staging_chunks) << 18;
    if limits.arena_bytes < staging
        || limits.arena_bytes > crate::window::WINDOW_BYTES
        || !limits.arena_bytes.is_multiple_of(page.into())
    {
        let rule = "whole pages, no less than staging_chunks × 256 KiB, no more than a window";
        return Err(LimitsError {
            name: "arena_bytes",
            value: limits.arena_bytes,
            rule,
        });
    }
    if limits.reserved != 0 {
        let value = limits.reserved.into();
        return Err(LimitsError {
            name: "reserved",
            value,
            rule: "zero",
        });
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(layout: &Layout) -> Vec<Range<usize>> {
        let mut parts = vec![
            0..PAGE_WORDS,
            layout.submission(),
            layout.callback(),
            layout.callback_slots(),
            layout.contexts(),
            layout.lane_latches(),
            layout.streams(),
            layout.staging(),
        ];
        let lanes = u16::try_from(layout.limits().lanes).unwrap();
        parts.extend((0..lanes).map(|lane| layout.lane(lane).unwrap()));
        parts
    }

    #[test]
    fn the_default_is_laid_out_and_each_mistake_is_named() {
        assert!(Layout::new(&Limits::default()).is_ok());
        let named = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            Layout::new(&limits).unwrap_err().name
        };
        assert_eq!(named(|l| l.ring_lines = 32), "ring_lines");
        assert_eq!(named(|l| l.ring_lines = 4097), "ring_lines");
        assert_eq!(named(|l| l.callback_lines = 0), "callback_lines");
        assert_eq!(named(|l| l.lanes = 0), "lanes");
        assert_eq!(named(|l| l.lanes = u32::MAX), "lanes");
        assert_eq!(named(|l| l.side_bytes = 100), "side_bytes");
        assert_eq!(named(|l| l.side_bytes = 0), "side_bytes");
        assert_eq!(named(|l| l.staging_chunks = 65536), "arena_bytes");
        assert_eq!(named(|l| l.arena_bytes = u64::MAX), "arena_bytes");
        assert_eq!(named(|l| l.reserved = 1), "reserved");
        assert_eq!(named(|l| l.handles[5] = u32::MAX), "handles");
    }

    #[test]
    fn a_lane_past_the_last_does_not_exist() {
        let layout = Layout::new(&Limits {
            lanes: 2,
            ..Limits::default()
        })
        .unwrap();
        assert!(layout.lane(1).is_some());
        assert_eq!(layout.lane(2), None);
        assert_eq!(layout.lane(u16::MAX), None);
    }

    proptest! {
        #[test]
        fn parts_start_on_pages_follow_one_another_and_fill_the_region(
            ring in 6u32..14, callback in 6u32..14, slots in 1u32..5000, lanes in 1u32..64,
            side in 1u32..32, contexts in 1u32..5000, streams in 1u32..5000, chunks in 1u32..64,
        ) {
            let limits = Limits {
                ring_lines: 1 << ring, callback_lines: 1 << callback, callback_slots: slots, lanes,
                side_bytes: side * 4096, contexts, streams, staging_chunks: chunks,
                ..Limits::default()
            };
            let layout = Layout::new(&limits).unwrap();
            let mut end = 0;
            for part in parts(&layout) {
                prop_assert_eq!(part.start % PAGE_WORDS, 0);
                prop_assert!(part.start >= end && part.start - end < PAGE_WORDS);
                prop_assert!(!part.is_empty());
                end = part.end;
            }
            prop_assert_eq!(end, layout.word_count());
            prop_assert_eq!(layout.byte_len() % PAGE_BYTES, 0);
        }

        #[test]
        fn arbitrary_limits_are_laid_out_or_refused(bytes in any::<[u8; size_of::<Limits>()]>()) {
            let limits = Limits::read_from_bytes(&bytes).unwrap();
            if let Ok(layout) = Layout::new(&limits) {
                prop_assert!(layout.byte_len() > 0);
            }
        }
    }
}
