//! Extracts the facts of a CUDA header directory: which functions exist, at which version, under which
//! exported name and with which signature, and the values of the enumerations.
//!
//! Only facts (names, numbers, types) are written; the headers themselves are never part of the project.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use regex::Regex;

const TYPEDEF_HEADERS: [&str; 5] = [
    "cudaTypedefs.h",
    "cudaGLTypedefs.h",
    "cudaEGLTypedefs.h",
    "cudaVDPAUTypedefs.h",
    "cudaProfilerTypedefs.h",
];

pub fn run(root: &Path, directory: &Path) -> Result<(), String> {
    let read = |name: &str| {
        fs::read_to_string(directory.join(name))
            .map_err(|error| format!("cannot read {}: {error}", directory.join(name).display()))
    };
    let header = strip_comments(&read("cuda.h")?);
    let version =
        capture(&header, r"#define CUDA_VERSION (\d+)").ok_or("cuda.h defines no CUDA_VERSION")?;
    let exported_path = root.join("cuda-abi/data/exported-names.txt");
    let exported: BTreeSet<String> = fs::read_to_string(&exported_path)
        .map_err(|error| format!("cannot read {}: {error}", exported_path.display()))?
        .lines()
        .map(str::to_owned)
        .collect();

    let mut typedefs = Vec::new();
    for name in TYPEDEF_HEADERS {
        typedefs.extend(parse_typedefs(&strip_comments(&read(name)?)));
    }
    let functions = name_exports(&typedefs, &exported);
    let mut text = format!(
        "# Driver API functions of CUDA {version}: export, base name, since version, default stream, parameters.\n\
         # Extracted from the pinned header by `cargo xtask header`.\n"
    );
    for line in &functions {
        let _ = writeln!(text, "{line}");
    }
    write(&root.join("cuda-abi/data/functions.tsv"), &text)?;

    let mut text = format!(
        "# Enumerations and integer constants of CUDA {version}: enum, name, value.\n\
         # Extracted from the pinned header by `cargo xtask header`.\n"
    );
    for (name, constant, value) in parse_enums(&header)? {
        let _ = writeln!(text, "{name}\t{constant}\t{value}");
    }
    write(&root.join("cuda-abi/data/enums.tsv"), &text)?;
    write(
        &root.join("cuda-abi/data/version.txt"),
        &format!("{version}\n"),
    )
}

/// Extracts the functions of an `nvml.h`: names and parameters.
pub fn run_nvml(root: &Path, file: &Path) -> Result<(), String> {
    let header = fs::read_to_string(file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let header = strip_comments(&header);
    let version = capture(&header, r"#define NVML_API_VERSION\s+(\d+)")
        .ok_or("the header defines no NVML_API_VERSION")?;
    let pattern = Regex::new(r"\sDECLDIR\s+(?:char\s*\*\s*)?(nvml\w+)\s*\(([^)]*)\)\s*;")
        .expect("the pattern is constant");
    let functions: BTreeMap<&str, String> = pattern
        .captures_iter(&header)
        .map(|found| {
            let (_, [name, parameters]) = found.extract();
            (name, squeeze(parameters))
        })
        .collect();
    let mut text = format!(
        "# Functions of NVML {version}: export, parameters.\n\
         # Extracted from the header by `cargo xtask nvml-header`.\n"
    );
    for (name, parameters) in functions {
        let _ = writeln!(text, "{name}\t{parameters}");
    }
    write(&root.join("cuda-abi/data/nvml-functions.tsv"), &text)
}

struct Typedef {
    base: String,
    version: u32,
    form: &'static str,
    parameters: String,
}

fn parse_typedefs(text: &str) -> Vec<Typedef> {
    let pattern = Regex::new(
        r"typedef\s+CUresult\s*\(CUDAAPI\s*\*\s*PFN_(cu\w+?)_v(\d+)(_ptds|_ptsz)?\)\s*\(([^;]*)\)\s*;",
    )
    .expect("the pattern is constant");
    pattern
        .captures_iter(text)
        .map(|found| Typedef {
            base: found[1].to_owned(),
            version: found[2].parse().unwrap_or(0),
            form: match found.get(3).map(|form| form.as_str()) {
                Some("_ptds") => "ptds",
                Some("_ptsz") => "ptsz",
                _ => "-",
            },
            parameters: squeeze(&found[4]),
        })
        .collect()
}

/// Gives each (base, version) its exported name: the newest version has the highest suffix that is
/// exported, the one before it the next lower, and so on down to the plain name.
fn name_exports(typedefs: &[Typedef], exported: &BTreeSet<String>) -> BTreeSet<String> {
    let mut groups: BTreeMap<(&str, &str), Vec<&Typedef>> = BTreeMap::new();
    for typedef in typedefs {
        groups
            .entry((&typedef.base, typedef.form))
            .or_default()
            .push(typedef);
    }
    let mut lines = BTreeSet::new();
    let mut named: BTreeMap<String, (&str, &str)> = BTreeMap::new();
    for ((base, form), mut group) in groups {
        group.sort_by_key(|typedef| typedef.version);
        group.dedup_by_key(|typedef| typedef.version);
        let tail = if form == "-" {
            String::new()
        } else {
            format!("_{form}")
        };
        let mut names: Vec<String> = std::iter::once(format!("{base}{tail}"))
            .chain((2..8).map(|suffix| format!("{base}_v{suffix}{tail}")))
            .filter(|name| exported.contains(name))
            .collect();
        while let (Some(typedef), Some(name)) = (group.pop(), names.pop()) {
            named.insert(name.clone(), (base, &typedef.parameters));
            lines.insert(format!(
                "{name}\t{base}\t{}\t{form}\t{}",
                typedef.version, typedef.parameters
            ));
        }
        for typedef in group {
            eprintln!(
                "no exported name for {base} version {} ({form})",
                typedef.version
            );
        }
    }
    for name in exported.iter().filter(|name| !named.contains_key(*name)) {
        // Exported, but without a typedef: reachable by dlsym only. A per-thread form is its plain form's.
        let plain = ["ptds", "ptsz"].into_iter().find_map(|form| {
            let plain = name.strip_suffix(form)?.strip_suffix('_')?;
            Some((form, named.get(plain)?))
        });
        lines.insert(match plain {
            Some((form, (base, parameters))) => format!("{name}\t{base}\t0\t{form}\t{parameters}"),
            None => format!("{name}\t{name}\t0\t-\t?"),
        });
    }
    lines
}

fn parse_enums(header: &str) -> Result<Vec<(String, String, i64)>, String> {
    let block = Regex::new(r"typedef\s+enum\s+\w*\s*\{([^}]*)\}\s*(\w+)\s*;")
        .expect("the pattern is constant");
    let define = Regex::new(r"#define\s+(CU_\w+)\s+\(?((?:0x[0-9a-fA-F]+|-?\d+))\)?\s*\n")
        .expect("the pattern is constant");
    let mut constants: BTreeMap<String, i64> = BTreeMap::new();
    let mut rows = Vec::new();
    for found in define.captures_iter(header) {
        let value = number(&found[2]).ok_or_else(|| format!("bad number {}", &found[2]))?;
        constants.insert(found[1].to_owned(), value);
        rows.push(("-".to_owned(), found[1].to_owned(), value));
    }
    for found in block.captures_iter(header) {
        let name = found[2].to_owned();
        let mut next = 0i64;
        let body: String = found[1]
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .collect::<Vec<_>>()
            .join("\n");
        for item in body
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            let (constant, value) = match item.split_once('=') {
                Some((constant, expression)) => (
                    constant.trim(),
                    evaluate(expression, &constants)
                        .ok_or_else(|| format!("cannot evaluate {item:?} in {name}"))?,
                ),
                None => (item, next),
            };
            constants.insert(constant.to_owned(), value);
            rows.push((name.clone(), constant.to_owned(), value));
            next = value + 1;
        }
    }
    Ok(rows)
}

/// Values in cuda.h are numbers, names of earlier constants, and shifts, ors and sums of those.
fn evaluate(expression: &str, constants: &BTreeMap<String, i64>) -> Option<i64> {
    let expression = expression
        .trim()
        .trim_start_matches('(')
        .trim_end_matches(')')
        .trim();
    if let Some((left, right)) = expression.split_once('|') {
        return Some(evaluate(left, constants)? | evaluate(right, constants)?);
    }
    if let Some((left, right)) = expression.split_once("<<") {
        return Some(evaluate(left, constants)? << evaluate(right, constants)?);
    }
    if let Some((left, right)) = expression.split_once('+') {
        return Some(evaluate(left, constants)? + evaluate(right, constants)?);
    }
    number(expression).or_else(|| constants.get(expression).copied())
}

fn number(text: &str) -> Option<i64> {
    let text = text.trim().trim_end_matches(['u', 'U', 'l', 'L']);
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn strip_comments(text: &str) -> String {
    let block = Regex::new(r"(?s)/\*.*?\*/").expect("the pattern is constant");
    let line = Regex::new(r"//[^\n]*").expect("the pattern is constant");
    line.replace_all(&block.replace_all(text, " "), " ")
        .into_owned()
}

fn squeeze(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace("* ", "*")
}

fn capture(text: &str, pattern: &str) -> Option<String> {
    Regex::new(pattern)
        .ok()?
        .captures(text)
        .map(|found| found[1].to_owned())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
