//! Times kernels on the software GPU against the same loops in Rust, one thread each.
//!
//! `cargo run --release -p softgpu-core --example kernels [KERNEL]`
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use support::{Arguments, Program};

/// What the calling thread has used of the processor: the same on a busy machine.
fn processor_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call only writes the structure it is handed.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn best(mut f: impl FnMut()) -> Duration {
    let times = (0..15).map(|_| {
        let start = processor_time();
        f();
        processor_time() - start
    });
    times.min().unwrap_or_default()
}

fn wanted(name: &str) -> bool {
    std::env::args()
        .nth(1)
        .is_none_or(|kernel| name.starts_with(&kernel))
}

fn alone(name: &str, ours: impl FnMut()) {
    if wanted(name) {
        println!("{name:<16} {:>10.2?}", best(ours));
    }
}

fn compare(name: &str, ours: impl FnMut(), host: impl FnMut()) {
    if !wanted(name) {
        return;
    }
    let (ours, host) = (best(ours), best(host));
    println!(
        "{name:<16} {ours:>10.2?} host {host:>10.2?} ratio {:>5.1}",
        ours.as_secs_f64() / host.as_secs_f64()
    );
}

fn main() {
    let mut p = Program::new(include_str!("../tests/ptx/program.ptx"));
    p.workers = 1;
    p.instruction_limit = None;
    let n = 1 << 20;
    let a: Vec<f32> = (0..n).map(|v| v as f32 * 0.5).collect();
    let b: Vec<f32> = (0..n).map(|v| v as f32 * 0.25).collect();
    let (x, y, z) = (p.memory.from(&a), p.memory.from(&b), p.memory.buffer(n * 4));
    let arguments = Arguments::new().buffer(x).buffer(y).buffer(z).i32(n as i32);
    let ours = || p.launch("vector_add", (n / 256) as u32, 256, arguments.clone());
    let mut c = vec![0f32; n];
    let host = || {
        for ((c, a), b) in c.iter_mut().zip(black_box(&a)).zip(black_box(&b)) {
            *c = a + b;
        }
        black_box(&c);
    };
    compare("vector_add 1M", ours, host);

    let arguments = Arguments::new().i32(n as i32).f32(1.5).buffer(x).buffer(y);
    let ours = || p.launch("saxpy", 64, 256, arguments.clone());
    let host = || {
        for (c, a) in c.iter_mut().zip(black_box(&a)) {
            *c += 1.5 * a;
        }
        black_box(&c);
    };
    compare("saxpy 1M", ours, host);

    // What `make bench` measures through the driver, without the driver.
    let mut bench = Program::new(include_str!("../../../tests/programs/bench/kernels.ptx"));
    bench.workers = 1;
    bench.instruction_limit = None;
    let numbers: Vec<u32> = (0..1 << 20).collect();
    let (input, output) = (bench.memory.from(&numbers), bench.memory.buffer(1024));
    let arguments = Arguments::new().buffer(input).buffer(output).i32(1 << 20);
    let ours = || bench.launch("reduction", 64, 256, arguments.clone());
    let host = || {
        let sum = black_box(&numbers)
            .iter()
            .fold(0u32, |a, &b| a.wrapping_add(b));
        black_box(sum);
    };
    compare("reduction 1M", ours, host);

    // Without a counterpart: these must not become slower where others become faster.
    let bodies: Vec<f32> = (0..4 << 10).map(|v| (v % 97) as f32 * 0.1).collect();
    let (bodies, forces) = (bench.memory.from(&bodies), bench.memory.buffer(16 << 10));
    let arguments = Arguments::new().buffer(bodies).buffer(forces).i32(1024);
    alone("nbody 1K", || {
        bench.launch("nbody", 4, 256, arguments.clone());
    });
    let prices: Vec<f32> = (0..1 << 16).map(|v| (v % 97 + 1) as f32 * 0.1).collect();
    let prices = bench.memory.from(&prices);
    let (calls, puts) = (bench.memory.buffer(1 << 18), bench.memory.buffer(1 << 18));
    let arguments = [prices, prices, prices, calls, puts]
        .into_iter()
        .fold(Arguments::new(), Arguments::buffer)
        .i32(1 << 16);
    alone("black_scholes 64K", || {
        bench.launch("black_scholes", 64, 256, arguments.clone());
    });

    let n = 256usize;
    let arguments = Arguments::new().buffer(x).buffer(y).buffer(z).i32(n as i32);
    let ours = || {
        p.run("matmul", [16, 16, 1], [16, 16, 1], arguments.clone())
            .expect("the kernel runs");
    };
    let host = || {
        let (a, b) = (black_box(&a), black_box(&b));
        for row in 0..n {
            for col in 0..n {
                let mut sum = 0f32;
                for k in 0..n {
                    sum += a[row * n + k] * b[k * n + col];
                }
                c[row * n + col] = sum;
            }
        }
        black_box(&c);
    };
    compare("matmul 256", ours, host);

    let data: Vec<u8> = (0..1 << 20)
        .map(|v: u32| (v.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let (d, bins) = (p.memory.from(&data), p.memory.buffer(1024));
    let arguments = Arguments::new().buffer(d).buffer(bins).i32(1 << 20);
    let ours = || p.launch("histogram", 16, 256, arguments.clone());
    let mut counts = [0u32; 256];
    let host = || {
        for byte in black_box(&data) {
            counts[usize::from(*byte)] += 1;
        }
        black_box(&counts);
    };
    compare("histogram 1M", ours, host);

    if !wanted("launch") {
        return;
    }
    // What a launch costs where nothing is to be done: two blocks, two threads.
    p.workers = 2;
    let arguments = Arguments::new().buffer(x).buffer(y).buffer(z).i32(0);
    let start = Instant::now();
    for _ in 0..10_000 {
        p.launch("vector_add", 2, 32, arguments.clone());
    }
    println!("launch           {:>10.2?}", start.elapsed() / 10_000);
}
