//! What a zone pays for its protection, and for its neighbours.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::{Proxy, Setup, Zone};
use idm_protocol::attach::client::attach;
use idm_protocol::attach::socket::send;
use idm_protocol::attach::{Capabilities, Hello};
use idm_protocol::memory::{Mapped, Memory};
use idm_protocol::sync::Ordering;
use idm_protocol::wire::TABLE_HASH;

use crate::report::{Goal, Result as Measured};
use crate::{Outcome, TURNS, Turns, remoted, this_program};

const RATE: &str = "launch-rate";

/// What an operator can turn off is off: no jail, no policy, no watch over work that stands still.
fn unprotected() -> Proxy {
    Setup::new().driver("jail", "\"off\"").zone(zone()).start()
}

/// All of it is on.
fn protected() -> Proxy {
    let policy = "version = 1\n[[zone]]\nname = \"bench\"\nallow = [\"compute\", \"memory\", \"jit\"]\nmemory = \"512MiB\"\n";
    Setup::new()
        .policy(policy)
        .zone(zone().set("stuck_after", "\"60s\""))
        .start()
}

fn zone() -> Zone {
    Zone::new("bench").memory("1GiB").pinned("128MiB").warm(2)
}

/// Launches with the checks that can be turned off on, against the same with them off.
pub fn checks() -> Outcome<Measured> {
    let (with, without) = (protected(), unprotected());
    let (mut value, mut reference) = (Turns::default(), Turns::default());
    // One turn differs from the next by more than the goal allows for.
    for _ in 0..4 * TURNS {
        value.add(&remoted(&with, "launch"), RATE);
        reference.add(&remoted(&without, "launch"), RATE);
    }
    with.stop();
    without.stop();
    let mut result = Measured::new(
        "checks",
        "1/s",
        value.p50.median(),
        reference.p50.median(),
        Goal::RatioAtLeast(0.97),
    );
    result.what = "launches in a row with jail, policy and watchdog, against the same without them; handles, sizes and quotas are checked in both";
    Ok(result)
}

/// Launches beside a zone that breaks the protocol all the time, against the same beside one that works.
pub fn neighbour() -> Outcome<Measured> {
    let proxy = Setup::new()
        .zone(zone())
        .zone(Zone::new("other").clients(4).warm(1))
        .start();
    let (mut value, mut reference) = (Turns::default(), Turns::default());
    for _ in 0..TURNS {
        let mut works = proxy
            .program_in("other", e2e::place::client())
            .arg("until-error")
            .start();
        works.wait_for_line("works");
        reference.add(&remoted(&proxy, "launch"), RATE);
        works.kill();
        let torments = Tormentor::start(&proxy.socket("other"))?;
        value.add(&remoted(&proxy, "launch"), RATE);
        torments.stop();
    }
    let ended = proxy.log().matches("it is ended").count();
    proxy.stop();
    let mut result = Measured::new(
        "hostile_neighbour",
        "1/s",
        value.p50.median(),
        reference.p50.median(),
        Goal::RatioAtLeast(0.9),
    );
    result.what = "launches in a row beside a zone that attaches and breaks the protocol all the time, against the same beside one that works";
    // Counts are far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    result.part("clients that were ended meanwhile", ended as f64);
    Ok(result)
}

/// A process that runs [`torment`].
struct Tormentor(Child);

impl Tormentor {
    fn start(socket: &Path) -> Outcome<Self> {
        let child = Command::new(this_program())
            .arg("--torment")
            .arg(socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    fn stop(mut self) {
        // It has ended if the proxy has.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Attaches, fills the shared memory with ones, speaks where it may not, and again, until it is killed.
pub fn torment(socket: &Path) -> Outcome<()> {
    loop {
        // Any window will do: nothing is mapped there.
        let hello = Hello::new(TABLE_HASH, Capabilities::ALL, u32::MAX, "hostile");
        let Ok(attached) = attach(socket, &hello, Duration::from_secs(30)) else {
            // The zone may be full for a moment while the last one's worker ends.
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        for word in Mapped::new(&attached.control)?.words() {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        // Its worker may sleep and not look; the supervisor does not.
        let _ = send(attached.lifeline.as_fd(), b"one more thing", &[]);
        while !attached.lifeline.is_cut() {
            std::thread::yield_now();
        }
    }
}
