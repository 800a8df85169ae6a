//! The ring of records: one producer, one consumer, either of which may lie.
//!
//! Positions count lines and never wrap; a record at position `p` starts in line `p % lines`. Its
//! first word is its sequence, `p + 1`, stored last with release; the consumer looks at that one
//! word. A line that was used before may hold any bytes, also ones that look like the sequence
//! expected next; so the producer zeroes the first word of the line after each record before it
//! publishes the record, and keeps that line free.
//!
//! A record never straddles a page (a transport may share single pages): a [`PAD`] fills the rest.
//! All zero is the empty ring.
//!
//! What the consumer trusts: nothing. It copies the header word once, checks it, copies the body
//! once, and hands out the copy. What the producer trusts: that the consumer's head only lets it
//! overwrite its own records; a head out of range is the other side's violation.

#![forbid(unsafe_code)]

use std::ops::Range;

use thiserror::Error;

use crate::layout::{LINE_WORDS, PAGE_LINES};
use crate::memory::{OutOfBounds, Region, View, WORD_BYTES, load_words, store_bytes};
use crate::record::{HEADER_BYTES, Head, PAD, RECORD_LINES, Record, tail_len};
use crate::sync::{Mutex, Ordering};
use crate::wait::{Bell, Liveness, Patience, Woken};

/// The consumer publishes its head at the latest after this many records.
const HEAD_BATCH: u32 = 16;

/// Where a ring lies in its region, in words.
#[derive(Clone, Debug)]
pub struct RingPlace {
    /// The lines; their number is a power of two.
    pub lines: Range<usize>,
    /// Where the consumer publishes how far it has read.
    pub head: usize,
    /// Where the consumer waits for records.
    pub bell: usize,
    /// Where the producer waits for room.
    pub space: usize,
}

/// A ring cannot be made of the place given: a mistake of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// The region is smaller than the place.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// The number of lines is not a power of two from 2 up.
    #[error("a ring cannot have {0} words: its lines must be a power of two, two at least")]
    Lines(usize),
}

/// What the other side of a ring did wrong. The ring is not used any more; a worker ends that
/// client, a client treats its worker as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// The producer announced a record of no lines, or of more than a record may have.
    #[error("record at line {position} claims {lines} lines; 1 to {RECORD_LINES} are possible")]
    Lines {
        /// Where.
        position: u64,
        /// What it claims.
        lines: u8,
    },
    /// The producer announced a record that crosses the end of its page.
    #[error("record at line {position} claims {lines} lines and crosses its page")]
    Straddle {
        /// Where.
        position: u64,
        /// What it claims.
        lines: u8,
    },
    /// The producer padded where no record could have needed it.
    #[error("padding at line {position} does not end its page, or follows other padding")]
    Padding {
        /// Where.
        position: u64,
    },
    /// The consumer claims to have read what was never written, or to have read less than before.
    #[error("head {head} is not between {seen} and {tail}")]
    Head {
        /// What the consumer published.
        head: u64,
        /// What it published before.
        seen: u64,
        /// What was written.
        tail: u64,
    },
}

/// Why a record was not posted. The ring is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PostError {
    /// Body and tail do not fit; the caller uses the side buffer or reports invalid arguments.
    #[error("a record of {bytes} bytes does not fit into {most}")]
    TooLarge {
        /// Bytes with header and padding.
        bytes: usize,
        /// Bytes that fit into this ring's records.
        most: usize,
    },
    /// The ring was full and the other side has ended.
    #[error("the other side has ended")]
    Ended,
    /// The other side broke the protocol.
    #[error("the other side broke the ring: {0}")]
    Violation(#[from] Violation),
}

/// The writing end. One exists per ring; [`SharedProducer`] shares it between threads.
#[derive(Debug)]
pub struct Producer<R> {
    lines: View<R>,
    head: View<R>,
    bell: Bell<R>,
    space: Bell<R>,
    patience: Patience,
    shape: Shape,
    tail: u64,
    head_seen: u64,
}

impl<R: Region> Producer<R> {
    /// The writing end of a ring that nothing was written to yet.
    ///
    /// # Errors
    /// [`PlaceError`] if the place is no ring.
    pub fn new(region: &R, place: &RingPlace, patience: Patience) -> Result<Self, PlaceError> {
        Ok(Self {
            shape: Shape::new(&place.lines)?,
            lines: View::new(region, place.lines.clone())?,
            head: View::new(region, place.head..place.head.saturating_add(1))?,
            bell: Bell::new(region, place.bell)?,
            space: Bell::new(region, place.space)?,
            patience,
            tail: 0,
            head_seen: 0,
        })
    }

    /// Publishes one record and wakes the consumer if it sleeps. Waits while the ring is full,
    /// unless `live` ends the wait. Returns the record's sequence, which is also its reply's ticket.
    ///
    /// # Errors
    /// [`PostError`]; nothing was published then.
    #[inline]
    pub fn post<L: Liveness>(
        &mut self,
        head: Head,
        body: &[u8],
        tail: &[&[u8]],
        live: &L,
    ) -> Result<u64, PostError> {
        let lines = self.shape.lines_for(body, tail)?;
        let rest = self.shape.rest_of_page(self.tail);
        if lines > rest {
            self.pad(rest, live)?;
        }
        self.reserve(lines, live)?;
        let at = self.shape.words_at(self.tail, lines);
        let words = &self.lines.words()[at];
        // At most 16: `lines_for` checked.
        let lines_byte = u8::try_from(lines).unwrap_or(u8::MAX);
        words[1].store(head.pack(lines_byte), Ordering::Relaxed);
        let mut next = HEADER_BYTES / WORD_BYTES;
        next += store_bytes(&words[next..], body);
        for part in tail {
            next += store_bytes(&words[next..], part);
        }
        for word in &words[next..] {
            word.store(0, Ordering::Relaxed);
        }
        Ok(self.publish(lines))
    }

    /// Lines written so far.
    pub fn position(&self) -> u64 {
        self.tail
    }

    fn pad<L: Liveness>(&mut self, lines: usize, live: &L) -> Result<(), PostError> {
        self.reserve(lines, live)?;
        let at = self.shape.words_at(self.tail, lines);
        let head = Head {
            opcode: PAD,
            ..Head::default()
        };
        // At most 15: less than the record that did not fit.
        let lines_byte = u8::try_from(lines).unwrap_or(u8::MAX);
        self.lines.words()[at.start + 1].store(head.pack(lines_byte), Ordering::Relaxed);
        self.publish(lines);
        Ok(())
    }

    /// Waits until `lines` and the one after them are free.
    #[inline]
    fn reserve<L: Liveness>(&mut self, lines: usize, live: &L) -> Result<(), PostError> {
        if self.shape.fits(self.tail, self.head_seen, lines) {
            return Ok(());
        }
        self.reserve_slowly(lines, live)
    }

    #[cold]
    fn reserve_slowly<L: Liveness>(&mut self, lines: usize, live: &L) -> Result<(), PostError> {
        loop {
            // SYNC: pairs with the Release in `Consumer::release`: what the consumer read before it
            // let go of the lines happens before we overwrite them.
            let head = self.head.words()[0].load(Ordering::Acquire);
            let (seen, tail) = (self.head_seen, self.tail);
            if head < seen || head > tail {
                return Err(Violation::Head { head, seen, tail }.into());
            }
            self.head_seen = head;
            if self.shape.fits(tail, head, lines) {
                return Ok(());
            }
            let word = &self.head.words()[0];
            let woken = self.space.wait(&self.patience, live, || {
                word.load(Ordering::Relaxed) != head
            });
            if woken == Woken::Ended {
                return Err(PostError::Ended);
            }
        }
    }

    #[inline]
    fn publish(&mut self, lines: usize) -> u64 {
        let sequence = self.tail + 1;
        let next = self.tail + lines as u64;
        let words = self.lines.words();
        // Before the record becomes visible, what follows it must not look like a record.
        words[self.shape.words_at(next, 1).start].store(0, Ordering::Relaxed);
        // SYNC: pairs with the Acquire in `Consumer::poll`: whoever sees the sequence sees the
        // record and the zero after it.
        words[self.shape.words_at(self.tail, 1).start].store(sequence, Ordering::Release);
        self.tail = next;
        self.bell.ring();
        sequence
    }
}

/// A producer that all threads of a process post through; the order in which they get the lock is
/// the order of submission (D5).
#[derive(Debug)]
pub struct SharedProducer<R>(Mutex<Producer<R>>);

impl<R: Region> SharedProducer<R> {
    /// Shares `producer`.
    pub fn new(producer: Producer<R>) -> Self {
        Self(Mutex::new(producer))
    }

    /// [`Producer::post`] under the lock.
    ///
    /// # Errors
    /// [`PostError`]; nothing was published then.
    #[inline]
    pub fn post<L: Liveness>(
        &self,
        head: Head,
        body: &[u8],
        tail: &[&[u8]],
        live: &L,
    ) -> Result<u64, PostError> {
        self.0.lock().post(head, body, tail, live)
    }

    /// Runs `work` while nobody else can post: for state that must change in the order of
    /// submission.
    pub fn with<T>(&self, work: impl FnOnce(&mut Producer<R>) -> T) -> T {
        work(&mut self.0.lock())
    }
}

/// How waiting for a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// A record was copied out.
    Record,
    /// The other side has ended, and every record it published was delivered.
    Ended,
}

/// The reading end. One exists per ring.
#[derive(Debug)]
pub struct Consumer<R> {
    lines: View<R>,
    head: View<R>,
    bell: Bell<R>,
    space: Bell<R>,
    shape: Shape,
    position: u64,
    released: u64,
    unreleased_count: u32,
    /// [`Bell::wakes`] when it was looked at last.
    wakes: u64,
    crowded: bool,
    broken: Option<Violation>,
}

impl<R: Region> Consumer<R> {
    /// The reading end of a ring that nothing was read from yet.
    ///
    /// # Errors
    /// [`PlaceError`] if the place is no ring.
    pub fn new(region: &R, place: &RingPlace) -> Result<Self, PlaceError> {
        Ok(Self {
            shape: Shape::new(&place.lines)?,
            lines: View::new(region, place.lines.clone())?,
            head: View::new(region, place.head..place.head.saturating_add(1))?,
            bell: Bell::new(region, place.bell)?,
            space: Bell::new(region, place.space)?,
            position: 0,
            released: 0,
            unreleased_count: 0,
            wakes: 0,
            crowded: false,
            broken: None,
        })
    }

    /// Whether [`Consumer::next`] slept last and was woken from the CPU that this thread now keeps from
    /// its client: the sooner it sleeps again, the sooner the client sees its reply.
    #[inline]
    pub fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// Copies the next record out, if there is one. Never waits, and looks at two records at most.
    ///
    /// # Errors
    /// [`Violation`], from then on for ever.
    #[inline]
    pub fn poll(&mut self, into: &mut Record) -> Result<bool, Violation> {
        if let Some(violation) = self.broken {
            return Err(violation);
        }
        let polled = self.poll_intact(into);
        if let Err(violation) = polled {
            self.broken = Some(violation);
        }
        polled
    }

    /// Waits for the next record and copies it out. Lets go of what was read before it sleeps.
    ///
    /// # Errors
    /// [`Violation`], from then on for ever.
    #[inline]
    pub fn next<L: Liveness>(
        &mut self,
        into: &mut Record,
        patience: &Patience,
        live: &L,
    ) -> Result<Next, Violation> {
        self.crowded = false;
        loop {
            if self.poll(into)? {
                return Ok(Next::Record);
            }
            self.release();
            let at = self.shape.words_at(self.position, 1).start;
            let word = &self.lines.words()[at];
            let sequence = self.position + 1;
            let ready = || word.load(Ordering::Relaxed) == sequence;
            if self.bell.wait(patience, live, ready) == Woken::Ended {
                return Ok(Next::Ended);
            }
            let wakes = self.bell.wakes();
            if wakes != self.wakes {
                self.wakes = wakes;
                self.crowded = self.bell.was_rung_from_here();
            }
        }
    }

    /// Tells the producer that the lines read so far are free. [`Consumer::next`] and
    /// [`Consumer::poll`] do so often enough; whoever stops polling for long calls it.
    pub fn release(&mut self) {
        if self.released == self.position {
            return;
        }
        // SYNC: pairs with the Acquire in `Producer::reserve`: our copies are complete before the
        // producer overwrites the lines.
        self.head.words()[0].store(self.position, Ordering::Release);
        self.released = self.position;
        self.unreleased_count = 0;
        self.space.ring();
    }

    /// Lines read so far: one less than the sequence of the record that comes next.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Wakes this consumer's own thread, so that it looks at its `live` again.
    pub fn waker(&self) -> Bell<R> {
        self.bell.clone()
    }

    fn poll_intact(&mut self, into: &mut Record) -> Result<bool, Violation> {
        let mut padded = false;
        loop {
            let position = self.position;
            let first = self.shape.words_at(position, 1);
            let words = self.lines.words();
            // SYNC: pairs with the Release in `Producer::publish`.
            if words[first.start].load(Ordering::Acquire) != position + 1 {
                return Ok(false);
            }
            // The only look at the header; from here on its private copy counts.
            let (head, lines_byte) = Head::unpack(words[first.start + 1].load(Ordering::Relaxed));
            let lines = usize::from(lines_byte);
            if lines == 0 || lines > RECORD_LINES {
                return Err(Violation::Lines {
                    position,
                    lines: lines_byte,
                });
            }
            let rest = self.shape.rest_of_page(position);
            if lines > rest {
                return Err(Violation::Straddle {
                    position,
                    lines: lines_byte,
                });
            }
            if head.opcode == PAD {
                // A record always fits at the start of a page, so padding never follows padding.
                if padded || lines != rest {
                    return Err(Violation::Padding { position });
                }
                padded = true;
                self.advance(lines);
                continue;
            }
            let at = self.shape.words_at(position, lines);
            let body = &words[at.start + HEADER_BYTES / WORD_BYTES..at.end];
            load_words(body, into.fill(position + 1, head, lines));
            self.advance(lines);
            return Ok(true);
        }
    }

    #[inline]
    fn advance(&mut self, lines: usize) {
        self.position += lines as u64;
        self.unreleased_count += 1;
        let held = self.position - self.released;
        if self.unreleased_count >= HEAD_BATCH || held >= self.shape.count as u64 / 4 {
            self.release();
        }
    }
}

/// The arithmetic of a ring.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Lines; a power of two.
    count: usize,
    /// Lines in a page, or all of them if they are fewer.
    page: usize,
    /// Most lines in a record: also in a ring of less than a page, a record and the line after it fit.
    most: usize,
}

impl Shape {
    fn new(lines: &Range<usize>) -> Result<Self, PlaceError> {
        let count = lines.len() / LINE_WORDS;
        if !lines.len().is_multiple_of(LINE_WORDS) || !count.is_power_of_two() || count < 2 {
            return Err(PlaceError::Lines(lines.len()));
        }
        Ok(Self {
            count,
            page: count.min(PAGE_LINES),
            most: RECORD_LINES.min(count - 1),
        })
    }

    #[inline]
    fn lines_for(&self, body: &[u8], tail: &[&[u8]]) -> Result<usize, PostError> {
        let most = self.most * LINE_WORDS * WORD_BYTES;
        let bytes = tail_len(&[body])
            .and_then(|body| body.checked_add(tail_len(tail)?))
            .and_then(|both| both.checked_add(HEADER_BYTES));
        match bytes {
            Some(bytes) if bytes <= most => Ok(bytes.div_ceil(LINE_WORDS * WORD_BYTES)),
            bytes => Err(PostError::TooLarge {
                bytes: bytes.unwrap_or(usize::MAX),
                most,
            }),
        }
    }

    #[inline]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "masked to below the number of lines"
    )]
    fn line(&self, position: u64) -> usize {
        (position & (self.count as u64 - 1)) as usize
    }

    #[inline]
    fn rest_of_page(&self, position: u64) -> usize {
        self.page - (self.line(position) & (self.page - 1))
    }

    #[inline]
    fn words_at(&self, position: u64, lines: usize) -> Range<usize> {
        let start = self.line(position) * LINE_WORDS;
        start..start + lines * LINE_WORDS
    }

    /// Whether `lines` and one more are free.
    #[inline]
    fn fits(&self, tail: u64, head: u64, lines: usize) -> bool {
        tail - head + (lines as u64) < self.count as u64
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
