//! `vgpuctl`: asks a running gpu-proxy how things are, minds its policy, and checks what was recorded.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use proxy_channel::admin::{self, SCHEMA, STATUS_REQUEST, Status};
use proxy_policy::{UnknownCall, Unusable};
use thiserror::Error;

mod allocations;
mod audit;
mod doctor;
mod plan;
mod policy;
mod simulate;
mod table;

/// Where a proxy with a default configuration listens.
const ADMIN_SOCKET: &str = "/run/vgpu/admin.sock";

/// Asks a running gpu-proxy how things are, minds its policy, and checks what was recorded.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Zones with their quotas, and clients with what they do.
    Status {
        /// Print JSON (documented in docs, stable within one "schema" number) instead of tables.
        #[arg(long)]
        json: bool,
        /// The proxy's admin socket.
        #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
        socket: PathBuf,
    },
    /// The layers of the workers' jail: which are on, which this host does not offer, what to do.
    Doctor {
        /// The proxy's admin socket.
        #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
        socket: PathBuf,
    },
    /// What the clients of a zone hold: owner, kind, size and age of each allocation, and how many handles.
    Allocations {
        /// The zone.
        #[arg(value_name = "ZONE")]
        zone: String,
        /// Print JSON instead of tables.
        #[arg(long)]
        json: bool,
        /// The proxy's admin socket.
        #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
        socket: PathBuf,
    },
    /// Whether a plan of clients would fit into the zones of a configuration, and what would refuse it. Needs no
    /// proxy and no GPU; fails if anything is refused.
    Simulate {
        /// The plan.
        #[arg(value_name = "PLAN")]
        plan: PathBuf,
    },
    /// What zones are granted: check a policy file, explain a verdict, put a changed file into force.
    Policy {
        #[command(subcommand)]
        command: policy::Command,
    },
    /// What was recorded: show it, verify it, prove a record. Needs no proxy.
    Audit {
        #[command(subcommand)]
        command: audit::Command,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Status { json, socket } => status(&socket, json),
        Command::Doctor { socket } => print(&socket, doctor::examine),
        Command::Allocations { zone, json, socket } => allocations::run(&socket, &zone, json),
        Command::Simulate { plan } => simulate(&plan),
        Command::Policy { command } => policy::run(&command),
        Command::Audit { command } => audit::run(&command),
    };
    match done {
        // A reader that has seen enough (`| head`) is no failure.
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("vgpuctl: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
enum Failure {
    #[error("there is no gpu-proxy at {}: the socket does not exist; start gpu-proxy, or name its admin socket with --socket", .0.display())]
    Absent(PathBuf),
    #[error("gpu-proxy is not running: nobody listens at {}", .0.display())]
    NotRunning(PathBuf),
    #[error("this user may not ask: {} is for root and the proxy's own user", .0.display())]
    NotAllowed(PathBuf),
    #[error("cannot talk to the proxy at {}: {error}", path.display())]
    Talk { path: PathBuf, error: io::Error },
    #[error("the proxy's answer is not understood ({0}); install the vgpuctl that matches it")]
    Answer(#[from] serde_json::Error),
    #[error(
        "the proxy answers with schema {0} and this vgpuctl reads {SCHEMA}; install the vgpuctl that matches it, or use --json"
    )]
    Schema(u32),
    #[error("the policy is not usable\n{0}")]
    Policy(#[from] Unusable),
    #[error(transparent)]
    Call(#[from] UnknownCall),
    #[error("the policy was not reloaded, the old one stays in force\n{0}")]
    NotReloaded(String),
    #[error("the plan cannot be gone through\n{0}")]
    Plan(Unusable),
    #[error("the proxy has no zone {0:?}")]
    NoZone(String),
    #[error("it does not fit: {0} refused")]
    DoesNotFit(usize),
    #[error(transparent)]
    Audit(#[from] audit::AuditFailure),
    #[error("cannot write: {0}")]
    Output(io::Error),
}

fn status(socket: &Path, json: bool) -> Result<(), Failure> {
    if !json {
        return print(socket, table::render);
    }
    // Printed as it came, laid out for people, so that fields this build does not know survive.
    let value: serde_json::Value = serde_json::from_slice(&ask(socket, STATUS_REQUEST)?)?;
    writeln!(io::stdout(), "{value:#}").map_err(Failure::Output)
}

fn simulate(plan: &Path) -> Result<(), Failure> {
    let answer = simulate::run(plan).map_err(Failure::Plan)?;
    io::stdout()
        .write_all(answer.text.as_bytes())
        .map_err(Failure::Output)?;
    match answer.refused {
        0 => Ok(()),
        refused => Err(Failure::DoesNotFit(refused)),
    }
}

/// Asks, and prints what is made of the answer.
fn print(socket: &Path, render: fn(&Status) -> String) -> Result<(), Failure> {
    let status: Status = serde_json::from_slice(&ask(socket, STATUS_REQUEST)?)?;
    if status.schema != SCHEMA {
        return Err(Failure::Schema(status.schema));
    }
    let text = render(&status);
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(Failure::Output)
}

fn ask(path: &Path, request: &str) -> Result<Vec<u8>, Failure> {
    let owned = || path.to_owned();
    admin::ask(path, request).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Absent(owned()),
        io::ErrorKind::ConnectionRefused => Failure::NotRunning(owned()),
        io::ErrorKind::PermissionDenied => Failure::NotAllowed(owned()),
        _ => Failure::Talk {
            path: owned(),
            error,
        },
    })
}
