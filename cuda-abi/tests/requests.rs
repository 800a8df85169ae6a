//! The requests that NVIDIA's CUDA runtime was observed to make of `cuGetProcAddress` at start-up:
//! `name vVERSION flags=F`, one a line, in order.

use cuda_abi::resolver::{EXPORTS, Lookup, lookup};

const PER_THREAD: u32 = 2;

/// Asked for by cudart 13.5, but in no public header; the resolver answers that it does not know them.
const UNDOCUMENTED: [&str; 3] = [
    "cuSubgridCreate",
    "cuSubgridWorkerGridCreate",
    "cuSubgridWorksetCreate",
];

fn requests(text: &str) -> Vec<(&str, u32, u32)> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| {
            let mut words = line.rsplitn(3, ' ');
            let flags = words
                .next()
                .and_then(|word| word.strip_prefix("flags="))
                .expect("flags");
            let version = words
                .next()
                .and_then(|word| word.strip_prefix('v'))
                .expect("version");
            let name = words.next().unwrap_or("").trim();
            (
                name,
                version.parse().expect("version number"),
                flags.parse().expect("flags number"),
            )
        })
        .collect()
}

fn check(text: &str, expected_at_least: usize) {
    let requests = requests(text);
    assert!(
        requests.len() >= expected_at_least,
        "the fixture has only {} lines",
        requests.len()
    );
    for (name, version, flags) in requests {
        let found = lookup(name, version, flags == PER_THREAD);
        if name.is_empty() || UNDOCUMENTED.contains(&name) {
            assert_eq!(found, Lookup::Unknown, "{name:?} names nothing");
            continue;
        }
        let Lookup::Found(index) = found else {
            panic!("{name} v{version} flags={flags}: {found:?}")
        };
        let export = &EXPORTS[index];
        assert_eq!(export.base, name);
        let per_thread = export.name.ends_with("_ptsz") || export.name.ends_with("_ptds");
        assert!(
            flags == PER_THREAD || !per_thread,
            "{name}: got {} without the flag",
            export.name
        );
    }
}

#[test]
fn every_request_of_cudart_13_5_finds_an_exported_name() {
    check(include_str!("fixtures/cudart-13.5.txt"), 480);
}

#[test]
fn every_request_of_cudart_12_8_finds_an_exported_name() {
    check(include_str!("fixtures/cudart-12.8.txt"), 418);
}
