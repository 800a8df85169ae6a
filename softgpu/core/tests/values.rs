//! What instructions compute, for every form of the table, against the independent reference.
//!
//! The rows of the instruction table that name a test of this file are run form by form on operands
//! that include every boundary; each register that a form could write is compared.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod reference;
mod support;
mod table;

use std::fmt::Write as _;

use reference::{File, Instruction, Machine, Value};
use softgpu_core::ptx;
use support::{Arguments, Program};
use table::{Outcome, Row};

/// Threads of one launch, each with operands of its own.
const LANES: usize = 2048;
const BLOCK: u32 = 256;
/// Bytes that each thread stores.
const STRIDE: usize = 64;

/// Boundaries of integers and of every floating-point format.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    31,
    32,
    33,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
    // Singles: ones, halves, subnormal, smallest normal, largest, infinite, NaN, limits of integers.
    0x3f80_0000,
    0xbf80_0000,
    0x3f00_0000,
    0xbf00_0000,
    0x3fc0_0000,
    0x4020_0000,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x7f80_0001,
    0x4f00_0000,
    0xcf00_0000,
    0x4f7f_ffff,
    0x5f00_0000,
    0x477f_e000,
    0x477f_f000,
    0x43e0_0000,
    0x3f80_1000,
    0x3f80_3000,
    // Halves, in the low and in both halves of a word.
    0x3c00,
    0xbc00,
    0x3800,
    0x3e00,
    0x7bff,
    0x7c00,
    0xfc00,
    0x7e00,
    0x7c01,
    0x03ff,
    0x0400,
    0x3c00_bc00,
    0x7c00_7e00,
    0x3f80_bf80,
    0x7f80_7fc0,
    // Doubles.
    0x3ff0_0000_0000_0000,
    0xbff0_0000_0000_0000,
    0x3fe0_0000_0000_0000,
    0x3ff8_0000_0000_0000,
    0x4004_0000_0000_0000,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0x7ff0_0000_0000_0001,
    0x41df_ffff_ffc0_0000,
    0x41e0_0000_0000_0000,
    0xc1e0_0000_0000_0000,
    0x43e0_0000_0000_0000,
    0x3810_0000_0000_0000,
    0x47ef_ffff_f000_0000,
];

/// Pseudo-random numbers.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number that is likely to matter to some type.
    fn operand(&mut self) -> u64 {
        let noise = self.next();
        match self.next() >> 40 & 7 {
            0 | 1 => EDGES[(noise >> 20) as usize % EDGES.len()],
            2 => noise & 63,
            // Floating-point numbers near one, single and double and in halves.
            3 => noise & 0x80ff_ffff | 0x3f00_0000 | noise & 0xffff_ffff_0000_0000,
            4 => noise & 0x801f_ffff_ffff_ffff | 0x3fe0_0000_0000_0000,
            5 => noise & 0x83ff_83ff | 0x3c00_3c00,
            // An edge with a neighbour in the low bits.
            6 => EDGES[(noise >> 20) as usize % EDGES.len()].wrapping_add(noise & 3),
            _ => noise,
        }
    }
}

/// Three operands for each thread; the first two meet at every pair of edges in turn.
fn operands() -> [Vec<u64>; 3] {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut columns = [const { Vec::new() }; 3];
    for lane in 0..LANES {
        let pair = (lane * 5) % (EDGES.len() * EDGES.len());
        let cross = lane % 3 == 0;
        let (a, b) = (EDGES[pair % EDGES.len()], EDGES[pair / EDGES.len()]);
        columns[0].push(if cross { a } else { noise.operand() });
        columns[1].push(if cross { b } else { noise.operand() });
        columns[2].push(noise.operand());
    }
    columns
}

/// Every 16-bit pattern as the first operand.
fn exhaustive() -> [Vec<u64>; 3] {
    let mut noise = Noise(0x1234_5678_9abc_def1);
    let mut columns = [const { Vec::new() }; 3];
    for pattern in 0..=0xffffu64 {
        columns[0].push(pattern | pattern.rotate_left(5) << 16 & 0xffff_0000);
        columns[1].push(noise.operand());
        columns[2].push(noise.operand());
    }
    columns
}

/// A kernel around a form: fills its operands' registers and stores all that it may write.
fn kernel(name: &str, form: &str) -> String {
    let mut text = format!(
        ".visible .entry {name}(.param .u64 o, .param .u64 x, .param .u64 y, .param .u64 z) {{\n\
         .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<8>, %w<9>; .reg .b64 %rd<8>, %a<8>;\n\
         mov.u32 %w0, %ctaid.x; mov.u32 %w1, %ntid.x; mov.u32 %w2, %tid.x; mad.lo.u32 %w0, %w0, %w1, %w2;\n\
         ld.param.u64 %a0, [o]; ld.param.u64 %a1, [x]; ld.param.u64 %a2, [y]; ld.param.u64 %a3, [z];\n\
         mad.wide.u32 %a0, %w0, {STRIDE}, %a0; mad.wide.u32 %a1, %w0, 8, %a1; mad.wide.u32 %a2, %w0, 8, %a2; mad.wide.u32 %a3, %w0, 8, %a3;\n\
         ld.global.u64 %rd1, [%a1]; ld.global.u64 %rd2, [%a2]; ld.global.u64 %rd3, [%a3];\n"
    );
    for place in 1..4 {
        let _ = writeln!(
            text,
            "cvt.u32.u64 %r{place}, %rd{place}; cvt.u16.u64 %h{place}, %rd{place}; \
             and.b32 %w3, %r{place}, 1; setp.ne.u32 %p{place}, %w3, 0;"
        );
    }
    let _ = writeln!(
        text,
        "shr.u64 %a4, %rd2, 32; cvt.u32.u64 %r4, %a4; shr.u64 %a4, %rd3, 32; cvt.u32.u64 %r5, %a4; mov.u32 %r6, 0;\n\
         mov.u64 %rd0, 0; mov.u32 %r0, %r3; mov.u16 %h0, %h3; setp.ne.u32 %p0, 0, 0; setp.ne.u32 %p4, 0, 0;\n\
         {form};\n\
         st.global.u64 [%a0], %rd0; st.global.u32 [%a0+8], %r0; st.global.u32 [%a0+12], %r4; st.global.u32 [%a0+16], %r6;\n\
         st.global.u16 [%a0+20], %h0; selp.u32 %w4, 1, 0, %p0; st.global.u32 [%a0+24], %w4; selp.u32 %w4, 1, 0, %p4; st.global.u32 [%a0+28], %w4;\n\
         ret; }}"
    );
    text
}

/// Where a kernel stores each register it may write.
const STORED: [(File, usize, usize, usize); 7] = [
    (File::D, 0, 0, 8),
    (File::R, 0, 8, 4),
    (File::R, 4, 12, 4),
    (File::R, 6, 16, 4),
    (File::H, 0, 20, 2),
    (File::P, 0, 24, 4),
    (File::P, 4, 28, 4),
];

/// The machine as the kernel's first half leaves it.
fn prepared(inputs: &[Vec<u64>; 3], lane: usize) -> Machine {
    let mut machine = Machine::default();
    for (place, column) in (1..).zip(inputs) {
        let bits = u128::from(column[lane]);
        machine.set(File::D, place, Value::Bits(bits));
        machine.set(File::R, place, Value::Bits(bits & 0xffff_ffff));
        machine.set(File::H, place, Value::Bits(bits & 0xffff));
        machine.set(File::P, place, Value::Bits(bits & 1));
    }
    let [_, b, c] = [0, 1, 2].map(|column| u128::from(inputs[column][lane]));
    machine.set(File::R, 4, Value::Bits(b >> 32));
    machine.set(File::R, 5, Value::Bits(c >> 32));
    machine.set(File::R, 0, Value::Bits(c & 0xffff_ffff));
    machine.set(File::H, 0, Value::Bits(c & 0xffff));
    machine
}

/// Runs every form of a row; returns what differs.
fn differences(row: &Row, inputs: &[Vec<u64>; 3], wrong: &mut Vec<String>) {
    let forms = row.forms();
    let mut text = format!(".version 8.8\n.target {}\n.address_size 64\n", row.target);
    for (number, form) in forms.iter().enumerate() {
        text += &kernel(&format!("k{number}"), form);
    }
    let digits = row
        .target
        .trim_start_matches("sm_")
        .trim_end_matches(['a', 'f']);
    let number: u32 = digits.parse().unwrap();
    let target = ptx::Target {
        compute_capability: (number / 10, number % 10),
        ..support::TARGET
    };
    let program = Program::for_target(&text, &target);
    let lanes = inputs[0].len();
    let out = program.memory.buffer(lanes * STRIDE);
    let mut arguments = Arguments::new().buffer(out);
    for input in inputs {
        arguments = arguments.buffer(program.memory.from(input));
    }
    for (number, form) in forms.iter().enumerate() {
        let blocks = lanes as u32 / BLOCK;
        program.launch(&format!("k{number}"), blocks, BLOCK, arguments.clone());
        let bytes: Vec<u8> = out.read();
        let instructions = Instruction::sequence(form);
        let mut shown = 0;
        for lane in 0..lanes {
            let mut machine = prepared(inputs, lane);
            for instruction in &instructions {
                machine.step(instruction);
            }
            for (file, index, offset, size) in STORED {
                let start = lane * STRIDE + offset;
                let mut actual = 0u128;
                for (place, byte) in bytes[start..start + size].iter().enumerate() {
                    actual |= u128::from(*byte) << (8 * place);
                }
                let expected = machine.get(file, index);
                if !expected.admits(actual) && shown < 3 {
                    shown += 1;
                    let [a, b, c] = [0, 1, 2].map(|column| inputs[column][lane]);
                    wrong.push(format!(
                        "{form}: of {a:#x}, {b:#x}, {c:#x}: {file:?}{index} is {actual:#x}, not {expected:x?}"
                    ));
                }
            }
        }
    }
}

/// Runs the rows that name this test.
fn check(test: &str) {
    let rows = table::rows().unwrap_or_else(|line| panic!("not a row of the table: {line}"));
    let name = format!("values::{test}");
    let (few, all) = (operands(), exhaustive());
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in rows {
        if row.outcome == (Outcome::Works { test: name.clone() }) {
            count += 1;
            differences(&row, &few, &mut wrong);
            // Functions of one narrow operand are tried on all of its values.
            if row.form.contains("%h1") && !row.form.contains("%h2")
                || row.form.contains("16") && row.form.ends_with("1")
            {
                differences(&row, &all, &mut wrong);
            }
        }
    }
    assert!(count > 0, "no row names {name}");
    let total = wrong.len();
    wrong.truncate(60);
    assert!(total == 0, "{total} differences:\n{}", wrong.join("\n"));
}

#[test]
fn integer_arithmetic_agrees_with_the_reference() {
    check("integer_arithmetic_agrees_with_the_reference");
}

#[test]
fn carries_agree_with_the_reference() {
    check("carries_agree_with_the_reference");
}

#[test]
fn logic_and_bits_agree_with_the_reference() {
    check("logic_and_bits_agree_with_the_reference");
}

#[test]
fn video_instructions_agree_with_the_reference() {
    check("video_instructions_agree_with_the_reference");
}

#[test]
fn comparisons_agree_with_the_reference() {
    check("comparisons_agree_with_the_reference");
}

#[test]
fn floating_point_agrees_with_the_reference() {
    check("floating_point_agrees_with_the_reference");
}

#[test]
fn approximations_keep_their_bounds() {
    check("approximations_keep_their_bounds");
}

#[test]
fn conversions_agree_with_the_reference() {
    check("conversions_agree_with_the_reference");
}
