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

use std::num::NonZeroU16;
use std::ops::{Deref, DerefMut};

use super::processor::Processor;
use super::scalar;
use super::warp::{FULL, Frame};
use crate::ptx::ir::*;

pub type L32 = [u32; 32];
pub type L64 = [u64; 32];

/// A register's values. Aligned so that no access by a vector instruction crosses a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Row<T>(pub [T; 32]);

impl<T> Deref for Row<T> {
    type Target = [T; 32];

    #[inline(always)]
    fn deref(&self) -> &[T; 32] {
        &self.0
    }
}

impl<T> DerefMut for Row<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T; 32] {
        &mut self.0
    }
}

#[inline(always)]
pub fn map1<A: Copy, R: Copy + Default>(
    cpu: impl Processor,
    a: &[A; 32],
    f: impl Fn(A) -> R,
) -> [R; 32] {
    each(cpu, |lane| f(a[lane]))
}

#[inline(always)]
pub fn map2<A: Copy, B: Copy, R: Copy + Default>(
    cpu: impl Processor,
    a: &[A; 32],
    b: &[B; 32],
    f: impl Fn(A, B) -> R,
) -> [R; 32] {
    each(cpu, |lane| f(a[lane], b[lane]))
}

/// Registers of one file: those that an operation reads, the one it writes, and the lanes that do.
pub struct Slots<'a, T, const N: usize> {
    pub file: &'a mut [Row<T>],
    pub from: [NonZeroU16; N],
    pub to: NonZeroU16,
    pub mask: u32,
}

impl<T: Bits> Slots<'_, T, 1> {
    #[inline(always)]
    pub fn map(self, cpu: impl Processor, f: impl Fn(T) -> T) {
        self.compute(cpu, move |[a], lane| f(a[lane]));
    }
}

impl<T: Bits> Slots<'_, T, 2> {
    #[inline(always)]
    pub fn map(self, cpu: impl Processor, f: impl Fn(T, T) -> T) {
        self.compute(cpu, move |[a, b], lane| f(a[lane], b[lane]));
    }
}

impl<T: Bits> Slots<'_, T, 3> {
    #[inline(always)]
    pub fn map(self, cpu: impl Processor, f: impl Fn(T, T, T) -> T) {
        self.compute(cpu, move |[a, b, c], lane| f(a[lane], b[lane], c[lane]));
    }
}

impl<T: Bits, const N: usize> Slots<'_, T, N> {
    #[inline(always)]
    pub fn compute(self, cpu: impl Processor, f: impl Fn([&[T; 32]; N], usize) -> T) {
        cpu.apart_with(
            self.file,
            (self.from, self.to),
            self.mask,
            #[inline(always)]
            move |file, (from, to), mask| {
                let from = from.map(|register| &file[usize::from(register.get())].0);
                let mut r = [T::default(); 32];
                for (lane, r) in r.iter_mut().enumerate() {
                    *r = f(from, lane);
                }
                keep_lanes(&mut file[usize::from(to.get())], &r, mask);
            },
        );
    }
}

/// Computes a 32-bit register from registers of both files.
#[inline(always)]
pub fn to_w<const N: usize, const M: usize>(
    cpu: impl Processor,
    frame: &mut Frame,
    (w, d): ([W; N], [D; M]),
    to: W,
    mask: u32,
    f: impl Fn([u32; N], [u64; M]) -> u32,
) {
    cpu.apart_with(
        &mut *frame.w,
        &*frame.d,
        (w, d, to, mask),
        #[inline(always)]
        move |w_file: &mut [Row<u32>], d_file: &[Row<u64>], (w, d, to, mask)| {
            let w = w.map(|register| &w_file[register.index()].0);
            let d = d.map(|register| &d_file[register.index()].0);
            let mut r = [0; 32];
            for (lane, r) in r.iter_mut().enumerate() {
                *r = f(w.map(|row| row[lane]), d.map(|row| row[lane]));
            }
            keep_lanes(&mut w_file[to.index()], &r, mask);
        },
    );
}

/// Computes a 64-bit register from registers of both files.
#[inline(always)]
pub fn to_d<const N: usize, const M: usize>(
    cpu: impl Processor,
    frame: &mut Frame,
    (w, d): ([W; N], [D; M]),
    to: D,
    mask: u32,
    f: impl Fn([u32; N], [u64; M]) -> u64,
) {
    cpu.apart_with(
        &*frame.w,
        &mut *frame.d,
        (w, d, to, mask),
        #[inline(always)]
        move |w_file: &[Row<u32>], d_file: &mut [Row<u64>], (w, d, to, mask)| {
            let w = w.map(|register| &w_file[register.index()].0);
            let d = d.map(|register| &d_file[register.index()].0);
            let mut r = [0; 32];
            for (lane, r) in r.iter_mut().enumerate() {
                *r = f(w.map(|row| row[lane]), d.map(|row| row[lane]));
            }
            keep_lanes(&mut d_file[to.index()], &r, mask);
        },
    );
}

/// A value for each lane.
#[inline(always)]
pub fn each<R: Copy + Default>(cpu: impl Processor, f: impl Fn(usize) -> R) -> [R; 32] {
    cpu.apart(
        #[inline(always)]
        || {
            let mut r = [R::default(); 32];
            for (lane, r) in r.iter_mut().enumerate() {
                *r = f(lane);
            }
            r
        },
    )
}

/// Keeps the active lanes of a result.
#[inline(always)]
pub fn put<T: Bits>(cpu: impl Processor, d: &mut [T; 32], r: &[T; 32], mask: u32) {
    if mask == FULL {
        *d = *r;
    } else {
        cpu.apart(
            #[inline(always)]
            || keep_lanes(d, r, mask),
        );
    }
}

#[inline(always)]
fn keep_lanes<T: Bits>(d: &mut [T; 32], r: &[T; 32], mask: u32) {
    if mask == FULL {
        *d = *r;
        return;
    }
    for lane in 0..32 {
        d[lane] = T::choose(mask >> lane & 1, r[lane], d[lane]);
    }
}

/// What a register holds for one lane.
pub trait Bits: Copy + Default {
    /// All bits set where `yes`, none where not.
    fn all(yes: bool) -> Self;
    /// The highest bit of each lane.
    fn signs(cpu: impl Processor, lanes: &[Self; 32]) -> u32;
    /// `yes` where `bit` is 1, `no` where it is 0; arithmetic, so that no branch comes of it.
    fn choose(bit: u32, yes: Self, no: Self) -> Self;
}

impl Bits for u32 {
    #[inline(always)]
    fn all(yes: bool) -> Self {
        Self::from(yes).wrapping_neg()
    }

    #[inline(always)]
    fn signs(cpu: impl Processor, lanes: &[Self; 32]) -> u32 {
        cpu.signs(lanes)
    }

    #[inline(always)]
    fn choose(bit: u32, yes: Self, no: Self) -> Self {
        no ^ (yes ^ no) & bit.wrapping_neg()
    }
}

impl Bits for u64 {
    #[inline(always)]
    fn all(yes: bool) -> Self {
        Self::from(yes).wrapping_neg()
    }

    #[inline(always)]
    fn signs(cpu: impl Processor, lanes: &[Self; 32]) -> u32 {
        cpu.signs_wide(lanes)
    }

    #[inline(always)]
    fn choose(bit: u32, yes: Self, no: Self) -> Self {
        no ^ (yes ^ no) & Self::from(bit).wrapping_neg()
    }
}

/// The lanes of which something holds, a bit each.
#[inline(always)]
pub fn test<T: Bits>(
    cpu: impl Processor,
    a: &[T; 32],
    b: &[T; 32],
    f: impl Fn(T, T) -> bool,
) -> u32 {
    cpu.apart_with(
        a,
        b,
        (),
        #[inline(always)]
        move |a, b, ()| {
            let mut holds = [T::default(); 32];
            for (lane, holds) in holds.iter_mut().enumerate() {
                *holds = T::all(f(a[lane], b[lane]));
            }
            T::signs(cpu, &holds)
        },
    )
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
pub fn un_w(cpu: impl Processor, op: UnW, s: Slots<'_, u32, 1>) {
    match op {
        UnW::Not => s.map(cpu, |a| !a),
        UnW::Neg => s.map(cpu, u32::wrapping_neg),
        UnW::Abs => s.map(cpu, |a| (a as i32).wrapping_abs() as u32),
        UnW::Clz => s.map(cpu, u32::leading_zeros),
        UnW::Popc => s.map(cpu, u32::count_ones),
        UnW::Brev => s.map(cpu, u32::reverse_bits),
        UnW::FindMsbS => s.map(cpu, |a| {
            scalar::find_msb((a ^ ((a as i32) >> 31) as u32).into(), 32, false)
        }),
        UnW::FindMsbU => s.map(cpu, |a| scalar::find_msb(a.into(), 32, false)),
        UnW::ShiftFindMsbS => s.map(cpu, |a| {
            scalar::find_msb((a ^ ((a as i32) >> 31) as u32).into(), 32, true)
        }),
        UnW::ShiftFindMsbU => s.map(cpu, |a| scalar::find_msb(a.into(), 32, true)),
        UnW::Sext8 => s.map(cpu, |a| i32::from(a as i8) as u32),
        UnW::Sext16 => s.map(cpu, |a| i32::from(a as i16) as u32),
        UnW::Zext8 => s.map(cpu, |a| a & 0xff),
        UnW::Zext16 => s.map(cpu, |a| a & 0xffff),
        UnW::NegF => s.map(cpu, |a| a ^ 0x8000_0000),
        UnW::AbsF => s.map(cpu, |a| a & 0x7fff_ffff),
        UnW::FlushF => s.map(cpu, flush),
        // NaN fails both comparisons.
        UnW::SatF => s.map(cpu, |a| {
            if f(a) >= 1.0 {
                0x3f80_0000
            } else if f(a) > 0.0 {
                a
            } else {
                0
            }
        }),
        UnW::SqrtF => s.map(cpu, |a| b(f(a).sqrt())),
        UnW::RcpF => s.map(cpu, |a| b(1.0 / f(a))),
        UnW::RsqrtF => s.map(cpu, |a| b((1.0 / f64::from(f(a)).sqrt()) as f32)),
        UnW::Sin => s.map(cpu, |a| b(f64::from(f(a)).sin() as f32)),
        UnW::Cos => s.map(cpu, |a| b(f64::from(f(a)).cos() as f32)),
        UnW::Ex2 => s.map(cpu, |a| b(f64::from(f(a)).exp2() as f32)),
        UnW::Lg2 => s.map(cpu, |a| b(f64::from(f(a)).log2() as f32)),
        UnW::Tanh => s.map(cpu, |a| b(f64::from(f(a)).tanh() as f32)),
        UnW::NegH => s.map(cpu, |a| a ^ 0x8000),
        UnW::AbsH => s.map(cpu, |a| a & 0x7fff),
        UnW::NegHx2 => s.map(cpu, |a| a ^ 0x8000_8000),
        UnW::AbsHx2 => s.map(cpu, |a| a & 0x7fff_7fff),
        UnW::FlushHx2 => s.map(cpu, |a| {
            let low = if a & 0x7c00 == 0 {
                a & 0x8000
            } else {
                a & 0xffff
            };
            let high = if a & 0x7c00_0000 == 0 {
                a & 0x8000_0000
            } else {
                a & 0xffff_0000
            };
            high | low
        }),
    }
}

#[inline(always)]
pub fn bin_w(cpu: impl Processor, op: BinW, s: Slots<'_, u32, 2>) {
    let mul_hi_s = |a: u32, b: u32| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32;
    let mul_hi_u = |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32;
    let s24 = |a: u32| i64::from((a << 8) as i32 >> 8);
    let u24 = |a: u32| u64::from(a & 0xff_ffff);
    match op {
        BinW::Add => s.map(cpu, u32::wrapping_add),
        BinW::Sub => s.map(cpu, u32::wrapping_sub),
        BinW::Mul => s.map(cpu, u32::wrapping_mul),
        BinW::MulHiS => s.map(cpu, mul_hi_s),
        BinW::MulHiU => s.map(cpu, mul_hi_u),
        // Division by zero yields all ones, as on hardware; it is not an error in PTX.
        BinW::DivS => s.map(cpu, |a, b| {
            if b == 0 {
                u32::MAX
            } else {
                (a as i32).wrapping_div(b as i32) as u32
            }
        }),
        BinW::DivU => s.map(cpu, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        BinW::RemS => s.map(cpu, |a, b| {
            if b == 0 {
                a
            } else {
                (a as i32).wrapping_rem(b as i32) as u32
            }
        }),
        BinW::RemU => s.map(cpu, |a, b| a.checked_rem(b).unwrap_or(a)),
        BinW::MinS => s.map(cpu, |a, b| (a as i32).min(b as i32) as u32),
        BinW::MinU => s.map(cpu, |a: u32, b| a.min(b)),
        BinW::MaxS => s.map(cpu, |a, b| (a as i32).max(b as i32) as u32),
        BinW::MaxU => s.map(cpu, |a: u32, b| a.max(b)),
        BinW::AddSatS => s.map(cpu, |a, b| (a as i32).saturating_add(b as i32) as u32),
        BinW::SubSatS => s.map(cpu, |a, b| (a as i32).saturating_sub(b as i32) as u32),
        BinW::And => s.map(cpu, |a, b| a & b),
        BinW::Or => s.map(cpu, |a, b| a | b),
        BinW::Xor => s.map(cpu, |a, b| a ^ b),
        BinW::Shl => s.map(cpu, |a, b| if b > 31 { 0 } else { a << (b & 31) }),
        BinW::ShrS => s.map(cpu, |a, b| ((a as i32) >> b.min(31)) as u32),
        BinW::ShrU => s.map(cpu, |a, b| if b > 31 { 0 } else { a >> (b & 31) }),
        BinW::CNot => s.map(cpu, |a, _| u32::from(a == 0)),
        BinW::Bmsk => s.map(cpu, |a, b| {
            scalar::bfi64(u64::MAX, 0, a.min(255), b.min(255), 32) as u32
        }),
        BinW::BmskWrap => s.map(cpu, |a, b| {
            scalar::bfi64(u64::MAX, 0, a & 31, b & 31, 32) as u32
        }),
        BinW::Mul24LoS => s.map(cpu, |a, b| (s24(a) * s24(b)) as u32),
        BinW::Mul24LoU => s.map(cpu, |a, b| (u24(a) * u24(b)) as u32),
        BinW::Mul24HiS => s.map(cpu, |a, b| ((s24(a) * s24(b)) >> 16) as u32),
        BinW::Mul24HiU => s.map(cpu, |a, b| ((u24(a) * u24(b)) >> 16) as u32),
        BinW::Szext => s.map(cpu, |a, b| scalar::bfe32(true, a, 0, b.min(32))),
        BinW::SzextU => s.map(cpu, |a, b| scalar::bfe32(false, a, 0, b.min(32))),
        BinW::SzextWrap => s.map(cpu, |a, b| scalar::bfe32(true, a, 0, b & 31)),
        BinW::SzextWrapU => s.map(cpu, |a, b| scalar::bfe32(false, a, 0, b & 31)),
        BinW::AddF => s.map(cpu, |p, q| b(f(p) + f(q))),
        BinW::SubF => s.map(cpu, |p, q| b(f(p) - f(q))),
        BinW::MulF => s.map(cpu, |p, q| b(f(p) * f(q))),
        BinW::DivF => s.map(cpu, |p, q| b(f(p) / f(q))),
        BinW::MinF => s.map(cpu, min_f),
        BinW::MaxF => s.map(cpu, max_f),
        BinW::MinNanF => s.map(cpu, |p, q| {
            if f(p).is_nan() || f(q).is_nan() {
                0x7fff_ffff
            } else {
                min_f(p, q)
            }
        }),
        BinW::MaxNanF => s.map(cpu, |p, q| {
            if f(p).is_nan() || f(q).is_nan() {
                0x7fff_ffff
            } else {
                max_f(p, q)
            }
        }),
        BinW::AddFtz => s.map(cpu, |p, q| flush(b(f(flush(p)) + f(flush(q))))),
        BinW::SubFtz => s.map(cpu, |p, q| flush(b(f(flush(p)) - f(flush(q))))),
        BinW::MulFtz => s.map(cpu, |p, q| flush(b(f(flush(p)) * f(flush(q))))),
        BinW::CopySign => s.map(cpu, |a, b| a & 0x7fff_ffff | b & 0x8000_0000),
    }
}

#[inline(always)]
pub fn tern_w(cpu: impl Processor, op: TernW, s: Slots<'_, u32, 3>) {
    let hi_s = |a: u32, b: u32| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32;
    let hi_u = |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32;
    let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    let dot4 = |p, q| move |a, b, c| scalar::dot4(a, b, c, p, q);
    let dot2 = |p, q, h| move |a, b, c| scalar::dot2(a, b, c, p, q, h);
    match op {
        TernW::Mad => s.map(cpu, |a: u32, b, c: u32| a.wrapping_mul(b).wrapping_add(c)),
        TernW::MadHiS => s.map(cpu, |a, b, c: u32| hi_s(a, b).wrapping_add(c)),
        TernW::MadHiU => s.map(cpu, |a, b, c: u32| hi_u(a, b).wrapping_add(c)),
        TernW::MadHiSatS => s.map(cpu, |a, b, c: u32| {
            (hi_s(a, b) as i32).saturating_add(c as i32) as u32
        }),
        TernW::SadS => s.map(cpu, |a, b, c: u32| {
            (a as i32).abs_diff(b as i32).wrapping_add(c)
        }),
        TernW::SadU => s.map(cpu, |a: u32, b, c: u32| a.abs_diff(b).wrapping_add(c)),
        TernW::BfeS => s.map(cpu, |a, b, c| scalar::bfe32(true, a, b, c)),
        TernW::BfeU => s.map(cpu, |a, b, c| scalar::bfe32(false, a, b, c)),
        TernW::ShfLeftClamp => s.map(cpu, |a, b, c: u32| ((pair(a, b) << c.min(32)) >> 32) as u32),
        TernW::ShfLeftWrap => s.map(cpu, |a, b, c: u32| ((pair(a, b) << (c & 31)) >> 32) as u32),
        TernW::ShfRightClamp => s.map(cpu, |a, b, c: u32| (pair(a, b) >> c.min(32)) as u32),
        TernW::ShfRightWrap => s.map(cpu, |a, b, c: u32| (pair(a, b) >> (c & 31)) as u32),
        TernW::Dp4aSS => s.map(cpu, dot4(true, true)),
        TernW::Dp4aSU => s.map(cpu, dot4(true, false)),
        TernW::Dp4aUS => s.map(cpu, dot4(false, true)),
        TernW::Dp4aUU => s.map(cpu, dot4(false, false)),
        TernW::Dp2aLoSS => s.map(cpu, dot2(true, true, false)),
        TernW::Dp2aLoSU => s.map(cpu, dot2(true, false, false)),
        TernW::Dp2aLoUS => s.map(cpu, dot2(false, true, false)),
        TernW::Dp2aLoUU => s.map(cpu, dot2(false, false, false)),
        TernW::Dp2aHiSS => s.map(cpu, dot2(true, true, true)),
        TernW::Dp2aHiSU => s.map(cpu, dot2(true, false, true)),
        TernW::Dp2aHiUS => s.map(cpu, dot2(false, true, true)),
        TernW::Dp2aHiUU => s.map(cpu, dot2(false, false, true)),
        TernW::FmaF => s.map(cpu, |p, q, r| b(f(p).mul_add(f(q), f(r)))),
        TernW::FmaFtz => s.map(cpu, |p, q, r| {
            flush(b(f(flush(p)).mul_add(f(flush(q)), f(flush(r)))))
        }),
    }
}

#[inline(always)]
pub fn un_d(cpu: impl Processor, op: UnD, s: Slots<'_, u64, 1>) {
    match op {
        UnD::Not => s.map(cpu, |a| !a),
        UnD::Neg => s.map(cpu, u64::wrapping_neg),
        UnD::Abs => s.map(cpu, |a| (a as i64).wrapping_abs() as u64),
        UnD::Brev => s.map(cpu, u64::reverse_bits),
        UnD::NegF => s.map(cpu, |a| a ^ 1 << 63),
        UnD::AbsF => s.map(cpu, |a| a & !(1 << 63)),
        UnD::SqrtF => s.map(cpu, |a| g(a).sqrt().to_bits()),
        UnD::RcpF | UnD::RcpApproxF => s.map(cpu, |a| (1.0 / g(a)).to_bits()),
        UnD::RsqrtF | UnD::RsqrtApproxF => s.map(cpu, |a| (1.0 / g(a).sqrt()).to_bits()),
    }
}

#[inline(always)]
pub fn bin_d(cpu: impl Processor, op: BinD, s: Slots<'_, u64, 2>) {
    match op {
        BinD::Add => s.map(cpu, u64::wrapping_add),
        BinD::Sub => s.map(cpu, u64::wrapping_sub),
        BinD::Mul => s.map(cpu, u64::wrapping_mul),
        BinD::MulHiS => s.map(cpu, |a, b| {
            ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
        }),
        BinD::MulHiU => s.map(cpu, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        BinD::DivS => s.map(cpu, |a, b| {
            if b == 0 {
                u64::MAX
            } else {
                (a as i64).wrapping_div(b as i64) as u64
            }
        }),
        BinD::DivU => s.map(cpu, |a: u64, b| a.checked_div(b).unwrap_or(u64::MAX)),
        BinD::RemS => s.map(cpu, |a, b| {
            if b == 0 {
                a
            } else {
                (a as i64).wrapping_rem(b as i64) as u64
            }
        }),
        BinD::RemU => s.map(cpu, |a: u64, b| a.checked_rem(b).unwrap_or(a)),
        BinD::MinS => s.map(cpu, |a, b| (a as i64).min(b as i64) as u64),
        BinD::MinU => s.map(cpu, |a: u64, b| a.min(b)),
        BinD::MaxS => s.map(cpu, |a, b| (a as i64).max(b as i64) as u64),
        BinD::MaxU => s.map(cpu, |a: u64, b| a.max(b)),
        BinD::And => s.map(cpu, |a, b| a & b),
        BinD::Or => s.map(cpu, |a, b| a | b),
        BinD::Xor => s.map(cpu, |a, b| a ^ b),
        BinD::CNot => s.map(cpu, |a, _| u64::from(a == 0)),
        BinD::AddF => s.map(cpu, |a, b| (g(a) + g(b)).to_bits()),
        BinD::SubF => s.map(cpu, |a, b| (g(a) - g(b)).to_bits()),
        BinD::MulF => s.map(cpu, |a, b| (g(a) * g(b)).to_bits()),
        BinD::DivF => s.map(cpu, |a, b| (g(a) / g(b)).to_bits()),
        BinD::MinF => s.map(cpu, |a, b| min_d(a, b, false)),
        BinD::MaxF => s.map(cpu, |a, b| min_d(a, b, true)),
        BinD::CopySign => s.map(cpu, |a, b| a & !(1 << 63) | b & 1 << 63),
    }
}

#[inline(always)]
pub fn tern_d(cpu: impl Processor, op: TernD, s: Slots<'_, u64, 3>) {
    match op {
        TernD::Mad => s.map(cpu, |a: u64, b, c: u64| a.wrapping_mul(b).wrapping_add(c)),
        TernD::MadHiS => s.map(cpu, |a, b, c: u64| {
            let product = i128::from(a as i64) * i128::from(b as i64);
            c.wrapping_add((product >> 64) as u64)
        }),
        TernD::MadHiU => s.map(cpu, |a, b, c: u64| {
            c.wrapping_add(((u128::from(a) * u128::from(b)) >> 64) as u64)
        }),
        TernD::SadS => s.map(cpu, |a, b, c: u64| {
            (a as i64).abs_diff(b as i64).wrapping_add(c)
        }),
        TernD::SadU => s.map(cpu, |a: u64, b, c: u64| a.abs_diff(b).wrapping_add(c)),
        TernD::FmaF => s.map(cpu, |a, b, c| g(a).mul_add(g(b), g(c)).to_bits()),
    }
}

#[inline(always)]
pub fn cmp_w(cpu: impl Processor, op: CmpW, x: &L32, y: &L32) -> u32 {
    let float = |cmp: FloatCmp, p: u32, q: u32| {
        scalar::compare(cmp, f(p), f(q), f(p).is_nan() || f(q).is_nan())
    };
    match op {
        CmpW::Eq => test(cpu, x, y, |a, b| a == b),
        CmpW::Ne => test(cpu, x, y, |a, b| a != b),
        CmpW::LtS => test(cpu, x, y, |a, b| (a as i32) < b as i32),
        CmpW::LeS => test(cpu, x, y, |a, b| (a as i32) <= b as i32),
        CmpW::GtS => test(cpu, x, y, |a, b| (a as i32) > b as i32),
        CmpW::GeS => test(cpu, x, y, |a, b| (a as i32) >= b as i32),
        CmpW::LtU => test(cpu, x, y, |a, b| a < b),
        CmpW::LeU => test(cpu, x, y, |a, b| a <= b),
        CmpW::GtU => test(cpu, x, y, |a, b| a > b),
        CmpW::GeU => test(cpu, x, y, |a, b| a >= b),
        CmpW::F(FloatCmp::Lt) => test(cpu, x, y, |a, b| f(a) < f(b)),
        CmpW::F(FloatCmp::Gt) => test(cpu, x, y, |a, b| f(a) > f(b)),
        CmpW::F(cmp) => test(cpu, x, y, |a, b| float(cmp, a, b)),
        CmpW::FtzF(cmp) => test(cpu, x, y, |a, b| float(cmp, flush(a), flush(b))),
    }
}

#[inline(always)]
pub fn cmp_d(cpu: impl Processor, op: CmpD, x: &L64, y: &L64) -> u32 {
    match op {
        CmpD::Eq => test(cpu, x, y, |a, b| a == b),
        CmpD::Ne => test(cpu, x, y, |a, b| a != b),
        CmpD::LtS => test(cpu, x, y, |a, b| (a as i64) < b as i64),
        CmpD::LeS => test(cpu, x, y, |a, b| (a as i64) <= b as i64),
        CmpD::GtS => test(cpu, x, y, |a, b| (a as i64) > b as i64),
        CmpD::GeS => test(cpu, x, y, |a, b| (a as i64) >= b as i64),
        CmpD::LtU => test(cpu, x, y, |a, b| a < b),
        CmpD::LeU => test(cpu, x, y, |a, b| a <= b),
        CmpD::GtU => test(cpu, x, y, |a, b| a > b),
        CmpD::GeU => test(cpu, x, y, |a, b| a >= b),
        CmpD::F(cmp) => test(cpu, x, y, |a, b| {
            scalar::compare(cmp, g(a), g(b), g(a).is_nan() || g(b).is_nan())
        }),
    }
}
