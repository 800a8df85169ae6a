//! What one lane computes: integer bit manipulation, conversions and the float operations that
//! have modifiers.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "PTX integers wrap and are reinterpreted: the casts are the semantics"
)]

use super::float::Format;
use crate::ptx::ir::*;

pub fn bfe32(signed: bool, a: u32, pos: u32, len: u32) -> u32 {
    bfe64(
        signed,
        if signed {
            i64::from(a as i32) as u64
        } else {
            u64::from(a)
        },
        pos,
        len,
        32,
    ) as u32
}

/// Bits `pos..pos+len` of a value of `width` bits that has been extended to 64.
pub fn bfe64(signed: bool, a: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let last = (pos + len - 1).min(width - 1);
    let negative = signed && a >> last & 1 == 1;
    let field = if pos >= width { 0 } else { a >> pos };
    let kept = (last + 1).saturating_sub(pos);
    let mask = if kept >= 64 {
        u64::MAX
    } else {
        (1 << kept) - 1
    };
    if negative {
        field | !mask
    } else {
        field & mask
    }
}

pub fn bfi64(a: u64, b: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= width {
        return b;
    }
    let len = len.min(width - pos);
    let mask = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
    b & !(mask << pos) | (a & mask) << pos
}

pub fn prmt(mode: PrmtMode, a: u32, b: u32, c: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let low = c & 3;
    let selectors: [u32; 4] = match mode {
        PrmtMode::Index => [c & 15, c >> 4 & 15, c >> 8 & 15, c >> 12 & 15],
        PrmtMode::F4e => [low, low + 1, low + 2, low + 3],
        PrmtMode::B4e => [low, (low + 7) & 7, (low + 6) & 7, (low + 5) & 7],
        PrmtMode::Rc8 => [low; 4],
        PrmtMode::Ecl => [low, low.max(1), low.max(2), 3],
        PrmtMode::Ecr => [0, low.min(1), low.min(2), low],
        PrmtMode::Rc16 => [(c & 1) * 2, (c & 1) * 2 + 1, (c & 1) * 2, (c & 1) * 2 + 1],
    };
    let mut result = 0;
    for (place, selector) in selectors.into_iter().enumerate() {
        let byte = (bytes >> ((selector & 7) * 8)) as u8;
        let byte = if selector & 8 != 0 {
            ((byte as i8) >> 7) as u8
        } else {
            byte
        };
        result |= u32::from(byte) << (place * 8);
    }
    result
}

pub fn lop3(table: u8, a: u32, b: u32, c: u32) -> u32 {
    let mut result = 0;
    for row in 0..8 {
        if table >> row & 1 == 1 {
            let pick = |value: u32, bit: u8| if row & bit != 0 { value } else { !value };
            result |= pick(a, 4) & pick(b, 2) & pick(c, 1);
        }
    }
    result
}

pub fn find_msb(value: u64, width: u32, shift: bool) -> u32 {
    match value.checked_ilog2() {
        None => u32::MAX,
        Some(bit) if shift => width - 1 - bit,
        Some(bit) => bit,
    }
}

pub fn dot4(a: u32, b: u32, c: u32, signed_a: bool, signed_b: bool) -> u32 {
    let byte = |value: u32, place: usize, signed: bool| {
        let byte = value.to_le_bytes()[place];
        if signed {
            i32::from(byte as i8)
        } else {
            i32::from(byte)
        }
    };
    (0..4).fold(c, |sum, place| {
        sum.wrapping_add((byte(a, place, signed_a) * byte(b, place, signed_b)) as u32)
    })
}

pub fn dot2(a: u32, b: u32, c: u32, signed_a: bool, signed_b: bool, high: bool) -> u32 {
    let half = |place: u32| {
        let half = (a >> (place * 16)) as u16;
        if signed_a {
            i32::from(half as i16)
        } else {
            i32::from(half)
        }
    };
    let byte = |place: usize| {
        let byte = b.to_le_bytes()[place + if high { 2 } else { 0 }];
        if signed_b {
            i32::from(byte as i8)
        } else {
            i32::from(byte)
        }
    };
    c.wrapping_add(half(0).wrapping_mul(byte(0)) as u32)
        .wrapping_add(half(1).wrapping_mul(byte(1)) as u32)
}

pub fn compare<T: PartialOrd>(f: FloatCmp, a: T, b: T, nan: bool) -> bool {
    match f {
        FloatCmp::Eq => a == b,
        FloatCmp::Ne => !nan && a != b,
        FloatCmp::Lt => a < b,
        FloatCmp::Le => a <= b,
        FloatCmp::Gt => a > b,
        FloatCmp::Ge => a >= b,
        FloatCmp::Equ => nan || a == b,
        FloatCmp::Neu => a != b,
        FloatCmp::Ltu => nan || a < b,
        FloatCmp::Leu => nan || a <= b,
        FloatCmp::Gtu => nan || a > b,
        FloatCmp::Geu => nan || a >= b,
        FloatCmp::Num => !nan,
        FloatCmp::Nan => nan,
    }
}

pub fn compare_half(f: FloatCmp, ty: FloatType, a: u32, b: u32) -> bool {
    let format = Format::of(ty);
    let (a, b) = (
        format.to_f64(u64::from(a & 0xffff)),
        format.to_f64(u64::from(b & 0xffff)),
    );
    compare(f, a, b, a.is_nan() || b.is_nan())
}

pub fn class(f: ClassTest, ty: FloatType, bits: u64) -> bool {
    let format = Format::of(ty);
    let (nan, infinite) = (format.is_nan(bits), format.is_infinite(bits));
    match f {
        ClassTest::Finite => !nan && !infinite,
        ClassTest::Infinite => infinite,
        ClassTest::Number => !nan,
        ClassTest::NotANumber => nan,
        // Zero counts as a normal number.
        ClassTest::Normal => !nan && !infinite && !format.is_subnormal(bits),
        ClassTest::Subnormal => format.is_subnormal(bits),
    }
}

/// Floating-point arithmetic with modifiers on one or two values.
pub fn float(spec: FloatSpec, a: u64, b: u64, c: u64) -> u64 {
    if !spec.packed {
        return float_one(spec, a, b, c);
    }
    let lower = |bits: u64| bits & 0xffff;
    let upper = |bits: u64| bits >> 16 & 0xffff;
    float_one(spec, lower(a), lower(b), lower(c))
        | float_one(spec, upper(a), upper(b), upper(c)) << 16
}

fn float_one(spec: FloatSpec, a: u64, b: u64, c: u64) -> u64 {
    let format = Format::of(spec.ty);
    let flush = |bits: u64| if spec.ftz { format.flush(bits) } else { bits };
    let (a, b, c) = (flush(a), flush(b), flush(c));
    let round = spec.round;
    let mut result = match spec.f {
        FloatOp::Add => format.add(a, b, round),
        FloatOp::Sub => format.add(a, format.negate(b), round),
        FloatOp::Mul => format.mul(a, b, round),
        FloatOp::Fma => format.fma(a, b, c, round),
        FloatOp::Div => format.div(a, b, round),
        FloatOp::Sqrt => format.sqrt(a, round),
        FloatOp::Rcp => format.div(format.of_integer(1, Round::Nearest), a, round),
        FloatOp::Tanh => format.of_f64(format.to_f64(a).tanh()),
        FloatOp::Ex2 => format.of_f64(format.to_f64(a).exp2()),
        FloatOp::Min | FloatOp::Max | FloatOp::MinNan | FloatOp::MaxNan => {
            let propagate = matches!(spec.f, FloatOp::MinNan | FloatOp::MaxNan);
            let max = matches!(spec.f, FloatOp::Max | FloatOp::MaxNan);
            let sign = if spec.crossed { format.sign_bit() } else { 0 };
            let crossed = (a ^ b) & sign;
            let (a, b) = (a & !sign, b & !sign);
            crossed
                ^ match (format.is_nan(a), format.is_nan(b)) {
                    (true, _) | (_, true) if propagate => format.nan,
                    _ => format.extreme(a, b, max),
                }
        }
    };
    if format.is_nan(result) {
        result = format.nan;
    }
    if spec.relu && !format.is_nan(result) && format.to_f64(result) <= 0.0 {
        result = 0;
    }
    if spec.sat {
        result = saturate(format, result);
    }
    flush(result)
}

/// Clamped to 0..1; NaN is 0.
fn saturate(format: Format, bits: u64) -> u64 {
    let value = format.to_f64(bits);
    if value >= 1.0 {
        format.of_integer(1, Round::Nearest)
    } else if value > 0.0 {
        bits
    } else {
        0
    }
}

fn integer(ty: Scalar) -> Option<(u32, bool)> {
    Some(match ty {
        Scalar::U8 => (8, false),
        Scalar::U16 => (16, false),
        Scalar::U32 => (32, false),
        Scalar::U64 => (64, false),
        Scalar::S8 => (8, true),
        Scalar::S16 => (16, true),
        Scalar::S32 => (32, true),
        Scalar::S64 => (64, true),
        _ => return None,
    })
}

fn float_type(ty: Scalar) -> FloatType {
    match ty {
        Scalar::F16 => FloatType::F16,
        Scalar::Bf16 => FloatType::Bf16,
        Scalar::Tf32 => FloatType::Tf32,
        Scalar::F64 => FloatType::F64,
        _ => FloatType::F32,
    }
}

/// Any conversion; the result is zero-extended from its own width.
pub fn convert(spec: Conversion, bits: u64) -> u64 {
    let flush = |ty: Scalar, bits: u64| {
        if spec.ftz && ty == Scalar::F32 {
            Format::of(FloatType::F32).flush(bits)
        } else {
            bits
        }
    };
    let cut = |bits: u64, width: u32| bits & u64::MAX >> (64 - width);
    match (integer(spec.from), integer(spec.to)) {
        (Some((width, signed)), Some((to_width, to_signed))) => {
            let value = widen(bits, width, signed);
            let (min, max) = limits(to_width, to_signed);
            let value = if spec.sat {
                value.clamp(min, max)
            } else {
                value
            };
            cut(value as u64, to_width)
        }
        (Some((width, signed)), None) => {
            let format = Format::of(float_type(spec.to));
            let result = format.of_integer(widen(bits, width, signed), spec.round);
            if spec.sat {
                saturate(format, result)
            } else {
                result
            }
        }
        (None, Some((width, signed))) => {
            let format = Format::of(float_type(spec.from));
            let bits = flush(spec.from, cut_float(bits, spec.from));
            if format.is_nan(bits) {
                let wide = spec.from == Scalar::F64 || width == 64;
                return if wide { 1 << (width - 1) } else { 0 };
            }
            let (min, max) = limits(width, signed);
            cut(format.integer(bits, spec.round, min, max) as u64, width)
        }
        (None, None) => {
            let (from, to) = (
                Format::of(float_type(spec.from)),
                Format::of(float_type(spec.to)),
            );
            let mut bits = flush(spec.from, cut_float(bits, spec.from));
            if spec.integral {
                bits = from.integral(bits, spec.round);
            }
            let mut result = if spec.from == spec.to && !from.is_nan(bits) {
                bits
            } else {
                from.convert(bits, to, spec.round)
            };
            if spec.sat {
                result = saturate(to, result);
            }
            if spec.finite && to.is_infinite(result) {
                result = result & to.sign_bit() | to.largest();
            }
            if spec.relu && !to.is_nan(result) && to.to_f64(result) <= 0.0 {
                result = 0;
            }
            flush(spec.to, result)
        }
    }
}

fn cut_float(bits: u64, ty: Scalar) -> u64 {
    match ty {
        Scalar::F16 | Scalar::Bf16 => bits & 0xffff,
        Scalar::F64 => bits,
        _ => bits & 0xffff_ffff,
    }
}

fn widen(bits: u64, width: u32, signed: bool) -> i128 {
    let shift = 64 - width;
    if signed {
        i128::from((bits << shift) as i64 >> shift)
    } else {
        i128::from(bits << shift >> shift)
    }
}

fn limits(width: u32, signed: bool) -> (i128, i128) {
    if signed {
        (-(1 << (width - 1)), (1 << (width - 1)) - 1)
    } else {
        (0, (1 << width) - 1)
    }
}
