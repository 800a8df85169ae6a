//! Memory and events that clients of one zone share, and clients of another do not: what `drv_ipc` cannot show, since it is
//! one program that does right.
#![forbid(unsafe_code)]

use e2e::{Proxy, Running, Setup, Zone};

const MIB: u64 = 1 << 20;
const INVALID_VALUE: &str = "1";
const OUT_OF_MEMORY: &str = "2";
const INVALID_CONTEXT: &str = "201";
const INVALID_HANDLE: &str = "400";

/// Two zones of 64 MiB each.
fn two_zones() -> Proxy {
    let zone = |name| Zone::new(name).memory("64MiB").warm(1);
    Setup::new().zone(zone("one")).zone(zone("two")).start()
}

/// The scenario `ipc`, which does one order after the other.
struct Client {
    running: Running,
    orders: u32,
}

fn client(proxy: &Proxy, zone: &str) -> Client {
    let program = proxy.program_in(zone, e2e::place::built("vgpu-test-client"));
    let mut running = program.arg("ipc").start();
    running.wait_for_line("ready");
    Client { running, orders: 0 }
}

impl Client {
    /// The code that an order is answered with, and what it gave.
    fn order(&mut self, line: &str) -> (String, String) {
        self.running.tell(line);
        self.orders += 1;
        let answer = self.running.wait_for_line(&format!("{} ", self.orders));
        let mut words = answer.split(' ').skip(1).map(str::to_owned);
        (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        )
    }

    fn done(&mut self, line: &str) -> String {
        let (code, given) = self.order(line);
        assert_eq!(code, "0", "{line}");
        given
    }

    fn refused(&mut self, line: &str, code: &str) {
        assert_eq!(self.order(line).0, code, "{line}");
    }

    fn finish(mut self) {
        self.running.close_input();
        self.running.finish().expect_success();
    }
}

fn used(proxy: &Proxy, zone: usize) -> u64 {
    proxy.status()["zones"][zone]["memory_used"]
        .as_u64()
        .unwrap()
}

#[test]
fn a_handle_is_good_in_its_zone_and_for_nothing_elsewhere() {
    let proxy = two_zones();
    let [mut exporter, mut neighbour] = ["one", "one"].map(|zone| client(&proxy, zone));
    let mut stranger = client(&proxy, "two");
    exporter.done(&format!("allocate {}", 4 * MIB));
    let handle = exporter.done("export");
    assert_eq!(exporter.done("export"), handle);
    let open = format!("open {handle}");
    stranger.refused(&open, INVALID_HANDLE);
    exporter.refused(&open, INVALID_CONTEXT);
    neighbour.done(&open);
    assert_eq!(neighbour.done("word"), "77");
    // Nothing of the driver's handle is in it, and no bit of it may be another.
    let bytes: Vec<u8> = (0..64)
        .map(|index| u8::from_str_radix(&handle[2 * index..2 * index + 2], 16).unwrap())
        .collect();
    assert!(
        bytes[24..].iter().all(|byte| *byte == 0),
        "a token and no more: {handle}"
    );
    for index in 0..64 {
        let mut wrong = bytes.clone();
        wrong[index] ^= 1;
        let digits: String = wrong.iter().map(|byte| format!("{byte:02x}")).collect();
        neighbour.refused(&format!("open {digits}"), INVALID_HANDLE);
    }
    neighbour.done("close");
    neighbour.refused("close", INVALID_VALUE);
    for client in [exporter, neighbour, stranger] {
        client.finish();
    }
    proxy.stop();
}

#[test]
fn an_event_is_shared_in_its_zone_until_it_or_its_process_is_gone() {
    let proxy = two_zones();
    let [mut exporter, mut neighbour] = ["one", "one"].map(|zone| client(&proxy, zone));
    let mut stranger = client(&proxy, "two");
    let open = format!("open-event {}", exporter.done("event"));
    stranger.refused(&open, INVALID_HANDLE);
    exporter.refused(&open, INVALID_CONTEXT);
    neighbour.done(&open);
    neighbour.done("synchronize");
    neighbour.done("end-event");
    // One is not the other, whatever the handle says it is.
    exporter.done(&format!("allocate {MIB}"));
    let memory = exporter.done("export");
    let token = &memory[16..];
    let event = &open["open-event ".len()..];
    neighbour.refused(
        &format!("open-event {}{token}", &event[..16]),
        INVALID_HANDLE,
    );
    neighbour.refused(
        &format!("open {}{}", &memory[..16], &event[16..]),
        INVALID_HANDLE,
    );
    neighbour.done(&open);
    exporter.done("end-event");
    neighbour.refused(&open, INVALID_HANDLE);
    let open = format!("open-event {}", exporter.done("event"));
    exporter.running.kill();
    proxy.wait_until("the exporter's worker is gone", |proxy| {
        proxy.status()["zones"][0]["clients"]
            .as_array()
            .is_some_and(|clients| clients.len() == 1)
    });
    neighbour.refused(&open, INVALID_HANDLE);
    for client in [neighbour, stranger] {
        client.finish();
    }
    proxy.stop();
}

#[test]
fn shared_memory_is_charged_once_and_until_nobody_has_it() {
    let proxy = two_zones();
    let [mut exporter, mut importer] = ["one", "one"].map(|zone| client(&proxy, zone));
    let allocate = format!("allocate {}", 40 * MIB);
    exporter.done(&allocate);
    let handle = exporter.done("export");
    let open = format!("open {handle}");
    importer.done(&open);
    importer.done(&open);
    assert!(used(&proxy, 0) < 64 * MIB, "charged once");
    // Freed here, it is still there, and paid for, where it is open.
    exporter.done("free");
    exporter.refused(&allocate, OUT_OF_MEMORY);
    importer.refused(&allocate, OUT_OF_MEMORY);
    assert_eq!(importer.done("word"), "77");
    importer.done("close");
    exporter.refused(&allocate, OUT_OF_MEMORY);
    importer.done("close");
    exporter.done(&allocate);
    exporter.done("free");
    for client in [exporter, importer] {
        client.finish();
    }
    proxy.wait_until("nothing is charged any more", |proxy| used(proxy, 0) == 0);
    proxy.stop();
}

#[test]
fn the_death_of_either_side_leaves_the_other_what_it_has_and_the_zone_nothing() {
    let proxy = two_zones();
    let [mut exporter, mut importer, mut third] =
        ["one", "one", "one"].map(|zone| client(&proxy, zone));
    let allocate = format!("allocate {}", 40 * MIB);
    exporter.done(&allocate);
    let handle = exporter.done("export");
    let open = format!("open {handle}");
    importer.done(&open);
    third.done(&open);
    third.running.kill();
    exporter.running.kill();
    proxy.wait_until("both workers are gone", |proxy| {
        proxy.status()["zones"][0]["clients"]
            .as_array()
            .is_some_and(|clients| clients.len() == 1)
    });
    assert_eq!(importer.done("word"), "77");
    importer.refused(&open, INVALID_HANDLE);
    importer.refused(&allocate, OUT_OF_MEMORY);
    assert!(used(&proxy, 0) >= 40 * MIB);
    importer.running.kill();
    proxy.wait_until("nothing is charged any more", |proxy| used(proxy, 0) == 0);
    let mut next = client(&proxy, "one");
    next.done(&allocate);
    next.finish();
    proxy.stop();
}
