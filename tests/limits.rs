//! Quotas: what a zone may have, that it gets it, and that it gets no more.
#![forbid(unsafe_code)]

use std::time::Duration;

use e2e::{Proxy, Running, Setup, Zone, place};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MIB: u64 = 1 << 20;

/// Lets a client fill its zone with pieces of 1 MiB, and returns it and how much it got.
fn fill(proxy: &Proxy, zone: &str) -> (Running, u64) {
    let mut client = proxy
        .program_in(zone, place::client())
        .args(["fill-memory", "1048576"])
        .start();
    let got = client.wait_for_line("got ")[4..]
        .parse()
        .expect("a number of bytes");
    client.wait_for_line("filled");
    (client, got)
}

fn end(mut client: Running) {
    client.close_input();
    client.finish().expect_success();
}

/// Waits until the zone holds nothing for anybody.
fn wait_until_unused(proxy: &Proxy) {
    proxy.wait_until("the zone's memory is back", |proxy| {
        proxy.status()["zones"][0]["memory_used"] == 0
    });
}

#[test]
fn zone_gets_its_memory_and_no_more() {
    let proxy = Setup::new().zone(Zone::new("a").memory("64MiB")).start();
    let (client, got) = fill(&proxy, "a");
    end(client);
    assert!(got <= 64 * MIB, "got {got} bytes of 64 MiB");
    assert!(
        got >= 48 * MIB,
        "got only {got} bytes of 64 MiB\n--- log\n{}",
        proxy.log()
    );
}

#[test]
fn two_clients_of_a_zone_share_its_memory() {
    let proxy = Setup::new()
        .zone(Zone::new("a").memory("64MiB").warm(2))
        .start();
    let mut first = proxy
        .client("hold-memory")
        .arg((40 * MIB).to_string())
        .start();
    first.wait_for_line("holds");
    let (second, got) = fill(&proxy, "a");
    assert!(
        got <= 24 * MIB,
        "the second client got {got} bytes beside 40 MiB of 64"
    );
    end(second);
    end(first);
}

#[test]
fn zone_that_is_full_takes_nothing_from_another() {
    let proxy = Setup::new()
        .zone(Zone::new("a").memory("32MiB"))
        .zone(Zone::new("b").memory("64MiB"))
        .start();
    let (full, _) = fill(&proxy, "a");
    let (other, got) = fill(&proxy, "b");
    assert!(
        got >= 48 * MIB,
        "zone b got only {got} bytes of 64 MiB\n--- log\n{}",
        proxy.log()
    );
    end(other);
    end(full);
}

#[test]
fn memory_of_a_killed_client_can_be_had_again() {
    let proxy = Setup::new().zone(Zone::new("a").memory("64MiB")).start();
    let (client, first) = fill(&proxy, "a");
    client.kill();
    wait_until_unused(&proxy);
    let (client, second) = fill(&proxy, "a");
    end(client);
    assert_eq!(first, second, "--- log\n{}", proxy.log());
}

#[test]
fn memory_of_a_client_that_ended_can_be_had_again() {
    let proxy = Setup::new().zone(Zone::new("a").memory("64MiB")).start();
    let (client, first) = fill(&proxy, "a");
    end(client);
    wait_until_unused(&proxy);
    let (client, second) = fill(&proxy, "a");
    end(client);
    assert_eq!(first, second, "--- log\n{}", proxy.log());
}

#[test]
fn memory_of_a_client_that_was_just_killed_is_waited_for() {
    let proxy = Setup::new()
        .zone(Zone::new("a").memory("64MiB").warm(2))
        .start();
    let hold = || {
        let client = proxy.client("hold-memory");
        client.arg((40 * MIB).to_string()).start()
    };
    let mut first = hold();
    first.wait_for_line("holds");
    let worker = proxy.status()["zones"][0]["clients"][0]["worker_pid"].as_i64();
    let worker = Pid::from_raw(worker.and_then(|pid| pid.try_into().ok()).unwrap());
    kill(worker, Signal::SIGSTOP).unwrap();
    first.kill();
    let mut second = hold();
    proxy.wait_until("a second client", |proxy| {
        proxy.status()["zones"][0]["attached_total"] == 2
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(second.is_running());
    // More than there can be is refused whatever comes back.
    let third = proxy.client("hold-memory").arg((100 * MIB).to_string());
    assert_ne!(third.run().code, Some(0));
    // It may have been killed meanwhile, for it did not stop in time.
    let _ = kill(worker, Signal::SIGCONT);
    second.wait_for_line("holds");
    end(second);
}

#[test]
fn pinned_memory_ends_with_out_of_memory_and_can_be_had_again() {
    let zone = Zone::new("a").pinned("64MiB");
    let proxy = Setup::new().zone(zone).audit("").start();
    let finished = proxy
        .client("host-quota")
        .arg(MIB.to_string())
        .run()
        .expect_success();
    let got: u64 = finished
        .stdout
        .trim_start_matches("got ")
        .trim()
        .parse()
        .expect("a number of bytes");
    assert!(got <= 64 * MIB, "got {got} pinned bytes of 64 MiB");
    assert!(got >= 16 * MIB, "got only {got} pinned bytes of 64 MiB");
    let asked = format!("\"asked\":{MIB}");
    proxy.wait_until_recorded("denial", &["\"limit\":\"pinned\"", &asked]);
}

#[test]
fn fresh_memory_is_zero_even_on_a_device_that_poisons_it() {
    let proxy = Setup::new()
        .zone(Zone::new("a").memory("256MiB"))
        .driver_env("SOFTGPU_POISON", "1")
        .start();
    proxy.client("zeroed").run().expect_success();
}

#[test]
fn memory_of_one_client_is_zero_for_the_next() {
    let proxy = Setup::new()
        .zone(Zone::new("a").memory("64MiB").warm(1))
        .start();
    // The first leaves a pattern in all of the zone's memory; the next finds none of it.
    let (client, _) = fill(&proxy, "a");
    client.kill();
    wait_until_unused(&proxy);
    proxy.client("zeroed").run().expect_success();
}
