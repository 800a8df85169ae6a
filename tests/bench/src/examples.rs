//! The programs of `examples/` from start to exit, through the proxy against the driver directly.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::{Path, PathBuf};

use e2e::{Program, Proxy, place, proxy};

use crate::report::{Goal, Result as Measured};
use crate::sample::Samples;
use crate::{TURNS, settle};

/// Each example, if it is built: what is in C needs the toolchain.
fn programs() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(place::examples());
    let mut programs: Vec<PathBuf> = folder
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && path.extension().is_none())
        .collect();
    programs.sort();
    programs.push(place::built("rust-cudarc"));
    programs
}

fn milliseconds(path: &Path, program: Program) -> Result<f64, Box<dyn Error>> {
    let folder = path.parent().ok_or("a program lies in a folder")?;
    let finished = program.directory(folder).run();
    if finished.code != Some(0) {
        return Err(finished.describe().into());
    }
    Ok(finished.wall.as_secs_f64() * 1e3)
}

/// Runs all of them, both ways by turns.
///
/// # Errors
/// What an example that fails said.
pub fn measure(gpu: &Proxy) -> Result<Vec<Measured>, Box<dyn Error>> {
    let mut results = Vec::new();
    for path in programs() {
        let (mut remoted, mut direct) = (Samples::default(), Samples::default());
        for _ in 0..TURNS {
            settle(gpu);
            remoted.add(milliseconds(&path, gpu.program(&path))?);
            direct.add(milliseconds(&path, proxy::direct(&path))?);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut result = Measured::new(
            format!("example_{name}"),
            "ms",
            remoted.median(),
            direct.median(),
            Goal::Information,
        );
        result.what = "the whole program, from its start to its exit, against the same on the driver directly";
        results.push(result);
    }
    Ok(results)
}
