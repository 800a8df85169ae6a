//! `make bench`: measures the system against its goals and writes what it found.
//!
//! Every goal is a ratio to a reference measured in the same run, by turns with what it judges. The
//! results go to `target/bench.json` and, as a table with the command and the machine, to `docs/results`.
//! `bench --only NAME...` prints those of some measurements of the system, not of the kernels.
#![deny(unsafe_code)]

mod audit;
mod client;
mod examples;
mod floor;
mod kernels;
mod nop;
mod report;
mod sample;
#[allow(unsafe_code)]
mod shared;
mod zones;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use e2e::{Finished, Program, Proxy, Setup, Zone, proxy, system};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use report::{Goal, Result as Measured};
use sample::Samples;

/// The name of a part that more than one place knows.
const DIRECT_QUERY: &str = "cuStreamQuery(0) on the driver directly";
/// How often reference and value take turns.
const TURNS: usize = 5;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [] => bench(),
        ["--only", names @ ..] => some(names),
        ["--peer", kind, descriptor] => match descriptor.parse() {
            Ok(descriptor) => floor::peer(kind, descriptor).map_err(Into::into),
            Err(error) => Err(Box::from(format!("{descriptor}: {error}"))),
        },
        ["--torment", socket] => zones::torment(socket.as_ref()),
        ["--client", measurement] => client::run(measurement, false).map_err(Into::into),
        ["--client", measurement, "on-word"] => client::run(measurement, true).map_err(Into::into),
        _ => Err("usage: bench".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome<T> = std::result::Result<T, Box<dyn Error>>;

/// Something that is measured of the system, by the name it is asked for.
type Measurement = (&'static str, fn(&Proxy) -> Outcome<Measured>);

const MEASUREMENTS: [Measurement; 12] = [
    ("null_call", null_call),
    ("async_launch", async_launch),
    ("launch_rate", launch_rate),
    ("copy", copy),
    ("wake", wake),
    ("attach", attach),
    ("idle", idle),
    // With proxies of their own.
    ("checks", |_| zones::checks()),
    ("hostile_neighbour", |_| zones::neighbour()),
    ("audit_record", |_| audit::record()),
    ("audit_launches", |_| audit::launches()),
    ("audit_spool", |_| audit::spool()),
];

/// The name by which all examples are asked for together.
const EXAMPLES: &str = "examples";

fn measure_system(wanted: impl Fn(&str) -> bool) -> Outcome<Vec<Measured>> {
    let proxy = Setup::new()
        .zone(Zone::new("bench").memory("1GiB").pinned("128MiB").warm(2))
        .start();
    let single = MEASUREMENTS.iter().filter(|(name, _)| wanted(name));
    let mut results = single
        .map(|(_, measure)| measure(&proxy))
        .collect::<Outcome<Vec<Measured>>>()?;
    if wanted(EXAMPLES) {
        results.extend(examples::measure(&proxy)?);
    }
    proxy.stop();
    Ok(results)
}

fn bench() -> Outcome<()> {
    let before = others_percent();
    let mut results = measure_system(|_| true)?;
    results.extend(kernels::measure()?);
    for result in &mut results {
        result.explain();
    }
    report::write(&results, before.max(others_percent()))
}

fn some(names: &[&str]) -> Outcome<()> {
    let known = MEASUREMENTS.map(|(name, _)| name);
    let is_known = |name: &&&str| known.contains(*name) || **name == EXAMPLES;
    if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
        let known = known.join(", ");
        return Err(format!("{unknown} is not measured; there are {known}, {EXAMPLES}").into());
    }
    let results = measure_system(|name| names.contains(&name))?;
    report::print(&results, others_percent());
    Ok(())
}

/// What a client printed: name → p50 and p99.
type Lines = BTreeMap<String, (f64, f64)>;

/// A client's run, directly on the software GPU or through the proxy.
fn measure(program: Program) -> Lines {
    lines_of(&program.run().expect_success())
}

fn lines_of(finished: &Finished) -> Lines {
    finished
        .stdout
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let name = fields.next()?.to_owned();
            Some((
                name,
                (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?),
            ))
        })
        .collect()
}

fn this_program() -> std::path::PathBuf {
    std::env::current_exe().expect("/proc is mounted")
}

/// Each client finds a warm worker, so that no driver starts beside what is measured.
fn settle(proxy: &Proxy) {
    proxy.wait_until("two warm workers wait", |proxy| proxy.family().len() >= 3);
    std::thread::sleep(Duration::from_millis(300));
}

fn remoted(proxy: &Proxy, measurement: &str) -> Lines {
    settle(proxy);
    measure(
        proxy
            .program(this_program())
            .args(["--client", measurement]),
    )
}

/// The same with worker and client held to a core each, where there are two: what the scheduler's choice of
/// cores costs is the difference.
fn remoted_apart(proxy: &Proxy, measurement: &str) -> Lines {
    settle(proxy);
    let mut client = proxy
        .program(this_program())
        .args(["--client", measurement, "on-word"])
        .start();
    client.wait_for_line("ready");
    // Its own worker only: one that still waits would learn from its one core not to spin.
    let status = proxy.status();
    let zones = status["zones"].as_array().into_iter().flatten();
    let mut clients = zones.flat_map(|zone| zone["clients"].as_array().into_iter().flatten());
    let served = clients.find(|known| known["pid"] == client.pid());
    let worker = served.and_then(|known| known["worker_pid"].as_u64());
    if let Some(worker) = worker.and_then(|pid| u32::try_from(pid).ok()) {
        hold_to_core(worker, 1);
    }
    hold_to_core(client.pid(), 0);
    client.tell("go");
    lines_of(&client.finish().expect_success())
}

/// Holds every thread of a process to one core; a machine that has no such core changes nothing.
fn hold_to_core(pid: u32, core: usize) {
    let mut set = CpuSet::new();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    if set.set(core).is_err() {
        return;
    }
    for task in tasks.into_iter().flatten().flatten() {
        let id = task.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(id) = id {
            // A thread that has ended meanwhile needs no core.
            let _ = sched_setaffinity(Pid::from_raw(id), &set);
        }
    }
}

fn direct(measurement: &str) -> Lines {
    measure(proxy::direct(this_program()).args(["--client", measurement]))
}

/// Medians over turns of one line of many runs.
#[derive(Default)]
struct Turns {
    p50: Samples,
    p99: Samples,
}

impl Turns {
    fn add(&mut self, lines: &Lines, name: &str) {
        let (p50, p99) = lines.get(name).copied().unwrap_or((f64::NAN, f64::NAN));
        self.p50.add(p50);
        self.p99.add(p99);
    }
}

fn null_call(proxy: &Proxy) -> Outcome<Measured> {
    let (mut value, mut native, mut floor) = (Turns::default(), Turns::default(), Turns::default());
    let (mut apart, mut query) = (Turns::default(), Turns::default());
    for _ in 0..TURNS {
        let samples = floor::ping_pong()?;
        floor.p50.add(samples.median());
        floor.p99.add(samples.percentile(99));
        settle(proxy);
        let samples = nop::round_trips(&proxy.socket("bench"))?;
        value.p50.add(samples.median());
        value.p99.add(samples.percentile(99));
        query.add(&remoted(proxy, "null-call"), "null-call");
        apart.add(&remoted_apart(proxy, "null-call"), "null-call");
        native.add(&direct("null-call"), "null-call");
    }
    let mut result = Measured::new(
        "null_call",
        "ns",
        value.p50.median(),
        floor.p50.median(),
        Goal::RatioAtMost(2.0),
    );
    result.what = "a record that asks for nothing and its reply, both sides awake, against a spinning ping-pong between two processes";
    result.part("p99", value.p99.median());
    result.part("p99 of the floor", floor.p99.median());
    result.part("cuStreamQuery(0)", query.p50.median());
    result.part("p99 of cuStreamQuery(0)", query.p99.median());
    result.part(
        "cuStreamQuery(0), worker and client held to a core each",
        apart.p50.median(),
    );
    result.part(DIRECT_QUERY, native.p50.median());
    Ok(result)
}

fn async_launch(proxy: &Proxy) -> Outcome<Measured> {
    let (mut value, mut argument, mut native) =
        (Turns::default(), Turns::default(), Turns::default());
    let mut first = Turns::default();
    for _ in 0..TURNS {
        let lines = remoted(proxy, "launch");
        value.add(&lines, "launch");
        argument.add(&lines, "launch-argument");
        first.add(&lines, "launch-first");
        native.add(&direct("launch"), "launch");
    }
    let mut result = Measured::new(
        "async_launch",
        "ns",
        value.p50.median(),
        native.p50.median(),
        Goal::ValueAtMost(150.0),
    );
    result.what = "the caller's time of cuLaunchKernel (empty kernel, windows of 32, the other side awake), against the driver directly";
    result.part("with one argument", argument.p50.median());
    result.part(
        "the first after a silence, which wakes the other side",
        first.p50.median(),
    );
    result.part("p99 over windows", value.p99.median());
    Ok(result)
}

fn launch_rate(proxy: &Proxy) -> Outcome<Measured> {
    let (mut value, mut native) = (Turns::default(), Turns::default());
    for _ in 0..TURNS {
        value.add(&remoted(proxy, "launch"), "launch-rate");
        native.add(&direct("launch"), "launch-rate");
    }
    let mut result = Measured::new(
        "launch_rate",
        "1/s",
        value.p50.median(),
        native.p50.median(),
        Goal::None,
    );
    result.what =
        "launches in a row, with the synchronise at their end, against the driver directly";
    Ok(result)
}

fn copy(proxy: &Proxy) -> Outcome<Measured> {
    let (mut up, mut down, mut plain) = (Turns::default(), Turns::default(), Turns::default());
    let (mut native_up, mut native_down) = (Turns::default(), Turns::default());
    for _ in 0..TURNS {
        let lines = remoted(proxy, "copy");
        up.add(&lines, "copy-up");
        down.add(&lines, "copy-down");
        plain.add(&lines, "memcpy");
        let lines = direct("copy");
        native_up.add(&lines, "copy-up");
        native_down.add(&lines, "copy-down");
    }
    let worse = up.p50.median().min(down.p50.median());
    let mut result = Measured::new(
        "copy_pageable_64m",
        "GB/s",
        worse,
        plain.p50.median(),
        Goal::RatioAtLeast(0.9),
    );
    result.what =
        "64 MiB of ordinary memory to the device and back (the slower way), against one memcpy";
    result.part("to the device", up.p50.median());
    result.part("from the device", down.p50.median());
    result.part(
        "to the device, on the driver directly",
        native_up.p50.median(),
    );
    result.part(
        "from the device, on the driver directly",
        native_down.p50.median(),
    );
    Ok(result)
}

fn wake(proxy: &Proxy) -> Outcome<Measured> {
    let (mut value, mut floor, mut apart) = (Turns::default(), Turns::default(), Turns::default());
    for _ in 0..TURNS {
        let samples = floor::futex_wake()?;
        floor.p50.add(samples.median());
        floor.p99.add(samples.percentile(99));
        value.add(&remoted(proxy, "wake"), "wake");
        apart.add(&remoted_apart(proxy, "wake"), "wake");
    }
    let mut result = Measured::new(
        "wake",
        "ns",
        value.p50.median(),
        floor.p50.median(),
        Goal::RatioAtMost(1.5),
    );
    result.what =
        "cuStreamQuery(0) after 2 ms of silence, against waking a peer that sleeps on a futex";
    result.part("p99", value.p99.median());
    result.part("p99 of the floor", floor.p99.median());
    result.part("worker and client held to a core each", apart.p50.median());
    Ok(result)
}

fn attach(proxy: &Proxy) -> Outcome<Measured> {
    let (mut value, mut context) = (Turns::default(), Turns::default());
    let (mut native, mut native_context) = (Turns::default(), Turns::default());
    for _ in 0..15 {
        let lines = remoted(proxy, "attach");
        value.add(&lines, "attach");
        context.add(&lines, "context");
        let lines = direct("attach");
        native.add(&lines, "attach");
        native_context.add(&lines, "context");
    }
    // Compared with the goal itself: natively there is no attach.
    let goal = 20e6;
    let mut result = Measured::new(
        "attach",
        "ns",
        value.p50.median(),
        goal,
        Goal::RatioAtMost(1.0),
    );
    result.what = "cuInit of a fresh process on a warm worker, against the goal of 20 ms";
    result.part("slowest of 15", value.p50.percentile(100));
    result.part("cuInit on the driver directly", native.p50.median());
    result.part("first context", context.p50.median());
    result.part(
        "first context on the driver directly",
        native_context.p50.median(),
    );
    Ok(result)
}

fn idle(proxy: &Proxy) -> Outcome<Measured> {
    let mut client = proxy.client("hold-memory").start();
    client.wait_for_line("holds");
    std::thread::sleep(Duration::from_secs(2));
    let everyone: Vec<u32> = proxy
        .family()
        .iter()
        .map(|process| process.pid)
        .chain([client.pid()])
        .collect();
    let count = || {
        everyone
            .iter()
            .map(|pid| system::context_switches(*pid))
            .sum::<u64>()
    };
    let before = count();
    std::thread::sleep(Duration::from_secs(10));
    let switches = count() - before;
    client.close_input();
    client.finish().expect_success();
    // Counts of context switches are far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    let switches = switches as f64;
    let mut result = Measured::new(
        "idle_cpu",
        "context switches in 10 s",
        switches,
        0.0,
        Goal::ValueAtMost(0.0),
    );
    result.what = "of all threads of proxy, workers and an attached client that waits";
    Ok(result)
}

/// What all processors have idled so far, in ticks of 10 ms.
fn idle_ticks() -> u64 {
    std::fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|text| text.lines().next()?.split_whitespace().nth(4)?.parse().ok())
        .unwrap_or(0)
}

/// The share of all processors that other programs use while this one does nothing, in percent.
fn others_percent() -> f64 {
    const SECONDS: u64 = 4;
    let before = idle_ticks();
    std::thread::sleep(Duration::from_secs(SECONDS));
    let idle = idle_ticks() - before;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Counts of ticks in seconds are far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    let (idle, ticks) = (idle as f64, (SECONDS * 100) as f64 * processors as f64);
    (100.0 * (1.0 - idle / ticks)).max(0.0)
}
