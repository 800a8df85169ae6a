//! The assumptions probe works before it meets a GPU: every check runs on the software GPU.
#![forbid(unsafe_code)]

use e2e::{Program, place};

#[test]
fn every_assumption_but_speed_holds_on_the_software_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let finished = Program::new(place::repository().join("tests/device-check/run.sh"))
        .arg(folder.path())
        .env("PART", "0")
        .env("PROBE_LIBRARY", place::softgpu())
        // Several gigabytes would only take time here.
        .env("SOFTGPU_MEMORY", "1G")
        .watchdog(std::time::Duration::from_secs(600))
        .run()
        .expect_success();
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
    let reports: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(reports.len(), 1, "{}", finished.describe());
    let report = std::fs::read_to_string(reports[0].path()).unwrap();
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
fn probe_without_a_driver_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let finished = Program::new(place::repository().join("tests/device-check/run.sh"))
        .arg(folder.path())
        .env("PROBE_LIBRARY", "/nonexistent/libcuda.so.1")
        .run();
    assert_eq!(finished.code, Some(1), "{}", finished.describe());
    assert!(
        finished.stderr.contains("PROBE_LIBRARY"),
        "{}",
        finished.describe()
    );
}
