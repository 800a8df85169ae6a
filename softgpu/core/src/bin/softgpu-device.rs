//! `softgpu-device FOLDER [ORDINAL] status|hang|resume|lose`: what a test does to a shared device.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use softgpu_core::shared::{State, device_folder, set_state, state, usage};

const USAGE: &str = "usage: softgpu-device FOLDER [ORDINAL] status|hang|resume|lose
FOLDER is what SOFTGPU_SHARED names, ORDINAL the device in it (default 0)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (folder, ordinal, command) = match words.as_slice() {
        [folder, command] => (folder, "0", command),
        [folder, ordinal, command] => (folder, *ordinal, command),
        _ => return refuse(USAGE),
    };
    let Ok(ordinal) = ordinal.parse() else {
        return refuse(USAGE);
    };
    let device = device_folder(Path::new(folder), ordinal);
    let done = match *command {
        "status" => status(&device),
        "hang" => set_state(&device, State::Hung),
        "resume" => set_state(&device, State::Running),
        "lose" => set_state(&device, State::Lost),
        _ => return refuse(USAGE),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&format!("softgpu-device: {}: {error}", device.display())),
    }
}

fn status(device: &Path) -> std::io::Result<()> {
    println!("state {}", state(device)?.name());
    for (process, bytes) in usage(device)? {
        println!("process {process} bytes {bytes}");
    }
    Ok(())
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}
