use std::thread;

use idm_protocol::memory::{Heap, Memory};
use idm_protocol::sync::Ordering;
use proptest::prelude::*;

use super::*;

fn page() -> Heap {
    Heap::zeroed(CALLS_BYTES / 8)
}

fn call(number: u64) -> Call {
    Call {
        start_ns: number,
        size: number * 3,
        object: !number,
        duration_ns: 7,
        result: 0,
        opcode: 11,
        kernel: NO_NAME,
        image: NO_NAME,
        device: 1,
        reserved: 0,
    }
}

fn ends<M: Memory>(page: M) -> (CallWriter<M>, CallReader<M>) {
    let reader = CallReader::new(page.clone(), 0).unwrap();
    (CallWriter::new(page).unwrap(), reader)
}

fn taken<M: Memory>(reader: &mut CallReader<M>) -> Vec<u64> {
    let mut calls = Vec::new();
    reader.take(usize::MAX, &mut calls);
    calls.iter().map(|call| call.start_ns).collect()
}

#[test]
fn calls_come_in_the_order_in_which_they_ended() {
    let (writer, mut reader) = ends(page());
    writer.begin(0, &call(1));
    writer.begin(1, &call(2));
    assert_eq!(taken(&mut reader), []);
    assert!(writer.end(1, &call(2)) && writer.end(0, &call(1)));
    let mut calls = Vec::new();
    reader.take(1, &mut calls);
    assert_eq!(calls, [call(2)]);
    assert_eq!(taken(&mut reader), [1]);
    assert_eq!(taken(&mut reader), []);
}

#[test]
fn a_full_ring_takes_no_more_until_the_reader_lets_go() {
    let (writer, mut reader) = ends(page());
    let count = SLOTS as u64;
    assert!((0..count).all(|number| writer.end(0, &call(number))));
    assert!(!writer.end(0, &call(count)));
    assert_eq!(taken(&mut reader).len(), SLOTS);
    assert!(!writer.end(0, &call(count)), "only taken, not recorded yet");
    reader.release();
    assert!(writer.end(0, &call(count)));
    assert_eq!(taken(&mut reader), [count]);
}

#[test]
fn a_reader_after_another_goes_on_where_that_one_recorded_or_let_go() {
    let page = page();
    let (writer, mut first) = ends(page.clone());
    assert!((0..10).all(|number| writer.end(0, &call(number))));
    let mut calls = Vec::new();
    first.take(4, &mut calls);
    // Recorded up to 4, and killed before it could let go.
    let mut second = CallReader::new(page.clone(), 4).unwrap();
    assert_eq!(taken(&mut second), [4, 5, 6, 7, 8, 9]);
    second.release();
    assert_eq!(CallReader::new(page, 4).unwrap().next(), 10);
}

#[test]
fn what_was_under_way_when_the_worker_died_is_told_once() {
    let page = page();
    let (writer, mut reader) = ends(page.clone());
    writer.begin(0, &call(1));
    writer.begin(1, &call(2));
    writer.begin(2, &call(3));
    assert!(writer.end(1, &call(2)));
    // Thread 2 dies with a slot claimed, before the call is in it; thread 3 in the next one goes on.
    page.words()[TAIL].store(2, Ordering::Relaxed);
    let state = FIRST_CELL + 2 * LINE;
    page.words()[state].store(1 << CELL_BITS | ANSWERED, Ordering::Relaxed);
    assert!(writer.end(3, &call(4)));
    // Thread 4 dies after its call is in the ring, before its cell says so.
    writer.begin(4, &call(5));
    assert!(writer.end(4, &call(5)));
    let state = FIRST_CELL + 4 * LINE;
    page.words()[state].store(3 << CELL_BITS | ANSWERED, Ordering::Relaxed);

    let mut calls = Vec::new();
    reader.take(usize::MAX, &mut calls);
    assert_eq!(calls, [call(2)]);
    let rest = [(3, true), (4, true), (5, true), (1, false)];
    let rest = rest.map(|(number, is_answered)| Rest {
        call: call(number),
        is_answered,
    });
    assert_eq!(reader.take_rest(), rest);
    assert_eq!(reader.take_rest(), []);
    // Whoever recorded some of it, and was killed, goes on behind that.
    for recorded in 0..6 {
        let mut again = CallReader::new(page.clone(), recorded).unwrap();
        let left = usize::try_from(5u64.saturating_sub(recorded)).unwrap();
        let found = again.take_rest();
        assert_eq!(
            found,
            [Rest {
                call: call(2),
                is_answered: true
            }]
            .into_iter()
            .chain(rest)
            .skip(5 - left)
            .collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_sleeping_reader_is_woken_once() {
    let (writer, mut reader) = ends(page());
    assert!(!writer.must_wake());
    assert!(reader.doze());
    assert!(writer.end(0, &call(1)));
    assert!(writer.must_wake());
    assert!(!writer.must_wake());
    assert!(!reader.doze(), "there is one");
    assert_eq!(taken(&mut reader), [1]);
    assert!(reader.doze());
}

#[test]
fn names_have_one_number_and_long_ones_are_cut() {
    let (writer, reader) = ends(page());
    let long = vec![b'x'; MAX_NAME + 9];
    assert_eq!(writer.name(1, b"saxpy"), 0);
    assert_eq!(writer.name(2, b"saxpy"), 1);
    assert_eq!(writer.name(1, b"saxpy"), 0);
    assert_eq!(writer.name(1, &long), 2);
    let name = reader.name(0).unwrap();
    assert_eq!(
        (name.kind, &name.bytes[..], name.is_cut),
        (1, &b"saxpy"[..], false)
    );
    let name = reader.name(2).unwrap();
    assert_eq!((name.bytes.len(), name.is_cut), (MAX_NAME, true));
    assert_eq!(reader.name(3), None);
    for number in 0..NAMES {
        writer.name(3, &number.to_le_bytes());
    }
    assert_eq!(writer.name(4, b"one too many"), NO_NAME);
    assert!(reader.name(u16::try_from(NAMES - 1).unwrap()).is_some());
}

#[test]
fn calls_of_many_threads_arrive_whole_and_once() {
    const EACH: u64 = if cfg!(miri) { 50 } else { 20_000 };
    let (writer, mut reader) = ends(page());
    let mut calls = Vec::new();
    thread::scope(|scope| {
        for thread in 0..4usize {
            let writer = &writer;
            scope.spawn(move || {
                for number in 0..EACH {
                    let call = call(number << 8 | thread as u64);
                    writer.begin(thread, &call);
                    while !writer.end(thread, &call) {
                        thread::yield_now();
                    }
                }
            });
        }
        let all = usize::try_from(EACH).unwrap() * 4;
        while calls.len() < all {
            reader.take(100, &mut calls);
            reader.release();
            thread::yield_now();
        }
    });
    for thread in 0..4 {
        let own: Vec<_> = calls
            .iter()
            .filter(|call| call.start_ns & 0xff == thread)
            .collect();
        assert!(
            (0..)
                .zip(&own)
                .all(|(number, found)| **found == call(number << 8 | thread))
        );
        assert_eq!(own.len() as u64, EACH);
    }
    assert_eq!(reader.take_rest(), []);
}

proptest! {
    #[test]
    fn a_page_of_noise_is_read_without_harm(
        noise in prop::collection::vec((0..WORDS, any::<u64>()), 0..200),
        small in prop::collection::vec((0..FIRST_CELL, 0u64..40), 0..10),
        next in any::<u64>(),
    ) {
        let page = page();
        for (at, word) in noise.into_iter().chain(small) {
            page.words()[at].store(word, Ordering::Relaxed);
        }
        let mut reader = CallReader::new(page, next).unwrap();
        let mut calls = Vec::new();
        reader.take(usize::MAX, &mut calls);
        let rest = reader.take_rest();
        prop_assert!(calls.len() <= SLOTS && rest.len() <= SLOTS + CELLS);
        for number in 0..20 {
            if let Some(name) = reader.name(number) {
                prop_assert!(name.bytes.len() <= MAX_NAME);
            }
        }
        let _ = (reader.lost(), reader.doze());
        reader.release();
    }
}
