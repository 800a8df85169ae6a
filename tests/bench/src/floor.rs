//! What two processes on this machine can do at best, measured now.
#![forbid(unsafe_code)]

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::sample::{Samples, nanoseconds};
use crate::shared::{Line, Shared, sleep_while_parked, wake};

const ROUNDS: u64 = 50_000;
const WAKES: u64 = 400;

/// Round trips of a spinning ping-pong, one line each way with the sequence word in the line, in ns.
pub fn ping_pong() -> io::Result<Samples> {
    let (shared, mut peer) = start_peer("spin")?;
    let mut samples = Samples::default();
    for round in 1..=ROUNDS + 2_000 {
        let began = Instant::now();
        post(&shared.page().request, round);
        spin_until(&shared.page().reply, round);
        if round > 2_000 {
            samples.add(nanoseconds(began.elapsed()));
        }
    }
    stop(&shared, &mut peer)?;
    Ok(samples)
}

/// From posting to a peer asleep on a futex until its answer is seen, in ns.
pub fn futex_wake() -> io::Result<Samples> {
    let (shared, mut peer) = start_peer("sleep")?;
    let mut samples = Samples::default();
    for round in 1..=WAKES {
        std::thread::sleep(Duration::from_millis(2));
        let began = Instant::now();
        post(&shared.page().request, round);
        wake(&shared.page().request.parked);
        spin_until(&shared.page().reply, round);
        samples.add(nanoseconds(began.elapsed()));
    }
    stop(&shared, &mut peer)?;
    Ok(samples)
}

/// GB/s of one memcpy of `bytes` bytes between warm buffers, one sample a copy.
pub fn memcpy(bytes: usize, rounds: usize) -> Samples {
    let from = vec![1_u8; bytes];
    let mut to = vec![2_u8; bytes];
    let mut samples = Samples::default();
    for _ in 0..rounds {
        let began = Instant::now();
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
        samples.add(crate::sample::rate(bytes, began.elapsed()));
    }
    samples
}

/// The other side: this program again, told what to do.
pub fn peer(kind: &str, descriptor: i32) -> io::Result<()> {
    let shared = Shared::open(descriptor)?;
    let page = shared.page();
    let mut round = 1;
    while page.stop.load(Ordering::Relaxed) == 0 {
        if page.request.sequence.load(Ordering::Acquire) == round {
            post(&page.reply, round);
            round += 1;
        } else if kind == "spin" {
            std::hint::spin_loop();
        } else {
            page.request.parked.store(1, Ordering::SeqCst);
            if page.request.sequence.load(Ordering::SeqCst) != round {
                sleep_while_parked(&page.request.parked, Duration::from_secs(1));
            }
            page.request.parked.store(0, Ordering::SeqCst);
        }
    }
    Ok(())
}

fn start_peer(kind: &str) -> io::Result<(Shared, Child)> {
    let shared = Shared::create()?;
    let peer = Command::new(std::env::current_exe()?)
        .args(["--peer", kind, &shared.descriptor().to_string()])
        .stdin(Stdio::null())
        .spawn()?;
    Ok((shared, peer))
}

fn stop(shared: &Shared, peer: &mut Child) -> io::Result<()> {
    shared.page().stop.store(1, Ordering::SeqCst);
    wake(&shared.page().request.parked);
    peer.wait().map(drop)
}

fn post(line: &Line, round: u64) {
    for word in &line.payload {
        word.store(round, Ordering::Relaxed);
    }
    line.sequence.store(round, Ordering::SeqCst);
}

fn spin_until(line: &Line, round: u64) {
    while line.sequence.load(Ordering::Acquire) != round {
        std::hint::spin_loop();
    }
    for word in &line.payload {
        std::hint::black_box(word.load(Ordering::Relaxed));
    }
}
