//! `vgpuctl policy`: check and explain work on a file alone, reload asks the proxy.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use proxy_channel::admin::{RELOAD_REQUEST, Reload, SCHEMA};
use proxy_policy::Policy;

use crate::{Failure, ask};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read a policy file as the proxy would: every mistake with its line and what to do about it, or what the file
    /// amounts to. Needs no proxy.
    Check {
        /// The policy.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Say what a policy makes of a call in a zone, by which rule, why, and what to change. Needs no proxy.
    Explain {
        /// The zone.
        #[arg(value_name = "ZONE")]
        zone: String,
        /// A function of the Driver API or of NVML, such as cuMemAlloc.
        #[arg(value_name = "CALL")]
        call: String,
        /// The policy.
        #[arg(long, value_name = "FILE", default_value = "/etc/vgpu/policy.toml")]
        file: PathBuf,
    },
    /// Have the proxy read its policy file again. A file with a mistake changes nothing.
    Reload {
        /// The proxy's admin socket.
        #[arg(long, value_name = "PATH", default_value = "/run/vgpu/admin.sock")]
        socket: PathBuf,
    },
}

pub fn run(command: &Command) -> Result<(), Failure> {
    let text = match command {
        Command::Check { file } => Policy::read(file)?.to_string(),
        Command::Explain { zone, call, file } => {
            format!("{}\n", Policy::read(file)?.explain(zone, call)?)
        }
        Command::Reload { socket } => reload(socket)?,
    };
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(Failure::Output)
}

fn reload(socket: &Path) -> Result<String, Failure> {
    let reply = ask(socket, RELOAD_REQUEST)?;
    let Reload {
        schema,
        done,
        file,
        changes,
        mistakes,
    } = serde_json::from_slice(&reply)?;
    if schema != SCHEMA {
        return Err(Failure::Schema(schema));
    }
    if !done {
        return Err(Failure::NotReloaded(mistakes.join("\n")));
    }
    let file = file.unwrap_or_default();
    if changes.is_empty() {
        return Ok(format!("{file}: read again, nothing has changed\n"));
    }
    Ok(format!("{file}: in force\n{}\n", changes.join("\n")))
}
