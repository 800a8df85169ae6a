//! `vgpuctl audit` over a log, as an operator and as a third party use it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use proxy_audit::block::{Origin, Zone};
use proxy_audit::call::{COMPLETED, CallRecord, Calls, Name};
use proxy_audit::event::{Event, Stamp};
use proxy_audit::hash::{Hash, LogId};
use proxy_audit::note::SecretKey;
use proxy_audit::spool::{Settings, Spool, SpoolError, WhenFull};
use proxy_audit::text::Text;

fn origin() -> Origin {
    Origin {
        worker: 77,
        session: LogId([3; 16]),
        client: 1,
        first: 0,
    }
}

struct Place {
    folder: tempfile::TempDir,
    key: String,
    secret: SecretKey,
}

fn settings(folder: &Path) -> Settings {
    Settings {
        folder: folder.to_owned(),
        segment: 64 << 10,
        retain: u64::MAX,
        share: 1 << 20,
        headroom: 1 << 20,
        when_full: WhenFull::FailClosed,
    }
}

impl Place {
    /// A log of 20 events in two zones, signed after each five; the last two are not signed.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = SecretKey::draw("node1.example/audit").unwrap();
        let mut spool = Spool::open(settings(&folder.path().join("spool"))).unwrap();
        for number in 0..22 {
            let zone: Zone = ["a", "b"][number % 2].parse().unwrap();
            let why = Text::new(format!("number {number}\n"));
            let driver = Text::from("softgpu");
            let event = Event::Fallback { driver, why };
            spool.event(&zone, Stamp::now(), None, event).unwrap();
            if number % 5 == 4 {
                spool.checkpoint(&[&secret]).unwrap();
            }
        }
        spool.sync().unwrap();
        let key = secret.public().to_string();
        Self {
            folder,
            key,
            secret,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn audit(&self, command: &str, log: Option<&str>, more: &[&str]) -> Output {
        let mut vgpuctl = Command::new(env!("CARGO_BIN_EXE_vgpuctl"));
        vgpuctl.args(["audit", command]);
        if let Some(log) = log {
            vgpuctl.arg("--log").arg(self.path(log));
        }
        vgpuctl.args(more).output().unwrap()
    }

    fn verify(&self, log: &str) -> Output {
        self.audit("verify", Some(log), &["--key", &self.key])
    }

    /// Writes the log as lines, changed.
    fn export(&self, change: impl Fn(Vec<String>) -> Vec<String>) {
        let exported = said(&self.audit("export", Some("spool"), &[]));
        let lines = change(exported.lines().map(str::to_owned).collect());
        fs::write(self.path("lines"), lines.join("\n") + "\n").unwrap();
    }
}

fn said(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn complained(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_log_holds_as_spool_and_as_lines_with_the_key_in_text_or_file() {
    let place = Place::new();
    let text = said(&place.verify("spool"));
    for expected in [
        "leaves 0 to 21",
        "zone a: 11 records",
        "4 checkpoints hold",
        "the last 2 blocks are not signed yet",
        "nothing was altered",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    place.export(|lines| lines);
    assert_eq!(said(&place.verify("lines")), text);
    fs::write(place.path("key.pub"), format!("{}\n", place.key)).unwrap();
    let file = place.path("key.pub");
    let by_file = place.audit("verify", Some("spool"), &["--key", file.to_str().unwrap()]);
    assert_eq!(said(&by_file), text);
    let stranger = SecretKey::draw("node1.example/audit").unwrap();
    let stranger = place.audit(
        "verify",
        Some("spool"),
        &["--key", &stranger.public().to_string()],
    );
    assert!(complained(&stranger).contains("no key that is trusted has signed it"));
}

type Change = fn(Vec<String>) -> Vec<String>;

/// What may be done to a log, and what is to be said of it.
fn changes() -> [(&'static str, Change); 6] {
    // The first line tells the state; leaf n is line n + 1 of the vector.
    [
        ("altered: leaf 7 (zone b, record 3)", |mut lines| {
            lines[8] = lines[8].replace("number 7", "number 8");
            lines
        }),
        ("missing: leaf 9", |mut lines| {
            lines.remove(10);
            lines
        }),
        ("reordered: leaf 4 (zone a, record 2)", |mut lines| {
            lines.swap(4, 5);
            lines
        }),
        ("replayed: leaf 2 (zone a, record 1)", |mut lines| {
            let copy = lines[3].clone();
            lines.insert(12, copy);
            lines
        }),
        ("forged: checkpoint 1", |mut lines| {
            let of_ten = |line: &String| line.contains("\\n10\\n");
            let at = lines.iter().position(of_ten).unwrap();
            lines[at] = lines[at].replace("\\n10\\n", "\\n11\\n");
            lines
        }),
        ("missing: leaves 12 to 19", |mut lines| {
            lines.drain(13..23);
            lines
        }),
    ]
}

#[test]
fn whatever_was_done_to_the_lines_is_named() {
    let place = Place::new();
    for (expected, change) in changes() {
        place.export(change);
        let complaint = complained(&place.verify("lines"));
        assert!(
            complaint.contains(&format!("the log does not hold: {expected}")),
            "{complaint}"
        );
    }
}

#[test]
fn a_log_rolled_back_whole_is_told_by_a_checkpoint_that_was_kept() {
    let place = Place::new();
    let notes = fs::read_to_string(place.path("spool").join("checkpoints")).unwrap();
    let kept = notes.split_inclusive("\n\n").skip(6).collect::<String>();
    fs::write(
        place.path("kept"),
        kept.trim_end_matches('\n').to_owned() + "\n",
    )
    .unwrap();
    place.export(|lines| {
        let upto = lines.iter().take(8).cloned();
        let first = lines
            .iter()
            .find(|line| line.contains("checkpoint"))
            .cloned();
        upto.chain(first).collect()
    });
    assert!(said(&place.verify("lines")).contains("nothing was altered"));
    let kept = place.path("kept");
    let more = ["--key", &place.key, "--checkpoint", kept.to_str().unwrap()];
    let complaint = complained(&place.audit("verify", Some("lines"), &more));
    assert!(complaint.contains("missing: leaves 7 to 19"), "{complaint}");
}

#[test]
fn a_proof_needs_the_public_key_alone() {
    let place = Place::new();
    let proof = said(&place.audit("prove", Some("spool"), &["--key", &place.key, "b:3"]));
    let file = place.path("proof");
    let check = |text: &str, key: &str| {
        fs::write(&file, text).unwrap();
        place.audit("check-proof", None, &["--key", key, file.to_str().unwrap()])
    };
    let text = said(&check(&proof, &place.key));
    assert!(
        text.contains("proved: leaf 7 of 20 in node1.example/audit"),
        "{text}"
    );
    assert!(
        text.contains("b:3 fallback") && text.contains("number 7"),
        "{text}"
    );
    let stranger = SecretKey::draw("node1.example/audit")
        .unwrap()
        .public()
        .to_string();
    assert!(complained(&check(&proof, &stranger)).contains("it proves nothing"));
    let moved = proof.replace("index 7", "index 8");
    assert!(complained(&check(&moved, &place.key)).contains("not in the log that was signed"));
    let unsigned = place.audit("prove", Some("spool"), &["--key", &place.key, "21"]);
    assert!(complained(&unsigned).contains("no checkpoint"));
    let absent = place.audit("prove", Some("spool"), &["--key", &place.key, "c:0"]);
    assert!(complained(&absent).contains("does not hold it"));
}

#[test]
fn tail_shows_the_last_records_of_a_zone_and_forges_no_line() {
    let place = Place::new();
    let text = said(&place.audit("tail", Some("spool"), &["-n", "3", "--zone", "b"]));
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.contains(r#"21 b:10 fallback {"driver":"softgpu","why":"number 21\\x0a"}"#),
        "{text}"
    );
}

#[test]
fn what_is_no_log_is_told_as_that() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    assert!(complained(&place.verify("empty")).contains("there is no log in"));
    assert!(complained(&place.verify("absent")).contains("cannot read"));
    assert!(
        complained(&place.audit("verify", Some("spool"), &["--key", "x"]))
            .contains("is no public key")
    );
}

/// The verifier in Python, which was written from the documentation alone. None where there is no Python.
fn second_opinion(key: &str, lines: &Path) -> Option<Output> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/audit/verify.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(key)
        .arg(lines)
        .output();
    output.ok()
}

#[test]
fn a_verifier_that_others_could_have_written_agrees() {
    let place = Place::new();
    let more = SecretKey::draw("node1.example/audit").unwrap();
    {
        // Calls and a change of keys, which the log of the other tests does not have.
        let mut spool = loop {
            // A child that another test has just forked holds the lock until it runs its program.
            match Spool::open(settings(&place.path("spool"))) {
                Err(SpoolError::Locked(_)) => thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        let mut calls = Calls::default();
        let kernel = calls.intern(&Name::Kernel(Text::new("saxpy"))).unwrap();
        let image = calls.intern(&Name::Image(Hash::leaf(b"x"))).unwrap();
        for number in 0..100_u64 {
            let record = CallRecord {
                client: 1.into(),
                start_ns: number.into(),
                size: 4096.into(),
                object: 0x7f00_0000_0000.into(),
                duration_ns: 900.into(),
                result: 0.into(),
                opcode: 40.into(),
                kernel: kernel.into(),
                image: image.into(),
                device: 0,
                flags: COMPLETED,
            };
            calls.push(record).unwrap();
        }
        let zone = "a".parse().unwrap();
        spool.calls(&zone, Stamp::now(), origin(), &calls).unwrap();
        let key = Text::new(more.public().to_string());
        let rotated = Event::KeyRotated { key };
        spool
            .event(&Zone::proxy(), Stamp::now(), None, rotated)
            .unwrap();
        spool.checkpoint(&[&place.secret, &more]).unwrap();
        spool.calls(&zone, Stamp::now(), origin(), &calls).unwrap();
        spool.checkpoint(&[&more]).unwrap();
    }
    place.export(|lines| lines);
    assert!(said(&place.verify("lines")).contains("nothing was altered"));
    let lines = place.path("lines");
    let Some(output) = second_opinion(&place.key, &lines) else {
        println!("skipped: there is no python3");
        return;
    };
    assert_eq!(said(&output), "holds: 25 leaves, 25 of them signed\n");
    for (expected, change) in changes() {
        place.export(change);
        let output = second_opinion(&place.key, &lines).unwrap();
        assert_eq!(output.status.code(), Some(1), "{expected}");
        assert!(!place.verify("lines").status.success());
    }
    place.export(|mut lines| {
        let calls = lines
            .iter_mut()
            .find(|line| line.contains("calls"))
            .unwrap();
        // In the middle of the records.
        let at = calls.len() / 2;
        let other = if &calls[at..=at] == "A" { "B" } else { "A" };
        calls.replace_range(at..=at, other);
        lines
    });
    let output = second_opinion(&place.key, &lines).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!place.verify("lines").status.success());
}

#[test]
fn a_new_key_is_for_its_owner_alone_and_never_replaces_another() {
    let place = Place::new();
    let file = place.path("new");
    let make = |name: &str| place.audit("keygen", None, &[name, file.to_str().unwrap()]);
    assert!(complained(&make("a b")).contains("neither space nor plus"));
    let public = said(&make("node2.example/audit"));
    assert_eq!(fs::read_to_string(place.path("new.pub")).unwrap(), public);
    let secret: SecretKey = fs::read_to_string(&file)
        .unwrap()
        .trim_end()
        .parse()
        .unwrap();
    assert_eq!(secret.public().to_string(), public.trim_end());
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(complained(&make("node2.example/audit")).contains("cannot write"));
}
