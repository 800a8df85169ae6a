//! Register allocation: virtual registers to as few real ones as their lifetimes allow, so that a
//! warp's registers stay in the cache.
//!
//! Lifetimes come from per-thread data flow. That is sound for a warp too: a lane keeps its own copy
//! of every register and executes one path through the function. Preloaded registers keep a place of
//! their own: they are filled once and live throughout.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::num::NonZeroU16;

use super::blocks::Blocks;
use super::ir::{Access, AnyReg, D, Inst, P, Preload, RegisterCounts, W};

/// Bits of liveness information above which a function is left as it is.
const MAX_LIVENESS_BITS: usize = 1 << 30;

/// Renames the registers of `code`, whose branch targets count from its start, and of `preloads`.
pub fn allocate(
    code: &mut [Inst],
    preloads: &mut [Preload],
    counts: RegisterCounts,
    tables: &[Vec<u32>],
) -> RegisterCounts {
    let sizes = [counts.w, counts.d, counts.p].map(usize::from);
    let total: usize = sizes.iter().sum();
    let blocks = Blocks::find(code, tables);
    if blocks.count().saturating_mul(total) > MAX_LIVENESS_BITS {
        return counts;
    }
    let number = |register: AnyReg| match register {
        AnyReg::W(r) => r.index(),
        AnyReg::D(r) => sizes[0] + r.index(),
        AnyReg::P(r) => sizes[0] + sizes[1] + r.index(),
    };
    let fixed: BTreeSet<usize> = preloads
        .iter()
        .map(|preload| number(preload.register))
        .collect();
    let ranges = live_ranges(code, &blocks, total, &number);

    let mut names: Vec<u16> = vec![0; total];
    let mut result = [1u16; 3];
    let mut first = 0;
    for (class, size) in sizes.into_iter().enumerate() {
        for register in fixed.range(first..first + size) {
            names[*register] = result[class];
            result[class] += 1;
        }
        let mut waiting: Vec<usize> = (first..first + size)
            .filter(|register| {
                ranges[*register].0 <= ranges[*register].1 && !fixed.contains(register)
            })
            .collect();
        waiting.sort_unstable_by_key(|&register| ranges[register]);
        let mut active: BinaryHeap<Reverse<(usize, u16)>> = BinaryHeap::new();
        let mut free: BinaryHeap<Reverse<u16>> = BinaryHeap::new();
        for register in waiting {
            let (start, end) = ranges[register];
            while let Some(&Reverse((ended, name))) = active.peek() {
                if ended >= start {
                    break;
                }
                active.pop();
                free.push(Reverse(name));
            }
            let name = match free.pop() {
                Some(Reverse(name)) => name,
                None => {
                    result[class] += 1;
                    result[class] - 1
                }
            };
            names[register] = name;
            active.push(Reverse((end, name)));
        }
        first += size;
    }

    let rename = |register: AnyReg| {
        let Some(name) = NonZeroU16::new(names[number(register)]) else {
            return register;
        };
        match register {
            AnyReg::W(_) => AnyReg::W(W(name)),
            AnyReg::D(_) => AnyReg::D(D(name)),
            AnyReg::P(_) => AnyReg::P(P(name)),
        }
    };
    for inst in code {
        inst.op.visit(&mut |_, register| rename(register));
        if let Some(predicate) = inst.guard.predicate
            && let AnyReg::P(renamed) = rename(AnyReg::P(predicate))
        {
            inst.guard.predicate = Some(renamed);
        }
    }
    for preload in preloads {
        preload.register = rename(preload.register);
    }
    RegisterCounts {
        w: result[0],
        d: result[1],
        p: result[2],
    }
}

/// First and last instruction at which each register is live; inverted if it is never.
fn live_ranges(
    code: &[Inst],
    blocks: &Blocks,
    total: usize,
    number: &dyn Fn(AnyReg) -> usize,
) -> Vec<(usize, usize)> {
    let words = total.div_ceil(64);
    let count = blocks.count();
    let (mut uses, mut defines) = (vec![0u64; words * count], vec![0u64; words * count]);
    let mut ranges = vec![(usize::MAX, 0usize); total];
    for block in 0..count {
        for place in blocks.range(block) {
            let inst = &code[place];
            let (mut reads, mut writes) = (Vec::new(), Vec::new());
            let mut op = inst.op;
            op.visit(&mut |access, register| {
                match access {
                    Access::Read => reads.push(number(register)),
                    Access::Write => writes.push(number(register)),
                }
                register
            });
            if let Some(predicate) = inst.guard.predicate {
                reads.push(number(AnyReg::P(predicate)));
                // Lanes that the guard leaves out keep the old value.
                reads.extend(&writes);
            }
            for &register in reads.iter().chain(&writes) {
                let range = &mut ranges[register];
                *range = (range.0.min(place), range.1.max(place));
            }
            for register in reads {
                let word = block * words + register / 64;
                if defines[word] >> (register % 64) & 1 == 0 {
                    uses[word] |= 1 << (register % 64);
                }
            }
            for register in writes {
                defines[block * words + register / 64] |= 1 << (register % 64);
            }
        }
    }
    let mut live_in = uses.clone();
    let mut live_out = vec![0u64; words * count];
    let mut predecessors = vec![Vec::new(); count];
    for (block, list) in blocks.successors.iter().enumerate() {
        for &successor in list {
            predecessors[successor].push(block);
        }
    }
    let mut queued = vec![true; count];
    let mut queue: Vec<usize> = (0..count).collect();
    while let Some(block) = queue.pop() {
        queued[block] = false;
        let mut changed = false;
        for word in 0..words {
            let out = blocks.successors[block]
                .iter()
                .fold(0, |out, s| out | live_in[s * words + word]);
            let place = block * words + word;
            live_out[place] = out;
            let into = uses[place] | out & !defines[place];
            changed |= into != live_in[place];
            live_in[place] = into;
        }
        if changed {
            for &predecessor in &predecessors[block] {
                if !queued[predecessor] {
                    queued[predecessor] = true;
                    queue.push(predecessor);
                }
            }
        }
    }
    for block in 0..count {
        let range = blocks.range(block);
        let mut extend = |bits: &[u64], place: usize| {
            for (word, &bits) in bits.iter().enumerate() {
                let mut bits = bits;
                while bits != 0 {
                    let bit = usize::try_from(bits.trailing_zeros()).unwrap_or(0);
                    bits &= bits - 1;
                    let range = &mut ranges[word * 64 + bit];
                    *range = (range.0.min(place), range.1.max(place));
                }
            }
        };
        extend(&live_in[block * words..][..words], range.start);
        extend(
            &live_out[block * words..][..words],
            range.end.saturating_sub(1),
        );
    }
    ranges
}
