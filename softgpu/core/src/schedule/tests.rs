use super::*;
use std::sync::mpsc;

fn recorder() -> (mpsc::Sender<u32>, mpsc::Receiver<u32>) {
    mpsc::channel()
}

fn note(to: &mpsc::Sender<u32>, value: u32) -> Work {
    let to = to.clone();
    Box::new(move || to.send(value).unwrap())
}

/// Work that ends when the sender is dropped or sends.
fn held() -> (mpsc::Sender<()>, Work) {
    let (release, gate) = mpsc::channel::<()>();
    (release, Box::new(move || gate.recv().unwrap_or_default()))
}

#[test]
fn work_of_one_stream_runs_in_order() {
    let scheduler = Scheduler::new();
    let stream = scheduler.create(1, Order::Blocking);
    let (tx, rx) = recorder();
    for value in 0..1000 {
        scheduler.submit(stream, &[], note(&tx, value));
    }
    scheduler.wait(&scheduler.tail(stream));
    assert_eq!(
        rx.try_iter().collect::<Vec<_>>(),
        (0..1000).collect::<Vec<_>>()
    );
}

#[test]
fn a_held_stream_delays_neither_submission_nor_other_streams() {
    let scheduler = Scheduler::new();
    let mut releases = Vec::new();
    let (tx, rx) = recorder();
    for _ in 0..40 {
        let stream = scheduler.create(1, Order::Blocking);
        let (release, work) = held();
        scheduler.submit(stream, &[], work);
        releases.push((stream, release));
    }
    let free = scheduler.create(1, Order::Blocking);
    scheduler.submit(free, &[], note(&tx, 1));
    scheduler.wait(&scheduler.tail(free));
    assert_eq!(rx.try_recv(), Ok(1));
    for (stream, release) in releases {
        assert!(!scheduler.tail(stream).is_empty());
        drop(release);
        scheduler.wait(&scheduler.tail(stream));
    }
}

#[test]
fn many_streams_with_short_work_need_few_threads() {
    let scheduler = Scheduler::new();
    let streams: Vec<_> = (0..300)
        .map(|_| scheduler.create(1, Order::NonBlocking))
        .collect();
    let (tx, rx) = recorder();
    for stream in &streams {
        scheduler.submit(*stream, &[], note(&tx, 0));
    }
    scheduler.wait(&scheduler.group_tail(1));
    assert_eq!(rx.try_iter().count(), 300);
    assert!(
        scheduler.thread_count() < 32,
        "{}",
        scheduler.thread_count()
    );
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_and_they_for_it() {
    let scheduler = Scheduler::new();
    let legacy = scheduler.create(1, Order::Legacy);
    let blocking = scheduler.create(1, Order::Blocking);
    let other = scheduler.create(1, Order::Blocking);
    let free = scheduler.create(1, Order::NonBlocking);
    let foreign = scheduler.create(2, Order::Blocking);
    let (tx, rx) = recorder();
    let (release, work) = held();
    scheduler.submit(blocking, &[], work);
    scheduler.submit(legacy, &[], note(&tx, 2));
    scheduler.submit(other, &[], note(&tx, 3));
    for stream in [free, foreign] {
        scheduler.submit(stream, &[], note(&tx, 1));
        scheduler.wait(&scheduler.tail(stream));
    }
    assert_eq!(rx.try_iter().collect::<Vec<_>>(), [1, 1]);
    assert!(!scheduler.tail(legacy).is_empty());
    drop(release);
    scheduler.wait(&scheduler.group_tail(1));
    assert_eq!(rx.try_iter().collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn the_tail_of_an_idle_legacy_stream_holds_the_blocking_streams_work() {
    let scheduler = Scheduler::new();
    let legacy = scheduler.create(1, Order::Legacy);
    let blocking = scheduler.create(1, Order::Blocking);
    let (release, work) = held();
    let ticket = scheduler.submit(blocking, &[], work);
    assert_eq!(scheduler.tail(legacy), [ticket]);
    drop(release);
    scheduler.wait(&[ticket]);
    assert_eq!(scheduler.tail(legacy), []);
}

#[test]
fn a_stream_waits_for_a_place_in_another_as_of_the_call() {
    let scheduler = Scheduler::new();
    let first = scheduler.create(1, Order::NonBlocking);
    let second = scheduler.create(1, Order::NonBlocking);
    let (tx, rx) = recorder();
    let (release, work) = held();
    scheduler.submit(first, &[], work);
    let stamp = Arc::new(Stamp::default());
    let place = scheduler.mark(first, &[], Arc::clone(&stamp));
    let (release_later, work) = held();
    scheduler.submit(first, &[], work);
    let ticket = scheduler.submit(second, &[place], note(&tx, 9));
    assert!(!scheduler.is_done(ticket) && stamp.nanoseconds().is_none());
    drop(release);
    scheduler.wait(&[ticket]);
    assert_eq!(rx.try_recv(), Ok(9));
    assert!(stamp.nanoseconds().is_some());
    drop(release_later);
    scheduler.wait(&scheduler.tail(first));
}

#[test]
fn a_closed_stream_finishes_its_work_and_is_done_afterwards() {
    let scheduler = Scheduler::new();
    let stream = scheduler.create(1, Order::Blocking);
    let (tx, rx) = recorder();
    let (release, work) = held();
    scheduler.submit(stream, &[], work);
    let ticket = scheduler.submit(stream, &[], note(&tx, 5));
    scheduler.close(stream);
    drop(release);
    scheduler.wait(&[ticket]);
    assert_eq!(rx.recv(), Ok(5));
    assert!(scheduler.shared.lock().streams.is_empty());
    let late = scheduler.submit(stream, &[], note(&tx, 6));
    assert!(scheduler.is_done(late));
}

#[test]
fn run_executes_here_when_idle_and_in_order_when_not() {
    let scheduler = Scheduler::new();
    let stream = scheduler.create(1, Order::Blocking);
    let here = std::thread::current().id();
    let (tx, rx) = mpsc::channel();
    let sender = tx.clone();
    scheduler.run(
        stream,
        Box::new(move || sender.send(std::thread::current().id()).unwrap()),
    );
    assert_eq!(rx.recv(), Ok(here));
    let (release, work) = held();
    scheduler.submit(stream, &[], work);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        drop(release);
    });
    scheduler.run(
        stream,
        Box::new(move || tx.send(std::thread::current().id()).unwrap()),
    );
    assert_ne!(rx.recv(), Ok(here));
}

#[test]
fn panicking_work_ends_and_the_stream_goes_on() {
    let scheduler = Scheduler::new();
    let stream = scheduler.create(1, Order::Blocking);
    let (tx, rx) = recorder();
    scheduler.submit(
        stream,
        &[],
        Box::new(|| std::panic::resume_unwind(Box::new("x"))),
    );
    scheduler.submit(stream, &[], note(&tx, 1));
    scheduler.wait(&scheduler.tail(stream));
    assert_eq!(rx.try_recv(), Ok(1));
}

#[test]
fn a_held_group_starts_nothing_new_in_any_stream_and_leaves_other_groups_alone() {
    let scheduler = Scheduler::new();
    let (tx, rx) = recorder();
    let first = scheduler.create(1, Order::NonBlocking);
    let (release, work) = held();
    let ticket = scheduler.submit(first, &[], work);
    scheduler.hold_group(1, &[ticket]);
    let later = scheduler.create(1, Order::NonBlocking);
    // What is held is not there yet: nobody who waits for the stream waits for it.
    assert!(scheduler.tail(later).is_empty());
    scheduler.submit_short(later, note(&tx, 1));
    let other = scheduler.create(2, Order::NonBlocking);
    scheduler.submit_short(other, note(&tx, 2));
    assert_eq!(rx.recv(), Ok(2));
    assert!(!scheduler.tail(later).is_empty() && rx.try_recv().is_err());
    drop(release);
    scheduler.wait(&scheduler.group_tail(1));
    assert_eq!(rx.try_recv(), Ok(1));
}

#[test]
fn who_runs_alone_waits_for_what_runs_and_holds_back_what_was_submitted() {
    let scheduler = Arc::new(Scheduler::new());
    let (stream, other) = (
        scheduler.create(1, Order::NonBlocking),
        scheduler.create(1, Order::NonBlocking),
    );
    let (tx, rx) = recorder();
    let (release, work) = held();
    let (began, has_begun) = mpsc::channel();
    let work: Work = Box::new(move || {
        began.send(()).unwrap();
        work();
    });
    scheduler.submit(stream, &[], work);
    has_begun.recv().unwrap();
    let alone = {
        let (scheduler, tx) = (Arc::clone(&scheduler), tx.clone());
        std::thread::spawn(move || {
            scheduler.run_alone(|| {
                // Submitted while nothing may begin, by either way.
                scheduler.submit(other, &[], note(&tx, 2));
                scheduler.submit_short(stream, note(&tx, 3));
                std::thread::sleep(Duration::from_millis(5));
                tx.send(1).unwrap();
            });
        })
    };
    std::thread::sleep(Duration::from_millis(5));
    assert!(rx.try_recv().is_err(), "it waits for what runs");
    drop(release);
    alone.join().unwrap();
    scheduler.wait(&scheduler.all_tails());
    let mut seen: Vec<u32> = rx.try_iter().collect();
    assert_eq!(seen.remove(0), 1);
    seen.sort_unstable();
    assert_eq!(seen, [2, 3]);
}
