//! Two integers of 16 bits in one register.

use super::{Instruction, Machine, Ty, Value, mask};

impl Machine {
    pub(super) fn packed(&mut self, i: &Instruction, s: &[u128]) -> bool {
        let Ty::Twice(half @ (Ty::U(_) | Ty::S(_))) = i.ty() else {
            return false;
        };
        let part = |place: u32| {
            let [a, b] = [s[0], s[1]].map(|bits| half.number(bits >> (16 * place)));
            let value = match i.opcode.as_str() {
                "add" => a + b,
                "min" => a.min(b),
                "max" => a.max(b),
                _ => return None,
            };
            let value = if i.has("relu") { value.max(0) } else { value };
            Some(value as u128 & mask(16))
        };
        let (Some(low), Some(high)) = (part(0), part(1)) else {
            return false;
        };
        self.write(&i.operands[0], Value::Bits(low | high << 16));
        true
    }
}
