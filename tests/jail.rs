//! The jail of the workers: that every layer which the host offers is on, and that nothing which one of them
//! should stop gets past it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use e2e::{Program, Proxy, Setup, Zone, place};

/// A user that nothing else runs as.
const WORKER_UID: u32 = 54_321;

/// What the probe tries, and the layers any of which stops it.
const ATTEMPTS: [(&str, &[&str]); 21] = [
    ("read-a-file", &["root", "landlock", "calls"]),
    ("list-the-root", &["landlock", "calls"]),
    ("create-a-file", &["root", "landlock", "calls"]),
    ("read-an-environment", &["root", "landlock", "calls"]),
    ("open-memory", &["root", "landlock", "calls"]),
    ("read-memory", &["landlock", "calls"]),
    ("write-memory", &["landlock", "calls"]),
    ("trace", &["landlock", "calls"]),
    ("signal", &["landlock-whole", "calls"]),
    ("signal-a-thread", &["landlock-whole", "calls"]),
    ("name-a-process", &["calls"]),
    ("fork", &["calls"]),
    ("execute", &["root", "landlock", "calls"]),
    ("internet", &["network", "calls"]),
    ("local-socket", &["root"]),
    ("abstract-socket", &["network"]),
    ("new-namespace", &["calls"]),
    ("be-dumpable", &["calls"]),
    ("new-root", &["capabilities", "calls"]),
    ("executable-memory", &["calls"]),
    ("signals-by-descriptor", &["calls"]),
];

/// Attempts that succeed anywhere without a jail, so that a probe that fails at all of them is noticed.
const FREE: [&str; 8] = [
    "read-a-file",
    "list-the-root",
    "create-a-file",
    "read-an-environment",
    "signal",
    "fork",
    "execute",
    "local-socket",
];

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A zone that is like in a good installation as far as this user can have it.
fn zone() -> Zone {
    let zone = Zone::new("default");
    if is_root() {
        zone.set("worker_uid", &WORKER_UID.to_string())
            .set("worker_gid", &WORKER_UID.to_string())
    } else {
        zone
    }
}

/// Name, state and reason of every layer.
fn layers(proxy: &Proxy) -> BTreeMap<String, (String, String)> {
    proxy.wait_until("a worker is ready", |proxy| {
        proxy.status()["zones"][0]["warm_workers"] == 1
    });
    let status = proxy.status();
    let layers = status["zones"][0]["jail"].as_array().expect("a list");
    let text =
        |layer: &serde_json::Value, key: &str| layer[key].as_str().expect("a text").to_owned();
    layers
        .iter()
        .map(|layer| {
            (
                text(layer, "name"),
                (text(layer, "state"), text(layer, "why")),
            )
        })
        .collect()
}

fn on(layers: &BTreeMap<String, (String, String)>) -> BTreeSet<&str> {
    layers
        .iter()
        .filter(|(_, (state, _))| state == "on")
        .map(|(name, _)| name.as_str())
        .collect()
}

#[test]
fn every_layer_that_the_host_offers_is_on() {
    let proxy = Setup::new().zone(zone()).start();
    let layers = layers(&proxy);
    let host = Program::new(place::built("vgpu-test-probe"))
        .arg("host")
        .run()
        .expect_success();
    let mut offered: BTreeSet<&str> = host.stdout.lines().collect();
    if is_root() {
        offered.insert("user");
    }
    let on = on(&layers);
    let off: Vec<_> = offered.difference(&on).collect();
    assert!(off.is_empty(), "offered and not on: {off:?}\n{layers:#?}");
    assert!(offered.len() >= 3, "{offered:?}");
    // Whatever is not on says why.
    for (name, (state, why)) in &layers {
        assert!(state == "on" || !why.is_empty(), "{name} is {state}");
    }
    let doctor = Program::new(place::built("vgpuctl"))
        .args(["doctor", "--socket"])
        .arg(proxy.directory().join("run/admin.sock"))
        .run()
        .expect_success();
    for name in layers.keys() {
        assert!(doctor.stdout.contains(name.as_str()), "{}", doctor.stdout);
    }
}

/// The control groups of a process that are a zone's, as files of the kernel.
fn groups(pid: u64) -> Vec<PathBuf> {
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it is there");
    let groups = lines.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controller, path) = (fields.next()?, fields.next()?, fields.next()?);
        let of_zone = path.contains("/vgpu-") && path.ends_with("-default");
        of_zone.then(|| {
            Path::new("/sys/fs/cgroup")
                .join(controller)
                .join(&path[1..])
        })
    });
    groups.collect()
}

#[test]
fn a_zones_workers_are_counted_together_and_too_much_host_memory_ends_them_alone() {
    let limited = zone().set("host_memory", "\"256MiB\"").memory("2GiB");
    let mut proxy = Setup::new().zone(limited).zone(Zone::new("other")).start();
    let layer = layers(&proxy)["cgroup"].clone();
    if layer.0 != "on" {
        // Said by the test above, if the host offers it.
        eprintln!("no control groups here: {}", layer.1);
        return;
    }
    let mut neighbour = proxy.program_in("other", place::client());
    neighbour = neighbour.arg("until-error");
    let mut neighbour = neighbour.start();
    neighbour.wait_for_line("works");

    let mut client = proxy.client("hold-memory").arg("1000000").start();
    client.wait_for_line("holds");
    let worker = proxy.status()["zones"][0]["clients"][0]["worker_pid"].as_u64();
    let groups = groups(worker.expect("a worker"));
    assert!(!groups.is_empty());
    let read = |name: &str| {
        let mut files = groups.iter().map(|group| group.join(name));
        files.find_map(|file| fs::read_to_string(file).ok())
    };
    let tasks: u64 = read("pids.max").expect("a limit").trim().parse().unwrap();
    assert_eq!(tasks, 4096 + 8 * 256);
    client.close_input();
    client.finish().expect_success();

    // What the software GPU calls device memory is the worker's own.
    let greedy = proxy.client("hold-memory").arg("1000000000").run();
    assert_ne!(greedy.code, Some(0), "{}", greedy.describe());
    proxy.wait_until("its worker was killed", |proxy| {
        let log = proxy.log();
        let mut ends = log.lines().filter(|line| line.contains("worker ended"));
        ends.any(|line| line.contains("zone=\"default\"") && line.contains("SIGKILL"))
    });
    assert!(neighbour.is_running(), "{}", proxy.log());
    neighbour.kill();
    proxy.client("vector-add").run().expect_success();
    proxy.end();
    let left: Vec<_> = groups.iter().filter(|group| group.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn nothing_that_a_layer_stops_gets_past_it() {
    let honest = Setup::new().zone(zone()).start();
    let layers = layers(&honest);
    drop(honest);
    let mut on = on(&layers);
    // An older kernel's Landlock does not stop everything.
    if on.contains("landlock") && layers["landlock"].1.is_empty() {
        on.insert("landlock-whole");
    }
    let probe = format!("{:?}", place::built("vgpu-test-probe"));
    let name = format!("vgpu-probed-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let _listener = UnixListener::bind_addr(&address).expect("nobody else has that name");
    let proxy = Setup::new()
        .worker(place::built("vgpu-test-probe"))
        .driver_env("PROBED_SOCKET", &name)
        .proxy("start_timeout", "\"300s\"")
        .zone(zone())
        .start();
    proxy.wait_until("the probe is done", |proxy| {
        proxy.log().contains("probe done")
    });
    let log = proxy.log();
    let outcome = |jail: &str, attempt: &str| -> String {
        let start = format!("probe {jail} {attempt}: ");
        let found = log
            .split(&start)
            .nth(1)
            .and_then(|rest| rest.lines().next());
        let found = found.unwrap_or_else(|| panic!("{probe} did not try {attempt}\n{log}"));
        found.to_owned()
    };
    for (attempt, layers) in ATTEMPTS {
        let stopped = layers.iter().any(|layer| on.contains(layer));
        let stopped_unfiltered = layers
            .iter()
            .any(|layer| *layer != "calls" && on.contains(layer));
        for (jail, stopped) in [("sealed", stopped), ("unfiltered", stopped_unfiltered)] {
            let outcome = outcome(jail, attempt);
            assert!(
                !stopped || outcome.starts_with("refused"),
                "{attempt}, {jail}: {outcome}, though one of {layers:?} is on\n{log}"
            );
        }
        if FREE.contains(&attempt) {
            let outcome = outcome("free", attempt);
            assert!(
                outcome.starts_with("reached"),
                "{attempt}: {outcome}\n{log}"
            );
        }
    }
}

#[test]
fn the_configuration_says_how_much_of_the_jail_there_is() {
    for (word, calls) in [("log", "log"), ("off", "off")] {
        let proxy = Setup::new()
            .zone(zone())
            .driver("jail", &format!("{word:?}"))
            .start();
        let layers = layers(&proxy);
        assert_eq!(layers["calls"].0, calls, "{layers:#?}");
        assert_eq!(layers["landlock"].0, "off");
        assert_eq!(layers["process"].0, "on");
        proxy.client("vector-add").run().expect_success();
    }
}
