//! Scenarios about beginnings and ends: of contexts, threads, processes and the library itself.

use std::process::exit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cuda_abi::types::{CUcontext, CUfunction, CUresult};
use e2e::driver::{Argument, KERNELS};

use crate::support::*;

/// Contexts retained and released over and over in one process.
pub fn cycles(count: u64) -> Verdict {
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

pub fn context_cycles(count: u64) -> Verdict {
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
pub fn fork_after_init() -> Verdict {
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
pub fn fork_before_init() -> Verdict {
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
pub fn exit_busy() -> Verdict {
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
pub fn exit_late() -> Verdict {
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

fn threads() -> Result<usize, String> {
    let tasks = std::fs::read_dir("/proc/self/task").map_err(|error| error.to_string())?;
    Ok(tasks.count())
}

/// Many threads one after the other, each with calls of its own: none may be left over.
pub fn thread_exit(count: u64) -> Verdict {
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
    // One that was joined stays in the list for a moment, until the system has done with it.
    let mut left = threads()?;
    for _ in 0..100 {
        if left <= 4 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        left = threads()?;
    }
    say(&format!("{count} threads came and went"));
    if left > 4 {
        return Err(format!("{left} threads are left"));
    }
    Ok(())
}

/// Loads, uses, closes and loads the library again.
pub fn reopen() -> Verdict {
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
