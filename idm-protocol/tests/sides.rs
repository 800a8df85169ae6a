//! Client and worker ends of one control region, over heap memory: an honest pair, and each end
//! against a liar.

#![cfg(not(loom))]

use std::sync::Arc;
use std::thread;

use idm_protocol::callback::{CallbackEnd, CallbackError};
use idm_protocol::control::{ClientControl, WorkerControl};
use idm_protocol::lane::{LaneError, LaneViolation, REPLY_BYTES, STATUS_UNKNOWN};
use idm_protocol::layout::{CHUNK_BYTES, Layout, Limits};
use idm_protocol::memory::{Heap, Memory};
use idm_protocol::record::{DecodeError, Flags, Head, INLINE_BYTES, Record, Request};
use idm_protocol::ring::{Consumer, Next};
use idm_protocol::status::{CreditError, Latched, STREAM_CREDITS};
use idm_protocol::sync::Ordering;
use idm_protocol::wait::{Immortal, Patience, StopFlag, Woken};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Probe {
    value: u64,
    tail_len: u64,
}

impl Request for Probe {
    const OPCODE: u16 = 3;
}

const LIMITS: Limits = Limits {
    arena_bytes: 1 << 20,
    ring_lines: 64,
    callback_lines: 64,
    callback_slots: 2,
    lanes: 3,
    side_bytes: 8192,
    contexts: 2,
    streams: 2,
    handles_per_kind: 16,
    staging_chunks: 2,
    reserved: 0,
    handles: [0; 20],
};

struct Sides {
    heap: Heap,
    layout: Layout,
    client: ClientControl<Heap>,
    callbacks: CallbackEnd<Heap>,
    worker: WorkerControl<Heap>,
    submissions: Consumer<Heap>,
}

fn sides() -> Sides {
    let layout = Layout::new(&LIMITS).unwrap();
    let heap = Heap::zeroed(layout.word_count());
    let patience = Patience::none();
    let (client, callbacks) = ClientControl::open(&heap, &LIMITS, patience).unwrap();
    let (worker, submissions) = WorkerControl::open(&heap, &LIMITS, patience).unwrap();
    Sides {
        heap,
        layout,
        client,
        callbacks,
        worker,
        submissions,
    }
}

fn gone() -> StopFlag {
    let stop = StopFlag::new();
    stop.raise();
    stop
}

fn next(submissions: &mut Consumer<Heap>) -> Record {
    let mut record = Record::new();
    let next = submissions.next(&mut record, &Patience::none(), &Immortal);
    assert_eq!(next, Ok(Next::Record));
    record
}

#[test]
fn calls_of_every_size_are_answered_with_what_was_sent() {
    let Sides {
        client,
        worker,
        mut submissions,
        ..
    } = sides();
    let sizes = [0, 1, 7, 8, INLINE_BYTES - 16, INLINE_BYTES - 15, 4096, 8192];
    let server = thread::spawn(move || {
        let mut scratch = Vec::new();
        for _ in sizes {
            let record = next(&mut submissions);
            let lane = worker.lane(record.head().lane).unwrap();
            let pending = lane.claim(record.sequence()).unwrap();
            let (probe, mut tail) = lane.open::<Probe>(&record, &mut scratch).unwrap();
            let bytes = tail.take(usize::try_from(probe.tail_len).unwrap()).unwrap();
            pending.write_side(0, bytes).unwrap();
            let start = &bytes[..bytes.len().min(REPLY_BYTES)];
            pending
                .reply(u32::from(record.head().context), start)
                .unwrap();
        }
    });
    let mut lane = client.lanes.take().unwrap();
    for (context, size) in (1u16..).zip(sizes) {
        let tail: Vec<u8> = (0u8..=250).cycle().take(size).collect();
        let probe = Probe {
            value: 1,
            tail_len: size as u64,
        };
        let reply = lane
            .call(&client.submissions, context, &probe, &[&tail], &Immortal)
            .unwrap();
        assert_eq!(reply.status, u32::from(context));
        assert_eq!(reply.body, &tail[..size.min(REPLY_BYTES)]);
        let mut back = vec![0; size];
        lane.read_side(&mut back).unwrap();
        assert_eq!(back, tail);
    }
    server.join().unwrap();
}

#[test]
fn parameters_larger_than_the_side_buffer_are_refused_before_anything_is_posted() {
    let Sides {
        client,
        mut submissions,
        ..
    } = sides();
    let mut lane = client.lanes.take().unwrap();
    let probe = Probe {
        value: 1,
        tail_len: 0,
    };
    let tail = vec![0; 8193];
    let posted = lane.post(&client.submissions, 0, &probe, &[&tail], &Immortal);
    let error = LaneError::TooLarge {
        bytes: 8200,
        most: 8192,
    };
    assert_eq!(posted, Err(error));
    assert_eq!(submissions.poll(&mut Record::new()), Ok(false));
}

#[test]
fn a_side_buffer_still_with_the_worker_is_waited_for_and_given_up_with_it() {
    let Sides {
        client,
        worker,
        mut submissions,
        ..
    } = sides();
    let mut lane = client.lanes.take().unwrap();
    let probe = Probe {
        value: 1,
        tail_len: 0,
    };
    let tail = vec![5; 4096];
    lane.post(&client.submissions, 0, &probe, &[&tail], &gone())
        .unwrap();
    let second = lane.post(&client.submissions, 0, &probe, &[&tail], &gone());
    assert_eq!(second, Err(LaneError::Ended));
    let record = next(&mut submissions);
    let mut scratch = Vec::new();
    let collected = worker
        .lane(0)
        .unwrap()
        .collect(&record, &mut scratch)
        .unwrap();
    assert_eq!(collected, Some(&tail[..]));
    lane.post(&client.submissions, 0, &probe, &[&tail], &gone())
        .unwrap();
}

#[test]
fn a_reply_owed_and_forgotten_says_unknown() {
    let Sides {
        client,
        worker,
        mut submissions,
        ..
    } = sides();
    let mut lane = client.lanes.take().unwrap();
    let server = thread::spawn(move || {
        let record = next(&mut submissions);
        let lane = worker.lane(record.head().lane).unwrap();
        drop(lane.claim(record.sequence()).unwrap());
        let record = next(&mut submissions);
        let pending = lane.claim(record.sequence()).unwrap();
        assert!(pending.reply(0, &[0; REPLY_BYTES + 1]).is_err());
    });
    for _ in 0..2 {
        let probe = Probe {
            value: 1,
            tail_len: 0,
        };
        let reply = lane
            .call(&client.submissions, 0, &probe, &[], &Immortal)
            .unwrap();
        assert_eq!((reply.status, reply.body.len()), (STATUS_UNKNOWN, 0));
    }
    server.join().unwrap();
}

#[test]
fn a_call_ends_when_the_worker_has() {
    let Sides { client, .. } = sides();
    let mut lane = client.lanes.take().unwrap();
    let probe = Probe {
        value: 1,
        tail_len: 0,
    };
    let reply = lane.call(&client.submissions, 0, &probe, &[], &gone());
    assert_eq!(reply.unwrap_err(), LaneError::Ended);
}

#[test]
fn a_reply_longer_than_its_slot_is_the_workers_violation() {
    let Sides {
        heap,
        layout,
        client,
        ..
    } = sides();
    let mut lane = client.lanes.take().unwrap();
    let slot = layout.lane(lane.index()).unwrap().start;
    let probe = Probe {
        value: 1,
        tail_len: 0,
    };
    let sequence = lane
        .send(&client.submissions, Flags::REPLY, 0, &probe, &[], &Immortal)
        .unwrap();
    for len in [REPLY_BYTES + 1, u32::MAX as usize] {
        heap.words()[slot + 1].store((len as u64) << 32, Ordering::Relaxed);
        heap.words()[slot].store(sequence, Ordering::Release);
        let reply = lane.await_reply(sequence, &Immortal).unwrap_err();
        assert_eq!(reply, LaneError::ReplyLength(u32::try_from(len).unwrap()));
    }
}

#[test]
fn a_second_request_before_the_first_reply_is_the_clients_violation() {
    let Sides { worker, .. } = sides();
    let lane = worker.lane(1).unwrap();
    let first = lane.claim(5).unwrap();
    let busy = LaneViolation::Busy {
        lane: 1,
        sequence: 9,
        awaited: 5,
    };
    assert_eq!(lane.claim(9).unwrap_err(), busy);
    first.reply(0, &[]).unwrap();
    drop(lane.claim(9).unwrap());
    assert_eq!(worker.lane(3).unwrap_err(), LaneViolation::NoLane(3));
}

#[test]
fn a_side_length_beyond_the_buffer_is_the_clients_violation() {
    let Sides { worker, .. } = sides();
    let lane = worker.lane(0).unwrap();
    let head = Head {
        opcode: 3,
        flags: Flags::SIDE,
        ..Head::default()
    };
    let mut scratch = Vec::new();
    for claimed in [8193, u64::MAX] {
        let record = Record::from_bytes(1, head, &claimed.to_le_bytes()).unwrap();
        let error = lane.open::<Probe>(&record, &mut scratch).unwrap_err();
        assert!(matches!(error, LaneViolation::SideLength { .. }));
    }
    let record = Record::from_bytes(1, head, &8u64.to_le_bytes()).unwrap();
    let (_, mut tail) = lane.open::<Probe>(&record, &mut scratch).unwrap();
    let short = DecodeError::ShortTail { opcode: 3, have: 8 };
    assert_eq!(tail.take(9), Err(short));
}

#[test]
fn lanes_run_out_and_come_back() {
    let Sides { client, .. } = sides();
    let held: Vec<_> = (0..3).map(|_| client.lanes.take().unwrap()).collect();
    let mut numbers: Vec<_> = held.iter().map(|lane| lane.index()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2]);
    assert!(client.lanes.take().is_none());
    for lane in held {
        client.lanes.put(lane);
    }
    assert!(client.lanes.take().is_some());
}

#[test]
fn a_context_error_sticks_and_a_lane_error_is_told_once() {
    let Sides { client, worker, .. } = sides();
    let first = Latched {
        code: 700,
        opcode: 12,
    };
    let second = Latched {
        code: 719,
        opcode: 13,
    };
    assert_eq!(client.latches.context(1), None);
    worker.latches.latch_context(1, first);
    worker.latches.latch_context(1, second);
    worker.latches.latch_context(60000, second);
    assert_eq!(client.latches.context(1), Some(first));
    assert_eq!(client.latches.context(1), Some(first));
    assert_eq!(client.latches.context(0), None);
    assert_eq!(client.latches.context(60000), None);
    worker.latches.clear_context(1);
    assert_eq!(client.latches.context(1), None);

    worker.latches.latch_lane(2, first);
    worker.latches.latch_lane(2, second);
    assert_eq!(client.latches.take_lane(2), Some(first));
    assert_eq!(client.latches.take_lane(2), None);
    assert_eq!(client.latches.take_lane(1), None);
}

#[test]
fn credits_run_out_come_back_and_too_many_are_a_violation() {
    let Sides {
        client,
        worker,
        heap,
        layout,
        ..
    } = sides();
    for _ in 0..STREAM_CREDITS {
        client.credits.take(1, &gone()).unwrap();
    }
    assert_eq!(client.credits.take(1, &gone()), Err(CreditError::Ended));
    client.credits.take(0, &gone()).unwrap();
    worker.credits.add(1, 64);
    for _ in 0..64 {
        client.credits.take(1, &gone()).unwrap();
    }
    assert_eq!(client.credits.take(1, &gone()), Err(CreditError::Ended));
    client.credits.refund(1);
    client.credits.take(1, &gone()).unwrap();
    assert_eq!(
        client.credits.take(2, &gone()),
        Err(CreditError::NoStream(2))
    );
    worker.credits.add(2, 1);
    heap.words()[layout.streams().start].store(100, Ordering::Release);
    let error = CreditError::Overpaid {
        slot: 0,
        returned: 100,
        taken: 1,
    };
    assert_eq!(client.credits.take(0, &gone()), Err(error));
}

#[test]
fn a_callback_is_waited_for_until_it_is_acknowledged() {
    let Sides {
        worker,
        mut callbacks,
        ..
    } = sides();
    let worker = Arc::new(worker);
    let callers: Vec<_> = (0..2)
        .map(|value| {
            let worker = Arc::clone(&worker);
            let probe = Probe { value, tail_len: 0 };
            thread::spawn(move || worker.callbacks.call(0, &probe, &[], &Immortal))
        })
        .collect();
    let mut record = Record::new();
    for _ in 0..2 {
        let next = callbacks.next(&mut record, &Patience::none(), &Immortal);
        assert_eq!(next, Ok(Next::Record));
        assert!(record.body::<Probe>().unwrap().value < 2);
        callbacks.acknowledge(&record).unwrap();
    }
    for caller in callers {
        assert_eq!(caller.join().unwrap(), Ok(()));
    }
    let probe = Probe {
        value: 9,
        tail_len: 0,
    };
    worker
        .callbacks
        .post(0, &probe, &[b"text"], &Immortal)
        .unwrap();
    let next = callbacks.next(&mut record, &Patience::none(), &Immortal);
    assert_eq!(next, Ok(Next::Record));
    callbacks.acknowledge(&record).unwrap();
    let ended = worker.callbacks.call(0, &probe, &[], &gone());
    assert_eq!(ended, Err(CallbackError::Ended));
}

#[test]
fn a_callback_slot_that_does_not_exist_is_the_workers_violation() {
    let Sides { callbacks, .. } = sides();
    let head = Head {
        opcode: 3,
        flags: Flags::REPLY,
        lane: 2,
        ..Head::default()
    };
    let record = Record::from_bytes(1, head, &[]).unwrap();
    assert!(callbacks.acknowledge(&record).is_err());
}

#[test]
fn chunks_are_lent_until_their_own_ticket_comes_back() {
    let Sides { client, worker, .. } = sides();
    let first = client.staging.take(&Immortal).unwrap();
    let second = client.staging.take(&Immortal).unwrap();
    assert_ne!(first.index(), second.index());
    assert!(client.staging.take(&gone()).is_err());
    let (index, ticket) = (first.index(), first.ticket());
    assert_eq!(
        worker.staging.bytes(index, CHUNK_BYTES).unwrap(),
        first.bytes()
    );
    client.staging.lend(first);
    worker.staging.release(index, ticket + 77).unwrap();
    assert_eq!(client.staging.free_count(), 0);
    worker.staging.release(index, ticket).unwrap();
    assert_eq!(client.staging.free_count(), 1);
    client.staging.put(second);
    assert_eq!(client.staging.free_count(), 2);
    assert!(worker.staging.bytes(2, 1).is_err());
    assert!(worker.staging.bytes(0, CHUNK_BYTES + 1).is_err());
    assert!(worker.staging.release(2, 1).is_err());
    assert!(worker.staging.release(u32::MAX, 1).is_err());
}

#[test]
fn a_thread_that_waits_for_a_chunk_gets_one_put_back_by_another() {
    let Sides { client, .. } = sides();
    let held: Vec<_> = (0..2)
        .map(|_| client.staging.take(&Immortal).unwrap())
        .collect();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| client.staging.take(&Immortal));
        for chunk in held {
            client.staging.put(chunk);
        }
        assert!(waiter.join().unwrap().is_ok());
    });
}

#[test]
fn a_ping_is_answered_while_the_worker_serves_and_not_after() {
    let Sides { client, worker, .. } = sides();
    let stop = StopFlag::new();
    thread::scope(|scope| {
        let server = scope.spawn(|| worker.ping.serve(&stop));
        for _ in 0..3 {
            let question = client.ping.ask();
            let answer = client.ping.wait(question, &Patience::none(), &Immortal);
            assert_eq!(answer, Woken::Ready);
        }
        stop.raise();
        worker.ping.waker().ring();
        server.join().unwrap();
    });
    let question = client.ping.ask();
    assert!(!client.ping.answered(question));
}

#[test]
fn a_region_smaller_than_its_limits_is_refused() {
    let layout = Layout::new(&LIMITS).unwrap();
    let heap = Heap::zeroed(layout.word_count() - 1);
    let patience = Patience::none();
    assert!(WorkerControl::open(&heap, &LIMITS, patience).is_err());
}
