//! Scenarios about memory: holding it, running out of it, finding it zeroed.

use std::collections::BTreeSet;

use cuda_abi::types::CUresult;
use e2e::driver::{Gpu, peek, poke};

use crate::support::*;

/// Holds device memory until its input ends; then it still holds what was put there.
pub fn hold_memory(bytes: u64) -> Verdict {
    let ready = Ready::new()?;
    let bytes = usize::try_from(bytes).map_err(|error| error.to_string())?;
    let address = ready.gpu.allocate(bytes).named("cuMemAlloc")?;
    ready
        .gpu
        .fill(address, 0x5a5a_5a5a, bytes / 4)
        .named("cuMemsetD32")?;
    ready.gpu.synchronize().named("cuCtxSynchronize")?;
    say(&format!("holds {bytes} at {address}"));
    wait_for_input_end();
    let mut found = vec![0; bytes / 4 * 4];
    ready
        .gpu
        .download(&mut found, address)
        .named("cuMemcpyDtoH")?;
    if found.iter().any(|byte| *byte != 0x5a) {
        return Err("the memory holds something else".to_owned());
    }
    ready.gpu.free(address).named("cuMemFree")
}

/// Allocates pieces until the driver refuses, says how much there was and that freeing helps.
pub fn fill_memory(piece: u64) -> Verdict {
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
pub fn host_quota(piece: u64) -> Verdict {
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

/// What memory without an address is a multiple of.
const GRANULE: usize = 2 << 20;

/// Device memory is zero, and is not any more.
fn litter_zeros(gpu: &Gpu, address: u64, bytes: usize) -> Verdict {
    let mut seen = vec![1_u8; bytes];
    gpu.download(&mut seen, address).named("cuMemcpyDtoH")?;
    if seen.iter().any(|byte| *byte != 0) {
        return Err(format!("{bytes} bytes of device memory were not zero"));
    }
    gpu.fill(address, 0xa5a5_a5a5, bytes / 4)
        .named("cuMemsetD32")?;
    gpu.synchronize().named("cuCtxSynchronize")
}

/// Fresh memory is zero, device (allocated, of a pool, mapped) and pinned, however often it was used before.
pub fn zeroed(rounds: u64) -> Verdict {
    let ready = Ready::new()?;
    let gpu = ready.gpu;
    let mut addresses = BTreeSet::new();
    for round in 0..rounds {
        let bytes = 4096 << (round % 8);
        let device = gpu.allocate(bytes).named("cuMemAlloc")?;
        addresses.insert(device);
        litter_zeros(gpu, device, bytes).map_err(|error| format!("round {round}: {error}"))?;
        gpu.free(device).named("cuMemFree")?;
        let pooled = gpu.allocate_async(bytes).named("cuMemAllocAsync")?;
        litter_zeros(gpu, pooled, bytes).map_err(|error| format!("round {round}: {error}"))?;
        gpu.free_async(pooled).named("cuMemFreeAsync")?;
        let mapped = gpu.map(GRANULE).named("cuMemMap")?;
        litter_zeros(gpu, mapped, GRANULE).map_err(|error| format!("round {round}: {error}"))?;
        gpu.unmap(mapped, GRANULE).named("cuMemUnmap")?;
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

/// Says how many bytes of fresh memory are not zero: what an earlier owner left there.
pub fn leftover(bytes: u64) -> Verdict {
    let ready = Ready::new()?;
    let bytes = usize::try_from(bytes).map_err(|error| error.to_string())?;
    let address = ready.gpu.allocate(bytes).named("cuMemAlloc")?;
    let mut seen = vec![0; bytes];
    ready
        .gpu
        .download(&mut seen, address)
        .named("cuMemcpyDtoH")?;
    let count = seen.iter().filter(|byte| **byte != 0).count();
    say(&format!("leftover {count}"));
    Ok(())
}
