//! Scenarios that do wrong: faulting kernels, bad arguments, bytes in shared memory.

use std::fmt::Write as _;
use std::ptr::null_mut;
use std::time::Duration;

use cuda_abi::types::CUresult;
use e2e::driver::Argument;

use crate::support::*;

/// A kernel that writes where nothing is: the context is lost, for good, and the process lives.
pub fn fault() -> Verdict {
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

/// Reaches for memory that is another process's: a copy is refused, a kernel finds nothing there.
pub fn reach(address: u64) -> Verdict {
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let poke_kernel = ready.function("poke")?;
    let refused = CUresult::CUDA_ERROR_INVALID_VALUE;
    let copied = gpu.download(&mut [0; 4], address);
    expect("cuMemcpyDtoH", copied, refused)?;
    expect("cuMemFree", gpu.free(address), refused)?;
    gpu.launch(poke_kernel, 1, 1, &[Argument::Word(address)], null_mut())
        .named("cuLaunchKernel")?;
    let lost = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    expect("cuCtxSynchronize", gpu.synchronize(), lost)
}

/// Code that takes longer to translate than its zone allows.
pub fn endless_code() -> Verdict {
    let ready = Ready::new()?;
    let mut text = String::from(".version 7.0\n.target sm_70\n.address_size 64\n");
    // Long enough for any machine: it is given up on long before its end.
    for number in 0..40_000 {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            ".visible .entry k{number}() {{ .reg .b32 %r<4>; mov.u32 %r1, %tid.x;"
        );
        for _ in 0..20 {
            text.push_str(" mad.lo.s32 %r2, %r1, %r1, %r2; xor.b32 %r1, %r1, %r2;");
        }
        text.push_str(" ret; }\n");
    }
    text.push('\0');
    say("has it translated");
    let ended = CUresult::CUDA_ERROR_LAUNCH_TIMEOUT;
    expect("cuModuleLoadData", ready.gpu.load(&text), ended)?;
    expect("cuMemAlloc", ready.gpu.allocate(4096), ended)?;
    say("and was ended");
    Ok(())
}

/// A kernel that never ends, until somebody ends this client's worker.
pub fn endless() -> Verdict {
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let hold = ready.function("hold")?;
    let words = gpu.allocate(256).named("cuMemAlloc")?;
    gpu.fill(words, 0, 64).named("cuMemsetD32")?;
    let arguments = [
        Argument::Word(words),
        Argument::Word(words + 128),
        Argument::Word(u64::MAX),
    ];
    gpu.launch(hold, 1, 1, &arguments, null_mut())
        .named("cuLaunchKernel")?;
    say("runs for ever");
    let ended = CUresult::CUDA_ERROR_LAUNCH_TIMEOUT;
    expect("cuCtxSynchronize", gpu.synchronize(), ended)?;
    expect("cuCtxSynchronize again", gpu.synchronize(), ended)?;
    expect("cuMemAlloc", gpu.allocate(4096), ended)?;
    say("and was ended");
    Ok(())
}

/// Mistakes that the driver reports at once.
pub fn bad_calls() -> Verdict {
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

/// Works, and writes into the memory that it shares with its worker at the same time: noise of a kind,
/// the same for the same seed. What becomes of this program is no matter; the test looks at the others.
pub fn scribble(kind: u64, seed: u64) -> Verdict {
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
