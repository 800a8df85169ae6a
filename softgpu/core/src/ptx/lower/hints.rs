//! Instructions and operands that only advise the hardware, clusters of one block, and accesses that
//! are several accesses here.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;

/// What prefetches, discards and changes of priority may say.
const CACHES: &[&str] = &[
    ".L1",
    ".L2",
    ".L1::evict_normal",
    ".L2::evict_normal",
    ".L2::evict_last",
    ".L2::evict_first",
    ".global",
    ".local",
    ".const",
    ".param",
    ".tensormap",
];

impl<'a> Builder<'_, 'a> {
    pub(super) fn hints(&mut self, i: &Instruction<'a>) -> Result<bool> {
        match i.opcode {
            "ld" | "st" | "atom" | "red" if self.has(i, ".L2::cache_hint") => {
                let Some((policy, operands)) = i.operands.split_last() else {
                    return Err(self.error("operands are missing"));
                };
                self.d(policy, Ty::B64)?;
                self.memory(&Instruction {
                    modifiers: without(&i.modifiers, ".L2::cache_hint"),
                    operands: operands.to_vec(),
                    ..copy(i)
                })?;
            }
            "st" | "red" if self.has(i, ".async") => {
                return Err(self.error("the .async form is not supported"));
            }
            "atom" | "red" if [".v2", ".v4", ".v8"].iter().any(|m| self.has(i, m)) => {
                self.vector_atomic(i)?;
            }
            "createpolicy" => {
                let d = self.dest_d(i.operands.first().unwrap_or(&Operand::Discard))?;
                let a = self.constant_d(0)?;
                self.emit(Op::MovD { a, d })?;
            }
            "prefetch" | "prefetchu" => {
                self.arity(i, 1)?;
                self.advice(i)?;
            }
            "applypriority" | "discard" => {
                self.arity(i, 2)?;
                if self.immediate(&i.operands[1])? != 128 {
                    return Err(self.error("the size must be 128"));
                }
                self.advice(i)?;
            }
            "mapa" => self.map_address(i)?,
            "getctarank" => {
                self.arity(i, 2)?;
                self.only(i, &[".shared::cluster"])?;
                // A cluster has one block here.
                let a = self.constant_w(0)?;
                let d = self.dest_w(&i.operands[0])?;
                self.emit(Op::MovW { a, d })?;
            }
            "griddepcontrol" => {
                self.arity(i, 0)?;
                self.only(i, &[".launch_dependents", ".wait"])?;
            }
            "setmaxnreg" => {
                self.arity(i, 1)?;
                self.only(i, &[".inc", ".dec", ".sync", ".aligned"])?;
                let count = self.immediate(&i.operands[0])?;
                if !(24..=256).contains(&count) || !count.is_multiple_of(8) {
                    return Err(self.error("register count is out of range"));
                }
            }
            "pmevent" => {
                self.arity(i, 1)?;
                self.only(i, &[".mask"])?;
                self.immediate(&i.operands[0])?;
            }
            "alloca" | "stacksave" | "stackrestore" => self.stack(i)?,
            "brkpt" => return Err(self.error("instruction brkpt is not supported")),
            "isspacep" if self.has(i, ".const") => {
                return Err(self.error("constants are not told apart from global memory"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Memory that a thread allocates in its frame.
    fn stack(&mut self, i: &Instruction<'a>) -> Result<()> {
        if i.modifiers != [".u64"] {
            return Err(self.error("type is not supported"));
        }
        let op = match i.opcode {
            "alloca" => {
                let align = match i.operands.get(2) {
                    Some(operand) => self.immediate(operand)?,
                    None => 8,
                };
                self.arity(i, i.operands.len().clamp(2, 3))?;
                let align = u32::try_from(align).ok().filter(|a| a.is_power_of_two());
                let align = align.filter(|&align| align <= 128);
                Op::Stack {
                    f: StackOp::Allocate {
                        align: align.ok_or_else(|| self.error("alignment is out of range"))?,
                    },
                    a: Some(self.d(&i.operands[1], Ty::U64)?),
                    d: Some(self.dest_d(&i.operands[0])?),
                }
            }
            "stacksave" => {
                self.arity(i, 1)?;
                Op::Stack {
                    f: StackOp::Save,
                    a: None,
                    d: Some(self.dest_d(&i.operands[0])?),
                }
            }
            _ => {
                self.arity(i, 1)?;
                Op::Stack {
                    f: StackOp::Restore,
                    a: Some(self.d(&i.operands[0], Ty::U64)?),
                    d: None,
                }
            }
        };
        self.emit(op)
    }

    /// An instruction of which only the form is checked.
    fn advice(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.only(i, CACHES)?;
        match &i.operands[0] {
            Operand::Address { base, .. } => match self.declared(base)? {
                Some((AnyReg::D(_), _)) => Ok(()),
                Some(_) => Err(self.error("a 64-bit address is needed")),
                None => Ok(()),
            },
            _ => Err(self.error("an address is needed")),
        }
    }

    /// The address of another block's shared memory; the only block of a cluster is the own one.
    fn map_address(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 3)?;
        self.only(i, &[".shared::cluster"])?;
        let ty = self.ty(i)?;
        self.w(&i.operands[2], Ty::U32)?;
        let (a, d) = (
            self.any(&i.operands[1], ty)?,
            self.dest(&i.operands[0], ty)?,
        );
        self.copy(a, d)
    }

    /// Each element is an atomic operation of its own.
    fn vector_atomic(&mut self, i: &Instruction<'a>) -> Result<()> {
        let ty = self.ty(i)?;
        let (name, count) = if self.has(i, ".v2") {
            (".v2", 2)
        } else if self.has(i, ".v4") {
            (".v4", 4)
        } else {
            (".v8", 8)
        };
        let allowed = match ty {
            Ty::F32 | Ty::F16x2 | Ty::Bf16x2 => count <= 4,
            Ty::F16 | Ty::Bf16 => true,
            _ => false,
        };
        if !allowed || !self.has(i, ".add") || !self.has(i, ".global") {
            return Err(self.error("vector form is not supported"));
        }
        let red = i.opcode == "red";
        self.arity(i, if red { 2 } else { 3 })?;
        let address = &i.operands[usize::from(!red)];
        let lists: Vec<&Vec<Operand<'a>>> = i
            .operands
            .iter()
            .filter_map(|operand| match operand {
                Operand::Vector(list) if list.len() == count => Some(list),
                _ => None,
            })
            .collect();
        let Operand::Address { base, offset } = address else {
            return Err(self.error("an address is needed"));
        };
        if lists.len() + 1 != i.operands.len() {
            return Err(self.error(format!("{count} registers are needed")));
        }
        for (element, step) in
            (0..count).zip((0i64..).step_by(usize::from(ty.bytes() == 4) * 2 + 2))
        {
            let mut operands = vec![Operand::Address {
                base: base.clone(),
                offset: offset.wrapping_add(step),
            }];
            if !red {
                operands.insert(0, lists[0][element].clone());
            }
            operands.push(lists[lists.len() - 1][element].clone());
            self.memory(&Instruction {
                modifiers: without(&i.modifiers, name),
                operands,
                ..copy(i)
            })?;
        }
        Ok(())
    }
}

fn without<'a>(modifiers: &[&'a str], gone: &str) -> Vec<&'a str> {
    modifiers.iter().copied().filter(|m| *m != gone).collect()
}

/// The instruction without its lists.
fn copy<'a>(i: &Instruction<'a>) -> Instruction<'a> {
    Instruction {
        guard: i.guard,
        opcode: i.opcode,
        modifiers: Vec::new(),
        operands: Vec::new(),
        text: i.text,
    }
}
