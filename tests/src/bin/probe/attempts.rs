//! What a worker that was taken over might try.

use std::sync::atomic::AtomicU8;

use super::*;

/// What the attempts are made on: the probe itself, outside the jail, of the same user.
#[derive(Clone, Debug)]
pub struct Target {
    pub process: Pid,
    /// What `/proc` calls it, which may be of another namespace.
    pub folder: PathBuf,
    pub socket: PathBuf,
}

type Attempt = fn(&Target) -> io::Result<()>;

pub const ATTEMPTS: [(&str, Attempt); 21] = [
    ("read-a-file", |_| File::open("/etc/passwd").map(drop)),
    ("list-the-root", |_| fs::read_dir("/").map(drop)),
    ("create-a-file", |_| {
        let path = std::env::temp_dir().join(format!("vgpu-probe-file-{}", std::process::id()));
        File::create(&path)?;
        fs::remove_file(path)
    }),
    ("read-an-environment", |target| {
        fs::read(target.folder.join("environ")).map(drop)
    }),
    ("open-memory", |target| {
        File::options()
            .write(true)
            .open(target.folder.join("mem"))
            .map(drop)
    }),
    ("read-memory", |target| {
        let (mut byte, place) = (0_u8, PLACE.as_ptr());
        let local = iovec((&raw mut byte).cast());
        let remote = iovec(place.cast());
        // SAFETY: a byte here, and one that the same program has at the same address there.
        done(
            unsafe { libc::process_vm_readv(target.process.as_raw(), &local, 1, &remote, 1, 0) }
                >= 0,
        )
    }),
    ("write-memory", |target| {
        let (mut byte, place) = (7_u8, PLACE.as_ptr());
        let local = iovec((&raw mut byte).cast());
        let remote = iovec(place.cast());
        // SAFETY: as above; nobody minds the byte, and it stays as it is.
        done(
            unsafe { libc::process_vm_writev(target.process.as_raw(), &local, 1, &remote, 1, 0) }
                >= 0,
        )
    }),
    ("trace", |target| {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: takes a number and two arguments that are zero.
        done(
            unsafe {
                libc::ptrace(
                    libc::PTRACE_SEIZE,
                    target.process.as_raw(),
                    nothing,
                    nothing,
                )
            } >= 0,
        )
    }),
    ("signal", |target| Ok(kill(target.process, Signal::SIGURG)?)),
    ("signal-a-thread", |target| {
        let pid = target.process.as_raw();
        // SAFETY: plain numbers.
        done(unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGURG) } >= 0)
    }),
    ("name-a-process", |target| {
        // SAFETY: plain numbers.
        done(unsafe { libc::syscall(libc::SYS_pidfd_open, target.process.as_raw(), 0) } >= 0)
    }),
    ("fork", |_| {
        // SAFETY: the child ends at once.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Child => harden::exit(0),
            ForkResult::Parent { child } => Ok(waitpid(child, None).map(drop)?),
        }
    }),
    ("execute", |_| {
        Err(nix::unistd::execv(c"/bin/true", &[c"true"])
            .expect_err("it does not return otherwise")
            .into())
    }),
    ("internet", |_| {
        UdpSocket::bind("127.0.0.1:0")?.connect("127.0.0.1:9")
    }),
    ("local-socket", |target| {
        UnixStream::connect(&target.socket).map(drop)
    }),
    ("abstract-socket", |_| {
        // The test listens there, in the host's network.
        let name = std::env::var("PROBED_SOCKET").map_err(io::Error::other)?;
        UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?).map(drop)
    }),
    ("new-namespace", |_| {
        Ok(nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?)
    }),
    ("be-dumpable", |_| Ok(nix::sys::prctl::set_dumpable(true)?)),
    ("new-root", |_| Ok(nix::unistd::chroot("/")?)),
    ("executable-memory", |_| {
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping wherever there is room.
        let got = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
        if got == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }),
    ("signals-by-descriptor", |target| {
        let (reader, _writer) = io::pipe()?;
        let owner = target.process.as_raw();
        // SAFETY: an open descriptor and a number.
        let rc = unsafe {
            libc::fcntl(
                std::os::fd::AsRawFd::as_raw_fd(&reader),
                libc::F_SETOWN,
                owner,
            )
        };
        done(rc >= 0)
    }),
];

/// A byte that can be written to.
static PLACE: AtomicU8 = AtomicU8::new(7);

fn iovec(base: *mut libc::c_void) -> libc::iovec {
    libc::iovec {
        iov_base: base,
        iov_len: 1,
    }
}

/// What the C library said, where a negative number means that the reason is in `errno`.
fn done(good: bool) -> io::Result<()> {
    if !good {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
