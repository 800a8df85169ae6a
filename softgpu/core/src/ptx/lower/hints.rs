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

    /// Each element is an atomic operation of its own; the vector is aligned as a whole.
    fn vector_atomic(&mut self, i: &Instruction<'a>) -> Result<()> {
        const OPERATIONS: &[&str] = &[".add", ".min", ".max"];
        let ty = self.ty(i)?;
        let count = [(".v2", 2), (".v4", 4), (".v8", 8)];
        let count = count.iter().find(|(name, _)| self.has(i, name));
        let count = count.map_or(1, |(_, count)| *count);
        let f = i.modifiers.iter().find(|m| OPERATIONS.contains(m)).copied();
        let f = f.ok_or_else(|| self.error("vector form is not supported"))?;
        let (f, half) = match (f, ty) {
            (".add", Ty::F32) => (AtomOp::AddF(FloatType::F32), false),
            (".add", _) => (self.atomic_operation(f, ty)?, true),
            (".min", Ty::F16 | Ty::Bf16) => (AtomOp::MinF(self.half_format(ty)?), true),
            (".min", _) => (AtomOp::MinFx2(self.half_format(ty)?), true),
            (_, Ty::F16 | Ty::Bf16) => (AtomOp::MaxF(self.half_format(ty)?), true),
            _ => (AtomOp::MaxFx2(self.half_format(ty)?), true),
        };
        let access = self.access(i, &[".add", ".min", ".max", ".noftz", ".v8"])?;
        let bytes = ty.bytes() * count;
        if !matches!(ty, Ty::F32 | Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2)
            || half != self.has(i, ".noftz")
            || bytes > 16
            || !matches!(access.space, Space::Global | Space::Generic)
        {
            return Err(self.error("vector form is not supported"));
        }
        let red = i.opcode == "red";
        self.arity(i, if red { 2 } else { 3 })?;
        let vector = |operand: &Operand<'a>| match operand {
            Operand::Vector(list) if list.len() as u64 == u64::from(count) => Ok(list.clone()),
            _ => Err(self.error(format!("{count} registers are needed"))),
        };
        let operands = &i.operands[usize::from(!red)..];
        let sources = vector(&operands[1])?;
        let results = match red {
            true => vec![Operand::Discard; sources.len()],
            false => vector(&i.operands[0])?,
        };
        let (base, first, space) = self.address(&operands[0], access.space)?;
        self.emit(Op::Aligned {
            base,
            offset: first,
            bytes: u8::try_from(bytes).unwrap_or(16),
        })?;
        // What an element yields may be written only when all have been read.
        let mut found = Vec::new();
        for (element, step) in sources
            .iter()
            .zip((0..).step_by(usize::from(ty.bytes() == 4) * 2 + 2))
        {
            let offset = first.checked_add(step);
            let offset = offset.ok_or_else(|| self.error("offset is out of range"))?;
            let mut base = base;
            let offset = self.short_offset(&mut base, offset)?;
            let b = self.w(element, ty)?;
            let d = match red {
                true => None,
                false => Some(self.temp_w()?),
            };
            found.push(d);
            self.emit(Op::AtomW {
                space,
                f,
                ty: ty.memory(0),
                base,
                offset,
                b,
                c: None,
                d,
            })?;
        }
        for (a, result) in found.into_iter().zip(&results) {
            if let (Some(a), false) = (a, *result == Operand::Discard) {
                let d = self.dest_w(result)?;
                self.emit(Op::MovW { a, d })?;
            }
        }
        Ok(())
    }

    fn half_format(&self, ty: Ty) -> Result<FloatType> {
        let float = ty.float().filter(|float| *float != FloatType::F32);
        float.ok_or_else(|| self.error("vector form is not supported"))
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
