//! A consumer over memory that a hostile producer writes: it never panics, never loops, never hands
//! out more than a record, and what it found broken stays broken.
//!
//! The input is a script: each step writes words, some of them where the consumer looks next, and
//! then lets it look.

#![no_main]

use idm_protocol::layout::LINE_WORDS;
use idm_protocol::memory::{Heap, Memory};
use idm_protocol::record::{INLINE_BYTES, PAD, Record};
use idm_protocol::ring::{Consumer, RingPlace};
use idm_protocol::sync::Ordering;
use libfuzzer_sys::{arbitrary, fuzz_target};

#[derive(arbitrary::Arbitrary, Debug)]
struct Script {
    log_lines: u8,
    steps: Vec<Step>,
}

#[derive(arbitrary::Arbitrary, Debug)]
enum Step {
    /// Any word anywhere, indices and bells included.
    Word { at: u16, value: u64 },
    /// A sequence that fits, with any header.
    Record { opcode: u16, lines: u8, rest: u64 },
    /// Padding, right or wrong.
    Pad { lines: u8 },
    Poll,
    Release,
}

const LINES: usize = 24;

fuzz_target!(|script: Script| {
    let lines = 1usize << (1 + script.log_lines % 8);
    let place = RingPlace { lines: LINES..LINES + lines * LINE_WORDS, head: 0, bell: 8, space: 16 };
    let heap = Heap::zeroed(LINES + lines * LINE_WORDS);
    let mut consumer = Consumer::new(&heap, &place).expect("a power of two, in bounds");
    let mut record = Record::new();
    let mut broken = None;
    for step in script.steps {
        let position = consumer.position();
        let line = usize::try_from(position).expect("64 bits") % lines * LINE_WORDS + LINES;
        let words = heap.words();
        let announce = |header: u64| {
            words[line + 1].store(header, Ordering::Relaxed);
            words[line].store(position + 1, Ordering::Release);
        };
        match step {
            Step::Word { at, value } => {
                words[usize::from(at) % words.len()].store(value, Ordering::Relaxed);
            }
            Step::Record { opcode, lines, rest } => {
                announce(u64::from(opcode) | u64::from(lines) << 16 | rest << 24);
            }
            Step::Pad { lines } => announce(u64::from(PAD) | u64::from(lines) << 16),
            Step::Release => consumer.release(),
            Step::Poll => match consumer.poll(&mut record) {
                Ok(true) => {
                    assert_eq!(broken, None);
                    assert_eq!(record.sequence(), consumer.position() + 1 - lines_of(&record));
                    assert_ne!(record.head().opcode, PAD);
                    assert!(record.bytes().len() <= INLINE_BYTES);
                }
                Ok(false) => assert_eq!(broken, None),
                Err(violation) => {
                    assert!(broken.is_none_or(|first| first == violation));
                    broken = Some(violation);
                }
            },
        }
    }
});

fn lines_of(record: &Record) -> u64 {
    let side = if record.side_len().is_some() { 8 } else { 0 };
    (record.bytes().len() as u64 + 16 + side) / 64
}
