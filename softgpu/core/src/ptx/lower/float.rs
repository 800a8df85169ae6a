//! Floating-point arithmetic.
#![forbid(unsafe_code)]

use super::super::ast::Instruction;
use super::super::ir::*;
use super::super::types::Ty;
use super::Result;
use super::builder::Builder;

/// What an instruction must say of how its result is rounded.
#[derive(PartialEq, Eq)]
enum Need {
    Nothing,
    /// A rounding, or that an approximation will do.
    Rounding,
    Approximation,
}

/// The modifiers that an instruction may have for operands of a type, and what it must have.
fn modifiers(opcode: &str, ty: Ty) -> Option<(&'static [&'static str], Need)> {
    use Need::{Approximation, Nothing, Rounding};
    const EXACT: &[&str] = &[".rn", ".rz", ".rm", ".rp"];
    const FLUSHED: &[&str] = &[".rn", ".rz", ".rm", ".rp", ".ftz"];
    const SINGLE: &[&str] = &[".rn", ".rz", ".rm", ".rp", ".ftz", ".sat"];
    const EITHER: &[&str] = &[".rn", ".rz", ".rm", ".rp", ".ftz", ".approx"];
    const QUOTIENT: &[&str] = &[".rn", ".rz", ".rm", ".rp", ".ftz", ".approx", ".full"];
    let half = matches!(ty, Ty::F16 | Ty::F16x2);
    let brain = matches!(ty, Ty::Bf16 | Ty::Bf16x2);
    Some(match (opcode, ty) {
        ("add" | "sub" | "mul", Ty::F32) => (SINGLE, Nothing),
        ("add" | "sub" | "mul", Ty::F64) => (EXACT, Nothing),
        ("add" | "sub" | "mul", Ty::F32x2) => (FLUSHED, Nothing),
        ("add" | "sub" | "mul", _) if half => (&[".rn", ".ftz", ".sat"], Nothing),
        ("add" | "sub" | "mul", _) if brain => (&[".rn"], Nothing),
        ("fma" | "mad", Ty::F32) => (SINGLE, Rounding),
        ("fma" | "mad", Ty::F64) => (EXACT, Rounding),
        ("fma", Ty::F32x2) => (FLUSHED, Rounding),
        ("fma", _) if half => (&[".rn", ".ftz", ".sat", ".relu"], Rounding),
        ("fma", _) if brain => (&[".rn", ".relu"], Rounding),
        ("div", Ty::F32) => (QUOTIENT, Rounding),
        ("rcp" | "sqrt", Ty::F32) | ("rcp", Ty::F64) => (EITHER, Rounding),
        ("div" | "sqrt", Ty::F64) => (EXACT, Rounding),
        ("rsqrt", Ty::F32 | Ty::F64) | ("sin" | "cos" | "lg2" | "ex2", Ty::F32) => {
            (&[".approx", ".ftz"], Approximation)
        }
        ("ex2", _) if half => (&[".approx"], Approximation),
        ("ex2", _) if brain => (&[".approx", ".ftz"], Approximation),
        ("tanh", Ty::F32) => (&[".approx"], Approximation),
        ("tanh", _) if half || brain => (&[".approx"], Approximation),
        ("min" | "max", Ty::F64) | ("abs" | "neg", Ty::F64) => (&[], Nothing),
        ("min" | "max", _) if brain => (&[".NaN", ".xorsign", ".abs"], Nothing),
        ("min" | "max", _) if half || ty == Ty::F32 => {
            (&[".ftz", ".NaN", ".xorsign", ".abs"], Nothing)
        }
        ("abs" | "neg", _) if brain => (&[], Nothing),
        ("abs" | "neg", _) if half || ty == Ty::F32 => (&[".ftz"], Nothing),
        _ => return None,
    })
}

impl<'a> Builder<'_, 'a> {
    pub(super) fn float(&mut self, i: &Instruction<'a>) -> Result<bool> {
        match i.opcode {
            "add" | "sub" | "mul" | "fma" | "mad" | "div" | "min" | "max" | "sqrt" | "rcp"
            | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "abs" | "neg" => {}
            "copysign" => {
                self.arity(i, 3)?;
                let ty = self.ty(i)?;
                // The first operand gives the sign, the second the magnitude.
                if ty == Ty::F64 {
                    let (b, a) = (self.d(&i.operands[1], ty)?, self.d(&i.operands[2], ty)?);
                    let d = self.dest_d(&i.operands[0])?;
                    self.emit(Op::BinD {
                        f: BinD::CopySign,
                        a,
                        b,
                        d,
                    })?;
                } else {
                    let (b, a) = (self.w(&i.operands[1], ty)?, self.w(&i.operands[2], ty)?);
                    let d = self.dest_w(&i.operands[0])?;
                    self.emit(Op::BinW {
                        f: BinW::CopySign,
                        a,
                        b,
                        d,
                    })?;
                }
                return Ok(true);
            }
            "testp" => {
                self.arity(i, 2)?;
                let f = match i.modifiers.first().copied() {
                    Some(".finite") => ClassTest::Finite,
                    Some(".infinite") => ClassTest::Infinite,
                    Some(".number") => ClassTest::Number,
                    Some(".notanumber") => ClassTest::NotANumber,
                    Some(".normal") => ClassTest::Normal,
                    Some(".subnormal") => ClassTest::Subnormal,
                    _ => return Err(self.error("test is not supported")),
                };
                let ty = self.ty(i)?;
                let float = ty
                    .float()
                    .ok_or_else(|| self.error("a floating-point type is needed"))?;
                let (a, p) = (self.any(&i.operands[1], ty)?, self.dest_p(&i.operands[0])?);
                self.emit(Op::Class { f, ty: float, a, p })?;
                return Ok(true);
            }
            _ => return Ok(false),
        }
        let ty = self.ty(i)?;
        let Some((allowed, need)) = modifiers(i.opcode, ty) else {
            return Err(self.error("type is not supported"));
        };
        let float = ty.float().unwrap_or(FloatType::F32);
        if i.modifiers
            .iter()
            .filter(|m| Ty::parse(m).is_some())
            .count()
            > 1
        {
            return Err(self.error("mixed types are not supported"));
        }
        self.only(i, allowed)?;
        let approximate = self.has(i, ".approx") || self.has(i, ".full");
        let rounding = self.rounding(i);
        match need {
            Need::Rounding if rounding.is_none() && !approximate => {
                return Err(self.error("a rounding modifier is needed"));
            }
            Need::Approximation if !approximate => {
                return Err(self.error("modifier .approx is needed"));
            }
            _ => {}
        }
        let crossed = self.has(i, ".xorsign");
        if crossed != self.has(i, ".abs") {
            return Err(self.error("modifiers .xorsign and .abs go together"));
        }
        let round = rounding.unwrap_or(Round::Nearest);
        let spec = FloatSpec {
            f: FloatOp::Add,
            ty: float,
            packed: ty.is_packed(),
            round,
            ftz: self.has(i, ".ftz"),
            sat: self.has(i, ".sat"),
            relu: self.has(i, ".relu"),
            crossed,
        };
        match i.opcode {
            "abs" | "neg" => self.sign(i, ty, spec)?,
            "sin" | "cos" | "lg2" | "rsqrt" => self.approximate(i, ty, spec)?,
            "ex2" | "tanh" | "sqrt" | "rcp"
                if float == FloatType::F32
                    && (self.has(i, ".approx") || round == Round::Nearest) =>
            {
                self.approximate(i, ty, spec)?;
            }
            "sqrt" | "rcp" if float == FloatType::F64 && round == Round::Nearest => {
                self.approximate(i, ty, spec)?
            }
            _ => self.float_operation(i, ty, spec)?,
        }
        Ok(true)
    }

    pub(super) fn rounding(&self, i: &Instruction<'a>) -> Option<Round> {
        i.modifiers.iter().find_map(|modifier| match *modifier {
            ".rn" | ".rni" => Some(Round::Nearest),
            ".rna" => Some(Round::NearestAway),
            ".rz" | ".rzi" => Some(Round::Zero),
            ".rm" | ".rmi" => Some(Round::Down),
            ".rp" | ".rpi" => Some(Round::Up),
            _ => None,
        })
    }

    fn sign(&mut self, i: &Instruction<'a>, ty: Ty, spec: FloatSpec) -> Result<()> {
        self.arity(i, 2)?;
        let abs = i.opcode == "abs";
        if ty == Ty::F64 {
            let (a, d) = (self.d(&i.operands[1], ty)?, self.dest_d(&i.operands[0])?);
            return self.emit(Op::UnD {
                f: if abs { UnD::AbsF } else { UnD::NegF },
                a,
                d,
            });
        }
        let (mut a, d) = (self.w(&i.operands[1], ty)?, self.dest_w(&i.operands[0])?);
        let f = match (ty, abs) {
            (Ty::F32, true) => UnW::AbsF,
            (Ty::F32, false) => UnW::NegF,
            (_, true) if spec.packed => UnW::AbsHx2,
            (_, false) if spec.packed => UnW::NegHx2,
            (_, true) => UnW::AbsH,
            (_, false) => UnW::NegH,
        };
        if spec.ftz {
            a = self.flushed(a, ty)?;
        }
        self.emit(Op::UnW { f, a, d })
    }

    /// A value of f32, f16 or f16x2 with zeros in place of subnormal numbers.
    pub(super) fn flushed(&mut self, a: W, ty: Ty) -> Result<W> {
        let d = self.temp_w()?;
        let f = if ty == Ty::F32 {
            UnW::FlushF
        } else {
            UnW::FlushHx2
        };
        self.emit(Op::UnW { f, a, d })?;
        Ok(d)
    }

    /// Unary functions of f32 and f64.
    fn approximate(&mut self, i: &Instruction<'a>, ty: Ty, spec: FloatSpec) -> Result<()> {
        self.arity(i, 2)?;
        if ty == Ty::F64 {
            let approximate = self.has(i, ".approx");
            let f = match i.opcode {
                "sqrt" => UnD::SqrtF,
                "rcp" if approximate => UnD::RcpApproxF,
                "rcp" => UnD::RcpF,
                "rsqrt" if approximate => UnD::RsqrtApproxF,
                _ => return Err(self.error("type is not supported")),
            };
            let (a, d) = (self.d(&i.operands[1], ty)?, self.dest_d(&i.operands[0])?);
            return self.emit(Op::UnD { f, a, d });
        }
        if ty != Ty::F32 || spec.sat {
            return Err(self.error("type or modifier is not supported"));
        }
        let f = match i.opcode {
            "sin" => UnW::Sin,
            "cos" => UnW::Cos,
            "lg2" => UnW::Lg2,
            "ex2" => UnW::Ex2,
            "tanh" => UnW::Tanh,
            "sqrt" => UnW::SqrtF,
            "rcp" => UnW::RcpF,
            _ => UnW::RsqrtF,
        };
        let (mut a, d) = (self.w(&i.operands[1], ty)?, self.dest_w(&i.operands[0])?);
        if !spec.ftz {
            return self.emit(Op::UnW { f, a, d });
        }
        a = self.flushed(a, ty)?;
        let t = self.temp_w()?;
        self.emit(Op::UnW { f, a, d: t })?;
        self.emit(Op::UnW {
            f: UnW::FlushF,
            a: t,
            d,
        })
    }

    fn float_operation(&mut self, i: &Instruction<'a>, ty: Ty, mut spec: FloatSpec) -> Result<()> {
        let nan = self.has(i, ".NaN");
        spec.f = match i.opcode {
            "add" => FloatOp::Add,
            "sub" => FloatOp::Sub,
            "mul" => FloatOp::Mul,
            "fma" | "mad" => FloatOp::Fma,
            "div" => FloatOp::Div,
            "min" if nan => FloatOp::MinNan,
            "max" if nan => FloatOp::MaxNan,
            "min" => FloatOp::Min,
            "max" => FloatOp::Max,
            "sqrt" => FloatOp::Sqrt,
            "rcp" => FloatOp::Rcp,
            "tanh" => FloatOp::Tanh,
            _ => FloatOp::Ex2,
        };
        let count = match spec.f {
            FloatOp::Fma => 4,
            FloatOp::Sqrt | FloatOp::Rcp | FloatOp::Tanh | FloatOp::Ex2 => 2,
            _ => 3,
        };
        self.arity(i, count)?;
        let mut sources = [self.any(&i.operands[1], ty)?; 3];
        for (source, operand) in sources[1..].iter_mut().zip(&i.operands[2..]) {
            *source = self.any(operand, ty)?;
        }
        let d = self.dest(&i.operands[0], ty)?;
        if ty == Ty::F32x2 {
            return self.float_pair(spec, sources, d);
        }
        self.emit_float(spec, ty, sources, d)
    }

    /// Two f32 operations on the halves of 64-bit registers.
    fn float_pair(&mut self, spec: FloatSpec, sources: [AnyReg; 3], d: AnyReg) -> Result<()> {
        let (mut low, mut high) = (sources, sources);
        for ((source, low), high) in sources.iter().zip(&mut low).zip(&mut high) {
            let AnyReg::D(a) = *source else {
                return Err(self.error("a 64-bit operand is needed"));
            };
            let (lo, hi) = (self.temp_w()?, self.temp_w()?);
            self.emit(Op::UnpackD {
                a,
                lo: Some(lo),
                hi: Some(hi),
            })?;
            (*low, *high) = (AnyReg::W(lo), AnyReg::W(hi));
        }
        let (lo, hi) = (self.temp_w()?, self.temp_w()?);
        self.emit_float(spec, Ty::F32, low, AnyReg::W(lo))?;
        self.emit_float(spec, Ty::F32, high, AnyReg::W(hi))?;
        let AnyReg::D(d) = d else {
            return Err(self.error("a 64-bit destination is needed"));
        };
        self.emit(Op::PackD { lo, hi, d })
    }

    fn emit_float(
        &mut self,
        spec: FloatSpec,
        ty: Ty,
        sources: [AnyReg; 3],
        d: AnyReg,
    ) -> Result<()> {
        let plain = spec.round == Round::Nearest && !spec.relu && !spec.crossed;
        match (sources, d) {
            ([AnyReg::W(a), AnyReg::W(b), AnyReg::W(c)], AnyReg::W(d))
                if ty == Ty::F32 && plain =>
            {
                let ftz = spec.ftz;
                let t = if spec.sat { self.temp_w()? } else { d };
                match spec.f {
                    FloatOp::Fma => {
                        let f = if ftz { TernW::FmaFtz } else { TernW::FmaF };
                        self.emit(Op::TernW { f, a, b, c, d: t })?;
                    }
                    FloatOp::Div
                    | FloatOp::Min
                    | FloatOp::Max
                    | FloatOp::MinNan
                    | FloatOp::MaxNan
                        if !ftz =>
                    {
                        let f = match spec.f {
                            FloatOp::Div => BinW::DivF,
                            FloatOp::Min => BinW::MinF,
                            FloatOp::Max => BinW::MaxF,
                            FloatOp::MinNan => BinW::MinNanF,
                            _ => BinW::MaxNanF,
                        };
                        self.emit(Op::BinW { f, a, b, d: t })?;
                    }
                    FloatOp::Add | FloatOp::Sub | FloatOp::Mul => {
                        let f = match (spec.f, ftz) {
                            (FloatOp::Add, false) => BinW::AddF,
                            (FloatOp::Add, true) => BinW::AddFtz,
                            (FloatOp::Sub, false) => BinW::SubF,
                            (FloatOp::Sub, true) => BinW::SubFtz,
                            (_, false) => BinW::MulF,
                            (_, true) => BinW::MulFtz,
                        };
                        self.emit(Op::BinW { f, a, b, d: t })?;
                    }
                    _ => {
                        let [a, b, c] = sources;
                        return self.emit(Op::Float {
                            spec,
                            a,
                            b,
                            c,
                            d: AnyReg::W(d),
                        });
                    }
                }
                if spec.sat {
                    self.emit(Op::UnW {
                        f: UnW::SatF,
                        a: t,
                        d,
                    })?;
                }
                Ok(())
            }
            ([AnyReg::D(a), AnyReg::D(b), AnyReg::D(c)], AnyReg::D(d)) if plain && !spec.sat => {
                let f = match spec.f {
                    FloatOp::Fma => {
                        return self.emit(Op::TernD {
                            f: TernD::FmaF,
                            a,
                            b,
                            c,
                            d,
                        });
                    }
                    FloatOp::Add => BinD::AddF,
                    FloatOp::Sub => BinD::SubF,
                    FloatOp::Mul => BinD::MulF,
                    FloatOp::Div => BinD::DivF,
                    FloatOp::Min => BinD::MinF,
                    FloatOp::Max => BinD::MaxF,
                    _ => return Err(self.error("type is not supported")),
                };
                self.emit(Op::BinD { f, a, b, d })
            }
            _ if ty == Ty::F64 && (spec.sat || matches!(spec.f, FloatOp::Tanh | FloatOp::Ex2)) => {
                Err(self.error("type is not supported"))
            }
            ([a, b, c], d) => self.emit(Op::Float { spec, a, b, c, d }),
        }
    }
}
