//! Video instructions on single values.

use super::{Instruction, Machine, Operand, Ty, Value, mask};

impl Machine {
    pub(super) fn video(&mut self, i: &Instruction, s: &[u128]) -> bool {
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
