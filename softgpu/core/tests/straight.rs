//! Random straight-line programs on the interpreter and on the reference machine.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod reference;
mod support;

use proptest::prelude::*;
use reference::{File, Instruction, Machine, Value};
use support::{Arguments, Program};

const LANES: usize = 64;
/// Registers of each file that programs compute with.
const REGISTERS: usize = 8;

/// Instructions whose results PTX defines exactly; `R`, `D`, `H` and `P` stand for registers, `I` for
/// a small number.
const TEMPLATES: &[&str] = &[
    "add.u32 R, R, R",
    "add.sat.s32 R, R, R",
    "sub.s32 R, R, R",
    "mul.lo.u32 R, R, R",
    "mul.hi.s32 R, R, R",
    "mul.wide.u32 D, R, R",
    "mul.wide.s16 R, H, H",
    "mad.lo.s32 R, R, R, R",
    "mad.hi.u32 R, R, R, R",
    "mad.wide.s32 D, R, R, D",
    "mul24.lo.s32 R, R, R",
    "sad.u32 R, R, R, R",
    "min.s32 R, R, R",
    "max.u64 D, D, D",
    "abs.s32 R, R",
    "neg.s64 D, D",
    "add.s64 D, D, D",
    "sub.u64 D, D, D",
    "mul.lo.u64 D, D, D",
    "mul.hi.s64 D, D, D",
    "mad.lo.s64 D, D, D, D",
    "add.cc.u32 R, R, R; addc.u32 R, R, R",
    "sub.cc.u64 D, D, D; subc.u64 D, D, D",
    "mad.lo.cc.u32 R, R, R, R; madc.hi.u32 R, R, R, R",
    "add.u16 H, H, H",
    "mul.lo.s16 H, H, H",
    "min.u16 H, H, H",
    "and.b32 R, R, R",
    "or.b64 D, D, D",
    "xor.b16 H, H, H",
    "not.b32 R, R",
    "cnot.b64 D, D",
    "lop3.b32 R, R, R, R, 0x96",
    "shl.b32 R, R, I",
    "shr.s64 D, D, R",
    "shr.u16 H, H, I",
    "shf.l.wrap.b32 R, R, R, R",
    "popc.b64 R, D",
    "clz.b32 R, R",
    "brev.b64 D, D",
    "bfind.s32 R, R",
    "bfe.s32 R, R, R, I",
    "bfe.u64 D, D, I, R",
    "bfi.b32 R, R, R, I, R",
    "prmt.b32 R, R, R, R",
    "dp4a.s32.u32 R, R, R, R",
    "add.f32 R, R, R",
    "sub.rz.f32 R, R, R",
    "mul.rm.ftz.f32 R, R, R",
    "fma.rn.f32 R, R, R, R",
    "fma.rp.sat.f32 R, R, R, R",
    "div.rn.f32 R, R, R",
    "sqrt.rn.f32 R, R",
    "rcp.rz.f32 R, R",
    "min.f32 R, R, R",
    "max.NaN.f32 R, R, R",
    "copysign.f32 R, R, R",
    "add.rp.f64 D, D, D",
    "mul.f64 D, D, D",
    "fma.rn.f64 D, D, D, D",
    "div.rn.f64 D, D, D",
    "sqrt.rm.f64 D, D",
    "max.f64 D, D, D",
    "add.f16 H, H, H",
    "fma.rn.f16x2 R, R, R, R",
    "mul.bf16x2 R, R, R",
    "cvt.rn.f32.s32 R, R",
    "cvt.rzi.s32.f32 R, R",
    "cvt.rn.f32.f64 R, D",
    "cvt.f64.f32 D, R",
    "cvt.rz.f16.f32 H, R",
    "cvt.f32.f16 R, H",
    "cvt.s64.s32 D, R",
    "cvt.u16.u32 H, R",
    "cvt.s32.s8 R, R",
    "cvt.sat.u8.s32 R, R",
    "cvt.rn.f64.u64 D, D",
    "mov.b64 D, {R, R}",
    "mov.b64 {R, R}, D",
    "mov.b32 R, {H, H}",
    "mov.b32 {H, H}, R",
    "setp.lt.s32 P, R, R",
    "setp.geu.f32 P|P, R, R",
    "setp.eq.or.u64 P, D, D, P",
    "set.ne.u32.s32 R, R, R",
    "selp.b32 R, R, R, P",
    "selp.f64 D, D, D, P",
    "slct.s32.s32 R, R, R, R",
    "and.pred P, P, P",
    "xor.pred P, P, P",
    "not.pred P, P",
    "testp.subnormal.f32 P, R",
];

/// Fills a template's places from a stream of random numbers.
fn fill(template: &str, choices: &mut impl Iterator<Item = u8>) -> String {
    let (mut text, mut guarded) = (String::new(), String::new());
    let mut previous = ' ';
    let mut last_pair = None;
    for character in template.chars() {
        let stands = !previous.is_ascii_alphanumeric() && previous != '.' && previous != '%';
        let choice =
            |choices: &mut dyn Iterator<Item = u8>| usize::from(choices.next().unwrap_or(0));
        match character {
            'R' | 'D' | 'H' | 'P' if stands => {
                let file = match character {
                    'R' => "r",
                    'D' => "rd",
                    'H' => "h",
                    _ => "p",
                };
                let mut index = choice(choices) % REGISTERS;
                // Two destinations of one instruction differ.
                if previous == '|' && last_pair == Some(index) {
                    index = (index + 1) % REGISTERS;
                }
                last_pair = Some(index);
                text += &format!("%{file}{index}");
            }
            'I' if stands => text += &(choice(choices) % 70).to_string(),
            other => text.push(other),
        }
        previous = character;
    }
    // One in four is guarded; sequences share a carry flag and are not.
    let guard = choices.next().unwrap_or(0);
    if guard & 3 == 0 && !template.contains(';') {
        let negate = if guard & 4 == 0 { "" } else { "!" };
        guarded = format!("@{negate}%p{} ", usize::from(guard >> 3) % REGISTERS);
    }
    guarded + &text
}

/// Whether the vector that the program unpacks into names one register twice.
fn writes_one_register_twice(line: &str) -> bool {
    let Some((_, rest)) = line.split_once('{') else {
        return false;
    };
    let list = rest.split('}').next().unwrap_or_default();
    let mut names = list.split(',').map(str::trim);
    line.contains(".b32 {") | line.contains(".b64 {") && names.next() == names.next()
}

fn kernel(lines: &[String]) -> String {
    let mut text = String::from(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 o, .param .u64 x) {\n\
         .reg .pred %p<8>, %g; .reg .b16 %h<8>; .reg .b32 %r<8>, %w<4>; .reg .b64 %rd<8>, %a<4>;\n\
         mov.u32 %w0, %tid.x; ld.param.u64 %a0, [o]; ld.param.u64 %a1, [x];\n\
         mad.wide.u32 %a0, %w0, 128, %a0; mad.wide.u32 %a1, %w0, 64, %a1;\n",
    );
    for index in 0..REGISTERS {
        text += &format!(
            "ld.global.u64 %rd{index}, [%a1+{}]; cvt.u32.u64 %r{index}, %rd{index}; cvt.u16.u64 %h{index}, %rd{index}; and.b32 %w1, %r{index}, 1; setp.ne.u32 %p{index}, %w1, 0;\n",
            index * 8
        );
    }
    for line in lines {
        text += &format!("{line};\n");
    }
    for index in 0..REGISTERS {
        text += &format!(
            "st.global.u64 [%a0+{}], %rd{index}; st.global.u32 [%a0+{}], %r{index}; st.global.u16 [%a0+{}], %h{index}; selp.u16 %h{index}, 1, 0, %p{index}; st.global.u16 [%a0+{}], %h{index};\n",
            index * 8,
            64 + index * 4,
            96 + index * 2,
            112 + index * 2
        );
    }
    text + "ret;\n}\n"
}

fn differences(lines: &[String], inputs: &[u64]) -> Result<(), TestCaseError> {
    let program = Program::new(&kernel(lines));
    let out = program.memory.buffer(LANES * 128);
    let arguments = Arguments::new()
        .buffer(out)
        .buffer(program.memory.from(inputs));
    program.launch("k", 1, LANES as u32, arguments);
    let bytes: Vec<u8> = out.read();
    let instructions: Vec<Instruction> = lines
        .iter()
        .flat_map(|line| Instruction::sequence(line))
        .collect();
    for lane in 0..LANES {
        let mut machine = Machine::default();
        for index in 0..REGISTERS {
            let bits = u128::from(inputs[lane * REGISTERS + index]);
            machine.set(File::D, index, Value::Bits(bits));
            machine.set(File::R, index, Value::Bits(bits & 0xffff_ffff));
            machine.set(File::H, index, Value::Bits(bits & 0xffff));
            machine.set(File::P, index, Value::Bits(bits & 1));
        }
        for instruction in &instructions {
            machine.step(instruction);
        }
        for index in 0..REGISTERS {
            for (file, start, size) in [
                (File::D, 0, 8),
                (File::R, 64, 4),
                (File::H, 96, 2),
                (File::P, 112, 2),
            ] {
                let start = lane * 128 + start + index * size;
                let mut word = [0; 16];
                word[..size].copy_from_slice(&bytes[start..start + size]);
                let actual = u128::from_le_bytes(word);
                let expected = machine.get(file, index);
                prop_assert!(
                    expected.admits(actual),
                    "{}\nlane {lane}: {file:?}{index} is {actual:#x}, not {expected:x?}",
                    lines.join("\n")
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn straight_line_programs_agree_with_the_reference(
        program in prop::collection::vec((0..TEMPLATES.len(), prop::collection::vec(any::<u8>(), 12)), 1..60),
        inputs in prop::collection::vec(
            prop_oneof![
                any::<u64>(),
                any::<u64>().prop_map(|bits| bits & 0x80ff_ffff | 0x3f00_0000),
                any::<u64>().prop_map(|bits| bits & 0x801f_ffff_ffff_ffff | 0x3fe0_0000_0000_0000),
                0u64..64,
            ],
            LANES * REGISTERS,
        ),
    ) {
        let lines: Vec<String> = program
            .iter()
            .map(|(template, choices)| fill(TEMPLATES[*template], &mut choices.iter().copied()))
            .filter(|line| !writes_one_register_twice(line))
            .collect();
        differences(&lines, &inputs)?;
    }
}
