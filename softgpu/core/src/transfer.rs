//! Copies and fills of memory that was found valid.
//!
//! A [`Span`] is the proof: either a part of a known allocation, which it keeps alive, or host memory for
//! which the caller of an unsafe constructor vouches. Everything that moves bytes takes spans, so the
//! checks are in one place and the rest of the device model needs no unsafe code.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::exec::image::Image;
use crate::exec::{AddressSpace, Range};
use crate::image::Images;
use crate::memory::{Allocation, Kind, Permission, Space, View};
use crate::os;

/// A range of memory that may be read and written for as long as the value lives.
#[derive(Clone, Debug)]
pub struct Span {
    address: u64,
    length: u64,
    /// Keeps the memory; none for host memory that the caller vouched for.
    allocation: Option<Arc<Allocation>>,
    /// Mappings that follow it, where the range reaches over several.
    more: Vec<Arc<Allocation>>,
}

impl Span {
    /// Device-accessible memory: all of it must lie in one known allocation, or in mappings side by side.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] otherwise.
    pub fn device(space: &Space, address: u64, length: u64) -> Result<Self> {
        let cover = space.cover(address, length).ok_or(Error::InvalidValue)?;
        if cover.first.kind == Kind::Array {
            return Err(Error::InvalidValue);
        }
        Ok(Self {
            address,
            length,
            allocation: Some(cover.first),
            more: cover.more,
        })
    }

    /// All of an allocation.
    #[must_use]
    pub fn of(allocation: &Arc<Allocation>) -> Self {
        Self {
            address: allocation.start,
            length: allocation.size,
            allocation: Some(Arc::clone(allocation)),
            more: Vec::new(),
        }
    }

    /// Memory of the host or, as all addresses are unified, of a device.
    ///
    /// # Safety
    /// If the range is not device memory, it is readable and writable (as the transfer needs) until the
    /// value is dropped.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a null range, one that wraps, or one that only device memory could have
    /// but that is not allocated.
    pub unsafe fn any(space: &Space, address: u64, length: u64) -> Result<Self> {
        let end = address.checked_add(length).ok_or(Error::InvalidValue)?;
        if address == 0 {
            return Err(Error::InvalidValue);
        }
        match space.find(address) {
            Some(allocation) if !allocation.kind.is_host() => Self::device(space, address, length),
            Some(allocation) if end <= allocation.end() => Ok(Self {
                address,
                length,
                allocation: Some(allocation),
                more: Vec::new(),
            }),
            None if space.is_device_address(address) => Err(Error::InvalidValue),
            _ => Ok(Self {
                address,
                length,
                allocation: None,
                more: Vec::new(),
            }),
        }
    }

    /// Whether this is host memory that the device does not know, so that it may change or go away as
    /// soon as an asynchronous call has returned.
    #[must_use]
    pub const fn is_pageable(&self) -> bool {
        self.allocation.is_none()
    }

    /// Whether it may be written. What is mapped may be for reading only.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.allocation
            .iter()
            .chain(&self.more)
            .all(|part| part.permission() == Permission::ReadWrite)
    }

    /// Whether a synchronous fill, or copy between device memory, waits for its end here: in memory that the
    /// program itself sees, or that it asked for.
    #[must_use]
    pub fn synchronises(&self) -> bool {
        self.allocation
            .as_ref()
            .is_none_or(|found| found.kind.is_host() || found.synchronous.load(Ordering::Relaxed))
    }

    /// Bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// A part of it.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if it is not all inside.
    pub fn part(&self, offset: u64, length: u64) -> Result<Self> {
        let end = offset.checked_add(length).ok_or(Error::InvalidValue)?;
        if end > self.length {
            return Err(Error::InvalidValue);
        }
        Ok(Self {
            address: self.address + offset,
            length,
            allocation: self.allocation.clone(),
            more: self.more.clone(),
        })
    }

    /// Its bytes now.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // SAFETY: a span is readable as long as it lives.
        unsafe { os::read(self.address, self.length) }
    }

    /// Overwrites its beginning, with no more than fits.
    pub fn write(&self, bytes: &[u8]) {
        let fitting = os::usize_of(self.length).min(bytes.len());
        // SAFETY: a span is writable as long as it lives, and the bytes fit.
        unsafe { os::write(self.address, &bytes[..fitting]) };
    }

    /// Copies as much of `source` here as both have; the two may overlap.
    pub fn copy_from(&self, source: &Self) {
        let length = self.length.min(source.length);
        // SAFETY: spans are accessible as long as they live; both have `length` bytes.
        unsafe { os::copy(self.address, source.address, length) };
    }

    /// Its word, of all its 4 or 8 bytes; `None` if it is none.
    #[must_use]
    pub fn load(&self) -> Option<u64> {
        // SAFETY: a span is readable as long as it lives.
        unsafe { os::load(self.address, self.length) }
    }

    /// Writes its word.
    pub fn store(&self, value: u64) {
        // SAFETY: a span is writable as long as it lives.
        unsafe { os::store(self.address, self.length, value) };
    }

    /// Its word of 8 bytes, as others may change it at once; `None` if it is none.
    #[must_use]
    pub fn word(&self) -> Option<&AtomicU64> {
        if self.length != 8 {
            return None;
        }
        // SAFETY: a span is accessible as long as it lives, and the result borrows it.
        unsafe { os::word(self.address) }
    }

    /// Fills it with an element of `width` 1, 2 or 4 bytes; a rest smaller than an element stays.
    pub fn fill(&self, value: u32, width: u64) {
        let width = width.clamp(1, 4);
        // SAFETY: a span is writable as long as it lives; the count keeps inside.
        unsafe { os::fill(self.address, value, width, self.length / width) };
    }
}

/// The addresses that a launch may touch.
#[derive(Debug)]
pub(crate) struct LaunchSpace {
    view: View,
    images: Arc<Images>,
}

impl LaunchSpace {
    pub(crate) const fn new(view: View, images: Arc<Images>) -> Self {
        Self { view, images }
    }
}

fn found((start, end, writable): (u64, u64, bool)) -> Range {
    Range {
        start,
        end,
        writable,
    }
}

// SAFETY: the view names ranges of the process's own map. Device memory is unmapped only after its
// context's work is done (`Context::free`, `Context::destroy`), pinned memory likewise; registered host
// memory is the program's promise to the Driver API. No Rust reference into any of it exists.
unsafe impl AddressSpace for LaunchSpace {
    fn resolve(&self, address: u64) -> Option<Range> {
        self.view.range(address).map(found)
    }

    fn image(&self, object: u64) -> Option<Arc<Image>> {
        let bound = self.images.get(object)?;
        (bound.owner == self.view.owner()).then(|| Arc::clone(&bound.image))
    }

    fn resolve_image(&self, address: u64) -> Option<Range> {
        self.view.image_range(address).map(found)
    }
}

/// Fills an allocation of the device's own making with a word.
pub(crate) fn fill_owned(allocation: &Allocation, word: u32) {
    // SAFETY: the device committed these bytes and they live as long as the allocation; small
    // allocations end in a gap of at least one word, which nobody else uses.
    unsafe { os::fill(allocation.start, word, 4, allocation.size.div_ceil(4)) };
}

#[cfg(test)]
pub(crate) fn read_owned(allocation: &Allocation) -> Vec<u8> {
    // SAFETY: as above.
    unsafe { os::read(allocation.start, allocation.size) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{GRANULE, Kind};

    #[test]
    fn spans_accept_exactly_what_is_allocated() {
        let space = Space::new(1, 8 * GRANULE, false).unwrap();
        let made = space.allocate(0, 1, 100, Kind::Device).unwrap();
        assert!(Span::device(&space, made.start, 100).is_ok());
        assert!(Span::device(&space, made.start + 50, 50).is_ok());
        for (offset, length) in [(0, 101), (99, 2), (100, 1), (1, u64::MAX)] {
            let span = Span::device(&space, made.start + offset, length);
            assert_eq!(span.err(), Some(Error::InvalidValue), "{offset} {length}");
            // SAFETY: refused or device memory.
            let span = unsafe { Span::any(&space, made.start + offset, length) };
            assert_eq!(span.err(), Some(Error::InvalidValue), "{offset} {length}");
        }
        // SAFETY: refused.
        assert!(unsafe { Span::any(&space, 0, 4) }.is_err());
    }

    #[test]
    fn a_span_keeps_freed_memory_alive() {
        let space = Space::new(1, 8 * GRANULE, false).unwrap();
        let start = space
            .allocate(0, 1, 4 * GRANULE, Kind::Device)
            .unwrap()
            .start;
        let span = Span::device(&space, start, 4).unwrap();
        space.remove(start, |_| true).unwrap();
        span.write(&[1, 2, 3, 4]);
        assert_eq!(span.to_bytes(), [1, 2, 3, 4]);
        drop(span);
        assert_eq!(space.room(0).unwrap().0, 8 * GRANULE);
    }

    #[test]
    fn copy_and_fill_touch_only_the_span() {
        let space = Space::new(1, 8 * GRANULE, false).unwrap();
        let made = space.allocate(0, 1, 64, Kind::Device).unwrap();
        let all = Span::device(&space, made.start, 64).unwrap();
        all.fill(0x11, 1);
        all.part(8, 10).unwrap().fill(0x2233_4455, 4);
        assert_eq!(
            &all.to_bytes()[6..18],
            [
                0x11, 0x11, 0x55, 0x44, 0x33, 0x22, 0x55, 0x44, 0x33, 0x22, 0x11, 0x11
            ]
        );
        all.part(32, 8).unwrap().copy_from(&all.part(6, 8).unwrap());
        assert_eq!(&all.to_bytes()[32..36], [0x11, 0x11, 0x55, 0x44]);
        assert!(all.part(60, 5).is_err());
        all.part(56, 8).unwrap().write(&[7; 9]);
        assert_eq!(all.to_bytes()[56..], [7; 8]);
    }
}
