//! Conversions.
#![forbid(unsafe_code)]

use super::super::ast::Instruction;
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;

impl<'a> Builder<'_, 'a> {
    pub(super) fn conversion(&mut self, i: &Instruction<'a>) -> Result<bool> {
        if i.opcode != "cvt" {
            return Ok(false);
        }
        self.only(
            i,
            &[
                ".rn",
                ".rz",
                ".rm",
                ".rp",
                ".rna",
                ".rni",
                ".rzi",
                ".rmi",
                ".rpi",
                ".ftz",
                ".sat",
                ".relu",
                ".satfinite",
            ],
        )?;
        let types: Vec<Ty> = i.modifiers.iter().filter_map(|m| Ty::parse(m)).collect();
        let [to, from] = types[..] else {
            return Err(self.error("two types are needed"));
        };
        let round = self.rounding(i);
        let integral = i
            .modifiers
            .iter()
            .any(|m| matches!(*m, ".rni" | ".rzi" | ".rmi" | ".rpi"));
        if self.has(i, ".satfinite") {
            return Err(self.error("modifier .satfinite is not supported"));
        }
        let spec = |to: Scalar, from: Scalar| Conversion {
            from,
            to,
            round: round.unwrap_or(Round::Nearest),
            integral,
            sat: self.has(i, ".sat"),
            relu: self.has(i, ".relu"),
            ftz: self.has(i, ".ftz"),
        };
        if to.is_packed() {
            self.arity(i, 3)?;
            let scalar = if to == Ty::F16x2 {
                Scalar::F16
            } else {
                Scalar::Bf16
            };
            if from != Ty::F32 {
                return Err(self.error("type is not supported"));
            }
            let spec = spec(scalar, Scalar::F32);
            let (a, b) = (self.w(&i.operands[1], from)?, self.w(&i.operands[2], from)?);
            let d = self.dest_w(&i.operands[0])?;
            self.emit(Op::ConvertPack { spec, a, b, d })?;
            return Ok(true);
        }
        self.arity(i, 2)?;
        let (Some(to_scalar), Some(from_scalar)) = (to.scalar(), from.scalar()) else {
            return Err(self.error("type is not supported"));
        };
        let spec = spec(to_scalar, from_scalar);
        let integers = to.is_integer() && from.is_integer();
        let narrows = to.float().is_some() && from.float().is_some() && to.bits() < from.bits();
        if to.float().is_some() && (from.is_integer() || narrows) && round.is_none() {
            return Err(self.error("a rounding modifier is needed"));
        }
        if to.is_integer() && from.float().is_some() && !integral {
            return Err(self.error("an integer rounding modifier is needed"));
        }
        if integers && round.is_some() {
            return Err(self.error("a rounding modifier is not allowed"));
        }
        // Source and destination registers may be wider than the types.
        let source = match self.declared(&i.operands[1])? {
            Some((AnyReg::D(a), _)) if from.bits() < 64 => {
                let low = self.temp_w()?;
                self.emit(Op::UnpackD {
                    a,
                    lo: Some(low),
                    hi: None,
                })?;
                AnyReg::W(low)
            }
            Some((register, declared)) if declared.bits() >= from.bits() => register,
            Some(_) => return Err(self.error("source is narrower than its type")),
            None => self.any(&i.operands[1], from)?,
        };
        let Some((dest, declared)) = self.declared(&i.operands[0])? else {
            return Err(self.error("destination is not a register"));
        };
        if declared.bits() < to.bits() || declared == Ty::Pred {
            return Err(self.error("destination is narrower than its type"));
        }
        if integers && !spec.sat && self.integer_conversion(source, from, dest, to)? {
            return Ok(true);
        }
        match (dest, to.bits()) {
            (AnyReg::D(d), 8..=32) => {
                let t = self.temp_w()?;
                self.emit(Op::Convert {
                    spec,
                    a: source,
                    d: AnyReg::W(t),
                })?;
                self.extend(t, to, d)?;
            }
            (AnyReg::W(d), 8 | 16) if to.is_signed() && declared.bits() == 32 => {
                let t = self.temp_w()?;
                self.emit(Op::Convert {
                    spec,
                    a: source,
                    d: AnyReg::W(t),
                })?;
                let f = if to.bits() == 8 {
                    UnW::Sext8
                } else {
                    UnW::Sext16
                };
                self.emit(Op::UnW { f, a: t, d })?;
            }
            _ => self.emit(Op::Convert {
                spec,
                a: source,
                d: dest,
            })?,
        }
        Ok(true)
    }

    /// Extends or cuts an integer with the cheapest operation; wide to wide is a move.
    fn integer_conversion(
        &mut self,
        source: AnyReg,
        from: Ty,
        dest: AnyReg,
        to: Ty,
    ) -> Result<bool> {
        // The value is that of the narrower type, its sign that of the type it comes from there.
        let narrow = if to.bits() < from.bits() { to } else { from };
        match (source, dest) {
            (AnyReg::D(a), AnyReg::D(d)) if narrow.bits() == 64 => self.emit(Op::MovD { a, d })?,
            (AnyReg::D(a), AnyReg::D(d)) => {
                let low = self.temp_w()?;
                self.emit(Op::UnpackD {
                    a,
                    lo: Some(low),
                    hi: None,
                })?;
                let cut = self.cut(low, narrow)?;
                self.extend(cut, narrow, d)?;
            }
            (AnyReg::D(a), AnyReg::W(d)) if narrow.bits() == 32 => {
                self.emit(Op::UnpackD {
                    a,
                    lo: Some(d),
                    hi: None,
                })?;
            }
            (AnyReg::D(a), AnyReg::W(d)) => {
                let low = self.temp_w()?;
                self.emit(Op::UnpackD {
                    a,
                    lo: Some(low),
                    hi: None,
                })?;
                self.narrow(low, narrow, to, d)?;
            }
            (AnyReg::W(a), AnyReg::W(d)) if narrow.bits() == 32 => self.emit(Op::MovW { a, d })?,
            (AnyReg::W(a), AnyReg::W(d)) => self.narrow(a, narrow, to, d)?,
            (AnyReg::W(a), AnyReg::D(d)) => {
                let cut = self.cut(a, narrow)?;
                self.extend(cut, narrow, d)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A value of a narrow type in `d`, zero-extended if `d` is a 16-bit register.
    fn narrow(&mut self, a: W, narrow: Ty, to: Ty, d: W) -> Result<()> {
        let signed = narrow.is_signed();
        match (narrow.bits(), signed, to.bits()) {
            (8, true, 16) => {
                let t = self.temp_w()?;
                self.emit(Op::UnW {
                    f: UnW::Sext8,
                    a,
                    d: t,
                })?;
                self.emit(Op::UnW {
                    f: UnW::Zext16,
                    a: t,
                    d,
                })
            }
            (8, true, 32) => self.emit(Op::UnW {
                f: UnW::Sext8,
                a,
                d,
            }),
            (16, true, 32) => self.emit(Op::UnW {
                f: UnW::Sext16,
                a,
                d,
            }),
            (8, ..) => self.emit(Op::UnW {
                f: UnW::Zext8,
                a,
                d,
            }),
            _ => self.emit(Op::UnW {
                f: UnW::Zext16,
                a,
                d,
            }),
        }
    }

    /// The value of a narrow type in 32 bits.
    pub(super) fn cut(&mut self, a: W, ty: Ty) -> Result<W> {
        let f = match (ty.bits(), ty.is_signed()) {
            (8, true) => UnW::Sext8,
            (8, false) => UnW::Zext8,
            (16, true) => UnW::Sext16,
            (16, false) => UnW::Zext16,
            _ => return Ok(a),
        };
        let d = self.temp_w()?;
        self.emit(Op::UnW { f, a, d })?;
        Ok(d)
    }

    /// Extends 32 bits to 64.
    pub(super) fn extend(&mut self, a: W, ty: Ty, d: D) -> Result<()> {
        self.emit(Op::ExtendD {
            signed: ty.is_signed(),
            a,
            d,
        })
    }
}
