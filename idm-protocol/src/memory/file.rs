//! Sealed anonymous files: what regions, arenas and status pages are made of.

#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use thiserror::Error;

/// A memory file whose size can never change again.
///
/// Only such a file is ever mapped: one that its owner could shrink would let it kill whoever
/// touches the pages past the new end.
#[derive(Debug)]
pub struct SealedFile {
    fd: OwnedFd,
    len: NonZeroUsize,
}

/// Why a file could not be made, accepted or mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FileError {
    /// Our own call failed (out of memory, of descriptors); we give up what we were making.
    #[error("cannot make a memory file of {len} bytes: {reason}")]
    Create {
        /// Size asked for.
        len: usize,
        /// The system's reason.
        reason: Errno,
    },
    /// A size of zero, or not whole pages, or beyond what a file can have: a mistake in our limits.
    #[error("a memory file cannot have {0} bytes: not a positive multiple of the page size")]
    Size(usize),
    /// What we were handed is not a memory file, or its size can still change; it is not mapped.
    #[error("the descriptor received is not a memory file sealed against change of size")]
    NotSealed,
    /// What we were handed has another size than was announced; it is not mapped.
    #[error("the memory file received has {found} bytes, {announced} were announced")]
    WrongSize {
        /// Size found.
        found: u64,
        /// Size announced.
        announced: usize,
    },
    /// The mapping failed for lack of memory or address space; nothing is mapped.
    #[error("cannot map a memory file: {0}")]
    Map(Errno),
    /// The file could not be sealed against writing; it is not handed out.
    #[error("cannot seal a memory file against writing: {0}")]
    Seal(Errno),
}

const FIXED_SIZE: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

impl SealedFile {
    /// Makes a zero-filled file of `len` bytes (whole pages), sealed, close-on-exec and not
    /// executable where the kernel can say so. `name` shows in `/proc/*/maps`. Pages are allocated
    /// when touched.
    ///
    /// # Errors
    /// [`FileError::Size`], [`FileError::Create`].
    pub fn create(name: &CStr, len: usize) -> Result<Self, FileError> {
        Self::make(name, len, FIXED_SIZE)
    }

    /// As [`SealedFile::create`], but the last seal is left open for [`SealedFile::freeze_writers`].
    ///
    /// # Errors
    /// [`FileError::Size`], [`FileError::Create`].
    pub fn create_freezable(name: &CStr, len: usize) -> Result<Self, FileError> {
        Self::make(
            name,
            len,
            SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW),
        )
    }

    /// From now on nobody can make a writable mapping; those that exist stay writable. The maker of
    /// a status page calls this after mapping it for itself and before handing it out.
    ///
    /// # Errors
    /// [`FileError::Seal`].
    pub fn freeze_writers(&self) -> Result<(), FileError> {
        let seals = SealFlag::from_bits_retain(libc::F_SEAL_FUTURE_WRITE).union(FIXED_SIZE);
        fcntl(&self.fd, FcntlArg::F_ADD_SEALS(seals)).map_err(FileError::Seal)?;
        Ok(())
    }

    /// Accepts a descriptor from the supervisor: it must be a memory file, its size sealed and as
    /// announced.
    ///
    /// # Errors
    /// [`FileError::NotSealed`], [`FileError::WrongSize`], [`FileError::Size`].
    pub fn receive(fd: OwnedFd, announced: usize) -> Result<Self, FileError> {
        let len = whole_pages(announced)?;
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(|_| FileError::NotSealed)?;
        let fixed = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);
        if !SealFlag::from_bits_retain(seals).contains(fixed) {
            return Err(FileError::NotSealed);
        }
        let found = u64::try_from(fstat(&fd).map_err(|_| FileError::NotSealed)?.st_size)
            .map_err(|_| FileError::NotSealed)?;
        if u64::try_from(announced) != Ok(found) {
            return Err(FileError::WrongSize { found, announced });
        }
        Ok(Self { fd, len })
    }

    /// Its size, fixed for ever.
    pub fn byte_len(&self) -> NonZeroUsize {
        self.len
    }

    /// The descriptor itself, for handing it on.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    fn make(name: &CStr, len: usize, seals: SealFlag) -> Result<Self, FileError> {
        let size = whole_pages(len)?;
        let fail = |reason| FileError::Create { len, reason };
        let flags = MFdFlags::MFD_CLOEXEC.union(MFdFlags::MFD_ALLOW_SEALING);
        let never_executable = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
        let fd = match memfd_create(name, flags.union(never_executable)) {
            // Kernels before 6.3 do not know the flag; we map without PROT_EXEC in any case.
            Err(Errno::EINVAL) => memfd_create(name, flags),
            made => made,
        }
        .map_err(fail)?;
        let end = i64::try_from(len).map_err(|_| FileError::Size(len))?;
        ftruncate(&fd, end).map_err(fail)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(fail)?;
        Ok(Self { fd, len: size })
    }
}

impl AsFd for SealedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn whole_pages(len: usize) -> Result<NonZeroUsize, FileError> {
    if len.is_multiple_of(crate::layout::PAGE_BYTES) {
        NonZeroUsize::new(len).ok_or(FileError::Size(len))
    } else {
        Err(FileError::Size(len))
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::memory::{Mapped, Memory, ReadOnly};
    use crate::sync::Ordering;

    #[test]
    fn a_sealed_file_refuses_every_change_of_size_and_comes_back_whole() {
        let file = SealedFile::create(c"test", 8192).unwrap();
        assert_eq!(ftruncate(&file, 4096), Err(Errno::EPERM));
        assert_eq!(ftruncate(&file, 16384), Err(Errno::EPERM));
        let received = SealedFile::receive(file.into_fd(), 8192).unwrap();
        assert_eq!(received.byte_len().get(), 8192);
    }

    #[test]
    fn an_unsealed_file_a_wrong_size_and_a_pipe_are_refused() {
        let unsealed = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 4096).unwrap();
        assert_eq!(
            SealedFile::receive(unsealed, 4096).unwrap_err(),
            FileError::NotSealed
        );
        let file = SealedFile::create(c"test", 4096).unwrap();
        let wrong = FileError::WrongSize {
            found: 4096,
            announced: 8192,
        };
        assert_eq!(
            SealedFile::receive(file.into_fd(), 8192).unwrap_err(),
            wrong
        );
        let (pipe, _other_end) = nix::unistd::pipe().unwrap();
        assert_eq!(
            SealedFile::receive(pipe, 4096).unwrap_err(),
            FileError::NotSealed
        );
        assert_eq!(
            SealedFile::create(c"test", 100).unwrap_err(),
            FileError::Size(100)
        );
        assert_eq!(
            SealedFile::create(c"test", 0).unwrap_err(),
            FileError::Size(0)
        );
    }

    #[test]
    fn after_freezing_only_the_mapping_that_existed_can_write() {
        let file = SealedFile::create_freezable(c"test", 4096).unwrap();
        let writer = Mapped::new(&file).unwrap();
        file.freeze_writers().unwrap();
        assert_eq!(
            Mapped::new(&file).unwrap_err(),
            FileError::Map(Errno::EPERM)
        );
        let reader = ReadOnly::new(&file).unwrap();
        writer.words()[0].store(5, Ordering::Relaxed);
        assert_eq!(reader.load(0), Some(5));
    }
}
