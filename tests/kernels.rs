//! Every kernel of the corpus computes on the software GPU what its host half computes.
//!
//! `tests/programs/kernels` holds CUDA C of our own, a theme a file. Each theme is one program for the host and
//! PTX from several compilers, targets and levels of optimisation; here each program runs on each, directly on
//! the software GPU. `make programs` builds a few of the combinations, `make all-kernels` every one. Each theme is
//! also a program of each CUDA runtime; those, and the one on the Driver API, run through the proxy as well.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use e2e::{Program, Setup, Zone, place, proxy};

/// Optimised for the software GPU's own target; with debug information and for the oldest target; by the
/// run-time compiler.
const FEW: [&str; 3] = ["nvcc-90", "nvcc-75-debug", "nvrtc-80"];

/// The builds that lie here, by name: PTX files, one a theme.
fn builds() -> BTreeMap<String, Vec<PathBuf>> {
    let folder = place::programs().join("kernels");
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let mut builds = BTreeMap::new();
    for path in list(&folder) {
        let mut files = list(&path);
        files.retain(|file| file.extension().is_some_and(|extension| extension == "ptx"));
        if let Some(name) = path.file_name()
            && !files.is_empty()
        {
            builds.insert(name.to_string_lossy().into_owned(), files);
        }
    }
    if builds.is_empty() {
        place::skip_without_toolchain(&folder, "kernels");
    }
    builds
}

/// The compute capability that a build was made for, the first number of its name; at least the default.
fn capability(build: &str) -> String {
    let target = build.split('-').find_map(|part| part.parse::<u32>().ok());
    let target = target.unwrap_or(0).max(90);
    format!("{}.{}", target / 10, target % 10)
}

/// Runs every theme of a build; what went wrong, and how many tests ran.
fn run(build: &str, files: &[PathBuf], failures: &mut Vec<String>) -> u32 {
    let mut count = 0;
    for file in files {
        let theme = file.file_stem().unwrap_or_default();
        let program = place::programs().join("kernels/bin").join(theme);
        let finished = proxy::direct(program)
            .env("SOFTGPU_COMPUTE_CAPABILITY", capability(build))
            .arg(file)
            .run();
        let last = finished.stdout.lines().next_back().unwrap_or_default();
        let ran = last
            .split_once(" tests, ")
            .and_then(|(count, _)| count.parse::<u32>().ok());
        count += ran.unwrap_or(0);
        if finished.code != Some(0) || ran.is_none() {
            failures.push(format!("=== {build} {}", finished.describe()));
        }
    }
    count
}

fn check(chosen: impl Fn(&str) -> bool) {
    let (mut failures, mut count) = (Vec::new(), 0);
    let builds = builds();
    for (build, files) in builds.iter().filter(|(build, _)| chosen(build)) {
        let ran = run(build, files, &mut failures);
        println!("{build}: {} themes, {ran} tests", files.len());
        count += ran;
    }
    assert!(
        failures.is_empty(),
        "{} runs failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(builds.is_empty() || count > 0, "nothing was run");
}

/// A build of the host half: its folder, and where in the toolchain the shared runtime lies that it needs.
const HOSTS: [(&str, Option<&str>); 5] = [
    ("bin", None),
    ("static-13.5", None),
    ("shared-13.5", Some("cu13/lib")),
    ("static-12.9", None),
    ("shared-12.9", Some("cu12/lib")),
];

#[test]
fn kernels_through_the_proxy_and_each_runtime_compute_the_same() {
    let builds = builds();
    let Some(files) = builds.get(FEW[0]) else {
        return;
    };
    let proxy = Setup::new()
        .zone(Zone::new("default").memory("4GiB").warm(2))
        .start();
    let mut faults = Vec::new();
    for (host, runtime) in HOSTS {
        for file in files {
            let theme = file.file_stem().unwrap_or_default();
            let path = place::programs().join("kernels").join(host).join(theme);
            let run = |program: Program, driver: &Path| {
                let mut search = driver.as_os_str().to_owned();
                if let Some(runtime) = runtime {
                    search.push(":");
                    search.push(place::toolchain().join(runtime));
                }
                program.env("LD_LIBRARY_PATH", search).arg(file).run()
            };
            let direct = run(proxy::direct(&path), &proxy::direct_directory());
            let remoted = run(proxy.program(&path), &proxy.library_directory());
            if let Some(difference) = direct.difference(&remoted) {
                faults.push(format!("{host}: {difference}"));
            }
        }
        println!("{host}: {} themes", files.len());
    }
    assert!(
        faults.is_empty(),
        "{}\n--- log of the proxy\n{}",
        faults.join("\n"),
        proxy.log()
    );
}

#[test]
fn kernels_of_a_few_builds_compute_what_the_host_does() {
    check(|build| FEW.contains(&build));
}

#[test]
#[ignore = "the cross product of compilers, targets and options: `make all-kernels` first"]
fn kernels_of_every_other_build_compute_what_the_host_does() {
    check(|build| !FEW.contains(&build));
}
