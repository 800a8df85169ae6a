//! Values of 128 bits: pairs of 64-bit registers.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;
use super::memory::Access;

impl<'a> Builder<'_, 'a> {
    /// Instructions on them, and vectors of eight words.
    pub(super) fn pairs(&mut self, i: &Instruction<'a>) -> Result<bool> {
        match i.opcode {
            "ld" | "st" if self.has(i, ".v8") => self.eight_words(i)?,
            _ if !self.has(i, ".b128") => return Ok(false),
            "mov" => self.move_pair(i)?,
            "ld" => {
                self.arity(i, 2)?;
                let access = self.wide_access(i)?;
                let d = self.pair(&i.operands[0])?.map(Some);
                let (base, offset, space) = self.address(&i.operands[1], access.space)?;
                let [low, high] = d;
                self.emit(match access.strong {
                    true => wide(space, WideOp::Load, base, offset, [NONE, NONE, d]),
                    // What is weak may be torn.
                    false => Op::LdD {
                        space,
                        ty: MemType::B64,
                        base,
                        offset,
                        d: [low, high, None, None],
                    },
                })?;
                self.fence_if(access.acquire)?;
            }
            "st" => {
                self.arity(i, 2)?;
                let access = self.wide_access(i)?;
                let b = self.pair(&i.operands[1])?.map(Some);
                let (base, offset, space) = self.address(&i.operands[0], access.space)?;
                let [low, high] = b;
                self.fence_if(access.release)?;
                self.emit(match access.strong {
                    true => wide(space, WideOp::Store, base, offset, [b, NONE, NONE]),
                    false => Op::StD {
                        space,
                        ty: MemType::B64,
                        base,
                        offset,
                        a: [low, high, None, None],
                    },
                })?;
            }
            "atom" => self.exchange(i)?,
            "clusterlaunchcontrol" => return Ok(false),
            _ => return Err(self.error("modifier .b128 is not supported")),
        }
        Ok(true)
    }

    /// The two halves of a register of 128 bits, the lower one first.
    fn pair(&mut self, operand: &Operand<'a>) -> Result<[D; 2]> {
        let found = match operand {
            Operand::Name(name) => self.pair_of(name)?,
            Operand::Discard => Some([self.temp_d()?, self.temp_d()?]),
            _ => None,
        };
        found.ok_or_else(|| self.error("a register of 128 bits is needed"))
    }

    fn wide_access(&self, i: &Instruction<'a>) -> Result<Access> {
        if i.modifiers.iter().any(|m| matches!(*m, ".v2" | ".v4")) {
            return Err(self.error("a vector has at most 128 bits"));
        }
        self.access(i, &[])
    }

    fn move_pair(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 2)?;
        self.only(i, &[])?;
        match (&i.operands[0], &i.operands[1]) {
            (Operand::Vector(parts), source) => {
                let [low, high] = self.pair(source)?;
                match &parts[..] {
                    [a, b] => {
                        let (a, b) = (self.dest_d(a)?, self.dest_d(b)?);
                        self.emit(Op::MovD { a: low, d: a })?;
                        self.emit(Op::MovD { a: high, d: b })
                    }
                    [_, _, _, _] => {
                        for (a, parts) in [low, high].into_iter().zip(parts.chunks(2)) {
                            let lo = Some(self.dest_w(&parts[0])?);
                            let hi = Some(self.dest_w(&parts[1])?);
                            self.emit(Op::UnpackD { a, lo, hi })?;
                        }
                        Ok(())
                    }
                    _ => Err(self.error("vector form is not supported")),
                }
            }
            (dest, Operand::Vector(parts)) => {
                let [low, high] = self.pair(dest)?;
                match &parts[..] {
                    [a, b] => {
                        let (a, b) = (self.d(a, Ty::B64)?, self.d(b, Ty::B64)?);
                        self.emit(Op::MovD { a, d: low })?;
                        self.emit(Op::MovD { a: b, d: high })
                    }
                    [_, _, _, _] => {
                        for (d, parts) in [low, high].into_iter().zip(parts.chunks(2)) {
                            let lo = self.w(&parts[0], Ty::B32)?;
                            let hi = self.w(&parts[1], Ty::B32)?;
                            self.emit(Op::PackD { lo, hi, d })?;
                        }
                        Ok(())
                    }
                    _ => Err(self.error("vector form is not supported")),
                }
            }
            (dest, source) => {
                let (to, from) = (self.pair(dest)?, self.pair(source)?);
                for (a, d) in from.into_iter().zip(to) {
                    self.emit(Op::MovD { a, d })?;
                }
                Ok(())
            }
        }
    }

    /// `atom.exch.b128 d, [a], b` and `atom.cas.b128 d, [a], b, c`
    fn exchange(&mut self, i: &Instruction<'a>) -> Result<()> {
        let access = self.access(i, &[".exch", ".cas"])?;
        let f = match (self.has(i, ".exch"), self.has(i, ".cas")) {
            (true, false) => WideOp::Exchange,
            (false, true) => WideOp::Compare,
            _ => return Err(self.error("operation is not supported")),
        };
        self.arity(i, if f == WideOp::Compare { 4 } else { 3 })?;
        let d = self.pair(&i.operands[0])?.map(Some);
        let (base, offset, space) = self.address(&i.operands[1], access.space)?;
        if matches!(space, Space::Local | Space::Param) {
            return Err(self.error("state space is not supported"));
        }
        let b = self.pair(&i.operands[2])?.map(Some);
        let c = match i.operands.get(3) {
            Some(operand) => self.pair(operand)?.map(Some),
            None => NONE,
        };
        self.emit(wide(space, f, base, offset, [b, c, d]))
    }

    /// A load or store of eight words: two of four, aligned as a whole.
    fn eight_words(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 2)?;
        let load = i.opcode == "ld";
        let access = self.access(i, &[".v8"])?;
        let (vector, address) = match load {
            true => (&i.operands[0], &i.operands[1]),
            false => (&i.operands[1], &i.operands[0]),
        };
        let ty = self.ty(i)?;
        let list = match vector {
            Operand::Vector(list) if list.len() == 8 => list,
            _ => return Err(self.error("8 registers are needed")),
        };
        let words = matches!(ty, Ty::B32 | Ty::U32 | Ty::S32 | Ty::F32);
        let (base, first, space) = self.address(address, access.space)?;
        // No result is a register of the address: those have 64 bits.
        if !words || !matches!((space, base), (Space::Global | Space::Generic, Base::D(_))) {
            return Err(self.error("this vector form is not supported"));
        }
        self.fence_if(access.release)?;
        self.emit(Op::Aligned {
            base,
            offset: first,
            bytes: 32,
        })?;
        for (four, step) in list.chunks(4).zip([0, 16]) {
            let mut registers = [None; 4];
            for (register, operand) in registers.iter_mut().zip(four) {
                *register = Some(match load {
                    true => self.dest_w(operand)?,
                    false => self.w(operand, ty)?,
                });
            }
            let offset = first.checked_add(step);
            let offset = offset.ok_or_else(|| self.error("offset is out of range"))?;
            let ty = MemType::B32;
            self.emit(match load {
                true => Op::LdW {
                    space,
                    ty,
                    base,
                    offset,
                    d: registers,
                },
                false => Op::StW {
                    space,
                    ty,
                    base,
                    offset,
                    a: registers,
                },
            })?;
        }
        self.fence_if(access.acquire)
    }
}

const NONE: [Option<D>; 2] = [None; 2];

fn wide(space: Space, f: WideOp, base: Base, offset: i32, [b, c, d]: [[Option<D>; 2]; 3]) -> Op {
    Op::Wide {
        space,
        f,
        base,
        offset,
        b,
        c,
        d,
    }
}
