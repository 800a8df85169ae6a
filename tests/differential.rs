//! Every program gives the same output and exit code directly and through the proxy.
//!
//! The programs are those of `tests/programs`, built by `make programs`: Driver API programs in C and
//! unmodified CUDA C programs in four builds. The coverage table rests on what Driver API programs say that
//! they show, so those run with a trace, and each must have called all that it lists.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use e2e::{Finished, Program, Proxy, Setup, Zone, place, proxy};

/// A folder of built programs and what the loader needs for them beside the driver.
struct Build {
    folder: &'static str,
    /// Where in the toolchain the shared CUDA runtime lies, if the build needs it.
    runtime: Option<&'static str>,
}

const DRIVER: Build = Build {
    folder: "driver",
    runtime: None,
};
const STATIC_13: Build = Build {
    folder: "static-13.5",
    runtime: None,
};
const SHARED_13: Build = Build {
    folder: "shared-13.5",
    runtime: Some("cu13/lib"),
};
const STATIC_12: Build = Build {
    folder: "static-12.9",
    runtime: None,
};
const SHARED_12: Build = Build {
    folder: "shared-12.9",
    runtime: Some("cu12/lib"),
};

impl Build {
    /// The programs of this build by name.
    ///
    /// # Panics
    /// If there are none, with what to do; unless the toolchain they need is not installed here.
    fn programs(&self) -> Vec<PathBuf> {
        let folder = place::programs().join(self.folder);
        let mut programs: Vec<PathBuf> = std::fs::read_dir(&folder)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        programs.sort();
        if programs.is_empty() {
            assert!(
                self.folder != "driver",
                "{} holds no programs: run `make programs` first",
                folder.display()
            );
            place::skip_without_toolchain(&folder, "CUDA C programs");
        }
        programs
    }

    /// Lets the loader find the shared runtime behind the driver's directory.
    fn prepare(&self, program: Program, driver: &Path) -> Program {
        match self.runtime {
            Some(runtime) => {
                let search = format!(
                    "{}:{}",
                    driver.display(),
                    place::toolchain().join(runtime).display()
                );
                program.env("LD_LIBRARY_PATH", search)
            }
            None => program,
        }
    }
}

fn two_client_proxy() -> Proxy {
    Setup::new()
        .zone(Zone::new("default").memory("1GiB").warm(2))
        .start()
}

fn run_direct(build: &Build, path: &Path) -> Finished {
    build
        .prepare(proxy::direct(path), &proxy::direct_directory())
        .run()
}

fn run_remoted(build: &Build, proxy: &Proxy, path: &Path) -> Finished {
    build
        .prepare(proxy.program(path), &proxy.library_directory())
        .run()
}

/// As [`run_remoted`], for a Driver API program; also what it lists as shown and did not call.
fn run_traced(proxy: &Proxy, path: &Path) -> (Finished, Vec<String>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let trace = proxy.directory().join(format!("{name}.trace"));
    let finished = proxy
        .program(path)
        .env("VGPU_LOG", "trace")
        .env("VGPU_LOG_FILE", &trace)
        .run();
    let trace = std::fs::read_to_string(&trace).unwrap_or_default();
    let called = calls(&trace);
    let claimed = claims(&name);
    let missing = claimed
        .into_iter()
        .filter(|claim| !called.contains(claim.as_str()))
        .collect();
    (finished, missing)
}

/// The exported functions that libvgpu says were called: `vgpu[7] trace: cuInit -> CUDA_SUCCESS in 1ms`.
fn calls(trace: &str) -> BTreeSet<&str> {
    trace
        .lines()
        .filter_map(|line| line.split_once(" trace: ")?.1.split_once(" -> "))
        .map(|(name, _)| name)
        .collect()
}

/// What the opening comment of a program's source lists: `shows: cuA, cuB`, over as many lines as end with a
/// comma.
fn claims(program: &str) -> Vec<String> {
    let source = place::repository()
        .join("tests/programs/driver")
        .join(format!("{program}.c"));
    let text = std::fs::read_to_string(&source).unwrap_or_else(|error| {
        panic!(
            "{program} was built from no source that is here ({}: {error}): remove target/programs \
             and run `make programs`",
            source.display()
        )
    });
    let comment: Vec<&str> = text
        .lines()
        .map_while(|line| line.strip_prefix("//"))
        .collect();
    let mut claims = Vec::new();
    let mut listing = false;
    for line in comment.iter().map(|line| line.trim()) {
        let list = match line.strip_prefix("shows:") {
            Some(list) => list,
            None if listing => line,
            None => continue,
        };
        let names = list.split(',').map(str::trim);
        claims.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
        listing = list.ends_with(',');
    }
    assert!(
        !claims.is_empty(),
        "{program} does not say which functions it shows (`shows:` in its opening comment)"
    );
    claims
}

fn check(build: &Build) {
    let programs = build.programs();
    if programs.is_empty() {
        return;
    }
    let proxy = two_client_proxy();
    let differences: Vec<String> = programs
        .iter()
        .filter_map(|path| run_direct(build, path).difference(&run_remoted(build, &proxy, path)))
        .collect();
    assert!(
        differences.is_empty(),
        "{} of {} programs of {} differ or fail:\n{}\n--- log of the proxy\n{}",
        differences.len(),
        programs.len(),
        build.folder,
        differences.join("\n"),
        proxy.log()
    );
    println!("{}: {} programs the same", build.folder, programs.len());
}

#[test]
fn driver_api_programs_are_the_same_and_call_what_they_say_they_show() {
    let programs = DRIVER.programs();
    let proxy = two_client_proxy();
    let mut faults = Vec::new();
    for path in &programs {
        let direct = run_direct(&DRIVER, path);
        let (remoted, missing) = run_traced(&proxy, path);
        faults.extend(direct.difference(&remoted));
        if !missing.is_empty() {
            faults.push(format!(
                "=== {}\nnever called, although it claims to show them: {}",
                remoted.name,
                missing.join(", ")
            ));
        }
    }
    assert!(
        faults.is_empty(),
        "{}\n--- log of the proxy\n{}",
        faults.join("\n"),
        proxy.log()
    );
    println!("driver: {} programs the same", programs.len());
}

#[test]
fn trace_names_the_form_that_was_called() {
    let trace =
        "vgpu[7] trace: cuMemcpy_ptds -> CUDA_SUCCESS in 1.000ms\nvgpu[7] info: attached -> zone";
    assert_eq!(calls(trace), BTreeSet::from(["cuMemcpy_ptds"]));
}

#[test]
fn programs_with_static_cudart_13_are_the_same() {
    check(&STATIC_13);
}

#[test]
fn programs_with_shared_cudart_13_are_the_same() {
    check(&SHARED_13);
}

#[test]
fn programs_with_static_cudart_12_are_the_same() {
    check(&STATIC_12);
}

#[test]
fn programs_with_shared_cudart_12_are_the_same() {
    check(&SHARED_12);
}

/// The test client's scenarios that end by themselves.
const SCENARIOS: &[&str] = &[
    "devices",
    "vector-add",
    "cycles",
    "context-cycles",
    "threads",
    "poll",
    "host-function",
    "busy-stream",
    "bad-calls",
    "fault",
];

#[test]
fn client_scenarios_are_the_same() {
    let proxy = Setup::new()
        // The zone's quota is the device's memory, so that both runs see the same device.
        .zone(Zone::new("default").memory("1GiB").warm(2))
        .driver_env("SOFTGPU_MEMORY", "1G")
        .start();
    let differences: Vec<String> = SCENARIOS
        .iter()
        .filter_map(|scenario| {
            let direct = proxy::direct(place::client())
                .env("SOFTGPU_MEMORY", "1G")
                .arg(scenario)
                .run();
            let remoted = proxy.client(scenario).run();
            direct
                .difference(&remoted)
                .map(|text| format!("=== scenario {scenario}\n{text}"))
        })
        .collect();
    assert!(
        differences.is_empty(),
        "{}\n--- log\n{}",
        differences.join("\n"),
        proxy.log()
    );
}

#[test]
fn visible_devices_are_the_same_and_within_the_zones_own() {
    let zone = |name: &str, devices: &str| Zone::new(name).set("devices", devices).warm(0);
    let proxy = Setup::new()
        .zone(zone("all", "[0, 1, 2]"))
        .zone(zone("two", "[2, 0]"))
        .driver_env("SOFTGPU_DEVICES", "3")
        .driver_env("SOFTGPU_MEMORY", "1G")
        .start();
    let direct = |visible: Option<&str>| {
        let program = proxy::direct(place::client())
            .env("SOFTGPU_DEVICES", "3")
            .env("SOFTGPU_MEMORY", "1G")
            .arg("devices");
        match visible {
            Some(visible) => program.env("CUDA_VISIBLE_DEVICES", visible).run(),
            None => program.run(),
        }
    };
    let remoted = |zone: &str, visible: Option<&str>| {
        let program = proxy.program_in(zone, place::client()).arg("devices");
        match visible {
            Some(visible) => program.env("CUDA_VISIBLE_DEVICES", visible).run(),
            None => program.run(),
        }
    };
    let second = "GPU-76677075-2d73-8f66-b467-707500000001";
    let choices = [None, Some("1"), Some("2,1"), Some("0,7,1"), Some(second)];
    for visible in choices {
        let expected = direct(visible);
        let found = remoted("all", visible);
        assert_eq!(expected.difference(&found), None, "{visible:?}");
    }
    // Nothing is left: the same error on both sides.
    // One prefix fits every device.
    for visible in ["", "-1", "0,0", "GPU-7"] {
        let (expected, found) = (direct(Some(visible)), remoted("all", Some(visible)));
        assert_eq!(expected.stderr, found.stderr, "{visible:?}");
        assert_eq!(
            (expected.code, found.code),
            (Some(1), Some(1)),
            "{visible:?}"
        );
    }
    // A zone's devices are chosen and ordered by its configuration; what a program asks for is among them.
    for (asked, given) in [
        (None, "2,0"),
        (Some("1"), "0"),
        (Some("1,0"), "0,2"),
        (Some("0,2"), "2"),
    ] {
        let (expected, found) = (direct(Some(given)), remoted("two", asked));
        assert_eq!(expected.difference(&found), None, "{asked:?}");
    }
}

#[test]
fn two_clients_at_once_both_get_their_own_results() {
    let proxy = two_client_proxy();
    for _ in 0..5 {
        let first = proxy.client("vector-add").arg("200000").start();
        let second = proxy.client("vector-add").arg("150001").start();
        for running in [first, second] {
            let mut running = running;
            running.close_input();
            running.finish().expect_success();
        }
    }
    let programs = STATIC_13.programs();
    let find = |name: &str| programs.iter().find(|path| path.ends_with(name));
    if let (Some(matmul), Some(vector_add)) = (find("matmul"), find("vectorAdd")) {
        let expected = [
            run_direct(&STATIC_13, matmul),
            run_direct(&STATIC_13, vector_add),
        ];
        let running = [
            proxy.program(matmul).start(),
            proxy.program(vector_add).start(),
        ];
        for (running, expected) in running.into_iter().zip(expected) {
            let mut running = running;
            running.close_input();
            let seen = running.finish();
            assert_eq!(expected.difference(&seen), None);
        }
    }
}
