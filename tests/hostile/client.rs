//! A hostile tenant harms itself: its client ends, and nobody else notices.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::load::beside;
use e2e::random::Random;
use e2e::{Proxy, Running, Setup, Zone, system};
use idm_protocol::attach::client::{AttachError, Attachment, Lifeline, attach};
use idm_protocol::attach::{Capabilities, Hello, MAGIC, RefusalCode};
use idm_protocol::control::ClientControl;
use idm_protocol::handle::{Handle, Kind};
use idm_protocol::memory::Mapped;
use idm_protocol::record::{Flags, Head};
use idm_protocol::ring::PostError;
use idm_protocol::wait::{Liveness, Patience};
use idm_protocol::wire::{REQUESTS, TABLE_HASH};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send,
    sendmsg, socket,
};
use zerocopy::IntoBytes;

/// A proxy, and an honest client at work in a zone of its own.
struct Scene {
    proxy: Proxy,
    honest: Running,
}

impl Scene {
    fn new() -> Self {
        let proxy = Setup::new()
            .zone(Zone::new("hostile").clients(4).warm(1))
            .zone(Zone::new("honest").warm(1))
            .start();
        let mut honest = proxy
            .program_in("honest", e2e::place::client())
            .arg("until-error")
            .start();
        honest.wait_for_line("works");
        Self { proxy, honest }
    }

    fn connect(&self) -> OwnedFd {
        connected(&self.proxy.socket("hostile"))
    }

    fn attach(&self) -> Result<Attachment, AttachError> {
        // Every window will do: a hostile client maps nothing.
        let hello = Hello::new(TABLE_HASH, Capabilities::ALL, u32::MAX, "hostile");
        attach(
            &self.proxy.socket("hostile"),
            &hello,
            Duration::from_secs(30),
        )
    }

    /// Attaches when it can: the zone may be full for a moment while the last one's worker ends.
    fn attach_in_time(&self) -> Attachment {
        let mut attached = None;
        self.proxy.wait_until("a place in the zone", |_| {
            attached = self.attach().ok();
            attached.is_some()
        });
        attached.expect("waited for it")
    }

    /// A worker ends itself by name when its client lies; it does not crash.
    fn expect_no_crash(&self) {
        let log = self.proxy.log();
        for crash in ["SIGSEGV", "SIGBUS", "SIGILL", "SIGABRT", "panicked"] {
            let found = log.lines().find(|line| line.contains(crash));
            assert_eq!(found, None, "a worker crashed\n--- log\n{log}");
        }
    }

    /// Everyone honest is as before.
    fn end(mut self) {
        assert!(
            self.honest.is_running(),
            "the honest client ended\n--- log\n{}",
            self.proxy.log()
        );
        self.honest.kill();
        self.proxy.client("vector-add").run().expect_success();
        self.proxy.stop();
    }
}

fn connected(path: &Path) -> OwnedFd {
    let link = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    connect(link.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    link
}

/// Sends a packet that the other side may already have stopped listening to.
fn say(link: &OwnedFd, packet: &[u8]) {
    let _ = send(link.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL);
}

/// Whether the other side hangs up, whatever it says before.
fn is_hung_up(link: &OwnedFd) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut buffer = [0; 1024];
    while Instant::now() < deadline {
        let mut wait = [PollFd::new(link.as_fd(), PollFlags::POLLIN)];
        if poll(&mut wait, PollTimeout::from(100_u8)).unwrap() == 0 {
            continue;
        }
        match recv(link.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) | Err(_) => return true,
            Ok(_) => {}
        }
    }
    false
}

/// The bytes of an honest greeting.
fn greeting() -> Vec<u8> {
    Hello::new(TABLE_HASH, Capabilities::ALL, u32::MAX, "hostile")
        .as_bytes()
        .to_vec()
}

// --- On the socket

#[test]
fn packets_that_are_no_greeting_are_hung_up_on() {
    let scene = Scene::new();
    let mut random = Random::new(7);
    let honest = greeting();
    let mut packets = vec![
        vec![0],
        vec![0xff; 64],
        MAGIC.to_le_bytes().to_vec(),
        honest[..honest.len() - 1].to_vec(),
        [honest.clone(), vec![0]].concat(),
        vec![0x41; 60_000],
    ];
    packets.extend((0..40).map(|_| {
        let length = 1 + usize::try_from(random.number() % 700).unwrap();
        random.bytes(length)
    }));
    packets.extend((0..40).map(|_| {
        let mut mutated = honest.clone();
        let at = usize::try_from(random.number()).unwrap_or(0) % 24;
        mutated[at] ^= 1 << (random.number() % 8);
        mutated
    }));
    for packet in packets {
        let link = scene.connect();
        say(&link, &packet);
        assert!(
            is_hung_up(&link),
            "{} bytes were accepted: {packet:x?}",
            packet.len()
        );
    }
    scene.end();
}

#[test]
fn greeting_of_another_build_is_refused_by_name() {
    let scene = Scene::new();
    let hello = Hello::new(TABLE_HASH ^ 1, Capabilities::ALL, u32::MAX, "hostile");
    match attach(
        &scene.proxy.socket("hostile"),
        &hello,
        Duration::from_secs(30),
    ) {
        Err(AttachError::Refused { code, .. }) => assert_eq!(code, RefusalCode::WRONG_TABLE),
        other => panic!("expected a refusal, got {other:?}"),
    }
    scene.end();
}

#[test]
fn descriptors_from_a_tenant_are_never_kept() {
    let scene = Scene::new();
    let before = system::descriptor_count(scene.proxy.pid());
    let file = File::open("/dev/null").unwrap();
    for _ in 0..50 {
        let link = scene.connect();
        let greeting = greeting();
        let descriptors = [file.as_raw_fd(); 3];
        let _ = sendmsg::<()>(
            link.as_raw_fd(),
            &[IoSlice::new(&greeting)],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        // Whether it is served or refused, its descriptors are not taken.
        drop(link);
    }
    scene
        .proxy
        .wait_until("the proxy holds no more descriptors than before", |proxy| {
            system::descriptor_count(proxy.pid()) <= before
        });
    scene.end();
}

#[test]
fn silent_connections_keep_nobody_out_for_long() {
    let scene = Scene::new();
    let silent: Vec<OwnedFd> = (0..200)
        .map_while(|_| {
            let link = socket(
                AddressFamily::Unix,
                SockType::SeqPacket,
                SockFlag::SOCK_NONBLOCK,
                None,
            )
            .unwrap();
            let address = UnixAddr::new(&scene.proxy.socket("hostile")).unwrap();
            connect(link.as_raw_fd(), &address).ok().map(|()| link)
        })
        .collect();
    // Another zone's clients do not even notice.
    scene
        .proxy
        .program_in("honest", e2e::place::client())
        .arg("vector-add")
        .run()
        .expect_success();
    drop(silent);
    scene.end();
}

#[test]
fn word_after_the_greeting_ends_that_client() {
    let scene = Scene::new();
    let attachment = scene.attach().expect("an honest greeting is welcome");
    let link = attachment.lifeline.as_fd().try_clone_to_owned().unwrap();
    say(&link, b"one more thing");
    assert!(is_hung_up(&link));
    scene.end();
}

#[test]
fn a_name_forges_no_line_of_the_log() {
    const HONEST: &str = "a-program-with-a-name-of-some-length";
    const FORGED: &[u8] = b"x\n2026-01-01 ERROR forged \x1b[31m\r\"}\0";
    let scene = Scene::new();
    let mut greeting = Hello::new(TABLE_HASH, Capabilities::ALL, u32::MAX, HONEST)
        .as_bytes()
        .to_vec();
    let found = greeting
        .windows(HONEST.len())
        .position(|bytes| bytes == HONEST.as_bytes());
    let start = found.expect("a greeting has the program's name");
    greeting[start..start + FORGED.len()].copy_from_slice(FORGED);
    let link = scene.connect();
    say(&link, &greeting);
    // It is greeted, or hung up on; either is written down.
    let mut wait = [PollFd::new(link.as_fd(), PollFlags::POLLIN)];
    poll(&mut wait, PollTimeout::from(30_000_u16)).unwrap();
    drop(link);
    scene.proxy.wait_until("the tenant is gone", |proxy| {
        proxy.status()["zones"][0]["clients"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    let log = scene.proxy.log();
    let forged = log.lines().find(|line| line.starts_with("2026-01-01"));
    assert_eq!(forged, None, "{log}");
    assert!(!log.contains('\x1b'), "{log}");
    scene.end();
}

// --- In shared memory

/// Clients that work and scribble into the memory they share with their worker, at the same time.
fn scribble(kind: u32) {
    let scene = Scene::new();
    for seed in 1..=4 {
        let mut client = scene
            .proxy
            .client("scribble")
            .args([kind.to_string(), seed.to_string()])
            .start();
        client.wait_for_line("scribbles");
        client.close_input();
        // It may end in any way, its own library misled by itself; if it hangs, its watchdog says so.
        client.finish();
    }
    scene.expect_no_crash();
    scene.end();
}

#[test]
fn noise_in_shared_memory_ends_at_most_that_client() {
    scribble(0);
}

#[test]
fn records_with_lying_headers_end_at_most_that_client() {
    scribble(1);
}

#[test]
fn single_wrong_bytes_end_at_most_that_client() {
    scribble(2);
}

#[test]
fn words_of_ones_end_at_most_that_client() {
    scribble(3);
}

#[test]
fn what_a_tenant_shares_keeps_its_size_and_what_it_may_only_read_stays_as_it_is() {
    let scene = Scene::new();
    let attached = scene.attach().expect("an honest greeting is welcome");
    for file in [&attached.control, &attached.arena, &attached.status] {
        let file = File::from(file.as_fd().try_clone_to_owned().unwrap());
        let size = file.metadata().unwrap().len();
        for other in [0, size / 2, size + 4096] {
            assert!(file.set_len(other).is_err(), "{size} became {other}");
        }
    }
    // The supervisor's word, through the descriptor that was given, and opened anew.
    let status = attached.status.as_fd().try_clone_to_owned().unwrap();
    let path = format!("/proc/self/fd/{}", status.as_raw_fd());
    let anew = File::options().read(true).write(true).open(path);
    for file in [Ok(File::from(status)), anew].into_iter().flatten() {
        assert!(file.write_at(b"mine", 0).is_err(), "written");
    }
    assert!(
        Mapped::new(&attached.status).is_err(),
        "mapped to be written"
    );
    drop(attached);
    scene.end();
}

#[test]
fn holes_punched_into_shared_memory_end_at_most_that_client() {
    let scene = Scene::new();
    let mut babbler = Babbler::new(0x401e);
    for _ in 0..4 {
        let attached = scene.attach_in_time();
        let punch = || {
            for file in [&attached.control, &attached.arena] {
                let hole =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let size = file.byte_len().get().try_into().unwrap();
                fallocate(file.as_fd(), hole, 0, size).unwrap();
            }
            std::thread::sleep(Duration::from_millis(3));
        };
        beside(&[&punch], || babbler.talk(&attached, 500));
    }
    scene.expect_no_crash();
    scene.end();
}

// --- In well-formed records

/// Ends when the client does, or when the worker has taken too long.
struct Until<'a>(&'a Lifeline, Instant);

impl Liveness for Until<'_> {
    fn ended(&self) -> bool {
        Instant::now() > self.1
    }

    fn probe(&self) -> bool {
        self.ended() || self.0.is_cut()
    }
}

/// A client that knows the protocol and means nothing by what it says: bodies of the right size, words that
/// might be handles, addresses, counts or flags, and tails of every kind.
struct Babbler {
    random: Random,
    /// Words that came back: handles and addresses of its own among them.
    learned: Vec<u64>,
    /// Answers by opcode.
    answers: BTreeMap<u16, u32>,
}

impl Babbler {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            learned: Vec::new(),
            answers: BTreeMap::new(),
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random.index(limit)
    }

    fn handle(&mut self) -> u64 {
        let kind = u8::try_from(1 + self.below(17)).unwrap();
        let slot = u32::try_from(self.below(3)).unwrap();
        Handle::new(Kind::new(kind).unwrap(), slot, 1)
            .unwrap()
            .value()
    }

    fn word(&mut self) -> u64 {
        match self.below(10) {
            0..=2 => self.handle(),
            3..=4 if !self.learned.is_empty() => {
                let at = self.below(self.learned.len());
                let near = self.random.number() % 4 * 16;
                self.learned[at].wrapping_add(near)
            }
            5 => self.random.number(),
            6 => [0, u64::MAX, 1 << 63, 1 << 32, 1 << 47][self.below(5)],
            // Two numbers, as a body has them.
            _ => {
                let (low, high) = (self.small(), self.small());
                u64::from(low) | u64::from(high) << 32
            }
        }
    }

    fn small(&mut self) -> u32 {
        match self.below(8) {
            0 => u32::MAX,
            1 => 1 << self.below(32),
            _ => u32::try_from(self.below(9)).unwrap(),
        }
    }

    fn words(&mut self, count: usize) -> Vec<u8> {
        (0..count).flat_map(|_| self.word().to_le_bytes()).collect()
    }

    fn tail(&mut self) -> Vec<u8> {
        match self.below(8) {
            0 => include_bytes!("../src/kernels.ptx").to_vec(),
            1 => b"add\0".to_vec(),
            2 => {
                let length = self.below(300);
                self.random.bytes(length)
            }
            3 | 4 => {
                let count = self.below(24);
                self.words(count)
            }
            _ => Vec::new(),
        }
    }

    /// Babbles until `records` are sent or the worker has had enough; how many were sent.
    fn talk(&mut self, attached: &Attachment, records: usize) -> usize {
        let region = Mapped::new(&attached.control).unwrap();
        let limits = &attached.welcome.limits;
        let opened = ClientControl::open(&region, limits, Patience::detect());
        let (control, _callbacks) = opened.unwrap();
        let mut lane = control.lanes.take().unwrap();
        for sent in 0..records {
            let (_, opcode, size) = REQUESTS[self.below(REQUESTS.len())];
            let (mut body, tail) = (self.words(size.div_ceil(8)), self.tail());
            body.truncate(size);
            // Most of what can go wrong goes wrong where something waits for the answer.
            let flags = match self.below(8) {
                0 => Flags::default(),
                1 | 2 => Flags::REPLY,
                _ => Flags::REPLY.union(Flags::LANE),
            };
            let head = Head {
                opcode,
                flags,
                lane: lane.index(),
                context: u16::try_from(self.below(3)).unwrap(),
            };
            let live = Until(
                &attached.lifeline,
                Instant::now() + Duration::from_millis(500),
            );
            // What is too large for a record goes through the side buffer; here it is not sent at all.
            let posted = control.submissions.post(head, &body, &[&tail], &live);
            let sequence = match posted {
                Ok(sequence) => sequence,
                Err(PostError::TooLarge { .. }) => continue,
                Err(_) => return sent,
            };
            if flags == Flags::default() {
                continue;
            }
            let Ok(reply) = lane.await_reply(sequence, &live) else {
                return sent;
            };
            *self.answers.entry(opcode).or_default() += 1;
            let came = reply.body.chunks_exact(8).map(|word| {
                let word: [u8; 8] = word.try_into().unwrap();
                u64::from_le_bytes(word)
            });
            self.learned.extend(came.take(4).filter(|word| *word != 0));
            let most = 64.min(self.learned.len());
            self.learned.drain(..self.learned.len() - most);
        }
        records
    }
}

fn babble(seed: u64, records: usize) {
    let scene = Scene::new();
    let mut babbler = Babbler::new(seed);
    let (mut sent, mut clients) = (0, 0);
    // A worker that is slow under load answers less before it is given up; then there are more clients.
    let has_enough = |babbler: &Babbler| babbler.answers.len() > REQUESTS.len() * 9 / 10;
    while clients < records / 10 && (sent < records || !has_enough(&babbler)) {
        let attached = scene.attach_in_time();
        clients += 1;
        babbler.learned.clear();
        sent += babbler.talk(&attached, 2000);
    }
    let unanswered: Vec<&str> = REQUESTS
        .iter()
        .filter(|(_, opcode, _)| !babbler.answers.contains_key(opcode))
        .map(|(name, ..)| *name)
        .collect();
    println!("seed {seed}: {sent} records of {clients} clients; never answered: {unanswered:?}");
    assert!(
        has_enough(&babbler),
        "never answered: {unanswered:?}\n--- log\n{}",
        scene.proxy.log()
    );
    scene.expect_no_crash();
    scene.end();
}

#[test]
fn senseless_records_of_every_kind_end_at_most_that_client() {
    babble(0x5eed, 10_000);
}

#[test]
#[ignore = "minutes; `make test-full`"]
fn many_more_senseless_records_end_at_most_that_client() {
    for seed in 1..=6 {
        babble(seed * 0x9e37_79b9, 40_000);
    }
}

#[test]
fn attach_and_drop_in_a_loop_leaves_nothing() {
    let scene = Scene::new();
    let before = system::descriptor_count(scene.proxy.pid());
    for _ in 0..10 {
        // The zone may be full for a moment while the last one's worker ends.
        let _ = scene.attach();
    }
    scene
        .proxy
        .wait_until("the proxy holds no more descriptors than before", |proxy| {
            system::descriptor_count(proxy.pid()) <= before
        });
    scene.end();
}
