//! `vgpu-api`: started by `gpu-proxy serve`, with its channel as standard input.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    api::main()
}
