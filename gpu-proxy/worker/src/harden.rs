//! What a worker takes away from itself before it loads anything (D16).
//!
//! The jail is built in two steps. [`begin`] makes what must be there before the driver has threads;
//! [`Jail::seal`] closes it when the driver is initialised, before the worker says that it is ready, and so
//! before a tenant's descriptors arrive. Each layer is a module: [`namespaces`], [`limits`],
//! [`capabilities`], [`files`] (Landlock), [`calls`] (seccomp). A layer that the host does not offer is
//! reported and the others are built all the same.

use std::ffi::OsStr;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use proxy_channel::args::WorkerArgs;
use proxy_channel::jail::{Layer, Mode, Report, State};
use proxy_channel::{DriverKind, Text};

pub mod calls;
pub mod capabilities;
pub mod files;
pub mod limits;
pub mod namespaces;

use namespaces::{Root, Wanted};

/// Environment that the driver may need. Everything else is removed.
const KEPT: [&str; 6] = [
    "SOFTGPU_",
    "CUDA_",
    "NVIDIA_",
    "VGPU_LOG",
    "RUST_BACKTRACE",
    "TZ",
];

/// What kind of jail, around what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How much of it.
    pub mode: Mode,
    /// What the driver is.
    pub driver_kind: DriverKind,
    /// The driver's library.
    pub driver_path: PathBuf,
    /// The folder through which several processes share a software GPU, if they do.
    pub shared_device: Option<PathBuf>,
}

impl Plan {
    /// The plan of a worker that was started so.
    #[must_use]
    pub fn new(args: &WorkerArgs) -> Self {
        let shared = std::env::var_os("SOFTGPU_SHARED").map(PathBuf::from);
        Self {
            mode: args.jail,
            driver_kind: args.driver_kind,
            driver_path: args.driver_path.clone(),
            shared_device: shared.filter(|_| args.driver_kind == DriverKind::SOFTGPU),
        }
    }

    fn namespaces(&self) -> Wanted {
        let nvidia = self.driver_kind == DriverKind::NVIDIA;
        Wanted {
            root: if nvidia {
                Err("the driver loads libraries and opens devices while it serves")
            } else if self.shared_device.is_some() {
                Err("the software GPU's devices are files that several processes share")
            } else {
                Ok(())
            },
            network: nvidia,
        }
    }
}

/// A jail that is not sealed yet.
#[derive(Debug)]
pub struct Jail {
    plan: Plan,
    root: Option<Root>,
    landlock: Option<Report>,
    reports: Vec<Report>,
}

/// Limits this process before it has loaded anything. Call it before any other thread exists.
///
/// # Errors
/// The system's reason; the worker does not go on without these. What else the host does not offer is
/// reported by [`Jail::seal`].
pub fn begin(plan: Plan) -> Result<Jail, Errno> {
    scrub_environment();
    let mut jail = Jail {
        root: None,
        landlock: None,
        reports: Vec::new(),
        plan,
    };
    // First, since a process that is not dumpable cannot write its own maps of users.
    let namespaces =
        (jail.plan.mode == Mode::Enforce).then(|| namespaces::enter(jail.plan.namespaces()));
    // A worker outlives nobody, not even its supervisor.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // No core file and no ptrace: the tenant's data and the driver's state stay inside.
    nix::sys::prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    nix::sys::prctl::set_no_new_privs()?;
    jail.reports.push(Report::on(Layer::PROCESS));
    if let Some(namespaces) = namespaces {
        jail.reports.extend(namespaces.reports);
        jail.root = namespaces.root;
        jail.reports.push(limits::set(namespaces.user));
        jail.reports.push(capabilities::drop_all());
        jail.landlock = Some(files::limit_loading(&jail.plan));
    }
    Ok(jail)
}

impl Jail {
    /// Seals what can be sealed once the driver is initialised, and tells of every layer.
    #[must_use]
    pub fn seal(self) -> Vec<Report> {
        let plan = self.plan.clone();
        let mut reports = self.seal_but_for_calls();
        if plan.mode != Mode::Off {
            reports.push(calls::seal(&plan));
        }
        reports
    }

    /// All of [`Jail::seal`] but the filter of system calls, so that a test sees what the rest stops.
    #[must_use]
    pub fn seal_but_for_calls(self) -> Vec<Report> {
        let Self {
            plan,
            root,
            landlock,
            mut reports,
        } = self;
        reports.extend(root.map(Root::empty));
        reports.extend(landlock.map(|first| files::limit_serving(&plan, first)));
        match plan.mode {
            Mode::Enforce => {}
            Mode::Log => {
                // The driver's own threads may go on doing what they need capabilities for.
                let mut report = capabilities::drop_all();
                report.why = Text::new("of the threads that serve; the driver's own keep theirs");
                reports.push(limits::set(false));
                reports.push(report);
                reports.extend(
                    LEARNED_LATER
                        .map(|layer| Report::new(layer, State::OFF, "driver.jail is \"log\"")),
                );
            }
            Mode::Off => reports.extend(
                LEARNED_LATER
                    .into_iter()
                    .chain([Layer::LIMITS, Layer::CAPABILITIES, Layer::CALLS])
                    .map(|layer| Report::new(layer, State::OFF, "driver.jail is \"off\"")),
            ),
        }
        reports
    }
}

/// What a driver that has not been tried with it might mind.
const LEARNED_LATER: [Layer; 5] = [
    Layer::USER_NAMESPACE,
    Layer::ROOT,
    Layer::NETWORK,
    Layer::IPC,
    Layer::LANDLOCK,
];

/// Ends this process at once, without the exit handlers of a driver whose threads still run.
pub fn exit(code: i32) -> ! {
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// Logs a panic and ends the worker: no half-done state is worth going on with.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        tracing::error!(%info, "panic; the worker ends");
        std::process::abort();
    }));
}

fn scrub_environment() {
    let removed: Vec<_> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| !is_kept(name))
        .collect();
    for name in removed {
        // SAFETY: no other thread exists yet (`begin`), so nobody reads the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }
}

fn is_kept(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    // The loader's own variables start with LD_; none of them is on the list.
    KEPT.iter()
        .any(|prefix| name.starts_with(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_not_told_what_to_preload() {
        assert!(is_kept(OsStr::new("SOFTGPU_THREADS")));
        assert!(is_kept(OsStr::new("CUDA_VISIBLE_DEVICES")));
        for name in [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "HOME",
            "PATH",
            "AWS_SECRET",
        ] {
            assert!(!is_kept(OsStr::new(name)), "{name}");
        }
    }
}
