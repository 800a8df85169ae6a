//! What workers hold is compared with what the driver says: one that was taken over cannot spend what nobody granted.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use e2e::{Proxy, Setup, Zone, place};
use idm_protocol::attach::client::attach;
use idm_protocol::attach::{Capabilities, Hello};
use idm_protocol::wire::TABLE_HASH;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// What the software GPU's memory is handed out in; the client's code has a part of its own.
const SLACK: u64 = 16 * MIB;

fn setup(folder: &Path, lines: &str) -> Setup {
    let lines = format!("interval = \"20ms\"\nallowance = \"16MiB\"\n{lines}");
    Setup::new()
        .driver_env("SOFTGPU_SHARED", folder.to_str().expect("a plain path"))
        .driver_env("SOFTGPU_MEMORY", "256M")
        .monitor(&lines)
}

fn client(proxy: &Proxy, zone: usize) -> Value {
    proxy.status()["zones"][zone]["clients"][0].clone()
}

fn monitor(proxy: &Proxy) -> Option<u32> {
    let pid = proxy.status()["monitor"]["pid"].as_u64()?;
    u32::try_from(pid).ok()
}

/// Returns after so many more sweeps.
fn sweeps(proxy: &Proxy, count: u32) {
    std::thread::sleep(Duration::from_millis(20) * count);
    proxy.wait_until("another sweep", |proxy| {
        let since = proxy.status()["monitor"]["swept_millis_ago"].as_u64();
        since.is_some_and(|since| since < 20)
    });
}

#[test]
fn the_driver_and_the_ledger_agree_on_what_honest_clients_hold() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = setup(folder.path(), "mode = \"enforce\"").start();
    let mut holder = proxy
        .client("hold-memory")
        .arg((100 * MIB).to_string())
        .start();
    holder.wait_for_line("holds");
    proxy.wait_until("what it holds is measured", |proxy| {
        client(proxy, 0)["memory_measured"].as_u64() >= Some(100 * MIB)
    });
    // Not one sweep too many finds anything.
    sweeps(&proxy, 10);
    let client = client(&proxy, 0);
    let bytes = |key: &str| client[key].as_u64().expect("a number of bytes");
    let (granted, measured) = (bytes("memory_granted"), bytes("memory_measured"));
    assert!(
        granted >= 100 * MIB && measured.abs_diff(granted) <= SLACK,
        "{client}"
    );
    let doctor = proxy.vgpuctl(&["doctor"]).expect_success().stdout;
    assert!(doctor.contains("  on       monitor "), "{doctor}");
    holder.close_input();
    holder.finish().expect_success();
    assert!(!proxy.log().contains("worker_overdrawn"));
    proxy.stop();
}

/// A proxy with an honest zone and one whose worker takes half of the device, and a victim in each.
fn with_a_thief(folder: &Path, lines: &str) -> Proxy {
    setup(folder, lines)
        .worker(place::built("vgpu-test-evil"))
        .audit("")
        .zone(Zone::new("honest").memory("64MiB"))
        .zone(Zone::new("helps-itself").memory("64MiB"))
        .start()
}

fn victim(proxy: &Proxy) -> impl Sized + use<> {
    let hello = Hello::new(TABLE_HASH, Capabilities::ALL, u32::MAX, "victim");
    let zone = proxy.socket("helps-itself");
    let attached = attach(&zone, &hello, Duration::from_secs(60)).expect("a worker");
    proxy.wait_until("it helps itself", |proxy| {
        proxy.log().contains("helped itself to")
    });
    attached
}

/// By whose word it is at fault.
const RECORDED: &[&str] = &["by the driver's word"];

#[test]
fn a_worker_that_takes_more_than_it_was_granted_ends_alone() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = with_a_thief(folder.path(), "mode = \"enforce\"");
    let mut honest = proxy.client("until-error").start();
    honest.wait_for_line("works");
    let thief = victim(&proxy);
    proxy.wait_until("it is ended", |proxy| {
        let log = proxy.log();
        let mut lines = log.lines().filter(|line| line.contains("worker_overdrawn"));
        lines.any(|line| line.contains("zone=\"helps-itself\"") && line.contains("ended=true"))
    });
    proxy.wait_until_recorded("fault", RECORDED);
    proxy.wait_until("its client is gone", |proxy| client(proxy, 1).is_null());
    let ended = proxy.status()["zones"][1]["ended_total"].clone();
    assert_eq!(
        (&ended["overdrawn"], &ended["detached"]),
        (&1.into(), &0.into())
    );
    drop(thief);
    assert!(honest.is_running(), "{}", proxy.log());
    honest.kill();
    proxy.client("vector-add").run().expect_success();
    proxy.stop();
}

#[test]
fn where_it_is_only_reported_it_goes_on_and_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = with_a_thief(folder.path(), "mode = \"report\"");
    let thief = victim(&proxy);
    proxy.wait_until("it is reported", |proxy| {
        proxy.log().contains("worker_overdrawn")
    });
    proxy.wait_until_recorded("fault", RECORDED);
    sweeps(&proxy, 10);
    assert_eq!(proxy.log().matches("worker_overdrawn").count(), 1);
    assert!(!client(&proxy, 1).is_null(), "{}", proxy.log());
    drop(thief);
    proxy.stop();
}

#[test]
fn a_monitor_that_dies_or_hangs_costs_nobody_anything_and_another_comes() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = setup(folder.path(), "mode = \"enforce\"").start();
    let mut honest = proxy.client("until-error").start();
    honest.wait_for_line("works");
    let mut last = None;
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        proxy.wait_until("a monitor that is not the last one", |proxy| {
            let found = monitor(proxy);
            found.is_some() && found != last
        });
        sweeps(&proxy, 1);
        last = monitor(&proxy);
        let pid = i32::try_from(last.expect("a monitor")).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("it is there");
    }
    proxy.wait_until("one that hung is replaced", |proxy| {
        let found = monitor(proxy);
        found.is_some() && found != last && proxy.status()["monitor"]["failure"].is_null()
    });
    let processes = proxy.family().into_iter();
    let monitors = processes.filter(|process| process.name.starts_with("vgpu-monitor"));
    assert_eq!(monitors.count(), 1);
    assert!(honest.is_running(), "{}", proxy.log());
    honest.kill();
    proxy.stop();
}

#[test]
fn what_cannot_be_asked_is_told_and_everything_else_works() {
    // Each process has a device of its own: nobody can tell of another's.
    let proxy = Setup::new()
        .monitor("mode = \"enforce\"\ninterval = \"20ms\"")
        .start();
    proxy.wait_until("it is told", |proxy| {
        proxy.log().contains("monitor_away") && proxy.log().contains("libsoftnvml.so")
    });
    proxy.client("vector-add").run().expect_success();
    let doctor = proxy.vgpuctl(&["doctor"]).expect_success().stdout;
    assert!(doctor.contains("  away     monitor "), "{doctor}");
    proxy.stop();
}
