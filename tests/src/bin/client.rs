//! A CUDA program of the tests' own: `vgpu-test-client SCENARIO [ARGUMENT...]`.
//!
//! Each scenario is a small program that a sceptic would write. It says what it saw in plain lines, ends
//! with 0 if the driver kept its word and with 1, and the reason on stderr, if not.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::process::exit;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cuda_abi::types::{CUcontext, CUdeviceptr, CUfunction, CUmodule, CUresult, CUstream};
use e2e::driver::{Argument, Gpu, KERNELS, Outcome, peek, poke};

/// What went wrong, in words.
type Verdict = Result<(), String>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let scenario = arguments.first().map_or("", String::as_str);
    let number = |index: usize, default: u64| {
        arguments.get(index).map_or(default, |text| {
            text.parse().expect("an argument is a number")
        })
    };
    let verdict = match scenario {
        "devices" => devices(),
        "init" => init(),
        "vector-add" => vector_add(number(1, 100_000)),
        "hold-memory" => hold_memory(number(1, 1 << 20)),
        "fill-memory" => fill_memory(number(1, 1 << 20)),
        "host-quota" => host_quota(number(1, 1 << 20)),
        "load" => load(),
        "until-error" => until_error(),
        "cycles" => cycles(number(1, 10)),
        "fork" => fork_after_init(),
        "fork-first" => fork_before_init(),
        "exit-busy" => exit_busy(),
        "exit-late" => exit_late(),
        "thread-exit" => thread_exit(number(1, 200)),
        "threads" => threads(number(1, 8), number(2, 200)),
        "interrupted" => interrupted(number(1, 400)),
        "reopen" => reopen(),
        "fault" => fault(),
        "bad-calls" => bad_calls(),
        "poll" => poll(),
        "host-function" => host_function(),
        "zeroed" => zeroed(number(1, 64)),
        "context-cycles" => context_cycles(number(1, 20)),
        "busy-stream" => busy_stream(),
        "scribble" => scribble(number(1, 0), number(2, 1)),
        other => Err(format!("no such scenario: {other:?}")),
    };
    if let Err(reason) = verdict {
        eprintln!("{scenario}: {reason}");
        exit(1);
    }
}

/// The library as the loader finds it.
fn open() -> Result<Gpu, String> {
    Gpu::find()
}

/// The library, shared by the threads of this program.
fn shared() -> Result<&'static Gpu, String> {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    if GPU.get().is_none() {
        let _ = GPU.set(open()?);
    }
    Ok(GPU.get().expect("set above"))
}

trait Named<T> {
    /// Puts the call's name before the error.
    fn named(self, call: &str) -> Result<T, String>;
}

impl<T> Named<T> for Outcome<T> {
    fn named(self, call: &str) -> Result<T, String> {
        self.map_err(|error| format!("{call} returned {error:?} ({})", error.0))
    }
}

fn expect<T: std::fmt::Debug>(what: &str, outcome: Outcome<T>, error: CUresult) -> Verdict {
    match outcome {
        Err(seen) if seen == error => Ok(()),
        other => Err(format!("{what}: expected {error:?}, got {other:?}")),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Who no longer listens ends the program some other way.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn wait_for_input_end() {
    for line in std::io::stdin().lock().lines() {
        if line.is_err() {
            return;
        }
    }
}

fn devices() -> Verdict {
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
fn init() -> Verdict {
    let gpu = open()?;
    let began = Instant::now();
    let first = code(gpu.init());
    say(&format!("init {first} ns {}", began.elapsed().as_nanos()));
    say(&format!("again {}", code(gpu.init())));
    say(&format!("count {}", code(gpu.device_count())));
    say(&format!("current {}", code(gpu.current())));
    Ok(())
}

fn code<T>(outcome: Outcome<T>) -> u32 {
    outcome.map_or_else(|error| error.0, |_| 0)
}

/// A context with the kernels in it.
struct Ready {
    gpu: &'static Gpu,
    context: CUcontext,
    module: CUmodule,
}

impl Ready {
    fn new() -> Result<Self, String> {
        let gpu = shared()?;
        let context = gpu.start().named("start")?;
        let module = gpu.load(KERNELS).named("cuModuleLoadData")?;
        Ok(Self {
            gpu,
            context,
            module,
        })
    }

    fn function(&self, name: &str) -> Result<CUfunction, String> {
        self.gpu
            .function(self.module, name)
            .named("cuModuleGetFunction")
    }
}

fn bytes_of(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn values_of(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().expect("chunks have four bytes")))
        .collect()
}

/// Adds two vectors with the kernel `add` and checks every sum.
fn add_once(gpu: &Gpu, add: CUfunction, count: u32, stream: CUstream) -> Verdict {
    let a: Vec<u32> = (0..count).map(|index| index.wrapping_mul(3)).collect();
    let b: Vec<u32> = (0..count)
        .map(|index| index.wrapping_mul(5).wrapping_add(1))
        .collect();
    let bytes = a.len() * 4;
    let device: Vec<CUdeviceptr> = (0..3)
        .map(|_| gpu.allocate(bytes).named("cuMemAlloc"))
        .collect::<Result<_, _>>()?;
    gpu.upload(device[0], &bytes_of(&a)).named("cuMemcpyHtoD")?;
    gpu.upload(device[1], &bytes_of(&b)).named("cuMemcpyHtoD")?;
    let arguments = [
        Argument::Word(device[0]),
        Argument::Word(device[1]),
        Argument::Word(device[2]),
        Argument::Int(count),
    ];
    gpu.launch(add, count.div_ceil(128), 128, &arguments, stream)
        .named("cuLaunchKernel")?;
    gpu.synchronize_stream(stream)
        .named("cuStreamSynchronize")?;
    let mut sums = vec![0; bytes];
    gpu.download(&mut sums, device[2]).named("cuMemcpyDtoH")?;
    for address in device {
        gpu.free(address).named("cuMemFree")?;
    }
    for (index, sum) in values_of(&sums).into_iter().enumerate() {
        let right = a[index].wrapping_add(b[index]);
        if sum != right {
            return Err(format!("element {index} is {sum}, not {right}"));
        }
    }
    Ok(())
}

fn vector_add(count: u64) -> Verdict {
    let ready = Ready::new()?;
    let count = u32::try_from(count).map_err(|error| error.to_string())?;
    add_once(ready.gpu, ready.function("add")?, count, null_mut())?;
    say(&format!("sum of {count} elements is right"));
    Ok(())
}

/// Holds device memory until its input ends.
fn hold_memory(bytes: u64) -> Verdict {
    let ready = Ready::new()?;
    let bytes = usize::try_from(bytes).map_err(|error| error.to_string())?;
    let address = ready.gpu.allocate(bytes).named("cuMemAlloc")?;
    ready
        .gpu
        .fill(address, 0x5a5a_5a5a, bytes / 4)
        .named("cuMemsetD32")?;
    ready.gpu.synchronize().named("cuCtxSynchronize")?;
    say(&format!("holds {bytes}"));
    wait_for_input_end();
    ready.gpu.free(address).named("cuMemFree")
}

/// Allocates pieces until the driver refuses, says how much there was and that freeing helps.
fn fill_memory(piece: u64) -> Verdict {
    let ready = Ready::new()?;
    let piece = usize::try_from(piece).map_err(|error| error.to_string())?;
    let mut held = Vec::new();
    let refusal = loop {
        match ready.gpu.allocate(piece) {
            Ok(address) => held.push(address),
            Err(error) => break error,
        }
        if held.len() > 1 << 20 {
            return Err("no end of memory".to_owned());
        }
    };
    if refusal != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return Err(format!("refused with {refusal:?}"));
    }
    say(&format!("got {}", held.len() * piece));
    let (free, total) = ready.gpu.memory().named("cuMemGetInfo")?;
    say(&format!("free {free} total {total}"));
    // A refusal is not sticky: what is there still works, and freed memory can be had again.
    let last = held.pop().ok_or("nothing could be allocated")?;
    ready.gpu.free(last).named("cuMemFree")?;
    let again = ready
        .gpu
        .allocate(piece)
        .named("cuMemAlloc after cuMemFree")?;
    ready.gpu.fill(again, 1, piece / 4).named("cuMemsetD32")?;
    ready.gpu.synchronize().named("cuCtxSynchronize")?;
    held.push(again);
    say("filled");
    wait_for_input_end();
    for address in held {
        ready.gpu.free(address).named("cuMemFree")?;
    }
    Ok(())
}

/// The same for pinned host memory.
fn host_quota(piece: u64) -> Verdict {
    let ready = Ready::new()?;
    let piece = usize::try_from(piece).map_err(|error| error.to_string())?;
    let mut held = Vec::new();
    let refusal = loop {
        match ready.gpu.allocate_host(piece) {
            Ok(address) => held.push(address),
            Err(error) => break error,
        }
        if held.len() > 1 << 16 {
            return Err("no end of pinned memory".to_owned());
        }
    };
    if refusal != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return Err(format!("refused with {refusal:?}"));
    }
    say(&format!("got {}", held.len() * piece));
    for address in held {
        ready.gpu.free_host(address).named("cuMemFreeHost")?;
    }
    let again = ready
        .gpu
        .allocate_host(piece)
        .named("cuMemHostAlloc after cuMemFreeHost")?;
    ready.gpu.free_host(again).named("cuMemFreeHost")
}

/// Works for ever, in every way that a program does, to be killed at any moment.
fn load() -> Verdict {
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
fn until_error() -> Verdict {
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

/// Contexts retained and released over and over in one process.
fn cycles(count: u64) -> Verdict {
    let gpu = open()?;
    for _ in 0..count {
        gpu.start().named("start")?;
        let module = gpu.load(KERNELS).named("cuModuleLoadData")?;
        let add = gpu.function(module, "add").named("cuModuleGetFunction")?;
        add_once(&gpu, add, 1000, null_mut())?;
        gpu.unload(module).named("cuModuleUnload")?;
        gpu.release_primary(0).named("cuDevicePrimaryCtxRelease")?;
    }
    say(&format!("{count} cycles"));
    Ok(())
}

fn context_cycles(count: u64) -> Verdict {
    let gpu = open()?;
    gpu.init().named("cuInit")?;
    let device = gpu.device(0).named("cuDeviceGet")?;
    for _ in 0..count {
        let context = gpu.create_context(device).named("cuCtxCreate")?;
        let module = gpu.load(KERNELS).named("cuModuleLoadData")?;
        let add = gpu.function(module, "add").named("cuModuleGetFunction")?;
        add_once(&gpu, add, 1000, null_mut())?;
        // What the context holds goes with it.
        gpu.allocate(1 << 20).named("cuMemAlloc")?;
        gpu.create_stream().named("cuStreamCreate")?;
        gpu.destroy_context(context).named("cuCtxDestroy")?;
        expect(
            "a destroyed context",
            gpu.set_current(context),
            CUresult::CUDA_ERROR_INVALID_CONTEXT,
        )?;
    }
    say(&format!("{count} contexts"));
    Ok(())
}

/// Runs `in_child` in a forked child under a limit of its own, so that a hang there is an error here.
fn in_child(in_child: impl FnOnce() -> Verdict) -> Verdict {
    // SAFETY: the child calls the driver and leaves with _exit; no other thread of ours holds a lock.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err("fork failed".to_owned());
    }
    if pid == 0 {
        // SAFETY: no pointers.
        unsafe { libc::alarm(30) };
        let ended = match in_child() {
            Ok(()) => 0,
            Err(reason) => {
                eprintln!("child: {reason}");
                1
            }
        };
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(ended) };
    }
    let mut status = 0;
    loop {
        // SAFETY: the pointer is to a local, the child is ours.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        if waited == pid {
            break;
        }
    }
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        Ok(())
    } else {
        Err(format!("the child ended with status {status:#x}"))
    }
}

/// A child of a process that uses CUDA cannot: every call says NOT_INITIALIZED, the parent goes on.
fn fork_after_init() -> Verdict {
    let ready = Ready::new()?;
    let add = ready.function("add")?;
    add_once(ready.gpu, add, 1000, null_mut())?;
    let stream = ready.gpu.create_stream().named("cuStreamCreate")?;
    in_child(|| {
        let gone = CUresult::CUDA_ERROR_NOT_INITIALIZED;
        let gpu = ready.gpu;
        expect("cuMemAlloc in the child", gpu.allocate(4096), gone)?;
        expect("cuCtxSynchronize in the child", gpu.synchronize(), gone)?;
        expect("cuInit in the child", gpu.init(), gone)?;
        expect("cuStreamQuery in the child", gpu.query_stream(stream), gone)?;
        expect(
            "cuLaunchKernel in the child",
            gpu.launch(add, 1, 1, &[], null_mut()),
            gone,
        )
    })?;
    add_once(ready.gpu, add, 1000, null_mut())?;
    say("the child was refused, the parent goes on");
    Ok(())
}

/// A child of a process that has not touched CUDA may use it, and so may the parent afterwards.
fn fork_before_init() -> Verdict {
    let gpu = shared()?;
    in_child(|| {
        let ready = Ready::new()?;
        add_once(ready.gpu, ready.function("add")?, 1000, null_mut())
    })?;
    gpu.init().named("cuInit")?;
    let ready = Ready::new()?;
    add_once(ready.gpu, ready.function("add")?, 1000, null_mut())?;
    say("child and parent both worked");
    Ok(())
}

/// Ends while other threads are in the middle of calls.
fn exit_busy() -> Verdict {
    let ready = Ready::new()?;
    let context = ready.context.addr();
    let count = ready.function("count")?.addr();
    let started = std::sync::Arc::new(AtomicU64::new(0));
    for _ in 0..3 {
        let started = std::sync::Arc::clone(&started);
        std::thread::spawn(move || {
            let gpu = shared().expect("it is loaded");
            let context: CUcontext = std::ptr::with_exposed_provenance_mut(context);
            let count: CUfunction = std::ptr::with_exposed_provenance_mut(count);
            let worked = gpu.set_current(context).and_then(|()| gpu.allocate(4));
            let Ok(word) = worked else { return };
            loop {
                // While the process ends anything may fail; nothing may hang or crash.
                let _ = gpu.launch(count, 1, 32, &[Argument::Word(word)], null_mut());
                let _ = gpu.synchronize();
                started.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while started.load(Ordering::Relaxed) < 20 {
        std::thread::yield_now();
    }
    say("leaves");
    exit(0);
}

/// Calls the driver from a function that runs at exit, as CUDA's runtime does.
fn exit_late() -> Verdict {
    static ADDRESS: AtomicU64 = AtomicU64::new(0);
    extern "C" fn at_exit() {
        let Ok(gpu) = shared() else { return };
        let freed = code(gpu.free(ADDRESS.load(Ordering::Relaxed)));
        let released = code(gpu.release_primary(0));
        say(&format!("at exit: free {freed} release {released}"));
    }
    // SAFETY: the function is a plain one that does not unwind.
    unsafe { libc::atexit(at_exit) };
    let ready = Ready::new()?;
    let address = ready.gpu.allocate(1 << 16).named("cuMemAlloc")?;
    ADDRESS.store(address, Ordering::Relaxed);
    say("ends");
    Ok(())
}

/// Many threads one after the other, each with calls of its own: none may be left over.
fn thread_exit(count: u64) -> Verdict {
    let ready = Ready::new()?;
    let context = ready.context.addr();
    let add = ready.function("add")?.addr();
    for round in 0..count {
        let thread = std::thread::spawn(move || -> Verdict {
            let gpu = shared()?;
            gpu.set_current(std::ptr::with_exposed_provenance_mut(context))
                .named("cuCtxSetCurrent")?;
            add_once(
                gpu,
                std::ptr::with_exposed_provenance_mut(add),
                100,
                null_mut(),
            )
        });
        let outcome = thread.join().map_err(|_| "a thread panicked".to_owned())?;
        outcome.map_err(|reason| format!("thread {round}: {reason}"))?;
    }
    let left = std::fs::read_dir("/proc/self/task")
        .map_err(|error| error.to_string())?
        .count();
    say(&format!("{count} threads came and went"));
    if left > 4 {
        return Err(format!("{left} threads are left"));
    }
    Ok(())
}

/// Several threads at once, each on a stream of its own.
fn threads(count: u64, rounds: u64) -> Verdict {
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
fn interrupted(rounds: u64) -> Verdict {
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

/// Loads, uses, closes and loads the library again.
fn reopen() -> Verdict {
    for round in 0..3 {
        let gpu = open()?;
        gpu.start().named("start")?;
        let module = gpu.load(KERNELS).named("cuModuleLoadData")?;
        let add = gpu.function(module, "add").named("cuModuleGetFunction")?;
        add_once(&gpu, add, 1000, null_mut())
            .map_err(|reason| format!("round {round}: {reason}"))?;
        gpu.release_primary(0).named("cuDevicePrimaryCtxRelease")?;
        gpu.close()?;
    }
    say("loaded three times");
    Ok(())
}

/// A kernel that writes where nothing is: the context is lost, for good, and the process lives.
fn fault() -> Verdict {
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let poke_kernel = ready.function("poke")?;
    // The first launch is answered, so that the second shows the asynchronous way.
    let word = gpu.allocate(4).named("cuMemAlloc")?;
    gpu.launch(poke_kernel, 1, 1, &[Argument::Word(word)], null_mut())
        .named("cuLaunchKernel")?;
    gpu.synchronize().named("cuCtxSynchronize")?;
    gpu.launch(poke_kernel, 1, 1, &[Argument::Word(0x10)], null_mut())
        .named("cuLaunchKernel")?;
    let lost = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    expect("cuCtxSynchronize", gpu.synchronize(), lost)?;
    expect("cuCtxSynchronize again", gpu.synchronize(), lost)?;
    expect("cuMemAlloc", gpu.allocate(4096), lost)?;
    expect(
        "cuLaunchKernel",
        gpu.launch(poke_kernel, 1, 1, &[Argument::Word(word)], null_mut()),
        lost,
    )?;
    say("the fault is reported and stays");
    Ok(())
}

/// Mistakes that the driver reports at once.
fn bad_calls() -> Verdict {
    let gpu = open()?;
    expect(
        "before cuInit",
        gpu.device_count(),
        CUresult::CUDA_ERROR_NOT_INITIALIZED,
    )?;
    gpu.init().named("cuInit")?;
    expect(
        "no context",
        gpu.allocate(4096),
        CUresult::CUDA_ERROR_INVALID_CONTEXT,
    )?;
    expect(
        "no such device",
        gpu.device(1000),
        CUresult::CUDA_ERROR_INVALID_DEVICE,
    )?;
    drop(gpu);
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let empty = ready.function("empty")?;
    let wrong = CUresult::CUDA_ERROR_INVALID_VALUE;
    expect("grid 0", gpu.launch(empty, 0, 1, &[], null_mut()), wrong)?;
    expect("block 0", gpu.launch(empty, 1, 0, &[], null_mut()), wrong)?;
    expect(
        "block of 4096",
        gpu.launch(empty, 1, 4096, &[], null_mut()),
        wrong,
    )?;
    expect("0 bytes", gpu.allocate(0), wrong)?;
    expect("free of nothing of ours", gpu.free(0x1234_5000), wrong)?;
    expect(
        "no such function",
        gpu.function(ready.module, "absent"),
        CUresult::CUDA_ERROR_NOT_FOUND,
    )?;
    let address = gpu.allocate(4096).named("cuMemAlloc")?;
    gpu.free(address).named("cuMemFree")?;
    expect("free twice", gpu.free(address), wrong)?;
    expect(
        "upload to freed memory",
        gpu.upload(address, &[1; 64]),
        wrong,
    )?;
    expect(
        "broken PTX",
        gpu.load(".version 7.0\n.target sm_70\nnonsense\0"),
        CUresult::CUDA_ERROR_INVALID_PTX,
    )?;
    // None of it did harm.
    add_once(gpu, ready.function("add")?, 1000, null_mut())?;
    say("every mistake was named");
    Ok(())
}

/// A kernel and this thread wait for each other through one word of pinned memory.
fn poll() -> Verdict {
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
fn host_function() -> Verdict {
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

/// Fresh memory is zero, device and pinned, however often it was used before.
fn zeroed(rounds: u64) -> Verdict {
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let mut addresses = BTreeSet::new();
    for round in 0..rounds {
        let bytes = 4096 << (round % 8);
        let device = gpu.allocate(bytes).named("cuMemAlloc")?;
        addresses.insert(device);
        let mut seen = vec![1_u8; bytes];
        gpu.download(&mut seen, device).named("cuMemcpyDtoH")?;
        if seen.iter().any(|byte| *byte != 0) {
            return Err(format!(
                "round {round}: {bytes} bytes of device memory were not zero"
            ));
        }
        gpu.fill(device, 0xa5a5_a5a5, bytes / 4)
            .named("cuMemsetD32")?;
        gpu.synchronize().named("cuCtxSynchronize")?;
        gpu.free(device).named("cuMemFree")?;
        let pinned = gpu.allocate_host(bytes).named("cuMemHostAlloc")?;
        for word in (pinned..pinned + bytes as u64).step_by(4) {
            // SAFETY: the word lies in mapped memory that this program holds.
            let value = unsafe { peek(word) };
            if value != 0 {
                return Err(format!("round {round}: pinned memory was not zero"));
            }
            // SAFETY: as above.
            unsafe { poke(word, 0xa5a5_a5a5) };
        }
        gpu.free_host(pinned).named("cuMemFreeHost")?;
    }
    say("all fresh memory was zero");
    Ok(())
}

/// A stream whose kernel waits delays neither launches on it nor other streams, far past any credit.
fn busy_stream() -> Verdict {
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

/// Works, and writes into the memory that it shares with its worker at the same time: noise of a kind,
/// the same for the same seed. What becomes of this program is no matter; the test looks at the others.
fn scribble(kind: u64, seed: u64) -> Verdict {
    use std::os::unix::fs::FileExt;
    let ready = Ready::new()?;
    let (gpu, count) = (ready.gpu, ready.function("count")?);
    let word = gpu.allocate(4).named("cuMemAlloc")?;
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|error| error.to_string())?;
    let range = maps
        .lines()
        .find(|line| line.contains("rw-s") && line.contains("control"))
        .and_then(|line| line.split_whitespace().next()?.split_once('-'))
        .ok_or("no control region is mapped")?;
    let start = u64::from_str_radix(range.0, 16).map_err(|error| error.to_string())?;
    let end = u64::from_str_radix(range.1, 16).map_err(|error| error.to_string())?;
    let memory = std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/mem")
        .map_err(|error| error.to_string())?;
    say("scribbles");
    std::thread::spawn(move || {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        // The rings and lanes in use lie at the beginning.
        let bytes = if next().is_multiple_of(2) {
            end - start
        } else {
            0x8000.min(end - start)
        };
        loop {
            let at = start + (next() % bytes) / 64 * 64;
            let mut line = Vec::new();
            match kind {
                // Noise.
                0 => (0..8).for_each(|_| line.extend(next().to_le_bytes())),
                // A record that looks published, with an opcode, a length, flags and a body of its own.
                1 => {
                    line.extend(((at - start) / 64 % 1024 + 1).to_le_bytes());
                    (0..7).for_each(|_| line.extend(next().to_le_bytes()));
                }
                // One bit or byte of whatever is there.
                2 => line.push(next().to_le_bytes()[0]),
                _ => line.extend([0xff; 64]),
            }
            let offset = if kind == 2 { next() % 64 } else { 0 };
            // The region may go away under us when the session ends.
            let _ = memory.write_at(&line, at + offset);
        }
    });
    // A program that lies to itself may wait for ever; it ends here all the same.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(2));
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(0) };
    });
    let mut buffer = [0_u8; 4];
    loop {
        let outcome = gpu
            .launch(count, 1, 32, &[Argument::Word(word)], null_mut())
            .and_then(|()| gpu.synchronize())
            .and_then(|()| gpu.download(&mut buffer, word));
        if outcome == Err(CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE) {
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) };
        }
    }
}
