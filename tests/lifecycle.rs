//! Coming and going: clients, workers, the proxy; nothing grows and nothing is left.
#![forbid(unsafe_code)]

use std::thread;
use std::time::Duration;

use e2e::system::{self, Identity};
use e2e::{Program, Proxy, Setup, Zone, place};
use idm_protocol::attach::client::attach;
use idm_protocol::attach::{Capabilities, Hello};
use idm_protocol::wire::TABLE_HASH;
use nix::sys::signal::Signal;

/// What must not grow.
#[derive(Debug)]
struct Census {
    processes: usize,
    descriptors: usize,
    threads: u64,
    anonymous_kib: u64,
}

impl Census {
    /// Counts once clients are gone and the warm workers are back.
    fn of(proxy: &Proxy, processes: usize) -> Self {
        proxy.wait_until("the worker processes are back to their number", |proxy| {
            proxy.family().len() == processes
        });
        Self {
            processes: proxy.family().len(),
            descriptors: system::descriptor_count(proxy.pid()),
            threads: system::thread_count(proxy.pid()),
            anonymous_kib: system::anonymous_kib(proxy.pid()),
        }
    }
}

/// The proxy and its warm workers, once all are up.
fn resting_process_count(proxy: &Proxy, warm: usize) -> usize {
    proxy.wait_until("warm workers are up", |proxy| proxy.family().len() > warm);
    warm + 1
}

#[test]
fn workers_started_for_clients_who_did_not_wait_go_after_a_while() {
    let proxy = Setup::new()
        .zone(Zone::new("default").clients(4).warm(0))
        .start();
    // Gone before any worker is ready.
    let greeting = Hello::new(TABLE_HASH, Capabilities::ALL, u32::MAX, "impatient");
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let socket = proxy.socket("default");
                attach(&socket, &greeting, Duration::from_millis(1)).unwrap_err()
            });
        }
    });
    proxy.wait_until("workers were started", |proxy| proxy.family().len() > 1);
    proxy.wait_until("they have gone", |proxy| proxy.family().len() == 1);
    proxy.client("vector-add").run().expect_success();
}

fn attach_and_detach(cycles: u32) {
    let proxy = Setup::new().zone(Zone::new("default").warm(2)).start();
    let resting = resting_process_count(&proxy, 2);
    let cycle = || {
        proxy
            .client("vector-add")
            .arg("1000")
            .run()
            .expect_success();
    };
    // What is allocated once and kept does not count as growth.
    (0..10).for_each(|_| cycle());
    let before = Census::of(&proxy, resting);
    (0..cycles).for_each(|_| cycle());
    // The proxy closes what it had of a worker a moment after that process is gone.
    proxy.wait_until("no more descriptors are open than before", |proxy| {
        proxy.family().len() == resting
            && system::descriptor_count(proxy.pid()) <= before.descriptors
    });
    let after = Census::of(&proxy, resting);
    let grown = format!("before {before:?}, after {cycles} cycles {after:?}");
    assert!(after.threads <= before.threads, "threads grew: {grown}");
    assert!(
        after.processes <= before.processes,
        "processes grew: {grown}"
    );
    // The allocator may keep a few pages more; a leak of a page a cycle is far beyond that.
    let slack = 512 + u64::from(cycles);
    assert!(
        after.anonymous_kib <= before.anonymous_kib + slack,
        "memory grew: {grown}"
    );
    proxy.stop();
}

#[test]
fn attaching_and_detaching_30_times_grows_nothing() {
    attach_and_detach(30);
}

#[test]
#[ignore = "long: the full number of cycles, run by make test-full"]
fn attaching_and_detaching_200_times_grows_nothing() {
    attach_and_detach(200);
}

#[test]
#[ignore = "long: `make soak`"]
fn soak_attaching_and_detaching_1000_times_grows_nothing() {
    attach_and_detach(1000);
}

#[test]
fn contexts_made_and_destroyed_over_and_over_grow_nothing_in_the_zone() {
    let proxy = Setup::new()
        .zone(Zone::new("default").memory("64MiB"))
        .start();
    // Far more in sum than the zone has: what is not given back would end it early.
    proxy
        .client("context-cycles")
        .arg("100")
        .run()
        .expect_success();
    proxy.client("cycles").arg("100").run().expect_success();
}

#[test]
fn proxy_without_clients_stops_cleanly() {
    Proxy::start().stop();
}

#[test]
fn proxy_with_busy_clients_stops_cleanly_and_tells_them() {
    let proxy = Setup::new().zone(Zone::new("default").warm(2)).start();
    let mut clients: Vec<_> = (0..2)
        .map(|_| proxy.client("until-error").start())
        .collect();
    for client in &mut clients {
        client.wait_for_line("works");
    }
    proxy.stop();
    for client in clients {
        let finished = client.finish().expect_success();
        assert!(
            finished.stdout.contains("failed 46"),
            "{}",
            finished.describe()
        );
    }
}

#[test]
fn killed_proxy_takes_its_workers_with_it_and_clients_are_told() {
    let proxy = Proxy::start();
    let mut client = proxy.client("until-error").start();
    client.wait_for_line("works");
    proxy.kill();
    let finished = client.finish().expect_success();
    assert!(
        finished.stdout.contains("failed 46"),
        "{}",
        finished.describe()
    );
    assert_eq!(
        finished.stderr.lines().count(),
        1,
        "{}",
        finished.describe()
    );
}

#[test]
fn proxy_starts_again_where_a_killed_one_left_its_sockets() {
    let proxy = Proxy::start();
    let configuration = proxy.directory().join("gpu-proxy.toml");
    proxy.signal(Signal::SIGKILL);
    let first = proxy.family();
    proxy.wait_until("the killed proxy is gone", |_| {
        !first.iter().any(Identity::is_alive)
    });
    let mut second = Program::new(place::built("gpu-proxy"))
        .arg("serve")
        .arg("--config")
        .arg(&configuration)
        .start();
    proxy.wait_until("the second proxy serves", |proxy| {
        proxy.client("vector-add").run().code == Some(0)
    });
    assert!(second.is_running());
    second.signal(Signal::SIGTERM);
    let finished = second.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.describe());
    assert!(!proxy.socket("default").exists());
    proxy.kill();
}

#[test]
fn second_proxy_on_the_same_sockets_is_refused_and_harms_nothing() {
    let proxy = Proxy::start();
    let finished = Program::new(place::built("gpu-proxy"))
        .arg("serve")
        .arg("--config")
        .arg(proxy.directory().join("gpu-proxy.toml"))
        .run();
    assert!(
        finished.code.is_some_and(|code| code != 0),
        "{}",
        finished.describe()
    );
    proxy.client("vector-add").run().expect_success();
}

#[test]
fn status_shows_a_client_while_it_is_attached_and_not_after() {
    let proxy = Proxy::start();
    let mut client = proxy.client("hold-memory").arg("8388608").start();
    client.wait_for_line("holds");
    proxy.wait_until("status shows the client's memory", |proxy| {
        let text = proxy.status().to_string();
        text.contains("vgpu-test-client")
    });
    client.close_input();
    client.finish().expect_success();
    proxy.wait_until("status forgets the client", |proxy| {
        !proxy.status().to_string().contains("vgpu-test-client")
    });
}

#[test]
fn idle_client_worker_and_proxy_do_not_run() {
    let proxy = Proxy::start();
    let mut client = proxy.client("hold-memory").start();
    client.wait_for_line("holds");
    // Warm workers that replace the one in use still start; then all is still.
    std::thread::sleep(Duration::from_millis(1500));
    let everyone = || {
        let mut pids: Vec<u32> = proxy.family().iter().map(|process| process.pid).collect();
        pids.push(client.pid());
        pids
    };
    let switches =
        |pids: &[u32]| -> u64 { pids.iter().map(|pid| system::context_switches(*pid)).sum() };
    let pids = everyone();
    assert!(pids.len() >= 3, "proxy, worker and client are there");
    let before = switches(&pids);
    std::thread::sleep(Duration::from_secs(4));
    let during = switches(&pids) - before;
    assert_eq!(
        everyone(),
        pids,
        "a process came or went while everything was idle"
    );
    assert_eq!(
        during,
        0,
        "context switches in 4 s of idleness\n--- log\n{}",
        proxy.log()
    );
    client.close_input();
    client.finish().expect_success();
}
