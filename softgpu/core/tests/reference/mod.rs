//! A scalar machine that executes PTX instructions one thread at a time: the independent reference.
//!
//! It shares nothing with the code under test: it reads the text itself, computes integers in 128
//! bits and floating point with `rustc_apfloat`. It says where PTX leaves a value open.
#![allow(
    dead_code,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod compare;
mod convert;
mod float;
mod integer;
mod packed;
mod video;

/// A type, by kind and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    Pred,
    B(u32),
    U(u32),
    S(u32),
    F(Fmt),
    /// Two values in one register.
    Twice(&'static Ty),
}

/// A floating-point format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fmt {
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    E4m3,
    E5m2,
}

impl Ty {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "b8" => Self::B(8),
            "b16" => Self::B(16),
            "b32" => Self::B(32),
            "b64" => Self::B(64),
            "b128" => Self::B(128),
            "u8" => Self::U(8),
            "u16" => Self::U(16),
            "u32" => Self::U(32),
            "u64" => Self::U(64),
            "s8" => Self::S(8),
            "s16" => Self::S(16),
            "s32" => Self::S(32),
            "s64" => Self::S(64),
            "f16" => Self::F(Fmt::F16),
            "bf16" => Self::F(Fmt::Bf16),
            "tf32" => Self::F(Fmt::Tf32),
            "f32" => Self::F(Fmt::F32),
            "f64" => Self::F(Fmt::F64),
            "f16x2" => Self::Twice(&Self::F(Fmt::F16)),
            "bf16x2" => Self::Twice(&Self::F(Fmt::Bf16)),
            "f32x2" => Self::Twice(&Self::F(Fmt::F32)),
            "u16x2" => Self::Twice(&Self::U(16)),
            "s16x2" => Self::Twice(&Self::S(16)),
            "e4m3x2" => Self::Twice(&Self::F(Fmt::E4m3)),
            "e5m2x2" => Self::Twice(&Self::F(Fmt::E5m2)),
            _ => return None,
        })
    }

    pub fn bits(self) -> u32 {
        match self {
            Self::Pred => 1,
            Self::B(bits) | Self::U(bits) | Self::S(bits) => bits,
            Self::F(format) => format.bits(),
            Self::Twice(half) => 2 * half.bits(),
        }
    }

    pub fn is_float(self) -> bool {
        match self {
            Self::F(_) => true,
            Self::Twice(half) => half.is_float(),
            _ => false,
        }
    }

    pub fn signed(self) -> bool {
        matches!(self, Self::S(_) | Self::Twice(&Self::S(_)))
    }

    /// The value of the low bits as a number.
    pub fn number(self, bits: u128) -> i128 {
        let width = self.bits();
        let bits = bits & mask(width);
        if self.signed() && bits >> (width - 1) & 1 == 1 {
            bits as i128 - (1i128 << width)
        } else {
            bits as i128
        }
    }

    /// The smallest and the largest number.
    pub fn range(self) -> (i128, i128) {
        let width = self.bits();
        if self.signed() {
            (-(1 << (width - 1)), (1 << (width - 1)) - 1)
        } else {
            (0, (1i128 << width) - 1)
        }
    }
}

pub fn mask(bits: u32) -> u128 {
    if bits >= 128 {
        u128::MAX
    } else {
        (1 << bits) - 1
    }
}

/// What a register holds, or all that PTX says about it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Bits(u128),
    /// Some NaN of the format.
    Nan(Fmt),
    /// Two halves of 16 bits, each as its own value says.
    Halves(Half, Half),
    /// Within an absolute and a relative distance of a number.
    Near {
        format: Fmt,
        value: f64,
        absolute: f64,
        relative: f64,
    },
    Anything,
}

/// What half a register holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Half {
    Bits(u16),
    Nan(Fmt),
    Near {
        format: Fmt,
        value: f64,
        absolute: f64,
        relative: f64,
    },
}

impl Value {
    /// Whether `bits` is such a value.
    pub fn admits(self, bits: u128) -> bool {
        match self {
            Self::Bits(expected) => bits == expected,
            Self::Nan(format) => float::is_nan(format, bits),
            Self::Halves(low, high) => {
                low.admits(bits as u16) && high.admits((bits >> 16) as u16) && bits >> 32 == 0
            }
            Self::Near {
                format,
                value,
                absolute,
                relative,
            } => near(float::to_f64(format, bits), value, absolute, relative),
            Self::Anything => true,
        }
    }

    /// As half a register.
    pub fn half(self) -> Half {
        match self {
            Self::Nan(format) => Half::Nan(format),
            Self::Near {
                format,
                value,
                absolute,
                relative,
            } => Half::Near {
                format,
                value,
                absolute,
                relative,
            },
            Self::Bits(bits) => Half::Bits(bits as u16),
            other => panic!("{other:?} is no half"),
        }
    }
}

impl Half {
    fn admits(self, bits: u16) -> bool {
        let whole = match self {
            Self::Bits(bits) => Value::Bits(bits.into()),
            Self::Nan(format) => Value::Nan(format),
            Self::Near {
                format,
                value,
                absolute,
                relative,
            } => Value::Near {
                format,
                value,
                absolute,
                relative,
            },
        };
        whole.admits(bits.into())
    }
}

fn near(actual: f64, value: f64, absolute: f64, relative: f64) -> bool {
    if value.is_nan() {
        return actual.is_nan();
    }
    if value.is_infinite() {
        return actual == value;
    }
    (actual - value).abs() <= absolute + relative * value.abs()
}

/// A register file and a place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register {
    pub file: File,
    pub index: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    P,
    H,
    R,
    D,
    Q,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    Register(Register),
    /// A byte or half of a register: offset and width in bits.
    Part(Register, u32, u32),
    Not(Register),
    Number(u128),
    Vector(Vec<Operand>),
    Pair(Box<Operand>, Box<Operand>),
    Discard,
}

/// An instruction, read.
#[derive(Debug, Clone)]
pub struct Instruction {
    pub text: String,
    guard: Option<(bool, Register)>,
    pub opcode: String,
    pub modifiers: Vec<String>,
    pub types: Vec<Ty>,
    pub operands: Vec<Operand>,
}

impl Instruction {
    /// The instructions of a line.
    pub fn sequence(text: &str) -> Vec<Self> {
        text.split(';')
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(Self::parse)
            .collect()
    }

    fn parse(text: &str) -> Self {
        let (mut guard, mut rest) = (None, text);
        if let Some(guarded) = text.strip_prefix('@') {
            let (name, after) = guarded.split_once(' ').expect("a guard and an instruction");
            let negate = name.starts_with('!');
            let predicate = register(name.trim_start_matches('!')).expect("a predicate");
            guard = Some((negate, predicate));
            rest = after.trim();
        }
        let (head, list) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut parts = head.split('.');
        let opcode = parts.next().unwrap_or_default().to_owned();
        let modifiers: Vec<String> = parts.map(str::to_owned).collect();
        let types: Vec<Ty> = modifiers.iter().filter_map(|m| Ty::parse(m)).collect();
        // A decimal fraction is a literal of the instruction's type.
        let literal = |text: &str| {
            let digits = text.starts_with(|c: char| c.is_ascii_digit());
            let value = text
                .parse::<f64>()
                .ok()
                .filter(|_| digits && text.contains(['.', 'e']))?;
            Some(Operand::Number(match types.last() {
                Some(Ty::F(Fmt::F32)) => (value as f32).to_bits().into(),
                _ => value.to_bits().into(),
            }))
        };
        let operands = split(list)
            .into_iter()
            .map(|text| literal(text).unwrap_or_else(|| operand(text)))
            .collect();
        Self {
            text: text.to_owned(),
            guard,
            opcode,
            modifiers,
            types,
            operands,
        }
    }

    pub fn has(&self, modifier: &str) -> bool {
        self.modifiers.iter().any(|m| m == modifier)
    }

    /// The last type.
    pub fn ty(&self) -> Ty {
        *self.types.last().unwrap_or(&Ty::B(32))
    }
}

/// Splits at commas outside of brackets.
fn split(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (place, character) in list.char_indices() {
        match character {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(list[start..place].trim());
                start = place + 1;
            }
            _ => {}
        }
    }
    if !list[start..].trim().is_empty() {
        parts.push(list[start..].trim());
    }
    parts
}

fn register(name: &str) -> Option<Register> {
    let name = name.strip_prefix('%')?;
    let digits = name.find(|c: char| c.is_ascii_digit())?;
    let file = match &name[..digits] {
        "p" => File::P,
        "h" => File::H,
        "r" => File::R,
        "rd" => File::D,
        "q" => File::Q,
        _ => return None,
    };
    let index = name[digits..].parse().ok()?;
    Some(Register { file, index })
}

fn operand(text: &str) -> Operand {
    if text == "_" {
        return Operand::Discard;
    }
    if let Some(list) = text.strip_prefix('{') {
        let list = split(list.trim_end_matches('}'));
        return Operand::Vector(list.into_iter().map(operand).collect());
    }
    if let Some((a, b)) = text.split_once('|') {
        return Operand::Pair(Box::new(operand(a)), Box::new(operand(b)));
    }
    if let Some(name) = text.strip_prefix('!') {
        return Operand::Not(register(name).expect("a predicate"));
    }
    if let Some(whole) = register(text) {
        return Operand::Register(whole);
    }
    if let Some((name, part)) = text.split_once('.')
        && let Some(whole) = register(name)
    {
        let place: u32 = part[1..].parse().expect("a selector");
        let width = if part.starts_with('b') { 8 } else { 16 };
        return Operand::Part(whole, place * width, width);
    }
    if let Some(digits) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0d")) {
        return Operand::Number(u128::from_str_radix(digits, 16).expect("a literal"));
    }
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(digits) => u128::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    let value = value.unwrap_or_else(|_| panic!("operand {text} is not understood"));
    Operand::Number(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

/// One thread's registers.
#[derive(Debug, Clone)]
pub struct Machine {
    files: [[Value; 8]; 5],
    /// The carry flag; `None` where it is open.
    carry: Option<bool>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            files: [[Value::Bits(0); 8]; 5],
            carry: Some(false),
        }
    }
}

/// An operand's value is open, and so is all that is computed of it.
struct Open;

type Operands = std::result::Result<Vec<u128>, Open>;

impl Machine {
    pub fn get(&self, file: File, index: usize) -> Value {
        self.files[file as usize][index]
    }

    pub fn set(&mut self, file: File, index: usize, value: Value) {
        self.files[file as usize][index] = value;
    }

    fn read(&self, operand: &Operand) -> std::result::Result<u128, Open> {
        let bits = |register: Register| match self.get(register.file, register.index) {
            Value::Bits(bits) => Ok(bits),
            _ => Err(Open),
        };
        Ok(match operand {
            Operand::Register(register) => bits(*register)?,
            Operand::Part(register, offset, width) => bits(*register)? >> offset & mask(*width),
            Operand::Not(register) => bits(*register)? ^ 1,
            Operand::Number(number) => *number,
            _ => panic!("{operand:?} is not a value"),
        })
    }

    fn sources(&self, i: &Instruction) -> Operands {
        i.operands[1..]
            .iter()
            .map(|operand| self.read(operand))
            .collect()
    }

    fn write(&mut self, operand: &Operand, value: Value) {
        match operand {
            Operand::Register(register) => {
                let bits = match register.file {
                    File::P => 1,
                    File::H => 16,
                    File::R => 32,
                    File::D => 64,
                    File::Q => 128,
                };
                let value = match value {
                    Value::Bits(value) => Value::Bits(value & mask(bits)),
                    other => other,
                };
                self.set(register.file, register.index, value);
            }
            Operand::Discard => {}
            other => panic!("{other:?} is not a destination"),
        }
    }

    /// Executes an instruction.
    pub fn step(&mut self, i: &Instruction) {
        if let Some((negate, predicate)) = i.guard {
            match self.get(predicate.file, predicate.index) {
                Value::Bits(bits) if (bits == 1) != negate => {}
                Value::Bits(_) => return,
                _ => return self.forget(i),
            }
        }
        let Ok(sources) = self.sources_of(i) else {
            return self.forget(i);
        };
        let done = self.moves(i, &sources)
            || self.integer(i, &sources)
            || self.compare(i, &sources)
            || self.packed(i, &sources)
            || self.video(i, &sources)
            || self.float(i, &sources)
            || self.convert(i, &sources);
        assert!(done, "the reference does not know `{}`", i.text);
    }

    fn sources_of(&self, i: &Instruction) -> Operands {
        if let (true, Some(Operand::Vector(parts))) = (i.opcode == "mov", i.operands.get(1)) {
            return parts.iter().map(|part| self.read(part)).collect();
        }
        self.sources(i)
    }

    /// All that the instruction would write is open.
    fn forget(&mut self, i: &Instruction) {
        if i.has("cc") {
            self.carry = None;
        }
        match i.operands[0].clone() {
            Operand::Part(register, ..) => {
                self.set(register.file, register.index, Value::Anything);
            }
            Operand::Pair(a, b) => {
                self.write(&a, Value::Anything);
                self.write(&b, Value::Anything);
            }
            Operand::Vector(parts) => {
                for part in &parts {
                    self.write(part, Value::Anything);
                }
            }
            operand => self.write(&operand, Value::Anything),
        }
    }

    fn moves(&mut self, i: &Instruction, s: &[u128]) -> bool {
        if i.opcode != "mov" {
            return false;
        }
        let bits = i.ty().bits();
        match (&i.operands[0], &i.operands[1]) {
            (Operand::Vector(parts), _) => {
                let width = bits / parts.len() as u32;
                for (place, part) in (0..).zip(parts) {
                    self.write(part, Value::Bits(s[0] >> (place * width) & mask(width)));
                }
            }
            (d, Operand::Vector(parts)) => {
                let width = bits / parts.len() as u32;
                let packed = (0..)
                    .zip(s)
                    .fold(0, |packed, (place, part)| packed | part << (place * width));
                self.write(d, Value::Bits(packed));
            }
            (d, _) => self.write(d, Value::Bits(s[0])),
        }
        true
    }
}
