//! Values of 128 bits, vectors of 256, and vector atomics: what they compute and where they must lie.
#![allow(clippy::cast_possible_truncation)]

mod support;

use rustc_apfloat::Float;
use rustc_apfloat::ieee::{BFloat, Half};
use softgpu_core::exec::{Fault, FaultKind};
use softgpu_core::ptx::Target;
use support::{Arguments, Buffer, Program};

const LANES: usize = 32;

/// A kernel whose `%rd0` is 64 bytes of the output and `%rd1` as many of the input, for each thread.
fn program(target: &str, body: &str) -> Program {
    let text = format!(
        ".version 9.0\n.target {target}\n.address_size 64\n\
         .visible .entry k(.param .u64 o, .param .u64 i) {{\n\
         .reg .b16 %h<16>; .reg .b32 %r<16>; .reg .b64 %rd<16>; .reg .b128 %q<4>; .reg .pred %p<2>;\n\
         .shared .align 16 .b8 shared[2048]; .local .align 16 .b8 local[64];\n\
         ld.param.u64 %rd0, [o]; ld.param.u64 %rd1, [i]; mov.u32 %r15, %tid.x;\n\
         mad.wide.u32 %rd0, %r15, 64, %rd0; mad.wide.u32 %rd1, %r15, 64, %rd1;\n{body}\nret;\n}}\n"
    );
    let target = Target {
        compute_capability: (10, 0),
        max_ptx_version: (9, 9),
    };
    Program::for_target(&text, &target)
}

fn noise(words: usize) -> Vec<u64> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(step).take(words).collect()
}

/// What 32 threads make of 64 bytes each.
fn run(target: &str, body: &str, input: &[u64], output: &[u64]) -> Vec<u64> {
    let p = program(target, body);
    let (i, o) = (p.memory.from(input), p.memory.from(output));
    p.launch("k", 1, 32, Arguments::new().buffer(o).buffer(i));
    o.read()
}

/// The fault of a body in which each thread's places start `shift` bytes late.
fn fault(target: &str, body: &str, shift: u64) -> Option<FaultKind> {
    let p = program(target, body);
    let (i, o) = (p.memory.buffer(64 * 33), p.memory.buffer(64 * 33));
    let late = |buffer: Buffer| buffer.address + shift;
    let arguments = Arguments::new().u64(late(o)).u64(late(i));
    let result: Result<_, Fault> = p.run("k", [1; 3], [32, 1, 1], arguments);
    result.err().map(|fault| fault.kind)
}

#[test]
fn registers_of_128_bits_pass_through_every_space_and_come_apart() {
    let input = noise(LANES * 8);
    for form in [
        ".global",
        "",
        ".weak.global",
        ".relaxed.gpu.global",
        ".acquire.sys.global",
        ".volatile.global",
    ] {
        let store = form.replace("acquire", "release");
        let body = format!(
            "ld{form}.b128 %q0, [%rd1+16];\nst{store}.b128 [%rd0], %q0;\n\
             mov.b128 {{%rd2, %rd3}}, %q0; st.global.v2.u64 [%rd0+16], {{%rd3, %rd2}};\n\
             mov.b128 {{%r0, %r1, %r2, %r3}}, %q0; mov.b128 %q1, {{%r3, %r2, %r1, %r0}};\n\
             mov.b128 %q2, %q1; st{store}.b128 [%rd0+32], %q2;\n\
             mov.b128 %q0, {{%rd3, %rd2}}; st.local.b128 [local], %q0; ld.local.b128 %q1, [local];\n\
             mul.wide.u32 %rd4, %r15, 16; cvt.u32.u64 %r4, %rd4;\n\
             st.shared.b128 [%r4], %q1; ld.shared.b128 %q0, [%r4]; st.global.b128 [%rd0+48], %q0;"
        );
        let got = run("sm_90", &body, &input, &vec![0; LANES * 8]);
        for (got, input) in got.chunks(8).zip(input.chunks(8)) {
            let (low, high) = (input[2], input[3]);
            let expected = [
                low,
                high,
                high,
                low,
                high.rotate_left(32),
                low.rotate_left(32),
                high,
                low,
            ];
            assert_eq!(got, expected, "{form}");
        }
    }
}

#[test]
fn exchanges_of_128_bits_store_and_return_what_the_model_says() {
    let input = noise(LANES * 8);
    let mut start = noise(LANES * 8);
    // Every other thread finds what it compares with.
    for (thread, (start, input)) in start.chunks_mut(8).zip(input.chunks(8)).enumerate() {
        if thread % 2 == 0 {
            start[2..4].copy_from_slice(&input[2..4]);
        }
    }
    let load = "ld.global.b128 %q0, [%rd1]; ld.global.b128 %q1, [%rd1+16]; ld.global.b128 %q2, [%rd1+32];\n";
    let global = format!(
        "{load}atom.global.exch.b128 %q3, [%rd0], %q0; st.global.b128 [%rd0+32], %q3;\n\
         atom.acq_rel.gpu.global.cas.b128 %q3, [%rd0+16], %q1, %q2; st.global.b128 [%rd0+48], %q3;"
    );
    let shared = format!(
        "{load}mul.wide.u32 %rd4, %r15, 32; cvt.u32.u64 %r4, %rd4;\n\
         ld.global.b128 %q3, [%rd0]; st.shared.b128 [%r4], %q3; ld.global.b128 %q3, [%rd0+16]; st.shared.b128 [%r4+16], %q3;\n\
         atom.shared.exch.b128 %q3, [%r4], %q0; st.global.b128 [%rd0+32], %q3;\n\
         cvta.shared.u64 %rd4, %rd4;\natom.cas.b128 %q3, [%rd4+16], %q1, %q2; st.global.b128 [%rd0+48], %q3;\n\
         ld.shared.b128 %q3, [%r4]; st.global.b128 [%rd0], %q3; ld.shared.b128 %q3, [%r4+16]; st.global.b128 [%rd0+16], %q3;"
    );
    for body in [global, shared] {
        let got = run("sm_90", &body, &input, &start);
        for ((got, input), start) in got.chunks(8).zip(input.chunks(8)).zip(start.chunks(8)) {
            let hit = start[2..4] == input[2..4];
            let left = if hit { &input[4..6] } else { &start[2..4] };
            let expected = [&input[..2], left, &start[..2], &start[2..4]].concat();
            assert_eq!(got, expected, "{body}");
        }
    }
}

#[test]
fn contended_exchanges_of_128_bits_lose_nothing_and_are_never_torn() {
    // Each thread adds 1 to the low and 2 to the high half; whoever reads finds them in that proportion.
    let p = program(
        "sm_90",
        "ld.param.u64 %rd0, [o]; ld.param.u64 %rd1, [i];\nL:\nld.relaxed.gpu.global.b128 %q0, [%rd0];\n\
         mov.b128 {%rd2, %rd3}, %q0; add.u64 %rd4, %rd2, %rd2; setp.ne.u64 %p0, %rd3, %rd4;\n\
         @%p0 atom.global.add.u64 %rd5, [%rd1], 1;\n\
         add.u64 %rd2, %rd2, 1; add.u64 %rd3, %rd3, 2; mov.b128 %q1, {%rd2, %rd3};\n\
         atom.global.cas.b128 %q2, [%rd0], %q0, %q1;\n\
         mov.b128 {%rd4, %rd5}, %q0; mov.b128 {%rd6, %rd7}, %q2;\n\
         setp.ne.u64 %p0, %rd4, %rd6; @%p0 bra L; setp.ne.u64 %p0, %rd5, %rd7; @%p0 bra L;",
    );
    let (o, i) = (p.memory.from(&[0u64, 0]), p.memory.from(&[0u64]));
    p.launch("k", 16, 32, Arguments::new().buffer(o).buffer(i));
    assert_eq!(o.read::<u64>(), [16 * 32, 2 * 16 * 32]);
    assert_eq!(i.read::<u64>(), [0]);
}

#[test]
fn vectors_of_256_bits_are_copied_whole() {
    let input = noise(LANES * 8);
    let words = "{%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}";
    let doubles = "{%rd2, %rd3, %rd4, %rd5}";
    // The last register of the vector holds the address, until it is loaded.
    let body = format!(
        "ld.global.v8.b32 {words}, [%rd1]; st.global.v8.f32 [%rd0+32], {words};\n\
         mov.u64 %rd5, %rd1; ld.v4.u64 {doubles}, [%rd5+32]; st.v4.b64 [%rd0], {doubles};"
    );
    let got = run("sm_100", &body, &input, &vec![0; LANES * 8]);
    for (got, input) in got.chunks(8).zip(input.chunks(8)) {
        assert_eq!(got, [&input[4..], &input[..4]].concat());
    }
}

/// The smaller or larger of two numbers; of a number and NaN the number; -0 is less than +0.
fn extreme<F: Float>(a: u128, b: u128, max: bool, nan: u128) -> u128 {
    let (x, y) = (F::from_bits(a), F::from_bits(b));
    match (x.is_nan(), y.is_nan()) {
        (true, true) => nan,
        (true, false) => b,
        (false, true) => a,
        _ if x.is_zero() && y.is_zero() => {
            if x.is_negative() != max {
                a
            } else {
                b
            }
        }
        _ => {
            if (x < y) != max {
                a
            } else {
                b
            }
        }
    }
}

#[test]
fn vector_minima_and_maxima_of_halves_change_each_element() {
    const SPECIAL: [u16; 8] = [0x7fff, 0x8000, 0, 0x7c00, 0xfc00, 0x7f80, 0x0001, 0x8001];
    for (ty, bytes) in [("f16", 2), ("bf16", 2), ("f16x2", 4), ("bf16x2", 4)] {
        let one = |a: u16, b: u16, max| {
            let (a, b) = (a.into(), b.into());
            let value = match ty.starts_with('f') {
                true => extreme::<Half>(a, b, max, 0x7fff),
                false => extreme::<BFloat>(a, b, max, 0x7fff),
            };
            value as u16
        };
        for count in [2usize, 4, 8]
            .into_iter()
            .filter(|count| count * bytes <= 16)
        {
            for (name, max) in [("min", false), ("max", true)] {
                let halves = count * bytes / 2;
                let (file, bits) = if bytes == 2 { ("h", 16) } else { ("r", 32) };
                let list = |first: usize| {
                    let names: Vec<String> = (0..count)
                        .map(|n| format!("%{file}{}", first + n))
                        .collect();
                    format!("{{{}}}", names.join(", "))
                };
                let load: String = (0..count)
                    .map(|n| format!("ld.global.b{bits} %{file}{n}, [%rd1+{}];\n", n * bytes))
                    .collect();
                let store: String = (0..count)
                    .map(|n| format!("st.global.b{bits} [%rd0+{}], %{file}{n};\n", 32 + n * bytes))
                    .collect();
                // What was there goes to the registers that the operands came from.
                let body = format!(
                    "{load}red.global.{name}.noftz.v{count}.{ty} [%rd0], {0};\n\
                     atom.{name}.noftz.v{count}.{ty} {0}, [%rd0+16], {0};\n{store}",
                    list(0)
                );
                let mut seed = noise(LANES * 128).into_iter();
                let mut value = |at: usize| match at % 3 {
                    0 => SPECIAL[seed.next().unwrap() as usize % 8],
                    _ => seed.next().unwrap() as u16,
                };
                let cells = |value: &mut dyn FnMut(usize) -> u16| -> Vec<u16> {
                    (0..LANES * 32).map(value).collect()
                };
                let (input, output) = (cells(&mut value), cells(&mut value));
                let words = |cells: &[u16]| -> Vec<u64> {
                    let word =
                        |c: &[u16]| (0..4).fold(0, |word, n| word | u64::from(c[n]) << (16 * n));
                    cells.chunks(4).map(word).collect()
                };
                let got = run("sm_90", &body, &words(&input), &words(&output));
                let got: Vec<u16> = got
                    .iter()
                    .flat_map(|word| [0, 16, 32, 48].map(|n| (word >> n) as u16))
                    .collect();
                for thread in 0..LANES {
                    for half in 0..halves {
                        let place = thread * 32 + half;
                        let (a, first, second) = (input[place], output[place], output[place + 8]);
                        assert_eq!(got[place], one(first, a, max), "{body}: {first:#x} {a:#x}");
                        assert_eq!(
                            got[place + 8],
                            one(second, a, max),
                            "{body}: {second:#x} {a:#x}"
                        );
                        assert_eq!(got[place + 16], second, "{body}");
                    }
                }
            }
        }
    }
}

#[test]
fn wide_accesses_and_vector_atomics_are_aligned_as_a_whole() {
    let words = "{%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}";
    let cases = [
        ("sm_90", "ld.global.b128 %q0, [%rd1];".to_owned(), 16),
        (
            "sm_90",
            "ld.relaxed.gpu.global.b128 %q0, [%rd1];".to_owned(),
            16,
        ),
        ("sm_90", "st.release.sys.b128 [%rd0], %q0;".to_owned(), 16),
        (
            "sm_90",
            "atom.global.exch.b128 %q0, [%rd0], %q1;".to_owned(),
            16,
        ),
        (
            "sm_90",
            "red.global.add.v2.f32 [%rd0], {%r0, %r1};".to_owned(),
            8,
        ),
        (
            "sm_90",
            "red.global.add.v4.f32 [%rd0], {%r0, %r1, %r2, %r3};".to_owned(),
            16,
        ),
        (
            "sm_90",
            "red.global.min.noftz.v2.bf16 [%rd0], {%h0, %h1};".to_owned(),
            4,
        ),
        (
            "sm_90",
            "atom.add.noftz.v4.f16 {%h4, %h5, %h6, %h7}, [%rd0], {%h0, %h1, %h2, %h3};".to_owned(),
            8,
        ),
        ("sm_100", format!("ld.global.v8.b32 {words}, [%rd1];"), 32),
        ("sm_100", format!("st.global.v8.b32 [%rd0], {words};"), 32),
        (
            "sm_100",
            "ld.global.v4.b64 {%rd2, %rd3, %rd4, %rd5}, [%rd1];".to_owned(),
            32,
        ),
    ];
    for (target, body, bytes) in cases {
        assert_eq!(fault(target, &body, 0), None, "{body}");
        for shift in [bytes / 2, 2] {
            let found = fault(target, &body, shift);
            assert!(
                matches!(found, Some(FaultKind::MisalignedAddress { .. })),
                "{body} {shift}: {found:?}"
            );
        }
        if bytes < 64 {
            assert_eq!(fault(target, &body, bytes), None, "{body}");
        }
    }
}

#[test]
fn exchanges_of_128_bits_reach_no_local_memory() {
    let body = "mov.u64 %rd4, local; cvta.local.u64 %rd4, %rd4; atom.exch.b128 %q0, [%rd4], %q1;";
    let found = fault("sm_90", body, 0);
    assert!(
        matches!(found, Some(FaultKind::InvalidAddressSpace { .. })),
        "{found:?}"
    );
}
