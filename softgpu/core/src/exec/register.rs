//! The registers of a frame as operations use them: addresses, values of any width, conversions.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "PTX integers wrap and are reinterpreted: the casts are the semantics"
)]

use super::lanes::*;
use super::memory::lanes;
use super::processor::{Plain, Processor};
use super::rare;
use super::scalar;
use super::warp::Frame;
use crate::ptx::ir::*;

/// Addresses of all lanes.
#[inline(always)]
pub fn addresses(cpu: impl Processor, frame: &Frame, base: Base, offset: i32) -> L64 {
    let offset = i64::from(offset);
    match base {
        Base::D(d) => map1(cpu, &frame.d[d.index()], |a| a.wrapping_add_signed(offset)),
        Base::W(w) => map1(cpu, &frame.w[w.index()], |a| {
            u64::from(a).wrapping_add_signed(offset)
        }),
    }
}

pub fn widened(frame: &Frame, register: AnyReg) -> L64 {
    match register {
        AnyReg::W(w) => map1(Plain, &frame.w[w.index()], u64::from),
        AnyReg::D(d) => *frame.d[d.index()],
        AnyReg::P(p) => std::array::from_fn(|lane| u64::from(frame.p[p.index()] >> lane & 1)),
    }
}

fn assign(cpu: impl Processor, frame: &mut Frame, register: AnyReg, values: &L64, mask: u32) {
    match register {
        AnyReg::W(w) => put(
            cpu,
            &mut frame.w[w.index()],
            &map1(cpu, values, |a| a as u32),
            mask,
        ),
        AnyReg::D(d) => put(cpu, &mut frame.d[d.index()], values, mask),
        AnyReg::P(p) => {
            let bits = (0..32).fold(0, |bits, lane| bits | ((values[lane] & 1) as u32) << lane);
            keep(&mut frame.p[p.index()], bits, mask);
        }
    }
}

/// Sets a predicate, or a 32-bit register, in the active lanes.
pub fn set_uniform(frame: &mut Frame, register: AnyReg, value: u64, mask: u32) {
    assign(Plain, frame, register, &[value; 32], mask);
}

#[inline(always)]
pub fn convert(
    cpu: impl Processor,
    frame: &mut Frame,
    spec: Conversion,
    a: AnyReg,
    d: AnyReg,
    mask: u32,
) {
    use Scalar as S;
    let plain = !spec.sat && !spec.relu && !spec.ftz && !spec.finite;
    match (spec.from, spec.to, a, d) {
        (S::S32, S::F32, AnyReg::W(a), AnyReg::W(d)) if plain && spec.round == Round::Nearest => {
            to_w(cpu, frame, ([a], []), d, mask, |[a], []| {
                (a as i32 as f32).to_bits()
            });
        }
        (S::U32, S::F32, AnyReg::W(a), AnyReg::W(d)) if plain && spec.round == Round::Nearest => {
            to_w(cpu, frame, ([a], []), d, mask, |[a], []| {
                (a as f32).to_bits()
            });
        }
        // Rust's casts saturate and turn NaN to zero, as PTX does.
        (S::F32, S::S32, AnyReg::W(a), AnyReg::W(d)) if plain && spec.round == Round::Zero => {
            to_w(cpu, frame, ([a], []), d, mask, |[a], []| f(a) as i32 as u32);
        }
        (S::F32, S::F64, AnyReg::W(a), AnyReg::D(d)) if plain && !spec.integral => {
            to_d(cpu, frame, ([a], []), d, mask, |[a], []| {
                f64::from(f(a)).to_bits()
            });
        }
        (S::F64, S::F32, AnyReg::D(a), AnyReg::W(d)) if plain && spec.round == Round::Nearest => {
            to_w(cpu, frame, ([], [a]), d, mask, |[], [a]| b(g(a) as f32));
        }
        (S::S32, S::F64, AnyReg::W(a), AnyReg::D(d)) if plain => {
            to_d(cpu, frame, ([a], []), d, mask, |[a], []| {
                f64::from(a as i32).to_bits()
            });
        }
        (S::F32, S::F32, AnyReg::W(a), AnyReg::W(d)) if plain && spec.integral => {
            let from = ([a], []);
            match spec.round {
                Round::Zero => to_w(cpu, frame, from, d, mask, |[a], []| b(f(a).trunc())),
                Round::Down => to_w(cpu, frame, from, d, mask, |[a], []| b(f(a).floor())),
                Round::Up => to_w(cpu, frame, from, d, mask, |[a], []| b(f(a).ceil())),
                _ => to_w(cpu, frame, from, d, mask, |[a], []| {
                    b(f(a).round_ties_even())
                }),
            }
        }
        _ => convert_slow(cpu, frame, spec, a, d, mask),
    }
}

#[inline(never)]
fn convert_slow(
    cpu: impl Processor,
    frame: &mut Frame,
    spec: Conversion,
    a: AnyReg,
    d: AnyReg,
    mask: u32,
) {
    let r = map1(cpu, &widened(frame, a), |a| scalar::convert(spec, a));
    assign(cpu, frame, d, &r, mask);
}

#[inline(never)]
pub fn float_slow(
    cpu: impl Processor,
    frame: &mut Frame,
    spec: FloatSpec,
    sources: [AnyReg; 3],
    d: AnyReg,
    mask: u32,
) {
    let [a, b, c] = sources.map(|register| widened(frame, register));
    let mut r = [0; 32];
    for lane in lanes(mask) {
        r[lane] = scalar::float(spec, a[lane], b[lane], c[lane]);
    }
    assign(cpu, frame, d, &r, mask);
}

#[inline(never)]
pub fn rare_lanes(frame: &mut Frame, f: Rare, sources: [W; 3], d: W, mask: u32) {
    let [a, b, c] = sources.map(|register| frame.w[register.index()]);
    for lane in lanes(mask) {
        frame.w[d.index()][lane] = rare::compute(f, a[lane], b[lane], c[lane]);
    }
}

/// The first active lane's value.
#[inline(always)]
pub fn first_active(values: &L32, mask: u32) -> u32 {
    values[mask.trailing_zeros() as usize & 31]
}
