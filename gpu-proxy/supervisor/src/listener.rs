//! Sockets in the file system: one per zone, and the administrator's.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chown};
use thiserror::Error;

/// A listening socket; its file goes when it does.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// Owner, if it is to be changed.
    pub uid: Option<u32>,
    /// Group, if it is to be changed.
    pub gid: Option<u32>,
}

/// Why nobody can listen there.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Something that is not a socket has the name.
    #[error("{} exists and is not a socket; it is left alone, move it away", .0.display())]
    NotASocket(PathBuf),
    /// Somebody listens.
    #[error("{} is in use by another process; is a gpu-proxy already running?", .0.display())]
    InUse(PathBuf),
    /// Others could put a socket of their own into its place.
    #[error("{} may be written by others (mode {mode:04o}, owner {owner}); remove their permission", path.display())]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
    /// A system call failed.
    #[error("{}: cannot {action}: {error}", path.display())]
    System {
        /// File or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

impl Listener {
    /// Listens at `path`. A socket file that nobody listens on is replaced.
    pub fn open(path: &Path, kind: SockType, access: Access) -> Result<Self, ListenError> {
        let fail = |action| {
            move |errno: Errno| ListenError::System {
                path: path.to_owned(),
                action,
                error: errno.into(),
            }
        };
        remove_stale(path, kind)?;
        // It gets its name when it listens: whoever finds the file may connect. The name before that is
        // shorter than any socket's, so that it is not too long where the real one is not.
        let unnamed = path.with_file_name(".new");
        remove_stale(&unnamed, kind)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket =
            socket(AddressFamily::Unix, kind, flags, None).map_err(fail("make a socket"))?;
        UnixAddr::new(path).map_err(fail("use it as the name of a socket"))?;
        let address = UnixAddr::new(&unnamed).map_err(fail("use it as the name of a socket"))?;
        // Nobody can connect before the permissions are what they should be: the file starts without any,
        // and there is no backlog yet.
        let before = umask(Mode::from_bits_truncate(0o777));
        let bound = bind(socket.as_raw_fd(), &address);
        umask(before);
        bound.map_err(fail("bind a socket"))?;
        let mut listener = Self {
            socket,
            path: unnamed.clone(),
        };
        if access.uid.is_some() || access.gid.is_some() {
            let (uid, gid) = (access.uid.map(Uid::from_raw), access.gid.map(Gid::from_raw));
            chown(&unnamed, uid, gid).map_err(fail("change the owner of the socket"))?;
        }
        let failed = |action| {
            move |error| ListenError::System {
                path: path.to_owned(),
                action,
                error,
            }
        };
        fs::set_permissions(&unnamed, fs::Permissions::from_mode(access.mode))
            .map_err(failed("set permissions of the socket"))?;
        let backlog = Backlog::new(64).unwrap_or(Backlog::MAXCONN);
        listen(&listener.socket, backlog).map_err(fail("listen"))?;
        fs::rename(&unnamed, path).map_err(failed("give the socket its name"))?;
        listener.path = path.to_owned();
        Ok(listener)
    }

    /// Takes one connection, non-blocking.
    pub fn accept(&self) -> Result<OwnedFd, Errno> {
        idm_protocol::attach::socket::accept(self.socket.as_fd(), SockFlag::SOCK_NONBLOCK)
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a folder for sockets if it is not there, and refuses one that others may write to.
pub fn private_folder(path: &Path) -> Result<(), ListenError> {
    let fail = |action| {
        move |error| ListenError::System {
            path: path.to_owned(),
            action,
            error,
        }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(fail("make the folder"))?;
    let metadata = fs::metadata(path).map_err(fail("look at the folder"))?;
    let owner = metadata.uid();
    let trusted = owner == 0 || owner == Uid::effective().as_raw();
    if metadata.mode() & 0o022 != 0 || !trusted {
        let mode = metadata.mode() & 0o7777;
        return Err(ListenError::Exposed {
            path: path.to_owned(),
            mode,
            owner,
        });
    }
    Ok(())
}

fn remove_stale(path: &Path, kind: SockType) -> Result<(), ListenError> {
    let fail = |action| {
        move |error| ListenError::System {
            path: path.to_owned(),
            action,
            error,
        }
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail("look at it")(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listening = socket(AddressFamily::Unix, kind, flags, None)
        .and_then(|probe| connect(probe.as_raw_fd(), &UnixAddr::new(path)?));
    match listening {
        // Nobody is behind it.
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(fail("remove the stale socket")),
        // EAGAIN: its backlog is full; EPROTOTYPE: a socket of another kind listens.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Err(ListenError::InUse(path.to_owned())),
        Err(errno) => Err(fail("find out whether anybody listens")(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: Access = Access {
        mode: 0o600,
        uid: None,
        gid: None,
    };

    #[test]
    fn stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpu.sock");
        let listener = Listener::open(&path, SockType::SeqPacket, PRIVATE).unwrap();
        for kind in [SockType::SeqPacket, SockType::Stream] {
            assert!(matches!(
                Listener::open(&path, kind, PRIVATE),
                Err(ListenError::InUse(_))
            ));
        }
        // As after a crash: the socket is closed, its file stays.
        let Listener { socket, path: _ } = &listener;
        nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        let second = Listener::open(&path, SockType::SeqPacket, PRIVATE).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpu.sock");
        fs::write(&path, "precious").unwrap();
        let error = Listener::open(&path, SockType::SeqPacket, PRIVATE).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket(_)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_folder_that_others_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        private_folder(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            private_folder(&path),
            Err(ListenError::Exposed { mode: 0o777, .. })
        ));
    }
}
