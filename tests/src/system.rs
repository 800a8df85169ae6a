//! What `/proc` says about processes: descendants, descriptors, memory, context switches.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub pid: u32,
    pub name: String,
    started: u64,
}

impl Identity {
    /// The process with that number, if there is one that is not a zombie.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        (stat.state != 'Z').then_some(Self {
            pid,
            name: stat.name,
            started: stat.started,
        })
    }

    /// Whether this very process still runs.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.started == self.started)
    }

    /// Ends it at once; it may have gone by itself.
    pub fn kill(&self) {
        if self.is_alive()
            && let Ok(pid) = i32::try_from(self.pid)
        {
            let _ = signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Every living process below `root`, `root` itself first.
pub fn family(root: u32) -> Vec<Identity> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in processes() {
        if let Some(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        found.extend(Identity::of(pid));
        open.extend(children.remove(&pid).unwrap_or_default());
    }
    found
}

/// Open descriptors of a process.
pub fn descriptor_count(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// What a process's descriptors are.
pub fn descriptors(pid: u32) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"));
    open.into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|target| target.display().to_string())
        .collect()
}

/// The sockets of the internet families that a process has open, listening or not.
pub fn network_sockets(pid: u32) -> Vec<String> {
    let mut network = BTreeSet::new();
    for (table, column) in [
        ("tcp", 9),
        ("tcp6", 9),
        ("udp", 9),
        ("udp6", 9),
        ("raw", 9),
        ("raw6", 9),
        ("packet", 8),
        ("netlink", 9),
    ] {
        // Those of its network namespace; a kernel without the family has no table.
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        let inodes = text
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(column));
        network.extend(inodes.map(|inode| format!("socket:[{inode}]")));
    }
    let mut open = descriptors(pid);
    open.retain(|name| network.contains(name));
    open
}

/// Resident anonymous memory of a process in KiB: what a leak grows, without file pages.
pub fn anonymous_kib(pid: u32) -> u64 {
    status_field(&format!("/proc/{pid}/status"), "RssAnon:")
}

/// Threads of a process.
pub fn thread_count(pid: u32) -> u64 {
    status_field(&format!("/proc/{pid}/status"), "Threads:")
}

/// The files in memory called `name` that a process has mapped, by their inodes.
pub fn mapped(pid: u32, name: &str) -> BTreeSet<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let of_name = maps.lines().filter(|line| line.contains(name));
    of_name
        .filter_map(|line| line.split_whitespace().nth(4)?.parse().ok())
        .collect()
}

/// The files whose name begins with `name` that a process has open, by their inodes.
pub fn open_files(pid: u32, name: &str) -> BTreeSet<u64> {
    let open = fs::read_dir(format!("/proc/{pid}/fd"));
    let paths = open
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    paths
        .filter(|path| {
            let target = fs::read_link(path).unwrap_or_default();
            target
                .to_string_lossy()
                .trim_start_matches('/')
                .starts_with(name)
        })
        .filter_map(|path| Some(fs::metadata(path).ok()?.ino()))
        .collect()
}

/// What all threads of a process that it still has have used of processors.
pub fn processor_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let nanoseconds = tasks.into_iter().flatten().flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Context switches, voluntary and not, of all threads of a process so far.
pub fn context_switches(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    tasks
        .flatten()
        .map(|task| {
            let path = task.path().join("status").display().to_string();
            status_field(&path, "voluntary_ctxt_switches:")
                + status_field(&path, "nonvoluntary_ctxt_switches:")
        })
        .sum()
}

/// Where each thread of a process waits, one line each: for the report of a hang.
pub fn thread_report(pid: u32) -> String {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return format!("  process {pid} is gone\n");
    };
    let mut report = String::new();
    for task in tasks.flatten() {
        let read = |file: &str| {
            fs::read_to_string(task.path().join(file))
                .map(|text| text.trim().to_owned())
                .unwrap_or_default()
        };
        let state = status_text(&task.path().join("status").display().to_string(), "State:");
        report.push_str(&format!(
            "  thread {} {} state {} wchan {} syscall {}\n",
            task.file_name().display(),
            read("comm"),
            state.unwrap_or_default(),
            read("wchan"),
            read("syscall"),
        ));
    }
    report
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .expect("/proc is mounted")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

struct Stat {
    name: String,
    state: char,
    parent: u32,
    started: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may contain anything, parentheses too.
        let (head, tail) = text.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = tail.split_whitespace().collect();
        Some(Self {
            name,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

fn status_field(path: &str, key: &str) -> u64 {
    status_text(path, key)
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn status_text(path: &str, key: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix(key).map(|rest| rest.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_alive_and_has_descriptors_and_threads() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(descriptor_count(own.pid) >= 3);
        assert!(thread_count(own.pid) >= 1);
        assert!(context_switches(own.pid) > 0);
        assert!(anonymous_kib(own.pid) > 0);
    }

    #[test]
    fn family_holds_a_child_while_it_lives() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let family = family(std::process::id());
        let seen = family
            .iter()
            .find(|process| process.pid == child.id())
            .cloned();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!seen.expect("the child was seen").is_alive());
    }
}
