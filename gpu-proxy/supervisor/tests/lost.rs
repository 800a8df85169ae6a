//! Lost devices: who says so, who is let in, and what happens when one is back.

mod common;

use common::shared::Shared;
use common::*;
use idm_protocol::attach::{DriverKind, RefusalCode};

const ALLOW: &str = "allow = [\"compute\", \"memory\"]\n";

/// A policy in which zone b falls back to the software GPU and zone a does not.
fn policy() -> String {
    format!(
        "[[zone]]\nname = \"a\"\n{ALLOW}[[zone]]\nname = \"b\"\n{ALLOW}on_lost_device = \"softgpu\"\n"
    )
}

/// A worker says that the device is lost, and a probe finds it so.
fn lose(shared: &Shared) {
    shared.say("lost");
    let _client = shared.proxy.attach("a", "suspect").unwrap();
    shared.wait_for_state("lost");
}

#[test]
fn nobody_new_comes_to_a_lost_device_and_who_is_there_stays() {
    let shared = Shared::start("", "");
    let client = shared.charge("b");
    wait_until("its memory", || shared.used(1) > 0);
    lose(&shared);
    for zone in ["a", "b"] {
        let (code, text) = shared.proxy.refusal(zone, "late");
        assert_eq!(code, RefusalCode::DEVICE_LOST);
        assert!(text.contains("device 0 is lost"), "{text}");
    }
    assert!(shared.used(1) > 0, "its worker is left alone");
    drop(client);
    let log = shared.proxy.log();
    assert!(log.contains("alert=\"device_lost\""), "{log}");
}

#[test]
fn by_policy_the_software_gpu_serves_new_clients_in_its_place_and_says_so() {
    let shared = Shared::start("", &policy());
    lose(&shared);
    assert_eq!(
        shared.proxy.refusal("a", "late").0,
        RefusalCode::DEVICE_LOST
    );
    let client = shared.proxy.attach("b", "late").unwrap();
    assert_eq!(client.welcome.driver_kind, DriverKind::SOFTGPU);
    shared.proxy.wait_for_log("alert=\"fallback\"");
    let status = shared.proxy.status();
    let why = status.zones[1].fallback.clone().unwrap_or_default();
    assert!(why.contains("device 0 is lost"), "{why}");
    assert_eq!(status.zones[0].fallback, None);
    // What it is granted has nothing to do with the device.
    let _other = shared.charge("b");
    wait_until("its memory", || shared.used(1) > 0);
}

#[test]
fn a_reload_decides_anew_what_becomes_of_new_clients() {
    let shared = Shared::start("", &policy());
    lose(&shared);
    let turned = policy().replace("\"softgpu\"", "\"refuse\"");
    shared.reload(&turned);
    shared
        .proxy
        .wait_for_log("on_lost_device softgpu -> refuse");
    assert_eq!(
        shared.proxy.refusal("b", "late").0,
        RefusalCode::DEVICE_LOST
    );
    shared.reload(&policy());
    shared
        .proxy
        .wait_for_log("on_lost_device refuse -> softgpu");
    shared.proxy.attach("b", "later").unwrap();
}

#[test]
fn a_device_that_is_back_is_scrubbed_and_serves_again() {
    let shared = Shared::start("", &policy());
    lose(&shared);
    shared.say("ok");
    shared.wait_for_state("clean");
    assert!(shared.proxy.log().contains("device is back"));
    assert_eq!(shared.device().scrubs, 2);
    let _client = shared.charge("a");
    wait_until("its memory", || shared.used(0) > 0);
    shared
        .proxy
        .wait_for_status("no fallback", |status| status.zones[1].fallback.is_none());
}

#[test]
fn a_worker_that_cries_wolf_takes_no_device_from_anybody() {
    let shared = Shared::start("", "");
    let _wolf = shared.proxy.attach("a", "suspect").unwrap();
    shared.proxy.wait_for_log("probe: ");
    shared.proxy.wait_for_log("device is not lost");
    shared.proxy.attach("b", "after it").unwrap();
    assert_eq!(shared.device().state, "clean");
}

#[test]
fn a_probe_that_dies_raises_an_alert_and_takes_no_device_from_anybody() {
    let shared = Shared::start("", "");
    shared.say("die");
    let _client = shared.proxy.attach("a", "suspect").unwrap();
    shared.proxy.wait_for_log("alert=\"device_suspect\"");
    shared.proxy.attach("b", "meanwhile").unwrap();
    shared.say("lost");
    shared.wait_for_state("lost");
}
