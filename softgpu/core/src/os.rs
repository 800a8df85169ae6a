//! The few things only the operating system can do: address space, raw copies, signal masks, passing files.
//!
//! The one module of the device model with unsafe code. Device memory is other code's memory (kernels on
//! pool threads, the program's own threads polling pinned words), so it is never seen through a Rust
//! reference: bytes move by libc calls on addresses that the caller has checked against the range map.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg,
};
use nix::unistd::Uid;

/// Size of a page; every length and address given to the mapping functions is a multiple of it.
pub(crate) const PAGE: u64 = 4096;

fn pointer(address: u64) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(usize_of(address))
}

/// Addresses and lengths of one process fit its pointers: the crate builds for 64-bit hosts only.
pub(crate) fn usize_of(value: u64) -> usize {
    const _: () = assert!(size_of::<usize>() == 8);
    usize::try_from(value).expect("a 64-bit value fits a 64-bit usize")
}

/// Reserves inaccessible address space exactly at `address`, or fails if anything is mapped there.
pub(crate) fn reserve_at(address: u64, size: u64) -> io::Result<()> {
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: MAP_FIXED_NOREPLACE touches no existing mapping.
    let got = unsafe {
        libc::mmap(
            pointer(address),
            usize_of(size),
            libc::PROT_NONE,
            flags,
            -1,
            0,
        )
    };
    if got == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if got == pointer(address) {
        return Ok(());
    }
    // A kernel before 4.17 takes the address as a hint; then this place is not free.
    // SAFETY: `got` is the mapping just made, which nobody else knows.
    unsafe { libc::munmap(got, usize_of(size)) };
    Err(io::Error::from_raw_os_error(libc::EEXIST))
}

/// Gives address space back to the system.
pub(crate) fn unmap(address: u64, size: u64) {
    // SAFETY: callers own the whole range (a window or a pinned block they mapped) and drop it now.
    unsafe { libc::munmap(pointer(address), usize_of(size)) };
}

/// Makes a part of a reservation readable and writable; fresh pages read as zero.
pub(crate) fn commit(address: u64, size: u64) -> io::Result<()> {
    // SAFETY: callers pass a part of their own reservation.
    let rc = unsafe {
        libc::mprotect(
            pointer(address),
            usize_of(size),
            libc::PROT_READ | libc::PROT_WRITE,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks for huge pages where the system has them; a refusal changes nothing but speed.
pub(crate) fn advise_huge(address: u64, size: u64) {
    // SAFETY: advice on a part of the caller's own reservation; contents do not change.
    unsafe { libc::madvise(pointer(address), usize_of(size), libc::MADV_HUGEPAGE) };
}

/// Drops the contents of a part of a reservation and makes it inaccessible again.
pub(crate) fn decommit(address: u64, size: u64) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: callers pass a part of their own reservation that no allocation uses any more.
    unsafe {
        libc::mmap(
            pointer(address),
            usize_of(size),
            libc::PROT_NONE,
            flags,
            -1,
            0,
        )
    };
}

/// Maps a part of a file at a part of a reservation, readable and writable.
pub(crate) fn map_file(address: u64, size: u64, file: &File, offset: u64) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: callers pass a part of their own reservation that no allocation uses; the file is open.
    let got = unsafe {
        libc::mmap(
            pointer(address),
            usize_of(size),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_FIXED,
            file.as_raw_fd(),
            offset,
        )
    };
    if got == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A new file of so many zero bytes that no folder holds and no program that is started inherits.
pub(crate) fn anonymous_file(size: u64) -> io::Result<File> {
    // SAFETY: a NUL-terminated name.
    let descriptor = unsafe { libc::memfd_create(c"softgpu".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    file.set_len(size)?;
    Ok(file)
}

/// Frees the pages behind a part of a file; they read as zero from now on.
pub(crate) fn punch(file: &File, offset: u64, size: u64) -> io::Result<()> {
    let signed = |n| libc::off_t::try_from(n).map_err(io::Error::other);
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (offset, size) = (signed(offset)?, signed(size)?);
    // SAFETY: an open file; the process's own mappings of the range stay valid.
    let rc = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, size) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Puts the contents of a committed part of a reservation into a file of their own and that file in their
/// place. Nobody may touch the part meanwhile: what is written after it was copied is lost.
pub(crate) fn move_to_file(address: u64, size: u64) -> io::Result<File> {
    let file = anonymous_file(size)?;
    let mut done = 0;
    while done < size {
        let offset = libc::off_t::try_from(done).map_err(io::Error::other)?;
        let (from, left) = (pointer(address + done), usize_of(size - done));
        // SAFETY: the callers' part is committed, so readable, for `size` bytes from `address`.
        let written = unsafe { libc::pwrite(file.as_raw_fd(), from, left, offset) };
        match u64::try_from(written) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    map_file(address, size, &file, 0)?;
    Ok(file)
}

/// Whether the process at the other end of a connection belongs to this process's user.
pub(crate) fn is_own_user(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == Uid::effective().as_raw())
}

/// Sends a message with a file.
pub(crate) fn send_file(stream: &UnixStream, bytes: &[u8], file: &File) -> io::Result<()> {
    let rights = [file.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&rights)];
    let sent = sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Receives a message of exactly so many bytes, with the one file that comes along.
pub(crate) fn receive_file<const N: usize>(stream: &UnixStream) -> io::Result<([u8; N], File)> {
    let mut bytes = [0; N];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut files = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            files.extend(descriptors.into_iter().map(|descriptor| {
                // SAFETY: the system has just installed it for this message; nobody else knows it.
                File::from(unsafe { OwnedFd::from_raw_fd(descriptor) })
            }));
        }
    }
    let whole = message.bytes == N;
    match files.pop() {
        Some(file) if whole => Ok((bytes, file)),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Maps new readable, writable, zeroed host memory anywhere.
pub(crate) fn map_anywhere(size: u64) -> io::Result<u64> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place the system chooses.
    let got = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            usize_of(size),
            protection,
            flags,
            -1,
            0,
        )
    };
    if got == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(address_of(got))
    }
}

fn address_of(pointer: *mut c_void) -> u64 {
    pointer.expose_provenance() as u64
}

/// Moves bytes; the ranges may overlap.
///
/// # Safety
/// Both ranges are mapped, the source readable and the destination writable, for the whole call.
pub unsafe fn copy(destination: u64, source: u64, length: u64) {
    // SAFETY: the caller's promise. Races with kernels or other threads mean unspecified bytes, as on a
    // GPU; the C function, not Rust code, touches them.
    unsafe { libc::memmove(pointer(destination), pointer(source), usize_of(length)) };
}

/// Copies out of mapped memory into a buffer of ours.
///
/// # Safety
/// `source` is readable for `length` bytes during the call.
pub unsafe fn read(source: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0_u8; usize_of(length)];
    // SAFETY: the caller's promise for the source; the vector holds `length` bytes.
    unsafe { libc::memmove(bytes.as_mut_ptr().cast(), pointer(source), bytes.len()) };
    bytes
}

/// Writes a buffer of ours to mapped memory.
///
/// # Safety
/// `destination` is writable for `bytes.len()` bytes during the call.
pub unsafe fn write(destination: u64, bytes: &[u8]) {
    // SAFETY: the caller's promise for the destination; the slice is readable.
    unsafe { libc::memmove(pointer(destination), bytes.as_ptr().cast(), bytes.len()) };
}

/// Reads a word of 4 or 8 bytes at once, as others may be writing it; `None` if it is not aligned.
///
/// # Safety
/// `address` is readable for `width` bytes during the call.
pub unsafe fn load(address: u64, width: u64) -> Option<u64> {
    if !address.is_multiple_of(width) {
        return None;
    }
    match width {
        4 => {
            // SAFETY: aligned, and readable by the caller's promise.
            let word = unsafe { AtomicU32::from_ptr(pointer(address).cast()) };
            // SYNC: pairs with the release of whoever else writes the word: `store`, a kernel or the program.
            Some(word.load(Ordering::Acquire).into())
        }
        8 => {
            // SAFETY: as above.
            let word = unsafe { AtomicU64::from_ptr(pointer(address).cast()) };
            // SYNC: as above.
            Some(word.load(Ordering::Acquire))
        }
        _ => None,
    }
}

/// Writes a word of 4 or 8 bytes at once; one that is not aligned stays as it is.
///
/// # Safety
/// `address` is writable for `width` bytes during the call.
pub unsafe fn store(address: u64, width: u64, value: u64) {
    if !address.is_multiple_of(width) {
        return;
    }
    let [b0, b1, b2, b3, ..] = value.to_le_bytes();
    match width {
        4 => {
            // SAFETY: aligned, and writable by the caller's promise.
            let word = unsafe { AtomicU32::from_ptr(pointer(address).cast()) };
            // SYNC: pairs with the acquire of whoever else reads the word: `load`, a kernel or the program.
            word.store(u32::from_le_bytes([b0, b1, b2, b3]), Ordering::Release);
        }
        8 => {
            // SAFETY: as above.
            let word = unsafe { AtomicU64::from_ptr(pointer(address).cast()) };
            // SYNC: as above.
            word.store(value, Ordering::Release);
        }
        _ => {}
    }
}

/// A word of 8 bytes that several processes may change at once; `None` if it is not aligned.
///
/// # Safety
/// `address` is accessible for 8 bytes for as long as the result is used.
pub unsafe fn word<'a>(address: u64) -> Option<&'a AtomicU64> {
    if !address.is_multiple_of(8) {
        return None;
    }
    // SAFETY: aligned, and accessible by the caller's promise.
    Some(unsafe { AtomicU64::from_ptr(pointer(address).cast()) })
}

/// Fills with a repeated element of 1, 2 or 4 bytes.
///
/// # Safety
/// `destination` is writable for `count` elements of `width` bytes during the call.
pub unsafe fn fill(destination: u64, value: u32, width: u64, count: u64) {
    let bytes = value.to_le_bytes();
    let Some(length) = width.checked_mul(count).filter(|n| *n != 0) else {
        return;
    };
    let element = &bytes[..usize_of(width.clamp(1, 4))];
    if element.iter().all(|b| *b == element[0]) {
        // SAFETY: the caller's promise.
        unsafe {
            libc::memset(
                pointer(destination),
                i32::from(element[0]),
                usize_of(length),
            )
        };
        return;
    }
    // A block of the pattern first, then block by block.
    let block: Vec<u8> = element
        .iter()
        .copied()
        .cycle()
        .take(usize_of(length.min(4096)))
        .collect();
    let mut done = 0;
    while done < length {
        let part = usize_of((length - done).min(4096));
        // SAFETY: `done + part <= length`, which the caller promised.
        unsafe { write(destination + done, &block[..part]) };
        done += part as u64;
    }
}

/// Starts a thread that takes no signals of the program's: its handlers belong on its own threads.
pub(crate) fn spawn_quiet(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: fills the set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: a valid set in, the old mask out.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let spawned = std::thread::Builder::new().name(name.into()).spawn(body);
    // SAFETY: the mask that pthread_sigmask stored above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    spawned.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_repeats_elements_of_every_width() {
        let base = map_anywhere(3 * PAGE).unwrap();
        // SAFETY: inside the mapping just made.
        unsafe { fill(base, 0x1234_5678, 4, 3000) };
        // SAFETY: as above.
        let words = unsafe { read(base, 12000) };
        assert!(words.chunks(4).all(|w| w == 0x1234_5678_u32.to_le_bytes()));
        // SAFETY: as above.
        unsafe { fill(base, 0xabcd, 2, 5) };
        // SAFETY: as above.
        let halves = unsafe { read(base, 12) };
        assert_eq!(
            halves,
            [
                0xcd, 0xab, 0xcd, 0xab, 0xcd, 0xab, 0xcd, 0xab, 0xcd, 0xab, 0x34, 0x12
            ]
        );
        unmap(base, 3 * PAGE);
    }

    #[test]
    fn reserve_at_a_taken_place_fails() {
        let base = map_anywhere(PAGE).unwrap();
        assert!(reserve_at(base, PAGE).is_err());
        unmap(base, PAGE);
    }
}
