//! Loads, stores and atomic operations of a warp: addresses and values come from registers, results go there.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "values are cut to the width of the access"
)]

use super::lanes::{Bits, map1, put};
use super::memory::{Atomic, LaneFault, View, atomic_lanes};
use super::processor::Processor;
use super::register::addresses;
use super::warp::Frame;
use crate::ptx::ir::*;

/// Where an instruction reads or writes, and what.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub space: Space,
    pub ty: MemType,
    pub base: Base,
    pub offset: i32,
}

/// Registers of one width.
pub trait Register: Copy {
    type Value: Bits + Default;

    fn of(self, frame: &Frame) -> &[Self::Value; 32];
    fn of_mut(self, frame: &mut Frame) -> &mut [Self::Value; 32];
    fn widen(value: Self::Value) -> u64;
    fn narrow(value: u64) -> Self::Value;

    /// Reads memory into the active lanes.
    fn load(
        memory: &mut View<'_>,
        target: Target,
        addresses: &[u64; 32],
        mask: u32,
        out: &mut [Self::Value; 32],
    ) -> Result<(), LaneFault>;

    /// Writes the active lanes to memory.
    fn store(
        memory: &mut View<'_>,
        target: Target,
        addresses: &[u64; 32],
        mask: u32,
        values: &[Self::Value; 32],
    ) -> Result<(), LaneFault>;

    /// An atomic operation of all active lanes at once; `false`, with nothing done, if there is none.
    #[inline(always)]
    fn atomic(
        _: &mut View<'_>,
        _: Atomic,
        _: &[u64; 32],
        _: u32,
        _: (&[Self::Value; 32], &[Self::Value; 32]),
        _: &mut [Self::Value; 32],
    ) -> bool {
        false
    }
}

macro_rules! register {
    ($register:ident: $value:ident, $file:ident, $load:expr, $store:expr; $($rest:tt)*) => {
        impl Register for $register {
            type Value = $value;

            #[inline(always)]
            fn of(self, frame: &Frame) -> &[$value; 32] {
                &frame.$file[self.index()]
            }

            #[inline(always)]
            fn of_mut(self, frame: &mut Frame) -> &mut [$value; 32] {
                &mut frame.$file[self.index()]
            }

            #[inline(always)]
            fn widen(value: $value) -> u64 {
                value.into()
            }

            #[inline(always)]
            fn narrow(value: u64) -> $value {
                value as $value
            }

            #[inline(always)]
            fn load(
                memory: &mut View<'_>,
                target: Target,
                addresses: &[u64; 32],
                mask: u32,
                out: &mut [$value; 32],
            ) -> Result<(), LaneFault> {
                $load(memory, target, addresses, mask, out)
            }

            #[inline(always)]
            fn store(
                memory: &mut View<'_>,
                target: Target,
                addresses: &[u64; 32],
                mask: u32,
                values: &[$value; 32],
            ) -> Result<(), LaneFault> {
                $store(memory, target, addresses, mask, values)
            }

            $($rest)*
        }
    };
}

register! {
    W: u32, w,
    |memory: &mut View<'_>, t: Target, addresses, mask, out| {
        memory.load_w(t.space, t.ty, addresses, mask, out)
    },
    |memory: &mut View<'_>, t: Target, addresses, mask, values| {
        memory.store_w(t.space, t.ty, addresses, mask, values)
    };
    #[inline(always)]
    fn atomic(
        memory: &mut View<'_>,
        op: Atomic,
        addresses: &[u64; 32],
        mask: u32,
        operands: (&[u32; 32], &[u32; 32]),
        old: &mut [u32; 32],
    ) -> bool {
        op.ty == MemType::B32 && memory.atomic_w(op, addresses, mask, operands, old)
    }
}

register! {
    D: u64, d,
    |memory: &mut View<'_>, t: Target, addresses, mask, out| {
        memory.load_d(t.space, addresses, mask, out)
    },
    |memory: &mut View<'_>, t: Target, addresses, mask, values| {
        memory.store_d(t.space, addresses, mask, values)
    };
}

/// Calls `access` for each register of a vector with the addresses of its part.
#[inline(always)]
fn parts<R: Copy>(
    cpu: impl Processor,
    frame: &mut Frame,
    target: Target,
    registers: [Option<R>; 4],
    mask: u32,
    mut access: impl FnMut(R, &mut Frame, &[u64; 32]) -> Result<(), LaneFault>,
) -> Result<(), LaneFault> {
    let mut addresses = addresses(cpu, frame, target.base, target.offset);
    let step = u64::from(target.ty.bytes());
    if registers[1].is_some() {
        let count = if registers[2].is_some() { 4 } else { 2 };
        View::check_vector(&addresses, mask, step * count)?;
    }
    for (part, register) in registers.into_iter().enumerate() {
        let Some(register) = register else { break };
        if part > 0 {
            addresses = map1(cpu, &addresses, |a| a.wrapping_add(step));
        }
        access(register, frame, &addresses)?;
    }
    Ok(())
}

/// `ld`
#[inline(always)]
pub fn load<R: Register>(
    cpu: impl Processor,
    frame: &mut Frame,
    memory: &mut View<'_>,
    target: Target,
    to: [Option<R>; 4],
    mask: u32,
) -> Result<(), LaneFault> {
    parts(
        cpu,
        frame,
        target,
        to,
        mask,
        #[inline(always)]
        |register, frame, addresses| {
            let out = register.of_mut(frame);
            cpu.apart(
                #[inline(always)]
                || R::load(memory, target, addresses, mask, out),
            )
        },
    )
}

/// `st`
#[inline(always)]
pub fn store<R: Register>(
    cpu: impl Processor,
    frame: &mut Frame,
    memory: &mut View<'_>,
    target: Target,
    from: [Option<R>; 4],
    mask: u32,
) -> Result<(), LaneFault> {
    parts(
        cpu,
        frame,
        target,
        from,
        mask,
        #[inline(always)]
        |register, frame, addresses| {
            let values = register.of(frame);
            cpu.apart(
                #[inline(always)]
                || R::store(memory, target, addresses, mask, values),
            )
        },
    )
}

/// `atom` and, without a destination, `red`
#[inline(always)]
pub fn atomic<R: Register>(
    cpu: impl Processor,
    frame: &mut Frame,
    memory: &mut View<'_>,
    f: AtomOp,
    target: Target,
    (b, c, d): (R, Option<R>, Option<R>),
    mask: u32,
) -> Result<(), LaneFault> {
    let addresses = addresses(cpu, frame, target.base, target.offset);
    let op = Atomic {
        space: target.space,
        f,
        ty: target.ty,
    };
    let b = b.of(frame);
    let c = c.map_or(b, |c| c.of(frame));
    let mut old = [R::Value::default(); 32];
    if !cpu.apart(|| R::atomic(memory, op, &addresses, mask, (b, c), &mut old)) {
        let (b, c) = (map1(cpu, b, R::widen), map1(cpu, c, R::widen));
        let found = atomic_lanes(memory, op, &addresses, mask, &b, &c)?;
        old = map1(cpu, &found, R::narrow);
    }
    if let Some(d) = d {
        put(cpu, d.of_mut(frame), &old, mask);
    }
    Ok(())
}
