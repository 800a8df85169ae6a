//! One device, several processes: its memory is finite and comes as its last owner left it, and it may hang
//! or be lost for all of them.
//!
//! Directly on the software GPU a program sees all of that; through the proxy it sees no foreign byte, and what a
//! worker leaves that dies is scrubbed.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use e2e::load::beside;
use e2e::{Program, Proxy, Setup, Zone, place, proxy};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const MIB: u64 = 1 << 20;
const VARIABLE: &str = "SOFTGPU_SHARED";
const HUNG: Duration = Duration::from_millis(300);

/// A client on the shared device itself.
fn direct(folder: &Path, scenario: &str) -> Program {
    proxy::direct(place::client())
        .env(VARIABLE, folder)
        .env("SOFTGPU_MEMORY", "64M")
        .arg(scenario)
}

fn setup(folder: &Path) -> Setup {
    Setup::new()
        .driver_env(VARIABLE, folder.to_str().expect("a plain path"))
        .driver_env("SOFTGPU_MEMORY", "64M")
}

fn device(folder: &Path, command: &str) -> String {
    Program::new(place::softgpu_device())
        .arg(folder)
        .arg(command)
        .run()
        .expect_success()
        .stdout
}

/// Fills memory with a pattern and dies with it.
fn litter(folder: &Path) {
    let mut client = direct(folder, "hold-memory")
        .arg((48 * MIB).to_string())
        .start();
    client.wait_for_line("holds");
    let status = device(folder, "status");
    let own = format!("process {} bytes ", client.pid());
    let found = status.lines().find(|line| line.starts_with(&own));
    let found = found.unwrap_or_else(|| panic!("no line `{own}` in {status:?}"));
    // Modules have some of it, too.
    let bytes: u64 = found.split(' ').nth(3).unwrap().parse().unwrap();
    assert!((48 * MIB..=64 * MIB).contains(&bytes), "{status}");
    client.kill();
}

#[test]
fn memory_of_a_dead_process_comes_to_the_next_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    litter(folder.path());
    let finished = direct(folder.path(), "leftover").run().expect_success();
    assert_eq!(finished.stdout, format!("leftover {MIB}\n"));
    assert_eq!(device(folder.path(), "status"), "state running\n");
}

#[test]
fn memory_is_finite_for_all_processes_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut client = direct(folder.path(), "hold-memory")
        .arg((40 * MIB).to_string())
        .start();
    client.wait_for_line("holds");
    let mut second = direct(folder.path(), "fill-memory")
        .arg((2 * MIB).to_string())
        .start();
    let got: u64 = second.wait_for_line("got ")[4..].parse().unwrap();
    assert!((8 * MIB..=24 * MIB).contains(&got), "got {got}");
    second.close_input();
    second.finish().expect_success();
    client.close_input();
    client.finish().expect_success();
}

#[test]
fn tenants_find_zeros_where_others_left_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    litter(folder.path());
    let proxy = setup(folder.path())
        .zone(Zone::new("a").memory("32MiB"))
        .start();
    proxy.client("zeroed").run().expect_success();
    let finished = proxy.client("leftover").run().expect_success();
    assert_eq!(finished.stdout, "leftover 0\n");
    proxy.stop();
}

/// What status says of the device, once it is in this state.
fn device_in_state(proxy: &Proxy, state: &str) -> Value {
    let found = |proxy: &Proxy| proxy.status()["devices"][0].clone();
    proxy.wait_until(state, |proxy| found(proxy)["state"] == state);
    found(proxy)
}

fn worker_of_client(proxy: &Proxy, zone: usize) -> Pid {
    let pid = proxy.status()["zones"][zone]["clients"][0]["worker_pid"].as_i64();
    Pid::from_raw(i32::try_from(pid.expect("a worker")).expect("a process id"))
}

/// The process that scrubs the device.
fn scrubber(proxy: &Proxy) -> Pid {
    let find = |proxy: &Proxy| {
        let mut family = proxy.family().into_iter();
        family.find_map(|process| {
            let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).ok()?;
            let mut words = line.split(|byte| *byte == 0);
            words.any(|word| word == b"scrub").then_some(process.pid)
        })
    };
    proxy.wait_until("a scrubber", |proxy| find(proxy).is_some());
    let pid = find(proxy).expect("it is held up");
    Pid::from_raw(i32::try_from(pid).expect("a process id"))
}

fn two_zones(folder: &Path) -> Proxy {
    let proxy = setup(folder)
        .audit("")
        .zone(Zone::new("a").memory("40MiB"))
        .zone(Zone::new("b").memory("16MiB"))
        .start();
    device_in_state(&proxy, "clean");
    proxy
}

/// Device memory that nobody has holds no byte that is not zero.
fn expect_scrubbed(folder: &Path) {
    let all = (60 * MIB).to_string();
    let finished = direct(folder, "leftover").arg(all).run().expect_success();
    assert_eq!(finished.stdout, "leftover 0\n");
}

#[test]
fn what_was_on_the_device_before_the_proxy_and_what_a_killed_worker_leaves_is_scrubbed() {
    let folder = tempfile::tempdir().unwrap();
    litter(folder.path());
    let proxy = two_zones(folder.path());
    let mut client = proxy.program_in("a", place::client());
    client = client.arg("hold-memory").arg((32 * MIB).to_string());
    let mut client = client.start();
    client.wait_for_line("holds");
    kill(worker_of_client(&proxy, 0), Signal::SIGKILL).unwrap();
    proxy.wait_until("a scrub", |proxy| {
        proxy.status()["devices"][0]["scrubs"] == 2
    });
    let status = device_in_state(&proxy, "clean");
    assert!(
        status["scrubbed_bytes"].as_u64() >= Some(100 * MIB),
        "{status}"
    );
    proxy.wait_until_recorded("scrub", &["\"device\":0"]);
    proxy.wait_until_recorded("fault", &["\"program\":\"vgpu-test-client\""]);
    proxy.wait_until_recorded("detach", &["SIGKILL"]);
    client.kill();
    proxy.stop();
    expect_scrubbed(folder.path());
}

#[test]
fn memory_waits_for_a_scrubber_that_is_held_up_and_for_the_next_one_when_it_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = two_zones(folder.path());
    let mut client = proxy.program_in("a", place::client());
    client = client.arg("hold-memory").arg((32 * MIB).to_string());
    let mut client = client.start();
    client.wait_for_line("holds");
    // So that the scrubber can be met.
    device(folder.path(), "hang");
    std::thread::sleep(HUNG);
    kill(worker_of_client(&proxy, 0), Signal::SIGKILL).unwrap();
    client.kill();
    let first = scrubber(&proxy);
    kill(first, Signal::SIGSTOP).unwrap();
    device(folder.path(), "resume");
    let neighbour = proxy.program_in("b", place::client());
    let mut neighbour = neighbour.arg("leftover").start();
    std::thread::sleep(HUNG);
    let status = device_in_state(&proxy, "scrubbing");
    assert_eq!(status["left_by"], serde_json::json!(["a"]));
    assert!(neighbour.is_running());
    assert_eq!(proxy.status()["zones"][1]["memory_used"], 0);
    kill(first, Signal::SIGKILL).unwrap();
    assert_eq!(neighbour.wait_for_line("leftover"), "leftover 0");
    neighbour.finish().expect_success();
    let log = proxy.log();
    let alert = log
        .lines()
        .find(|line| line.contains("alert=\"device_dirty\""));
    assert!(
        alert.is_some_and(|alert| alert.contains("SIGKILL")),
        "{log}"
    );
    proxy.wait_until_recorded("device_state", &["\"state\":\"dirty\"", "SIGKILL"]);
    proxy.stop();
    expect_scrubbed(folder.path());
}

#[test]
fn a_kernel_that_reaches_for_another_tenants_memory_finds_nothing_there() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = two_zones(folder.path());
    let mut holder = proxy.program_in("a", place::client());
    holder = holder.arg("hold-memory").arg((32 * MIB).to_string());
    let mut holder = holder.start();
    let line = holder.wait_for_line("holds");
    let address: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    for offset in [0, 5 * MIB, 31 * MIB] {
        let thief = proxy.program_in("b", place::client()).arg("reach");
        let thief = thief.arg((address + offset).to_string());
        thief.run().expect_success();
    }
    // It looks at what it holds before it ends.
    holder.close_input();
    holder.finish().expect_success();
    proxy.stop();
}

#[test]
fn a_tenant_that_allocates_over_and_over_finds_no_byte_of_one_that_is_killed_at_any_time() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = two_zones(folder.path());
    let rounds = AtomicU64::new(0);
    let neighbour = || {
        let client = proxy.program_in("b", place::client());
        client.arg("zeroed").arg("64").run().expect_success();
        rounds.fetch_add(1, Ordering::Relaxed);
    };
    beside(&[&neighbour], || {
        for round in 0..8_u64 {
            let client = proxy.program_in("a", place::client());
            let mut client = client
                .arg("hold-memory")
                .arg((32 * MIB).to_string())
                .start();
            if round % 4 == 0 {
                // In the middle of anything.
                std::thread::sleep(Duration::from_millis(round * 17));
            } else {
                client.wait_for_line("holds");
            }
            let workers = proxy.status();
            let worker = workers["zones"][0]["clients"][0]["worker_pid"].as_i64();
            match worker.and_then(|pid| i32::try_from(pid).ok()) {
                // It may have ended by itself.
                Some(worker) if round % 2 == 1 => {
                    let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
                }
                _ => {}
            }
            client.kill();
        }
    });
    assert!(rounds.into_inner() > 0);
    let status = device_in_state(&proxy, "clean");
    assert!(status["scrubs"].as_u64() > Some(1), "{status}");
    proxy.client("leftover").run().expect_success();
    proxy.stop();
}

#[test]
fn hung_device_holds_the_work_of_every_tenant_and_then_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = setup(folder.path())
        .zone(Zone::new("a").memory("16MiB"))
        .zone(Zone::new("b").memory("16MiB"))
        .start();
    let mut clients = ["a", "b"].map(|zone| {
        let program = proxy.program_in(zone, place::client());
        program.arg("steps").start()
    });
    for client in &mut clients {
        client.wait_for_line("ready");
        client.tell("go");
        assert!(client.wait_for_line("step 1:").ends_with("right"));
    }
    device(folder.path(), "hang");
    // Both processes must have looked.
    std::thread::sleep(HUNG);
    for client in &mut clients {
        client.tell("go");
    }
    std::thread::sleep(HUNG);
    device(folder.path(), "resume");
    for client in &mut clients {
        let line = client.wait_for_line("step 2:");
        let milliseconds: u128 = line.split(' ').nth(2).unwrap().parse().unwrap();
        assert!(line.ends_with("right"), "{line}");
        assert!(milliseconds >= HUNG.as_millis() - 10, "{line}");
    }
    for client in clients {
        client.kill();
    }
    proxy.stop();
}

/// Grants zones what they need; the second falls back to the software GPU.
const POLICY: &str = r#"version = 1
[[zone]]
name = "a"
allow = ["compute", "memory", "jit"]
devices = [0]
[[zone]]
name = "b"
allow = ["compute", "memory", "jit"]
devices = [0]
on_lost_device = "softgpu"
[[zone]]
name = "c"
allow = ["compute", "memory", "jit"]
devices = [1]
"#;

#[test]
fn lost_device_ends_every_call_of_every_tenant_on_it_and_lets_nobody_new_in_before_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = setup(folder.path())
        .driver_env("SOFTGPU_DEVICES", "2")
        .policy(POLICY)
        .audit("");
    for zone in ["a", "b", "c"] {
        setup = setup.zone(Zone::new(zone).memory("16MiB"));
    }
    let proxy = setup.start();
    let mut clients = ["a", "b", "c"].map(|zone| {
        let program = proxy.program_in(zone, place::client());
        let mut client = program.arg("steps").start();
        client.wait_for_line("ready");
        client
    });
    device(folder.path(), "lose");
    std::thread::sleep(HUNG);
    let [first, second, other] = &mut clients;
    for client in [first, second] {
        client.tell("go");
        let line = client.wait_for_line("step 1:");
        assert!(line.ends_with("CUDA_ERROR_UNKNOWN (999)"), "{line}");
    }
    other.tell("go");
    assert!(other.wait_for_line("step 1:").ends_with("right"));
    device_in_state(&proxy, "lost");
    let log = proxy.log();
    assert!(log.contains("alert=\"device_lost\""), "{log}");

    let refused = proxy.client("init").run().expect_success();
    assert!(
        refused.stdout.starts_with("init 46 "),
        "{}",
        refused.describe()
    );
    assert!(
        refused.stderr.contains("device 0 is lost"),
        "{}",
        refused.describe()
    );
    let fallback = proxy.program_in("b", place::client());
    fallback.arg("vector-add").run().expect_success();
    let log = proxy.log();
    assert!(log.contains("alert=\"fallback\" zone=\"b\""), "{log}");
    proxy.wait_until_recorded("device_state", &["\"device\":0", "\"state\":\"lost\""]);
    proxy.wait_until_recorded("fallback", &["\"driver\":\"softgpu\""]);
    other.tell("go");
    assert!(other.wait_for_line("step 2:").ends_with("right"));

    let finished = direct(folder.path(), "steps").run();
    assert_eq!(finished.code, Some(1), "{}", finished.describe());
    assert!(
        finished.stderr.contains("CUDA_ERROR_DEVICE_UNAVAILABLE"),
        "{}",
        finished.describe()
    );
    for client in clients {
        client.kill();
    }
    device(folder.path(), "resume");
    device_in_state(&proxy, "clean");
    proxy.client("vector-add").run().expect_success();
    proxy.stop();
}
