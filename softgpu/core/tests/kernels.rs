//! Whole kernels (`tests/ptx/`) against the same computation on the host.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod support;

use softgpu_core::exec::FaultKind;
use support::{Arguments, Program};

fn program() -> Program {
    Program::new(include_str!("ptx/program.ptx"))
}

fn noise(count: usize) -> Vec<u32> {
    let mut state = 12345u32;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        })
        .collect()
}

fn floats(count: usize) -> Vec<f32> {
    noise(count)
        .into_iter()
        .map(|bits| bits as f32 / 65536.0 - 100.0)
        .collect()
}

#[test]
fn vector_add_with_a_ragged_last_block_adds_every_element() {
    let p = program();
    let (a, b) = (floats(1000), floats(1001)[1..].to_vec());
    let (x, y, z) = (p.memory.from(&a), p.memory.from(&b), p.memory.buffer(4000));
    p.launch(
        "vector_add",
        4,
        256,
        Arguments::new().buffer(x).buffer(y).buffer(z).i32(1000),
    );
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(z.read::<f32>(), expected);
}

#[test]
fn saxpy_rounds_once() {
    let p = program();
    let (a, b) = (floats(5000), floats(5001)[1..].to_vec());
    let (x, y) = (p.memory.from(&a), p.memory.from(&b));
    p.launch(
        "saxpy",
        3,
        96,
        Arguments::new().i32(5000).f32(1.7).buffer(x).buffer(y),
    );
    let expected: Vec<f32> = a
        .iter()
        .zip(&b)
        .map(|(a, b)| 1.7f32.mul_add(*a, *b))
        .collect();
    assert_eq!(y.read::<f32>(), expected);
}

#[test]
fn tiled_matrix_product_agrees_with_the_host() {
    let p = program();
    let n = 64;
    let (a, b) = (floats(n * n), floats(n * n));
    let (x, y, z) = (
        p.memory.from(&a),
        p.memory.from(&b),
        p.memory.buffer(n * n * 4),
    );
    let arguments = Arguments::new().buffer(x).buffer(y).buffer(z).i32(n as i32);
    p.run("matmul", [4, 4, 1], [16, 16, 1], arguments).unwrap();
    let c = z.read::<f32>();
    for row in 0..n {
        for col in 0..n {
            let expected = (0..n).fold(0f32, |sum, k| a[row * n + k].mul_add(b[k * n + col], sum));
            assert_eq!(c[row * n + col], expected);
        }
    }
}

#[test]
fn reductions_through_shared_memory_and_shuffles_agree_with_the_host() {
    let mut p = program();
    let values: Vec<i32> = noise(3000).into_iter().map(|v| (v & 0xff) as i32).collect();
    let (x, sum) = (p.memory.from(&values), p.memory.from(&[0i32]));
    p.dynamic_shared = 1024;
    p.launch(
        "reduce_shared",
        12,
        256,
        Arguments::new().buffer(x).buffer(sum).i32(3000),
    );
    assert_eq!(sum.read::<i32>(), [values.iter().sum::<i32>()]);
    let floats: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    let (x, sum) = (p.memory.from(&floats), p.memory.from(&[0f32]));
    p.launch(
        "reduce_shuffle",
        3,
        128,
        Arguments::new().buffer(x).buffer(sum).i32(3000),
    );
    assert_eq!(sum.read::<f32>(), [values.iter().sum::<i32>() as f32]);
}

#[test]
fn histogram_counts_every_byte() {
    let p = program();
    let data: Vec<u8> = noise(10_000).into_iter().map(|v| v as u8).collect();
    let (x, bins) = (p.memory.from(&data), p.memory.buffer(1024));
    p.launch(
        "histogram",
        8,
        160,
        Arguments::new().buffer(x).buffer(bins).i32(10_000),
    );
    let mut expected = vec![0u32; 256];
    data.iter()
        .for_each(|byte| expected[usize::from(*byte)] += 1);
    assert_eq!(bins.read::<u32>(), expected);
}

#[test]
fn maximum_by_compare_and_swap_is_the_maximum() {
    let p = program();
    let values: Vec<f32> = noise(2000).into_iter().map(|v| v as f32).collect();
    let (x, max) = (p.memory.from(&values), p.memory.from(&[0f32]));
    p.launch(
        "max_cas",
        8,
        256,
        Arguments::new().buffer(x).buffer(max).i32(2000),
    );
    assert_eq!(
        max.read::<f32>(),
        [values.iter().copied().fold(0.0, f32::max)]
    );
}

#[test]
fn recursion_switches_local_arrays_and_constants_agree_with_the_host() {
    let p = program();
    let index: Vec<i32> = (0..32).map(|t| t * 7 + 3).collect();
    let (out, idx) = (p.memory.buffer(128), p.memory.from(&index));
    p.launch("misc", 1, 32, Arguments::new().buffer(out).buffer(idx));
    let fib = |n: u32| [0, 1, 1, 2, 3, 5, 8, 13][n as usize];
    let (table, names) = (
        [3, 1, 4, 1, 5, 9, 2, 6],
        [i32::from(b'a'), i32::from(b'b'), i32::from(b'd')],
    );
    let partial: Vec<i32> = (0..32)
        .map(|t: i32| {
            let v = table[t as usize & 7] + names[t as usize % 3];
            v + (index[t as usize] & 15) * t + fib(t as u32 & 7)
        })
        .collect();
    let ballot = partial.iter().filter(|v| **v & 1 == 1).count() as i32;
    let expected: Vec<i32> = (0..32)
        .map(|t: i32| {
            let v = partial[t as usize];
            let bytes = (v as u64 & 0xffff_ffff) | (t as u64) << 32;
            let perm = [3, 4, 1, 2].iter().enumerate().fold(0u32, |r, (i, s)| {
                r | ((bytes >> (s * 8)) as u32 & 0xff) << (8 * i)
            });
            let ffs = if v == 0 {
                0
            } else {
                v.trailing_zeros() as i32 + 1
            };
            let v = v
                .wrapping_add(ballot)
                .wrapping_add(v.leading_zeros() as i32)
                .wrapping_add(ffs)
                .wrapping_add(v.reverse_bits())
                .wrapping_add(perm as i32);
            match t & 7 {
                0 => v.wrapping_add(3),
                1 => v.wrapping_mul(5),
                2 => v ^ 77,
                3 => v.wrapping_sub(9),
                4 => !v,
                5 => v << 2,
                _ => v.wrapping_neg(),
            }
        })
        .collect();
    assert_eq!(out.read::<i32>(), expected);
}

#[test]
fn calls_through_pointers_reach_the_function() {
    let p = program();
    let out = p.memory.buffer(128);
    p.launch("indirect", 1, 32, Arguments::new().buffer(out));
    let expected: Vec<i32> = (0..32)
        .map(|t| if t & 1 == 0 { t + t + 1 } else { t * (t + 1) })
        .collect();
    assert_eq!(out.read::<i32>(), expected);
}

#[test]
fn lane_spinning_on_another_lane_of_its_warp_makes_progress() {
    let p = program();
    let (flag, out) = (p.memory.buffer(4), p.memory.buffer(4));
    p.launch("spin", 1, 32, Arguments::new().buffer(flag).buffer(out));
    assert_eq!(out.read::<i32>(), [1]);
}

#[test]
fn spin_lock_taken_by_every_thread_of_every_block_excludes() {
    let p = program();
    let (lock, count) = (p.memory.buffer(4), p.memory.buffer(4));
    p.launch(
        "lock_add",
        4,
        64,
        Arguments::new().buffer(lock).buffer(count),
    );
    assert_eq!(count.read::<i32>(), [256]);
}

#[test]
fn structures_pass_by_value_and_through_memory() {
    let p = program();
    let vectors: Vec<f32> = (0..32).map(|v| v as f32).collect();
    let (v, out) = (p.memory.from(&vectors), p.memory.buffer(8 * 48));
    let mut pair = vec![0u8; 48];
    pair[..8].copy_from_slice(&5i64.to_le_bytes());
    pair[8..16].copy_from_slice(&9f64.to_le_bytes());
    pair[32..34].copy_from_slice(&41i16.to_le_bytes());
    p.launch("structs", 1, 8, Arguments(pair).buffer(out).buffer(v));
    let bytes = out.read::<u8>();
    for t in 0..8usize {
        let q = &bytes[t * 48..];
        assert_eq!(i64::from_le_bytes(q[..8].try_into().unwrap()), 5 * t as i64);
        assert_eq!(f64::from_le_bytes(q[8..16].try_into().unwrap()), 3.0);
        assert_eq!(
            f32::from_le_bytes(q[28..32].try_into().unwrap()),
            (t * 4 + 3) as f32
        );
        assert_eq!(i16::from_le_bytes(q[32..34].try_into().unwrap()), 42);
    }
}

#[test]
fn wide_integer_arithmetic_agrees_with_the_host() {
    let p = program();
    let wide = |seed: usize| -> Vec<i64> {
        let words = noise(64 + seed);
        words[seed..]
            .chunks(2)
            .map(|w| (i64::from(w[0]) << 40) ^ (i64::from(w[1]) << 13) ^ i64::from(w[0]))
            .collect()
    };
    let (a, b): (Vec<i64>, Vec<i64>) = (
        wide(0),
        wide(3).iter().map(|v| v.wrapping_mul(-3) | 1).collect(),
    );
    let (x, y, out) = (
        p.memory.from(&a[..32]),
        p.memory
            .from(&b[..31].iter().chain(&[7]).copied().collect::<Vec<_>>()),
        p.memory.buffer(32 * 64),
    );
    p.launch(
        "integers",
        1,
        32,
        Arguments::new().buffer(x).buffer(y).buffer(out),
    );
    let (a, b) = (x.read::<i64>(), y.read::<i64>());
    for (t, o) in out.read::<i64>().chunks(8).enumerate() {
        let (x, y) = (a[t], b[t]);
        let shift = (y & 63) as u32;
        assert_eq!(o[0], x.wrapping_div(y));
        assert_eq!(o[1], x.wrapping_rem(y));
        assert_eq!(o[2], ((i128::from(x) * i128::from(y)) >> 64) as i64);
        assert_eq!(o[3], (x as u64 / y as u64) as i64);
        assert_eq!(o[4], x << shift);
        assert_eq!(o[5], x >> shift);
        assert_eq!(o[6], i64::from((x as i32).wrapping_div(y as i32 | 1)));
        let tail = i64::from((x as i16) % 7) + i64::from(y as u8);
        assert_eq!(
            o[7],
            x.min(y)
                .wrapping_add(i64::from((x as i32).max(y as i32)))
                .wrapping_add(tail)
        );
    }
}

#[test]
fn printf_formats_as_c_does_and_a_failed_assert_faults() {
    let p = program();
    p.launch("print", 1, 4, Arguments::new().i32(3));
    assert_eq!(
        *p.output.lock().unwrap(),
        [
            "thread 0 of here 1.500000 1099511627776\n",
            "thread 1 of here 1.500000 1099511627776\n"
        ]
    );
    let fault = p
        .run("print", [1, 1, 1], [4, 1, 1], Arguments::new().i32(0))
        .unwrap_err();
    match fault.kind {
        FaultKind::Assert {
            message, function, ..
        } => {
            assert_eq!(&*message, "n > 0");
            assert!(function.contains("print"), "{function}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn half_precision_kernels_agree_with_the_host() {
    use half::{bf16, f16};
    let p = Program::new(include_str!("ptx/halves.ptx"));
    let a: Vec<f16> = (0..40)
        .map(|v| f16::from_f32((v * 29 % 40) as f32 * 0.37 - 5.0))
        .collect();
    let b: Vec<bf16> = (0..40)
        .map(|v| bf16::from_f32(v as f32 * 0.2 - 3.0))
        .collect();
    let c: Vec<f16> = (0..80)
        .map(|v| f16::from_f32(v as f32 * 0.11 - 2.0))
        .collect();
    let (x, o) = (p.memory.from(&a), p.memory.buffer(64));
    let (y, q) = (p.memory.from(&b), p.memory.buffer(64));
    let (z, r) = (p.memory.from(&c), p.memory.buffer(128));
    let arguments = Arguments::new()
        .buffer(x)
        .buffer(o)
        .buffer(y)
        .buffer(q)
        .buffer(z)
        .buffer(r);
    p.launch("halves", 1, 32, arguments);
    let packed = r.read::<u16>();
    for t in 0..32 {
        let at = |offset: usize| f64::from(a[t + offset].to_f32());
        let fused = f16::from_f64(at(0).mul_add(at(1), at(2)));
        let difference = f16::from_f64(f64::from(fused.to_f32()) - at(3));
        let expected = if difference < a[t + 4] {
            a[t + 4]
        } else {
            difference
        };
        assert_eq!(o.read::<u16>()[t], expected.to_bits(), "{t}");
        let product = bf16::from_f32(b[t].to_f32() * b[t + 1].to_f32());
        let expected = bf16::from_f32(product.to_f32() + 3.0);
        assert_eq!(q.read::<u16>()[t], expected.to_bits(), "{t}");
        for half in 0..2 {
            let at = |offset: usize| f64::from(c[(t + offset) * 2 + half].to_f32());
            let fused = f16::from_f64(at(0).mul_add(at(1), at(2)));
            let larger = f16::from_f64(at(0).max(at(3)));
            let sum = f16::from_f32(fused.to_f32() + larger.to_f32());
            assert_eq!(packed[t * 2 + half], sum.to_bits(), "{t} {half}");
        }
    }
}

#[test]
fn tiles_warps_blocks_and_the_grid_work_together() {
    let mut p = Program::new(include_str!("ptx/groups.ptx"));
    p.cooperative = true;
    let out = p.memory.buffer(128);
    let run = |grid| {
        p.run(
            "groups",
            [grid, 1, 1],
            [32, 1, 1],
            Arguments::new().buffer(out),
        )
    };
    run(1).unwrap();
    let tile = |t: u32| (0..8).map(|l| (t & !7) + l).sum::<u32>();
    let all: u32 = (0..32).map(tile).sum();
    let expected: Vec<u32> = (0..32)
        .map(|t| {
            tile(t)
                .wrapping_add(1 + 32 + 32)
                .wrapping_add(0xff << (t & !7))
                .wrapping_add(all)
        })
        .collect();
    let got = out.read::<u32>();
    assert_eq!(got, expected);
    // Five blocks on two OS threads meet at the barrier of the grid.
    run(5).unwrap();
}

#[test]
fn the_grid_has_a_workspace_only_in_a_cooperative_launch() {
    let mut p = Program::new(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 o) {\n\
         .reg .b32 %r<2>; .reg .b64 %rd<2>;\nld.param.u64 %rd0, [o];\nmov.b32 %r0, %envreg2;\n\
         mov.b32 %r1, %envreg1;\nmov.b64 %rd1, {%r0, %r1};\nst.global.u64 [%rd0], %rd1;\nret;\n}\n",
    );
    let out = p.memory.buffer(8);
    p.launch("k", 1, 1, Arguments::new().buffer(out));
    assert_eq!(out.read::<u64>(), [0]);
    p.cooperative = true;
    p.launch("k", 1, 1, Arguments::new().buffer(out));
    assert_ne!(out.read::<u64>(), [0]);
}

#[test]
fn function_is_called_by_its_alias() {
    let p = Program::new(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .func (.param .b32 d) other(.param .b32 a);\n.func (.param .b32 d) triple(.param .b32 a) {\n.reg .b32 %r<3>;\n\
         ld.param.b32 %r1, [a]; mul.lo.u32 %r2, %r1, 3; st.param.b32 [d], %r2; ret; }\n.alias other, triple;\n\
         .visible .entry k(.param .u64 o) {\n.reg .b32 %r<3>; .reg .b64 %rd<2>; .param .b32 in; .param .b32 out;\n\
         ld.param.u64 %rd0, [o]; mov.u32 %r0, %tid.x; mad.wide.u32 %rd1, %r0, 4, %rd0; st.param.b32 [in], %r0;\n\
         call (out), other, (in);\nld.param.b32 %r1, [out]; st.global.u32 [%rd1], %r1; ret; }\n",
    );
    let out = p.memory.buffer(32 * 4);
    p.launch("k", 1, 32, Arguments::new().buffer(out));
    let got: Vec<u32> = out.read();
    assert_eq!(got, (0..32).map(|lane| lane * 3).collect::<Vec<_>>());
}
