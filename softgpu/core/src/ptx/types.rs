//! Scalar types as PTX names them.
#![forbid(unsafe_code)]

use super::ir::{FloatType, MemType, Scalar};

/// A fundamental type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
    /// Two integers or two f32 in one register.
    U16x2,
    S16x2,
    F32x2,
}

impl Ty {
    /// The type that a modifier, dot included, names.
    pub fn parse(modifier: &str) -> Option<Self> {
        Some(match modifier {
            ".pred" => Self::Pred,
            ".b8" => Self::B8,
            ".b16" => Self::B16,
            ".b32" => Self::B32,
            ".b64" => Self::B64,
            ".b128" => Self::B128,
            ".u8" => Self::U8,
            ".u16" => Self::U16,
            ".u32" => Self::U32,
            ".u64" => Self::U64,
            ".s8" => Self::S8,
            ".s16" => Self::S16,
            ".s32" => Self::S32,
            ".s64" => Self::S64,
            ".f16" => Self::F16,
            ".f16x2" => Self::F16x2,
            ".bf16" => Self::Bf16,
            ".bf16x2" => Self::Bf16x2,
            ".tf32" => Self::Tf32,
            ".f32" => Self::F32,
            ".f64" => Self::F64,
            ".u16x2" => Self::U16x2,
            ".s16x2" => Self::S16x2,
            ".f32x2" => Self::F32x2,
            _ => return None,
        })
    }

    pub fn bits(self) -> u32 {
        match self {
            Self::Pred => 1,
            Self::B8 | Self::U8 | Self::S8 => 8,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 16,
            Self::B128 => 128,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 | Self::F32x2 => 64,
            _ => 32,
        }
    }

    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    pub fn is_integer(self) -> bool {
        self.is_signed() || matches!(self, Self::U8 | Self::U16 | Self::U32 | Self::U64)
    }

    pub fn is_untyped(self) -> bool {
        matches!(
            self,
            Self::B8 | Self::B16 | Self::B32 | Self::B64 | Self::Pred
        )
    }

    /// The floating-point format of the type or of its halves.
    pub fn float(self) -> Option<FloatType> {
        Some(match self {
            Self::F16 | Self::F16x2 => FloatType::F16,
            Self::Bf16 | Self::Bf16x2 => FloatType::Bf16,
            Self::Tf32 => FloatType::Tf32,
            Self::F32 => FloatType::F32,
            Self::F64 => FloatType::F64,
            _ => return None,
        })
    }

    pub fn is_packed(self) -> bool {
        matches!(self, Self::F16x2 | Self::Bf16x2)
    }

    pub fn scalar(self) -> Option<Scalar> {
        Some(match self {
            Self::U8 => Scalar::U8,
            Self::U16 => Scalar::U16,
            Self::U32 => Scalar::U32,
            Self::U64 => Scalar::U64,
            Self::S8 => Scalar::S8,
            Self::S16 => Scalar::S16,
            Self::S32 => Scalar::S32,
            Self::S64 => Scalar::S64,
            Self::F16 => Scalar::F16,
            Self::Bf16 => Scalar::Bf16,
            Self::Tf32 => Scalar::Tf32,
            Self::F32 => Scalar::F32,
            Self::F64 => Scalar::F64,
            _ => return None,
        })
    }

    /// How a value of the type is read into a register of `register_bits`.
    pub fn memory(self, register_bits: u32) -> MemType {
        let extend = self.is_signed() && register_bits > self.bits();
        match (self.bits(), extend) {
            (1 | 8, false) => MemType::U8,
            (1 | 8, true) => MemType::S8,
            (16, false) => MemType::U16,
            (16, true) => MemType::S16,
            (64, _) => MemType::B64,
            _ => MemType::B32,
        }
    }
}
