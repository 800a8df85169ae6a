//! The page as a file that processes hand on, and what wakes its reader.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use idm_protocol::memory::{FileError, Mapped, SealedFile};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use thiserror::Error;

use super::{CALLS_BYTES, CallReader, CallWriter};
use crate::message::{Malformed, RECORD_DESCRIPTORS};

/// The calls of one client.
#[derive(Debug)]
pub struct CallPage {
    page: SealedFile,
    wake: OwnedFd,
}

/// Why there is no page.
#[derive(Debug, Error)]
pub enum PageError {
    /// No file, another than a page is, or one that cannot be mapped.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nothing to wake its reader by.
    #[error("no event descriptor: {0}")]
    Wake(#[from] Errno),
    /// It came with something else.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl CallPage {
    /// An empty page.
    ///
    /// # Errors
    /// [`PageError::File`], [`PageError::Wake`].
    pub fn create() -> Result<Self, PageError> {
        let flags = EfdFlags::EFD_CLOEXEC.union(EfdFlags::EFD_NONBLOCK);
        let wake = EventFd::from_value_and_flags(0, flags)?;
        Ok(Self {
            page: SealedFile::create(c"vgpu-calls", CALLS_BYTES)?,
            wake: wake.into(),
        })
    }

    /// What came with a packet.
    ///
    /// # Errors
    /// [`PageError::Malformed`], [`PageError::File`].
    pub fn receive(descriptors: Vec<OwnedFd>) -> Result<Self, PageError> {
        let count = descriptors.len();
        let [page, wake] = <[OwnedFd; RECORD_DESCRIPTORS]>::try_from(descriptors)
            .map_err(|_| Malformed::Descriptors(count))?;
        let page = SealedFile::receive(page, CALLS_BYTES)?;
        Ok(Self { page, wake })
    }

    /// For handing it on.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; RECORD_DESCRIPTORS] {
        [self.page.as_fd(), self.wake.as_fd()]
    }

    /// How many calls a reader would still find, by the worker's word.
    #[must_use]
    pub fn unread(&self) -> u64 {
        let page = Mapped::new(&self.page).ok();
        let reader = page.and_then(|page| CallReader::new(page, 0));
        reader.map_or(0, |reader| reader.claimed() - reader.next())
    }

    /// The worker's end, and what to write to where [`CallWriter::must_wake`] says so.
    ///
    /// # Errors
    /// [`PageError::File`].
    pub fn writer(self) -> Result<(CallWriter<Mapped>, OwnedFd), PageError> {
        let writer = CallWriter::new(Mapped::new(&self.page)?);
        Ok((writer.ok_or(FileError::Size(CALLS_BYTES))?, self.wake))
    }

    /// The auditor's end, from call `next` on, and what to watch while it dozes. The worker has that too: watch it
    /// edge-triggered, and never read it.
    ///
    /// # Errors
    /// [`PageError::File`].
    pub fn reader(self, next: u64) -> Result<(CallReader<Mapped>, OwnedFd), PageError> {
        let reader = CallReader::new(Mapped::new(&self.page)?, next);
        Ok((reader.ok_or(FileError::Size(CALLS_BYTES))?, self.wake))
    }
}
