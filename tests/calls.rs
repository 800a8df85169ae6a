//! Every declared function returns the same code directly and through the proxy, however wrongly it is called.
//!
//! `vgpu-test-calls` makes the cases from the functions' signatures; nothing is listed here but what is known to
//! differ, with the reason (`calls-known.txt`). A case that ends the process must end it on both sides.
//!
//! What NVIDIA's driver answered where `make device-check PART=7` ran is in `docs/results/*-codes.txt`: the
//! software GPU must answer the same but for what `calls-real.txt` lists, with the reason.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use cuda_abi::function::FUNCTIONS;
use e2e::{Finished, Program, Proxy, Setup, Zone, place, proxy};

/// A function and what is wrong with the call, with the code it returned, or how the process ended.
type Codes = BTreeMap<String, String>;

fn functions() -> impl Iterator<Item = &'static str> {
    FUNCTIONS
        .iter()
        .map(|function| function.name)
        .filter(|name| name.starts_with("cu"))
}

/// Runs all cases of a function; a case that ends the process is followed by the next in a new one.
fn run(start: impl Fn() -> Program, state: &str, function: &str, codes: &mut Codes) {
    // Some of them write files.
    let folder = tempfile::tempdir().unwrap();
    let mut first = 0;
    loop {
        let finished = start()
            .directory(folder.path())
            .arg(state)
            .arg(function)
            .arg(first.to_string())
            .env("VGPU_LOG", "off")
            .env("SOFTGPU_LOG", "off")
            .run();
        let Some(next) = collect(&finished, state, codes) else {
            return;
        };
        assert!(next > first, "no way on: {}", finished.describe());
        first = next;
    }
}

/// The codes that one process told, and the case to go on with if it did not come to its end.
fn collect(finished: &Finished, state: &str, codes: &mut Codes) -> Option<usize> {
    let mut last = None;
    for line in finished.stdout.lines() {
        if line == "end" {
            return None;
        }
        let (case, code) = line.split_once(" -> ").unwrap_or((line, ""));
        let (index, name) = case.split_once(' ').unwrap_or((case, ""));
        last = index.parse::<usize>().ok();
        let code = match code {
            "" => format!("signal {:?} code {:?}", finished.signal, finished.code),
            code => code.to_owned(),
        };
        codes.insert(format!("{state} {name}"), code);
    }
    let last = last.unwrap_or_else(|| panic!("it never began: {}", finished.describe()));
    Some(last + 1)
}

/// Lines of `state function case: reason`; `*` at the end of the case stands for anything.
fn known(list: &str) -> Vec<String> {
    list.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (case, reason) = line.split_once(": ").expect("a case and a reason");
            assert!(!reason.is_empty(), "{line}");
            case.to_owned()
        })
        .collect()
}

fn fits(pattern: &str, case: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => case.starts_with(start),
        None => case == pattern,
    }
}

fn proxy_for_calls() -> Proxy {
    Setup::new()
        .zone(Zone::new("default").memory("1GiB").warm(2).clients(16))
        .driver_env("SOFTGPU_MEMORY", "1G")
        .driver_env("SOFTGPU_LOG", "off")
        .start()
}

/// # Panics
/// If anything differs that is not known to, or is known to and does not.
fn compare(state: &str) {
    let proxy = proxy_for_calls();
    let (mut direct, mut remoted) = (Codes::new(), Codes::new());
    for function in functions() {
        let directly = || proxy::direct(place::calls()).env("SOFTGPU_MEMORY", "1G");
        run(directly, state, function, &mut direct);
        run(
            || proxy.program(place::calls()),
            state,
            function,
            &mut remoted,
        );
    }
    let known = known(include_str!("calls-known.txt"));
    let differ = |case: &str| direct.get(case) != remoted.get(case);
    let cases = direct.keys().chain(remoted.keys());
    let mut unknown: Vec<String> = cases
        .filter(|case| differ(case) && !known.iter().any(|pattern| fits(pattern, case)))
        .map(|case| {
            let told = |codes: &Codes| codes.get(case).map_or("missing", String::as_str).to_owned();
            format!(
                "{case}: direct {}, remoted {}",
                told(&direct),
                told(&remoted)
            )
        })
        .collect();
    unknown.sort();
    unknown.dedup();
    assert!(
        unknown.is_empty(),
        "{} of {} cases differ:\n{}",
        unknown.len(),
        direct.len(),
        unknown.join("\n")
    );
    let stale: Vec<&String> = known
        .iter()
        .filter(|pattern| pattern.starts_with(state))
        .filter(|pattern| {
            !direct
                .keys()
                .any(|case| fits(pattern, case) && differ(case))
        })
        .collect();
    assert!(stale.is_empty(), "listed as known, but equal: {stale:?}");
    println!(
        "{state}: {} cases of {} functions the same",
        direct.len(),
        functions().count()
    );
}

#[test]
fn wrong_and_right_arguments_have_the_same_codes() {
    compare("ready");
}

#[test]
fn calls_without_a_context_have_the_same_codes() {
    compare("bare");
}

#[test]
fn calls_before_init_have_the_same_codes() {
    compare("before");
}

/// What a driver answered, as `make device-check PART=7` wrote it down.
fn recorded(text: &str) -> Codes {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (case, code) = line.split_once(" -> ").expect("a case and its code");
            (case.to_owned(), code.to_owned())
        })
        .collect()
}

/// What the software GPU answers otherwise than a record says, a line each.
fn replay(record: &Codes) -> Vec<String> {
    let mut answered = Codes::new();
    let mut asked: Vec<(&str, &str)> = record
        .keys()
        .filter_map(|case| {
            let mut words = case.split(' ');
            Some((words.next()?, words.next()?))
        })
        .collect();
    asked.dedup();
    for (state, function) in asked {
        let directly = || proxy::direct(place::calls()).env("SOFTGPU_MEMORY", "1G");
        run(directly, state, function, &mut answered);
    }
    let known = known(include_str!("calls-real.txt"));
    let differs = |(case, code): (&String, &String)| {
        let ours = answered.get(case)?;
        let listed = known.iter().any(|pattern| fits(pattern, case));
        // A call that ends the process has no code; how it ends is the machine's affair.
        let is_code = |told: &str| told.parse::<u32>().is_ok();
        let same = ours == code || !(is_code(ours) || is_code(code));
        (!same && !listed).then(|| format!("{case}: {code} recorded, {ours} here"))
    };
    record.iter().filter_map(differs).collect()
}

#[test]
fn the_software_gpu_answers_as_the_driver_did_where_it_was_recorded() {
    let results = place::repository().join("docs/results");
    let files = std::fs::read_dir(results).expect("the folder is ours");
    for file in files.flatten().map(|entry| entry.path()) {
        if !file.to_string_lossy().ends_with("-codes.txt") {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("the file is ours");
        let differ = replay(&recorded(&text));
        let name = file.display();
        assert!(differ.is_empty(), "{name}:\n{}", differ.join("\n"));
    }
}

#[test]
fn a_record_of_the_device_check_is_replayed_and_a_changed_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    Program::new(place::repository().join("tests/device-check/run.sh"))
        .arg(folder.path())
        .env("PART", "7")
        .env("PART_CASES", "codes cuEvent")
        .env("VGPU_BINARIES", place::profile())
        .env("PROBE_LIBRARY", place::softgpu())
        .env("SOFTGPU_MEMORY", "1G")
        .run()
        .expect_success();
    let written = std::fs::read_dir(folder.path()).unwrap();
    let record = written
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with("-codes.txt"))
        .expect("part 7 writes a record");
    let mut record = recorded(&std::fs::read_to_string(record).unwrap());
    assert!(record.len() > 30, "{record:#?}");
    assert_eq!(replay(&record), Vec::<String>::new());
    let case = "ready cuEventCreate phEvent=NULL".to_owned();
    let before = record.insert(case.clone(), "999".to_owned());
    assert_eq!(before.as_deref(), Some("1"));
    let differ = replay(&record);
    assert_eq!(differ, [format!("{case}: 999 recorded, 1 here")]);
}
