//! What the supervisor and the auditor record: one readable JSON document each.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::text::Text;

/// The zone of what concerns no tenant's. No tenant's zone can be called so.
pub const PROXY_ZONE: &str = "@proxy";

/// Most lines of a list in an event.
pub const MAX_LINES: usize = 64;

/// When something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// By the clock on the wall, as nanoseconds since 1970.
    pub wall_ns: u64,
    /// By the clock that only goes on.
    pub mono_ns: u64,
}

impl Stamp {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let since_1970 = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let mono = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_or(Duration::ZERO, Duration::from);
        Self {
            wall_ns: nanos(since_1970),
            mono_ns: nanos(mono),
        }
    }
}

/// Whom an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// Unique while its supervisor runs; 0 for one that never attached.
    pub id: u64,
    /// Its process, as the kernel told.
    pub pid: i32,
    /// Its user, as the kernel told.
    pub uid: u32,
    /// Its program, as it claims.
    pub program: Text,
    /// The process of its worker; 0 if it has none.
    pub worker: u32,
}

/// Something that happened. Fields are only ever added together with a new version of the block's form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
pub enum Event {
    /// The log begins. The first leaf, and only that.
    LogOpened {
        /// The public key that signs it.
        key: Text,
    },
    /// An auditor goes on with the log.
    AuditorStarted {
        /// Its version.
        version: Text,
    },
    /// An auditor ends in order.
    AuditorStopped {},
    /// A supervisor begins to serve.
    ProxyStarted {
        /// Its version.
        version: Text,
        /// Its process.
        pid: u32,
        /// The kind of driver.
        driver: Text,
        /// Path of the driver.
        path: Text,
        /// The policy file, empty where none is.
        policy: Text,
    },
    /// A supervisor ends in order.
    ProxyStopped {},
    /// A client has a worker and is served.
    Attach {
        /// Which.
        client: Client,
        /// Capability groups it is granted.
        groups: Text,
        /// Quota of its zone in bytes.
        memory: u64,
    },
    /// A client is gone, and so is its worker.
    Detach {
        /// Which.
        client: Client,
        /// Why.
        reason: Text,
        /// How its worker ended.
        how: Text,
        /// Forwarded calls, by the worker's word.
        calls: u64,
        /// Kernel launches, by the worker's word.
        launches: u64,
        /// Device memory that came back to the zone with it, in bytes.
        returned: u64,
    },
    /// A client was not let in.
    Refusal {
        /// Which.
        client: Client,
        /// Why.
        why: Text,
        /// Others that were refused since the last that is recorded.
        suppressed: u64,
    },
    /// The policy refused a call.
    Verdict {
        /// Whose.
        client: Client,
        /// Which function.
        call: Text,
        /// The groups it belongs to.
        groups: Text,
        /// The rule.
        rule: Text,
        /// How often so far.
        times: u64,
    },
    /// A limit refused a client something: what it asked for and how often is its worker's word. Memory that was asked
    /// of the supervisor is a refused grant, too.
    Denial {
        /// Whose.
        client: Client,
        /// Which: `memory`, `scrub`, `device`, `images`, `pinned`, `handles.KIND`, `objects without a handle`.
        limit: Text,
        /// How much or which number was asked for, in the limit's unit; 0 where the driver was asked.
        asked: u64,
        /// The rule that sets it, empty where none does.
        rule: Text,
        /// How often so far.
        times: u64,
    },
    /// Device memory was granted to a worker, or refused to it.
    Grant {
        /// Whose.
        client: Client,
        /// How much, in bytes.
        bytes: u64,
        /// Whether.
        granted: bool,
    },
    /// A zone's quota is another.
    QuotaChange {
        /// What is different.
        change: Text,
    },
    /// The policy was read again.
    PolicyReload {
        /// Its file.
        file: Text,
        /// Whether what it says now is in force.
        done: bool,
        /// What is different, or what is wrong.
        lines: Vec<Text>,
    },
    /// Memory that somebody else left was zeroed.
    Scrub {
        /// On which device.
        device: u32,
        /// How much, in bytes.
        bytes: u64,
    },
    /// Something is the matter with a device, or no more.
    DeviceState {
        /// Which.
        device: u32,
        /// `dirty` (and cannot be scrubbed), `suspect` (and cannot be probed), `lost`, `back` or `quarantined`.
        state: Text,
        /// Why.
        why: Text,
    },
    /// A worker died or broke the protocol.
    Fault {
        /// Whose.
        client: Client,
        /// What happened.
        what: Text,
    },
    /// Another driver than asked for.
    Fallback {
        /// What is used.
        driver: Text,
        /// Why.
        why: Text,
    },
    /// A worker was killed.
    Kill {
        /// Whose.
        client: Client,
        /// Why.
        why: Text,
    },
    /// An administrator did something.
    Admin {
        /// What.
        act: Text,
        /// Their user, as the kernel told.
        uid: u32,
        /// Their process, as the kernel told.
        pid: i32,
    },
    /// Another key signs from the checkpoint on that covers this; that one both keys sign.
    KeyRotated {
        /// The new public key.
        key: Text,
    },
    /// The end of the spool was torn off when its writer was killed.
    SpoolRecovered {
        /// The file.
        segment: Text,
        /// Where it was cut.
        offset: u64,
        /// Bytes that were there after it and made no whole frame.
        cut: u64,
    },
    /// Old segments were removed to make room; all that they held had been sent.
    SpoolRetired {
        /// The first leaf that was removed.
        from: u64,
        /// The first that is still there.
        to: u64,
    },
    /// Whether a topic that the log goes to keeps what is sent to it: at each start, and when it is different.
    TopicSettings {
        /// Its name.
        topic: Text,
        /// `good`, `wrong` or `unknown`.
        state: Text,
        /// What is wrong and what to do, or why nobody knows.
        lines: Vec<Text>,
    },
    /// Records are being dropped from here on: the zone's share of the spool is full.
    Dropping {
        /// Which share.
        why: Text,
    },
    /// As many records as this block counts are missing.
    Gap {
        /// Why.
        why: Text,
        /// Whether the number is a guess: whoever counted was killed.
        uncertain: bool,
    },
}

impl Event {
    /// Whether it must be on disk before anything else happens. Grants are many and follow from the others.
    #[must_use]
    pub fn is_security(&self) -> bool {
        !matches!(self, Self::Grant { .. } | Self::Scrub { .. })
    }

    /// Lines for [`Event::PolicyReload`]: the first few.
    #[must_use]
    pub fn lines(lines: &[String]) -> Vec<Text> {
        let lines = lines.iter().map(Text::new);
        lines.take(MAX_LINES).collect()
    }
}
