//! A log of blocks that are changed, dropped, doubled and swapped as the input says: what comes out of judging
//! it never panics, and a log that holds is the one that was signed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_audit::chain::Chain;
use proxy_audit::checkpoint::Checkpoint;
use proxy_audit::event::{Event, Stamp};
use proxy_audit::hash::LogId;
use proxy_audit::note::SecretKey;
use proxy_audit::verify::{Evidence, Found};


fuzz_target!(|steps: &[u8]| {
    let key = SecretKey::draw("fuzz").expect("random bytes");
    let mut chain = Chain::new(LogId([1; 16]));
    let mut blocks = Vec::new();
    for number in 0..8_u64 {
        let zone = if number % 2 == 0 { "a" } else { "b" };
        let zone = zone.parse().expect("a name");
        let stamp = Stamp { wall_ns: number * 1000, mono_ns: number * 1000 };
        let draft = chain.event(&zone, stamp, None, Event::ProxyStopped {}, 1);
        chain.admit(&draft).expect("the next");
        blocks.push(draft.bytes);
    }
    let honest = blocks.clone();
    let checkpoint = Checkpoint {
        origin: "fuzz".into(),
        size: 8,
        root: chain.tree().root(),
    };
    for step in steps.chunks_exact(3).take(16) {
        let &[what, one, two] = step else { continue };
        if blocks.is_empty() {
            break;
        }
        let (first, second) = (usize::from(one) % blocks.len(), usize::from(two) % blocks.len());
        match what % 4 {
            0 => {
                let len = blocks[first].len();
                blocks[first][usize::from(two) % len] ^= what | 1;
            }
            1 => drop(blocks.remove(first)),
            2 => blocks.swap(first, second),
            _ => {
                let copy = blocks[first].clone();
                blocks.insert(second, copy);
            }
        }
    }
    let mut evidence = Evidence::default();
    for (at, block) in (0..).zip(&blocks) {
        let file = "fuzz".into();
        evidence.block(Found { file, at }, block);
    }
    evidence.checkpoint(checkpoint.sign(&[&key]));
    let report = evidence.judge(&[key.public().clone()]);
    assert_eq!(report.findings.is_empty(), blocks == honest);
});
