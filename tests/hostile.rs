//! A hostile tenant harms itself: its client ends, and nobody else notices.
//!
//! In every test an honest client works all the while and must not see a single failed call, and an
//! honest client must be served afterwards.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Proxy, Running, Setup, Zone, system};
use idm_protocol::attach::client::{AttachError, Attachment, attach};
use idm_protocol::attach::{Capabilities, Hello, MAGIC, RefusalCode};
use idm_protocol::wire::TABLE_HASH;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send,
    sendmsg, socket,
};

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
    use zerocopy::IntoBytes;
    Hello::new(TABLE_HASH, Capabilities::ALL, u32::MAX, "hostile")
        .as_bytes()
        .to_vec()
}

/// A sequence that is the same in every run, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

// --- On the socket

#[test]
fn packets_that_are_no_greeting_are_hung_up_on() {
    let scene = Scene::new();
    let mut random = Random(7);
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
        let length = 1 + usize::try_from(random.next() % 700).unwrap();
        random.bytes(length)
    }));
    packets.extend((0..40).map(|_| {
        let mut mutated = honest.clone();
        let at = usize::try_from(random.next()).unwrap_or(0) % 24;
        mutated[at] ^= 1 << (random.next() % 8);
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
    // A worker ends itself by name when its client lies; it does not crash.
    let log = scene.proxy.log();
    for crash in ["SIGSEGV", "SIGBUS", "SIGILL", "SIGABRT", "panicked"] {
        assert!(
            !log.contains(crash),
            "a worker crashed ({crash})\n--- log\n{log}"
        );
    }
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
