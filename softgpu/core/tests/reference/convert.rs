//! Conversions.

use rustc_apfloat::ieee::{BFloat, Double, Float8E4M3FN, Float8E5M2, Half as F16, Single};
use rustc_apfloat::{Float, FloatConvert, Round};

use super::float::{canonical, finish, flush, is_nan, rounding, to_f64, with};
use super::{File, Fmt, Instruction, Machine, Operand, Ty, Value, mask};

impl Machine {
    pub(super) fn convert(&mut self, i: &Instruction, s: &[u128]) -> bool {
        if i.opcode != "cvt" {
            return false;
        }
        if i.has("pack") {
            let to = &i.modifiers[2];
            let width: u32 = to[1..].parse().expect("a width");
            let ty = if to.starts_with('s') {
                Ty::S(width)
            } else {
                Ty::U(width)
            };
            let (min, max) = ty.range();
            let clamped = |bits| Ty::S(32).number(bits).clamp(min, max) as u128 & mask(width);
            let above = s.get(2).map_or(0, |bits| bits << (2 * width));
            let value = above | clamped(s[0]) << width | clamped(s[1]);
            self.write(&i.operands[0], Value::Bits(value));
            return true;
        }
        let (to, from) = (i.types[0], i.types[1]);
        let value = match (to, from) {
            (Ty::Twice(to), Ty::Twice(from)) => {
                let (Ty::F(to), Ty::F(from)) = (*to, *from) else {
                    return false;
                };
                let part = |place: u32| {
                    float(
                        i,
                        to,
                        from,
                        s[0] >> (place * from.bits()) & mask(from.bits()),
                    )
                };
                both(part(0), part(1), to.bits())
            }
            // Two operands, the first to the upper half.
            (Ty::Twice(Ty::F(to)), Ty::F(from)) => both(
                float(i, *to, from, s[1]),
                float(i, *to, from, s[0]),
                to.bits(),
            ),
            (Ty::F(to), Ty::F(from)) => float(i, to, from, s[0] & mask(from.bits())),
            (Ty::F(to), from) => {
                let round = rounding(i).unwrap_or(Round::NearestTiesToEven);
                let number = from.number(s[0]);
                let bits = with!(to, T => if number < 0 || number <= i128::MAX >> 1 {
                    T::from_i128_r(number, round).value.to_bits()
                } else {
                    T::from_u128_r(number as u128, round).value.to_bits()
                });
                finish(i, to, bits)
            }
            (to, Ty::F(from)) => integer(i, to, from, s[0]),
            (to, from) => {
                let number = from.number(s[0]);
                let (min, max) = to.range();
                Value::Bits(
                    (if i.has("sat") {
                        number.clamp(min, max)
                    } else {
                        number
                    }) as u128
                        & mask(to.bits()),
                )
            }
        };
        self.write_wide(&i.operands[0], to, value);
        true
    }

    /// A result in a register that may be wider than its type: extended as the type says.
    fn write_wide(&mut self, operand: &Operand, ty: Ty, value: Value) {
        let value = match (value, operand) {
            (Value::Bits(bits), Operand::Register(register))
                if ty.signed() && register.file != File::P =>
            {
                Value::Bits(ty.number(bits) as u128)
            }
            (value, _) => value,
        };
        self.write(operand, value);
    }
}

fn both(low: Value, high: Value, width: u32) -> Value {
    match (low, high) {
        (Value::Bits(low), Value::Bits(high)) => Value::Bits(low | high << width),
        _ => panic!("a half of a packed conversion is open"),
    }
}

fn integer(i: &Instruction, to: Ty, from: Fmt, bits: u128) -> Value {
    let bits = bits & mask(from.bits());
    let bits = if i.has("ftz") {
        flush(from, bits)
    } else {
        bits
    };
    let width = to.bits();
    if is_nan(from, bits) {
        let wide = from == Fmt::F64 || width == 64;
        return Value::Bits(if wide { 1 << (width - 1) } else { 0 });
    }
    let round = rounding(i).expect("a rounding to an integer");
    let mut exact = false;
    // Conversions of apfloat saturate, as PTX does.
    let value = with!(from, T => if to.signed() {
        T::from_bits(bits).to_i128_r(width as usize, round, &mut exact).value as u128
    } else {
        T::from_bits(bits).to_u128_r(width as usize, round, &mut exact).value
    });
    Value::Bits(value & mask(width))
}

/// From one format to another.
fn float(i: &Instruction, to: Fmt, from: Fmt, bits: u128) -> Value {
    let bits = if i.has("ftz") && from == Fmt::F32 {
        flush(from, bits)
    } else {
        bits
    };
    let round = rounding(i).unwrap_or(Round::NearestTiesToEven);
    let integral = i
        .modifiers
        .iter()
        .any(|m| matches!(m.as_str(), "rni" | "rzi" | "rmi" | "rpi"));
    if integral {
        let rounded = with!(from, T => T::from_bits(bits).round_to_integral(round).value.to_bits());
        let rounded = to_format(from, to, rounded, Round::NearestTiesToEven);
        return finished(i, to, rounded);
    }
    if to == Fmt::Tf32 {
        return tf32(i, bits, round);
    }
    if matches!(to, Fmt::E4m3 | Fmt::E5m2) {
        return eight(i, to, from, bits);
    }
    if is_nan(from, bits) {
        return if i.has("sat") {
            Value::Bits(0)
        } else {
            canonical(to, mask(to.bits() - 1))
        };
    }
    let mut result = to_format(from, to, bits, round);
    // The largest finite number in place of infinity and, for satfinite, of what rounds to it.
    if i.has("satfinite") && to_f64(to, result).is_infinite() {
        result -= 1;
    }
    finished(i, to, result)
}

/// A result that is flushed if it is a single.
fn finished(i: &Instruction, to: Fmt, bits: u128) -> Value {
    let single = i.has("ftz") && to == Fmt::F32;
    finish(i, to, if single { flush(to, bits) } else { bits })
}

fn to_format(from: Fmt, to: Fmt, bits: u128, round: Round) -> u128 {
    macro_rules! to {
        ($value:expr) => {{
            let (value, mut loses) = ($value, false);
            match to {
                Fmt::F16 => {
                    let r: F16 = value.convert_r(round, &mut loses).value;
                    r.to_bits()
                }
                Fmt::Bf16 => {
                    let r: BFloat = value.convert_r(round, &mut loses).value;
                    r.to_bits()
                }
                Fmt::F64 => {
                    let r: Double = value.convert_r(round, &mut loses).value;
                    r.to_bits()
                }
                Fmt::E4m3 => {
                    let r: Float8E4M3FN = value.convert_r(round, &mut loses).value;
                    r.to_bits()
                }
                Fmt::E5m2 => {
                    let r: Float8E5M2 = value.convert_r(round, &mut loses).value;
                    r.to_bits()
                }
                Fmt::F32 | Fmt::Tf32 => {
                    let r: Single = value.convert_r(round, &mut loses).value;
                    r.to_bits()
                }
            }
        }};
    }
    with!(from, T => to!(T::from_bits(bits)))
}

/// Eleven significant bits, found among the neighbours by distance.
fn tf32(i: &Instruction, bits: u128, round: Round) -> Value {
    if is_nan(Fmt::F32, bits) {
        return Value::Bits(0x7fff_ffff);
    }
    let below = bits & !0x1fff;
    let (rest, odd) = (bits & 0x1fff, below >> 13 & 1 == 1);
    let up = match round {
        Round::NearestTiesToAway => rest >= 0x1000,
        Round::NearestTiesToEven => rest > 0x1000 || rest == 0x1000 && odd,
        _ => false,
    };
    let finite = bits & 0x7f80_0000 != 0x7f80_0000;
    let mut result = if up && finite { below + 0x2000 } else { below };
    if i.has("satfinite") && result & 0x7fff_ffff >= 0x7f80_0000 {
        result = result & 0x8000_0000 | 0x7f7f_e000;
    }
    if i.has("relu") && result >> 31 & 1 == 1 {
        result = 0;
    }
    Value::Bits(result)
}

/// Eight bits: always to nearest, and to the largest finite number in place of infinity.
fn eight(i: &Instruction, to: Fmt, from: Fmt, bits: u128) -> Value {
    if is_nan(from, bits) {
        return Value::Bits(0x7f);
    }
    let x = to_f64(from, bits);
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    if i.has("relu") && x.is_sign_negative() {
        return Value::Bits(0);
    }
    // The candidates in order; the nearest, ties to the even pattern.
    let largest = if to == Fmt::E4m3 { 0x7e } else { 0x7b };
    let nearest = (0..=largest).min_by(|&p: &u128, &q: &u128| {
        let distance = |bits: u128| (to_f64(to, bits) - x.abs().min(1e6)).abs();
        distance(p)
            .total_cmp(&distance(q))
            .then((p & 1).cmp(&(q & 1)))
    });
    Value::Bits(sign | nearest.unwrap_or(0))
}
