//! Long and crowded use: order between threads, eight clients at once.
//!
//! A short form of each runs in every test run; `make soak` runs the full one, and what else is called `soak_`.
#![forbid(unsafe_code)]

use std::time::Duration;

use e2e::{Program, Proxy, Setup, Zone, place, proxy};

fn crowded() -> Proxy {
    Setup::new()
        .zone(Zone::new("default").memory("2GiB").clients(16).warm(4))
        .start()
}

/// Threads of one program that pass streams to each other keep their order, remoted and directly.
fn order(seconds: u64) {
    let scenario = |program: Program| {
        program
            .args(["order", "6"])
            .arg(seconds.to_string())
            .watchdog(Duration::from_secs(120 + 4 * seconds))
            .run()
            .expect_success()
    };
    scenario(proxy::direct(place::client()));
    let proxy = Proxy::start();
    let finished = scenario(proxy.program(place::client()));
    assert!(
        finished.stdout.starts_with("in order after "),
        "{}",
        finished.describe()
    );
    proxy.stop();
}

/// Eight clients at once, each with threads of its own.
fn eight_clients(seconds: u64) {
    let proxy = crowded();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            proxy
                .client("order")
                .arg("3")
                .arg(seconds.to_string())
                .watchdog(Duration::from_secs(300 + 10 * seconds))
                .start()
        })
        .collect();
    for client in clients {
        client.finish().expect_success();
    }
    proxy.wait_until("everything is given back", |proxy| {
        proxy.status()["zones"][0]["memory_used"] == 0
    });
    proxy.stop();
}

#[test]
fn threads_keep_their_order_for_three_seconds() {
    order(3);
}

#[test]
fn eight_clients_at_once_keep_their_order() {
    eight_clients(2);
}

#[test]
#[ignore = "long: `make soak`"]
fn soak_threads_keep_their_order_for_a_minute() {
    order(60);
}

#[test]
#[ignore = "long: `make soak`"]
fn soak_eight_clients_keep_their_order_for_a_minute() {
    eight_clients(60);
}
