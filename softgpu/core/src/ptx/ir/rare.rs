//! Operations on 32-bit registers that programs seldom use.
#![forbid(unsafe_code)]

use super::float::FloatType;

/// An operation on up to three 32-bit registers; unused ones repeat the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rare {
    /// The place of the n-th set bit, counted from another place: `fns`.
    FindNth,
    /// Two integers of 16 bits in each register.
    Halves(HalvesOp),
    /// Two f32 values, or the two halves of the first operand, to a small format.
    ToSmall {
        /// The result's format.
        format: Small,
        /// A negative result becomes 0.
        relu: bool,
        /// f32 for two operands, f16 or bf16 for the halves of one.
        from: FloatType,
    },
    /// Two values of a small format to two halves.
    FromSmall {
        /// The operand's format.
        format: Small,
        /// A negative result becomes 0.
        relu: bool,
        /// f16 or bf16.
        to: FloatType,
    },
    /// Two magnitudes to powers of two of 8 bits.
    ToScale {
        /// To the power above, not the one below.
        up: bool,
        /// What is too large becomes the largest power, not NaN.
        sat: bool,
        /// f32 for two operands, bf16 for the halves of one.
        from: FloatType,
    },
    /// Two powers of two of 8 bits to bf16x2.
    FromScale,
    /// A video instruction on one value.
    Video(Video),
}

/// Operations on two integers of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HalvesOp {
    Add,
    MinS,
    MinU,
    MaxS,
    MaxU,
}

/// Floating-point formats of 8 bits and less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Small {
    /// 4 bits of exponent, 3 of significand; no infinity, one NaN.
    E4m3,
    /// 5 bits of exponent, 2 of significand.
    E5m2,
    /// 2 bits of exponent, 3 of significand, as the following without infinity and NaN.
    E2m3,
    /// 3 bits of exponent, 2 of significand.
    E3m2,
    /// 2 bits of exponent, 1 of significand. Two of them lie in one byte.
    E2m1,
}

/// A video instruction: picks parts of its operands, computes exactly, clamps and merges; or does so
/// for all bytes or halves at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Video {
    /// What it computes.
    pub f: VideoOp,
    /// How many parts of each register it works on: 1, 2 or 4. For several, `a` and `b` tell the
    /// first one.
    pub lanes: u8,
    /// The first operand.
    pub a: Part,
    /// The second operand.
    pub b: Part,
    /// Whether the result is signed.
    pub signed: bool,
    /// Whether the result is clamped to its type.
    pub sat: bool,
    /// What happens with the third operand.
    pub then: VideoThen,
}

/// A part of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its lowest bit.
    pub start: u8,
    /// Its width: 8, 16 or 32.
    pub bits: u8,
    /// Whether it is signed.
    pub signed: bool,
}

/// What a video instruction computes of its two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VideoOp {
    Add,
    Sub,
    AbsDiff,
    Min,
    Max,
    Shl { wrap: bool },
    Shr { wrap: bool },
    Set(VideoCmp),
}

/// Comparisons of `vset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum VideoCmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// What a video instruction does with its third operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoThen {
    /// There is none.
    Nothing,
    /// It is added.
    Add,
    /// The smaller one is the result.
    Min,
    /// The larger one is the result.
    Max,
    /// The result replaces this part of it.
    Merge(Part),
}

/// What happens to the memory that a thread allocates in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackOp {
    /// Some is allocated.
    Allocate {
        /// The alignment of its address, a power of two.
        align: u32,
    },
    /// Where it ends is told.
    Save,
    /// What was allocated since is released.
    Restore,
}
