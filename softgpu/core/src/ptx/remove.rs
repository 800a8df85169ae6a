//! Taking instructions out of a function.
#![forbid(unsafe_code)]

use super::ir::{Inst, Op};

/// Removes the instructions that are `gone`; a branch to one goes to what follows it. `lines` go with the
/// code, and the jump tables `own` are this function's.
pub fn remove(
    code: &mut Vec<Inst>,
    lines: &mut Vec<u32>,
    tables: &mut [Vec<u32>],
    own: &[usize],
    gone: &[bool],
) {
    if !gone.contains(&true) {
        return;
    }
    let mut places = Vec::with_capacity(code.len() + 1);
    let mut place = 0u32;
    for &gone in gone {
        places.push(place);
        place += u32::from(!gone);
    }
    places.push(place);
    let moved = |target: &mut u32| {
        let old = usize::try_from(*target).ok();
        if let Some(&new) = old.and_then(|old| places.get(old)) {
            *target = new;
        }
    };
    for inst in &mut *code {
        if let Op::Bra { target } = &mut inst.op {
            moved(target);
        }
    }
    for &table in own {
        tables[table].iter_mut().for_each(moved);
    }
    let mut keep = gone.iter().map(|gone| !gone);
    code.retain(|_| keep.next().unwrap_or(true));
    let mut keep = gone.iter().map(|gone| !gone);
    lines.retain(|_| keep.next().unwrap_or(true));
}
