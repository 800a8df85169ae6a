//! Copies of values that never change: reads of the copy become reads of the value.
//!
//! A kernel's prologue is mostly such copies (parameters, special registers, addresses made
//! generic), and every warp of every block would execute them.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::ir::{Access, AnyReg, Inst, Op, Preload};
use super::remove::remove;

/// The destination and source of a copy.
fn copy(op: Op) -> Option<(AnyReg, AnyReg)> {
    match op {
        Op::MovW { a, d } => Some((AnyReg::W(d), AnyReg::W(a))),
        Op::MovD { a, d } => Some((AnyReg::D(d), AnyReg::D(a))),
        _ => None,
    }
}

/// Removes every copy of a preloaded register to one that is written nowhere else; see [`remove`] for the
/// other arguments. A read that the copy does not reach would see a value that PTX leaves undefined, so
/// that any will do.
pub fn propagate(
    code: &mut Vec<Inst>,
    lines: &mut Vec<u32>,
    preloads: &[Preload],
    tables: &mut [Vec<u32>],
    own: &[usize],
) {
    let mut writes: HashMap<AnyReg, u32> = HashMap::new();
    for inst in code.iter_mut() {
        inst.op.visit(&mut |access, register| {
            if access == Access::Write {
                *writes.entry(register).or_default() += 1;
            }
            register
        });
    }
    let mut copies: HashMap<AnyReg, Vec<AnyReg>> = HashMap::new();
    for inst in &*code {
        if let Some((to, from)) = copy(inst.op)
            && writes[&to] == 1
        {
            copies.entry(from).or_default().push(to);
        }
    }
    let mut values: HashMap<AnyReg, AnyReg> = HashMap::new();
    let mut found: Vec<(AnyReg, AnyReg)> = preloads
        .iter()
        .map(|preload| (preload.register, preload.register))
        .collect();
    while let Some((register, value)) = found.pop() {
        for copy in copies.remove(&register).unwrap_or_default() {
            values.insert(copy, value);
            found.push((copy, value));
        }
    }
    if values.is_empty() {
        return;
    }

    let mut gone = Vec::with_capacity(code.len());
    for inst in &mut *code {
        gone.push(copy(inst.op).is_some_and(|(to, _)| values.contains_key(&to)));
        inst.op.visit(&mut |access, register| match access {
            Access::Read => values.get(&register).copied().unwrap_or(register),
            Access::Write => register,
        });
    }
    remove(code, lines, tables, own, &gone);
}
