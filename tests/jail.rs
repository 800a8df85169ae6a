//! The jail of the workers: that every layer which the host offers is on, and that nothing which one of them
//! should stop gets past it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use e2e::{Program, Proxy, Setup, Zone, place};

/// A user that nothing else runs as.
const WORKER_UID: u32 = 54_321;

/// What the probe tries, and the layers any of which stops it.
const ATTEMPTS: [(&str, &[&str]); 20] = [
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
    ("internet", &["calls"]),
    ("local-socket", &["root"]),
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
    let proxy = Setup::new()
        .worker(place::built("vgpu-test-probe"))
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
