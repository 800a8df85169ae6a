//! Writes (or checks) every generated file.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::decl::Declarations;
use crate::emit;
use crate::facts::Facts;

pub fn run(root: &Path, check: bool) -> Result<(), String> {
    let facts = Facts::read(root)?;
    let declarations = Declarations::read(root, &facts)?;
    let softgpu = emit::softgpu::implemented(root)?;
    let files: Vec<(&str, String)> = vec![
        ("cuda-abi/src/generated/enums.rs", emit::abi::enums(&facts)),
        (
            "cuda-abi/src/generated/exports.rs",
            emit::abi::exports(&facts),
        ),
        (
            "cuda-abi/src/generated/functions.rs",
            emit::abi::functions(&declarations),
        ),
        (
            "cuda-abi/src/generated/signatures.rs",
            emit::abi::signatures(&facts, &declarations, &softgpu)?,
        ),
        (
            "idm-protocol/src/wire/generated.rs",
            emit::wire::records(&declarations)?,
        ),
        (
            "libvgpu/core/src/generated/stubs.rs",
            emit::client::stubs(&declarations)?,
        ),
        (
            "libvgpu/cuda/src/generated/exports.rs",
            emit::client::exports(&facts, &declarations)?,
        ),
        (
            "libvgpu/nvml/src/generated/exports.rs",
            emit::nvml::exports(root)?,
        ),
        (
            "gpu-proxy/worker/src/generated/driver.rs",
            emit::worker::driver(&declarations),
        ),
        (
            "gpu-proxy/worker/src/generated/dispatch.rs",
            emit::worker::dispatch(&declarations)?,
        ),
        (
            "softgpu/cuda/src/generated/exports.rs",
            emit::softgpu::exports(&facts, &softgpu, &declarations.aliases)?,
        ),
    ];
    let mut stale = Vec::new();
    for (name, text) in files {
        let path = root.join(name);
        let text = format_rust(&text).map_err(|error| format!("{name}: {error}"))?;
        apply(&path, &text, check, &mut stale)?;
    }
    finish(stale, "codegen")
}

/// Writes `text` to `path` if it differs, or notes the file as stale when only checking.
pub fn apply(path: &Path, text: &str, check: bool, stale: &mut Vec<PathBuf>) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|current| current == text) {
        return Ok(());
    }
    if check {
        stale.push(path.to_owned());
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

pub fn finish(stale: Vec<PathBuf>, task: &str) -> Result<(), String> {
    if stale.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = stale
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Err(format!(
        "out of date, run `cargo xtask {task}`: {}",
        names.join(", ")
    ))
}

fn format_rust(text: &str) -> Result<String, String> {
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--emit", "stdout", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start rustfmt: {error}"))?;
    let mut input = child.stdin.take().ok_or("rustfmt has no standard input")?;
    let text = text.to_owned();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    writer
        .join()
        .map_err(|_| "the writer panicked")?
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err("rustfmt refused the generated text".to_owned());
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}
