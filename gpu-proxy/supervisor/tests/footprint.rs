//! The supervisor is small and privileged: what it links, and what it is made of, stay as they should.

use std::process::Command;

/// The system's own libraries; nothing else may be loaded into a process that runs as root.
const ALLOWED: [&str; 4] = [
    "libc.so.6",
    "libgcc_s.so.1",
    "libm.so.6",
    "ld-linux-x86-64.so.2",
];

#[test]
fn supervisor_links_nothing_but_the_c_library() {
    let bytes = std::fs::read(env!("CARGO_BIN_EXE_gpu-proxy")).unwrap();
    let needed = needed_libraries(&bytes);
    assert!(needed.iter().any(|name| name == "libc.so.6"), "{needed:?}");
    for name in &needed {
        let known = ALLOWED.contains(&name.as_str()) || name.starts_with("ld-linux");
        assert!(known, "the supervisor links {name}; {needed:?}");
    }
}

#[test]
fn supervisor_depends_on_no_network_or_runtime_crate() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8(output.stdout).unwrap();
    for line in tree.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let banned = [
            "tokio",
            "async-std",
            "mio",
            "socket2",
            "hyper",
            "libloading",
            "cudarc",
            "cc",
        ];
        assert!(
            !banned.contains(&name) && !name.ends_with("-sys"),
            "the supervisor depends on {name}"
        );
    }
    assert!(tree.contains("idm-protocol"));
}

/// `DT_NEEDED` of a 64-bit little-endian ELF file, so that the test needs no tool.
fn needed_libraries(elf: &[u8]) -> Vec<String> {
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
    let index = |value: u64| usize::try_from(value).unwrap();
    let half = |at: usize| usize::from(u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()));
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01");
    let (table, entry, count) = (index(word(32)), half(54), half(56));
    // (type, file offset, address, size in the file) of each segment.
    let segments: Vec<(u32, usize, u64, u64)> = (0..count)
        .map(|i| table + i * entry)
        .map(|at| {
            let kind = u32::from_le_bytes(elf[at..at + 4].try_into().unwrap());
            (kind, index(word(at + 8)), word(at + 16), word(at + 32))
        })
        .collect();
    let offset_of = |address: u64| {
        let (_, offset, start, _) = segments
            .iter()
            .find(|(kind, _, start, len)| *kind == 1 && (*start..start + len).contains(&address))
            .unwrap();
        offset + index(address - start)
    };
    let (_, dynamic, _, len) = *segments.iter().find(|(kind, ..)| *kind == 2).unwrap();
    let entries: Vec<(u64, u64)> = (dynamic..dynamic + index(len))
        .step_by(16)
        .map(|at| (word(at), word(at + 8)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let strings = offset_of(entries.iter().find(|(tag, _)| *tag == 5).unwrap().1);
    let name = |at: usize| elf[at..].split(|&byte| byte == 0).next().unwrap();
    entries
        .iter()
        .filter(|(tag, _)| *tag == 1)
        .map(|(_, at)| String::from_utf8(name(strings + index(*at)).to_vec()).unwrap())
        .collect()
}
