//! Files of signing keys: read, made, and replaced.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::note::{DrawError, KeyError, SecretKey};

/// A key's text is some two hundred bytes.
const MAX_KEY_LEN: u64 = 1024;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeysError {
    /// A file.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// What could not be done.
        what: &'static str,
        /// To which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file that holds no key.
    #[error("{} holds no signing key: {error}", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        error: KeyError,
    },
    /// A new key cannot be made.
    #[error(transparent)]
    Draw(#[from] DrawError),
}

/// The key in a file, if the file is there.
pub fn read(path: &Path) -> Result<Option<SecretKey>, KeysError> {
    let fail = failing("read", path);
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut text = String::new();
    file.take(MAX_KEY_LEN)
        .read_to_string(&mut text)
        .map_err(fail)?;
    let key = text.trim_end().parse();
    key.map(Some).map_err(|error| KeysError::Key {
        path: path.to_owned(),
        error,
    })
}

/// Makes a key and keeps it in a file that nobody else may read, its public half beside it.
pub fn create(path: &Path, name: &str) -> Result<SecretKey, KeysError> {
    let key = SecretKey::draw(name)?;
    let fail = failing("write", path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(&fail)?;
    writeln!(file, "{}", key.to_secret_text()).map_err(&fail)?;
    file.sync_all().map_err(&fail)?;
    publish(path, &key)?;
    Ok(key)
}

/// Writes the public half of a key beside it.
pub fn publish(path: &Path, key: &SecretKey) -> Result<(), KeysError> {
    let path = beside(path, "pub");
    fs::write(&path, format!("{}\n", key.public())).map_err(failing("write", &path))
}

/// The file that a key's successor is put in.
#[must_use]
pub fn successor(path: &Path) -> PathBuf {
    beside(path, "next")
}

/// Makes the successor the key.
pub fn replace(path: &Path, key: &SecretKey) -> Result<(), KeysError> {
    let next = successor(path);
    fs::rename(&next, path).map_err(failing("rename", &next))?;
    publish(path, key)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn failing<'p>(what: &'static str, path: &'p Path) -> impl Fn(io::Error) -> KeysError + 'p {
    move |error| KeysError::File {
        what,
        path: path.to_owned(),
        error,
    }
}
