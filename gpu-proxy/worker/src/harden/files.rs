//! Landlock: what of files, ports and processes stays in reach, whatever permissions say.
//!
//! The kernel holds the rules against a thread and those that it makes. They therefore come in two steps:
//! before the driver is loaded, what loading needs, for all threads; when it is initialised, what serving
//! needs, for the threads that serve.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use proxy_channel::DriverKind;
use proxy_channel::jail::{Layer, Report, State};

use super::Plan;

/// The newest that this code knows; an older kernel enforces what it has.
const NEWEST: ABI = ABI::V6;

/// Where the C library looks for libraries.
const LIBRARIES: [&str; 6] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/nix/store",
];

/// Where the kernel tells of the machine.
const SYSTEM: [&str; 2] = ["/proc", "/sys"];

/// What some thread may reach.
#[derive(Debug, Default)]
struct Reach {
    read: Vec<PathBuf>,
    /// Devices: opened for writing too, and spoken to.
    devices: Vec<PathBuf>,
    /// Folders to do anything in.
    write: Vec<PathBuf>,
    abstract_sockets: bool,
}

/// The first step.
pub fn limit_loading(plan: &Plan) -> Report {
    let mut reach = serving(plan);
    reach.read.push(plan.driver_path.clone());
    reach.read.extend(LIBRARIES.map(PathBuf::from));
    reach.read.extend(SYSTEM.map(PathBuf::from));
    report(limit(&reach))
}

/// The second step. Its report stands for both.
pub fn limit_serving(plan: &Plan, first: Report) -> Report {
    let nvidia = plan.driver_kind == DriverKind::NVIDIA;
    // That driver loads compilers and opens devices when a program first needs them.
    if first.state != State::ON || nvidia {
        return first;
    }
    report(limit(&serving(plan)))
}

/// What the driver needs while it serves, as far as it differs from what it needs before.
fn serving(plan: &Plan) -> Reach {
    let mut reach = Reach::default();
    if plan.driver_kind == DriverKind::NVIDIA {
        let real = fs::canonicalize(&plan.driver_path);
        reach
            .read
            .extend(real.ok().and_then(|path| path.parent().map(Path::to_owned)));
        reach.devices = devices(Path::new("/dev"));
    } else {
        reach.write.extend(plan.shared_device.clone());
        // It passes memory between the workers of a zone so.
        reach.abstract_sockets = true;
    }
    reach
}

/// NVIDIA's device nodes; those that are made later are out of reach.
fn devices(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().starts_with(b"nvidia") || name == "dxg"
        })
        .map(|entry| entry.path())
        .collect()
}

fn limit(reach: &Reach) -> Result<landlock::RestrictionStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let device = read | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut scopes: BitFlags<Scope> = Scope::Signal.into();
    if !reach.abstract_sockets {
        scopes |= Scope::AbstractUnixSocket;
    }
    // The right to execute is given for nothing: libraries are mapped, which needs none.
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(scopes)?
        .create()?
        .add_rules(path_beneath_rules(&reach.read, read))?
        .add_rules(path_beneath_rules(&reach.devices, device))?
        .add_rules(path_beneath_rules(
            &reach.write,
            AccessFs::from_all(NEWEST) & !AccessFs::Execute,
        ))?
        .restrict_self()
}

fn report(outcome: Result<landlock::RestrictionStatus, RulesetError>) -> Report {
    let status = match outcome {
        Ok(status) => status,
        Err(error) => return Report::new(Layer::LANDLOCK, State::MISSING, &error.to_string()),
    };
    let why = match status.landlock {
        LandlockStatus::NotEnabled => {
            "the kernel has it, but it is not enabled at boot (lsm=)".into()
        }
        LandlockStatus::NotImplemented => "the kernel has none (Linux 5.13 and later do)".into(),
        LandlockStatus::Available { effective_abi, .. } => {
            format!("this kernel knows version {effective_abi} of {NEWEST} and enforces that")
        }
    };
    match status.ruleset {
        RulesetStatus::FullyEnforced => Report::on(Layer::LANDLOCK),
        RulesetStatus::PartiallyEnforced => Report::new(Layer::LANDLOCK, State::ON, &why),
        RulesetStatus::NotEnforced => Report::new(Layer::LANDLOCK, State::MISSING, &why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_gpus_nodes_are_devices_of_the_driver() {
        let folder = std::env::temp_dir().join(format!("vgpu-devices-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for name in ["nvidia0", "nvidiactl", "nvidia-uvm", "dxg", "sda", "kvm"] {
            fs::write(folder.join(name), "").unwrap();
        }
        let mut found = devices(&folder);
        found.sort();
        fs::remove_dir_all(&folder).unwrap();
        let names = ["dxg", "nvidia-uvm", "nvidia0", "nvidiactl"];
        assert_eq!(found, names.map(|name| folder.join(name)));
        assert_eq!(devices(Path::new("/nowhere")), Vec::<PathBuf>::new());
    }

    /// Tries on a thread of its own, which the rules end with.
    fn attempt<T: Send + 'static>(reach: Reach, work: fn() -> T) -> Option<T> {
        let tried = std::thread::spawn(move || {
            let status = limit(&reach).unwrap();
            (status.ruleset != RulesetStatus::NotEnforced).then(work)
        });
        tried.join().unwrap()
    }

    #[test]
    fn what_is_not_in_reach_is_refused_and_what_is_can_only_be_read() {
        let reach = || Reach {
            read: vec!["/proc/self".into(), "/dev/zero".into()],
            ..Reach::default()
        };
        let Some(outside) = attempt(reach(), || fs::read("/etc/passwd").map(drop)) else {
            eprintln!("SKIPPED: this kernel has no Landlock");
            return;
        };
        assert_eq!(
            outside.unwrap_err().kind(),
            std::io::ErrorKind::PermissionDenied
        );
        let inside = attempt(reach(), || fs::File::open("/dev/zero").map(drop));
        assert!(inside.unwrap().is_ok());
        let written = attempt(reach(), || {
            fs::File::options().write(true).open("/dev/zero").map(drop)
        });
        assert!(written.unwrap().is_err());
        let run = attempt(reach(), || std::process::Command::new("/bin/true").spawn());
        assert!(run.unwrap().is_err());
        // This thread is as free as before.
        assert!(fs::read("/etc/passwd").is_ok());
    }
}
