//! What the tools of a developer's machine say of what was built.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

/// What belongs to the C library and the compiler.
const C_LIBRARY: [&str; 6] = [
    "libc.so.6",
    "libgcc_s.so.1",
    "ld-linux",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
];

/// Runs a tool of binutils, a compiler or cargo and returns what it printed.
///
/// # Panics
/// If it cannot be run or fails, with its words.
pub fn output(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool)
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{tool} cannot be run ({error}); install binutils and gcc"));
    assert!(
        output.status.success(),
        "{tool} {arguments:?} failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("the tool prints text")
}

/// The dynamic section of a library or program, as text.
pub fn dynamic_section(file: &Path) -> String {
    output("readelf", &["-W", "-d", &file.display().to_string()])
}

/// The libraries that a library or program needs, but for the C library.
pub fn needed_beside_libc(file: &Path) -> Vec<String> {
    dynamic_section(file)
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter(|line| !C_LIBRARY.iter().any(|name| line.contains(name)))
        .map(str::to_owned)
        .collect()
}
