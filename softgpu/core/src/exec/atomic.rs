//! Atomic operations: what they compute, in memory of the host and in a block's own.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "values are cut to the width of the access"
)]

use std::sync::atomic::Ordering;

use super::access::{Checked, Places};
use super::float::Format;
use super::memory::{LaneFault, View, lanes};
use super::warp::FULL;
use crate::ptx::ir::*;

/// An atomic operation.
#[derive(Debug, Clone, Copy)]
pub struct Atomic {
    pub space: Space,
    pub f: AtomOp,
    pub ty: MemType,
}

/// Does it in memory that others reach too; what was there.
pub fn host_atomic(op: Atomic, place: Checked, b: u64, c: u64) -> u64 {
    // The order is stronger than PTX's default and costs nothing more on this hardware.
    const ORDER: Ordering = Ordering::SeqCst;
    match (op.f, op.ty) {
        (AtomOp::Add, MemType::B32) => place.cell32().fetch_add(b as u32, ORDER).into(),
        (AtomOp::And, MemType::B32) => place.cell32().fetch_and(b as u32, ORDER).into(),
        (AtomOp::Or, MemType::B32) => place.cell32().fetch_or(b as u32, ORDER).into(),
        (AtomOp::Exch, MemType::B32) => place.cell32().swap(b as u32, ORDER).into(),
        (AtomOp::Cas, MemType::B32) => place
            .cell32()
            .compare_exchange(b as u32, c as u32, ORDER, ORDER)
            .unwrap_or_else(|old| old)
            .into(),
        (AtomOp::Add, MemType::B64) => place.cell64().fetch_add(b, ORDER),
        (AtomOp::Exch, MemType::B64) => place.cell64().swap(b, ORDER),
        (AtomOp::Cas, MemType::B64) => place
            .cell64()
            .compare_exchange(b, c, ORDER, ORDER)
            .unwrap_or_else(|old| old),
        (_, MemType::B64) => {
            let update = place
                .cell64()
                .fetch_update(ORDER, Ordering::Relaxed, |old| Some(modify(op, old, b, c)));
            update.unwrap_or_else(|old| old)
        }
        (_, MemType::B32) => {
            let update = place
                .cell32()
                .fetch_update(ORDER, Ordering::Relaxed, |old| {
                    Some(modify(op, old.into(), b, c) as u32)
                });
            update.unwrap_or_else(|old| old).into()
        }
        _ => {
            let update = place
                .cell16()
                .fetch_update(ORDER, Ordering::Relaxed, |old| {
                    Some(modify(op, old.into(), b, c) as u16)
                });
            update.unwrap_or_else(|old| old).into()
        }
    }
}

/// The value that an atomic operation stores.
pub fn modify(op: Atomic, old: u64, b: u64, c: u64) -> u64 {
    let wide = op.ty == MemType::B64;
    let signed = |value: u64| {
        if wide {
            value.cast_signed()
        } else {
            i64::from((value as u32).cast_signed())
        }
    };
    match op.f {
        AtomOp::Add if wide => old.wrapping_add(b),
        AtomOp::Add => u64::from((old as u32).wrapping_add(b as u32)),
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        AtomOp::MinS => {
            if signed(b) < signed(old) {
                b
            } else {
                old
            }
        }
        AtomOp::MaxS => {
            if signed(b) > signed(old) {
                b
            } else {
                old
            }
        }
        AtomOp::MinU => old.min(b),
        AtomOp::MaxU => old.max(b),
        AtomOp::AddF(FloatType::F32) => (f32::from_bits(old as u32) + f32::from_bits(b as u32))
            .to_bits()
            .into(),
        AtomOp::AddF(FloatType::F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        AtomOp::AddF(ty) => Format::of(ty).add(old, b, Round::Nearest),
        AtomOp::AddFx2(ty) => halves(old, b, |a, b| Format::of(ty).add(a, b, Round::Nearest)),
        AtomOp::MinF(ty) => Format::of(ty).extreme(old, b, false),
        AtomOp::MaxF(ty) => Format::of(ty).extreme(old, b, true),
        AtomOp::MinFx2(ty) => halves(old, b, |a, b| Format::of(ty).extreme(a, b, false)),
        AtomOp::MaxFx2(ty) => halves(old, b, |a, b| Format::of(ty).extreme(a, b, true)),
    }
}

/// Two values of 16 bits each.
fn halves(a: u64, b: u64, one: impl Fn(u64, u64) -> u64) -> u64 {
    one(a & 0xffff, b & 0xffff) | one(a >> 16 & 0xffff, b >> 16 & 0xffff) << 16
}

/// Modifies each active lane's cell of shared memory, in lane order.
#[inline(always)]
pub fn exchange(
    cells: &mut [[u8; 4]],
    addresses: &[u64; 32],
    mask: u32,
    old: &mut [u32; 32],
    modify: impl Fn(u32, usize) -> u32,
) {
    let mut each = |lane: usize| {
        let cell = &mut cells[addresses[lane] as usize / 4];
        old[lane] = u32::from_le_bytes(*cell);
        *cell = modify(old[lane], lane).to_le_bytes();
    };
    if mask == FULL {
        (0..32).for_each(each);
    } else {
        lanes(mask).for_each(&mut each);
    }
}

/// An atomic operation of each active lane in turn; what they found.
#[inline(never)]
pub fn atomic_lanes(
    memory: &mut View<'_>,
    op: Atomic,
    places: Places<'_>,
    b: &[u64; 32],
    c: &[u64; 32],
) -> Result<[u64; 32], LaneFault> {
    let mut old = [0; 32];
    for lane in lanes(places.mask) {
        old[lane] = memory
            .atomic(op, places.address(lane), lane, b[lane], c[lane])
            .map_err(|kind| (lane, kind))?;
    }
    Ok(old)
}
