//! A scenario that does what its input says with memory that processes share, line by line.

use std::io::BufRead;

use e2e::driver::Outcome;

use crate::support::*;

/// `allocate BYTES`, `export`, `free`, `open HANDLE`, `word`, `close`: each answers with its number, the code, and
/// what it gave. `event`, `open-event HANDLE`, `synchronize`, `end-event`: the same of events. What was opened last is read and closed; what was allocated last is exported and freed, and
/// holds the word 77.
pub fn obey() -> Verdict {
    let ready = Ready::new()?;
    let gpu = &ready.gpu;
    let (mut own, mut opened) = (0, 0);
    let mut event = std::ptr::null_mut();
    say("ready");
    for (number, line) in (1_u32..).zip(std::io::stdin().lock().lines()) {
        let line = line.map_err(|error| error.to_string())?;
        let (what, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let answer: Outcome<String> = match what {
            "allocate" => {
                let bytes = argument.parse().map_err(|_| "no number of bytes")?;
                gpu.allocate(bytes).and_then(|address| {
                    own = address;
                    gpu.fill(own, 77, 4)?;
                    gpu.synchronize().map(|()| String::new())
                })
            }
            "export" => gpu.export(own).map(|handle| hexadecimal(&handle)),
            "free" => gpu.free(own).map(|()| String::new()),
            "open" => gpu.import(handle(argument)?).map(|address| {
                opened = address;
                String::new()
            }),
            "word" => {
                let mut word = [0; 4];
                let read = gpu.download(&mut word, opened);
                read.map(|()| u32::from_le_bytes(word).to_string())
            }
            "close" => gpu.close_import(opened).map(|()| String::new()),
            "event" => gpu.create_shared_event().and_then(|(made, handle)| {
                event = made;
                gpu.record_event(event, std::ptr::null_mut())?;
                Ok(hexadecimal(&handle))
            }),
            "open-event" => gpu.import_event(handle(argument)?).map(|made| {
                event = made;
                String::new()
            }),
            "synchronize" => gpu.synchronize_event(event).map(|()| String::new()),
            "end-event" => gpu.destroy_event(event).map(|()| String::new()),
            other => return Err(format!("no such order: {other:?}")),
        };
        let text = answer.as_deref().unwrap_or_default();
        let code = code(answer.as_ref().map_err(|error| *error));
        say(&format!("{number} {code} {text}"));
    }
    Ok(())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn handle(text: &str) -> Result<[u8; 64], String> {
    let digits = |index: usize| text.get(2 * index..2 * index + 2).unwrap_or("?");
    let mut handle = [0; 64];
    for (index, byte) in handle.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits(index), 16).map_err(|error| error.to_string())?;
    }
    Ok(handle)
}
