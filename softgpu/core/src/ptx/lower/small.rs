//! Conversions from and to floating point of 8 bits and less, and bytes that make up a register.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;
use super::modifiers::Modifiers;

const FORMATS: &[(&str, Small)] = &[
    (".e4m3x2", Small::E4m3),
    (".e5m2x2", Small::E5m2),
    (".e2m3x2", Small::E2m3),
    (".e3m2x2", Small::E3m2),
    (".e2m1x2", Small::E2m1),
];

/// What two wider values are given in: two registers, or the halves of one.
const WIDE: &[(&str, (Ty, FloatType))] = &[
    (".f32", (Ty::F32, FloatType::F32)),
    (".f16x2", (Ty::F16x2, FloatType::F16)),
    (".bf16x2", (Ty::Bf16x2, FloatType::Bf16)),
];

impl<'a> Builder<'_, 'a> {
    /// `cvt` with one of these formats as source or destination.
    pub(super) fn small_floats(&mut self, i: &Instruction<'a>) -> Result<bool> {
        let known = |m: &str| m == ".ue8m0x2" || FORMATS.iter().any(|(name, _)| *name == m);
        let [.., to, from] = i.modifiers[..] else {
            return Ok(false);
        };
        if !known(to) && !known(from) {
            return Ok(false);
        }
        let mut modifiers = Modifiers::of(i);
        modifiers.take(|m| m == to);
        modifiers.take(|m| m == from);
        let wide = |name: &str| {
            WIDE.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, wide)| *wide)
        };
        let small = |name: &str| {
            FORMATS
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, f)| *f)
        };
        let unsupported = || self.error("type is not supported");
        if to == ".ue8m0x2" {
            let (ty, from) = wide(from)
                .filter(|(ty, _)| *ty != Ty::F16x2)
                .ok_or_else(unsupported)?;
            let up = modifiers.choose(&[(".rp", true), (".rz", false)]);
            let up = up.ok_or_else(|| self.error("a rounding modifier is needed"))?;
            let sat = modifiers.flag(".satfinite");
            self.nothing_else(&modifiers)?;
            return self.shrink(i, Rare::ToScale { up, sat, from }, ty, 16);
        }
        if !modifiers.flag(".rn") {
            return Err(self.error("a rounding modifier is needed"));
        }
        let relu = modifiers.flag(".relu");
        if from == ".ue8m0x2" {
            self.nothing_else(&modifiers)?;
            return match (to, relu) {
                (".bf16x2", false) => self.grow(i, Rare::FromScale, 16),
                _ => Err(unsupported()),
            };
        }
        let bits = |format| if format == Small::E2m1 { 8 } else { 16 };
        match (small(to), small(from)) {
            (Some(format), None) => {
                let (ty, from) = wide(from).ok_or_else(unsupported)?;
                if !modifiers.flag(".satfinite") {
                    return Err(self.error("modifier .satfinite is needed"));
                }
                self.nothing_else(&modifiers)?;
                self.shrink(i, Rare::ToSmall { format, relu, from }, ty, bits(format))
            }
            (None, Some(format)) => {
                let wide = wide(to).filter(|(ty, _)| *ty != Ty::F32);
                let (_, to) = wide.ok_or_else(unsupported)?;
                self.nothing_else(&modifiers)?;
                self.grow(i, Rare::FromSmall { format, relu, to }, bits(format))
            }
            _ => Err(unsupported()),
        }
    }

    fn shrink(&mut self, i: &Instruction<'a>, f: Rare, ty: Ty, bits: u32) -> Result<bool> {
        let two = ty == Ty::F32;
        self.arity(i, if two { 3 } else { 2 })?;
        let a = self.w(&i.operands[1], ty)?;
        let b = if two { self.w(&i.operands[2], ty)? } else { a };
        self.narrow(&i.operands[0], bits)?;
        let d = self.dest_w(&i.operands[0])?;
        self.emit(Op::Rare { f, a, b, c: a, d })?;
        Ok(true)
    }

    fn grow(&mut self, i: &Instruction<'a>, f: Rare, bits: u32) -> Result<bool> {
        self.arity(i, 2)?;
        self.narrow(&i.operands[1], bits)?;
        let a = self.w(&i.operands[1], Ty::B16)?;
        let d = self.dest_w(&i.operands[0])?;
        self.emit(Op::Rare {
            f,
            a,
            b: a,
            c: a,
            d,
        })?;
        Ok(true)
    }

    /// Refuses a register that has not just as many bits.
    fn narrow(&mut self, operand: &Operand<'a>, bits: u32) -> Result<()> {
        match self.declared(operand)? {
            Some((_, ty)) if ty.bits() == bits => Ok(()),
            _ => Err(self.error(format!("a register of {bits} bits is needed"))),
        }
    }

    /// `mov` between a register and the bytes it consists of.
    pub(super) fn move_bytes(
        &mut self,
        bytes: &[Operand<'a>],
        whole: &Operand<'a>,
        (ty, pack): (Ty, bool),
    ) -> Result<()> {
        for byte in bytes {
            match byte {
                Operand::Discard if !pack => {}
                Operand::Value(_) if pack => {}
                register => self.narrow(register, 8)?,
            }
        }
        if pack {
            let mut value = None;
            for byte in bytes.iter().rev() {
                let (a, low) = (self.w(byte, Ty::B8)?, self.temp_w()?);
                self.emit(Op::UnW {
                    f: UnW::Zext8,
                    a,
                    d: low,
                })?;
                value = Some(match value {
                    None => low,
                    Some(upper) => self.above(upper, 8, low)?,
                });
            }
            let d = self.dest_w(whole)?;
            return match value {
                Some(a) => self.emit(Op::MovW { a, d }),
                None => Err(self.error("operands are missing")),
            };
        }
        let a = self.w(whole, ty)?;
        let copy = self.temp_w()?;
        self.emit(Op::MovW { a, d: copy })?;
        for (byte, shift) in bytes.iter().zip((0..).step_by(8)) {
            if *byte == Operand::Discard {
                continue;
            }
            let (by, t, d) = (self.constant_w(shift)?, self.temp_w()?, self.dest_w(byte)?);
            self.bin_w(BinW::ShrU, copy, by, t)?;
            self.emit(Op::UnW {
                f: UnW::Zext8,
                a: t,
                d,
            })?;
        }
        Ok(())
    }
}
