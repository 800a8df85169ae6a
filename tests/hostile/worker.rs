//! A worker that was taken over ends, and takes nothing along but its own client.
//!
//! `vgpu-test-evil` stands in the worker's place; what it does is the name of the zone that it is in.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use e2e::{Proxy, Setup, Zone, place};
use idm_protocol::attach::client::attach;
use idm_protocol::attach::{Capabilities, Hello};
use idm_protocol::wire::TABLE_HASH;

/// What is written down of each, without which it has not been noticed or did not even try.
const ALONE: [(&str, &str); 12] = [
    ("garbage", "worker channel version"),
    ("a-byte", "protocol violation"),
    ("another-version", "worker channel version"),
    (
        "too-long",
        "protocol violation: a packet that was cut short",
    ),
    ("descriptors", "descriptors that are not its own"),
    ("ready-without-devices", "message out of turn"),
    ("devices-without-end", "message out of turn"),
    ("layers-without-end", "message out of turn"),
    ("spends-before-it-is-ready", "message out of turn"),
    ("spends-without-client", "message out of turn"),
    ("silent", "did not get ready within"),
    ("loud", "suppressed"),
];

/// The same of those that wait for a client first.
const WITH_CLIENT: [(&str, &str); 18] = [
    ("gone-while-attaching", "worker hung up"),
    ("attached-twice", "message out of turn"),
    (
        "gives-back-what-it-has-not",
        "released 1152921504606846976 bytes but holds 0",
    ),
    ("denies-nonsense", "limit=\"bound 18446744073709551615\""),
    ("scrubs-uninvited", "message out of turn"),
    ("cries-wolf", "served after all: true"),
    ("withdraws-anothers", "shared memory that it does not have"),
    ("closes-anothers", "shared memory that it does not have"),
    ("refuses-nothing", "worker refused what no policy refuses"),
    ("deaf", "does not read its channel"),
    ("greedy", "granted all: true, more: false"),
    ("guesses-tokens", "tokens guessed: 0"),
    ("shares-without-end", "shared before it was enough: true"),
    ("lies-on-its-page", "page written: true"),
    (
        "writes-where-it-may-not",
        "status written: false, files cut: 0",
    ),
    ("ends-for-ever", "reason=\"again?forged zone=\\\"honest"),
    ("busy", "answers: some"),
    ("stubborn", "client attached"),
];

/// What the log says of a zone. A worker's own words come before what the proxy knows of it.
fn lines<'a>(log: &'a str, zone: &str) -> impl Iterator<Item = &'a str> {
    let mark = format!("{zone}\"");
    log.lines().filter(move |line| {
        let last = line.rsplit_once(" zone=\"");
        last.is_some_and(|(_, rest)| rest.starts_with(&mark))
    })
}

fn says(proxy: &Proxy, zone: &str, words: &str) {
    proxy.wait_until(&format!("{zone}: {words}"), |proxy| {
        lines(&proxy.log(), zone).any(|line| line.contains(words))
    });
}

/// Device memory in use, by zone.
fn memory(proxy: &Proxy) -> BTreeMap<String, u64> {
    let status = proxy.status();
    let zones = status["zones"].as_array().expect("a list");
    zones
        .iter()
        .map(|zone| {
            let name = zone["name"].as_str().expect("a name");
            let used = zone["memory_used"].as_u64().expect("a number");
            (name.to_owned(), used)
        })
        .collect()
}

#[test]
fn a_worker_that_was_taken_over_ends_and_takes_nothing_along_but_its_client() {
    let evil = ALONE.iter().chain(&WITH_CLIENT);
    let setup = Setup::new()
        .worker(place::built("vgpu-test-evil"))
        .proxy("start_timeout", "\"20s\"")
        .proxy("stop_grace", "\"1s\"")
        .zone(Zone::new("honest").warm(1));
    let setup = evil.fold(setup, |setup, (zone, _)| {
        setup.zone(Zone::new(zone).memory("64MiB").clients(2).warm(1))
    });
    let proxy = setup.start();
    let mut honest = proxy.client("until-error").start();
    honest.wait_for_line("works");

    thread::scope(|scope| {
        for (zone, words) in WITH_CLIENT {
            let proxy = &proxy;
            scope.spawn(move || {
                // Every window will do: nothing is mapped.
                let hello = Hello::new(TABLE_HASH, Capabilities::ALL, u32::MAX, "victim");
                let attached = attach(&proxy.socket(zone), &hello, Duration::from_secs(60));
                says(proxy, zone, words);
                // A zone's numbers are told, whatever its worker claims.
                proxy.status();
                drop(attached);
            });
        }
    });
    for (zone, words) in ALONE {
        says(&proxy, zone, words);
    }
    says(&proxy, "stubborn", "worker did not stop in time; killed");

    // What any of them was granted is back, and no zone has what it should not.
    proxy.wait_until("all memory is back", |proxy| {
        let mut used = memory(proxy);
        used.remove("honest");
        used.values().all(|used| *used == 0)
    });
    let log = proxy.log();
    let forged = lines(&log, "honest").find(|line| line.contains("forged"));
    assert_eq!(forged, None);
    assert!(!log.contains('\u{1b}'), "{log}");
    let loud = lines(&log, "loud").count();
    assert!(loud < 2_000, "{loud} lines");
    let denials = lines(&log, "denies-nonsense").count();
    assert!(denials < 200, "{denials} lines");
    assert!(
        honest.is_running(),
        "the honest client ended\n--- log\n{log}"
    );
    honest.kill();
    proxy.client("vector-add").run().expect_success();
    proxy.stop();
}
