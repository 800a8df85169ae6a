//! Comparisons: `setp` and `set`.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;

impl<'a> Builder<'_, 'a> {
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
                let (mut a, mut b) = (self.w(a, ty)?, self.w(b, ty)?);
                if ftz {
                    (a, b) = (self.flushed(a, ty)?, self.flushed(b, ty)?);
                }
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

    pub(super) fn setp(&mut self, i: &Instruction<'a>) -> Result<()> {
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

    pub(super) fn set(&mut self, i: &Instruction<'a>) -> Result<()> {
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
