//! Matrices on the host: exact values, their encodings, and registers of a warp.

use half::{bf16, f16};

use Kind::*;

/// Element types, with how small exact values of them are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    F32,
    F64,
    S8,
    U8,
    S4,
    U4,
    B1,
    S32,
}

impl Kind {
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub fn bits(self) -> usize {
        match self {
            B1 => 1,
            S4 | U4 => 4,
            E4m3 | E5m2 | S8 | U8 => 8,
            F16 | Bf16 => 16,
            F64 => 64,
            _ => 32,
        }
    }

    /// The registers' type in PTX.
    pub fn register(self) -> &'static str {
        match self {
            F64 => "f64",
            F32 => "f32",
            S32 => "s32",
            _ => "b32",
        }
    }

    pub fn sample(self, random: &mut Random) -> f64 {
        let r = random.next();
        match self {
            E4m3 | E5m2 => [0.0, 1.0, -1.0, 2.0, 1.5, 0.5, -3.0, 4.0][(r % 8) as usize],
            S8 => f64::from(r as i8),
            U8 => f64::from(r as u8),
            S4 => (r % 16) as f64 - 8.0,
            U4 => (r % 16) as f64,
            B1 => (r % 2) as f64,
            S32 => f64::from(r as i32 >> 4),
            _ => (r % 33) as f64 / 4.0 - 4.0,
        }
    }

    pub fn encode(self, value: f64) -> u64 {
        match self {
            F16 => f16::from_f64(value).to_bits().into(),
            Bf16 => bf16::from_f64(value).to_bits().into(),
            Tf32 | F32 => (value as f32).to_bits().into(),
            F64 => value.to_bits(),
            // The samples alone.
            E4m3 | E5m2 => {
                let half = f16::from_f64(value).to_bits();
                let e5m2 = u64::from(half >> 8);
                if self == E5m2 {
                    return e5m2;
                }
                if value == 0.0 {
                    return 0;
                }
                let (sign, exponent, fraction) = (e5m2 & 0x80, e5m2 >> 2 & 31, e5m2 & 3);
                sign | (exponent - 8) << 3 | fraction << 1
            }
            _ => (value as i64) as u64 & (u64::MAX >> (64 - self.bits())),
        }
    }

    /// The nearest value of the type.
    pub fn rounded(self, value: f64) -> f64 {
        self.decode(self.encode(value))
    }

    pub fn decode(self, bits: u64) -> f64 {
        match self {
            F16 => f16::from_bits(bits as u16).to_f64(),
            F32 => f32::from_bits(bits as u32).into(),
            F64 => f64::from_bits(bits),
            S32 => (bits as u32 as i32).into(),
            _ => panic!("{self:?} is no result"),
        }
    }
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 >> 33
    }
}

/// A matrix, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    pub columns: usize,
    pub values: Vec<f64>,
}

impl Matrix {
    pub fn random(kind: Kind, rows: usize, columns: usize, random: &mut Random) -> Self {
        let values = (0..rows * columns).map(|_| kind.sample(random)).collect();
        Self { columns, values }
    }

    pub fn at(&self, (row, column): (usize, usize)) -> f64 {
        self.values[row * self.columns + column]
    }

    pub fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    /// `self * other + addend`, exactly.
    pub fn product(&self, other: &Self, addend: &Self, times: impl Fn(f64, f64) -> f64) -> Self {
        let mut result = addend.clone();
        for row in 0..self.rows() {
            for column in 0..other.columns {
                for k in 0..self.columns {
                    result.values[row * other.columns + column] +=
                        times(self.at((row, k)), other.at((k, column)));
                }
            }
        }
        result
    }
}

/// Packs each lane's elements into its registers: `[lane][register]`.
pub fn pack(kind: Kind, count: usize, value: impl Fn(usize, usize) -> f64) -> Vec<u64> {
    let per = (32 / kind.bits()).max(1);
    let mut registers = vec![0; 32 * count / per];
    for lane in 0..32 {
        for i in 0..count {
            let slot = lane * (count / per) + i / per;
            registers[slot] |= kind.encode(value(lane, i)) << (i % per * kind.bits());
        }
    }
    registers
}

pub fn unpack(kind: Kind, registers: &[u64], count: usize, lane: usize, i: usize) -> f64 {
    let per = (32 / kind.bits()).max(1);
    let value = registers[lane * (count / per) + i / per] >> (i % per * kind.bits());
    kind.decode(value & (u64::MAX >> (64 - kind.bits())))
}

/// The text `{%NAME0, ...}`.
pub fn list(name: &str, count: usize) -> String {
    let names: Vec<_> = (0..count).map(|i| format!("%{name}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}
