//! Floating-point arithmetic in software: every format, every rounding.
//!
//! The interpreter uses the processor's arithmetic where that rounds to nearest in the right format
//! and this module for the rest. A finite value is `sign * significand * 2^exponent`; results are
//! computed exactly, but for a sticky bit, and rounded once.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "significands and exponents are cut to their fields"
)]

use crate::ptx::ir::{FloatType, Round};

/// A format's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// Significand bits, the hidden one included.
    precision: u32,
    /// Exponent of the smallest normal number.
    min_exponent: i32,
    /// Exponent of the largest number.
    max_exponent: i32,
    /// Bits below the stored significand that are always zero.
    padding: u32,
    bits: u32,
    /// The NaN that operations return.
    pub nan: u64,
}

impl Format {
    pub const fn of(ty: FloatType) -> Self {
        let (precision, min_exponent, max_exponent, padding, bits, nan) = match ty {
            FloatType::F16 => (11, -14, 15, 0, 16, 0x7fff),
            FloatType::Bf16 => (8, -126, 127, 0, 16, 0x7fff),
            FloatType::Tf32 => (11, -126, 127, 13, 32, 0x7fff_ffff),
            FloatType::F32 => (24, -126, 127, 0, 32, 0x7fff_ffff),
            FloatType::F64 => (53, -1022, 1023, 0, 64, 0x7ff8_0000_0000_0000),
        };
        Self {
            precision,
            min_exponent,
            max_exponent,
            padding,
            bits,
            nan,
        }
    }

    const fn fraction_bits(self) -> u32 {
        self.precision - 1 + self.padding
    }

    const fn infinity(self) -> u64 {
        let exponent = (self.max_exponent - self.min_exponent + 2) as u64;
        exponent << self.fraction_bits()
    }

    pub const fn largest(self) -> u64 {
        self.infinity() - (1 << self.padding)
    }

    pub const fn sign_bit(self) -> u64 {
        1 << (self.bits - 1)
    }

    pub const fn is_nan(self, bits: u64) -> bool {
        bits & !self.sign_bit() & self.mask() > self.infinity()
    }

    pub const fn is_infinite(self, bits: u64) -> bool {
        bits & !self.sign_bit() & self.mask() == self.infinity()
    }

    const fn is_zero(self, bits: u64) -> bool {
        bits & !self.sign_bit() & self.mask() == 0
    }

    pub const fn is_subnormal(self, bits: u64) -> bool {
        let magnitude = bits & !self.sign_bit() & self.mask();
        magnitude != 0 && magnitude < 1 << self.fraction_bits()
    }

    const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    const fn is_negative(self, bits: u64) -> bool {
        bits & self.sign_bit() != 0
    }

    /// Zero of the same sign in place of a subnormal number.
    pub const fn flush(self, bits: u64) -> u64 {
        if self.is_subnormal(bits) {
            bits & self.sign_bit()
        } else {
            bits
        }
    }

    /// Significand and exponent of a finite value.
    fn unpack(self, bits: u64) -> (bool, u128, i32) {
        let fraction = (bits & ((1 << self.fraction_bits()) - 1)) >> self.padding;
        let biased = (bits & !self.sign_bit() & self.mask()) >> self.fraction_bits();
        let lowest = self.min_exponent - (self.precision as i32 - 1);
        if biased == 0 {
            return (self.is_negative(bits), u128::from(fraction), lowest);
        }
        let significand = fraction | 1 << (self.precision - 1);
        (
            self.is_negative(bits),
            u128::from(significand),
            lowest + biased as i32 - 1,
        )
    }

    /// The nearest representable value; `sticky` stands for nonzero bits below `significand`.
    pub fn pack(
        self,
        sign: bool,
        significand: u128,
        exponent: i32,
        sticky: bool,
        round: Round,
    ) -> u64 {
        let sign_bits = if sign { self.sign_bit() } else { 0 };
        if significand == 0 && !sticky {
            return sign_bits;
        }
        let lowest = self.min_exponent - (self.precision as i32 - 1);
        let width = 128 - significand.leading_zeros() as i32;
        let shift = (width - self.precision as i32).max(lowest - exponent);
        let (mut kept, half, rest) = match shift {
            ..=0 => (significand << -shift, false, sticky),
            1..=127 => {
                let below = significand & ((1 << (shift - 1)) - 1);
                (
                    significand >> shift,
                    significand >> (shift - 1) & 1 == 1,
                    sticky || below != 0,
                )
            }
            128 => (0, significand >> 127 == 1, sticky || significand << 1 != 0),
            _ => (0, false, true),
        };
        let mut exponent = exponent + shift;
        let up = match round {
            Round::Nearest => half && (rest || kept & 1 == 1),
            Round::NearestAway => half,
            Round::Zero => false,
            Round::Down => sign && (half || rest),
            Round::Up => !sign && (half || rest),
        };
        if up {
            kept += 1;
            if kept >> self.precision != 0 {
                kept >>= 1;
                exponent += 1;
            }
        }
        let hidden = 1u128 << (self.precision - 1);
        if kept >= hidden && exponent + self.precision as i32 - 1 > self.max_exponent {
            let away = match round {
                Round::Nearest | Round::NearestAway => true,
                Round::Zero => false,
                Round::Down => sign,
                Round::Up => !sign,
            };
            return sign_bits
                | if away {
                    self.infinity()
                } else {
                    self.largest()
                };
        }
        let biased = if kept >= hidden {
            (exponent - lowest + 1) as u64
        } else {
            0
        };
        let fraction = (kept & (hidden - 1)) as u64;
        sign_bits | biased << self.fraction_bits() | fraction << self.padding
    }

    /// The smaller or larger value; of a number and NaN the number. -0 is less than +0.
    pub fn extreme(self, a: u64, b: u64, max: bool) -> u64 {
        match (self.is_nan(a), self.is_nan(b)) {
            (true, true) => self.nan,
            (true, _) => b,
            (_, true) => a,
            _ => {
                let (x, y) = (self.to_f64(a), self.to_f64(b));
                let a_is_less = x < y || x == y && x.is_sign_negative();
                if a_is_less != max { a } else { b }
            }
        }
    }

    pub fn negate(self, bits: u64) -> u64 {
        bits ^ self.sign_bit()
    }

    pub fn fma(self, a: u64, b: u64, c: u64, round: Round) -> u64 {
        let product_sign = self.is_negative(a) != self.is_negative(b);
        if self.is_nan(a) || self.is_nan(b) || self.is_nan(c) {
            return self.nan;
        }
        if self.is_infinite(a) || self.is_infinite(b) {
            let opposite = self.is_infinite(c) && self.is_negative(c) != product_sign;
            if self.is_zero(a) || self.is_zero(b) || opposite {
                return self.nan;
            }
            return self.infinity() | if product_sign { self.sign_bit() } else { 0 };
        }
        if self.is_infinite(c) {
            return c;
        }
        let ((_, sa, ea), (_, sb, eb), (addend_sign, sc, ec)) =
            (self.unpack(a), self.unpack(b), self.unpack(c));
        let product = (product_sign, sa * sb, ea + eb);
        let addend = (addend_sign, sc, ec);
        if product.1 == 0 && addend.1 == 0 {
            let negative = if product_sign == addend_sign {
                product_sign
            } else {
                round == Round::Down
            };
            return if negative { self.sign_bit() } else { 0 };
        }
        if product.1 == 0 {
            return self.pack(addend.0, addend.1, addend.2, false, round);
        }
        if addend.1 == 0 {
            return self.pack(product.0, product.1, product.2, false, round);
        }
        // The operand whose leading bit is higher is moved up to bit 125; the other one is aligned to it.
        let top = |value: (bool, u128, i32)| value.2 + 127 - value.1.leading_zeros() as i32;
        let (big, small) = if top(product) >= top(addend) {
            (product, addend)
        } else {
            (addend, product)
        };
        let up = big.1.leading_zeros() as i32 - 2;
        let (significand, exponent) = (big.1 << up, big.2 - up);
        let (aligned, sticky) = match exponent - small.2 {
            distance @ ..=0 => (small.1 << -distance, false),
            distance @ 1..=127 => (small.1 >> distance, small.1 & ((1 << distance) - 1) != 0),
            _ => (0, true),
        };
        if big.0 == small.0 {
            return self.pack(big.0, significand + aligned, exponent, sticky, round);
        }
        let (sign, difference) = if aligned > significand {
            (small.0, aligned - significand)
        } else {
            (big.0, significand - aligned - u128::from(sticky))
        };
        if difference == 0 && !sticky {
            return if round == Round::Down {
                self.sign_bit()
            } else {
                0
            };
        }
        self.pack(sign, difference, exponent, sticky, round)
    }

    pub fn add(self, a: u64, b: u64, round: Round) -> u64 {
        let one = (-self.min_exponent as u64 + 1) << self.fraction_bits();
        self.fma(a, one, b, round)
    }

    pub fn mul(self, a: u64, b: u64, round: Round) -> u64 {
        self.fma(a, b, (a ^ b) & self.sign_bit(), round)
    }

    pub fn div(self, a: u64, b: u64, round: Round) -> u64 {
        let sign = self.is_negative(a) != self.is_negative(b);
        let sign_bits = if sign { self.sign_bit() } else { 0 };
        if self.is_nan(a) || self.is_nan(b) {
            return self.nan;
        }
        match (
            self.is_infinite(a),
            self.is_infinite(b),
            self.is_zero(a),
            self.is_zero(b),
        ) {
            (true, true, ..) | (.., true, true) => return self.nan,
            (true, ..) | (.., true) => return sign_bits | self.infinity(),
            (_, true, ..) | (_, _, true, _) => return sign_bits,
            _ => {}
        }
        let ((_, sa, ea), (_, sb, eb)) = (self.unpack(a), self.unpack(b));
        // Both significands are normalised, so that the quotient has at least 70 bits.
        let (ua, ub) = (
            sa.leading_zeros() as i32 - 1,
            sb.leading_zeros() as i32 - 75,
        );
        let (sa, sb) = (sa << ua, if ub >= 0 { sb << ub } else { sb >> -ub });
        self.pack(sign, sa / sb, (ea - ua) - (eb - ub), sa % sb != 0, round)
    }

    pub fn sqrt(self, a: u64, round: Round) -> u64 {
        if self.is_nan(a) || self.is_negative(a) && !self.is_zero(a) {
            return self.nan;
        }
        if self.is_zero(a) || self.is_infinite(a) {
            return a;
        }
        let (_, significand, exponent) = self.unpack(a);
        let mut up = significand.leading_zeros() as i32 - 2;
        if (exponent - up) % 2 != 0 {
            up += 1;
        }
        let scaled = significand << up;
        let root = scaled.isqrt();
        self.pack(
            false,
            root,
            (exponent - up) / 2,
            root * root != scaled,
            round,
        )
    }

    /// A value of this format in another one.
    pub fn convert(self, bits: u64, to: Self, round: Round) -> u64 {
        let sign = if self.is_negative(bits) {
            to.sign_bit()
        } else {
            0
        };
        if self.is_nan(bits) {
            return to.nan;
        }
        if self.is_infinite(bits) {
            return sign | to.infinity();
        }
        let (sign, significand, exponent) = self.unpack(bits);
        to.pack(sign, significand, exponent, false, round)
    }

    /// The value as an integer, clamped to `min..=max`; NaN is the caller's to handle.
    pub fn integer(self, bits: u64, round: Round, min: i128, max: i128) -> i128 {
        if self.is_infinite(bits) {
            return if self.is_negative(bits) { min } else { max };
        }
        let (sign, significand, exponent) = self.unpack(bits);
        let magnitude = match exponent {
            64.. => i128::from(significand != 0) * (i128::MAX >> 1),
            0..=63 => (significand << exponent) as i128,
            _ => {
                let shift = exponent.unsigned_abs();
                let (kept, half, rest) = match shift {
                    1..=127 => {
                        let below = significand & ((1 << (shift - 1)) - 1);
                        (
                            significand >> shift,
                            significand >> (shift - 1) & 1 == 1,
                            below != 0,
                        )
                    }
                    _ => (0, false, significand != 0),
                };
                let up = match round {
                    Round::Nearest => half && (rest || kept & 1 == 1),
                    Round::NearestAway => half,
                    Round::Zero => false,
                    Round::Down => sign && (half || rest),
                    Round::Up => !sign && (half || rest),
                };
                kept as i128 + i128::from(up)
            }
        };
        (if sign { -magnitude } else { magnitude }).clamp(min, max)
    }

    /// The value rounded to an integral one, in this format.
    pub fn integral(self, bits: u64, round: Round) -> u64 {
        if self.is_nan(bits) {
            return self.nan;
        }
        let (sign, significand, exponent) = self.unpack(bits);
        if self.is_infinite(bits) || exponent >= 0 || significand == 0 {
            return bits;
        }
        let value = self.integer(bits, round, i128::MIN / 4, i128::MAX / 4);
        self.pack(sign, value.unsigned_abs(), 0, false, Round::Nearest)
    }

    /// An integer in this format.
    pub fn of_integer(self, value: i128, round: Round) -> u64 {
        self.pack(value < 0, value.unsigned_abs(), 0, false, round)
    }

    /// The value as a double, exactly.
    pub fn to_f64(self, bits: u64) -> f64 {
        f64::from_bits(self.convert(bits, Self::of(FloatType::F64), Round::Nearest))
    }

    pub fn of_f64(self, value: f64) -> u64 {
        Self::of(FloatType::F64).convert(value.to_bits(), self, Round::Nearest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F32: Format = Format::of(FloatType::F32);
    const F64: Format = Format::of(FloatType::F64);
    const F16: Format = Format::of(FloatType::F16);

    /// Bit patterns that cluster around the interesting ones.
    fn patterns(count: usize) -> impl Iterator<Item = u64> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        (0..count).map(move |place| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match place % 4 {
                0 => state,
                1 => state & 0x800f_ffff_800f_ffff,
                2 => state | 0x7fe0_0000_7f00_0000,
                _ => (state & 0x803f_ffff_80ff_ffff) + 0x3fd0_0000_3f00_0000,
            }
        })
    }

    fn same32(ours: u64, theirs: f32) -> bool {
        F32.is_nan(ours) && theirs.is_nan() || ours == u64::from(theirs.to_bits())
    }

    fn same64(ours: u64, theirs: f64) -> bool {
        F64.is_nan(ours) && theirs.is_nan() || ours == theirs.to_bits()
    }

    #[test]
    fn nearest_arithmetic_agrees_with_the_processor() {
        let values: Vec<u64> = patterns(60_000).collect();
        for abc in values.windows(3) {
            let [a, b, c] = [abc[0], abc[1], abc[2]].map(|bits| bits & 0xffff_ffff);
            let [x, y, z] = [a, b, c].map(|bits| f32::from_bits(bits as u32));
            let n = Round::Nearest;
            assert!(same32(F32.add(a, b, n), x + y), "{x} + {y}");
            assert!(same32(F32.mul(a, b, n), x * y), "{x} * {y}");
            assert!(same32(F32.div(a, b, n), x / y), "{x} / {y}");
            assert!(same32(F32.sqrt(a, n), x.sqrt()), "sqrt {x}");
            assert!(
                same32(F32.fma(a, b, c, n), x.mul_add(y, z)),
                "{x} * {y} + {z}"
            );
            let [x, y, z] = [abc[0], abc[1], abc[2]].map(f64::from_bits);
            assert!(same64(F64.add(abc[0], abc[1], n), x + y), "{x} + {y}");
            assert!(same64(F64.mul(abc[0], abc[1], n), x * y), "{x} * {y}");
            assert!(same64(F64.div(abc[0], abc[1], n), x / y), "{x} / {y}");
            assert!(same64(F64.sqrt(abc[0], n), x.sqrt()), "sqrt {x}");
            assert!(
                same64(F64.fma(abc[0], abc[1], abc[2], n), x.mul_add(y, z)),
                "{x} * {y} + {z}"
            );
            assert!(same32(F64.convert(abc[0], F32, n), x as f32), "{x}");
            assert!(same64(
                F32.convert(a, F64, n),
                f64::from(f32::from_bits(a as u32))
            ));
            assert_eq!(
                F64.integer(abc[0], Round::Zero, i64::MIN.into(), i64::MAX.into()),
                if x.is_nan() {
                    F64.integer(abc[0], Round::Zero, i64::MIN.into(), i64::MAX.into())
                } else {
                    i128::from(x as i64)
                }
            );
        }
    }

    #[test]
    fn directed_roundings_bracket_the_nearest_one() {
        let values: Vec<u64> = patterns(20_000).collect();
        for ab in values.windows(2) {
            let (x, y) = (f64::from_bits(ab[0]), f64::from_bits(ab[1]));
            if !(x.is_finite() && y.is_finite()) {
                continue;
            }
            let sum = |round| f64::from_bits(F64.add(ab[0], ab[1], round));
            let (down, near, up) = (sum(Round::Down), sum(Round::Nearest), sum(Round::Up));
            assert!(down <= near && near <= up, "{x} + {y}");
            assert!(near == down || near == up);
            assert!(down == up || down.next_up() == up, "{x} + {y}");
            let zero = sum(Round::Zero);
            assert!(
                zero == if near < 0.0 || up < 0.0 { up } else { down },
                "{x} + {y}"
            );
        }
    }

    #[test]
    fn halves_convert_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let theirs = half::f16::from_bits(bits).to_f32();
            assert!(same32(
                F16.convert(bits.into(), F32, Round::Nearest),
                theirs
            ));
        }
        for bits in patterns(20_000) {
            let x = f32::from_bits(bits as u32);
            if !x.is_nan() {
                let ours = F32.convert(bits & 0xffff_ffff, F16, Round::Nearest);
                assert_eq!(ours, u64::from(half::f16::from_f32(x).to_bits()), "{x}");
                let ours = F32.convert(
                    bits & 0xffff_ffff,
                    Format::of(FloatType::Bf16),
                    Round::Nearest,
                );
                assert_eq!(ours, u64::from(half::bf16::from_f32(x).to_bits()), "{x}");
            }
        }
    }
}
