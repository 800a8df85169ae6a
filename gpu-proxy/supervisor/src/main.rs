//! `gpu-proxy`: the command line of the supervisor.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use supervisor::config::{Config, Installation, LogFormat, LogLevel, name_of};
use supervisor::driver::Driver;
use supervisor::process::ChannelSlot;
use supervisor::server::{Server, read_policy};
use tracing_subscriber::EnvFilter;

/// Shares GPUs between tenants that have none.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the zones of a configuration until SIGTERM.
    Serve {
        /// The configuration.
        #[arg(long, value_name = "FILE", default_value = "/etc/vgpu/gpu-proxy.toml")]
        config: PathBuf,
    },
    /// Check a configuration and print what it amounts to, with every default filled in.
    Check {
        /// The configuration.
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let arguments = Arguments::parse();
    let executable =
        std::env::current_exe().map_err(|error| format!("gpu-proxy: where am I? {error}"))?;
    let executable_dir = executable.parent().unwrap_or(Path::new("/")).to_owned();
    let installation = Installation { executable_dir };
    match arguments.command {
        Command::Check { config } => check(&config, &installation),
        Command::Serve { config } => serve(&config, &installation),
    }
}

fn read(file: &Path, installation: &Installation) -> Result<Config, String> {
    let source =
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Config::parse(file, &source, installation).map_err(|mistakes| mistakes.to_string())
}

fn check(file: &Path, installation: &Installation) -> Result<(), String> {
    let config = read(file, installation)?;
    let policy = read_policy(&config.proxy, &config.devices, &config.zones)
        .map_err(|unusable| format!("the policy is not usable\n{unusable}"))?;
    print!("{config}");
    match Driver::choose(&config.driver, Path::new("/"), &installation.executable_dir) {
        Ok(driver) => {
            let (kind, path) = (driver.kind.name(), driver.path.display());
            println!(
                "\n# on this machine the driver is {kind}, {path}, because {}",
                driver.why
            );
        }
        Err(error) => println!("\n# on this machine there is no driver: {error}"),
    }
    match policy {
        Some(policy) => println!(
            "# the policy is {}, which grants to {} of {} zones",
            policy.file.display(),
            policy.rules.len(),
            config.zones.len()
        ),
        None => println!("# there is no policy: every zone may call everything"),
    }
    Ok(())
}

fn serve(file: &Path, installation: &Installation) -> Result<(), String> {
    let config = read(file, installation)?;
    // Before anything else is opened.
    let _slot = ChannelSlot::occupy().map_err(|error| format!("gpu-proxy: /dev/null: {error}"))?;
    start_log(config.proxy.log_level, config.proxy.log_format);
    let server =
        Server::open(config, installation).map_err(|error| format!("gpu-proxy: {error}"))?;
    server.run().map_err(|error| format!("gpu-proxy: {error}"))
}

fn start_log(level: LogLevel, format: LogFormat) {
    let filter = EnvFilter::new(name_of(&LogLevel::NAMES, level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
