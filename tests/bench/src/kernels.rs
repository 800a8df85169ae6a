//! Kernels on the software GPU against the same loops in C: one thread each, by turns in one process.
//!
//! `tests/programs/bench` holds the loops, the kernels and their PTX; `make bench` compiles the loops twice.
#![forbid(unsafe_code)]

use std::error::Error;

use e2e::{place, proxy};

use crate::report::{Goal, Result as Measured};
use crate::sample::Samples;
use crate::{Lines, TURNS};

/// Name of the result, name of the kernel, what it is; whether the goal is held to it.
const KERNELS: [(&str, &str, &str, bool); 7] = [
    (
        "softgpu_matmul",
        "matmul",
        "product of 256 x 256 single-precision matrices; rows, columns, inner product",
        true,
    ),
    (
        "softgpu_nbody",
        "nbody",
        "forces between 1024 bodies, all pairs, in order",
        true,
    ),
    (
        "softgpu_reduction",
        "reduction",
        "sum of 2^20 integers: strided, then a tree in shared memory; in C one loop",
        true,
    ),
    (
        "softgpu_black_scholes",
        "black_scholes",
        "2^16 options, exponentials and logarithms approximate in the kernel and the library's in C",
        true,
    ),
    (
        "softgpu_vector_add",
        "vector_add",
        "2^20 sums, an element a thread",
        false,
    ),
    (
        "softgpu_saxpy",
        "saxpy",
        "2^20 elements in a grid-stride loop",
        false,
    ),
    (
        "softgpu_histogram",
        "histogram",
        "2^20 bytes into 256 bins, atomically in shared memory",
        false,
    ),
];

const MEGABYTE_GOAL: f64 = 0.5e9;

/// One run of a build with so many threads.
fn run(build: &str, threads: &str) -> std::result::Result<Lines, Box<dyn Error>> {
    let program = place::programs().join("bench").join(build);
    if !program.exists() {
        let what = "the loops to compare with are not built: `make bench` does it";
        return Err(format!("{}: {what}", program.display()).into());
    }
    let program = proxy::direct(program).env("SOFTGPU_THREADS", threads);
    Ok(crate::measure(program))
}

fn compiler(build: &str) -> String {
    let path = place::programs().join(format!("bench/{build}.compiler"));
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Kernel and loop, medians over turns.
#[derive(Default)]
struct Pair {
    kernel: Samples,
    host: Samples,
}

impl Pair {
    fn add(&mut self, lines: &Lines, name: &str) {
        let (kernel, host) = lines.get(name).copied().unwrap_or((f64::NAN, f64::NAN));
        self.kernel.add(kernel);
        self.host.add(host);
    }
}

/// Every kernel, and how long a megabyte of PTX takes to load.
pub fn measure() -> std::result::Result<Vec<Measured>, Box<dyn Error>> {
    let (mut plain, mut native, mut two) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        plain.push(run("O2", "1")?);
        native.push(run("O3-native", "1")?);
        two.push(run("O2", "2")?);
    }
    println!(
        "bench: kernels against {} (and {})",
        compiler("O2"),
        compiler("O3-native")
    );
    let collect = |runs: &[Lines], name: &str| {
        let mut pair = Pair::default();
        runs.iter().for_each(|lines| pair.add(lines, name));
        pair
    };
    let mut results = Vec::new();
    for (name, kernel, what, judged) in KERNELS {
        let (one, fast, both) = (
            collect(&plain, kernel),
            collect(&native, kernel),
            collect(&two, kernel),
        );
        let goal = if judged {
            Goal::RatioAtMost(10.0)
        } else {
            Goal::Information
        };
        let mut result = Measured::new(name, "ns", one.kernel.median(), one.host.median(), goal);
        result.what = what;
        result.part("the loop with -O3 -march=native", fast.host.median());
        result.part("the kernel with two threads", both.kernel.median());
        results.push(result);
    }
    let load = collect(&plain, "load");
    let mut result = Measured::new(
        "softgpu_load_1m",
        "ns",
        load.kernel.median(),
        MEGABYTE_GOAL,
        Goal::RatioAtMost(1.0),
    );
    result.what = "cuModuleLoadData of a megabyte of PTX text, against the goal of 0.5 s";
    results.push(result);
    Ok(results)
}
