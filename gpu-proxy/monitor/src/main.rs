//! `vgpu-monitor`: started by `gpu-proxy serve`, with its channel as standard input.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    monitor::main()
}
