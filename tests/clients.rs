//! CUDA programs in Python that others wrote compute the same directly on the software GPU and through the proxy.
//!
//! `tests/clients/fetch.sh` installs numba-cuda, CuPy and tinygrad; `examples/python` has a program on each, which
//! compares its results with NumPy.
#![forbid(unsafe_code)]

use std::time::Duration;

use e2e::{Program, Proxy, Setup, Zone, place, proxy};

/// What CuPy's compiled kernels have as PTX: machine code for all else.
const CAPABILITY: (&str, &str) = ("SOFTGPU_COMPUTE_CAPABILITY", "12.0");

/// Importing and compiling take their time on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);

fn start_proxy() -> Proxy {
    Setup::new()
        .zone(Zone::new("default").memory("1GiB").warm(1))
        .driver_env(CAPABILITY.0, CAPABILITY.1)
        .start()
}

fn check(example: &str) {
    let Some(python) = place::python_clients() else {
        return;
    };
    let proxy = start_proxy();
    let run = |program: Program| {
        program
            .args(["-W", "ignore"])
            .arg(place::repository().join("examples/python").join(example))
            .watchdog(LIMIT)
            .run()
    };
    let direct = run(proxy::direct(&python).env(CAPABILITY.0, CAPABILITY.1));
    let remoted = run(proxy.program(&python));
    if let Some(difference) = direct.difference(&remoted) {
        panic!(
            "{example}: {difference}\n--- log of the proxy\n{}",
            proxy.log()
        );
    }
    assert_eq!(direct.stdout.lines().last(), Some("PASSED"), "{example}");
}

#[test]
fn numba_kernels_compute_the_same() {
    check("numba_kernels.py");
}

#[test]
fn cupy_arrays_compute_the_same() {
    check("cupy_arrays.py");
}

#[test]
fn tinygrad_tensors_compute_the_same() {
    check("tinygrad_tensors.py");
}
