//! Accesses of 128 bits at once, and vectors whose alignment counts as a whole.
#![forbid(unsafe_code)]

use super::fault::FaultKind;
use super::memory::{LaneFault, View, lanes};
use super::processor::Plain;
use super::register::addresses;
use super::warp::Frame;
use crate::ptx::ir::*;

/// Executes one of them.
#[inline(never)]
pub fn execute(
    op: Op,
    frame: &mut Frame,
    memory: &mut View<'_>,
    mask: u32,
) -> Result<(), LaneFault> {
    match op {
        Op::Aligned {
            base,
            offset,
            bytes,
        } => View::check_vector(&addresses(Plain, frame, base, offset), mask, bytes.into()),
        Op::Wide {
            space,
            f,
            base,
            offset,
            b,
            c,
            d,
        } => {
            let places = addresses(Plain, frame, base, offset);
            let pair = |frame: &Frame, registers: [Option<D>; 2], lane: usize| {
                registers.map(|register| register.map_or(0, |d| frame.d[d.index()][lane]))
            };
            for lane in lanes(mask) {
                let (b, c) = (pair(frame, b, lane), pair(frame, c, lane));
                let change = |old: [u64; 2]| match f {
                    WideOp::Load => old,
                    WideOp::Store | WideOp::Exchange => b,
                    WideOp::Compare if old == b => c,
                    WideOp::Compare => old,
                };
                let old = memory.wide(space, places[lane], lane, f, change);
                let old = old.map_err(|kind: FaultKind| (lane, kind))?;
                for (register, value) in d.into_iter().zip(old) {
                    if let Some(register) = register {
                        frame.d[register.index()][lane] = value;
                    }
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
