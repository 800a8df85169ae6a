//! Sleeping on a word between processes of one machine.

use std::time::Duration;

use super::Doorbell;
use crate::memory::Mapped;
use crate::sync::Word;

impl Doorbell for Mapped {
    fn sleep(&self, word: &Word, value: u64, slice: Option<Duration>) {
        sleep(word, value, slice);
    }

    fn wake(&self, word: &Word) {
        wake(word);
    }
}

// The kernel compares the first four bytes of the word: its low half.
const _: () = assert!(cfg!(target_endian = "little"));

/// Not `FUTEX_PRIVATE_FLAG`: the other side is another process.
fn sleep(word: &Word, value: u64, slice: Option<Duration>) {
    let low = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let limit = slice.map(|slice| libc::timespec {
        tv_sec: slice.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: slice.subsec_nanos().into(),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `word` is aligned and mapped for the whole call; the kernel only reads it. `limit` is
    // null or points to a `timespec` that outlives the call. Every way to return (woken, value
    // differs, interrupted, timed out) means the same to the caller: look again.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            std::ptr::from_ref(word).cast::<u32>(),
            libc::FUTEX_WAIT,
            low,
            limit,
        )
    };
}

fn wake(word: &Word) {
    // SAFETY: `word` is aligned and mapped; the kernel uses its address as a key and writes nothing.
    // There is nothing to do about a failure: the only one possible is a bad address.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            std::ptr::from_ref(word).cast::<u32>(),
            libc::FUTEX_WAKE,
            libc::c_int::MAX,
        )
    };
}
