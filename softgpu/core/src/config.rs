//! What the software GPU looks like, from the environment.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `SOFTGPU_DEVICES` | number of devices, 1 to 16 | 1 |
//! | `CUDA_VISIBLE_DEVICES` | which of them the process sees, in which order, as with any driver (read by the cdylib) | all |
//! | `SOFTGPU_MEMORY` | memory of each device: bytes, or with a suffix `K`, `M`, `G`, `T` (powers of 1024; `GiB` is `G`) | `4G` |
//! | `SOFTGPU_COMPUTE_CAPABILITY` | `major.minor`, 5.0 to 12.9 | `9.0` |
//! | `SOFTGPU_SM_COUNT` | multiprocessors that a program sees, 1 to 1024 | 16 |
//! | `SOFTGPU_THREADS` | CPU threads one kernel may use, 1 to 1024 | the CPUs this process may use |
//! | `SOFTGPU_DRIVER_VERSION` | what `cuDriverGetVersion` says, 1000 × major + 10 × minor | 13050 |
//! | `SOFTGPU_POISON` | `1`: new device memory holds a pattern, not what was there | 0 |
//! | `SOFTGPU_SHARED` | for tests: a folder; processes that name the same one share the devices in it ([`crate::shared`]) | none |
//! | `SOFTGPU_INSTRUCTION_LIMIT` | warp instructions after which a kernel is a run-away (`LAUNCH_TIMEOUT`); 0: none | 0 |
//! | `SOFTGPU_LOG` | what is told on stderr: `off`: nothing; `error`: what went wrong; `all`: also what is odd | `error` |
//!
//! The number of multiprocessors is a constant, not the number of CPUs, so that a program that sizes its
//! grid by it computes the same on every host. A value that cannot be used is an error, never replaced by
//! the default.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;

/// A configuration that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Number of devices.
    pub devices: u32,
    /// The devices that the process sees, as numbers below that; all if there is no list.
    pub shown: Option<Vec<u32>>,
    /// Bytes of memory of each device.
    pub memory: u64,
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Multiprocessors of each device.
    pub sm_count: u32,
    /// CPU threads that one kernel may use.
    pub threads: usize,
    /// 1000 × major + 10 × minor.
    pub driver_version: i32,
    /// Fill new allocations with a pattern.
    pub poison: bool,
    /// Folder of the devices that several processes share.
    pub shared: Option<PathBuf>,
    /// Warp instructions after which a kernel is ended.
    pub instruction_limit: Option<u64>,
    /// What is told on stderr.
    pub log: Log,
}

/// How much is told on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Log {
    /// Nothing.
    Off,
    /// What went wrong: faults, code that was refused.
    Error,
    /// Also what is odd but harms nothing.
    All,
}

/// A variable whose value cannot be used; the text is the one line that is shown for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value:?}: {expected} expected")]
pub struct ConfigError {
    /// Name of the variable.
    pub variable: &'static str,
    /// What it holds.
    pub value: String,
    /// What it may hold.
    pub expected: &'static str,
}

const GIB: u64 = 1 << 30;

impl Default for Config {
    fn default() -> Self {
        Self {
            devices: 1,
            shown: None,
            memory: 4 * GIB,
            compute_capability: (9, 0),
            sm_count: 16,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            driver_version: 13050,
            poison: false,
            shared: None,
            instruction_limit: None,
            log: Log::Error,
        }
    }
}

impl Config {
    /// The numbers of the devices that the process sees, in its order.
    #[must_use]
    pub fn numbers(&self) -> Vec<u32> {
        self.shown
            .clone()
            .unwrap_or_else(|| (0..self.devices).collect())
    }

    /// From the process environment.
    ///
    /// # Errors
    /// The first variable whose value cannot be used.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// From any source of variables.
    ///
    /// # Errors
    /// The first variable whose value cannot be used.
    pub fn from_variables(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let default = Self::default();
        let read = Reader { lookup: &lookup };
        Ok(Self {
            devices: read.value(
                "SOFTGPU_DEVICES",
                "a number from 1 to 16",
                default.devices,
                |t| number(t, 1, 16),
            )?,
            shown: default.shown,
            memory: read.value(
                "SOFTGPU_MEMORY",
                "bytes from 2M to 16T, for example 512M or 4GiB,",
                default.memory,
                |t| bytes(t).filter(|b| (2 << 20..=16 << 40).contains(b)),
            )?,
            compute_capability: read.value(
                "SOFTGPU_COMPUTE_CAPABILITY",
                "major.minor from 5.0 to 12.9",
                default.compute_capability,
                compute_capability,
            )?,
            sm_count: read.value(
                "SOFTGPU_SM_COUNT",
                "a number from 1 to 1024",
                default.sm_count,
                |t| number(t, 1, 1024),
            )?,
            threads: read.value(
                "SOFTGPU_THREADS",
                "a number from 1 to 1024",
                default.threads,
                |t| number(t, 1, 1024),
            )?,
            driver_version: read.value(
                "SOFTGPU_DRIVER_VERSION",
                "1000 * major + 10 * minor, from 11000 to 13990,",
                default.driver_version,
                |t| number(t, 11000, 13990).filter(|v: &i32| v % 10 == 0),
            )?,
            poison: read.value("SOFTGPU_POISON", "0 or 1", default.poison, |t| match t {
                "0" => Some(false),
                "1" => Some(true),
                _ => None,
            })?,
            shared: read.value("SOFTGPU_SHARED", "an absolute path", default.shared, |t| {
                let path = PathBuf::from(t);
                path.is_absolute().then_some(Some(path))
            })?,
            instruction_limit: read.value(
                "SOFTGPU_INSTRUCTION_LIMIT",
                "a number (0 for none)",
                default.instruction_limit,
                |t| number::<u64>(t, 0, u64::MAX).map(|n| (n != 0).then_some(n)),
            )?,
            log: read.value(
                "SOFTGPU_LOG",
                "off, error or all",
                default.log,
                |t| match t {
                    "off" => Some(Log::Off),
                    "error" => Some(Log::Error),
                    "all" => Some(Log::All),
                    _ => None,
                },
            )?,
        })
    }
}

struct Reader<'a, F> {
    lookup: &'a F,
}

impl<F: Fn(&str) -> Option<OsString>> Reader<'_, F> {
    fn value<T>(
        &self,
        variable: &'static str,
        expected: &'static str,
        default: T,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let Some(raw) = (self.lookup)(variable) else {
            return Ok(default);
        };
        raw.to_str()
            .and_then(|text| parse(text.trim()))
            .ok_or_else(|| ConfigError {
                variable,
                value: raw.to_string_lossy().into_owned(),
                expected,
            })
    }
}

fn number<T: std::str::FromStr + PartialOrd>(text: &str, low: T, high: T) -> Option<T> {
    text.parse().ok().filter(|n| *n >= low && *n <= high)
}

fn bytes(text: &str) -> Option<u64> {
    // `1GiB`, as the proxy's configuration writes it, is `1G`.
    let text = text.strip_suffix("iB").unwrap_or(text);
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        b'T' | b't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    digits
        .trim_end()
        .parse::<u64>()
        .ok()?
        .checked_mul(1 << shift)
}

fn compute_capability(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((number(major, 5, 12)?, number(minor, 0, 9)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_variables(|name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| OsString::from(v))
        })
    }

    #[test]
    fn empty_environment_gives_the_default() {
        assert_eq!(parse(&[]), Ok(Config::default()));
    }

    #[test]
    fn every_variable_is_read() {
        let config = parse(&[
            ("SOFTGPU_DEVICES", "2"),
            ("SOFTGPU_MEMORY", "512M"),
            ("SOFTGPU_COMPUTE_CAPABILITY", "8.6"),
            ("SOFTGPU_SM_COUNT", "4"),
            ("SOFTGPU_THREADS", "3"),
            ("SOFTGPU_DRIVER_VERSION", "12080"),
            ("SOFTGPU_POISON", "1"),
            ("SOFTGPU_SHARED", "/run/gpu"),
            ("SOFTGPU_INSTRUCTION_LIMIT", "1000"),
            ("SOFTGPU_LOG", "off"),
        ])
        .unwrap();
        assert_eq!(
            config,
            Config {
                devices: 2,
                shown: None,
                memory: 512 << 20,
                compute_capability: (8, 6),
                sm_count: 4,
                threads: 3,
                driver_version: 12080,
                poison: true,
                shared: Some("/run/gpu".into()),
                instruction_limit: Some(1000),
                log: Log::Off,
            }
        );
    }

    #[test]
    fn memory_accepts_plain_bytes_and_every_suffix() {
        for (text, want) in [
            ("4194304", 4 << 20),
            ("4096K", 4 << 20),
            ("3m", 3 << 20),
            ("1G", GIB),
            ("2T", 2 << 40),
            ("1GiB", GIB),
            ("512 MiB", GIB / 2),
        ] {
            assert_eq!(
                parse(&[("SOFTGPU_MEMORY", text)]).unwrap().memory,
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn bad_values_are_errors_that_name_the_variable_and_the_value() {
        for (name, value) in [
            ("SOFTGPU_DEVICES", "0"),
            ("SOFTGPU_DEVICES", "many"),
            ("SOFTGPU_MEMORY", "1K"),
            ("SOFTGPU_MEMORY", "99999999T"),
            ("SOFTGPU_MEMORY", ""),
            ("SOFTGPU_COMPUTE_CAPABILITY", "9"),
            ("SOFTGPU_SM_COUNT", "-1"),
            ("SOFTGPU_THREADS", "0"),
            ("SOFTGPU_DRIVER_VERSION", "13055"),
            ("SOFTGPU_POISON", "yes"),
            ("SOFTGPU_SHARED", "gpu"),
            ("SOFTGPU_LOG", "loud"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err();
            let line = error.to_string();
            assert!(
                line.contains(name) && line.contains(&format!("{value:?}")),
                "{line}"
            );
            assert_eq!(line.lines().count(), 1);
        }
    }
}
