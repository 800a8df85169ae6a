//! Integer arithmetic, logic, moves, comparison and selection.
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
                if self.ty(i)?.float().is_some() {
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

    fn unsupported_type(&self, ty: Ty) -> super::CompileError {
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
    fn scratch(&mut self, ty: Ty, d: W) -> Result<W> {
        if ty.bits() == 16 {
            self.temp_w()
        } else {
            Ok(d)
        }
    }

    /// Brings a computed value to its destination.
    fn settle(&mut self, ty: Ty, value: W, d: W) -> Result<()> {
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

    fn logic(&mut self, i: &Instruction<'a>) -> Result<()> {
        let ty = self.ty(i)?;
        self.only(i, &[])?;
        if ty.float().is_some() || ty.bits() == 8 {
            return Err(self.unsupported_type(ty));
        }
        let unary = matches!(i.opcode, "not" | "cnot");
        self.arity(i, if unary { 2 } else { 3 })?;
        if ty == Ty::Pred {
            let (a, d) = (self.p(&i.operands[1])?, self.dest_p(&i.operands[0])?);
            let f = match i.opcode {
                "and" => BoolOp::And,
                "or" => BoolOp::Or,
                "xor" => BoolOp::Xor,
                "not" => return self.emit(Op::MovP { negate: true, a, d }),
                _ => return Err(self.unsupported_type(ty)),
            };
            let b = self.p(&i.operands[2])?;
            return self.emit(Op::BoolP { f, a, b, d });
        }
        if ty.bits() == 64 {
            let (a, d) = (self.d(&i.operands[1], ty)?, self.dest_d(&i.operands[0])?);
            let shift = match i.opcode {
                "not" => return self.emit(Op::UnD { f: UnD::Not, a, d }),
                "cnot" => {
                    return self.emit(Op::BinD {
                        f: BinD::CNot,
                        a,
                        b: a,
                        d,
                    });
                }
                "shl" => Some(ShiftD::Shl),
                "shr" if ty.is_signed() => Some(ShiftD::ShrS),
                "shr" => Some(ShiftD::ShrU),
                _ => None,
            };
            if let Some(f) = shift {
                let b = self.w(&i.operands[2], Ty::U32)?;
                return self.emit(Op::ShiftD { f, a, b, d });
            }
            let b = self.d(&i.operands[2], ty)?;
            let f = match i.opcode {
                "and" => BinD::And,
                "or" => BinD::Or,
                _ => BinD::Xor,
            };
            return self.emit(Op::BinD { f, a, b, d });
        }
        let (a, d) = (
            self.extended(&i.operands[1], ty)?,
            self.dest_w(&i.operands[0])?,
        );
        let t = self.scratch(ty, d)?;
        let f = match i.opcode {
            "not" => {
                self.emit(Op::UnW {
                    f: UnW::Not,
                    a,
                    d: t,
                })?;
                return self.settle(ty, t, d);
            }
            "cnot" => {
                return self.emit(Op::BinW {
                    f: BinW::CNot,
                    a,
                    b: a,
                    d,
                });
            }
            "shl" => BinW::Shl,
            "shr" if ty.is_signed() => BinW::ShrS,
            "shr" => BinW::ShrU,
            "and" => BinW::And,
            "or" => BinW::Or,
            _ => BinW::Xor,
        };
        let shift = matches!(i.opcode, "shl" | "shr");
        let b = self.w(&i.operands[2], if shift { Ty::U32 } else { ty })?;
        self.emit(Op::BinW { f, a, b, d: t })?;
        self.settle(ty, t, d)
    }

    fn count(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 2)?;
        let ty = self.ty(i)?;
        self.only(i, &[".shiftamt"])?;
        let (s, shift) = (ty.is_signed(), self.has(i, ".shiftamt"));
        if ty.bits() == 64 {
            let a = self.d(&i.operands[1], ty)?;
            let f = match (i.opcode, s, shift) {
                ("brev", ..) => {
                    let d = self.dest_d(&i.operands[0])?;
                    return self.emit(Op::UnD { f: UnD::Brev, a, d });
                }
                ("popc", ..) => CountD::Popc,
                ("clz", ..) => CountD::Clz,
                (_, true, false) => CountD::FindMsbS,
                (_, false, false) => CountD::FindMsbU,
                (_, true, true) => CountD::ShiftFindMsbS,
                (_, false, true) => CountD::ShiftFindMsbU,
            };
            let d = self.dest_w(&i.operands[0])?;
            return self.emit(Op::CountD { f, a, d });
        }
        if ty.bits() != 32 || ty.float().is_some() {
            return Err(self.unsupported_type(ty));
        }
        let (a, d) = (self.w(&i.operands[1], ty)?, self.dest_w(&i.operands[0])?);
        let f = match (i.opcode, s, shift) {
            ("brev", ..) => UnW::Brev,
            ("popc", ..) => UnW::Popc,
            ("clz", ..) => UnW::Clz,
            (_, true, false) => UnW::FindMsbS,
            (_, false, false) => UnW::FindMsbU,
            (_, true, true) => UnW::ShiftFindMsbS,
            (_, false, true) => UnW::ShiftFindMsbU,
        };
        self.emit(Op::UnW { f, a, d })
    }

    fn bits(&mut self, i: &Instruction<'a>) -> Result<()> {
        let operand = |index: usize| i.operands.get(index).cloned().unwrap_or(Operand::Discard);
        match i.opcode {
            "bfe" => {
                let ty = self.ty(i)?;
                self.arity(i, 4)?;
                self.only(i, &[])?;
                let (b, c) = (self.w(&operand(2), Ty::U32)?, self.w(&operand(3), Ty::U32)?);
                let signed = ty.is_signed();
                match ty.bits() {
                    64 => {
                        let (a, d) = (self.d(&operand(1), ty)?, self.dest_d(&operand(0))?);
                        self.emit(Op::BfeD { signed, a, b, c, d })
                    }
                    32 => {
                        let (a, d) = (self.w(&operand(1), ty)?, self.dest_w(&operand(0))?);
                        let f = if signed { TernW::BfeS } else { TernW::BfeU };
                        self.emit(Op::TernW { f, a, b, c, d })
                    }
                    _ => Err(self.unsupported_type(ty)),
                }
            }
            "bfi" => {
                let ty = self.ty(i)?;
                self.arity(i, 5)?;
                self.only(i, &[])?;
                let (c, e) = (self.w(&operand(3), Ty::U32)?, self.w(&operand(4), Ty::U32)?);
                match ty.bits() {
                    64 => {
                        let (a, b) = (self.d(&operand(1), ty)?, self.d(&operand(2), ty)?);
                        let d = self.dest_d(&operand(0))?;
                        self.emit(Op::BfiD { a, b, c, e, d })
                    }
                    32 => {
                        let (a, b) = (self.w(&operand(1), ty)?, self.w(&operand(2), ty)?);
                        let d = self.dest_w(&operand(0))?;
                        self.emit(Op::BfiW { a, b, c, e, d })
                    }
                    _ => Err(self.unsupported_type(ty)),
                }
            }
            "bmsk" | "szext" => {
                self.arity(i, 3)?;
                self.only(i, &[".clamp", ".wrap"])?;
                let f = match (i.opcode, self.has(i, ".wrap"), self.ty(i)?.is_signed()) {
                    ("bmsk", false, _) => BinW::Bmsk,
                    ("bmsk", true, _) => BinW::BmskWrap,
                    (_, false, true) => BinW::Szext,
                    (_, false, false) => BinW::SzextU,
                    (_, true, true) => BinW::SzextWrap,
                    (_, true, false) => BinW::SzextWrapU,
                };
                let (a, b) = (self.w(&operand(1), Ty::U32)?, self.w(&operand(2), Ty::U32)?);
                let d = self.dest_w(&operand(0))?;
                self.emit(Op::BinW { f, a, b, d })
            }
            "lop3" => {
                self.arity(i, 5)?;
                self.only(i, &[])?;
                let table = self.immediate(&operand(4))?;
                let table =
                    u8::try_from(table).map_err(|_| self.error("lop3 table must be a byte"))?;
                let (a, b) = (self.w(&operand(1), Ty::B32)?, self.w(&operand(2), Ty::B32)?);
                let (c, d) = (self.w(&operand(3), Ty::B32)?, self.dest_w(&operand(0))?);
                self.emit(Op::Lop3 { table, a, b, c, d })
            }
            "shf" => {
                self.arity(i, 4)?;
                self.only(i, &[".l", ".r", ".clamp", ".wrap"])?;
                let f = match (self.has(i, ".l"), self.has(i, ".wrap")) {
                    (true, false) => TernW::ShfLeftClamp,
                    (true, true) => TernW::ShfLeftWrap,
                    (false, false) => TernW::ShfRightClamp,
                    (false, true) => TernW::ShfRightWrap,
                };
                self.three(i, f, Ty::B32)
            }
            "prmt" => {
                self.arity(i, 4)?;
                let mode = match i.modifiers.as_slice() {
                    [".b32"] => PrmtMode::Index,
                    [".b32", ".f4e"] => PrmtMode::F4e,
                    [".b32", ".b4e"] => PrmtMode::B4e,
                    [".b32", ".rc8"] => PrmtMode::Rc8,
                    [".b32", ".ecl"] => PrmtMode::Ecl,
                    [".b32", ".ecr"] => PrmtMode::Ecr,
                    [".b32", ".rc16"] => PrmtMode::Rc16,
                    _ => return Err(self.error("mode is not supported")),
                };
                let (a, b) = (self.w(&operand(1), Ty::B32)?, self.w(&operand(2), Ty::B32)?);
                let (c, d) = (self.w(&operand(3), Ty::B32)?, self.dest_w(&operand(0))?);
                self.emit(Op::Prmt { mode, a, b, c, d })
            }
            _ => {
                use TernW as T;
                self.arity(i, 4)?;
                self.only(i, &[".lo", ".hi"])?;
                let signs: Vec<bool> = i
                    .modifiers
                    .iter()
                    .filter_map(|m| Ty::parse(m))
                    .map(Ty::is_signed)
                    .collect();
                let f = match (i.opcode, self.has(i, ".hi"), &signs[..]) {
                    ("dp4a", _, [true, true]) => T::Dp4aSS,
                    ("dp4a", _, [true, false]) => T::Dp4aSU,
                    ("dp4a", _, [false, true]) => T::Dp4aUS,
                    ("dp4a", _, [false, false]) => T::Dp4aUU,
                    (_, false, [true, true]) => T::Dp2aLoSS,
                    (_, false, [true, false]) => T::Dp2aLoSU,
                    (_, false, [false, true]) => T::Dp2aLoUS,
                    (_, false, [false, false]) => T::Dp2aLoUU,
                    (_, true, [true, true]) => T::Dp2aHiSS,
                    (_, true, [true, false]) => T::Dp2aHiSU,
                    (_, true, [false, true]) => T::Dp2aHiUS,
                    (_, true, [false, false]) => T::Dp2aHiUU,
                    _ => return Err(self.error("two types are needed")),
                };
                self.three(i, f, Ty::B32)
            }
        }
    }

    fn three(&mut self, i: &Instruction<'a>, f: TernW, ty: Ty) -> Result<()> {
        let (a, b) = (self.w(&i.operands[1], ty)?, self.w(&i.operands[2], ty)?);
        let (c, d) = (self.w(&i.operands[3], ty)?, self.dest_w(&i.operands[0])?);
        self.emit(Op::TernW { f, a, b, c, d })
    }

    pub(super) fn immediate(&self, operand: &Operand<'a>) -> Result<u64> {
        match operand {
            Operand::Value(super::ast::Value::Int(value)) => Ok(*value),
            _ => Err(self.error("an immediate is needed")),
        }
    }

    fn mov(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 2)?;
        self.only(i, &[])?;
        let ty = self.ty(i)?;
        match (&i.operands[0], &i.operands[1]) {
            (Operand::Vector(parts), source) => match (ty.bits(), parts.len()) {
                (64, 2) => {
                    let a = self.d(source, ty)?;
                    let lo = Some(self.dest_w(&parts[0])?);
                    let hi = Some(self.dest_w(&parts[1])?);
                    self.emit(Op::UnpackD { a, lo, hi })
                }
                (32, 2) => {
                    let a = self.w(source, ty)?;
                    let lo = Some(self.dest_w(&parts[0])?);
                    let hi = Some(self.dest_w(&parts[1])?);
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
                        let lo = Some(self.dest_w(&parts[0])?);
                        let hi = Some(self.dest_w(&parts[1])?);
                        self.emit(Op::UnpackW { a: half, lo, hi })?;
                    }
                    Ok(())
                }
                _ => Err(self.error("vector form is not supported")),
            },
            (dest, Operand::Vector(parts)) => match (ty.bits(), parts.len()) {
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

    /// Emits a comparison; `q` is for the upper half of packed operands.
    fn compare(
        &mut self,
        name: &str,
        ty: Ty,
        ftz: bool,
        operands: [&Operand<'a>; 2],
        p: P,
        q: Option<P>,
    ) -> Result<()> {
        let float = match name {
            "eq" => FloatCmp::Eq,
            "ne" => FloatCmp::Ne,
            "lt" => FloatCmp::Lt,
            "le" => FloatCmp::Le,
            "gt" => FloatCmp::Gt,
            "ge" => FloatCmp::Ge,
            "equ" => FloatCmp::Equ,
            "neu" => FloatCmp::Neu,
            "ltu" => FloatCmp::Ltu,
            "leu" => FloatCmp::Leu,
            "gtu" => FloatCmp::Gtu,
            "geu" => FloatCmp::Geu,
            "num" => FloatCmp::Num,
            "nan" => FloatCmp::Nan,
            "lo" | "ls" | "hi" | "hs" if !ty.is_signed() && ty.float().is_none() => FloatCmp::Eq,
            _ => return Err(self.error(format!("comparison .{name} is not supported"))),
        };
        let [a, b] = operands;
        match ty.float() {
            Some(FloatType::F32) => {
                let f = if ftz {
                    CmpW::FtzF(float)
                } else {
                    CmpW::F(float)
                };
                let (a, b) = (self.w(a, ty)?, self.w(b, ty)?);
                return self.emit(Op::CmpW { f, a, b, p });
            }
            Some(FloatType::F64) => {
                let (a, b) = (self.d(a, ty)?, self.d(b, ty)?);
                return self.emit(Op::CmpD {
                    f: CmpD::F(float),
                    a,
                    b,
                    p,
                });
            }
            Some(half @ (FloatType::F16 | FloatType::Bf16)) => {
                let (a, b) = (self.w(a, ty)?, self.w(b, ty)?);
                let packed = ty.is_packed();
                return self.emit(Op::CmpHalf {
                    f: float,
                    ty: half,
                    packed,
                    a,
                    b,
                    p,
                    q,
                });
            }
            Some(FloatType::Tf32) => return Err(self.unsupported_type(ty)),
            None => {}
        }
        if ty == Ty::Pred || ty.bits() == 8 || ty.is_untyped() && !matches!(name, "eq" | "ne") {
            return Err(self.unsupported_type(ty));
        }
        let s = ty.is_signed();
        if ty.bits() == 64 {
            let f = match (name, s) {
                ("eq", _) => CmpD::Eq,
                ("ne", _) => CmpD::Ne,
                ("lt", true) => CmpD::LtS,
                ("le", true) => CmpD::LeS,
                ("gt", true) => CmpD::GtS,
                ("ge", true) => CmpD::GeS,
                ("lt" | "lo", false) => CmpD::LtU,
                ("le" | "ls", false) => CmpD::LeU,
                ("gt" | "hi", false) => CmpD::GtU,
                ("ge" | "hs", false) => CmpD::GeU,
                _ => return Err(self.error(format!("comparison .{name} is not for integers"))),
            };
            let (a, b) = (self.d(a, ty)?, self.d(b, ty)?);
            return self.emit(Op::CmpD { f, a, b, p });
        }
        let f = match (name, s) {
            ("eq", _) => CmpW::Eq,
            ("ne", _) => CmpW::Ne,
            ("lt", true) => CmpW::LtS,
            ("le", true) => CmpW::LeS,
            ("gt", true) => CmpW::GtS,
            ("ge", true) => CmpW::GeS,
            ("lt" | "lo", false) => CmpW::LtU,
            ("le" | "ls", false) => CmpW::LeU,
            ("gt" | "hi", false) => CmpW::GtU,
            ("ge" | "hs", false) => CmpW::GeU,
            _ => return Err(self.error(format!("comparison .{name} is not for integers"))),
        };
        let (a, b) = (self.extended(a, ty)?, self.extended(b, ty)?);
        self.emit(Op::CmpW { f, a, b, p })
    }

    /// `.cmp` and, where there is one, `.and`, `.or` or `.xor`.
    fn comparison(&self, i: &Instruction<'a>) -> Result<(&'a str, Option<BoolOp>)> {
        let Some(first) = i.modifiers.first() else {
            return Err(self.error("a comparison is missing"));
        };
        let second = match i.modifiers.get(1).copied() {
            Some(".and") => Some(BoolOp::And),
            Some(".or") => Some(BoolOp::Or),
            Some(".xor") => Some(BoolOp::Xor),
            _ => None,
        };
        let rest = &i.modifiers[1 + usize::from(second.is_some())..];
        match rest
            .iter()
            .find(|m| **m != ".ftz" && Ty::parse(m).is_none())
        {
            Some(modifier) => Err(self.error(format!("modifier {modifier} is not supported"))),
            None => Ok((&first[1..], second)),
        }
    }

    fn setp(&mut self, i: &Instruction<'a>) -> Result<()> {
        let ty = self.ty(i)?;
        let (name, combine) = self.comparison(i)?;
        self.arity(i, if combine.is_some() { 4 } else { 3 })?;
        let (p, q) = match &i.operands[0] {
            Operand::Pair(p, q) => (self.dest_p(p)?, Some(self.dest_p(q)?)),
            operand => (self.dest_p(operand)?, None),
        };
        let operands = [&i.operands[1], &i.operands[2]];
        let ftz = self.has(i, ".ftz");
        let Some(f) = combine else {
            if q.is_some() && !ty.is_packed() {
                let q = q.unwrap_or(p);
                let t = self.temp_p()?;
                self.compare(name, ty, ftz, operands, t, None)?;
                self.emit(Op::MovP {
                    negate: false,
                    a: t,
                    d: p,
                })?;
                return self.emit(Op::MovP {
                    negate: true,
                    a: t,
                    d: q,
                });
            }
            return self.compare(name, ty, ftz, operands, p, q);
        };
        let c = self.p(&i.operands[3])?;
        let t = self.temp_p()?;
        let u = self.temp_p()?;
        if ty.is_packed() {
            self.compare(name, ty, ftz, operands, t, Some(u))?;
        } else {
            self.compare(name, ty, ftz, operands, t, None)?;
            self.emit(Op::MovP {
                negate: true,
                a: t,
                d: u,
            })?;
        }
        // `c` may be one of the destinations: both are computed before either is written.
        self.emit(Op::BoolP {
            f,
            a: u,
            b: c,
            d: u,
        })?;
        self.emit(Op::BoolP {
            f,
            a: t,
            b: c,
            d: p,
        })?;
        match q {
            Some(q) => self.emit(Op::MovP {
                negate: false,
                a: u,
                d: q,
            }),
            None => Ok(()),
        }
    }

    fn set(&mut self, i: &Instruction<'a>) -> Result<()> {
        let (name, combine) = self.comparison(i)?;
        let types: Vec<Ty> = i.modifiers.iter().filter_map(|m| Ty::parse(m)).collect();
        let [to, from] = types[..] else {
            return Err(self.error("two types are needed"));
        };
        self.arity(i, if combine.is_some() { 4 } else { 3 })?;
        let (p, q) = (self.temp_p()?, self.temp_p()?);
        let second = from.is_packed().then_some(q);
        self.compare(
            name,
            from,
            self.has(i, ".ftz"),
            [&i.operands[1], &i.operands[2]],
            p,
            second,
        )?;
        if let Some(f) = combine {
            let c = self.p(&i.operands[3])?;
            self.emit(Op::BoolP {
                f,
                a: p,
                b: c,
                d: p,
            })?;
            self.emit(Op::BoolP {
                f,
                a: q,
                b: c,
                d: q,
            })?;
        }
        let yes = match to {
            Ty::U32 | Ty::S32 => u32::MAX,
            Ty::U16 | Ty::S16 => 0xffff,
            Ty::F32 => 0x3f80_0000,
            Ty::F16 | Ty::F16x2 => 0x3c00,
            Ty::Bf16 | Ty::Bf16x2 => 0x3f80,
            _ => return Err(self.unsupported_type(to)),
        };
        let (a, b) = (self.constant_w(yes)?, self.constant_w(0)?);
        let d = self.dest_w(&i.operands[0])?;
        if !from.is_packed() {
            return self.emit(Op::SelW { a, b, p, d });
        }
        let half = self.constant_w(yes & 0xffff)?;
        let (lo, hi) = (self.temp_w()?, self.temp_w()?);
        self.emit(Op::SelW {
            a: half,
            b,
            p,
            d: lo,
        })?;
        self.emit(Op::SelW {
            a: half,
            b,
            p: q,
            d: hi,
        })?;
        self.emit(Op::PackW { lo, hi, d })
    }
}
