//! A scenario that spends what a zone has in every way there is, order by order.

use std::io::BufRead;
use std::time::Instant;

use cuda_abi::types::{CUcontext, CUmodule, CUresult};
use e2e::driver::{Gpu, Outcome};
use e2e::raw::{Driver, leak, read};

use crate::support::*;

/// What was made and not given back yet, in the order of its making.
enum Held {
    Module(CUmodule),
    Memory(u64),
    Pooled(u64),
    Mapped(u64, usize),
    Pinned(u64),
    Array(u64),
    Context(CUcontext),
}

/// `module BYTES REMARKS`, `memory BYTES`, `pooled BYTES`, `mapped BYTES`, `pinned BYTES`, `array BYTES`, `context`: makes one;
/// answers with the code. `back`: gives the last one back. `free`: free memory. `limit NUMBER VALUE`: sets a limit of
/// the context. `streams`, `events`: makes as many as it can, answers with their number and the code of the first
/// refusal, and gives them back. `launches COUNT`, `copies COUNT`: answers with the milliseconds that they took.
pub fn obey() -> Verdict {
    let ready = Ready::new()?;
    let raw = Driver::find()?;
    let mut held = Vec::new();
    say("ready");
    for (number, line) in (1_u32..).zip(std::io::stdin().lock().lines()) {
        let line = line.map_err(|error| error.to_string())?;
        let words: Vec<&str> = line.split(' ').collect();
        let argument = |index: usize| -> u64 {
            let word = words.get(index).and_then(|word| word.parse().ok());
            word.unwrap_or_default()
        };
        let bytes = usize::try_from(argument(1)).map_err(|error| error.to_string())?;
        let gpu = ready.gpu;
        let mut keep = |made: Outcome<Held>| {
            let code = made.as_ref().map_or_else(|error| error.0, |_| 0);
            held.extend(made);
            code.to_string()
        };
        let answer = match words[0] {
            "module" => keep(gpu.load(&module(bytes, argument(2))).map(Held::Module)),
            "memory" => keep(gpu.allocate(bytes).map(Held::Memory)),
            "pooled" => keep(gpu.allocate_async(bytes).map(Held::Pooled)),
            "mapped" => keep(gpu.map(bytes).map(|address| Held::Mapped(address, bytes))),
            "pinned" => keep(gpu.allocate_host(bytes).map(Held::Pinned)),
            "array" => keep(array(&raw, argument(1)).map(Held::Array)),
            "context" => {
                let made = gpu.create_context(0).map(Held::Context);
                gpu.set_current(ready.context).named("cuCtxSetCurrent")?;
                keep(made)
            }
            "back" => {
                let last = held.pop().ok_or("nothing is held")?;
                code(give_back(gpu, &raw, last)).to_string()
            }
            "free" => gpu.memory().named("cuMemGetInfo")?.0.to_string(),
            "limit" => raw
                .call("cuCtxSetLimit", &[argument(1), argument(2)])
                .to_string(),
            "streams" => most(|| gpu.create_stream(), |made| gpu.destroy_stream(made)),
            "events" => most(|| gpu.create_event(), |made| gpu.destroy_event(made)),
            "launches" => {
                let function = ready.function("empty")?;
                milliseconds(gpu, argument(1), || {
                    gpu.launch(function, 1, 1, &[], std::ptr::null_mut())
                })?
            }
            "copies" => {
                let to = gpu.allocate(4096).named("cuMemAlloc")?;
                let took = milliseconds(gpu, argument(1), || gpu.upload(to, &[1; 64]))?;
                gpu.free(to).named("cuMemFree")?;
                took
            }
            other => return Err(format!("no such order: {other:?}")),
        };
        say(&format!("{number} {answer}"));
    }
    Ok(())
}

/// A text whose one variable takes so many bytes, and which has so many lines of remarks, of 1 KiB for each.
fn module(bytes: usize, remarks: u64) -> String {
    let remark = format!("//{}\n", "-".repeat(1021));
    let remarks = remark.repeat(usize::try_from(remarks / 1024).unwrap_or(0));
    format!(
        ".version 8.0\n.target sm_52\n.address_size 64\n{remarks}.visible .global .align 16 .b8 big[{bytes}];\n\0"
    )
}

/// A line of bytes, of rows of 1 KiB.
fn array(raw: &Driver, bytes: u64) -> Outcome<u64> {
    let made = leak(0_u64);
    // Width, height, format (unsigned bytes), channels.
    let descriptor = leak([1024_u64, bytes / 1024, 1 | 1 << 32]);
    match raw.call("cuArrayCreate_v2", &[made, descriptor]) {
        0 => Ok(read(made)),
        code => Err(CUresult(code)),
    }
}

fn give_back(gpu: &Gpu, raw: &Driver, held: Held) -> Outcome<()> {
    match held {
        Held::Module(module) => gpu.unload(module),
        Held::Memory(address) => gpu.free(address),
        Held::Pooled(address) => gpu.free_async(address).and_then(|()| gpu.synchronize()),
        Held::Mapped(address, bytes) => gpu.unmap(address, bytes),
        Held::Pinned(address) => gpu.free_host(address),
        Held::Array(array) => match raw.call("cuArrayDestroy", &[array]) {
            0 => Ok(()),
            code => Err(CUresult(code)),
        },
        Held::Context(context) => gpu.destroy_context(context),
    }
}

fn most<T>(make: impl Fn() -> Outcome<T>, destroy: impl Fn(T) -> Outcome<()>) -> String {
    let mut made = Vec::new();
    let refusal = loop {
        match make() {
            Ok(one) => made.push(one),
            Err(error) => break error.0,
        }
        if made.len() > 1 << 17 {
            break 0;
        }
    };
    let count = made.len();
    let failed = made.into_iter().filter_map(|one| destroy(one).err());
    format!("{count} {refusal} {}", failed.count())
}

fn milliseconds(gpu: &Gpu, count: u64, call: impl Fn() -> Outcome<()>) -> Result<String, String> {
    let start = Instant::now();
    for _ in 0..count {
        call().named("a call that should only be slow")?;
    }
    gpu.synchronize().named("cuCtxSynchronize")?;
    Ok(start.elapsed().as_millis().to_string())
}
