//! Control groups: what the kernel counts of all workers of a zone together, and how much of it there may be.
//!
//! A zone's group is made below the group that the supervisor itself is in, where it may make any: what the unit or the
//! container of the supervisor is limited to holds for the workers as before. Both versions of the kernel's interface are
//! known. A group is removed with its zone; what a supervisor that was killed left, the next one removes.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::debug;

/// Where the kernel shows groups.
const MOUNT: &str = "/sys/fs/cgroup";

/// Threads and processes of one client at its worst, and of each further one in ordinary use.
const TASKS: u64 = 4096;
const TASKS_MORE: u64 = 256;

/// What may be counted, with the file that limits it in either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    Tasks,
    Memory,
}

impl Controller {
    const ALL: [Self; 2] = [Self::Tasks, Self::Memory];

    fn name(self) -> &'static str {
        match self {
            Self::Tasks => "pids",
            Self::Memory => "memory",
        }
    }

    fn limit_file(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Tasks, _) => "pids.max",
            (Self::Memory, Version::One) => "memory.limit_in_bytes",
            (Self::Memory, Version::Two) => "memory.max",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A controller and the supervisor's own group there.
#[derive(Debug)]
struct Place {
    controller: Controller,
    version: Version,
    folder: PathBuf,
}

/// Where the supervisor may make groups.
#[derive(Debug)]
pub struct Cgroups {
    places: Vec<Place>,
    pid: u32,
}

/// One zone's group; removed when it is dropped.
#[derive(Debug)]
pub struct Cgroup(Vec<PathBuf>);

/// What a zone's workers may have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Clients at one time.
    pub clients: u32,
    /// Host memory in bytes, if it is limited.
    pub memory: Option<u64>,
}

impl Cgroups {
    /// Finds out which controllers the supervisor's own groups have, and removes what dead supervisors left there.
    #[must_use]
    pub fn find() -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let places = Controller::ALL
            .into_iter()
            .filter_map(|controller| place(&own, Path::new(MOUNT), controller))
            .collect();
        let found = Self {
            places,
            pid: std::process::id(),
        };
        found.remove_the_deads();
        found
    }

    /// Makes a zone's group.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn zone(&self, zone: &str, bounds: Bounds) -> Result<Cgroup, String> {
        let mut group = Cgroup(Vec::new());
        for controller in Controller::ALL {
            let limit = match controller {
                Controller::Tasks => TASKS + TASKS_MORE * u64::from(bounds.clients),
                Controller::Memory => match bounds.memory {
                    Some(memory) => memory,
                    None => continue,
                },
            };
            let name = controller.name();
            let place = self.places.iter().find(|at| at.controller == controller);
            let place = place.ok_or_else(|| {
                format!("this host has no {name} controller for gpu-proxy's group")
            })?;
            let folder = place.folder.join(format!("vgpu-{}-{zone}", self.pid));
            let fail = |error: io::Error| format!("{}: {error}", folder.display());
            if !group.0.contains(&folder) {
                fs::create_dir(&folder).map_err(fail)?;
                // From here on it is removed also if what follows fails.
                group.0.push(folder.clone());
            }
            let file = folder.join(controller.limit_file(place.version));
            fs::write(&file, limit.to_string())
                .map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(group)
    }

    fn remove_the_deads(&self) {
        for place in &self.places {
            for entry in fs::read_dir(&place.folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let pid = name.to_str().and_then(owner);
                if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
                    // One in which something still runs stays.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

impl Cgroup {
    /// Takes a process in, with all its threads.
    ///
    /// # Errors
    /// The system's, with the file.
    pub fn take(&self, pid: u32) -> Result<(), String> {
        for folder in &self.0 {
            let file = folder.join("cgroup.procs");
            fs::write(&file, pid.to_string())
                .map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.0 {
            if let Err(error) = fs::remove_dir(folder) {
                debug!(%error, folder = %folder.display(), "a control group stays until the next start");
            }
        }
    }
}

/// Whose group this is by its name.
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix("vgpu-")?.split_once('-')?;
    pid.parse().ok()
}

/// Where a controller counts the process whose `/proc/self/cgroup` this is, if it may make groups there that are counted.
fn place(own: &str, mount: &Path, controller: Controller) -> Option<Place> {
    let mut two = None;
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let path = path.trim_start_matches('/');
        if names.split(',').any(|name| name == controller.name()) {
            let folder = mount.join(controller.name()).join(path);
            return folder.is_dir().then_some(Place {
                controller,
                version: Version::One,
                folder,
            });
        }
        if number == "0" && names.is_empty() {
            two = Some(mount.join(path));
        }
    }
    // The groups below count only what this one passes on to them. Whoever delegates a group to the supervisor sees to
    // that: a group with processes of its own cannot be changed from inside.
    let folder = two?;
    let passed_on = fs::read_to_string(folder.join("cgroup.subtree_control")).ok()?;
    let counts = passed_on
        .split_whitespace()
        .any(|name| name == controller.name());
    counts.then_some(Place {
        controller,
        version: Version::Two,
        folder,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_version_is_found_where_the_process_is() {
        let mount = tempfile::tempdir().unwrap();
        let make = |path: &str| fs::create_dir_all(mount.path().join(path)).unwrap();
        let find = |own: &str, controller| {
            let place = place(own, mount.path(), controller)?;
            let folder = place.folder.strip_prefix(mount.path()).unwrap();
            Some((place.version, folder.to_str().unwrap().to_owned()))
        };
        make("pids/a/b");
        let one = "8:pids:/a/b\n4:cpu,memory:/gone\n0::/\n";
        let found = find(one, Controller::Tasks);
        assert_eq!(found, Some((Version::One, "pids/a/b".into())));
        assert_eq!(find(one, Controller::Memory), None, "not there");

        make("unit/proxy");
        let two = "0::/unit/proxy\n";
        assert_eq!(find(two, Controller::Tasks), None, "nothing is passed on");
        let passes = mount.path().join("unit/proxy/cgroup.subtree_control");
        fs::write(passes, "cpu pids\n").unwrap();
        let found = find(two, Controller::Tasks);
        assert_eq!(found, Some((Version::Two, "unit/proxy".into())));
        assert_eq!(find(two, Controller::Memory), None);
        assert_eq!(find("", Controller::Tasks), None);
    }

    #[test]
    fn groups_of_dead_supervisors_are_known_by_their_names() {
        assert_eq!(owner("vgpu-12-research"), Some(12));
        for name in ["vgpu-12", "vgpu-x-y", "12-a", "vgpu--1-a"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }

    #[test]
    fn a_group_that_cannot_be_made_says_why_and_leaves_nothing() {
        let mount = tempfile::tempdir().unwrap();
        let place = |controller| Place {
            controller,
            version: Version::Two,
            folder: mount.path().to_owned(),
        };
        let cgroups = |places| Cgroups { places, pid: 7 };
        let bounds = Bounds {
            clients: 2,
            memory: Some(1 << 20),
        };
        let none = cgroups(Vec::new()).zone("a", bounds).unwrap_err();
        assert!(none.contains("no pids controller"), "{none}");
        let tasks = cgroups(vec![place(Controller::Tasks)]);
        let none = tasks.zone("a", bounds).unwrap_err();
        assert!(none.contains("no memory controller"), "{none}");
        let folder = mount.path().join("vgpu-7-a");
        // A plain folder keeps the file that the kernel would have made.
        let limit = fs::read_to_string(folder.join("pids.max")).unwrap();
        assert_eq!(limit, (4096 + 512).to_string());
        let again = tasks.zone("a", bounds).unwrap_err();
        assert!(again.contains("vgpu-7-a"), "{again}");
    }
}
