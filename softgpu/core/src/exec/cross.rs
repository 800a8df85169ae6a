//! Exchange and votes between the lanes of a warp.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "PTX integers are reinterpreted: the casts are the semantics"
)]

use super::lanes::L32;
use super::memory::lanes;
use super::register::{first_active, set_uniform};
use super::warp::{FULL, Frame};
use crate::ptx::ir::*;

/// The groups that the lanes of `active` form by what their member masks say: lanes of one mask, and the live
/// lanes it names. A warp may execute one instruction for several groups at once.
pub fn groups(masks: &L32, active: u32, live: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut rest = active;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let named = first_active(masks, rest);
        let same = (0..32).fold(0, |bits, lane| {
            bits | u32::from(masks[lane] == named) << lane
        });
        let group = same & rest;
        rest &= !same;
        Some((group, named & live))
    })
}

/// The lanes of those groups that need lanes which are not `here`, and all that they need.
pub fn incomplete(masks: &L32, active: u32, live: u32, here: u32) -> (u32, u32) {
    groups(masks, active, live)
        .filter(|(_, wanted)| wanted & !here != 0)
        .fold((0, 0), |(lanes, all), (group, wanted)| {
            (lanes | group, all | wanted)
        })
}

/// Executes `op` for each group of `active`.
pub fn execute_groups(op: Op, frame: &mut Frame, masks: W, active: u32, live: u32) {
    let masks = frame.w[masks.index()];
    for (group, members) in groups(&masks, active, live) {
        execute(op, frame, group, members);
    }
}

/// Executes `op` for the lanes of `active`; `members` are the live lanes of its member mask.
#[inline(never)]
fn execute(op: Op, frame: &mut Frame, active: u32, members: u32) {
    match op {
        Op::Shfl {
            f, a, b, c, d, p, ..
        } => shuffle(f, [a, b, c], d, p, frame, active),
        Op::Vote { f, a, d, .. } => {
            let bits = frame.p[a.index()] & active & members;
            let value = match f {
                VoteOp::Ballot => bits,
                VoteOp::Any => u32::from(bits != 0),
                VoteOp::All => u32::from(bits == active & members),
                VoteOp::Uni => u32::from(bits == 0 || bits == active & members),
            };
            set_uniform(frame, d, value.into(), active);
        }
        Op::MatchW { all, a, d, p, .. } => {
            let values = frame.w[a.index()].map(u64::from);
            matches(all, &values, d, p, frame, active, members);
        }
        Op::MatchD { all, a, d, p, .. } => {
            let values = frame.d[a.index()];
            matches(all, &values, d, p, frame, active, members);
        }
        Op::Redux { f, a, d, .. } => {
            let values = frame.w[a.index()];
            let result = lanes(active & members)
                .map(|lane| values[lane])
                .reduce(|x, y| reduce(f, x, y));
            let mut result = result.unwrap_or(0);
            if let ReduxOp::MinF { abs: true, .. } | ReduxOp::MaxF { abs: true, .. } = f {
                result &= 0x7fff_ffff;
            }
            set_uniform(frame, AnyReg::W(d), result.into(), active);
        }
        Op::Elect { d, p, .. } => {
            let leader = (active & members).trailing_zeros() & 31;
            if let Some(d) = d {
                set_uniform(frame, AnyReg::W(d), leader.into(), active);
            }
            let bits = &mut frame.p[p.index()];
            *bits = *bits & !active | 1 << leader & active;
        }
        _ => {}
    }
}

fn shuffle(f: ShflMode, [a, b, c]: [W; 3], d: W, p: Option<P>, frame: &mut Frame, active: u32) {
    let (values, b, c) = (frame.w[a.index()], frame.w[b.index()], frame.w[c.index()]);
    let mut valid = 0;
    for lane in lanes(active) {
        let (here, by) = (lane as i32, (b[lane] & 31) as i32);
        let (clamp, segment) = ((c[lane] & 31) as i32, (c[lane] >> 8 & 31) as i32);
        let max = here & segment | clamp & !segment;
        let min = here & segment;
        let (source, inside) = match f {
            ShflMode::Up => (here - by, here - by >= max),
            ShflMode::Down => (here + by, here + by <= max),
            ShflMode::Bfly => (here ^ by, here ^ by <= max),
            ShflMode::Idx => (min | by & !segment, min | by & !segment <= max),
        };
        let source = if inside { source } else { here };
        valid |= u32::from(inside) << lane;
        frame.w[d.index()][lane] = values[source as usize & 31];
    }
    if let Some(p) = p {
        let bits = &mut frame.p[p.index()];
        *bits = *bits & !active | valid;
    }
}

fn matches(
    all: bool,
    values: &[u64; 32],
    d: W,
    p: Option<P>,
    frame: &mut Frame,
    active: u32,
    members: u32,
) {
    let members = members & active;
    for lane in lanes(active) {
        let same = lanes(members)
            .filter(|&other| values[other] == values[lane])
            .fold(0, |bits, other| bits | 1 << other);
        let value = if all && same != members { 0 } else { same };
        frame.w[d.index()][lane] = value;
        if let Some(p) = p {
            let bits = &mut frame.p[p.index()];
            *bits = *bits & !(1 << lane) | u32::from(value != 0) << lane;
        }
    }
}

fn reduce(f: ReduxOp, x: u32, y: u32) -> u32 {
    match f {
        ReduxOp::Add => x.wrapping_add(y),
        ReduxOp::MinS => (x as i32).min(y as i32) as u32,
        ReduxOp::MinU => x.min(y),
        ReduxOp::MaxS => (x as i32).max(y as i32) as u32,
        ReduxOp::MaxU => x.max(y),
        ReduxOp::And => x & y,
        ReduxOp::Or => x | y,
        ReduxOp::Xor => x ^ y,
        ReduxOp::MinF { abs, nan } | ReduxOp::MaxF { abs, nan } => {
            let strip = if abs { 0x7fff_ffff } else { FULL };
            let spec = FloatSpec {
                f: match (matches!(f, ReduxOp::MaxF { .. }), nan) {
                    (true, true) => FloatOp::MaxNan,
                    (true, false) => FloatOp::Max,
                    (false, true) => FloatOp::MinNan,
                    (false, false) => FloatOp::Min,
                },
                ty: FloatType::F32,
                packed: false,
                round: Round::Nearest,
                ftz: false,
                sat: false,
                relu: false,
                crossed: false,
            };
            super::scalar::float(spec, (x & strip).into(), (y & strip).into(), 0) as u32
        }
    }
}
