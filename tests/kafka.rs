//! The audit log in Apache Kafka: what the proxy records arrives, whatever ends on the way.
//!
//! Others read it back: a client in Python on librdkafka's Python binding, and Kafka's own console consumer.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use e2e::kafka::{Brokers, Message};
use e2e::load::beside;
use e2e::{Finished, Program, Proxy, Setup, Zone, place, system};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const BLOCKS: &str = "audit";
const NOTES: &str = "audit-notes";

/// A proxy with two zones whose log goes to `brokers`.
fn proxy(brokers: &str, more: &str) -> Proxy {
    let audit = format!(
        "checkpoint_after = \"50ms\"\n[audit.kafka]\nbrokers = {brokers:?}\ntopic = {BLOCKS:?}\n\
         checkpoints = {NOTES:?}\n{more}"
    );
    Setup::new()
        .zone(Zone::new("a"))
        .zone(Zone::new("b"))
        .audit(&audit)
        .watchdog(Duration::from_secs(300))
        .start()
}

/// A file of settings that only its owner may read, as a line of the configuration.
fn settings(brokers: &Brokers, key: &str, user: &str) -> String {
    let path = brokers.directory().join(format!("{user}.conf"));
    fs::write(&path, brokers.settings(user)).expect("the directory is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    format!("{key} = {path:?}\n")
}

/// What the auditor last recorded of a topic: its state, and why.
fn topic_settings(proxy: &Proxy, topic: &str) -> Option<(String, String)> {
    let events = spool(proxy).into_iter().rev();
    let mut events = events.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    let found = events
        .find(|event| event["event"] == "topic_settings" && event["data"]["topic"] == topic)?;
    let data = &found["data"];
    Some((
        data["state"].as_str()?.to_owned(),
        data["lines"].to_string(),
    ))
}

/// The leaf before which the auditor knows everything to have arrived.
fn acknowledged(proxy: &Proxy) -> u64 {
    let text = fs::read_to_string(proxy.directory().join("spool/acknowledged"));
    // It is empty at first.
    text.map_or(0, |text| text.trim().parse().unwrap_or(0))
}

/// The log as it lies in the spool, as lines, without checkpoints.
fn spool(proxy: &Proxy) -> Vec<String> {
    let folder = proxy.directory().join("spool").display().to_string();
    let mut log = String::new();
    // It may not be there yet, or end with what is just being written.
    proxy.wait_until("a log in the spool", |_| {
        let read = vgpuctl(&["export", "--log", &folder]);
        log = read.stdout;
        read.code == Some(0)
    });
    let is_block = |line: &&str| line.starts_with("{\"v\":") || line.starts_with("{\"calls\":");
    let blocks = log.lines().filter(is_block);
    blocks.map(str::to_owned).collect()
}

/// Waits until everything that the spool holds by now has arrived, and tells what that is.
fn wait_until_arrived(proxy: &Proxy) -> Vec<String> {
    let blocks = spool(proxy);
    let end = u64::try_from(blocks.len()).expect("a count fits");
    proxy.wait_until("all records in Kafka", |proxy| acknowledged(proxy) >= end);
    blocks
}

fn vgpuctl(arguments: &[&str]) -> Finished {
    Program::new(place::built("vgpuctl"))
        .arg("audit")
        .args(arguments)
        .run()
}

/// A log made of what was read from the topics, as a file of lines.
fn from_topic(folder: &Path, blocks: &str, notes: &str) -> PathBuf {
    let path = |name: &str| folder.join(name);
    fs::write(path("blocks"), blocks).expect("the directory is ours");
    fs::write(path("notes"), notes).expect("the directory is ours");
    let names = ["blocks", "notes"].map(|name| path(name).display().to_string());
    let log = vgpuctl(&["from-topic", &names[0], &names[1]]).expect_success();
    fs::write(path("log"), &log.stdout).expect("the directory is ours");
    path("log")
}

fn lines(messages: &[Message]) -> String {
    let lines = messages.iter().map(|message| format!("{}\n", message.line));
    lines.collect()
}

/// In each zone records follow each other without a gap, at offsets that rise; what is there again is what was there
/// before, byte for byte. Tells how many messages are repetitions.
fn check_order(messages: &[Message]) -> usize {
    let mut next: BTreeMap<&str, u64> = BTreeMap::new();
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut seen: BTreeMap<u64, &Message> = BTreeMap::new();
    let mut again = 0;
    for message in messages {
        let place = message.place();
        assert_eq!(place.zone, message.key);
        assert_eq!(message.timestamp_type, "LogAppendTime");
        let offset = last.insert(message.partition, message.offset);
        assert!(offset.is_none_or(|offset| offset < message.offset));
        if let Some(before) = seen.insert(place.leaf, message) {
            assert_eq!(before.line, message.line);
            assert_eq!(before.partition, message.partition);
            again += 1;
            continue;
        }
        let next = next.entry(&message.key).or_default();
        assert_eq!(place.seq, *next, "zone {}", message.key);
        *next += place.count;
    }
    again
}

/// Clients come and go in both zones while `meanwhile` runs, and some before and after it.
fn under_load(proxy: &Proxy, meanwhile: impl FnOnce(&dyn Fn())) {
    let done = AtomicUsize::new(0);
    let some_more = || {
        let from = done.load(Ordering::Relaxed);
        proxy.wait_until("clients that come and go", |_| {
            done.load(Ordering::Relaxed) >= from + 4
        });
    };
    let client_of = |zone: &str| {
        let client = proxy.program_in(zone, place::client());
        client.arg("vector-add").run().expect_success();
        done.fetch_add(1, Ordering::Relaxed);
    };
    beside(&[&|| client_of("a"), &|| client_of("b")], || {
        some_more();
        meanwhile(&some_more);
        some_more();
    });
}

/// Kills the auditor.
fn kill_auditor(proxy: &Proxy) {
    let mut found = None;
    proxy.wait_until("an auditor", |proxy| {
        let mut family = proxy.family().into_iter();
        found = family.find(|process| process.name.starts_with("vgpu-auditor"));
        found.is_some()
    });
    let auditor = found.expect("waited for it");
    let pid = i32::try_from(auditor.pid).expect("a process id fits");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is the proxy's");
    proxy.wait_until("the end of the auditor", |_| !auditor.is_alive());
}

/// Waits until an auditor takes what the supervisor has recorded.
fn wait_for_auditor(proxy: &Proxy) {
    proxy.wait_until("an auditor that works", |proxy| {
        let doctor = proxy.vgpuctl(&["doctor"]).expect_success();
        doctor.stdout.contains("  on       audit ")
    });
}

/// Everything that was recorded is in the topics, and holds. Tells how many blocks are there again.
fn check_all_arrived(brokers: &Brokers, proxy: Proxy) -> usize {
    let expected = wait_until_arrived(&proxy);
    let messages = brokers.read(BLOCKS);
    let notes = brokers.read(NOTES);
    let again = check_order(&messages);
    let there: BTreeSet<&str> = messages.iter().map(|message| &*message.line).collect();
    let lost: Vec<&String> = expected
        .iter()
        .filter(|line| !there.contains(line.as_str()))
        .collect();
    assert!(
        lost.is_empty(),
        "{} are not in the topic: {lost:?}",
        lost.len()
    );
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let log = from_topic(folder.path(), &lines(&messages), &lines(&notes));
    proxy.verify(&log).run().expect_success();
    proxy.stop();
    again
}

#[test]
fn others_read_back_what_was_recorded_in_order_over_tls_with_a_password() {
    let Some(brokers) = Brokers::start(1) else {
        return;
    };
    brokers.create_topic(BLOCKS, 3, 1, &[]);
    brokers.create_topic(NOTES, 1, 1, &[]);
    for topic in [BLOCKS, NOTES] {
        brokers.allow("auditor", &["Write", "Describe"], topic);
    }
    // Of the second topic the inspector may know nothing.
    brokers.allow("inspector", &["Describe", "DescribeConfigs"], BLOCKS);
    let own = settings(&brokers, "settings", "auditor");
    let inspector = settings(&brokers, "inspector", "inspector");
    let proxy = proxy(&brokers.secure(), &(own + &inspector));
    for zone in ["a", "b", "a"] {
        let client = proxy.program_in(zone, place::client()).arg("vector-add");
        client.run().expect_success();
    }
    // One broker is none too many, and the access list of the second topic lets nobody look.
    proxy.wait_until("a look at the topics", |proxy| {
        topic_settings(proxy, NOTES).is_some()
    });
    let (state, why) = topic_settings(&proxy, BLOCKS).expect("both come together");
    assert_eq!(state, "wrong");
    for part in ["min.insync.replicas is 1", "the replication factor is 1"] {
        assert!(why.contains(part), "{why}");
    }
    assert!(!why.contains("message.timestamp.type"), "{why}");
    let (state, why) = topic_settings(&proxy, NOTES).expect("waited for it");
    assert_eq!(state, "unknown", "{why}");
    let doctor = proxy.vgpuctl(&["doctor"]).expect_success().stdout;
    for line in [
        "  on       audit ",
        "  wrong    topic           audit\n",
        "  unknown  topic           audit-notes\n",
    ] {
        assert!(doctor.contains(line), "{line:?} in\n{doctor}");
    }
    proxy.wait_until("the end of all clients", |proxy| {
        let log = spool(proxy);
        let ends = log
            .iter()
            .filter(|line| line.contains("\"event\":\"detach\""));
        ends.count() >= 3
    });
    wait_until_arrived(&proxy);
    // Only the auditor has connections.
    for process in proxy.family() {
        let open = system::network_sockets(process.pid);
        let is_auditor = process.name.starts_with("vgpu-auditor");
        assert_eq!(
            !open.is_empty(),
            is_auditor,
            "{} has {open:?}",
            process.name
        );
    }
    let log = proxy.log();
    assert!(!log.contains("-secret"), "{log}");
    let (messages, notes) = (brokers.read(BLOCKS), brokers.read(NOTES));
    assert_eq!(check_order(&messages), 0);
    let zones: BTreeSet<&str> = messages.iter().map(|message| &*message.key).collect();
    assert_eq!(zones, BTreeSet::from(["@proxy", "a", "b"]));
    let events = |zone: &str, event: &str| {
        let of_zone = messages.iter().filter(|message| message.key == zone);
        of_zone
            .filter(|message| message.event().is_some_and(|found| found["event"] == event))
            .count()
    };
    assert_eq!((events("a", "attach"), events("b", "attach")), (2, 1));
    let calls = |zone: &str| {
        let of_zone = messages.iter().filter(|message| message.key == zone);
        let blocks = of_zone.filter(|message| message.event().is_none());
        blocks.map(|message| message.place().count).sum::<u64>()
    };
    let told = |zone: &str| -> u64 {
        let of_zone = messages.iter().filter(|message| message.key == zone);
        let ends = of_zone.filter_map(Message::event);
        let ends = ends.filter(|event| event["event"] == "detach");
        ends.map(|event| event["data"]["calls"].as_u64().expect("a number"))
            .sum()
    };
    for zone in ["a", "b"] {
        // Beside them a worker counts what only serves the session.
        let (calls, told) = (calls(zone), told(zone));
        assert!(0 < calls && calls <= told, "{calls} of {told}");
    }

    // Kafka's own tools print what a verifier reads.
    let consume = |topic: &str, count: usize| {
        let count = count.to_string();
        let arguments = [
            "--topic",
            topic,
            "--from-beginning",
            "--max-messages",
            &count,
        ];
        brokers.tool("console-consumer", &arguments).stdout
    };
    let printed = consume(BLOCKS, messages.len());
    let events = |text: &str| {
        // Blocks of calls it prints as the bytes that they are.
        let events = text.lines().filter(|line| line.starts_with("{\"v\":"));
        events.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let read = lines(&messages);
    assert_eq!(events(&printed), events(&read));
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let log = from_topic(folder.path(), &read, &consume(NOTES, notes.len()));
    proxy.expect_verified(&log);

    // What somebody changed on the way is named.
    let altered = read.replacen("vgpu-test-client", "innocent-program", 1);
    let log = from_topic(folder.path(), &altered, &lines(&notes));
    let judged = proxy.verify(&log).run();
    assert!(judged.stderr.contains("altered"), "{}", judged.describe());
    proxy.stop();
}

#[test]
fn nothing_is_lost_when_the_auditor_is_killed_and_a_broker_is_away() {
    let Some(brokers) = Brokers::start(1) else {
        return;
    };
    brokers.create_topic(BLOCKS, 3, 1, &[]);
    brokers.create_topic(NOTES, 1, 1, &[]);
    let proxy = proxy(&brokers.bootstrap(), "");
    under_load(&proxy, |some_more| {
        for _ in 0..3 {
            wait_for_auditor(&proxy);
            some_more();
            kill_auditor(&proxy);
            some_more();
        }
        brokers.stop(1);
        let before = acknowledged(&proxy);
        some_more();
        // Clients go on, and so does the auditor; what it records waits.
        let waiting = spool(&proxy).len();
        let waiting = u64::try_from(waiting).expect("a count fits");
        assert!(
            waiting > before,
            "{waiting} in the spool, {before} of them sent"
        );
        wait_for_auditor(&proxy);
        kill_auditor(&proxy);
        some_more();
        brokers.resume(1);
    });
    assert_eq!(gaps(&proxy), 0);
    let again = check_all_arrived(&brokers, proxy);
    println!("{again} blocks were sent again after a kill, and are the same");
}

#[test]
fn nothing_is_lost_when_one_of_three_brokers_is_killed() {
    let Some(brokers) = Brokers::start(3) else {
        return;
    };
    brokers.create_topic(BLOCKS, 3, 3, &[]);
    brokers.create_topic(NOTES, 1, 3, &[]);
    // Anybody may look here, and needs no settings for it.
    let inspector = brokers.directory().join("nobody.conf");
    fs::write(&inspector, "").expect("the directory is ours");
    fs::set_permissions(&inspector, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let proxy = proxy(
        &brokers.bootstrap(),
        &format!("inspector = {inspector:?}\n"),
    );
    // Not each of the brokers knows of new topics at once.
    let good = Some(("good".to_owned(), "[]".to_owned()));
    for topic in [BLOCKS, NOTES] {
        proxy.wait_until("topics that keep what is sent to them", |proxy| {
            topic_settings(proxy, topic) == good
        });
    }
    under_load(&proxy, |some_more| {
        brokers.kill(2);
        some_more();
        // The other two go on alone.
        wait_until_arrived(&proxy);
        brokers.resume(2);
        some_more();
    });
    assert_eq!(gaps(&proxy), 0);
    check_all_arrived(&brokers, proxy);
}

/// A broker for a proxy whose zones may have little waiting for it.
fn short_of_room(when_full: &str) -> Option<(Brokers, Proxy)> {
    let brokers = Brokers::start(1)?;
    brokers.create_topic(BLOCKS, 1, 1, &[]);
    brokers.create_topic(NOTES, 1, 1, &[]);
    let audit = format!(
        "share = \"1MiB\"\nheadroom = \"1MiB\"\nwhen_full = {when_full:?}\n[audit.kafka]\nbrokers = {:?}\n\
         topic = {BLOCKS:?}\ncheckpoints = {NOTES:?}\n",
        brokers.bootstrap()
    );
    let proxy = Setup::new()
        .zone(Zone::new("a"))
        .zone(Zone::new("b"))
        .audit(&audit)
        .watchdog(Duration::from_secs(300))
        .start();
    Some((brokers, proxy))
}

/// What the zone's log says of records that are missing.
fn gaps(proxy: &Proxy) -> usize {
    let log = spool(proxy);
    let gaps = log.iter().filter(|line| line.contains("\"event\":\"gap\""));
    gaps.count()
}

#[test]
fn a_zone_stops_while_the_broker_is_away_for_too_long_and_loses_nothing() {
    let Some((brokers, proxy)) = short_of_room("fail-closed") else {
        return;
    };
    brokers.kill(1);
    // It works until it may not.
    let ended = proxy.client("until-error").run();
    assert!(ended.stdout.contains("failed 800"), "{}", ended.describe());
    let said = "because it cannot be recorded";
    assert!(ended.stderr.contains(said), "{}", ended.describe());
    let refused = proxy.client("vector-add").run();
    assert_ne!(refused.code, Some(0), "{}", refused.describe());
    // Another zone has its own share.
    let other = proxy.program_in("b", place::client()).arg("vector-add");
    other.run().expect_success();
    let doctor = proxy.vgpuctl(&["doctor"]).expect_success();
    assert!(
        doctor.stdout.contains("  closed   zone            a\n"),
        "{}",
        doctor.stdout
    );
    brokers.resume(1);
    proxy.wait_until("room again", |proxy| {
        proxy.client("vector-add").run().code == Some(0)
    });
    assert_eq!(gaps(&proxy), 0);
    let reason = "the zone's share of the audit spool is full";
    proxy.wait_until_recorded("verdict", &[reason]);
    check_all_arrived(&brokers, proxy);
}

#[test]
fn a_zone_goes_on_while_the_broker_is_away_for_too_long_and_the_log_says_what_is_missing() {
    let Some((brokers, proxy)) = short_of_room("drop-with-gap-record") else {
        return;
    };
    brokers.kill(1);
    let mut client = proxy.client("until-error").start();
    client.wait_for_line("works");
    proxy.wait_until("word of what is dropped", |proxy| {
        let log = spool(proxy);
        log.iter()
            .any(|line| line.contains("\"event\":\"dropping\""))
    });
    assert!(client.is_running());
    proxy.client("vector-add").run().expect_success();
    brokers.resume(1);
    proxy.wait_until("word of how many were", |proxy| gaps(proxy) > 0);
    client.kill();
    check_all_arrived(&brokers, proxy);
}
