//! Worker processes: started with nothing inherited but their channel, ended with everything they started.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getppid, setsid};
use proxy_channel::CHANNEL_FD;
use proxy_channel::jail::{Layer, Report, State};

use crate::namespaces::{Away, Network};

/// Environment variables of the supervisor that a worker also gets. Everything else is what the configuration
/// says.
pub const PASSED_ENVIRONMENT: [&str; 3] = ["LANG", "TZ", "RUST_BACKTRACE"];

/// Those of [`PASSED_ENVIRONMENT`] that are set.
pub(crate) fn passed_environment() -> impl Iterator<Item = (&'static str, OsString)> {
    let set = PASSED_ENVIRONMENT.into_iter();
    set.filter_map(|key| Some((key, std::env::var_os(key)?)))
}

/// Descriptor 3, kept occupied in the supervisor for as long as it runs.
///
/// A worker finds its channel there. Were the number free, the supervisor's own descriptors, among them the
/// one that the standard library reports a failed exec on, could land on it and be overwritten in the child.
#[derive(Debug)]
pub struct ChannelSlot {
    _occupant: Option<OwnedFd>,
}

impl ChannelSlot {
    /// Occupies the number; call it before anything else is opened.
    pub fn occupy() -> io::Result<Self> {
        let null = std::fs::File::open("/dev/null")?;
        if null.as_raw_fd() == CHANNEL_FD {
            return Ok(Self {
                _occupant: Some(null.into()),
            });
        }
        // Something inherited sits there, or nothing does and `null` landed below because a standard stream
        // is closed. Duplicating to "3 or the next free one" tells which.
        // `F_DUPFD_CLOEXEC` returns a new descriptor that nobody else knows.
        let raw = fcntl(&null, FcntlArg::F_DUPFD_CLOEXEC(CHANNEL_FD))?;
        let copy = adopt(raw);
        Ok(Self {
            _occupant: (raw == CHANNEL_FD).then_some(copy),
        })
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The worker's executable, absolute.
    pub executable: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its environment, besides [`PASSED_ENVIRONMENT`].
    pub environment: Vec<(String, String)>,
    /// The user to become, if the supervisor is root.
    pub uid: Option<u32>,
    /// The group to become, if the supervisor is root.
    pub gid: Option<u32>,
    /// Whether to be the first of a namespace of process ids, or why not.
    pub own_processes: Result<(), &'static str>,
    /// The network that it is to share, or why there is none; nothing if it answers for that itself.
    pub network: Option<Result<&'a Network, Errno>>,
}

/// A worker that was started.
#[derive(Debug)]
pub struct Started {
    /// The process.
    pub process: Process,
    /// The reading end of its standard error.
    pub stderr: OwnedFd,
    /// The layers of its jail that it was born into.
    pub layers: Vec<Report>,
}

/// A running worker, in a session and process group of its own.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Pid,
    killed_at: Option<Instant>,
}

/// How long a killed process may take to be gone: one that takes longer is stuck in the kernel.
pub const UNKILLABLE: Duration = Duration::from_secs(5);

impl Process {
    /// Starts a worker with `channel` as its descriptor 3.
    pub fn start(launch: &Launch<'_>, channel: BorrowedFd<'_>) -> io::Result<Started> {
        let mut command = Command::new(&launch.executable);
        command
            .args(&launch.args)
            .env_clear()
            .envs(passed_environment())
            .envs(launch.environment.iter().map(|(key, value)| (key, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(gid) = launch.gid {
            command.gid(gid);
        }
        if let Some(uid) = launch.uid {
            command.uid(uid);
        }
        seal_child(&mut command, channel.as_raw_fd());
        let mut layers = Vec::new();
        let processes = match launch.own_processes {
            Ok(()) => {
                let report = Report::on(Layer::PROCESSES);
                settle(Away::from_processes(), report, &mut layers)
            }
            Err(why) => {
                layers.push(Report::new(Layer::PROCESSES, State::OFF, why));
                None
            }
        };
        let network = launch.network.and_then(|network| {
            let report = Report::new(Layer::NETWORK, State::ON, "the zone's workers share one");
            settle(network.and_then(Network::enter), report, &mut layers)
        });
        let spawned = command.spawn();
        let home = [processes, network].map(|away| away.map_or(Ok(()), Away::go_home));
        home.into_iter().collect::<Result<(), Errno>>()?;
        let mut child = spawned?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        // `Stdio::piped` was asked for, so there is one.
        let stderr = child
            .stderr
            .take()
            .ok_or_else(|| io::Error::other("no standard error"))?;
        Ok(Started {
            process: Self {
                child,
                group: Pid::from_raw(pid),
                killed_at: None,
            },
            stderr: stderr.into(),
            layers,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how. What it may have started ends with it: its process id still names the
    /// group until it is waited for, so no other group can be hit.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.group), flags) {
            Ok(WaitStatus::StillAlive) => None,
            Ok(_) | Err(Errno::ECHILD) => {
                let _ = killpg(self.group, Signal::SIGKILL);
                // An error here means that somebody else has waited for it; it is gone all the same.
                Some(
                    self.child
                        .wait()
                        .unwrap_or_else(|_| ExitStatus::from_raw(0)),
                )
            }
            Err(_) => None,
        }
    }

    /// Kills it and what it started. [`Process::ended`] tells when it is gone.
    pub fn kill(&mut self) {
        self.killed_at.get_or_insert_with(Instant::now);
        // It has not been waited for (`ended` consumes that), so the id is still its own.
        let _ = killpg(self.group, Signal::SIGKILL);
    }

    /// When it counts as stuck in the kernel, if it was killed and is not gone by then.
    #[must_use]
    pub fn stuck_from(&self) -> Option<Instant> {
        self.killed_at.map(|at| at + UNKILLABLE)
    }
}

/// Reports a layer that a child is born into, if it will be.
fn settle(away: Result<Away, Errno>, on: Report, layers: &mut Vec<Report>) -> Option<Away> {
    layers.push(match away {
        Ok(_) => on,
        Err(errno) => {
            let why = format!("gpu-proxy may not make any ({errno})");
            Report::new(on.layer, State::MISSING, &why)
        }
    });
    away.ok()
}

/// How a process ended, for people.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(libc::SIGSYS)) => {
            "killed by SIGSYS: a system call that its filter does not know; see docs/jail.md".into()
        }
        (_, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
        _ => "ended".into(),
    }
}

/// Whether the file is there and may be executed.
pub fn executable(path: &Path) -> Result<(), String> {
    let metadata =
        std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if !metadata.is_file() {
        return Err(format!("{} is not a file", path.display()));
    }
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK)
        .map_err(|errno| format!("{} cannot be executed: {errno}", path.display()))
}

#[allow(unsafe_code, reason = "takes a descriptor that fcntl has just made")]
fn adopt(raw: i32) -> OwnedFd {
    // SAFETY: the caller got `raw` from `F_DUPFD_CLOEXEC` a moment ago; nobody else knows it.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) }
}

#[allow(unsafe_code, reason = "runs between fork and exec; explained inside")]
fn seal_child(command: &mut Command, channel: i32) {
    let parent = nix::unistd::getpid();
    let in_child = move || {
        setsid()?;
        // The supervisor takes its signals from a descriptor and blocks them; a worker does not.
        SigSet::empty().thread_set_mask()?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The supervisor may have died before the line above took effect. Seen from a namespace of its own it
        // has no number; then the end of the channel tells.
        if getppid() != parent && getppid().as_raw() != 0 {
            return Err(Errno::ESRCH.into());
        }
        // A core file would hold a tenant's data.
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        // SAFETY: plain numbers. The target is a number that the supervisor keeps occupied, so nothing that
        // the child still needs is overwritten; the copy is inherited, the original is close-on-exec.
        if unsafe { libc::dup2(channel, CHANNEL_FD) } != CHANNEL_FD {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: plain numbers; marks what must not reach the worker, should anything have been opened
        // without the flag. Kernels before 5.11 do not know the call; everything of ours has the flag anyway.
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                libc::c_uint::from(CHANNEL_FD.unsigned_abs() + 1),
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        Ok(())
    };
    // SAFETY: the closure makes system calls on copied numbers, allocates nothing and takes no lock, so it is
    // safe in a forked child of a process with any number of threads.
    unsafe { command.pre_exec(in_child) };
}
