//! Instructions that programs seldom use, and forms of others that take several operations.
#![forbid(unsafe_code)]

use super::super::ast::{Instruction, Operand};
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;

impl<'a> Builder<'_, 'a> {
    pub(super) fn rare(&mut self, i: &Instruction<'a>) -> Result<bool> {
        let last = i.modifiers.last().and_then(|modifier| Ty::parse(modifier));
        let halves = matches!(last, Some(Ty::U16x2 | Ty::S16x2));
        match i.opcode {
            "add" | "min" | "max" if halves => self.halves(i)?,
            "min" | "max" if last == Some(Ty::S32) && self.has(i, ".relu") => {
                self.only(i, &[".relu"])?;
                self.arity(i, 3)?;
                let f = if i.opcode == "min" {
                    BinW::MinS
                } else {
                    BinW::MaxS
                };
                let (a, b) = (
                    self.w(&i.operands[1], Ty::S32)?,
                    self.w(&i.operands[2], Ty::S32)?,
                );
                let (d, t, zero) = (
                    self.dest_w(&i.operands[0])?,
                    self.temp_w()?,
                    self.constant_w(0)?,
                );
                self.emit(Op::BinW { f, a, b, d: t })?;
                self.bin_w(BinW::MaxS, t, zero, d)?;
            }
            "mad24" if self.has(i, ".sat") => {
                self.arity(i, 4)?;
                if !self.has(i, ".hi") || last != Some(Ty::S32) {
                    return Err(self.error("modifier .sat is not supported for this type"));
                }
                self.only(i, &[".hi", ".sat"])?;
                let [a, b, c] = self.three_words(i)?;
                let (d, product) = (self.dest_w(&i.operands[0])?, self.temp_w()?);
                self.bin_w(BinW::Mul24HiS, a, b, product)?;
                self.bin_w(BinW::AddSatS, product, c, d)?;
            }
            "lop3" if self.has(i, ".or") || self.has(i, ".and") => self.lop3_predicate(i)?,
            "fns" => {
                self.arity(i, 4)?;
                self.only(i, &[])?;
                if last != Some(Ty::B32) {
                    return Err(self.error("type is not supported"));
                }
                let [a, b, c] = self.three_words(i)?;
                let (f, d) = (Rare::FindNth, self.dest_w(&i.operands[0])?);
                self.emit(Op::Rare { f, a, b, c, d })?;
            }
            "cvt" if self.has(i, ".pack") => self.pack_integers(i)?,
            "cvt" => return self.small_floats(i),
            _ => return self.video(i),
        }
        Ok(true)
    }

    pub(super) fn bin_w(&mut self, f: BinW, a: W, b: W, d: W) -> Result<()> {
        self.emit(Op::BinW { f, a, b, d })
    }

    fn three_words(&mut self, i: &Instruction<'a>) -> Result<[W; 3]> {
        Ok([
            self.w(&i.operands[1], Ty::B32)?,
            self.w(&i.operands[2], Ty::B32)?,
            self.w(&i.operands[3], Ty::B32)?,
        ])
    }

    /// Two 16-bit integers at a time.
    fn halves(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 3)?;
        let signed = self.ty(i)? == Ty::S16x2;
        let relu = self.has(i, ".relu");
        let allowed: &[&str] = match i.opcode {
            "min" | "max" if signed => &[".relu"],
            _ => &[],
        };
        self.only(i, allowed)?;
        let f = match (i.opcode, signed) {
            ("add", _) => HalvesOp::Add,
            ("min", true) => HalvesOp::MinS,
            ("min", false) => HalvesOp::MinU,
            (_, true) => HalvesOp::MaxS,
            (_, false) => HalvesOp::MaxU,
        };
        let (a, b) = (
            self.w(&i.operands[1], Ty::B32)?,
            self.w(&i.operands[2], Ty::B32)?,
        );
        let d = self.dest_w(&i.operands[0])?;
        let f = Rare::Halves(f);
        if !relu {
            return self.emit(Op::Rare { f, a, b, c: a, d });
        }
        let (t, zero) = (self.temp_w()?, self.constant_w(0)?);
        self.emit(Op::Rare {
            f,
            a,
            b,
            c: a,
            d: t,
        })?;
        self.emit(Op::Rare {
            f: Rare::Halves(HalvesOp::MaxS),
            a: t,
            b: zero,
            c: zero,
            d,
        })
    }

    /// `lop3` that also says whether any bit is set.
    fn lop3_predicate(&mut self, i: &Instruction<'a>) -> Result<()> {
        self.arity(i, 6)?;
        self.only(i, &[".or", ".and"])?;
        let Operand::Pair(d, p) = &i.operands[0] else {
            return Err(self.error("a predicate destination is needed"));
        };
        let table = self.immediate(&i.operands[4])?;
        let table = u8::try_from(table).map_err(|_| self.error("lop3 table must be a byte"))?;
        let [a, b, c] = self.three_words(i)?;
        let q = self.p(&i.operands[5])?;
        let (t, zero, any) = (self.temp_w()?, self.constant_w(0)?, self.temp_p()?);
        self.emit(Op::Lop3 {
            table,
            a,
            b,
            c,
            d: t,
        })?;
        self.emit(Op::CmpW {
            f: CmpW::Ne,
            a: t,
            b: zero,
            p: any,
        })?;
        let (f, p) = (
            if self.has(i, ".or") {
                BoolOp::Or
            } else {
                BoolOp::And
            },
            self.dest_p(p)?,
        );
        self.emit(Op::BoolP {
            f,
            a: any,
            b: q,
            d: p,
        })?;
        if **d != Operand::Discard {
            let d = self.dest_w(d)?;
            self.emit(Op::MovW { a: t, d })?;
        }
        Ok(())
    }

    /// `cvt.pack`: clamps two integers and puts them below what a third operand holds.
    fn pack_integers(&mut self, i: &Instruction<'a>) -> Result<()> {
        let (to, three) = match i.modifiers.as_slice() {
            [".pack", ".sat", to, ".s32"] => (*to, false),
            [".pack", ".sat", to, ".s32", ".b32"] => (*to, true),
            _ => return Err(self.error("form is not supported")),
        };
        let (signed, bits) = match (to, three) {
            (".u16", false) => (false, 16),
            (".s16", false) => (true, 16),
            (".u8", true) => (false, 8),
            (".s8", true) => (true, 8),
            (".u4", true) => (false, 4),
            (".s4", true) => (true, 4),
            (".u2", true) => (false, 2),
            (".s2", true) => (true, 2),
            _ => return Err(self.error("type is not supported")),
        };
        self.arity(i, if three { 4 } else { 3 })?;
        let (min, max) = if signed {
            (u32::MAX << (bits - 1), (1 << (bits - 1)) - 1)
        } else {
            (0, (1 << bits) - 1)
        };
        let (min, max) = (self.constant_w(min)?, self.constant_w(max)?);
        let mask = self.constant_w((1 << bits) - 1)?;
        let mut packed = None;
        for operand in &i.operands[1..3] {
            let (a, t) = (self.w(operand, Ty::S32)?, self.temp_w()?);
            self.bin_w(BinW::MaxS, a, min, t)?;
            self.bin_w(BinW::MinS, t, max, t)?;
            self.bin_w(BinW::And, t, mask, t)?;
            packed = Some(match packed {
                None => t,
                Some(upper) => self.above(upper, bits, t)?,
            });
        }
        let mut value = packed.unwrap_or(mask);
        if three {
            let c = self.w(&i.operands[3], Ty::B32)?;
            value = self.above(c, 2 * bits, value)?;
        }
        let d = self.dest_w(&i.operands[0])?;
        self.emit(Op::MovW { a: value, d })
    }

    /// `upper` shifted to lie above the `bits` bits of `lower`.
    pub(super) fn above(&mut self, upper: W, bits: u32, lower: W) -> Result<W> {
        let (by, shifted, both) = (self.constant_w(bits)?, self.temp_w()?, self.temp_w()?);
        self.bin_w(BinW::Shl, upper, by, shifted)?;
        self.bin_w(BinW::Or, shifted, lower, both)?;
        Ok(both)
    }

    /// Video instructions on single values.
    fn video(&mut self, i: &Instruction<'a>) -> Result<bool> {
        let (opcode, lanes) = match i.opcode.as_bytes() {
            [b'v', .., b'2'] => (&i.opcode[..i.opcode.len() - 1], 2),
            [b'v', .., b'4'] => (&i.opcode[..i.opcode.len() - 1], 4),
            _ => (i.opcode, 1),
        };
        let set = opcode == "vset";
        let wrap = self.has(i, ".wrap");
        let f = match opcode {
            "vadd" => VideoOp::Add,
            "vsub" => VideoOp::Sub,
            "vabsdiff" => VideoOp::AbsDiff,
            "vmin" => VideoOp::Min,
            "vmax" => VideoOp::Max,
            "vshl" if lanes == 1 => VideoOp::Shl { wrap },
            "vshr" if lanes == 1 => VideoOp::Shr { wrap },
            "vset" => VideoOp::Set(match i.modifiers.get(2).copied() {
                Some(".eq") => VideoCmp::Eq,
                Some(".ne") => VideoCmp::Ne,
                Some(".lt") => VideoCmp::Lt,
                Some(".le") => VideoCmp::Le,
                Some(".gt") => VideoCmp::Gt,
                Some(".ge") => VideoCmp::Ge,
                _ => return Err(self.error("a comparison is missing")),
            }),
            _ => return Ok(false),
        };
        let signs: Vec<bool> = i
            .modifiers
            .iter()
            .map_while(|m| match *m {
                ".u32" => Some(false),
                ".s32" => Some(true),
                _ => None,
            })
            .collect();
        let (signed, of_a, of_b) = match (set, &signs[..]) {
            (true, [a, b]) => (false, *a, *b),
            (false, [d, a, b]) => (*d, *a, *b),
            _ => return Err(self.error("type is not supported")),
        };
        let shift = matches!(f, VideoOp::Shl { .. } | VideoOp::Shr { .. });
        let rest = &i.modifiers[signs.len() + usize::from(set)..];
        let mut then = VideoThen::Nothing;
        for modifier in rest {
            then = match *modifier {
                ".sat" if !set => then,
                ".clamp" | ".wrap" if shift => then,
                ".add" => VideoThen::Add,
                ".min" => VideoThen::Min,
                ".max" => VideoThen::Max,
                other => return Err(self.error(format!("modifier {other} is not supported"))),
            };
        }
        if shift && wrap == self.has(i, ".clamp") {
            return Err(self.error("either .clamp or .wrap is needed"));
        }
        if lanes > 1 {
            return self.video_lanes(i, f, lanes, (signed, of_a, of_b), then);
        }
        let (destination, to) = self.part(i.operands.first(), signed)?;
        if to.bits < 32 {
            if then != VideoThen::Nothing {
                return Err(self.error("form is not supported"));
            }
            then = VideoThen::Merge(to);
        }
        self.arity(i, if then == VideoThen::Nothing { 3 } else { 4 })?;
        let (a, part_a) = self.part(i.operands.get(1), of_a)?;
        let (b, part_b) = self.part(i.operands.get(2), of_b)?;
        let (a, b) = (self.w(&a, Ty::B32)?, self.w(&b, Ty::B32)?);
        let c = match i.operands.get(3) {
            Some(operand) => self.w(operand, Ty::B32)?,
            None => a,
        };
        let d = self.dest_w(&destination)?;
        let video = Video {
            f,
            lanes,
            a: part_a,
            b: part_b,
            signed,
            sat: self.has(i, ".sat"),
            then,
        };
        let f = Rare::Video(video);
        self.emit(Op::Rare { f, a, b, c, d })?;
        Ok(true)
    }

    /// A video instruction on all bytes or halves.
    fn video_lanes(
        &mut self,
        i: &Instruction<'a>,
        f: VideoOp,
        lanes: u8,
        (signed, of_a, of_b): (bool, bool, bool),
        then: VideoThen,
    ) -> Result<bool> {
        self.arity(i, 4)?;
        let sums = matches!(f, VideoOp::AbsDiff | VideoOp::Set(_));
        match then {
            VideoThen::Nothing => {}
            VideoThen::Add if sums => {}
            _ => return Err(self.error("form is not supported")),
        }
        let part = |signed| Part {
            start: 0,
            bits: 32 / lanes,
            signed,
        };
        for operand in &i.operands {
            if let Operand::Name(name) = operand
                && name.contains('.')
            {
                return Err(self.error("sub-word masks and selectors are not supported"));
            }
        }
        let [a, b, c] = self.three_words(i)?;
        let d = self.dest_w(&i.operands[0])?;
        let f = Rare::Video(Video {
            f,
            lanes,
            a: part(of_a),
            b: part(of_b),
            signed,
            sat: self.has(i, ".sat"),
            then,
        });
        self.emit(Op::Rare { f, a, b, c, d })?;
        Ok(true)
    }

    /// A register and the part of it that a suffix selects.
    fn part(&self, operand: Option<&Operand<'a>>, signed: bool) -> Result<(Operand<'a>, Part)> {
        let Some(operand) = operand else {
            return Err(self.error("operands are missing"));
        };
        let whole = Part {
            start: 0,
            bits: 32,
            signed,
        };
        let Operand::Name(name) = operand else {
            return Ok((operand.clone(), whole));
        };
        let Some((register, suffix)) = name.split_once('.') else {
            return Ok((operand.clone(), whole));
        };
        let (start, bits) = match suffix {
            "b0" => (0, 8),
            "b1" => (8, 8),
            "b2" => (16, 8),
            "b3" => (24, 8),
            "h0" => (0, 16),
            "h1" => (16, 16),
            _ => return Err(self.error(format!("selector .{suffix} is not supported"))),
        };
        let part = Part {
            start,
            bits,
            signed,
        };
        Ok((Operand::Name(register), part))
    }
}
