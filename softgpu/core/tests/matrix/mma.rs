//! `mma.sync`: registers are filled and read by the mapping that the PTX ISA documents for each
//! shape, written out here case by case, and not by the one formula that the executor uses for all.

use half::f16;

use crate::model::{Kind, Kind::*, Matrix, Random, list, pack, unpack};
use crate::support::{Arguments, Program};

/// Row and column of A's element `i` of a lane.
fn documented_a([m, _, k]: [usize; 3], bits: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, t) = (lane >> 2, lane % 4);
    let upper = |first: bool| if first { group } else { group + 8 };
    match (m, k, bits) {
        (8, 4, 64) => (group, t),
        (8, 16, 8) => (group, t * 4 + i),
        (8, 32, 4) => (group, t * 8 + i),
        (8, 128, 1) => (group, t * 32 + i),
        (16, 4, 32 | 64) => (upper(i == 0), t),
        (16, 8, 16) => (upper(i < 2), t * 2 + (i & 1)),
        (16, 8, 32 | 64) => (upper(i == 0 || i == 2), if i < 2 { t } else { t + 4 }),
        (16, 16, 16) => (
            upper(i < 2 || (4..6).contains(&i)),
            t * 2 + (i & 1) + if i < 4 { 0 } else { 8 },
        ),
        (16, 16, 64) => (
            upper(i.is_multiple_of(2)),
            if i.is_multiple_of(2) {
                i * 2 + t
            } else {
                i * 2 - 2 + t
            },
        ),
        (16, 16, 8) => (upper(i < 4), t * 4 + (i & 3)),
        (16, 32, 8) => (
            upper(i < 4 || (8..12).contains(&i)),
            t * 4 + (i & 3) + if i < 8 { 0 } else { 16 },
        ),
        (16, 32, 4) => (upper(i < 8), t * 8 + (i & 7)),
        (16, 64, 4) => (
            upper(i < 8 || (16..24).contains(&i)),
            t * 8 + (i & 7) + if i < 16 { 0 } else { 32 },
        ),
        (16, 128, 1) => (upper(i < 32), t * 32 + (i & 31)),
        (16, 256, 1) => (
            upper(i < 32 || (64..96).contains(&i)),
            t * 32 + (i & 31) + if i < 64 { 0 } else { 128 },
        ),
        _ => panic!("no such shape"),
    }
}

fn documented_b([_, _, k]: [usize; 3], bits: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, t) = (lane >> 2, lane % 4);
    let row = match (k, bits) {
        (4, 32 | 64) => t,
        (8, 32 | 64) => {
            if i == 0 {
                t
            } else {
                t + 4
            }
        }
        (16, 64) => t + i * 4,
        (8, 16) => t * 2 + i,
        (16, 16) => t * 2 + (i & 1) + if i < 2 { 0 } else { 8 },
        (16, 8) => t * 4 + i,
        (32, 8) => t * 4 + (i & 3) + if i < 4 { 0 } else { 16 },
        (32, 4) => t * 8 + i,
        (64, 4) => t * 8 + (i & 7) + if i < 8 { 0 } else { 32 },
        (128, 1) => t * 32 + i,
        (256, 1) => t * 32 + (i & 31) + if i < 32 { 0 } else { 128 },
        _ => panic!("no such shape"),
    };
    (row, group)
}

fn documented_c(lane: usize, i: usize) -> (usize, usize) {
    let (group, t) = (lane >> 2, lane % 4);
    (if i < 2 { group } else { group + 8 }, t * 2 + (i & 1))
}

/// Runs `instruction D, A, B, C` with the given registers of each lane.
pub fn run_mma(
    instruction: &str,
    kinds: [Kind; 4],
    operands: [&[u64]; 3],
    results: usize,
) -> Vec<u64> {
    let mut text = String::from(
        ".version 8.7\n.target sm_90\n.address_size 64\n\
        .visible .entry k(.param .u64 d, .param .u64 a, .param .u64 b, .param .u64 c)\n{\n\
        .reg .b64 %p<5>; .reg .b32 %lane;\nmov.u32 %lane, %tid.x;\n",
    );
    let counts = [
        results,
        operands[0].len() / 32,
        operands[1].len() / 32,
        operands[2].len() / 32,
    ];
    for ((name, count), kind) in ["d", "a", "b", "c"].into_iter().zip(counts).zip(kinds) {
        text += &format!(
            ".reg .{} %{name}<{count}>;\nld.param.u64 %p0, [{name}]; mad.wide.u32 %p0, %lane, {}, %p0;\n",
            kind.register(),
            count * 8
        );
        if name == "d" {
            text += "mov.u64 %p4, %p0;\n";
            continue;
        }
        for i in 0..count {
            let ty = kind.register();
            text += &format!("ld.global.{ty} %{name}{i}, [%p0+{}];\n", i * 8);
        }
    }
    text += &format!(
        "{instruction} {}, {}, {}, {};\n",
        list("d", counts[0]),
        list("a", counts[1]),
        list("b", counts[2]),
        list("c", counts[3])
    );
    for i in 0..counts[0] {
        let ty = kinds[0].register();
        text += &format!("st.global.{ty} [%p4+{}], %d{i};\n", i * 8);
    }
    let p = Program::new(&(text + "ret;\n}\n"));
    let out = p.memory.buffer(32 * results * 8);
    let mut arguments = Arguments::new().buffer(out);
    for operand in operands {
        arguments = arguments.buffer(p.memory.from(operand));
    }
    p.launch("k", 1, 32, arguments);
    out.read()
}

/// One shape against the exact product.
fn check_mma(form: &str, shape: [usize; 3], kinds: [Kind; 4], times: impl Fn(f64, f64) -> f64) {
    let [m, n, k] = shape;
    let [d, a, b, c] = kinds;
    let mut random = Random((m * n * k) as u64 + form.len() as u64);
    let left = Matrix::random(a, m, k, &mut random);
    let right = Matrix::random(b, k, n, &mut random);
    let addend = Matrix::random(c, m, n, &mut random);
    let [a_count, b_count, c_count] = [m * k / 32, k * n / 32, m * n / 32];
    let registers = run_mma(
        form,
        kinds,
        [
            &pack(a, a_count, |lane, i| {
                left.at(documented_a(shape, a.bits(), lane, i))
            }),
            &pack(b, b_count, |lane, i| {
                right.at(documented_b(shape, b.bits(), lane, i))
            }),
            &pack(c, c_count, |lane, i| addend.at(documented_c(lane, i))),
        ],
        c_count * d.bits() / 32 / if d == F64 { 2 } else { 1 },
    );
    let expected = left.product(&right, &addend, times);
    for lane in 0..32 {
        for i in 0..c_count {
            let place = documented_c(lane, i);
            let value = unpack(d, &registers, c_count, lane, i);
            assert_eq!(
                value,
                expected.at(place),
                "{form}: row and column {place:?}"
            );
        }
    }
}

#[test]
fn mma_of_every_shape_and_type_is_the_product() {
    let shapes: &[([usize; 3], &[Kind])] = &[
        ([16, 8, 8], &[F16, Bf16, Tf32, F64]),
        ([16, 8, 16], &[F16, Bf16, F64, S8, U8, E4m3, E5m2]),
        ([16, 8, 4], &[Tf32, F64]),
        ([8, 8, 4], &[F64]),
        ([8, 8, 16], &[S8, U8]),
        ([16, 8, 32], &[S8, U8, S4, U4, E4m3, E5m2]),
        ([8, 8, 32], &[S4, U4]),
        ([16, 8, 64], &[S4, U4]),
    ];
    for &(shape, kinds) in shapes {
        for &a in kinds {
            for &b in kinds {
                let class = |kind: Kind| match kind {
                    S8 | U8 => 1,
                    S4 | U4 => 2,
                    E4m3 | E5m2 => 3,
                    other => 10 + other as u32,
                };
                if class(a) != class(b) {
                    continue;
                }
                let accumulators: &[Kind] = match a {
                    F16 | E4m3 | E5m2 => &[F16, F32],
                    Bf16 | Tf32 => &[F32],
                    F64 => &[F64],
                    _ => &[S32],
                };
                for &c in accumulators {
                    let [m, n, k] = shape;
                    let (an, bn, cn) = (a.name(), b.name(), c.name());
                    let form = format!("mma.sync.aligned.m{m}n{n}k{k}.row.col.{cn}.{an}.{bn}.{cn}");
                    check_mma(&form, shape, [c, a, b, c], |x, y| x * y);
                }
            }
        }
    }
}

#[test]
fn mma_of_bits_counts_them() {
    for shape in [[8, 8, 128], [16, 8, 128], [16, 8, 256]] {
        let [m, n, k] = shape;
        let form = format!("mma.sync.aligned.m{m}n{n}k{k}.row.col.s32.b1.b1.s32");
        let kinds = [S32, B1, B1, S32];
        check_mma(&format!("{form}.and.popc"), shape, kinds, |x, y| x * y);
        check_mma(&format!("{form}.xor.popc"), shape, kinds, |x, y| {
            (x - y).abs()
        });
    }
}

#[test]
fn mma_of_quads_is_four_products_in_all_layouts() {
    for (a_rows, b_rows, c, d) in [
        (true, false, F32, F32),
        (true, true, F16, F16),
        (false, true, F16, F32),
        (false, false, F32, F32),
    ] {
        let name = |rows| if rows { "row" } else { "col" };
        let form = format!(
            "mma.sync.aligned.m8n8k4.{}.{}.{}.f16.f16.{}",
            name(a_rows),
            name(b_rows),
            d.name(),
            c.name()
        );
        let mut random = Random(7);
        let all: Vec<[Matrix; 3]> = (0..4)
            .map(|_| {
                [
                    Matrix::random(F16, 8, 4, &mut random),
                    Matrix::random(F16, 4, 8, &mut random),
                    Matrix::random(F16, 8, 8, &mut random),
                ]
            })
            .collect();
        // Lanes 0 to 3 and 16 to 19 hold the first multiplication, and so on.
        let number = |lane: usize| lane % 16 / 4;
        let half = |lane: usize| if lane < 16 { lane % 4 } else { lane % 4 + 4 };
        let shift = |lane: usize| if lane < 16 { 0 } else { 4 };
        let a_place = |lane, i| {
            if a_rows {
                (half(lane), i)
            } else {
                (i + shift(lane), lane % 4)
            }
        };
        let b_place = |lane, i| {
            if b_rows {
                (lane % 4, i + shift(lane))
            } else {
                (i, half(lane))
            }
        };
        let c_place = |kind, lane: usize, i: usize| {
            if kind == F16 {
                return (half(lane), i);
            }
            let x = (lane & 1) + (i & 2);
            (x + shift(lane), (i & 4) + (lane & 2) + (i & 1))
        };
        let registers = run_mma(
            &form,
            [d, F16, F16, c],
            [
                &pack(F16, 4, |lane, i| all[number(lane)][0].at(a_place(lane, i))),
                &pack(F16, 4, |lane, i| all[number(lane)][1].at(b_place(lane, i))),
                &pack(c, 8, |lane, i| all[number(lane)][2].at(c_place(c, lane, i))),
            ],
            8 * d.bits() / 32,
        );
        for lane in 0..32 {
            let [a, b, addend] = &all[number(lane)];
            let expected = a.product(b, addend, |x, y| x * y);
            for i in 0..8 {
                let place = c_place(d, lane, i);
                let value = unpack(d, &registers, 8, lane, i);
                assert_eq!(
                    value,
                    d.rounded(expected.at(place)),
                    "{form}: lane {lane} element {i}"
                );
            }
        }
    }
}

#[test]
fn integers_wrap_and_with_satfinite_are_clamped() {
    let form = "mma.sync.aligned.m8n8k16.row.col";
    let a = pack(S8, 4, |_, _| 127.0);
    let b = pack(S8, 4, |_, i| if i < 4 { 100.0 } else { 0.0 });
    let c = vec![u64::from(i32::MAX as u32); 64];
    let sum = 16 * 127 * 100;
    let kinds = [S32, S8, S8, S32];
    let wrapped = run_mma(&format!("{form}.s32.s8.s8.s32"), kinds, [&a, &b, &c], 2);
    assert!(
        wrapped
            .iter()
            .all(|&d| d as u32 as i32 == i32::MAX.wrapping_add(sum))
    );
    let clamped = run_mma(
        &format!("{form}.satfinite.s32.s8.s8.s32"),
        kinds,
        [&a, &b, &c],
        2,
    );
    assert!(clamped.iter().all(|&d| d as u32 as i32 == i32::MAX));
}

#[test]
fn sums_of_floats_take_ascending_k_and_round_after_each_product() {
    let mut random = Random(99);
    let shape = [16, 8, 16];
    let any = |_: usize| f16::from_bits((random.next() & 0xbfff) as u16 % 0x7bff).to_f64();
    let values: Vec<f64> = (0..256 + 128).map(any).collect();
    let left = Matrix {
        columns: 16,
        values: values[..256].to_vec(),
    };
    let right = Matrix {
        columns: 8,
        values: values[256..].to_vec(),
    };
    let registers = run_mma(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        [F32, F16, F16, F32],
        [
            &pack(F16, 8, |lane, i| left.at(documented_a(shape, 16, lane, i))),
            &pack(F16, 4, |lane, i| right.at(documented_b(shape, 16, lane, i))),
            &pack(F32, 4, |_, _| 0.125),
        ],
        4,
    );
    for lane in 0..32 {
        for i in 0..4 {
            let (row, column) = documented_c(lane, i);
            let expected = (0..16).fold(0.125f32, |sum, k| {
                let product = left.at((row, k)) * right.at((k, column));
                (product + f64::from(sum)) as f32
            });
            assert_eq!(unpack(F32, &registers, 4, lane, i) as f32, expected);
        }
    }
}

#[test]
fn special_values_reach_the_result() {
    let run = |form: &str, kind: Kind, a: u64, b: u64| {
        // Only element 0 of row 0 and of column 0 are not zero.
        let mut left = pack(kind, 8 * 16 / kind.bits(), |_, _| 0.0);
        let mut right = pack(kind, 4 * 16 / kind.bits(), |_, _| 0.0);
        (left[0], right[0]) = (a, b);
        let addend = pack(F32, 4, |_, _| 0.0);
        f32::from_bits(run_mma(form, [F32, kind, kind, F32], [&left, &right, &addend], 4)[0] as u32)
    };
    let half = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32";
    assert_eq!(run(half, F16, 0x7c00, 0x3c00), f32::INFINITY);
    assert!(run(half, F16, 0x7c00, 0x0000).is_nan());
    assert_eq!(run(half, F16, 0x0001, 0x3c00), 2f32.powi(-24));
    let e4m3 = "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32";
    assert_eq!(run(e4m3, E4m3, 0x7e, 0x38), 448.0);
    assert_eq!(run(e4m3, E4m3, 0x01, 0xb8), -(2f32.powi(-9)));
    assert!(run(e4m3, E4m3, 0x7f, 0x38).is_nan());
    let e5m2 = "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e5m2.f32";
    assert_eq!(run(e5m2, E5m2, 0x7b, 0x3c), 57344.0);
    assert_eq!(run(e5m2, E5m2, 0x7c, 0xbc), f32::NEG_INFINITY);
    // The low bits of a register with a tf32 value do not count.
    let tf32 = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32";
    assert_eq!(run(tf32, Tf32, 0x3f80_1fff, 0x3f80_0000), 1.0);
}

#[test]
fn lanes_that_diverged_multiply_together() {
    let p = Program::new(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out)\n{\n\
        .reg .b32 %l, %a, %b, %c<2>; .reg .pred %q; .reg .b64 %p;\n\
        mov.u32 %l, %tid.x; mov.u32 %b, 0x01010101; setp.lt.u32 %q, %l, 12;\n\
        @%q bra $low; mov.u32 %a, 0x02020202; bra $both; $low: mov.u32 %a, 0x01010101;\n\
        $both: mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%c0, %c1}, {%a}, {%b}, {0, 0};\n\
        ld.param.u64 %p, [out]; mad.wide.u32 %p, %l, 8, %p; st.global.v2.u32 [%p], {%c0, %c1};\nret;\n}\n",
    );
    let out = p.memory.buffer(256);
    p.launch("k", 1, 32, Arguments::new().buffer(out));
    let expected: Vec<u32> = (0..64).map(|i| if i < 24 { 16 } else { 32 }).collect();
    assert_eq!(out.read::<u32>(), expected);
}
