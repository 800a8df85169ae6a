//! Two instructions that are one operation: a double-width product and the sum it goes into.
//!
//! An address is mostly made like that, and an engine pays for every operation it looks at.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

use super::ir::{Access, AnyReg, BinD, D, Guard, Inst, Op, W};
use super::remove::remove;

/// More sums than this are cheaper with one product made before them.
const MOST_SUMS: usize = 2;

/// A product whose sums have been looked for so far.
struct Product {
    place: usize,
    signed: bool,
    factors: [W; 2],
    /// Where it is added, and to what.
    sums: Vec<(usize, D, D)>,
}

/// Lets sums take a product's factors where that is its only use; see [`remove`] for the other arguments.
pub fn fuse(code: &mut Vec<Inst>, lines: &mut Vec<u32>, tables: &mut [Vec<u32>], own: &[usize]) {
    let mut reads: HashMap<D, usize> = HashMap::new();
    let mut writes: HashMap<D, usize> = HashMap::new();
    for inst in code.iter_mut() {
        inst.op.visit(&mut |access, register| {
            if let AnyReg::D(register) = register {
                let counts = match access {
                    Access::Read => &mut reads,
                    Access::Write => &mut writes,
                };
                *counts.entry(register).or_default() += 1;
            }
            register
        });
    }
    let mut targets: HashSet<u32> = own
        .iter()
        .flat_map(|&table| tables[table].iter().copied())
        .collect();
    targets.extend(code.iter().filter_map(|inst| match inst.op {
        Op::Bra { target } => Some(target),
        _ => None,
    }));

    // Products that may still be used: made since the last place that can be branched to, their factors
    // unchanged.
    let mut open: HashMap<D, Product> = HashMap::new();
    let mut made_of: HashMap<W, Vec<D>> = HashMap::new();
    let mut fused: Vec<Product> = Vec::new();
    for (place, inst) in code.iter_mut().enumerate() {
        if u32::try_from(place).is_ok_and(|place| targets.contains(&place)) {
            open = HashMap::new();
            made_of = HashMap::new();
        }
        if let Op::BinD {
            f: BinD::Add,
            a,
            b,
            d,
        } = inst.op
            && a != b
        {
            for (product, other) in [(a, b), (b, a)] {
                if let Some(known) = open.get_mut(&product) {
                    known.sums.push((place, other, d));
                    if known.sums.len() == reads[&product] {
                        fused.extend(open.remove(&product));
                    }
                    break;
                }
            }
        }
        inst.op.visit(&mut |access, register| {
            if let (Access::Write, AnyReg::W(changed)) = (access, register) {
                for product in made_of.remove(&changed).unwrap_or_default() {
                    open.remove(&product);
                }
            }
            register
        });
        if let (Op::MulWide { signed, a, b, d }, Guard::ALWAYS) = (inst.op, inst.guard)
            && writes[&d] == 1
            && reads.get(&d).is_some_and(|&count| count <= MOST_SUMS)
        {
            made_of.entry(a).or_default().push(d);
            made_of.entry(b).or_default().push(d);
            open.insert(
                d,
                Product {
                    place,
                    signed,
                    factors: [a, b],
                    sums: Vec::new(),
                },
            );
        }
    }

    let mut gone = vec![false; code.len()];
    for product in fused {
        gone[product.place] = true;
        let [a, b] = product.factors;
        for (place, c, d) in product.sums {
            code[place].op = Op::MadWide {
                signed: product.signed,
                a,
                b,
                c,
                d,
            };
        }
    }
    remove(code, lines, tables, own, &gone);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx::ir::P;
    use std::num::NonZeroU16;

    fn number(index: u16) -> NonZeroU16 {
        NonZeroU16::new(index).unwrap()
    }

    fn product(d: u16) -> Op {
        Op::MulWide {
            signed: true,
            a: W(number(1)),
            b: W(number(2)),
            d: D(number(d)),
        }
    }

    fn sum(a: u16, b: u16, d: u16) -> Op {
        Op::BinD {
            f: BinD::Add,
            a: D(number(a)),
            b: D(number(b)),
            d: D(number(d)),
        }
    }

    fn fused(ops: &[Op]) -> Vec<Op> {
        let mut code: Vec<Inst> = ops
            .iter()
            .map(|&op| Inst {
                guard: Guard::ALWAYS,
                op,
            })
            .collect();
        let mut lines = vec![0; code.len()];
        fuse(&mut code, &mut lines, &mut [], &[]);
        assert_eq!(lines.len(), code.len());
        code.iter().map(|inst| inst.op).collect()
    }

    fn both(c: u16, d: u16) -> Op {
        Op::MadWide {
            signed: true,
            a: W(number(1)),
            b: W(number(2)),
            c: D(number(c)),
            d: D(number(d)),
        }
    }

    #[test]
    fn a_product_goes_into_its_sums_and_branches_follow() {
        let loops = Op::Bra { target: 1 };
        let ops = [product(1), sum(1, 5, 2), sum(6, 1, 3), Op::Exit {}];
        assert_eq!(fused(&ops), [both(5, 2), both(6, 3), Op::Exit {}]);
        let ops = [Op::Nop {}, product(1), sum(1, 5, 2), loops, Op::Exit {}];
        let expected = [Op::Nop {}, both(5, 2), loops, Op::Exit {}];
        assert_eq!(fused(&ops), expected);
    }

    #[test]
    fn a_product_with_another_use_stays() {
        let kept = |ops: &[Op]| assert_eq!(fused(ops), ops);
        let moved = Op::MovD {
            a: D(number(1)),
            d: D(number(9)),
        };
        kept(&[product(1), sum(1, 5, 2), moved]);
        kept(&[product(1), sum(1, 1, 2)]);
        kept(&[product(1), sum(1, 5, 2), sum(1, 6, 3), sum(1, 7, 4)]);
        kept(&[product(1), sum(1, 5, 2), product(1)]);
        kept(&[product(1)]);
    }

    #[test]
    fn a_product_whose_factors_change_or_that_others_jump_behind_stays() {
        let kept = |ops: &[Op]| assert_eq!(fused(ops), ops);
        let changed = Op::UnpackD {
            a: D(number(9)),
            lo: Some(W(number(2))),
            hi: None,
        };
        kept(&[product(1), changed, sum(1, 5, 2)]);
        kept(&[product(1), sum(1, 5, 2), Op::Bra { target: 1 }]);
    }

    #[test]
    fn a_product_that_not_all_lanes_make_stays() {
        let guard = Guard {
            predicate: Some(P(number(1))),
            negate: false,
        };
        let mut code = vec![
            Inst {
                guard,
                op: product(1),
            },
            Inst {
                guard: Guard::ALWAYS,
                op: sum(1, 5, 2),
            },
        ];
        let before = code.clone();
        fuse(&mut code, &mut vec![0; 2], &mut [], &[]);
        assert_eq!(code, before);
    }
}
