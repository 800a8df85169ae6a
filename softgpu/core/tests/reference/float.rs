//! Floating-point instructions, by `rustc_apfloat` and, for approximations, in double precision.

use rustc_apfloat::ieee::{BFloat, Double, Float8E4M3FN, Float8E5M2, Half as F16, Quad, Single};
use rustc_apfloat::{Float, FloatConvert, Round};

use super::{Fmt, Instruction, Machine, Ty, Value, mask};

impl Fmt {
    pub fn bits(self) -> u32 {
        match self {
            Self::E4m3 | Self::E5m2 => 8,
            Self::F16 | Self::Bf16 => 16,
            Self::Tf32 | Self::F32 => 32,
            Self::F64 => 64,
        }
    }

    /// Stored bits of the significand.
    pub fn fraction(self) -> u32 {
        match self {
            Self::E5m2 => 2,
            Self::E4m3 => 3,
            Self::Bf16 => 7,
            Self::F16 | Self::Tf32 => 10,
            Self::F32 => 23,
            Self::F64 => 52,
        }
    }

    pub fn sign(self) -> u128 {
        1 << (self.bits() - 1)
    }

    fn one(self) -> u128 {
        match self {
            Self::F16 => 0x3c00,
            Self::Bf16 => 0x3f80,
            Self::F64 => 0x3ff0_0000_0000_0000,
            _ => 0x3f80_0000,
        }
    }

    /// The smallest normal number.
    fn smallest_normal(self) -> f64 {
        match self {
            Self::F16 => 2f64.powi(-14),
            Self::F64 => f64::MIN_POSITIVE,
            _ => 2f64.powi(-126),
        }
    }
}

/// Runs `$body` with `$T` as the format's type.
macro_rules! with {
    ($format:expr, $T:ident => $body:expr) => {
        match $format {
            Fmt::F16 => {
                type $T = F16;
                $body
            }
            Fmt::Bf16 => {
                type $T = BFloat;
                $body
            }
            Fmt::F64 => {
                type $T = Double;
                $body
            }
            Fmt::E4m3 => {
                type $T = Float8E4M3FN;
                $body
            }
            Fmt::E5m2 => {
                type $T = Float8E5M2;
                $body
            }
            Fmt::F32 | Fmt::Tf32 => {
                type $T = Single;
                $body
            }
        }
    };
}
pub(super) use with;

fn cut(format: Fmt, bits: u128) -> u128 {
    bits & mask(format.bits())
}

pub fn is_nan(format: Fmt, bits: u128) -> bool {
    with!(format, T => T::from_bits(cut(format, bits)).is_nan())
}

pub fn is_subnormal(format: Fmt, bits: u128) -> bool {
    with!(format, T => T::from_bits(cut(format, bits)).is_denormal())
}

/// The value as a double, exactly.
pub fn to_f64(format: Fmt, bits: u128) -> f64 {
    let mut loses = false;
    let wide: Double = match format {
        Fmt::F16 => F16::from_bits(cut(format, bits)).convert(&mut loses).value,
        Fmt::Bf16 => {
            BFloat::from_bits(cut(format, bits))
                .convert(&mut loses)
                .value
        }
        Fmt::F64 => return f64::from_bits(bits as u64),
        Fmt::E4m3 => {
            Float8E4M3FN::from_bits(cut(format, bits))
                .convert(&mut loses)
                .value
        }
        Fmt::E5m2 => {
            Float8E5M2::from_bits(cut(format, bits))
                .convert(&mut loses)
                .value
        }
        Fmt::F32 | Fmt::Tf32 => {
            Single::from_bits(cut(format, bits))
                .convert(&mut loses)
                .value
        }
    };
    f64::from_bits(wide.to_bits() as u64)
}

/// The rounding that an instruction's modifiers name.
pub fn rounding(i: &Instruction) -> Option<Round> {
    i.modifiers
        .iter()
        .find_map(|modifier| match modifier.as_str() {
            "rn" | "rni" => Some(Round::NearestTiesToEven),
            "rna" => Some(Round::NearestTiesToAway),
            "rz" | "rzi" => Some(Round::TowardZero),
            "rm" | "rmi" => Some(Round::TowardNegative),
            "rp" | "rpi" => Some(Round::TowardPositive),
            _ => None,
        })
}

pub fn flush(format: Fmt, bits: u128) -> u128 {
    if is_subnormal(format, bits) {
        bits & format.sign()
    } else {
        bits
    }
}

/// A result with the format's one NaN; of f64, PTX leaves the payload open.
pub fn canonical(format: Fmt, bits: u128) -> Value {
    match format {
        _ if !is_nan(format, bits) => Value::Bits(bits),
        Fmt::F64 => Value::Nan(format),
        Fmt::E4m3 | Fmt::E5m2 => Value::Bits(0x7f),
        _ => Value::Bits(mask(format.bits() - 1)),
    }
}

/// `.sat` and `.relu` of a result.
pub fn finish(i: &Instruction, format: Fmt, bits: u128) -> Value {
    let nan = is_nan(format, bits);
    let value = to_f64(format, bits);
    let bits = if i.has("sat") && (nan || value <= 0.0) || i.has("relu") && value <= 0.0 {
        0
    } else if i.has("sat") && value >= 1.0 {
        format.one()
    } else {
        bits
    };
    canonical(format, bits)
}

impl Machine {
    pub(super) fn float(&mut self, i: &Instruction, s: &[u128]) -> bool {
        let value = match i.ty() {
            Ty::F(format) => one(i, format, s),
            Ty::Twice(Ty::F(format)) => pair(i, *format, s),
            _ => return false,
        };
        let Some(value) = value else { return false };
        self.write(&i.operands[0], value);
        true
    }
}

fn pair(i: &Instruction, format: Fmt, s: &[u128]) -> Option<Value> {
    let width = format.bits();
    let part = |place: u32| {
        let s: Vec<u128> = s
            .iter()
            .map(|bits| cut(format, bits >> (place * width)))
            .collect();
        one(i, format, &s)
    };
    let (low, high) = (part(0)?, part(1)?);
    match (low, high) {
        (Value::Bits(low), Value::Bits(high)) => Some(Value::Bits(low | high << width)),
        _ => Some(Value::Halves(low.half(), high.half())),
    }
}

fn one(i: &Instruction, format: Fmt, s: &[u128]) -> Option<Value> {
    let ftz = i.has("ftz") && matches!(format, Fmt::F32 | Fmt::F16);
    let s: Vec<u128> = s
        .iter()
        .map(|&bits| {
            if ftz {
                flush(format, cut(format, bits))
            } else {
                cut(format, bits)
            }
        })
        .collect();
    let round = rounding(i).unwrap_or(Round::NearestTiesToEven);
    let sign = format.sign();
    let flushed = |bits| if ftz { flush(format, bits) } else { bits };
    let exact = |bits: u128| match finish(i, format, bits) {
        Value::Bits(bits) => Some(Value::Bits(flushed(bits))),
        other => Some(other),
    };
    match i.opcode.as_str() {
        "abs" | "neg" if is_nan(format, s[0]) => Some(Value::Nan(format)),
        "abs" => exact(s[0] & !sign),
        "neg" => exact(s[0] ^ sign),
        "copysign" => Some(Value::Bits(s[1] & !sign | s[0] & sign)),
        "min" | "max" => exact(extreme(i, format, &s)),
        "div" if !i.has("approx") && !i.has("full") => exact(
            with!(format, T => T::from_bits(s[0]).div_r(T::from_bits(s[1]), round).value.to_bits()),
        ),
        "rcp" if !i.has("approx") => exact(
            with!(format, T => T::from_bits(format.one()).div_r(T::from_bits(s[0]), round).value.to_bits()),
        ),
        "sqrt" if !i.has("approx") => exact(root(format, s[0], round)),
        "add" => exact(
            with!(format, T => T::from_bits(s[0]).add_r(T::from_bits(s[1]), round).value.to_bits()),
        ),
        "sub" => exact(
            with!(format, T => T::from_bits(s[0]).sub_r(T::from_bits(s[1]), round).value.to_bits()),
        ),
        "mul" => exact(
            with!(format, T => T::from_bits(s[0]).mul_r(T::from_bits(s[1]), round).value.to_bits()),
        ),
        "fma" | "mad" => exact(with!(format, T => {
            let [a, b, c] = [s[0], s[1], s[2]].map(T::from_bits);
            a.mul_add_r(b, c, round).value.to_bits()
        })),
        _ => approximation(i, format, &s),
    }
}

fn extreme(i: &Instruction, format: Fmt, s: &[u128]) -> u128 {
    let crossed = i.has("xorsign");
    let sign = format.sign();
    let [a, b] = [s[0], s[1]].map(|bits| if crossed { bits & !sign } else { bits });
    let result = match (is_nan(format, a), is_nan(format, b)) {
        (true, true) => a,
        (true, false) => {
            if i.has("NaN") {
                a
            } else {
                b
            }
        }
        (false, true) => {
            if i.has("NaN") {
                b
            } else {
                a
            }
        }
        _ => {
            // Magnitude with sign is an order on the bit patterns, in which -0 is less than +0.
            let key = |bits: u128| {
                if bits & sign != 0 {
                    -((bits & !sign) as i128) - 1
                } else {
                    bits as i128
                }
            };
            if (key(a) < key(b)) == (i.opcode == "min") {
                a
            } else {
                b
            }
        }
    };
    if crossed && !is_nan(format, result) {
        result | (s[0] ^ s[1]) & sign
    } else {
        result
    }
}

/// A square root, rounded by comparing squares exactly.
fn root(format: Fmt, bits: u128, round: Round) -> u128 {
    let x = to_f64(format, bits);
    if x == 0.0 || x.is_nan() || x == f64::INFINITY {
        return bits;
    }
    if x < 0.0 {
        return mask(format.bits() - 1);
    }
    let quad = |bits: u128| -> Quad {
        let mut loses = false;
        if format == Fmt::F64 {
            Double::from_bits(bits).convert(&mut loses).value
        } else {
            Single::from_bits(bits).convert(&mut loses).value
        }
    };
    let target = quad(bits);
    let square = |root: Quad| (root * root).value;
    // The largest number whose square is not above the target.
    let mut below = match format {
        Fmt::F64 => u128::from(x.sqrt().to_bits()),
        _ => u128::from((x.sqrt() as f32).to_bits()),
    };
    while square(quad(below)) > target {
        below -= 1;
    }
    while square(quad(below + 1)) <= target {
        below += 1;
    }
    let exact = square(quad(below)) == target;
    let middle = ((quad(below) + quad(below + 1)).value / quad_of(2)).value;
    let up = match round {
        Round::TowardPositive => true,
        Round::TowardZero | Round::TowardNegative => false,
        _ => square(middle) < target,
    };
    if exact || !up { below } else { below + 1 }
}

fn quad_of(value: i128) -> Quad {
    Quad::from_i128(value).value
}

/// The functions whose results PTX only bounds.
fn approximation(i: &Instruction, format: Fmt, s: &[u128]) -> Option<Value> {
    let x = to_f64(format, s[0]);
    let (mut absolute, mut relative) = (0.0, 0.0);
    let value = match i.opcode.as_str() {
        "div" => {
            let y = to_f64(format, s[1]);
            if i.has("approx") && y.abs() > 2f64.powi(126) && y.is_finite() {
                return Some(Value::Anything);
            }
            relative = 2f64.powi(-22);
            x / y
        }
        "rcp" => {
            relative = if format == Fmt::F64 {
                2f64.powi(-19)
            } else {
                2f64.powi(-23)
            };
            1.0 / x
        }
        "sqrt" => {
            relative = 2f64.powi(-23);
            x.sqrt()
        }
        "rsqrt" => {
            relative = if format == Fmt::F64 {
                2f64.powi(-19)
            } else {
                2f64.powf(-22.9)
            };
            1.0 / x.sqrt()
        }
        "sin" | "cos" => {
            absolute = 2f64.powf(-20.5);
            if x.abs() > 100.0 * std::f64::consts::PI && x.is_finite() {
                return Some(Value::Anything);
            }
            if i.opcode == "sin" { x.sin() } else { x.cos() }
        }
        "lg2" => {
            absolute = 2f64.powi(-22);
            relative = 2f64.powi(-22);
            x.log2()
        }
        "ex2" => {
            relative = match format {
                Fmt::F16 => 2f64.powf(-9.9),
                Fmt::Bf16 => 2f64.powi(-7),
                _ => 2f64.powi(-22),
            };
            x.exp2()
        }
        "tanh" => {
            match format {
                Fmt::F16 => absolute = 2f64.powf(-10.987),
                Fmt::Bf16 => absolute = 2f64.powi(-8),
                _ => relative = 2f64.powi(-11),
            }
            x.tanh()
        }
        _ => return None,
    };
    // Results below the normal numbers are flushed or have fewer digits; those above are infinite.
    let normal = format.smallest_normal();
    if value.abs() < 2.0 * normal && value != 0.0 {
        absolute += if i.has("ftz") {
            normal
        } else {
            normal * 2f64.powi(-(format.fraction() as i32))
        };
    }
    let largest = match format {
        Fmt::F16 => 65504.0,
        Fmt::Bf16 => 3.389_531_389_251_535_5e38,
        Fmt::F64 => f64::MAX,
        _ => f64::from(f32::MAX),
    };
    let value = if value.abs() > largest * (1.0 + 1e-12) {
        value.signum() * f64::INFINITY
    } else {
        value
    };
    Some(Value::Near {
        format,
        value,
        absolute,
        relative,
    })
}
