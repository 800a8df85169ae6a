//! Matrix instructions, executed by all lanes of a warp together.
//!
//! Products are exact. Floating-point sums start at the addend and take the products in ascending
//! order of k, rounded after each: in f32 for all narrow types, a result of f16 being rounded once
//! more at the end; in f64 for f64. Integer sums are exact and then wrapped or clamped.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "elements are cut to their width and reinterpreted: the casts are the semantics"
)]

use half::f16;

use super::fault::FaultKind;
use super::float::Format;
use super::memory::{LaneFault, View, lanes};
use super::processor::Processor;
use super::register::addresses;
use super::warp::{FULL, Frame};
use crate::ptx::ir::*;

/// Elements of the largest operands, bits being counted in words.
const LARGEST_A: usize = 1024;
const LARGEST_B: usize = 512;
/// Elements of the largest accumulator.
const LARGEST_SUM: usize = 256;

type Stage = [[u64; 32]];

/// Moves registers to the stage or back.
#[inline(never)]
pub fn stage(op: Op, frame: &mut Frame, mask: u32) {
    if frame.stage.is_empty() {
        frame.stage = vec![[0; 32]; STAGE_SLOTS];
    }
    let slots = |at: u8| usize::from(at)..;
    match op {
        Op::StageW { at, a } => {
            for (slot, a) in frame.stage[slots(at)].iter_mut().zip(a.iter().flatten()) {
                move_lanes(&frame.w[a.index()], slot, mask, u64::from);
            }
        }
        Op::StageD { at, a } => {
            for (slot, a) in frame.stage[slots(at)].iter_mut().zip(a.iter().flatten()) {
                move_lanes(&frame.d[a.index()], slot, mask, |a| a);
            }
        }
        Op::UnstageW { at, d } => {
            for (slot, d) in frame.stage[slots(at)].iter().zip(d.iter().flatten()) {
                move_lanes(slot, &mut frame.w[d.index()], mask, |a| a as u32);
            }
        }
        Op::UnstageD { at, d } => {
            for (slot, d) in frame.stage[slots(at)].iter().zip(d.iter().flatten()) {
                move_lanes(slot, &mut frame.d[d.index()], mask, |a| a);
            }
        }
        _ => {}
    }
}

#[inline(always)]
fn move_lanes<A: Copy, B>(from: &[A; 32], to: &mut [B; 32], mask: u32, f: impl Fn(A) -> B) {
    if mask == FULL {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f(*from);
        }
    } else {
        lanes(mask).for_each(|lane| to[lane] = f(from[lane]));
    }
}

/// A value for each lane, in a loop that becomes vector instructions.
#[inline(always)]
fn lanewise<A: Copy, B: Copy + Default>(from: &[A; 32], f: impl Fn(A) -> B) -> [B; 32] {
    let mut to = [B::default(); 32];
    move_lanes(from, &mut to, FULL, f);
    to
}

/// Executes what the lanes of `mask` do together.
#[inline(never)]
pub fn execute(
    cpu: impl Processor,
    op: Op,
    frame: &mut Frame,
    memory: &mut View<'_>,
    mask: u32,
) -> Result<(), LaneFault> {
    if frame.stage.is_empty() {
        frame.stage = vec![[0; 32]; STAGE_SLOTS];
    }
    match op {
        Op::Mma { f } => multiply(cpu, f, &mut frame.stage),
        Op::LdFragment {
            f,
            space,
            base,
            offset,
            stride,
        } => {
            let bases = addresses(cpu, frame, base, offset);
            let place = Placed::new(f, space, bases, frame.w[stride.index()]);
            return place.load(&mut frame.stage[usize::from(STAGE_C)..], memory, mask);
        }
        Op::StFragment {
            f,
            space,
            base,
            offset,
            stride,
        } => {
            let bases = addresses(cpu, frame, base, offset);
            let place = Placed::new(f, space, bases, frame.w[stride.index()]);
            return place.store(&frame.stage[usize::from(STAGE_C)..], memory, mask);
        }
        Op::LdMatrix {
            f,
            space,
            base,
            offset,
            d,
        } => {
            let rows = Rows::new(f, addresses(cpu, frame, base, offset), mask)?;
            for (matrix, d) in d.iter().flatten().enumerate() {
                rows.load(matrix, space, memory, mask, &mut frame.w[d.index()])?;
            }
        }
        Op::StMatrix {
            f,
            space,
            base,
            offset,
            a,
        } => {
            let rows = Rows::new(f, addresses(cpu, frame, base, offset), mask)?;
            for (matrix, a) in a.iter().flatten().enumerate() {
                rows.store(matrix, space, memory, mask, &frame.w[a.index()])?;
            }
        }
        Op::MovMatrix { a, d } => {
            let from = frame.w[a.index()];
            for lane in lanes(mask) {
                let (row, column) = (2 * (lane % 4), lane / 4);
                let element =
                    |row: usize| from[row * 4 + column / 2] >> (16 * (column % 2)) & 0xffff;
                frame.w[d.index()][lane] = element(row) | element(row + 1) << 16;
            }
        }
        _ => {}
    }
    Ok(())
}

/// A fragment's matrix in memory, as each lane sees it.
struct Placed {
    f: FragmentMove,
    space: Space,
    /// Where each lane's first element lies.
    bases: [u64; 32],
    /// Elements from one row (or column) to the next.
    strides: [u32; 32],
}

impl Placed {
    /// Whether the elements of a register are neighbours in memory.
    fn together(&self) -> bool {
        self.f.rows != (self.f.fragment.role == Role::B)
    }

    fn new(f: FragmentMove, space: Space, mut bases: [u64; 32], strides: [u32; 32]) -> Self {
        let mut place = Self {
            f,
            space,
            bases,
            strides,
        };
        for (lane, base) in (0u32..).zip(&mut bases) {
            let position = f.fragment.position(lane, 0);
            *base = base.wrapping_add(place.distance(position, strides[lane as usize]));
        }
        place.bases = bases;
        place
    }

    /// Bytes from the matrix's start to an element.
    #[inline(always)]
    fn distance(&self, (row, column): (u32, u32), stride: u32) -> u64 {
        let (line, along) = if self.f.rows {
            (row, column)
        } else {
            (column, row)
        };
        let elements = u64::from(line) * u64::from(stride) + u64::from(along);
        elements * u64::from(self.f.fragment.element.bits()) / 8
    }

    /// Where each lane's element `place` lies.
    fn addresses(&self, place: u32) -> [u64; 32] {
        let position = self.f.fragment.position(0, place);
        let mut addresses = self.bases;
        for (address, stride) in addresses.iter_mut().zip(self.strides) {
            *address = address.wrapping_add(self.distance(position, stride));
        }
        addresses
    }

    /// The pieces in which a register is moved: each one's first element, shift and width.
    fn pieces(&self, register: u32) -> impl Iterator<Item = (u32, u32, MemType)> {
        let element = self.f.fragment.element;
        let per = element.per_register();
        let (count, ty) = match element.bits() {
            64 => (1, MemType::B64),
            _ if self.together() || per == 1 => (1, MemType::B32),
            16 => (per, MemType::U16),
            _ => (per, MemType::U8),
        };
        let bits = element.bits();
        (0..count).map(move |part| (register * per + part, part * bits, ty))
    }

    fn load(&self, stage: &mut Stage, memory: &mut View<'_>, mask: u32) -> Result<(), LaneFault> {
        let registers = self.f.fragment.registers();
        for register in 0..registers {
            let slot = &mut stage[register as usize];
            let mut value = [0u64; 32];
            for (place, shift, ty) in self.pieces(register) {
                let addresses = self.addresses(place);
                if ty == MemType::B64 {
                    memory.load_d(self.space, &addresses, mask, &mut value)?;
                    continue;
                }
                let mut part = [0; 32];
                memory.load_w(self.space, ty, &addresses, mask, &mut part)?;
                for (value, part) in value.iter_mut().zip(part) {
                    *value |= u64::from(part) << shift;
                }
            }
            lanes(mask).for_each(|lane| slot[lane] = value[lane]);
        }
        // Where a fragment has more registers than it needs, they repeat the first ones.
        for register in registers as usize..usize::from(self.f.count) {
            stage[register] = stage[register - registers as usize];
        }
        Ok(())
    }

    fn store(&self, stage: &Stage, memory: &mut View<'_>, mask: u32) -> Result<(), LaneFault> {
        for register in 0..self.f.fragment.registers() {
            let slot = &stage[register as usize];
            for (place, shift, ty) in self.pieces(register) {
                let addresses = self.addresses(place);
                if ty == MemType::B64 {
                    memory.store_d(self.space, &addresses, mask, slot)?;
                } else {
                    let part = lanewise(slot, |value| (value >> shift) as u32);
                    memory.store_w(self.space, ty, &addresses, mask, &part)?;
                }
            }
        }
        Ok(())
    }
}

/// Rows of 16 bytes, the addresses of eight for each matrix.
struct Rows {
    f: Matrices,
    addresses: [u64; 32],
}

impl Rows {
    fn new(f: Matrices, addresses: [u64; 32], mask: u32) -> Result<Self, LaneFault> {
        for lane in lanes(mask).take_while(|&lane| lane < 8 * usize::from(f.count)) {
            let address = addresses[lane];
            if !address.is_multiple_of(16) {
                return Err((lane, FaultKind::MisalignedAddress { address }));
            }
        }
        Ok(Self { f, addresses })
    }

    /// Where the elements of each lane lie: the pair or, transposed, one of the two.
    fn places(&self, matrix: usize, part: usize) -> [u64; 32] {
        std::array::from_fn(|lane| {
            let (row, offset) = if self.f.transposed {
                (2 * (lane % 4) + part, 2 * (lane / 4))
            } else {
                (lane / 4, 4 * (lane % 4))
            };
            self.addresses[8 * matrix + row].wrapping_add(offset as u64)
        })
    }

    fn load(
        &self,
        matrix: usize,
        space: Space,
        memory: &mut View<'_>,
        mask: u32,
        out: &mut [u32; 32],
    ) -> Result<(), LaneFault> {
        if !self.f.transposed {
            return memory.load_w(space, MemType::B32, &self.places(matrix, 0), mask, out);
        }
        let mut halves = [[0; 32]; 2];
        for (part, half) in halves.iter_mut().enumerate() {
            memory.load_w(space, MemType::U16, &self.places(matrix, part), mask, half)?;
        }
        lanes(mask).for_each(|lane| out[lane] = halves[0][lane] | halves[1][lane] << 16);
        Ok(())
    }

    fn store(
        &self,
        matrix: usize,
        space: Space,
        memory: &mut View<'_>,
        mask: u32,
        values: &[u32; 32],
    ) -> Result<(), LaneFault> {
        if !self.f.transposed {
            return memory.store_w(space, MemType::B32, &self.places(matrix, 0), mask, values);
        }
        for part in 0..2 {
            let half = values.map(|value| value >> (16 * part));
            memory.store_w(space, MemType::U16, &self.places(matrix, part), mask, &half)?;
        }
        Ok(())
    }
}

/// What is multiplied and summed up.
trait Number: Copy + Default {
    /// The elements that lie in each lane's register from bit `shift` on.
    fn of(element: Element, slot: &[u64; 32], shift: u32) -> [Self; 32];
}

impl Number for f32 {
    #[inline(always)]
    fn of(element: Element, slot: &[u64; 32], shift: u32) -> [Self; 32] {
        match element {
            Element::F16 => lanewise(slot, |word| half((word >> shift) as u16)),
            Element::Bf16 => lanewise(slot, |word| f32::from_bits(((word >> shift) as u32) << 16)),
            // What lies below the format's precision is ignored.
            Element::Tf32 => lanewise(slot, |word| f32::from_bits(word as u32 & 0xffff_e000)),
            Element::E5m2 => lanewise(slot, |word| half(((word >> shift) as u16) << 8)),
            Element::E4m3 => lanewise(slot, |word| e4m3((word >> shift) as u8)),
            _ => lanewise(slot, |word| f32::from_bits(word as u32)),
        }
    }
}

impl Number for f64 {
    #[inline(always)]
    fn of(_: Element, slot: &[u64; 32], _: u32) -> [Self; 32] {
        lanewise(slot, f64::from_bits)
    }
}

impl Number for i32 {
    #[inline(always)]
    fn of(element: Element, slot: &[u64; 32], shift: u32) -> [Self; 32] {
        match element {
            Element::S8 => lanewise(slot, |word| i32::from((word >> shift) as i8)),
            Element::U8 => lanewise(slot, |word| i32::from((word >> shift) as u8)),
            Element::S4 => lanewise(slot, |word| ((word >> shift) as i32) << 28 >> 28),
            Element::U4 => lanewise(slot, |word| (word >> shift) as i32 & 15),
            _ => lanewise(slot, |word| word as i32),
        }
    }
}

/// An f16 number, without a branch: its exponent is put right by a multiplication, which is exact.
#[inline(always)]
fn half(bits: u16) -> f32 {
    /// What the formats' exponents differ by.
    const TWO_TO_112: f32 = f32::from_bits(0x7780_0000);
    let shifted = u32::from(bits & 0x7fff) << 13;
    let value = f32::from_bits(shifted) * TWO_TO_112;
    let special = if bits & 0x7c00 == 0x7c00 {
        0x7f80_0000
    } else {
        0
    };
    f32::from_bits(value.to_bits() | special | u32::from(bits & 0x8000) << 16)
}

/// Sign, four bits of exponent, three of fraction; no infinity, and one NaN of each sign.
fn e4m3(bits: u8) -> f32 {
    let magnitude = bits & 0x7f;
    if magnitude == 0x7f {
        return f32::NAN;
    }
    let (exponent, fraction) = (i32::from(magnitude >> 3), f32::from(magnitude & 7));
    let value = if exponent == 0 {
        fraction / 512.0
    } else {
        (1.0 + fraction / 8.0) * 2f32.powi(exponent - 7)
    };
    if bits & 0x80 != 0 { -value } else { value }
}

fn unfloat(element: Element, value: f32) -> u64 {
    match (element, value.is_nan()) {
        (Element::F16, true) => 0x7fff,
        (Element::F16, false) => f16::from_f32(value).to_bits().into(),
        (_, true) => 0x7fff_ffff,
        (_, false) => value.to_bits().into(),
    }
}

/// Where an operand's elements lie in registers and matrix.
#[derive(Clone, Copy)]
struct Layout {
    fragment: Fragment,
    /// Lanes and places of the quads' form, rather, for one of its four multiplications.
    quads: Option<Quads>,
}

#[derive(Clone, Copy)]
struct Quads {
    number: u32,
    /// Rows lie in registers, else columns.
    rows: bool,
}

impl Layout {
    /// That of one operand; `number` tells the quads' multiplications apart.
    fn of(f: Mma, role: Role, element: Element, number: u32) -> Self {
        let quads = match f.f {
            MmaOp::Quads { a_rows, b_rows } => Some(Quads {
                number,
                rows: if role == Role::A { a_rows } else { b_rows },
            }),
            _ => None,
        };
        let fragment = Fragment {
            shape: f.shape,
            role,
            element,
        };
        Self { fragment, quads }
    }

    /// The lanes that hold elements, and how many each of them does.
    fn lanes_and_places(self) -> (u32, u32) {
        match (self.quads, self.fragment.role) {
            (None, _) => {
                let element = self.fragment.element;
                (u32::MAX, self.fragment.registers() * element.per_register())
            }
            (Some(quads), Role::Accumulator) => (quads.lanes(), 8),
            (Some(quads), _) => (quads.lanes(), 4),
        }
    }

    /// Where each lane's first element lies in the dense matrix.
    fn bases(self) -> [usize; 32] {
        let mut bases = [0; 32];
        for (lane, base) in (0u32..).zip(&mut bases) {
            *base = self.index(match self.quads {
                Some(quads) => quads.position(self.fragment, lane / 16, lane % 4, 0),
                None => self.fragment.position(lane, 0),
            });
        }
        bases
    }

    /// How far a lane's other elements lie from its first: as far in every lane.
    fn offset(self, place: u32) -> usize {
        self.index(match self.quads {
            Some(quads) => quads.position(self.fragment, 0, 0, place),
            None => self.fragment.position(0, place),
        })
    }

    fn index(self, (row, column): (u32, u32)) -> usize {
        (row * self.fragment.size().1 + column) as usize
    }
}

impl Quads {
    /// Two groups of four hold one multiplication.
    fn lanes(self) -> u32 {
        0x000f_000f << (4 * self.number)
    }

    fn position(self, fragment: Fragment, high: u32, in_quad: u32, i: u32) -> (u32, u32) {
        match (fragment.role, self.rows) {
            (Role::A, true) => (in_quad + 4 * high, i),
            (Role::A, false) => (i + 4 * high, in_quad),
            (Role::B, true) => (in_quad, i + 4 * high),
            (Role::B, false) => (i, in_quad + 4 * high),
            (Role::Accumulator, _) if fragment.element == Element::F16 => (in_quad + 4 * high, i),
            (Role::Accumulator, _) => (
                (in_quad & 1) + (i & 2) + 4 * high,
                (i & 4) + (in_quad & 2) + (i & 1),
            ),
        }
    }
}

/// Operands of a multiplication as dense matrices, row by row.
struct Dense<T> {
    a: [T; LARGEST_A],
    b: [T; LARGEST_B],
    sum: [T; LARGEST_SUM],
}

/// Spreads the elements of an operand, whose registers lie from `at` on, over its matrix.
#[inline(always)]
fn spread<T: Number>(layout: Layout, stage: &Stage, at: u8, matrix: &mut [T]) {
    let element = layout.fragment.element;
    let (per, bits) = (element.per_register(), element.bits());
    let (active, places) = layout.lanes_and_places();
    let bases = layout.bases();
    for place in 0..places {
        let slot = &stage[usize::from(at) + (place / per) as usize];
        let values = T::of(element, slot, place % per * bits);
        let offset = layout.offset(place);
        for lane in lanes(active) {
            matrix[bases[lane] + offset] = values[lane];
        }
    }
}

impl<T: Number> Dense<T> {
    /// Reads the operands.
    #[inline(always)]
    fn gather(f: Mma, number: u32, stage: &Stage) -> Self {
        let mut dense = Self {
            a: [T::default(); LARGEST_A],
            b: [T::default(); LARGEST_B],
            sum: [T::default(); LARGEST_SUM],
        };
        let layout = |role, element| Layout::of(f, role, element, number);
        spread(layout(Role::A, f.a), stage, STAGE_A, &mut dense.a);
        spread(layout(Role::B, f.b), stage, STAGE_B, &mut dense.b);
        let sum = layout(Role::Accumulator, f.c);
        spread(sum, stage, STAGE_C, &mut dense.sum);
        dense
    }

    /// Adds to the sum the product of A and B: four rows and eight columns at a time, of which every
    /// shape has a multiple, so that no addition has to wait for the one before.
    #[inline(always)]
    fn accumulate(&mut self, shape: MatrixShape, step: impl Fn(T, T, T) -> T) {
        let (width, depth) = (usize::from(shape.n), usize::from(shape.k));
        for row in (0..usize::from(shape.m)).step_by(4) {
            for start in (0..width).step_by(8) {
                let place = |part: usize| (row + part) * width + start;
                let mut sums = [[T::default(); 8]; 4];
                for (part, sums) in sums.iter_mut().enumerate() {
                    sums.copy_from_slice(&self.sum[place(part)..][..8]);
                }
                for k in 0..depth {
                    let b = &self.b[k * width + start..][..8];
                    for (part, sums) in sums.iter_mut().enumerate() {
                        let a = self.a[(row + part) * depth + k];
                        for (sum, &b) in sums.iter_mut().zip(b) {
                            *sum = step(a, b, *sum);
                        }
                    }
                }
                for (part, sums) in sums.iter().enumerate() {
                    self.sum[place(part)..][..8].copy_from_slice(sums);
                }
            }
        }
    }

    /// Writes the result.
    #[inline(always)]
    fn scatter(&self, f: Mma, number: u32, stage: &mut Stage, encode: impl Fn(T) -> u64) {
        let layout = Layout::of(f, Role::Accumulator, f.d, number);
        let (per, bits) = (f.d.per_register(), f.d.bits());
        let (active, places) = layout.lanes_and_places();
        let bases = layout.bases();
        for place in 0..places {
            let slot = &mut stage[usize::from(STAGE_C) + (place / per) as usize];
            let (shift, mask) = (place % per * bits, u64::MAX >> (64 - bits));
            let offset = layout.offset(place);
            for lane in lanes(active) {
                let value = encode(self.sum[bases[lane] + offset]);
                slot[lane] = slot[lane] & !(mask << shift) | (value & mask) << shift;
            }
        }
    }
}

/// Multiplies what lies in the stage.
fn multiply(cpu: impl Processor, f: Mma, stage: &mut Stage) {
    match (f.f, f.d) {
        (MmaOp::Quads { .. }, _) => (0..4).for_each(|number| floats(cpu, f, number, stage)),
        (_, Element::F16 | Element::F32) => floats(cpu, f, 0, stage),
        (_, Element::F64) => doubles(cpu, f, stage),
        _ => integers(cpu, f, stage),
    }
}

fn floats(cpu: impl Processor, f: Mma, number: u32, stage: &mut Stage) {
    cpu.apart(
        #[inline(always)]
        || {
            let mut dense = Dense::<f32>::gather(f, number, stage);
            dense.accumulate(f.shape, |a: f32, b, sum| a.mul_add(b, sum));
            dense.scatter(f, number, stage, |value| unfloat(f.d, value));
        },
    );
}

fn doubles(cpu: impl Processor, f: Mma, stage: &mut Stage) {
    cpu.apart(
        #[inline(always)]
        || {
            let mut dense = Dense::<f64>::gather(f, 0, stage);
            if f.round == Round::Nearest {
                dense.accumulate(f.shape, |a: f64, b, sum| a.mul_add(b, sum));
            } else {
                dense.accumulate(f.shape, |a, b, sum| {
                    let [a, b, sum] = [a, b, sum].map(f64::to_bits);
                    f64::from_bits(Format::of(FloatType::F64).fma(a, b, sum, f.round))
                });
            }
            dense.scatter(f, 0, stage, f64::to_bits);
        },
    );
}

fn integers(cpu: impl Processor, mut f: Mma, stage: &mut Stage) {
    if f.a == Element::B1 {
        // Whole registers are multiplied; they lie as single elements of their width would.
        (f.a, f.b) = (Element::S32, Element::S32);
        f.shape.k /= 32;
    }
    cpu.apart(
        #[inline(always)]
        || {
            let mut dense = Dense::<i32>::gather(f, 0, stage);
            let addends = std::mem::replace(&mut dense.sum, [0; LARGEST_SUM]);
            match f.f {
                MmaOp::Xor => dense.accumulate(f.shape, |a, b, sum| sum + ones(a ^ b)),
                MmaOp::And => dense.accumulate(f.shape, |a, b, sum| sum + ones(a & b)),
                _ => dense.accumulate(f.shape, |a, b, sum| sum + a * b),
            }
            for (sum, addend) in dense.sum.iter_mut().zip(addends) {
                *sum = if f.saturate {
                    sum.saturating_add(addend)
                } else {
                    sum.wrapping_add(addend)
                };
            }
            dense.scatter(f, 0, stage, |value| value as u32 as u64);
        },
    );
}

#[inline(always)]
fn ones(bits: i32) -> i32 {
    bits.count_ones() as i32
}
