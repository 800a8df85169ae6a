//! Another user of the host, who is neither the administrator nor a zone's user.
#![allow(unsafe_code, reason = "a thread becomes another user")]

use std::fs::{Permissions, set_permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use e2e::{Setup, Zone};

/// Nobody.
const STRANGER: libc::c_ulong = 65_534;

/// What comes of `attempt` in a thread that is that user's.
fn as_stranger<T: Send>(attempt: impl FnOnce() -> T + Send) -> T {
    let become_stranger = || {
        let nobody = STRANGER;
        // SAFETY: takes numbers, and no groups. The kernel keeps users by thread; this one ends as a stranger.
        let rc = unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) };
        assert_eq!(rc, 0);
        // SAFETY: as above.
        let rc = unsafe { libc::syscall(libc::SYS_setresgid, nobody, nobody, nobody) };
        assert_eq!(rc, 0);
        // SAFETY: as above.
        let rc = unsafe { libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody) };
        assert_eq!(rc, 0);
    };
    thread::scope(|scope| {
        let stranger = scope.spawn(|| {
            become_stranger();
            attempt()
        });
        stranger.join().expect("it can be a stranger")
    })
}

/// What is heard on a socket when this was said.
fn heard(socket: &Path, words: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reply = String::new();
    // It may be hung up on before it has said anything.
    let _ = stream.write_all(words.as_bytes());
    match stream.read_to_string(&mut reply) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error),
        _ => Ok(reply),
    }
}

#[test]
fn a_stranger_learns_nothing_from_the_admin_socket_however_it_is_reached() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    let proxy = Setup::new().zone(Zone::new("a")).start();
    let socket = proxy.directory().join("run/admin.sock");
    let zone = proxy.socket("a");
    assert!(heard(&socket, "status 1\n").unwrap().contains("\"a\""));

    // What stands above the proxy's own folder is the test's.
    set_permissions(proxy.directory(), Permissions::from_mode(0o755)).unwrap();
    let denied = as_stranger(|| heard(&socket, "status 1\n")).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    let denied = as_stranger(|| UnixStream::connect(&zone)).unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);

    // An administrator opens everything by mistake.
    for path in [socket.parent().unwrap(), &socket] {
        set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    assert_eq!(as_stranger(|| heard(&socket, "status 1\n")).unwrap(), "");
    assert_eq!(
        as_stranger(|| heard(&socket, "policy reload 1\n")).unwrap(),
        ""
    );
    assert!(
        proxy
            .log()
            .contains("a user that is not the administrator connected to the admin socket")
    );
    assert!(heard(&socket, "status 1\n").unwrap().contains("\"a\""));
}
