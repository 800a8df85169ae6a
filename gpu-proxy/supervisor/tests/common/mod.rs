//! A supervisor of its own for each test: own folder, own sockets, the fake worker.

#![allow(dead_code, reason = "each test program uses its part")]

pub mod shared;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use idm_protocol::attach::client::{AttachError, Attachment, attach};
use idm_protocol::attach::{Capabilities, Hello, RefusalCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy_channel::admin::{STATUS_REQUEST, Status};

/// What the fake worker says it was generated from.
pub const TABLE_HASH: u64 = 0x7ab1e;

/// Long enough for a machine under load; nobody waits for it when things go well.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Proxy {
    pub child: Child,
    pub folder: tempfile::TempDir,
}

pub fn fake_worker() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/fake-worker");
    assert!(
        path.exists(),
        "{} is missing: run `cargo test -p supervisor`, which builds it",
        path.display()
    );
    path
}

impl Proxy {
    /// Starts a supervisor with these zones, given as `[[zone]]` tables.
    pub fn start(zones: &str) -> Self {
        Self::start_with("", "", zones)
    }

    pub fn start_with(proxy: &str, env: &str, zones: &str) -> Self {
        Self::start_on("softgpu", "", proxy, env, zones)
    }

    /// With a driver of a kind, and further lines of `[driver]`.
    pub fn start_on(kind: &str, driver: &str, proxy: &str, env: &str, zones: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_at(folder, (kind, driver), proxy, env, zones)
    }

    /// Starts one whose zones (and other tables) name its own folder, with further lines of `[proxy]`.
    pub fn start_in(proxy: &str, zones: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let zones = zones(folder.path());
        Self::start_at(folder, ("softgpu", ""), proxy, "", &zones)
    }

    fn start_at(
        folder: tempfile::TempDir,
        (kind, driver): (&str, &str),
        proxy: &str,
        env: &str,
        zones: &str,
    ) -> Self {
        fs::write(folder.path().join("libsoft.so"), "").unwrap();
        let config = format!(
            "[proxy]\nruntime_dir = \"{0}/run\"\nworker = \"{1}\"\nlog_level = \"debug\"\n{proxy}\n\
             [driver]\nkind = \"{kind}\"\nlibrary = \"{0}/libsoft.so\"\nenv = {{ {env} }}\n{driver}\n{zones}",
            folder.path().display(),
            fake_worker().display(),
        );
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let child = spawn(folder.path());
        let proxy = Self { child, folder };
        proxy.wait_for_log("gpu-proxy serves");
        proxy
    }

    pub fn socket(&self, zone: &str) -> PathBuf {
        self.folder.path().join("run").join(zone).join("gpu.sock")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("log line {text:?} in\n{}", self.log()), || {
            self.log().contains(text)
        });
    }

    pub fn attach(&self, zone: &str, program: &str) -> Result<Attachment, AttachError> {
        attach(&self.socket(zone), &hello(program), PATIENCE)
    }

    pub fn refusal(&self, zone: &str, program: &str) -> (RefusalCode, String) {
        refusal(self.attach(zone, program))
    }

    pub fn status(&self) -> Status {
        let mut socket = UnixStream::connect(self.folder.path().join("run/admin.sock")).unwrap();
        socket.write_all(STATUS_REQUEST.as_bytes()).unwrap();
        let mut reply = Vec::new();
        socket.read_to_end(&mut reply).unwrap();
        serde_json::from_slice(&reply).unwrap()
    }

    pub fn wait_for_status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        wait_until(what, || wanted(&self.status()));
        self.status()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for the supervisor to end.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the supervisor to end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Descriptors that the supervisor has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// Processes that the supervisor has started and not waited for.
    pub fn children(&self) -> Vec<i32> {
        let pid = self.child.id();
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        list.split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the supervisor\n{}", self.log());
        }
    }
}

pub fn spawn(folder: &Path) -> Child {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    Command::new(env!("CARGO_BIN_EXE_gpu-proxy"))
        .args(["serve", "--config"])
        .arg(folder.join("config.toml"))
        .env("SECRET", "must not reach a worker")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

pub fn hello(program: &str) -> Hello {
    Hello::new(TABLE_HASH, Capabilities::ALL, 0b111, program)
}

pub fn refusal(attached: Result<Attachment, AttachError>) -> (RefusalCode, String) {
    match attached {
        Err(AttachError::Refused { code, text }) => (code, text),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub const ZONE_A: &str = "[[zone]]\nname = \"a\"\nmemory = \"1GiB\"\npinned = \"32MiB\"\n";
