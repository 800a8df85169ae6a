//! How workers are started: those that serve a zone, and those that scrub a device.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use proxy_channel::DriverKind;
use proxy_channel::args::{Task, WorkerArgs};
use proxy_channel::jail::{Layer, Mode, Report, State};
use proxy_channel::supervisor::SupervisorChannel;

use crate::cgroups::Cgroup;
use crate::driver::Driver;
use crate::namespaces::Network;
use crate::process::{Launch, Process, Started};
use crate::relay::Relay;
use crate::zone::Shared;

/// Makes a software GPU one for several processes: a mode for tests.
pub const SHARED_SOFTWARE_GPU: &str = "SOFTGPU_SHARED";

/// What serves clients whose devices are lost, where the policy says so.
#[derive(Clone, Debug)]
pub struct Fallback {
    /// The software GPU.
    pub driver: Driver,
    /// How much of the jail its workers get.
    pub jail: Mode,
}

/// What makes one worker different from another.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What it is for.
    pub task: Task,
    /// Its zone; empty for one that has none.
    pub zone: &'a str,
    /// The devices that it sees; none for all.
    pub devices: Option<&'a [u32]>,
    /// Whether it loads the software GPU in the place of a driver whose devices are lost.
    pub fallback: bool,
    /// The user it runs as, if the supervisor is root.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// What it shares with others of its kind, or why that cannot be.
    pub network: &'a Result<Network, Errno>,
    /// Its zone's group, or why there is none; nothing for one that has no zone.
    pub cgroup: Option<&'a Result<Cgroup, String>>,
}

/// A worker that was started, and the ways to it.
#[derive(Debug)]
pub struct Launched {
    /// The process.
    pub process: Process,
    /// Its channel.
    pub channel: SupervisorChannel,
    /// What it writes to its standard error.
    pub stderr: Relay,
    /// The layers of its jail that were made for it.
    pub layers: Vec<Report>,
}

impl Shared {
    /// Starts a worker.
    pub fn launch(&self, wanted: &Wanted<'_>) -> io::Result<Launched> {
        let (channel, far) = SupervisorChannel::pair()?;
        let fallback = self.fallback.as_ref().filter(|_| wanted.fallback);
        let (driver, jail) = fallback.map_or((&self.driver, self.jail), |fallback| {
            (&fallback.driver, fallback.jail)
        });
        let Driver { kind, path, why } = driver;
        let args = WorkerArgs {
            task: wanted.task,
            zone: wanted.zone.to_owned(),
            driver_kind: *kind,
            driver_path: path.clone(),
            why: why.clone(),
            jail,
        };
        let mut environment = self.environment.clone();
        if fallback.is_some() {
            // It is this process's own, whatever device is lost.
            environment.retain(|(name, _)| name != SHARED_SOFTWARE_GPU);
        }
        let own_processes = wants_processes(jail, &environment);
        if let Some(devices) = wanted.devices {
            let list: Vec<String> = devices.iter().map(u32::to_string).collect();
            environment.push(("CUDA_VISIBLE_DEVICES".into(), list.join(",")));
        }
        let launch = Launch {
            executable: self.proxy.worker.clone(),
            args: args.to_args(),
            environment,
            uid: wanted.uid.filter(|_| self.root),
            gid: wanted.gid.filter(|_| self.root),
            own_processes,
            network: shares_network(*kind, jail).then(|| wanted.network.as_ref().map_err(|e| *e)),
        };
        let Started {
            process,
            stderr,
            layers,
        } = Process::start(&launch, far.as_fd())?;
        let cgroup = wanted.cgroup.map(|cgroup| group(cgroup, &process, jail));
        Ok(Launched {
            process,
            channel,
            stderr: Relay::new(stderr)?,
            layers: layers.into_iter().chain(cgroup).collect(),
        })
    }
}

/// Puts a worker into its zone's group, and tells of it.
fn group(cgroup: &Result<Cgroup, String>, process: &Process, jail: Mode) -> Report {
    if jail == Mode::Off {
        return Report::new(Layer::CGROUP, State::OFF, "driver.jail is \"off\"");
    }
    let taken = match cgroup {
        Ok(group) => group.take(process.pid()),
        Err(why) => Err(why.clone()),
    };
    match taken {
        Ok(()) => Report::on(Layer::CGROUP),
        Err(why) => Report::new(Layer::CGROUP, State::MISSING, &why),
    }
}

/// Whether workers are to have a namespace of process ids, or why not.
fn wants_processes(jail: Mode, environment: &[(String, String)]) -> Result<(), &'static str> {
    let mut names = environment.iter().map(|(name, _)| name);
    match jail {
        Mode::Off => Err("driver.jail is \"off\""),
        Mode::Log => Err("driver.jail is \"log\""),
        Mode::Enforce if names.any(|name| name == SHARED_SOFTWARE_GPU) => {
            Err("processes that share a software GPU know each other by their ids")
        }
        Mode::Enforce => Ok(()),
    }
}

/// Whether workers share a network: the software GPU passes memory between a zone's over local sockets. With NVIDIA's
/// driver each makes one of its own, and says so.
fn shares_network(kind: DriverKind, jail: Mode) -> bool {
    kind == DriverKind::SOFTGPU && jail == Mode::Enforce
}
