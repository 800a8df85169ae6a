//! One device, several processes: its memory is finite and comes as its last owner left it, and it may hang
//! or be lost for all of them.
//!
//! Directly on the software GPU a program sees all of that; through the proxy it sees no foreign byte.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use e2e::{Program, Setup, Zone, place, proxy};

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

#[test]
fn lost_device_ends_every_call_of_every_tenant_with_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = setup(folder.path())
        .zone(Zone::new("a").memory("16MiB"))
        .zone(Zone::new("b").memory("16MiB"))
        .start();
    let mut clients = ["a", "b"].map(|zone| {
        let program = proxy.program_in(zone, place::client());
        let mut client = program.arg("steps").start();
        client.wait_for_line("ready");
        client
    });
    device(folder.path(), "lose");
    std::thread::sleep(HUNG);
    for client in &mut clients {
        client.tell("go");
        let line = client.wait_for_line("step 1:");
        assert!(line.ends_with("CUDA_ERROR_UNKNOWN (999)"), "{line}");
    }
    for client in clients {
        client.kill();
    }
    let finished = direct(folder.path(), "steps").run();
    assert_eq!(finished.code, Some(1), "{}", finished.describe());
    assert!(
        finished.stderr.contains("CUDA_ERROR_DEVICE_UNAVAILABLE"),
        "{}",
        finished.describe()
    );
    proxy.stop();
}
