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
use proxy_audit::load::{self, Piece};
use proxy_audit::note::PublicKey;
use proxy_audit::verify::Report;

fn start(zones: &str) -> Proxy {
    start_with("auditor", zones)
}

fn start_with(auditor: &str, zones: &str) -> Proxy {
    Proxy::start_in(|folder| {
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
        let before = proxy.log().matches("auditor started").count();
        let auditor = proxy.log();
        let auditor = auditor
            .lines()
            .rfind(|line| line.contains("auditor started"))
            .unwrap();
        let pid = auditor
            .split_once("auditor=")
            .unwrap()
            .1
            .split(' ')
            .next()
            .unwrap();
        kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
        drop(attached);
        wait_until("another auditor", || {
            proxy.log().matches("auditor started").count() > before
        });
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
