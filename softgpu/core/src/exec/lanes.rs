//! What operations compute: one value for each of a warp's 32 lanes.
//!
//! Each is a loop without branches over fixed arrays, always inlined, so that it is compiled for the
//! vector instructions of whoever calls it.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "PTX integers wrap and are reinterpreted: the casts are the semantics"
)]

use super::scalar;
use super::warp::FULL;
use crate::ptx::ir::*;

pub type L32 = [u32; 32];
pub type L64 = [u64; 32];

#[inline(always)]
pub fn map1<A: Copy, R: Copy + Default>(a: &[A; 32], f: impl Fn(A) -> R) -> [R; 32] {
    let mut r = [R::default(); 32];
    for lane in 0..32 {
        r[lane] = f(a[lane]);
    }
    r
}

#[inline(always)]
pub fn map2<A: Copy, B: Copy, R: Copy + Default>(
    a: &[A; 32],
    b: &[B; 32],
    f: impl Fn(A, B) -> R,
) -> [R; 32] {
    let mut r = [R::default(); 32];
    for lane in 0..32 {
        r[lane] = f(a[lane], b[lane]);
    }
    r
}

#[inline(always)]
pub fn map3<A: Copy, B: Copy, C: Copy, R: Copy + Default>(
    a: &[A; 32],
    b: &[B; 32],
    c: &[C; 32],
    f: impl Fn(A, B, C) -> R,
) -> [R; 32] {
    let mut r = [R::default(); 32];
    for lane in 0..32 {
        r[lane] = f(a[lane], b[lane], c[lane]);
    }
    r
}

/// Keeps the active lanes of a result.
#[inline(always)]
pub fn put<T: Copy>(d: &mut [T; 32], r: &[T; 32], mask: u32) {
    if mask == FULL {
        *d = *r;
        return;
    }
    for lane in 0..32 {
        d[lane] = if mask >> lane & 1 != 0 {
            r[lane]
        } else {
            d[lane]
        };
    }
}

#[inline(always)]
pub fn test<T: Copy>(a: &[T; 32], b: &[T; 32], f: impl Fn(T, T) -> bool) -> u32 {
    let mut bits = 0;
    for lane in 0..32 {
        bits |= u32::from(f(a[lane], b[lane])) << lane;
    }
    bits
}

#[inline(always)]
pub fn keep(d: &mut u32, r: u32, mask: u32) {
    *d = *d & !mask | r & mask;
}

#[inline(always)]
pub fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

#[inline(always)]
pub fn g(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// The bits of a result; PTX has one NaN.
#[inline(always)]
pub fn b(value: f32) -> u32 {
    if value.is_nan() {
        0x7fff_ffff
    } else {
        value.to_bits()
    }
}

#[inline(always)]
pub fn flush(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    }
}

#[inline(always)]
pub fn min_f(x: u32, y: u32) -> u32 {
    let (p, q) = (f(x), f(y));
    if p.is_nan() {
        if q.is_nan() { 0x7fff_ffff } else { y }
    } else if q.is_nan() || p < q || p == q && x >> 31 == 1 {
        x
    } else {
        y
    }
}

#[inline(always)]
pub fn max_f(x: u32, y: u32) -> u32 {
    let (p, q) = (f(x), f(y));
    if p.is_nan() {
        if q.is_nan() { 0x7fff_ffff } else { y }
    } else if q.is_nan() || p > q || p == q && y >> 31 == 1 {
        x
    } else {
        y
    }
}

pub fn min_d(x: u64, y: u64, max: bool) -> u64 {
    let (p, q) = (g(x), g(y));
    match (p.is_nan(), q.is_nan()) {
        (true, true) => 0x7ff8_0000_0000_0000,
        (true, false) => y,
        (false, true) => x,
        _ => {
            let less = p < q || p == q && p.is_sign_negative();
            if less != max { x } else { y }
        }
    }
}

#[inline(always)]
pub fn un_w(op: UnW, a: &L32) -> L32 {
    match op {
        UnW::Not => map1(a, |a| !a),
        UnW::Neg => map1(a, u32::wrapping_neg),
        UnW::Abs => map1(a, |a| (a as i32).wrapping_abs() as u32),
        UnW::Clz => map1(a, u32::leading_zeros),
        UnW::Popc => map1(a, u32::count_ones),
        UnW::Brev => map1(a, u32::reverse_bits),
        UnW::FindMsbS => map1(a, |a| {
            scalar::find_msb((a ^ ((a as i32) >> 31) as u32).into(), 32, false)
        }),
        UnW::FindMsbU => map1(a, |a| scalar::find_msb(a.into(), 32, false)),
        UnW::ShiftFindMsbS => map1(a, |a| {
            scalar::find_msb((a ^ ((a as i32) >> 31) as u32).into(), 32, true)
        }),
        UnW::ShiftFindMsbU => map1(a, |a| scalar::find_msb(a.into(), 32, true)),
        UnW::Sext8 => map1(a, |a| i32::from(a as i8) as u32),
        UnW::Sext16 => map1(a, |a| i32::from(a as i16) as u32),
        UnW::Zext8 => map1(a, |a| a & 0xff),
        UnW::Zext16 => map1(a, |a| a & 0xffff),
        UnW::NegF => map1(a, |a| a ^ 0x8000_0000),
        UnW::AbsF => map1(a, |a| a & 0x7fff_ffff),
        UnW::FlushF => map1(a, flush),
        // NaN fails both comparisons.
        UnW::SatF => map1(a, |a| {
            if f(a) >= 1.0 {
                0x3f80_0000
            } else if f(a) > 0.0 {
                a
            } else {
                0
            }
        }),
        UnW::SqrtF => map1(a, |a| b(f(a).sqrt())),
        UnW::RcpF => map1(a, |a| b(1.0 / f(a))),
        UnW::RsqrtF => map1(a, |a| b((1.0 / f64::from(f(a)).sqrt()) as f32)),
        UnW::Sin => map1(a, |a| b(f64::from(f(a)).sin() as f32)),
        UnW::Cos => map1(a, |a| b(f64::from(f(a)).cos() as f32)),
        UnW::Ex2 => map1(a, |a| b(f64::from(f(a)).exp2() as f32)),
        UnW::Lg2 => map1(a, |a| b(f64::from(f(a)).log2() as f32)),
        UnW::Tanh => map1(a, |a| b(f64::from(f(a)).tanh() as f32)),
        UnW::NegH => map1(a, |a| a ^ 0x8000),
        UnW::AbsH => map1(a, |a| a & 0x7fff),
        UnW::NegHx2 => map1(a, |a| a ^ 0x8000_8000),
        UnW::AbsHx2 => map1(a, |a| a & 0x7fff_7fff),
    }
}

#[inline(always)]
pub fn bin_w(op: BinW, x: &L32, y: &L32) -> L32 {
    let mul_hi_s = |a: u32, b: u32| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32;
    let mul_hi_u = |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32;
    let s24 = |a: u32| i64::from((a << 8) as i32 >> 8);
    let u24 = |a: u32| u64::from(a & 0xff_ffff);
    match op {
        BinW::Add => map2(x, y, u32::wrapping_add),
        BinW::Sub => map2(x, y, u32::wrapping_sub),
        BinW::Mul => map2(x, y, u32::wrapping_mul),
        BinW::MulHiS => map2(x, y, mul_hi_s),
        BinW::MulHiU => map2(x, y, mul_hi_u),
        // Division by zero yields all ones, as on hardware; it is not an error in PTX.
        BinW::DivS => map2(x, y, |a, b| {
            if b == 0 {
                u32::MAX
            } else {
                (a as i32).wrapping_div(b as i32) as u32
            }
        }),
        BinW::DivU => map2(x, y, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        BinW::RemS => map2(x, y, |a, b| {
            if b == 0 {
                a
            } else {
                (a as i32).wrapping_rem(b as i32) as u32
            }
        }),
        BinW::RemU => map2(x, y, |a, b| a.checked_rem(b).unwrap_or(a)),
        BinW::MinS => map2(x, y, |a, b| (a as i32).min(b as i32) as u32),
        BinW::MinU => map2(x, y, |a: u32, b| a.min(b)),
        BinW::MaxS => map2(x, y, |a, b| (a as i32).max(b as i32) as u32),
        BinW::MaxU => map2(x, y, |a: u32, b| a.max(b)),
        BinW::AddSatS => map2(x, y, |a, b| (a as i32).saturating_add(b as i32) as u32),
        BinW::SubSatS => map2(x, y, |a, b| (a as i32).saturating_sub(b as i32) as u32),
        BinW::And => map2(x, y, |a, b| a & b),
        BinW::Or => map2(x, y, |a, b| a | b),
        BinW::Xor => map2(x, y, |a, b| a ^ b),
        BinW::Shl => map2(x, y, |a, b| if b > 31 { 0 } else { a << (b & 31) }),
        BinW::ShrS => map2(x, y, |a, b| ((a as i32) >> b.min(31)) as u32),
        BinW::ShrU => map2(x, y, |a, b| if b > 31 { 0 } else { a >> (b & 31) }),
        BinW::CNot => map1(x, |a| u32::from(a == 0)),
        BinW::Bmsk => map2(x, y, |a, b| {
            scalar::bfi64(u64::MAX, 0, a.min(255), b.min(255), 32) as u32
        }),
        BinW::BmskWrap => map2(x, y, |a, b| {
            scalar::bfi64(u64::MAX, 0, a & 31, b & 31, 32) as u32
        }),
        BinW::Mul24LoS => map2(x, y, |a, b| (s24(a) * s24(b)) as u32),
        BinW::Mul24LoU => map2(x, y, |a, b| (u24(a) * u24(b)) as u32),
        BinW::Mul24HiS => map2(x, y, |a, b| ((s24(a) * s24(b)) >> 16) as u32),
        BinW::Mul24HiU => map2(x, y, |a, b| ((u24(a) * u24(b)) >> 16) as u32),
        BinW::Szext => map2(x, y, |a, b| scalar::bfe32(true, a, 0, b.min(32))),
        BinW::SzextU => map2(x, y, |a, b| scalar::bfe32(false, a, 0, b.min(32))),
        BinW::SzextWrap => map2(x, y, |a, b| scalar::bfe32(true, a, 0, b & 31)),
        BinW::SzextWrapU => map2(x, y, |a, b| scalar::bfe32(false, a, 0, b & 31)),
        BinW::AddF => map2(x, y, |p, q| b(f(p) + f(q))),
        BinW::SubF => map2(x, y, |p, q| b(f(p) - f(q))),
        BinW::MulF => map2(x, y, |p, q| b(f(p) * f(q))),
        BinW::DivF => map2(x, y, |p, q| b(f(p) / f(q))),
        BinW::MinF => map2(x, y, min_f),
        BinW::MaxF => map2(x, y, max_f),
        BinW::MinNanF => map2(x, y, |p, q| {
            if f(p).is_nan() || f(q).is_nan() {
                0x7fff_ffff
            } else {
                min_f(p, q)
            }
        }),
        BinW::MaxNanF => map2(x, y, |p, q| {
            if f(p).is_nan() || f(q).is_nan() {
                0x7fff_ffff
            } else {
                max_f(p, q)
            }
        }),
        BinW::AddFtz => map2(x, y, |p, q| flush(b(f(flush(p)) + f(flush(q))))),
        BinW::SubFtz => map2(x, y, |p, q| flush(b(f(flush(p)) - f(flush(q))))),
        BinW::MulFtz => map2(x, y, |p, q| flush(b(f(flush(p)) * f(flush(q))))),
        BinW::CopySign => map2(x, y, |a, b| a & 0x7fff_ffff | b & 0x8000_0000),
    }
}

#[inline(always)]
pub fn tern_w(op: TernW, x: &L32, y: &L32, z: &L32) -> L32 {
    let hi_s = |a: u32, b: u32| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32;
    let hi_u = |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32;
    let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    let dot4 = |p, q| move |a, b, c| scalar::dot4(a, b, c, p, q);
    let dot2 = |p, q, h| move |a, b, c| scalar::dot2(a, b, c, p, q, h);
    match op {
        TernW::Mad => map3(x, y, z, |a: u32, b, c: u32| {
            a.wrapping_mul(b).wrapping_add(c)
        }),
        TernW::MadHiS => map3(x, y, z, |a, b, c: u32| hi_s(a, b).wrapping_add(c)),
        TernW::MadHiU => map3(x, y, z, |a, b, c: u32| hi_u(a, b).wrapping_add(c)),
        TernW::MadHiSatS => map3(x, y, z, |a, b, c: u32| {
            (hi_s(a, b) as i32).saturating_add(c as i32) as u32
        }),
        TernW::SadS => map3(x, y, z, |a, b, c: u32| {
            (a as i32).abs_diff(b as i32).wrapping_add(c)
        }),
        TernW::SadU => map3(x, y, z, |a: u32, b, c: u32| a.abs_diff(b).wrapping_add(c)),
        TernW::BfeS => map3(x, y, z, |a, b, c| scalar::bfe32(true, a, b, c)),
        TernW::BfeU => map3(x, y, z, |a, b, c| scalar::bfe32(false, a, b, c)),
        TernW::ShfLeftClamp => map3(x, y, z, |a, b, c: u32| {
            ((pair(a, b) << c.min(32)) >> 32) as u32
        }),
        TernW::ShfLeftWrap => map3(x, y, z, |a, b, c: u32| {
            ((pair(a, b) << (c & 31)) >> 32) as u32
        }),
        TernW::ShfRightClamp => map3(x, y, z, |a, b, c: u32| (pair(a, b) >> c.min(32)) as u32),
        TernW::ShfRightWrap => map3(x, y, z, |a, b, c: u32| (pair(a, b) >> (c & 31)) as u32),
        TernW::Dp4aSS => map3(x, y, z, dot4(true, true)),
        TernW::Dp4aSU => map3(x, y, z, dot4(true, false)),
        TernW::Dp4aUS => map3(x, y, z, dot4(false, true)),
        TernW::Dp4aUU => map3(x, y, z, dot4(false, false)),
        TernW::Dp2aLoSS => map3(x, y, z, dot2(true, true, false)),
        TernW::Dp2aLoSU => map3(x, y, z, dot2(true, false, false)),
        TernW::Dp2aLoUS => map3(x, y, z, dot2(false, true, false)),
        TernW::Dp2aLoUU => map3(x, y, z, dot2(false, false, false)),
        TernW::Dp2aHiSS => map3(x, y, z, dot2(true, true, true)),
        TernW::Dp2aHiSU => map3(x, y, z, dot2(true, false, true)),
        TernW::Dp2aHiUS => map3(x, y, z, dot2(false, true, true)),
        TernW::Dp2aHiUU => map3(x, y, z, dot2(false, false, true)),
        TernW::FmaF => map3(x, y, z, |p, q, r| b(f(p).mul_add(f(q), f(r)))),
        TernW::FmaFtz => map3(x, y, z, |p, q, r| {
            flush(b(f(flush(p)).mul_add(f(flush(q)), f(flush(r)))))
        }),
    }
}

#[inline(always)]
pub fn un_d(op: UnD, a: &L64) -> L64 {
    match op {
        UnD::Not => map1(a, |a| !a),
        UnD::Neg => map1(a, u64::wrapping_neg),
        UnD::Abs => map1(a, |a| (a as i64).wrapping_abs() as u64),
        UnD::Brev => map1(a, u64::reverse_bits),
        UnD::NegF => map1(a, |a| a ^ 1 << 63),
        UnD::AbsF => map1(a, |a| a & !(1 << 63)),
        UnD::SqrtF => map1(a, |a| g(a).sqrt().to_bits()),
        UnD::RcpF | UnD::RcpApproxF => map1(a, |a| (1.0 / g(a)).to_bits()),
        UnD::RsqrtF | UnD::RsqrtApproxF => map1(a, |a| (1.0 / g(a).sqrt()).to_bits()),
    }
}

#[inline(always)]
pub fn bin_d(op: BinD, x: &L64, y: &L64) -> L64 {
    match op {
        BinD::Add => map2(x, y, u64::wrapping_add),
        BinD::Sub => map2(x, y, u64::wrapping_sub),
        BinD::Mul => map2(x, y, u64::wrapping_mul),
        BinD::MulHiS => map2(x, y, |a, b| {
            ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
        }),
        BinD::MulHiU => map2(x, y, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        BinD::DivS => map2(x, y, |a, b| {
            if b == 0 {
                u64::MAX
            } else {
                (a as i64).wrapping_div(b as i64) as u64
            }
        }),
        BinD::DivU => map2(x, y, |a: u64, b| a.checked_div(b).unwrap_or(u64::MAX)),
        BinD::RemS => map2(x, y, |a, b| {
            if b == 0 {
                a
            } else {
                (a as i64).wrapping_rem(b as i64) as u64
            }
        }),
        BinD::RemU => map2(x, y, |a: u64, b| a.checked_rem(b).unwrap_or(a)),
        BinD::MinS => map2(x, y, |a, b| (a as i64).min(b as i64) as u64),
        BinD::MinU => map2(x, y, |a: u64, b| a.min(b)),
        BinD::MaxS => map2(x, y, |a, b| (a as i64).max(b as i64) as u64),
        BinD::MaxU => map2(x, y, |a: u64, b| a.max(b)),
        BinD::And => map2(x, y, |a, b| a & b),
        BinD::Or => map2(x, y, |a, b| a | b),
        BinD::Xor => map2(x, y, |a, b| a ^ b),
        BinD::CNot => map1(x, |a| u64::from(a == 0)),
        BinD::AddF => map2(x, y, |a, b| (g(a) + g(b)).to_bits()),
        BinD::SubF => map2(x, y, |a, b| (g(a) - g(b)).to_bits()),
        BinD::MulF => map2(x, y, |a, b| (g(a) * g(b)).to_bits()),
        BinD::DivF => map2(x, y, |a, b| (g(a) / g(b)).to_bits()),
        BinD::MinF => map2(x, y, |a, b| min_d(a, b, false)),
        BinD::MaxF => map2(x, y, |a, b| min_d(a, b, true)),
        BinD::CopySign => map2(x, y, |a, b| a & !(1 << 63) | b & 1 << 63),
    }
}

#[inline(always)]
pub fn tern_d(op: TernD, x: &L64, y: &L64, z: &L64) -> L64 {
    match op {
        TernD::Mad => map3(x, y, z, |a: u64, b, c: u64| {
            a.wrapping_mul(b).wrapping_add(c)
        }),
        TernD::MadHiS => map2(&bin_d(BinD::MulHiS, x, y), z, u64::wrapping_add),
        TernD::MadHiU => map2(&bin_d(BinD::MulHiU, x, y), z, u64::wrapping_add),
        TernD::SadS => map3(x, y, z, |a, b, c: u64| {
            (a as i64).abs_diff(b as i64).wrapping_add(c)
        }),
        TernD::SadU => map3(x, y, z, |a: u64, b, c: u64| a.abs_diff(b).wrapping_add(c)),
        TernD::FmaF => map3(x, y, z, |a, b, c| g(a).mul_add(g(b), g(c)).to_bits()),
    }
}

#[inline(always)]
pub fn cmp_w(op: CmpW, x: &L32, y: &L32) -> u32 {
    let float = |cmp: FloatCmp, p: u32, q: u32| {
        scalar::compare(cmp, f(p), f(q), f(p).is_nan() || f(q).is_nan())
    };
    match op {
        CmpW::Eq => test(x, y, |a, b| a == b),
        CmpW::Ne => test(x, y, |a, b| a != b),
        CmpW::LtS => test(x, y, |a, b| (a as i32) < b as i32),
        CmpW::LeS => test(x, y, |a, b| (a as i32) <= b as i32),
        CmpW::GtS => test(x, y, |a, b| (a as i32) > b as i32),
        CmpW::GeS => test(x, y, |a, b| (a as i32) >= b as i32),
        CmpW::LtU => test(x, y, |a, b| a < b),
        CmpW::LeU => test(x, y, |a, b| a <= b),
        CmpW::GtU => test(x, y, |a, b| a > b),
        CmpW::GeU => test(x, y, |a, b| a >= b),
        CmpW::F(FloatCmp::Lt) => test(x, y, |a, b| f(a) < f(b)),
        CmpW::F(FloatCmp::Gt) => test(x, y, |a, b| f(a) > f(b)),
        CmpW::F(cmp) => test(x, y, |a, b| float(cmp, a, b)),
        CmpW::FtzF(cmp) => test(x, y, |a, b| float(cmp, flush(a), flush(b))),
    }
}

#[inline(always)]
pub fn cmp_d(op: CmpD, x: &L64, y: &L64) -> u32 {
    match op {
        CmpD::Eq => test(x, y, |a, b| a == b),
        CmpD::Ne => test(x, y, |a, b| a != b),
        CmpD::LtS => test(x, y, |a, b| (a as i64) < b as i64),
        CmpD::LeS => test(x, y, |a, b| (a as i64) <= b as i64),
        CmpD::GtS => test(x, y, |a, b| (a as i64) > b as i64),
        CmpD::GeS => test(x, y, |a, b| (a as i64) >= b as i64),
        CmpD::LtU => test(x, y, |a, b| a < b),
        CmpD::LeU => test(x, y, |a, b| a <= b),
        CmpD::GtU => test(x, y, |a, b| a > b),
        CmpD::GeU => test(x, y, |a, b| a >= b),
        CmpD::F(cmp) => test(x, y, |a, b| {
            scalar::compare(cmp, g(a), g(b), g(a).is_nan() || g(b).is_nan())
        }),
    }
}
