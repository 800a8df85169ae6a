//! The auditor: keeps the log, signs it, and sends it on (D17, D20).
//!
//! A process of its own, started by `gpu-proxy serve` with its channel as standard input. It is the only one that
//! has the signing key. What it is told is on disk before it says so; what is on disk goes to the sinks; nobody
//! waits for a sink.
//!
//! - [`args`]: the command line, which the supervisor builds; [`collector`]: calls, from the workers' pages;
//! - [`session`]: the supervisor's packets; [`sink`]: where blocks go; [`outlet`]: how far each sink is;
//!   [`service`]: the poll loop.
//!
//! A library only so that tests and the supervisor reach it; the program is `vgpu-auditor`.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Parser;
use tracing::error;
use tracing_subscriber::EnvFilter;

pub mod args;
pub mod collector;
pub mod outlet;
pub mod service;
pub mod session;
pub mod sink;

use args::Arguments;
use service::Service;

/// The program: serves the channel on standard input until its end.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    let channel = io::stdin().as_fd().try_clone_to_owned();
    let done = channel
        .map_err(|error| error.to_string())
        .and_then(|channel| {
            let service = Service::open(&arguments, channel).map_err(|error| error.to_string())?;
            service.run().map_err(|error| error.to_string())
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("{why}");
            ExitCode::FAILURE
        }
    }
}
