//! The device check works before it meets a GPU: its parts run on the software GPU, with what that can do.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{Finished, Program, place};

fn script(folder: &Path, part: &str) -> Program {
    Program::new(place::repository().join("tests/device-check/run.sh"))
        .arg(folder)
        .env("PART", part)
        .env("VGPU_BINARIES", place::profile())
        .env("PROBE_LIBRARY", place::softgpu())
        // Several gigabytes would only take time here.
        .env("SOFTGPU_MEMORY", "1G")
        .watchdog(Duration::from_secs(900))
}

/// The one report in `folder`; part 7 leaves a record of codes beside it.
fn report(folder: &Path, finished: &Finished) -> String {
    let reports: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    assert_eq!(reports.len(), 1, "{}", finished.describe());
    std::fs::read_to_string(&reports[0]).unwrap()
}

/// Runs a part as on a GPU machine: every case that can run here is the same on both sides.
fn part(part: &str, cases: &str, at_least: usize) {
    let folder = tempfile::tempdir().unwrap();
    let finished = script(folder.path(), part)
        .env("PART_CASES", cases)
        .run()
        .expect_success();
    let report = report(folder.path(), &finished);
    let same = report.matches("| same |").count();
    assert!(same >= at_least, "{same} cases ran: {report}");
    assert!(!report.contains("**"), "a case differs:\n{report}");
}

#[test]
fn every_assumption_but_speed_holds_on_the_software_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let finished = script(folder.path(), "0").run().expect_success();
    // How fast this machine copies just now is for the benchmark; the probe reports it, a test does not judge it.
    let failing: Vec<_> = finished
        .stdout
        .lines()
        .filter(|line| {
            ["DOES NOT HOLD", "HUNG", "CRASHED", "FAILED"]
                .iter()
                .any(|verdict| line.trim_start().starts_with(verdict))
        })
        .filter(|line| !line.contains("of the speed of"))
        .collect();
    assert!(failing.is_empty(), "{failing:#?}\n{}", finished.describe());
    let report = report(folder.path(), &finished);
    for section in [
        "## Shared host memory",
        "## Private tables",
        "## Native cost of copies",
        "## Sum",
    ] {
        assert!(report.contains(section), "{section} is missing:\n{report}");
    }
    assert!(
        !report.contains("The check"),
        "a check crashed or hung:\n{report}"
    );
}

#[test]
fn driver_programs_are_the_same_natively_and_remoted() {
    part("1", "driver/", 15);
}

#[test]
fn costs_of_calls_are_measured_on_both_sides() {
    part("5", "probe context", 1);
}

#[test]
#[ignore = "minutes; `make test-full`"]
fn everything_the_software_gpu_can_do_is_the_same_natively_and_remoted() {
    for number in ["1", "2", "3", "4", "5", "6", "7"] {
        part(number, "", 0);
    }
}

#[test]
fn a_part_that_runs_again_replaces_its_section_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    for number in ["3", "2", "3"] {
        // Nothing of these runs without PyTorch and a GPU, which the report says.
        script(folder.path(), number)
            .env("PART_CASES", "matmul")
            .run()
            .expect_success();
    }
    let finished = script(folder.path(), "2").run().expect_success();
    let report = report(folder.path(), &finished);
    let heads: Vec<&str> = report
        .lines()
        .filter(|line| line.starts_with("# "))
        .collect();
    assert_eq!(heads.len(), 2, "{report}");
    assert!(heads[0].starts_with("# Part 2") && heads[1].starts_with("# Part 3"));
    assert!(report.contains("| torch_matmul | - | - | not run: "));
}

#[test]
fn what_differs_between_the_sides_is_called_so() {
    // What a program printed, natively and remoted, and what must be said of it.
    let script = r#"
from suite.cases import Case, Outcome, Side, compare, merge
def verdict(speaks, native, remoted):
    case = Case("case", [], speaks=speaks)
    outcome = Outcome(case, *(merge(case, [(code, text, "")], 1.0) for code, text in (native, remoted)))
    compare(outcome)
    print(outcome.verdict, *outcome.reasons, sep="|")
verdict("output", (0, "a"), (0, "a"))
verdict("output", (0, "a"), (0, "b"))
verdict("output", (0, "a"), (1, "a"))
verdict("output", (1, "a"), (1, "a"))
verdict("lines", (0, "value x 1.0 0.1"), (0, "value x 1.05 0.1"))
verdict("lines", (0, "value x 1.0"), (0, "value x 1.05"))
verdict("lines", (0, "value x nan"), (0, "value x nan"))
verdict("lines", (0, "nothing"), (0, "nothing"))
"#;
    let finished = Program::new("python3")
        .args(["-c", script])
        .env("PYTHONPATH", place::repository().join("tests/device-check"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .run()
        .expect_success();
    let said: Vec<&str> = finished
        .stdout
        .lines()
        .map(|line| line.split('|').next().unwrap_or_default())
        .collect();
    let right = [
        "same",
        "DIFFERS",
        "DIFFERS",
        "FAILS NATIVELY",
        "same",
        "DIFFERS",
        "DIFFERS",
        "DIFFERS",
    ];
    assert_eq!(said, right, "{}", finished.stdout);
}

#[test]
fn wrong_use_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let none = script(folder.path(), "0")
        .env("PROBE_LIBRARY", "/nonexistent/libcuda.so.1")
        .run();
    assert_eq!(none.code, Some(1), "{}", none.describe());
    assert!(none.stderr.contains("PROBE_LIBRARY"), "{}", none.describe());
    let unknown = script(folder.path(), "77").run();
    assert_eq!(unknown.code, Some(2), "{}", unknown.describe());
    assert!(unknown.stderr.contains("--list"), "{}", unknown.describe());
    let unbuilt = script(folder.path(), "1")
        .env("VGPU_BINARIES", "/nonexistent")
        .run();
    assert_eq!(unbuilt.code, Some(1), "{}", unbuilt.describe());
    assert!(
        unbuilt.stderr.contains("cargo build --release"),
        "{}",
        unbuilt.describe()
    );
}
