use std::os::unix::fs::FileExt;

use super::*;
use crate::call::{CallRecord, NO_NAME};
use crate::hash::LogId;
use crate::load;

fn origin() -> Origin {
    Origin {
        worker: 1,
        session: LogId([3; 16]),
        client: 1,
        first: 0,
    }
}

fn settings(folder: &Path) -> Settings {
    Settings {
        folder: folder.to_owned(),
        segment: 8192,
        retain: u64::MAX,
        share: 1 << 20,
        headroom: 1 << 20,
        when_full: WhenFull::DropWithGapRecord,
    }
}

fn zone(name: &str) -> Zone {
    name.parse().unwrap()
}

fn event(number: u64) -> Event {
    let why = Text::new(format!("event {number}"));
    Event::Fallback {
        driver: why.clone(),
        why,
    }
}

fn fill(spool: &mut Spool, count: u64) {
    for number in 0..count {
        let outcome = spool.event(&zone("a"), Stamp::now(), None, event(number));
        assert!(matches!(outcome, Ok(Outcome::Written(_))));
    }
    spool.sync().unwrap();
}

fn calls(count: usize) -> Calls {
    let mut calls = Calls::default();
    for _ in 0..count {
        let mut record: CallRecord = zerocopy::FromZeros::new_zeroed();
        (record.kernel, record.image) = (NO_NAME.into(), NO_NAME.into());
        calls.push(record).unwrap();
    }
    calls
}

/// The events of a spool, by name.
fn names(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    load::read(folder, |piece| {
        if let load::Piece::Block(_, bytes) = piece
            && let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes)
        {
            names.push(value["event"].as_str().unwrap().to_owned());
        }
    })
    .unwrap();
    names
}

fn findings(folder: &Path, key: &SecretKey) -> Vec<crate::verify::Finding> {
    let evidence = load::evidence(folder).unwrap();
    evidence.judge(&[key.public().clone()]).findings
}

fn last_segment(folder: &Path) -> PathBuf {
    folder.join(&Segment::list(folder).unwrap().last().unwrap().name)
}

#[test]
fn a_spool_goes_on_where_it_ended_over_many_segments() {
    let folder = tempfile::tempdir().unwrap();
    let key = SecretKey::draw("test").unwrap();
    for round in 1..=5 {
        let mut spool = Spool::open(settings(folder.path())).unwrap();
        assert_eq!(spool.chain().next_leaf(), (round - 1) * 30);
        fill(&mut spool, 30);
        spool.checkpoint(&[&key]).unwrap();
    }
    assert!(Segment::list(folder.path()).unwrap().len() > 3);
    assert_eq!(findings(folder.path(), &key), []);
}

#[test]
fn only_one_process_writes() {
    let folder = tempfile::tempdir().unwrap();
    let _spool = Spool::open(settings(folder.path())).unwrap();
    let second = Spool::open(settings(folder.path()));
    assert!(matches!(second, Err(SpoolError::Locked(_))));
}

#[test]
fn a_torn_end_is_cut_off_and_recorded() {
    for keep in [1, 11, 12, 13, 200] {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(settings(folder.path())).unwrap();
        fill(&mut spool, 5);
        let (before, whole) = (spool.offset, spool.chain().next_leaf());
        fill(&mut spool, 1);
        let after = spool.offset;
        drop(spool);
        // As a writer leaves it that is killed in the middle: the rest was never written.
        let file = OpenOptions::new()
            .write(true)
            .open(last_segment(folder.path()))
            .unwrap();
        let zeros = vec![0; usize::try_from(after - before - keep).unwrap()];
        file.write_all_at(&zeros, before + keep).unwrap();
        let spool = Spool::open(settings(folder.path())).unwrap();
        assert_eq!(spool.chain().next_leaf(), whole + 1, "keep {keep}");
        drop(spool);
        assert_eq!(names(folder.path()).last().unwrap(), "spool_recovered");
        let key = SecretKey::draw("test").unwrap();
        assert_eq!(findings(folder.path(), &key), []);
    }
}

#[test]
fn any_flipped_bit_is_found_and_what_was_signed_is_never_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let key = SecretKey::draw("test").unwrap();
    let mut spool = Spool::open(settings(folder.path())).unwrap();
    fill(&mut spool, 12);
    spool.checkpoint(&[&key]).unwrap();
    let end = spool.offset;
    drop(spool);
    let path = last_segment(folder.path());
    let good = fs::read(&path).unwrap();
    for at in (0..end).step_by(37) {
        let mut bad = good.clone();
        bad[usize::try_from(at).unwrap()] ^= 1 << (at % 8);
        fs::write(&path, &bad).unwrap();
        let opened = Spool::open(settings(folder.path()));
        assert!(
            matches!(opened, Err(SpoolError::Damaged { .. })),
            "byte {at}"
        );
        assert!(!findings(folder.path(), &key).is_empty(), "byte {at}");
    }
    fs::write(&path, &good[..usize::try_from(end / 2).unwrap()]).unwrap();
    let opened = Spool::open(settings(folder.path()));
    assert!(matches!(opened, Err(SpoolError::Damaged { .. })));
    fs::remove_file(&path).unwrap();
    let opened = Spool::open(settings(folder.path()));
    assert!(matches!(opened, Err(SpoolError::Damaged { .. })));
}

#[test]
fn a_checkpoint_that_was_cut_off_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let key = SecretKey::draw("test").unwrap();
    let mut spool = Spool::open(settings(folder.path())).unwrap();
    fill(&mut spool, 2);
    spool.checkpoint(&[&key]).unwrap();
    fill(&mut spool, 2);
    spool.checkpoint(&[&key]).unwrap();
    drop(spool);
    let path = folder.path().join(CHECKPOINTS);
    let text = fs::read(&path).unwrap();
    let first = split_notes(std::str::from_utf8(&text).unwrap()).0[0].len() + 1;
    for end in first + 1..text.len() {
        fs::write(&path, &text[..end]).unwrap();
        drop(Spool::open(settings(folder.path())).unwrap());
        assert_eq!(fs::read(&path).unwrap(), text[..first], "cut at {end}");
    }
}

#[test]
fn a_full_share_drops_and_says_how_many() {
    let folder = tempfile::tempdir().unwrap();
    let tight = Settings {
        share: 2000,
        headroom: 1000,
        ..settings(folder.path())
    };
    let key = SecretKey::draw("test").unwrap();
    let mut spool = Spool::open(tight.clone()).unwrap();
    let a = zone("a");
    let mut dropped = 0;
    for _ in 0..10 {
        match spool.calls(&a, Stamp::now(), origin(), &calls(10)).unwrap() {
            Outcome::Written(_) => assert_eq!(dropped, 0),
            Outcome::Dropped => dropped += 10,
        }
    }
    assert!(dropped > 0);
    // Events have headroom, and other zones have shares of their own.
    assert!(matches!(
        spool.event(&zone("b"), Stamp::now(), None, event(1)),
        Ok(Outcome::Written(_))
    ));
    spool.acknowledge(u64::MAX).unwrap();
    spool.settle(Stamp::now()).unwrap();
    spool.calls(&a, Stamp::now(), origin(), &calls(1)).unwrap();
    spool.checkpoint(&[&key]).unwrap();
    drop(spool);
    let names = names(folder.path());
    assert_eq!(names.iter().filter(|name| *name == "gap").count(), 1);
    let report = load::evidence(folder.path())
        .unwrap()
        .judge(&[key.public().clone()]);
    assert_eq!(report.findings, []);
    // Every record has a number: written, the note of dropping, and those that are missing.
    assert_eq!(report.zones[&a], 10 * 10 + 1 + 1);
    // Killed while it counts: the next one says that it does not know.
    let mut spool = Spool::open(tight.clone()).unwrap();
    while spool.calls(&a, Stamp::now(), origin(), &calls(10)).unwrap() != Outcome::Dropped {}
    spool.sync().unwrap();
    drop(spool);
    drop(Spool::open(tight).unwrap());
    let mut uncertain = false;
    load::read(folder.path(), |piece| {
        if let load::Piece::Block(_, bytes) = piece {
            uncertain |= String::from_utf8_lossy(&bytes).contains(r#""uncertain":true"#);
        }
    })
    .unwrap();
    assert!(uncertain);
}

#[test]
fn a_full_share_closes_its_zone_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let closed = Settings {
        share: 2000,
        headroom: 2000,
        when_full: WhenFull::FailClosed,
        ..settings(folder.path())
    };
    let mut spool = Spool::open(closed).unwrap();
    let a = zone("a");
    let refused = loop {
        match spool.calls(&a, Stamp::now(), origin(), &calls(10)) {
            Ok(outcome) => assert!(matches!(outcome, Outcome::Written(_))),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, SpoolError::Full(ref zone) if *zone == a));
    assert!(spool.closed().contains(&a) && spool.closed().len() == 1);
    // What still happens there is recorded all the same.
    assert!(matches!(
        spool.event(&a, Stamp::now(), None, event(1)),
        Ok(Outcome::Written(_))
    ));
    spool.acknowledge(spool.chain().next_leaf()).unwrap();
    assert!(spool.closed().is_empty());
    assert!(spool.calls(&a, Stamp::now(), origin(), &calls(10)).is_ok());
}

#[test]
fn segments_that_were_sent_are_removed_and_the_rest_still_holds() {
    let folder = tempfile::tempdir().unwrap();
    let small = Settings {
        retain: 3 * 8192,
        ..settings(folder.path())
    };
    let key = SecretKey::draw("test").unwrap();
    let mut spool = Spool::open(small.clone()).unwrap();
    for _ in 0..10 {
        fill(&mut spool, 20);
        spool.checkpoint(&[&key]).unwrap();
        spool.acknowledge(spool.chain().next_leaf()).unwrap();
    }
    spool.checkpoint(&[&key]).unwrap();
    assert!(Segment::list(folder.path()).unwrap().len() <= 4);
    drop(spool);
    let report = load::evidence(folder.path())
        .unwrap()
        .judge(&[key.public().clone()]);
    assert_eq!(report.findings, []);
    assert!(report.leaves.0 > 100 && report.signed == report.leaves.1);
    let wanted = load::Wanted::Leaf(report.leaves.0 + 3);
    let proof = load::prove(folder.path(), &wanted, &[key.public().clone()]).unwrap();
    assert!(proof.check([key.public()]).is_ok());
    drop(Spool::open(small).unwrap());
}

#[test]
fn a_mark_that_a_loss_of_power_took_back_costs_sending_again_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let small = Settings {
        retain: 3 * 8192,
        ..settings(folder.path())
    };
    let mut spool = Spool::open(small.clone()).unwrap();
    for _ in 0..10 {
        fill(&mut spool, 20);
        spool.acknowledge(spool.chain().next_leaf()).unwrap();
    }
    let zones = ["a", "b", "@proxy"].map(zone);
    drop(spool);
    let first = Segment::list(folder.path()).unwrap()[0].first;
    assert!(first > 100);
    for mark in ["", "7\n  "] {
        std::fs::write(folder.path().join("acknowledged"), mark).unwrap();
        let mut spool = Spool::open(small.clone()).unwrap();
        assert_eq!(spool.acknowledged(), first);
        let end = spool.chain().next_leaf();
        let pending = |spool: &Spool| zones.iter().map(|zone| spool.pending(zone)).sum::<u64>();
        spool.acknowledge(end - 1).unwrap();
        assert!(pending(&spool) > 0, "the last block waits");
        spool.acknowledge(spool.chain().next_leaf()).unwrap();
        assert_eq!(pending(&spool), 0);
    }
}

#[test]
fn a_cursor_reads_on_as_blocks_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(settings(folder.path())).unwrap();
    let mut cursor = Cursor::new(folder.path(), 0);
    let mut read = 0;
    for round in 0..20 {
        fill(&mut spool, round);
        let end = spool.chain().next_leaf();
        while let Some(bytes) = cursor.next_below(end).unwrap() {
            let block = crate::block::Block::parse(&bytes).unwrap();
            assert_eq!(block.header().leaf, read);
            read += 1;
        }
        assert_eq!(read, end);
    }
    let mut late = Cursor::new(folder.path(), 100);
    let bytes = late.next_below(101).unwrap().unwrap();
    assert_eq!(
        crate::block::Block::parse(&bytes).unwrap().header().leaf,
        100
    );
}
