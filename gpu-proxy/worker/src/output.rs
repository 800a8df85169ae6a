//! What the driver prints: the output of kernels, failed assertions, its own messages (D8).
//!
//! A driver writes to the standard output and error of the process it is loaded in, when the program
//! synchronises. That process is this one, so both become pipes of ours once a client is there. What came
//! through them waits here until the client asks; it is told with the reply of the call that flushed it, and
//! its own thread reads and prints before the call returns. The callback ring does not serve for this: its
//! thread may be running a host function that waits for just that call.
//!
//! The worker's own log goes where standard error went before.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use idm_protocol::memory::Mapped;
use idm_protocol::status;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Most bytes that wait for a client that does not read them; what is printed beyond is lost, as it is in a
/// driver's own buffer.
const MOST_BYTES: usize = 16 << 20;
/// Read at a time.
const PIECE_BYTES: usize = 64 << 10;
/// What a pipe should hold, so that a flush rarely waits for the thread that reads.
const PIPE_BYTES: libc::c_int = 1 << 20;

/// The two streams as the client knows them: the numbers of their descriptors.
const STREAMS: [u32; 2] = [1, 2];

/// The captured streams, and what waits to be read by the client.
#[derive(Debug)]
pub struct Output {
    pipes: [OwnedFd; 2],
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    pieces: VecDeque<(u32, Vec<u8>)>,
    bytes: usize,
    lost: bool,
}

/// The worker's log: standard error as it is now, whatever becomes of it.
///
/// # Errors
/// The system's.
pub fn log() -> std::io::Result<File> {
    Ok(File::from(std::io::stderr().as_fd().try_clone_to_owned()?))
}

unsafe extern "C" {
    // The C library's own stream, which drivers print to.
    static mut stdout: *mut libc::FILE;
}

impl Output {
    /// Takes standard output and error over, for the rest of the process's life.
    ///
    /// # Errors
    /// The system's.
    pub fn capture() -> Result<Self, Errno> {
        let pipes = [
            capture(nix::unistd::dup2_stdout)?,
            capture(nix::unistd::dup2_stderr)?,
        ];
        // What is written is in the pipe when the call that wrote it returns, not in a buffer of the C library.
        // SAFETY: set by the C library before any code of ours runs.
        let stream = unsafe { stdout };
        // SAFETY: a stream of the C library's that nobody has written to yet; no buffer is handed over.
        unsafe { libc::setvbuf(stream, std::ptr::null_mut(), libc::_IONBF, 0) };
        Ok(Self {
            pipes,
            waiting: Mutex::default(),
        })
    }

    /// An output that nobody writes to: a session in a process that keeps its own streams, as a test does.
    ///
    /// # Errors
    /// The system's.
    pub fn of_nobody() -> Result<Self, Errno> {
        let end = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map(|(read, _)| read);
        Ok(Self {
            pipes: [end()?, end()?],
            waiting: Mutex::default(),
        })
    }

    /// Reads whatever comes, so that a driver that flushes much does not wait for ever. Ends with the process.
    pub fn serve(&self, told: &status::Output<Mapped>) {
        loop {
            let mut ready = [&self.pipes[0], &self.pipes[1]]
                .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => self.collect(told),
                Err(error) => {
                    tracing::error!(%error, "what kernels print is not read any more");
                    return;
                }
            }
        }
    }

    /// Takes what the driver has printed until now, and tells the client how much waits for it.
    pub fn collect(&self, told: &status::Output<Mapped>) {
        let mut waiting = self.lock();
        let before = waiting.bytes;
        for (pipe, stream) in self.pipes.iter().zip(STREAMS) {
            let mut piece = [0; PIECE_BYTES];
            // An error is `EAGAIN`: nothing more for now.
            while let Ok(count @ 1..) = nix::unistd::read(pipe, &mut piece) {
                waiting.add(stream, &piece[..count]);
            }
        }
        if waiting.bytes != before {
            told.tell(waiting.bytes as u64);
        }
    }

    /// The next bytes for the client, at most `room` of them, and the stream they belong to.
    pub fn take(&self, room: usize, told: &status::Output<Mapped>) -> (u32, Vec<u8>) {
        let mut waiting = self.lock();
        let Some((stream, mut piece)) = waiting.pieces.pop_front() else {
            return (0, Vec::new());
        };
        let rest = piece.split_off(piece.len().min(room));
        if !rest.is_empty() {
            waiting.pieces.push_front((stream, rest));
        }
        waiting.bytes -= piece.len();
        told.tell(waiting.bytes as u64);
        (stream, piece)
    }

    /// A panic aborts the worker, so the lock is never poisoned in earnest.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn add(&mut self, stream: u32, bytes: &[u8]) {
        let fitting = bytes.len().min(MOST_BYTES - self.bytes);
        if fitting < bytes.len() && !self.lost {
            self.lost = true;
            tracing::warn!("the client does not read what its kernels print; more is lost");
        }
        self.bytes += fitting;
        match self.pieces.back_mut() {
            Some((last, piece)) if *last == stream && piece.len() < PIECE_BYTES => {
                piece.extend_from_slice(&bytes[..fitting]);
            }
            _ if fitting > 0 => self.pieces.push_back((stream, bytes[..fitting].to_vec())),
            _ => {}
        }
    }
}

/// Makes a pipe, its writing end in the place of a standard stream. Returns the reading end.
fn capture(replace: fn(OwnedFd) -> Result<(), Errno>) -> Result<OwnedFd, Errno> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // Less is slower, not wrong; a user may have too many large pipes already.
    let _ = fcntl(&read, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    replace(write)?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_one_stream_come_out_together_and_in_order() {
        let mut waiting = Waiting::default();
        waiting.add(1, b"ab");
        waiting.add(1, b"cd");
        waiting.add(2, b"x");
        waiting.add(1, b"e");
        let pieces: Vec<_> = waiting.pieces.iter().cloned().collect();
        assert_eq!(
            pieces,
            [
                (1, b"abcd".to_vec()),
                (2, b"x".to_vec()),
                (1, b"e".to_vec())
            ]
        );
        assert_eq!(waiting.bytes, 6);
    }

    #[test]
    fn what_nobody_reads_is_bounded() {
        let mut waiting = Waiting::default();
        let piece = vec![0; PIECE_BYTES];
        for _ in 0..2 * MOST_BYTES / PIECE_BYTES {
            waiting.add(1, &piece);
        }
        let held: usize = waiting.pieces.iter().map(|(_, piece)| piece.len()).sum();
        assert_eq!((waiting.bytes, held), (MOST_BYTES, MOST_BYTES));
        assert!(waiting.lost);
    }
}
