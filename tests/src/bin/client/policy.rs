//! A scenario that does what its input says while an operator changes what its zone is granted.

use std::io::BufRead;

use cuda_abi::function::{FunctionInfo, Group};
use cuda_abi::resolver::EXPORTS;
use cuda_abi::types::{CUresult, CUstream};
use e2e::raw::{Driver, leak, read};

use crate::support::*;

/// `probe GROUP`: calls every function of a group with nothing but zeros; answers with the number of functions and the
/// names of those that were not refused. `allocate BYTES`, `free`: answers with the code. `hold`: makes one of
/// everything; `leave`: gives it all back; both answer with what failed.
pub fn obey() -> Verdict {
    let ready = Ready::new()?;
    let raw = Driver::find()?;
    let (mut held, mut own) = (None, 0);
    say("ready");
    for (number, line) in (1_u32..).zip(std::io::stdin().lock().lines()) {
        let line = line.map_err(|error| error.to_string())?;
        let (what, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match what {
            "probe" => probe(&raw, argument)?,
            "allocate" => {
                let bytes = argument.parse().map_err(|_| "no number of bytes")?;
                let made = ready.gpu.allocate(bytes);
                own = made.unwrap_or(own);
                code(made).to_string()
            }
            "free" => code(ready.gpu.free(own)).to_string(),
            "hold" => {
                let (all, failed) = Held::make(&ready, &raw);
                held = Some(all);
                failed
            }
            "leave" => held.take().map_or_else(
                || "nothing is held".to_owned(),
                |held| held.leave(&ready, &raw),
            ),
            other => return Err(format!("no such order: {other:?}")),
        };
        say(&format!("{number} {answer}"));
    }
    Ok(())
}

fn probe(raw: &Driver, group: &str) -> Result<String, String> {
    let group = Group::named(group).ok_or("no such group")?;
    let (mut count, mut let_through) = (0_u32, Vec::new());
    for export in &EXPORTS {
        let plain = export
            .name
            .trim_end_matches("_ptds")
            .trim_end_matches("_ptsz");
        if FunctionInfo::named(plain).and_then(|info| info.requires) != Some(group) {
            continue;
        }
        count += 1;
        let code = raw.call(export.name, &[]);
        if code != CUresult::CUDA_ERROR_NOT_PERMITTED.0 {
            let_through.push(format!("{}:{code}", export.name));
        }
    }
    if let_through.is_empty() {
        let_through.push("none".to_owned());
    }
    Ok(format!("{count} {}", let_through.join(",")))
}

/// One of everything that must be given back.
struct Held {
    stream: CUstream,
    capturing: CUstream,
    event: cuda_abi::types::CUevent,
    memory: u64,
    from_pool: u64,
    mapped: u64,
    host: u64,
    graph: u64,
}

/// Names of calls with the codes they should not have had.
#[derive(Default)]
struct Failed(Vec<String>);

impl Failed {
    fn note<T>(&mut self, call: &str, outcome: Result<T, CUresult>) -> Option<T> {
        match outcome {
            Ok(made) => Some(made),
            Err(error) => {
                self.0.push(format!("{call}:{}", error.0));
                None
            }
        }
    }

    fn note_code(&mut self, call: &str, code: u32) {
        if code != 0 {
            self.0.push(format!("{call}:{code}"));
        }
    }

    fn text(self) -> String {
        if self.0.is_empty() {
            return "all".to_owned();
        }
        self.0.join(",")
    }
}

const PIECE: usize = 2 << 20;

impl Held {
    fn make(ready: &Ready, raw: &Driver) -> (Self, String) {
        let gpu = ready.gpu;
        let mut failed = Failed::default();
        let mut stream = || {
            failed
                .note("cuStreamCreate", gpu.create_stream())
                .unwrap_or_default()
        };
        let (stream, capturing) = (stream(), stream());
        let event = failed.note("cuEventCreate", gpu.create_event());
        let memory = failed.note("cuMemAlloc", gpu.allocate(PIECE));
        let from_pool = failed.note("cuMemAllocAsync", gpu.allocate_async(PIECE));
        let mapped = failed.note("cuMemMap", gpu.map(PIECE));
        let host = failed.note("cuMemHostAlloc", gpu.allocate_host(PIECE));
        let graph = leak(0_u64);
        failed.note_code("cuGraphCreate", raw.call("cuGraphCreate", &[graph, 0]));
        let relaxed = 2;
        let begun = raw.call("cuStreamBeginCapture_v2", &[capturing as u64, relaxed]);
        failed.note_code("cuStreamBeginCapture", begun);
        let held = Self {
            stream,
            capturing,
            event: event.unwrap_or(std::ptr::null_mut()),
            memory: memory.unwrap_or_default(),
            from_pool: from_pool.unwrap_or_default(),
            mapped: mapped.unwrap_or_default(),
            host: host.unwrap_or_default(),
            graph: read(graph),
        };
        (held, failed.text())
    }

    fn leave(self, ready: &Ready, raw: &Driver) -> String {
        let gpu = ready.gpu;
        let mut failed = Failed::default();
        let captured = leak(0_u64);
        let ended = raw.call("cuStreamEndCapture", &[self.capturing as u64, captured]);
        failed.note_code("cuStreamEndCapture", ended);
        for graph in [read(captured), self.graph] {
            failed.note_code("cuGraphDestroy", raw.call("cuGraphDestroy", &[graph]));
        }
        failed.note("cuEventRecord", gpu.record_event(self.event, self.stream));
        failed.note(
            "cuStreamWaitEvent",
            gpu.wait_event(self.capturing, self.event),
        );
        failed.note("cuEventSynchronize", gpu.synchronize_event(self.event));
        failed.note("cuStreamSynchronize", gpu.synchronize_stream(self.stream));
        failed.note("cuStreamQuery", gpu.query_stream(self.stream));
        failed.note("cuMemFreeAsync", gpu.free_async(self.from_pool));
        failed.note("cuMemUnmap", gpu.unmap(self.mapped, PIECE));
        failed.note("cuMemFreeHost", gpu.free_host(self.host));
        failed.note("cuMemFree", gpu.free(self.memory));
        failed.note("cuMemGetInfo", gpu.memory());
        failed.note("cuEventDestroy", gpu.destroy_event(self.event));
        for stream in [self.stream, self.capturing] {
            failed.note("cuStreamDestroy", gpu.destroy_stream(stream));
        }
        failed.note("cuModuleUnload", gpu.unload(ready.module));
        failed.note("cuCtxSynchronize", gpu.synchronize());
        failed.note("cuDevicePrimaryCtxRelease", gpu.release_primary(0));
        failed.text()
    }
}
