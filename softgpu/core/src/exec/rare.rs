//! What one lane computes for the operations that programs seldom use.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "PTX integers wrap and are reinterpreted: the casts are the semantics"
)]

use super::float::Format;
use crate::ptx::ir::*;

pub fn compute(f: Rare, a: u32, b: u32, c: u32) -> u32 {
    match f {
        Rare::FindNth => find_nth(a, b, c as i32),
        Rare::Halves(f) => halves(f, a, b),
        Rare::ToSmall { format, relu, from } => {
            let up = if format == Small::E2m1 { 4 } else { 8 };
            let [high, low] = two(from, a, b).map(|value| u32::from(to_small(format, relu, value)));
            high << up | low
        }
        Rare::FromSmall { format, relu, to } => {
            let (up, mask) = if format == Small::E2m1 {
                (4, 0xf)
            } else {
                (8, 0xff)
            };
            let half = |bits: u32| from_small(format, relu, (bits & mask) as u8, to);
            half(a >> up) << 16 | half(a)
        }
        Rare::ToScale { up, sat, from } => {
            let [high, low] = two(from, a, b).map(|value| to_scale(up, sat, value));
            high << 8 | low
        }
        Rare::FromScale => {
            let half = |byte: u32| match byte & 0xff {
                0xff => 0x7fff,
                exponent => {
                    let value = 2f64.powi(exponent as i32 - 127);
                    Format::of(FloatType::Bf16).of_f64(value) as u32
                }
            };
            half(a >> 8) << 16 | half(a)
        }
        Rare::Video(video) => self::video(video, a, b, c),
    }
}

/// The place of the `|n|`-th set bit at or above (below, for a negative `n`) `base`; `n` of 0 asks
/// whether that bit itself is set.
fn find_nth(bits: u32, base: u32, n: i32) -> u32 {
    let base = base & 31;
    let mut left = match n {
        0 if bits >> base & 1 == 1 => return base,
        0 => return u32::MAX,
        1.. => bits & u32::MAX << base,
        _ => bits & u32::MAX >> (31 - base),
    };
    for _ in 1..n.unsigned_abs().min(33) {
        let found = nearest(left, n);
        left &= !1u32.checked_shl(found).unwrap_or(0);
    }
    if left == 0 {
        u32::MAX
    } else {
        nearest(left, n)
    }
}

fn nearest(bits: u32, n: i32) -> u32 {
    if n > 0 {
        bits.trailing_zeros()
    } else {
        31u32.wrapping_sub(bits.leading_zeros())
    }
}

fn halves(f: HalvesOp, a: u32, b: u32) -> u32 {
    let one = |a: u16, b: u16| -> u32 {
        let (x, y) = (a.cast_signed(), b.cast_signed());
        u32::from(match f {
            HalvesOp::Add => a.wrapping_add(b),
            HalvesOp::MinS => x.min(y).cast_unsigned(),
            HalvesOp::MaxS => x.max(y).cast_unsigned(),
            HalvesOp::MinU => a.min(b),
            HalvesOp::MaxU => a.max(b),
        })
    };
    one((a >> 16) as u16, (b >> 16) as u16) << 16 | one(a as u16, b as u16)
}

/// The two operands of a conversion: f32 values, or the halves of the first.
fn two(from: FloatType, a: u32, b: u32) -> [f64; 2] {
    if from == FloatType::F32 {
        return [a, b].map(|bits| f64::from(f32::from_bits(bits)));
    }
    [a >> 16, a & 0xffff].map(|bits| Format::of(from).to_f64(bits.into()))
}

/// Stored significand bits, smallest normal exponent, the largest finite pattern and the sign.
fn small(format: Small) -> (i32, i32, u8, u8) {
    match format {
        Small::E4m3 => (3, -6, 0x7e, 0x80),
        Small::E5m2 => (2, -14, 0x7b, 0x80),
        Small::E2m3 => (3, 0, 0x1f, 0x20),
        Small::E3m2 => (2, -2, 0x1f, 0x20),
        Small::E2m1 => (1, 0, 0x07, 0x08),
    }
}

/// To nearest, ties to even, and to the largest finite number where that is exceeded. NaN is that number,
/// too, where there is none.
fn to_small(format: Small, relu: bool, value: f64) -> u8 {
    let (fraction, min_exponent, largest, sign) = small(format);
    if value.is_nan() {
        return if sign == 0x80 { 0x7f } else { largest };
    }
    if relu && value.is_sign_negative() {
        return 0;
    }
    let sign = if value.is_sign_negative() { sign } else { 0 };
    let magnitude = value.abs();
    // All formats end far below 2^20; f32 and both halves are normal numbers of f64.
    let exponent = (magnitude.to_bits() >> 52) as i32 - 1023;
    if exponent >= 20 {
        return sign | largest;
    }
    let exponent = exponent.max(min_exponent);
    let steps = (magnitude / 2f64.powi(exponent - fraction)).round_ties_even();
    // A significand that rounds up to the next power of two carries into the exponent.
    let bits = ((exponent - min_exponent) << fraction) + steps as i32;
    sign | bits.min(i32::from(largest)) as u8
}

fn from_small(format: Small, relu: bool, byte: u8, to: FloatType) -> u32 {
    let (fraction, min_exponent, largest, sign) = small(format);
    let to = Format::of(to);
    // Of six bits, the two above are ignored.
    let magnitude = byte & (sign - 1);
    let negative = byte & sign != 0;
    if magnitude > largest {
        return match (format, magnitude) {
            (Small::E5m2, 0x7c) if negative && relu => 0,
            (Small::E5m2, 0x7c) => to.of_f64(if negative {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            }) as u32,
            _ => 0x7fff,
        };
    }
    if relu && negative {
        return 0;
    }
    let biased = i32::from(magnitude >> fraction);
    let stored = i32::from(magnitude) - (biased << fraction);
    let (significand, exponent) = match biased {
        0 => (stored, min_exponent),
        _ => (stored + (1 << fraction), min_exponent + biased - 1),
    };
    let value = f64::from(significand) * 2f64.powi(exponent - fraction);
    let value = if negative { -value } else { value };
    to.of_f64(value) as u32
}

/// The exponent of the power of two below or above a magnitude, plus 127; 255 is NaN.
fn to_scale(up: bool, sat: bool, value: f64) -> u32 {
    if value.is_nan() {
        return 0xff;
    }
    // What is not 0 is a normal number of f64.
    let bits = value.abs().to_bits();
    let power = (bits >> 52) as i32 - 1023;
    let above = up && bits << 12 != 0;
    match power + i32::from(above) {
        128.. => {
            if sat {
                0xfe
            } else {
                0xff
            }
        }
        power => (power.max(-127) + 127) as u32,
    }
}

fn part(value: u32, part: Part) -> i128 {
    let up = 32 - u32::from(part.bits);
    let bits = value >> part.start << up;
    if part.signed {
        i128::from(bits as i32 >> up)
    } else {
        i128::from(bits >> up)
    }
}

fn video(video: Video, a: u32, b: u32, c: u32) -> u32 {
    if video.lanes > 1 {
        return several(video, a, b, c);
    }
    let bits = match video.then {
        VideoThen::Merge(to) => to.bits,
        _ => 32,
    };
    let value = one(video, part(a, video.a), part(b, video.b), bits) as u32;
    let smaller = if video.signed {
        (value as i32) < c as i32
    } else {
        value < c
    };
    match video.then {
        VideoThen::Nothing => value,
        VideoThen::Add => value.wrapping_add(c),
        VideoThen::Min => {
            if smaller {
                value
            } else {
                c
            }
        }
        VideoThen::Max => {
            if smaller {
                c
            } else {
                value
            }
        }
        VideoThen::Merge(to) => {
            let mask = (u32::MAX >> (32 - to.bits)) << to.start;
            c & !mask | value << to.start & mask
        }
    }
}

/// A result, clamped to `bits` where the instruction saturates.
fn one(video: Video, x: i128, y: i128, bits: u8) -> i128 {
    let by = |wrap: bool| if wrap { y & 31 } else { y.min(32) };
    let value = match video.f {
        VideoOp::Add => x + y,
        VideoOp::Sub => x - y,
        VideoOp::AbsDiff => (x - y).abs(),
        VideoOp::Min => x.min(y),
        VideoOp::Max => x.max(y),
        VideoOp::Shl { wrap } => x << by(wrap),
        VideoOp::Shr { wrap } => x >> by(wrap),
        VideoOp::Set(cmp) => i128::from(match cmp {
            VideoCmp::Eq => x == y,
            VideoCmp::Ne => x != y,
            VideoCmp::Lt => x < y,
            VideoCmp::Le => x <= y,
            VideoCmp::Gt => x > y,
            VideoCmp::Ge => x >= y,
        }),
    };
    match (video.sat, video.signed) {
        (false, _) => value,
        (true, true) => value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        (true, false) => value.clamp(0, (1 << bits) - 1),
    }
}

/// All bytes or halves: side by side, or summed up onto the third operand.
fn several(video: Video, a: u32, b: u32, c: u32) -> u32 {
    let bits = 32 / video.lanes;
    let mut result = if video.then == VideoThen::Add { c } else { 0 };
    for lane in 0..video.lanes {
        let start = lane * bits;
        let place = |first: Part| Part { start, ..first };
        let value = one(
            video,
            part(a, place(video.a)),
            part(b, place(video.b)),
            bits,
        ) as u32;
        if video.then == VideoThen::Add {
            result = result.wrapping_add(value);
        } else {
            result |= (value & u32::MAX >> (32 - bits)) << start;
        }
    }
    result
}
