//! The ledger: everything that costs device memory is charged and comes back, every limit is kept, and every refusal
//! is on record with its reason.
#![forbid(unsafe_code)]

use e2e::{Orders, Proxy, Setup, Zone};

const MIB: u64 = 1 << 20;
const OUT_OF_MEMORY: &str = "2";
const DONE: &str = "0";

/// The scenario `ledger`, which does one order after the other.
fn start(proxy: &Proxy, zone: &str) -> Orders {
    Orders::start(proxy.program_in(zone, e2e::place::client()).arg("ledger"))
}

fn one_zone(zone: Zone) -> (Proxy, Orders) {
    with_client(Setup::new().zone(zone))
}

fn with_client(setup: Setup) -> (Proxy, Orders) {
    let proxy = setup.start();
    let client = start(&proxy, "a");
    (proxy, client)
}

/// Waits for a line of the log with all of these.
fn wait_for_record(proxy: &Proxy, parts: &[&str]) {
    proxy.wait_until(&format!("{parts:?} is on record"), |proxy| {
        let has = |line: &str| parts.iter().all(|part| line.contains(part));
        proxy.log().lines().any(has)
    });
}

/// Waits until the audit log says that a limit refused something.
fn wait_for_denial(proxy: &Proxy, limit: &str, words: &[&str]) {
    let limit = format!("\"limit\":\"{limit}\"");
    let words: Vec<&str> = words.iter().copied().chain([limit.as_str()]).collect();
    proxy.wait_until_recorded("denial", &words);
}

/// How long the first client was made to wait, in microseconds.
fn paced(proxy: &Proxy) -> u64 {
    let status = proxy.status();
    status["zones"][0]["clients"][0]["paced_micros"]
        .as_u64()
        .expect("a number")
}

#[test]
fn every_way_to_device_memory_is_charged_and_gives_back_what_it_took() {
    let (proxy, mut client) = one_zone(
        Zone::new("a")
            .memory("96MiB")
            .set("context_overhead", "\"32MiB\""),
    );
    // The first context is there already, and so is what the quota has for it.
    let free = client.number("free");
    assert!(free <= 64 * MIB && free > 60 * MIB, "{free}");
    let large = 24 * MIB;
    for way in ["module", "memory", "pooled", "mapped", "array"] {
        assert_eq!(client.order(&format!("{way} {large}")), DONE, "{way}");
        let left = client.number("free");
        let cost = free - left;
        assert!((large..large + MIB).contains(&cost), "{way} cost {cost}");
        let refused = client.order(&format!("{way} {}", 64 * MIB));
        assert_eq!(refused, OUT_OF_MEMORY, "{way}");
        assert_eq!(client.order("back"), DONE, "{way}");
        assert_eq!(client.number("free"), free, "{way}");
    }
    assert_eq!(client.order("context"), DONE);
    assert_eq!(client.number("free"), free - 32 * MIB);
    assert_eq!(client.order("context"), OUT_OF_MEMORY, "a third one");
    assert_eq!(client.order("back"), DONE);
    assert_eq!(client.number("free"), free);
    wait_for_record(&proxy, &["soft=true", "zone=\"a\"", "limit=\"memory\""]);
    client.finish();
    proxy.wait_until("everything is back", |proxy| {
        proxy.status()["zones"][0]["memory_used"] == 0
    });
}

#[test]
fn what_a_context_sets_aside_is_charged() {
    let (_proxy, mut client) = one_zone(Zone::new("a").memory("96MiB"));
    let free = client.number("free");
    let (fifo, heap) = (1, 2);
    for limit in [fifo, heap] {
        let order = |bytes: u64| format!("limit {limit} {bytes}");
        assert_eq!(client.order(&order(200 * MIB)), OUT_OF_MEMORY);
        assert_eq!(
            client.number("free"),
            free,
            "what was refused costs nothing"
        );
        assert_eq!(client.order(&order(40 * MIB)), DONE);
        let left = client.number("free");
        assert!(left < free - 30 * MIB, "{limit}: {free} -> {left}");
        assert_eq!(client.order(&order(MIB)), DONE);
        assert!(client.number("free") >= free);
    }
    let stack = 0;
    assert_eq!(
        client.order(&format!("limit {stack} {}", 500 << 10)),
        OUT_OF_MEMORY,
        "for each thread that the device can have"
    );
    client.finish();
}

#[test]
fn a_device_that_is_full_is_told_apart_from_a_quota_that_is_spent() {
    let proxy = Setup::new()
        .zone(Zone::new("a").memory("1GiB"))
        .driver_env("SOFTGPU_MEMORY", "64MiB")
        .audit("")
        .start();
    let mut client = start(&proxy, "a");
    assert_eq!(
        client.order(&format!("memory {}", 100 * MIB)),
        OUT_OF_MEMORY
    );
    wait_for_record(&proxy, &["soft=false", "limit=\"device\""]);
    wait_for_denial(&proxy, "device", &["\"rule\":\"\""]);
    assert!(!proxy.log().contains("soft=true"));
    client.finish();
}

#[test]
fn handles_are_limited_by_kind_and_each_limit_is_on_record() {
    let zone = Zone::new("a").set(
        "handles",
        "{ stream = 5, event = 7, module = 3, array = 1 }",
    );
    let (proxy, mut client) = with_client(Setup::new().zone(zone).audit(""));
    // One slot of the streams is that of the default streams.
    let streams = client.order("streams");
    assert!(["4 2 0", "5 2 0"].contains(&streams.as_str()), "{streams}");
    assert_eq!(client.order("streams"), streams, "they came back");
    assert_eq!(client.order("events"), "7 2 0");
    // The kernels are a module, too.
    assert_eq!(client.order("module 16"), DONE);
    assert_eq!(client.order("module 16"), DONE);
    assert_eq!(client.order("module 16"), OUT_OF_MEMORY);
    assert_eq!(client.order("back"), DONE);
    assert_eq!(client.order("module 16"), DONE);
    assert_eq!(client.order("array 4096"), DONE);
    assert_eq!(client.order("array 4096"), OUT_OF_MEMORY);
    for kind in ["stream", "event", "module", "array"] {
        let limit = format!("limit=\"handles.{kind}\"");
        wait_for_record(&proxy, &[&limit, "refused by a limit", "client="]);
        wait_for_denial(
            &proxy,
            &format!("handles.{kind}"),
            &["\"program\":\"vgpu-test-client\"", "\"times\":1"],
        );
    }
    let limits = &proxy.status()["zones"][0]["limits"];
    assert_eq!(limits["handles.event"], 7);
    client.finish();
}

#[test]
fn images_are_limited_by_their_bytes() {
    let zone = Zone::new("a").set("images", "\"1MiB\"");
    let (proxy, mut client) = with_client(Setup::new().zone(zone).audit(""));
    let load = format!("module 16 {}", 200 << 10);
    let loaded = (0..9).take_while(|_| client.order(&load) == DONE).count();
    assert_eq!(loaded, 5, "of 200 KiB each");
    assert_eq!(client.order("back"), DONE);
    assert_eq!(client.order(&load), DONE);
    wait_for_record(&proxy, &["limit=\"images\"", "refused by a limit"]);
    wait_for_denial(&proxy, "images", &[]);
    client.finish();
}

#[test]
fn a_client_that_is_too_fast_waits_and_two_share_the_rate() {
    let (proxy, mut client) = one_zone(Zone::new("a").set("launches_per_second", "200").warm(2));
    client.order("launches 1");
    // A burst of 100 ms is free: 20 launches.
    let alone = client.number("launches 120");
    assert!(alone >= 450, "{alone} ms");
    let waited = paced(&proxy);
    client.order("copies 400");
    assert_eq!(paced(&proxy), waited, "copies are no launches");
    let other = start(&proxy, "a");
    let beside = client.number("launches 120");
    assert!(beside >= 950, "{beside} ms");
    other.finish();
    wait_for_record(&proxy, &["limit=launches_per_second", "waits"]);
    // How long depends on what else it was held up by.
    assert!(paced(&proxy) > waited && waited > 0);
    client.finish();
}

#[test]
fn calls_are_slowed_down_and_what_waits_is_not() {
    let (_proxy, mut client) = one_zone(Zone::new("a").set("calls_per_second", "500"));
    client.order("copies 1");
    let took = client.number("copies 300");
    assert!(took >= 450, "{took} ms");
    client.finish();
}

#[test]
fn a_changed_policy_changes_a_rate_at_once() {
    let policy = |more: &str| {
        let groups = cuda_abi::function::Group::ALL.map(|group| group.name());
        format!("version = 1\n[[zone]]\nname = \"a\"\nallow = {groups:?}\n{more}")
    };
    let proxy = Setup::new()
        .zone(Zone::new("a"))
        .policy(&policy("launches_per_second = 20\n"))
        .start();
    let mut client = start(&proxy, "a");
    let slow = client.number("launches 20");
    assert!(slow >= 850, "{slow} ms");
    let reloaded = proxy
        .reload(&policy("images = \"1GiB\"\n"))
        .expect_success();
    assert!(
        reloaded
            .stdout
            .contains("launches_per_second = 20 -> images"),
        "{}",
        reloaded.stdout
    );
    let waited = paced(&proxy);
    client.order("launches 500");
    assert_eq!(paced(&proxy), waited);
    client.finish();
}

fn reserving(name: &str, reserve: Option<&str>) -> Zone {
    let zone = Zone::new(name).memory("96MiB").set("devices", "[0]");
    match reserve {
        Some(reserve) => zone.set("reserve", &format!("{reserve:?}")),
        None => zone,
    }
}

#[test]
fn a_zone_without_a_reservation_cannot_take_anothers() {
    let proxy = Setup::new()
        .device(0, "96MiB")
        .zone(reserving("a", Some("64MiB")))
        .zone(reserving("b", None))
        .start();
    let mut greedy = start(&proxy, "b");
    let free = greedy.number("free");
    assert!(free <= 32 * MIB, "{free} bytes without trying");
    assert_eq!(greedy.order(&format!("memory {}", 33 * MIB)), OUT_OF_MEMORY);
    assert_eq!(greedy.order(&format!("memory {}", 30 * MIB)), DONE);
    wait_for_record(&proxy, &["zone=\"b\"", "soft=true", "set_aside=67108864"]);
    let mut holder = start(&proxy, "a");
    assert!(holder.number("free") >= 63 * MIB);
    assert_eq!(holder.order(&format!("memory {}", 62 * MIB)), DONE);
    assert_eq!(holder.order(&format!("memory {}", 30 * MIB)), OUT_OF_MEMORY);
    // What the one gives back the other can have beyond its reservation.
    assert_eq!(greedy.order("back"), DONE);
    greedy.finish();
    proxy.wait_until("b holds nothing", |proxy| {
        proxy.status()["zones"][1]["memory_used"] == 0
    });
    assert_eq!(holder.order(&format!("memory {}", 30 * MIB)), DONE);
    let room = proxy.status()["zones"][1]["memory_room"].as_u64();
    assert!(room.is_some_and(|room| room <= 4 * MIB), "{room:?}");
    holder.finish();
}

#[test]
fn a_policy_that_sets_aside_more_than_there_is_changes_nothing() {
    let policy = |a: &str, b: &str| {
        let zone = |name: &str, reserve: &str| {
            format!(
                "[[zone]]\nname = {name:?}\nallow = [\"compute\", \"memory\", \"jit\"]\nreserve = {reserve:?}\n"
            )
        };
        format!("version = 1\n{}{}", zone("a", a), zone("b", b))
    };
    let proxy = Setup::new()
        .device(0, "96MiB")
        .zone(reserving("a", None))
        .zone(reserving("b", None))
        .policy(&policy("64MiB", "32MiB"))
        .start();
    let refused = proxy.reload(&policy("64MiB", "36MiB"));
    assert_eq!(refused.code, Some(1), "{}", refused.describe());
    assert!(
        refused.stderr.contains("policy.toml:6: zone b")
            && refused
                .stderr
                .contains("100MiB are set aside on device 0, which has 96MiB"),
        "{}",
        refused.describe()
    );
    assert_eq!(proxy.status()["zones"][1]["limits"]["reserve"], 32 * MIB);
    proxy.reload(&policy("60MiB", "36MiB")).expect_success();
    assert_eq!(proxy.status()["zones"][1]["limits"]["reserve"], 36 * MIB);
}

#[test]
fn what_the_supervisor_counts_is_what_the_workers_hold_once_all_is_quiet() {
    let proxy = Setup::new()
        .zone(Zone::new("a").memory("512MiB").warm(3))
        .start();
    let mut clients: Vec<Orders> = (0..3).map(|_| start(&proxy, "a")).collect();
    let ways = ["memory", "pooled", "mapped", "array", "module"];
    for round in 0..4 {
        for (index, client) in clients.iter_mut().enumerate() {
            let way = ways[(round + index) % ways.len()];
            assert_eq!(
                client.order(&format!("{way} {}", (2 + 2 * index as u64) * MIB)),
                DONE
            );
            if round % 2 == 1 {
                assert_eq!(client.order("back"), DONE);
            }
        }
    }
    clients.remove(0).kill();
    proxy.wait_until("the sums agree", |proxy| {
        let zone = &proxy.status()["zones"][0];
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or(u64::MAX);
        let list = zone["clients"].as_array().cloned().unwrap_or_default();
        let granted: u64 = list
            .iter()
            .map(|client| number(&client["memory_granted"]))
            .sum();
        let spare = |client: &serde_json::Value| {
            number(&client["memory_granted"]) - number(&client["memory_held"])
        };
        // Each worker holds less than it was granted, by no more than two chunks.
        list.len() == 2
            && number(&zone["memory_used"]) == granted
            && list.iter().all(|client| spare(client) < 4 * MIB)
    });
    for client in clients {
        client.finish();
    }
    proxy.wait_until("everything is back", |proxy| {
        proxy.status()["zones"][0]["memory_used"] == 0
    });
}

#[test]
fn every_allocation_can_be_listed_and_what_a_client_leaves_is_on_record() {
    let (proxy, mut client) = one_zone(Zone::new("a").memory("256MiB"));
    let ways = ["memory", "pooled", "mapped", "array", "pinned"];
    for way in ways {
        assert_eq!(client.order(&format!("{way} {}", 4 * MIB)), DONE, "{way}");
    }
    assert_eq!(client.order("module 4194304"), DONE);
    assert_eq!(client.order("context"), DONE);
    let listed = proxy
        .vgpuctl(&["allocations", "a", "--json"])
        .expect_success();
    let answer: serde_json::Value = serde_json::from_str(&listed.stdout).expect("it is JSON");
    let holder = &answer["holders"][0];
    // The kernels are code too, and the primary context is one.
    let counts = [
        ("memory", 1),
        ("pooled", 1),
        ("created", 1),
        ("array", 1),
        ("pinned", 1),
        ("code", 2),
        ("context", 2),
        ("handles.module", 2),
        ("handles.array", 1),
    ];
    for (what, count) in counts {
        assert_eq!(holder["counts"][what], count, "{what}: {}", listed.stdout);
    }
    for what in ["memory", "pooled", "created", "array", "pinned"] {
        assert_eq!(holder["bytes"][what], 4 * MIB, "{what}: {}", listed.stdout);
    }
    let pieces = holder["pieces"].as_array().expect("a list");
    assert_eq!(pieces.len(), 9, "{}", listed.stdout);
    let table = proxy.vgpuctl(&["allocations", "a"]).expect_success();
    assert!(table.stdout.contains("pinned"), "{}", table.stdout);
    assert_eq!(proxy.vgpuctl(&["allocations", "b"]).code, Some(1));
    for _ in 0..7 {
        assert_eq!(client.order("back"), DONE);
    }
    assert_eq!(client.order(&format!("memory {}", 8 * MIB)), DONE);
    let listed = proxy
        .vgpuctl(&["allocations", "a", "--json"])
        .expect_success();
    let answer: serde_json::Value = serde_json::from_str(&listed.stdout).expect("it is JSON");
    let holder = &answer["holders"][0];
    assert_eq!(
        holder["pieces"].as_array().map(Vec::len),
        Some(3),
        "{}",
        listed.stdout
    );
    assert_eq!(holder["counts"]["handles.array"], serde_json::Value::Null);
    client.kill();
    wait_for_record(
        &proxy,
        &[
            "client left what it had not given back",
            "memory=1",
            "memory=8388608",
            "code=1",
        ],
    );
}
