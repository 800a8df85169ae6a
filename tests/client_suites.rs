//! The tests that CUDA programs in Python ship, run directly on the software GPU and through the proxy.
//!
//! `make client-suites` runs them. Each file of tests is one process each way, so that a fault ends that file alone.
//! A test must end the same way both times, and none may fail that `tests/clients/skips.txt` does not name with its
//! reason. What was counted is written to `target/client-suites.md`.
//!
//! `CLIENT_SUITES` chooses: files whose line in `tests/clients/files.txt` contains one of its words.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;
use std::time::Duration;

use e2e::{Finished, Program, Setup, Zone, place, proxy};

/// What CuPy's compiled kernels have as PTX.
const CAPABILITY: (&str, &str) = ("SOFTGPU_COMPUTE_CAPABILITY", "12.0");

/// When a file of tests is given up; its tests up to then count.
const FILE_SECONDS: u64 = 1800;

/// How each test of a file ended, sorted: `passed FILE::CLASS::TEST`. A test with parts has a line of each.
struct Outcomes(Vec<String>);

impl Outcomes {
    fn count(&self, outcome: &str) -> usize {
        self.named(outcome).count()
    }

    fn named(&self, outcome: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter_map(move |line| line.strip_prefix(outcome)?.strip_prefix(' '))
    }
}

#[derive(Default)]
struct Sum {
    files: usize,
    passed: [usize; 2],
    failed: [usize; 2],
    skipped: [usize; 2],
}

/// Suite and file, of each line of the list that is chosen.
fn chosen_files() -> Vec<(String, String)> {
    let list = fs::read_to_string(place::repository().join("tests/clients/files.txt"))
        .expect("the list is part of the repository");
    let words = std::env::var("CLIENT_SUITES").unwrap_or_default();
    let words: Vec<&str> = words.split_whitespace().collect();
    list.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter(|line| words.is_empty() || words.iter().any(|word| line.contains(word)))
        .filter_map(|line| line.split_once(' '))
        .map(|(suite, file)| (suite.to_owned(), file.to_owned()))
        .collect()
}

/// Runs one file's tests with `program`, which runs `timeout`.
fn run(program: Program, python: &Path, file: &str, log: &Path) -> (Finished, Outcomes) {
    let clients = place::repository().join("tests/clients");
    // A package's module by its name; else a file in the folder of suites.
    let target = if file.ends_with(".py") {
        place::clients_directory()
            .join("suites")
            .join(file)
            .into_os_string()
    } else {
        file.into()
    };
    let _ = fs::remove_file(log);
    let finished = program
        .args(["-k", "10", &FILE_SECONDS.to_string()])
        .arg(python)
        .args(["-W", "ignore", "-m", "pytest", "-q", "--tb=short"])
        .args(["-p", "no:cacheprovider", "-p", "outcomes"])
        .args([
            "--import-mode=importlib",
            "-o",
            "consider_namespace_packages=true",
        ])
        .arg("--rootdir")
        .arg(place::clients_directory())
        .arg("--pyargs")
        .arg(target)
        .env("PYTHONPATH", &clients)
        .env("SKIPS", clients.join("skips.txt"))
        .env("OUTCOMES", log)
        .watchdog(Duration::from_secs(FILE_SECONDS + 60))
        .run();
    let mut lines: Vec<String> = fs::read_to_string(log)
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    (finished, Outcomes(lines))
}

#[test]
#[ignore = "long: `make client-suites`"]
fn client_suites_end_the_same() {
    let Some(python) = place::python_clients() else {
        return;
    };
    let proxy = Setup::new()
        .zone(Zone::new("default").memory("4GiB").pinned("512MiB").warm(1))
        .driver_env(CAPABILITY.0, CAPABILITY.1)
        .start();
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    let mut faults = Vec::new();
    for (suite, file) in chosen_files() {
        let log = |side| proxy.directory().join(side);
        // At the same time, since the programs mostly compile, each on one core.
        let (direct, remoted) = thread::scope(|scope| {
            let direct = proxy::direct("/usr/bin/timeout").env(CAPABILITY.0, CAPABILITY.1);
            let direct = scope.spawn(|| run(direct, &python, &file, &log("direct")));
            let remoted = run(
                proxy.program("/usr/bin/timeout"),
                &python,
                &file,
                &log("through-proxy"),
            );
            let direct = direct.join();
            (direct.unwrap_or_else(|panic| resume_unwind(panic)), remoted)
        });
        println!(
            "{file}: {} passed directly, {} through the proxy",
            direct.1.count("passed"),
            remoted.1.count("passed")
        );
        let sum = sums.entry(suite).or_default();
        sum.files += 1;
        for (side, (finished, outcomes)) in [&direct, &remoted].into_iter().enumerate() {
            sum.passed[side] += outcomes.count("passed");
            sum.failed[side] += outcomes.count("failed");
            sum.skipped[side] += outcomes.count("skipped");
            // 5: no test was collected, as where all of a module is skipped.
            let ended = matches!(finished.code, Some(0 | 5));
            if outcomes.count("failed") > 0 || !ended {
                let names: Vec<&str> = outcomes.named("failed").collect();
                faults.push(format!(
                    "=== {file}, {}: {}\n{}",
                    ["directly", "through the proxy"][side],
                    names.join(", "),
                    finished.describe()
                ));
            }
        }
        if direct.1.0 != remoted.1.0 {
            faults.push(format!("=== {file}: not the same both ways"));
        }
    }
    let table = table(&sums);
    print!("{table}");
    fs::write(place::repository().join("target/client-suites.md"), &table)
        .expect("target is writable");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn table(sums: &BTreeMap<String, Sum>) -> String {
    let mut text = String::from(
        "| suite | files | passed: direct, remoted | failed: direct, remoted | skipped |\n|---|---|---|---|---|\n",
    );
    for (suite, sum) in sums {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {suite} | {} | {}, {} | {}, {} | {} |",
            sum.files, sum.passed[0], sum.passed[1], sum.failed[0], sum.failed[1], sum.skipped[0]
        );
    }
    text
}
