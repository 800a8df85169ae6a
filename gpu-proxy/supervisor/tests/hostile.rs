//! Clients that do not keep to the conversation: each is ended or refused, and an honest one is served.

mod common;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use common::*;
use idm_protocol::attach::socket::{receive, send};
use idm_protocol::attach::{Answer, MAGIC, MAX_PACKET_LEN, RefusalCode};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, socket};
use zerocopy::IntoBytes;

fn connection(path: &Path) -> OwnedFd {
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

/// What the supervisor says, then end-of-file; `None` if it just hangs up.
fn answer(link: &OwnedFd) -> Option<(RefusalCode, String)> {
    let mut buffer = [0; MAX_PACKET_LEN];
    let mut said = None;
    loop {
        match receive(link.as_fd(), &mut buffer) {
            Ok(packet) if packet.len > 0 => match Answer::decode(&buffer[..packet.len]).unwrap() {
                Answer::Refusal(refusal) => said = Some((refusal.code, refusal.text.to_string())),
                Answer::Welcome(welcome) => panic!("{welcome:?}"),
            },
            Ok(_) => return said,
            // Told once where unread words of ours were thrown away.
            Err(nix::errno::Errno::ECONNRESET) => {}
            Err(errno) => panic!("{errno}"),
        }
    }
}

#[test]
fn greetings_that_are_none_are_refused_by_name() {
    let proxy = Proxy::start(ZONE_A);
    let good = hello("x").as_bytes().to_vec();
    let with = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] ^= byte;
        packet
    };
    let mut longer = good.clone();
    longer.push(0);
    let cases: [(&str, Vec<u8>, RefusalCode, &str); 7] = [
        (
            "short",
            good[..40].to_vec(),
            RefusalCode::MALFORMED,
            "40 bytes where 104",
        ),
        (
            "one byte",
            vec![1],
            RefusalCode::MALFORMED,
            "1 bytes where 16",
        ),
        (
            "long",
            longer,
            RefusalCode::MALFORMED,
            "105 bytes where 104",
        ),
        (
            "huge",
            vec![0; 100_000],
            RefusalCode::MALFORMED,
            "not an attach packet",
        ),
        (
            "magic",
            with(0, 1),
            RefusalCode::MALFORMED,
            "not an attach packet",
        ),
        ("kind", with(8, 6), RefusalCode::MALFORMED, "kind 7"),
        (
            "version",
            with(12, 2),
            RefusalCode::WRONG_VERSION,
            "install the libvgpu that matches",
        ),
    ];
    for (case, packet, code, text) in cases {
        let link = connection(&proxy.socket("a"));
        send(link.as_fd(), &packet, &[]).unwrap();
        let (found, said) =
            answer(&link).unwrap_or_else(|| panic!("{case}: hung up without a word"));
        assert_eq!(found, code, "{case}: {said}");
        assert!(said.contains(text), "{case}: {said}");
    }
    assert_eq!(u64::from_le_bytes(good[..8].try_into().unwrap()), MAGIC);
    proxy.attach("a", "honest").unwrap();
}

#[test]
fn descriptors_are_refused_and_never_enter_the_supervisor() {
    let proxy = Proxy::start(ZONE_A);
    proxy.wait_for_status("a warm worker", |status| status.zones[0].warm_workers == 1);
    let before = proxy.descriptors();
    for _ in 0..20 {
        let link = connection(&proxy.socket("a"));
        send(link.as_fd(), hello("x").as_bytes(), &[link.as_fd(); 8]).unwrap();
        let (code, text) = answer(&link).unwrap();
        assert_eq!(code, RefusalCode::MALFORMED);
        assert!(text.contains("descriptors"), "{text}");
    }
    wait_until("all connections to be closed", || {
        proxy.descriptors() == before
    });
}

#[test]
fn silent_clients_are_given_up_and_do_not_keep_honest_ones_out() {
    let proxy = Proxy::start_with("hello_timeout = \"300ms\"", "", ZONE_A);
    let silent: Vec<OwnedFd> = (0..100).map(|_| connection(&proxy.socket("a"))).collect();
    proxy.attach("a", "honest").unwrap();
    for link in &silent {
        let (code, text) = answer(link).unwrap();
        assert_eq!(code, RefusalCode::MALFORMED);
        assert!(text.contains("did not greet"), "{text}");
    }
}

#[test]
fn clients_that_flood_or_speak_after_the_greeting_are_ended() {
    let proxy = Proxy::start(ZONE_A);
    // Attached, then talking.
    let attached = proxy.attach("a", "talker").unwrap();
    nix::sys::socket::send(
        attached.lifeline.as_fd().as_raw_fd(),
        b"more",
        MsgFlags::empty(),
    )
    .unwrap();
    attached.lifeline.wait_cut();
    proxy.wait_for_log("client spoke on its attach socket");
    // Attached, then sending descriptors.
    let attached = proxy.attach("a", "giver").unwrap();
    send(
        attached.lifeline.as_fd(),
        b"x",
        &[attached.lifeline.as_fd()],
    )
    .unwrap();
    attached.lifeline.wait_cut();
    // As many greetings as the socket takes, without ever reading.
    for _ in 0..5 {
        let link = connection(&proxy.socket("a"));
        while nix::sys::socket::send(
            link.as_raw_fd(),
            hello("flood").as_bytes(),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        )
        .is_ok()
        {}
    }
    proxy.wait_for_status("the floods to be over", |status| {
        status.zones[0].clients.is_empty()
    });
    proxy.attach("a", "honest").unwrap();
}

#[test]
fn empty_packets_count_as_hanging_up() {
    let proxy = Proxy::start(ZONE_A);
    let link = connection(&proxy.socket("a"));
    nix::sys::socket::send(link.as_raw_fd(), b"", MsgFlags::empty()).unwrap();
    assert_eq!(answer(&link), None);
    proxy.attach("a", "honest").unwrap();
}

#[test]
fn a_client_that_leaves_while_it_waits_or_attaches_costs_nothing_lasting() {
    let proxy = Proxy::start(&format!("{ZONE_A}clients = 1\n"));
    for _ in 0..20 {
        let link = connection(&proxy.socket("a"));
        send(link.as_fd(), hello("fickle").as_bytes(), &[]).unwrap();
        drop(link);
    }
    proxy.wait_for_status("nobody left", |status| status.zones[0].clients.is_empty());
    proxy.attach("a", "honest").unwrap();
}

#[test]
fn clients_of_another_user_are_refused_where_the_zone_names_one() {
    // A user that nobody is, so that this works for root and for everybody else.
    let proxy = Proxy::start(&format!("{ZONE_A}uid = 54321\nmode = \"0666\"\n"));
    let (code, text) = proxy.refusal("a", "x");
    assert_eq!(code, RefusalCode::UID_NOT_ALLOWED);
    assert!(text.contains("is not for user"), "{text}");
}

#[test]
fn admin_socket_answers_nonsense_briefly_and_gives_up_the_silent() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let proxy = Proxy::start(ZONE_A);
    let path = proxy.folder.path().join("run/admin.sock");
    for (request, expected) in [("nonsense\n", "understands only"), (&"x".repeat(1000), "")] {
        let mut socket = UnixStream::connect(&path).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        let _ = socket.read_to_string(&mut reply);
        assert!(reply.contains(expected), "{reply}");
    }
    let silent: Vec<UnixStream> = (0..8)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    drop(silent);
    assert_eq!(proxy.status().zones.len(), 1);
}
