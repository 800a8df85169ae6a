use std::path::Path;

use super::*;
use crate::block::{Origin, Source};
use crate::call::{CallRecord, Calls, NO_NAME, Name};
use crate::event::Stamp;
use crate::load;
use crate::note::SecretKey;
use crate::proof::{Proof, ProofError};
use crate::spool::{Outcome, Settings, Spool, WhenFull};
use crate::text::Text;

fn origin() -> Origin {
    Origin {
        worker: 99,
        session: LogId([3; 16]),
        client: 1,
        first: 0,
    }
}

struct Log {
    folder: tempfile::TempDir,
    key: SecretKey,
    blocks: Vec<Vec<u8>>,
    notes: Vec<String>,
}

fn settings(folder: &Path) -> Settings {
    Settings {
        folder: folder.to_owned(),
        segment: 4096,
        retain: u64::MAX,
        share: 1 << 20,
        headroom: 1 << 20,
        when_full: WhenFull::FailClosed,
    }
}

fn stamp(at: u64) -> Stamp {
    Stamp {
        wall_ns: 1_800_000_000_000_000_000 + at,
        mono_ns: at,
    }
}

fn reload(number: u64) -> Event {
    Event::PolicyReload {
        file: Text::from("/etc/vgpu/policy.toml"),
        done: number.is_multiple_of(2),
        lines: vec![Text::new(format!("change {number}"))],
    }
}

fn calls(number: u64) -> Calls {
    let mut calls = Calls::default();
    let kernel = calls.intern(&Name::Kernel(Text::from("saxpy"))).unwrap();
    let image = calls.intern(&Name::Image(Hash::leaf(b"image"))).unwrap();
    for at in 0..3 {
        let record = CallRecord {
            client: 7.into(),
            start_ns: at.into(),
            size: number.into(),
            object: 0xdead_0000.into(),
            duration_ns: 5.into(),
            result: 0.into(),
            opcode: 33.into(),
            kernel: if at == 0 { NO_NAME } else { kernel }.into(),
            image: image.into(),
            device: 0,
            flags: crate::call::COMPLETED,
        };
        calls.push(record).unwrap();
    }
    calls
}

/// Records `count` blocks in three zones and signs after every fourth.
fn fill(spool: &mut Spool, key: &SecretKey, count: u64) {
    let zones: [Zone; 3] = ["a".parse().unwrap(), "b".parse().unwrap(), Zone::proxy()];
    let session = spool.chain().log();
    for number in 0..count {
        let zone = &zones[usize::try_from(number % 3).unwrap()];
        let source = Some(Source { session, n: number });
        let outcome = if number % 5 == 4 {
            spool.calls(zone, stamp(number), origin(), &calls(number))
        } else {
            spool.event(zone, stamp(number), source, reload(number))
        };
        assert!(matches!(outcome, Ok(Outcome::Written(_))));
        if number % 4 == 3 {
            spool.checkpoint(&[key]).unwrap();
        }
    }
}

fn log() -> Log {
    let folder = tempfile::tempdir().unwrap();
    let key = SecretKey::draw("test/log").unwrap();
    let mut spool = Spool::open(settings(folder.path())).unwrap();
    fill(&mut spool, &key, 40);
    drop(spool);
    let (mut blocks, mut notes) = (Vec::new(), Vec::new());
    load::read(folder.path(), |piece| match piece {
        load::Piece::Block(_, bytes) => blocks.push(bytes),
        load::Piece::Checkpoint(note) => notes.push(note),
        load::Piece::Head(..) => {}
        load::Piece::Damage(..) => panic!("damage"),
    })
    .unwrap();
    assert_eq!((blocks.len(), notes.len()), (40, 10));
    Log {
        folder,
        key,
        blocks,
        notes,
    }
}

#[test]
fn calls_that_are_there_again_are_counted_and_such_as_no_gap_tells_of_are_missing() {
    let folder = tempfile::tempdir().unwrap();
    let key = SecretKey::draw("test/log").unwrap();
    let mut spool = Spool::open(settings(folder.path())).unwrap();
    let zone: Zone = "a".parse().unwrap();
    let put = |spool: &mut Spool, first| {
        let origin = Origin { first, ..origin() };
        spool.calls(&zone, stamp(first), origin, &calls(1)).unwrap();
        spool.checkpoint(&[&key]).unwrap();
        let evidence = load::evidence(folder.path()).unwrap();
        let report = evidence.judge(&[key.public().clone()]);
        (report.calls[&zone], report.findings)
    };
    let count = |recorded, repeated, absent, told| CallCount {
        recorded,
        repeated,
        absent,
        told,
        uncertain: false,
    };
    // Three at a time.
    assert_eq!(put(&mut spool, 0), (count(3, 0, 0, 0), vec![]));
    assert_eq!(put(&mut spool, 1), (count(4, 2, 0, 0), vec![]));
    let untold = vec![Finding::Untold("a".parse().unwrap(), 6)];
    assert_eq!(put(&mut spool, 10), (count(7, 2, 6, 0), untold));
    let zone: Zone = "a".parse().unwrap();
    spool.lost(&zone, stamp(20), None, 6, "a reason").unwrap();
    assert_eq!(put(&mut spool, 13), (count(10, 2, 6, 6), vec![]));
}

impl Log {
    fn judge(&self) -> Report {
        let mut evidence = Evidence::default();
        for (at, block) in (0..).zip(&self.blocks) {
            let file = "test".into();
            evidence.block(Found { file, at }, block);
        }
        self.notes
            .iter()
            .for_each(|note| evidence.checkpoint(note.clone()));
        evidence.judge(&[self.key.public().clone()])
    }

    fn first(&self) -> Finding {
        let report = self.judge();
        report.findings.first().expect("a finding").clone()
    }

    /// Has blocks from `from` on name what is before them, as a forger would who has no key.
    fn rewrite_chain(&mut self, from: usize) {
        let mut lasts: BTreeMap<Zone, Hash> = BTreeMap::new();
        for (at, bytes) in self.blocks.iter_mut().enumerate() {
            let mut block = Block::parse(bytes).unwrap();
            let (Block::Event { header, .. } | Block::Calls { header, .. }) = &mut block;
            if at > from
                && let Some(&last) = lasts.get(&header.zone)
            {
                header.prev = last;
            }
            let zone = header.zone.clone();
            *bytes = block.to_bytes();
            lasts.insert(zone, Hash::leaf(bytes));
        }
    }
}

fn leaf_of(finding: &Finding) -> u64 {
    finding.leaf()
}

/// Changes what a block says, so that it is still a block.
fn alter(bytes: &mut Vec<u8>) {
    let mut block = Block::parse(bytes).unwrap();
    match &mut block {
        Block::Event { event, .. } => *event = reload(12345),
        Block::Calls { calls: list, .. } => *list = calls(54321),
    }
    *bytes = block.to_bytes();
}

#[test]
fn an_untouched_log_holds_to_its_last_checkpoint() {
    let log = log();
    let report = log.judge();
    assert_eq!(report.findings, []);
    assert_eq!((report.signed, report.leaves), (40, (0, 40)));
    assert_eq!(report.checkpoints, 10);
    // Events take one number, lists of calls three.
    assert_eq!(report.zones.values().sum::<u64>(), 32 + 8 * 3);
    let spool = load::evidence(log.folder.path()).unwrap();
    let spool = spool.judge(&[log.key.public().clone()]);
    assert_eq!((spool.signed, spool.findings), (40, vec![]));
    // Without the right key nothing is signed.
    let other = SecretKey::draw("test/log").unwrap();
    let spool = load::evidence(log.folder.path()).unwrap();
    let spool = spool.judge(&[other.public().clone()]);
    assert_eq!((spool.signed, spool.findings.len()), (0, 10));
}

#[test]
fn every_single_altered_block_is_named() {
    for at in 0..40 {
        let mut log = log();
        alter(&mut log.blocks[at]);
        let finding = log.first();
        let last_of_zone = at >= 37;
        if last_of_zone {
            // Nothing follows it in its zone: the checkpoint tells.
            assert!(
                matches!(finding, Finding::Rewritten(36, 39)),
                "{at}: {finding}"
            );
        } else {
            assert!(matches!(finding, Finding::Altered(..)), "{at}: {finding}");
            assert_eq!(leaf_of(&finding), at as u64, "{finding}");
        }
        assert!(log.judge().signed <= at as u64);
    }
}

#[test]
fn a_block_that_is_none_any_more_is_named_by_its_place() {
    for at in 0..40 {
        let mut log = log();
        let middle = log.blocks[at].len() / 2;
        log.blocks[at][middle] ^= 0x80;
        let finding = log.first();
        assert_eq!(
            leaf_of(&finding).min(at as u64),
            leaf_of(&finding),
            "{finding}"
        );
        assert!(
            matches!(&finding, Finding::Altered(..) | Finding::Rewritten(..)),
            "{at}: {finding}"
        );
    }
}

#[test]
fn a_rewritten_chain_is_caught_by_the_next_checkpoint() {
    for at in 0..40 {
        let mut log = log();
        alter(&mut log.blocks[at]);
        log.rewrite_chain(at);
        let from = at as u64 / 4 * 4;
        assert_eq!(log.first(), Finding::Rewritten(from, from + 3));
    }
}

#[test]
fn missing_blocks_are_named_and_so_is_a_cut_end() {
    for at in 0..40 {
        let mut log = log();
        log.blocks.remove(at);
        let finding = log.first();
        let at = at as u64;
        assert!(
            matches!(finding, Finding::Missing(from, to, _) if (from, to) == (at, at)),
            "{at}: {finding}"
        );
        assert_eq!(log.judge().findings.len(), 1, "{at}");
    }
    let mut log = log();
    log.blocks.truncate(30);
    assert!(matches!(log.first(), Finding::Missing(30, 39, _)));
    // Rolled back together with its checkpoints it holds; one that was kept elsewhere tells.
    let kept = log.notes.pop().unwrap();
    log.notes.truncate(7);
    assert_eq!(log.judge().findings, []);
    log.notes.push(kept);
    assert!(matches!(log.first(), Finding::Missing(30, 39, _)));
}

#[test]
fn swapped_blocks_are_named() {
    for at in 0..39 {
        let mut log = log();
        log.blocks.swap(at, at + 1);
        let finding = log.first();
        assert!(matches!(finding, Finding::Reordered(_)), "{at}: {finding}");
        assert_eq!(leaf_of(&finding), at as u64 + 1, "{finding}");
    }
}

#[test]
fn replayed_and_forged_blocks_are_named() {
    for at in 0..40 {
        let mut log = log();
        let copy = log.blocks[at].clone();
        log.blocks.insert(at + 1 + (40 - at) / 2, copy);
        let finding = log.first();
        assert!(matches!(finding, Finding::Replayed(_)), "{at}: {finding}");
        assert_eq!(leaf_of(&finding), at as u64);
        let mut forged = log.blocks[at].clone();
        alter(&mut forged);
        log.blocks.push(forged);
        let named = log.judge().findings;
        assert!(
            named
                .iter()
                .any(|found| matches!(found, Finding::Forged(named, _) if named.leaf == at as u64))
        );
    }
}

#[test]
fn blocks_of_another_log_and_of_another_zone_do_not_pass() {
    let mut mine = log();
    let other = log();
    mine.blocks[11] = other.blocks[11].clone();
    assert!(
        matches!(mine.first(), Finding::Forged(named, _) if named.leaf == 11)
            || matches!(mine.first(), Finding::Missing(11, 11, _))
    );
    // Two zones spliced: b's block becomes a's.
    let mut log = log();
    let mut block = Block::parse(&log.blocks[10]).unwrap();
    let (Block::Event { header, .. } | Block::Calls { header, .. }) = &mut block;
    header.zone = "a".parse().unwrap();
    log.blocks[10] = block.to_bytes();
    let finding = log.first();
    assert!(matches!(finding, Finding::Altered(..)), "{finding}");
    assert_eq!(leaf_of(&finding), 10, "{finding}");
}

#[test]
fn forged_swapped_and_replaced_checkpoints_are_named() {
    let base = log();
    let other = SecretKey::draw("test/log").unwrap();
    let forged = |note: String| {
        let mut log = log_with(&base);
        log.notes[5] = note;
        log.first()
    };
    let lie = Checkpoint {
        origin: "test/log".into(),
        size: 24,
        root: Hash::leaf(b"lie"),
    };
    assert!(matches!(
        forged(lie.sign(&[&other])),
        Finding::Checkpoint(5, _)
    ));
    let edited = base.notes[5].replacen("24", "23", 1);
    assert!(matches!(forged(edited), Finding::Checkpoint(5, _)));
    assert!(matches!(
        forged("nonsense".into()),
        Finding::Checkpoint(5, _)
    ));
    let mut swapped = log_with(&base);
    swapped.notes.swap(3, 4);
    assert!(matches!(swapped.first(), Finding::Checkpoint(4, _)));
    // Signed by the true key, but of another tree: the log's owner has forked it.
    assert!(matches!(
        forged(lie.sign(&[&base.key])),
        Finding::Rewritten(20, 23)
    ));
}

fn log_with(base: &Log) -> Log {
    Log {
        folder: tempfile::tempdir().unwrap(),
        key: base.key.clone(),
        blocks: base.blocks.clone(),
        notes: base.notes.clone(),
    }
}

#[test]
fn a_key_that_the_log_announces_replaces_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let [old, new, thief] = [(); 3].map(|()| SecretKey::draw("test/log").unwrap());
    let mut spool = Spool::open(settings(folder.path())).unwrap();
    fill(&mut spool, &old, 8);
    let key = Text::new(new.public().to_string());
    let rotated = Event::KeyRotated { key };
    spool
        .event(&Zone::proxy(), stamp(9), None, rotated)
        .unwrap();
    spool.checkpoint(&[&old, &new]).unwrap();
    fill(&mut spool, &new, 8);
    let judge = |key: &SecretKey| {
        let evidence = load::evidence(folder.path()).unwrap();
        evidence.judge(&[key.public().clone()])
    };
    let report = judge(&old);
    assert_eq!((report.signed, report.findings), (17, vec![]));
    assert_eq!(report.key.as_ref(), Some(new.public()));
    assert_eq!(judge(&thief).signed, 0);
    // From then on the old key is worth nothing.
    spool.checkpoint(&[&old]).unwrap();
    assert!(matches!(
        judge(&old).findings[..],
        [Finding::Checkpoint(5, _)]
    ));
}

#[test]
fn a_proof_holds_for_its_block_and_for_nothing_else() {
    let log = log();
    let keys = [log.key.public().clone()];
    for leaf in 0..40 {
        let proof = load::prove(log.folder.path(), &load::Wanted::Leaf(leaf), &keys).unwrap();
        let read = Proof::parse(&proof.to_string()).unwrap();
        assert_eq!(read, proof);
        let (block, checkpoint) = read.check(&keys).unwrap();
        assert_eq!((block.header().leaf, checkpoint.size), (leaf, 40));
        let mut altered = proof.clone();
        alter(&mut altered.block);
        assert!(matches!(altered.check(&keys), Err(ProofError::Root)));
        let mut moved = proof.clone();
        moved.index = (leaf + 1) % 40;
        assert!(moved.check(&keys).is_err());
        let other = SecretKey::draw("test/log").unwrap();
        let stranger = proof.check([other.public()]);
        assert!(matches!(stranger, Err(ProofError::Checkpoint(_))));
    }
    let by_record = load::Wanted::Record("a".into(), 0);
    assert_eq!(
        load::prove(log.folder.path(), &by_record, &keys)
            .unwrap()
            .index,
        0
    );
    let absent = load::prove(log.folder.path(), &load::Wanted::Leaf(40), &keys);
    assert!(matches!(absent, Err(load::ProveError::Absent)));
}

#[test]
fn exported_lines_say_the_same_as_the_spool() {
    let log = log();
    let path = log.folder.path().join("export.jsonl");
    let mut text = String::new();
    load::read(log.folder.path(), |piece| {
        let line = match piece {
            load::Piece::Block(_, bytes) => crate::export::Line::Block(bytes),
            load::Piece::Checkpoint(note) => crate::export::Line::Checkpoint(note),
            _ => return,
        };
        text += &line.to_text();
    })
    .unwrap();
    std::fs::write(&path, &text).unwrap();
    let judge = || {
        let evidence = load::evidence(&path).unwrap();
        evidence.judge(&[log.key.public().clone()])
    };
    assert_eq!((judge().signed, judge().findings), (40, vec![]));
    std::fs::write(&path, text.replace("change 12\"", "change 13\"")).unwrap();
    assert!(matches!(&judge().findings[..], [Finding::Altered(named, _), ..] if named.leaf == 12));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Changes, removals, swaps and copies, in any number and order.
    #[test]
    fn a_log_holds_if_and_only_if_it_is_the_one_that_was_signed(
        steps in proptest::collection::vec((0_u8..4, 0_usize..1000, 0_usize..1000, 1_u8..), 0..6)
    ) {
        thread_local!(static LOG: Log = log());
        LOG.with(|base| {
            let mut log = log_with(base);
            for (what, first, second, bits) in steps {
                let count = log.blocks.len();
                let (first, second) = (first % count, second % count);
                match what {
                    0 => {
                        let len = log.blocks[first].len();
                        log.blocks[first][second % len] ^= bits;
                    }
                    1 => drop(log.blocks.remove(first)),
                    2 => log.blocks.swap(first, second),
                    _ => {
                        let copy = log.blocks[first].clone();
                        log.blocks.insert(second, copy);
                    }
                }
            }
            let report = log.judge();
            assert_eq!(report.findings.is_empty(), log.blocks == base.blocks, "{:?}", report.findings);
        });
    }
}
