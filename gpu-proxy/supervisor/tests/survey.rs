//! Those who only look: they learn of their zone, cost it no client, and no worker where one has told already.

mod common;

use std::os::fd::{AsFd, AsRawFd};

use common::*;
use idm_protocol::attach::client::{AttachError, survey};
use idm_protocol::attach::socket::{receive, send};
use idm_protocol::attach::survey::{SURVEY_LEN, Survey, SurveyRequest};
use idm_protocol::attach::{MAGIC, RefusalCode};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use zerocopy::IntoBytes;

fn look(proxy: &Proxy, zone: &str) -> Box<Survey> {
    survey(&proxy.socket(zone), PATIENCE).unwrap()
}

#[test]
fn a_zone_without_workers_starts_one_to_be_looked_at_and_no_second() {
    let proxy =
        Proxy::start("[[zone]]\nname = \"a\"\nmemory = \"1GiB\"\nclients = 2\nwarm_workers = 0\n");
    assert_eq!(proxy.status().zones[0].warm_workers, 0);
    for _ in 0..20 {
        let seen = look(&proxy, "a");
        assert_eq!((seen.memory_limit, seen.memory_used), (1 << 30, 0));
        assert_eq!(seen.driver_version, 13030);
        assert_eq!(seen.driver_release.to_string(), "1.2.3");
        assert!(seen.processes().is_empty());
        let [device] = seen.devices() else {
            panic!("{:?}", seen.devices());
        };
        assert_eq!((device.uuid, device.total_memory), ([7; 16], 8 << 30));
    }
    let zone = &proxy.status().zones[0];
    assert_eq!((zone.warm_workers, zone.starting_workers), (1, 0));
    assert_eq!((zone.attached_total, zone.refused_total), (0, 0));
}

#[test]
fn a_full_zone_can_be_looked_at_and_shows_its_own_clients_only() {
    let config = "[[zone]]\nname = \"a\"\nmemory = \"64MiB\"\nclients = 1\n\
                  [[zone]]\nname = \"b\"\nmemory = \"32MiB\"\nclients = 1\n";
    let proxy = Proxy::start(config);
    let client = proxy.attach("a", "charge:1000").unwrap();
    proxy.wait_for_status("the charge", |status| {
        status.zones[0]
            .clients
            .iter()
            .any(|client| client.memory_held > 0)
    });
    let seen = look(&proxy, "a");
    let [process] = seen.processes() else {
        panic!("{:?}", seen.processes());
    };
    assert_eq!((process.pid, process.memory), (std::process::id(), 1000));
    assert_eq!((seen.memory_limit, seen.memory_used), (64 << 20, 1000));
    let other = look(&proxy, "b");
    assert_eq!((other.memory_limit, other.memory_used), (32 << 20, 0));
    assert!(other.processes().is_empty());
    drop(client);
    wait_until("the client is gone", || {
        look(&proxy, "a").processes().is_empty()
    });
}

#[test]
fn a_user_whom_the_zone_is_not_for_may_not_look() {
    let stranger = nix::unistd::Uid::effective().as_raw() + 1;
    let proxy = Proxy::start(&format!(
        "[[zone]]\nname = \"a\"\nmemory = \"1GiB\"\nuid = {stranger}\nmode = \"0666\"\n"
    ));
    let refused = survey(&proxy.socket("a"), PATIENCE).unwrap_err();
    assert!(
        matches!(
            &refused,
            AttachError::Refused {
                code: RefusalCode::UID_NOT_ALLOWED,
                ..
            }
        ),
        "{refused}"
    );
}

#[test]
fn a_driver_that_does_not_start_is_told_to_those_who_look() {
    let proxy = Proxy::start_with(
        "",
        "FAKE_START = \"fail\"",
        "[[zone]]\nname = \"a\"\nmemory = \"1GiB\"\nwarm_workers = 0\n",
    );
    let refused = survey(&proxy.socket("a"), PATIENCE).unwrap_err();
    assert!(refused.to_string().contains("no such device"), "{refused}");
}

#[test]
fn a_worker_that_announces_devices_it_has_not_described_is_ended() {
    let proxy = Proxy::start_with(
        "",
        "FAKE_START = \"mute\"",
        "[[zone]]\nname = \"a\"\nmemory = \"1GiB\"\n",
    );
    proxy.wait_for_log("worker sent a message out of turn");
}

#[test]
fn questions_that_are_none_are_refused_and_a_second_one_is_too_many() {
    let proxy = Proxy::start(ZONE_A);
    let good = SurveyRequest::new().as_bytes().to_vec();
    let longer = [good.as_slice(), &[0]].concat();
    let ask = |packets: &[&[u8]]| {
        let link = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        let path = proxy.socket("a");
        connect(link.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        for packet in packets {
            // The supervisor may have hung up after the first.
            let _ = send(link.as_fd(), packet, &[]);
        }
        let mut buffer = [0; SURVEY_LEN];
        let packet = loop {
            match receive(link.as_fd(), &mut buffer) {
                Ok(packet) => break packet,
                Err(nix::errno::Errno::ECONNRESET) => {}
                Err(errno) => panic!("{errno}"),
            }
        };
        buffer[..packet.len].to_vec()
    };
    assert!(Survey::decode(&ask(&[&longer])).is_err());
    assert!(Survey::decode(&ask(&[&good])).is_ok());
    // It is answered once, whatever else it says.
    assert!(Survey::decode(&ask(&[&good, &good, &MAGIC.to_le_bytes()])).is_ok());
    assert_eq!(look(&proxy, "a").memory_used, 0);
}
