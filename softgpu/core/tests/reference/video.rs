//! Video instructions on single values.

use super::{Instruction, Machine, Operand, Ty, Value, mask};

impl Machine {
    pub(super) fn video(&mut self, i: &Instruction, s: &[u128]) -> bool {
        if i.opcode.starts_with('v') && i.opcode.ends_with(['2', '4']) {
            let value = lanes(i, s);
            self.write(&i.operands[0], Value::Bits(value));
            return true;
        }
        let set = i.opcode == "vset";
        let Some(name) = i.opcode.strip_prefix('v') else {
            return false;
        };
        let (result, a, b) = match i.types[..] {
            [a, b] if set => (Ty::U(32), a, b),
            [result, a, b] => (result, a, b),
            _ => return false,
        };
        // A selected part keeps the signedness that the instruction names.
        let number = |operand: &Operand, ty: Ty, bits: u128| match (operand, ty) {
            (Operand::Part(_, _, width), Ty::S(_)) => Ty::S(*width).number(bits),
            (Operand::Part(_, _, width), _) => Ty::U(*width).number(bits),
            (_, ty) => ty.number(bits),
        };
        let (x, y) = (
            number(&i.operands[1], a, s[0]),
            number(&i.operands[2], b, s[1]),
        );
        let by = if i.has("wrap") { y & 31 } else { y.min(32) };
        let holds = |name: &str| i.has(name);
        let value = match name {
            "add" => x + y,
            "sub" => x - y,
            "absdiff" => (x - y).abs(),
            "min" => x.min(y),
            "max" => x.max(y),
            "shl" => x * (1 << by),
            "shr" => x.div_euclid(1 << by),
            "set" => i128::from(
                holds("eq") && x == y
                    || holds("ne") && x != y
                    || holds("lt") && x < y
                    || holds("le") && x <= y
                    || holds("gt") && x > y
                    || holds("ge") && x >= y,
            ),
            _ => return false,
        };
        let width = match &i.operands[0] {
            Operand::Part(_, _, width) => *width,
            _ => 32,
        };
        let narrow = if result.signed() {
            Ty::S(width)
        } else {
            Ty::U(width)
        };
        let (min, max) = narrow.range();
        let value = if i.has("sat") {
            value.clamp(min, max)
        } else {
            value
        };
        let whole = result.number(value as u128);
        let third = s.get(2).map_or(0, |bits| result.number(*bits));
        let bits = match &i.operands[0] {
            Operand::Part(_, offset, width) => {
                let kept = s[2] & !(mask(*width) << offset);
                kept | (value as u128 & mask(*width)) << offset
            }
            _ if i.has("add") => (whole + third) as u128,
            _ if i.has("min") => whole.min(third) as u128,
            _ if i.has("max") => whole.max(third) as u128,
            _ => whole as u128,
        };
        let d = match &i.operands[0] {
            Operand::Part(register, ..) => Operand::Register(*register),
            operand => operand.clone(),
        };
        self.write(&d, Value::Bits(bits & mask(32)));
        true
    }
}

/// All bytes or halves at once.
fn lanes(i: &Instruction, s: &[u128]) -> u128 {
    let count: u32 = i.opcode[i.opcode.len() - 1..].parse().expect("a number");
    let width = 32 / count;
    let narrow = |ty: Ty| {
        if ty.signed() {
            Ty::S(width)
        } else {
            Ty::U(width)
        }
    };
    let (result, a, b) = match i.types[..] {
        [a, b] => (Ty::U(32), a, b),
        [result, a, b] => (result, a, b),
        _ => panic!("types of {}", i.text),
    };
    let (mut side_by_side, mut sum) = (0, s[2]);
    for lane in 0..count {
        let x = narrow(a).number(s[0] >> (lane * width));
        let y = narrow(b).number(s[1] >> (lane * width));
        let value = match &i.opcode[1..i.opcode.len() - 1] {
            "add" => x + y,
            "sub" => x - y,
            "absdiff" => (x - y).abs(),
            "min" => x.min(y),
            "max" => x.max(y),
            "set" => i128::from(match i.modifiers[2].as_str() {
                "eq" => x == y,
                "ne" => x != y,
                "lt" => x < y,
                "le" => x <= y,
                "gt" => x > y,
                _ => x >= y,
            }),
            other => panic!("v{other}"),
        };
        let (min, max) = narrow(result).range();
        let value = if i.has("sat") {
            value.clamp(min, max)
        } else {
            value
        };
        side_by_side |= (value as u128 & mask(width)) << (lane * width);
        sum = sum.wrapping_add(value as u128);
    }
    if i.has("add") {
        sum & mask(32)
    } else {
        side_by_side
    }
}
