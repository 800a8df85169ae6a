//! Scenarios that do a tenant's ordinary work.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cuda_abi::types::CUresult;
use e2e::driver::{Argument, peek, poke};

use crate::support::*;

pub fn devices() -> Verdict {
    let gpu = open()?;
    gpu.init().named("cuInit")?;
    let count = gpu.device_count().named("cuDeviceGetCount")?;
    say(&format!("devices {count}"));
    for ordinal in 0..count {
        let device = gpu.device(ordinal).named("cuDeviceGet")?;
        let name = gpu.device_name(device).named("cuDeviceGetName")?;
        let bytes = gpu.device_memory(device).named("cuDeviceTotalMem")?;
        say(&format!("device {ordinal} {name} {bytes}"));
    }
    Ok(())
}

/// Initialises and says with which result and after how long, whatever it is. Then asks again.
pub fn init() -> Verdict {
    let gpu = open()?;
    let began = Instant::now();
    let first = code(gpu.init());
    say(&format!("init {first} ns {}", began.elapsed().as_nanos()));
    say(&format!("again {}", code(gpu.init())));
    say(&format!("count {}", code(gpu.device_count())));
    say(&format!("current {}", code(gpu.current())));
    Ok(())
}

pub fn vector_add(count: u64) -> Verdict {
    let ready = Ready::new()?;
    let count = u32::try_from(count).map_err(|error| error.to_string())?;
    add_once(ready.gpu, ready.function("add")?, count, null_mut())?;
    say(&format!("sum of {count} elements is right"));
    Ok(())
}

/// Works for ever, in every way that a program does, to be killed at any moment.
pub fn load() -> Verdict {
    let ready = Ready::new()?;
    let (add, count) = (ready.function("add")?, ready.function("count")?);
    let gpu = ready.gpu;
    let stream = gpu.create_stream().named("cuStreamCreate")?;
    let word = gpu.allocate(4).named("cuMemAlloc")?;
    say("works");
    let mut round = 0_u32;
    loop {
        round = round.wrapping_add(1);
        add_once(gpu, add, 1 + round.wrapping_mul(977) % 50_000, stream)?;
        for _ in 0..100 {
            gpu.launch(count, 1, 32, &[Argument::Word(word)], stream)
                .named("cuLaunchKernel")?;
        }
        let pinned = gpu.allocate_host(1 << 16).named("cuMemHostAlloc")?;
        let there = gpu.allocate(1 << 16).named("cuMemAlloc")?;
        gpu.upload_pinned(there, pinned, 1 << 16, stream)
            .named("cuMemcpyHtoDAsync")?;
        gpu.synchronize_stream(stream)
            .named("cuStreamSynchronize")?;
        gpu.upload(there, &vec![7; 1 << 16]).named("cuMemcpyHtoD")?;
        gpu.free(there).named("cuMemFree")?;
        gpu.free_host(pinned).named("cuMemFreeHost")?;
    }
}

/// Works until a call fails, then says how, and that every later call fails at once too.
pub fn until_error() -> Verdict {
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let count = ready.function("count")?;
    let word = gpu.allocate(4).named("cuMemAlloc")?;
    gpu.synchronize().named("cuCtxSynchronize")?;
    say("works");
    let mut buffer = vec![0_u8; 4];
    let error = loop {
        let outcome = gpu
            .launch(count, 1, 32, &[Argument::Word(word)], null_mut())
            .and_then(|()| gpu.synchronize())
            .and_then(|()| gpu.download(&mut buffer, word));
        if let Err(error) = outcome {
            break error;
        }
    };
    say(&format!("failed {}", error.0));
    let later = [
        code(gpu.synchronize()),
        code(gpu.allocate(4096)),
        code(gpu.download(&mut buffer, word)),
        code(gpu.launch(count, 1, 32, &[Argument::Word(word)], null_mut())),
        code(gpu.create_stream()),
        code(gpu.free(word)),
    ];
    say(&format!("later {later:?}"));
    if later.contains(&0) {
        return Err(format!("a call succeeded after the end: {later:?}"));
    }
    Ok(())
}

/// Works until a call fails, and keeps in a file how many launches it has seen finished. What it allocates is so long
/// that it can be told from others.
pub fn tell_until_error(path: &str, bytes: usize) -> Verdict {
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let count = ready.function("count")?;
    let word = gpu.allocate(bytes).named("cuMemAlloc")?;
    let file = File::create(path).map_err(|error| format!("{path}: {error}"))?;
    for seen in 1_u64.. {
        let outcome = gpu
            .launch(count, 1, 32, &[Argument::Word(word)], null_mut())
            .and_then(|()| gpu.synchronize());
        if outcome.is_err() {
            break;
        }
        file.write_at(&seen.to_le_bytes(), 0)
            .map_err(|error| format!("{path}: {error}"))?;
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

/// Has what it does logged under names of its own.
pub fn operations() -> Verdict {
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let add = ready.function("add")?;
    for round in 1..=3 {
        vgpu_log::log_operation("sums", &[round, 10_000], || {
            (0..round).try_for_each(|_| add_once(gpu, add, 10_000, null_mut()))
        })?;
    }
    let stream = gpu.create_stream().named("cuStreamCreate")?;
    let on = vgpu_log::Stream(stream.addr());
    vgpu_log::log_operation_on(on, "two\nlines", &[], || add_once(gpu, add, 100, stream))?;
    // More than wait for the device at a time.
    for _ in 0..300 {
        vgpu_log::log_operation_on(on, "many", &[1], || ());
    }
    vgpu_log::flush();
    say(&format!("logged {}", vgpu_log::is_logged()));
    Ok(())
}

/// Several threads at once, each on a stream of its own.
pub fn threads(count: u64, rounds: u64) -> Verdict {
    let ready = Ready::new()?;
    let context = ready.context.addr();
    let add = ready.function("add")?.addr();
    let threads: Vec<_> = (0..count)
        .map(|_| {
            std::thread::spawn(move || -> Verdict {
                let gpu = shared()?;
                gpu.set_current(std::ptr::with_exposed_provenance_mut(context))
                    .named("cuCtxSetCurrent")?;
                let stream = gpu.create_stream().named("cuStreamCreate")?;
                for _ in 0..rounds {
                    add_once(gpu, std::ptr::with_exposed_provenance_mut(add), 500, stream)?;
                }
                gpu.destroy_stream(stream).named("cuStreamDestroy")
            })
        })
        .collect();
    for thread in threads {
        thread
            .join()
            .map_err(|_| "a thread panicked".to_owned())??;
    }
    say(&format!("{count} threads did {rounds} rounds each"));
    Ok(())
}

/// Signals arrive all the time; no call may fail or return early for it.
pub fn interrupted(rounds: u64) -> Verdict {
    static SIGNALS: AtomicU64 = AtomicU64::new(0);
    extern "C" fn count(_: libc::c_int) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
    }
    let ready = Ready::new()?;
    let (add, hold) = (ready.function("add")?, ready.function("hold")?);
    let gpu = ready.gpu;
    let handler = nix::sys::signal::SigAction::new(
        nix::sys::signal::SigHandler::Handler(count),
        nix::sys::signal::SaFlags::empty(),
        nix::sys::signal::SigSet::empty(),
    );
    // SAFETY: the handler only counts.
    unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGALRM, &handler) }
        .map_err(|error| error.to_string())?;
    let every_millisecond = libc::itimerval {
        it_interval: libc::timeval {
            tv_sec: 0,
            tv_usec: 1000,
        },
        it_value: libc::timeval {
            tv_sec: 0,
            tv_usec: 1000,
        },
    };
    // SAFETY: the pointers are to a local and null.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const every_millisecond, null_mut()) };
    let pinned = gpu.allocate_host(4096).named("cuMemHostAlloc")?;
    let stream = gpu.create_stream().named("cuStreamCreate")?;
    for round in 0..rounds {
        add_once(gpu, add, 2000, null_mut())?;
        if round % 40 == 0 {
            // A wait that is long enough to be parked when the signal comes.
            // SAFETY: `pinned` is mapped memory that this program holds.
            unsafe { poke(pinned, 0) };
            let arguments = [
                Argument::Word(pinned),
                Argument::Word(pinned + 8),
                Argument::Word(1 << 40),
            ];
            gpu.launch(hold, 1, 1, &arguments, stream)
                .named("cuLaunchKernel")?;
            let address = pinned;
            let release = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                // SAFETY: `address` is mapped memory that outlives this thread.
                unsafe { poke(address, 1) };
            });
            gpu.synchronize_stream(stream)
                .named("cuStreamSynchronize")?;
            release.join().map_err(|_| "a thread panicked".to_owned())?;
        }
    }
    let signals = SIGNALS.load(Ordering::Relaxed);
    if signals == 0 {
        return Err("no signal arrived".to_owned());
    }
    say("signals came and no call failed");
    Ok(())
}

/// A kernel and this thread wait for each other through one word of pinned memory.
pub fn poll() -> Verdict {
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let hold = ready.function("hold")?;
    let stream = gpu.create_stream().named("cuStreamCreate")?;
    let pinned = gpu.allocate_host(4096).named("cuMemHostAlloc")?;
    for turn in 1..=50 {
        // SAFETY: `pinned` is mapped memory that this program holds.
        unsafe { poke(pinned, 0) };
        // SAFETY: as above.
        unsafe { poke(pinned + 64, 0) };
        let arguments = [
            Argument::Word(pinned),
            Argument::Word(pinned + 64),
            Argument::Word(1 << 40),
        ];
        gpu.launch(hold, 1, 1, &arguments, stream)
            .named("cuLaunchKernel")?;
        expect(
            "a stream whose kernel waits",
            gpu.query_stream(stream),
            CUresult::CUDA_ERROR_NOT_READY,
        )?;
        // SAFETY: as above.
        unsafe { poke(pinned, turn) };
        // SAFETY: as above.
        while unsafe { peek(pinned + 64) } != turn {
            std::thread::yield_now();
        }
    }
    gpu.synchronize_stream(stream)
        .named("cuStreamSynchronize")?;
    gpu.free_host(pinned).named("cuMemFreeHost")?;
    say("kernel and thread saw each other's words");
    Ok(())
}

/// Host functions run in stream order, each once.
pub fn host_function() -> Verdict {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    static ORDERED: AtomicBool = AtomicBool::new(true);
    extern "C" fn called(argument: *mut std::ffi::c_void) {
        let before = CALLS.fetch_add(1, Ordering::SeqCst);
        if before != argument.addr() as u64 {
            ORDERED.store(false, Ordering::SeqCst);
        }
    }
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let empty = ready.function("empty")?;
    let stream = gpu.create_stream().named("cuStreamCreate")?;
    for turn in 0..300_usize {
        gpu.launch(empty, 1, 1, &[], stream)
            .named("cuLaunchKernel")?;
        // SAFETY: the argument is a number, never looked behind.
        unsafe { gpu.launch_host(stream, Some(called), std::ptr::without_provenance_mut(turn)) }
            .named("cuLaunchHostFunc")?;
    }
    gpu.synchronize_stream(stream)
        .named("cuStreamSynchronize")?;
    let (calls, ordered) = (CALLS.load(Ordering::SeqCst), ORDERED.load(Ordering::SeqCst));
    if calls != 300 || !ordered {
        return Err(format!("{calls} calls, in order: {ordered}"));
    }
    say("300 host functions ran in order");
    Ok(())
}

/// A stream whose kernel waits delays neither launches on it nor other streams, far past any credit.
pub fn busy_stream() -> Verdict {
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let (hold, count) = (ready.function("hold")?, ready.function("count")?);
    let (held, free) = (
        gpu.create_stream().named("cuStreamCreate")?,
        gpu.create_stream().named("cuStreamCreate")?,
    );
    let pinned = gpu.allocate_host(4096).named("cuMemHostAlloc")?;
    let words = gpu.allocate(256).named("cuMemAlloc")?;
    // First launches are answered; get them behind us.
    gpu.launch(count, 1, 1, &[Argument::Word(words + 128)], free)
        .named("cuLaunchKernel")?;
    let arguments = [
        Argument::Word(pinned),
        Argument::Word(pinned + 64),
        Argument::Word(1 << 40),
    ];
    gpu.launch(hold, 1, 1, &arguments, held)
        .named("cuLaunchKernel")?;
    for _ in 0..400 {
        gpu.launch(count, 1, 1, &[Argument::Word(words)], held)
            .named("cuLaunchKernel")?;
    }
    for _ in 0..2000 {
        gpu.launch(count, 1, 1, &[Argument::Word(words + 64)], free)
            .named("cuLaunchKernel")?;
    }
    gpu.synchronize_stream(free).named("cuStreamSynchronize")?;
    expect(
        "the held stream",
        gpu.query_stream(held),
        CUresult::CUDA_ERROR_NOT_READY,
    )?;
    // One thread runs out of credit on the held stream while another releases it.
    let address = pinned;
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        // SAFETY: `address` is mapped memory that outlives this thread.
        unsafe { poke(address, 1) };
    });
    for _ in 0..2000 {
        gpu.launch(count, 1, 1, &[Argument::Word(words)], held)
            .named("cuLaunchKernel")?;
    }
    gpu.synchronize_stream(held).named("cuStreamSynchronize")?;
    release.join().map_err(|_| "a thread panicked".to_owned())?;
    let mut seen = vec![0; 256];
    gpu.download(&mut seen, words).named("cuMemcpyDtoH")?;
    let seen = values_of(&seen);
    if (seen[0], seen[16]) != (2400, 2000) {
        return Err(format!("counted {} and {}", seen[0], seen[16]));
    }
    say("neither stream delayed the other");
    Ok(())
}

/// Adds vectors once for each line of its input; says how it went and after how many milliseconds.
pub fn steps() -> Verdict {
    let ready = Ready::new()?;
    let add = ready.function("add")?;
    say("ready");
    for (number, line) in (1_u32..).zip(std::io::stdin().lines()) {
        line.map_err(|error| error.to_string())?;
        let began = Instant::now();
        let outcome = add_once(ready.gpu, add, 1000, null_mut());
        let said = outcome.map_or_else(|reason| reason, |()| "right".to_owned());
        let took = began.elapsed().as_millis();
        say(&format!("step {number}: {took} ms, {said}"));
    }
    Ok(())
}
