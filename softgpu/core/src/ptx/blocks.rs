//! A function's basic blocks and where each may go on.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ops::Range;

use super::ir::{Inst, Op};

/// Basic blocks of code whose branch targets count from its start.
pub struct Blocks {
    /// First instruction of each, and the end of the code.
    bounds: Vec<usize>,
    /// Blocks that may come after each, in no order; one may stand there twice.
    pub successors: Vec<Vec<usize>>,
}

/// Whether a block ends with `inst`.
fn ends(inst: &Inst) -> bool {
    matches!(
        inst.op,
        Op::Bra { .. } | Op::BraTable { .. } | Op::Ret {} | Op::Exit {} | Op::Trap {}
    )
}

/// Whether lanes may go on behind `inst`.
pub fn falls_through(inst: &Inst) -> bool {
    !ends(inst) || inst.guard.predicate.is_some()
}

impl Blocks {
    pub fn find(code: &[Inst], tables: &[Vec<u32>]) -> Self {
        let targets = |inst: &Inst| -> Vec<usize> {
            match inst.op {
                Op::Bra { target } => usize::try_from(target).into_iter().collect(),
                Op::BraTable { table, .. } => {
                    let table = usize::try_from(table)
                        .ok()
                        .and_then(|table| tables.get(table));
                    table
                        .into_iter()
                        .flatten()
                        .filter_map(|&target| usize::try_from(target).ok())
                        .collect()
                }
                _ => Vec::new(),
            }
        };
        let mut leaders = BTreeSet::from([0]);
        for (place, inst) in code.iter().enumerate() {
            if ends(inst) {
                leaders.insert(place + 1);
                leaders.extend(targets(inst));
            }
        }
        let mut bounds: Vec<usize> = leaders
            .into_iter()
            .filter(|&leader| leader < code.len())
            .collect();
        let count = bounds.len();
        bounds.push(code.len());
        let mut blocks = Self {
            bounds,
            successors: Vec::with_capacity(count),
        };
        for block in 0..count {
            let mut list = Vec::new();
            let range = blocks.range(block);
            if let Some(last) = code[range.clone()].last() {
                let inside = |target: &usize| *target < code.len();
                list.extend(
                    targets(last)
                        .into_iter()
                        .filter(inside)
                        .map(|target| blocks.containing(target)),
                );
                if falls_through(last) && range.end < code.len() {
                    list.push(block + 1);
                }
            }
            blocks.successors.push(list);
        }
        blocks
    }

    pub fn count(&self) -> usize {
        self.bounds.len() - 1
    }

    /// The instructions of `block`.
    pub fn range(&self, block: usize) -> Range<usize> {
        self.bounds[block]..self.bounds[block + 1]
    }

    /// The block of the instruction at `place`, which lies inside the code.
    pub fn containing(&self, place: usize) -> usize {
        // The first block starts at 0.
        self.bounds.partition_point(|&start| start <= place) - 1
    }
}
