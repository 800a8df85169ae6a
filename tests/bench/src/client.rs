//! The client's side of each measurement: an ordinary program on whatever `libcuda.so.1` it finds.
//!
//! Prints one line a result, `name p50 p99`; `main` runs it directly and through the proxy.
#![forbid(unsafe_code)]

use std::ptr::null_mut;
use std::time::{Duration, Instant};

use e2e::driver::{Argument, Failure, Gpu, KERNELS};

use crate::floor;
use crate::sample::{Samples, nanoseconds, rate};

pub const COPY_BYTES: usize = 64 << 20;

type Verdict = Result<(), String>;

/// Measures; with `on_word` it waits, ready, for a line on its input before it begins.
pub fn run(measurement: &str, on_word: bool) -> Verdict {
    let gpu = Gpu::find()?;
    if on_word {
        gpu.start().map_err(failed("start"))?;
        println!("ready");
        let mut line = String::new();
        std::io::stdin()
            .read_line(&mut line)
            .map_err(|error| error.to_string())?;
    }
    match measurement {
        "attach" => attach(&gpu),
        "null-call" => null_call(&gpu),
        "launch" => launch(&gpu),
        "copy" => copy(&gpu),
        "wake" => wake(&gpu),
        other => Err(format!("no such measurement: {other}")),
    }
}

fn say(name: &str, samples: &Samples) {
    println!("{name} {} {}", samples.median(), samples.percentile(99));
}

fn failed(call: &'static str) -> impl Fn(Failure) -> String {
    move |error| format!("{call} failed: {error:?}")
}

fn attach(gpu: &Gpu) -> Verdict {
    let began = Instant::now();
    gpu.init().map_err(failed("cuInit"))?;
    let mut samples = Samples::default();
    samples.add(nanoseconds(began.elapsed()));
    say("attach", &samples);
    let began = Instant::now();
    gpu.start().map_err(failed("cuDevicePrimaryCtxRetain"))?;
    let mut samples = Samples::default();
    samples.add(nanoseconds(began.elapsed()));
    say("context", &samples);
    Ok(())
}

fn null_call(gpu: &Gpu) -> Verdict {
    gpu.start().map_err(failed("start"))?;
    let mut samples = Samples::default();
    for round in 0..52_000 {
        let began = Instant::now();
        gpu.query_stream(null_mut())
            .map_err(failed("cuStreamQuery"))?;
        if round >= 2_000 {
            samples.add(nanoseconds(began.elapsed()));
        }
    }
    say("null-call", &samples);
    Ok(())
}

fn launch(gpu: &Gpu) -> Verdict {
    const WINDOW: u32 = 32;
    const ROW: u32 = 100_000;
    gpu.start().map_err(failed("start"))?;
    let module = gpu.load(KERNELS).map_err(failed("cuModuleLoadData"))?;
    let stream = gpu.create_stream().map_err(failed("cuStreamCreate"))?;
    let empty = gpu
        .function(module, "empty")
        .map_err(failed("cuModuleGetFunction"))?;
    let count = gpu
        .function(module, "count")
        .map_err(failed("cuModuleGetFunction"))?;
    let word = gpu.allocate(4).map_err(failed("cuMemAlloc"))?;
    let arguments = [Argument::Word(word)];
    for (name, function, arguments) in [
        ("launch", empty, &[][..]),
        ("launch-argument", count, &arguments[..]),
    ] {
        let (mut samples, mut first) = (Samples::default(), Samples::default());
        for window in 0..2_200 {
            // The first after a silence may have to wake the other side; the others find it awake.
            let began = Instant::now();
            gpu.launch(function, 1, 1, arguments, stream)
                .map_err(failed("cuLaunchKernel"))?;
            if window >= 200 {
                first.add(nanoseconds(began.elapsed()));
            }
            let began = Instant::now();
            for _ in 0..WINDOW {
                gpu.launch(function, 1, 1, arguments, stream)
                    .map_err(failed("cuLaunchKernel"))?;
            }
            let each = nanoseconds(began.elapsed()) / f64::from(WINDOW);
            gpu.synchronize_stream(stream)
                .map_err(failed("cuStreamSynchronize"))?;
            if window >= 200 {
                samples.add(each);
            }
        }
        say(name, &samples);
        say(&format!("{name}-first"), &first);
    }
    let mut samples = Samples::default();
    for _ in 0..5 {
        let began = Instant::now();
        for _ in 0..ROW {
            gpu.launch(empty, 1, 1, &[], stream)
                .map_err(failed("cuLaunchKernel"))?;
        }
        gpu.synchronize_stream(stream)
            .map_err(failed("cuStreamSynchronize"))?;
        samples.add(f64::from(ROW) / began.elapsed().as_secs_f64());
    }
    say("launch-rate", &samples);
    Ok(())
}

/// Copies of ordinary memory, and the plain memcpy beside them: the same buffers' size, the same process,
/// by turns.
fn copy(gpu: &Gpu) -> Verdict {
    gpu.start().map_err(failed("start"))?;
    let device = gpu.allocate(COPY_BYTES).map_err(failed("cuMemAlloc"))?;
    let mut host = vec![1_u8; COPY_BYTES];
    let (mut up, mut down, mut plain) =
        (Samples::default(), Samples::default(), Samples::default());
    for round in 0..12 {
        plain.extend(floor::memcpy(COPY_BYTES, 2));
        let began = Instant::now();
        gpu.upload(device, &host).map_err(failed("cuMemcpyHtoD"))?;
        let upload = began.elapsed();
        let began = Instant::now();
        gpu.download(&mut host, device)
            .map_err(failed("cuMemcpyDtoH"))?;
        let download = began.elapsed();
        if round >= 2 {
            up.add(rate(COPY_BYTES, upload));
            down.add(rate(COPY_BYTES, download));
        }
    }
    say("copy-up", &up);
    say("copy-down", &down);
    say("memcpy", &plain);
    Ok(())
}

/// Calls so far apart that the other side has gone to sleep.
fn wake(gpu: &Gpu) -> Verdict {
    gpu.start().map_err(failed("start"))?;
    let mut samples = Samples::default();
    for _ in 0..400 {
        std::thread::sleep(Duration::from_millis(2));
        let began = Instant::now();
        gpu.query_stream(null_mut())
            .map_err(failed("cuStreamQuery"))?;
        samples.add(nanoseconds(began.elapsed()));
    }
    say("wake", &samples);
    Ok(())
}
