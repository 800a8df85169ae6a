//! Everything that goes wrong, at random and at once, in one zone; in the other an honest client goes on.
//!
//! `make chaos SEED=n` runs the long form. The same seed does the same things in the same order; how they meet is the
//! machine's doing. Throughout: the supervisor is up and answers, its numbers add up, no zone has more than it may,
//! and the honest client sees no error. At the end: everything is given back.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::random::Random;
use e2e::{Program, Proxy, Running, Setup, Zone, place, system};
use idm_protocol::attach::client::{Attachment, attach};
use idm_protocol::attach::socket::send;
use idm_protocol::attach::{Capabilities, Hello};
use idm_protocol::memory::{Mapped, Memory};
use idm_protocol::sync::Ordering;
use idm_protocol::wire::TABLE_HASH;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MntFlags, MsFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// The zone in which it goes wrong.
const WILD: &str = "wild";
/// Clients that the zone may have, and programs that are started at most.
const CLIENTS: u32 = 6;
/// What the policy may grant the zone, in MiB: never more than the first.
const MEMORY: [u64; 3] = [512, 128, 16];

/// What a step may do.
type Step = fn(&mut Chaos);

/// What goes on while something else breaks.
const COMMON_STEPS: [Step; 6] = [
    |chaos| chaos.start(&["until-error"]),
    |chaos| chaos.start(&["vector-add"]),
    |chaos| chaos.start(&["load"]),
    Chaos::kill_client,
    |chaos| chaos.signal_worker(Signal::SIGKILL),
    |chaos| chaos.pause(200),
];

/// On a device of several processes: the wild zone's is lost, and comes back.
const SHARED_STEPS: [Step; 2] = [
    |chaos| chaos.order_device("lose"),
    |chaos| chaos.order_device("resume"),
];

/// The disk of the audit log is full, and has room again; whoever writes the log is killed.
const DISK_STEPS: [Step; 3] = [Chaos::fill_disk, Chaos::free_disk, Chaos::kill_auditor];

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
    random: Random,
    programs: Vec<Running>,
    raw: Vec<Attachment>,
    stopped_workers: Vec<Pid>,
    stage: Stage,
}

/// What there is to break beside programs and processes.
enum Stage {
    Nothing,
    /// The devices, which all processes share.
    Devices(TempDir),
    /// A small disk with the audit log.
    Disk(Disk),
}

/// A file system of its own; gone with this.
struct Disk(TempDir);

impl Disk {
    const BYTES: usize = 80 << 20;

    /// None where this user may not mount any.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let size = format!("size={}", Self::BYTES);
        let kind = Some("tmpfs");
        let options = Some(size.as_str());
        let mounted = nix::mount::mount(kind, folder.path(), kind, MsFlags::empty(), options);
        mounted.is_ok().then(|| Self(folder))
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has a file there keeps it until then.
        let _ = nix::mount::umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

impl Chaos {
    fn new(seed: u64, stage: Stage) -> Self {
        let mut setup = Setup::new();
        let [mut honest, mut wild] = ["honest", WILD].map(|name| Zone::new(name).warm(1));
        if let Stage::Disk(disk) = &stage {
            // Nobody is held up by a log that cannot be written: what is missing is counted.
            setup = setup
                .audit("when_full = \"drop-with-gap-record\"\nretain = \"1MiB\"")
                .spool(disk.0.path().join("spool"));
        }
        if let Stage::Devices(folder) = &stage {
            let folder = folder.path().to_str().expect("a plain path");
            setup = setup
                .driver_env("SOFTGPU_SHARED", folder)
                .driver_env("SOFTGPU_DEVICES", "2")
                .driver_env("SOFTGPU_MEMORY", "64M");
            honest = honest.set("devices", "[1]");
            wild = wild.set("devices", "[0]");
        }
        let proxy = setup
            .policy(&policy(MEMORY[0]))
            .proxy("stop_grace", "\"500ms\"")
            .zone(honest)
            .zone(wild.memory("512MiB").clients(CLIENTS))
            .start();
        Self {
            proxy,
            random: Random::new(seed),
            programs: Vec::new(),
            raw: Vec::new(),
            stopped_workers: Vec::new(),
            stage,
        }
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        self.random.index(limit)
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

    fn pause(&mut self, most: usize) {
        let millis = self.below(most).try_into().expect("a number fits");
        std::thread::sleep(Duration::from_millis(millis));
    }

    /// Loses the wild zone's device, or gives it back.
    fn order_device(&mut self, order: &str) {
        let Stage::Devices(folder) = &self.stage else {
            return;
        };
        let folder = folder.path();
        let device = Program::new(place::softgpu_device());
        let device = device.arg(folder).arg("0").arg(order);
        device.run().expect_success();
    }

    /// Leaves no byte on the log's disk.
    fn fill_disk(&mut self) {
        if let Stage::Disk(disk) = &self.stage {
            // The end of it is an error, which is what is wanted.
            let _ = std::fs::write(disk.filler(), vec![1; Disk::BYTES]);
        }
    }

    fn free_disk(&mut self) {
        if let Stage::Disk(disk) = &self.stage {
            // It may not be there.
            let _ = std::fs::remove_file(disk.filler());
        }
    }

    fn kill_auditor(&mut self) {
        let mut family = self.proxy.family().into_iter();
        let auditor = family.find(|process| process.name.starts_with("vgpu-auditor"));
        if let Some(pid) = auditor.and_then(|auditor| i32::try_from(auditor.pid).ok()) {
            // It may have ended by itself: it does when it cannot write.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
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
        self.free_disk();
        if matches!(self.stage, Stage::Devices(_)) {
            self.order_device("resume");
            self.proxy
                .wait_until("the device is back and clean", |proxy| {
                    let devices = proxy.status()["devices"].as_array().cloned();
                    let devices = devices.unwrap_or_default();
                    let wild = devices.iter().find(|device| device["ordinal"] == 0);
                    wild.is_none_or(|device| device["state"] == "clean")
                });
        }
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

fn chaos(seed: u64, length: Duration, steps_to_take: &[&[Step]], stage: Stage) {
    let steps_to_take = steps_to_take.concat();
    println!("chaos: seed {seed}, {length:?}");
    let mut chaos = Chaos::new(seed, stage);
    let honest = chaos.proxy.client("until-error");
    let mut honest = honest.watchdog(length + Duration::from_secs(60)).start();
    honest.wait_for_line("works");
    chaos.start(&["vector-add"]);
    chaos.calm();
    let descriptors = system::descriptor_count(chaos.proxy.pid());
    let end = Instant::now() + length;
    let mut steps = 0;
    while Instant::now() < end {
        let step = chaos.below(steps_to_take.len());
        steps_to_take[step](&mut chaos);
        chaos.check(&mut honest);
        steps += 1;
        if steps % 100 == 0 {
            chaos.calm();
        }
    }
    chaos.calm();
    chaos.check(&mut honest);
    // Those of a worker that is just being started or seen to end come and go; workers that were started for clients
    // who have gone go one by one.
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
    chaos.proxy.end();
    if let Stage::Disk(disk) = &chaos.stage {
        // What was written of the log holds, and says what it lacks.
        let verified = chaos.proxy.verify(&disk.0.path().join("spool")).run();
        println!("{}", verified.expect_success().stdout);
    }
}

#[test]
fn chaos_of_some_seconds_touches_nobody_else() {
    chaos(1, Duration::from_secs(8), &[&STEPS], Stage::Nothing);
}

/// A folder for devices that several processes share.
fn devices() -> Stage {
    Stage::Devices(tempfile::tempdir().expect("a folder"))
}

#[test]
fn chaos_on_a_disk_that_is_full_again_and_again_costs_the_log_what_it_says() {
    match Disk::new() {
        Some(disk) => chaos(
            1,
            Duration::from_secs(10),
            &[&COMMON_STEPS, &DISK_STEPS],
            Stage::Disk(disk),
        ),
        None => eprintln!("not shown here: this user may not mount a disk"),
    }
}

#[test]
fn chaos_on_a_device_that_is_lost_again_and_again_touches_nobody_on_another() {
    chaos(
        1,
        Duration::from_secs(10),
        &[&COMMON_STEPS, &SHARED_STEPS],
        devices(),
    );
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
    let (seed, length) = (number("SEED", 1), number("CHAOS_SECONDS", 120));
    chaos(seed, Duration::from_secs(length), &[&STEPS], Stage::Nothing);
    chaos(
        seed,
        Duration::from_secs(length / 4),
        &[&COMMON_STEPS, &SHARED_STEPS],
        devices(),
    );
    if let Some(disk) = Disk::new() {
        let length = Duration::from_secs(length / 4);
        chaos(
            seed,
            length,
            &[&COMMON_STEPS, &DISK_STEPS],
            Stage::Disk(disk),
        );
    }
}
