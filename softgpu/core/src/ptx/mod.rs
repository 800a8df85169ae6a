//! The PTX front end: text to a validated [`ir::Module`].
//!
//! [`compile`] runs three passes. The lexer and parser turn text into a syntax tree that borrows
//! from it; lowering resolves names and types, selects operations of the intermediate representation
//! for every instruction, puts blocks into an order in which lanes that part meet again and removes
//! what is not needed; register allocation packs virtual registers into as few real ones as their
//! lifetimes allow. What is not supported is refused here with its line, never at run time. Text comes
//! from untrusted programs: every pass is bounded in nesting, time and memory.
#![forbid(unsafe_code)]

mod allocate;
mod ast;
mod blocks;
mod fuse;
pub mod ir;
mod lexer;
mod lower;
mod order;
mod parser;
mod propagate;
mod remove;
pub(crate) mod requirements;
mod types;

use std::fmt;

/// Longest text that is compiled.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// What the module is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Highest `sm_` version accepted.
    pub compute_capability: (u32, u32),
    /// Highest PTX ISA version accepted.
    pub max_ptx_version: (u32, u32),
}

/// Why a module was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The text is wrong or uses an instruction that is not supported.
    InvalidPtx,
    /// `.version` is newer than the target takes.
    UnsupportedVersion,
    /// `.target` is newer than the device, or names features of one architecture only.
    UnsupportedTarget,
    /// Two definitions of one name, or one that does not fit another.
    Duplicate,
    /// A name that is used and defined nowhere.
    Undefined,
}

/// A refusal, with where and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    /// What kind of refusal.
    pub kind: ErrorKind,
    /// Line, from 1; 0 if it concerns the whole text.
    pub line: u32,
    /// Column in bytes, from 1.
    pub column: u32,
    /// The instruction or directive concerned, if any.
    pub instruction: String,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ptx:{}:{}: error: {}",
            self.line, self.column, self.reason
        )?;
        if !self.instruction.is_empty() {
            write!(f, " in `{}`", self.instruction)?;
        }
        Ok(())
    }
}

impl std::error::Error for CompileError {}

/// Compiles PTX text.
///
/// # Errors
/// The first thing in the text that is wrong or not supported.
pub fn compile(text: &str, target: &Target) -> Result<ir::Module, CompileError> {
    let tree = parse(text)?;
    lower::lower(&[tree], target, lower::Extent::Whole).map_err(|(_, error)| error)
}

/// Compiles PTX texts that refer to each other to one module.
///
/// # Errors
/// The first thing that is wrong, not supported, missing or there twice, and which text it is in.
pub fn link(texts: &[&str], target: &Target) -> Result<ir::Module, (usize, CompileError)> {
    lower::lower(&parse_all(texts)?, target, lower::Extent::Whole)
}

/// Checks the last text, which may refer to the others and to what is still to come.
///
/// # Errors
/// As [`link`].
pub fn check_last(texts: &[&str], target: &Target) -> Result<(), (usize, CompileError)> {
    lower::lower(&parse_all(texts)?, target, lower::Extent::Last).map(|_| ())
}

fn parse_all<'a>(texts: &[&'a str]) -> Result<Vec<ast::Module<'a>>, (usize, CompileError)> {
    let parsed = texts.iter().enumerate();
    parsed
        .map(|(unit, text)| parse(text).map_err(|error| (unit, error)))
        .collect()
}

fn parse(text: &str) -> Result<ast::Module<'_>, CompileError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(CompileError {
            kind: ErrorKind::InvalidPtx,
            line: 0,
            column: 0,
            instruction: String::new(),
            reason: format!("text is longer than {MAX_TEXT_BYTES} bytes"),
        });
    }
    parser::parse(text)
}

/// Feeds arbitrary bytes to the compiler: the body of a fuzz target.
pub fn fuzz_compile(bytes: &[u8]) {
    let target = Target {
        compute_capability: (9, 0),
        max_ptx_version: (9, 9),
    };
    if let Ok(text) = std::str::from_utf8(bytes) {
        // Whether it compiles does not matter, only that it returns.
        let _ = compile(text, &target);
    }
}
