//! Carries a worker's standard error into the log, a printable line at a time.

#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::read;

use crate::throttle::Throttle;

/// Longer lines are cut.
const MAX_LINE_LEN: usize = 2048;

/// Lines that one worker gets into the log in ten seconds.
const MAX_LINES: u32 = 200;

/// The reading end of one worker's standard error.
#[derive(Debug)]
pub struct Relay {
    pipe: OwnedFd,
    line: Vec<u8>,
    throttle: Throttle,
}

impl Relay {
    /// Takes over the reading end of a pipe.
    pub fn new(pipe: OwnedFd) -> Result<Self, Errno> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            pipe,
            line: Vec::new(),
            throttle: Throttle::new(MAX_LINES),
        })
    }

    /// Reads what is there, within bounds, and hands over complete lines. False at end-of-file.
    pub fn drain(&mut self, now: Instant, mut log: impl FnMut(&str)) -> bool {
        let mut buffer = [0; 4096];
        // Bounded, so that one worker cannot keep the loop to itself.
        for _ in 0..16 {
            let len = match read(&self.pipe, &mut buffer) {
                Ok(0) => {
                    self.flush(now, &mut log);
                    return false;
                }
                Ok(len) => len,
                Err(Errno::EAGAIN | Errno::EINTR) => return true,
                Err(_) => return false,
            };
            for &byte in &buffer[..len] {
                if byte == b'\n' {
                    self.flush(now, &mut log);
                } else if self.line.len() < MAX_LINE_LEN {
                    self.line.push(byte);
                }
            }
        }
        true
    }

    fn flush(&mut self, now: Instant, log: &mut impl FnMut(&str)) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return;
        }
        if let Some(suppressed) = self.throttle.pass(now) {
            if suppressed > 0 {
                log(&format!("({suppressed} lines suppressed)"));
            }
            log(&printable(&line));
        }
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

fn printable(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for character in String::from_utf8_lossy(line).chars() {
        if character.is_control() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}", character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use nix::unistd::{pipe, write};

    use super::*;

    #[test]
    fn lines_arrive_whole_cut_and_printable() {
        let (reader, writer) = pipe().unwrap();
        let mut relay = Relay::new(reader).unwrap();
        let mut lines = Vec::new();
        write(&writer, b"one\ntw").unwrap();
        assert!(relay.drain(Instant::now(), |line| lines.push(line.to_owned())));
        write(&writer, b"o\x1b[2J\n").unwrap();
        write(&writer, &vec![b'x'; MAX_LINE_LEN + 10]).unwrap();
        drop(writer);
        assert!(!relay.drain(Instant::now(), |line| lines.push(line.to_owned())));
        assert_eq!(lines[..2], ["one", "two\\u{1b}[2J"]);
        assert_eq!(lines[2].len(), MAX_LINE_LEN);
    }
}
