//! Everything that goes wrong, at random and at once, in one zone; in the other an honest client goes on.
//!
//! `make chaos SEED=n` runs the long form. The same seed does the same things in the same order; how they meet is the
//! machine's doing. Throughout: the supervisor is up and answers, its numbers add up, no zone has more than it may,
//! and the honest client sees no error. At the end: everything is given back.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use e2e::{Proxy, Running, Setup, Zone, place, system};
use idm_protocol::attach::client::{Attachment, attach};
use idm_protocol::attach::socket::send;
use idm_protocol::attach::{Capabilities, Hello};
use idm_protocol::memory::{Mapped, Memory};
use idm_protocol::sync::Ordering;
use idm_protocol::wire::TABLE_HASH;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The zone in which it goes wrong.
const WILD: &str = "wild";
/// Clients that the zone may have, and programs that are started at most.
const CLIENTS: u32 = 6;
/// What the policy may grant the zone, in MiB: never more than the first.
const MEMORY: [u64; 3] = [512, 128, 16];

/// What a step may do.
type Step = fn(&mut Chaos);

const STEPS: [Step; 14] = [
    |chaos| chaos.start(&["until-error"]),
    |chaos| chaos.start(&["vector-add"]),
    |chaos| chaos.start(&["hold-memory", "33554432"]),
    |chaos| chaos.start(&["fill-memory"]),
    |chaos| chaos.start(&["load"]),
    |chaos| chaos.start(&["scribble", "3"]),
    Chaos::kill_client,
    Chaos::stall_client,
    Chaos::wake_everybody,
    |chaos| chaos.signal_worker(Signal::SIGKILL),
    |chaos| chaos.signal_worker(Signal::SIGSTOP),
    Chaos::attach_raw,
    Chaos::break_raw,
    Chaos::change_policy,
];

struct Chaos {
    proxy: Proxy,
    random: u64,
    programs: Vec<Running>,
    raw: Vec<Attachment>,
    stopped_workers: Vec<Pid>,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let proxy = Setup::new()
            .policy(&policy(MEMORY[0]))
            .proxy("stop_grace", "\"500ms\"")
            .zone(Zone::new("honest").warm(1))
            .zone(Zone::new(WILD).memory("512MiB").clients(CLIENTS).warm(1))
            .start();
        Self {
            proxy,
            // Any number but 0.
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            programs: Vec::new(),
            raw: Vec::new(),
            stopped_workers: Vec::new(),
        }
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let limit = u64::try_from(limit).expect("a length fits");
        usize::try_from(self.random % limit).expect("it is below a usize")
    }

    fn one_of<T: Clone>(&mut self, list: &[T]) -> Option<T> {
        (!list.is_empty()).then(|| list[self.below(list.len())].clone())
    }

    fn start(&mut self, arguments: &[&str]) {
        self.programs.retain_mut(Running::is_running);
        if self.programs.len() < CLIENTS as usize {
            let program = self.proxy.program_in(WILD, place::client());
            self.programs.push(program.args(arguments).start());
        }
    }

    fn kill_client(&mut self) {
        if !self.programs.is_empty() {
            let index = self.below(self.programs.len());
            self.programs.swap_remove(index).kill();
        }
    }

    fn stall_client(&mut self) {
        if !self.programs.is_empty() {
            let index = self.below(self.programs.len());
            self.programs[index].signal(Signal::SIGSTOP);
        }
    }

    fn wake_everybody(&mut self) {
        for program in &self.programs {
            program.signal(Signal::SIGCONT);
        }
        for worker in self.stopped_workers.drain(..) {
            // It may be gone.
            let _ = kill(worker, Signal::SIGCONT);
        }
    }

    /// Workers of the wild zone's clients only: the honest one's is to live.
    fn signal_worker(&mut self, signal: Signal) {
        let status = self.proxy.status();
        let clients = zone(&status, WILD)["clients"].as_array().cloned();
        if let Some(client) = self.one_of(&clients.unwrap_or_default()) {
            let worker = client["worker_pid"]
                .as_i64()
                .and_then(|pid| i32::try_from(pid).ok());
            let worker = Pid::from_raw(worker.expect("a worker has a number"));
            // It may have ended since it was told of.
            let _ = kill(worker, signal);
            if signal == Signal::SIGSTOP {
                self.stopped_workers.push(worker);
            }
        }
    }

    fn attach_raw(&mut self) {
        // Every window will do: nothing is mapped.
        let hello = Hello::new(TABLE_HASH, Capabilities::ALL, u32::MAX, "raw");
        let socket = self.proxy.socket(WILD);
        // The zone may be full, its policy in between, its workers stopped.
        self.raw
            .extend(attach(&socket, &hello, Duration::from_secs(2)));
    }

    /// Ones, holes or a word out of turn, and sometimes just the end.
    fn break_raw(&mut self) {
        let Some(attached) = self.raw.pop() else {
            return;
        };
        match self.below(4) {
            0 => {
                for word in Mapped::new(&attached.control).expect("it is ours").words() {
                    word.store(u64::MAX, Ordering::Relaxed);
                }
                self.raw.insert(0, attached);
            }
            1 => {
                let hole =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                for file in [&attached.control, &attached.arena] {
                    let size = file.byte_len().get().try_into().expect("a size fits");
                    fallocate(file.as_fd(), hole, 0, size).expect("the file is ours to punch");
                }
                self.raw.insert(0, attached);
            }
            2 => drop(send(attached.lifeline.as_fd(), b"one more thing", &[])),
            _ => drop(attached),
        }
    }

    fn change_policy(&mut self) {
        let memory = self.one_of(&MEMORY).expect("there are some");
        self.proxy.reload(&policy(memory)).expect_success();
    }

    /// What must hold at any time.
    fn check(&self, honest: &mut Running) {
        let status = self.proxy.status();
        assert!(
            honest.is_running(),
            "the honest client ended\n--- log\n{}",
            self.proxy.log()
        );
        for name in ["honest", WILD] {
            let zone = zone(&status, name);
            let number = |value: &Value, key: &str| value[key].as_u64().expect("a number");
            let clients = zone["clients"].as_array().expect("a list");
            let granted: u64 = clients
                .iter()
                .map(|client| number(client, "memory_granted"))
                .sum();
            assert_eq!(granted, number(zone, "memory_used"), "{zone:#}");
            assert!(granted <= MEMORY[0] << 20, "{zone:#}");
            assert!(clients.len() <= 8, "{zone:#}");
        }
    }

    /// Ends what is left and waits until nothing is.
    fn calm(&mut self) {
        self.wake_everybody();
        self.raw.clear();
        for program in self.programs.drain(..) {
            program.kill();
        }
        self.proxy.reload(&policy(MEMORY[0])).expect_success();
        self.proxy.wait_until("the wild zone is empty", |proxy| {
            let status = proxy.status();
            let zone = zone(&status, WILD);
            zone["memory_used"] == 0 && zone["clients"].as_array().is_some_and(Vec::is_empty)
        });
    }
}

fn policy(mebibytes: u64) -> String {
    let allow = "allow = [\"compute\", \"memory\", \"pools\", \"vmm\", \"graphs\", \"jit\", \"ipc\", \"nvml\"]";
    format!(
        "version = 1\n[[zone]]\nname = \"honest\"\n{allow}\nmemory = \"512MiB\"\n[[zone]]\nname = \"{WILD}\"\n{allow}\nmemory = \"{mebibytes}MiB\"\n"
    )
}

fn zone<'a>(status: &'a Value, name: &str) -> &'a Value {
    let zones = status["zones"].as_array().expect("a list");
    let found = zones.iter().find(|zone| zone["name"] == name);
    found.expect("the zone is configured")
}

fn chaos(seed: u64, length: Duration) {
    println!("chaos: seed {seed}, {length:?}");
    let mut chaos = Chaos::new(seed);
    let mut honest = chaos.proxy.client("until-error").start();
    honest.wait_for_line("works");
    chaos.start(&["vector-add"]);
    chaos.calm();
    let descriptors = system::descriptor_count(chaos.proxy.pid());
    let end = Instant::now() + length;
    let mut steps = 0;
    while Instant::now() < end {
        let step = chaos.below(STEPS.len());
        STEPS[step](&mut chaos);
        chaos.check(&mut honest);
        steps += 1;
        if steps % 100 == 0 {
            chaos.calm();
        }
    }
    chaos.calm();
    chaos.check(&mut honest);
    // Those of a worker that is just being started or seen to end come and go.
    chaos
        .proxy
        .wait_until("no descriptor is left over", |proxy| {
            system::descriptor_count(proxy.pid()) <= descriptors
        });
    let status = chaos.proxy.status();
    let attached = zone(&status, WILD)["attached_total"].as_u64();
    println!("chaos: {steps} steps, {attached:?} clients attached, all invariants held");
    assert!(attached > Some(3), "{status:#}");
    let served = chaos
        .proxy
        .program_in(WILD, place::client())
        .arg("vector-add");
    served.run().expect_success();
    honest.kill();
    chaos.proxy.stop();
}

#[test]
fn chaos_of_some_seconds_touches_nobody_else() {
    chaos(1, Duration::from_secs(8));
}

#[test]
#[ignore = "long: `make chaos SEED=n`"]
fn chaos_of_minutes_touches_nobody_else() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| {
            text.parse()
                .unwrap_or_else(|_| panic!("{name} is a number, not {text:?}"))
        })
    };
    chaos(
        number("SEED", 1),
        Duration::from_secs(number("CHAOS_SECONDS", 120)),
    );
}
