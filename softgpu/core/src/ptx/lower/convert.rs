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
        let (half, single) = (
            matches!(to, Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2),
            matches!(to, Ty::Tf32 | Ty::F32),
        );
        let (finite, relu) = (self.has(i, ".satfinite"), self.has(i, ".relu"));
        if (finite || relu) && (from != Ty::F32 || !half && to != Ty::Tf32) {
            return Err(self.error("modifiers .satfinite and .relu are not supported here"));
        }
        if self.has(i, ".rna") && to != Ty::Tf32 {
            return Err(self.error("modifier .rna is not supported here"));
        }
        if to == Ty::Tf32 && round.is_none() {
            return Err(self.error("a rounding modifier is needed"));
        }
        if self.has(i, ".ftz") && from != Ty::F32 && !single {
            return Err(self.error("modifier .ftz is not supported here"));
        }
        let sat = self.has(i, ".sat");
        if sat && (to.float() == Some(FloatType::Bf16) || from.float() == Some(FloatType::Bf16)) {
            return Err(self.error("modifier .sat is not supported here"));
        }
        let spec = |to: Scalar, from: Scalar| Conversion {
            from,
            to,
            round: round.unwrap_or(Round::Nearest),
            integral,
            sat,
            relu,
            ftz: self.has(i, ".ftz"),
            finite,
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
            if round.is_none() {
                return Err(self.error("a rounding modifier is needed"));
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
        let floats = to.float().is_some() && from.float().is_some();
        let narrows = floats && (to.bits() < from.bits() || to.bits() == 16 && to != from);
        if floats && !narrows && to != Ty::Tf32 && round.is_some() && !integral {
            return Err(self.error("a rounding modifier is not allowed"));
        }
        // Between bfloats and bytes, a byte must be in a register of its size.
        for (ty, other, operand) in [(to, from, 0), (from, to, 1)] {
            let declared = self.declared(&i.operands[operand])?;
            let fits = declared.is_some_and(|(_, declared)| declared.bits() == 8);
            if ty.bits() == 8 && other == Ty::Bf16 && !fits {
                return Err(self.error("a register of 8 bits is needed"));
            }
        }
        let holds = |ty: Ty, other: Ty| match (ty.is_signed(), other.is_signed()) {
            (false, true) => false,
            (true, false) => ty.bits() > other.bits(),
            _ => ty.bits() >= other.bits(),
        };
        if integers && sat && holds(to, from) {
            return Err(self.error("modifier .sat is not allowed"));
        }
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
        if integers && !spec.sat {
            self.integer_conversion(source, from, dest, to, declared.bits())?;
            return Ok(true);
        }
        let wider = match dest {
            AnyReg::D(_) => to.bits() < 64,
            _ => to.is_integer() && to.bits() < declared.bits(),
        };
        if !wider {
            self.emit(Op::Convert {
                spec,
                a: source,
                d: dest,
            })?;
            return Ok(true);
        }
        let t = self.temp_w()?;
        self.emit(Op::Convert {
            spec,
            a: source,
            d: AnyReg::W(t),
        })?;
        let signed = to.is_signed();
        self.spread(t, to.bits(), signed, declared.bits(), dest)?;
        Ok(true)
    }

    /// Extends or cuts an integer with the cheapest operations; wide to wide is a move.
    fn integer_conversion(
        &mut self,
        source: AnyReg,
        from: Ty,
        dest: AnyReg,
        to: Ty,
        register_bits: u32,
    ) -> Result<()> {
        let bits = to.bits().min(from.bits());
        let a = match (source, dest) {
            (AnyReg::D(a), AnyReg::D(d)) if bits == 64 => return self.emit(Op::MovD { a, d }),
            (AnyReg::D(a), _) => {
                let low = self.temp_w()?;
                self.emit(Op::UnpackD {
                    a,
                    lo: Some(low),
                    hi: None,
                })?;
                low
            }
            (AnyReg::W(a), _) => a,
            (AnyReg::P(_), _) => return Err(self.error("source is a predicate")),
        };
        // A value that grows does so as its own type says up to the new type's width, and from there
        // to that of the register as the new type says.
        let grows = to.bits() > from.bits();
        let signed = if grows {
            from.is_signed()
        } else {
            to.is_signed()
        };
        let limit = if grows && !to.is_signed() {
            to.bits()
        } else {
            register_bits
        };
        self.spread(a, bits, signed, limit, dest)
    }

    /// Brings the low `bits` of a value to a register: extended with their sign to `limit` bits if
    /// they are signed, and with zeros from there.
    fn spread(&mut self, a: W, bits: u32, signed: bool, limit: u32, dest: AnyReg) -> Result<()> {
        let signed = signed && bits < limit;
        let f = match (bits, signed) {
            (8, true) => Some(UnW::Sext8),
            (8, false) => Some(UnW::Zext8),
            (16, true) => Some(UnW::Sext16),
            (16, false) => Some(UnW::Zext16),
            _ => None,
        };
        let cut = signed && limit == 16;
        match (dest, f) {
            (AnyReg::W(d), None) => self.emit(Op::MovW { a, d }),
            (AnyReg::W(d), Some(f)) if !cut => self.emit(Op::UnW { f, a, d }),
            (AnyReg::W(d), Some(f)) => {
                let t = self.temp_w()?;
                self.emit(Op::UnW { f, a, d: t })?;
                self.emit(Op::UnW {
                    f: UnW::Zext16,
                    a: t,
                    d,
                })
            }
            (AnyReg::D(d), f) => {
                let mut value = a;
                for f in f.into_iter().chain(cut.then_some(UnW::Zext16)) {
                    let t = self.temp_w()?;
                    self.emit(Op::UnW { f, a: value, d: t })?;
                    value = t;
                }
                let signed = signed && limit == 64;
                self.emit(Op::ExtendD {
                    signed,
                    a: value,
                    d,
                })
            }
            (AnyReg::P(_), _) => Err(self.error("destination is a predicate")),
        }
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
