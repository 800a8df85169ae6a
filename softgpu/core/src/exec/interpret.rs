//! The instruction loop: runs one path of a warp until the scheduler has to decide something.
//!
//! Each operation computes all 32 lanes in a loop that the compiler turns into vector instructions,
//! then keeps the active ones. The loop is compiled twice, once for processors with AVX2 and FMA.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "PTX integers wrap and are reinterpreted: the casts are the semantics"
)]

use std::sync::atomic::{Ordering, fence};

use super::cross;
use super::fault::FaultKind;
use super::lanes::*;
use super::memory::{Atomic, LaneFault, View, lanes};
use super::scalar;
use super::warp::Frame;
use crate::ptx::ir::*;

/// Where a path is, and what surrounds it.
pub struct Cursor<'a> {
    pub code: &'a [Inst],
    pub pc: u32,
    pub mask: u32,
    /// Lanes of the warp that have not exited.
    pub live: u32,
    /// Instructions the path may still execute.
    pub fuel: u64,
    /// Stop before the first instruction at or past this one after a step.
    pub stop: u32,
    /// Do not wait for lanes that are elsewhere.
    pub forced: bool,
    pub clock: &'a (dyn Fn() -> u64 + Sync),
}

/// Why the loop has stopped. `active` are the lanes that execute the instruction at the cursor.
#[derive(Debug)]
pub enum Event {
    /// Fuel or the stop was reached.
    Pause,
    /// The active lanes go to `target`; the others to the next instruction.
    Diverge {
        active: u32,
        target: u32,
    },
    /// The active lanes go to the places their index selects.
    Scatter {
        active: u32,
        table: u32,
        index: W,
    },
    Call {
        active: u32,
        site: u32,
    },
    Return {
        active: u32,
    },
    Exit {
        active: u32,
    },
    /// Lanes of `wanted` must arrive first.
    Gather {
        wanted: u32,
    },
    WarpSync {
        active: u32,
        wanted: u32,
    },
    Barrier {
        active: u32,
    },
    Yield,
    Fault {
        lane: usize,
        kind: FaultKind,
    },
}

/// Runs the path at the cursor.
pub fn execute(cursor: &mut Cursor<'_>, frame: &mut Frame, memory: &mut View<'_>) -> Event {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2")
        && std::arch::is_x86_feature_detected!("fma")
        && std::arch::is_x86_feature_detected!("bmi2")
        && std::arch::is_x86_feature_detected!("lzcnt")
        && std::arch::is_x86_feature_detected!("popcnt")
    {
        // SAFETY: the processor has the features, as just asked.
        return unsafe { execute_avx2(cursor, frame, memory) };
    }
    run(cursor, frame, memory)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi2,lzcnt,popcnt")]
fn execute_avx2(cursor: &mut Cursor<'_>, frame: &mut Frame, memory: &mut View<'_>) -> Event {
    run(cursor, frame, memory)
}

/// Addresses of all lanes.
#[inline(always)]
fn addresses(frame: &Frame, base: Base, offset: i32) -> L64 {
    let offset = i64::from(offset);
    match base {
        Base::D(d) => map1(&frame.d[d.index()], |a| a.wrapping_add_signed(offset)),
        Base::W(w) => map1(&frame.w[w.index()], |a| {
            u64::from(a).wrapping_add_signed(offset)
        }),
    }
}

fn widened(frame: &Frame, register: AnyReg) -> L64 {
    match register {
        AnyReg::W(w) => map1(&frame.w[w.index()], u64::from),
        AnyReg::D(d) => frame.d[d.index()],
        AnyReg::P(p) => std::array::from_fn(|lane| u64::from(frame.p[p.index()] >> lane & 1)),
    }
}

fn assign(frame: &mut Frame, register: AnyReg, values: &L64, mask: u32) {
    match register {
        AnyReg::W(w) => put(&mut frame.w[w.index()], &map1(values, |a| a as u32), mask),
        AnyReg::D(d) => put(&mut frame.d[d.index()], values, mask),
        AnyReg::P(p) => {
            let bits = (0..32).fold(0, |bits, lane| bits | ((values[lane] & 1) as u32) << lane);
            keep(&mut frame.p[p.index()], bits, mask);
        }
    }
}

/// Sets a predicate, or a 32-bit register, in the active lanes.
pub fn set_uniform(frame: &mut Frame, register: AnyReg, value: u64, mask: u32) {
    assign(frame, register, &[value; 32], mask);
}

#[inline(always)]
fn convert(frame: &mut Frame, spec: Conversion, a: AnyReg, d: AnyReg, mask: u32) {
    use Scalar as S;
    let plain = !spec.sat && !spec.relu && !spec.ftz;
    match (spec.from, spec.to, a, d) {
        (S::S32, S::F32, AnyReg::W(a), AnyReg::W(d)) if plain && spec.round == Round::Nearest => {
            let r = map1(&frame.w[a.index()], |a| (a as i32 as f32).to_bits());
            put(&mut frame.w[d.index()], &r, mask);
        }
        (S::U32, S::F32, AnyReg::W(a), AnyReg::W(d)) if plain && spec.round == Round::Nearest => {
            let r = map1(&frame.w[a.index()], |a| (a as f32).to_bits());
            put(&mut frame.w[d.index()], &r, mask);
        }
        // Rust's casts saturate and turn NaN to zero, as PTX does.
        (S::F32, S::S32, AnyReg::W(a), AnyReg::W(d)) if plain && spec.round == Round::Zero => {
            let r = map1(&frame.w[a.index()], |a| f(a) as i32 as u32);
            put(&mut frame.w[d.index()], &r, mask);
        }
        (S::F32, S::F64, AnyReg::W(a), AnyReg::D(d)) if plain && !spec.integral => {
            let r = map1(&frame.w[a.index()], |a| f64::from(f(a)).to_bits());
            put(&mut frame.d[d.index()], &r, mask);
        }
        (S::F64, S::F32, AnyReg::D(a), AnyReg::W(d)) if plain && spec.round == Round::Nearest => {
            let r = map1(&frame.d[a.index()], |a| b(g(a) as f32));
            put(&mut frame.w[d.index()], &r, mask);
        }
        (S::S32, S::F64, AnyReg::W(a), AnyReg::D(d)) if plain => {
            let r = map1(&frame.w[a.index()], |a| f64::from(a as i32).to_bits());
            put(&mut frame.d[d.index()], &r, mask);
        }
        (S::F32, S::F32, AnyReg::W(a), AnyReg::W(d)) if plain && spec.integral => {
            let a = &frame.w[a.index()];
            let r = match spec.round {
                Round::Zero => map1(a, |a| b(f(a).trunc())),
                Round::Down => map1(a, |a| b(f(a).floor())),
                Round::Up => map1(a, |a| b(f(a).ceil())),
                _ => map1(a, |a| b(f(a).round_ties_even())),
            };
            put(&mut frame.w[d.index()], &r, mask);
        }
        _ => convert_slow(frame, spec, a, d, mask),
    }
}

#[inline(never)]
fn convert_slow(frame: &mut Frame, spec: Conversion, a: AnyReg, d: AnyReg, mask: u32) {
    let r = map1(&widened(frame, a), |a| scalar::convert(spec, a));
    assign(frame, d, &r, mask);
}

#[inline(never)]
fn float_slow(frame: &mut Frame, spec: FloatSpec, sources: [AnyReg; 3], d: AnyReg, mask: u32) {
    let [a, b, c] = sources.map(|register| widened(frame, register));
    let mut r = [0; 32];
    for lane in lanes(mask) {
        r[lane] = scalar::float(spec, a[lane], b[lane], c[lane]);
    }
    assign(frame, d, &r, mask);
}

fn carry(frame: &Frame, flag: Option<P>) -> u32 {
    flag.map_or(0, |p| frame.p[p.index()])
}

#[inline(never)]
fn atomic_lanes(
    memory: &mut View<'_>,
    op: Atomic,
    addresses: &L64,
    mask: u32,
    b: &L64,
    c: &L64,
) -> Result<L64, LaneFault> {
    let mut old = [0; 32];
    for lane in lanes(mask) {
        old[lane] = memory
            .atomic(op, addresses[lane], lane, b[lane], c[lane])
            .map_err(|kind| (lane, kind))?;
    }
    Ok(old)
}

macro_rules! check {
    ($result:expr) => {
        if let Err((lane, kind)) = $result {
            return Event::Fault { lane, kind };
        }
    };
}

#[inline(always)]
fn run(cursor: &mut Cursor<'_>, frame: &mut Frame, memory: &mut View<'_>) -> Event {
    let code = cursor.code;
    let path = cursor.mask;
    loop {
        if cursor.fuel == 0 {
            return Event::Pause;
        }
        cursor.fuel -= 1;
        let inst = &code[cursor.pc as usize];
        let mask = match inst.guard.predicate {
            None => path,
            Some(p) => {
                let bits = frame.p[p.index()];
                path & if inst.guard.negate { !bits } else { bits }
            }
        };
        if mask == 0 {
            cursor.pc += 1;
            if cursor.pc >= cursor.stop {
                return Event::Pause;
            }
            continue;
        }
        match inst.op {
            Op::MovW { a, d } => {
                let r = frame.w[a.index()];
                put(&mut frame.w[d.index()], &r, mask);
            }
            Op::MovD { a, d } => {
                let r = frame.d[a.index()];
                put(&mut frame.d[d.index()], &r, mask);
            }
            Op::MovP { negate, a, d } => {
                let bits = frame.p[a.index()];
                keep(
                    &mut frame.p[d.index()],
                    if negate { !bits } else { bits },
                    mask,
                );
            }
            Op::PackD { lo, hi, d } => {
                let r = map2(&frame.w[lo.index()], &frame.w[hi.index()], |lo, hi| {
                    u64::from(hi) << 32 | u64::from(lo)
                });
                put(&mut frame.d[d.index()], &r, mask);
            }
            Op::ExtendD { signed, a, d } => {
                let a = &frame.w[a.index()];
                let r = if signed {
                    map1(a, |a| i64::from(a as i32) as u64)
                } else {
                    map1(a, u64::from)
                };
                put(&mut frame.d[d.index()], &r, mask);
            }
            Op::UnpackD { a, lo, hi } => {
                let a = frame.d[a.index()];
                if let Some(lo) = lo {
                    put(&mut frame.w[lo.index()], &map1(&a, |a| a as u32), mask);
                }
                if let Some(hi) = hi {
                    put(
                        &mut frame.w[hi.index()],
                        &map1(&a, |a| (a >> 32) as u32),
                        mask,
                    );
                }
            }
            Op::PackW { lo, hi, d } => {
                let r = map2(&frame.w[lo.index()], &frame.w[hi.index()], |lo, hi| {
                    hi << 16 | lo & 0xffff
                });
                put(&mut frame.w[d.index()], &r, mask);
            }
            Op::UnpackW { a, lo, hi } => {
                let a = frame.w[a.index()];
                if let Some(lo) = lo {
                    put(&mut frame.w[lo.index()], &map1(&a, |a| a & 0xffff), mask);
                }
                if let Some(hi) = hi {
                    put(&mut frame.w[hi.index()], &map1(&a, |a| a >> 16), mask);
                }
            }
            Op::SelW { a, b, p, d } => {
                let (a, b, bits) = (&frame.w[a.index()], &frame.w[b.index()], frame.p[p.index()]);
                let r: L32 = std::array::from_fn(|lane| {
                    if bits >> lane & 1 != 0 {
                        a[lane]
                    } else {
                        b[lane]
                    }
                });
                put(&mut frame.w[d.index()], &r, mask);
            }
            Op::SelD { a, b, p, d } => {
                let (a, b, bits) = (&frame.d[a.index()], &frame.d[b.index()], frame.p[p.index()]);
                let r: L64 = std::array::from_fn(|lane| {
                    if bits >> lane & 1 != 0 {
                        a[lane]
                    } else {
                        b[lane]
                    }
                });
                put(&mut frame.d[d.index()], &r, mask);
            }
            Op::UnW { f, a, d } => {
                let r = un_w(f, &frame.w[a.index()]);
                put(&mut frame.w[d.index()], &r, mask);
            }
            Op::UnD { f, a, d } => {
                let r = un_d(f, &frame.d[a.index()]);
                put(&mut frame.d[d.index()], &r, mask);
            }
            Op::BinW { f, a, b, d } => {
                let r = bin_w(f, &frame.w[a.index()], &frame.w[b.index()]);
                put(&mut frame.w[d.index()], &r, mask);
            }
            Op::BinD { f, a, b, d } => {
                let r = bin_d(f, &frame.d[a.index()], &frame.d[b.index()]);
                put(&mut frame.d[d.index()], &r, mask);
            }
            Op::TernW { f, a, b, c, d } => {
                let r = tern_w(
                    f,
                    &frame.w[a.index()],
                    &frame.w[b.index()],
                    &frame.w[c.index()],
                );
                put(&mut frame.w[d.index()], &r, mask);
            }
            Op::TernD { f, a, b, c, d } => {
                let r = tern_d(
                    f,
                    &frame.d[a.index()],
                    &frame.d[b.index()],
                    &frame.d[c.index()],
                );
                put(&mut frame.d[d.index()], &r, mask);
            }
            Op::ShiftD { f, a, b, d } => {
                let (a, b) = (&frame.d[a.index()], &frame.w[b.index()]);
                let r = match f {
                    ShiftD::Shl => map2(a, b, |a, b| if b > 63 { 0 } else { a << (b & 63) }),
                    ShiftD::ShrU => map2(a, b, |a, b| if b > 63 { 0 } else { a >> (b & 63) }),
                    ShiftD::ShrS => map2(a, b, |a, b: u32| ((a as i64) >> b.min(63)) as u64),
                };
                put(&mut frame.d[d.index()], &r, mask);
            }
            Op::Lop3 { table, a, b, c, d } => {
                let r = map3(
                    &frame.w[a.index()],
                    &frame.w[b.index()],
                    &frame.w[c.index()],
                    |a, b, c| scalar::lop3(table, a, b, c),
                );
                put(&mut frame.w[d.index()], &r, mask);
            }
            Op::BfeD { signed, a, b, c, d } => {
                let r = map3(
                    &frame.d[a.index()],
                    &frame.w[b.index()],
                    &frame.w[c.index()],
                    |a, b, c| scalar::bfe64(signed, a, b, c, 64),
                );
                put(&mut frame.d[d.index()], &r, mask);
            }
            Op::BfiW { a, b, c, e, d } => {
                let (a, b, c, e) = (
                    &frame.w[a.index()],
                    &frame.w[b.index()],
                    &frame.w[c.index()],
                    &frame.w[e.index()],
                );
                let r: L32 = std::array::from_fn(|l| {
                    scalar::bfi64(a[l].into(), b[l].into(), c[l], e[l], 32) as u32
                });
                put(&mut frame.w[d.index()], &r, mask);
            }
            Op::BfiD { a, b, c, e, d } => {
                let (a, b, c, e) = (
                    &frame.d[a.index()],
                    &frame.d[b.index()],
                    &frame.w[c.index()],
                    &frame.w[e.index()],
                );
                let r: L64 = std::array::from_fn(|l| scalar::bfi64(a[l], b[l], c[l], e[l], 64));
                put(&mut frame.d[d.index()], &r, mask);
            }
            Op::Prmt { mode, a, b, c, d } => {
                let r = map3(
                    &frame.w[a.index()],
                    &frame.w[b.index()],
                    &frame.w[c.index()],
                    |a, b, c| scalar::prmt(mode, a, b, c),
                );
                put(&mut frame.w[d.index()], &r, mask);
            }
            Op::MulWide { signed, a, b, d } => {
                let (a, b) = (&frame.w[a.index()], &frame.w[b.index()]);
                let r = if signed {
                    map2(a, b, |a, b| {
                        (i64::from(a as i32) * i64::from(b as i32)) as u64
                    })
                } else {
                    map2(a, b, |a, b| u64::from(a) * u64::from(b))
                };
                put(&mut frame.d[d.index()], &r, mask);
            }
            Op::MadWide { signed, a, b, c, d } => {
                let (a, b, c) = (
                    &frame.w[a.index()],
                    &frame.w[b.index()],
                    &frame.d[c.index()],
                );
                let r = if signed {
                    map3(a, b, c, |a, b, c: u64| {
                        c.wrapping_add_signed(i64::from(a as i32) * i64::from(b as i32))
                    })
                } else {
                    map3(a, b, c, |a, b, c: u64| {
                        c.wrapping_add(u64::from(a) * u64::from(b))
                    })
                };
                put(&mut frame.d[d.index()], &r, mask);
            }
            Op::CountD { f, a, d } => {
                let a = &frame.d[a.index()];
                let fold = |a: u64| a ^ ((a as i64) >> 63) as u64;
                let r = match f {
                    CountD::Clz => map1(a, u64::leading_zeros),
                    CountD::Popc => map1(a, u64::count_ones),
                    CountD::FindMsbS => map1(a, |a| scalar::find_msb(fold(a), 64, false)),
                    CountD::FindMsbU => map1(a, |a| scalar::find_msb(a, 64, false)),
                    CountD::ShiftFindMsbS => map1(a, |a| scalar::find_msb(fold(a), 64, true)),
                    CountD::ShiftFindMsbU => map1(a, |a| scalar::find_msb(a, 64, true)),
                };
                put(&mut frame.w[d.index()], &r, mask);
            }
            Op::CarryW {
                subtract,
                a,
                b,
                carry: flag,
                d,
                carry_out,
            } => {
                let (a, b, flag) = (frame.w[a.index()], frame.w[b.index()], carry(frame, flag));
                let (mut r, mut out) = ([0; 32], 0);
                for lane in 0..32 {
                    let bit = u64::from(flag >> lane & 1);
                    let (a, b) = (u64::from(a[lane]), u64::from(b[lane]));
                    let wide = if subtract {
                        a.wrapping_sub(b).wrapping_sub(bit)
                    } else {
                        a + b + bit
                    };
                    r[lane] = wide as u32;
                    out |= ((wide >> 32 & 1) as u32) << lane;
                }
                put(&mut frame.w[d.index()], &r, mask);
                if let Some(p) = carry_out {
                    keep(&mut frame.p[p.index()], out, mask);
                }
            }
            Op::CarryD {
                subtract,
                a,
                b,
                carry: flag,
                d,
                carry_out,
            } => {
                let (a, b, flag) = (frame.d[a.index()], frame.d[b.index()], carry(frame, flag));
                let (mut r, mut out) = ([0; 32], 0);
                for lane in 0..32 {
                    let bit = u128::from(flag >> lane & 1);
                    let (a, b) = (u128::from(a[lane]), u128::from(b[lane]));
                    let wide = if subtract {
                        a.wrapping_sub(b).wrapping_sub(bit)
                    } else {
                        a + b + bit
                    };
                    r[lane] = wide as u64;
                    out |= ((wide >> 64 & 1) as u32) << lane;
                }
                put(&mut frame.d[d.index()], &r, mask);
                if let Some(p) = carry_out {
                    keep(&mut frame.p[p.index()], out, mask);
                }
            }
            Op::Float { spec, a, b, c, d } => float_slow(frame, spec, [a, b, c], d, mask),
            Op::Convert { spec, a, d } => convert(frame, spec, a, d, mask),
            Op::ConvertPack { spec, a, b, d } => {
                let r = map2(&frame.w[a.index()], &frame.w[b.index()], |a, b| {
                    let half = |value: u32| scalar::convert(spec, value.into()) as u32;
                    half(a) << 16 | half(b)
                });
                put(&mut frame.w[d.index()], &r, mask);
            }
            Op::CmpW { f, a, b, p } => {
                let bits = cmp_w(f, &frame.w[a.index()], &frame.w[b.index()]);
                keep(&mut frame.p[p.index()], bits, mask);
            }
            Op::CmpD { f, a, b, p } => {
                let bits = cmp_d(f, &frame.d[a.index()], &frame.d[b.index()]);
                keep(&mut frame.p[p.index()], bits, mask);
            }
            Op::CmpHalf {
                f,
                ty,
                packed,
                a,
                b,
                p,
                q,
            } => {
                let (a, b) = (frame.w[a.index()], frame.w[b.index()]);
                let low = test(&a, &b, |a, b| scalar::compare_half(f, ty, a, b));
                let high = test(&a, &b, |a, b| scalar::compare_half(f, ty, a >> 16, b >> 16));
                keep(&mut frame.p[p.index()], low, mask);
                if let Some(q) = q {
                    keep(
                        &mut frame.p[q.index()],
                        if packed { high } else { !low },
                        mask,
                    );
                }
            }
            Op::BoolP { f, a, b, d } => {
                let (a, b) = (frame.p[a.index()], frame.p[b.index()]);
                let r = match f {
                    BoolOp::And => a & b,
                    BoolOp::Or => a | b,
                    BoolOp::Xor => a ^ b,
                };
                keep(&mut frame.p[d.index()], r, mask);
            }
            Op::Class { f, ty, a, p } => {
                let a = widened(frame, a);
                let bits = test(&a, &a, |a, _| scalar::class(f, ty, a));
                keep(&mut frame.p[p.index()], bits, mask);
            }
            Op::LdW {
                space,
                ty,
                base,
                offset,
                d,
            } => {
                let mut addresses = addresses(frame, base, offset);
                let step = u64::from(ty.bytes());
                if d[1].is_some() {
                    let count = if d[2].is_some() { 4 } else { 2 };
                    check!(View::check_vector(&addresses, mask, step * count));
                }
                for d in d.into_iter().flatten() {
                    let out = &mut frame.w[d.index()];
                    check!(memory.load_w(space, ty, &addresses, mask, out));
                    addresses = map1(&addresses, |a| a.wrapping_add(step));
                }
            }
            Op::LdD {
                space,
                base,
                offset,
                d,
                ..
            } => {
                let mut addresses = addresses(frame, base, offset);
                if d[1].is_some() {
                    let count = if d[2].is_some() { 4 } else { 2 };
                    check!(View::check_vector(&addresses, mask, 8 * count));
                }
                for d in d.into_iter().flatten() {
                    let out = &mut frame.d[d.index()];
                    check!(memory.load_d(space, &addresses, mask, out));
                    addresses = map1(&addresses, |a| a.wrapping_add(8));
                }
            }
            Op::StW {
                space,
                ty,
                base,
                offset,
                a,
            } => {
                let mut addresses = addresses(frame, base, offset);
                let step = u64::from(ty.bytes());
                if a[1].is_some() {
                    let count = if a[2].is_some() { 4 } else { 2 };
                    check!(View::check_vector(&addresses, mask, step * count));
                }
                for a in a.into_iter().flatten() {
                    check!(memory.store_w(space, ty, &addresses, mask, &frame.w[a.index()]));
                    addresses = map1(&addresses, |a| a.wrapping_add(step));
                }
            }
            Op::StD {
                space,
                base,
                offset,
                a,
                ..
            } => {
                let mut addresses = addresses(frame, base, offset);
                if a[1].is_some() {
                    let count = if a[2].is_some() { 4 } else { 2 };
                    check!(View::check_vector(&addresses, mask, 8 * count));
                }
                for a in a.into_iter().flatten() {
                    check!(memory.store_d(space, &addresses, mask, &frame.d[a.index()]));
                    addresses = map1(&addresses, |a| a.wrapping_add(8));
                }
            }
            Op::AtomW {
                space,
                f,
                ty,
                base,
                offset,
                b,
                c,
                d,
            } => {
                let addresses = addresses(frame, base, offset.into());
                let op = Atomic { space, f, ty };
                if ty == MemType::B32 {
                    let b = &frame.w[b.index()];
                    let c = c.map_or(b, |c| &frame.w[c.index()]);
                    let mut old = [0; 32];
                    if memory.atomic_w(op, &addresses, mask, (b, c), &mut old) {
                        if let Some(d) = d {
                            put(&mut frame.w[d.index()], &old, mask);
                        }
                        cursor.pc += 1;
                        if cursor.pc >= cursor.stop {
                            return Event::Pause;
                        }
                        continue;
                    }
                }
                let b = map1(&frame.w[b.index()], u64::from);
                let c = c.map_or([0; 32], |c| map1(&frame.w[c.index()], u64::from));
                match atomic_lanes(memory, op, &addresses, mask, &b, &c) {
                    Ok(old) => {
                        if let Some(d) = d {
                            put(&mut frame.w[d.index()], &map1(&old, |a| a as u32), mask);
                        }
                    }
                    Err((lane, kind)) => return Event::Fault { lane, kind },
                }
            }
            Op::AtomD {
                space,
                f,
                ty,
                base,
                offset,
                b,
                c,
                d,
            } => {
                let addresses = addresses(frame, base, offset.into());
                let b = frame.d[b.index()];
                let c = c.map_or([0; 32], |c| frame.d[c.index()]);
                match atomic_lanes(memory, Atomic { space, f, ty }, &addresses, mask, &b, &c) {
                    Ok(old) => {
                        if let Some(d) = d {
                            put(&mut frame.d[d.index()], &old, mask);
                        }
                    }
                    Err((lane, kind)) => return Event::Fault { lane, kind },
                }
            }
            // SYNC: pairs with the fences and atomics of other blocks and of the host program.
            Op::Fence {
                scope: FenceScope::SeqCst,
            } => fence(Ordering::SeqCst),
            // SYNC: as above.
            Op::Fence {
                scope: FenceScope::AcqRel,
            } => fence(Ordering::AcqRel),
            Op::LocalAddr { offset, d } => {
                let address = u64::from(frame.local) + u64::from(offset);
                put(&mut frame.d[d.index()], &[address; 32], mask);
            }
            Op::IsSpace { space, a, p } => {
                let a = frame.d[a.index()];
                let bits = test(&a, &a, |a, _| {
                    let window = a.wrapping_sub(SHARED_WINDOW) / WINDOW_BYTES;
                    match space {
                        Space::Shared => window == 0,
                        Space::Local => window == 1,
                        Space::Param => window == 2,
                        _ => a < SHARED_WINDOW,
                    }
                });
                keep(&mut frame.p[p.index()], bits, mask);
            }
            Op::Bra { target } => {
                if mask != path {
                    return Event::Diverge {
                        active: mask,
                        target,
                    };
                }
                cursor.pc = target;
                if target >= cursor.stop {
                    return Event::Pause;
                }
                continue;
            }
            Op::BraTable { table, index } => {
                return Event::Scatter {
                    active: mask,
                    table,
                    index,
                };
            }
            Op::Call { site, .. } => return Event::Call { active: mask, site },
            Op::Ret {} => return Event::Return { active: mask },
            Op::Exit {} => return Event::Exit { active: mask },
            Op::Trap {} => {
                return Event::Fault {
                    lane: mask.trailing_zeros() as usize & 31,
                    kind: FaultKind::Trap,
                };
            }
            Op::Yield {} => {
                cursor.pc += 1;
                return Event::Yield;
            }
            Op::Nop {} => {}
            Op::Barrier { .. } => return Event::Barrier { active: mask },
            Op::WarpSync { mask: wanted } => {
                let wanted = first_active(&frame.w[wanted.index()], mask) & cursor.live;
                if wanted & !mask != 0 && !cursor.forced {
                    return Event::WarpSync {
                        active: mask,
                        wanted,
                    };
                }
                cursor.forced = false;
            }
            Op::Shfl { mask: members, .. }
            | Op::Vote { mask: members, .. }
            | Op::MatchW { mask: members, .. }
            | Op::MatchD { mask: members, .. }
            | Op::Redux { mask: members, .. }
            | Op::Elect { mask: members, .. } => {
                let wanted = first_active(&frame.w[members.index()], mask) & cursor.live;
                if wanted & !path != 0 && !cursor.forced {
                    return Event::Gather { wanted };
                }
                cross::execute(inst.op, frame, mask, wanted);
                cursor.forced = false;
            }
            Op::ActiveMask { d } => put(&mut frame.w[d.index()], &[mask; 32], mask),
            Op::Clock { f, d } => {
                let now = (cursor.clock)();
                let value = match f {
                    Clock::Clock32 | Clock::GlobalTimerLo => now & 0xffff_ffff,
                    Clock::ClockHi | Clock::GlobalTimerHi => now >> 32,
                    Clock::Clock64 | Clock::GlobalTimer => now,
                };
                set_uniform(frame, d, value, mask);
            }
        }
        cursor.pc += 1;
        if cursor.pc >= cursor.stop {
            return Event::Pause;
        }
    }
}

/// The first active lane's value.
#[inline(always)]
pub fn first_active(values: &L32, mask: u32) -> u32 {
    values[mask.trailing_zeros() as usize & 31]
}
