//! What the kernel counts for a worker, and how much of it there may be.

#![forbid(unsafe_code)]

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proxy_channel::jail::{Layer, Report, State};

/// Limits, and why they are what they are. None is raised above what the worker was started with.
const LIMITS: [(Resource, u64, &str); 3] = [
    (
        Resource::RLIMIT_NOFILE,
        4096,
        "some hundred that a client shares memory by, and the driver's own",
    ),
    (Resource::RLIMIT_MSGQUEUE, 0, "nothing of ours has queues"),
    (Resource::RLIMIT_RTPRIO, 0, "no tenant comes before others"),
];

/// Most threads: some for each lane of the client and for each core of the host.
const MOST_THREADS: u64 = 4096;

/// Sets them. Threads are limited only in a user namespace of the worker's own: elsewhere the kernel counts
/// those of all processes of the same user.
///
/// There is no limit of file sizes. The kernel holds it against memory files too, and device memory of the
/// software GPU is one; that no other file is written, Landlock and the filter of system calls see to.
pub fn set(own_user_namespace: bool) -> Report {
    for (resource, most, _) in LIMITS {
        if let Err(errno) = lower(resource, most) {
            return Report::new(
                Layer::LIMITS,
                State::MISSING,
                &format!("{resource:?}: {errno}"),
            );
        }
    }
    if !own_user_namespace {
        let why =
            "threads are not limited: without a user namespace other processes would be counted";
        return Report::new(Layer::LIMITS, State::ON, why);
    }
    if let Err(errno) = lower(Resource::RLIMIT_NPROC, MOST_THREADS) {
        return Report::new(Layer::LIMITS, State::MISSING, &format!("threads: {errno}"));
    }
    if nix::unistd::getuid().is_root() {
        let why = "threads are not limited: the kernel does not count root's; set worker_uid";
        return Report::new(Layer::LIMITS, State::ON, why);
    }
    Report::on(Layer::LIMITS)
}

fn lower(resource: Resource, most: u64) -> Result<(), Errno> {
    let (_, hard) = getrlimit(resource)?;
    let limit = most.min(hard);
    setrlimit(resource, limit, limit)
}
