//! What the supervisor has recorded, and that an auditor that is killed changes nothing of it.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use common::*;
use idm_protocol::attach::{Capabilities, RefusalCode};
use idm_protocol::status::StatusPage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy_audit::block::Block;
use proxy_audit::call::{COMPLETED, SUMMARY};
use proxy_audit::event::Event;
use proxy_audit::load::{self, Piece};
use proxy_audit::note::PublicKey;
use proxy_audit::verify::Report;

fn start(zones: &str) -> Proxy {
    start_with("auditor", zones)
}

fn start_with(auditor: &str, zones: &str) -> Proxy {
    start_more(auditor, "", zones)
}

/// With further lines of `[proxy]`.
fn start_more(auditor: &str, proxy: &str, zones: &str) -> Proxy {
    Proxy::start_in(proxy, |folder| {
        let auditor = fake_worker().with_file_name(auditor);
        assert!(
            auditor.exists(),
            "run `cargo test -p supervisor`, which builds it"
        );
        format!(
            "[audit]\nauditor = \"{}\"\nspool = \"{1}/spool\"\nkey = \"{1}/key\"\nname = \"test/audit\"\ncheckpoint_after = \"20ms\"\n{zones}",
            auditor.display(),
            folder.display(),
        )
    })
}

/// The auditor that was started last.
fn auditor(proxy: &Proxy) -> Pid {
    let log = proxy.log();
    let line = log.lines().rfind(|line| line.contains("auditor started"));
    let (_, rest) = line.unwrap().split_once("auditor=").unwrap();
    Pid::from_raw(rest.split(' ').next().unwrap().parse().unwrap())
}

/// Kills the auditor, does something meanwhile, and waits until there is another.
fn kill_auditor(proxy: &Proxy, meanwhile: impl FnOnce()) {
    let before = proxy.log().matches("auditor started").count();
    kill(auditor(proxy), Signal::SIGKILL).unwrap();
    meanwhile();
    wait_until("another auditor", || {
        proxy.log().matches("auditor started").count() > before
    });
}

fn path(proxy: &Proxy, name: &str) -> PathBuf {
    proxy.folder.path().join(name)
}

/// Zone and name of each event, in order.
fn events(proxy: &Proxy) -> Vec<(String, String, serde_json::Value)> {
    let mut events = Vec::new();
    load::read(&path(proxy, "spool"), |piece| {
        if let Piece::Block(_, bytes) = piece
            && let Ok(Block::Event { header, .. }) = Block::parse(&bytes)
        {
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let name = value["event"].as_str().unwrap().to_owned();
            events.push((header.zone.to_string(), name, value["data"].clone()));
        }
    })
    .unwrap();
    events
}

fn judge(proxy: &Proxy) -> Report {
    let key = fs::read_to_string(path(proxy, "key.pub")).unwrap();
    let key: PublicKey = key.trim_end().parse().unwrap();
    load::evidence(&path(proxy, "spool")).unwrap().judge(&[key])
}

fn stop(proxy: &mut Proxy) {
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.ended().success());
}

#[test]
fn a_clients_life_is_recorded_signed_and_holds() {
    let one = format!("{ZONE_A}clients = 1\nwarm_workers = 1\n");
    let mut proxy = start(&one);
    let attached = proxy.attach("a", "vector\nAdd").unwrap();
    let (code, _) = proxy.refusal("a", "second");
    assert_eq!(code, RefusalCode::ZONE_FULL);
    drop(attached);
    proxy.wait_for_status("the client to be gone", |status| {
        status.zones[0].clients.is_empty()
    });
    stop(&mut proxy);
    let report = judge(&proxy);
    assert_eq!(report.findings, []);
    assert_eq!(report.signed, report.leaves.1);
    let events = events(&proxy);
    let of = |zone: &str| -> Vec<&str> {
        let own = events.iter().filter(|(of, ..)| of == zone);
        own.map(|(_, name, _)| name.as_str()).collect()
    };
    let own = of("@proxy");
    assert_eq!(own[..3], ["log_opened", "auditor_started", "proxy_started"]);
    assert_eq!(own[own.len() - 2..], ["proxy_stopped", "auditor_stopped"]);
    let mut zone = of("a");
    zone.retain(|name| *name != "grant");
    assert_eq!(zone, ["attach", "refusal", "detach"]);
    let data: BTreeMap<&str, &serde_json::Value> = events
        .iter()
        .map(|(_, name, data)| (name.as_str(), data))
        .collect();
    let client = &data["attach"]["client"];
    assert_eq!(client["pid"], std::process::id());
    assert!(!client["program"].as_str().unwrap().contains('\n'));
    assert_eq!(data["detach"]["client"], *client);
    assert!(
        data["refusal"]["why"]
            .as_str()
            .unwrap()
            .contains("already has its 1 clients")
    );
}

/// Of each record of calls in zone a: size, flags, kernel; and where in the zone's log its block is.
fn calls(proxy: &Proxy) -> Vec<(u64, u8, String)> {
    let mut calls = Vec::new();
    load::read(&path(proxy, "spool"), |piece| {
        if let Piece::Block(_, bytes) = piece
            && let Ok(Block::Calls {
                header,
                calls: block,
                origin,
            }) = Block::parse(&bytes)
        {
            assert_eq!(header.zone.as_str(), "a");
            assert!(header.stamp.mono_ns > 0 && origin.worker > 0);
            calls.extend(block.records().iter().map(|record| {
                let kernel = block.kernel(record).map(ToString::to_string);
                assert_eq!(record.client.get(), origin.client);
                assert_eq!(block.image(record).unwrap().0, [7; 32]);
                (record.size.get(), record.flags, kernel.unwrap())
            }));
        }
    })
    .unwrap();
    calls
}

#[test]
fn every_call_is_recorded_also_what_was_under_way_before_its_client_is_said_to_be_gone() {
    const COUNT: u64 = 6000;
    let mut proxy = start(ZONE_A);
    drop(proxy.attach("a", &format!("calls:{COUNT}")).unwrap());
    proxy.wait_for_log("worker ended");
    stop(&mut proxy);
    let kernel = r"evil\x0akernel\x1b".to_owned();
    let mut wanted: Vec<_> = (0..COUNT)
        .map(|number| (number, COMPLETED, kernel.clone()))
        .collect();
    wanted.push((COUNT, 0, kernel));
    assert_eq!(calls(&proxy), wanted);
    let report = judge(&proxy);
    assert_eq!(report.findings, []);
    let mut last = None;
    load::read(&path(&proxy, "spool"), |piece| {
        if let Piece::Block(_, bytes) = piece {
            let block = Block::parse(&bytes).unwrap();
            last = (block.header().zone.as_str() == "a")
                .then_some(block)
                .or(last.take());
        }
    })
    .unwrap();
    let last = last.unwrap();
    assert!(
        matches!(
            &last,
            Block::Event {
                event: Event::Detach { .. },
                ..
            }
        ),
        "{last:?}"
    );
}

#[test]
fn a_zone_of_which_a_summary_is_wanted_has_one_record_for_calls_of_a_kind() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    let text = "version = 1\n[[zone]]\nname = \"a\"\nallow = [\"compute\"]\naudit = \"summary\"\n";
    fs::write(rules.path(), text).unwrap();
    let policy = format!("policy = {:?}", rules.path());
    let mut proxy = start_more("auditor", &policy, ZONE_A);
    drop(proxy.attach("a", "calls:5000").unwrap());
    proxy.wait_for_log("worker ended");
    stop(&mut proxy);
    let found = calls(&proxy);
    assert!(found.len() < 20, "{found:?}");
    let of = |flags: u8| -> u64 {
        let own = found.iter().filter(|(_, of, _)| *of == flags);
        own.map(|(size, ..)| size).sum()
    };
    assert_eq!((of(SUMMARY | COMPLETED), of(SUMMARY)), (5000, 1));
    assert_eq!(judge(&proxy).findings, []);
}

#[test]
fn calls_outlive_auditors_that_are_killed_and_are_recorded_once() {
    let mut proxy = start(ZONE_A);
    for count in 0..10u64 {
        let client = proxy
            .attach("a", &format!("calls:{}", 500 + count))
            .unwrap();
        kill_auditor(&proxy, || drop(client));
    }
    proxy.wait_for_status("all to be gone", |status| {
        status.zones[0].clients.is_empty()
    });
    stop(&mut proxy);
    let report = judge(&proxy);
    assert_eq!(report.findings, []);
    let mut counts = BTreeMap::<u64, usize>::new();
    for (size, ..) in calls(&proxy) {
        *counts.entry(size).or_default() += 1;
    }
    for number in 0..=509 {
        // The call that is under way has the number behind the others'.
        let wanted = (0..10).filter(|count| number <= 500 + count).count();
        assert_eq!(counts.get(&number), Some(&wanted), "call {number}");
    }
}

#[test]
fn what_was_refused_to_a_client_is_on_record_although_it_left_first() {
    let mut proxy = start(ZONE_A);
    drop(proxy.attach("a", "refused-at-last").unwrap());
    proxy.wait_for_log("worker ended");
    stop(&mut proxy);
    let mut events = events(&proxy);
    events.retain(|(zone, name, _)| zone == "a" && name != "grant");
    let names: Vec<&str> = events.iter().map(|(_, name, _)| name.as_str()).collect();
    assert_eq!(names, ["attach", "verdict", "denial", "detach"]);
    assert_eq!(events[2].2["limit"], "device");
    assert_eq!(events[2].2["rule"], "");
    assert_eq!(events[2].2["client"], events[0].2["client"]);
    assert_eq!(events[1].2["call"], "cuModuleLoadDataEx");
    assert_eq!(events[1].2["groups"], "jit");
    assert_eq!(events[1].2["client"], events[0].2["client"]);
    let log = proxy.log();
    assert!(log.contains("call refused by policy"), "{log}");
    assert!(log.contains("the device has no more"), "{log}");
}

#[test]
fn a_killed_worker_is_a_fault_and_a_detach() {
    let mut proxy = start(ZONE_A);
    let attached = proxy.attach("a", "victim").unwrap();
    let status = proxy.wait_for_status("a client", |status| !status.zones[0].clients.is_empty());
    let worker = status.zones[0].clients[0].worker_pid;
    kill(
        Pid::from_raw(i32::try_from(worker).unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    proxy.wait_for_status("the client to be gone", |status| {
        status.zones[0].clients.is_empty()
    });
    drop(attached);
    stop(&mut proxy);
    let events = events(&proxy);
    for wanted in ["attach", "fault", "detach"] {
        let found = events
            .iter()
            .any(|(_, name, data)| name == wanted && data["client"]["worker"] == worker);
        assert!(found, "{wanted}: {events:?}");
    }
    assert_eq!(judge(&proxy).findings, []);
}

#[test]
fn an_auditor_that_is_killed_again_and_again_loses_nothing_and_doubles_nothing() {
    let mut proxy = start(ZONE_A);
    let rounds = 6;
    for round in 1..=rounds {
        let attached = proxy.attach("a", &format!("client{round}")).unwrap();
        kill_auditor(&proxy, || drop(attached));
    }
    proxy.wait_for_status("all clients to be gone", |status| {
        status.zones[0].clients.is_empty()
    });
    stop(&mut proxy);
    let report = judge(&proxy);
    assert_eq!(report.findings, []);
    let events = events(&proxy);
    for round in 1..=rounds {
        for wanted in ["attach", "detach"] {
            let program = format!("client{round}");
            let count = events
                .iter()
                .filter(|(_, name, data)| {
                    name == wanted && data["client"]["program"] == program.as_str()
                })
                .count();
            assert_eq!(count, 1, "{wanted} of {program}");
        }
    }
}

#[test]
fn a_zone_that_cannot_be_recorded_acquires_and_runs_nothing_until_it_can() {
    let two = format!("{ZONE_A}{}", ZONE_A.replace("\"a\"", "\"b\""));
    let mut proxy = start_with("fake-auditor", &two);
    let full = path(&proxy, "spool").join("full");
    let attached = proxy.attach("a", "early").unwrap();
    let page = StatusPage::open(&attached.status).unwrap();
    assert_eq!(page.capabilities(), Capabilities::ALL);
    fs::create_dir_all(path(&proxy, "spool")).unwrap();
    fs::write(&full, "").unwrap();
    wait_until("the groups to be gone", || page.capabilities() == 0);
    let (code, text) = proxy.refusal("a", "late");
    assert_eq!(code, RefusalCode::NOT_GRANTED);
    assert!(text.contains("audit spool is full"), "{text}");
    // Nobody else's affair.
    drop(proxy.attach("b", "neighbour").unwrap());
    fs::remove_file(&full).unwrap();
    wait_until("the groups to be back", || {
        page.capabilities() == Capabilities::ALL
    });
    drop(proxy.attach("a", "late").unwrap());
    drop(attached);
    stop(&mut proxy);
}

#[test]
fn a_zone_whose_calls_nobody_takes_acquires_and_runs_nothing_until_somebody_does() {
    let mut proxy = start(ZONE_A);
    let auditor = auditor(&proxy);
    kill(auditor, Signal::SIGSTOP).unwrap();
    let attached = proxy.attach("a", "behind").unwrap();
    let page = StatusPage::open(&attached.status).unwrap();
    wait_until("the groups to be gone", || page.capabilities() == 0);
    let (code, text) = proxy.refusal("a", "late");
    assert_eq!(code, RefusalCode::NOT_GRANTED);
    assert!(text.contains("the auditor does not take them"), "{text}");
    kill(auditor, Signal::SIGCONT).unwrap();
    wait_until("the groups to be back", || {
        page.capabilities() == Capabilities::ALL
    });
    drop(attached);
    stop(&mut proxy);
}
