//! What gets out of a worker's jail: started by gpu-proxy in the place of `vgpu-worker`, it builds the jail of
//! a worker with the worker's own code and tries.
//!
//! Each attempt is a child of its own, since the filter of system calls ends whoever tries: once without a
//! jail (so that it shows that there is something to stop), once with all of it but the filter, once with all
//! of it. Lines on standard error, which the proxy logs: `probe JAIL ATTEMPT: OUTCOME`, at the end `probe done`.
//!
//! As `vgpu-test-probe host` it prints what the machine offers, found out without any of the worker's code.

use std::fs::{self, File};
use std::io;
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::exit;

use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use proxy_channel::args::WorkerArgs;
use proxy_channel::worker::WorkerChannel;
use vgpu_worker::driver::Driver;
use vgpu_worker::harden::{self, Plan};

mod attempts;

use attempts::{ATTEMPTS, Target};

/// How much of the jail an attempt is made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    Free,
    Unfiltered,
    Sealed,
}

const DEPTHS: [(&str, Depth); 3] = [
    ("free", Depth::Free),
    ("unfiltered", Depth::Unfiltered),
    ("sealed", Depth::Sealed),
];

fn main() {
    if std::env::args().nth(1).is_some_and(|word| word == "host") {
        return host();
    }
    let args = WorkerArgs::from_args(std::env::args_os().skip(1)).expect("arguments of a worker");
    let socket = std::env::temp_dir().join(format!("vgpu-probe-{}", std::process::id()));
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).ok();
    let target = Target {
        process: Pid::this(),
        folder: fs::canonicalize("/proc/self").expect("/proc is mounted"),
        socket: socket.clone(),
    };
    for (name, attempt) in ATTEMPTS {
        for (jail, depth) in DEPTHS {
            let outcome = in_child(|| {
                if depth != Depth::Free {
                    confine(&args, depth)?;
                }
                attempt(&target)
            });
            eprintln!("probe {jail} {name}: {outcome}");
        }
    }
    drop(listener);
    let _ = fs::remove_file(&socket);
    eprintln!("probe done");
    // Until the proxy is stopped: no worker that failed, so none that is started anew.
    let channel = WorkerChannel::from_inherited_fd().expect("a channel");
    let _ = channel.receive();
}

/// The steps of `vgpu_worker::process`, in its order.
fn confine(args: &WorkerArgs, depth: Depth) -> io::Result<()> {
    let jail = harden::begin(Plan::new(args)).unwrap_or_else(|error| failed(&error));
    // SAFETY: the supervisor's configuration names the driver library, as it does for a worker.
    let driver = unsafe { Driver::load(&args.driver_path) };
    let driver = driver.unwrap_or_else(|error| failed(&error));
    // Its threads go on as they would in a worker.
    std::mem::forget(driver);
    match depth {
        Depth::Unfiltered => drop(jail.seal_but_for_calls()),
        Depth::Free | Depth::Sealed => drop(jail.seal()),
    }
    Ok(())
}

fn failed(error: &dyn std::fmt::Display) -> ! {
    eprintln!("probe has no jail: {error}");
    exit(NO_JAIL)
}

const REACHED: i32 = 0;
const NO_JAIL: i32 = 255;

/// What became of something that a child tried.
fn in_child(attempt: impl FnOnce() -> io::Result<()>) -> String {
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Child) => {
            let code = match attempt() {
                Ok(()) => REACHED,
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            // The exit handlers of a driver whose threads run are none of ours.
            harden::exit(code)
        }
        Ok(ForkResult::Parent { child }) => loop {
            return match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, REACHED)) => "reached".into(),
                Ok(WaitStatus::Exited(_, NO_JAIL)) => "no jail".into(),
                Ok(WaitStatus::Exited(_, code)) => {
                    format!("refused ({})", nix::errno::Errno::from_raw(code))
                }
                Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _)) => "refused (killed)".into(),
                Ok(WaitStatus::Stopped(..) | WaitStatus::Continued(_)) => continue,
                other => format!("unclear ({other:?})"),
            };
        },
        Err(error) => format!("unclear ({error})"),
    }
}

/// Whether this process may make a control group in which threads are counted.
fn groups_can_be_made() -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    own.lines().any(|line| {
        let path = line.rsplit(':').next().unwrap_or_default();
        let root = match line.contains(":pids:") {
            true => "/sys/fs/cgroup/pids",
            false if line.starts_with("0::") => "/sys/fs/cgroup",
            false => return false,
        };
        let group = format!("{root}{path}/vgpu-test-probe-{}", std::process::id());
        let made = fs::create_dir(&group).is_ok();
        let counts = fs::exists(format!("{group}/pids.max")).unwrap_or(false);
        let _ = fs::remove_dir(&group);
        made && counts
    })
}

/// Prints the names of the layers that this machine offers to this user.
fn host() {
    let root = nix::unistd::geteuid().is_root();
    let can = |flags: CloneFlags| in_child(|| Ok(nix::sched::unshare(flags)?)) == "reached";
    let user = can(CloneFlags::CLONE_NEWUSER);
    let with_user = |flag| can(CloneFlags::CLONE_NEWUSER | flag) || can(flag);
    // SAFETY: asks for the version; no pointer is given.
    let landlock = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0,
            1,
        )
    };
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail");
    let offers = [
        ("process", true),
        ("limits", true),
        ("capabilities", true),
        ("user-namespace", user),
        ("root", with_user(CloneFlags::CLONE_NEWNS)),
        ("ipc", with_user(CloneFlags::CLONE_NEWIPC)),
        // Shared by a zone's workers, so that only a supervisor that may can make it.
        ("network", root && can(CloneFlags::CLONE_NEWNET)),
        ("processes", root && can(CloneFlags::CLONE_NEWPID)),
        ("cgroup", groups_can_be_made()),
        ("landlock", landlock >= 1),
        (
            "calls",
            actions.is_ok_and(|actions| actions.contains("kill_process")),
        ),
    ];
    for (layer, _) in offers.iter().filter(|(_, offered)| *offered) {
        println!("{layer}");
    }
}
