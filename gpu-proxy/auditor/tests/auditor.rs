//! The auditor as a process, with this test as its supervisor.

use std::fs;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use auditor::args::Arguments;
use auditor::service::Service;
use auditor::sink::{Sink, SinkError, Taken};
use clap::Parser;
use idm_protocol::attach::socket::{receive, send};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use proxy_audit::block::Zone;
use proxy_audit::chain::Chain;
use proxy_audit::event::{Event, Stamp};
use proxy_audit::hash::LogId;
use proxy_audit::load;
use proxy_audit::note::{PublicKey, SecretKey};
use proxy_audit::text::Text;
use proxy_audit::verify::Report;
use proxy_audit::wire::{FromAuditor, REPLY_LEN, Submission, ToAuditor, What};

/// Longer than anything here takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

struct Place {
    folder: tempfile::TempDir,
    session: LogId,
    more: Vec<&'static str>,
}

struct Auditor {
    process: Child,
    channel: Channel,
}

/// The supervisor's end.
struct Channel(OwnedFd);

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            session: LogId::draw().unwrap(),
            more: vec!["--checkpoint-after", "20"],
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self) -> Auditor {
        let kind = SockType::SeqPacket;
        let flags = SockFlag::SOCK_CLOEXEC;
        let (channel, far) = socketpair(AddressFamily::Unix, kind, None, flags).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_vgpu-auditor"))
            .arg("--spool")
            .arg(self.path("spool"))
            .arg("--key")
            .arg(self.path("key"))
            .args(["--name", "test/audit", "--json-lines"])
            .arg(self.path("lines"))
            .args(&self.more)
            .stdin(Stdio::from(far))
            .spawn()
            .unwrap();
        Auditor {
            process,
            channel: Channel(channel),
        }
    }

    /// Starts one and greets it; tells which event it wants first.
    fn greet(&self) -> (Auditor, u64) {
        let auditor = self.start();
        let session = self.session;
        auditor.say(&ToAuditor::Hello { session });
        let FromAuditor::Recorded { next } = auditor.hear() else {
            panic!("not a number");
        };
        (auditor, next)
    }

    fn key(&self) -> PublicKey {
        let text = fs::read_to_string(self.path("key.pub")).unwrap();
        text.trim_end().parse().unwrap()
    }

    fn judge(&self, what: &str) -> Report {
        load::evidence(&self.path(what))
            .unwrap()
            .judge(&[self.key()])
    }
}

impl Channel {
    fn say(&self, message: &ToAuditor) {
        let packet = message.encode().unwrap();
        send(self.0.as_fd(), &packet, &[]).unwrap();
    }

    fn submit(&self, n: u64, zone: &str, why: &str) {
        let event = Event::Fallback {
            driver: Text::from("softgpu"),
            why: Text::from(why),
        };
        self.say(&ToAuditor::Submit(Box::new(Submission {
            n,
            zone: zone.parse().unwrap(),
            stamp: Stamp::now(),
            what: What::Event(event),
        })));
    }

    fn hear(&self) -> FromAuditor {
        let mut buffer = [0; REPLY_LEN + 1];
        let packet = receive(self.0.as_fd(), &mut buffer).unwrap();
        assert!(packet.len > 0, "the auditor has gone");
        FromAuditor::decode(&buffer[..packet.len]).unwrap()
    }

    fn hear_recorded(&self, upto: u64) {
        while self.hear() != (FromAuditor::Recorded { next: upto }) {}
    }
}

impl Deref for Auditor {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl Auditor {
    /// Hangs up and waits for its end.
    fn finish(self) -> bool {
        let Self {
            mut process,
            channel,
        } = self;
        drop(channel);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = process.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn events_are_recorded_signed_and_sent_on() {
    let place = Place::new();
    let (auditor, next) = place.greet();
    assert_eq!(next, 0);
    for n in 0..300 {
        auditor.submit(n, ["a", "b"][usize::from(n % 2 == 0)], "busy");
    }
    auditor.hear_recorded(300);
    assert!(auditor.finish());
    for what in ["spool", "lines"] {
        let report = place.judge(what);
        assert_eq!(report.findings, [], "{what}");
        // log_opened, auditor_started, ours, auditor_stopped; all of it signed.
        assert_eq!((report.signed, report.leaves.1), (303, 303), "{what}");
    }
    let mode = fs::metadata(place.path("key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_is_sent_again_after_a_kill_is_recorded_once() {
    let place = Place::new();
    let mut first_unknown = 0;
    for round in 1..=8 {
        let (auditor, next) = place.greet();
        assert!(
            next >= first_unknown,
            "round {round}: {next}, and {first_unknown} were confirmed"
        );
        let end = round * 40;
        // A supervisor goes on with the first that nobody has confirmed, and sends the rest again.
        for n in next.saturating_sub(next.min(5))..end {
            auditor.submit(n, "a", "again");
        }
        let FromAuditor::Recorded { next } = auditor.hear() else {
            panic!("not a number");
        };
        first_unknown = next;
        std::thread::sleep(Duration::from_micros(round * 700));
        auditor.kill();
    }
    let (auditor, next) = place.greet();
    for n in next..320 {
        auditor.submit(n, "a", "again");
    }
    if next < 320 {
        auditor.hear_recorded(320);
    }
    assert!(auditor.finish());
    for what in ["spool", "lines"] {
        let report = place.judge(what);
        assert_eq!(report.findings, [], "{what}");
        assert_eq!(report.zones[&"a".parse().unwrap()], 320, "{what}");
        assert_eq!(report.signed, report.leaves.1, "{what}");
    }
}

#[test]
fn events_that_were_lost_show_as_a_gap() {
    let place = Place::new();
    let (auditor, _) = place.greet();
    auditor.say(&ToAuditor::Submit(Box::new(Submission {
        n: 0,
        zone: "a".parse().unwrap(),
        stamp: Stamp::now(),
        what: What::Lost(17),
    })));
    auditor.submit(1, "a", "after");
    auditor.hear_recorded(2);
    assert!(auditor.finish());
    let report = place.judge("lines");
    assert_eq!(
        (report.findings.len(), report.zones[&"a".parse().unwrap()]),
        (0, 18)
    );
}

#[test]
fn a_key_put_beside_the_old_one_replaces_it() {
    let place = Place::new();
    let (auditor, _) = place.greet();
    auditor.submit(0, "a", "old");
    auditor.hear_recorded(1);
    assert!(auditor.finish());
    let old = place.key();
    let next = SecretKey::draw("test/audit").unwrap();
    fs::write(place.path("key.next"), next.to_secret_text()).unwrap();
    let (auditor, first) = place.greet();
    assert_eq!(first, 1);
    auditor.submit(1, "a", "new");
    auditor.hear_recorded(2);
    assert!(auditor.finish());
    assert_eq!(place.key(), *next.public());
    assert!(!place.path("key.next").exists());
    // The note that both keys signed is older than the sinks of the auditor that wrote it, and is there all the same.
    for what in ["spool", "lines"] {
        let evidence = load::evidence(&place.path(what)).unwrap();
        let report = evidence.judge(std::slice::from_ref(&old));
        assert_eq!(
            (report.findings, report.key),
            (vec![], Some(next.public().clone())),
            "{what}"
        );
        assert_eq!(report.signed, report.leaves.1, "{what}");
    }
}

#[test]
fn nonsense_on_the_channel_ends_it_and_the_log_still_holds() {
    let place = Place::new();
    for packet in [&b"{}"[..], b"nonsense", br#"{"version":9,"hello":"00"}"#] {
        let (auditor, _) = place.greet();
        send(auditor.0.as_fd(), packet, &[]).unwrap();
        assert!(!auditor.finish());
    }
    let (auditor, _) = place.greet();
    auditor.submit(5, "a", "out of turn");
    assert!(!auditor.finish());
    assert_eq!(place.judge("spool").findings, []);
}

#[test]
fn started_by_hand_it_says_what_it_wants() {
    let place = Place::new();
    let output = Command::new(env!("CARGO_BIN_EXE_vgpu-auditor"))
        .arg("--spool")
        .arg(place.path("spool"))
        .arg("--key")
        .arg(place.path("key"))
        .args(["--name", "test/audit"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("started by gpu-proxy"), "{text}");
}

/// Takes nothing until it is told to.
struct Stubborn {
    willing: Arc<AtomicBool>,
    next: u64,
}

impl Sink for Stubborn {
    fn name(&self) -> String {
        "stubborn".into()
    }

    fn first_wanted(&self) -> u64 {
        self.next
    }

    fn begin(&mut self, _: &Chain) -> Result<(), SinkError> {
        Ok(())
    }

    fn block(&mut self, leaf: u64, _: &str, _: &[u8]) -> Result<Taken, SinkError> {
        if !self.willing.load(Ordering::Relaxed) {
            return Err(SinkError("not now".into()));
        }
        assert_eq!(leaf, self.next, "blocks come in order");
        self.next += 1;
        Ok(Taken::Yes)
    }

    fn checkpoint(&mut self, _: &str) -> Result<Taken, SinkError> {
        Ok(Taken::Yes)
    }

    fn settle(&mut self) -> Result<u64, SinkError> {
        Ok(self.next)
    }
}

#[test]
fn a_sink_that_takes_nothing_closes_the_zone_that_fills_its_share_and_opens_it_when_it_does() {
    let place = Place::new();
    let willing = Arc::new(AtomicBool::new(false));
    let kind = SockType::SeqPacket;
    let (channel, far) =
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let (spool, key) = (place.path("spool"), place.path("key"));
    let stubborn = Stubborn {
        willing: willing.clone(),
        next: 0,
    };
    let service = std::thread::spawn(move || {
        let mut arguments = Arguments::parse_from([
            "auditor",
            "--spool",
            "below",
            "--key",
            "below",
            "--name",
            "test/audit",
        ]);
        (arguments.spool, arguments.key) = (spool, key);
        arguments.share = 4000;
        Service::with_sinks(&arguments, far, |_| Ok(vec![Box::new(stubborn)]))
            .unwrap()
            .run()
    });
    let auditor = Channel(channel);
    let session = place.session;
    auditor.say(&ToAuditor::Hello { session });
    let zone: Zone = "a".parse().unwrap();
    let mut n = 0;
    let closed = FromAuditor::Closed { zone: zone.clone() };
    while auditor.hear() != closed {
        assert!(n < 100, "it never closes");
        auditor.submit(n, "a", "one more");
        n += 1;
    }
    // What still happens is recorded: there is headroom.
    auditor.submit(n, "a", "in the headroom");
    willing.store(true, Ordering::Relaxed);
    while auditor.hear() != (FromAuditor::Opened { zone: zone.clone() }) {}
    drop(auditor);
    service.join().unwrap().unwrap();
    let report = place.judge("spool");
    assert_eq!((report.findings, report.zones[&zone]), (vec![], n + 1));
}
