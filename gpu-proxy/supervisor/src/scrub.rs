//! The scrubbers: processes that zero what is free on a dirty device, or find out whether one is lost, and what becomes
//! of them.
//!
//! A scrubber is a worker in the same jail that never meets a tenant: what it says is the driver's word, and is
//! checked all the same. The device is clean when the process has ended in order, for until then it has the memory.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use proxy_audit::event::Event;
use proxy_audit::text::Text;
use proxy_channel::args::Task;
use proxy_channel::message::{FromWorker, Scrubbed};
use proxy_channel::supervisor::{Received, SupervisorChannel};
use tracing::{debug, error, info};

use crate::devices::{Failure, Found, Trouble};
use crate::launch::{Launched, Wanted};
use crate::namespaces::Network;
use crate::process::{Process, describe};
use crate::relay::Relay;
use crate::zone::Shared;

/// How long a scrubber may take once the driver is initialised. A device that hangs is found so.
const LONGEST: Duration = Duration::from_secs(120);

/// Messages taken from one scrubber before others have their turn.
const MESSAGES_AT_ONCE: usize = 32;

/// The scrubbers at work, by device.
#[derive(Debug, Default)]
pub struct Scrubbers {
    running: BTreeMap<u32, Scrubber>,
    /// What they have of a network, once one was started.
    network: Option<Result<Network, Errno>>,
    is_stopping: bool,
}

#[derive(Debug)]
struct Scrubber {
    task: Task,
    process: Process,
    /// Gone once either side has closed it.
    channel: Option<SupervisorChannel>,
    /// Gone at its end-of-file.
    stderr: Option<Relay>,
    started: Instant,
    is_ready: bool,
    deadline: Instant,
    said: Option<Scrubbed>,
    /// Why it is not believed, whatever it said.
    fault: Option<String>,
    /// It was killed and does not go.
    is_stuck: bool,
}

/// Something to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A scrubber speaks or hangs up.
    Channel(u32),
    /// A scrubber writes to its standard error.
    Stderr(u32),
}

impl Scrubbers {
    /// Everything to poll.
    pub fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>)> {
        self.running.iter().flat_map(|(&ordinal, scrubber)| {
            let channel = scrubber.channel.as_ref();
            let stderr = scrubber.stderr.as_ref();
            let channel = channel.map(|channel| (Source::Channel(ordinal), channel.as_fd()));
            let stderr = stderr.map(|relay| (Source::Stderr(ordinal), relay.as_fd()));
            channel.into_iter().chain(stderr)
        })
    }

    /// A source is ready.
    pub fn on(&mut self, source: Source, now: Instant) {
        match source {
            Source::Channel(ordinal) => {
                if let Some(scrubber) = self.running.get_mut(&ordinal) {
                    for _ in 0..MESSAGES_AT_ONCE {
                        if !scrubber.hear(now) {
                            break;
                        }
                    }
                }
            }
            Source::Stderr(ordinal) => {
                if let Some(scrubber) = self.running.get_mut(&ordinal) {
                    scrubber.relay(ordinal, now);
                }
            }
        }
    }

    /// When [`Scrubbers::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self, shared: &Shared, now: Instant) -> Option<Instant> {
        let running = self.running.values();
        let limits = running.filter_map(|scrubber| match scrubber.process.stuck_from() {
            Some(at) => Some(at).filter(|_| !scrubber.is_stuck),
            None => Some(scrubber.deadline),
        });
        let due = shared.states.borrow().next_deadline(now);
        limits.chain(due.filter(|_| !self.is_stopping)).min()
    }

    /// Ends those that take too long, and starts those that are due.
    pub fn tick(&mut self, shared: &Shared, now: Instant) {
        for scrubber in self.running.values_mut() {
            if scrubber.deadline <= now {
                scrubber.give_up("it did not end in time".into());
            }
        }
        for (&ordinal, scrubber) in &mut self.running {
            let from = scrubber.process.stuck_from();
            if !scrubber.is_stuck && from.is_some_and(|at| at <= now) {
                scrubber.is_stuck = true;
                quarantine(shared, &[ordinal], "", scrubber.process.pid(), 0, now);
            }
        }
        if self.is_stopping {
            return;
        }
        let due = shared.states.borrow().due(now);
        for (ordinal, task) in due {
            self.start(ordinal, task, shared, now);
        }
    }

    fn start(&mut self, ordinal: u32, task: Task, shared: &Shared, now: Instant) {
        let wanted = Wanted {
            task,
            zone: "",
            devices: Some(&[ordinal]),
            fallback: false,
            uid: shared.proxy.scrubber_uid,
            gid: shared.proxy.scrubber_gid,
            network: self.network.get_or_insert_with(Network::new),
            cgroup: None,
        };
        shared.states.borrow_mut().begin(ordinal, task);
        match shared.launch(&wanted) {
            Ok(Launched {
                process,
                channel,
                stderr,
                ..
            }) => {
                let scrubber = Scrubber {
                    task,
                    process,
                    channel: Some(channel),
                    stderr: Some(stderr),
                    started: now,
                    is_ready: false,
                    deadline: now + shared.proxy.start_timeout,
                    said: None,
                    fault: None,
                    is_stuck: false,
                };
                self.running.insert(ordinal, scrubber);
            }
            Err(error) => {
                let worker = shared.proxy.worker.display();
                let why = format!("cannot start {worker}: {error}");
                failed(shared, ordinal, task, &why.into(), now);
            }
        }
    }

    /// Looks after scrubbers that have ended.
    pub fn reap(&mut self, shared: &Shared, now: Instant) {
        let ordinals: Vec<u32> = self.running.keys().copied().collect();
        for ordinal in ordinals {
            let Some(status) = self
                .running
                .get_mut(&ordinal)
                .and_then(|scrubber| scrubber.process.ended())
            else {
                continue;
            };
            let Some(mut scrubber) = self.running.remove(&ordinal) else {
                continue;
            };
            // Its last words first.
            while scrubber.hear(now) {}
            scrubber.relay(ordinal, now);
            if scrubber.is_stuck {
                let mut states = shared.states.borrow_mut();
                states.release(&[ordinal], scrubber.process.pid());
            }
            let task = scrubber.task;
            let outcome = match (&scrubber.fault, scrubber.said) {
                (Some(fault), _) => Err(fault.clone().into()),
                (None, Some(said)) if status.success() => Ok(said),
                (None, _) => {
                    let (name, how) = (task.name(), describe(status));
                    Err(format!("the process of the {name} died ({how})").into())
                }
            };
            let took = now.saturating_duration_since(scrubber.started);
            let judged = outcome.and_then(|said| {
                let mut states = shared.states.borrow_mut();
                let found = states.finish(ordinal, &said, took, now);
                found.map(|found| (found, said))
            });
            match judged {
                Ok((Found::Alive, _)) => debug!(device = ordinal, "device is not lost"),
                Ok((Found::Back, _)) => {
                    info!(
                        device = ordinal,
                        "device is back: it was lost, and is scrubbed before anybody gets memory there"
                    );
                    let event = device_state(ordinal, "back", "a probe finds it");
                    shared.recorder.record_own(event);
                }
                Ok((Found::Clean, said)) => {
                    let Scrubbed { zeroed, left, .. } = said;
                    let micros = took.as_micros();
                    info!(
                        device = ordinal,
                        bytes = zeroed,
                        left,
                        micros,
                        "device is scrubbed: what is free there is zero"
                    );
                    shared.recorder.record_own(Event::Scrub {
                        device: ordinal,
                        bytes: zeroed,
                    });
                }
                Err(_) if self.is_stopping => {}
                Err(trouble) => failed(shared, ordinal, task, &trouble, now),
            }
        }
    }

    /// Ends all of them and starts none any more.
    pub fn stop(&mut self) {
        self.is_stopping = true;
        for scrubber in self.running.values_mut() {
            scrubber.give_up("the proxy is shutting down".into());
        }
    }

    /// Whether none is at work.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }
}

impl Scrubber {
    /// Takes one message; false if there was none.
    fn hear(&mut self, now: Instant) -> bool {
        let Some(channel) = &self.channel else {
            return false;
        };
        match channel.receive() {
            Ok(Received::Nothing) => return false,
            Ok(Received::Closed) => {
                self.channel = None;
                return false;
            }
            Ok(Received::Message(FromWorker::Device(_) | FromWorker::Layer(_))) => {}
            Ok(Received::Message(FromWorker::Ready(_))) if !self.is_ready => {
                self.is_ready = true;
                self.deadline = now + LONGEST;
            }
            Ok(Received::Message(FromWorker::Scrubbed(said))) if self.said.is_none() => {
                self.said = Some(said);
            }
            Ok(Received::Message(FromWorker::Failed { text })) => {
                self.give_up(format!("the driver does not come up: {text}"));
            }
            Ok(Received::Message(_)) => {
                let name = self.task.name();
                self.give_up(format!("the process of the {name} broke the protocol"));
            }
            Err(fault) => self.give_up(fault.to_string()),
        }
        true
    }

    fn relay(&mut self, device: u32, now: Instant) {
        let pid = self.process.pid();
        let log = |line: &str| info!(target: "worker", device, scrubber = pid, "{line}");
        if self
            .stderr
            .as_mut()
            .is_some_and(|relay| !relay.drain(now, log))
        {
            self.stderr = None;
        }
    }

    fn give_up(&mut self, why: String) {
        self.fault.get_or_insert(why);
        self.process.kill();
    }
}

/// It came to nothing: an operator must know what that means for the device.
fn failed(shared: &Shared, device: u32, task: Task, trouble: &Trouble, now: Instant) {
    let failure = shared.states.borrow_mut().fail(device, trouble, now);
    let why = trouble.why.as_str();
    let state = match (failure, task) {
        (Failure::StillLost, _) => return,
        (Failure::Lost, _) => {
            error!(
                alert = "device_lost",
                device, "device is lost: no new client sees it: {why}"
            );
            "lost"
        }
        (Failure::Again { after, failures }, Task::Scrub) => {
            error!(
                alert = "device_dirty",
                device,
                failures,
                again = ?after,
                "device stays dirty, and other zones get no memory there: it cannot be scrubbed: {why}"
            );
            "dirty"
        }
        (Failure::Again { after, failures }, _) => {
            error!(
                alert = "device_suspect",
                device,
                failures,
                again = ?after,
                "nobody knows whether the device is lost: it cannot be probed: {why}"
            );
            "suspect"
        }
    };
    let event = device_state(device, state, why);
    shared.recorder.record_own(event);
}

/// A process was killed and does not go: nobody new comes to its devices.
pub fn quarantine(
    shared: &Shared,
    devices: &[u32],
    zone: &str,
    pid: u32,
    charged: u64,
    now: Instant,
) {
    let held = shared.states.borrow_mut().quarantine(devices, pid, now);
    error!(
        alert = "worker_stuck",
        zone,
        worker = pid,
        devices = ?held,
        charged,
        "worker does not go away although it was killed: something holds it in the kernel. What it was granted stays granted, and nobody new comes to its devices"
    );
    for device in held {
        let why = format!("process {pid} does not go away although it was killed");
        let event = device_state(device, "quarantined", &why);
        shared.recorder.record_own(event);
    }
}

/// A device's condition, as it is recorded.
pub fn device_state(device: u32, state: &'static str, why: &str) -> Event {
    Event::DeviceState {
        device,
        state: Text::from(state),
        why: Text::new(why),
    }
}
