//! Calls one function of the Driver API in many wrong ways, and in the right one:
//! `vgpu-test-calls STATE FUNCTION [FIRST_CASE]`. `--list` names the functions.
//!
//! The cases follow from the function's signature (`cases`): what is right for every parameter, then, one
//! parameter at a time, what is not. Each prints its name before the call and the code after it, so that
//! whoever started this program knows which case ended it and can go on with the next; a case that leaves the
//! context lost ends it too. It judges nothing: the test compares what two drivers say.
//!
//! `STATE` is what the calls find: `before` cuInit, `bare` (objects, but no current context), or `ready`.
#![forbid(unsafe_code)]

mod cases;
mod fixture;

use std::io::Write;
use std::process::exit;
use std::time::Duration;

use cases::Case;
use cuda_abi::function::FUNCTIONS;
use e2e::raw::Driver;
use fixture::Fixture;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["--list"] {
        for function in FUNCTIONS.iter().filter(|f| f.name.starts_with("cu")) {
            say(&format!("{}\n", function.name));
        }
        return;
    }
    let [state, function, rest @ ..] = &arguments[..] else {
        eprintln!("usage: vgpu-test-calls STATE FUNCTION [FIRST_CASE] | --list");
        exit(2);
    };
    let first = rest
        .first()
        .map_or(0, |text| text.parse().expect("an argument is a number"));
    let driver = Driver::find().unwrap_or_else(|error| {
        eprintln!("{error}");
        exit(2);
    });
    let fixture = match state.as_str() {
        "before" => Fixture::none(),
        _ => Fixture::make(&driver),
    };
    if state == "bare" {
        driver.call("cuCtxSetCurrent", &[0]);
    }
    let cases = cases::of(function, &fixture);
    // Without a context or without cuInit nothing else is wrong: the last case.
    let begin = if state == "ready" {
        0
    } else {
        cases.len().saturating_sub(1)
    };
    for (index, case) in cases.iter().enumerate().skip(begin.max(first)) {
        let Case { name, words } = case;
        say(&format!("{index} {function} {name}"));
        let code = driver.call(function, words);
        say(&format!(" -> {code}\n"));
        if state == "ready" {
            driver.call("cuCtxSetCurrent", &[fixture.context]);
            if is_lost(&driver) {
                // What comes now would only tell of this case again.
                e2e::raw::leave();
            }
        }
    }
    // Not the exit of a program that uses CUDA: what a case left behind shall not decide.
    say("end\n");
    e2e::raw::leave();
}

/// Whether the last case cost the context. It may have work that never ends, so nobody waits for long.
fn is_lost(driver: &Driver) -> bool {
    const NOT_READY: u32 = 600;
    for _ in 0..20 {
        match driver.call("cuStreamQuery", &[0]) {
            0 => return false,
            NOT_READY => std::thread::sleep(Duration::from_millis(1)),
            _ => return true,
        }
    }
    false
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // Who no longer listens ends the program some other way.
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
