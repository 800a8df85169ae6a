//! Loads, stores and atomic operations of a warp: addresses and values come from registers, results go there.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "values are cut to the width of the access"
)]

use super::access::Places;
use super::atomic::{Atomic, atomic_lanes};
use super::lanes::{Bits, Row, map1, put};
use super::memory::{LaneFault, View};
use super::processor::Processor;
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

/// One access of a warp, but for the addresses' register.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    offset: i64,
    mask: u32,
    space: Space,
    ty: MemType,
}

impl Access {
    #[inline(always)]
    fn at(self, base: &[u64; 32]) -> Places<'_> {
        Places {
            base,
            offset: self.offset,
            mask: self.mask,
        }
    }
}

impl Target {
    #[inline(always)]
    fn access(self, mask: u32) -> Access {
        Access {
            offset: self.offset.into(),
            mask,
            space: self.space,
            ty: self.ty,
        }
    }

    /// The register part of the addresses.
    #[inline(always)]
    fn base(self, cpu: impl Processor, frame: &Frame) -> Row<u64> {
        match self.base {
            Base::D(d) => frame.d[d.index()],
            Base::W(w) => Row(map1(cpu, &frame.w[w.index()], u64::from)),
        }
    }
}

/// Registers of one width.
pub trait Register: Copy {
    type Value: Bits;

    fn of(self, frame: &Frame) -> &[Self::Value; 32];
    fn of_mut(self, frame: &mut Frame) -> &mut [Self::Value; 32];
    /// The register, where it is of another file than `base`, and that one.
    fn beside(self, base: D, frame: &mut Frame) -> Option<(&[u64; 32], &mut [Self::Value; 32])>;
    fn widen(value: Self::Value) -> u64;
    fn narrow(value: u64) -> Self::Value;

    /// Reads memory into the active lanes.
    fn load(
        cpu: impl Processor,
        memory: &mut View<'_>,
        access: Access,
        base: &[u64; 32],
        out: &mut [Self::Value; 32],
    ) -> Result<(), LaneFault>;

    /// Writes the active lanes to memory.
    fn store(
        cpu: impl Processor,
        memory: &mut View<'_>,
        access: Access,
        base: &[u64; 32],
        values: &[Self::Value; 32],
    ) -> Result<(), LaneFault>;

    /// An atomic operation of all active lanes at once; `false`, with nothing done, if there is none.
    #[inline(always)]
    fn atomic(
        _: &mut View<'_>,
        _: Atomic,
        _: Places<'_>,
        _: (&[Self::Value; 32], &[Self::Value; 32]),
        _: &mut [Self::Value; 32],
    ) -> bool {
        false
    }
}

macro_rules! register {
    ($register:ident: $value:ident, $file:ident; $($rest:tt)*) => {
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

            $($rest)*
        }
    };
}

register! {
    W: u32, w;

    #[inline(always)]
    fn beside(self, base: D, frame: &mut Frame) -> Option<(&[u64; 32], &mut [u32; 32])> {
        Some((&frame.d[base.index()], &mut frame.w[self.index()]))
    }

    #[inline(always)]
    fn load(
        cpu: impl Processor,
        memory: &mut View<'_>,
        access: Access,
        base: &[u64; 32],
        out: &mut [u32; 32],
    ) -> Result<(), LaneFault> {
        memory.load_w(cpu, access.space, access.ty, access.at(base), out)
    }

    #[inline(always)]
    fn store(
        cpu: impl Processor,
        memory: &mut View<'_>,
        access: Access,
        base: &[u64; 32],
        values: &[u32; 32],
    ) -> Result<(), LaneFault> {
        memory.store_w(cpu, access.space, access.ty, access.at(base), values)
    }

    #[inline(always)]
    fn atomic(
        memory: &mut View<'_>,
        op: Atomic,
        places: Places<'_>,
        operands: (&[u32; 32], &[u32; 32]),
        old: &mut [u32; 32],
    ) -> bool {
        op.ty == MemType::B32 && memory.atomic_w(op, places, operands, old)
    }
}

register! {
    D: u64, d;

    #[inline(always)]
    fn beside(self, _: D, _: &mut Frame) -> Option<(&[u64; 32], &mut [u64; 32])> {
        None
    }

    #[inline(always)]
    fn load(
        cpu: impl Processor,
        memory: &mut View<'_>,
        access: Access,
        base: &[u64; 32],
        out: &mut [u64; 32],
    ) -> Result<(), LaneFault> {
        memory.load_d(cpu, access.space, access.at(base), out)
    }

    #[inline(always)]
    fn store(
        cpu: impl Processor,
        memory: &mut View<'_>,
        access: Access,
        base: &[u64; 32],
        values: &[u64; 32],
    ) -> Result<(), LaneFault> {
        memory.store_d(cpu, access.space, access.at(base), values)
    }
}

/// Calls `part` for each register of a vector with the access that it is about.
#[inline(always)]
fn parts<R: Copy>(
    registers: [Option<R>; 4],
    access: Access,
    base: &[u64; 32],
    mut part: impl FnMut(R, Access) -> Result<(), LaneFault>,
) -> Result<(), LaneFault> {
    let step = u64::from(access.ty.bytes());
    if registers[1].is_some() {
        let count = if registers[2].is_some() { 4 } else { 2 };
        View::check_vector(access.at(base), step * count)?;
    }
    let mut access = access;
    for register in registers {
        let Some(register) = register else { break };
        part(register, access)?;
        access.offset += step.cast_signed();
    }
    Ok(())
}

/// Reads one register, the second; the first holds the addresses.
#[inline(always)]
fn read<R: Register>(
    cpu: impl Processor,
    memory: &mut View<'_>,
    registers: (&[u64; 32], &mut [R::Value; 32]),
    access: Access,
) -> Result<(), LaneFault> {
    cpu.apart_with(
        memory,
        registers,
        access,
        #[inline(always)]
        |memory: &mut View<'_>, (base, out): (&[u64; 32], _), access| {
            R::load(cpu, memory, access, base, out)
        },
    )
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
    let access = target.access(mask);
    if let ([Some(to), None, ..], Base::D(base)) = (to, target.base)
        && let Some(registers) = to.beside(base, frame)
    {
        return read::<R>(cpu, memory, registers, access);
    }
    // A copy: what is read may replace the addresses.
    let base = target.base(cpu, frame);
    parts(
        to,
        access,
        &base,
        #[inline(always)]
        |to, access| read::<R>(cpu, memory, (&base, to.of_mut(frame)), access),
    )
}

/// `st`
#[inline(always)]
pub fn store<R: Register>(
    cpu: impl Processor,
    frame: &Frame,
    memory: &mut View<'_>,
    target: Target,
    from: [Option<R>; 4],
    mask: u32,
) -> Result<(), LaneFault> {
    let wide;
    let base = match target.base {
        Base::D(base) => &frame.d[base.index()],
        Base::W(_) => {
            wide = target.base(cpu, frame);
            &wide
        }
    };
    parts(
        from,
        target.access(mask),
        base,
        #[inline(always)]
        |from, access| {
            cpu.apart_with(
                &mut *memory,
                (&base.0, from.of(frame)),
                access,
                #[inline(always)]
                |memory: &mut View<'_>, (base, values): (&[u64; 32], _), access| {
                    R::store(cpu, memory, access, base, values)
                },
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
    let base = target.base(cpu, frame);
    let places = target.access(mask).at(&base);
    let op = Atomic {
        space: target.space,
        f,
        ty: target.ty,
    };
    let b = b.of(frame);
    let c = c.map_or(b, |c| c.of(frame));
    let mut old = [R::Value::default(); 32];
    let simple = cpu.apart(
        #[inline(always)]
        || R::atomic(memory, op, places, (b, c), &mut old),
    );
    if !simple {
        let (b, c) = (map1(cpu, b, R::widen), map1(cpu, c, R::widen));
        let found = atomic_lanes(memory, op, places, &b, &c)?;
        old = map1(cpu, &found, R::narrow);
    }
    if let Some(d) = d {
        put(cpu, d.of_mut(frame), &old, mask);
    }
    Ok(())
}
