//! Loads, stores and atomics of every type in every space, and the special registers.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod support;

use support::{Arguments, Buffer, Program};

const THREADS: u32 = 64;

fn program(body: &str) -> Program {
    Program::new(&format!(
        ".version 8.8\n.target sm_90a\n.address_size 64\n.global .align 16 .b8 global[4096];\n\
         .visible .entry k(.param .u64 o, .param .u64 x) {{\n\
         .reg .pred %p<8>; .reg .b16 %h<16>; .reg .b32 %r<16>; .reg .b64 %rd<16>;\n\
         .shared .align 16 .b8 shared[4096]; .local .align 16 .b8 local[64];\n\
         mov.u32 %r0, %tid.x; ld.param.u64 %rd0, [o]; ld.param.u64 %rd1, [x];\n\
         mad.wide.u32 %rd0, %r0, 64, %rd0; mad.wide.u32 %rd1, %r0, 64, %rd1;\n{body}\nret;\n}}\n"
    ))
}

/// Runs a kernel whose threads have 64 bytes of input and of output each.
fn run(body: &str, input: &[u8]) -> Vec<u8> {
    let p = program(body);
    let out: Buffer = p.memory.buffer(THREADS as usize * 64);
    let arguments = Arguments::new().buffer(out).buffer(p.memory.from(input));
    p.launch("k", 1, THREADS, arguments);
    out.read()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

fn list(file: &str, first: usize, count: usize) -> String {
    let names: Vec<String> = (first..first + count)
        .map(|index| format!("%{file}{index}"))
        .collect();
    if count == 1 {
        names[0].clone()
    } else {
        format!("{{{}}}", names.join(", "))
    }
}

#[test]
fn every_type_and_vector_passes_through_every_space_unchanged() {
    let input = noise(THREADS as usize * 64);
    let spaces = [
        (
            "global",
            "mov.u64 %rd2, global; mad.wide.u32 %rd2, %r0, 32, %rd2;",
        ),
        (
            "shared",
            "mov.u64 %rd2, shared; mad.wide.u32 %rd2, %r0, 32, %rd2;",
        ),
        (
            "shared::cta",
            "mov.u64 %rd2, shared; mad.wide.u32 %rd2, %r0, 32, %rd2;",
        ),
        ("local", "mov.u64 %rd2, local;"),
        ("", "mov.u64 %rd2, local; cvta.local.u64 %rd2, %rd2;"),
        (
            "",
            "mov.u64 %rd2, shared; cvta.shared.u64 %rd2, %rd2; mad.wide.u32 %rd2, %r0, 32, %rd2;",
        ),
    ];
    let types = [
        ("b8", "r", 1),
        ("u8", "h", 1),
        ("s8", "r", 1),
        ("b16", "h", 2),
        ("u16", "r", 2),
        ("s16", "rd", 2),
        ("b32", "r", 4),
        ("u32", "r", 4),
        ("s32", "rd", 4),
        ("f32", "r", 4),
        ("b64", "rd", 8),
        ("u64", "rd", 8),
        ("s64", "rd", 8),
        ("f64", "rd", 8),
    ];
    for (space, place) in spaces {
        let dot = if space.is_empty() { "" } else { "." };
        for (ty, file, bytes) in types {
            for (vector, count) in [("", 1), (".v2", 2), (".v4", 4)] {
                if bytes * count > 16 {
                    continue;
                }
                let (a, b) = (list(file, 4, count), list(file, 8, count));
                for hint in ["", ".volatile", ".relaxed.gpu"] {
                    if !hint.is_empty() && space == "local" {
                        continue;
                    }
                    let text = format!(
                        "{place}\nld.global{vector}.{ty} {a}, [%rd1];\nst{hint}{dot}{space}{vector}.{ty} [%rd2], {a};\n\
                         ld{hint}{dot}{space}{vector}.{ty} {b}, [%rd2];\nst.global{vector}.{ty} [%rd0], {b};"
                    );
                    let output = run(&text, &input);
                    for thread in 0..THREADS as usize {
                        let (start, end) = (thread * 64, thread * 64 + bytes * count);
                        assert_eq!(output[start..end], input[start..end], "{text}");
                        assert!(output[end..start + 64].iter().all(|byte| *byte == 0));
                    }
                }
            }
        }
    }
}

#[test]
fn narrow_loads_extend_as_their_type_says() {
    let input = noise(THREADS as usize * 64);
    for (ty, bytes, signed) in [
        ("u8", 1, false),
        ("b8", 1, false),
        ("s8", 1, true),
        ("u16", 2, false),
        ("b16", 2, false),
        ("s16", 2, true),
        ("u32", 4, false),
        ("s32", 4, true),
    ] {
        let output = run(
            &format!(
                "ld.global.{ty} %rd4, [%rd1]; st.global.u64 [%rd0], %rd4;\n\
                 ld.global.{ty} %r4, [%rd1]; st.global.u32 [%rd0+8], %r4;"
            ),
            &input,
        );
        for thread in 0..THREADS as usize {
            let mut word = [0; 8];
            word[..bytes].copy_from_slice(&input[thread * 64..thread * 64 + bytes]);
            let up = 64 - 8 * bytes as u32;
            let bits = u64::from_le_bytes(word) << up;
            let value = if signed {
                ((bits as i64) >> up) as u64
            } else {
                bits >> up
            };
            let at = |offset: usize, size: usize| {
                let start = thread * 64 + offset;
                let mut word = [0; 8];
                word[..size].copy_from_slice(&output[start..start + size]);
                u64::from_le_bytes(word)
            };
            assert_eq!(at(0, 8), value, "{ty}");
            assert_eq!(at(8, 4), value & 0xffff_ffff, "{ty}");
        }
    }
}

/// What an atomic operation stores over `old`.
fn stored(op: &str, ty: &str, old: u64, b: u64, c: u64) -> u64 {
    let f32s = |x: u64| f32::from_bits(x as u32);
    let (s_old, s_b) = if ty.ends_with("64") {
        (old as i64, b as i64)
    } else {
        (i64::from(old as i32), i64::from(b as i32))
    };
    let signed = ty.starts_with('s');
    let less = if signed { s_b < s_old } else { b < old };
    match op {
        "add" if ty == "f32" => u64::from((f32s(old) + f32s(b)).to_bits()),
        "add" if ty == "f64" => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        "add" => old.wrapping_add(b),
        "and" => old & b,
        "or" => old | b,
        "xor" => old ^ b,
        "exch" => b,
        "cas" => {
            if old == b {
                c
            } else {
                old
            }
        }
        "inc" => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        "dec" => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        "min" => {
            if less {
                b
            } else {
                old
            }
        }
        "max" => {
            if less {
                old
            } else {
                b
            }
        }
        other => panic!("{other}"),
    }
}

#[test]
fn atomics_of_every_operation_and_type_return_and_store_what_the_model_says() {
    let cases: &[(&str, &[&str])] = &[
        ("add", &["u32", "s32", "u64", "s64", "f32", "f64"]),
        ("and", &["b32", "b64"]),
        ("or", &["b32", "b64"]),
        ("xor", &["b32", "b64"]),
        ("exch", &["b32", "b64"]),
        ("cas", &["b16", "b32", "b64"]),
        ("inc", &["u32"]),
        ("dec", &["u32"]),
        ("min", &["u32", "s32", "u64", "s64"]),
        ("max", &["u32", "s32", "u64", "s64"]),
    ];
    // Every other thread finds the operand of `cas` in its cell.
    let mut input = noise(THREADS as usize * 64);
    for thread in (0..THREADS as usize).step_by(2) {
        let start = thread * 64;
        input.copy_within(start..start + 8, start + 8);
    }
    // Numbers whose sums stay numbers.
    for (place, byte) in input.iter_mut().enumerate() {
        if place % 8 == 7 || place % 8 == 3 {
            *byte = *byte & 0x83 | 0x3c;
        }
    }
    for (op, types) in cases {
        for ty in *types {
            let bytes = usize::from(ty[1..].parse::<u8>().unwrap() / 8);
            let file = match bytes {
                2 => "h",
                4 => "r",
                _ => "rd",
            };
            let third = if *op == "cas" {
                format!(", %{file}6")
            } else {
                String::new()
            };
            for (space, place) in [
                (
                    ".global",
                    "mov.u64 %rd2, global; mad.wide.u32 %rd2, %r0, 32, %rd2;",
                ),
                (
                    ".shared",
                    "mov.u64 %rd2, shared; mad.wide.u32 %rd2, %r0, 32, %rd2;",
                ),
                (
                    "",
                    "mov.u64 %rd2, shared; cvta.shared.u64 %rd2, %rd2; mad.wide.u32 %rd2, %r0, 32, %rd2;",
                ),
                (
                    ".relaxed.gpu.global",
                    "mov.u64 %rd2, global; mad.wide.u32 %rd2, %r0, 32, %rd2;",
                ),
                (
                    ".acq_rel.sys.global",
                    "mov.u64 %rd2, global; mad.wide.u32 %rd2, %r0, 32, %rd2;",
                ),
                (
                    ".release.cta.shared",
                    "mov.u64 %rd2, shared; mad.wide.u32 %rd2, %r0, 32, %rd2;",
                ),
            ] {
                let store = space.rsplit('.').next().unwrap_or("");
                let dot = if store.is_empty() { "" } else { "." };
                let load = format!(
                    "{place}\nld.global.b{0} %{file}4, [%rd1]; ld.global.b{0} %{file}5, [%rd1+8]; ld.global.b{0} %{file}6, [%rd1+16];\n\
                     st{dot}{store}.b{0} [%rd2+8], %{file}4;\n",
                    bytes * 8
                );
                let reduce = if matches!(*op, "exch" | "cas") {
                    String::new()
                } else {
                    format!("red{space}.{op}.{ty} [%rd2+8], %{file}5;\n")
                };
                let at = if reduce.is_empty() {
                    "%rd2+8"
                } else {
                    "%rd2+16"
                };
                let again = if reduce.is_empty() {
                    String::new()
                } else {
                    format!("st{dot}{store}.b{0} [%rd2+16], %{file}4;\n", bytes * 8)
                };
                let text = format!(
                    "{load}{reduce}{again}atom{space}.{op}.{ty} %{file}7, [{at}], %{file}5{third};\n\
                     ld{dot}{store}.b{0} %{file}8, [%rd2+8]; ld{dot}{store}.b{0} %{file}9, [{at}];\n\
                     st.global.b{0} [%rd0], %{file}7; st.global.b{0} [%rd0+8], %{file}8; st.global.b{0} [%rd0+16], %{file}9;",
                    bytes * 8
                );
                let output = run(&text, &input);
                for thread in 0..THREADS as usize {
                    let read = |from: &[u8], offset: usize| {
                        let start = thread * 64 + offset;
                        let mut word = [0; 8];
                        word[..bytes].copy_from_slice(&from[start..start + bytes]);
                        u64::from_le_bytes(word)
                    };
                    let [a, b, c] = [0, 8, 16].map(|offset| read(&input, offset));
                    let mask = u64::MAX >> (64 - 8 * bytes);
                    let expected = stored(op, ty, a, b, c) & mask;
                    assert_eq!(read(&output, 0), a, "{text}");
                    assert_eq!(read(&output, 8), expected, "{text}");
                    assert_eq!(read(&output, 16), expected, "{text}");
                }
            }
        }
    }
}

#[test]
fn additions_of_halves_and_vectors_change_each_element() {
    // One, two and three in every format, so that sums are exact.
    let cases = [
        ("f16", "h", 2, 0x3c00u32, 0x4000u32, 0x4200u32),
        ("bf16", "h", 2, 0x3f80, 0x4000, 0x4040),
        ("f16x2", "r", 4, 0x3c00_4000, 0x4000_3c00, 0x4200_4200),
        ("bf16x2", "r", 4, 0x3f80_4000, 0x4000_3f80, 0x4040_4040),
        ("f32", "r", 4, 0x3f80_0000, 0x4000_0000, 0x4040_0000),
    ];
    for (ty, file, bytes, one, two, three) in cases {
        let noftz = if ty == "f32" { "" } else { ".noftz" };
        for (vector, count) in [("", 1usize), (".v2", 2), (".v4", 4), (".v8", 8)] {
            if count * bytes > 16 {
                continue;
            }
            let word = |value: u32| value.to_le_bytes()[..bytes].to_vec();
            let mut input = vec![0; THREADS as usize * 64];
            for thread in 0..THREADS as usize {
                for element in 0..count {
                    let start = thread * 64 + element * bytes;
                    input[start..start + bytes].copy_from_slice(&word(one));
                    input[start + 16..start + 16 + bytes].copy_from_slice(&word(two));
                }
            }
            let bits = bytes * 8;
            let mut text = String::new();
            for element in 0..count {
                let offset = element * bytes;
                text += &format!(
                    "ld.global.b{bits} %{file}{}, [%rd1+{offset}]; st.global.b{bits} [%rd0+{offset}], %{file}{0}; st.global.b{bits} [%rd0+{}], %{file}{0};\n\
                     ld.global.b{bits} %{file}{0}, [%rd1+{}];\n",
                    element,
                    16 + offset,
                    16 + offset
                );
            }
            let (from, old) = (list(file, 0, count), list(file, 8, count));
            // The thread's number is no longer needed.
            text += &format!(
                "red.global{vector}.add{noftz}.{ty} [%rd0], {from};\natom.global{vector}.add{noftz}.{ty} {old}, [%rd0+16], {from};\n"
            );
            for element in 0..count {
                text += &format!(
                    "st.global.b{bits} [%rd0+{}], %{file}{};\n",
                    32 + element * bytes,
                    8 + element
                );
            }
            let text = if vector.is_empty() {
                text
            } else {
                // The operation stands between the space and the vector.
                text.replace(
                    &format!("global{vector}.add{noftz}"),
                    &format!("global.add{noftz}{vector}"),
                )
            };
            let output = run(&text, &input);
            for thread in 0..THREADS as usize {
                for element in 0..count {
                    let at = |offset: usize| {
                        let start = thread * 64 + offset + element * bytes;
                        output[start..start + bytes].to_vec()
                    };
                    assert_eq!(at(0), word(three), "{text}");
                    assert_eq!(at(16), word(three), "{text}");
                    assert_eq!(at(32), word(one), "{text}");
                }
            }
        }
    }
}

#[test]
fn hints_and_clusters_of_one_block_change_nothing() {
    let input = noise(THREADS as usize * 64);
    let output = run(
        "createpolicy.fractional.L2::evict_last.b64 %rd3, 1.0;\n\
         prefetch.global.L1 [%rd1]; prefetch.global.L2 [%rd1+4]; prefetch.L2 [%rd1]; prefetch.global.L2::evict_last [%rd1]; prefetchu.L1 [%rd1];\n\
         applypriority.global.L2::evict_normal [%rd1], 128;\n\
         ld.global.L2::cache_hint.L2::128B.u32 %r4, [%rd1], %rd3; ld.global.nc.L1::no_allocate.L2::256B.u32 %r5, [%rd1+4];\n\
         st.global.L2::cache_hint.u32 [%rd0], %r4, %rd3; st.global.cs.u32 [%rd0+4], %r5;\n\
         red.global.add.L2::cache_hint.u32 [%rd0+4], 1, %rd3;\n\
         griddepcontrol.wait; griddepcontrol.launch_dependents; setmaxnreg.inc.sync.aligned.u32 64; pmevent 3;\n\
         mov.u32 %r6, shared; mapa.shared::cluster.u32 %r7, %r6, 0; sub.u32 %r7, %r7, %r6; st.global.u32 [%rd0+8], %r7;\n\
         cvta.shared.u64 %rd4, %rd5; mapa.u64 %rd6, %rd4, 0; getctarank.u64 %r8, %rd6; st.global.u32 [%rd0+12], %r8;\n\
         mov.u32 %r9, %cluster_nctarank; mov.u32 %r10, %cluster_ctarank; mov.u32 %r11, %cluster_nctaid.x; mov.u32 %r12, %nclusterid.x;\n\
         st.global.v4.u32 [%rd0+16], {%r9, %r10, %r11, %r12};",
        &input,
    );
    for thread in 0..THREADS as usize {
        let word = |from: &[u8], offset: usize| {
            let start = thread * 64 + offset;
            u32::from_le_bytes(from[start..start + 4].try_into().unwrap())
        };
        assert_eq!(word(&output, 0), word(&input, 0));
        assert_eq!(word(&output, 4), word(&input, 4).wrapping_add(1));
        let rest: Vec<u32> = (2..8).map(|place| word(&output, place * 4)).collect();
        assert_eq!(rest, [0, 0, 1, 0, 1, 1]);
    }
}

#[test]
fn special_registers_tell_where_a_thread_is() {
    let names = [
        "%tid.x",
        "%tid.y",
        "%tid.z",
        "%ntid.x",
        "%ntid.y",
        "%ntid.z",
        "%ctaid.x",
        "%ctaid.y",
        "%ctaid.z",
        "%nctaid.x",
        "%nctaid.y",
        "%nctaid.z",
        "%laneid",
        "%warpid",
        "%nwarpid",
        "%lanemask_eq",
        "%lanemask_le",
        "%lanemask_lt",
        "%lanemask_ge",
        "%lanemask_gt",
        "%nsmid",
        "%total_smem_size",
        "%dynamic_smem_size",
        "%tid.w",
        "%ntid.w",
    ];
    let mut body = String::from(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 o) {\n.reg .b32 %r<40>; .reg .b64 %rd<8>; .reg .pred %p<2>; .shared .b32 s[8];\n\
         mov.u32 %r0, %ctaid.z; mov.u32 %r1, %nctaid.y; mov.u32 %r2, %ctaid.y; mad.lo.u32 %r0, %r0, %r1, %r2; mov.u32 %r1, %nctaid.x; mov.u32 %r2, %ctaid.x; mad.lo.u32 %r0, %r0, %r1, %r2;\n\
         mov.u32 %r1, %ntid.z; mov.u32 %r2, %tid.z; mad.lo.u32 %r0, %r0, %r1, %r2; mov.u32 %r1, %ntid.y; mov.u32 %r2, %tid.y; mad.lo.u32 %r0, %r0, %r1, %r2; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.x; mad.lo.u32 %r0, %r0, %r1, %r2;\n\
         ld.param.u64 %rd0, [o]; mad.wide.u32 %rd0, %r0, 128, %rd0; st.shared.u32 [s], %r0;\n",
    );
    for (place, name) in names.iter().enumerate() {
        body += &format!(
            "mov.u32 %r5, {name}; st.global.u32 [%rd0+{}], %r5;\n",
            place * 4
        );
    }
    // Clocks never run backwards.
    for (place, (ty, register, clock)) in [
        ("u32", "r", "%clock"),
        ("u64", "rd", "%clock64"),
        ("u64", "rd", "%globaltimer"),
    ]
    .iter()
    .enumerate()
    {
        body += &format!(
            "mov.{ty} %{register}6, {clock}; mov.{ty} %{register}7, {clock}; sub.{ty} %{register}7, %{register}7, %{register}6; setp.lt.s{0} %p0, %{register}7, 0; selp.u32 %r8, 1, 0, %p0; st.global.u32 [%rd0+{1}], %r8;\n",
            &ty[1..],
            100 + 4 * place
        );
    }
    let mut p = Program::new(&(body + "ret;\n}\n"));
    p.dynamic_shared = 48;
    let (grid, block) = ([3u32, 2, 2], [5u32, 4, 3]);
    let threads = 60usize * 12;
    let out = p.memory.buffer(threads * 128);
    p.run("k", grid, block, Arguments::new().buffer(out))
        .unwrap();
    let words: Vec<u32> = out.read();
    for number in 0..threads as u32 {
        let (place, cta) = (number % 60, number / 60);
        let lane = place % 32;
        let bit = 1u32 << lane;
        let expected = [
            place % 5,
            place / 5 % 4,
            place / 20,
            5,
            4,
            3,
            cta % 3,
            cta / 3 % 2,
            cta / 6,
            3,
            2,
            2,
            lane,
            place / 32,
            2,
            bit,
            bit | (bit - 1),
            bit - 1,
            !(bit - 1),
            !(bit | (bit - 1)),
            4,
        ];
        let row = &words[number as usize * 32..][..32];
        assert_eq!(row[..21], expected, "thread {number}");
        assert!(row[21] >= 32 + 48 && row[22] == 48, "{row:?}");
        assert_eq!(row[23..28], [0; 5], "{row:?}");
    }
}

#[test]
fn allocated_memory_belongs_to_its_thread_until_it_is_released() {
    // Each thread allocates as many words as its number, twice, releases the second piece and
    // allocates again: that piece lies where the other was. A function's own piece goes with it.
    let text = ".version 8.0\n.target sm_90\n.address_size 64\n\
         .func (.param .b64 d) inner(.param .b64 n) {\n.reg .b64 %rd<4>; ld.param.u64 %rd0, [n]; alloca.u64 %rd1, %rd0, 16; st.local.u64 [%rd1], %rd0; st.param.b64 [d], %rd1; ret; }\n\
         .visible .entry k(.param .u64 o) {\n.reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %rd<16>; .param .b64 in; .param .b64 out;\n\
         ld.param.u64 %rd0, [o]; mov.u32 %r0, %tid.x; mad.wide.u32 %rd0, %r0, 64, %rd0; add.u32 %r1, %r0, 1; mul.wide.u32 %rd1, %r1, 4;\n\
         alloca.u64 %rd2, %rd1; stacksave.u64 %rd3; alloca.u64 %rd4, %rd1, 16; mov.u32 %r2, 0; mov.u64 %rd5, %rd2; mov.u64 %rd6, %rd4;\n\
         FILL: mad.lo.u32 %r3, %r0, 100, %r2; st.local.u32 [%rd5], %r3; not.b32 %r3, %r3; st.local.u32 [%rd6], %r3;\n\
         add.u64 %rd5, %rd5, 4; add.u64 %rd6, %rd6, 4; add.u32 %r2, %r2, 1; setp.lt.u32 %p0, %r2, %r1; @%p0 bra FILL;\n\
         st.param.b64 [in], 40; call (out), inner, (in); ld.param.b64 %rd7, [out]; st.param.b64 [in], 40; call (out), inner, (in); ld.param.b64 %rd8, [out];\n\
         mov.u32 %r2, 0; mov.u32 %r4, 0; mov.u64 %rd5, %rd2; mov.u64 %rd6, %rd4;\n\
         SUM: ld.local.u32 %r3, [%rd5]; add.u32 %r4, %r4, %r3; ld.local.u32 %r5, [%rd6]; add.u32 %r3, %r3, %r5; add.u32 %r3, %r3, 1; add.u32 %r4, %r4, %r3;\n\
         add.u64 %rd5, %rd5, 4; add.u64 %rd6, %rd6, 4; add.u32 %r2, %r2, 1; setp.lt.u32 %p0, %r2, %r1; @%p0 bra SUM;\n\
         stackrestore.u64 %rd3; alloca.u64 %rd9, %rd1, 16; sub.u64 %rd9, %rd9, %rd4; sub.u64 %rd8, %rd8, %rd7; and.b64 %rd4, %rd4, 15;\n\
         st.global.u32 [%rd0], %r4; st.global.u64 [%rd0+8], %rd9; st.global.u64 [%rd0+16], %rd8; st.global.u64 [%rd0+24], %rd4;\nret;\n}\n";
    let p = Program::new(text);
    let out = p.memory.buffer(THREADS as usize * 64);
    p.launch("k", 1, THREADS, Arguments::new().buffer(out));
    let words: Vec<u64> = out.read();
    for thread in 0..u64::from(THREADS) {
        let row = &words[thread as usize * 8..][..4];
        let sum: u64 = (0..=thread).map(|place| thread * 100 + place).sum();
        assert_eq!(row, [sum, 0, 0, 0], "thread {thread}");
    }
}

#[test]
fn allocation_beyond_the_stack_overflows_it() {
    let p = program("mov.u64 %rd2, 1000000; alloca.u64 %rd3, %rd2; st.local.u32 [%rd3], %r0;");
    let out = p.memory.buffer(THREADS as usize * 64);
    let arguments = Arguments::new().buffer(out).buffer(out);
    let fault = p.run("k", [1; 3], [1; 3], arguments).unwrap_err();
    assert_eq!(fault.kind, softgpu_core::exec::FaultKind::StackOverflow);
}
