//! Each instruction family against a scalar model on the host.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod support;

use support::{Arguments, Program};

const COUNT: usize = 96;

/// Operands that include every boundary and are random otherwise.
fn operands(seed: u64) -> Vec<u64> {
    const EDGES: [u64; 20] = [
        0,
        1,
        2,
        31,
        32,
        33,
        63,
        64,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000,
        i64::MAX as u64,
        i64::MIN as u64,
        u64::MAX,
        0x3f80_0000,
    ];
    let mut state = seed | 1;
    (0..COUNT)
        .map(|place| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let small = state >> 60 == 0;
            match place {
                _ if (place + seed as usize).is_multiple_of(3) => {
                    EDGES[(state >> 32) as usize % EDGES.len()]
                }
                _ if small => state & 63,
                _ => state,
            }
        })
        .collect()
}

/// Runs `body`, which computes `%D` (64 bits) or `%d` (32 bits) of `%A %B %C` or their low halves
/// `%a %b %c`, and 16-bit `%s %t %u` to `%v`.
fn evaluate(body: &str, inputs: &[Vec<u64>; 3]) -> Vec<u64> {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 o, .param .u64 x, .param .u64 y, .param .u64 z)\n{{\n\
        .reg .b64 %A, %B, %C, %D, %w<8>;\n.reg .b32 %a, %b, %c, %d, %i, %r<8>;\n.reg .b16 %s, %t, %u, %v;\n.reg .pred %p, %q;\n\
        mov.u32 %i, %tid.x;\n\
        ld.param.u64 %w0, [o]; ld.param.u64 %w1, [x]; ld.param.u64 %w2, [y]; ld.param.u64 %w3, [z];\n\
        mad.wide.u32 %w0, %i, 8, %w0; mad.wide.u32 %w1, %i, 8, %w1; mad.wide.u32 %w2, %i, 8, %w2; mad.wide.u32 %w3, %i, 8, %w3;\n\
        ld.global.u64 %A, [%w1]; ld.global.u64 %B, [%w2]; ld.global.u64 %C, [%w3];\n\
        cvt.u32.u64 %a, %A; cvt.u32.u64 %b, %B; cvt.u32.u64 %c, %C;\n\
        cvt.u16.u64 %s, %A; cvt.u16.u64 %t, %B; cvt.u16.u64 %u, %C;\n\
        mov.u64 %D, 0; mov.u32 %d, 0; mov.u16 %v, 0;\n{body}\n\
        cvt.u64.u32 %w4, %d; cvt.u64.u16 %w5, %v; or.b64 %D, %D, %w4; or.b64 %D, %D, %w5; st.global.u64 [%w0], %D;\nret;\n}}\n"
    );
    let p = Program::new(&text);
    let out = p.memory.buffer(COUNT * 8);
    let mut arguments = Arguments::new().buffer(out);
    for input in inputs {
        arguments = arguments.buffer(p.memory.from(input));
    }
    p.launch("k", 1, COUNT as u32, arguments);
    out.read()
}

/// An instruction and what it should compute.
type Case<'a> = (&'a str, &'a dyn Fn(u64, u64, u64) -> u64);

fn check(cases: &[Case<'_>]) {
    let inputs = [operands(11), operands(22), operands(33)];
    for (body, model) in cases {
        let results = evaluate(body, &inputs);
        for lane in 0..COUNT {
            let [a, b, c] = [0, 1, 2].map(|input| inputs[input][lane]);
            assert_eq!(
                results[lane],
                model(a, b, c),
                "{body} of {a:#x}, {b:#x}, {c:#x}"
            );
        }
    }
}

/// A model on 32 bits.
fn w(f: impl Fn(u32, u32, u32) -> u32) -> impl Fn(u64, u64, u64) -> u64 {
    move |a, b, c| u64::from(f(a as u32, b as u32, c as u32))
}

/// A model on signed 32 bits.
fn s(f: impl Fn(i32, i32, i32) -> i32) -> impl Fn(u64, u64, u64) -> u64 {
    move |a, b, c| u64::from(f(a as i32, b as i32, c as i32) as u32)
}

/// A model on 16 bits.
fn h(f: impl Fn(u16, u16, u16) -> u16) -> impl Fn(u64, u64, u64) -> u64 {
    move |a, b, c| u64::from(f(a as u16, b as u16, c as u16))
}

#[test]
fn integer_arithmetic_of_32_bits_agrees_with_the_model() {
    check(&[
        ("add.u32 %d, %a, %b;", &w(|a, b, _| a.wrapping_add(b))),
        ("add.sat.s32 %d, %a, %b;", &s(|a, b, _| a.saturating_add(b))),
        ("sub.s32 %d, %a, %b;", &s(|a, b, _| a.wrapping_sub(b))),
        ("sub.sat.s32 %d, %a, %b;", &s(|a, b, _| a.saturating_sub(b))),
        ("mul.lo.u32 %d, %a, %b;", &w(|a, b, _| a.wrapping_mul(b))),
        (
            "mul.hi.u32 %d, %a, %b;",
            &w(|a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        ),
        (
            "mul.hi.s32 %d, %a, %b;",
            &s(|a, b, _| ((i64::from(a) * i64::from(b)) >> 32) as i32),
        ),
        (
            "mad.lo.s32 %d, %a, %b, %c;",
            &s(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ),
        (
            "mad.hi.sat.s32 %d, %a, %b, %c;",
            &s(|a, b, c| (((i64::from(a) * i64::from(b)) >> 32) as i32).saturating_add(c)),
        ),
        (
            "mul24.lo.u32 %d, %a, %b;",
            &w(|a, b, _| (u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)) as u32),
        ),
        (
            "mul24.hi.s32 %d, %a, %b;",
            &s(|a, b, _| ((i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)) >> 16) as i32),
        ),
        (
            "sad.s32 %d, %a, %b, %c;",
            &s(|a, b, c| c.wrapping_add(a.abs_diff(b) as i32)),
        ),
        (
            "or.b32 %r0, %b, 1; div.s32 %d, %a, %r0;",
            &s(|a, b, _| a.wrapping_div(b | 1)),
        ),
        (
            "or.b32 %r0, %b, 1; rem.u32 %d, %a, %r0;",
            &w(|a, b, _| a % (b | 1)),
        ),
        ("min.s32 %d, %a, %b;", &s(|a, b, _| a.min(b))),
        ("max.u32 %d, %a, %b;", &w(|a, b, _| a.max(b))),
        ("abs.s32 %d, %a;", &s(|a, _, _| a.wrapping_abs())),
        ("neg.s32 %d, %a;", &s(|a, _, _| a.wrapping_neg())),
        (
            "dp4a.s32.u32 %d, %a, %b, %c;",
            &s(|a, b, c| {
                (0..4).fold(c, |sum, i| {
                    sum.wrapping_add(
                        i32::from(a.to_le_bytes()[i] as i8) * i32::from(b.to_le_bytes()[i]),
                    )
                })
            }),
        ),
    ]);
}

#[test]
fn integer_arithmetic_of_16_bits_agrees_with_the_model() {
    check(&[
        ("add.s16 %v, %s, %t;", &h(|a, b, _| a.wrapping_add(b))),
        ("mul.lo.u16 %v, %s, %t;", &h(|a, b, _| a.wrapping_mul(b))),
        (
            "mul.hi.s16 %v, %s, %t;",
            &h(|a, b, _| ((i32::from(a as i16) * i32::from(b as i16)) >> 16) as u16),
        ),
        (
            "mul.wide.s16 %d, %s, %t;",
            &w(|a, b, _| (i32::from(a as i16) * i32::from(b as i16)) as u32),
        ),
        (
            "mad.lo.s16 %v, %s, %t, %u;",
            &h(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ),
        (
            "min.s16 %v, %s, %t;",
            &h(|a, b, _| (a as i16).min(b as i16) as u16),
        ),
        ("max.u16 %v, %s, %t;", &h(|a, b, _| a.max(b))),
        ("neg.s16 %v, %s;", &h(|a, _, _| a.wrapping_neg())),
        ("not.b16 %v, %s;", &h(|a, _, _| !a)),
        ("shl.b16 %v, %s, %b;", &|a, b, _| {
            u64::from(if b as u32 > 15 {
                0
            } else {
                (a as u16) << (b as u32)
            })
        }),
        ("shr.s16 %v, %s, %b;", &|a, b, _| {
            u64::from(((a as i16) >> (b as u32).min(15)) as u16)
        }),
        (
            "setp.lt.s16 %p, %s, %t; selp.b16 %v, 1, 2, %p;",
            &h(|a, b, _| if (a as i16) < b as i16 { 1 } else { 2 }),
        ),
    ]);
}

#[test]
fn integer_arithmetic_of_64_bits_agrees_with_the_model() {
    check(&[
        ("add.s64 %D, %A, %B;", &|a, b, _| a.wrapping_add(b)),
        ("sub.u64 %D, %A, %B;", &|a, b, _| a.wrapping_sub(b)),
        ("mul.lo.s64 %D, %A, %B;", &|a, b, _| a.wrapping_mul(b)),
        ("mul.hi.u64 %D, %A, %B;", &|a, b, _| {
            ((u128::from(a) * u128::from(b)) >> 64) as u64
        }),
        ("mul.hi.s64 %D, %A, %B;", &|a, b, _| {
            ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
        }),
        ("mad.lo.u64 %D, %A, %B, %C;", &|a, b, c| {
            a.wrapping_mul(b).wrapping_add(c)
        }),
        ("mad.hi.s64 %D, %A, %B, %C;", &|a, b, c| {
            (((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64).wrapping_add(c)
        }),
        ("mul.wide.s32 %D, %a, %b;", &|a, b, _| {
            (i64::from(a as i32) * i64::from(b as i32)) as u64
        }),
        ("mad.wide.u32 %D, %a, %b, %C;", &|a, b, c| {
            c.wrapping_add(u64::from(a as u32) * u64::from(b as u32))
        }),
        ("or.b64 %w6, %B, 1; div.s64 %D, %A, %w6;", &|a, b, _| {
            (a as i64).wrapping_div((b | 1) as i64) as u64
        }),
        ("or.b64 %w6, %B, 1; rem.u64 %D, %A, %w6;", &|a, b, _| {
            a % (b | 1)
        }),
        ("min.s64 %D, %A, %B;", &|a, b, _| {
            (a as i64).min(b as i64) as u64
        }),
        ("max.u64 %D, %A, %B;", &|a, b, _| a.max(b)),
        ("shl.b64 %D, %A, %b;", &|a, b, _| {
            if b as u32 > 63 { 0 } else { a << (b as u32) }
        }),
        ("shr.s64 %D, %A, %b;", &|a, b, _| {
            ((a as i64) >> (b as u32).min(63)) as u64
        }),
        ("shr.u64 %D, %A, %b;", &|a, b, _| {
            if b as u32 > 63 { 0 } else { a >> (b as u32) }
        }),
        ("popc.b64 %d, %A;", &|a, _, _| a.count_ones().into()),
        ("clz.b64 %d, %A;", &|a, _, _| a.leading_zeros().into()),
        ("brev.b64 %D, %A;", &|a, _, _| a.reverse_bits()),
        (
            "setp.gt.s64 %p, %A, %B; selp.b64 %D, %A, %C, %p;",
            &|a, b, c| if a as i64 > b as i64 { a } else { c },
        ),
    ]);
}

#[test]
fn carries_chain_through_wide_sums() {
    check(&[
        (
            "mov.b64 {%r0, %r1}, %A; mov.b64 {%r2, %r3}, %B; add.cc.u32 %r4, %r0, %r2; addc.u32 %r5, %r1, %r3; mov.b64 %D, {%r4, %r5};",
            &|a, b, _| a.wrapping_add(b),
        ),
        (
            "mov.b64 {%r0, %r1}, %A; mov.b64 {%r2, %r3}, %B; sub.cc.u32 %r4, %r0, %r2; subc.u32 %r5, %r1, %r3; mov.b64 %D, {%r4, %r5};",
            &|a, b, _| a.wrapping_sub(b),
        ),
        (
            "mul.lo.u32 %r4, %a, %b; mul.hi.u32 %r5, %a, %b; mad.lo.cc.u32 %r4, %a, %c, %r4; madc.hi.u32 %r5, %a, %c, %r5; mov.b64 %D, {%r4, %r5};",
            &|a, b, c| {
                (u64::from(a as u32) * u64::from(b as u32))
                    .wrapping_add(u64::from(a as u32) * u64::from(c as u32))
            },
        ),
        ("add.cc.u64 %w6, %A, %B; addc.u64 %D, 0, 0;", &|a, b, _| {
            u64::from(a.checked_add(b).is_none())
        }),
    ]);
}

#[test]
fn bit_manipulation_agrees_with_the_model() {
    let bfe = |a: u32, pos: u32, len: u32, signed: bool| {
        let (pos, len) = (pos & 0xff, len & 0xff);
        let sign = if !signed || len == 0 {
            false
        } else {
            a >> (pos + len - 1).min(31) & 1 == 1
        };
        (0..32).fold(0u32, |d, i| {
            let bit = if i < len && pos + i < 32 {
                a >> (pos + i) & 1 == 1
            } else {
                sign
            };
            d | u32::from(bit) << i
        })
    };
    check(&[
        ("and.b32 %d, %a, %b;", &w(|a, b, _| a & b)),
        ("or.b32 %d, %a, %b;", &w(|a, b, _| a | b)),
        ("xor.b32 %d, %a, %b;", &w(|a, b, _| a ^ b)),
        ("cnot.b32 %d, %a;", &w(|a, _, _| u32::from(a == 0))),
        (
            "lop3.b32 %d, %a, %b, %c, 0xCA;",
            &w(|a, b, c| a & b | !a & c),
        ),
        ("lop3.b32 %d, %a, %b, %c, 0x96;", &w(|a, b, c| a ^ b ^ c)),
        (
            "shl.b32 %d, %a, %b;",
            &w(|a, b, _| a.checked_shl(b).unwrap_or(0)),
        ),
        (
            "shr.u32 %d, %a, %b;",
            &w(|a, b, _| a.checked_shr(b).unwrap_or(0)),
        ),
        (
            "shr.s32 %d, %a, %b;",
            &w(|a, b, _| ((a as i32) >> b.min(31)) as u32),
        ),
        (
            "shf.l.wrap.b32 %d, %a, %b, %c;",
            &w(|a, b, c| (((u64::from(b) << 32 | u64::from(a)) << (c & 31)) >> 32) as u32),
        ),
        (
            "shf.r.clamp.b32 %d, %a, %b, %c;",
            &w(|a, b, c| ((u64::from(b) << 32 | u64::from(a)) >> c.min(32)) as u32),
        ),
        ("bfe.u32 %d, %a, %b, %c;", &w(|a, b, c| bfe(a, b, c, false))),
        ("bfe.s32 %d, %a, %b, %c;", &w(|a, b, c| bfe(a, b, c, true))),
        (
            "bfi.b32 %d, %a, %b, %c, 7;",
            &w(|a, b, c| {
                (0..7).fold(b, |d, i| match (c & 0xff) + i {
                    bit @ 0..32 => d & !(1 << bit) | (a >> i & 1) << bit,
                    _ => d,
                })
            }),
        ),
        (
            "prmt.b32 %d, %a, %b, 0x4F21;",
            &w(|a, b, _| {
                let bytes = u64::from(b) << 32 | u64::from(a);
                let byte = |i: u32| (bytes >> (i * 8)) as u8;
                u32::from_le_bytes([byte(1), byte(2), ((byte(7) as i8) >> 7) as u8, byte(4)])
            }),
        ),
        ("popc.b32 %d, %a;", &w(|a, _, _| a.count_ones())),
        ("clz.b32 %d, %a;", &w(|a, _, _| a.leading_zeros())),
        ("brev.b32 %d, %a;", &w(|a, _, _| a.reverse_bits())),
        (
            "bfind.u32 %d, %a;",
            &w(|a, _, _| a.checked_ilog2().unwrap_or(u32::MAX)),
        ),
        (
            "bfind.shiftamt.s32 %d, %a;",
            &w(|a, _, _| {
                let folded = if (a as i32) < 0 { !a } else { a };
                folded.checked_ilog2().map_or(u32::MAX, |bit| 31 - bit)
            }),
        ),
    ]);
}

#[test]
fn comparisons_combine_and_select() {
    check(&[
        (
            "setp.ltu.f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;",
            &w(|a, b, _| {
                let (a, b) = (f32::from_bits(a), f32::from_bits(b));
                u32::from(a < b || a.is_nan() || b.is_nan())
            }),
        ),
        (
            "setp.num.f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;",
            &w(|a, b, _| u32::from(!f32::from_bits(a).is_nan() && !f32::from_bits(b).is_nan())),
        ),
        (
            "setp.eq.u32 %q, %c, %b; setp.lt.and.s32 %p|%q, %a, %b, %q; selp.u32 %r0, 1, 0, %p; selp.u32 %r1, 2, 0, %q; or.b32 %d, %r0, %r1;",
            &s(|a, b, c| i32::from(a < b && b == c) | i32::from(a >= b && b == c) << 1),
        ),
        (
            "set.gt.u32.s32 %d, %a, %b;",
            &s(|a, b, _| if a > b { -1 } else { 0 }),
        ),
        (
            "slct.b32.s32 %d, %a, %b, %c;",
            &s(|a, b, c| if c >= 0 { a } else { b }),
        ),
        (
            "setp.hi.u32 %p, %a, %b; @%p mov.u32 %d, 5; @!%p mov.u32 %d, 6;",
            &w(|a, b, _| if a > b { 5 } else { 6 }),
        ),
    ]);
}

#[test]
fn conversions_round_saturate_and_extend() {
    let f = |bits: u64| f32::from_bits(bits as u32);
    let nan = |value: f32| {
        if value.is_nan() {
            0x7fff_ffff
        } else {
            u64::from(value.to_bits())
        }
    };
    check(&[
        ("cvt.s64.s8 %D, %A;", &|a, _, _| i64::from(a as i8) as u64),
        ("cvt.u32.u16 %d, %s;", &|a, _, _| a & 0xffff),
        ("cvt.s32.s16 %d, %s;", &|a, _, _| {
            u64::from(i32::from(a as i16) as u32)
        }),
        ("cvt.sat.u8.s32 %d, %a;", &|a, _, _| {
            (a as i32).clamp(0, 255) as u64
        }),
        ("cvt.sat.s32.s64 %d, %A;", &|a, _, _| {
            u64::from((a as i64).clamp(i32::MIN.into(), i32::MAX.into()) as u32)
        }),
        ("cvt.rzi.s32.f32 %d, %a;", &|a, _, _| {
            u64::from(f(a) as i32 as u32)
        }),
        ("cvt.rni.u32.f32 %d, %a;", &|a, _, _| {
            u64::from(f(a).round_ties_even() as u32)
        }),
        ("cvt.rmi.s32.f32 %d, %a;", &|a, _, _| {
            u64::from(f(a).floor() as i32 as u32)
        }),
        ("cvt.rpi.f32.f32 %d, %a;", &|a, _, _| nan(f(a).ceil())),
        ("cvt.rn.f32.u64 %d, %A;", &|a, _, _| {
            u64::from((a as f32).to_bits())
        }),
        ("cvt.rn.f64.s64 %D, %A;", &|a, _, _| {
            ((a as i64) as f64).to_bits()
        }),
        ("cvt.rn.f32.f64 %d, %A;", &|a, _, _| {
            nan(f64::from_bits(a) as f32)
        }),
        ("cvt.sat.f32.f32 %d, %a;", &|a, _, _| {
            let value = f(a);
            u64::from(if value > 0.0 { value.min(1.0) } else { 0.0 }.to_bits())
        }),
        ("cvt.rn.f16.f32 %v, %a;", &|a, _, _| {
            let half = half::f16::from_f32(f(a));
            u64::from(if half.is_nan() {
                0x7fff
            } else {
                half.to_bits()
            })
        }),
    ]);
}

#[test]
fn floating_point_arithmetic_is_exact_for_every_rounding() {
    let f = |bits: u64| f32::from_bits(bits as u32);
    let nan = |value: f32| {
        if value.is_nan() {
            0x7fff_ffff
        } else {
            u64::from(value.to_bits())
        }
    };
    // A directed f32 result from the exact f64 one.
    let down = move |exact: f64| {
        let near = exact as f32;
        if f64::from(near) > exact {
            near.next_down()
        } else {
            near
        }
    };
    let up = move |exact: f64| {
        let near = exact as f32;
        if f64::from(near) < exact {
            near.next_up()
        } else {
            near
        }
    };
    check(&[
        ("add.f32 %d, %a, %b;", &|a, b, _| nan(f(a) + f(b))),
        ("sub.rn.f32 %d, %a, %b;", &|a, b, _| nan(f(a) - f(b))),
        ("mul.rn.f32 %d, %a, %b;", &|a, b, _| nan(f(a) * f(b))),
        ("fma.rn.f32 %d, %a, %b, %c;", &|a, b, c| {
            nan(f(a).mul_add(f(b), f(c)))
        }),
        ("div.rn.f32 %d, %a, %b;", &|a, b, _| nan(f(a) / f(b))),
        ("sqrt.rn.f32 %d, %a;", &|a, _, _| nan(f(a).sqrt())),
        ("rcp.rn.f32 %d, %a;", &|a, _, _| nan(1.0 / f(a))),
        ("mul.rm.f32 %d, %a, %b;", &|a, b, _| {
            nan(down(f64::from(f(a)) * f64::from(f(b))))
        }),
        ("mul.rp.f32 %d, %a, %b;", &|a, b, _| {
            nan(up(f64::from(f(a)) * f64::from(f(b))))
        }),
        ("mul.rz.f32 %d, %a, %b;", &|a, b, _| {
            let exact = f64::from(f(a)) * f64::from(f(b));
            nan(if exact > 0.0 { down(exact) } else { up(exact) })
        }),
        // NaN payloads of f64 are not specified: all of them count as one.
        (
            "add.f64 %D, %A, %B; testp.notanumber.f64 %p, %D; selp.b64 %D, -1, %D, %p;",
            &|a, b, _| {
                let sum = f64::from_bits(a) + f64::from_bits(b);
                if sum.is_nan() {
                    u64::MAX
                } else {
                    sum.to_bits()
                }
            },
        ),
        (
            "fma.rn.f64 %D, %A, %B, %C; testp.notanumber.f64 %p, %D; selp.b64 %D, -1, %D, %p;",
            &|a, b, c| {
                let sum = f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c));
                if sum.is_nan() {
                    u64::MAX
                } else {
                    sum.to_bits()
                }
            },
        ),
        ("abs.f32 %d, %a;", &|a, _, _| a & 0x7fff_ffff),
        ("copysign.f32 %d, %a, %b;", &|a, b, _| {
            b & 0x7fff_ffff | a & 0x8000_0000
        }),
    ]);
}

#[test]
fn subnormals_are_flushed_where_asked() {
    let inputs = [
        vec![1u64; COUNT],
        vec![0x3f80_0000u64; COUNT],
        vec![0x8000_0001u64; COUNT],
    ];
    let one = |body: &str| evaluate(body, &inputs)[0];
    assert_eq!(one("add.ftz.f32 %d, %a, %a;"), 0);
    assert_eq!(one("add.f32 %d, %a, %a;"), 2);
    assert_eq!(one("mul.ftz.f32 %d, %c, %b;"), 0x8000_0000);
    assert_eq!(one("fma.rn.ftz.f32 %d, %a, %b, %b;"), 0x3f80_0000);
    assert_eq!(
        one("setp.eq.ftz.f32 %p, %a, 0f00000000; selp.u32 %d, 1, 0, %p;"),
        1
    );
    assert_eq!(
        one("setp.eq.f32 %p, %a, 0f00000000; selp.u32 %d, 1, 0, %p;"),
        0
    );
}

/// An instruction, the function and the largest absolute error.
type Approximation = (&'static str, fn(f64) -> f64, f64);

#[test]
fn approximations_keep_within_their_bounds() {
    let xs: Vec<u64> = (0..COUNT)
        .map(|i| u64::from((0.07f32 * (i as f32 + 1.0)).to_bits()))
        .collect();
    let inputs = [xs.clone(), xs.clone(), xs.clone()];
    let cases: [Approximation; 7] = [
        ("sin.approx.f32 %d, %a;", f64::sin, 7e-7),
        ("cos.approx.f32 %d, %a;", f64::cos, 7e-7),
        ("ex2.approx.f32 %d, %a;", f64::exp2, 2e-5),
        ("lg2.approx.f32 %d, %a;", f64::log2, 5e-7),
        ("rsqrt.approx.f32 %d, %a;", |x| 1.0 / x.sqrt(), 5e-7),
        ("rcp.approx.ftz.f32 %d, %a;", |x| 1.0 / x, 2e-6),
        ("tanh.approx.f32 %d, %a;", f64::tanh, 5e-4),
    ];
    for (body, model, bound) in cases {
        for (x, y) in xs.iter().zip(evaluate(body, &inputs)) {
            let (x, y) = (f32::from_bits(*x as u32), f32::from_bits(y as u32));
            assert!(
                (f64::from(y) - model(x.into())).abs() <= bound,
                "{body} of {x} is {y}"
            );
        }
    }
}

#[test]
fn random_straight_line_programs_agree_with_the_model() {
    let inputs = [operands(5), operands(6), operands(7)];
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % bound
    };
    for _ in 0..60 {
        let mut body =
            String::from("mov.u32 %r0, %a; mov.u32 %r1, %b; mov.u32 %r2, %c; mov.u32 %r3, 7;\n");
        let mut steps = Vec::new();
        for _ in 0..40 {
            let (f, d, a, b, guard) = (random(8), random(4), random(4), random(4), random(3));
            let text = [
                "add.u32",
                "sub.u32",
                "mul.lo.u32",
                "xor.b32",
                "min.s32",
                "shl.b32",
                "and.b32",
                "max.u32",
            ][f];
            let guard_text = match guard {
                0 => format!("setp.lt.u32 %p, %r{a}, %r{b}; @%p "),
                1 => format!("setp.lt.u32 %p, %r{a}, %r{b}; @!%p "),
                _ => String::new(),
            };
            body += &format!("{guard_text}{text} %r{d}, %r{a}, %r{b};\n");
            steps.push((f, d, a, b, guard));
        }
        body += "xor.b32 %r0, %r0, %r1; xor.b32 %r2, %r2, %r3; xor.b32 %d, %r0, %r2;";
        let results = evaluate(&body, &inputs);
        for lane in 0..COUNT {
            let mut r = [
                inputs[0][lane] as u32,
                inputs[1][lane] as u32,
                inputs[2][lane] as u32,
                7,
            ];
            for &(f, d, a, b, guard) in &steps {
                let (x, y) = (r[a], r[b]);
                if guard == 0 && x >= y || guard == 1 && x < y {
                    continue;
                }
                r[d] = match f {
                    0 => x.wrapping_add(y),
                    1 => x.wrapping_sub(y),
                    2 => x.wrapping_mul(y),
                    3 => x ^ y,
                    4 => (x as i32).min(y as i32) as u32,
                    5 => x.checked_shl(y).unwrap_or(0),
                    6 => x & y,
                    _ => x.max(y),
                };
            }
            assert_eq!(results[lane] as u32, r[0] ^ r[1] ^ r[2] ^ r[3], "{body}");
        }
    }
}
