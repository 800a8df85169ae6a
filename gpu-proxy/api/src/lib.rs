//! The api: shows how things are to whoever can reach its address (D17). Metrics so far.
//!
//! A process of its own because it listens on a network, which the supervisor shall not. It has a user of its own, can
//! change nothing, and knows only what the status socket tells.
//!
//! - [`metrics`]: the supervisor's status as metrics;
//! - [`serve`]: the pages; [`confine`]: what it gives up before it serves them.
//!
//! A library only so that tests reach it; the program is `vgpu-api`.

#![forbid(unsafe_code)]

pub mod confine;
pub mod metrics;
pub mod serve;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use proxy_channel::Text;
use proxy_channel::api::FromApi;
use proxy_channel::companion::Message;

/// The command line, which the supervisor builds.
#[derive(Clone, Debug, Parser)]
#[command(name = "vgpu-api", version, about = "Started by gpu-proxy serve")]
pub struct Arguments {
    /// Where to listen.
    #[arg(long)]
    pub listen: SocketAddr,
    /// The supervisor's status socket.
    #[arg(long)]
    pub socket: PathBuf,
}

/// The program: serves until the channel on standard input ends.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let stdin = io::stdin();
    match serve::run(&arguments, stdin.as_fd()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may listen any more; then there is nobody to tell either.
            let text = Text::new(&error.to_string());
            let _ = FromApi::Failed { text }.send(stdin.as_fd());
            ExitCode::FAILURE
        }
    }
}
