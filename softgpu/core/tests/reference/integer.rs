//! Integer instructions, in 128 bits.

use super::{Instruction, Machine, Operand, Ty, Value, mask};

impl Machine {
    pub(super) fn integer(&mut self, i: &Instruction, s: &[u128]) -> bool {
        if i.types
            .iter()
            .any(|ty| ty.is_float() || matches!(ty, Ty::Twice(_)))
        {
            return false;
        }
        let ty = i.ty();
        let (carries, product) = (
            i.opcode.ends_with('c') && i.opcode != "madc",
            i.opcode.as_str(),
        );
        if matches!(product, "add" | "sub" | "mad") && i.has("cc")
            || matches!(product, "addc" | "subc" | "madc")
        {
            self.extended(i, s, carries || product == "madc");
            return true;
        }
        if let Some(value) = arithmetic(i, s, ty).or_else(|| bits(i, s, ty)) {
            if i.operands.len() > 5
                && let Operand::Pair(d, p) = &i.operands[0]
                && let Value::Bits(result) = value
            {
                // lop3 with a predicate.
                let any = u128::from(result != 0);
                let p_value = if i.has("or") { any | s[4] } else { any & s[4] };
                self.write(d, value);
                self.write(p, Value::Bits(p_value));
                return true;
            }
            self.write(&i.operands[0], value);
            return true;
        }
        false
    }

    /// `add.cc` and its relatives.
    fn extended(&mut self, i: &Instruction, s: &[u128], reads: bool) {
        let ty = i.ty();
        let width = ty.bits();
        let low = |bits: u128| bits & mask(width);
        let (a, b) = if i.opcode.starts_with("mad") {
            (low(product(i, s, ty) as u128), low(s[2]))
        } else {
            (low(s[0]), low(s[1]))
        };
        let carry = match self.carry {
            Some(carry) => u128::from(reads && carry),
            None if reads => return self.forget(i),
            None => 0,
        };
        let (result, carry_out) = if i.opcode.starts_with("sub") {
            // The flag of a difference is the complement of its borrow: NVIDIA's compiler reads the sign of a
            // long difference with `addc` after `subc.cc`, in its 128-bit division.
            let borrow = u128::from(reads) & !carry;
            (low(a.wrapping_sub(b).wrapping_sub(borrow)), a >= b + borrow)
        } else {
            (low(a + b + carry), (a + b + carry) >> width != 0)
        };
        if i.has("cc") {
            self.carry = Some(carry_out);
        }
        self.write(&i.operands[0], Value::Bits(result));
    }
}

fn exact(value: i128) -> Option<Value> {
    Some(Value::Bits(value as u128))
}

/// Cut, or clamped where the instruction saturates.
fn fitted(i: &Instruction, ty: Ty, value: i128) -> Option<Value> {
    let (min, max) = ty.range();
    let value = if i.has("sat") {
        value.clamp(min, max)
    } else {
        value
    };
    Some(Value::Bits(value as u128 & mask(ty.bits())))
}

/// The product of the first two operands, or with `.hi` its upper half; at most 128 bits.
fn product(i: &Instruction, s: &[u128], ty: Ty) -> i128 {
    let (a, b) = (ty.number(s[0]), ty.number(s[1]));
    let product = if ty.signed() {
        (a * b) as u128
    } else {
        (a as u128).wrapping_mul(b as u128)
    };
    match (i.has("hi"), ty.signed()) {
        (false, _) => product as i128,
        (true, true) => product as i128 >> ty.bits(),
        (true, false) => (product >> ty.bits()) as i128,
    }
}

fn arithmetic(i: &Instruction, s: &[u128], ty: Ty) -> Option<Value> {
    let n = |place: usize| ty.number(s[place]);
    let width = ty.bits();
    let s24 = |bits: u128| {
        if ty.signed() {
            (bits as i128) << 104 >> 104
        } else {
            (bits & mask(24)) as i128
        }
    };
    let product24 = || {
        let product = s24(s[0]) * s24(s[1]);
        if i.has("hi") { product >> 16 } else { product }
    };
    let part = || ty.number(product(i, s, ty) as u128);
    match i.opcode.as_str() {
        "add" => fitted(i, ty, n(0) + n(1)),
        "sub" => fitted(i, ty, n(0) - n(1)),
        "mul" if i.has("wide") => exact(product(i, s, ty)),
        "mul" => fitted(i, ty, part()),
        "mad" if i.has("wide") => {
            let wide = if ty.signed() {
                Ty::S(2 * width)
            } else {
                Ty::U(2 * width)
            };
            exact(product(i, s, ty).wrapping_add(wide.number(s[2])))
        }
        "mad" => fitted(i, ty, part() + n(2)),
        "mul24" => exact(product24()),
        "mad24" => fitted(i, ty, ty.number(product24() as u128) + n(2)),
        "sad" => fitted(i, ty, n(2) + (n(0) - n(1)).abs()),
        "div" | "rem" if n(1) == 0 => Some(Value::Anything),
        "div" => fitted(i, ty, n(0) / n(1)),
        "rem" => fitted(i, ty, n(0) % n(1)),
        "abs" => fitted(i, ty, n(0).abs()),
        "neg" => fitted(i, ty, -n(0)),
        "min" | "max" => {
            let value = if i.opcode == "min" {
                n(0).min(n(1))
            } else {
                n(0).max(n(1))
            };
            exact(if i.has("relu") { value.max(0) } else { value })
        }
        "dp4a" | "dp2a" => {
            let [ta, tb] = [i.types[0].signed(), i.types[1].signed()];
            let piece = |bits: u128, place: u32, width: u32, signed: bool| {
                let ty = if signed { Ty::S(width) } else { Ty::U(width) };
                ty.number(bits >> (place * width))
            };
            let sum: i128 = if i.opcode == "dp4a" {
                (0..4)
                    .map(|k| piece(s[0], k, 8, ta) * piece(s[1], k, 8, tb))
                    .sum()
            } else {
                let first = if i.has("hi") { 2 } else { 0 };
                (0..2)
                    .map(|k| piece(s[0], k, 16, ta) * piece(s[1], first + k, 8, tb))
                    .sum()
            };
            exact(sum + s[2] as i128)
        }
        _ => None,
    }
}

fn bits(i: &Instruction, s: &[u128], ty: Ty) -> Option<Value> {
    let width = ty.bits();
    let low = |place: usize| s[place] & mask(width);
    let value = match i.opcode.as_str() {
        "and" => low(0) & low(1),
        "or" => low(0) | low(1),
        "xor" => low(0) ^ low(1),
        "not" => !low(0) & mask(width),
        "cnot" => u128::from(low(0) == 0),
        "lop3" => (0..32).fold(0, |d, bit| {
            let row = (s[0] >> bit & 1) << 2 | (s[1] >> bit & 1) << 1 | s[2] >> bit & 1;
            d | (s[3] >> row & 1) << bit
        }),
        "shl" => (low(0) << (s[1].min(64) as u32)) & mask(width),
        "shr" => (ty.number(s[0]) >> s[1].min(64)) as u128,
        "shf" => {
            let by = if i.has("wrap") {
                s[2] & 31
            } else {
                s[2].min(32)
            };
            let both = (s[1] & mask(32)) << 32 | s[0] & mask(32);
            if i.has("l") {
                (both << by) >> 32
            } else {
                both >> by
            }
        }
        "popc" => low(0).count_ones().into(),
        "clz" => (low(0).leading_zeros() - (128 - width)).into(),
        "brev" => low(0).reverse_bits() >> (128 - width),
        "bfind" => {
            let number = ty.number(s[0]);
            let number = if number < 0 { !number } else { number };
            match (0..width).rev().find(|bit| number >> bit & 1 == 1) {
                None => mask(32),
                Some(bit) if i.has("shiftamt") => (width - 1 - bit).into(),
                Some(bit) => bit.into(),
            }
        }
        "fns" => return Some(find_nth(s[0], s[1], Ty::S(32).number(s[2]))),
        "bfe" => {
            let (pos, len) = (s[1] & 255, s[2] & 255);
            let last = u128::from(width - 1);
            let sign = ty.signed() && len > 0 && s[0] >> (pos + len - 1).min(last) & 1 == 1;
            (0..u128::from(width)).fold(0, |d, bit| {
                let inside = bit < len && pos + bit <= last;
                let one = if inside {
                    s[0] >> (pos + bit) & 1 == 1
                } else {
                    sign
                };
                d | u128::from(one) << bit
            })
        }
        "bfi" => {
            let (pos, len) = (s[2] & 255, s[3] & 255);
            (0..len).fold(low(1), |d, bit| {
                let to = pos + bit;
                if to >= u128::from(width) {
                    d
                } else {
                    d & !(1 << to) | (s[0] >> bit & 1) << to
                }
            })
        }
        "szext" => {
            let count = if i.has("wrap") {
                s[1] & 31
            } else {
                s[1].min(32)
            } as u32;
            match count {
                0 => 0,
                count if ty.signed() => Ty::S(count).number(s[0]) as u128,
                count => s[0] & mask(count),
            }
        }
        "bmsk" => {
            let wrap = i.has("wrap");
            let (from, count) = if wrap {
                (s[0] & 31, s[1] & 31)
            } else {
                (s[0], s[1])
            };
            (0..32)
                .filter(|bit| *bit >= from && *bit < from + count)
                .fold(0, |d, bit| d | 1 << bit)
        }
        "prmt" => permute(i.modifiers.get(1).map(String::as_str), s),
        _ => return None,
    };
    Some(Value::Bits(value))
}

fn find_nth(bits: u128, base: u128, offset: i128) -> Value {
    if base > 31 {
        return Value::Anything;
    }
    let base = base as i128;
    let set = |place: &i128| bits >> place & 1 == 1;
    let found = match offset {
        0 => Some(base).filter(set),
        1.. => (base..32).filter(set).nth((offset - 1).min(64) as usize),
        _ => (0..=base)
            .rev()
            .filter(set)
            .nth((-offset - 1).min(64) as usize),
    };
    Value::Bits(found.map_or(mask(32), |place| place as u128))
}

fn permute(mode: Option<&str>, s: &[u128]) -> u128 {
    let row = (s[2] & 3) as usize;
    // The byte for each place, highest first, by the low bits of the selector.
    let selectors: u32 = match mode {
        None => (s[2] & 0xffff) as u32,
        Some("f4e") => [0x3210, 0x4321, 0x5432, 0x6543][row],
        Some("b4e") => [0x5670, 0x6701, 0x7012, 0x0123][row],
        Some("rc8") => [0x0000, 0x1111, 0x2222, 0x3333][row],
        Some("ecl") => [0x3210, 0x3211, 0x3222, 0x3333][row],
        Some("ecr") => [0x0000, 0x1110, 0x2210, 0x3210][row],
        _ => [0x1010, 0x3232, 0x1010, 0x3232][row],
    };
    let bytes = (s[1] & mask(32)) << 32 | s[0] & mask(32);
    (0..4).fold(0, |d, place| {
        let selector = selectors >> (4 * place) & 15;
        let byte = bytes >> (8 * (selector & 7)) & 255;
        let byte = match (selector & 8 != 0, byte >> 7) {
            (false, _) => byte,
            (true, 1) => 255,
            (true, _) => 0,
        };
        d | byte << (8 * place)
    })
}
