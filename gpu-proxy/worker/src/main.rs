//! `vgpu-worker`: one client's worker process; started by `gpu-proxy`, never by hand.

use std::process::ExitCode;

fn main() -> ExitCode {
    vgpu_worker::process::main()
}
