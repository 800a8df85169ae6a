//! The shipped ring, bells, lanes and credits under every interleaving that loom can make of them.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p idm-protocol --release --test loom`
//!
//! loom's doorbell never times out, so a lost wake-up is a deadlock, which fails the model.
//!
//! What loom cannot see: a load that takes its value from a store later in program order. The two
//! releases that only order our reads before the other side's overwriting (the consumer's head, the
//! side buffer's release word) therefore rest on their `SYNC` comments, not on a model.

#![cfg(loom)]

use std::sync::Arc;

use idm_protocol::control::{ClientControl, WorkerControl};
use idm_protocol::layout::{LINE_WORDS, Limits};
use idm_protocol::memory::{Heap, Memory};
use idm_protocol::record::{Flags, Head, Record, Request};
use idm_protocol::ring::{Consumer, Next, PostError, Producer, RingPlace, SharedProducer};
use idm_protocol::sync::{Ordering, Word};
use idm_protocol::wait::{Bell, Immortal, Liveness, Patience, StopFlag, Woken};
use loom::thread;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Runs a model with at most `preemptions` involuntary switches per execution; two are enough for
/// every known lost wake-up, and three keep these models below a minute.
fn model(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(run);
}

const HEAD: usize = 0;
const BELL: usize = 1;
const SPACE: usize = 2;
const LINES: usize = 3;

fn ring(lines: usize) -> (Heap, RingPlace) {
    let heap = Heap::zeroed(LINES + lines * LINE_WORDS);
    let place = RingPlace {
        lines: LINES..LINES + lines * LINE_WORDS,
        head: HEAD,
        bell: BELL,
        space: SPACE,
    };
    (heap, place)
}

fn head(opcode: u16) -> Head {
    Head {
        opcode,
        ..Head::default()
    }
}

fn post(producer: &mut Producer<Heap>, value: u64, words: usize) {
    let body = vec![value; words];
    let posted = producer.post(head(1), body.as_bytes(), &[], &Immortal);
    posted.unwrap();
}

fn expect(consumer: &mut Consumer<Heap>, value: u64, words: usize) {
    let mut record = Record::new();
    let next = consumer.next(&mut record, &Patience::none(), &Immortal);
    assert_eq!(next, Ok(Next::Record));
    for word in record.bytes()[..words * 8].as_chunks::<8>().0 {
        assert_eq!(u64::from_le_bytes(*word), value);
    }
}

#[test]
fn a_sleeping_consumer_is_woken_by_one_record_and_gets_all_of_it() {
    model(3, || {
        let (heap, place) = ring(2);
        let mut producer = Producer::new(&heap, &place, Patience::none()).unwrap();
        let poster = thread::spawn(move || post(&mut producer, 7, 6));
        let mut consumer = Consumer::new(&heap, &place).unwrap();
        expect(&mut consumer, 7, 6);
        poster.join().unwrap();
    });
}

#[test]
fn records_stay_whole_and_in_order_when_the_ring_fills_and_wraps() {
    model(2, || {
        let (heap, place) = ring(2);
        let mut producer = Producer::new(&heap, &place, Patience::none()).unwrap();
        let poster = thread::spawn(move || {
            for value in 1..=3 {
                post(&mut producer, value, 1);
            }
        });
        let mut consumer = Consumer::new(&heap, &place).unwrap();
        for value in 1..=3 {
            expect(&mut consumer, value, 1);
        }
        poster.join().unwrap();
    });
}

#[test]
fn payload_that_looks_like_the_next_sequence_is_never_taken_for_a_record() {
    model(2, || {
        let (heap, place) = ring(4);
        let mut producer = Producer::new(&heap, &place, Patience::none()).unwrap();
        // Lines 0 and 1: a two-line record whose second line starts with 6, the sequence that
        // line will have to carry in the second lap.
        let poster = thread::spawn(move || {
            post(&mut producer, 6, 8);
            post(&mut producer, 2, 1);
            post(&mut producer, 3, 1);
            post(&mut producer, 4, 1);
        });
        let mut consumer = Consumer::new(&heap, &place).unwrap();
        expect(&mut consumer, 6, 8);
        for value in 2..=4 {
            expect(&mut consumer, value, 1);
        }
        let mut record = Record::new();
        poster.join().unwrap();
        assert_eq!(consumer.poll(&mut record), Ok(false));
    });
}

#[test]
fn a_record_that_would_wrap_is_padded_and_arrives() {
    model(2, || {
        let (heap, place) = ring(4);
        let mut producer = Producer::new(&heap, &place, Patience::none()).unwrap();
        let poster = thread::spawn(move || {
            post(&mut producer, 1, 1);
            post(&mut producer, 2, 8);
            // One line is left before the end of the ring.
            post(&mut producer, 3, 8);
        });
        let mut consumer = Consumer::new(&heap, &place).unwrap();
        expect(&mut consumer, 1, 1);
        expect(&mut consumer, 2, 8);
        expect(&mut consumer, 3, 8);
        poster.join().unwrap();
    });
}

#[test]
fn records_of_two_threads_arrive_each_once() {
    model(2, || {
        let (heap, place) = ring(2);
        let producer = Producer::new(&heap, &place, Patience::none()).unwrap();
        let shared = Arc::new(SharedProducer::new(producer));
        let posters: Vec<_> = [1u64, 2]
            .into_iter()
            .map(|value| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let posted = shared.post(head(1), value.as_bytes(), &[], &Immortal);
                    posted.unwrap();
                })
            })
            .collect();
        let mut consumer = Consumer::new(&heap, &place).unwrap();
        let mut record = Record::new();
        let mut sum = 0;
        for _ in 0..2 {
            let next = consumer.next(&mut record, &Patience::none(), &Immortal);
            assert_eq!(next, Ok(Next::Record));
            sum += record.bytes()[0];
        }
        assert_eq!(sum, 3);
        for poster in posters {
            poster.join().unwrap();
        }
    });
}

#[test]
fn a_stop_ends_a_sleeping_consumer_but_not_before_what_was_published() {
    model(3, || {
        let (heap, place) = ring(2);
        let mut producer = Producer::new(&heap, &place, Patience::none()).unwrap();
        let stop = Arc::new(StopFlag::new());
        let mut consumer = Consumer::new(&heap, &place).unwrap();
        let (raiser, waker) = (Arc::clone(&stop), consumer.waker());
        let stopper = thread::spawn(move || {
            post(&mut producer, 5, 1);
            raiser.raise();
            waker.ring();
        });
        expect_with(&mut consumer, 5, &*stop);
        let mut record = Record::new();
        let next = consumer.next(&mut record, &Patience::none(), &*stop);
        assert_eq!(next, Ok(Next::Ended));
        stopper.join().unwrap();
    });
}

fn expect_with(consumer: &mut Consumer<Heap>, value: u8, live: &impl Liveness) {
    let mut record = Record::new();
    let next = consumer.next(&mut record, &Patience::none(), live);
    assert_eq!(next, Ok(Next::Record));
    assert_eq!(record.bytes()[0], value);
}

#[test]
fn a_producer_before_a_full_ring_is_ended_by_a_stop() {
    model(3, || {
        let (heap, place) = ring(2);
        let mut producer = Producer::new(&heap, &place, Patience::none()).unwrap();
        let stop = Arc::new(StopFlag::new());
        let raiser = Arc::clone(&stop);
        let space = Bell::new(&heap, SPACE).unwrap();
        let stopper = thread::spawn(move || {
            raiser.raise();
            space.ring();
        });
        producer.post(head(1), &[], &[], &*stop).unwrap();
        let second = producer.post(head(1), &[], &[], &*stop);
        assert_eq!(second, Err(PostError::Ended));
        stopper.join().unwrap();
    });
}

#[test]
fn a_header_that_changes_under_the_consumer_is_seen_as_one_of_its_values() {
    model(2, || {
        let (heap, place) = ring(2);
        let liar = heap.clone();
        let header = |opcode: u64, lines: u64| opcode | lines << 16;
        let first = heap.words();
        first[LINES + 1].store(header(1, 1), Ordering::Relaxed);
        let lying = thread::spawn(move || {
            let words = liar.words();
            words[LINES].store(1, Ordering::Release);
            words[LINES + 1].store(header(9, 255), Ordering::Relaxed);
            words[LINES + 1].store(header(2, 0), Ordering::Relaxed);
            words[LINES + 2].store(u64::MAX, Ordering::Relaxed);
        });
        let mut consumer = Consumer::new(&heap, &place).unwrap();
        let mut record = Record::new();
        match consumer.poll(&mut record) {
            Ok(true) => {
                assert_eq!(record.head().opcode, 1);
                assert_eq!(record.bytes().len(), 48);
            }
            Ok(false) => {}
            Err(violation) => assert_eq!(consumer.poll(&mut record), Err(violation)),
        }
        lying.join().unwrap();
    });
}

#[test]
fn a_ring_wakes_every_waiter_of_a_bell() {
    model(2, || {
        let heap = Heap::zeroed(2);
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let heap = heap.clone();
                thread::spawn(move || {
                    let bell = Bell::new(&heap, 0).unwrap();
                    let ready = || heap.words()[1].load(Ordering::Acquire) == 1;
                    assert_eq!(bell.wait(&Patience::none(), &Immortal, ready), Woken::Ready);
                })
            })
            .collect();
        heap.words()[1].store(1, Ordering::Release);
        Bell::new(&heap, 0).unwrap().ring();
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Probe {
    value: u64,
}

impl Request for Probe {
    const OPCODE: u16 = 3;
}

const SMALLEST: Limits = Limits {
    arena_bytes: 1 << 20,
    ring_lines: 64,
    callback_lines: 64,
    callback_slots: 1,
    lanes: 1,
    side_bytes: 4096,
    contexts: 1,
    streams: 1,
    handles_per_kind: 1,
    staging_chunks: 1,
    reserved: 0,
    handles: [0; 20],
};

fn both_sides() -> (
    Heap,
    ClientControl<Heap>,
    WorkerControl<Heap>,
    Consumer<Heap>,
) {
    let layout = idm_protocol::layout::Layout::new(&SMALLEST).unwrap();
    let heap = Heap::zeroed(layout.word_count());
    let (client, _) = ClientControl::open(&heap, &SMALLEST, Patience::none()).unwrap();
    let (worker, submissions) = WorkerControl::open(&heap, &SMALLEST, Patience::none()).unwrap();
    (heap, client, worker, submissions)
}

#[test]
fn a_call_gets_its_own_reply_and_a_dropped_one_gets_an_answer() {
    model(2, || {
        let (_heap, client, worker, mut submissions) = both_sides();
        let server = thread::spawn(move || {
            let mut record = Record::new();
            let mut scratch = Vec::new();
            for answer in [true, false] {
                let next = submissions.next(&mut record, &Patience::none(), &Immortal);
                assert_eq!(next, Ok(Next::Record));
                assert!(record.head().flags.contains(Flags::REPLY));
                let lane = worker.lane(record.head().lane).unwrap();
                let pending = lane.claim(record.sequence()).unwrap();
                let (probe, _) = lane.open::<Probe>(&record, &mut scratch).unwrap();
                if answer {
                    pending.reply(11, (probe.value + 1).as_bytes()).unwrap();
                }
            }
        });
        let mut lane = client.lanes.take().unwrap();
        let ring = &client.submissions;
        let reply = lane
            .call(ring, 0, &Probe { value: 40 }, &[], &Immortal)
            .unwrap();
        assert_eq!((reply.status, reply.body[0]), (11, 41));
        let reply = lane
            .call(ring, 0, &Probe { value: 50 }, &[], &Immortal)
            .unwrap();
        assert_eq!((reply.status, reply.body.len()), (999, 0));
        server.join().unwrap();
    });
}

#[test]
fn a_side_buffer_is_not_overwritten_before_it_was_copied() {
    model(2, || {
        let (_heap, client, worker, mut submissions) = both_sides();
        let server = thread::spawn(move || {
            let mut record = Record::new();
            let mut scratch = Vec::new();
            for value in [1u8, 2] {
                let next = submissions.next(&mut record, &Patience::none(), &Immortal);
                assert_eq!(next, Ok(Next::Record));
                let lane = worker.lane(record.head().lane).unwrap();
                let (_, tail) = lane.open::<Probe>(&record, &mut scratch).unwrap();
                assert!(tail.bytes().iter().all(|byte| *byte == value));
            }
        });
        // With its body, one word too long for inline.
        let mut lane = client.lanes.take().unwrap();
        let ring = &client.submissions;
        for value in [1u8, 2] {
            let tail = vec![value; idm_protocol::record::INLINE_BYTES];
            lane.post(ring, 0, &Probe { value: 0 }, &[&tail], &Immortal)
                .unwrap();
        }
        server.join().unwrap();
    });
}

#[test]
fn a_returned_credit_wakes_who_waits_for_it() {
    model(3, || {
        let (_heap, client, worker, _) = both_sides();
        for _ in 0..idm_protocol::status::STREAM_CREDITS {
            client.credits.take(0, &Immortal).unwrap();
        }
        let returning = thread::spawn(move || worker.credits.add(0, 1));
        client.credits.take(0, &Immortal).unwrap();
        returning.join().unwrap();
    });
}

#[test]
fn a_ping_is_answered_by_a_thread_that_sleeps_otherwise() {
    model(2, || {
        let (_heap, client, worker, _) = both_sides();
        let stop = Arc::new(StopFlag::new());
        let (seen, waker) = (Arc::clone(&stop), worker.ping.waker());
        let server = thread::spawn(move || worker.ping.serve(&*seen));
        let question = client.ping.ask();
        assert_eq!(
            client.ping.wait(question, &Patience::none(), &Immortal),
            Woken::Ready
        );
        stop.raise();
        waker.ring();
        server.join().unwrap();
    });
}

#[test]
fn a_lent_chunk_comes_back_and_wakes_who_waits_for_it() {
    model(2, || {
        let (_heap, client, worker, _) = both_sides();
        let chunk = client.staging.take(&Immortal).unwrap();
        let (index, ticket) = (chunk.index(), chunk.ticket());
        client.staging.lend(chunk);
        let returning = thread::spawn(move || worker.staging.release(index, ticket).unwrap());
        let again = client.staging.take(&Immortal).unwrap();
        assert_eq!(again.index(), index);
        assert_ne!(again.ticket(), ticket);
        returning.join().unwrap();
    });
}

#[test]
fn the_model_finds_a_lost_wake_up_where_the_fence_is_missing() {
    // What `Bell` would be without its two fences: loom must object, or the models above prove
    // nothing.
    let found = std::panic::catch_unwind(|| {
        model(3, || {
            let heap = Heap::zeroed(2);
            let other = heap.clone();
            let waker = thread::spawn(move || {
                let words: &[Word] = other.words();
                words[1].store(1, Ordering::Release);
                if words[0].load(Ordering::Relaxed) == 1 {
                    words[0].swap(0, Ordering::Relaxed);
                    idm_protocol::wait::Doorbell::wake(&other, &words[0]);
                }
            });
            let words = heap.words();
            words[0].store(1, Ordering::Relaxed);
            if words[1].load(Ordering::Acquire) == 0 {
                idm_protocol::wait::Doorbell::sleep(&heap, &words[0], 1, None);
            }
            waker.join().unwrap();
        });
    });
    assert!(found.is_err());
}
