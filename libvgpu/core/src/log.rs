//! What the library tells a person: levels, the destination, one line at a time.
//!
//! `VGPU_LOG` names the level (`off`, `error`, `warn`, `info`, `debug`, `trace`; `warn` if unset), and
//! `VGPU_LOG_FILE` a file to append to instead of standard error. Both are read once. A line is one
//! `write`, so that lines of several threads and processes do not mix. The library owns no thread and
//! no buffer here: whatever was said is on its way when the call returns.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// How much a person wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Nothing at all.
    Off = 1,
    /// The program cannot use the GPU any more, or never could.
    Error = 2,
    /// Something was refused that a program may need.
    Warn = 3,
    /// What was attached to, and with which limits.
    Info = 4,
    /// Decisions on the way.
    Debug = 5,
    /// Every call with its result and duration.
    Trace = 6,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        Some(match text.trim().to_ascii_lowercase().as_str() {
            "off" | "none" | "0" => Self::Off,
            "error" => Self::Error,
            "warn" | "warning" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => return None,
        })
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

const UNREAD: u8 = 0;

/// The level in force, [`UNREAD`] until somebody asks.
static LEVEL: AtomicU8 = AtomicU8::new(UNREAD);

/// Whether lines of this level are wanted. One load once the environment was read.
#[inline]
pub fn enabled(level: Level) -> bool {
    let current = match LEVEL.load(Ordering::Relaxed) {
        UNREAD => read_level(),
        current => current,
    };
    level as u8 <= current
}

/// Writes one line if its level is wanted. Callers use the macros of this crate.
pub fn line(level: Level, text: fmt::Arguments<'_>) {
    if !enabled(level) {
        return;
    }
    let mut bytes = format!("vgpu[{}] {}: {text}", std::process::id(), level.word()).into_bytes();
    // One line stays one line, whatever a name in it holds.
    for byte in &mut bytes {
        if byte.is_ascii_control() {
            *byte = b' ';
        }
    }
    bytes.push(b'\n');
    // Nobody could be told that telling failed.
    let _ = match file() {
        Some(mut file) => file.write_all(&bytes),
        None => std::io::stderr().write_all(&bytes),
    };
}

/// Says `text` at a level: `say!(Warn, "...")`.
macro_rules! say {
    ($level:ident, $($text:tt)+) => {
        $crate::log::line($crate::log::Level::$level, format_args!($($text)+))
    };
}
pub(crate) use say;

#[cold]
fn read_level() -> u8 {
    let level = std::env::var("VGPU_LOG")
        .ok()
        .and_then(|text| Level::parse(&text))
        .unwrap_or(Level::Warn);
    LEVEL.store(level as u8, Ordering::Relaxed);
    level as u8
}

fn file() -> Option<&'static File> {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    FILE.get_or_init(|| {
        let path = std::env::var_os("VGPU_LOG_FILE")?;
        match OpenOptions::new().append(true).create(true).open(&path) {
            Ok(file) => Some(file),
            Err(error) => {
                let path = path.to_string_lossy();
                let _ = writeln!(
                    std::io::stderr(),
                    "vgpu: cannot open VGPU_LOG_FILE {path}: {error}; logging to standard error"
                );
                None
            }
        }
    })
    .as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_by_name_and_ordered_by_how_much_they_tell() {
        assert_eq!(Level::parse(" Trace "), Some(Level::Trace));
        assert_eq!(Level::parse("warning"), Some(Level::Warn));
        assert_eq!(Level::parse("loud"), None);
        assert!(Level::Off < Level::Error && Level::Debug < Level::Trace);
    }
}
