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

use half::{bf16, f16};

use super::access::Places;
use super::fault::FaultKind;
use super::float::Format;
use super::memory::{LaneFault, View, lanes};
use super::processor::{Plain, Processor};
use super::register::addresses;
use super::warp::Frame;
use crate::ptx::ir::*;

/// Elements of the largest operand, bits being counted in words.
const LARGEST: usize = 1024;
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
                let from = &frame.w[a.index()];
                lanes(mask).for_each(|lane| slot[lane] = from[lane].into());
            }
        }
        Op::StageD { at, a } => {
            for (slot, a) in frame.stage[slots(at)].iter_mut().zip(a.iter().flatten()) {
                let from = &frame.d[a.index()];
                lanes(mask).for_each(|lane| slot[lane] = from[lane]);
            }
        }
        Op::UnstageW { at, d } => {
            for (slot, d) in frame.stage[slots(at)].iter().zip(d.iter().flatten()) {
                let to = &mut frame.w[d.index()];
                lanes(mask).for_each(|lane| to[lane] = slot[lane] as u32);
            }
        }
        Op::UnstageD { at, d } => {
            for (slot, d) in frame.stage[slots(at)].iter().zip(d.iter().flatten()) {
                let to = &mut frame.d[d.index()];
                lanes(mask).for_each(|lane| to[lane] = slot[lane]);
            }
        }
        _ => {}
    }
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
            let place = Placed {
                f,
                space,
                bases,
                strides: *frame.w[stride.index()],
            };
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
            let place = Placed {
                f,
                space,
                bases,
                strides: *frame.w[stride.index()],
            };
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
    bases: [u64; 32],
    /// Elements from one row (or column) to the next.
    strides: [u32; 32],
}

impl Placed {
    /// Whether the elements of a register are neighbours in memory.
    fn together(&self) -> bool {
        self.f.rows != (self.f.fragment.role == Role::B)
    }

    /// Where each lane's element `place` lies.
    fn addresses(&self, place: u32) -> [u64; 32] {
        let bits = u64::from(self.f.fragment.element.bits());
        std::array::from_fn(|lane| {
            let (row, column) = self.f.fragment.position(lane as u32, place);
            let (line, along) = if self.f.rows {
                (row, column)
            } else {
                (column, row)
            };
            let elements = u64::from(line) * u64::from(self.strides[lane]) + u64::from(along);
            self.bases[lane].wrapping_add(elements * bits / 8)
        })
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
                    memory.load_d(Plain, self.space, Places::at(&addresses, mask), &mut value)?;
                    continue;
                }
                let mut part = [0; 32];
                memory.load_w(
                    Plain,
                    self.space,
                    ty,
                    Places::at(&addresses, mask),
                    &mut part,
                )?;
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
                    memory.store_d(Plain, self.space, Places::at(&addresses, mask), slot)?;
                } else {
                    let part = slot.map(|value| (value >> shift) as u32);
                    memory.store_w(Plain, self.space, ty, Places::at(&addresses, mask), &part)?;
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
            return memory.load_w(
                Plain,
                space,
                MemType::B32,
                Places::at(&self.places(matrix, 0), mask),
                out,
            );
        }
        let mut halves = [[0; 32]; 2];
        for (part, half) in halves.iter_mut().enumerate() {
            memory.load_w(
                Plain,
                space,
                MemType::U16,
                Places::at(&self.places(matrix, part), mask),
                half,
            )?;
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
            return memory.store_w(
                Plain,
                space,
                MemType::B32,
                Places::at(&self.places(matrix, 0), mask),
                values,
            );
        }
        for part in 0..2 {
            let half = values.map(|value| value >> (16 * part));
            memory.store_w(
                Plain,
                space,
                MemType::U16,
                Places::at(&self.places(matrix, part), mask),
                &half,
            )?;
        }
        Ok(())
    }
}

/// Element `place` of those that a lane holds in registers from slot `at` on.
#[inline(always)]
fn element(stage: &Stage, at: u8, element: Element, lane: usize, place: u32) -> u64 {
    let (per, bits) = (element.per_register(), element.bits());
    let value = stage[usize::from(at) + (place / per) as usize][lane];
    value >> (place % per * bits) & (u64::MAX >> (64 - bits))
}

fn set_element(stage: &mut Stage, element: Element, lane: usize, place: u32, value: u64) {
    let (per, bits) = (element.per_register(), element.bits());
    let slot = &mut stage[usize::from(STAGE_C) + (place / per) as usize][lane];
    let (shift, mask) = (place % per * bits, u64::MAX >> (64 - bits));
    *slot = *slot & !(mask << shift) | (value & mask) << shift;
}

fn float(element: Element, bits: u64) -> f32 {
    match element {
        Element::F16 => f16::from_bits(bits as u16).to_f32(),
        Element::Bf16 => bf16::from_bits(bits as u16).to_f32(),
        // What lies below the format's precision is ignored.
        Element::Tf32 => f32::from_bits(bits as u32 & 0xffff_e000),
        Element::E5m2 => f16::from_bits((bits as u16) << 8).to_f32(),
        Element::E4m3 => e4m3(bits as u8),
        _ => f32::from_bits(bits as u32),
    }
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

fn integer(element: Element, bits: u64) -> i32 {
    match element {
        Element::S8 => i32::from(bits as u8 as i8),
        Element::S4 => (bits as i32) << 28 >> 28,
        _ => bits as u32 as i32,
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

    /// Calls `visit` with the lane, place, row and column of every element.
    #[inline(always)]
    fn each(self, mut visit: impl FnMut(usize, u32, usize, usize)) {
        let places = self.fragment.registers() * self.fragment.element.per_register();
        let Some(quads) = self.quads else {
            for lane in 0..32 {
                for place in 0..places {
                    let (row, column) = self.fragment.position(lane, place);
                    visit(lane as usize, place, row as usize, column as usize);
                }
            }
            return;
        };
        // Eight lanes, two groups of four, hold one multiplication.
        let places = if self.fragment.role == Role::Accumulator {
            8
        } else {
            4
        };
        for high in [0, 1] {
            for in_quad in 0..4 {
                let lane = quads.number * 4 + high * 16 + in_quad;
                for place in 0..places {
                    let (row, column) = quads.position(self.fragment, high, in_quad, place);
                    visit(lane as usize, place, row as usize, column as usize);
                }
            }
        }
    }
}

impl Quads {
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
    a: [T; LARGEST],
    b: [T; LARGEST],
    sum: [T; LARGEST_SUM],
}

impl<T: Copy + Default> Dense<T> {
    fn new() -> Self {
        Self {
            a: [T::default(); LARGEST],
            b: [T::default(); LARGEST],
            sum: [T::default(); LARGEST_SUM],
        }
    }

    /// Reads the operands.
    fn gather(&mut self, f: Mma, number: u32, stage: &Stage, decode: impl Fn(Element, u64) -> T) {
        let [a, b, c] = [(Role::A, f.a), (Role::B, f.b), (Role::Accumulator, f.c)]
            .map(|(role, element)| Layout::of(f, role, element, number));
        let (width, depth) = (usize::from(f.shape.n), usize::from(f.shape.k));
        a.each(|lane, place, row, column| {
            self.a[row * depth + column] = decode(f.a, element(stage, STAGE_A, f.a, lane, place));
        });
        b.each(|lane, place, row, column| {
            self.b[row * width + column] = decode(f.b, element(stage, STAGE_B, f.b, lane, place));
        });
        c.each(|lane, place, row, column| {
            self.sum[row * width + column] = decode(f.c, element(stage, STAGE_C, f.c, lane, place));
        });
    }

    /// Adds to the sum the product of A and B, with eight columns at a time.
    #[inline(always)]
    fn accumulate(&mut self, shape: MatrixShape, step: impl Fn(T, T, T) -> T) {
        let (width, depth) = (usize::from(shape.n), usize::from(shape.k));
        for row in 0..usize::from(shape.m) {
            let a = &self.a[row * depth..][..depth];
            for start in (0..width).step_by(8) {
                let Some(sum) = self.sum[row * width + start..].first_chunk_mut::<8>() else {
                    continue;
                };
                let mut sums = *sum;
                for (k, &a) in a.iter().enumerate() {
                    if let Some(b) = self.b[k * width + start..].first_chunk::<8>() {
                        for (sum, &b) in sums.iter_mut().zip(b) {
                            *sum = step(a, b, *sum);
                        }
                    }
                }
                *sum = sums;
            }
        }
    }

    /// Writes the result.
    fn scatter(&self, f: Mma, number: u32, stage: &mut Stage, encode: impl Fn(T) -> u64) {
        let result = Layout::of(f, Role::Accumulator, f.d, number);
        result.each(|lane, place, row, column| {
            let value = encode(self.sum[row * usize::from(f.shape.n) + column]);
            set_element(stage, f.d, lane, place, value);
        });
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
    let mut dense = Dense::new();
    dense.gather(f, number, stage, float);
    cpu.apart(
        #[inline(always)]
        || dense.accumulate(f.shape, |a: f32, b, sum| a.mul_add(b, sum)),
    );
    dense.scatter(f, number, stage, |value| unfloat(f.d, value));
}

fn doubles(cpu: impl Processor, f: Mma, stage: &mut Stage) {
    let mut dense = Dense::new();
    dense.gather(f, 0, stage, |_, bits| f64::from_bits(bits));
    if f.round == Round::Nearest {
        cpu.apart(
            #[inline(always)]
            || dense.accumulate(f.shape, |a: f64, b, sum| a.mul_add(b, sum)),
        );
    } else {
        dense.accumulate(f.shape, |a, b, sum| {
            let [a, b, sum] = [a, b, sum].map(f64::to_bits);
            f64::from_bits(Format::of(FloatType::F64).fma(a, b, sum, f.round))
        });
    }
    dense.scatter(f, 0, stage, f64::to_bits);
}

fn integers(cpu: impl Processor, mut f: Mma, stage: &mut Stage) {
    if f.a == Element::B1 {
        // Whole registers are multiplied; they lie as single elements of their width would.
        (f.a, f.b) = (Element::S32, Element::S32);
        f.shape.k /= 32;
    }
    let mut dense = Dense::new();
    dense.gather(f, 0, stage, integer);
    let addends = std::mem::replace(&mut dense.sum, [0; LARGEST_SUM]);
    cpu.apart(
        #[inline(always)]
        || match f.f {
            MmaOp::Xor => dense.accumulate(f.shape, |a, b, sum| sum + ones(a ^ b)),
            MmaOp::And => dense.accumulate(f.shape, |a, b, sum| sum + ones(a & b)),
            _ => dense.accumulate(f.shape, |a, b, sum| sum + a * b),
        },
    );
    for (sum, addend) in dense.sum.iter_mut().zip(addends) {
        *sum = if f.saturate {
            sum.saturating_add(addend)
        } else {
            sum.wrapping_add(addend)
        };
    }
    dense.scatter(f, 0, stage, |value| value as u32 as u64);
}

#[inline(always)]
fn ones(bits: i32) -> i32 {
    bits.count_ones() as i32
}
