//! The ring against a queue, against lies, and at its edges.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::memory::{Heap, Memory};
use crate::record::{Flags, INLINE_BYTES};
use crate::wait::{Immortal, StopFlag};

const HEAD: usize = 0;
const BELL: usize = 8;
const SPACE: usize = 16;
const LINES: usize = 24;

fn ring(lines: usize) -> (Heap, Producer<Heap>, Consumer<Heap>) {
    let heap = Heap::zeroed(LINES + lines * LINE_WORDS);
    let place = RingPlace {
        lines: LINES..LINES + lines * LINE_WORDS,
        head: HEAD,
        bell: BELL,
        space: SPACE,
    };
    let producer = Producer::new(&heap, &place, Patience::none()).unwrap();
    let consumer = Consumer::new(&heap, &place).unwrap();
    (heap, producer, consumer)
}

fn head(opcode: u16) -> Head {
    Head {
        opcode,
        ..Head::default()
    }
}

/// A peer that is gone: what would wait ends.
fn ended() -> StopFlag {
    let stop = StopFlag::new();
    stop.raise();
    stop
}

/// Puts a header where the consumer looks next, as a hostile producer would.
fn forge(heap: &Heap, line: usize, sequence: u64, opcode: u16, lines: u8) {
    let words = &heap.words()[LINES + line * LINE_WORDS..];
    words[1].store(head(opcode).pack(lines), Ordering::Relaxed);
    words[0].store(sequence, Ordering::Release);
}

#[test]
fn a_zeroed_region_is_an_empty_ring() {
    let (_heap, _producer, mut consumer) = ring(64);
    let mut record = Record::new();
    assert_eq!(consumer.poll(&mut record), Ok(false));
    let next = consumer.next(&mut record, &Patience::none(), &ended());
    assert_eq!(next, Ok(Next::Ended));
}

#[test]
fn all_of_the_header_comes_back() {
    let (_heap, mut producer, mut consumer) = ring(64);
    let sent = Head {
        opcode: 0xabcd,
        flags: Flags::REPLY,
        lane: 0x1234,
        context: 0x5678,
    };
    let sequence = producer.post(sent, &[], &[b"tail"], &Immortal).unwrap();
    let mut record = Record::new();
    assert_eq!(consumer.poll(&mut record), Ok(true));
    assert_eq!(record.head(), sent);
    assert_eq!(record.sequence(), sequence);
    assert_eq!(&record.bytes()[..8], b"tail\0\0\0\0");
    assert_eq!(record.bytes().len(), 48);
}

#[test]
fn bytes_of_an_earlier_record_never_show_in_a_later_one() {
    let (_heap, mut producer, mut consumer) = ring(64);
    let mut record = Record::new();
    for _ in 0..2 {
        producer
            .post(head(1), &[0xff; INLINE_BYTES], &[], &Immortal)
            .unwrap();
        assert_eq!(consumer.poll(&mut record), Ok(true));
    }
    for _ in 0..200 {
        producer.post(head(1), &[1], &[], &Immortal).unwrap();
        assert_eq!(consumer.poll(&mut record), Ok(true));
        assert_eq!(&record.bytes()[1..], &[0; 47]);
    }
}

#[test]
fn the_largest_record_fits_and_one_byte_more_does_not() {
    let (_heap, mut producer, mut consumer) = ring(64);
    let body = [3; INLINE_BYTES];
    producer.post(head(1), &body, &[], &Immortal).unwrap();
    let mut record = Record::new();
    assert_eq!(consumer.poll(&mut record), Ok(true));
    assert_eq!(record.bytes(), &body);
    let too_large = producer.post(head(1), &body, &[&[1]], &Immortal);
    let error = PostError::TooLarge {
        bytes: 1032,
        most: 1024,
    };
    assert_eq!(too_large, Err(error));
    assert_eq!(consumer.poll(&mut record), Ok(false));
}

#[test]
fn a_full_ring_takes_nothing_and_loses_nothing_when_the_peer_is_gone() {
    let (_heap, mut producer, mut consumer) = ring(64);
    let live = ended();
    let mut posted = 0;
    while producer.post(head(1), &[], &[], &live).is_ok() {
        posted += 1;
    }
    // One line is kept free.
    assert_eq!(posted, 63);
    let mut record = Record::new();
    for _ in 0..posted {
        let next = consumer.next(&mut record, &Patience::none(), &live);
        assert_eq!(next, Ok(Next::Record));
    }
    let next = consumer.next(&mut record, &Patience::none(), &live);
    assert_eq!(next, Ok(Next::Ended));
    producer.post(head(1), &[], &[], &live).unwrap();
}

#[test]
fn a_record_of_no_lines_too_many_or_across_a_page_breaks_the_ring_for_good() {
    let cases = [
        (
            0,
            0,
            Violation::Lines {
                position: 0,
                lines: 0,
            },
        ),
        (
            0,
            17,
            Violation::Lines {
                position: 0,
                lines: 17,
            },
        ),
        (
            0,
            255,
            Violation::Lines {
                position: 0,
                lines: 255,
            },
        ),
    ];
    for (line, lines, violation) in cases {
        let (heap, _producer, mut consumer) = ring(64);
        forge(&heap, line, 1, 1, lines);
        let mut record = Record::new();
        assert_eq!(consumer.poll(&mut record), Err(violation));
        forge(&heap, line, 1, 1, 1);
        assert_eq!(consumer.poll(&mut record), Err(violation));
    }
    let (heap, mut producer, mut consumer) = ring(128);
    let mut record = Record::new();
    for _ in 0..62 {
        producer.post(head(1), &[], &[], &Immortal).unwrap();
        assert_eq!(consumer.poll(&mut record), Ok(true));
    }
    forge(&heap, 62, 63, 1, 3);
    let straddle = Violation::Straddle {
        position: 62,
        lines: 3,
    };
    assert_eq!(consumer.poll(&mut record), Err(straddle));
}

#[test]
fn padding_that_nobody_needs_is_a_violation() {
    let (heap, _producer, mut consumer) = ring(64);
    forge(&heap, 0, 1, PAD, 1);
    let mut record = Record::new();
    let violation = Violation::Padding { position: 0 };
    assert_eq!(consumer.poll(&mut record), Err(violation));
}

#[test]
fn a_head_ahead_of_the_tail_or_going_back_is_a_violation() {
    let (heap, mut producer, _consumer) = ring(64);
    for _ in 0..63 {
        producer.post(head(1), &[], &[], &Immortal).unwrap();
    }
    heap.words()[HEAD].store(64, Ordering::Relaxed);
    let violation = Violation::Head {
        head: 64,
        seen: 0,
        tail: 63,
    };
    assert_eq!(
        producer.post(head(1), &[], &[], &Immortal),
        Err(violation.into())
    );
    heap.words()[HEAD].store(10, Ordering::Relaxed);
    for _ in 0..10 {
        producer.post(head(1), &[], &[], &Immortal).unwrap();
    }
    heap.words()[HEAD].store(9, Ordering::Relaxed);
    let violation = Violation::Head {
        head: 9,
        seen: 10,
        tail: 73,
    };
    assert_eq!(
        producer.post(head(1), &[], &[], &Immortal),
        Err(violation.into())
    );
}

#[test]
fn a_place_that_is_no_ring_is_refused() {
    let heap = Heap::zeroed(1024);
    let place = |lines: Range<usize>| RingPlace {
        lines,
        head: HEAD,
        bell: BELL,
        space: SPACE,
    };
    let refused = |lines| Consumer::new(&heap, &place(lines)).unwrap_err();
    assert_eq!(refused(24..24), PlaceError::Lines(0));
    assert_eq!(refused(24..32), PlaceError::Lines(8));
    assert_eq!(refused(24..48), PlaceError::Lines(24));
    assert_eq!(refused(24..41), PlaceError::Lines(17));
    assert!(matches!(refused(1016..1032), PlaceError::OutOfBounds(_)));
}

#[test]
fn threads_that_share_a_producer_lose_and_double_nothing() {
    let (_heap, producer, mut consumer) = ring(64);
    let shared = SharedProducer::new(producer);
    const EACH: u64 = if cfg!(miri) { 40 } else { 20_000 };
    std::thread::scope(|scope| {
        for thread in 0..3u16 {
            let shared = &shared;
            scope.spawn(move || {
                for value in 0..EACH {
                    let sent = Head {
                        lane: thread,
                        ..head(1)
                    };
                    shared
                        .post(sent, &value.to_le_bytes(), &[], &Immortal)
                        .unwrap();
                }
            });
        }
        let mut record = Record::new();
        let mut expected = [0u64; 3];
        let mut last = 0;
        for _ in 0..3 * EACH {
            let next = consumer.next(&mut record, &Patience::detect(), &Immortal);
            assert_eq!(next, Ok(Next::Record));
            assert!(record.sequence() > last);
            last = record.sequence();
            let lane = usize::from(record.head().lane);
            let value = u64::from_le_bytes(record.bytes()[..8].try_into().unwrap());
            assert_eq!(value, expected[lane]);
            expected[lane] += 1;
        }
    });
}

#[derive(Clone, Debug)]
enum Step {
    Post {
        opcode: u16,
        body: Vec<u8>,
        tail: Vec<u8>,
    },
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    prop_oneof![
        (1u16.., bytes(300), bytes(750)).prop_map(|(opcode, body, tail)| Step::Post {
            opcode,
            body,
            tail
        }),
        (1u16.., bytes(40), bytes(8)).prop_map(|(opcode, body, tail)| Step::Post {
            opcode,
            body,
            tail
        }),
        Just(Step::Take),
        Just(Step::Take),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is posted comes out, in order; a post is refused only when the ring is full.
    #[test]
    fn a_ring_behaves_like_a_queue(
        log_lines in 1u32..9,
        steps in prop::collection::vec(step(), 1..if cfg!(miri) { 30 } else { 300 }),
    ) {
        let (_heap, mut producer, mut consumer) = ring(1 << log_lines);
        let mut queue = VecDeque::new();
        let mut record = Record::new();
        let live = ended();
        for step in steps {
            match step {
                Step::Post { opcode, body, tail } => {
                    match producer.post(head(opcode), &body, &[&tail], &live) {
                        Ok(sequence) => queue.push_back((sequence, opcode, body, tail)),
                        Err(PostError::TooLarge { bytes, most }) => prop_assert!(bytes > most),
                        Err(PostError::Ended) => {
                            consumer.release();
                            prop_assert!(!queue.is_empty() || consumer.position == producer.position()
                                || consumer.poll(&mut record) == Ok(false));
                        }
                        Err(error) => return Err(TestCaseError::fail(error.to_string())),
                    }
                }
                Step::Take => {
                    let polled = consumer.poll(&mut record).unwrap();
                    match queue.pop_front() {
                        None => prop_assert!(!polled),
                        Some((sequence, opcode, body, tail)) => {
                            prop_assert!(polled);
                            prop_assert_eq!(record.sequence(), sequence);
                            prop_assert_eq!(record.head().opcode, opcode);
                            let bytes = record.bytes();
                            prop_assert_eq!(&bytes[..body.len()], &body[..]);
                            let at = body.len().next_multiple_of(8);
                            prop_assert_eq!(&bytes[at..at + tail.len()], &tail[..]);
                            prop_assert!(bytes[at + tail.len()..].iter().all(|byte| *byte == 0));
                        }
                    }
                }
            }
        }
    }

    /// Arbitrary words, changed between looks: the consumer never panics, never loops, never hands
    /// out more than a record, and a violation is final.
    #[test]
    fn a_consumer_survives_arbitrary_memory(
        words in prop::collection::vec(
            prop_oneof![Just(0u64), 0u64..300, (0u64..20).prop_map(|lines| lines << 16), any::<u64>()],
            1..if cfg!(miri) { 100 } else { 2000 },
        ),
    ) {
        let (heap, _producer, mut consumer) = ring(64);
        let mut record = Record::new();
        let mut broken = None;
        for chunk in words.chunks(16) {
            for (at, word) in chunk.iter().enumerate() {
                let start = consumer.shape.words_at(consumer.position, 1).start;
                let count = 64 * LINE_WORDS;
                heap.words()[LINES + (start + at) % count].store(*word, Ordering::Relaxed);
                if at == 0 && word % 2 == 0 {
                    heap.words()[LINES + start].store(consumer.position + 1, Ordering::Relaxed);
                }
            }
            let polled = consumer.poll(&mut record);
            if let Some(violation) = broken {
                prop_assert_eq!(polled, Err(violation));
            }
            match polled {
                Ok(true) => {
                    prop_assert!(record.head().opcode != PAD);
                    let len = record.bytes().len();
                    prop_assert!((40..=INLINE_BYTES).contains(&len));
                }
                Ok(false) => {}
                Err(violation) => broken = Some(violation),
            }
        }
    }
}
