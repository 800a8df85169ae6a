//! A writer is killed at random points, again and again; what it said was on disk is there, and the log holds.
//!
//! The test starts itself as the writer.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use proxy_audit::block::{Source, Zone};
use proxy_audit::event::{Event, Stamp};
use proxy_audit::load;
use proxy_audit::note::SecretKey;
use proxy_audit::spool::{Settings, Spool, WhenFull};
use proxy_audit::text::Text;

const FOLDER: &str = "VGPU_TEST_SPOOL";
const KEY: &str = "VGPU_TEST_KEY";
const ROUNDS: u64 = 20;

fn settings(folder: &Path) -> Settings {
    Settings {
        folder: folder.to_owned(),
        segment: 16 << 10,
        retain: u64::MAX,
        share: 1 << 30,
        headroom: 1 << 20,
        when_full: WhenFull::FailClosed,
    }
}

/// Not a test of its own: what the other one starts and kills. Says each number that is on disk.
#[test]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let key: SecretKey = std::env::var(KEY).unwrap().parse().unwrap();
    let mut spool = Spool::open(settings(Path::new(&folder))).unwrap();
    let session = spool.chain().log();
    let first = spool.chain().source().map_or(0, |last| last.n + 1);
    let zones: [Zone; 2] = ["a".parse().unwrap(), "b".parse().unwrap()];
    for n in first.. {
        let event = Event::Fallback {
            driver: Text::from("softgpu"),
            why: Text::new("x".repeat(usize::try_from(n % 200).unwrap())),
        };
        let zone = &zones[usize::from(n % 3 == 0)];
        let source = Some(Source { session, n });
        spool.event(zone, Stamp::now(), source, event).unwrap();
        if n % 7 == 0 {
            spool.checkpoint(&[&key]).unwrap();
        }
        spool.sync().unwrap();
        println!("durable {n}");
    }
}

#[test]
fn nothing_that_was_on_disk_is_lost_by_kills_at_random_points() {
    let folder = tempfile::tempdir().unwrap();
    let key = SecretKey::draw("test/kill").unwrap();
    let mut durable = None;
    for round in 0..ROUNDS {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(KEY, key.to_secret_text())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(writer.stdout.take().unwrap());
        let mut seen = 0;
        for line in output.lines() {
            let line = line.unwrap();
            // The harness writes its own word before the first.
            if let Some((_, number)) = line.split_once("durable ") {
                durable = Some(number.parse::<u64>().unwrap());
                seen += 1;
            }
            if seen == 1 + round * 3 {
                // A moment of its own in each round, wherever the writer then is.
                std::thread::sleep(Duration::from_micros(round * 137));
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        let evidence = load::evidence(folder.path()).unwrap();
        let mut report = evidence.judge(&[key.public().clone()]);
        // A torn end is not wrong before it was looked after; anything else is.
        report
            .findings
            .retain(|finding| !finding.to_string().contains("cut off"));
        report
            .findings
            .retain(|finding| !finding.to_string().contains("checksum"));
        assert_eq!(report.findings, [], "round {round}");
        let spool = Spool::open(settings(folder.path())).unwrap();
        assert!(
            spool.chain().source().map(|last| last.n) >= durable,
            "round {round}"
        );
        drop(spool);
        let report = load::evidence(folder.path())
            .unwrap()
            .judge(&[key.public().clone()]);
        assert_eq!(report.findings, [], "round {round}");
    }
    assert!(durable > Some(ROUNDS));
}
