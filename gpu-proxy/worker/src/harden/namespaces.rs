//! Namespaces of the worker's own, and an empty root in one of them.
//!
//! They are made while the process has one thread. The root is emptied later, when the driver has loaded
//! what it needs: a thread that was started before the capabilities went waits for that, and ends with it.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, chdir, chroot, pivot_root};
use proxy_channel::jail::{Layer, Report, State};

/// Folders that exist on every system; one of them is covered while the root changes.
const FOLDERS: [&str; 4] = ["/tmp", "/run", "/var", "/dev"];

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// An empty root, or why not.
    pub root: Result<(), &'static str>,
    /// A network. Otherwise whoever started the worker answers for what it has: the software GPU passes memory between a
    /// zone's workers over local sockets, so that they share one.
    pub network: bool,
}

/// What was had.
#[derive(Debug)]
pub struct Namespaces {
    /// Whether the worker is in a user namespace of its own.
    pub user: bool,
    /// What empties the root, if it is to be.
    pub root: Option<Root>,
    /// One for each layer that is settled.
    pub reports: Vec<Report>,
}

/// Makes the namespaces. Call it while there is one thread and `/proc/self` is the process's own to write.
pub fn enter(wanted: Wanted) -> Namespaces {
    let mut rest = CloneFlags::CLONE_NEWIPC;
    rest.set(CloneFlags::CLONE_NEWNS, wanted.root.is_ok());
    rest.set(CloneFlags::CLONE_NEWNET, wanted.network);
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let user = unshare(CloneFlags::CLONE_NEWUSER | rest);
    let mut reports = vec![match user {
        Ok(()) => map(uid, gid),
        Err(errno) => missing(Layer::USER_NAMESPACE, errno),
    }];
    // Without one, whoever has the capability can have the others all the same.
    let network = (CloneFlags::CLONE_NEWNET, Layer::NETWORK, Ok(()));
    let others = [
        Some((CloneFlags::CLONE_NEWNS, Layer::ROOT, wanted.root)),
        wanted.network.then_some(network),
        Some((CloneFlags::CLONE_NEWIPC, Layer::IPC, Ok(()))),
    ];
    let mut root = None;
    for (flag, layer, wanted) in others.into_iter().flatten() {
        let had = match wanted {
            Err(why) => {
                reports.push(Report::new(layer, State::OFF, why));
                continue;
            }
            Ok(()) if user.is_ok() => Ok(()),
            Ok(()) => unshare(flag),
        };
        match had {
            // Reported when the root is empty.
            Ok(()) if layer == Layer::ROOT => match Root::prepare() {
                Ok(waiting) => root = Some(waiting),
                Err(why) => reports.push(Report::new(layer, State::MISSING, &why)),
            },
            Ok(()) => reports.push(Report::on(layer)),
            Err(errno) => reports.push(missing(layer, errno)),
        }
    }
    Namespaces {
        user: user.is_ok(),
        root,
        reports,
    }
}

/// Lets the worker be the same user inside as outside, so that both sides call it by the same number.
fn map(uid: Uid, gid: Gid) -> Report {
    let written = fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")));
    match written {
        Ok(()) => Report::on(Layer::USER_NAMESPACE),
        Err(error) => Report::new(
            Layer::USER_NAMESPACE,
            State::ON,
            &format!("user and group have no number in it: {error}"),
        ),
    }
}

fn missing(layer: Layer, errno: Errno) -> Report {
    let why = match errno {
        Errno::EPERM => "not permitted".to_owned(),
        Errno::ENOSPC => "the host allows no more of them".to_owned(),
        Errno::EINVAL => "the kernel has none".to_owned(),
        errno => errno.to_string(),
    };
    Report::new(layer, State::MISSING, &why)
}

/// A thread that can still change the root. Dropped unused, it ends.
#[derive(Debug)]
pub struct Root {
    order: Sender<()>,
    thread: JoinHandle<Result<(), String>>,
}

impl Root {
    fn prepare() -> Result<Self, String> {
        // What is mounted here from now on stays here, and the other way round.
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(NONE, "/", NONE, flags, NONE)
            .map_err(|errno| format!("mounts cannot be made private: {errno}"))?;
        let (order, ordered) = channel();
        let wait = move || match ordered.recv() {
            Ok(()) => empty(),
            Err(_) => Err("not asked to".into()),
        };
        let thread = thread::Builder::new().name("jail".into()).spawn(wait);
        Ok(Self {
            order,
            thread: thread.map_err(|error| error.to_string())?,
        })
    }

    /// Empties the root, of all threads.
    pub fn empty(self) -> Report {
        // If it cannot be told, joining tells why.
        let _ = self.order.send(());
        match self.thread.join() {
            Ok(Ok(())) => Report::on(Layer::ROOT),
            Ok(Err(why)) => Report::new(Layer::ROOT, State::MISSING, &why),
            Err(_) => Report::new(Layer::ROOT, State::MISSING, "its thread panicked"),
        }
    }
}

const NONE: Option<&str> = None;

/// Puts an empty folder that nobody can write to in the place of the root and lets go of the old one.
fn empty() -> Result<(), String> {
    let folder = FOLDERS
        .into_iter()
        .find(|folder| Path::new(folder).is_dir());
    let folder = folder.ok_or("there is no folder to put it")?;
    let say = |what: &'static str| move |errno: Errno| format!("{what}: {errno}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("size=4096,nr_inodes=2,mode=0555");
    mount(Some("none"), folder, Some("tmpfs"), flags, options).map_err(say("mount"))?;
    chdir(folder).map_err(say("chdir"))?;
    let read_only = flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(NONE, ".", NONE, read_only, NONE).map_err(say("remount"))?;
    match pivot_root(".", ".") {
        // The old root now lies on top of the new one.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH).map_err(say("umount"))?,
        // The kernel does not exchange the first root of all, which some hosts run on.
        Err(Errno::EINVAL) => chroot(".").map_err(say("chroot"))?,
        Err(errno) => return Err(say("pivot_root")(errno)),
    }
    chdir("/").map_err(say("chdir"))
}
