//! The admin socket: a `SOCK_STREAM` socket, one request line, one JSON document, end-of-file.
//!
//! The document that answers `status` is the documented, stable output of `vgpuctl status --json`. Within one [`SCHEMA`] number
//! fields are only ever added. Counters under `clients` other than `id`, `pid`, `uid`, `attached_seconds`,
//! `memory_granted` and `memory_measured` are claims of the client or of its worker.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Version of the document.
pub const SCHEMA: u32 = 1;

/// Asks for a [`Status`]; with its newline.
pub const STATUS_REQUEST: &str = "status 1\n";

/// Has the policy read again and asks for a [`Reload`]; with its newline.
pub const RELOAD_REQUEST: &str = "policy reload 1\n";

/// Asks for [`Allocations`]; the name of a zone follows, and a newline.
pub const ALLOCATIONS_REQUEST: &str = "allocations 1 ";

/// No request is longer.
pub const MAX_REQUEST_LEN: usize = 64;

/// No reply is longer; whoever reads one may stop there.
pub const MAX_REPLY_LEN: u64 = 64 << 20;

/// How long [`ask`] waits for the proxy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks at a socket; the document that answers, as it came.
///
/// # Errors
/// The system's: `NotFound` where there is no socket, `ConnectionRefused` where nobody listens any more,
/// `PermissionDenied` where this user may not ask.
pub fn ask(socket: &Path, request: &str) -> io::Result<Vec<u8>> {
    let mut socket = UnixStream::connect(socket)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    socket.take(MAX_REPLY_LEN).read_to_end(&mut reply)?;
    Ok(reply)
}

/// Everything there is to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The supervisor itself.
    pub proxy: Proxy,
    /// The devices whose memory processes share, by ordinal, that a worker has told of.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// The audit log; null where nothing is recorded.
    #[serde(default)]
    pub audit: Option<Audit>,
    /// Who compares what workers hold with what the driver says.
    #[serde(default)]
    pub monitor: Option<Monitor>,
    /// Who serves metrics; null where nobody is to.
    #[serde(default)]
    pub api: Option<Api>,
    /// In the order of the configuration.
    pub zones: Vec<Zone>,
}

/// Who serves metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Api {
    /// Where it is to listen.
    pub listen: String,
    /// Where it does; null while it does not.
    pub address: Option<String>,
    /// Its process; null while there is none.
    pub pid: Option<u32>,
    /// Why the last one ended, if none has served since.
    pub failure: Option<String>,
}

/// Who compares what workers hold with what the driver says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    /// `enforce` (a worker that holds too much ends), `report` (it is recorded) or `off`.
    pub mode: String,
    /// The management library that is asked.
    pub library: String,
    /// The process that asks; null while there is none.
    pub pid: Option<u32>,
    /// Devices that it looks at; null before it said so.
    pub devices: Option<u32>,
    /// When it last looked at all of them; null if it has not.
    pub swept_millis_ago: Option<u64>,
    /// Why the last one ended, if none has done its work since.
    pub failure: Option<String>,
}

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The folder that it is kept in.
    pub spool: String,
    /// The process that keeps it; null while there is none.
    pub auditor: Option<u32>,
    /// How long there has been none that listens; null if one does.
    pub away_seconds: Option<u64>,
    /// Events that wait for it.
    pub waiting: u64,
    /// Zones that may acquire and run nothing, because they cannot be recorded.
    pub closed: Vec<String>,
    /// Topics of Kafka that it is sent to.
    pub topics: Vec<String>,
}

/// The supervisor itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// Its package version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it has been running.
    pub uptime_seconds: u64,
    /// `running` or `stopping`.
    pub state: String,
    /// The driver its workers load.
    pub driver: Driver,
    /// The policy file in force; null where none is, and every zone may call everything.
    pub policy: Option<String>,
}

/// A driver library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Driver {
    /// `nvidia` or `softgpu`.
    pub kind: String,
    /// The library's absolute path.
    pub path: String,
    /// Why this one.
    pub why: String,
    /// What `cuDriverGetVersion` said in the last worker that started; null before the first.
    pub version: Option<u32>,
    /// What `cuDeviceGetCount` said there.
    pub device_count: Option<u32>,
}

/// A device, and whether its memory may hold what somebody left there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its ordinal.
    pub ordinal: u32,
    /// `lost` or `quarantined` (no new client sees it), `clean`, `dirty` (nothing is granted to other zones than those that left something) or `scrubbing` (nothing is
    /// granted to anybody).
    pub state: String,
    /// How long it has been so; null if it is clean.
    pub since_seconds: Option<u64>,
    /// Zones whose workers died there; empty also if it was used before the supervisor started.
    pub left_by: Vec<String>,
    /// Processes that were killed and do not go: what it is quarantined for.
    #[serde(default)]
    pub stuck: Vec<u32>,
    /// Scrubs, or probes, that failed in a row.
    pub failures: u32,
    /// Why the last one did, if it did.
    pub failure: Option<String>,
    /// Scrubs that were done since the supervisor started.
    pub scrubs: u64,
    /// Bytes that they zeroed.
    pub scrubbed_bytes: u64,
    /// How long they took, in microseconds.
    pub scrub_micros: u64,
}

/// One zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// Its socket.
    pub socket: String,
    /// Its quota of device memory, in bytes.
    pub memory_limit: u64,
    /// What its workers have been granted of it.
    pub memory_used: u64,
    /// What could be granted now: less than what the quota leaves where the device is full, or set aside for others.
    #[serde(default)]
    pub memory_room: u64,
    /// Its quota of pinned host memory per client, in bytes.
    pub pinned_limit: u64,
    /// Most clients at one time.
    pub client_limit: u32,
    /// Its further limits, by the keys of the configuration; sizes in bytes. What is not listed is not limited, or
    /// has the default.
    #[serde(default)]
    pub limits: BTreeMap<String, u64>,
    /// Capability groups it is granted.
    pub allow: Vec<String>,
    /// What says so.
    pub rule: String,
    /// Workers that wait for a client, driver initialised.
    pub warm_workers: u32,
    /// Workers that are starting.
    pub starting_workers: u32,
    /// Clients attached since the supervisor started.
    pub attached_total: u64,
    /// Clients refused since the supervisor started.
    pub refused_total: u64,
    /// Clients that had a worker and ended since the supervisor started, by the reason: `detached` (they left by
    /// themselves, or died), `worker_died`, `violation` (of the protocol), `overdrawn`, `stuck`, `policy`, `shutdown`.
    #[serde(default)]
    pub ended_total: BTreeMap<String, u64>,
    /// What its clients have done since the supervisor started, those who have left among them.
    #[serde(default)]
    pub totals: Totals,
    /// Why the software GPU serves its new clients instead of a device, if so.
    #[serde(default)]
    pub fallback: Option<String>,
    /// Why no worker is being started at the moment, if so.
    pub worker_failure: Option<String>,
    /// The jail of the worker that became ready last; empty before the first.
    #[serde(default)]
    pub jail: Vec<Layer>,
    /// By id.
    pub clients: Vec<Client>,
}

/// What clients have done, by the claims of their workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Forwarded calls.
    pub calls: u64,
    /// Kernel launches.
    pub launches: u64,
    /// Calls that the driver answered with an error.
    pub errors: u64,
    /// How long clients were made to wait by the zone's rates, in microseconds.
    pub paced_micros: u64,
}

/// One layer of a worker's jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its name; see [`crate::jail::Layer::NAMES`].
    pub name: String,
    /// `on`, `off` (not wanted), `missing` (the host does not offer it) or `log` (stops nothing).
    pub state: String,
    /// Why it is not on, or what is missing in it; may be empty.
    pub why: String,
}

/// What became of a [`RELOAD_REQUEST`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Whether what the file says now is in force. If not, the old policy stays.
    pub done: bool,
    /// The policy file, if the configuration names one.
    pub file: Option<String>,
    /// What is different, a line for each zone.
    pub changes: Vec<String>,
    /// What is wrong with the file.
    pub mistakes: Vec<String>,
}

/// What the clients of a zone hold; the answer to an [`ALLOCATIONS_REQUEST`]. All but ids, processes and names of
/// zones are claims of the workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocations {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The zone; null if there is none of that name.
    pub zone: Option<String>,
    /// Those that have a worker.
    pub holders: Vec<Holder>,
}

/// One client and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Unique while the supervisor runs.
    pub client: u64,
    /// Its process, as the kernel told.
    pub pid: i32,
    /// Its program, as it claims.
    pub program: String,
    /// Of each sort: how many.
    pub counts: BTreeMap<String, u64>,
    /// Of each sort that costs memory: bytes.
    pub bytes: BTreeMap<String, u64>,
    /// Piece by piece, largest first; the 4096 that came first.
    pub pieces: Vec<Piece>,
}

/// One allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// `memory`, `pooled`, `created`, `array`, `code`, `context` or `pinned`.
    pub kind: String,
    /// Its address, or the client's handle of it.
    pub id: u64,
    /// What it costs.
    pub bytes: u64,
    /// How long it has been there.
    pub age_seconds: u64,
}

/// One client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Unique while the supervisor runs.
    pub id: u64,
    /// Its process, as the kernel told.
    pub pid: i32,
    /// Its user, as the kernel told.
    pub uid: u32,
    /// Its program, as it claims.
    pub program: String,
    /// The process of its worker.
    pub worker_pid: u32,
    /// `attaching`, `running`, `ending`, or `stuck`: its worker was killed and does not go.
    pub state: String,
    /// How long it has been attached.
    pub attached_seconds: u64,
    /// Device memory granted to its worker, in bytes.
    pub memory_granted: u64,
    /// Device memory held, in bytes.
    pub memory_held: u64,
    /// What the driver says that its worker's process holds, in bytes; null where nobody has asked.
    #[serde(default)]
    pub memory_measured: Option<u64>,
    /// Forwarded calls.
    pub calls: u64,
    /// Kernel launches.
    pub launches: u64,
    /// Calls that the driver answered with an error.
    pub errors: u64,
    /// How long it was made to wait by the zone's rates, in microseconds.
    #[serde(default)]
    pub paced_micros: u64,
    /// Most launched kernels.
    pub kernels: Vec<Kernel>,
}

/// Launches of one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// How often.
    pub launches: u64,
}
