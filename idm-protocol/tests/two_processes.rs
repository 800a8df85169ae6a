//! Two real processes over one sealed memory file: the test program starts itself again as the
//! worker. What only happens between processes is tested here: sleeping and waking through a shared
//! futex, and a peer that dies.

#![cfg(all(not(loom), not(miri)))]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use idm_protocol::control::{ClientControl, WorkerControl};
use idm_protocol::lane::{ClientLane, LaneError};
use idm_protocol::layout::{Layout, Limits};
use idm_protocol::memory::{Mapped, Memory, SealedFile};
use idm_protocol::record::{Flags, Record, Request};
use idm_protocol::ring::{Next, PostError};
use idm_protocol::wait::{Deadline, Immortal, Liveness, Patience, Woken};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Probe {
    value: u64,
    order: u64,
}

impl Request for Probe {
    const OPCODE: u16 = 3;
}

const ECHO: u64 = 0;
/// The worker is quiet for long enough that its client goes to sleep.
const ECHO_LATE: u64 = 1;
/// The worker dies without an answer.
const DIE: u64 = 2;
const LEAVE: u64 = 3;

const LIMITS: Limits = Limits {
    arena_bytes: 1 << 20,
    ring_lines: 256,
    callback_lines: 64,
    callback_slots: 1,
    lanes: 4,
    side_bytes: 4096,
    contexts: 1,
    streams: 1,
    handles_per_kind: 1,
    staging_chunks: 1,
    reserved: 0,
    handles: [0; 20],
};

/// Far beyond what any test needs: a test that hangs should fail.
fn soon() -> Deadline {
    Deadline(Instant::now() + Duration::from_secs(60))
}

const PEER: &str = "IDM_TEST_PEER_FD";

struct Peer {
    child: std::cell::RefCell<Child>,
}

impl Liveness for Peer {
    fn ended(&self) -> bool {
        false
    }

    fn probe(&self) -> bool {
        !matches!(self.child.borrow_mut().try_wait(), Ok(None))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        // It may have ended already, as the test wanted.
        let _ = child.kill();
        child.wait().unwrap();
    }
}

fn start() -> (ClientControl<Mapped>, Peer) {
    let layout = Layout::new(&LIMITS).unwrap();
    let file = SealedFile::create(c"two-processes", layout.byte_len()).unwrap();
    let region = Mapped::new(&file).unwrap();
    let (client, _) = ClientControl::open(&region, &LIMITS, Patience::detect()).unwrap();
    let fd = file.into_fd();
    nix::fcntl::fcntl(
        &fd,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "the_worker_when_started_by_a_test",
            "--ignored",
            "--nocapture",
        ])
        .env(PEER, fd.as_raw_fd().to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    (
        client,
        Peer {
            child: child.into(),
        },
    )
}

#[test]
#[ignore = "the other process of the tests below"]
fn the_worker_when_started_by_a_test() {
    let Ok(fd) = std::env::var(PEER) else { return };
    // SAFETY: the test that started this process passed the descriptor on for this purpose.
    let fd = unsafe { OwnedFd::from_raw_fd(fd.parse().unwrap()) };
    let layout = Layout::new(&LIMITS).unwrap();
    let file = SealedFile::receive(fd, layout.byte_len()).unwrap();
    let region = Mapped::new(&file).unwrap();
    let patience = Patience::detect();
    let (worker, mut submissions) = WorkerControl::open(&region, &LIMITS, patience).unwrap();
    let stop = idm_protocol::wait::StopFlag::new();
    std::thread::scope(|scope| {
        let pinger = scope.spawn(|| worker.ping.serve(&stop));
        let mut record = Record::new();
        loop {
            let next = submissions.next(&mut record, &patience, &soon()).unwrap();
            assert_eq!(next, Next::Record);
            let lane = worker.lane(record.head().lane).unwrap();
            let probe: Probe = record.body().unwrap();
            match probe.order {
                DIE => std::process::abort(),
                ECHO_LATE => std::thread::sleep(Duration::from_millis(5)),
                _ => {}
            }
            if record.head().flags.contains(Flags::REPLY) {
                let pending = lane.claim(record.sequence()).unwrap();
                pending.reply(0, probe.value.as_bytes()).unwrap();
            }
            if probe.order == LEAVE {
                break;
            }
        }
        stop.raise();
        worker.ping.waker().ring();
        pinger.join().unwrap();
    });
}

fn call(
    client: &ClientControl<Mapped>,
    lane: &mut ClientLane<Mapped>,
    live: &impl Liveness,
    order: u64,
    value: u64,
) -> Result<u64, LaneError> {
    let probe = Probe { value, order };
    let reply = lane.call(&client.submissions, 0, &probe, &[], live)?;
    Ok(u64::from_le_bytes(reply.body.try_into().unwrap()))
}

#[test]
fn calls_between_processes_are_answered_awake_and_asleep() {
    let (client, peer) = start();
    let mut lane = client.lanes.take().unwrap();
    for value in 0..2000 {
        assert_eq!(call(&client, &mut lane, &peer, ECHO, value), Ok(value));
    }
    for value in 0..20 {
        assert_eq!(call(&client, &mut lane, &peer, ECHO_LATE, value), Ok(value));
        // The worker goes to sleep, too.
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(call(&client, &mut lane, &peer, LEAVE, 1), Ok(1));
    assert!(peer.child.borrow_mut().wait().unwrap().success());
}

#[test]
fn posts_from_several_threads_all_arrive_before_the_call_that_follows_them() {
    let (client, peer) = start();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut lane = client.lanes.take().unwrap();
                for value in 0..3000 {
                    let probe = Probe { value, order: ECHO };
                    lane.post(&client.submissions, 0, &probe, &[], &soon())
                        .unwrap();
                    if value % 100 == 0 {
                        assert_eq!(call(&client, &mut lane, &soon(), ECHO, value), Ok(value));
                    }
                }
                client.lanes.put(lane);
            });
        }
    });
    let mut lane = client.lanes.take().unwrap();
    assert_eq!(call(&client, &mut lane, &peer, LEAVE, 7), Ok(7));
    assert!(peer.child.borrow_mut().wait().unwrap().success());
}

#[test]
fn a_ping_wakes_a_worker_that_sleeps_and_one_that_died_leaves_it_unanswered() {
    let (client, peer) = start();
    let patience = Patience::detect();
    let question = client.ping.ask();
    assert_eq!(client.ping.wait(question, &patience, &soon()), Woken::Ready);
    let mut lane = client.lanes.take().unwrap();
    let died = call(&client, &mut lane, &peer, DIE, 0);
    assert_eq!(died, Err(LaneError::Ended));
    let question = client.ping.ask();
    let briefly = Deadline(Instant::now() + Duration::from_millis(100));
    assert_eq!(
        client.ping.wait(question, &patience, &briefly),
        Woken::Ended
    );
}

#[test]
fn a_worker_that_dies_ends_the_call_and_later_a_full_ring() {
    let (client, peer) = start();
    let mut lane = client.lanes.take().unwrap();
    assert_eq!(call(&client, &mut lane, &peer, ECHO, 3), Ok(3));
    assert_eq!(
        call(&client, &mut lane, &peer, DIE, 4),
        Err(LaneError::Ended)
    );
    let probe = Probe {
        value: 0,
        order: ECHO,
    };
    let error = loop {
        match lane.post(&client.submissions, 0, &probe, &[], &peer) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error, LaneError::Post(PostError::Ended));
}

#[test]
fn a_forked_child_knows_and_has_no_ring() {
    let page = idm_protocol::window::ForkPage::new().unwrap();
    let file = SealedFile::create(c"fork", 4096).unwrap();
    let region = Mapped::new(&file).unwrap();
    assert!(!page.forked());
    // SAFETY: the child only loads a word, asks the kernel about a page, and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut seen = 0u8;
        let start = std::ptr::from_ref(&region.words()[0]);
        // SAFETY: asks whether the page is mapped; `seen` has room for one page's answer.
        let asked = unsafe { libc::mincore(start.cast_mut().cast(), 4096, &raw mut seen) };
        let code = if page.forked() && asked == -1 { 42 } else { 1 };
        // SAFETY: ends this process at once, with no destructors.
        unsafe { libc::_exit(code) };
    }
    let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).unwrap();
    assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 42)));
    assert!(!page.forked());
    drop(region);
}

/// Not a test of speed: prints what copies into shared memory cost against a plain one.
#[test]
#[ignore = "prints costs, for a quiet machine"]
fn costs_of_a_copy() {
    const LEN: usize = 256 << 10;
    let file = SealedFile::create(c"copy", LEN).unwrap();
    let region = Mapped::new(&file).unwrap();
    region.prefault();
    let from = vec![1u8; LEN];
    // Not page-aligned like the mapping: a copy whose ends agree in their low twelve bits, or nearly,
    // runs at a tenth of the speed on some processors, whoever makes it.
    let mut to = vec![0u8; LEN + 2048];
    let to = &mut to[2048..];
    let mut best = [Duration::MAX; 3];
    for _ in 0..2000 {
        let start = Instant::now();
        std::hint::black_box(&mut *to).copy_from_slice(std::hint::black_box(&from));
        best[0] = best[0].min(start.elapsed());
        let start = Instant::now();
        region.write(0, std::hint::black_box(&from)).unwrap();
        best[1] = best[1].min(start.elapsed());
        let start = Instant::now();
        region.read(0, std::hint::black_box(&mut *to)).unwrap();
        best[2] = best[2].min(start.elapsed());
    }
    let [private, write, read] = best;
    println!("256 KiB: private {private:?}, into shared {write:?}, out of shared {read:?}");
}

/// Not a test of speed: prints what a post and a round trip cost here.
/// `cargo test -p idm-protocol --release --test two_processes -- --ignored --nocapture costs`
#[test]
#[ignore = "prints costs, for a quiet machine"]
fn costs_of_a_post_and_a_round_trip() {
    let (client, peer) = start();
    let mut lane = client.lanes.take().unwrap();
    for value in 0..20_000 {
        call(&client, &mut lane, &peer, ECHO, value).unwrap();
    }
    let mut trips = Vec::new();
    let mut posts = Vec::new();
    for value in 0..200_000u64 {
        let start = Instant::now();
        call(&client, &mut lane, &Immortal, ECHO, value).unwrap();
        trips.push(start.elapsed().as_nanos());
    }
    for value in 0..3000u64 {
        let start = Instant::now();
        for _ in 0..64 {
            let probe = Probe { value, order: ECHO };
            lane.post(&client.submissions, 0, &probe, &[], &Immortal)
                .unwrap();
        }
        posts.push(start.elapsed().as_nanos() / 64);
        call(&client, &mut lane, &Immortal, ECHO, value).unwrap();
    }
    trips.sort_unstable();
    posts.sort_unstable();
    println!(
        "round trip: median {} ns, p99 {} ns; post: median {} ns, p99 {} ns",
        trips[trips.len() / 2],
        trips[trips.len() * 99 / 100],
        posts[posts.len() / 2],
        posts[posts.len() * 99 / 100],
    );
    call(&client, &mut lane, &peer, LEAVE, 0).unwrap();
}
