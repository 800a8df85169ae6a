//! Integer arithmetic, moves and selection.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;

impl<'a> Builder<'_, 'a> {
    pub(super) fn arithmetic(&mut self, i: &Instruction<'a>) -> Result<bool> {
        match i.opcode {
            "add" | "sub" | "mul" | "mad" | "min" | "max" | "abs" | "neg" | "div" | "rem"
            | "sad" | "mul24" | "mad24" | "addc" | "subc" | "madc" => {
                if self.ty(i)?.float().is_some() || self.ty(i)? == Ty::F32x2 {
                    return Ok(false);
                }
                self.integer(i)?;
            }
            "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" => self.logic(i)?,
            "popc" | "clz" | "bfind" | "brev" => self.count(i)?,
            "bfe" | "bfi" | "bmsk" | "szext" | "lop3" | "shf" | "prmt" | "dp4a" | "dp2a" => {
                self.bits(i)?
            }
            "mov" => self.mov(i)?,
            "setp" => self.setp(i)?,
            "set" => self.set(i)?,
            "selp" => {
                self.arity(i, 4)?;
                let ty = self.ty(i)?;
                self.only(i, &[])?;
                let (a, b) = (self.any(&i.operands[1], ty)?, self.any(&i.operands[2], ty)?);
                let p = self.p(&i.operands[3])?;
                let d = self.dest(&i.operands[0], ty)?;
                self.select(a, b, p, d)?;
            }
            "slct" => {
                self.arity(i, 4)?;
                let types: Vec<Ty> = i.modifiers.iter().filter_map(|m| Ty::parse(m)).collect();
                let [ty, test] = types[..] else {
                    return Err(self.error("two types are needed"));
                };
                let f = match test {
                    Ty::S32 => CmpW::GeS,
                    Ty::F32 if self.has(i, ".ftz") => CmpW::FtzF(FloatCmp::Ge),
                    Ty::F32 => CmpW::F(FloatCmp::Ge),
                    _ => return Err(self.error("type is not supported")),
                };
                let (a, b) = (self.any(&i.operands[1], ty)?, self.any(&i.operands[2], ty)?);
                let (c, zero, p) = (
                    self.w(&i.operands[3], test)?,
                    self.constant_w(0)?,
                    self.temp_p()?,
                );
                self.emit(Op::CmpW {
                    f,
                    a: c,
                    b: zero,
                    p,
                })?;
                let d = self.dest(&i.operands[0], ty)?;
                self.select(a, b, p, d)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The type that the instruction's last modifier names.
    pub(super) fn ty(&self, i: &Instruction<'a>) -> Result<Ty> {
        let last = i.modifiers.last().and_then(|modifier| Ty::parse(modifier));
        last.ok_or_else(|| self.error("a type is missing or not supported"))
    }

    pub(super) fn has(&self, i: &Instruction<'a>, modifier: &str) -> bool {
        i.modifiers.contains(&modifier)
    }

    /// Checks that every modifier but the types is one of these.
    pub(super) fn only(&self, i: &Instruction<'a>, allowed: &[&str]) -> Result<()> {
        match i
            .modifiers
            .iter()
            .find(|m| Ty::parse(m).is_none() && !allowed.contains(m))
        {
            Some(modifier) => Err(self.error(format!("modifier {modifier} is not supported"))),
            None => Ok(()),
        }
    }

    pub(super) fn unsupported_type(&self, ty: Ty) -> super::CompileError {
        self.error(format!("type {ty:?} is not supported here"))
    }

    pub(super) fn select(&mut self, a: AnyReg, b: AnyReg, p: P, d: AnyReg) -> Result<()> {
        match (a, b, d) {
            (AnyReg::W(a), AnyReg::W(b), AnyReg::W(d)) => self.emit(Op::SelW { a, b, p, d }),
            (AnyReg::D(a), AnyReg::D(b), AnyReg::D(d)) => self.emit(Op::SelD { a, b, p, d }),
            _ => Err(self.error("operands of different width")),
        }
    }

    /// A 16-bit value extended to 32 bits as its type says; wider ones as they are.
    pub(super) fn extended(&mut self, operand: &Operand<'a>, ty: Ty) -> Result<W> {
        let a = self.w(operand, ty)?;
        if ty != Ty::S16 {
            return Ok(a);
        }
        let d = self.temp_w()?;
        self.emit(Op::UnW {
            f: UnW::Sext16,
            a,
            d,
        })?;
        Ok(d)
    }

    /// Where to compute a value of type `ty` that will go to `d`.
    pub(super) fn scratch(&mut self, ty: Ty, d: W) -> Result<W> {
        if ty.bits() == 16 {
            self.temp_w()
        } else {
            Ok(d)
        }
    }

    /// Brings a computed value to its destination.
    pub(super) fn settle(&mut self, ty: Ty, value: W, d: W) -> Result<()> {
        if ty.bits() == 16 {
            self.emit(Op::UnW {
                f: UnW::Zext16,
                a: value,
                d,
            })?;
        }
        Ok(())
    }

    fn integer(&mut self, i: &Instruction<'a>) -> Result<()> {
        let ty = self.ty(i)?;
        let s = ty.is_signed();
        if !ty.is_integer() || ty.bits() == 8 {
            return Err(self.unsupported_type(ty));
        }
        self.only(i, &[".lo", ".hi", ".wide", ".cc", ".sat", ".relu"])?;
        if self.has(i, ".relu") {
            return Err(self.error("modifier .relu is not supported"));
        }
        if self.has(i, ".cc") || matches!(i.opcode, "addc" | "subc" | "madc") {
            return self.carried(i, ty);
        }
        let (hi, wide, sat) = (
            self.has(i, ".hi"),
            self.has(i, ".wide"),
            self.has(i, ".sat"),
        );
        if wide {
            return self.wide(i, ty);
        }
        if sat && !matches!((i.opcode, ty), ("add" | "sub" | "mad", Ty::S32)) {
            return Err(self.error("modifier .sat is not supported for this type"));
        }
        if matches!(i.opcode, "abs" | "neg") {
            self.arity(i, 2)?;
            if ty.bits() == 64 {
                let (a, d) = (self.d(&i.operands[1], ty)?, self.dest_d(&i.operands[0])?);
                let f = if i.opcode == "abs" {
                    UnD::Abs
                } else {
                    UnD::Neg
                };
                return self.emit(Op::UnD { f, a, d });
            }
            let (a, d) = (
                self.extended(&i.operands[1], ty)?,
                self.dest_w(&i.operands[0])?,
            );
            let f = if i.opcode == "abs" {
                UnW::Abs
            } else {
                UnW::Neg
            };
            let t = self.scratch(ty, d)?;
            self.emit(Op::UnW { f, a, d: t })?;
            return self.settle(ty, t, d);
        }
        let three = matches!(i.opcode, "mad" | "sad" | "mad24");
        self.arity(i, if three { 4 } else { 3 })?;
        if ty.bits() == 64 {
            let (a, b) = (self.d(&i.operands[1], ty)?, self.d(&i.operands[2], ty)?);
            let d = self.dest_d(&i.operands[0])?;
            if three {
                let c = self.d(&i.operands[3], ty)?;
                let f = match (i.opcode, hi, s) {
                    ("mad", false, _) => TernD::Mad,
                    ("mad", true, true) => TernD::MadHiS,
                    ("mad", true, false) => TernD::MadHiU,
                    ("sad", _, true) => TernD::SadS,
                    ("sad", _, false) => TernD::SadU,
                    _ => return Err(self.unsupported_type(ty)),
                };
                return self.emit(Op::TernD { f, a, b, c, d });
            }
            let f = match (i.opcode, s) {
                ("add", _) => BinD::Add,
                ("sub", _) => BinD::Sub,
                ("mul", _) if !hi => BinD::Mul,
                ("mul", true) => BinD::MulHiS,
                ("mul", false) => BinD::MulHiU,
                ("div", true) => BinD::DivS,
                ("div", false) => BinD::DivU,
                ("rem", true) => BinD::RemS,
                ("rem", false) => BinD::RemU,
                ("min", true) => BinD::MinS,
                ("min", false) => BinD::MinU,
                ("max", true) => BinD::MaxS,
                ("max", false) => BinD::MaxU,
                _ => return Err(self.unsupported_type(ty)),
            };
            return self.emit(Op::BinD { f, a, b, d });
        }
        let (a, b) = (
            self.extended(&i.operands[1], ty)?,
            self.extended(&i.operands[2], ty)?,
        );
        let d = self.dest_w(&i.operands[0])?;
        let t = self.scratch(ty, d)?;
        if ty.bits() == 16 && hi && matches!(i.opcode, "mul" | "mad") {
            // The product of 16-bit values fits 32 bits: its upper half is a shift away.
            let (product, sixteen) = (self.temp_w()?, self.constant_w(16)?);
            self.emit(Op::BinW {
                f: BinW::Mul,
                a,
                b,
                d: product,
            })?;
            self.emit(Op::BinW {
                f: BinW::ShrU,
                a: product,
                b: sixteen,
                d: t,
            })?;
            if three {
                let c = self.w(&i.operands[3], ty)?;
                self.emit(Op::BinW {
                    f: BinW::Add,
                    a: t,
                    b: c,
                    d: t,
                })?;
            }
            return self.settle(ty, t, d);
        }
        if i.opcode == "mul24" || i.opcode == "mad24" {
            let f = match (hi, s) {
                (true, true) => BinW::Mul24HiS,
                (true, false) => BinW::Mul24HiU,
                (false, true) => BinW::Mul24LoS,
                (false, false) => BinW::Mul24LoU,
            };
            if !three {
                return self.emit(Op::BinW { f, a, b, d });
            }
            let (product, c) = (self.temp_w()?, self.w(&i.operands[3], ty)?);
            self.emit(Op::BinW {
                f,
                a,
                b,
                d: product,
            })?;
            return self.emit(Op::BinW {
                f: BinW::Add,
                a: product,
                b: c,
                d,
            });
        }
        if three {
            let c = self.extended(&i.operands[3], ty)?;
            let f = match (i.opcode, hi, s) {
                ("mad", true, true) if sat => TernW::MadHiSatS,
                ("mad", false, _) => TernW::Mad,
                ("mad", true, true) => TernW::MadHiS,
                ("mad", true, false) => TernW::MadHiU,
                (_, _, true) => TernW::SadS,
                (_, _, false) => TernW::SadU,
            };
            self.emit(Op::TernW { f, a, b, c, d: t })?;
        } else {
            let f = match (i.opcode, s) {
                ("add", _) if sat => BinW::AddSatS,
                ("sub", _) if sat => BinW::SubSatS,
                ("add", _) => BinW::Add,
                ("sub", _) => BinW::Sub,
                ("mul", _) if !hi => BinW::Mul,
                ("mul", true) => BinW::MulHiS,
                ("mul", false) => BinW::MulHiU,
                ("div", true) => BinW::DivS,
                ("div", false) => BinW::DivU,
                ("rem", true) => BinW::RemS,
                ("rem", false) => BinW::RemU,
                ("min", true) => BinW::MinS,
                ("min", false) => BinW::MinU,
                ("max", true) => BinW::MaxS,
                ("max", false) => BinW::MaxU,
                _ => return Err(self.unsupported_type(ty)),
            };
            self.emit(Op::BinW { f, a, b, d: t })?;
        }
        self.settle(ty, t, d)
    }

    fn wide(&mut self, i: &Instruction<'a>, ty: Ty) -> Result<()> {
        let mad = i.opcode == "mad";
        if !mad && i.opcode != "mul" || ty.bits() == 64 {
            return Err(self.error("modifier .wide is not supported here"));
        }
        self.arity(i, if mad { 4 } else { 3 })?;
        let (a, b) = (
            self.extended(&i.operands[1], ty)?,
            self.extended(&i.operands[2], ty)?,
        );
        let signed = ty.is_signed();
        match (ty.bits(), mad) {
            (16, false) => {
                let d = self.dest_w(&i.operands[0])?;
                self.emit(Op::BinW {
                    f: BinW::Mul,
                    a,
                    b,
                    d,
                })
            }
            (16, true) => {
                let (c, d) = (
                    self.w(&i.operands[3], Ty::B32)?,
                    self.dest_w(&i.operands[0])?,
                );
                self.emit(Op::TernW {
                    f: TernW::Mad,
                    a,
                    b,
                    c,
                    d,
                })
            }
            (_, false) => {
                let d = self.dest_d(&i.operands[0])?;
                self.emit(Op::MulWide { signed, a, b, d })
            }
            (_, true) => {
                let (c, d) = (
                    self.d(&i.operands[3], Ty::B64)?,
                    self.dest_d(&i.operands[0])?,
                );
                self.emit(Op::MadWide { signed, a, b, c, d })
            }
        }
    }

    /// Extended-precision arithmetic.
    fn carried(&mut self, i: &Instruction<'a>, ty: Ty) -> Result<()> {
        let flag = self.carry()?;
        let (reads, writes) = (i.opcode.ends_with('c'), self.has(i, ".cc"));
        let subtract = i.opcode.starts_with("sub");
        let (carry, carry_out) = (reads.then_some(flag), writes.then_some(flag));
        let mad = i.opcode.starts_with("mad");
        if !mad && !matches!(i.opcode, "add" | "sub" | "addc" | "subc") || ty.bits() < 32 {
            return Err(self.error("modifier .cc is not supported here"));
        }
        self.arity(i, if mad { 4 } else { 3 })?;
        let (hi, s) = (self.has(i, ".hi"), ty.is_signed());
        if ty.bits() == 64 {
            let (mut a, mut b) = (self.d(&i.operands[1], ty)?, self.d(&i.operands[2], ty)?);
            if mad {
                let product = self.temp_d()?;
                let f = if !hi {
                    BinD::Mul
                } else if s {
                    BinD::MulHiS
                } else {
                    BinD::MulHiU
                };
                self.emit(Op::BinD {
                    f,
                    a,
                    b,
                    d: product,
                })?;
                (a, b) = (product, self.d(&i.operands[3], ty)?);
            }
            let d = self.dest_d(&i.operands[0])?;
            return self.emit(Op::CarryD {
                subtract,
                a,
                b,
                carry,
                d,
                carry_out,
            });
        }
        let (mut a, mut b) = (self.w(&i.operands[1], ty)?, self.w(&i.operands[2], ty)?);
        if mad {
            let product = self.temp_w()?;
            let f = if !hi {
                BinW::Mul
            } else if s {
                BinW::MulHiS
            } else {
                BinW::MulHiU
            };
            self.emit(Op::BinW {
                f,
                a,
                b,
                d: product,
            })?;
            (a, b) = (product, self.w(&i.operands[3], ty)?);
        }
        let d = self.dest_w(&i.operands[0])?;
        self.emit(Op::CarryW {
            subtract,
            a,
            b,
            carry,
            d,
            carry_out,
        })
    }

    pub(super) fn immediate(&self, operand: &Operand<'a>) -> Result<u64> {
        match operand {
            Operand::Value(super::ast::Value::Int(value)) => Ok(*value),
            _ => Err(self.error("an immediate is needed")),
        }
    }

    /// Where a part of a value goes, if it is wanted.
    fn wanted(&mut self, operand: &Operand<'a>) -> Result<Option<W>> {
        match operand {
            Operand::Discard => Ok(None),
            wanted => self.dest_w(wanted).map(Some),
        }
    }

    fn mov(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 2)?;
        self.only(i, &[])?;
        let ty = self.ty(i)?;
        match (&i.operands[0], &i.operands[1]) {
            (Operand::Vector(parts), _) if parts.iter().all(|part| *part == Operand::Discard) => {
                Err(self.error("a destination is needed"))
            }
            (Operand::Vector(parts), source) => match (ty.bits(), parts.len()) {
                (16, 2) | (32, 4) => self.move_bytes(parts, source, (ty, false)),
                (64, 2) => {
                    let a = self.d(source, ty)?;
                    let (lo, hi) = (self.wanted(&parts[0])?, self.wanted(&parts[1])?);
                    self.emit(Op::UnpackD { a, lo, hi })
                }
                (32, 2) => {
                    let a = self.w(source, ty)?;
                    let (lo, hi) = (self.wanted(&parts[0])?, self.wanted(&parts[1])?);
                    self.emit(Op::UnpackW { a, lo, hi })
                }
                (64, 4) => {
                    let a = self.d(source, ty)?;
                    let (low, high) = (self.temp_w()?, self.temp_w()?);
                    self.emit(Op::UnpackD {
                        a,
                        lo: Some(low),
                        hi: Some(high),
                    })?;
                    for (half, parts) in [low, high].into_iter().zip(parts.chunks(2)) {
                        let (lo, hi) = (self.wanted(&parts[0])?, self.wanted(&parts[1])?);
                        self.emit(Op::UnpackW { a: half, lo, hi })?;
                    }
                    Ok(())
                }
                _ => Err(self.error("vector form is not supported")),
            },
            (dest, Operand::Vector(parts)) => match (ty.bits(), parts.len()) {
                (16, 2) | (32, 4) => self.move_bytes(parts, dest, (ty, true)),
                (64, 2) => {
                    let (lo, hi) = (self.w(&parts[0], Ty::B32)?, self.w(&parts[1], Ty::B32)?);
                    let d = self.dest_d(dest)?;
                    self.emit(Op::PackD { lo, hi, d })
                }
                (32, 2) => {
                    let (lo, hi) = (self.w(&parts[0], Ty::B16)?, self.w(&parts[1], Ty::B16)?);
                    let d = self.dest_w(dest)?;
                    self.emit(Op::PackW { lo, hi, d })
                }
                (64, 4) => {
                    let mut halves = Vec::new();
                    for parts in parts.chunks(2) {
                        let (lo, hi) = (self.w(&parts[0], Ty::B16)?, self.w(&parts[1], Ty::B16)?);
                        let d = self.temp_w()?;
                        self.emit(Op::PackW { lo, hi, d })?;
                        halves.push(d);
                    }
                    let d = self.dest_d(dest)?;
                    self.emit(Op::PackD {
                        lo: halves[0],
                        hi: halves[1],
                        d,
                    })
                }
                _ => Err(self.error("vector form is not supported")),
            },
            (dest, source) => {
                let a = self.any(source, ty)?;
                let d = self.dest(dest, ty)?;
                self.copy(a, d)
            }
        }
    }

    pub(super) fn copy(&mut self, a: AnyReg, d: AnyReg) -> Result<()> {
        match (a, d) {
            (AnyReg::W(a), AnyReg::W(d)) => self.emit(Op::MovW { a, d }),
            (AnyReg::D(a), AnyReg::D(d)) => self.emit(Op::MovD { a, d }),
            (AnyReg::P(a), AnyReg::P(d)) => self.emit(Op::MovP {
                negate: false,
                a,
                d,
            }),
            _ => Err(self.error("operands of different width")),
        }
    }
}
