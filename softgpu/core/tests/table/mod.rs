//! The instruction table: which forms of which instructions work, which are refused, and what shows it.
//!
//! The table is the `.txt` files of this folder, in the order of [`FILES`]. To add rows for a family
//! of instructions, add a file and its name there, or append to one. A line is one of
//!
//! ```text
//! # a comment
//! = A heading
//! works by TEST: FORM
//! works by TEST on sm_100: FORM
//! refused, REASON: FORM
//! ```
//!
//! TEST is `file::function`: a test function in `softgpu/core/tests/file.rs` (or a file of the folder
//! `softgpu/core/tests/file`), or in `softgpu/cuda/tests/file.rs`, or `program::NAME` for the CUDA C program
//! `tests/programs/cuda/NAME.cu`; it must compare what the instruction computes. REASON is a part of the message with which loading fails. FORM is PTX without the last
//! semicolon, with alternatives in angle brackets: `add<.rn/.rz/><.ftz/>.f32 %T0, %T1, %T2` are six
//! instructions. `%T` stands for the register file of the instruction's last type (`%h`, `%r`, `%rd`,
//! `%q`), `%S` for that of the type before it. What else an instruction may name is in [`PRELUDE`].
//! `tests/forms.rs` compiles every form of every row, and
//! `cargo xtask softgpu` writes the table into `docs/softgpu.md`.
#![allow(dead_code, reason = "each of the programs that share it uses a part")]

use std::fmt;

/// The files of the table.
pub const FILES: &[(&str, &str)] = &[
    ("integer", include_str!("integer.txt")),
    ("float", include_str!("float.txt")),
    ("convert", include_str!("convert.txt")),
    ("memory", include_str!("memory.txt")),
    ("control", include_str!("control.txt")),
    ("matrix", include_str!("matrix.txt")),
    ("asynchronous", include_str!("asynchronous.txt")),
    ("image", include_str!("image.txt")),
];

/// What stands before a form: the registers and names it may use.
pub const PRELUDE: &str = "
.extern .shared .align 16 .b8 dynamic[];
.global .align 16 .b8 global[256];
.const .align 16 .b8 constant[256];
.func (.param .b32 result) callee(.param .b32 argument) {
.reg .b32 %r<2>; ld.param.b32 %r1, [argument]; st.param.b32 [result], %r1; ret; }
.func nothing() { ret; }
.visible .entry k(.param .u64 output, .param .align 16 .b8 parameter[64]) {
.reg .pred %p<10>; .reg .b8 %b<10>; .reg .b16 %h<10>; .reg .b32 %r<10>; .reg .b64 %rd<10>;
.shared .align 16 .b8 shared[256]; .local .align 16 .b8 local[256];
.param .b32 in; .param .b32 out;
targets: .branchtargets L, M;
prototype: .callprototype (.param .b32 _) _ (.param .b32 _);
L:
";

/// What stands after it.
pub const POSTLUDE: &str = "\nM: ret;\n}\n";

/// What a row says of its forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// They work, as this test shows.
    Works {
        /// `file::function`
        test: String,
    },
    /// They are refused when the module is loaded, for this reason.
    Refused {
        /// Part of the message.
        reason: String,
    },
}

/// A line of the table that describes forms.
#[derive(Debug, Clone)]
pub struct Row {
    /// The file, and the line in it, from 1.
    pub place: (String, usize),
    /// The heading above it.
    pub heading: String,
    /// What happens.
    pub outcome: Outcome,
    /// The `.target` that the forms need; `sm_90` where none is named.
    pub target: String,
    /// The pattern.
    pub form: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.txt:{}: {}", self.place.0, self.place.1, self.form)
    }
}

/// Every row, or what is wrong with a line.
pub fn rows() -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (file, text) in FILES {
        let mut heading = String::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if let Some(title) = line.strip_prefix("= ") {
                title.clone_into(&mut heading);
            } else if !line.is_empty() && !line.starts_with('#') {
                let row = row(line).ok_or_else(|| format!("{file}.txt:{number}: `{line}`"))?;
                rows.push(Row {
                    place: ((*file).to_owned(), number),
                    heading: heading.clone(),
                    ..row
                });
            }
        }
    }
    Ok(rows)
}

fn row(line: &str) -> Option<Row> {
    let (claim, form) = line.split_once(": ")?;
    let (claim, target) = claim.split_once(" on ").unwrap_or((claim, "sm_90"));
    let outcome = if let Some(test) = claim.strip_prefix("works by ") {
        test.split_once("::")?;
        Outcome::Works { test: test.into() }
    } else {
        let reason = claim.strip_prefix("refused, ")?.into();
        Outcome::Refused { reason }
    };
    Some(Row {
        place: (String::new(), 0),
        heading: String::new(),
        outcome,
        target: target.into(),
        form: form.trim().into(),
    })
}

impl Row {
    /// The opcodes of the forms.
    pub fn opcodes(&self) -> Vec<String> {
        let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        let mut opcodes = Vec::new();
        for form in self.forms() {
            let form = form.trim_start_matches('.');
            let opcode = form[..form.find(end).unwrap_or(form.len())].to_owned();
            if !opcodes.contains(&opcode) {
                opcodes.push(opcode);
            }
        }
        opcodes
    }

    /// Every instruction that the pattern stands for.
    pub fn forms(&self) -> Vec<String> {
        let mut done = Vec::new();
        let mut open = vec![self.form.clone()];
        while let Some(form) = open.pop() {
            let Some((before, rest)) = form.split_once('<') else {
                done.push(named(&form));
                continue;
            };
            let (choices, after) = rest.split_once('>').unwrap_or((rest, ""));
            let alternatives = choices.split('/').rev();
            open.extend(alternatives.map(|choice| format!("{before}{choice}{after}")));
        }
        done
    }
}

/// Replaces `%T` and `%S` by the register files that the types ask for.
fn named(form: &str) -> String {
    let (head, _) = form.split_once(' ').unwrap_or((form, ""));
    let mut files: Vec<&str> = head.split('.').filter_map(register_file).collect();
    let last = files.pop().unwrap_or("%r");
    let before = files.pop().unwrap_or(last);
    form.replace("%T", last).replace("%S", before)
}

/// The register file for values of a type.
pub fn register_file(ty: &str) -> Option<&'static str> {
    Some(match ty {
        "pred" => "%p",
        "u8" | "s8" | "b8" | "u16" | "s16" | "b16" | "f16" | "bf16" | "e4m3x2" | "e5m2x2"
        | "e2m3x2" | "e3m2x2" | "ue8m0x2" => "%h",
        "e2m1x2" => "%b",
        "u32" | "s32" | "b32" | "f32" | "tf32" | "f16x2" | "bf16x2" => "%r",
        "u64" | "s64" | "b64" | "f64" | "f32x2" => "%rd",
        "b128" => "%q",
        _ => return None,
    })
}

/// A module with one form, and the line on which that stands.
pub fn module(row: &Row, form: &str) -> (String, u32) {
    text("9.3", &row.target, form)
}

/// The same for any version and target.
pub fn text(version: &str, target: &str, form: &str) -> (String, u32) {
    let registers = registers(form);
    let mut text =
        format!(".version {version}\n.target {target}\n.address_size 64\n{PRELUDE}{registers}");
    let line = text.lines().count() + 1;
    text = text + form + ";" + POSTLUDE;
    (text, u32::try_from(line).unwrap_or(u32::MAX))
}

/// Declares the registers that only newer versions of PTX have, if a form names them.
pub fn registers(form: &str) -> &'static str {
    if form.contains("%q") {
        ".reg .b128 %q<4>;\n"
    } else {
        ""
    }
}
