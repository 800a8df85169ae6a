//! A few bytes that change often: how far something is.
//!
//! They are written over in place and never synchronised: a process that is killed loses nothing, and after a loss of
//! power the file may say less than is true, never more, since what it tells of was on disk before.

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{SpoolError, failing};

/// One such file.
#[derive(Debug)]
pub struct Marker {
    file: File,
    path: PathBuf,
    len: usize,
}

impl Marker {
    /// The file and what it holds: nothing if there was none.
    pub fn open(folder: &Path, name: &str) -> Result<(Self, Vec<u8>), SpoolError> {
        let path = folder.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o600).open(&path);
        let mut file = file.map_err(failing("open", &path))?;
        let mut held = Vec::new();
        file.read_to_end(&mut held)
            .map_err(failing("read", &path))?;
        let len = held.len();
        Ok((Self { file, path, len }, held))
    }

    /// Puts `bytes` there; what was longer before becomes spaces.
    pub fn set(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let mut whole = bytes.to_vec();
        whole.resize(self.len.max(bytes.len()), b' ');
        self.file
            .write_all_at(&whole, 0)
            .map_err(failing("write", &self.path))?;
        self.len = whole.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_last_is_there_and_nothing_of_what_was_longer() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Marker::open(folder.path(), "far").unwrap();
        let (mut marker, held) = open();
        assert_eq!(held, b"");
        marker.set(b"1234\n").unwrap();
        marker.set(b"7\n").unwrap();
        assert_eq!(open().1, b"7\n   ");
    }
}
