//! Comparisons and selection.

use super::float::{flush, is_nan, is_subnormal, to_f64};
use super::{Fmt, Instruction, Machine, Operand, Ty, Value, mask};

impl Machine {
    pub(super) fn compare(&mut self, i: &Instruction, s: &[u128]) -> bool {
        match i.opcode.as_str() {
            "setp" => {
                let ty = i.ty();
                let (low, high) = match ty {
                    Ty::Twice(half) => {
                        let part = |place: u32| {
                            let by = place * half.bits();
                            holds(i, *half, s[0] >> by, s[1] >> by)
                        };
                        (part(0), part(1))
                    }
                    ty => (holds(i, ty, s[0], s[1]), !holds(i, ty, s[0], s[1])),
                };
                let combined = |result| Value::Bits(u128::from(combine(i, result, s)));
                match i.operands[0].clone() {
                    Operand::Pair(p, q) => {
                        self.write(&p, combined(low));
                        self.write(&q, combined(high));
                    }
                    p => self.write(&p, combined(low)),
                }
            }
            "set" => {
                let (to, from) = (i.types[0], i.types[1]);
                let value = |to: Ty, result: bool| match (combine(i, result, s), to) {
                    (false, _) => 0,
                    (true, Ty::F(Fmt::F32)) => 0x3f80_0000,
                    (true, Ty::F(Fmt::F16)) => 0x3c00,
                    (true, Ty::F(Fmt::Bf16)) => 0x3f80,
                    (true, to) => mask(to.bits()),
                };
                let bits = match (to, from) {
                    (Ty::Twice(to), Ty::Twice(from)) => {
                        let high = holds(i, *from, s[0] >> 16, s[1] >> 16);
                        value(*to, holds(i, *from, s[0], s[1])) | value(*to, high) << 16
                    }
                    _ => value(to, holds(i, from, s[0], s[1])),
                };
                self.write(&i.operands[0], Value::Bits(bits));
            }
            "selp" => {
                let value = if s[2] == 1 { s[0] } else { s[1] };
                self.write(&i.operands[0], Value::Bits(value));
            }
            "slct" => {
                let first = match i.types[1] {
                    Ty::F(format) => {
                        let bits = s[2] & mask(format.bits());
                        let bits = if i.has("ftz") {
                            flush(format, bits)
                        } else {
                            bits
                        };
                        to_f64(format, bits) >= 0.0
                    }
                    ty => ty.number(s[2]) >= 0,
                };
                let value = if first { s[0] } else { s[1] };
                self.write(&i.operands[0], Value::Bits(value));
            }
            "testp" => {
                let Ty::F(format) = i.ty() else { return false };
                let x = to_f64(format, s[0]);
                let subnormal = is_subnormal(format, s[0]);
                let result = match i.modifiers[0].as_str() {
                    "finite" => x.is_finite(),
                    "infinite" => x.is_infinite(),
                    "number" => !x.is_nan(),
                    "notanumber" => x.is_nan(),
                    // Zero counts as normal.
                    "normal" => x.is_finite() && !subnormal,
                    _ => subnormal,
                };
                self.write(&i.operands[0], Value::Bits(result.into()));
            }
            _ => return false,
        }
        true
    }
}

fn combine(i: &Instruction, result: bool, s: &[u128]) -> bool {
    match i.modifiers[1].as_str() {
        "and" => result && s[2] == 1,
        "or" => result || s[2] == 1,
        "xor" => result != (s[2] == 1),
        _ => result,
    }
}

fn holds(i: &Instruction, ty: Ty, a: u128, b: u128) -> bool {
    let name = i.modifiers[0].as_str();
    let (less, equal, greater, unordered) = match ty {
        Ty::F(format) => {
            let number = |bits: u128| {
                let bits = bits & mask(format.bits());
                to_f64(
                    format,
                    if i.has("ftz") {
                        flush(format, bits)
                    } else {
                        bits
                    },
                )
            };
            let (x, y) = (number(a), number(b));
            let nan = is_nan(format, a) || is_nan(format, b);
            (x < y, x == y, x > y, nan)
        }
        ty => {
            let (x, y) = (ty.number(a), ty.number(b));
            (x < y, x == y, x > y, false)
        }
    };
    match name {
        "eq" => equal,
        "ne" => less || greater,
        "lt" | "lo" => less,
        "le" | "ls" => less || equal,
        "gt" | "hi" => greater,
        "ge" | "hs" => greater || equal,
        "equ" => equal || unordered,
        "neu" => !equal,
        "ltu" => less || unordered,
        "leu" => less || equal || unordered,
        "gtu" => greater || unordered,
        "geu" => greater || equal || unordered,
        "num" => !unordered,
        "nan" => unordered,
        other => panic!("comparison {other}"),
    }
}
