//! Running a program under a watchdog, with all it wrote kept.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::{hang, system};

/// When a run counts as hung. Generous: it never decides a test that makes progress.
#[derive(Clone, Copy, Debug)]
pub struct Watchdog(pub Duration);

impl Default for Watchdog {
    fn default() -> Self {
        let seconds = std::env::var("VGPU_TEST_WATCHDOG")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(120);
        Self(Duration::from_secs(seconds))
    }
}

/// What reaches a program from the environment of the tests.
const PASSED_ON: [&str; 8] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "RUST_BACKTRACE",
    "CUDA_TOOLCHAIN_DIR",
    "KAFKA_DIR",
    "PYTHON_CLIENTS_DIR",
];

/// A program that is about to run.
#[derive(Debug)]
pub struct Program {
    command: Command,
    path: PathBuf,
    watchdog: Watchdog,
    /// Added to the report of a hang: the proxy's log, say.
    log: Option<PathBuf>,
}

impl Program {
    /// A program with an environment of its own: only what a test names reaches it.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        let mut command = Command::new(&path);
        command.env_clear();
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        Self {
            command,
            path,
            watchdog: Watchdog::default(),
            log: None,
        }
    }

    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    #[must_use]
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    #[must_use]
    pub fn watchdog(mut self, limit: Duration) -> Self {
        self.watchdog = Watchdog(limit);
        self
    }

    #[must_use]
    pub fn log(mut self, log: impl AsRef<Path>) -> Self {
        self.log = Some(log.as_ref().to_path_buf());
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Finished {
        let mut running = self.start();
        running.close_input();
        running.finish()
    }

    /// Starts it and returns; what it writes is collected.
    pub fn start(mut self) -> Running {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        hang::expect_progress(self.watchdog.0);
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.path.display()));
        let stdin = child.stdin.take();
        let stdout = Collector::of(child.stdout.take().expect("piped above"));
        let stderr = Collector::of(child.stderr.take().expect("piped above"));
        Running {
            name: self
                .path
                .file_name()
                .map_or_else(String::new, |name| name.display().to_string()),
            child,
            stdin,
            stdout,
            stderr,
            watchdog: self.watchdog,
            log: self.log,
            started: Instant::now(),
            reaped: None,
        }
    }
}

/// A program that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Collector,
    stderr: Collector,
    watchdog: Watchdog,
    log: Option<PathBuf>,
    started: Instant,
    reaped: Option<ExitStatus>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a line of its output starts with `start`, and returns that line.
    ///
    /// # Panics
    /// If the program ends or hangs before, with all it wrote.
    pub fn wait_for_line(&mut self, start: &str) -> String {
        let deadline = Instant::now() + self.watchdog.0;
        loop {
            if let Some(line) = self.stdout.line_with(start) {
                return line;
            }
            if let Some(status) = self.try_reap() {
                // What it wrote last may arrive after its end.
                self.stdout.wait_closed(Duration::from_secs(2));
                if let Some(line) = self.stdout.line_with(start) {
                    return line;
                }
                panic!(
                    "{} ended ({status}) before it wrote `{start}`\n{}",
                    self.name,
                    self.report()
                );
            }
            if Instant::now() > deadline {
                self.fail_hung(&format!("did not write `{start}`"));
            }
            self.stdout.wait(Duration::from_millis(20));
        }
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("the input is open");
        // A program that has died meanwhile shows in its status, not here.
        let _ = writeln!(stdin, "{line}");
    }

    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a process id fits"));
        // It may be gone already; that shows in its status.
        let _ = nix::sys::signal::kill(pid, signal);
    }

    pub fn is_running(&mut self) -> bool {
        self.try_reap().is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it hangs, with all it wrote and where its threads wait.
    pub fn finish(mut self) -> Finished {
        // From now: it may have run for long before, as it should.
        let deadline = Instant::now() + self.watchdog.0;
        let mut pause = Duration::from_micros(200);
        let status = loop {
            if let Some(status) = self.try_reap() {
                break status;
            }
            if Instant::now() > deadline {
                self.fail_hung("did not end");
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        };
        let wall = self.started.elapsed();
        // A child that it left behind may hold the pipes open; the text so far is what counts.
        self.stdout.wait_closed(Duration::from_secs(2));
        self.stderr.wait_closed(Duration::from_secs(2));
        Finished {
            name: self.name.clone(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
            code: status.code(),
            signal: status.signal(),
            wall,
        }
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(mut self) -> Finished {
        let _ = self.child.kill();
        self.close_input();
        self.finish()
    }

    fn try_reap(&mut self) -> Option<ExitStatus> {
        if self.reaped.is_none() {
            self.reaped = self
                .child
                .try_wait()
                .expect("the child is ours to wait for");
        }
        self.reaped
    }

    fn fail_hung(&mut self, what: &str) -> ! {
        let threads = system::thread_report(self.pid());
        self.kill_group();
        panic!(
            "{} {what} within {:?}; killed\nthreads:\n{threads}{}",
            self.name,
            self.watchdog.0,
            self.report()
        );
    }

    fn kill_group(&mut self) {
        if self.try_reap().is_none() {
            let group = Pid::from_raw(i32::try_from(self.pid()).expect("a process id fits"));
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }

    fn report(&self) -> String {
        let log = self
            .log
            .as_ref()
            .map(|path| std::fs::read_to_string(path).unwrap_or_default())
            .unwrap_or_default();
        format!(
            "--- stdout\n{}--- stderr\n{}--- log\n{log}",
            self.stdout.text(),
            self.stderr.text()
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// A program that ran to its end.
#[derive(Clone, Debug)]
pub struct Finished {
    pub name: String,
    pub stdout: String,
    pub stderr: String,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub wall: Duration,
}

impl Finished {
    /// # Panics
    /// Unless it ended with code 0.
    pub fn expect_success(self) -> Self {
        assert!(
            self.code == Some(0),
            "{} failed: {}",
            self.name,
            self.describe()
        );
        self
    }

    /// Says how a run through the proxy differs from this one, directly on the driver; also if both failed.
    pub fn difference(&self, remoted: &Finished) -> Option<String> {
        let same = self.stdout == remoted.stdout
            && (self.code, self.signal) == (remoted.code, remoted.signal)
            && self.code == Some(0);
        (!same).then(|| {
            format!(
                "=== {}\n*** direct: {}*** remoted: {}",
                self.name,
                self.describe(),
                remoted.describe()
            )
        })
    }

    pub fn describe(&self) -> String {
        format!(
            "code {:?} signal {:?} after {:?}\n--- stdout\n{}--- stderr\n{}",
            self.code, self.signal, self.wall, self.stdout, self.stderr
        )
    }
}

/// Collects a stream line by line.
#[derive(Clone, Debug)]
struct Collector(Arc<(Mutex<Collected>, Condvar)>);

#[derive(Debug, Default)]
struct Collected {
    bytes: Vec<u8>,
    closed: bool,
}

impl Collector {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let collector = Self(Arc::default());
        let shared = Arc::clone(&collector.0);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            loop {
                let mut line = Vec::new();
                let ended = matches!(reader.read_until(b'\n', &mut line), Ok(0) | Err(_));
                let mut collected = shared.0.lock().expect("no holder panics");
                collected.bytes.extend_from_slice(&line);
                collected.closed = ended;
                shared.1.notify_all();
                if ended {
                    return;
                }
            }
        });
        collector
    }

    fn text(&self) -> String {
        let collected = self.0.0.lock().expect("no holder panics");
        String::from_utf8_lossy(&collected.bytes).into_owned()
    }

    fn line_with(&self, start: &str) -> Option<String> {
        self.text()
            .lines()
            .find(|line| line.starts_with(start))
            .map(str::to_owned)
    }

    fn wait(&self, limit: Duration) {
        let collected = self.0.0.lock().expect("no holder panics");
        if !collected.closed {
            let _ = self.0.1.wait_timeout(collected, limit);
        } else {
            drop(collected);
            std::thread::sleep(limit.min(Duration::from_millis(2)));
        }
    }

    fn wait_closed(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut collected = self.0.0.lock().expect("no holder panics");
        while !collected.closed {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return;
            };
            collected = self
                .0
                .1
                .wait_timeout(collected, left)
                .expect("no holder panics")
                .0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_keeps_both_streams_and_the_code() {
        let finished = Program::new("/bin/sh")
            .args(["-c", "echo out; echo err >&2; exit 3"])
            .run();
        assert_eq!(finished.stdout, "out\n");
        assert_eq!(finished.stderr, "err\n");
        assert_eq!(finished.code, Some(3));
    }

    #[test]
    fn running_program_answers_line_by_line_and_dies_by_kill() {
        let mut running = Program::new("/bin/sh")
            .args(["-c", "echo ready; read line; echo got $line; sleep 600"])
            .start();
        running.wait_for_line("ready");
        running.tell("this");
        assert_eq!(running.wait_for_line("got"), "got this");
        assert_eq!(running.kill().signal, Some(9));
    }

    #[test]
    #[should_panic(expected = "did not end")]
    fn hung_program_is_killed_and_fails_the_test() {
        Program::new("/bin/sleep")
            .arg("600")
            .watchdog(Duration::from_millis(200))
            .run();
    }
}
