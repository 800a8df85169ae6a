//! Dirty devices: who waits for a scrub, who need not, and what a scrubber that fails or lies changes.

mod common;

use std::time::Duration;

use common::shared::Shared;
use common::*;

#[test]
fn a_device_is_scrubbed_before_its_first_client_and_after_a_worker_died() {
    let shared = Shared::start("", "");
    let first = shared.device();
    assert_eq!((first.scrubs, first.scrubbed_bytes), (1, 4 << 30));
    shared.soil();
    shared.proxy.wait_for_status("another scrub", |status| {
        status.devices[0].scrubs == 2 && status.devices[0].state == "clean"
    });
    let log = shared.proxy.log();
    assert!(log.contains("devices are dirty"), "{log}");
    assert!(log.contains("device is scrubbed"), "{log}");
    let _client = shared.charge("b");
    wait_until("its memory", || shared.used(1) > 0);
}

#[test]
fn a_client_that_just_leaves_makes_no_device_dirty() {
    let shared = Shared::start("", "");
    let client = shared.charge("a");
    wait_until("its memory", || shared.used(0) > 0);
    drop(client);
    wait_until("its end", || shared.used(0) == 0);
    shared.proxy.attach("b", "after it").unwrap();
    assert_eq!(shared.device().scrubs, 1);
}

#[test]
fn while_a_device_is_dirty_its_zone_goes_on_and_others_wait_until_it_is_scrubbed() {
    let shared = Shared::start("", "");
    shared.say("die");
    shared.soil();
    shared.wait_for_state("dirty");
    assert_eq!(shared.device().left_by, ["a"]);
    let _other = shared.charge("b");
    let _own = shared.charge("a");
    wait_until("its own memory", || shared.used(0) > 0);
    assert_eq!(shared.used(1), 0, "{:?}", shared.device());
    shared.say("ok");
    wait_until("the other's memory", || shared.used(1) > 0);
    assert_eq!(shared.device().state, "clean");
}

#[test]
fn nobody_is_granted_memory_while_a_scrubber_has_it() {
    let shared = Shared::start("", "");
    shared.say("hang");
    shared.soil();
    shared.proxy.wait_for_log("scrub: hang");
    let _own = shared.charge("a");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(shared.used(0), 0);
    shared.say("ok");
    // As if the system had run out of memory.
    let scrubber = shared.proxy.log();
    let line = scrubber.lines().find(|line| line.contains("scrub: hang"));
    let (_, pid) = line.unwrap().rsplit_once("scrubber=").unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until("its memory", || shared.used(0) > 0);
}

#[test]
fn who_waited_for_too_long_is_refused_until_the_device_is_clean() {
    let shared = Shared::start("scrub_patience = \"200ms\"", "");
    shared.say("die");
    shared.soil();
    let client = shared.charge("b");
    shared.proxy.wait_for_status("its refusal", |status| {
        status.zones[1]
            .clients
            .first()
            .is_some_and(|client| client.errors == 1)
    });
    drop(client);
    shared.say("ok");
    shared.wait_for_state("clean");
    let _client = shared.charge("b");
    wait_until("its memory", || shared.used(1) > 0);
}

#[test]
fn a_scrubber_that_fails_or_lies_leaves_the_device_dirty_and_raises_an_alert() {
    for (word, line) in [
        ("full", "CUDA_ERROR_OUT_OF_MEMORY"),
        ("lie", "numbers that cannot be"),
        ("little", "was not given"),
        ("die", "the process of the scrub died (exit status 5)"),
        ("die-late", "the process of the scrub died (exit status 6)"),
        ("garbage", "protocol violation"),
        ("charge", "broke the protocol"),
        ("twice", "broke the protocol"),
    ] {
        let shared = Shared::start("", "");
        shared.say(word);
        shared.soil();
        // It is tried again and again.
        wait_until(word, || shared.device().failures >= 2);
        let device = shared.device();
        assert_ne!(device.state, "clean", "{word}");
        assert!(
            device.failure.as_ref().unwrap().contains(line),
            "{device:?}"
        );
        let log = shared.proxy.log();
        let alert = log
            .lines()
            .find(|line| line.contains("alert=\"device_dirty\""));
        assert!(
            alert.is_some_and(|alert| alert.contains(line)),
            "{word}: {log}"
        );
        shared.say("ok");
        shared.wait_for_state("clean");
    }
}

#[test]
fn a_zone_whose_workers_die_again_and_again_waits_longer_each_time() {
    let shared = Shared::start("", "");
    let start = std::time::Instant::now();
    for _ in 0..4 {
        shared.soil();
    }
    // 250 ms, 500 ms and a second.
    assert!(start.elapsed() >= Duration::from_millis(1_500));
    let start = std::time::Instant::now();
    let _other = shared.charge("b");
    wait_until("its memory", || shared.used(1) > 0);
    println!("a neighbour waited {:?}", start.elapsed());
}

#[test]
fn a_scrubber_that_hangs_ends_with_the_proxy() {
    let mut shared = Shared::start("", "");
    shared.say("hang");
    shared.soil();
    shared.proxy.wait_for_log("scrub: hang");
    shared.proxy.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(shared.proxy.ended().code(), Some(0));
    assert!(!shared.proxy.log().contains("leaving without it"));
}
