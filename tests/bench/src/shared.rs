//! A page that two processes share, for floors: what any transport over it costs at least.
//!
//! The one module here with `unsafe`. It is deliberately not the transport under test.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

const BYTES: usize = 4096;

/// A line of each direction: a sequence word and what would be its message.
#[repr(C, align(128))]
pub struct Line {
    pub sequence: AtomicU64,
    pub payload: [AtomicU64; 6],
    /// 1 while the reader sleeps.
    pub parked: AtomicU32,
}

#[repr(C)]
pub struct Page {
    pub request: Line,
    pub reply: Line,
    pub stop: AtomicU32,
}

const _: () = assert!(size_of::<Page>() <= BYTES);

/// The page, mapped. Lives as long as the process.
pub struct Shared {
    page: *mut Page,
    file: OwnedFd,
}

impl Shared {
    pub fn create() -> io::Result<Self> {
        const NAME: &CStr = c"bench";
        // No close-on-exec: the peer inherits the descriptor.
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(NAME.as_ptr(), 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let size = libc::off_t::try_from(BYTES).expect("a page fits");
        // SAFETY: no pointers.
        if unsafe { libc::ftruncate(fd, size) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Self::open(fd)
    }

    /// Maps the page behind a descriptor that was inherited or made here.
    pub fn open(fd: RawFd) -> io::Result<Self> {
        // SAFETY: the descriptor was made or inherited for this one owner.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: a fresh mapping of a file of that size; nothing else is touched.
        let page = unsafe {
            libc::mmap(
                null_mut(),
                BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            page: page.cast::<Page>(),
            file,
        })
    }

    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub fn page(&self) -> &Page {
        // SAFETY: mapped for the life of the process, zero-filled, and made of atomics only.
        unsafe { &*self.page }
    }
}

/// Sleeps while `word` is 1, for `limit` at most.
pub fn sleep_while_parked(word: &AtomicU32, limit: Duration) {
    let limit = libc::timespec {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(1),
        tv_nsec: libc::c_long::from(limit.subsec_nanos()),
    };
    // SAFETY: the word is alive for the call, the limit is a local.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            1,
            &raw const limit,
        );
    }
}

/// Wakes who sleeps on `word`, with the system call only if somebody does.
pub fn wake(word: &AtomicU32) {
    if word.swap(0, Ordering::SeqCst) == 1 {
        // SAFETY: the word is alive for the call.
        unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1);
        }
    }
}
