//! The monitor: tells the supervisor how much device memory each process has, by the driver's own word (D17, D18).
//!
//! A process of its own because it loads NVIDIA's management library, which the supervisor shall not. It knows neither
//! zones nor clients: it says what it sees of all processes, and the supervisor compares that with the ledger.
//!
//! A library only so that tests reach it; the program is `vgpu-monitor`.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nvml_wrapper::Nvml;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use proxy_channel::Text;
use proxy_channel::companion::Message;
use proxy_channel::monitor::{FromMonitor, MAX_PROCESSES};
use thiserror::Error;

/// The command line, which the supervisor builds.
#[derive(Debug, Parser)]
#[command(name = "vgpu-monitor", version, about = "Started by gpu-proxy serve")]
pub struct Arguments {
    /// The management library.
    #[arg(long)]
    pub library: OsString,
    /// Milliseconds from one sweep to the next.
    #[arg(long)]
    pub interval: u16,
}

/// Why it ends before its channel does.
#[derive(Debug, Error)]
pub enum MonitorError {
    /// The library does not come up, or does not tell.
    #[error("{}: {error}", .library.display())]
    Library {
        /// Which.
        library: OsString,
        /// What it says.
        error: NvmlError,
    },
    /// The channel does not take what it is told.
    #[error("the channel: {0}")]
    Channel(#[from] Errno),
}

/// The program: sweeps until the channel on standard input ends.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let stdin = io::stdin();
    match watch(&arguments, stdin.as_fd()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may listen any more; then there is nobody to tell either.
            let text = Text::new(&error.to_string());
            let _ = FromMonitor::Failed { text }.send(stdin.as_fd());
            ExitCode::FAILURE
        }
    }
}

/// Tells of one sweep after the other until the other end of the channel is closed.
///
/// # Errors
/// [`MonitorError`].
pub fn watch(arguments: &Arguments, channel: BorrowedFd<'_>) -> Result<(), MonitorError> {
    let failed = |error| MonitorError::Library {
        library: arguments.library.clone(),
        error,
    };
    let nvml = Nvml::builder().lib_path(&arguments.library).init();
    let nvml = nvml.map_err(failed)?;
    let devices = nvml.device_count().map_err(failed)?;
    let driver = nvml.sys_driver_version().unwrap_or_default();
    let driver = Text::new(&driver);
    FromMonitor::Watching { devices, driver }.send(channel)?;
    loop {
        sweep(&nvml, devices, channel, failed)?;
        if has_ended(channel, Duration::from_millis(arguments.interval.into()))? {
            return Ok(());
        }
    }
}

fn sweep(
    nvml: &Nvml,
    devices: u32,
    channel: BorrowedFd<'_>,
    failed: impl Fn(NvmlError) -> MonitorError,
) -> Result<(), MonitorError> {
    let (mut told, mut untold) = (0, 0);
    for device in 0..devices {
        let processes = nvml
            .device_by_index(device)
            .and_then(|device| device.running_compute_processes());
        let processes = match processes {
            Ok(processes) => processes,
            // A device that is lost has nothing to tell; the others have.
            Err(NvmlError::GpuLost) => continue,
            Err(error) => return Err(failed(error)),
        };
        for process in processes {
            match process.used_gpu_memory {
                UsedGpuMemory::Used(bytes) if told < MAX_PROCESSES => {
                    let pid = process.pid;
                    FromMonitor::Holds { device, pid, bytes }.send(channel)?;
                    told += 1;
                }
                _ => untold += 1,
            }
        }
    }
    FromMonitor::Swept { untold }.send(channel)?;
    Ok(())
}

/// Waits so long, or until the other end is closed.
fn has_ended(channel: BorrowedFd<'_>, interval: Duration) -> Result<bool, Errno> {
    let timeout = PollTimeout::try_from(interval).unwrap_or(PollTimeout::MAX);
    // Nobody writes to it: what can be read is its end.
    let mut fds = [PollFd::new(channel, PollFlags::POLLIN)];
    match poll(&mut fds, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno),
    }
}
