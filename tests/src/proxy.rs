//! A proxy of a test's own: directory, sockets, configuration, log; stopped and checked at the end.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::process::{Finished, Program, Watchdog};
use crate::system::{self, Identity};
use crate::{hang, place};

/// One zone of the configuration.
#[derive(Clone, Debug)]
pub struct Zone {
    name: String,
    lines: Vec<(String, String)>,
}

impl Zone {
    /// A zone with modest quotas and one warm worker.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            lines: Vec::new(),
        }
        .set("memory", "\"1GiB\"")
        .set("pinned", "\"64MiB\"")
        .set("clients", "8")
        .set("warm_workers", "1")
    }

    /// Sets a key of the zone to a TOML value.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.lines.retain(|(known, _)| known != key);
        self.lines.push((key.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn memory(self, size: &str) -> Self {
        self.set("memory", &format!("\"{size}\""))
    }

    #[must_use]
    pub fn pinned(self, size: &str) -> Self {
        self.set("pinned", &format!("\"{size}\""))
    }

    #[must_use]
    pub fn clients(self, count: u32) -> Self {
        self.set("clients", &count.to_string())
    }

    #[must_use]
    pub fn warm(self, count: u32) -> Self {
        self.set("warm_workers", &count.to_string())
    }
}

/// What a proxy is started with.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    zones: Vec<Zone>,
    driver_environment: Vec<(String, String)>,
    driver_library: Option<PathBuf>,
    driver_lines: Vec<(String, String)>,
    worker: Option<PathBuf>,
    proxy_lines: Vec<(String, String)>,
    policy: Option<String>,
    devices: Vec<(u32, String)>,
    audit: Option<String>,
    spool: Option<PathBuf>,
    monitor: Option<String>,
    api: Option<String>,
    watchdog: Watchdog,
}

impl Setup {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn zone(mut self, zone: Zone) -> Self {
        self.zones.push(zone);
        self
    }

    /// A variable of the workers' environment, for the software GPU's settings.
    #[must_use]
    pub fn driver_env(mut self, name: &str, value: &str) -> Self {
        self.driver_environment
            .push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another driver library than the software GPU beside the tests.
    #[must_use]
    pub fn driver_library(mut self, path: impl AsRef<Path>) -> Self {
        self.driver_library = Some(path.as_ref().to_path_buf());
        self
    }

    /// Another program in the place of the worker.
    #[must_use]
    pub fn worker(mut self, path: impl AsRef<Path>) -> Self {
        self.worker = Some(path.as_ref().to_path_buf());
        self
    }

    /// Sets a key of the section `[driver]` to a TOML value.
    #[must_use]
    pub fn driver(mut self, key: &str, value: &str) -> Self {
        self.driver_lines.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Sets a key of the section `[proxy]` to a TOML value.
    #[must_use]
    pub fn proxy(mut self, key: &str, value: &str) -> Self {
        self.proxy_lines.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A policy file for the zones.
    #[must_use]
    pub fn policy(mut self, text: &str) -> Self {
        self.policy = Some(text.to_owned());
        self
    }

    /// What may be granted of a device.
    #[must_use]
    pub fn device(mut self, ordinal: u32, memory: &str) -> Self {
        self.devices.push((ordinal, memory.to_owned()));
        self
    }

    /// Has an audit log kept in the proxy's directory, with further lines of the section `[audit]`.
    #[must_use]
    pub fn audit(mut self, lines: &str) -> Self {
        self.audit = Some(lines.to_owned());
        self
    }

    /// Has the audit log kept there instead.
    #[must_use]
    pub fn spool(mut self, folder: impl AsRef<Path>) -> Self {
        self.spool = Some(folder.as_ref().to_path_buf());
        self
    }

    /// Has the driver asked what workers hold, with further lines of the section `[monitor]`.
    #[must_use]
    pub fn monitor(mut self, lines: &str) -> Self {
        self.monitor = Some(lines.to_owned());
        self
    }

    /// Has metrics served, with the lines of the section `[api]`.
    #[must_use]
    pub fn api(mut self, lines: &str) -> Self {
        self.api = Some(lines.to_owned());
        self
    }

    /// Another patience with what the proxy is waited for.
    #[must_use]
    pub fn watchdog(mut self, limit: Duration) -> Self {
        self.watchdog = Watchdog(limit);
        self
    }

    fn configuration(&self, directory: &Path) -> String {
        let mut text = String::from("[proxy]\n");
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        let library = self.driver_library.clone().unwrap_or_else(place::softgpu);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "runtime_dir = {}", quoted(&directory.join("run")));
        let worker = self
            .worker
            .clone()
            .unwrap_or_else(|| place::built("vgpu-worker"));
        let _ = writeln!(text, "worker = {}", quoted(&worker));
        for (key, value) in &self.proxy_lines {
            let _ = writeln!(text, "{key} = {value}");
        }
        if self.policy.is_some() {
            let _ = writeln!(text, "policy = {}", quoted(&policy_file(directory)));
        }
        let _ = writeln!(
            text,
            "\n[driver]\nkind = \"softgpu\"\nlibrary = {}",
            quoted(&library)
        );
        for (key, value) in &self.driver_lines {
            let _ = writeln!(text, "{key} = {value}");
        }
        if !self.driver_environment.is_empty() {
            let _ = writeln!(text, "\n[driver.env]");
            for (name, value) in &self.driver_environment {
                let _ = writeln!(text, "{name} = {value:?}");
            }
        }
        if let Some(lines) = &self.audit {
            let _ = writeln!(
                text,
                "\n[audit]\nspool = {}\nkey = {}\nname = \"test/audit\"\n{lines}",
                quoted(
                    &self
                        .spool
                        .clone()
                        .unwrap_or_else(|| directory.join("spool"))
                ),
                quoted(&directory.join("audit.key"))
            );
        }
        if let Some(lines) = &self.monitor {
            let library = quoted(&place::softgpu_nvml());
            let _ = writeln!(text, "\n[monitor]\nlibrary = {library}\n{lines}");
        }
        if let Some(lines) = &self.api {
            let _ = writeln!(text, "\n[api]\n{lines}");
        }
        for (ordinal, memory) in &self.devices {
            let _ = writeln!(
                text,
                "\n[[device]]\nordinal = {ordinal}\nmemory = {memory:?}"
            );
        }
        for zone in &self.zones {
            let _ = writeln!(text, "\n[[zone]]\nname = {:?}", zone.name);
            for (key, value) in &zone.lines {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }

    /// Starts `gpu-proxy serve` and waits until every zone accepts clients.
    ///
    /// # Panics
    /// If it does not come up, with its log.
    pub fn start(mut self) -> Proxy {
        if self.zones.is_empty() {
            self = self.zone(Zone::new("default"));
        }
        let directory = tempfile::Builder::new()
            .prefix("vgpu-")
            .tempdir()
            .expect("the temporary directory is writable");
        fs::create_dir(directory.path().join("run")).expect("the directory is ours");
        let configuration = self.configuration(directory.path());
        fs::write(configuration_file(directory.path()), configuration)
            .expect("the directory is ours");
        if let Some(policy) = &self.policy {
            fs::write(policy_file(directory.path()), policy).expect("the directory is ours");
        }
        let remoted = directory.path().join("remoted");
        link_library(&remoted, &place::libvgpu());
        symlink(place::libvgpu_nvml(), remoted.join("libnvidia-ml.so.1"))
            .expect("the directory is ours");
        let log_path = directory.path().join("proxy.log");
        let log = fs::File::create(&log_path).expect("the directory is ours");
        let mut proxy = Proxy {
            child: serve(directory.path(), log),
            directory,
            log_path,
            zones: self.zones.iter().map(|zone| zone.name.clone()).collect(),
            watchdog: self.watchdog,
            stopped: None,
        };
        proxy.wait_until_ready();
        proxy
    }
}

fn serve(directory: &Path, log: fs::File) -> Child {
    Command::new(place::built("gpu-proxy"))
        .arg("serve")
        .arg("--config")
        .arg(configuration_file(directory))
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor is to be had"))
        .stderr(log)
        .process_group(0)
        .spawn()
        .expect("gpu-proxy starts")
}

fn configuration_file(directory: &Path) -> PathBuf {
    directory.join("gpu-proxy.toml")
}

fn policy_file(directory: &Path) -> PathBuf {
    directory.join("policy.toml")
}

/// Makes `directory` one that holds `library` as `libcuda.so.1`.
pub fn link_library(directory: &Path, library: &Path) {
    fs::create_dir_all(directory).expect("the directory is ours");
    for name in ["libcuda.so.1", "libcuda.so"] {
        let link = directory.join(name);
        let _ = fs::remove_file(&link);
        symlink(library, link).expect("the directory is ours");
    }
}

/// The same where several tests may come at once: all make the same links, and the first one's stay.
pub fn link_once(directory: &Path, library: &Path) {
    if directory.join("libcuda.so.1").exists() {
        return;
    }
    let parent = directory
        .parent()
        .expect("a directory of ours has a parent");
    let draft = tempfile::tempdir_in(parent).expect("the profile directory is writable");
    link_library(&draft.path().join("links"), library);
    let _ = fs::rename(draft.path().join("links"), directory);
}

/// The directory that holds the software GPU's driver as `libcuda.so.1`.
pub fn direct_directory() -> PathBuf {
    let directory = place::profile().join("vgpu-test-direct");
    link_once(&directory, &place::softgpu());
    directory
}

/// A program that runs directly on the software GPU, with no proxy.
pub fn direct(program: impl AsRef<Path>) -> Program {
    Program::new(program).env("LD_LIBRARY_PATH", direct_directory())
}

/// A running proxy. Dropped, it is stopped, and the test fails if it did not stop cleanly.
#[derive(Debug)]
pub struct Proxy {
    directory: tempfile::TempDir,
    log_path: PathBuf,
    child: Child,
    zones: Vec<String>,
    watchdog: Watchdog,
    stopped: Option<ExitStatus>,
}

impl Proxy {
    /// A proxy with one zone, `default`.
    pub fn start() -> Self {
        Setup::new().start()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn socket(&self, zone: &str) -> PathBuf {
        self.directory
            .path()
            .join("run")
            .join(zone)
            .join("gpu.sock")
    }

    /// The directory that holds `libcuda.so.1`, ours.
    pub fn library_directory(&self) -> PathBuf {
        self.directory.path().join("remoted")
    }

    /// A program that runs in the first zone.
    pub fn program(&self, program: impl AsRef<Path>) -> Program {
        self.program_in(&self.zones[0], program)
    }

    pub fn program_in(&self, zone: &str, program: impl AsRef<Path>) -> Program {
        Program::new(program)
            .env("LD_LIBRARY_PATH", self.library_directory())
            .env("VGPU_SOCKET", self.socket(zone))
            // A host that stalls for a while fails no test.
            .env("VGPU_ATTACH_TIMEOUT", "60")
            .log(&self.log_path)
    }

    /// The Rust test client in the first zone.
    pub fn client(&self, scenario: &str) -> Program {
        self.program(place::client()).arg(scenario)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log_path).unwrap_or_default()
    }

    /// What `vgpuctl status --json` says.
    pub fn status(&self) -> Value {
        let finished = self.vgpuctl(&["status", "--json"]).expect_success();
        serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("status is not JSON ({error}):\n{}", finished.stdout))
    }

    /// `vgpuctl` with a command that asks the proxy.
    pub fn vgpuctl(&self, command: &[&str]) -> Finished {
        Program::new(place::built("vgpuctl"))
            .args(command)
            .arg("--socket")
            .arg(self.directory.path().join("run/admin.sock"))
            .log(&self.log_path)
            .run()
    }

    /// `vgpuctl audit` with a command over a log.
    pub fn audit(&self, command: &str, log: &Path) -> Program {
        Program::new(place::built("vgpuctl"))
            .args(["audit", command, "--log"])
            .arg(log)
            .log(&self.log_path)
    }

    /// `vgpuctl audit verify` over a log that the proxy's key signs.
    pub fn verify(&self, log: &Path) -> Program {
        let key = self.directory.path().join("audit.key.pub");
        self.audit("verify", log).arg("--key").arg(key)
    }

    /// Whether lines of the log hold, by `vgpuctl` and by the verifier that was written from the documentation alone.
    ///
    /// # Panics
    /// If one of them finds fault.
    pub fn expect_verified(&self, lines: &Path) {
        self.verify(lines).run().expect_success();
        let key = self.directory.path().join("audit.key.pub");
        let key = fs::read_to_string(key).expect("the auditor has published it");
        Program::new("/usr/bin/env")
            .arg("python3")
            .arg(place::repository().join("tests/audit/verify.py"))
            .arg(key.trim())
            .arg(lines)
            .run()
            .expect_success();
    }

    /// The audit log's folder, where the proxy was set up with one and no other place for it.
    pub fn spool(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    /// What the audit log has so far, a line each.
    pub fn recorded(&self) -> String {
        self.tail().expect_success().stdout
    }

    fn tail(&self) -> Finished {
        let tail = self.audit("tail", &self.spool());
        tail.args(["-n", "1000000"]).run()
    }

    /// Waits until the audit log has an event of this name that holds all of `words`.
    ///
    /// # Panics
    /// If it never does.
    pub fn wait_until_recorded(&self, event: &str, words: &[&str]) {
        self.wait_until(&format!("{event} {words:?} in the log"), |proxy| {
            // An auditor that just starts has no log yet.
            let recorded = proxy.tail().stdout;
            let mut lines = recorded.lines();
            lines.any(|line| {
                line.contains(&format!(" {event} {{"))
                    && words.iter().all(|word| line.contains(word))
            })
        });
    }

    /// The policy file, where the proxy was set up with one.
    pub fn policy_file(&self) -> PathBuf {
        policy_file(self.directory.path())
    }

    /// Writes the policy file anew and runs `vgpuctl policy reload`.
    pub fn reload(&self, policy: &str) -> Finished {
        fs::write(self.policy_file(), policy).expect("the directory is ours");
        self.vgpuctl(&["policy", "reload"])
    }

    /// Its processes: the proxy itself first, then what it started.
    pub fn family(&self) -> Vec<Identity> {
        system::family(self.pid())
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// If it never does, with `what` and the log.
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        hang::expect_progress(self.watchdog.0);
        let deadline = Instant::now() + self.watchdog.0;
        while !condition(self) {
            assert!(
                Instant::now() < deadline,
                "never: {what}\n--- log\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a process id fits"));
        let _ = kill(pid, signal);
    }

    /// Ends it with SIGTERM and checks that it took everything with it.
    ///
    /// # Panics
    /// If it hangs, fails or leaves a process or a socket behind.
    pub fn stop(mut self) {
        self.stop_checked();
    }

    /// Kills it with SIGKILL and waits until its workers are gone too.
    pub fn kill(mut self) {
        let family = self.family();
        self.signal(Signal::SIGKILL);
        self.stopped = Some(self.child.wait().expect("the proxy is ours to wait for"));
        self.expect_gone(&family);
    }

    /// Kills it with SIGKILL and, when everything of it is gone, starts another in its place.
    pub fn kill_and_restart(&mut self) {
        let family = self.family();
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait().expect("the proxy is ours to wait for");
        self.expect_gone(&family);
        // The one that was killed left them there.
        for zone in &self.zones {
            let _ = fs::remove_file(self.socket(zone));
        }
        let _ = fs::remove_file(self.admin_socket());
        let log = fs::File::options().append(true).open(&self.log_path);
        self.child = serve(self.directory.path(), log.expect("it is ours"));
        self.wait_until_ready();
    }

    /// Ends it like [`Self::stop`], and what it leaves can still be looked at.
    pub fn end(&mut self) {
        self.stop_checked();
    }

    fn admin_socket(&self) -> PathBuf {
        self.directory.path().join("run/admin.sock")
    }

    fn stop_checked(&mut self) {
        if self.stopped.is_some() {
            return;
        }
        let family = self.family();
        self.signal(Signal::SIGTERM);
        let status = self.wait_for_end();
        assert!(
            status.code() == Some(0),
            "the proxy ended with code {:?} signal {:?}\n--- log\n{}",
            status.code(),
            status.signal(),
            self.log()
        );
        self.expect_gone(&family);
        for zone in &self.zones {
            let socket = self.socket(zone);
            assert!(
                !socket.exists(),
                "{} was left behind\n--- log\n{}",
                socket.display(),
                self.log()
            );
        }
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + self.watchdog.0;
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .expect("the proxy is ours to wait for")
            {
                self.stopped = Some(status);
                return status;
            }
            if Instant::now() > deadline {
                let threads = system::thread_report(self.pid());
                self.end_by_force();
                panic!(
                    "the proxy did not end on SIGTERM\nthreads:\n{threads}--- log\n{}",
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn expect_gone(&self, family: &[Identity]) {
        self.wait_until("the proxy's processes are gone", |_| {
            !family.iter().any(Identity::is_alive)
        });
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + self.watchdog.0;
        let admin = self.admin_socket();
        loop {
            let sockets = self.zones.iter().all(|zone| self.socket(zone).exists());
            if sockets && admin.exists() {
                break;
            }
            if let Some(status) = self
                .child
                .try_wait()
                .expect("the proxy is ours to wait for")
            {
                self.stopped = Some(status);
                panic!(
                    "the proxy ended at once ({status})\n--- log\n{}",
                    self.log()
                );
            }
            assert!(
                Instant::now() < deadline,
                "the proxy does not come up\n--- log\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn end_by_force(&mut self) {
        let family = self.family();
        for process in family.iter().filter(|process| process.is_alive()) {
            if let Ok(pid) = i32::try_from(process.pid) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        self.stopped = self.child.wait().ok();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.stopped.is_some() {
            return;
        }
        if std::thread::panicking() {
            self.end_by_force();
            eprintln!("--- log of the proxy\n{}", self.log());
        } else {
            self.stop_checked();
        }
    }
}
