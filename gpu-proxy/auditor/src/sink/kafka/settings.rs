//! Files of settings for the Kafka client: certificates and passwords, which no command line and no log shows.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// No file of settings is longer.
const MAX_LEN: u64 = 64 << 10;

/// Permissions that a file with a password must not have: anybody's.
const ANYBODY: u32 = 0o007;

/// What may be set: how to reach brokers and prove who we are. What the log depends on is not for a file to change.
const PERMITTED: [&str; 12] = [
    "broker.address.",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "compression.level",
    "enable.ssl.certificate.verification",
    "linger.ms",
    "reconnect.backoff.",
    "sasl.",
    "security.protocol",
    "socket.",
    "ssl.",
];

/// Settings in the order of the file.
pub(super) type Settings = Vec<(String, String)>;

/// Why a file is not used. No text of the file's own is repeated but the names of settings.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Everybody may read it.
    #[error("{} may be read or written by anybody: chmod o= it", .0.display())]
    Open(PathBuf),
    /// It is too long or no text.
    #[error("{} is no text of at most {MAX_LEN} bytes", .0.display())]
    NoText(PathBuf),
    /// A line.
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line of it.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads a file of lines KEY=VALUE.
pub(super) fn read(path: &Path) -> Result<Settings, SettingsError> {
    let fail = |error| SettingsError::Read {
        path: path.to_owned(),
        error,
    };
    let file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if metadata.mode() & ANYBODY != 0 {
        return Err(SettingsError::Open(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    let text = String::from_utf8(bytes).ok();
    let Some(text) = text.filter(|text| text.len() as u64 <= MAX_LEN) else {
        return Err(SettingsError::NoText(path.to_owned()));
    };
    parse(&text).map_err(|(line, problem)| SettingsError::Line {
        path: path.to_owned(),
        line,
        problem,
    })
}

fn parse(text: &str) -> Result<Settings, (usize, String)> {
    let mut settings = Settings::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            // It may be half of a password.
            return Err((number, "it is not KEY=VALUE".into()));
        };
        let (key, value) = (key.trim_end(), value.trim_start());
        let permitted = PERMITTED.iter().any(|&known| {
            if known.ends_with('.') {
                key.starts_with(known)
            } else {
                key == known
            }
        });
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'.';
        if !permitted || !key.bytes().all(is_name) {
            let known = PERMITTED.map(|known| match known.ends_with('.') {
                true => format!("{known}*"),
                false => known.into(),
            });
            let problem = format!("such a setting is not for this file; it may hold {known:?}");
            return Err((number, problem));
        }
        if settings.iter().any(|(other, _)| other == key) {
            return Err((number, format!("{key} is there already")));
        }
        settings.push((key.into(), value.into()));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn certificates_and_passwords_are_read_and_nothing_that_the_log_depends_on() {
        let text = "# who we are\n\nsecurity.protocol = SASL_SSL\nsasl.password=a=b c\n";
        let settings = parse(text).unwrap();
        let expected = [
            ("security.protocol", "SASL_SSL"),
            ("sasl.password", "a=b c"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(settings, expected);
        for (wrong, line) in [
            ("ssl.ca.location=x\nacks=0", 2),
            ("enable.idempotence=false", 1),
            ("bootstrap.servers=elsewhere:9092", 1),
            ("plugin.library.paths=/tmp/x.so", 1),
            ("sasl.password=a\nsasl.password=b", 2),
        ] {
            assert_eq!(parse(wrong).unwrap_err().0, line, "{wrong}");
        }
    }

    #[test]
    fn a_mistake_does_not_repeat_what_may_be_a_password() {
        for wrong in ["sasl.password hunter2", "hunter2 = x", "hunter2"] {
            let (_, problem) = parse(wrong).unwrap_err();
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn a_file_that_anybody_may_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings");
        fs::write(&path, "ssl.ca.location=/x\n").unwrap();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert!(matches!(read(&path), Err(SettingsError::Open(_))));
        mode(0o640);
        assert_eq!(read(&path).unwrap().len(), 1);
        fs::write(&path, vec![b'#'; 65 << 10]).unwrap();
        assert!(matches!(read(&path), Err(SettingsError::NoText(_))));
    }
}
