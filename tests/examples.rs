//! Every example in C and Rust passes, directly on the software GPU and through the proxy, with the same output.
//!
//! Those in Python are run by `clients.rs`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use e2e::{Program, Setup, Zone, place, proxy};

/// The programs that sources in `folder` of `examples/` are built to: a source is what ends with `extension`.
fn programs(folder: &str, extension: &str) -> Vec<PathBuf> {
    let sources = place::repository().join("examples").join(folder);
    let mut programs: Vec<PathBuf> = std::fs::read_dir(&sources)
        .expect("the examples are part of the repository")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .filter_map(|path| Some(place::examples().join(path.file_stem()?)))
        .collect();
    programs.sort();
    assert!(!programs.is_empty(), "no sources in {}", sources.display());
    programs
}

fn check(programs: &[PathBuf]) {
    let proxy = Setup::new()
        .zone(Zone::new("default").memory("1GiB").warm(2))
        .start();
    for path in programs {
        let folder = path.parent().expect("a program lies in a folder");
        let run = |program: Program| program.directory(folder).run();
        let direct = run(proxy::direct(path));
        let remoted = run(proxy.program(path));
        assert_eq!(
            direct.difference(&remoted),
            None,
            "--- log of the proxy\n{}",
            proxy.log()
        );
        let last = direct.stdout.lines().last();
        assert_eq!(last, Some("PASSED"), "{}", direct.describe());
    }
}

#[test]
fn cuda_c_examples_pass_and_are_the_same() {
    let programs = programs("cuda-c", "cu");
    if !programs.iter().all(|path| path.exists()) {
        place::skip_without_toolchain(&place::examples(), "examples in CUDA C");
        return;
    }
    check(&programs);
}

#[test]
fn driver_api_examples_pass_and_are_the_same() {
    let programs = programs("driver-api", "c");
    for path in &programs {
        assert!(
            path.exists(),
            "{} is missing: run `make programs` first",
            path.display()
        );
    }
    check(&programs);
}

#[test]
fn rust_example_passes_and_is_the_same() {
    check(&[place::built("rust-cudarc")]);
}
