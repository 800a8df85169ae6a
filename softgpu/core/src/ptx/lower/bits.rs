//! Logic, shifts, counting and bit fields.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;

impl<'a> Builder<'_, 'a> {
    pub(super) fn logic(&mut self, i: &Instruction<'a>) -> Result<()> {
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

    pub(super) fn count(&mut self, i: &Instruction<'a>) -> Result<()> {
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

    pub(super) fn bits(&mut self, i: &Instruction<'a>) -> Result<()> {
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
}
