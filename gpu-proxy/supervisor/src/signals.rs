//! Signals as something to poll.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that the supervisor acts on, blocked otherwise.
#[derive(Debug)]
pub struct Signals(SignalFd);

/// What came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// `SIGTERM`s and `SIGINT`s.
    pub stop_count: u32,
    /// At least one child changed state.
    pub child: bool,
    /// `SIGHUP`.
    pub reload: bool,
}

impl Signals {
    /// Blocks the signals for this thread (call it before there is another) and collects them from now on.
    pub fn new() -> Result<Self, Errno> {
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGCHLD,
            Signal::SIGHUP,
        ] {
            set.add(signal);
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&set, flags)?))
    }

    /// Everything that has come since the last time.
    pub fn take(&self) -> Arrived {
        let mut arrived = Arrived::default();
        while let Ok(Some(info)) = self.0.read_signal() {
            match i32::try_from(info.ssi_signo)
                .ok()
                .and_then(|number| Signal::try_from(number).ok())
            {
                Some(Signal::SIGTERM | Signal::SIGINT) => arrived.stop_count += 1,
                Some(Signal::SIGCHLD) => arrived.child = true,
                Some(Signal::SIGHUP) => arrived.reload = true,
                _ => {}
            }
        }
        arrived
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
