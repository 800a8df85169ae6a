//! Conversions from and to floating point of 8 bits and less, against a reference that lists every value of a
//! format and looks for the nearest.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

mod support;

use softgpu_core::ptx::Target;
use support::{Arguments, Program};

const BLOCK: usize = 256;

/// Runs `body` for every input: `%r1` and `%r2` are its halves, `%r0` is what comes out.
fn run(body: &str, inputs: &[u64]) -> Vec<u32> {
    let text = format!(
        ".version 9.3\n.target sm_100f\n.address_size 64\n.visible .entry k(.param .u64 o, .param .u64 i) {{\n\
         .reg .b8 %b<8>; .reg .b16 %h<4>; .reg .b32 %r<8>; .reg .b64 %rd<4>;\n\
         ld.param.u64 %rd0, [o]; ld.param.u64 %rd1, [i];\n\
         mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x; mad.lo.u32 %r3, %r3, %r4, %r5;\n\
         mad.wide.u32 %rd0, %r3, 4, %rd0; mad.wide.u32 %rd1, %r3, 8, %rd1;\n\
         ld.global.v2.b32 {{%r1, %r2}}, [%rd1]; cvt.u16.u32 %h1, %r1; mov.b16 {{%b1, %b2}}, %h1;\n\
         {body}\nst.global.b32 [%rd0], %r0;\nret; }}\n"
    );
    let target = Target {
        compute_capability: (10, 0),
        max_ptx_version: (9, 9),
    };
    let p = Program::for_target(&text, &target);
    let mut padded = inputs.to_vec();
    padded.resize(inputs.len().next_multiple_of(BLOCK), 0);
    let (o, i) = (p.memory.buffer(padded.len() * 4), p.memory.from(&padded));
    let blocks = (padded.len() / BLOCK) as u32;
    p.launch(
        "k",
        blocks,
        BLOCK as u32,
        Arguments::new().buffer(o).buffer(i),
    );
    let mut out: Vec<u32> = o.read();
    out.truncate(inputs.len());
    out
}

struct Format {
    name: &'static str,
    exponent: u32,
    fraction: u32,
    bias: i32,
    /// The first pattern that is no finite number.
    end: u32,
}

const FORMATS: [Format; 5] = [
    Format {
        name: "e4m3",
        exponent: 4,
        fraction: 3,
        bias: 7,
        end: 0x7f,
    },
    Format {
        name: "e5m2",
        exponent: 5,
        fraction: 2,
        bias: 15,
        end: 0x7c,
    },
    Format {
        name: "e2m3",
        exponent: 2,
        fraction: 3,
        bias: 1,
        end: 0x20,
    },
    Format {
        name: "e3m2",
        exponent: 3,
        fraction: 2,
        bias: 3,
        end: 0x20,
    },
    Format {
        name: "e2m1",
        exponent: 2,
        fraction: 1,
        bias: 1,
        end: 0x08,
    },
];

impl Format {
    fn bits(&self) -> u32 {
        1 + self.exponent + self.fraction
    }

    /// The value of a pattern without its sign; `None` for NaN.
    fn magnitude(&self, pattern: u32) -> Option<f64> {
        if pattern >= self.end {
            return (self.name == "e5m2" && pattern == 0x7c).then_some(f64::INFINITY);
        }
        let (exponent, fraction) = (
            pattern >> self.fraction,
            pattern & ((1 << self.fraction) - 1),
        );
        let steps = f64::from(1u32 << self.fraction);
        let significand = f64::from(fraction) / steps + if exponent == 0 { 0.0 } else { 1.0 };
        Some(significand * 2f64.powi(exponent.max(1) as i32 - self.bias))
    }

    /// The pattern of the nearest finite value, the even one of two.
    fn nearest(&self, value: f64, relu: bool) -> u32 {
        let largest = self.end - 1;
        if value.is_nan() {
            return if self.bits() == 8 { 0x7f } else { largest };
        }
        let negative = value.is_sign_negative();
        if negative && relu {
            return 0;
        }
        let distance = |pattern: u32| (self.magnitude(pattern).unwrap() - value.abs()).abs();
        let mut best = 0;
        for pattern in 1..self.end {
            let (new, old) = (distance(pattern), distance(best));
            if new < old || new == old && pattern % 2 == 0 {
                best = pattern;
            }
        }
        // What is far above is as far from all.
        if value.abs() >= self.magnitude(largest).unwrap() {
            best = largest;
        }
        best | u32::from(negative) << (self.bits() - 1)
    }
}

fn noise(count: usize) -> impl Iterator<Item = u64> {
    let mut state = 0x1234_5678_9abc_def1u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
    .take(count)
}

/// How a half of a register tells its value.
type Value = fn(u16) -> f64;

const HALVES: [(&str, Value); 2] = [("f16x2", f16), ("bf16x2", bf16)];

fn bf16(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

fn f16(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
    let magnitude = match exponent {
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        0 => fraction * 2f64.powi(-24),
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

/// Pairs of f32: around each value of the format and the middle of each two, special ones, and noise.
fn singles(format: &Format) -> Vec<u64> {
    let mut values = vec![
        0.0,
        f32::MIN_POSITIVE,
        1e-40,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
    ];
    for pattern in 0..format.end {
        let value = format.magnitude(pattern).unwrap();
        let next = format.magnitude(pattern + 1).unwrap_or(value * 1.25);
        for value in [value as f32, ((value + next) / 2.0) as f32] {
            let bits = value.to_bits();
            values.extend([bits.saturating_sub(1), bits, bits + 1].map(f32::from_bits));
        }
    }
    let mut pairs: Vec<u64> = Vec::new();
    for (place, value) in values.iter().enumerate() {
        let other = -values[(place * 7 + 3) % values.len()];
        pairs.push(u64::from(value.to_bits()) | u64::from(other.to_bits()) << 32);
        pairs.push(u64::from((-value).to_bits()) | u64::from(value.to_bits()) << 32);
    }
    // Exponents near those of the formats.
    pairs.extend(noise(1000).map(|bits| bits & 0x8fff_ffff_8fff_ffff | 0x3800_0000_3800_0000));
    pairs
}

#[test]
fn conversions_to_small_formats_take_the_nearest_value() {
    for format in &FORMATS {
        let narrow = format.bits() == 4;
        let (d, up) = if narrow { ("%b0", 4) } else { ("%h0", 8) };
        // A byte comes out below another, which must not be seen.
        let out = match narrow {
            true => "mov.b16 %h0, {%b0, %b1}; and.b16 %h0, %h0, 255; cvt.u32.u16 %r0, %h0;",
            false => "cvt.u32.u16 %r0, %h0;",
        };
        for relu in [false, true] {
            let name = format!("{}{}x2", if relu { "relu." } else { "" }, format.name);
            let expected =
                |high: f64, low: f64| format.nearest(high, relu) << up | format.nearest(low, relu);
            let inputs = singles(format);
            let got = run(
                &format!("cvt.rn.satfinite.{name}.f32 {d}, %r1, %r2; {out}"),
                &inputs,
            );
            for (input, got) in inputs.iter().zip(got) {
                let [a, b] = [0, 32].map(|n| f32::from_bits((input >> n) as u32));
                assert_eq!(
                    got,
                    expected(a.into(), b.into()),
                    "{name} of {a:e} and {b:e}"
                );
            }
            // Every half, with another beside it.
            let inputs: Vec<u64> = (0..=0xffffu64)
                .map(|half| half << 16 | ((half * 40503) & 0xffff))
                .collect();
            for (from, value) in HALVES {
                let got = run(
                    &format!("cvt.rn.satfinite.{name}.{from} {d}, %r1; {out}"),
                    &inputs,
                );
                for (input, got) in inputs.iter().zip(got) {
                    let [a, b] = [16, 0].map(|n| value((input >> n) as u16));
                    assert_eq!(got, expected(a, b), "{name} of {from} {input:#x}");
                }
            }
        }
    }
}

#[test]
fn conversions_from_small_formats_are_exact() {
    for format in &FORMATS {
        let narrow = format.bits() == 4;
        let (source, up) = if narrow { ("%b1", 4) } else { ("%h1", 8) };
        let inputs: Vec<u64> = (0..=0xffff).collect();
        for relu in ["", ".relu"] {
            for (to, value) in HALVES {
                let got = run(
                    &format!("cvt.rn{relu}.{to}.{}x2 %r0, {source};", format.name),
                    &inputs,
                );
                for (input, got) in inputs.iter().zip(got) {
                    for (shift, half) in [(up, 16), (0, 0)] {
                        let pattern = (input >> shift) as u32 & ((1 << format.bits()) - 1);
                        let sign = 1 << (format.bits() - 1);
                        let negative = pattern & sign != 0;
                        let found = (got >> half) as u16;
                        match format.magnitude(pattern & (sign - 1)) {
                            None => assert_eq!(found, 0x7fff, "{} {input:#x}", format.name),
                            Some(_) if negative && !relu.is_empty() => assert_eq!(found, 0),
                            Some(magnitude) => {
                                let expected = if negative { -magnitude } else { magnitude };
                                let found = value(found);
                                assert_eq!(
                                    found.to_bits(),
                                    expected.to_bits(),
                                    "{} {input:#x}",
                                    format.name
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The exponent of the nearest power of two that is not above (not below) a magnitude.
fn scale(value: f64, up: bool, sat: bool) -> u32 {
    if value.is_nan() {
        return 255;
    }
    let power = |exponent: u32| 2f64.powi(exponent as i32 - 127);
    let fits = |exponent: &u32| {
        if up {
            power(*exponent) >= value.abs()
        } else {
            power(*exponent) <= value.abs()
        }
    };
    let found = if up {
        (0..255).find(fits)
    } else {
        (0..255).rev().find(fits)
    };
    let found = match found {
        // Nothing lies below what is less than the smallest.
        None if !up => Some(0),
        Some(_) if value.abs() >= 2f64.powi(128) => None,
        found => found,
    };
    found.unwrap_or(if sat { 254 } else { 255 })
}

#[test]
fn scales_are_the_powers_of_two_below_or_above() {
    let mut singles: Vec<u64> = noise(3000).collect();
    for exponent in 0..255u64 {
        for fraction in [0, 1, 0x40_0000, 0x7f_ffff] {
            let bits = exponent << 23 | fraction;
            singles.extend([
                bits << 32 | 0x3f80_0000,
                bits | 0x8000_0000 | 0x7fc0_0000 << 32,
            ]);
        }
    }
    singles.extend([
        0x7f80_0000,
        0xff80_0000,
        0x7f7f_ffff,
        1,
        0x0040_0000,
        0x0020_0000,
    ]);
    let halves: Vec<u64> = (0..=0xffffu64)
        .map(|half| half << 16 | ((half * 40503) & 0xffff))
        .collect();
    for (rounding, up) in [("rp", true), ("rz", false)] {
        for (clamp, sat) in [(".satfinite", true), ("", false)] {
            let form = format!("cvt.{rounding}{clamp}.ue8m0x2");
            let got = run(
                &format!("{form}.f32 %h0, %r1, %r2; cvt.u32.u16 %r0, %h0;"),
                &singles,
            );
            for (input, got) in singles.iter().zip(got) {
                let [a, b] = [0, 32].map(|n| f64::from(f32::from_bits((input >> n) as u32)));
                assert_eq!(
                    got,
                    scale(a, up, sat) << 8 | scale(b, up, sat),
                    "{form} of {a:e}, {b:e}"
                );
            }
            let got = run(
                &format!("{form}.bf16x2 %h0, %r1; cvt.u32.u16 %r0, %h0;"),
                &halves,
            );
            for (input, got) in halves.iter().zip(got) {
                let [a, b] = [16, 0].map(|n| bf16((input >> n) as u16));
                assert_eq!(
                    got,
                    scale(a, up, sat) << 8 | scale(b, up, sat),
                    "{form} of {a:e}, {b:e}"
                );
            }
        }
    }
    let inputs: Vec<u64> = (0..=0xffff).collect();
    let got = run("cvt.rn.bf16x2.ue8m0x2 %r0, %h1;", &inputs);
    for (input, got) in inputs.iter().zip(got) {
        for (byte, half) in [(8, 16), (0, 0)] {
            let (exponent, found) = (input >> byte & 255, (got >> half) as u16);
            match exponent {
                255 => assert_eq!(found, 0x7fff),
                _ => assert_eq!(bf16(found), 2f64.powi(exponent as i32 - 127)),
            }
        }
    }
}

#[test]
fn bfloats_become_bytes_and_bytes_bfloats() {
    let every: Vec<u64> = (0..1 << 16).collect();
    let value = |bits: u64| f32::from_bits((bits as u32) << 16);
    type Rounding = fn(f32) -> f32;
    let roundings: [(&str, Rounding); 4] = [
        ("rni", f32::round_ties_even),
        ("rzi", f32::trunc),
        ("rmi", f32::floor),
        ("rpi", f32::ceil),
    ];
    for (name, round) in roundings {
        let to = |ty: &str| {
            let body = format!(
                "cvt.{name}.{ty}.bf16 %b3, %h1; mov.b16 %h2, {{%b3, 0}}; cvt.u32.u16 %r0, %h2;"
            );
            run(&body, &every)
        };
        for ((bits, signed), unsigned) in every.iter().zip(to("s8")).zip(to("u8")) {
            // Out of range is the nearest there is, and what is no number is none.
            let exact = round(value(*bits));
            assert_eq!(signed as u8, exact as i8 as u8, "{name}: {bits:#x}");
            assert_eq!(unsigned, u32::from(exact as u8), "{name}: {bits:#x}");
        }
    }
    for name in ["rn", "rz", "rm", "rp"] {
        let from = |ty: &str| {
            let body = format!("cvt.{name}.bf16.{ty} %h2, %b1; cvt.u32.u16 %r0, %h2;");
            run(&body, &every[..256])
        };
        for ((byte, signed), unsigned) in (0..=u8::MAX).zip(from("s8")).zip(from("u8")) {
            // Every byte is a bfloat, whatever the rounding.
            assert_eq!(signed, f32::from(byte as i8).to_bits() >> 16, "{byte}");
            assert_eq!(unsigned, f32::from(byte).to_bits() >> 16, "{byte}");
        }
    }
}

#[test]
fn parts_that_are_not_wanted_go_nowhere() {
    let inputs: Vec<u64> = noise(500).collect();
    let outer = run(
        "mov.b64 %rd2, {%r1, %r2}; mov.b64 {%h2, _, _, %h3}, %rd2; mov.b32 %r0, {%h2, %h3};",
        &inputs,
    );
    let upper = run("mov.b64 %rd2, {%r1, %r2}; mov.b64 {_, %r0}, %rd2;", &inputs);
    let middle = run(
        "mov.b32 {_, %h2}, %r1; mov.b16 {_, %b3}, %h2; cvt.u32.u8 %r0, %b3;",
        &inputs,
    );
    for (index, input) in inputs.iter().enumerate() {
        let ends = (input & 0xffff) | (input >> 48 << 16);
        assert_eq!(u64::from(outer[index]), ends);
        assert_eq!(u64::from(upper[index]), input >> 32);
        assert_eq!(u64::from(middle[index]), input >> 24 & 0xff);
    }
}

#[test]
fn bytes_make_up_registers() {
    let inputs: Vec<u64> = noise(500).collect();
    let reversed = run(
        "mov.b32 {%b1, %b2, %b3, %b4}, %r2; mov.b32 %r0, {%b4, %b3, %b2, %b1};",
        &inputs,
    );
    let swapped = run("mov.b16 %h2, {%b2, %b1}; cvt.u32.u16 %r0, %h2;", &inputs);
    let filled = run("mov.b32 %r0, {0, %b1, 7, %b2};", &inputs);
    for (input, filled) in inputs.iter().zip(filled) {
        let [low, high, ..] = input.to_le_bytes();
        assert_eq!(filled.to_le_bytes(), [0, low, 7, high]);
    }
    for ((input, reversed), swapped) in inputs.iter().zip(reversed).zip(swapped) {
        assert_eq!(reversed, ((input >> 32) as u32).swap_bytes());
        assert_eq!(swapped, u32::from((*input as u16).swap_bytes()));
    }
}
