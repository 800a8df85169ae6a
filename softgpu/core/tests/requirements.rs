//! What a form needs of `.target` and `.version`: the front end and NVIDIA's assembler agree.

mod table;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use softgpu_core::ptx::{self, CompileError, ErrorKind, Target};
use table::{Outcome, Row};

fn compile(version: &str, target: &str, line: &str) -> Result<(), CompileError> {
    let digits = target
        .trim_start_matches("sm_")
        .trim_end_matches(['a', 'f']);
    let number: u32 = digits.parse().unwrap();
    let device = Target {
        compute_capability: (number / 10, number % 10),
        max_ptx_version: (9, 9),
    };
    let text = format!(
        ".version {version}\n.target {target}\n.address_size 64\n.entry k() {{\n\
         .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<9>;\n{line};\nret;\n}}\n"
    );
    ptx::compile(&text, &device).map(|_| ())
}

#[test]
fn what_a_target_or_version_lacks_is_refused_with_line_instruction_and_requirement() {
    let refused = |version, target, line, reason: &str| {
        let error = compile(version, target, line).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidPtx, "{line}");
        assert_eq!(error.line, 6, "{line}");
        assert!(line.starts_with(&error.instruction), "{line}: {error}");
        assert!(error.reason.contains(reason), "{line}: {error}");
        assert!(!error.instruction.is_empty(), "{line}: {error}");
    };
    let mma = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r0, %r1, %r2, %r3}, \
               {%r0, %r1, %r2, %r3}, {%r4, %r5}, {%r0, %r1, %r2, %r3}";
    refused("7.0", "sm_75", mma, "requires .target sm_80 or higher");
    refused(
        "7.0",
        "sm_80",
        "elect.sync _|%p0, -1",
        "requires .target sm_90",
    );
    refused(
        "7.8",
        "sm_90",
        "elect.sync _|%p0, -1",
        "requires PTX ISA version 8.0",
    );
    refused(
        "8.0",
        "sm_90",
        "setmaxnreg.inc.sync.aligned.u32 24",
        "sm_90a",
    );
    refused(
        "6.3",
        "sm_75",
        "mov.u32 %r0, %cluster_ctarank",
        "requires .target sm_90",
    );
    let error = compile("6.0", "sm_75", "ret").unwrap_err();
    assert!(error.reason.contains("has no target sm_75"), "{error}");
    assert_eq!((error.kind, error.line), (ErrorKind::InvalidPtx, 2));
    for line in [mma, "activemask.b32 %r0", "redux.sync.add.u32 %r0, %r1, -1"] {
        assert_eq!(compile("7.0", "sm_80", line), Ok(()), "{line}");
    }
}

/// Versions that brought instructions.
const VERSIONS: &[&str] = &[
    "4.0", "4.1", "4.2", "4.3", "5.0", "6.0", "6.1", "6.2", "6.3", "6.4", "6.5", "7.0", "7.1",
    "7.2", "7.3", "7.4", "7.5", "7.6", "7.7", "7.8", "8.0", "8.1", "8.2", "8.3", "8.4", "8.5",
    "8.6", "8.7", "8.8", "9.0", "9.1", "9.2", "9.3",
];

/// Targets, oldest first, and the first version that has them.
const TARGETS: &[(&str, &str)] = &[
    ("sm_50", "4.0"),
    ("sm_53", "4.2"),
    ("sm_61", "5.0"),
    ("sm_70", "6.0"),
    ("sm_72", "6.1"),
    ("sm_75", "6.3"),
    ("sm_80", "7.0"),
    ("sm_86", "7.1"),
    ("sm_89", "7.8"),
    ("sm_90", "7.8"),
    ("sm_90a", "8.0"),
    ("sm_100", "8.6"),
    ("sm_100a", "8.6"),
    ("sm_100f", "8.8"),
    ("sm_120", "8.7"),
    ("sm_120a", "8.7"),
];

/// The assembler: `$PTXAS`, or that of the toolchain of the tests.
fn assembler() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let toolchain = std::env::var_os("CUDA_TOOLCHAIN_DIR").map(PathBuf::from);
    let toolchain = toolchain.unwrap_or(root.join("target/cuda-toolchain"));
    let chosen = std::env::var_os("PTXAS").map(PathBuf::from);
    let path = chosen.unwrap_or(toolchain.join("cu13/bin/ptxas"));
    path.exists().then_some(path)
}

/// The forms that the assembler refuses, and why; `None` if it does not know the target in that version.
///
/// All forms stand in one module, each on a line of its own. It ends with an error, so that nothing is
/// compiled after everything has been read.
fn assembled(
    ptxas: &Path,
    folder: &Path,
    (version, target): (&str, &str),
    forms: &[(&Row, String)],
) -> Option<Vec<Option<String>>> {
    let mut refused: Vec<Option<String>> = vec![None; forms.len()];
    loop {
        let mut text = format!(
            ".version {version}\n.target {target}\n.address_size 64\n{}",
            table::PRELUDE
        );
        text += table::registers("%q");
        let first = text.lines().count() + 1;
        for ((_, form), known) in forms.iter().zip(&refused) {
            // What ends the assembler at once has been noted the time before.
            let skip = known
                .as_ref()
                .is_some_and(|reason| reason.starts_with("fatal"));
            let _ = writeln!(text, "{};", if skip { "ret" } else { form });
        }
        text = text + "end_of_forms;" + table::POSTLUDE;
        let path = folder.join(format!("{target}-{version}.ptx"));
        std::fs::write(&path, &text).unwrap();
        let run = Command::new(ptxas)
            .args(["-arch", target, "-o", "/dev/null"])
            .arg(&path)
            .output();
        let said = String::from_utf8_lossy(&run.unwrap().stderr).into_owned();
        let mut fatal = false;
        for line in said.lines() {
            let Some((_, rest)) = line.split_once(", line ") else {
                if line.contains("is not defined for option") {
                    return None;
                }
                continue;
            };
            let (number, reason) = rest.split_once(';').unwrap_or((rest, ""));
            let reason = reason.trim();
            let number: usize = number.trim().parse().unwrap_or(0);
            let wrong = reason.starts_with("error") || reason.starts_with("fatal");
            if number <= 2 && wrong {
                return None;
            }
            let place = number
                .checked_sub(first)
                .and_then(|place| refused.get_mut(place));
            if let Some(place) = place
                && wrong
            {
                fatal |= reason.starts_with("fatal");
                *place = Some(reason.to_owned());
            }
        }
        if !fatal {
            assert!(said.contains("end_of_forms"), "{version} {target}: {said}");
            return Some(refused);
        }
    }
}

#[test]
#[ignore = "runs ptxas a hundred times: needs the CUDA toolchain (`make programs`), or PTXAS"]
fn the_assembler_accepts_exactly_what_the_requirements_allow() {
    let Some(ptxas) = assembler() else {
        println!("skipped: there is no ptxas");
        return;
    };
    let rows = table::rows().unwrap();
    let works = rows
        .iter()
        .filter(|row| matches!(row.outcome, Outcome::Works { .. }));
    let forms: Vec<(&Row, String)> = works
        .flat_map(|row| {
            row.forms()
                .into_iter()
                .map(move |form| (row, form.replace('\n', " ")))
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let (mut wrong, mut compared) = (BTreeMap::new(), 0);
    for &(target, since) in TARGETS {
        let since = VERSIONS
            .iter()
            .position(|version| *version == since)
            .unwrap();
        for version in &VERSIONS[since..] {
            let Some(theirs) = assembled(&ptxas, folder.path(), (version, target), &forms) else {
                continue;
            };
            compared += 1;
            let digits = target
                .trim_start_matches("sm_")
                .trim_end_matches(['a', 'f']);
            let number: u32 = digits.parse().unwrap();
            let device = Target {
                compute_capability: (number / 10, number % 10),
                max_ptx_version: (9, 9),
            };
            for ((row, form), theirs) in forms.iter().zip(&theirs) {
                let text = table::text(version, target, form).0;
                let ours = ptx::compile(&text, &device).err();
                if ours.is_some() != theirs.is_some() {
                    let both = format!(
                        ".version {version} .target {target}: ours: {ours:?}, theirs: {theirs:?}"
                    );
                    let place = wrong.entry((row.place.clone(), form)).or_insert((0, both));
                    place.0 += 1;
                }
            }
        }
    }
    println!(
        "{} forms, {compared} pairs of target and version",
        forms.len()
    );
    assert!(compared > 0, "the assembler knows none of the targets");
    let list = wrong.iter().map(|(((file, line), form), (count, first))| {
        format!("{file}.txt:{line}: {form}\n    {count} times, first {first}")
    });
    let list: Vec<String> = list.collect();
    assert!(list.is_empty(), "{}", list.join("\n"));
}
