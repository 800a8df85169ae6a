//! The instruction loop: runs one path of a warp until the scheduler has to decide something.
//!
//! Each operation computes all 32 lanes, then keeps the active ones.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "PTX integers wrap and are reinterpreted: the casts are the semantics"
)]

use std::num::NonZeroU16;
use std::sync::atomic::{Ordering, fence};

use super::asynchronous;
use super::cross;
use super::fault::FaultKind;
use super::image;
use super::lanes::*;
use super::matrix;
use super::memory::View;
#[cfg(target_arch = "x86_64")]
use super::processor::Avx2;
use super::processor::{Plain, Processor};
use super::register::*;
use super::scalar;
use super::tensor;
use super::transfer::{Target, atomic, load, store};
use super::warp::Frame;
use super::wide;
use crate::ptx::ir::*;

/// What a round of a loop counts for that tries to take a lock or to see a change: other lanes or warps may be the ones
/// to act.
const ATTEMPT: u64 = 1 << 11;

/// Where a path is, and what surrounds it.
pub struct Cursor<'a> {
    pub code: &'a [Inst],
    pub pc: u32,
    pub mask: u32,
    /// Lanes of the warp that have not exited.
    pub live: u32,
    /// Instructions the path may still execute, an [`ATTEMPT`] counting as many.
    pub fuel: u64,
    /// What of the fuel went to no instruction.
    pub charged: u64,
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
    /// Lanes of `wanted` must arrive first; the others than the active ones go on.
    Gather {
        active: u32,
        wanted: u32,
    },
    WarpSync {
        active: u32,
        wanted: u32,
    },
    Stack {
        active: u32,
    },
    Barrier {
        active: u32,
    },
    Yield,
    Fault {
        lane: usize,
        kind: Box<FaultKind>,
    },
}

/// Runs the path at the cursor.
pub fn execute(cursor: &mut Cursor<'_>, frame: &mut Frame, memory: &mut View<'_>) -> Event {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Avx2::detect() {
        return cpu.apart(
            #[inline(always)]
            || run(cpu, cursor, frame, memory),
        );
    }
    run(Plain, cursor, frame, memory)
}

/// The carry that comes in. A difference adds the complement and one: its flag is set where nothing was
/// borrowed, as on the hardware, where `addc` after `sub.cc` tells the sign of a long difference.
fn carry(frame: &Frame, flag: Option<P>, subtract: bool) -> u32 {
    flag.map_or(u32::from(subtract).wrapping_neg(), |p| frame.p[p.index()])
}

#[inline(always)]
fn slots<T, const N: usize>(
    file: &mut [Row<T>],
    from: [NonZeroU16; N],
    to: NonZeroU16,
    mask: u32,
) -> Slots<'_, T, N> {
    Slots {
        file,
        from,
        to,
        mask,
    }
}

#[inline(always)]
fn select<T: Copy>(bits: u32, lane: usize, a: &[T; 32], b: &[T; 32]) -> T {
    if bits >> lane & 1 != 0 {
        a[lane]
    } else {
        b[lane]
    }
}

#[cold]
fn fault(lane: usize, kind: FaultKind) -> Event {
    Event::Fault {
        lane,
        kind: Box::new(kind),
    }
}

macro_rules! check {
    ($path:lifetime, $result:expr) => {
        if let Err((lane, kind)) = $result {
            break $path fault(lane, kind);
        }
    };
}

#[inline(always)]
fn run(
    cpu: impl Processor,
    cursor: &mut Cursor<'_>,
    frame: &mut Frame,
    memory: &mut View<'_>,
) -> Event {
    let code = cursor.code;
    let path = cursor.mask;
    // What every instruction changes stays out of memory.
    let (mut pc, mut fuel) = (cursor.pc, cursor.fuel);
    let (mut tried, mut charged) = (false, 0);
    let event = 'path: loop {
        if fuel == 0 {
            break 'path Event::Pause;
        }
        fuel -= 1;
        let inst = &code[pc as usize];
        let mask = match inst.guard.predicate {
            None => path,
            Some(p) => {
                let bits = frame.p[p.index()];
                path & if inst.guard.negate { !bits } else { bits }
            }
        };
        if mask == 0 {
            pc += 1;
            if pc >= cursor.stop {
                break 'path Event::Pause;
            }
            continue;
        }
        match inst.op {
            Op::MovW { a, d } => slots(&mut frame.w, [a.0], d.0, mask).map(cpu, |a| a),
            Op::MovD { a, d } => slots(&mut frame.d, [a.0], d.0, mask).map(cpu, |a| a),
            Op::MovP { negate, a, d } => {
                let bits = frame.p[a.index()];
                keep(
                    &mut frame.p[d.index()],
                    if negate { !bits } else { bits },
                    mask,
                );
            }
            Op::PackD { lo, hi, d } => {
                to_d(cpu, frame, ([lo, hi], []), d, mask, |[lo, hi], []| {
                    u64::from(hi) << 32 | u64::from(lo)
                });
            }
            Op::ExtendD { signed, a, d } => {
                let from = ([a], []);
                if signed {
                    to_d(cpu, frame, from, d, mask, |[a], []| {
                        i64::from(a as i32) as u64
                    });
                } else {
                    to_d(cpu, frame, from, d, mask, |[a], []| a.into());
                }
            }
            Op::UnpackD { a, lo, hi } => {
                if let Some(lo) = lo {
                    to_w(cpu, frame, ([], [a]), lo, mask, |[], [a]| a as u32);
                }
                if let Some(hi) = hi {
                    to_w(cpu, frame, ([], [a]), hi, mask, |[], [a]| (a >> 32) as u32);
                }
            }
            Op::PackW { lo, hi, d } => {
                slots(&mut frame.w, [lo.0, hi.0], d.0, mask)
                    .map(cpu, |lo, hi| hi << 16 | lo & 0xffff);
            }
            Op::UnpackW { a, lo, hi } => {
                let a = frame.w[a.index()];
                if let Some(lo) = lo {
                    put(
                        cpu,
                        &mut frame.w[lo.index()],
                        &map1(cpu, &a, |a| a & 0xffff),
                        mask,
                    );
                }
                if let Some(hi) = hi {
                    put(
                        cpu,
                        &mut frame.w[hi.index()],
                        &map1(cpu, &a, |a| a >> 16),
                        mask,
                    );
                }
            }
            Op::SelW { a, b, p, d } => {
                let bits = frame.p[p.index()];
                slots(&mut frame.w, [a.0, b.0], d.0, mask)
                    .compute(cpu, move |[a, b], lane| select(bits, lane, a, b));
            }
            Op::SelD { a, b, p, d } => {
                let bits = frame.p[p.index()];
                slots(&mut frame.d, [a.0, b.0], d.0, mask)
                    .compute(cpu, move |[a, b], lane| select(bits, lane, a, b));
            }
            Op::UnW { f, a, d } => un_w(cpu, f, slots(&mut frame.w, [a.0], d.0, mask)),
            Op::UnD { f, a, d } => un_d(cpu, f, slots(&mut frame.d, [a.0], d.0, mask)),
            Op::BinW { f, a, b, d } => {
                bin_w(cpu, f, slots(&mut frame.w, [a.0, b.0], d.0, mask));
            }
            Op::BinD { f, a, b, d } => {
                bin_d(cpu, f, slots(&mut frame.d, [a.0, b.0], d.0, mask));
            }
            Op::TernW { f, a, b, c, d } => {
                tern_w(cpu, f, slots(&mut frame.w, [a.0, b.0, c.0], d.0, mask));
            }
            Op::TernD { f, a, b, c, d } => {
                tern_d(cpu, f, slots(&mut frame.d, [a.0, b.0, c.0], d.0, mask));
            }
            Op::ShiftD { f, a, b, d } => {
                let from = ([b], [a]);
                match f {
                    ShiftD::Shl => to_d(cpu, frame, from, d, mask, |[b], [a]| {
                        if b > 63 { 0 } else { a << (b & 63) }
                    }),
                    ShiftD::ShrU => to_d(cpu, frame, from, d, mask, |[b], [a]| {
                        if b > 63 { 0 } else { a >> (b & 63) }
                    }),
                    ShiftD::ShrS => to_d(cpu, frame, from, d, mask, |[b], [a]| {
                        ((a as i64) >> b.min(63)) as u64
                    }),
                }
            }
            Op::Lop3 { table, a, b, c, d } => {
                slots(&mut frame.w, [a.0, b.0, c.0], d.0, mask)
                    .map(cpu, move |a, b, c| scalar::lop3(table, a, b, c));
            }
            Op::BfeD { signed, a, b, c, d } => {
                to_d(cpu, frame, ([b, c], [a]), d, mask, move |[b, c], [a]| {
                    scalar::bfe64(signed, a, b, c, 64)
                });
            }
            Op::BfiW { a, b, c, e, d } => {
                slots(&mut frame.w, [a.0, b.0, c.0, e.0], d.0, mask).compute(
                    cpu,
                    |[a, b, c, e], l| {
                        scalar::bfi64(a[l].into(), b[l].into(), c[l], e[l], 32) as u32
                    },
                );
            }
            Op::BfiD { a, b, c, e, d } => {
                to_d(cpu, frame, ([c, e], [a, b]), d, mask, |[c, e], [a, b]| {
                    scalar::bfi64(a, b, c, e, 64)
                });
            }
            Op::Prmt { mode, a, b, c, d } => {
                slots(&mut frame.w, [a.0, b.0, c.0], d.0, mask)
                    .map(cpu, move |a, b, c| scalar::prmt(mode, a, b, c));
            }
            Op::Rare { f, a, b, c, d } => rare_lanes(frame, f, [a, b, c], d, mask),
            Op::MulWide { signed, a, b, d } => {
                let from = ([a, b], []);
                if signed {
                    to_d(cpu, frame, from, d, mask, |[a, b], []| {
                        (i64::from(a as i32) * i64::from(b as i32)) as u64
                    });
                } else {
                    to_d(cpu, frame, from, d, mask, |[a, b], []| {
                        u64::from(a) * u64::from(b)
                    });
                }
            }
            Op::MadWide { signed, a, b, c, d } => {
                let from = ([a, b], [c]);
                if signed {
                    to_d(cpu, frame, from, d, mask, |[a, b], [c]| {
                        c.wrapping_add_signed(i64::from(a as i32) * i64::from(b as i32))
                    });
                } else {
                    to_d(cpu, frame, from, d, mask, |[a, b], [c]| {
                        c.wrapping_add(u64::from(a) * u64::from(b))
                    });
                }
            }
            Op::CountD { f, a, d } => {
                let from = ([], [a]);
                let fold = |a: u64| a ^ ((a as i64) >> 63) as u64;
                match f {
                    CountD::Clz => to_w(cpu, frame, from, d, mask, |[], [a]| a.leading_zeros()),
                    CountD::Popc => to_w(cpu, frame, from, d, mask, |[], [a]| a.count_ones()),
                    CountD::FindMsbS => to_w(cpu, frame, from, d, mask, |[], [a]| {
                        scalar::find_msb(fold(a), 64, false)
                    }),
                    CountD::FindMsbU => to_w(cpu, frame, from, d, mask, |[], [a]| {
                        scalar::find_msb(a, 64, false)
                    }),
                    CountD::ShiftFindMsbS => to_w(cpu, frame, from, d, mask, |[], [a]| {
                        scalar::find_msb(fold(a), 64, true)
                    }),
                    CountD::ShiftFindMsbU => to_w(cpu, frame, from, d, mask, |[], [a]| {
                        scalar::find_msb(a, 64, true)
                    }),
                }
            }
            Op::CarryW {
                subtract,
                a,
                b,
                carry: flag,
                d,
                carry_out,
            } => {
                let (a, b, flag) = (
                    frame.w[a.index()],
                    frame.w[b.index()],
                    carry(frame, flag, subtract),
                );
                let (mut r, mut out) = ([0; 32], 0);
                for lane in 0..32 {
                    let bit = u64::from(flag >> lane & 1);
                    let b = if subtract { !b[lane] } else { b[lane] };
                    let wide = u64::from(a[lane]) + u64::from(b) + bit;
                    r[lane] = wide as u32;
                    out |= ((wide >> 32 & 1) as u32) << lane;
                }
                put(cpu, &mut frame.w[d.index()], &r, mask);
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
                let (a, b, flag) = (
                    frame.d[a.index()],
                    frame.d[b.index()],
                    carry(frame, flag, subtract),
                );
                let (mut r, mut out) = ([0; 32], 0);
                for lane in 0..32 {
                    let bit = u128::from(flag >> lane & 1);
                    let b = if subtract { !b[lane] } else { b[lane] };
                    let wide = u128::from(a[lane]) + u128::from(b) + bit;
                    r[lane] = wide as u64;
                    out |= ((wide >> 64 & 1) as u32) << lane;
                }
                put(cpu, &mut frame.d[d.index()], &r, mask);
                if let Some(p) = carry_out {
                    keep(&mut frame.p[p.index()], out, mask);
                }
            }
            Op::Float { spec, a, b, c, d } => float_slow(cpu, frame, spec, [a, b, c], d, mask),
            Op::Convert { spec, a, d } => convert(cpu, frame, spec, a, d, mask),
            Op::ConvertPack { spec, a, b, d } => {
                let r = map2(cpu, &frame.w[a.index()], &frame.w[b.index()], |a, b| {
                    let half = |value: u32| scalar::convert(spec, value.into()) as u32;
                    half(a) << 16 | half(b)
                });
                put(cpu, &mut frame.w[d.index()], &r, mask);
            }
            Op::CmpW { f, a, b, p } => {
                let bits = cmp_w(cpu, f, &frame.w[a.index()], &frame.w[b.index()]);
                keep(&mut frame.p[p.index()], bits, mask);
            }
            Op::CmpD { f, a, b, p } => {
                let bits = cmp_d(cpu, f, &frame.d[a.index()], &frame.d[b.index()]);
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
                let low = test(cpu, &a, &b, |a, b| scalar::compare_half(f, ty, a, b));
                let high = test(cpu, &a, &b, |a, b| {
                    scalar::compare_half(f, ty, a >> 16, b >> 16)
                });
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
                let bits = test(cpu, &a, &a, |a, _| scalar::class(f, ty, a));
                keep(&mut frame.p[p.index()], bits, mask);
            }
            Op::LdW {
                space,
                ty,
                base,
                offset,
                d,
            } => {
                let target = Target {
                    space,
                    ty,
                    base,
                    offset,
                };
                check!('path, load(cpu, frame, memory, target, d, mask));
            }
            Op::LdD {
                space,
                ty,
                base,
                offset,
                d,
            } => {
                let target = Target {
                    space,
                    ty,
                    base,
                    offset,
                };
                check!('path, load(cpu, frame, memory, target, d, mask));
            }
            Op::StW {
                space,
                ty,
                base,
                offset,
                a,
            } => {
                let target = Target {
                    space,
                    ty,
                    base,
                    offset,
                };
                check!('path, store(cpu, frame, memory, target, a, mask));
            }
            Op::StD {
                space,
                ty,
                base,
                offset,
                a,
            } => {
                let target = Target {
                    space,
                    ty,
                    base,
                    offset,
                };
                check!('path, store(cpu, frame, memory, target, a, mask));
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
                let target = Target {
                    space,
                    ty,
                    base,
                    offset: offset.into(),
                };
                check!('path, atomic(cpu, frame, memory, f, target, (b, c, d), mask));
                tried |= matches!(f, AtomOp::Exch | AtomOp::Cas);
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
                let target = Target {
                    space,
                    ty,
                    base,
                    offset: offset.into(),
                };
                check!('path, atomic(cpu, frame, memory, f, target, (b, c, d), mask));
                tried |= matches!(f, AtomOp::Exch | AtomOp::Cas);
            }
            Op::Wide { .. } | Op::Aligned { .. } => {
                check!('path, wide::execute(inst.op, frame, memory, mask));
            }
            Op::Fence { scope } => {
                // SYNC: pairs with the fences and atomics of other blocks and of the host program.
                fence(match scope {
                    FenceScope::SeqCst => Ordering::SeqCst,
                    FenceScope::AcqRel => Ordering::AcqRel,
                });
                // Loads in loops that wait for a value have one.
                tried = true;
            }
            Op::LocalAddr { offset, d } => {
                let address = u64::from(frame.local) + u64::from(offset);
                put(cpu, &mut frame.d[d.index()], &[address; 32], mask);
            }
            Op::IsSpace { space, a, p } => {
                let a = frame.d[a.index()];
                let bits = test(cpu, &a, &a, |a, _| {
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
            Op::Fetch { .. }
            | Op::DetailLevel { .. }
            | Op::ImageQuery { .. }
            | Op::SurfaceLoad { .. }
            | Op::SurfaceStore { .. }
            | Op::SurfaceReduce { .. } => {
                check!('path, image::execute(inst.op, frame, memory.space, mask));
            }
            Op::Bra { target } => {
                if mask != path {
                    break 'path Event::Diverge {
                        active: mask,
                        target,
                    };
                }
                if tried && target <= pc {
                    tried = false;
                    charged += fuel.min(ATTEMPT);
                    fuel = fuel.saturating_sub(ATTEMPT);
                }
                pc = target;
                if target >= cursor.stop {
                    break 'path Event::Pause;
                }
                continue;
            }
            Op::BraTable { table, index } => {
                break 'path Event::Scatter {
                    active: mask,
                    table,
                    index,
                };
            }
            Op::Call { site, .. } => break 'path Event::Call { active: mask, site },
            Op::Stack { .. } => break 'path Event::Stack { active: mask },
            Op::Ret {} => break 'path Event::Return { active: mask },
            Op::Exit {} => break 'path Event::Exit { active: mask },
            Op::Trap {} => {
                break 'path fault(mask.trailing_zeros() as usize & 31, FaultKind::Trap);
            }
            Op::Yield {} => {
                pc += 1;
                break 'path Event::Yield;
            }
            Op::Nop {} => {}
            Op::Barrier { .. } => break 'path Event::Barrier { active: mask },
            Op::WarpSync { mask: wanted } => {
                let masks = &frame.w[wanted.index()];
                let (waiting, wanted) = cross::incomplete(masks, mask, cursor.live, mask);
                if waiting != 0 && !cursor.forced {
                    break 'path Event::WarpSync {
                        active: waiting,
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
                let masks = &frame.w[members.index()];
                let (waiting, wanted) = cross::incomplete(masks, mask, cursor.live, path);
                let waiting = if cursor.forced { 0 } else { waiting };
                cross::execute_groups(inst.op, frame, members, mask & !waiting, cursor.live);
                if waiting != 0 {
                    // Those that have what they need go on; where there are none, all stay together.
                    let active = if waiting == mask { path } else { waiting };
                    break 'path Event::Gather { active, wanted };
                }
                cursor.forced = false;
            }
            Op::StageW { .. } | Op::StageD { .. } | Op::UnstageW { .. } | Op::UnstageD { .. } => {
                matrix::stage(inst.op, frame, mask);
            }
            Op::Mma { .. }
            | Op::LdFragment { .. }
            | Op::StFragment { .. }
            | Op::LdMatrix { .. }
            | Op::StMatrix { .. }
            | Op::MovMatrix { .. } => {
                if cursor.live & !path != 0 && !cursor.forced {
                    break 'path Event::Gather {
                        active: path,
                        wanted: cursor.live,
                    };
                }
                check!('path, matrix::execute(cpu, inst.op, frame, memory, mask));
                cursor.forced = false;
            }
            Op::CopyAsync { .. }
            | Op::CopyBulk { .. }
            | Op::Mbarrier { .. }
            | Op::MbarrierWait { .. }
            | Op::MbarrierPending { .. } => {
                check!('path, asynchronous::execute(inst.op, frame, memory, mask));
            }
            Op::CopyTensor { .. } => {
                check!('path, tensor::execute(inst.op, frame, memory, mask));
            }
            Op::ActiveMask { d } => put(cpu, &mut frame.w[d.index()], &[mask; 32], mask),
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
        pc += 1;
        if pc >= cursor.stop {
            break 'path Event::Pause;
        }
    };
    (cursor.pc, cursor.fuel, cursor.charged) = (pc, fuel, charged);
    event
}
