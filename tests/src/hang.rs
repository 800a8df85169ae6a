//! Ends a test program that gets nowhere: whatever a test forgot to bound, the others still run and the run ends.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::system;

/// A test does nothing that is seen here for at most so long.
const PATIENCE: Duration = Duration::from_secs(480);

static DEADLINE: Mutex<Option<Instant>> = Mutex::new(None);

/// A program starts, or something is waited for, and should be over after `limit`.
pub fn expect_progress(limit: Duration) {
    static WATCHER: Once = Once::new();
    let next = Instant::now() + limit + PATIENCE;
    let mut deadline = DEADLINE.lock().unwrap_or_else(PoisonError::into_inner);
    *deadline = (*deadline).max(Some(next));
    drop(deadline);
    WATCHER.call_once(|| {
        thread::Builder::new()
            .name("hang".into())
            .spawn(watch)
            .expect("a thread can be started");
    });
}

fn watch() {
    loop {
        let deadline = *DEADLINE.lock().unwrap_or_else(PoisonError::into_inner);
        match deadline.and_then(|deadline| deadline.checked_duration_since(Instant::now())) {
            Some(left) => thread::sleep(left.min(Duration::from_secs(5))),
            None => end(),
        }
    }
}

/// Tells where everything waits, and ends it.
fn end() -> ! {
    let family = system::family(std::process::id());
    let mut report =
        String::from("hung: no test has started a program or waited for one for far too long\n");
    for process in &family {
        let threads = system::thread_report(process.pid);
        let _ = write!(report, "{} {}\n{threads}", process.pid, process.name);
    }
    // Not by a macro: what those print is kept for the report of a test that will never be.
    let _ = std::io::stderr().write_all(report.as_bytes());
    for process in family.iter().skip(1) {
        process.kill();
    }
    std::process::exit(101);
}
