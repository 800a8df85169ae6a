//! A CUDA program of the tests' own: `vgpu-test-client SCENARIO [ARGUMENT...]`.
//!
//! Each scenario is a small program that a sceptic would write. It says what it saw in plain lines, ends
//! with 0 if the driver kept its word and with 1, and the reason on stderr, if not.

mod ipc;
mod ledger;
mod life;
mod memory;
mod order;
mod policy;
mod support;
mod work;
mod wrong;

use std::process::exit;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let scenario = arguments.first().map_or("", String::as_str);
    let number = |index: usize, default: u64| {
        arguments.get(index).map_or(default, |text| {
            text.parse().expect("an argument is a number")
        })
    };
    let argument = |index: usize| arguments.get(index).map_or("", String::as_str);
    let size = |index, default| usize::try_from(number(index, default)).expect("a size fits");
    let verdict = match scenario {
        "devices" => work::devices(),
        "init" => work::init(),
        "vector-add" => work::vector_add(number(1, 100_000)),
        "hold-memory" => memory::hold_memory(number(1, 1 << 20)),
        "fill-memory" => memory::fill_memory(number(1, 1 << 20)),
        "host-quota" => memory::host_quota(number(1, 1 << 20)),
        "load" => work::load(),
        "until-error" => work::until_error(),
        "tell-until-error" => work::tell_until_error(argument(1), size(2, 4)),
        "cycles" => life::cycles(number(1, 10)),
        "fork" => life::fork_after_init(),
        "fork-first" => life::fork_before_init(),
        "exit-busy" => life::exit_busy(),
        "exit-late" => life::exit_late(),
        "thread-exit" => life::thread_exit(number(1, 200)),
        "operations" => work::operations(),
        "threads" => work::threads(number(1, 8), number(2, 200)),
        "interrupted" => work::interrupted(number(1, 400)),
        "reopen" => life::reopen(),
        "endless" => wrong::endless(),
        "fault" => wrong::fault(),
        "reach" => wrong::reach(number(1, 0)),
        "endless-code" => wrong::endless_code(),
        "bad-calls" => wrong::bad_calls(),
        "poll" => work::poll(),
        "host-function" => work::host_function(),
        "zeroed" => memory::zeroed(number(1, 64)),
        "context-cycles" => life::context_cycles(number(1, 20)),
        "busy-stream" => work::busy_stream(),
        "leftover" => memory::leftover(number(1, 1 << 20)),
        "steps" => work::steps(),
        "order" => order::order(number(1, 6), number(2, 3)),
        "ipc" => ipc::obey(),
        "ledger" => ledger::obey(),
        "policy" => policy::obey(),
        "scribble" => wrong::scribble(number(1, 0), number(2, 1)),
        other => Err(format!("no such scenario: {other:?}")),
    };
    if let Err(reason) = verdict {
        eprintln!("{scenario}: {reason}");
        exit(1);
    }
}
